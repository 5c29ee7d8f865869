//! Size classes: 16, 32 ... 128, then four to each doubling.

use allocator_api2::alloc::Layout;

/// Number of classes: eight up to 128 bytes, then four for each doubling up to
/// 2^36 bytes, the largest area.
pub(crate) const CLASSES: usize = 8 + 4 * 29;

/// Blocks are aligned to their size's lowest set bit, up to this (bytes).
pub(crate) const MAX_ALIGN: usize = 4096;

const STEP: u64 = 16;
const SMALL: usize = 8;

/// A size class, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(usize);

impl Class {
    /// The class for a layout: the smallest whose blocks are long enough and
    /// aligned enough; `None` if there is none.
    pub(crate) fn of(layout: Layout) -> Option<Self> {
        let align = layout.align() as u64;
        let first = Self::for_size((layout.size() as u64).max(1))?;
        // One of any eight neighbours is a power of two times eight.
        (first.0..CLASSES)
            .map(Self)
            .find(|class| class.align() >= align.min(MAX_ALIGN as u64))
    }

    fn for_size(size: u64) -> Option<Self> {
        if size <= STEP * SMALL as u64 {
            return Some(Self(usize::try_from(size.div_ceil(STEP)).ok()? - 1));
        }
        // 2^doubling < size <= 2^(doubling + 1)
        let doubling = (size - 1).ilog2();
        let quarter = (size - (1 << doubling)).div_ceil(1 << (doubling - 2));
        let index = SMALL + 4 * (doubling as usize - 7) + usize::try_from(quarter).ok()? - 1;
        (index < CLASSES).then_some(Self(index))
    }

    /// The largest class of which a block fits into `len` bytes from `at`.
    pub(crate) fn largest_within(at: u64, len: u64) -> Option<Self> {
        if len < STEP {
            return None;
        }
        let mut class = match Self::for_size(len) {
            Some(class) if class.size() <= len => class,
            Some(class) => Self(class.0 - 1),
            None => Self(CLASSES - 1),
        };
        while !at.is_multiple_of(class.align()) {
            class = Self(class.0.checked_sub(1)?);
        }
        Some(class)
    }

    /// Length of its blocks in bytes.
    pub(crate) fn size(self) -> u64 {
        if self.0 < SMALL {
            return STEP * (self.0 as u64 + 1);
        }
        let (doubling, quarter) = ((self.0 - SMALL) / 4, (self.0 - SMALL) % 4);
        (1 << (7 + doubling)) + (quarter as u64 + 1) * (1 << (5 + doubling))
    }

    /// Alignment of its blocks in bytes.
    pub(crate) fn align(self) -> u64 {
        let size = self.size();
        (size & size.wrapping_neg()).min(MAX_ALIGN as u64)
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }

    /// All larger classes, smallest first.
    pub(crate) fn larger(self) -> impl Iterator<Item = Self> {
        (self.0 + 1..CLASSES).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_by_at_most_a_quarter_and_find_themselves() {
        let mut last = 0;
        for class in (0..CLASSES).map(Class) {
            assert!(class.size() > last);
            assert!(last < 128 || class.size() <= last + last / 4);
            assert_eq!(Class::for_size(class.size()), Some(class));
            assert_eq!(Class::for_size(last + 1), Some(class));
            last = class.size();
        }
        assert_eq!(last, 1 << 36);
        assert_eq!(Class::for_size(last + 1), None);
    }

    #[test]
    fn a_class_is_aligned_as_the_layout_wants() {
        for align in (0..13).map(|bits| 1 << bits) {
            for size in [1, 16, 100, 129, 5000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let class = Class::of(layout).unwrap();
                assert!(class.size() >= size as u64 && class.align() >= align as u64);
            }
        }
    }

    #[test]
    fn the_largest_class_within_a_range_fits_it() {
        for at in (4096..4096 + 512).step_by(16) {
            for len in 0..3000 {
                match Class::largest_within(at, len) {
                    Some(class) => {
                        assert!(class.size() <= len && at.is_multiple_of(class.align()));
                    }
                    None => assert!(len < 16),
                }
            }
        }
    }
}
