//! Sets of pages.

use crate::PAGE_SIZE_U64;
use std::ops::Range;

/// Position of a page in its area, counted in pages from the area's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u32);

impl PageIndex {
    /// Offset of the page's first byte from the area's start.
    #[must_use]
    pub const fn offset(self) -> u64 {
        // Lossless: u32 pages of 4 KiB stay far below 2^64.
        self.0 as u64 * PAGE_SIZE_U64
    }
}

/// A set of pages of one area: a bitmap of fixed capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    capacity: u32,
}

impl PageSet {
    /// An empty set for an area of `capacity` pages.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            words: vec![0; capacity.div_ceil(64) as usize],
            capacity,
        }
    }

    /// A set of every page of an area of `capacity` pages.
    #[must_use]
    pub fn full(capacity: u32) -> Self {
        Self::from_words(vec![u64::MAX; capacity.div_ceil(64) as usize], capacity)
    }

    /// Takes a bitmap as the kernel hands it out: page `i` is bit `i % 64` of
    /// word `i / 64`. Missing words are empty; bits from `capacity` on are
    /// dropped.
    #[must_use]
    pub fn from_words(mut words: Vec<u64>, capacity: u32) -> Self {
        words.resize(capacity.div_ceil(64) as usize, 0);
        if !capacity.is_multiple_of(64)
            && let Some(last) = words.last_mut()
        {
            *last &= (1 << (capacity % 64)) - 1;
        }
        Self { words, capacity }
    }

    /// The bitmap, as in [`PageSet::from_words`].
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Number of pages the area has.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Adds a page. A page outside the area is ignored and gives `false`.
    pub fn insert(&mut self, page: PageIndex) -> bool {
        if page.0 >= self.capacity {
            return false;
        }
        self.words[(page.0 / 64) as usize] |= 1 << (page.0 % 64);
        true
    }

    /// Whether the page is in the set.
    #[must_use]
    pub fn contains(&self, page: PageIndex) -> bool {
        page.0 < self.capacity && self.words[(page.0 / 64) as usize] >> (page.0 % 64) & 1 == 1
    }

    /// Adds every page of `other` that this set has room for.
    pub fn union_with(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        let words = std::mem::take(&mut self.words);
        *self = Self::from_words(words, self.capacity);
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }

    /// The pages in ascending order.
    #[must_use]
    pub fn iter(&self) -> Pages<'_> {
        Pages {
            words: &self.words,
            current: self.words.first().copied().unwrap_or(0),
            word: 0,
        }
    }

    /// Runs of neighbouring pages in ascending order, as ranges of page
    /// indices: one system call a run instead of one a page.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut pages = self.iter().peekable();
        std::iter::from_fn(move || {
            let start = pages.next()?.0;
            let mut end = start + 1;
            while pages.next_if(|p| p.0 == end).is_some() {
                end += 1;
            }
            Some(start..end)
        })
    }
}

impl<'a> IntoIterator for &'a PageSet {
    type Item = PageIndex;
    type IntoIter = Pages<'a>;
    fn into_iter(self) -> Pages<'a> {
        self.iter()
    }
}

/// Iterator over a [`PageSet`].
#[derive(Clone, Debug)]
pub struct Pages<'a> {
    words: &'a [u64],
    current: u64,
    word: u32,
}

impl Iterator for Pages<'_> {
    type Item = PageIndex;

    fn next(&mut self) -> Option<PageIndex> {
        while self.current == 0 {
            self.word += 1;
            self.current = *self.words.get(self.word as usize)?;
        }
        let bit = self.current.trailing_zeros();
        self.current &= self.current - 1;
        Some(PageIndex(self.word * 64 + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn pages_outside_the_area_are_ignored() {
        let mut set = PageSet::new(70);
        assert!(set.insert(PageIndex(69)));
        assert!(!set.insert(PageIndex(70)));
        assert_eq!(PageSet::full(70).len(), 70);
        assert_eq!(PageSet::from_words(vec![0, u64::MAX], 70).len(), 6);
        assert!(PageSet::new(0).iter().next().is_none());
    }

    proptest! {
        #[test]
        fn a_set_behaves_as_a_sorted_set(pages in prop::collection::vec(0u32..300, 0..80)) {
            let mut set = PageSet::new(300);
            let model: BTreeSet<u32> = pages.iter().copied().collect();
            for page in &pages {
                set.insert(PageIndex(*page));
            }
            prop_assert_eq!(set.len(), model.len());
            prop_assert_eq!(set.iter().map(|p| p.0).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            let from_ranges: Vec<u32> = set.ranges().flatten().collect();
            prop_assert_eq!(from_ranges, model.into_iter().collect::<Vec<_>>());
            let ranges: Vec<_> = set.ranges().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
        }
    }
}
