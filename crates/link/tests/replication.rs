//! Targets and backup over real sockets and directories, in one process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use afterimage_area_abi::{AreaName, Level, Outcome};
use afterimage_delta::{Delta, DeltaBuilder, Epoch, Image, PAGE_SIZE, PageIndex, Term};
use afterimage_link::{
    Address, Backup, CommitError, Limits, Listener, OnLoss, OpenError, Settings, Targets, promote,
    status,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LEN: u64 = 16 * PAGE_SIZE as u64;

fn name() -> AreaName {
    "kv".parse().unwrap()
}

/// A backup on a thread; it goes on until the test's process ends.
struct Running {
    backup: Arc<Backup>,
    address: Address,
}

fn backup(dir: &Path) -> Running {
    backup_at(dir, &"127.0.0.1:0".parse().unwrap())
}

fn backup_at(dir: &Path, address: &Address) -> Running {
    let limits = Limits {
        timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let backup = Arc::new(Backup::open(dir, limits).unwrap());
    let listener = Listener::bind(address).unwrap();
    let address = listener.address().unwrap();
    let server = Arc::clone(&backup);
    std::thread::spawn(move || server.serve(&listener));
    Running { backup, address }
}

impl Running {
    /// Ends it and gives its directory free.
    fn stop(self) {
        self.backup.stop().unwrap();
        // Wakes the accepting thread up.
        let _ = status(&self.address);
        while Arc::strong_count(&self.backup) > 1 {
            std::thread::yield_now();
        }
    }
}

fn settings(targets: &[&str]) -> Settings {
    Settings {
        targets: targets.iter().map(|t| t.parse().unwrap()).collect(),
        timeout: Duration::from_secs(2),
        ..Settings::default()
    }
}

fn change(image: &Image, value: u8) -> Delta {
    let page = PageIndex(u32::from(value) % 16);
    let mut builder = DeltaBuilder::new(Vec::new());
    builder.page(page, image.page(page), &[value; PAGE_SIZE]);
    builder.finish(image.epoch().next(), image.chain())
}

fn commit(targets: &mut Targets, image: &mut Image, value: u8) -> Outcome {
    let delta = change(image, value);
    let outcome = targets.commit(&delta, image, None).unwrap();
    image.apply(&delta).unwrap();
    targets.completed(image);
    outcome
}

#[test]
fn a_new_primary_goes_on_from_the_backup_only_after_a_promotion_and_the_old_one_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(dir.path());
    let url = backup.address.to_string();
    let settings = settings(&[&url]);
    let (mut old, mut image) = Targets::open(&name(), LEN, &settings).unwrap();
    for value in 1..=20 {
        assert_eq!(
            commit(&mut old, &mut image, value),
            Outcome::Held { targets: 1 }
        );
    }

    let refused = Targets::open(&name(), LEN, &settings).unwrap_err();
    assert!(matches!(refused, OpenError::Reigned { .. }), "{refused}");

    assert_eq!(
        promote(&backup.address, &name()).unwrap(),
        (Term(2), Epoch(20))
    );
    let (mut new, taken) = Targets::open(&name(), LEN, &settings).unwrap();
    assert_eq!(new.term(), Term(2));
    assert_eq!(taken, image);

    let delta = change(&image, 99);
    let outcome = old.commit(&delta, &image, None).unwrap();
    assert_eq!(outcome, Outcome::Fenced { term: Term(2) });
    assert!(matches!(
        old.commit(&delta, &image, None),
        Err(CommitError::Fenced { .. })
    ));
    let mut taken = taken;
    assert!(commit(&mut new, &mut taken, 5).is_held());
    assert_eq!(status(&backup.address).unwrap().areas[0].epoch, 21);
}

#[test]
fn a_backup_that_comes_back_is_sent_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let first = backup(dir.path());
    let address = first.address.clone();
    let other = tempfile::tempdir().unwrap();
    let local = format!("dir:{}", other.path().join("kv").display());
    let mut with_quorum = settings(&[&address.to_string(), &local]);
    with_quorum.quorum = Some(1);
    with_quorum.level = Some(Level::Replicated);
    let (mut targets, mut image) = Targets::open(&name(), LEN, &with_quorum).unwrap();
    assert_eq!(
        commit(&mut targets, &mut image, 1),
        Outcome::Held { targets: 2 }
    );
    first.stop();
    for value in 2..10 {
        assert_eq!(
            commit(&mut targets, &mut image, value),
            Outcome::Held { targets: 1 }
        );
    }
    let second = backup_at(dir.path(), &address);
    while commit(&mut targets, &mut image, 10) != (Outcome::Held { targets: 2 }) {
        std::thread::yield_now();
    }
    let area = &status(&second.address).unwrap().areas[0];
    assert_eq!(area.epoch, image.epoch().0);
}

