//! The data: a hash table whose every byte lies in the memory of one allocator.
//!
//! Each operation first gets all the memory that it needs and then changes, so
//! one that fails has changed nothing. It matters because a transaction carries
//! the commands of many clients: one that fails must not force the others back.

use crate::limits::MAX_BULK;
use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write as _;

/// Where a store's memory comes from: an area, or the process's heap in tests.
pub(crate) trait Heap: Allocator + Copy + 'static {}
impl<A: Allocator + Copy + 'static> Heap for A {}

pub(crate) type Key<A> = Box<[u8], A>;
pub(crate) type Value<A> = Vec<u8, A>;

/// Smallest capacity of a value, in bytes: any 64-bit number fits, so a counter
/// is only ever written in place.
const MIN_VALUE: usize = 24;

/// Entries for which an empty table has room. Never zero: the table without
/// room is a constant of the program, which another program would not find.
const MIN_ENTRIES: usize = 16;

/// Bits of a key's hash by which `scan` orders keys.
const SCAN_BITS: u32 = 48;

/// Why an operation did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("OOM the area is full: delete keys, or make a larger area with --size")]
    OutOfMemory,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR string exceeds maximum allowed size ({MAX_BULK} bytes)")]
    TooLong,
}

/// Makes hashers from keys that lie in the area, so that the table reads the
/// same in the process that takes over.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct KeyHasher {
    keys: [u64; 2],
}

impl KeyHasher {
    /// Keys nobody can guess: whoever chooses names cannot choose collisions.
    fn random() -> Self {
        Self {
            keys: [(); 2].map(|()| RandomState::new().build_hasher().finish()),
        }
    }
}

impl BuildHasher for KeyHasher {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.keys[0], self.keys[1])
    }
}

/// Keys and their values.
#[repr(C)]
pub(crate) struct Store<A: Heap> {
    heap: A,
    map: Table<A>,
}

/// The part of a store that holds pointers.
pub(crate) type Table<A> = HashMap<Key<A>, Value<A>, KeyHasher, A>;

/// A change for which all memory is there.
enum Prepared<A: Heap> {
    /// The value fits where the old one is.
    InPlace,
    /// The key is there; this is the memory of its new value.
    Replace(Value<A>),
    /// The key is new.
    Insert(Key<A>, Value<A>),
}

