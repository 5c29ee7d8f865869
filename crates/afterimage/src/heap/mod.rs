//! The allocator inside an area.
//!
//! All of its state is in the area, in the page after the header, so it is
//! checkpointed, aborted and taken over with everything else. Blocks come in
//! size classes, eight small ones and then four to each doubling; a freed block
//! goes to its class's list and is used again by the next of that class. New
//! blocks are cut from the untouched end of the area; when that is used up,
//! a larger free block is split. Every operation is a few memory accesses;
//! only the last resort looks through the classes.
//!
//! A block's class follows from its layout alone, so blocks have no headers
//! and a transaction dirties no page beside the ones it uses and this one.

mod class;

use afterimage_area_abi::header::HEAP_OFFSET;
use allocator_api2::alloc::{AllocError, Allocator, Layout};
use class::{CLASSES, Class, MAX_ALIGN};
use std::ptr::NonNull;

/// Handle to the allocator of an area; lives in the area's collections as
/// well as outside.
///
/// Values that it backs belong to the area and to the transaction they were
/// made in: keep them reachable from the root, or drop them before it ends. The
/// compiler does not see to it. Using one after an abort took its memory back,
/// after its area was closed, or from the root of another area is undefined
/// behaviour.
#[derive(Clone, Copy, Debug)]
pub struct AreaHeap {
    state: NonNull<State>,
}

/// No room in the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory in the area: {wanted} bytes wanted, {free} of {len} never used yet")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub wanted: u64,
    /// Bytes at the area's end that were never handed out.
    pub free: u64,
    /// Length of the area in bytes.
    pub len: u64,
}

/// How full an area is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Length of the area in bytes.
    pub len: u64,
    /// Bytes in live blocks, rounded up to their classes.
    pub used: u64,
    /// Bytes at the end that were never handed out.
    pub untouched: u64,
    /// Number of live blocks.
    pub blocks: u64,
}

/// What is in the area. Offsets are from the area's start; zero ends a list.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct State {
    len: u64,
    /// Everything from here on was never handed out.
    untouched: u64,
    used: u64,
    blocks: u64,
    free: [u64; CLASSES],
}

impl AreaHeap {
    /// The heap of an area that has one.
    ///
    /// # Safety
    /// `base` is the start of a mapped area whose heap was formatted (see
    /// [`AreaHeap::format`]), and stays mapped as long as any handle lives.
    pub(crate) unsafe fn at(base: NonNull<u8>) -> Self {
        // SAFETY: the area is longer than header and heap page.
        let state = unsafe { base.add(offset(HEAP_OFFSET)) }.cast();
        Self { state }
    }

    /// Makes an empty heap in an area of `len` bytes.
    ///
    /// # Safety
    /// `base` is the start of a writable mapping of `len` bytes, at least 4
    /// pages, that nothing else refers to.
    pub(crate) unsafe fn format(base: NonNull<u8>, len: u64) -> Self {
        // SAFETY: as the caller promises.
        let heap = unsafe { Self::at(base) };
        let first = HEAP_OFFSET + size_of::<State>() as u64;
        // SAFETY: the state lies in the second page of the mapping.
        unsafe {
            heap.state.write(State {
                len,
                untouched: first,
                used: 0,
                blocks: 0,
                free: [0; CLASSES],
            });
        }
        heap
    }

    /// Whether the state could have been written by [`AreaHeap::format`] and
    /// what followed, for an area of `len` bytes.
    pub(crate) fn is_sound(self, len: u64) -> bool {
        let state = self.state();
        state.len == len
            && (HEAP_OFFSET..=len).contains(&state.untouched)
            && state.used <= len
            && state.free.iter().all(|&head| head < len)
    }

    /// Address of the area's first byte.
    pub(crate) fn base(self) -> NonNull<u8> {
        // SAFETY: the state lies at this offset in the mapping.
        unsafe { self.state.cast::<u8>().sub(offset(HEAP_OFFSET)) }
    }

    /// How full the area is.
    #[must_use]
    pub fn stats(self) -> HeapStats {
        let state = self.state();
        HeapStats {
            len: state.len,
            used: state.used,
            untouched: state.len - state.untouched,
            blocks: state.blocks,
        }
    }

