//! The control page and the doorbell of an area's device.
//!
//! A device is a range of guest-physical memory, offsets from its start:
//!
//! | range | what |
//! |---|---|
//! | 0 .. 1 MiB | control page: [`ControlHeader`] at 0, command slots at [`SLOTS_OFFSET`]; memory shared by application and VMM |
//! | 1 MiB .. 2 MiB | doorbell: no memory; a 4-byte store of a slot's number at [`DOORBELL_OFFSET`] leaves the guest |
//! | 2 MiB .. end | the area's data |
//!
//! The application writes a [`Command`] into a slot, stores the slot's number
//! to the doorbell and finds the [`Reply`] in the slot when the store returns.
//! The VMM owns the header: it writes it, and never reads it back, because
//! the application can write there too.

use crate::{AreaName, Level, Outcome};
use afterimage_delta::{Epoch, Term};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length in bytes of the control range.
pub const CONTROL_LEN: u64 = 1 << 20;
/// Offset in bytes of the doorbell.
pub const DOORBELL_OFFSET: u64 = CONTROL_LEN;
/// Length in bytes of the hole behind the doorbell.
pub const DOORBELL_LEN: u64 = 1 << 20;
/// Offset in bytes of the area's data.
pub const DATA_OFFSET: u64 = DOORBELL_OFFSET + DOORBELL_LEN;
/// The area's data is a multiple of this (bytes), the alignment that
/// `device_dax` gives its mappings by default.
pub const DATA_ALIGN: u64 = 2 << 20;
/// First bytes of the control page.
pub const MAGIC: [u8; 8] = *b"AFTRCTRL";
/// Version of the layouts in this module.
pub const ABI_VERSION: u32 = 1;
/// Offset in bytes of the first slot.
pub const SLOTS_OFFSET: u64 = 4096;
/// Distance in bytes between slots: a command and its reply, a cache line each.
pub const SLOT_LEN: u64 = 128;
/// Number of slots: as many threads can ring at once.
pub const SLOT_COUNT: u32 = 64;

/// Start of the control page, written by the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControlHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// [`SLOT_COUNT`].
    pub slot_count: u32,
    /// The area's name, padded with zeros.
    pub name: [u8; 64],
    /// Length of the area's data in bytes.
    pub data_len: u64,
    /// Term of the VMM's reign over the area.
    pub term: u64,
    /// Last epoch in the image.
    pub committed: u64,
    /// Last epoch that holds at the quorum, at the default level.
    pub acknowledged: u64,
    /// Number of targets configured.
    pub targets: u32,
    /// How many must hold an epoch.
    pub quorum: u32,
    /// [`Level::code`] of the default level.
    pub level: u32,
    /// [`CommandError`] code of the last ring that named no slot; 0 if none.
    pub last_bad_ring: u32,
    /// Name of the tracker in use, padded with zeros.
    pub tracker: [u8; 32],
}

/// What the application asks for; the first half of a slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Command {
    /// [`Verb`] code.
    pub verb: u32,
    /// [`Level::code`], or 0 for the area's default; only for a commit.
    pub level: u32,
    /// Repeated in the reply, so that a stale reply is told from a fresh one.
    pub sequence: u64,
    /// The caller's id of the transaction; zeros for none.
    pub transaction: [u8; 16],
    /// Must be zero.
    pub reserved: [u8; 32],
}

/// What the VMM answers; the second half of a slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Reply {
    /// 0, or a [`CommandError`] code: then nothing was done.
    pub error: u32,
    /// Which [`Outcome`]: 1 held, 2 degraded, 3 in doubt, 4 fenced.
    pub outcome: u32,
    /// For held and degraded: targets that hold it.
    pub held: u32,
    /// For degraded: the quorum.
    pub wanted: u32,
    /// Last committed epoch.
    pub epoch: u64,
    /// The reign's term; for fenced, the newer one.
    pub term: u64,
    /// From the command.
    pub sequence: u64,
    /// Changed pages of a commit.
    pub pages: u32,
    /// Must be zero.
    pub reserved: [u8; 20],
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Bind the area to the caller's address space and bring it to the last
    /// commit.
    Attach,
    /// Make all changes since the last commit one epoch.
    Commit {
        /// What to wait for; `None` for the area's default.
        level: Option<Level>,
    },
    /// Bring the area back to the last commit.
    Abort,
    /// Give the binding up.
    Detach,
}

