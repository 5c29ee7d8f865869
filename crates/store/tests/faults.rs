//! An operation fails: the store says so, stops, and loses nothing synced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use afterimage_area_abi::Reign;
use afterimage_delta::{Chain, Delta, DeltaBuilder, Epoch, Image, PageIndex, Term};
use afterimage_env::MemoryDisk;
use afterimage_env::memory::{Counted, Fault, Repeat};
use afterimage_store::{Compaction, Store, StoreError, inspect};
use rustix::io::Errno;
use world::Step::{Append, Compact, Install, Reign as Reigns, Reopen, Sync};
use world::Write::{Large, Small, Zeros};
use world::{AREA_LEN, Model, Step, Stop};

const STEPS: &[Step] = &[
    Append(Small),
    Append(Small),
    Sync,
    Reigns(1),
    Append(Large),
    Sync,
    Append(Zeros),
    Compact,
    Append(Small),
    Sync,
    Append(Small),
    Reopen,
    Append(Small),
    Append(Small),
    Install,
    Append(Small),
    Sync,
];

/// Fails operation after operation until none is left; returns how many failed.
fn fail_each(error: Errno, harmful: bool, repeat: Repeat) -> u64 {
    for after in 0.. {
        let disk = MemoryDisk::new();
        disk.inject(Fault {
            after,
            counted: Counted::All,
            error,
            harmful,
            repeat,
        });
        let mut model = Model::new();
        let Err(stop) = model.run(&disk, STEPS) else {
            return after;
        };
        check_stopped(stop, error);
        disk.heal();
        // Without a crash, with what the kernel still has in its cache.
        if let Ok((store, image)) = Store::open(disk.clone()) {
            model.found(&store, &image);
        }
        for left in [disk.crash([]), disk] {
            let judged = model.judge(&left);
            judged.unwrap_or_else(|wrong| panic!("operation {after}: {wrong}"));
        }
    }
    unreachable!("the steps have an end")
}

fn check_stopped(stop: Stop, error: Errno) {
    let (StoreError::Disk { ref source, .. } | StoreError::Sync { ref source, .. }) = stop.error
    else {
        panic!("{}", stop.error);
    };
    assert_eq!(source.raw_os_error(), Some(error.raw_os_error()));
    let Some(mut store) = stop.store else { return };
    assert!(store.stopped().is_some());
    let (epoch, synced) = (store.epoch(), store.synced_epoch());
    let mut image = Image::new(AREA_LEN).unwrap();
    let delta = world::next(&image, Small);
    image.apply(&delta).unwrap();
    for refusal in [
        store.append(&delta),
        store.sync(),
        store.set_reign(world::reign(9)),
        store.install(&image),
        store.compact(&image),
    ] {
        assert!(matches!(refusal, Err(StoreError::Stopped { .. })));
    }
    assert_eq!((store.epoch(), store.synced_epoch()), (epoch, synced));
}

#[test]
fn every_operation_may_fail_once_or_for_good() {
    for error in [Errno::IO, Errno::NOSPC] {
        for harmful in [true, false] {
            for repeat in [Repeat::Once, Repeat::ForGood] {
                let failed = fail_each(error, harmful, repeat);
                assert!(failed > 60, "{failed}");
            }
        }
    }
}

fn store_on(disk: &MemoryDisk) -> (Store<MemoryDisk>, Image) {
    let store = Store::create(disk.clone(), &world::name(), AREA_LEN).unwrap();
    (store, Image::new(AREA_LEN).unwrap())
}

#[test]
fn the_refusal_says_why() {
    let disk = MemoryDisk::new();
    let (mut store, image) = store_on(&disk);
    store.append(&world::next(&image, Small)).unwrap();
    disk.inject(Fault {
        after: 0,
        counted: Counted::All,
        error: Errno::IO,
        harmful: true,
        repeat: Repeat::Once,
    });
    let text = store.sync().unwrap_err().to_string();
    assert!(
        text.contains("marks the pages of a failed sync as clean"),
        "{text}"
    );
    let text = store.sync().unwrap_err().to_string();
    assert!(
        text.contains("log-0000000000000001") && text.contains("os error 5"),
        "{text}"
    );
}

