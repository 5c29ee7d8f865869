//! Why an area cannot be opened.

use crate::CommitError;
use afterimage_area_abi::header::HeaderError;
use afterimage_area_abi::{BadName, Outcome, UnknownWord};
use afterimage_link::{BadAddress, ConfigError};
use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why an area cannot be opened.
#[derive(thiserror::Error)]
pub enum OpenError {
    /// The name is no area's.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A target is no target.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A setting holds an unknown word.
    #[error(transparent)]
    Word(#[from] UnknownWord),
    /// An environment variable holds what it may not.
    #[error("environment variable {name}={value:?}: {problem}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// The configuration file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No directory is known for the default target.
    #[error(
        "no target is configured and HOME is not set, so there is no default directory; set AFTERIMAGE_TARGETS"
    )]
    NoHome,
    /// The length is not possible for an area.
    #[error("an area of {len} bytes is not possible: use a multiple of 2 MiB, at most 64 GiB")]
    Length {
        /// The length in bytes.
        len: u64,
    },
    /// The targets cannot be used.
    #[error(transparent)]
    Targets(#[from] afterimage_link::OpenError),
    /// The area cannot be mapped.
    #[error(transparent)]
    Map(#[from] afterimage_track_user::MapError),
    /// Writes cannot be tracked.
    #[error("the area's writes cannot be tracked")]
    Tracker(#[source] io::Error),
    /// The area holds something else.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The area's allocator is damaged.
    #[error("the area's allocator state is damaged; restore an older epoch from a target")]
    Heap,
    /// The area was made with another root type.
    #[error(
        "the area holds {found}, this program wants {wanted}: use the program that made it, or another area name"
    )]
    Root {
        /// Type in the area: name, version and layout.
        found: String,
        /// Type of this program.
        wanted: String,
    },
    /// The root does not fit into the area.
    #[error("the root object of {wanted} bytes does not fit into an area of {len} bytes")]
    TooSmall {
        /// Size of the root in bytes.
        wanted: usize,
        /// Length of the area in bytes.
        len: u64,
    },
    /// A device is there, but not usable.
    #[error("{path}: {problem}")]
    Device {
        /// The device.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
        /// What the system said.
        source: io::Error,
    },
    /// The guest has area devices, but none of this name.
    #[error(
        "this virtual machine has no area {name} (it has: {found}); start it with --area {name}=SIZE"
    )]
    NoSuchDevice {
        /// The name asked for.
        name: String,
        /// The names there are.
        found: String,
    },
    /// The area cannot be attached, or its first transaction failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The first transaction is not safe.
    #[error("the new area's first commit: {0}")]
    Outcome(Outcome),
}

impl fmt::Debug for OpenError {
    /// As people read it, because `main` shows errors this way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(self, f)
    }
}

/// Writes an error and its causes on one line.
pub(crate) fn with_causes(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}
