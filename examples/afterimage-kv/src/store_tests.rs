use super::*;
use allocator_api2::alloc::{AllocError, Global};
use proptest::collection::vec;
use proptest::prelude::*;
use std::alloc::Layout;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;

/// The process's heap, which says no after a number of allocations.
#[derive(Clone, Copy)]
struct Scarce<'a> {
    left: &'a Cell<usize>,
}

// SAFETY: all memory comes from and goes back to `Global`, which keeps the
// contract; refusing is allowed at any time.
unsafe impl Allocator for Scarce<'_> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let left = self.left.get().checked_sub(1).ok_or(AllocError)?;
        self.left.set(left);
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the one that `Global` asks for.
        unsafe { Global.deallocate(ptr, layout) }
    }
}

fn scarce() -> (Scarce<'static>, &'static Cell<usize>) {
    let left: &'static Cell<usize> = std::boxed::Box::leak(std::boxed::Box::new(Cell::new(1000)));
    (Scarce { left }, left)
}

fn contents<A: Heap>(store: &Store<A>) -> BTreeMap<std::vec::Vec<u8>, std::vec::Vec<u8>> {
    store
        .keys()
        .map(|key| (key.to_vec(), store.get(key).unwrap().to_vec()))
        .collect()
}

#[test]
fn an_empty_store_has_its_own_table() {
    let (heap, left) = scarce();
    let mut store = Store::new(heap);
    assert_eq!(left.get(), 999, "an empty table must be allocated");
    store.set(b"k", b"v").unwrap();
    store.clear();
    assert!(store.map.capacity() >= MIN_ENTRIES);
    left.set(0);
    store.clear();
    assert!(store.map.capacity() >= MIN_ENTRIES);
}

#[test]
fn a_command_that_gets_no_memory_changes_nothing() {
    let pairs: std::vec::Vec<(&[u8], &[u8])> = vec![
        (
            b"a",
            b"other than before, and longer than the memory it has",
        ),
        (b"b", b"new"),
        (b"c", b"new"),
    ];
    let mut succeeded = false;
    for budget in 0..20 {
        let (heap, left) = scarce();
        let mut store = Store::new(heap);
        store.set(b"a", b"before").unwrap();
        let before = contents(&store);
        left.set(budget);
        match store.set_all(pairs.iter().copied()) {
            Ok(()) => succeeded = true,
            Err(error) => {
                assert_eq!(error, StoreError::OutOfMemory);
                assert_eq!(contents(&store), before, "with {budget} allocations");
                assert!(!succeeded, "more memory must not fail later");
            }
        }
    }
    assert!(succeeded);
}

#[test]
fn every_operation_refuses_without_memory_and_goes_on_with_it() {
    let (heap, left) = scarce();
    let mut store = Store::new(heap);
    store.set(b"n", b"9").unwrap();
    left.set(0);
    assert_eq!(store.set(b"x", b"1"), Err(StoreError::OutOfMemory));
    assert_eq!(store.add(b"x", 1), Err(StoreError::OutOfMemory));
    assert_eq!(store.append(b"x", b"1"), Err(StoreError::OutOfMemory));
    assert_eq!(
        store.append(b"n", &[b'x'; 100]),
        Err(StoreError::OutOfMemory)
    );
    assert_eq!(store.add(b"n", 1), Ok(10), "a number is changed in place");
    assert_eq!(store.len(), 1);
    left.set(1000);
    store.set(b"x", b"1").unwrap();
    assert_eq!(store.get(b"x"), Some(&b"1"[..]));
}

#[test]
fn numbers_at_the_edges_are_not_wrapped() {
    let mut store = Store::new(Global);
    assert_eq!(store.add(b"n", i64::MIN), Ok(i64::MIN));
    assert_eq!(store.add(b"n", -1), Err(StoreError::Overflow));
    assert_eq!(store.get(b"n"), Some(&b"-9223372036854775808"[..]));
    store.set(b"n", b"1.5").unwrap();
    assert_eq!(store.add(b"n", 1), Err(StoreError::NotAnInteger));
}

