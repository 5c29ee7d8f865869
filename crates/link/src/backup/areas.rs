//! The areas that a backup holds.

use super::{BackupError, Limits};
use crate::replica::{Replica, open_store, recover, report};
use crate::stream::Stream;
use afterimage_area_abi::AreaName;
use afterimage_delta::Epoch;
use afterimage_env::{RealDisk, make_dir};
use afterimage_protocol::status::AreaReport;
use afterimage_protocol::target::Replica as _;
use afterimage_protocol::{Held, Position, Refusal, RefusalCode};
use afterimage_store::StoreError;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One area and the connection of its primary.
#[derive(Debug)]
pub(super) struct Area {
    replica: Mutex<Replica>,
    primary: Mutex<Option<(u64, Stream)>>,
    /// Number of the last connection.
    connections: AtomicU64,
    /// The furthest epoch that a reigning primary said it has.
    primary_has: AtomicU64,
}

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Areas {
    dir: PathBuf,
    limits: Limits,
    /// Keeps a second backup out of the directory.
    _lock: RealDisk,
    areas: Mutex<BTreeMap<AreaName, Arc<Area>>>,
}

impl Area {
    fn new(replica: Replica) -> Arc<Self> {
        Arc::new(Self {
            replica: Mutex::new(replica),
            primary: Mutex::new(None),
            connections: AtomicU64::new(0),
            primary_has: AtomicU64::new(0),
        })
    }

    /// The replica, for one message.
    ///
    /// A thread that panicked while it held the lock may have left store and
    /// image apart, so its area is not used again.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Replica>, Refusal> {
        self.replica.lock().map_err(|poisoned| {
            let held = poisoned.get_ref().held();
            refuse(
                &held,
                RefusalCode::Failed,
                "this area failed; see the backup's log",
            )
        })
    }

    /// Makes a connection the one of the area's primary, as long as the result
    /// lives. An older one is ended: it is a left-over of the same primary or
    /// of one that no longer reigns, and what it buffers would come on top.
    ///
    /// The caller holds the replica, so that no message of the older one comes
    /// between a greeting and this.
    pub(super) fn connect(
        self: &Arc<Self>,
        _greeted: &MutexGuard<'_, Replica>,
        stream: Stream,
    ) -> Connected {
        let number = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        let mut primary = lock(&self.primary);
        if let Some((_, older)) = primary.replace((number, stream)) {
            older.shutdown();
        }
        Connected {
            area: Arc::clone(self),
            number,
        }
    }

    /// Notes how far a primary that was let in says it is.
    pub(super) fn note_primary(&self, epoch: Epoch) {
        self.primary_has.fetch_max(epoch.0, Ordering::AcqRel);
    }

    /// How far the primary was when it last connected, if that is further than
    /// what is held here.
    pub(super) fn lacks(&self, held: &Held) -> Option<Epoch> {
        let primary_has = Epoch(self.primary_has.load(Ordering::Acquire));
        (primary_has > held.position.epoch).then_some(primary_has)
    }

    fn report(&self, name: &AreaName) -> AreaReport {
        let (replica, state) = match self.replica.lock() {
            Ok(replica) => {
                let state = replica
                    .store()
                    .stopped()
                    .map_or_else(|| "running".to_owned(), |cause| format!("stopped: {cause}"));
                (replica, state)
            }
            Err(poisoned) => (
                poisoned.into_inner(),
                "failed; see the backup's log".to_owned(),
            ),
        };
        let held = replica.held();
        let state = match self.lacks(&held) {
            Some(epoch) => format!("{state}, behind: the primary has epoch {epoch}"),
            None => state,
        };
        AreaReport {
            name: name.to_string(),
            len: held.len,
            term: held.reign.term.0,
            primary: held.reign.primary.map(|p| p.to_string()),
            epoch: replica.epoch().0,
            acknowledged: replica.store().synced_epoch().0,
            connected: Some(lock(&self.primary).is_some()),
            state,
            ..AreaReport::default()
        }
    }
}

