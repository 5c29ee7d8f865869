//! The store as its owner sees it.

use crate::error::StoreError;
use crate::layout::{DELTA, FILE_HEADER_LEN, REIGN, ReignField};
use crate::listing::{Listing, base_name, log_name};
use crate::open;
use crate::origin::{Origin, may_follow};
use crate::record::{self, Label};
use crate::replace;
use afterimage_area_abi::{AreaName, Reign};
use afterimage_delta::{
    Chain, Delta, Epoch, Image, ImageError, MAX_AREA_LEN, PAGE_SIZE_U64, max_encoded_len,
};
use afterimage_env::{Disk, DiskFile as _};
use std::error::Error as _;
use zerocopy::IntoBytes as _;

/// What is kept of the buffer after a record, in bytes: enough that usual ones
/// never allocate, and that one huge one is not paid for ever after.
const BUFFER_KEPT: usize = 16 << 20;

/// One area on one disk.
#[derive(Debug)]
pub struct Store<D: Disk> {
    disk: D,
    log: D::File,
    origin: Origin,
    segment: u32,
    base_len: u64,
    /// Where the next record goes, and how much before it is durable.
    end: u64,
    durable: u64,
    last: u32,
    epoch: Epoch,
    durable_epoch: Epoch,
    chain: Chain,
    reign: Reign,
    buffer: Vec<u8>,
    compaction: Compaction,
    recovery: Recovery,
    stopped: Option<String>,
}

/// How long the log may get before the store wants to be compacted: the larger
/// of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// In bytes.
    pub least: u64,
    /// As a multiple of the base file's length.
    pub times_base: u64,
}

impl Default for Compaction {
    /// 64 MiB, twice the base.
    fn default() -> Self {
        Self {
            least: 64 << 20,
            times_base: 2,
        }
    }
}

/// What was found when the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records read from the log.
    pub records: u64,
    /// Bytes of an unfinished tail that were dropped; zero after an orderly end.
    pub dropped_tail_bytes: u64,
}

/// Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The base file.
    pub base: u64,
    /// The log file.
    pub log: u64,
    /// What was appended to the log and not synced.
    pub unsynced: u64,
}

impl<D: Disk> Store<D> {
    /// Makes the store of a new area: zeros, epoch 0, no reign. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if there is one; [`StoreError::Order`] if no area
    /// has this length; what the medium reports.
    pub fn create(disk: D, name: &AreaName, len: u64) -> Result<Self, StoreError> {
        if len == 0 || len > MAX_AREA_LEN || !len.is_multiple_of(PAGE_SIZE_U64) {
            return Err(ImageError::Length { len }.into());
        }
        let listing = Listing::read(&disk)?;
        if let Some(generation) = listing.current(&disk)? {
            return Err(StoreError::Exists {
                file: disk.place(&base_name(generation)),
            });
        }
        for name in listing.leftovers(None) {
            replace::remove(&disk, &name)?;
        }
        let store = disk
            .fresh_id()
            .map_err(StoreError::disk("find random bytes for", disk.place("")))?;
        let origin = Origin {
            store,
            generation: 1,
            name: name.clone(),
            len,
            epoch: Epoch::ZERO,
            chain: Chain::START,
            reign: Reign::default(),
        };
        let begun = replace::begin(&disk, &origin, &[])?;
        Ok(Self {
            log: begun.log,
            segment: begun.segment,
            base_len: begun.base_len,
            end: FILE_HEADER_LEN,
            durable: FILE_HEADER_LEN,
            last: begun.segment,
            epoch: origin.epoch,
            durable_epoch: origin.epoch,
            chain: origin.chain,
            reign: origin.reign,
            buffer: Vec::new(),
            compaction: Compaction::default(),
            recovery: Recovery::default(),
            stopped: None,
            disk,
            origin,
        })
    }

