//! Looking at a store without taking it.

use crate::error::StoreError;
use crate::listing::{Listing, log_name};
use crate::open::Opened;
use afterimage_area_abi::{AreaName, Reign};
use afterimage_delta::{Chain, Epoch};
use afterimage_env::{Disk, DiskFile as _};

/// How often a store may change while it is looked at: a look takes
/// milliseconds, so a store that changes in every one of them is no store.
const ATTEMPTS: u32 = 100;

/// A store as it was at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Name of the area.
    pub name: AreaName,
    /// Length of the area in bytes.
    pub len: u64,
    /// The last epoch that is written whole.
    pub epoch: Epoch,
    /// The history up to it.
    pub chain: Chain,
    /// Who reigns.
    pub reign: Reign,
    /// The epoch of the base image.
    pub base_epoch: Epoch,
    /// Length of the base file in bytes.
    pub base_bytes: u64,
    /// Length of the log file in bytes, up to its last whole record.
    pub log_bytes: u64,
    /// Bytes after that: being written just now, or torn at a crash.
    pub tail_bytes: u64,
}

/// Reads what a store holds, while its owner may be writing to it. Changes
/// nothing; checks the log, but not the content of the base.
///
/// # Errors
/// As for [`Store::open`](crate::Store::open).
pub fn inspect<D: Disk>(disk: &D) -> Result<Inspection, StoreError> {
    let mut before = Listing::read(disk)?;
    let mut attempts = 0;
    loop {
        let seen_len = newest_log_len(disk, &before);
        let result = look(disk, &before);
        attempts += 1;
        if result.is_ok() || attempts == ATTEMPTS {
            return result;
        }
        // The owner replaces files and appends under our eyes: only what stayed
        // the same can be judged.
        let after = Listing::read(disk)?;
        if after == before && newest_log_len(disk, &after) == seen_len {
            return result;
        }
        before = after;
    }
}

fn newest_log_len<D: Disk>(disk: &D, listing: &Listing) -> Option<u64> {
    let newest = listing.logs.last()?;
    disk.open(&log_name(*newest)).ok()?.len().ok()
}

fn look<D: Disk>(disk: &D, listing: &Listing) -> Result<Inspection, StoreError> {
    let Some(generation) = listing.current(disk)? else {
        return Err(StoreError::Missing {
            place: disk.place("base-*"),
        });
    };
    let opened = Opened::read(disk, generation)?;
    let scan = opened.scan(|_| ())?;
    let origin = opened.origin();
    Ok(Inspection {
        name: origin.name.clone(),
        len: origin.len,
        epoch: scan.epoch,
        chain: scan.chain,
        reign: scan.reign,
        base_epoch: origin.epoch,
        base_bytes: opened.base.len(),
        log_bytes: scan.end,
        tail_bytes: scan.tail,
    })
}