/// A command that passed the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub verb: Verb,
    /// To be repeated in the reply.
    pub sequence: u64,
}

/// Why a command was refused; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum CommandError {
    /// The verb's code is not known to this VMM.
    #[error("unknown command")]
    UnknownVerb = 1,
    /// The level's code is not known, or the verb takes none.
    #[error("unknown level")]
    BadLevel = 2,
    /// A reserved field is not zero.
    #[error("reserved field is not zero")]
    Reserved = 3,
    /// No application is attached.
    #[error("not attached: attach first")]
    NotAttached = 4,
    /// Another address space is attached: this application was replaced.
    #[error("another process has attached this area")]
    NotOwner = 5,
    /// The area takes no more commits: it was fenced or its targets failed.
    #[error("the area is stopped: it was fenced, or its targets failed")]
    Stopped = 6,
    /// The doorbell's store was not 4 bytes at its start.
    #[error("the doorbell takes 4-byte stores at its start")]
    BadRing = 7,
    /// The doorbell named a slot that does not exist.
    #[error("no such command slot")]
    BadSlot = 8,
    /// The VMM failed in a way that its log tells.
    #[error("the VMM failed; see its log")]
    Internal = 9,
    /// Transaction ids are not understood by this version.
    #[error("transaction ids are not supported by this VMM")]
    Transaction = 10,
}

impl CommandError {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 10] = [
        Self::UnknownVerb,
        Self::BadLevel,
        Self::Reserved,
        Self::NotAttached,
        Self::NotOwner,
        Self::Stopped,
        Self::BadRing,
        Self::BadSlot,
        Self::Internal,
        Self::Transaction,
    ];

    /// The number in the reply.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The error behind a number in a reply.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.code() == code)
    }
}

impl Verb {
    /// Codes of attach, commit, abort and detach.
    const CODES: [u32; 4] = [1, 2, 3, 4];
}

impl Command {
    /// Writes a request down.
    #[must_use]
    pub fn new(request: Request) -> Self {
        let [attach, commit, abort, detach] = Verb::CODES;
        let (verb, level) = match request.verb {
            Verb::Attach => (attach, 0),
            Verb::Commit { level } => (commit, level.map_or(0, |l| u32::from(l.code()))),
            Verb::Abort => (abort, 0),
            Verb::Detach => (detach, 0),
        };
        Self {
            verb,
            level,
            sequence: request.sequence,
            ..Self::default()
        }
    }

    /// Checks a command from an application, which may hold anything.
    ///
    /// # Errors
    /// The [`CommandError`] to answer.
    pub fn parse(&self) -> Result<Request, CommandError> {
        let [attach, commit, abort, detach] = Verb::CODES;
        if self.reserved != [0; 32] {
            return Err(CommandError::Reserved);
        }
        if self.transaction != [0; 16] {
            return Err(CommandError::Transaction);
        }
        let level = match self.level {
            0 => None,
            code => Some(
                u8::try_from(code)
                    .ok()
                    .and_then(Level::from_code)
                    .ok_or(CommandError::BadLevel)?,
            ),
        };
        let verb = match self.verb {
            v if v == commit => Verb::Commit { level },
            v if !Verb::CODES.contains(&v) => return Err(CommandError::UnknownVerb),
            _ if level.is_some() => return Err(CommandError::BadLevel),
            v if v == attach => Verb::Attach,
            v if v == abort => Verb::Abort,
            v if v == detach => Verb::Detach,
            _ => return Err(CommandError::UnknownVerb),
        };
        Ok(Request {
            verb,
            sequence: self.sequence,
        })
    }
}

impl Reply {
    /// The answer to a command that was refused.
    #[must_use]
    pub fn refused(sequence: u64, error: CommandError) -> Self {
        Self {
            error: error.code(),
            sequence,
            ..Self::default()
        }
    }

    /// The answer to a command that was carried out.
    #[must_use]
    pub fn done(sequence: u64, epoch: Epoch, term: Term, pages: u32, outcome: Outcome) -> Self {
        let (code, held, wanted, term) = match outcome {
            Outcome::Held { targets } => (1, targets, 0, term),
            Outcome::Degraded { held, wanted } => (2, held, wanted, term),
            Outcome::InDoubt => (3, 0, 0, term),
            Outcome::Fenced { term } => (4, 0, 0, term),
        };
        Self {
            error: 0,
            outcome: code,
            held,
            wanted,
            epoch: epoch.0,
            term: term.0,
            sequence,
            pages,
            reserved: [0; 20],
        }
    }

