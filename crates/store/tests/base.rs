//! Each field of a base image, and of the head of its log, is checked by itself,
//! under checksums that are right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use afterimage_delta::{Image, checksum};
use afterimage_env::MemoryDisk;
use afterimage_store::{Store, StoreError};
use world::{AREA_LEN, name};

const BASE: &str = "base-0000000000000001";
const LOG: &str = "log-0000000000000001";

/// Files of a new store, taken as patterns.
fn empty() -> (Vec<u8>, Vec<u8>) {
    let disk = MemoryDisk::new();
    drop(Store::create(disk.clone(), &name(), AREA_LEN).unwrap());
    (disk.content(BASE).unwrap(), disk.content(LOG).unwrap())
}

fn open(base: Vec<u8>, log: Vec<u8>) -> Result<Image, StoreError> {
    let disk = MemoryDisk::new();
    disk.put(BASE, base);
    disk.put(LOG, log);
    Store::open(disk).map(|(_, image)| image)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Words, and the checksum over them.
fn sealed(magic: [u8; 4], words: &[u32]) -> Vec<u8> {
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    let mut bytes: Vec<u8> = magic.into_iter().chain(words).collect();
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

fn seal_head(head: &mut [u8]) {
    let sealed = checksum(&head[..252]).to_le_bytes();
    head[252..256].copy_from_slice(&sealed);
}

#[derive(Clone, Copy)]
struct Chunk {
    first: u32,
    pages: u32,
    fill: u8,
    /// What is added to the right value of the field.
    previous: u32,
}

const fn chunk(first: u32, pages: u32, fill: u8) -> Chunk {
    Chunk {
        first,
        pages,
        fill,
        previous: 0,
    }
}

/// A base with these chunks, whose footer is off by these values, and its log.
fn files(chunks: &[Chunk], off: [u32; 4]) -> (Vec<u8>, Vec<u8>) {
    let (pattern, mut log) = empty();
    let mut base = pattern[..256].to_vec();
    let mut previous = word(&base, 252);
    let mut pages = 0;
    for chunk in chunks {
        let content = vec![chunk.fill; chunk.pages as usize * 4096];
        let words = [
            chunk.first,
            chunk.pages,
            checksum(&content),
            previous + chunk.previous,
        ];
        let header = sealed(*b"CHNK", &words);
        previous = word(&header, 20);
        pages += chunk.pages;
        base.extend(header);
        base.extend(content);
    }
    let count = u32::try_from(chunks.len()).unwrap();
    let words = [count, pages, previous, 0];
    let words: Vec<u32> = words
        .iter()
        .zip(off)
        .map(|(word, off)| word + off)
        .collect();
    let footer = sealed(*b"FOOT", &words);
    log[124..128].copy_from_slice(&footer[20..]);
    seal_head(&mut log);
    base.extend(footer);
    (base, log)
}

#[test]
fn chunks_ascend_and_follow_each_other() {
    let sound = [chunk(0, 1, 1), chunk(1, 1, 2)];
    let (base, log) = files(&sound, [0; 4]);
    let image = open(base, log).unwrap();
    assert_eq!(image.bytes(), [[1; 4096], [2; 4096]].concat());
    let (base, log) = files(&[chunk(1, 1, 7)], [0; 4]);
    assert_eq!(open(base, log).unwrap().bytes()[4096..], [7; 4096]);

    for wrong in [
        vec![sound[1], sound[0]],
        vec![sound[0], sound[0]],
        vec![chunk(0, 0, 1)],
        vec![chunk(0, 3, 1)],
        vec![chunk(2, 1, 1)],
        vec![Chunk {
            previous: 1,
            ..sound[0]
        }],
        vec![
            sound[0],
            Chunk {
                previous: 1,
                ..sound[1]
            },
        ],
    ] {
        let (base, log) = files(&wrong, [0; 4]);
        assert!(matches!(open(base, log), Err(StoreError::Damaged { .. })));
    }
    for field in 0..4 {
        let mut off = [0; 4];
        off[field] = 1;
        let (base, log) = files(&sound, off);
        assert!(matches!(open(base, log), Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn a_log_must_be_of_its_base() {
    let (base, log) = empty();
    open(base.clone(), log.clone()).unwrap();
    // Identity, generation, name, length, epoch, chain, base, term.
    for (at, value) in [
        (16, 7),
        (32, 2),
        (40, b'x'),
        (105, 0x10),
        (112, 1),
        (120, 1),
        (124, log[124] ^ 1),
        (128, 1),
    ] {
        let mut other = log.clone();
        other[at] = value;
        seal_head(&mut other);
        let refused = open(base.clone(), other).unwrap_err();
        assert!(
            matches!(refused, StoreError::Damaged { .. }),
            "{at}: {refused}"
        );
    }
    // Values that no header has.
    for (at, value) in [
        (12, 1),
        (104, 1),
        (109, 0x11),
        (136, 1),
        (136, 2),
        (140, 1),
        (144, 1),
        (200, 1),
    ] {
        let mut wrong = base.clone();
        wrong[at] = value;
        seal_head(&mut wrong);
        let refused = open(wrong, log.clone()).unwrap_err();
        assert!(
            matches!(refused, StoreError::Damaged { .. }),
            "{at}: {refused}"
        );
    }
    // Files of another generation under these names.
    let disk = MemoryDisk::new();
    disk.put("base-0000000000000002", base);
    disk.put("log-0000000000000002", log);
    assert!(matches!(Store::open(disk), Err(StoreError::Damaged { .. })));
}