    /// Opens the store that is there, and hands out the image of its last
    /// epoch. Everything in it is durable when it returns.
    ///
    /// A tail that was being written at a crash is dropped, see
    /// [`Store::recovered`].
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none; [`StoreError::Damaged`] and its
    /// kin if what is stored is not what was written, and then nothing was
    /// changed; what the medium reports.
    pub fn open(disk: D) -> Result<(Self, Image), StoreError> {
        let (opened, scan, image) = open::recover(&disk)?;
        let store = Self {
            origin: opened.origin().clone(),
            base_len: opened.base.len(),
            segment: opened.segment,
            log: opened.log,
            end: scan.end,
            durable: scan.end,
            last: scan.last,
            epoch: scan.epoch,
            durable_epoch: scan.epoch,
            chain: scan.chain,
            reign: scan.reign,
            buffer: Vec::new(),
            compaction: Compaction::default(),
            recovery: Recovery {
                records: scan.records,
                dropped_tail_bytes: scan.tail,
            },
            stopped: None,
            disk,
        };
        Ok((store, image))
    }

    /// Whether there is a store to open, sound or not.
    ///
    /// # Errors
    /// [`StoreError::Orphan`] and [`StoreError::LogMissing`] if there is half of
    /// one; what the medium reports.
    pub fn exists(disk: &D) -> Result<bool, StoreError> {
        Ok(Listing::read(disk)?.current(disk)?.is_some())
    }

    /// Appends the next epoch: one write, no sync. It survives a crash for sure
    /// only after [`Store::sync`].
    ///
    /// # Errors
    /// [`StoreError::Order`], [`StoreError::OutsideArea`] and
    /// [`StoreError::TooLong`] if the delta is not the next one of this area;
    /// the store is as before. After a failed write the store stops.
    pub fn append(&mut self, delta: &Delta) -> Result<(), StoreError> {
        self.check_running()?;
        self.check_next(delta)?;
        let chain = delta.chain();
        let label = self.label(DELTA, delta.epoch(), self.reign, chain);
        self.write(&label, delta.payload())?;
        self.epoch = delta.epoch();
        self.chain = chain;
        Ok(())
    }

    fn check_next(&self, delta: &Delta) -> Result<(), StoreError> {
        if delta.epoch() != self.epoch.next() {
            return Err(StoreError::Order(ImageError::Epoch {
                image: self.epoch,
                delta: delta.epoch(),
            }));
        }
        if delta.previous() != self.chain {
            return Err(StoreError::Order(ImageError::Chain {
                epoch: delta.epoch(),
                image: self.chain,
                delta: delta.previous(),
            }));
        }
        let (len, max) = (
            delta.payload().len() as u64,
            max_encoded_len(self.origin.len),
        );
        if len > max {
            return Err(StoreError::TooLong { len, max });
        }
        // Runs ascend, so the last one ends furthest.
        match delta.runs().last() {
            Some(run) if run.offset + run.bytes.len() as u64 > self.origin.len => {
                Err(StoreError::OutsideArea {
                    end: run.offset + run.bytes.len() as u64,
                    len: self.origin.len,
                })
            }
            _ => Ok(()),
        }
    }

    fn label(&self, kind: u32, epoch: Epoch, reign: Reign, content: Chain) -> Label {
        Label {
            kind,
            position: self.end,
            durable: self.durable,
            segment: self.segment,
            previous: self.last,
            epoch,
            term: reign.term,
            content,
        }
    }

    fn write(&mut self, label: &Label, payload: &[u8]) -> Result<(), StoreError> {
        let last = record::encode(&mut self.buffer, label, payload);
        if let Err(source) = self.log.write_at(&self.buffer, self.end) {
            let error = StoreError::disk("write", self.log_place())(source);
            return Err(self.stop(error));
        }
        self.end += self.buffer.len() as u64;
        self.last = last;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        Ok(())
    }

