//! What can go wrong with a store, and what to do about it.

use afterimage_area_abi::{AreaName, Reign};
use afterimage_delta::{Epoch, ImageError, Term};
use std::io;

/// Why a store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is a store already.
    #[error("there is a store already ({file}): open it, or choose another directory")]
    Exists {
        /// A file of it.
        file: String,
    },
    /// There is no store.
    #[error("there is no store here ({place} is not there): create one first")]
    Missing {
        /// The file looked for.
        place: String,
    },
    /// A log has records, but the base they build on is gone.
    #[error(
        "{file} has records, but its base image is gone: put the base back, or restore this store from another target"
    )]
    Orphan {
        /// The log.
        file: String,
    },
    /// A base image has no log.
    #[error(
        "{file} is gone though its base image is there: put it back, or restore this store from another target"
    )]
    LogMissing {
        /// The log.
        file: String,
    },
    /// The medium refused. The store stops if this was a change.
    #[error("cannot {action} {file}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A sync failed, so the store stops.
    #[error(
        "cannot sync {file}; the kernel marks the pages of a failed sync as clean, so a later sync would succeed without them: this store stops here. Open it again only after the medium was looked at"
    )]
    Sync {
        /// Which file or directory.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// An earlier failure stopped the store.
    #[error("this store stopped at an earlier failure: {cause}")]
    Stopped {
        /// The failure.
        cause: String,
    },
    /// The delta or image does not follow what is stored.
    #[error(transparent)]
    Order(#[from] ImageError),
    /// The delta has bytes outside the area.
    #[error("a delta with bytes up to {end} is not for an area of {len} bytes")]
    OutsideArea {
        /// End of the last run in bytes.
        end: u64,
        /// Length of the area in bytes.
        len: u64,
    },
    /// A payload is longer than a delta of this area can be.
    #[error("a delta of {len} bytes is too long: for this area at most {max}")]
    TooLong {
        /// Its length in bytes.
        len: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// An image is not of this area.
    #[error("an image of {image} bytes is not of area {name}, which has {area}")]
    OtherArea {
        /// The store's area.
        name: AreaName,
        /// Length of the image in bytes.
        image: u64,
        /// Length of the area in bytes.
        area: u64,
    },
    /// The image to compact with is not the stored state.
    #[error("an image of epoch {image} cannot replace the log up to epoch {store}")]
    OtherState {
        /// Epoch of the image.
        image: Epoch,
        /// Epoch of the store.
        store: Epoch,
    },
    /// Terms never go back, and a term has one primary.
    #[error("{offered} is refused: this store is held by {stored}",
        offered = Words(offered), stored = Words(stored))]
    Reign {
        /// Who reigns.
        stored: Reign,
        /// Who wanted to.
        offered: Reign,
    },
    /// A base image or the head of a log is damaged.
    #[error(
        "{file} is damaged at byte {offset}: {damage}. There is no spare copy here: restore this store from another target"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// A log is damaged in the middle.
    #[error(
        "{file} is damaged at byte {offset}: {damage}. Restore this store from another target; or give up every commit after epoch {epoch} (term {term}), by hand, on a copy: truncate -s {offset} {file}"
    )]
    DamagedLog {
        /// The log.
        file: String,
        /// Where the first damaged record starts, in bytes.
        offset: u64,
        /// What is wrong.
        damage: Damage,
        /// The last epoch before the damage.
        epoch: Epoch,
        /// The term before the damage.
        term: Term,
    },
    /// The file was written by a later version.
    #[error("{file} has format {version}; this program reads format 1: use the later program")]
    Version {
        /// The file.
        file: String,
        /// Its format.
        version: u32,
    },
    /// Memory for the image is not to be had.
    #[error("no memory for the image of an area of {len} bytes")]
    Memory {
        /// Length of the area in bytes.
        len: u64,
    },
}

/// How stored bytes can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not start with our mark.
    #[error("it is no file of a store")]
    NotOurs,
    /// The file ends too early.
    #[error("the file ends too early")]
    Short,
    /// The file goes on after its end.
    #[error("there are bytes after the end")]
    Trailing,
    /// The checksum of a header does not match.
    #[error("the header's checksum does not match")]
    Header,
    /// The checksum of content does not match.
    #[error("the content's checksum does not match")]
    Content,
    /// It is sound, but was written to another place, file or time.
    #[error("what is here was written for another place, file or time")]
    Misplaced,
    /// It is sound, but a field has a value that no writer gives it.
    #[error("the field \"{0}\" has a value that no writer gives it")]
    Field(&'static str),
    /// A record was durable before a later one was written, and is gone.
    #[error("a record is gone that was durable before a later one was written")]
    LostWrite,
}

struct Words<'a>(&'a Reign);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.primary {
            Some(primary) => write!(f, "term {} of primary {primary}", self.0.term),
            None => write!(f, "term {} of no primary yet", self.0.term),
        }
    }
}

impl StoreError {
    /// For a failed operation on a file.
    pub(crate) fn disk(
        action: &'static str,
        file: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Disk {
            action,
            file,
            source,
        }
    }

    /// For a failed sync.
    pub(crate) fn sync(file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Sync { file, source }
    }
}
