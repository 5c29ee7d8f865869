//! What is damaged is found; nothing but a torn tail is ever dropped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use afterimage_delta::Image;
use afterimage_env::{Disk as _, MemoryDisk};
use afterimage_store::{Damage, Store, StoreError, inspect};
use std::ops::Range;
use world::Step::{Append, Compact, Reign, Sync};
use world::Write::{Large, Nothing, Small, Zeros};
use world::{Model, Step};

const BASE: &str = "base-0000000000000002";
const LOG: &str = "log-0000000000000002";

/// A base with pages and a log with every kind of record, each synced alone.
const STEPS: &[Step] = &[
    Append(Large),
    Reign(1),
    Compact,
    Append(Small),
    Sync,
    Append(Zeros),
    Sync,
    Reign(2),
    Append(Small),
    Sync,
    Append(Nothing),
    Sync,
    Append(Large),
    Sync,
    Append(Small),
    Sync,
    Append(Small),
    Sync,
    Append(Small),
    Sync,
];

struct Sound {
    base: Vec<u8>,
    log: Vec<u8>,
    states: Vec<Image>,
}

fn sound() -> Sound {
    let disk = MemoryDisk::new();
    let mut model = Model::new();
    assert!(model.run(&disk, STEPS).is_ok());
    Sound {
        base: disk.content(BASE).unwrap(),
        log: disk.content(LOG).unwrap(),
        states: model.states,
    }
}

fn disk(base: &[u8], log: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.put(BASE, base.to_vec());
    disk.put(LOG, log.to_vec());
    disk
}

/// Where the records are, by the lengths in them.
fn records(log: &[u8]) -> Vec<Range<usize>> {
    let mut records = Vec::new();
    let mut at = 256;
    while at < log.len() {
        let len = u64::from_le_bytes(log[at + 16..at + 24].try_into().unwrap());
        let end = at + usize::try_from(len).unwrap().next_multiple_of(8) + 80;
        records.push(at..end);
        at = end;
    }
    records
}

/// Opens what is damaged; it must be refused, and nothing changed.
fn refused(base: &[u8], log: &[u8]) -> StoreError {
    let disk = disk(base, log);
    let error = match Store::open(disk.clone()) {
        Err(error) => error,
        Ok((store, _)) => panic!("accepted up to epoch {}", store.epoch()),
    };
    assert_eq!(disk.content(BASE).unwrap(), base);
    assert_eq!(disk.content(LOG).unwrap(), log);
    error
}

