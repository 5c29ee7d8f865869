//! The area device: doorbell and control page.
//!
//! A store to the doorbell reaches [`AreaDevice::ring`] while the ringing vCPU
//! is out of the guest. The device copies the command from the slot, checks
//! it, checks who rings, lets the [`AreaBackend`] carry it out and writes the
//! reply.
//!
//! ```text
//!            attach            detach
//!   free ------------> bound ----------> free
//!                      |  ^
//!                      +--+  attach by another address space: the area is
//!                            brought back to the last commit, the old owner
//!                            gets NotOwner from then on
//! ```
//!
//! **Who rings** is told by the vCPU's page-table root, which no process can
//! choose: an area is bound to the root that attached. A guest kernel may ring
//! too, on behalf of whom its page tables say. What a root cannot tell apart
//! is a process that died without detaching and a later one whose page tables
//! happen to lie at the same place; that one must have been let in by the
//! guest's file permissions all the same, and the library attaches before
//! anything else.

mod control;

pub use afterimage_area_abi::control::CommandError;
pub use control::{ControlMemory, WrongLength};

use afterimage_area_abi::control::{ControlHeader, Reply, Request, Verb};
use afterimage_area_abi::{AreaName, Level, Outcome};
use afterimage_delta::{Epoch, Term};

/// A process of the guest, told by where its page tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace(u64);

impl AddressSpace {
    /// Bits 12 to 51 of CR3 are the address of the top table; the others (PCID,
    /// LAM, no-flush) change while a process runs (Intel SDM volume 3, 4.5).
    const ROOT: u64 = 0x000f_ffff_ffff_f000;

    /// The address space that a value of CR3 selects.
    #[must_use]
    pub fn from_cr3(cr3: u64) -> Self {
        Self(cr3 & Self::ROOT)
    }

    /// Guest-physical address of the top page table.
    #[must_use]
    pub fn root(self) -> u64 {
        self.0
    }
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Pages that were written since the last commit.
    pub pages: u32,
    /// How safe it is; [`Outcome::Held`] by nobody for commands that send
    /// nothing.
    pub outcome: Outcome,
}

impl Done {
    /// Something that involved no target.
    #[must_use]
    pub fn here(pages: u32) -> Self {
        Self {
            pages,
            outcome: Outcome::Held { targets: 0 },
        }
    }
}

/// Where an area stands; what the control page's header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Term of the reign.
    pub term: Term,
    /// Last epoch in the image.
    pub committed: Epoch,
    /// Last epoch that holds at the quorum.
    pub acknowledged: Epoch,
    /// Number of targets configured.
    pub targets: u32,
    /// How many must hold an epoch.
    pub quorum: u32,
    /// Default level.
    pub level: Level,
}

/// Carries commands out.
pub trait AreaBackend: Send {
    /// Brings the area to the last commit, for a new owner.
    ///
    /// # Errors
    /// The answer to give when it cannot be done.
    fn attach(&mut self, owner: AddressSpace) -> Result<Done, CommandError>;

    /// Makes all changes since the last commit one epoch.
    ///
    /// # Errors
    /// The answer to give when it cannot be done.
    fn commit(&mut self, level: Option<Level>) -> Result<Done, CommandError>;

    /// Brings the area back to the last commit.
    ///
    /// # Errors
    /// The answer to give when it cannot be done.
    fn abort(&mut self) -> Result<Done, CommandError>;

    /// The owner is leaving. What it did not commit is undone at the next
    /// attach.
    fn detach(&mut self);

    /// Where the area stands.
    fn standing(&self) -> Standing;
}

/// Counts of what came through a doorbell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Stores to the doorbell.
    pub rings: u64,
    /// Stores that named no slot.
    pub bad_rings: u64,
    /// Commands that were refused.
    pub refused: u64,
}

/// One area as its guest sees it.
#[derive(Debug)]
pub struct AreaDevice<B> {
    control: ControlMemory,
    header: ControlHeader,
    backend: B,
    owner: Option<AddressSpace>,
    counters: RingCounters,
}

impl<B: AreaBackend> AreaDevice<B> {
    /// A device in front of `backend`; writes the control page's header.
    #[must_use]
    pub fn new(
        name: &AreaName,
        data_len: u64,
        tracker: &str,
        control: ControlMemory,
        backend: B,
    ) -> Self {
        let level = backend.standing().level;
        let mut device = Self {
            control,
            header: ControlHeader::new(name, data_len, level, tracker),
            backend,
            owner: None,
            counters: RingCounters::default(),
        };
        device.refresh();
        device.control.write_header(&device.header);
        device
    }

    /// Takes a store of `data` at `offset` from the doorbell's start.
    pub fn ring(&mut self, offset: u64, data: &[u8], caller: AddressSpace) {
        self.counters.rings += 1;
        let slot = match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset == 0 => u32::from_le_bytes(bytes),
            _ => return self.bad_ring(CommandError::BadRing),
        };
        let Some(command) = self.control.command(slot) else {
            return self.bad_ring(CommandError::BadSlot);
        };
        self.header.last_bad_ring = 0;
        let sequence = command.sequence;
        let result = command
            .parse()
            .and_then(|request| self.carry_out(request, caller));
        self.refresh();
        let reply = match result {
            Ok(done) => Reply::done(
                sequence,
                Epoch(self.header.committed),
                Term(self.header.term),
                done.pages,
                done.outcome,
            ),
            Err(error) => {
                self.counters.refused += 1;
                Reply::refused(sequence, error)
            }
        };
        self.control.update_header(&self.header);
        self.control.reply(slot, &reply);
    }

    fn bad_ring(&mut self, error: CommandError) {
        self.counters.bad_rings += 1;
        self.header.last_bad_ring = error.code();
        self.control.update_header(&self.header);
    }

    fn carry_out(&mut self, request: Request, caller: AddressSpace) -> Result<Done, CommandError> {
        if request.verb == Verb::Attach {
            let done = self.backend.attach(caller)?;
            self.owner = Some(caller);
            // An earlier owner may have written over the header.
            self.refresh();
            self.control.write_header(&self.header);
            return Ok(done);
        }
        match self.owner {
            None => return Err(CommandError::NotAttached),
            Some(owner) if owner != caller => return Err(CommandError::NotOwner),
            Some(_) => {}
        }
        match request.verb {
            Verb::Commit { level } => self.backend.commit(level),
            Verb::Abort => self.backend.abort(),
            Verb::Detach | Verb::Attach => {
                self.owner = None;
                self.backend.detach();
                Ok(Done::here(0))
            }
        }
    }

    fn refresh(&mut self) {
        let standing = self.backend.standing();
        self.header.term = standing.term.0;
        self.header.committed = standing.committed.0;
        self.header.acknowledged = standing.acknowledged.0;
        self.header.targets = standing.targets;
        self.header.quorum = standing.quorum;
        self.header.level = u32::from(standing.level.code());
    }

    /// Whether an application is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.owner.is_some()
    }

    /// What came through the doorbell so far.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }
}

#[cfg(test)]
mod tests;
