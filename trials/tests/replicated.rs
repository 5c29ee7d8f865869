//! The server with a backup: killed, and another one takes over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_trials::deployment::Deployment;
use afterimage_trials::dice::Dice;
use afterimage_trials::fault::Fault;
use afterimage_trials::load::Load;
use afterimage_trials::process::PATIENCE;
use afterimage_trials::record::Record;
use rustix::process::Signal;

#[test]
fn acknowledged_writes_survive_sigkill_at_200_random_points() {
    let mut dice = Dice::from_environment("replicated SIGKILL");
    let mut deployment = Deployment::replicated(&[]).unwrap();
    let mut record = Record::new(12, 2);
    for cycle in 0..200 {
        let pipeline = [1, 1, 8][cycle % 3];
        let (after, faults) = deployment
            .kill_under_load(record, pipeline, &mut dice)
            .unwrap();
        assert_eq!(faults, [], "in cycle {cycle}");
        record = after;
    }
    assert_eq!(record.refused(), 0);
    assert!(
        record.acknowledged() > 200 * 100,
        "{}",
        record.acknowledged()
    );
}

#[test]
fn the_judge_notices_a_server_that_acknowledges_too_early() {
    let mut dice = Dice::from_environment("replicated negative control");
    let mut deployment = Deployment::replicated(&["--test-acknowledge-before-commit"]).unwrap();
    let mut record = Record::new(12, 2);
    for _ in 0..50 {
        let (after, faults) = deployment.kill_under_load(record, 1, &mut dice).unwrap();
        if faults
            .iter()
            .any(|fault| matches!(fault, Fault::Lost { .. }))
        {
            return;
        }
        record = after;
    }
    panic!("50 kills of a server that acknowledges too early, and the judge found nothing lost");
}

#[test]
fn nobody_takes_over_before_the_backup_is_promoted() {
    let mut deployment = Deployment::replicated(&[]).unwrap();
    deployment.kill_server().unwrap();
    let mut refused = deployment
        .world()
        .server_unready(&deployment.options())
        .unwrap();
    assert!(!refused.wait().unwrap().success());
    assert!(refused.tail().contains("promote"), "{}", refused.tail());
    deployment.take_over().unwrap();
}

#[test]
fn a_primary_that_wakes_up_after_a_takeover_is_fenced() {
    let mut dice = Dice::from_environment("fenced primary");
    let mut deployment = Deployment::replicated(&[]).unwrap();
    for _ in 0..5 {
        let load = Load::on(deployment.address().unwrap()).start(Record::new(8, 2), &mut dice);
        load.wait_for(300 + dice.below(300), PATIENCE).unwrap();
        let mut old = deployment.take_server().unwrap();
        old.program.signal(Signal::STOP).unwrap();
        deployment.take_over().unwrap();
        old.program.signal(Signal::CONT).unwrap();
        let status = old.program.wait().unwrap();
        assert_eq!(status.code(), Some(3), "{status}{}", old.program.tail());
        assert!(
            old.program.tail().contains("fenced"),
            "{}",
            old.program.tail()
        );
        // Had it acknowledged anything after it woke up, that would be missing.
        let mut record = load.join().unwrap();
        assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
        // The next round's connections begin with empty records.
        let address = deployment.address().unwrap();
        let mut client = afterimage_trials::resp::Connection::open(address, PATIENCE).unwrap();
        client.ask(&[b"FLUSHALL"]).unwrap();
    }
}