    /// Why an allocation of this many bytes failed.
    #[must_use]
    pub fn out_of_memory(self, wanted: usize) -> OutOfMemory {
        let stats = self.stats();
        OutOfMemory {
            wanted: wanted as u64,
            free: stats.untouched,
            len: stats.len,
        }
    }

    fn state<'a>(self) -> &'a State {
        // SAFETY: mapped and formatted as `at` demands. A handle is neither
        // Send nor Sync, and no reference outlives the method that takes it,
        // so there is no other access at the same time.
        unsafe { self.state.as_ref() }
    }

    #[expect(clippy::mut_from_ref, reason = "the state is behind a raw pointer")]
    fn state_mut(&self) -> &mut State {
        // SAFETY: as for `state`.
        unsafe { &mut *self.state.as_ptr() }
    }

    fn address(self, at: u64) -> NonNull<u8> {
        // SAFETY: offsets in lists and blocks lie within the area's length.
        unsafe { self.base().add(offset(at)) }
    }

    fn offset_of(self, block: NonNull<u8>) -> u64 {
        (block.as_ptr().addr() - self.base().as_ptr().addr()) as u64
    }

    fn push(self, class: Class, at: u64) {
        let head = &mut self.state_mut().free[class.index()];
        // SAFETY: the block is free and at least 16 bytes, aligned to 16.
        unsafe { self.address(at).cast::<u64>().write(*head) };
        *head = at;
    }

    fn pop(self, class: Class) -> Option<u64> {
        let state = self.state_mut();
        let at = state.free[class.index()];
        if at == 0 {
            return None;
        }
        // SAFETY: blocks in a list are free and hold the next one's offset.
        state.free[class.index()] = unsafe { self.address(at).cast::<u64>().read() };
        Some(at)
    }

    fn carve(self, class: Class) -> Option<u64> {
        let state = self.state_mut();
        let at = state.untouched.next_multiple_of(class.align());
        let end = at.checked_add(class.size())?;
        if end > state.len {
            return None;
        }
        state.untouched = end;
        Some(at)
    }

    fn split(self, class: Class) -> Option<u64> {
        let (larger, at) = class
            .larger()
            .find_map(|larger| self.pop(larger).map(|at| (larger, at)))?;
        // A larger class may be aligned less.
        let start = at.next_multiple_of(class.align());
        if start + class.size() > at + larger.size() {
            self.push(larger, at);
            return None;
        }
        self.scatter(at, start);
        self.scatter(start + class.size(), at + larger.size());
        Some(start)
    }

    /// Puts a range into the lists, as the largest blocks that fit.
    fn scatter(self, mut from: u64, to: u64) {
        while let Some(class) = Class::largest_within(from, to - from) {
            self.push(class, from);
            from += class.size();
        }
    }
}

fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).expect("an area that is mapped fits the address space")
}

// SAFETY: blocks come from lists or the untouched end, each handed out once
// until it is given back; they stay valid while the area is mapped, wherever the
// handle is moved; clones are handles to the same heap.
unsafe impl Allocator for AreaHeap {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.align() > MAX_ALIGN {
            return Err(AllocError);
        }
        let class = Class::of(layout).ok_or(AllocError)?;
        let at = self
            .pop(class)
            .or_else(|| self.carve(class))
            .or_else(|| self.split(class))
            .ok_or(AllocError)?;
        let state = self.state_mut();
        state.used += class.size();
        state.blocks += 1;
        Ok(NonNull::slice_from_raw_parts(
            self.address(at),
            layout.size(),
        ))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let class = Class::of(layout).expect("a block was allocated with this layout");
        let state = self.state_mut();
        state.used -= class.size();
        state.blocks -= 1;
        self.push(class, self.offset_of(block));
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if Class::of(old) == Class::of(new) && new.align() <= old.align() {
            return Ok(NonNull::slice_from_raw_parts(block, new.size()));
        }
        let grown = self.allocate(new)?;
        // SAFETY: both blocks are live, apart, and at least `old.size()` long.
        unsafe {
            std::ptr::copy_nonoverlapping(block.as_ptr(), grown.cast().as_ptr(), old.size());
            self.deallocate(block, old);
        }
        Ok(grown)
    }
}

#[cfg(test)]
mod tests;
