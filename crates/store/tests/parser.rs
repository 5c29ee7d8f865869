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
