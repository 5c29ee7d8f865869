//! Image, harvest and commit.

use crate::{AreaMemory, Tracker, TrackerError};
use afterimage_delta::{
    Delta, DeltaBuilder, Epoch, Image, ImageError, PAGE_SIZE, Page, PageIndex, PageSet,
};

/// Makes epochs out of what an application did to its area.
#[derive(Debug)]
pub struct Checkpointer<M, T: Tracker> {
    memory: M,
    tracker: T,
    image: Image,
    counters: Counters,
    spare: Vec<u8>,
    poisoned: bool,
}

/// What was done since the start; for status and benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Epochs completed.
    pub commits: u64,
    /// Pages that the tracker reported.
    pub pages: u64,
    /// Bytes that really differed from the image.
    pub changed_bytes: u64,
    /// Bytes of encoded deltas.
    pub delta_bytes: u64,
    /// Epochs whose pages were given back.
    pub given_back: u64,
    /// Aborts.
    pub aborts: u64,
}

/// Why there is no delta.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The tracker failed, now or earlier.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    /// The tracker failed earlier; what was written since is not known.
    #[error("the tracker failed earlier, so it is not known what changed since the last commit")]
    Poisoned,
    /// Memory and image are not of the same area.
    #[error("the area has {memory} pages, its image {image}")]
    Mismatch {
        /// Pages of the memory.
        memory: u32,
        /// Pages of the image.
        image: u32,
    },
    /// The area's length is not possible.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl<M: AreaMemory, T: Tracker> Checkpointer<M, T> {
    /// Starts with memory that already holds the image's bytes (as
    /// [`Checkpointer::load`] makes it) and a tracker that watches it.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`].
    pub fn new(memory: M, tracker: T, image: Image) -> Result<Self, CheckpointError> {
        if memory.pages() != image.pages() {
            return Err(CheckpointError::Mismatch {
                memory: memory.pages(),
                image: image.pages(),
            });
        }
        Ok(Self {
            memory,
            tracker,
            image,
            counters: Counters::default(),
            spare: Vec::new(),
            poisoned: false,
        })
    }

    /// Copies an image into memory that holds zeros, before tracking starts.
    pub fn load(memory: &mut M, image: &Image) {
        for index in (0..image.pages().min(memory.pages())).map(PageIndex) {
            let page = image.page(index);
            if page != &[0; PAGE_SIZE] {
                memory.write_page(index, page);
            }
        }
    }

    /// Finds what changed since the last commit.
    ///
    /// The result holds the pages: [`Prepared::complete`] makes them the new
    /// image; dropping it gives them back to the tracker, and the next attempt
    /// finds them again.
    ///
    /// # Errors
    /// [`CheckpointError`]; after one, this area is not committed again.
    pub fn prepare(&mut self) -> Result<Prepared<'_, M, T>, CheckpointError> {
        let pages = self.harvest()?;
        let mut builder = DeltaBuilder::new(std::mem::take(&mut self.spare));
        let mut page: Page = [0; PAGE_SIZE];
        let mut changed = 0;
        for index in &pages {
            self.memory.read_page(index, &mut page);
            changed += builder.page(index, self.image.page(index), &page);
        }
        let delta = builder.finish(self.image.epoch().next(), self.image.chain());
        self.counters.pages += pages.len() as u64;
        self.counters.changed_bytes += changed as u64;
        self.counters.delta_bytes += delta.payload().len() as u64;
        Ok(Prepared {
            checkpointer: self,
            pages,
            delta: Some(delta),
        })
    }

    /// Brings the area back to the last commit; returns how many pages were
    /// written since.
    ///
    /// # Errors
    /// [`CheckpointError`], as for [`Checkpointer::prepare`].
    pub fn abort(&mut self) -> Result<u32, CheckpointError> {
        let pages = self.harvest()?;
        let mut live: Page = [0; PAGE_SIZE];
        for index in &pages {
            self.memory.read_page(index, &mut live);
            let committed = self.image.page(index);
            if &live != committed {
                self.memory.write_page(index, committed);
            }
        }
        self.counters.aborts += 1;
        Ok(u32::try_from(pages.len()).unwrap_or(u32::MAX))
    }

    fn harvest(&mut self) -> Result<PageSet, CheckpointError> {
        if self.poisoned {
            return Err(CheckpointError::Poisoned);
        }
        self.tracker.harvest().map_err(|error| {
            self.poisoned = true;
            error.into()
        })
    }

    /// The last commit.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The live memory.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The tracker in use.
    #[must_use]
    pub fn tracker(&self) -> &T {
        &self.tracker
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

/// One epoch that is not in the image yet.
#[derive(Debug)]
#[must_use = "dropping it gives its pages back to the tracker"]
pub struct Prepared<'c, M: AreaMemory, T: Tracker> {
    checkpointer: &'c mut Checkpointer<M, T>,
    pages: PageSet,
    /// `None` only once completed.
    delta: Option<Delta>,
}

impl<M: AreaMemory, T: Tracker> Prepared<'_, M, T> {
    /// What changed.
    #[must_use]
    pub fn delta(&self) -> &Delta {
        self.delta
            .as_ref()
            .expect("completing takes the value, so the delta is here as long as it lives")
    }

    /// The pages that the tracker reported.
    #[must_use]
    pub fn pages(&self) -> &PageSet {
        &self.pages
    }

    /// The image before this epoch.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.checkpointer.image
    }

    /// Makes the epoch part of the image.
    ///
    /// # Errors
    /// [`ImageError`] if image and delta do not fit, which is a defect of this
    /// crate; the pages are given back.
    pub fn complete(mut self) -> Result<Epoch, ImageError> {
        let delta = self.delta();
        let epoch = delta.epoch();
        // Not through the accessor: image and delta are borrowed apart.
        if let Some(delta) = &self.delta {
            self.checkpointer.image.apply(delta)?;
        }
        self.checkpointer.counters.commits += 1;
        if let Some(delta) = self.delta.take() {
            self.checkpointer.spare = delta.into_payload();
        }
        Ok(epoch)
    }
}

impl<M: AreaMemory, T: Tracker> Drop for Prepared<'_, M, T> {
    fn drop(&mut self) {
        if let Some(delta) = self.delta.take() {
            self.checkpointer.tracker.give_back(&self.pages);
            self.checkpointer.counters.given_back += 1;
            self.checkpointer.spare = delta.into_payload();
        }
    }
}
