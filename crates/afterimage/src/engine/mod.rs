//! Who turns a commit into a delta: this process, or the hypervisor below.

mod guest;
mod process;

use crate::{Commit, CommitError, Level, Status};
use std::fmt::Debug;
use std::ptr::NonNull;

pub(crate) use guest::Guest;
pub(crate) use process::Process;

/// An attached area.
pub(crate) trait Engine: Debug {
    /// Address of the area, mapped as long as the engine lives.
    fn base(&self) -> NonNull<u8>;
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Refuses if a commit could not succeed any more.
    fn begin(&mut self) -> Result<(), CommitError>;
    /// Makes what changed an epoch.
    fn commit(&mut self, level: Option<Level>) -> Result<Commit, CommitError>;
    /// Brings the last commit back.
    fn abort(&mut self) -> Result<(), CommitError>;
    /// State of area and targets.
    fn status(&self) -> Status;
}
