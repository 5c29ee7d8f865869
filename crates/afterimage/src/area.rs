//! An open area and its transactions.

use crate::engine::Engine;
use crate::heap::{AreaHeap, State};
use crate::{Builder, Commit, CommitError, HeapStats, Level, OpenError, Root, Status};
use afterimage_area_abi::header::{AreaHeader, HEAP_OFFSET, HeaderError, text, text_field};
use allocator_api2::alloc::{Allocator, Layout};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use zerocopy::IntoBytes;

/// An open area whose root object is a `T`.
///
/// One process holds an area at a time, and one transaction is open at a time,
/// which the borrow checker sees to.
#[derive(Debug)]
pub struct Area<T: Root> {
    engine: Box<dyn Engine>,
    root: NonNull<T>,
    heap: AreaHeap,
    marker: PhantomData<T>,
}

impl<T: Root> Area<T> {
    /// Opens an area with the settings that [`Builder`] finds.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        Self::builder(name).open()
    }

    /// Settings for an area about to be opened.
    #[must_use]
    pub fn builder(name: &str) -> Builder<T> {
        Builder::new(name)
    }

    pub(crate) fn start(mut engine: Box<dyn Engine>) -> Result<Self, OpenError> {
        let base = engine.base();
        let len = engine.len();
        let header = read_header(base, len)?;
        let (root, heap) = match header {
            Some(header) if header.root != 0 => existing::<T>(base, &header)?,
            // A header without a root was never committed: the first commit
            // has both.
            _ => {
                let made = make::<T>(base, len)?;
                let first = engine.commit(None)?;
                match first.outcome {
                    crate::Outcome::Held { .. } => {}
                    crate::Outcome::Degraded { .. } => {
                        tracing::warn!(outcome = %first.outcome, "new area is not at its quorum");
                    }
                    other => return Err(OpenError::Outcome(other)),
                }
                made
            }
        };
        Ok(Self {
            engine,
            root,
            heap,
            marker: PhantomData,
        })
    }

    /// The root object.
    #[must_use]
    pub fn root(&self) -> &T {
        // SAFETY: the root was made or checked in `start`, the mapping lives
        // as long as the engine, and changes go through `&mut self` only.
        unsafe { self.root.as_ref() }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`CommitError`], if the area takes no more transactions.
    pub fn begin(&mut self) -> Result<Transaction<'_, T>, CommitError> {
        self.engine.begin()?;
        Ok(Transaction {
            area: self,
            open: true,
        })
    }

    /// Runs a closure in a transaction: commits if it gives `Ok`, brings the
    /// last commit back if it gives `Err` or panics.
    ///
    /// # Errors
    /// The closure's, or [`CommitError`].
    pub fn transaction<R, E: From<CommitError>>(
        &mut self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<(R, Commit), E> {
        let mut transaction = self.begin()?;
        let result = change(&mut transaction)?;
        let commit = transaction.commit()?;
        Ok((result, commit))
    }

    /// State of the area and its targets.
    #[must_use]
    pub fn status(&self) -> Status {
        self.engine.status()
    }

    /// How full the area is.
    #[must_use]
    pub fn heap_stats(&self) -> HeapStats {
        self.heap.stats()
    }
}

/// Changes to an area that become one epoch, or nothing.
///
/// Dereferences to the root. Dropping it without a commit brings the last
/// commit back.
#[derive(Debug)]
#[must_use = "dropping a transaction aborts it"]
pub struct Transaction<'a, T: Root> {
    area: &'a mut Area<T>,
    open: bool,
}

impl<T: Root> Transaction<'_, T> {
    /// The area's allocator.
    #[must_use]
    pub fn heap(&self) -> AreaHeap {
        self.area.heap
    }

    /// Makes the changes one epoch and waits for the area's default level.
    ///
    /// # Errors
    /// [`CommitError`]: the changes may or may not have reached the targets,
    /// and the area takes no more transactions.
    pub fn commit(self) -> Result<Commit, CommitError> {
        self.commit_at(None)
    }

    /// As [`Transaction::commit`], waiting for another level.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub fn commit_at(mut self, level: impl Into<Option<Level>>) -> Result<Commit, CommitError> {
        self.open = false;
        self.area.engine.commit(level.into())
    }

    /// Brings the last commit back. What was moved out of the area, or made with
    /// its allocator, since then must not be used any more (see [`AreaHeap`]).
    ///
    /// # Errors
    /// [`CommitError`], if the area takes no more transactions.
    pub fn abort(mut self) -> Result<(), CommitError> {
        self.open = false;
        self.area.engine.abort()
    }
}