    /// Makes everything appended durable: one `fdatasync`, or nothing if there
    /// is nothing to do.
    ///
    /// # Errors
    /// [`StoreError::Sync`]; then the store stops, because a second attempt
    /// would succeed without the data.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.check_running()?;
        if self.durable == self.end {
            return Ok(());
        }
        if let Err(source) = self.log.sync_data() {
            let error = StoreError::sync(self.log_place())(source);
            return Err(self.stop(error));
        }
        self.durable = self.end;
        self.durable_epoch = self.epoch;
        Ok(())
    }

    /// Says who reigns from now on; durable when it returns, as is everything
    /// appended before. Nothing happens if this reign is stored already.
    ///
    /// # Errors
    /// [`StoreError::Reign`] if the term is lower, or is another primary's;
    /// after a failed write or sync the store stops.
    pub fn set_reign(&mut self, reign: Reign) -> Result<(), StoreError> {
        self.check_running()?;
        if !may_follow(self.reign, reign) {
            return Err(StoreError::Reign {
                stored: self.reign,
                offered: reign,
            });
        }
        if reign != self.reign {
            let field = ReignField::from(reign);
            let payload = field.as_bytes();
            let content = self.chain.after(payload);
            let label = self.label(REIGN, self.epoch, reign, content);
            self.write(&label, payload)?;
            self.reign = reign;
        }
        self.sync()
    }

    /// Replaces everything by this image, of whatever epoch and history; the
    /// reign stays. Atomic, and durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::OtherArea`] if it has another length; the store is as
    /// before. After a failure of the medium the store stops, and holds either
    /// the old state or the new one.
    pub fn install(&mut self, image: &Image) -> Result<(), StoreError> {
        self.check_running()?;
        if image.len() != self.origin.len {
            return Err(StoreError::OtherArea {
                name: self.origin.name.clone(),
                image: image.len(),
                area: self.origin.len,
            });
        }
        self.replace(image).map_err(|error| self.stop(error))
    }

    /// Whether the log is long enough to be replaced by a new base.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        let times_base = self.compaction.times_base.saturating_mul(self.base_len);
        self.end > self.compaction.least.max(times_base)
    }

    /// Sets when [`Store::wants_compaction`] says so.
    pub fn set_compaction(&mut self, compaction: Compaction) {
        self.compaction = compaction;
    }

    /// Makes the image of the stored epoch the new base and starts an empty
    /// log. Everything is durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::OtherState`] if the image is not of the stored epoch; else
    /// as [`Store::install`].
    pub fn compact(&mut self, image: &Image) -> Result<(), StoreError> {
        self.check_running()?;
        if (image.epoch(), image.chain()) != (self.epoch, self.chain) {
            return Err(StoreError::OtherState {
                image: image.epoch(),
                store: self.epoch,
            });
        }
        self.install(image)
    }

    fn replace(&mut self, image: &Image) -> Result<(), StoreError> {
        let old = self.origin.generation;
        let origin = Origin {
            generation: old + 1,
            epoch: image.epoch(),
            chain: image.chain(),
            reign: self.reign,
            ..self.origin.clone()
        };
        let begun = replace::begin(&self.disk, &origin, image.bytes())?;
        self.origin = origin;
        self.log = begun.log;
        self.segment = begun.segment;
        self.base_len = begun.base_len;
        self.end = FILE_HEADER_LEN;
        self.durable = FILE_HEADER_LEN;
        self.last = begun.segment;
        self.epoch = image.epoch();
        self.durable_epoch = image.epoch();
        self.chain = image.chain();
        replace::remove(&self.disk, &base_name(old))?;
        replace::remove(&self.disk, &log_name(old))
    }

    fn check_running(&self) -> Result<(), StoreError> {
        match &self.stopped {
            Some(cause) => Err(StoreError::Stopped {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Refuses everything from now on: what the medium holds is not known.
    fn stop(&mut self, error: StoreError) -> StoreError {
        let mut cause = error.to_string();
        if let Some(source) = error.source() {
            cause = format!("{cause}: {source}");
        }
        tracing::error!(cause, "the store stops");
        self.stopped = Some(cause);
        error
    }

    fn log_place(&self) -> String {
        self.disk.place(&log_name(self.origin.generation))
    }

    /// Name of the area.
    #[must_use]
    pub fn name(&self) -> &AreaName {
        &self.origin.name
    }

    /// Length of the area in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an area has at least a page")]
    pub fn len(&self) -> u64 {
        self.origin.len
    }

    /// The last epoch appended.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last epoch that is durable.
    #[must_use]
    pub fn synced_epoch(&self) -> Epoch {
        self.durable_epoch
    }

    /// The history up to [`Store::epoch`].
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Who reigns.
    #[must_use]
    pub fn reign(&self) -> Reign {
        self.reign
    }

    /// What was found at [`Store::open`].
    #[must_use]
    pub fn recovered(&self) -> Recovery {
        self.recovery
    }

    /// How much room it takes.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            base: self.base_len,
            log: self.end,
            unsynced: self.end - self.durable,
        }
    }

    /// The failure that stopped this store, if one did.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }
}
