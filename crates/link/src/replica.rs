//! One area at a target: its store, with or without the image in memory.

use afterimage_area_abi::{AreaName, Level, Reign};
use afterimage_delta::{Delta, Epoch, Image};
use afterimage_env::{Disk, RealDisk};
use afterimage_protocol::{Held, Position};
use afterimage_store::{Store, StoreError};
use std::path::Path;

/// A store in a directory, as a target of the protocol.
#[derive(Debug)]
pub(crate) struct Replica {
    store: Store<RealDisk>,
    image: Image,
}

/// A directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The directory cannot be taken.
    #[error(transparent)]
    Directory(#[from] afterimage_env::OpenError),
    /// What is in it cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens the store in `dir`, or makes one for the area.
pub(crate) fn open_store(
    dir: &Path,
    name: &AreaName,
    len: u64,
) -> Result<(Store<RealDisk>, Image), ReplicaError> {
    // An area that cannot be must not leave a directory behind.
    let image = Image::new(len).map_err(StoreError::from)?;
    let disk = RealDisk::open(dir)?;
    if Store::exists(&disk)? {
        return Ok(Store::open(disk)?);
    }
    Ok((Store::create(disk, name, len)?, image))
}

/// Recovers the store in `dir`, if there ever was one.
pub(crate) fn recover(dir: &Path) -> Result<Option<Replica>, ReplicaError> {
    let disk = RealDisk::open(dir)?;
    if !Store::exists(&disk)? {
        return Ok(None);
    }
    let (store, image) = Store::open(disk)?;
    Ok(Some(Replica { store, image }))
}

/// What a store holds.
pub(crate) fn held<D: Disk>(store: &Store<D>) -> Held {
    Held {
        len: store.len(),
        reign: store.reign(),
        position: Position {
            epoch: store.epoch(),
            chain: store.chain(),
        },
    }
}

/// Makes the level hold for a delta in a store.
pub(crate) fn append<D: Disk>(
    store: &mut Store<D>,
    delta: &Delta,
    level: Level,
) -> Result<(), StoreError> {
    store.append(delta)?;
    if level == Level::Durable {
        store.sync()?;
    }
    Ok(())
}

impl Replica {
    pub(crate) fn new(store: Store<RealDisk>, image: Image) -> Self {
        Self { store, image }
    }

    pub(crate) fn store(&self) -> &Store<RealDisk> {
        &self.store
    }

    /// Puts on disk what is not there yet.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.store.sync()
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.image.epoch()
    }

    fn compact_if_due(&mut self) -> Result<(), StoreError> {
        if self.store.wants_compaction() {
            self.store.compact(&self.image)?;
        }
        Ok(())
    }
}

impl afterimage_protocol::target::Replica for Replica {
    fn held(&self) -> Held {
        held(&self.store)
    }

    fn set_reign(&mut self, reign: Reign) -> Result<(), String> {
        self.store.set_reign(reign).map_err(|e| report(&e))
    }

    fn persist(&mut self) -> Result<(), String> {
        self.store.sync().map_err(|e| report(&e))
    }

    fn append(&mut self, delta: &Delta, level: Level) -> Result<(), String> {
        append(&mut self.store, delta, level).map_err(|e| report(&e))?;
        self.image.apply(delta).map_err(|e| report(&e))?;
        // The delta is held whatever becomes of this; a store that failed
        // refuses the next one.
        if let Err(error) = self.compact_if_due() {
            tracing::error!(area = %self.store.name(), error = report(&error), "compaction failed");
        }
        Ok(())
    }

    fn install(&mut self, image: Image) -> Result<(), String> {
        self.store.install(&image).map_err(|e| report(&e))?;
        self.image = image;
        Ok(())
    }

    fn image(&self) -> Result<Image, String> {
        self.image.try_clone().map_err(|e| report(&e))
    }
}

/// An error with its causes in one line.
pub(crate) fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
