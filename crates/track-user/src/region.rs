//! The memory of an area in a process, at its fixed address.

use afterimage_checkpoint::AreaMemory;
use afterimage_delta::{PAGE_SIZE, Page, PageIndex};
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};
use std::ffi::c_void;
use std::io;
use std::sync::Arc;

/// Private anonymous memory at a given address, zeros at first.
///
/// A forked child does not get it (`MADV_DONTFORK`): its writes would be lost,
/// so they fault instead.
///
/// Clones are handles to the same memory; the last one unmaps it.
#[derive(Clone, Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    base: *mut u8,
    pages: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached
// only by raw copies of whole pages that assume nothing about other writers.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; there is no other state.
unsafe impl Sync for Mapping {}

/// The area cannot be mapped where it must be.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The place is taken.
    #[error(
        "cannot map {len} bytes at {base:#x}: something else is mapped there; open the area earlier in the program, or once only"
    )]
    Taken {
        /// Address at which the area must be.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The kernel refused.
    #[error("cannot map {len} bytes at {base:#x}; check the limits on memory (ulimit -v)")]
    Refused {
        /// Address at which the area must be.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Region {
    /// Maps `pages` pages at `base`, readable and writable.
    ///
    /// # Errors
    /// [`MapError`], naming the place.
    pub fn map(base: u64, pages: u32) -> Result<Self, MapError> {
        let len = u64::from(pages) * PAGE_SIZE as u64;
        let refused = |source: io::Error| MapError::Refused { base, len, source };
        let address = usize::try_from(base)
            .ok()
            .filter(|a| a.is_multiple_of(PAGE_SIZE))
            .ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
        let wanted = std::ptr::with_exposed_provenance_mut::<c_void>(address);
        let size = pages as usize * PAGE_SIZE;
        // SAFETY: NOREPLACE makes the kernel refuse rather than touch an
        // existing mapping, so no memory that Rust knows of is affected.
        let got = unsafe {
            mmap_anonymous(
                wanted,
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE,
            )
        }
        .map_err(|error| match error {
            rustix::io::Errno::EXIST => MapError::Taken { base, len },
            other => refused(other.into()),
        })?;
        let mapping = Arc::new(Mapping {
            base: got.cast(),
            pages,
        });
        if got != wanted {
            // Kernels before 4.17 take the address as a hint only; the mapping
            // goes again when dropped.
            return Err(MapError::Taken { base, len });
        }
        // SAFETY: the range was mapped above; the advice changes only what
        // fork does with it.
        unsafe { madvise(got, size, Advice::LinuxDontFork) }
            .map_err(|error| refused(error.into()))?;
        Ok(Self { mapping })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.mapping.base
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.pages as usize * PAGE_SIZE
    }

    /// Never: an area has at least one page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.pages == 0
    }

    /// Makes `range` (in pages) read-only.
    pub(crate) fn protect(&self, range: std::ops::Range<u32>) -> io::Result<()> {
        assert!(
            range.end <= self.mapping.pages,
            "a page range of this region"
        );
        let len = range.len() * PAGE_SIZE;
        // SAFETY: the range lies in this mapping. Taking write access away
        // cannot break Rust's rules: a store then faults, and the handler
        // gives access back before the store is repeated.
        unsafe {
            let start = self.mapping.base.add(range.start as usize * PAGE_SIZE);
            mprotect(start.cast(), len, MprotectFlags::READ)
        }
        .map_err(Into::into)
    }

    fn page(&self, index: PageIndex) -> *mut u8 {
        assert!(
            index.0 < self.mapping.pages,
            "page {} of {}",
            index.0,
            self.mapping.pages
        );
        // SAFETY: just checked to lie in the mapping.
        unsafe { self.mapping.base.add(index.0 as usize * PAGE_SIZE) }
    }
}

impl AreaMemory for Region {
    fn pages(&self) -> u32 {
        self.mapping.pages
    }

    fn read_page(&self, index: PageIndex, into: &mut Page) {
        // SAFETY: source is a page of the mapping, always readable; `into` is
        // ours and elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(self.page(index), into.as_mut_ptr(), PAGE_SIZE) }
    }

    fn write_page(&mut self, index: PageIndex, bytes: &Page) {
        // SAFETY: as above; if the page is read-only, the fault handler of its
        // tracker makes it writable and the copy goes on.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.page(index), PAGE_SIZE) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nothing else unmaps it.
        // Whoever keeps pointers into an area beyond its life breaks the
        // contract of the library's `Area`, which outlives them.
        let unmapped = unsafe { munmap(self.base.cast(), self.pages as usize * PAGE_SIZE) };
        debug_assert!(unmapped.is_ok(), "unmapping an own mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_taken_is_refused_and_free_again_after_the_drop() {
        let base = 0x2200_0000_0000;
        let first = Region::map(base, 4).unwrap();
        assert!(matches!(Region::map(base, 1), Err(MapError::Taken { .. })));
        drop(first);
        let mut again = Region::map(base, 4).unwrap();
        let mut page = [1; PAGE_SIZE];
        again.read_page(PageIndex(3), &mut page);
        assert_eq!(page, [0; PAGE_SIZE]);
        again.write_page(PageIndex(3), &[9; PAGE_SIZE]);
        again.read_page(PageIndex(3), &mut page);
        assert_eq!(page, [9; PAGE_SIZE]);
    }

    #[test]
    fn an_address_inside_a_page_is_refused() {
        assert!(matches!(
            Region::map(0x2200_0000_0001, 1),
            Err(MapError::Refused { .. })
        ));
    }
}
