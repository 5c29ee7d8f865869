//! The backup dies, alone or together with the server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_trials::deployment::Deployment;
use afterimage_trials::dice::Dice;
use afterimage_trials::fault::Fault;
use afterimage_trials::load::Load;
use afterimage_trials::process::PATIENCE;
use afterimage_trials::record::Record;
use std::time::Duration;

#[test]
fn the_load_goes_on_when_the_killed_backup_is_back() {
    let mut dice = Dice::from_environment("backup SIGKILL");
    let mut deployment = Deployment::replicated(&["--on-loss", "wait"]).unwrap();
    let load = Load::on(deployment.address().unwrap()).start(Record::new(12, 2), &mut dice);
    for _ in 0..20 {
        let goal = load.acknowledged() + 1 + dice.below(300);
        load.wait_for(goal, PATIENCE).unwrap();
        let port = deployment.kill_backup().unwrap();
        deployment.start_backup(port).unwrap();
    }
    load.wait_for(load.acknowledged() + 300, PATIENCE).unwrap();
    deployment.kill_server().unwrap();
    let mut record = load.join().unwrap();
    deployment.take_over().unwrap();
    assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
    assert_eq!(record.refused(), 0);
}

#[test]
fn nothing_is_acknowledged_while_the_only_backup_is_dead() {
    let mut dice = Dice::from_environment("no backup, no acknowledgement");
    let mut deployment = Deployment::replicated(&["--on-loss", "wait"]).unwrap();
    let load = Load::on(deployment.address().unwrap()).start(Record::new(4, 0), &mut dice);
    load.wait_for(100, PATIENCE).unwrap();
    let port = deployment.kill_backup().unwrap();
    // Time in which a server that does not wait would acknowledge: it would be
    // missing below.
    std::thread::sleep(Duration::from_millis(300));
    deployment.kill_server().unwrap();
    let mut record = load.join().unwrap();
    deployment.start_backup(port).unwrap();
    deployment.take_over().unwrap();
    assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
}

#[test]
fn the_judge_notices_a_server_that_goes_on_without_its_backup() {
    let mut dice = Dice::from_environment("negative control of waiting");
    let mut deployment = Deployment::replicated(&["--on-loss", "continue"]).unwrap();
    let load = Load::on(deployment.address().unwrap()).start(Record::new(4, 0), &mut dice);
    load.wait_for(100, PATIENCE).unwrap();
    let port = deployment.kill_backup().unwrap();
    let goal = load.acknowledged() + 100;
    load.wait_for(goal, PATIENCE).unwrap();
    deployment.kill_server().unwrap();
    let record = load.join().unwrap();
    deployment.start_backup(port).unwrap();
    deployment.take_over().unwrap();
    let faults = record.judge(&deployment.read(&record).unwrap());
    assert!(
        faults
            .iter()
            .any(|fault| matches!(fault, Fault::Lost { .. })),
        "{faults:?}"
    );
}

#[test]
fn acknowledged_writes_survive_the_death_of_both() {
    let mut dice = Dice::from_environment("both SIGKILL");
    let mut deployment = Deployment::replicated(&[]).unwrap();
    let mut record = Record::new(12, 2);
    for cycle in 0..20 {
        let load = Load::on(deployment.address().unwrap()).start(record, &mut dice);
        load.wait_for(1 + dice.below(500), PATIENCE).unwrap();
        let port = if dice.below(2) == 0 {
            let port = deployment.kill_backup().unwrap();
            deployment.kill_server().unwrap();
            port
        } else {
            deployment.kill_server().unwrap();
            deployment.kill_backup().unwrap()
        };
        record = load.join().unwrap();
        deployment.start_backup(port).unwrap();
        deployment.take_over().unwrap();
        let faults = deployment.judge_twice(&mut record).unwrap();
        assert_eq!(faults, [], "in cycle {cycle}");
    }
}
