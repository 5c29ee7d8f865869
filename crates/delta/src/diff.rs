//! From two versions of a page to byte runs.

use crate::codec::{RUN_HEADER_LEN, push_run};
use crate::{Chain, Delta, Epoch, Page, PageIndex};

/// Unchanged bytes between two changes that are sent along rather than paying
/// for another run header.
const MERGE_GAP: usize = RUN_HEADER_LEN;

/// Gathers the changed bytes of one epoch, page by page in ascending order.
#[derive(Debug)]
pub struct DeltaBuilder {
    payload: Vec<u8>,
    runs: u64,
}

impl DeltaBuilder {
    /// Starts with a buffer whose allocation is used again.
    #[must_use]
    pub fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            payload: buffer,
            runs: 0,
        }
    }

    /// Adds what differs between the image's version of a page and the area's.
    ///
    /// Returns how many bytes differ.
    pub fn page(&mut self, index: PageIndex, image: &Page, area: &Page) -> usize {
        let mut changed = 0;
        let mut run: Option<(usize, usize)> = None;
        for (at, (old, new)) in image.chunks_exact(8).zip(area.chunks_exact(8)).enumerate() {
            if old == new {
                continue;
            }
            for byte in (0..8).filter(|&b| old[b] != new[b]) {
                let byte = at * 8 + byte;
                changed += 1;
                run = match run {
                    Some((start, end)) if byte - end <= MERGE_GAP => Some((start, byte + 1)),
                    Some((start, end)) => {
                        self.run(index, start, &area[start..end]);
                        Some((byte, byte + 1))
                    }
                    None => Some((byte, byte + 1)),
                };
            }
        }
        if let Some((start, end)) = run {
            self.run(index, start, &area[start..end]);
        }
        changed
    }

    fn run(&mut self, index: PageIndex, start: usize, bytes: &[u8]) {
        push_run(&mut self.payload, index.offset() + start as u64, bytes);
        self.runs += 1;
    }

    /// How many runs were found so far.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The delta that turns the image of `epoch - 1`, whose chain is
    /// `previous`, into that of `epoch`.
    #[must_use]
    pub fn finish(self, epoch: Epoch, previous: Chain) -> Delta {
        Delta::from_checked(epoch, previous, self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_pages_give_no_run() {
        let mut builder = DeltaBuilder::new(Vec::new());
        assert_eq!(builder.page(PageIndex(3), &[7; 4096], &[7; 4096]), 0);
        assert_eq!(builder.runs(), 0);
    }

    #[test]
    fn near_changes_share_a_run_and_far_ones_do_not() {
        let old = [0; 4096];
        let mut near = old;
        near[100] = 1;
        near[100 + MERGE_GAP] = 1;
        let mut builder = DeltaBuilder::new(Vec::new());
        assert_eq!(builder.page(PageIndex(0), &old, &near), 2);
        assert_eq!(builder.runs(), 1);

        let mut far = old;
        far[100] = 1;
        far[100 + MERGE_GAP + 2] = 1;
        let mut builder = DeltaBuilder::new(Vec::new());
        builder.page(PageIndex(0), &old, &far);
        assert_eq!(builder.runs(), 2);
    }

    proptest! {
        #[test]
        fn applying_a_delta_gives_the_new_page(
            writes in prop::collection::vec((0usize..8192, any::<u8>()), 0..200),
            base in any::<u8>(),
        ) {
            let old = vec![base; 8192];
            let mut new = old.clone();
            for (at, value) in writes {
                new[at] = value;
            }
            let mut builder = DeltaBuilder::new(Vec::new());
            for page in 0..2 {
                let range = page * 4096..(page + 1) * 4096;
                builder.page(
                    PageIndex(u32::try_from(page).unwrap()),
                    old[range.clone()].try_into().unwrap(),
                    new[range].try_into().unwrap(),
                );
            }
            let delta = builder.finish(Epoch(1), Chain::START);
            let again = Delta::decode(Epoch(1), Chain::START, delta.payload().to_vec(), 8192).unwrap();
            prop_assert_eq!(&again, &delta);
            let mut image = old;
            again.apply(&mut image);
            prop_assert_eq!(image, new);
        }
    }
}