#[test]
fn what_happens_without_the_quorum_is_what_was_set() {
    for (choice, expected) in [
        (OnLoss::Stop, Outcome::InDoubt),
        (OnLoss::Continue, Outcome::Degraded { held: 0, wanted: 1 }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(dir.path());
        let mut settings = settings(&[&backup.address.to_string()]);
        settings.on_loss = choice;
        let (mut targets, mut image) = Targets::open(&name(), LEN, &settings).unwrap();
        assert!(commit(&mut targets, &mut image, 1).is_held());
        backup.stop();
        assert_eq!(commit(&mut targets, &mut image, 2), expected);
        let after = targets.check_running();
        assert_eq!(after.is_err(), choice == OnLoss::Stop, "{after:?}");
    }
}

#[test]
fn a_waiting_commit_ends_when_the_backup_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = backup(dir.path());
    let address = first.address.clone();
    let (mut targets, mut image) =
        Targets::open(&name(), LEN, &settings(&[&address.to_string()])).unwrap();
    assert!(commit(&mut targets, &mut image, 1).is_held());
    first.stop();
    let waiting = std::thread::spawn(move || {
        let outcome = commit(&mut targets, &mut image, 2);
        (outcome, image)
    });
    let second = backup_at(dir.path(), &address);
    let (outcome, image) = waiting.join().unwrap();
    assert_eq!(outcome, Outcome::Held { targets: 1 });
    assert_eq!(
        status(&second.address).unwrap().areas[0].epoch,
        image.epoch().0
    );
}

#[test]
fn an_empty_primary_never_overwrites_and_a_shorter_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(dir.path());
    let url = backup.address.to_string();
    let (mut targets, mut image) = Targets::open(&name(), LEN, &settings(&[&url])).unwrap();
    assert!(commit(&mut targets, &mut image, 1).is_held());
    drop(targets);
    promote(&backup.address, &name()).unwrap();
    let refused = Targets::open(&name(), LEN * 2, &settings(&[&url])).unwrap_err();
    assert!(matches!(refused, OpenError::Remote(_)), "{refused:?}");
    assert_eq!(status(&backup.address).unwrap().areas[0].epoch, 1);
}

#[test]
fn a_primary_with_a_directory_continues_its_own_reign_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(dir.path());
    let home = tempfile::tempdir().unwrap();
    let local = format!("dir:{}", home.path().join("kv").display());
    let both = settings(&[&local, &backup.address.to_string()]);
    let (mut targets, mut image) = Targets::open(&name(), LEN, &both).unwrap();
    for value in 1..5 {
        assert_eq!(
            commit(&mut targets, &mut image, value),
            Outcome::Held { targets: 2 }
        );
    }
    drop(targets);
    let (mut again, recovered) = Targets::open(&name(), LEN, &both).unwrap();
    assert_eq!(recovered, image);
    assert_eq!(again.term(), Term(1));
    assert_eq!(
        commit(&mut again, &mut image, 6),
        Outcome::Held { targets: 2 }
    );

    // Its directory gone, it is a stranger.
    drop(again);
    std::fs::remove_dir_all(home.path().join("kv")).unwrap();
    let refused = Targets::open(&name(), LEN, &both).unwrap_err();
    assert!(matches!(refused, OpenError::Reigned { .. }), "{refused:?}");
}

