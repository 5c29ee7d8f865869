//! The contract suite: what every tracker must pass, on whatever memory and
//! with whatever writer it works.
//!
//! A [`Subject`] is a checkpointer together with a way to write to its area
//! as an application does (an ordinary store, a store by a guest). The suite
//! keeps a model of the bytes and compares the whole image with it after each
//! commit, so a page that the tracker misses is found. Failures panic with
//! what was expected.

use crate::{AreaMemory, Checkpointer, Tracker};
use afterimage_delta::{PAGE_SIZE, PageIndex};

/// What is put to the test.
pub trait Subject {
    /// Its memory.
    type Memory: AreaMemory;
    /// Its tracker.
    type Tracker: Tracker;

    /// The checkpointer under test.
    fn checkpointer(&mut self) -> &mut Checkpointer<Self::Memory, Self::Tracker>;

    /// Writes to the area as an application does. The range lies in the area.
    fn write(&mut self, offset: usize, bytes: &[u8]);
}

/// Runs the suite on an area of zeros of at least 8 pages; `epochs` random
/// epochs from `seed` at the end.
///
/// # Panics
/// When the contract is broken.
pub fn check<S: Subject>(subject: &mut S, seed: u64, epochs: u32) {
    let pages = subject.checkpointer().image().pages();
    assert!(pages >= 8, "the suite needs 8 pages");
    let mut model = subject.checkpointer().image().bytes().to_vec();

    nothing_written_gives_an_empty_epoch(subject, &model);
    every_page_is_noticed_again_after_a_harvest(subject, &mut model);
    pages_of_a_failed_epoch_are_given_back(subject, &mut model);
    an_abort_brings_the_last_commit_back(subject, &model);
    random_writes_reach_the_image(subject, &mut model, seed, epochs);
}

fn commit<S: Subject>(subject: &mut S, model: &[u8]) -> usize {
    let prepared = subject.checkpointer().prepare().expect("prepare");
    let bytes = prepared.delta().payload().len();
    let _ = prepared.complete().expect("complete");
    let image = subject.checkpointer().image().bytes();
    if let Some(at) = image.iter().zip(model).position(|(a, b)| a != b) {
        panic!(
            "page {} was written but is not in the image (byte {at})",
            at / PAGE_SIZE
        );
    }
    bytes
}

fn nothing_written_gives_an_empty_epoch<S: Subject>(subject: &mut S, model: &[u8]) {
    assert_eq!(commit(subject, model), 0, "an untouched area changed");
}

fn every_page_is_noticed_again_after_a_harvest<S: Subject>(subject: &mut S, model: &mut [u8]) {
    for round in 1..=3 {
        for page in 0..model.len() / PAGE_SIZE {
            let offset = page * PAGE_SIZE + page % PAGE_SIZE;
            model[offset] ^= round;
            subject.write(offset, &[model[offset]]);
        }
        commit(subject, model);
    }
    // Rewriting equal bytes is not a change.
    subject.write(5, &[model[5]]);
    assert_eq!(commit(subject, model), 0, "equal bytes were sent");
}

fn pages_of_a_failed_epoch_are_given_back<S: Subject>(subject: &mut S, model: &mut [u8]) {
    model[7 * PAGE_SIZE] ^= 0x55;
    subject.write(7 * PAGE_SIZE, &[model[7 * PAGE_SIZE]]);
    let before = subject.checkpointer().counters().given_back;
    let prepared = subject.checkpointer().prepare().expect("prepare");
    assert!(prepared.pages().contains(PageIndex(7)));
    drop(prepared);
    assert_eq!(subject.checkpointer().counters().given_back, before + 1);
    commit(subject, model);
}

fn an_abort_brings_the_last_commit_back<S: Subject>(subject: &mut S, model: &[u8]) {
    for page in [0, 3, 4] {
        subject.write(
            page * PAGE_SIZE + 100,
            &[model[page * PAGE_SIZE + 100] ^ 0xff; 8],
        );
    }
    let pages = subject.checkpointer().abort().expect("abort");
    assert!(pages >= 3, "an abort saw {pages} of 3 written pages");
    let mut page = [0; PAGE_SIZE];
    for index in 0..subject.checkpointer().image().pages() {
        subject
            .checkpointer()
            .memory()
            .read_page(PageIndex(index), &mut page);
        let start = index as usize * PAGE_SIZE;
        assert!(
            page == model[start..start + PAGE_SIZE],
            "page {index} after an abort"
        );
    }
    assert_eq!(commit(subject, model), 0, "an aborted change was committed");
}