#[test]
fn deltas_that_do_not_fit_are_refused_and_the_store_goes_on() {
    let disk = MemoryDisk::new();
    let (mut store, mut image) = store_on(&disk);
    let first = world::next(&image, Small);
    image.apply(&first).unwrap();
    store.append(&first).unwrap();
    let before = store.sizes();

    assert!(matches!(store.append(&first), Err(StoreError::Order(_))));
    let other_history = Delta::decode(Epoch(2), Chain(9), Vec::new(), AREA_LEN).unwrap();
    assert!(matches!(
        store.append(&other_history),
        Err(StoreError::Order(_))
    ));
    let mut outside = DeltaBuilder::new(Vec::new());
    outside.page(PageIndex(2), &[0; 4096], &[1; 4096]);
    let outside = outside.finish(Epoch(2), image.chain());
    assert!(matches!(
        store.append(&outside),
        Err(StoreError::OutsideArea { end: 12288, .. })
    ));
    let runs: Vec<u8> = (0..AREA_LEN)
        .flat_map(|at| [&at.to_le_bytes()[..], &[1, 0, 0, 0, 7]].concat())
        .collect();
    let long = Delta::decode(Epoch(2), image.chain(), runs, AREA_LEN).unwrap();
    assert!(matches!(
        store.append(&long),
        Err(StoreError::TooLong { .. })
    ));

    let small = Image::new(4096).unwrap();
    assert!(matches!(
        store.install(&small),
        Err(StoreError::OtherArea { .. })
    ));
    let old = Image::new(AREA_LEN).unwrap();
    assert!(matches!(
        store.compact(&old),
        Err(StoreError::OtherState { .. })
    ));
    assert_eq!(store.sizes(), before);
    store.append(&world::next(&image, Small)).unwrap();
    assert_eq!(store.epoch(), Epoch(2));
}

#[test]
fn terms_never_go_back_and_a_claimed_term_has_one_primary() {
    let disk = MemoryDisk::new();
    let (mut store, _) = store_on(&disk);
    let unclaimed = |term| Reign {
        term: Term(term),
        primary: None,
    };
    store.set_reign(unclaimed(5)).unwrap();
    store.set_reign(world::reign(5)).unwrap();
    let log = store.sizes().log;
    store.set_reign(world::reign(5)).unwrap();
    assert_eq!(store.sizes().log, log);
    let usurper = Reign {
        term: Term(5),
        primary: world::reign(6).primary,
    };
    for refused in [unclaimed(4), world::reign(4), unclaimed(5), usurper] {
        assert!(matches!(
            store.set_reign(refused),
            Err(StoreError::Reign { .. })
        ));
    }
    assert_eq!(store.reign(), world::reign(5));
    store.compact(&Image::new(AREA_LEN).unwrap()).unwrap();
    drop(store);
    assert_eq!(inspect(&disk).unwrap().reign, world::reign(5));
    let (store, _) = Store::open(disk.crash([])).unwrap();
    assert_eq!(store.reign(), world::reign(5));
}

#[test]
fn the_log_is_bounded_and_sync_does_nothing_twice() {
    let disk = MemoryDisk::new();
    let (mut store, mut image) = store_on(&disk);
    store.set_compaction(Compaction {
        least: 2000,
        times_base: 1,
    });
    for _ in 0..200 {
        let delta = world::next(&image, Small);
        image.apply(&delta).unwrap();
        store.append(&delta).unwrap();
        store.sync().unwrap();
        let syncs = disk.syncs();
        store.sync().unwrap();
        assert_eq!(disk.syncs(), syncs);
        if store.wants_compaction() {
            store.compact(&image).unwrap();
        }
        let sizes = store.sizes();
        assert!(sizes.log <= sizes.base.max(2000), "{sizes:?}");
    }
    assert!(inspect(&disk).unwrap().base_epoch > Epoch(20));
}

#[test]
fn an_append_is_one_write_and_a_sync_is_one_sync() {
    let disk = MemoryDisk::new();
    let (mut store, image) = store_on(&disk);
    let before = disk.operations(Counted::All);
    store.append(&world::next(&image, Large)).unwrap();
    assert_eq!(disk.operations(Counted::All), before + 1);
    store.sync().unwrap();
    assert_eq!(disk.operations(Counted::All), before + 2);
}

#[test]
fn there_is_one_store_in_a_place() {
    let disk = MemoryDisk::new();
    assert!(!Store::exists(&disk).unwrap());
    assert!(matches!(
        Store::open(disk.clone()),
        Err(StoreError::Missing { .. })
    ));
    assert!(matches!(inspect(&disk), Err(StoreError::Missing { .. })));
    for len in [0, 1, 4095, u64::MAX] {
        assert!(Store::create(disk.clone(), &world::name(), len).is_err());
    }
    disk.put("notes.txt", b"not ours".to_vec());
    drop(store_on(&disk));
    assert!(Store::exists(&disk).unwrap());
    let again = Store::create(disk.clone(), &world::name(), AREA_LEN);
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    Store::open(disk.clone()).unwrap();
    assert_eq!(disk.content("notes.txt").unwrap(), b"not ours");
}
