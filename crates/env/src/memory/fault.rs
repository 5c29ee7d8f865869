//! Operations that fail, and syncs that only say they worked.

use super::{MemoryDisk, lock};
use rustix::io::Errno;
use std::io;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// List the directory.
    List,
    /// Make a file.
    Create,
    /// Open a file.
    Open,
    /// Rename a file.
    Rename,
    /// Remove a file.
    Remove,
    /// Sync the directory.
    SyncDir,
    /// Ask for a length.
    Len,
    /// Read.
    Read,
    /// Write.
    Write,
    /// Cut or extend.
    SetLen,
    /// Sync a file.
    SyncData,
}

impl Operation {
    fn changes(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::Len | Self::Read)
    }

    fn syncs(self) -> bool {
        matches!(self, Self::SyncDir | Self::SyncData)
    }
}

/// Which operations a fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// All of them.
    All,
    /// Those that change something or sync it.
    Changes,
}

/// How long a fault stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// One operation fails.
    Once,
    /// That operation fails and every later one that is counted.
    ForGood,
}

/// An operation that fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// How many operations go well first, from now on.
    pub after: u64,
    /// Which are counted.
    pub counted: Counted,
    /// What they report: `EIO` (5), `ENOSPC` (28).
    pub error: Errno,
    /// Whether it harms as real failures do: a write leaves the first half of
    /// its bytes, a sync of a file marks as clean what it did not write. Without
    /// harm nothing happens at all, as if the power went off just before.
    pub harmful: bool,
    /// How long it stays.
    pub repeat: Repeat,
}

/// Syncs that return success without having done anything: what a program that
/// forgot the call would be like. Counted from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// Every sync of a file.
    EveryFile,
    /// Every sync of the directory.
    EveryDirectory,
    /// One sync of either kind, the first being 0.
    Nth(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    operations: u64,
    changes: u64,
    syncs: u64,
    fault: Option<(Fault, u64)>,
    forgery: Option<(Forgery, u64)>,
}

impl Faults {
    fn count(&self, counted: Counted) -> u64 {
        match counted {
            Counted::All => self.operations,
            Counted::Changes => self.changes,
        }
    }

    /// Counts an operation; whether it fails, and with or without a part done.
    fn due(&mut self, operation: Operation) -> Option<Fault> {
        let due = self.fault.filter(|(fault, start)| {
            let counted = fault.counted == Counted::All || operation.changes();
            counted && self.count(fault.counted) - start >= fault.after
        });
        self.operations += 1;
        self.changes += u64::from(operation.changes());
        self.syncs += u64::from(operation.syncs());
        let (fault, _) = due?;
        if fault.repeat == Repeat::Once {
            self.fault = None;
        }
        Some(fault)
    }

    pub(super) fn meet(&mut self, operation: Operation) -> io::Result<()> {
        match self.due(operation) {
            Some(fault) => Err(fault.error.into()),
            None => Ok(()),
        }
    }

    /// What the caller of a sync is told, and whether a failure did harm.
    pub(super) fn meet_sync(&mut self) -> (bool, io::Result<()>) {
        match self.due(Operation::SyncData) {
            Some(fault) => (fault.harmful, Err(fault.error.into())),
            None => (false, Ok(())),
        }
    }

    /// How many of `len` bytes are taken, and what the caller is told.
    pub(super) fn meet_write(&mut self, len: usize) -> (usize, io::Result<()>) {
        match self.due(Operation::Write) {
            Some(fault) if fault.harmful => (len / 2, Err(fault.error.into())),
            Some(fault) => (0, Err(fault.error.into())),
            None => (len, Ok(())),
        }
    }

    /// Whether the sync that was just counted is a forged one.
    pub(super) fn forged(&self, operation: Operation) -> bool {
        match self.forgery {
            Some((Forgery::EveryFile, _)) => operation == Operation::SyncData,
            Some((Forgery::EveryDirectory, _)) => operation == Operation::SyncDir,
            Some((Forgery::Nth(at), start)) => self.syncs - 1 - start == at,
            None => false,
        }
    }
}

impl MemoryDisk {
    /// Lets an operation fail; replaces an earlier fault.
    pub fn inject(&self, fault: Fault) {
        let faults = &mut lock(&self.state).faults;
        faults.fault = Some((fault, faults.count(fault.counted)));
    }

    /// Ends faults and forgeries.
    pub fn heal(&self) {
        let faults = &mut lock(&self.state).faults;
        faults.fault = None;
        faults.forgery = None;
    }

    /// Lets syncs do nothing; replaces an earlier forgery.
    pub fn forge(&self, forgery: Forgery) {
        let faults = &mut lock(&self.state).faults;
        faults.forgery = Some((forgery, faults.syncs));
    }

    /// How many operations of a kind there were.
    #[must_use]
    pub fn operations(&self, counted: Counted) -> u64 {
        lock(&self.state).faults.count(counted)
    }

    /// How many syncs there were, of files and of the directory.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        lock(&self.state).faults.syncs
    }
}
