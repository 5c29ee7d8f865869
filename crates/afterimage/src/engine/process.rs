//! The engine in the process: the area in its own memory, a user-level tracker,
//! and the targets.

use super::Engine;
use crate::{Commit, CommitError, EngineKind, Level, OpenError, Outcome, Status};
use afterimage_area_abi::AreaName;
use afterimage_area_abi::header::{AreaHeader, default_base};
use afterimage_checkpoint::{CheckpointError, Checkpointer, Tracker};
use afterimage_delta::Image;
use afterimage_link::{Settings, Targets};
use afterimage_track_user::{Mprotect, Region};
use std::ptr::NonNull;

#[derive(Debug)]
pub(crate) struct Process {
    name: AreaName,
    region: Region,
    checkpointer: Checkpointer<Region, Mprotect>,
    targets: Targets,
    /// A commit or an abort failed half way, so memory and image are apart.
    failed: bool,
}

impl Process {
    pub(crate) fn open(name: &AreaName, len: u64, settings: &Settings) -> Result<Self, OpenError> {
        let (targets, image) = Targets::open(name, len, settings)?;
        let base = base_of(&image)?.unwrap_or_else(|| default_base(name.as_str()));
        let mut region = Region::map(base, image.pages())?;
        Checkpointer::<Region, Mprotect>::load(&mut region, &image);
        let tracker = Mprotect::start(region.clone()).map_err(OpenError::Tracker)?;
        let checkpointer = Checkpointer::new(region.clone(), tracker, image)
            .map_err(|e| OpenError::Commit(e.into()))?;
        Ok(Self {
            name: name.clone(),
            region,
            checkpointer,
            targets,
            failed: false,
        })
    }
}

/// Where the area was mapped when it was made.
fn base_of(image: &Image) -> Result<Option<u64>, OpenError> {
    let first = image.bytes().first_chunk().ok_or(OpenError::Heap)?;
    let header = AreaHeader::read(first, image.len())?;
    Ok(header.map(|header| header.base))
}

impl Engine for Process {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.region.base()).expect("a mapping is not at address zero")
    }

    fn len(&self) -> u64 {
        self.region.len() as u64
    }

    fn begin(&mut self) -> Result<(), CommitError> {
        if self.failed {
            return Err(CheckpointError::Poisoned.into());
        }
        self.targets.check_running()?;
        Ok(())
    }

    fn commit(&mut self, level: Option<Level>) -> Result<Commit, CommitError> {
        if self.failed {
            return Err(CheckpointError::Poisoned.into());
        }
        self.failed = true;
        let prepared = self.checkpointer.prepare()?;
        let pages = u32::try_from(prepared.pages().len()).unwrap_or(u32::MAX);
        let epoch = prepared.delta().epoch();
        let outcome = self
            .targets
            .commit(prepared.delta(), prepared.image(), level)?;
        if !matches!(outcome, Outcome::Fenced { .. }) {
            let _ = prepared.complete()?;
            self.targets.completed(self.checkpointer.image());
        }
        self.failed = false;
        Ok(Commit {
            epoch,
            outcome,
            pages,
        })
    }

    fn abort(&mut self) -> Result<(), CommitError> {
        if self.failed {
            return Err(CheckpointError::Poisoned.into());
        }
        self.failed = true;
        self.checkpointer.abort()?;
        self.failed = false;
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            name: self.name.to_string(),
            len: Engine::len(self),
            engine: EngineKind::Process,
            tracker: self.checkpointer.tracker().name().to_owned(),
            term: self.targets.term(),
            epoch: self.checkpointer.image().epoch(),
            acknowledged: self.targets.acknowledged(),
            targets: self.targets.len(),
            quorum: self.targets.quorum(),
            level: Some(self.targets.level()),
            state: self.targets.state(),
            counters: Some(self.checkpointer.counters()),
        }
    }
}
