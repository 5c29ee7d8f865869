//! SIGKILL of a process that writes to a store in a real directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use afterimage_delta::{Epoch, Image};
use afterimage_env::{OpenError, RealDisk};
use afterimage_store::{Compaction, Store, inspect};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use world::{AREA_LEN, Write};

const DIR: &str = "AFTERIMAGE_TEST_WRITER_DIR";
const ROUNDS: u64 = 40;

/// What epoch `n` does depends on `n` alone, so the judge can do it again.
fn step(image: &Image) -> afterimage_delta::Delta {
    let kinds = [Write::Small, Write::Large, Write::Zeros, Write::Small];
    world::next(image, kinds[usize::try_from(image.epoch().0 % 4).unwrap()])
}

/// The writer: not a test of its own, but the process that the test kills.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let (mut store, mut image) = Store::open(RealDisk::open(dir).unwrap()).unwrap();
    store.set_compaction(Compaction {
        least: 30_000,
        times_base: 1,
    });
    let mut out = std::io::stdout();
    loop {
        for _ in 0..=image.epoch().0 % 3 {
            let delta = step(&image);
            image.apply(&delta).unwrap();
            store.append(&delta).unwrap();
        }
        store.sync().unwrap();
        // The process that reads these has them although this one is killed.
        writeln!(out, "\nsynced {}", store.synced_epoch()).unwrap();
        out.flush().unwrap();
        if store.wants_compaction() {
            store.compact(&image).unwrap();
        }
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn synced(line: &str) -> Option<u64> {
    line.strip_prefix("synced ")?.parse().ok()
}

#[test]
fn what_a_killed_writer_called_synced_is_there() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    drop(Store::create(RealDisk::open(&dir).unwrap(), &world::name(), AREA_LEN).unwrap());
    let mut expected = Image::new(AREA_LEN).unwrap();
    let mut compactions = 0;
    for round in 0..ROUNDS {
        let mut child = start(&dir);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        for _ in 0..2 + round * 7 % 60 {
            let epochs = lines.by_ref().map(|line| line.unwrap());
            acknowledged = { epochs }.find_map(|line| synced(&line)).unwrap();
        }

        let refused = RealDisk::open(&dir).unwrap_err();
        assert!(matches!(refused, OpenError::InUse { .. }));
        let text = refused.to_string();
        assert!(text.contains(&format!("process {}", child.id())), "{text}");
        let seen = inspect(&RealDisk::read_only(&dir).unwrap()).unwrap();
        assert!(seen.epoch >= Epoch(acknowledged));

        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts too.
        let rest = lines.map_while(Result::ok).filter_map(|line| synced(&line));
        acknowledged = rest.last().unwrap_or(acknowledged);

        let before = expected.epoch();
        let (store, image) = Store::open(RealDisk::open(&dir).unwrap()).unwrap();
        assert!(
            store.epoch() >= Epoch(acknowledged),
            "{} < {acknowledged}",
            store.epoch()
        );
        while expected.epoch() < image.epoch() {
            let delta = step(&expected);
            expected.apply(&delta).unwrap();
        }
        assert!(
            image == expected,
            "the bytes of epoch {} differ",
            image.epoch()
        );
        let base = inspect(&RealDisk::read_only(&dir).unwrap())
            .unwrap()
            .base_epoch;
        compactions += u64::from(base > before);
    }
    println!(
        "{} epochs, {compactions} compacted rounds",
        expected.epoch()
    );
    assert!(compactions > 10, "{compactions}");
}

#[test]
fn a_store_can_be_looked_at_while_it_is_written_and_compacted() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    drop(Store::create(RealDisk::open(&dir).unwrap(), &world::name(), AREA_LEN).unwrap());
    let mut child = start(&dir);
    let reader = RealDisk::read_only(&dir).unwrap();
    let mut last = Epoch::ZERO;
    let mut bases = std::collections::BTreeSet::new();
    // A pipe that nobody reads would stop the writer.
    let out = child.stdout.take().unwrap();
    let drain = std::thread::spawn(move || BufReader::new(out).lines().count());
    let mut looks = 0;
    while bases.len() < 50 {
        let seen = inspect(&reader).unwrap();
        assert!(seen.epoch >= last, "{} after {last}", seen.epoch);
        assert_eq!(seen.name, world::name());
        last = seen.epoch;
        bases.insert(seen.base_epoch.0);
        looks += 1;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    println!("{looks} looks, {} lines", drain.join().unwrap());
}