#[test]
fn without_enough_answers_nothing_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(dir.path());
    let silent = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = silent.address().unwrap().to_string();
    drop(silent);
    let mut one_of_two = settings(&[&backup.address.to_string(), &gone]);
    one_of_two.quorum = Some(1);
    let error = Targets::open(&name(), LEN, &one_of_two).unwrap_err();
    assert!(
        matches!(error, OpenError::Unreachable { needed: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_newer_connection_ends_the_older_one_of_the_same_area() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(dir.path());
    let home = tempfile::tempdir().unwrap();
    let local = format!("dir:{}", home.path().join("kv").display());
    let both = settings(&[&local, &backup.address.to_string()]);
    let (mut targets, mut image) = Targets::open(&name(), LEN, &both).unwrap();
    assert!(commit(&mut targets, &mut image, 1).is_held());
    assert_eq!(
        status(&backup.address).unwrap().areas[0].connected,
        Some(true)
    );
    drop(targets);
    let (mut again, mut image) = Targets::open(&name(), LEN, &both).unwrap();
    for value in 2..5 {
        assert_eq!(
            commit(&mut again, &mut image, value),
            Outcome::Held { targets: 2 }
        );
    }
    assert_eq!(
        status(&backup.address).unwrap().areas[0].connected,
        Some(true)
    );
}

#[test]
fn commits_that_wait_for_nothing_do_not_choke_on_unread_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let address: Address = format!("unix:{}", path.display()).parse().unwrap();
    let backup = backup_at(&dir.path().join("backup"), &address);
    let mut sent = settings(&[&address.to_string()]);
    sent.level = Some(Level::Sent);
    let (mut targets, mut image) = Targets::open(&name(), LEN, &sent).unwrap();
    for value in 0..2000u32 {
        let value = u8::try_from(value % 251).unwrap();
        assert_eq!(
            commit(&mut targets, &mut image, value),
            Outcome::Held { targets: 1 }
        );
        let report = &targets.reports()[0];
        assert_eq!((report.connected, &report.problem), (true, &None));
    }
    let delta = change(&image, 77);
    let outcome = targets
        .commit(&delta, &image, Some(Level::Replicated))
        .unwrap();
    assert!(outcome.is_held());
    assert_eq!(
        status(&backup.address).unwrap().areas[0].epoch,
        delta.epoch().0
    );
}

#[test]
fn a_backup_restarted_between_two_commits_costs_none_of_them() {
    for choice in [OnLoss::Stop, OnLoss::Continue] {
        let dir = tempfile::tempdir().unwrap();
        let first = backup(dir.path());
        let address = first.address.clone();
        let mut settings = settings(&[&address.to_string()]);
        settings.on_loss = choice;
        let (mut targets, mut image) = Targets::open(&name(), LEN, &settings).unwrap();
        assert!(commit(&mut targets, &mut image, 1).is_held());
        first.stop();
        let _second = backup_at(dir.path(), &address);
        assert!(commit(&mut targets, &mut image, 2).is_held());
    }
}

#[test]
fn a_shorter_history_promoted_by_mistake_is_not_opened_over_a_longer_one() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let backups = dirs.each_ref().map(|dir| backup(dir.path()));
    let urls = backups.each_ref().map(|b| b.address.to_string());
    let mut one = settings(&[&urls[0]]);
    let (mut targets, mut image) = Targets::open(&name(), LEN, &one).unwrap();
    for value in 1..5 {
        assert!(commit(&mut targets, &mut image, value).is_held());
    }
    drop(targets);
    // Another, shorter, history at the second one, in a newer term.
    one.targets = vec![urls[1].parse().unwrap()];
    let (mut targets, mut image) = Targets::open(&name(), LEN, &one).unwrap();
    assert!(commit(&mut targets, &mut image, 1).is_held());
    drop(targets);
    promote(&backups[1].address, &name()).unwrap();

    let error = Targets::open(&name(), LEN, &settings(&[&urls[0], &urls[1]])).unwrap_err();
    assert!(matches!(error, OpenError::Fuller { .. }), "{error}");
    let reports = backups.map(|b| status(&b.address).unwrap().areas[0].epoch);
    assert_eq!(reports, [4, 1]);
}

#[test]
fn an_impossible_length_leaves_nothing_behind() {
    use afterimage_area_abi::PrimaryId;
    use afterimage_delta::Term;
    use afterimage_protocol::{Hello, Message, Position};
    use std::io::{Read, Write};

    let dir = tempfile::tempdir().unwrap();
    let backup = backup(dir.path());
    for len in [0, 1, 4097, u64::MAX] {
        let hello = Message::Hello(Hello {
            name: name(),
            len,
            term: Term::ZERO,
            primary: PrimaryId([1; 16]),
            position: Position::default(),
            pending: None,
        });
        let mut bytes = Vec::new();
        hello.write(&mut bytes);
        let mut stream =
            afterimage_link::Stream::connect(&backup.address, Duration::from_secs(5)).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(!answer.is_empty());
    }
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["LOCK"]);
}
