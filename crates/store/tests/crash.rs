//! A crash at every moment, recovery included, loses nothing that was synced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use afterimage_env::MemoryDisk;
use afterimage_env::memory::{Counted, Fault, Forgery, Repeat};
use afterimage_store::Store;
use world::Step::{Append, Compact, Install, Reign, Reopen, Sync};
use world::Write::{Large, Nothing, Small, Zeros};
use world::{Model, Step};

/// Every operation, with many and with few unsynced changes before it.
const STEPS: &[Step] = &[
    Append(Small),
    Append(Small),
    Sync,
    Reign(1),
    Append(Large),
    Append(Zeros),
    Append(Small),
    Sync,
    Reopen,
    Append(Small),
    Append(Nothing),
    Append(Small),
    Append(Large),
    Append(Small),
    Reign(2),
    Compact,
    Append(Zeros),
    Sync,
    Append(Small),
    Append(Small),
    Install,
    Append(Small),
    Sync,
    Append(Large),
    Compact,
    Append(Small),
    Reopen,
];

/// More changes than are enumerated.
const CROWD: &[Step] = &[Append(Small); 20];

fn power_off_after(changes: u64) -> Fault {
    Fault {
        after: changes,
        counted: Counted::Changes,
        error: rustix::io::Errno::IO,
        harmful: false,
        repeat: Repeat::ForGood,
    }
}

/// What was tried.
#[derive(Debug, Default)]
struct Tried {
    moments: u64,
    states: u64,
    during_recovery: u64,
}

/// Cuts the power before every change of the steps and judges every state it
/// may leave; every `deep`th state is also crashed during its recovery.
fn survey(steps: &[Step], forgery: Option<Forgery>, deep: u64) -> Result<Tried, String> {
    let mut tried = Tried::default();
    loop {
        let disk = MemoryDisk::new();
        if let Some(forgery) = forgery {
            disk.forge(forgery);
        }
        disk.inject(power_off_after(tried.moments));
        let mut model = Model::new();
        let ended = model.run(&disk, steps).is_ok();
        for state in disk.crash_states(tried.moments) {
            tried.states += 1;
            if deep > 0 && tried.states.is_multiple_of(deep) {
                tried.during_recovery += crash_recovery(&state, &model)?;
            }
            let context = |error| format!("moment {}: {error}", tried.moments);
            model.judge(&state).map_err(context)?;
        }
        tried.moments += 1;
        if ended {
            return Ok(tried);
        }
    }
}

/// Cuts the power before every change of a recovery.
fn crash_recovery(disk: &MemoryDisk, model: &Model) -> Result<u64, String> {
    let mut states = 0;
    for changes in 0.. {
        let again = disk.crash([]);
        again.inject(power_off_after(changes));
        let ended = Store::open(again.clone()).is_ok();
        for state in again.crash_states(changes) {
            states += 1;
            let context = |error| format!("recovery, change {changes}: {error}");
            model.judge(&state).map_err(context)?;
        }
        let quiet = again.operations(Counted::Changes) <= changes;
        if ended || quiet {
            break;
        }
    }
    Ok(states)
}

#[test]
fn what_was_synced_survives_a_crash_at_every_moment() {
    let tried = survey(STEPS, None, 0).unwrap();
    println!("{tried:?}");
    assert!(tried.moments > 60 && tried.states > 2_000, "{tried:?}");
}

#[test]
fn what_was_synced_survives_a_crash_during_recovery_from_a_crash() {
    let tried = survey(STEPS, None, 7).unwrap();
    println!("{tried:?}");
    assert!(tried.during_recovery > 2_000, "{tried:?}");
}

#[test]
fn many_unsynced_appends_survive_as_a_prefix() {
    let tried = survey(CROWD, None, 20).unwrap();
    println!("{tried:?}");
    assert!(tried.states > 5_000, "{tried:?}");
}

#[test]
fn control_a_store_that_forgot_to_sync_files_is_caught() {
    survey(STEPS, Some(Forgery::EveryFile), 0).unwrap_err();
}

#[test]
fn control_a_store_that_forgot_to_sync_the_directory_is_caught() {
    survey(STEPS, Some(Forgery::EveryDirectory), 0).unwrap_err();
}

#[test]
fn control_no_sync_can_be_left_out() {
    let disk = MemoryDisk::new();
    assert!(Model::new().run(&disk, STEPS).is_ok());
    let needless: Vec<_> = (0..disk.syncs())
        .filter(|nth| survey(STEPS, Some(Forgery::Nth(*nth)), 0).is_ok())
        .collect();
    println!("{} syncs, {needless:?} not needed here", disk.syncs());
    // Those of an open whose predecessor left nothing unsynced; the next test
    // needs them.
    assert_eq!(needless, [7, 8, 25]);
}

/// Kills the process before every change of the steps, opens the store again on
/// the disk that still has all in its cache, and cuts the power before every
/// change of that.
fn survey_after_kill(forgery: Option<Forgery>) -> Result<u64, String> {
    let mut states = 0;
    for killed in 0.. {
        let mut ended = false;
        for changes in 0.. {
            let disk = MemoryDisk::new();
            disk.inject(power_off_after(killed));
            let mut model = Model::new();
            ended = model.run(&disk, STEPS).is_ok();
            disk.heal();
            if let Some(forgery) = forgery {
                disk.forge(forgery);
            }
            disk.inject(power_off_after(changes));
            let opened = Store::open(disk.clone());
            if let Ok((store, image)) = &opened {
                model.found(store, image);
            }
            // With the cache as it is at the kill, every sector torn is what the
            // surveys above are for.
            for state in disk.crash_states(killed ^ changes << 8).take(1 << 6) {
                states += 1;
                let context = |error| format!("killed at {killed}, {changes} changes: {error}");
                model.judge(&state).map_err(context)?;
            }
            if opened.is_ok() || !model.created {
                break;
            }
        }
        if ended {
            break;
        }
    }
    Ok(states)
}

#[test]
fn what_an_open_after_a_kill_gives_out_survives_a_crash() {
    let states = survey_after_kill(None).unwrap();
    println!("{states} states");
    assert!(states > 3_000, "{states}");
}

#[test]
fn control_an_open_that_forgot_to_sync_is_caught() {
    survey_after_kill(Some(Forgery::EveryFile)).unwrap_err();
    survey_after_kill(Some(Forgery::EveryDirectory)).unwrap_err();
}
