//! The area's root, and a turn's transaction on it.

use crate::commands::Data;
use crate::store::{Key, KeyHasher, Store, Value};
use afterimage::{Area, AreaHeap, Commit, CommitError, InArea, Root, Transaction};

// SAFETY: the hash table, its keys and its values are in the area, as
// `parts_may_live_in_an_area` checks, and `repr(C)` fixes where each part is;
// hash keys are numbers. The table never is without capacity (`Store::new`,
// `Store::clear`), so it never is the program's static empty table.
unsafe impl InArea for Store<AreaHeap> {}

// SAFETY: two numbers.
unsafe impl InArea for KeyHasher {}

/// Compiles only while all parts of a store may live in an area; the table is
/// its entries, its hasher and its allocator.
const fn parts_may_live_in_an_area<T: InArea>() {}
const _: () = parts_may_live_in_an_area::<(AreaHeap, KeyHasher)>();
const _: () = parts_may_live_in_an_area::<(Key<AreaHeap>, Value<AreaHeap>)>();

afterimage::in_area! {
    /// What lies in the area.
    pub(crate) struct Kv {
        /// All keys and values.
        pub(crate) store: Store<AreaHeap>,
    }
}

impl Root for Kv {
    const NAME: &'static str = "afterimage-kv";

    fn init(heap: AreaHeap) -> Self {
        Self {
            store: Store::new(heap),
        }
    }
}

/// One turn's view of the data: as committed until the first write, then
/// through a transaction that holds all the writes of the turn.
pub(crate) enum Turn<'a> {
    /// Nobody wrote yet.
    Reading(&'a mut Area<Kv>),
    /// Somebody wrote.
    Writing(Transaction<'a, Kv>),
}

impl Turn<'_> {
    /// Makes the turn's writes safe; None if there were none.
    pub(crate) fn commit(self) -> Result<Option<Commit>, CommitError> {
        match self {
            Self::Reading(_) => Ok(None),
            Self::Writing(transaction) => transaction.commit().map(Some),
        }
    }
}

impl Data for Turn<'_> {
    type Heap = AreaHeap;
    type Error = CommitError;

    fn read(&self) -> &Store<AreaHeap> {
        match self {
            Self::Reading(area) => &area.root().store,
            Self::Writing(transaction) => &transaction.store,
        }
    }

    fn write(self, change: impl FnOnce(&mut Store<AreaHeap>)) -> Result<Self, CommitError> {
        let mut transaction = match self {
            Self::Reading(area) => area.begin()?,
            Self::Writing(transaction) => transaction,
        };
        change(&mut transaction.store);
        Ok(Self::Writing(transaction))
    }
}
