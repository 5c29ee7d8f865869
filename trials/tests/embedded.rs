//! The server with its data in a directory: killed and started again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_trials::deployment::Deployment;
use afterimage_trials::dice::Dice;
use afterimage_trials::fault::Fault;
use afterimage_trials::load::Load;
use afterimage_trials::process::PATIENCE;
use afterimage_trials::record::Record;
use afterimage_trials::resp::{Connection, Reply};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

#[test]
fn acknowledged_writes_survive_sigkill_at_200_random_points() {
    let mut dice = Dice::from_environment("embedded SIGKILL");
    let mut deployment = Deployment::embedded(&[]).unwrap();
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
    let mut dice = Dice::from_environment("embedded negative control");
    let mut deployment = Deployment::embedded(&["--test-acknowledge-before-commit"]).unwrap();
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
fn a_server_that_is_asked_to_stop_loses_nothing_either() {
    let mut dice = Dice::from_environment("embedded SIGTERM");
    let mut deployment = Deployment::embedded(&[]).unwrap();
    let load = Load::on(deployment.address().unwrap()).start(Record::new(8, 1), &mut dice);
    load.wait_for(500, PATIENCE).unwrap();
    let mut server = deployment.take_server().unwrap();
    server.program.signal(Signal::TERM).unwrap();
    assert!(server.program.wait().unwrap().success());
    let mut record = load.join().unwrap();
    deployment.take_over().unwrap();
    assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
}

#[test]
fn a_full_area_refuses_writes_and_keeps_what_it_acknowledged() {
    let mut deployment = Deployment::embedded(&["--size", "4M"]).unwrap();
    let address = deployment.address().unwrap();
    let mut client = Connection::open(address, PATIENCE).unwrap();
    let value = vec![b'x'; 20_000];
    let mut acknowledged = 0;
    let refusal = loop {
        let key = format!("k{acknowledged}");
        match client.ask(&[b"SET", key.as_bytes(), &value]).unwrap() {
            Reply::Simple(_) => acknowledged += 1,
            Reply::Error(text) => break text,
            other => panic!("{other:?}"),
        }
    };
    assert!(refusal.starts_with("OOM "), "{refusal}");
    assert!(acknowledged > 50, "{acknowledged} values of 20 kB in 4 MiB");
    assert_eq!(client.ask(&[b"DEL", b"k0"]).unwrap(), Reply::Integer(1));
    let again = client.ask(&[b"SET", b"again", &value]).unwrap();
    assert_eq!(again, Reply::Simple("OK".to_owned()));
    deployment.kill_server().unwrap();
    deployment.take_over().unwrap();
    let mut client = Connection::open(deployment.address().unwrap(), PATIENCE).unwrap();
    assert_eq!(
        client.ask(&[b"DBSIZE"]).unwrap(),
        Reply::Integer(acknowledged)
    );
    for i in 1..acknowledged {
        let key = format!("k{i}");
        let found = client.ask(&[b"GET", key.as_bytes()]).unwrap();
        assert_eq!(found, Reply::Bulk(Some(value.clone())), "{key}");
    }
}

#[test]
fn a_client_that_does_not_read_hinders_nobody() {
    let deployment = Deployment::embedded(&[]).unwrap();
    let address = deployment.address().unwrap();
    let mut client = Connection::open(address, PATIENCE).unwrap();
    let value = vec![b'x'; 100_000];
    client.ask(&[b"SET", b"k", &value]).unwrap();
    let mut deaf = Connection::open(address, PATIENCE).unwrap();
    // 200 MB of replies that nobody reads.
    for _ in 0..2000 {
        deaf.push(&[b"GET", b"k"]);
    }
    deaf.flush().unwrap();
    for _ in 0..100 {
        let reply = client.ask(&[b"INCR", b"n"]).unwrap();
        assert!(matches!(reply, Reply::Integer(_)));
    }
    for _ in 0..2000 {
        assert_eq!(deaf.receive().unwrap(), Reply::Bulk(Some(value.clone())));
    }
}

#[test]
fn a_command_sent_to_crash_the_server_crashes_it_and_nothing_is_lost() {
    let mut deployment = Deployment::embedded(&["--enable-debug-command"]).unwrap();
    let mut client = Connection::open(deployment.address().unwrap(), PATIENCE).unwrap();
    client.ask(&[b"SET", b"k", b"safe"]).unwrap();
    client.push(&[b"SET", b"k", b"unanswered"]);
    client.push(&[b"DEBUG", b"SEGFAULT"]);
    client.flush().unwrap();
    assert!(client.receive().is_err());
    let mut server = deployment.take_server().unwrap();
    assert!(!server.program.wait().unwrap().success());
    deployment.take_over().unwrap();
    let mut client = Connection::open(deployment.address().unwrap(), PATIENCE).unwrap();
    assert_eq!(
        client.ask(&[b"GET", b"k"]).unwrap(),
        Reply::Bulk(Some(b"safe".to_vec()))
    );
}

#[test]
fn clients_beyond_the_limit_are_told_so_and_garbage_ends_only_its_own_connection() {
    let mut dice = Dice::from_environment("garbage from clients");
    let deployment = Deployment::embedded(&["--maxclients", "3"]).unwrap();
    let address = deployment.address().unwrap();
    let mut client = Connection::open(address, PATIENCE).unwrap();
    client.ask(&[b"PING"]).unwrap();
    let crowd: Vec<_> = (0..2)
        .map(|_| {
            let mut one = Connection::open(address, PATIENCE).unwrap();
            one.ask(&[b"PING"]).unwrap();
            one
        })
        .collect();
    let mut refused = Connection::open(address, PATIENCE).unwrap();
    assert_eq!(
        refused.receive().unwrap(),
        Reply::Error("ERR max number of clients reached".to_owned())
    );
    drop(crowd);
    for _ in 0..200 {
        let garbage: Vec<u8> = (0..dice.below(300))
            .map(|_| b"*$\r\n0123456789abcGET\"'\xff"[usize::try_from(dice.below(23)).unwrap()])
            .collect();
        let mut stream = TcpStream::connect(address).unwrap();
        // The server may hang up while we still send.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let pong = client.ask(&[b"PING"]).unwrap();
    assert_eq!(pong, Reply::Simple("PONG".to_owned()));
}
