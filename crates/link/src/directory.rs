//! A target that is a directory of this machine.

use crate::replica::{ReplicaError, append, held, open_store, report};
use afterimage_area_abi::{AreaName, Level};
use afterimage_delta::{Delta, Epoch, Image};
use afterimage_env::RealDisk;
use afterimage_protocol::{Held, Hello, Refusal, admit};
use afterimage_store::{Store, StoreError};
use std::path::{Path, PathBuf};

/// The store in a directory, written by the primary itself. The image is the
/// checkpointer's; this keeps none.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    store: Store<RealDisk>,
    acknowledged: Epoch,
    problem: Option<String>,
}

/// Why a primary cannot use a directory.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] ReplicaError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It holds something that may not be overwritten.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Directory {
    /// Opens it; the image is what it holds.
    pub(crate) fn open(
        path: &Path,
        name: &AreaName,
        len: u64,
    ) -> Result<(Self, Image), DirectoryError> {
        let (store, image) = open_store(path, name, len)?;
        if store.name() != name {
            return Err(DirectoryError::Refused(Refusal {
                code: afterimage_protocol::RefusalCode::Unknown,
                term: store.reign().term,
                epoch: store.epoch(),
                text: format!(
                    "{} holds area {}, not {name}: give each area a directory of its own",
                    path.display(),
                    store.name()
                ),
            }));
        }
        let directory = Self {
            path: path.to_owned(),
            acknowledged: store.epoch(),
            store,
            problem: None,
        };
        Ok((directory, image))
    }

    pub(crate) fn held(&self) -> Held {
        held(&self.store)
    }

    /// Begins or continues a reign with this image.
    pub(crate) fn greet(&mut self, hello: &Hello, image: &Image) -> Result<(), DirectoryError> {
        let held = self.held();
        let admitted = admit(hello, &held)?;
        if admitted.reign != held.reign {
            self.store.set_reign(admitted.reign)?;
        }
        if held.position != hello.position {
            self.store.install(image)?;
            self.acknowledged = image.epoch();
        }
        Ok(())
    }

    /// Stores a delta; `true` once the level holds. After a failure the
    /// directory counts as lost, and says why.
    pub(crate) fn commit(&mut self, delta: &Delta, level: Level) -> bool {
        if self.problem.is_some() {
            return false;
        }
        match append(&mut self.store, delta, level) {
            Ok(()) => {
                self.acknowledged = delta.epoch();
                true
            }
            Err(error) => {
                let problem = report(&error);
                tracing::error!(target = %self.path.display(), problem, "directory target lost");
                self.problem = Some(problem);
                false
            }
        }
    }

    /// Rewrites the log as an image when it has grown enough.
    pub(crate) fn compact_if_due(&mut self, image: &Image) {
        if self.problem.is_none()
            && self.store.wants_compaction()
            && let Err(error) = self.store.compact(image)
        {
            let problem = report(&error);
            tracing::error!(target = %self.path.display(), problem, "directory target lost");
            self.problem = Some(problem);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn acknowledged(&self) -> Epoch {
        self.acknowledged
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}
