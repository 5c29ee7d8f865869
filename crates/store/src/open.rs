//! Opening a store: everything is read before anything is changed.

use crate::base::{self, Base};
use crate::error::{Damage, StoreError};
use crate::layout::{FILE_HEADER_LEN, FileHeader, LOG_MAGIC, Sealed as _};
use crate::listing::{Listing, log_name};
use crate::origin::{HeaderFault, Origin};
use crate::replace;
use crate::scan::{Scan, ScanError, scan};
use crate::window::Window;
use afterimage_delta::{Delta, Image};
use afterimage_env::{Disk, DiskFile};

/// The files of the current generation, their heads checked.
pub(crate) struct Opened<F> {
    pub(crate) base: Base<F>,
    pub(crate) log: F,
    /// Where the log is, for messages.
    pub(crate) log_place: String,
    /// Checksum of the log's header.
    pub(crate) segment: u32,
}

impl<F: DiskFile> Opened<F> {
    pub(crate) fn read<D: Disk<File = F>>(disk: &D, generation: u64) -> Result<Self, StoreError> {
        let base = Base::open(disk, generation)?;
        let name = log_name(generation);
        let place = disk.place(&name);
        let log = disk
            .open(&name)
            .map_err(StoreError::disk("open", place.as_str()))?;
        let damaged = |damage| StoreError::Damaged {
            file: place.clone(),
            offset: 0,
            damage,
        };
        let len = log
            .len()
            .map_err(StoreError::disk("read", place.as_str()))?;
        if len < FILE_HEADER_LEN {
            return Err(damaged(Damage::Short));
        }
        let header: FileHeader =
            base::read(&log, 0).map_err(StoreError::disk("read", place.as_str()))?;
        let origin =
            Origin::from_header(&header, LOG_MAGIC, generation).map_err(|fault| match fault {
                HeaderFault::Damage(damage) => damaged(damage),
                HeaderFault::Version(version) => StoreError::Version {
                    file: place.clone(),
                    version,
                },
            })?;
        if origin != base.origin || header.base.get() != base.checksum() {
            return Err(damaged(Damage::Misplaced));
        }
        Ok(Self {
            base,
            log,
            segment: header.stored(),
            log_place: place,
        })
    }

    pub(crate) fn scan(&self, visit: impl FnMut(&Delta)) -> Result<Scan, StoreError> {
        scan(&self.log, &self.base.origin, self.segment, visit).map_err(|error| match error {
            ScanError::Io(source) => StoreError::disk("read", self.log_place.as_str())(source),
            ScanError::Damage { so_far, damage } => StoreError::DamagedLog {
                file: self.log_place.clone(),
                offset: so_far.end,
                damage,
                epoch: so_far.epoch,
                term: so_far.reign.term,
            },
        })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.base.origin
    }
}

/// Reads the store, then makes durable what was read and removes what is not
/// part of it.
pub(crate) fn recover<D: Disk>(disk: &D) -> Result<(Opened<D::File>, Scan, Image), StoreError> {
    let listing = Listing::read(disk)?;
    let Some(generation) = listing.current(disk)? else {
        return Err(StoreError::Missing {
            place: disk.place("base-*"),
        });
    };
    let opened = Opened::read(disk, generation)?;
    let mut image = opened.base.image()?;
    let mut misfit = None;
    let scan = opened.scan(|delta| {
        if misfit.is_none() {
            misfit = image.apply(delta).err();
        }
    })?;
    if let Some(misfit) = misfit {
        return Err(misfit.into());
    }

    make_durable(&opened, &scan)?;
    // A process may have been killed right after the rename: nothing older is
    // removed before the name is durable.
    replace::sync_dir(disk)?;
    for name in listing.leftovers(Some(generation)) {
        replace::remove(disk, &name)?;
    }
    Ok((opened, scan, image))
}

/// Cuts a torn tail off, and makes sure that what was read is on the medium.
///
/// What no later record calls durable is written again: after a sync that
/// failed, the kernel has those pages as clean, and would sync without them.
fn make_durable<F: DiskFile>(opened: &Opened<F>, scan: &Scan) -> Result<(), StoreError> {
    let place = opened.log_place.as_str();
    if scan.tail > 0 {
        tracing::warn!(
            file = place,
            offset = scan.end,
            bytes = scan.tail,
            epoch = scan.epoch.0,
            "the log ends in the middle of a record, which is dropped: a crash while it was written leaves that, and so does a file that was cut"
        );
        opened
            .log
            .set_len(scan.end)
            .map_err(StoreError::disk("cut", place))?;
    }
    let mut window = Window::new(&opened.log).map_err(StoreError::disk("read", place))?;
    let mut at = scan.durable;
    while at < scan.end {
        let len = (scan.end - at).min(1 << 20);
        let bytes = window
            .get(at, len)
            .map_err(StoreError::disk("read", place))?;
        opened
            .log
            .write_at(bytes, at)
            .map_err(StoreError::disk("write", place))?;
        at += len;
    }
    opened.log.sync_data().map_err(StoreError::sync(place))
}
