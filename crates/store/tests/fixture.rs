//! Files written by each released format are read by every later version.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use afterimage_area_abi::Reign;
use afterimage_delta::{Epoch, Term};
use afterimage_env::RealDisk;
use afterimage_store::{Recovery, Store, inspect};
use std::path::Path;

#[test]
fn format_1_is_read() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/store/format-1");
    let seen = inspect(&RealDisk::read_only(&kept).unwrap()).unwrap();
    assert_eq!(seen.name.as_str(), "fixture");
    assert_eq!(
        (seen.len, seen.epoch, seen.base_epoch),
        (16384, Epoch(6), Epoch(3))
    );

    let copy = tempfile::tempdir().unwrap();
    for entry in kept.read_dir().unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let (store, image) = Store::open(RealDisk::open(copy.path()).unwrap()).unwrap();
    let mut expected = vec![0; 16384];
    // Epochs 1 and 4 changed page 1, epochs 3 and 6 page 0; epoch 5 cleared what
    // epoch 2 had put into page 2.
    for (epoch, page) in [(1, 1), (3, 0), (4, 1), (6, 0)] {
        expected[page * 4096 + epoch * 100..][..epoch].fill(u8::try_from(epoch).unwrap());
    }
    assert!(image.bytes() == expected);
    assert_eq!(store.epoch(), Epoch(6));
    assert_eq!(store.chain(), seen.chain);
    let promoted = Reign {
        term: Term(2),
        primary: None,
    };
    assert_eq!(store.reign(), promoted);
    let orderly = Recovery {
        records: 4,
        dropped_tail_bytes: 0,
    };
    assert_eq!(store.recovered(), orderly);
}
