//! What every disk does, tried on the one in memory and on a real directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use afterimage_env::memory::{Change, Counted, Fate, Fault, Forgery, Repeat};
use afterimage_env::{Disk, DiskFile, MemoryDisk, OpenError, RealDisk};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;

fn contract(disk: &impl Disk) {
    assert!(disk.list().unwrap().is_empty());
    assert_eq!(disk.open("a").err().unwrap().kind(), ErrorKind::NotFound);

    let a = disk.create("a").unwrap();
    assert!(a.is_empty().unwrap());
    assert_eq!(
        disk.create("a").err().unwrap().kind(),
        ErrorKind::AlreadyExists
    );
    a.write_at(b"hello", 3).unwrap();
    assert_eq!(a.len().unwrap(), 8);
    let mut bytes = [9; 8];
    a.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"\0\0\0hello");
    let past = a.read_at(&mut bytes, 1).err().unwrap();
    assert_eq!(past.kind(), ErrorKind::UnexpectedEof);

    a.set_len(4).unwrap();
    a.set_len(6).unwrap();
    let mut bytes = [9; 6];
    a.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"\0\0\0h\0\0");
    a.sync_data().unwrap();

    let b = disk.create("b").unwrap();
    b.write_at(b"b", 0).unwrap();
    assert_eq!(
        disk.list().unwrap().into_iter().collect::<Vec<_>>(),
        ["a", "b"]
    );
    disk.rename("b", "a").unwrap();
    assert_eq!(disk.open("a").unwrap().len().unwrap(), 1);
    disk.sync_dir().unwrap();
    disk.remove("a").unwrap();
    assert_eq!(disk.remove("a").err().unwrap().kind(), ErrorKind::NotFound);
    assert!(disk.list().unwrap().is_empty());
    assert_ne!(disk.fresh_id().unwrap(), disk.fresh_id().unwrap());
    assert!(disk.place("a").ends_with("/a"));
}

#[test]
fn the_disk_in_memory_keeps_the_contract() {
    contract(&MemoryDisk::new());
}

#[test]
fn the_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract(&RealDisk::open(dir.path().join("made/on/demand")).unwrap());
}

#[test]
fn a_directory_has_one_writer_and_any_number_of_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(RealDisk::read_only(&path).is_err());
    let first = RealDisk::open(&path).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    let refused = RealDisk::open(&path).err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }));
    let text = refused.to_string();
    let process = format!("process {}", std::process::id());
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains(&process), "{text}");

    first.create("a").unwrap().write_at(b"x", 0).unwrap();
    let reader = RealDisk::read_only(&path).unwrap();
    assert_eq!(reader.open("a").unwrap().len().unwrap(), 1);
    assert!(reader.open("a").unwrap().write_at(b"y", 0).is_err());
    for refused in [
        reader.create("b").err(),
        reader.rename("a", "b").err(),
        reader.remove("a").err(),
        reader.sync_dir().err(),
    ] {
        assert_eq!(refused.unwrap().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    drop(first);
    RealDisk::open(&path).unwrap();
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let disk = MemoryDisk::new();
    let file = disk.create("a").unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(
        disk.crash([]).list().unwrap().len(),
        0,
        "the name is unsynced"
    );
    disk.sync_dir().unwrap();

    file.write_at(&[2; 1024], 1000).unwrap();
    disk.rename("a", "b").unwrap();
    assert_eq!(disk.unsynced(), [Change::Name, Change::Write(1024)]);
    let kept = disk.crash([Fate::Lost, Fate::Kept]).content("a").unwrap();
    assert_eq!(kept, [vec![1; 1000], vec![2; 1024]].concat());
    let cut = disk.crash([Fate::Kept, Fate::Cut(1)]).content("b").unwrap();
    assert_eq!(cut, [vec![1; 1000], vec![2], vec![1; 23]].concat());
    let torn = disk.crash([Fate::Lost, Fate::Sectors(0b100)]);
    let expected = [vec![1; 1024], vec![2; 512], vec![0; 488]].concat();
    assert_eq!(torn.content("a").unwrap(), expected);
    assert!(disk.crash_states(1).count() > 4);
}

#[test]
fn a_failed_sync_loses_the_bytes_and_the_next_one_lies() {
    let disk = MemoryDisk::new();
    let file = disk.create("a").unwrap();
    disk.sync_dir().unwrap();
    file.write_at(b"gone", 0).unwrap();
    disk.inject(Fault {
        after: 0,
        counted: Counted::Changes,
        error: rustix::io::Errno::IO,
        harmful: true,
        repeat: Repeat::Once,
    });
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.content("a").unwrap(), b"gone");
    assert_eq!(disk.crash([Fate::Kept; 9]).content("a").unwrap(), b"");
}

#[test]
fn a_short_write_leaves_half_and_a_forged_sync_nothing() {
    let disk = MemoryDisk::new();
    let file = disk.create("a").unwrap();
    disk.inject(Fault {
        after: 0,
        counted: Counted::All,
        error: rustix::io::Errno::NOSPC,
        harmful: true,
        repeat: Repeat::ForGood,
    });
    let full = file.write_at(b"abcd", 0).err().unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert!(disk.list().is_err());
    disk.heal();
    assert_eq!(disk.content("a").unwrap(), b"ab");

    disk.forge(Forgery::EveryDirectory);
    disk.sync_dir().unwrap();
    assert!(disk.crash([]).list().unwrap().is_empty());
}