#[test]
fn a_value_does_not_grow_beyond_the_limit() {
    let mut store = Store::new(Global);
    store.set(b"k", &vec![b'x'; MAX_BULK]).unwrap();
    assert_eq!(store.append(b"k", b"x"), Err(StoreError::TooLong));
}

#[test]
fn a_small_value_gives_back_the_memory_of_a_large_one() {
    let mut store = Store::new(Global);
    store.set(b"k", &[b'x'; 4096]).unwrap();
    store.set(b"k", b"small").unwrap();
    assert!(store.map.get(&b"k"[..]).unwrap().capacity() < 100);
}

#[test]
fn a_scan_returns_each_key_once_though_the_table_grows_meanwhile() {
    let mut store = Store::new(Global);
    let names: BTreeSet<std::vec::Vec<u8>> =
        (0..500).map(|i| format!("key{i}").into_bytes()).collect();
    for name in &names {
        store.set(name, b"").unwrap();
    }
    let mut seen = std::vec::Vec::new();
    let (mut cursor, mut calls) = (0, 0);
    loop {
        let (next, found) = store.scan(cursor, 10);
        seen.extend(found.iter().map(|key| key.to_vec()));
        calls += 1;
        if next == 0 {
            break;
        }
        cursor = next;
        for i in 0..20 {
            store
                .set(format!("late{calls}.{i}").as_bytes(), b"")
                .unwrap();
        }
    }
    seen.retain(|key| key.starts_with(b"key"));
    assert_eq!(seen.len(), names.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), names);
    assert!(calls > 10, "{calls} calls for 500 keys by 10");
}

#[derive(Clone, Debug)]
enum Op {
    Set(u8, std::vec::Vec<u8>),
    SetAll(std::vec::Vec<(u8, std::vec::Vec<u8>)>),
    Remove(u8),
    Append(u8, std::vec::Vec<u8>),
    Add(u8, i64),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..12u8;
    let value = || vec(any::<u8>(), 0..80);
    prop_oneof![
        6 => (key(), value()).prop_map(|(k, v)| Op::Set(k, v)),
        3 => vec((key(), value()), 1..6).prop_map(Op::SetAll),
        3 => key().prop_map(Op::Remove),
        3 => (key(), value()).prop_map(|(k, v)| Op::Append(k, v)),
        3 => (key(), any::<i64>()).prop_map(|(k, n)| Op::Add(k, n)),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    #[test]
    fn a_store_behaves_as_a_plain_map_does(ops in vec(op(), 0..100)) {
        let mut store = Store::new(Global);
        let mut model = BTreeMap::<std::vec::Vec<u8>, std::vec::Vec<u8>>::new();
        for op in ops {
            match op {
                Op::Set(k, v) => {
                    store.set(&[k], &v).unwrap();
                    model.insert(vec![k], v);
                }
                Op::SetAll(pairs) => {
                    let names: std::vec::Vec<[u8; 1]> = pairs.iter().map(|(k, _)| [*k]).collect();
                    let slices = names.iter().zip(&pairs).map(|(k, (_, v))| (&k[..], &v[..]));
                    store.set_all(slices).unwrap();
                    model.extend(pairs.into_iter().map(|(k, v)| (vec![k], v)));
                }
                Op::Remove(k) => {
                    prop_assert_eq!(store.remove(&[k]), model.remove(&vec![k]).is_some());
                }
                Op::Append(k, v) => {
                    store.append(&[k], &v).unwrap();
                    model.entry(vec![k]).or_default().extend(v);
                }
                Op::Add(k, n) => {
                    let old = match model.get(&vec![k]) {
                        Some(value) => crate::request::number(value),
                        None => Some(0),
                    };
                    let sum = old.and_then(|old| old.checked_add(n));
                    prop_assert_eq!(store.add(&[k], n).ok(), sum);
                    if let Some(sum) = sum {
                        model.insert(vec![k], sum.to_string().into_bytes());
                    }
                }
                Op::Clear => {
                    store.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(&contents(&store), &model);
        }
    }
}