/// Presence of a primary.
#[derive(Debug)]
pub(super) struct Connected {
    area: Arc<Area>,
    number: u64,
}

impl Connected {
    /// Whether it still is; asked with the replica held.
    pub(super) fn is_current(&self) -> bool {
        self.area.connections.load(Ordering::Acquire) == self.number
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut primary = lock(&self.area.primary);
        if primary.as_ref().is_some_and(|(n, _)| *n == self.number) {
            *primary = None;
        }
    }
}

/// For values that single assignments change, so that a panic elsewhere leaves
/// them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Areas {
    pub(super) fn open(dir: &Path, limits: Limits) -> Result<Self, BackupError> {
        let unusable = |source| BackupError::Directory {
            path: dir.to_owned(),
            source,
        };
        make_dir(dir).map_err(|error| unusable(io::Error::other(error)))?;
        let lock = RealDisk::open(dir).map_err(|error| unusable(io::Error::other(error)))?;
        let mut areas = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(unusable)? {
            let entry = entry.map_err(unusable)?;
            let name = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<AreaName>().ok());
            let Some(name) = name.filter(|_| entry.path().is_dir()) else {
                continue;
            };
            let path = entry.path();
            let area = recover(&path).map_err(|source| BackupError::Area { path, source })?;
            if let Some(replica) = area {
                if replica.store().name() != &name {
                    return Err(unusable(io::Error::other(format!(
                        "the directory {name} holds area {}; rename it back",
                        replica.store().name()
                    ))));
                }
                tracing::info!(area = %name, epoch = %replica.epoch(), "recovered");
                areas.insert(name, Area::new(replica));
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            limits,
            _lock: lock,
            areas: Mutex::new(areas),
        })
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<AreaName, Arc<Area>>> {
        lock(&self.areas)
    }

    /// An area that is there.
    pub(super) fn find(&self, name: &AreaName) -> Result<Arc<Area>, Refusal> {
        self.map().get(name).cloned().ok_or_else(|| {
            refuse(
                &nothing(0),
                RefusalCode::Unknown,
                format!("no area {name} is held here"),
            )
        })
    }

    /// An area that is there, or a new one of this length.
    pub(super) fn find_or_create(&self, name: &AreaName, len: u64) -> Result<Arc<Area>, Refusal> {
        let mut areas = self.map();
        if let Some(area) = areas.get(name) {
            return Ok(Arc::clone(area));
        }
        let used: u64 = areas
            .values()
            .map(|a| a.lock().map_or(0, |replica| replica.held().len))
            .sum();
        if areas.len() >= self.limits.areas || used.saturating_add(len) > self.limits.bytes {
            return Err(refuse(
                &nothing(len),
                RefusalCode::Full,
                format!(
                    "no room for area {name} of {len} bytes: this backup holds at most {} areas and {} bytes",
                    self.limits.areas, self.limits.bytes
                ),
            ));
        }
        let (store, image) = open_store(&self.dir.join(name.as_str()), name, len)
            .map_err(|e| refuse(&nothing(len), RefusalCode::Failed, report(&e)))?;
        let area = Area::new(Replica::new(store, image));
        areas.insert(name.clone(), Arc::clone(&area));
        tracing::info!(area = %name, len, "new area");
        Ok(area)
    }

    pub(super) fn reports(&self) -> Vec<AreaReport> {
        let areas = self.map().clone();
        areas.iter().map(|(name, area)| area.report(name)).collect()
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let areas = self.map().clone();
        for area in areas.values() {
            if let Ok(mut replica) = area.replica.lock() {
                replica.sync()?;
            }
        }
        Ok(())
    }
}

pub(super) fn nothing(len: u64) -> Held {
    Held {
        len,
        reign: afterimage_area_abi::Reign::default(),
        position: Position::default(),
    }
}

pub(super) fn refuse(held: &Held, code: RefusalCode, text: impl Into<String>) -> Refusal {
    Refusal {
        code,
        term: held.reign.term,
        epoch: Epoch(held.position.epoch.0),
        text: text.into(),
    }
}