impl<T: Root> Deref for Transaction<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.area.root()
    }
}

impl<T: Root> DerefMut for Transaction<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `Area::root`; the area is borrowed mutably.
        unsafe { self.area.root.as_mut() }
    }
}

impl<T: Root> Drop for Transaction<'_, T> {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = self.area.engine.abort()
        {
            // The engine refuses every later commit, so nothing of this
            // transaction can slip into one.
            tracing::error!(%error, "abort failed; the area takes no more transactions");
        }
    }
}

fn read_header(base: NonNull<u8>, len: u64) -> Result<Option<AreaHeader>, OpenError> {
    let mut bytes = [0; AreaHeader::LEN];
    // SAFETY: the mapping is longer than a header.
    unsafe {
        std::ptr::copy_nonoverlapping(base.as_ptr(), bytes.as_mut_ptr(), AreaHeader::LEN);
    }
    Ok(AreaHeader::read(&bytes, len)?)
}

fn write_header(base: NonNull<u8>, header: &AreaHeader) {
    let bytes = header.as_bytes();
    // SAFETY: the mapping is longer than a header; the header is elsewhere.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.as_ptr(), bytes.len()) };
}

/// Root and heap of an area that was used before.
fn existing<T: Root>(
    base: NonNull<u8>,
    header: &AreaHeader,
) -> Result<(NonNull<T>, AreaHeap), OpenError> {
    let layout = (size_of::<T>() as u64, align_of::<T>() as u64);
    let same = text(&header.root_type) == T::NAME
        && header.root_version == T::VERSION
        && (header.root_len, header.root_align) == layout;
    if header.base != base.as_ptr().expose_provenance() as u64 {
        return Err(OpenError::Header(HeaderError::Damaged(
            "it is not mapped where it says it must be",
        )));
    }
    if !same {
        let describe = |name: &str, version: u32, (len, align): (u64, u64)| {
            format!("a {name} version {version} of {len} bytes aligned to {align}")
        };
        return Err(OpenError::Root {
            found: describe(
                &text(&header.root_type),
                header.root_version,
                (header.root_len, header.root_align),
            ),
            wanted: describe(T::NAME, T::VERSION, layout),
        });
    }
    // SAFETY: the area is mapped; whether its state is sound is asked next.
    let heap = unsafe { AreaHeap::at(base) };
    if !heap.is_sound(header.len) {
        return Err(OpenError::Heap);
    }
    let offset = usize::try_from(header.root).map_err(|_| OpenError::Heap)?;
    // SAFETY: the header was checked to have its root inside the area.
    Ok((unsafe { base.add(offset) }.cast(), heap))
}

/// Formats a new area.
fn make<T: Root>(base: NonNull<u8>, len: u64) -> Result<(NonNull<T>, AreaHeap), OpenError> {
    let too_small = OpenError::TooSmall {
        wanted: size_of::<T>(),
        len,
    };
    if len < HEAP_OFFSET + size_of::<State>() as u64 {
        return Err(too_small);
    }
    // SAFETY: the engine just mapped the area for us alone.
    let heap = unsafe { AreaHeap::format(base, len) };
    let block = heap
        .allocate(Layout::new::<T>())
        .map_err(|_| too_small)?
        .cast::<T>();
    // SAFETY: a fresh block of the type's layout.
    unsafe { block.write(T::init(heap)) };
    let header = AreaHeader {
        root: (block.as_ptr().addr() - base.as_ptr().addr()) as u64,
        root_len: size_of::<T>() as u64,
        root_align: align_of::<T>() as u64,
        root_type: text_field(T::NAME),
        root_version: T::VERSION,
        ..AreaHeader::new(
            len,
            base.as_ptr().expose_provenance() as u64,
            env!("CARGO_PKG_VERSION"),
        )
    };
    write_header(base, &header);
    Ok((block, heap))
}
