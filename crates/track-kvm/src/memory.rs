//! An area's data.

use afterimage_checkpoint::AreaMemory;
use afterimage_delta::{PAGE_SIZE, PAGE_SIZE_U64, Page, PageIndex};
use std::sync::Arc;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// Memory of whole pages, zeros at first, that becomes a slot of a guest.
///
/// Copies go through volatile slices: the guest may write to a page while it
/// is copied, and then the copy holds some of the old and some of the new
/// bytes, never anything else.
#[derive(Clone, Debug)]
pub struct SlotMemory {
    region: Arc<MmapRegion>,
    pages: u32,
}

/// There is no memory of this length.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The length is no area's.
    #[error("an area of {0} bytes is not possible: it has whole pages of 4096 bytes, at least one")]
    Length(u64),
    /// The system has not got it.
    #[error("cannot map {len} bytes for an area")]
    Map {
        /// Length in bytes.
        len: u64,
        /// What the system said.
        source: MmapRegionError,
    },
}

impl SlotMemory {
    /// Memory of `len` bytes, taken as pages are first written.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn new(len: u64) -> Result<Self, MemoryError> {
        let pages = (len > 0 && len.is_multiple_of(PAGE_SIZE_U64))
            .then(|| u32::try_from(len / PAGE_SIZE_U64).ok())
            .flatten()
            .ok_or(MemoryError::Length(len))?;
        let bytes = usize::try_from(len).map_err(|_| MemoryError::Length(len))?;
        let region = MmapRegion::new(bytes).map_err(|source| MemoryError::Map { len, source })?;
        Ok(Self {
            region: Arc::new(region),
            pages,
        })
    }

    /// The mapping, to be given to a guest.
    #[must_use]
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.region
    }

    fn page(&self, index: PageIndex) -> VolatileSlice<'_> {
        let offset = usize::try_from(index.offset()).unwrap_or(usize::MAX);
        match self.region.get_slice(offset, PAGE_SIZE) {
            Ok(slice) => slice,
            Err(_) => panic!("the area has {} pages, not page {}", self.pages, index.0),
        }
    }
}

impl AreaMemory for SlotMemory {
    fn pages(&self) -> u32 {
        self.pages
    }

    fn read_page(&self, index: PageIndex, into: &mut Page) {
        self.page(index).copy_to(&mut into[..]);
    }

    fn write_page(&mut self, index: PageIndex, bytes: &Page) {
        self.page(index).copy_from(&bytes[..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_apart() {
        let mut memory = SlotMemory::new(3 * PAGE_SIZE_U64).unwrap();
        memory.write_page(PageIndex(1), &[7; PAGE_SIZE]);
        let mut page = [1; PAGE_SIZE];
        for (index, value) in [(0, 0), (1, 7), (2, 0)] {
            memory.read_page(PageIndex(index), &mut page);
            assert_eq!(page, [value; PAGE_SIZE]);
        }
    }

    #[test]
    #[should_panic(expected = "not page 3")]
    fn a_page_outside_is_refused() {
        let memory = SlotMemory::new(3 * PAGE_SIZE_U64).unwrap();
        memory.read_page(PageIndex(3), &mut [0; PAGE_SIZE]);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for len in [0, 1, 4097, u64::MAX, !0xfff] {
            assert!(SlotMemory::new(len).is_err(), "{len}");
        }
    }
}