impl<A: Heap> Store<A> {
    /// A store without keys.
    ///
    /// # Panics
    /// If `heap` has no room for an empty table (about 1 KiB).
    pub(crate) fn new(heap: A) -> Self {
        Self {
            heap,
            map: HashMap::with_capacity_and_hasher_in(MIN_ENTRIES, KeyHasher::random(), heap),
        }
    }

    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.map.get(key).map(Vec::as_slice)
    }

    /// Whether `key` has a value.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.map.contains_key(key)
    }

    /// Gives `key` a value.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.room_for(1)?;
        let prepared = self.prepare(key, value, true)?;
        self.apply(key, value, prepared);
        Ok(())
    }

    /// Gives each key its value, all or none. A key that comes twice gets the
    /// last value.
    pub(crate) fn set_all<'a>(
        &mut self,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<(), StoreError> {
        self.room_for(pairs.clone().count())?;
        // Shrinking would make a later pair with the same key not fit in place
        // though it did when it was prepared.
        let prepared = pairs
            .clone()
            .map(|(key, value)| self.prepare(key, value, false))
            .collect::<Result<std::vec::Vec<_>, _>>()?;
        for ((key, value), prepared) in pairs.zip(prepared) {
            self.apply(key, value, prepared);
        }
        Ok(())
    }

    /// Removes `key`; whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.map.remove(key).is_some()
    }

    /// Removes all keys.
    pub(crate) fn clear(&mut self) {
        let mut empty = HashMap::with_hasher_in(KeyHasher::random(), self.heap);
        match empty.try_reserve(MIN_ENTRIES) {
            // Gives back the memory of the old table too.
            Ok(()) => self.map = empty,
            Err(_) => self.map.clear(),
        }
    }

    /// Adds to the number at `key` (0 if there is none); the sum.
    pub(crate) fn add(&mut self, key: &[u8], by: i64) -> Result<i64, StoreError> {
        let old = match self.get(key) {
            Some(value) => crate::request::number(value).ok_or(StoreError::NotAnInteger)?,
            None => 0,
        };
        let sum = old.checked_add(by).ok_or(StoreError::Overflow)?;
        let mut digits = [0; MIN_VALUE];
        let mut rest = &mut digits[..];
        // 24 bytes hold any 64-bit number.
        let _ = write!(rest, "{sum}");
        let len = MIN_VALUE - rest.len();
        self.set(key, &digits[..len])?;
        Ok(sum)
    }

    /// Appends to the value at `key` (empty if there is none); its new length.
    pub(crate) fn append(&mut self, key: &[u8], tail: &[u8]) -> Result<usize, StoreError> {
        let Some(value) = self.map.get_mut(key) else {
            self.set(key, tail)?;
            return Ok(tail.len());
        };
        if value.len() + tail.len() > MAX_BULK {
            return Err(StoreError::TooLong);
        }
        value
            .try_reserve(tail.len())
            .map_err(|_| StoreError::OutOfMemory)?;
        value.extend_from_slice(tail);
        Ok(value.len())
    }

    /// All keys, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.map.keys().map(|key| &**key)
    }

    /// About `count` keys from `cursor` (0 at first) on, and where to go on (0
    /// at the end).
    ///
    /// Keys come in the order of their hash, which the size of the table does
    /// not change: a key that is there from the first call to the last is
    /// returned exactly once.
    pub(crate) fn scan(&self, cursor: u64, count: usize) -> (u64, std::vec::Vec<&[u8]>) {
        let end = 1 << SCAN_BITS;
        let parts = u64::try_from(self.len() / count.max(1) + 1).unwrap_or(u64::MAX);
        let next = cursor.saturating_add((end / parts).max(1)).min(end);
        let found = self
            .keys()
            .filter(|key| (cursor..next).contains(&self.place(key)))
            .collect();
        (if next == end { 0 } else { next }, found)
    }

    fn place(&self, key: &[u8]) -> u64 {
        self.map.hasher().hash_one(key) >> (u64::BITS - SCAN_BITS)
    }

    fn room_for(&mut self, entries: usize) -> Result<(), StoreError> {
        self.map
            .try_reserve(entries)
            .map_err(|_| StoreError::OutOfMemory)
    }

    fn prepare(&self, key: &[u8], value: &[u8], shrink: bool) -> Result<Prepared<A>, StoreError> {
        let capacity = value.len().max(MIN_VALUE);
        let Some(old) = self.map.get(key) else {
            let mut owned = self.bytes(key.len())?;
            owned.extend_from_slice(key);
            return Ok(Prepared::Insert(
                owned.into_boxed_slice(),
                self.bytes(capacity)?,
            ));
        };
        let fits = value.len() <= old.capacity();
        let wasteful = shrink && old.capacity() / 4 > capacity;
        if fits && !wasteful {
            return Ok(Prepared::InPlace);
        }
        match self.bytes(capacity) {
            Ok(memory) => Ok(Prepared::Replace(memory)),
            Err(_) if fits => Ok(Prepared::InPlace),
            Err(error) => Err(error),
        }
    }

    /// Cannot fail, and does not get memory: `prepare` and `room_for` did.
    fn apply(&mut self, key: &[u8], value: &[u8], prepared: Prepared<A>) {
        match prepared {
            Prepared::InPlace => {}
            Prepared::Replace(memory) => {
                if let Some(old) = self.map.get_mut(key) {
                    *old = memory;
                }
            }
            Prepared::Insert(key, memory) => {
                self.map.insert(key, memory);
            }
        }
        if let Some(place) = self.map.get_mut(key) {
            place.clear();
            place.extend_from_slice(value);
        }
    }

    fn bytes(&self, capacity: usize) -> Result<Value<A>, StoreError> {
        let mut bytes = Vec::new_in(self.heap);
        bytes
            .try_reserve_exact(capacity)
            .map_err(|_| StoreError::OutOfMemory)?;
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
