//! Beginning a generation: a new base and an empty log in place of all there
//! was, in one step.

use crate::base;
use crate::error::StoreError;
use crate::layout::Sealed as _;
use crate::listing::{base_name, log_name, unfinished_name};
use crate::origin::Origin;
use afterimage_env::{Disk, DiskFile as _};
use zerocopy::IntoBytes as _;

/// A generation that has no records yet and is durable.
pub(crate) struct Generation<F> {
    pub(crate) log: F,
    /// Checksum of the log's header.
    pub(crate) segment: u32,
    /// Length of the base file in bytes.
    pub(crate) base_len: u64,
}

/// Makes the files of `origin`'s generation; `bytes` may be shorter than the
/// area, the rest is zeros.
///
/// Before the rename the old generation is the store, after it the new one.
/// All that the new one needs is durable first, its names included.
pub(crate) fn begin<D: Disk>(
    disk: &D,
    origin: &Origin,
    bytes: &[u8],
) -> Result<Generation<D::File>, StoreError> {
    let unfinished = unfinished_name(origin.generation);
    let place = disk.place(&unfinished);
    let file = disk
        .create(&unfinished)
        .map_err(StoreError::disk("make", place.as_str()))?;
    let (checksum, base_len) =
        base::write(&file, origin, bytes).map_err(StoreError::disk("write", place.as_str()))?;
    file.sync_data().map_err(StoreError::sync(place.as_str()))?;

    let name = log_name(origin.generation);
    let log_place = disk.place(&name);
    let log = disk
        .create(&name)
        .map_err(StoreError::disk("make", log_place.as_str()))?;
    let header = origin.log_header(checksum);
    log.write_at(header.as_bytes(), 0)
        .map_err(StoreError::disk("write", log_place.as_str()))?;
    log.sync_data().map_err(StoreError::sync(log_place))?;
    sync_dir(disk)?;

    disk.rename(&unfinished, &base_name(origin.generation))
        .map_err(StoreError::disk("rename", place))?;
    sync_dir(disk)?;
    Ok(Generation {
        log,
        segment: header.stored(),
        base_len,
    })
}

pub(crate) fn sync_dir<D: Disk>(disk: &D) -> Result<(), StoreError> {
    disk.sync_dir().map_err(StoreError::sync(disk.place("")))
}

pub(crate) fn remove<D: Disk>(disk: &D, name: &str) -> Result<(), StoreError> {
    disk.remove(name)
        .map_err(StoreError::disk("remove", disk.place(name)))
}