fn random_writes_reach_the_image<S: Subject>(
    subject: &mut S,
    model: &mut [u8],
    seed: u64,
    epochs: u32,
) {
    let mut random = SplitMix(seed);
    for _ in 0..epochs {
        for _ in 0..random.below(20) {
            let len = match random.below(4) {
                0 => 1,
                1 => 8,
                2 => 1 + random.below(200),
                _ => 1 + random.below(2 * PAGE_SIZE),
            };
            let offset = random.below(model.len() - len);
            let value = u8::try_from(random.below(256)).expect("below 256");
            model[offset..offset + len].fill(value);
            subject.write(offset, &vec![value; len]);
        }
        commit(subject, model);
    }
}

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014: enough for test inputs, the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % bound as u64).expect("smaller than a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrackerError;
    use afterimage_delta::{Image, Page, PageSet};
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Memory whose writer reports to its tracker: the trivial case, and the
    /// place to break the contract on purpose.
    #[derive(Clone)]
    struct Told {
        bytes: Rc<RefCell<Vec<u8>>>,
        dirty: Rc<RefCell<PageSet>>,
        fault: Fault,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        DropsTheLastPage,
        ForgetsWhatIsGivenBack,
        SeesPagesOnce,
    }

    impl AreaMemory for Told {
        fn pages(&self) -> u32 {
            self.dirty.borrow().capacity()
        }
        fn read_page(&self, index: PageIndex, into: &mut Page) {
            let start = index.0 as usize * PAGE_SIZE;
            into.copy_from_slice(&self.bytes.borrow()[start..start + PAGE_SIZE]);
        }
        fn write_page(&mut self, index: PageIndex, bytes: &Page) {
            let start = index.0 as usize * PAGE_SIZE;
            self.bytes.borrow_mut()[start..start + PAGE_SIZE].copy_from_slice(bytes);
        }
    }

    struct ToldTracker {
        told: Told,
        seen: PageSet,
    }

    impl Tracker for ToldTracker {
        fn name(&self) -> &'static str {
            "told"
        }
        fn harvest(&mut self) -> Result<PageSet, TrackerError> {
            let mut pages = self.told.dirty.borrow().clone();
            self.told.dirty.borrow_mut().clear();
            if self.told.fault == Fault::DropsTheLastPage
                && let Some(last) = pages.iter().last()
            {
                let mut without = PageSet::new(pages.capacity());
                pages.iter().filter(|p| *p != last).for_each(|p| {
                    without.insert(p);
                });
                pages = without;
            }
            if self.told.fault == Fault::SeesPagesOnce {
                let mut fresh = PageSet::new(pages.capacity());
                pages
                    .iter()
                    .filter(|p| !self.seen.contains(*p))
                    .for_each(|p| {
                        fresh.insert(p);
                    });
                self.seen.union_with(&pages);
                pages = fresh;
            }
            Ok(pages)
        }
        fn give_back(&mut self, pages: &PageSet) {
            if self.told.fault != Fault::ForgetsWhatIsGivenBack {
                self.told.dirty.borrow_mut().union_with(pages);
            }
        }
    }

    struct ToldSubject(Told, Checkpointer<Told, ToldTracker>);

    impl Subject for ToldSubject {
        type Memory = Told;
        type Tracker = ToldTracker;
        fn checkpointer(&mut self) -> &mut Checkpointer<Told, ToldTracker> {
            &mut self.1
        }
        fn write(&mut self, offset: usize, bytes: &[u8]) {
            self.0.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
            for page in offset / PAGE_SIZE..=(offset + bytes.len() - 1) / PAGE_SIZE {
                self.0
                    .dirty
                    .borrow_mut()
                    .insert(PageIndex(u32::try_from(page).unwrap()));
            }
        }
    }

    fn run(fault: Fault) {
        let pages = 9;
        let told = Told {
            bytes: Rc::new(RefCell::new(vec![0; pages * PAGE_SIZE])),
            dirty: Rc::new(RefCell::new(PageSet::new(9))),
            fault,
        };
        let tracker = ToldTracker {
            told: told.clone(),
            seen: PageSet::new(9),
        };
        let image = Image::new((pages * PAGE_SIZE) as u64).unwrap();
        let checkpointer = Checkpointer::new(told.clone(), tracker, image).unwrap();
        check(&mut ToldSubject(told, checkpointer), 1, 50);
    }

    #[test]
    fn a_sound_tracker_passes() {
        run(Fault::None);
    }

    #[test]
    #[should_panic(expected = "is not in the image")]
    fn a_tracker_that_drops_a_page_is_caught() {
        run(Fault::DropsTheLastPage);
    }

    #[test]
    #[should_panic(expected = "is not in the image")]
    fn a_tracker_that_forgets_given_back_pages_is_caught() {
        run(Fault::ForgetsWhatIsGivenBack);
    }

    #[test]
    #[should_panic(expected = "is not in the image")]
    fn a_tracker_that_sees_a_page_only_once_is_caught() {
        run(Fault::SeesPagesOnce);
    }
}
