//! Tracking by write protection.

use crate::Region;
use crate::fault::{Watch, Watched};
use afterimage_checkpoint::{AreaMemory, Tracker, TrackerError};
use afterimage_delta::{PAGE_SIZE, PageIndex, PageSet};
use std::io;

/// More runs than this are closed with one call over the whole span: the
/// kernel then walks pages that are closed already, which is cheaper than
/// another system call for each run.
const MANY_RANGES: usize = 64;

/// The tracker `mprotect`: one fault a page and epoch.
///
/// What it can miss: nothing that instructions of this process write. A system
/// call that writes into a clean page fails with `EFAULT`, so the caller
/// notices; read into ordinary memory and copy. A forked child has no area.
#[derive(Debug)]
pub struct Mprotect {
    // Before the region: a range must be out of the handler's table when its
    // memory goes.
    watch: Watch,
    region: Region,
    given_back: PageSet,
}

impl Mprotect {
    /// Starts watching: from here on every write is noticed.
    ///
    /// # Errors
    /// What the kernel said to protecting the pages or installing the handler.
    pub fn start(region: Region) -> io::Result<Self> {
        let watch = Watch::new(Watched::new(region.base(), region.len()))?;
        region.protect(0..region.pages())?;
        Ok(Self {
            watch,
            given_back: PageSet::new(region.pages()),
            region,
        })
    }

    /// Faults taken since the start.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.watch.watched().faults()
    }

    fn close(&self, pages: &PageSet) -> io::Result<()> {
        let ranges: Vec<_> = pages.ranges().take(MANY_RANGES + 1).collect();
        if ranges.len() <= MANY_RANGES {
            let closed = ranges
                .into_iter()
                .try_for_each(|range| self.region.protect(range));
            if closed.is_ok() {
                return closed;
            }
            // Splitting mappings can exceed vm.max_map_count; closing the
            // whole region joins them instead.
        }
        self.region.protect(0..self.region.pages())
    }
}

impl Tracker for Mprotect {
    fn name(&self) -> &'static str {
        "mprotect"
    }

    fn harvest(&mut self) -> Result<PageSet, TrackerError> {
        let capacity = self.region.pages();
        let mut pages = match self.watch.watched().take() {
            Some(words) => PageSet::from_words(words, capacity),
            None => PageSet::full(capacity),
        };
        // mprotect(2) returns after the TLBs of all threads were flushed, so
        // the contents may be read from here on.
        self.close(&pages).map_err(|source| TrackerError {
            tracker: self.name(),
            action: "closing written pages",
            source,
        })?;
        pages.union_with(&self.given_back);
        self.given_back.clear();
        Ok(pages)
    }

    fn give_back(&mut self, pages: &PageSet) {
        self.given_back.union_with(pages);
    }
}

/// Tries the tracker on a page of its own: whether a first write is noticed, and
/// a write after a harvest again.
///
/// # Errors
/// What does not work on this machine.
pub fn probe() -> io::Result<()> {
    /// Far from where areas are mapped.
    const PLACE: u64 = 0x2000_0000_0000;
    let mut region = Region::map(PLACE, 1).map_err(io::Error::other)?;
    let mut tracker = Mprotect::start(region.clone())?;
    for value in 1..=2 {
        region.write_page(PageIndex(0), &[value; PAGE_SIZE]);
        let pages = tracker.harvest().map_err(io::Error::other)?;
        if !pages.contains(PageIndex(0)) {
            return Err(io::Error::other("a write was not noticed"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterimage_checkpoint::{Checkpointer, contract};
    use afterimage_delta::Image;

    fn store(region: &Region, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= region.len());
        // SAFETY: in the mapping, as just checked; bytes are elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.base().add(offset), bytes.len());
        }
    }

    struct Subject(Region, Checkpointer<Region, Mprotect>);

    impl contract::Subject for Subject {
        type Memory = Region;
        type Tracker = Mprotect;
        fn checkpointer(&mut self) -> &mut Checkpointer<Region, Mprotect> {
            &mut self.1
        }
        fn write(&mut self, offset: usize, bytes: &[u8]) {
            store(&self.0, offset, bytes);
        }
    }

    fn subject(base: u64, pages: u32) -> Subject {
        let region = Region::map(base, pages).unwrap();
        let tracker = Mprotect::start(region.clone()).unwrap();
        let image = Image::new(region.len() as u64).unwrap();
        let checkpointer = Checkpointer::new(region.clone(), tracker, image).unwrap();
        Subject(region, checkpointer)
    }

    #[test]
    fn it_keeps_the_contract() {
        contract::check(&mut subject(0x2300_0000_0000, 67), 42, 300);
    }

    #[test]
    fn more_written_runs_than_the_kernel_has_mappings_are_all_found() {
        // Every second page of 160,000 would need 160,000 mappings; the
        // default limit is 65,530.
        let pages = 160_000;
        let mut subject = subject(0x2400_0000_0000, pages);
        for round in 1..=2 {
            for page in (0..pages as usize).step_by(2) {
                store(&subject.0, page * PAGE_SIZE, &[round]);
            }
            let prepared = subject.1.prepare().unwrap();
            assert_eq!(prepared.delta().runs().count(), pages as usize / 2);
            let _ = prepared.complete().unwrap();
        }
    }

    #[test]
    fn threads_that_write_the_same_pages_are_all_noticed() {
        let mut subject = subject(0x2500_0000_0000, 16);
        for round in 1u8..=100 {
            std::thread::scope(|scope| {
                for thread in 0..4usize {
                    let region = &subject.0;
                    scope.spawn(move || {
                        (0..16).for_each(|page| store(region, page * PAGE_SIZE + thread, &[round]));
                    });
                }
            });
            let _ = subject.1.prepare().unwrap().complete().unwrap();
            for page in 0..16 {
                assert_eq!(subject.1.image().page(PageIndex(page))[..4], [round; 4]);
            }
        }
    }
}
