//! What an area tells about itself.

use afterimage_checkpoint::Counters;
use afterimage_delta::{Epoch, Term};
use afterimage_link::Level;
use std::fmt;

/// Who finds the changes of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// This process.
    Process,
    /// The hypervisor below this guest.
    Guest,
}

/// State of an area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Who finds the changes.
    pub engine: EngineKind,
    /// Tracker in use.
    pub tracker: String,
    /// Term of this primary's reign.
    pub term: Term,
    /// Last committed epoch.
    pub epoch: Epoch,
    /// Last epoch that holds at the quorum.
    pub acknowledged: Epoch,
    /// Number of targets.
    pub targets: u32,
    /// How many must hold an epoch.
    pub quorum: u32,
    /// What a commit waits for unless it says otherwise.
    pub level: Option<Level>,
    /// `running`, or why no commits are taken.
    pub state: String,
    /// What was done so far; in a guest the hypervisor counts.
    pub counters: Option<Counters>,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Guest => "guest",
        })
    }
}
