//! What a commit came to.

use crate::error::with_causes;
use afterimage_area_abi::control::CommandError;
use afterimage_area_abi::{Outcome, control};
use afterimage_checkpoint::CheckpointError;
use afterimage_delta::{Epoch, ImageError};
use std::fmt;

/// A transaction that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the outcome says what is safe"]
pub struct Commit {
    /// Its number.
    pub epoch: Epoch,
    /// What is known of its safety.
    pub outcome: Outcome,
    /// Pages that were written since the commit before.
    pub pages: u32,
}

/// A transaction was not committed, or not aborted: the area takes no more
/// transactions. Start the program again to go on from the last commit.
#[derive(thiserror::Error)]
pub enum CommitError {
    /// It is not known what changed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Image and delta do not fit, which is a defect.
    #[error("image and delta do not fit; this is a defect of Afterimage")]
    Image(#[from] ImageError),
    /// The targets take no more.
    #[error(transparent)]
    Targets(#[from] afterimage_link::CommitError),
    /// The hypervisor refused the command.
    #[error("the hypervisor refused: {0}")]
    Refused(CommandError),
    /// The hypervisor did not answer: the doorbell is no doorbell.
    #[error("the doorbell was not answered (expected {expected}, found {found}); is this device made by `afterimage run` of ABI version {version}?", version = control::ABI_VERSION)]
    NoAnswer {
        /// Sequence number of the command.
        expected: u64,
        /// Sequence number of the reply found.
        found: u64,
    },
}

impl From<CommandError> for CommitError {
    fn from(error: CommandError) -> Self {
        Self::Refused(error)
    }
}

impl fmt::Debug for CommitError {
    /// As people read it, because `main` shows errors this way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(self, f)
    }
}
