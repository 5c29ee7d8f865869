//! Recovery of arbitrary and of nearly right bytes: an error or a prefix, never
//! a panic. The offsets here are those of `docs/reference/store.md`, read anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use afterimage_delta::{checksum, checksum_append};
use afterimage_env::MemoryDisk;
use afterimage_store::{Store, inspect};
use proptest::prelude::*;
use world::Model;
use world::Step::{Append, Compact, Reign, Sync};
use world::Write::{Large, Small, Zeros};

const BASE: &str = "base-0000000000000002";
const LOG: &str = "log-0000000000000002";

fn sound() -> (Vec<u8>, Vec<u8>, Model) {
    let disk = MemoryDisk::new();
    let mut model = Model::new();
    let steps = [
        Append(Small),
        Compact,
        Append(Small),
        Reign(1),
        Append(Large),
        Append(Zeros),
        Sync,
    ];
    assert!(model.run(&disk, &steps).is_ok());
    model.safe_state = 0;
    (
        disk.content(BASE).unwrap(),
        disk.content(LOG).unwrap(),
        model,
    )
}

/// Opens these files: they may be refused, and if not, hold a part of history.
fn open(base: &[u8], log: &[u8], model: &Model) -> Result<(), TestCaseError> {
    let disk = MemoryDisk::new();
    disk.put(BASE, base.to_vec());
    disk.put(LOG, log.to_vec());
    let seen = inspect(&disk);
    if let Ok((store, image)) = Store::open(disk) {
        prop_assert!(model.states.contains(&image));
        prop_assert_eq!(seen.unwrap().epoch, store.epoch());
    }
    Ok(())
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Seals a record again whose header was changed.
fn seal(record: &mut [u8]) {
    let sealed = checksum(&record[..68]);
    put(record, 68, sealed);
    let end = record.len() - 4;
    put(record, end, sealed);
}

#[test]
fn every_field_of_a_record_is_checked_by_itself() {
    let (base, log, model) = sound();
    // The first record is a delta, the second a reign: 72 + 32 + 8 bytes.
    let first = 256..256 + 72 + usize::from(log[256 + 16]).next_multiple_of(8) + 8;
    let second = first.end..first.end + 112;
    let position = u32::try_from(second.start).unwrap();
    for (record, at, value) in [
        (&first, 4, 3),
        (&first, 4, 2),
        (&first, 8, 264),
        (&first, 16, 0x7FFF_FFFF),
        (&first, 24, 1),
        (&first, 24, 3),
        (&first, 32, 1),
        (&first, 40, 248),
        (&first, 40, 264),
        (&first, 48, 7),
        (&first, 52, 7),
        (&first, 56, 1),
        (&first, 64, 7),
        (&second, 4, 1),
        (&second, 24, 3),
        (&second, 32, 2),
        (&second, 40, position + 8),
        (&second, 52, 7),
    ] {
        // Alone at the end, so that no later record betrays it.
        let mut damaged = log[..record.end].to_vec();
        open(&base, &damaged, &model).unwrap();
        put(&mut damaged, record.start + at, value);
        seal(&mut damaged[record.clone()]);
        let disk = MemoryDisk::new();
        disk.put(BASE, base.clone());
        disk.put(LOG, damaged);
        assert!(inspect(&disk).is_err(), "{at} {value}");
        assert!(Store::open(disk).is_err(), "{at} {value}");
    }
}

#[test]
fn a_stored_term_that_goes_back_is_found() {
    let disk = MemoryDisk::new();
    let mut model = Model::new();
    assert!(model.run(&disk, &[Compact, Reign(3), Reign(5)]).is_ok());
    let (base, log) = (disk.content(BASE).unwrap(), disk.content(LOG).unwrap());
    for (term, sound) in [(6, true), (4, true), (3, false), (2, false), (0, false)] {
        let mut log = log.clone();
        let record = &mut log[368..];
        put(record, 32, term);
        put(record, 72, term);
        let content = checksum_append(checksum(&[0; 4]), &record[72..104]);
        put(record, 64, content);
        seal(record);
        let disk = MemoryDisk::new();
        disk.put(BASE, base.clone());
        disk.put(LOG, log);
        assert_eq!(Store::open(disk).is_ok(), sound, "{term}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_after_the_head_never_panic(tail in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (base, log, model) = sound();
        open(&base, &[&log[..256], &tail].concat(), &model)?;
        open(&[&base[..256], &tail].concat(), &log, &model)?;
        open(&base, &tail, &model)?;
        open(&tail, &log, &model)?;
    }

    #[test]
    fn cut_copied_and_zeroed_pieces_never_give_another_history(
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        len in 0_usize..1500,
        kind in 0..4,
    ) {
        let (base, log, model) = sound();
        let (from, to) = (from.index(log.len()), to.index(log.len()));
        let piece = log[from..log.len().min(from + len)].to_vec();
        let end = log.len().min(to + piece.len());
        let mut damaged = log;
        match kind {
            0 => damaged[to..end].fill(0),
            1 => drop(damaged.splice(to..to, piece)),
            2 => drop(damaged.splice(to..end, piece)),
            _ => drop(damaged.drain(to..end)),
        }
        open(&base, &damaged, &model)?;
    }

    #[test]
    fn a_record_with_any_fields_and_right_checksums_never_panics(
        field in 4_usize..60,
        bytes in any::<[u8; 8]>(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        honest_len in any::<bool>(),
    ) {
        let (base, log, model) = sound();
        let mut header = log[256..328].to_vec();
        if honest_len {
            header[16..24].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        }
        header[field..(field + 8).min(60)].copy_from_slice(&bytes[..(60 - field).min(8)]);
        let chain = model.states[1].chain().0;
        let content = checksum_append(checksum(&chain.to_le_bytes()), &payload);
        put(&mut header, 64, content);
        let sealed = checksum(&header[..68]);
        put(&mut header, 68, sealed);
        let padding = payload.len().next_multiple_of(8) - payload.len();
        let record = [&header, payload.as_slice(), &vec![0; padding], b"DONE", &sealed.to_le_bytes()].concat();
        let disk = MemoryDisk::new();
        disk.put(BASE, base);
        disk.put(LOG, [&log[..256], &record, &log[256..]].concat());
        // Right checksums over wrong runs are a liar's work: only calm is asked.
        drop(Store::open(disk));
    }

    #[test]
    fn a_chunk_with_any_fields_and_right_checksums_never_panics(
        first in any::<u32>(),
        pages in any::<u32>(),
        area_len in any::<u64>(),
    ) {
        let (mut base, log, model) = sound();
        put(&mut base, 260, first);
        put(&mut base, 264, pages);
        let sealed = checksum(&base[256..276]);
        put(&mut base, 276, sealed);
        open(&base, &log, &model)?;

        base[104..112].copy_from_slice(&((area_len % (1 << 34)) & !0xFFF).to_le_bytes());
        let sealed = checksum(&base[..252]);
        put(&mut base, 252, sealed);
        open(&base, &log, &model)?;
    }
}