    /// Reads the answer: the outcome, or why nothing was done.
    ///
    /// # Errors
    /// The [`CommandError`] that the VMM gave; [`CommandError::Internal`] for
    /// codes that this version does not know.
    pub fn outcome(&self) -> Result<Outcome, CommandError> {
        if self.error != 0 {
            return Err(CommandError::from_code(self.error).unwrap_or(CommandError::Internal));
        }
        match self.outcome {
            1 => Ok(Outcome::Held { targets: self.held }),
            2 => Ok(Outcome::Degraded {
                held: self.held,
                wanted: self.wanted,
            }),
            3 => Ok(Outcome::InDoubt),
            4 => Ok(Outcome::Fenced {
                term: Term(self.term),
            }),
            _ => Err(CommandError::Internal),
        }
    }
}

/// Offset of a slot's command from the start of the control page.
#[must_use]
pub fn command_offset(slot: u32) -> Option<u64> {
    (slot < SLOT_COUNT).then(|| SLOTS_OFFSET + u64::from(slot) * SLOT_LEN)
}

/// Offset of a slot's reply from the start of the control page.
#[must_use]
pub fn reply_offset(slot: u32) -> Option<u64> {
    command_offset(slot).map(|offset| offset + SLOT_LEN / 2)
}

impl ControlHeader {
    /// The header of a device before anything was committed.
    #[must_use]
    pub fn new(name: &AreaName, data_len: u64, level: Level, tracker: &str) -> Self {
        let mut field = [0; 32];
        let len = tracker.len().min(31);
        field[..len].copy_from_slice(&tracker.as_bytes()[..len]);
        Self {
            magic: MAGIC,
            abi_version: ABI_VERSION,
            slot_count: SLOT_COUNT,
            name: name.to_field(),
            data_len,
            term: 0,
            committed: 0,
            acknowledged: 0,
            targets: 0,
            quorum: 0,
            level: u32::from(level.code()),
            last_bad_ring: 0,
            tracker: field,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_lie_in_the_control_range_and_do_not_meet() {
        assert_eq!(size_of::<Command>() as u64, SLOT_LEN / 2);
        assert_eq!(size_of::<Reply>() as u64, SLOT_LEN / 2);
        assert!(size_of::<ControlHeader>() as u64 <= SLOTS_OFFSET);
        let last = reply_offset(SLOT_COUNT - 1).unwrap();
        assert!(last + SLOT_LEN / 2 <= CONTROL_LEN);
        assert_eq!(command_offset(SLOT_COUNT), None);
    }

    #[test]
    fn requests_survive_being_written_down() {
        let levels = [None, Some(Level::Local), Some(Level::Durable)];
        let commits = levels.map(|level| Verb::Commit { level });
        for verb in commits
            .into_iter()
            .chain([Verb::Attach, Verb::Abort, Verb::Detach])
        {
            let request = Request { verb, sequence: 7 };
            assert_eq!(Command::new(request).parse(), Ok(request));
        }
    }

    #[test]
    fn outcomes_survive_being_written_down() {
        for outcome in [
            Outcome::Held { targets: 2 },
            Outcome::Degraded { held: 1, wanted: 2 },
            Outcome::InDoubt,
            Outcome::Fenced { term: Term(9) },
        ] {
            let reply = Reply::done(1, Epoch(5), Term(3), 0, outcome);
            assert_eq!(reply.outcome(), Ok(outcome));
        }
        for error in CommandError::ALL {
            assert_eq!(Reply::refused(1, error).outcome(), Err(error));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_commands_get_an_answer(bytes in any::<[u8; 32]>(), verb in 0u32..6, level in 0u32..7) {
            let mut whole = [0; 64];
            whole[..32].copy_from_slice(&bytes);
            let mut command = Command::read_from_bytes(&whole).unwrap();
            let _ = command.parse();
            command.verb = verb;
            command.level = level;
            command.transaction = [0; 16];
            if let Ok(request) = command.parse() {
                prop_assert_eq!(Command::new(request), command);
            }
        }
    }
}