#[test]
fn every_flipped_bit_of_a_log_is_found() {
    let Sound { base, mut log, .. } = sound();
    for bit in 0..log.len() * 8 {
        log[bit / 8] ^= 1 << (bit % 8);
        refused(&base, &log);
        assert!(inspect(&disk(&base, &log)).is_err());
        log[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_flipped_bit_of_a_base_is_found() {
    let Sound { mut base, log, .. } = sound();
    for bit in 0..base.len() * 8 {
        base[bit / 8] ^= 1 << (bit % 8);
        refused(&base, &log);
        base[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_truncation_of_a_log_is_a_prefix_or_found() {
    let Sound { base, log, states } = sound();
    for len in 0..log.len() {
        if len < 256 {
            refused(&base, &log[..len]);
            continue;
        }
        let disk = disk(&base, &log[..len]);
        let seen = inspect(&disk).unwrap();
        assert_eq!(disk.content(LOG).unwrap().len(), len);
        let (store, image) = Store::open(disk.clone()).unwrap();
        assert!(states.contains(&image));
        assert_eq!(seen.epoch, image.epoch());
        let whole = records(&log).iter().filter(|r| r.end <= len).count();
        assert_eq!(store.recovered().records, u64::try_from(whole).unwrap());
        let dropped = u64::try_from(len).unwrap() - store.sizes().log;
        assert_eq!(store.recovered().dropped_tail_bytes, dropped);
        assert_eq!(seen.tail_bytes, dropped);
        assert_eq!(
            u64::try_from(disk.content(LOG).unwrap().len()).unwrap(),
            store.sizes().log
        );
    }
}

#[test]
fn every_truncation_of_a_base_is_found() {
    let Sound { base, log, .. } = sound();
    for len in 0..base.len() {
        refused(&base[..len], &log);
    }
    refused(&[base.as_slice(), &[0]].concat(), &log);
}

#[test]
fn a_sector_that_was_lost_is_found_if_a_later_header_is_left() {
    let Sound { base, log, states } = sound();
    let records = records(&log);
    let (mut found, mut dropped) = (0, 0);
    for sector in 0..log.len().div_ceil(512) {
        let lost = sector * 512..log.len().min(sector * 512 + 512);
        let mut damaged = log.clone();
        damaged[lost.clone()].fill(0);
        if damaged == log {
            continue;
        }
        let hit = records.iter().position(|record| record.end > lost.start);
        let witnesses = &records[hit.unwrap() + 1..];
        if witnesses.iter().any(|record| record.start >= lost.end) || sector == 0 {
            refused(&base, &damaged);
            found += 1;
        } else {
            // The medium lost what it called durable. At the very end, and only
            // there, that looks like a write that never arrived.
            let (_, image) = Store::open(disk(&base, &damaged)).unwrap();
            assert!(states[states.len() - 4..].contains(&image));
            assert_ne!(&image, states.last().unwrap());
            dropped += 1;
        }
    }
    assert!(
        found > 10 && dropped > 0 && dropped < 3,
        "{found} {dropped}"
    );
}

#[test]
fn zeros_after_the_end_are_no_record() {
    let Sound { base, log, states } = sound();
    for len in [1, 71, 72, 511, 5000] {
        let longer = [log.as_slice(), &vec![0; len]].concat();
        let (store, image) = Store::open(disk(&base, &longer)).unwrap();
        assert_eq!(&image, states.last().unwrap());
        assert_eq!(store.recovered().dropped_tail_bytes, len as u64);
    }
    let garbage = [log.as_slice(), &[7; 5000]].concat();
    refused(&base, &garbage);
}

#[test]
fn swapped_replayed_and_removed_records_are_found() {
    let Sound { base, log, .. } = sound();
    let records = records(&log);
    let (mut swapped, mut pairs) = (0, 0);
    for (i, one) in records.iter().enumerate() {
        let mut removed = log.clone();
        removed.drain(one.clone());
        if i + 1 < records.len() {
            refused(&base, &removed);
        }
        for other in &records {
            pairs += 1;
            let mut replayed = log.clone();
            replayed.splice(one.start..one.start, log[other.clone()].iter().copied());
            refused(&base, &replayed);
            let mut replaced = log.clone();
            replaced.splice(one.clone(), log[other.clone()].iter().copied());
            if one == other {
                assert_eq!(replaced, log);
                continue;
            }
            refused(&base, &replaced);
            if one.len() == other.len() {
                replaced[other.clone()].copy_from_slice(&log[one.clone()]);
                refused(&base, &replaced);
                swapped += 1;
            }
        }
    }
    let appended = [log.as_slice(), &log[records.last().unwrap().clone()]].concat();
    refused(&base, &appended);
    println!("{pairs} pairs, {swapped} of one length");
    assert!(swapped >= 6, "{swapped}");
}

#[test]
fn stale_and_foreign_records_and_files_are_found() {
    let Sound { base, log, .. } = sound();
    // The same history in another store: only the store's identity differs.
    let other = MemoryDisk::new();
    other.fresh_id().unwrap();
    assert!(Model::new().run(&other, STEPS).is_ok());
    let other_log = other.content(LOG).unwrap();
    assert_eq!(log.len(), other_log.len());
    for record in records(&log) {
        let mut misdirected = log.clone();
        misdirected[record.clone()].copy_from_slice(&other_log[record]);
        refused(&base, &misdirected);
    }
    refused(&base, &other_log);
    refused(&other.content(BASE).unwrap(), &log);

    // The same history in an earlier generation of the same store.
    let disk = MemoryDisk::new();
    let mut model = Model::new();
    let steps = [Append(Small), Sync, Append(Small), Sync];
    assert!(model.run(&disk, &steps).is_ok());
    let stale = disk.content("log-0000000000000001").unwrap();
    let (mut store, _) = Store::open(disk.clone()).unwrap();
    store.install(&model.states[0]).unwrap();
    store.append(&world::next(&model.states[0], Small)).unwrap();
    store.append(&world::next(&model.states[1], Small)).unwrap();
    store.sync().unwrap();
    let (base, log) = (disk.content(BASE).unwrap(), disk.content(LOG).unwrap());
    assert_eq!(stale.len(), log.len());
    for record in records(&log) {
        let mut damaged = log.clone();
        damaged[record.clone()].copy_from_slice(&stale[record]);
        assert_ne!(damaged, log);
        refused(&base, &damaged);
    }
    refused(&base, &stale);
}

#[test]
fn files_that_are_gone_are_found() {
    let Sound { base, log, .. } = sound();
    let without_log = MemoryDisk::new();
    without_log.put(BASE, base.clone());
    without_log.put("log-0000000000000001", log.clone());
    assert!(matches!(
        Store::open(without_log.clone()),
        Err(StoreError::LogMissing { .. })
    ));
    assert!(Store::create(without_log, &world::name(), world::AREA_LEN).is_err());

    let without_base = MemoryDisk::new();
    without_base.put(LOG, log.clone());
    for error in [
        Store::open(without_base.clone()).err().unwrap(),
        Store::create(without_base.clone(), &world::name(), world::AREA_LEN)
            .err()
            .unwrap(),
        Store::exists(&without_base).err().unwrap(),
        inspect(&without_base).err().unwrap(),
    ] {
        assert!(matches!(error, StoreError::Orphan { .. }), "{error}");
    }

    // A newer base does not make an older one with records pass for it.
    let newer_base_gone = disk(&base, &log);
    newer_base_gone.put("log-0000000000000003", log);
    assert!(matches!(
        Store::open(newer_base_gone),
        Err(StoreError::Orphan { .. })
    ));
}

#[test]
fn the_error_names_place_offset_and_the_way_back_and_the_way_works() {
    let Sound {
        base,
        mut log,
        states,
    } = sound();
    let third = records(&log)[2].clone();
    log[third.start + 80] ^= 4;
    let error = refused(&base, &log);
    let text = error.to_string();
    assert!(matches!(
        error,
        StoreError::DamagedLog {
            damage: Damage::Content,
            ..
        }
    ));
    let advice = format!("truncate -s {} memory/{LOG}", third.start);
    assert!(text.contains(&advice), "{text}");
    assert!(text.contains("after epoch 3 (term 1)"), "{text}");
    let (store, image) = Store::open(disk(&base, &log[..third.start])).unwrap();
    assert_eq!(store.epoch().0, 3);
    assert!(states.contains(&image));
}

#[test]
fn a_later_format_is_named() {
    let Sound { mut base, log, .. } = sound();
    base[8] = 2;
    let checksum = afterimage_delta::checksum(&base[..252]).to_le_bytes();
    base[252..256].copy_from_slice(&checksum);
    let error = refused(&base, &log);
    assert!(
        matches!(error, StoreError::Version { version: 2, .. }),
        "{error}"
    );
}
