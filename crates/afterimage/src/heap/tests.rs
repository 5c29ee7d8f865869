use super::*;
use proptest::prelude::*;

const LEN: usize = 1 << 20;

/// Memory of its own, aligned as areas are.
struct Memory(NonNull<u8>);

impl Memory {
    fn layout() -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(LEN, 4096).unwrap()
    }

    fn new() -> (Self, AreaHeap) {
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(Self::layout()) };
        let base = NonNull::new(base).unwrap();
        // SAFETY: fresh memory of that length.
        (Self(base), unsafe { AreaHeap::format(base, LEN as u64) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.0.as_ptr(), Self::layout()) };
    }
}

#[test]
fn what_was_freed_is_used_again_until_the_area_is_really_full() {
    let (_memory, heap) = Memory::new();
    let layout = Layout::from_size_align(1000, 8).unwrap();
    let mut blocks = Vec::new();
    while let Ok(block) = heap.allocate(layout) {
        blocks.push(block);
    }
    assert!(blocks.len() > 1000, "{}", blocks.len());
    let full = blocks.len();
    for round in 0..3 {
        for block in blocks.drain(..) {
            // SAFETY: allocated with this layout.
            unsafe { heap.deallocate(block.cast(), layout) };
        }
        assert_eq!(
            (heap.stats().used, heap.stats().blocks),
            (0, 0),
            "round {round}"
        );
        while let Ok(block) = heap.allocate(layout) {
            blocks.push(block);
        }
        assert_eq!(blocks.len(), full);
    }
}

#[test]
fn a_large_free_block_serves_small_ones_when_nothing_else_is_left() {
    let (_memory, heap) = Memory::new();
    let large = Layout::from_size_align(600_000, 8).unwrap();
    let block = heap.allocate(large).unwrap();
    let small = Layout::from_size_align(48, 8).unwrap();
    let mut before = 0;
    while heap.allocate(small).is_ok() {
        before += 1;
    }
    // SAFETY: allocated with this layout.
    unsafe { heap.deallocate(block.cast(), large) };
    let mut after = 0;
    while heap.allocate(small).is_ok() {
        after += 1;
    }
    // What is left of a block after a split may be too small for another.
    assert!(after >= 500_000 / 48, "{before} before, {after} after");
}

#[test]
fn what_cannot_be_is_an_error() {
    let (_memory, heap) = Memory::new();
    for (size, align) in [(LEN, 1), (usize::MAX / 4, 1), (1, 8192)] {
        assert!(
            heap.allocate(Layout::from_size_align(size, align).unwrap())
                .is_err()
        );
    }
    assert!(heap.is_sound(LEN as u64));
    assert!(!heap.is_sound(LEN as u64 + 1));
}

proptest! {
    #[test]
    fn live_blocks_never_meet_and_keep_their_bytes(
        steps in prop::collection::vec((any::<bool>(), 1usize..6000, 0u32..8, any::<u8>()), 1..300),
    ) {
        let (_memory, heap) = Memory::new();
        let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
        for (free, size, align, tag) in steps {
            if free && !live.is_empty() {
                let (block, layout, tag) = live.swap_remove(size % live.len());
                // SAFETY: a live block of that layout.
                let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), layout.size()) };
                prop_assert!(bytes.iter().all(|&b| b == tag));
                // SAFETY: as above; it was taken off the list.
                unsafe { heap.deallocate(block, layout) };
                continue;
            }
            let layout = Layout::from_size_align(size, 1 << align).unwrap();
            let Ok(block) = heap.allocate(layout) else { continue };
            let block: NonNull<u8> = block.cast();
            prop_assert!(block.as_ptr().addr().is_multiple_of(layout.align()));
            // SAFETY: just allocated.
            unsafe { block.as_ptr().write_bytes(tag, size) };
            live.push((block, layout, tag));
        }
        for (block, layout, tag) in &live {
            // SAFETY: live blocks.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), layout.size()) };
            prop_assert!(bytes.iter().all(|b| b == tag));
        }
        prop_assert_eq!(heap.stats().blocks, live.len() as u64);
        prop_assert!(heap.is_sound(LEN as u64));
    }
}
