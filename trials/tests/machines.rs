//! Virtual machines on real KVM: on this machine if its KVM is usable, else in
//! the lab. The trials of one test share a place.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_trials::place::{Place, Wants};
use afterimage_trials::programs::binary;
use anyhow::Context as _;
use std::sync::Arc;
use std::time::Duration;

/// Longest time for one trial: a takeover takes some ten seconds in the lab.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Prepares a place and runs trials of `machine-trial` in it, each with its
/// arguments. Tried once more if the lab itself fails, and only then.
fn run(trials: &[&[&str]]) {
    afterimage_lab::try_twice(|| {
        let ring = binary("examples/ring")
            .context("run `cargo build --release -p afterimage-vmm --examples`")?;
        let place = Place::prepare(Wants {
            guest: vec![("/bin/ring".to_owned(), ring)],
            redis: true,
            ..Wants::nothing()
        })?;
        for trial in trials {
            println!("{trial:?}");
            let mut arguments = place.guest().to_vec();
            arguments.extend(trial.iter().map(|&word| word.to_owned()));
            let print = Arc::new(|line: &str| println!("{line}"));
            place
                .run("machine-trial", &arguments, PATIENCE, &(print as _))?
                .expect_success()
                .with_context(|| format!("{trial:?}"))?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_hypervisor_keeps_its_promises() {
    run(&[&["contract", "50"], &["ring"], &["clients"]]);
}

#[test]
fn acknowledged_writes_survive_the_death_of_machine_and_application() {
    run(&[
        &["negative-control", "5"],
        &["application", "10"],
        &["doubt"],
        &["machine", "20"],
    ]);
}
