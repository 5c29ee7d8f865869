//! The link between server and backup is cut, held up and garbled, and peers
//! that mean harm connect to the backup.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_area_abi::{AreaName, Level, PrimaryId};
use afterimage_delta::{Chain, Epoch, Term};
use afterimage_protocol::frame::{HEADER_LEN, MAGIC, MAX_GREETING, MAX_PAYLOAD, Reader};
use afterimage_protocol::{Hello, Message, Position, RefusalCode};
use afterimage_trials::deployment::Deployment;
use afterimage_trials::dice::Dice;
use afterimage_trials::load::Load;
use afterimage_trials::process::PATIENCE;
use afterimage_trials::programs::{AREA, World, binary, ready_on};
use afterimage_trials::proxy::{Mishap, Proxy, Way};
use afterimage_trials::record::Record;
use afterimage_trials::resp::{Connection, Reply};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// A server that reaches its backup through a proxy.
fn behind_a_proxy() -> (Deployment, Proxy) {
    let mut proxy = None;
    let deployment =
        Deployment::replicated_in(World::new().unwrap(), &["--on-loss", "wait"], |backup| {
            let link = Proxy::before(backup.address)?;
            let target = format!("tcp://{}", link.address());
            proxy = Some(link);
            Ok(target)
        })
        .unwrap();
    (deployment, proxy.unwrap())
}

/// Lets `mishaps` happen at random bytes of the link under load; all of it must
/// go on each time, and nothing may be missing at the end.
fn survives(what: &str, mishap: Mishap, mishaps: u64) {
    let mut dice = Dice::from_environment(what);
    let (mut deployment, proxy) = behind_a_proxy();
    let load = Load::on(deployment.address().unwrap()).start(Record::new(12, 2), &mut dice);
    load.wait_for(100, PATIENCE).unwrap();
    for happened in 1..=mishaps {
        let (way, within) = if dice.below(3) == 0 {
            (Way::Back, 200)
        } else {
            (Way::There, 20_000)
        };
        proxy.plan(way, dice.below(within), mishap);
        proxy.wait_for_mishap(happened);
        proxy.heal();
        let goal = load.acknowledged() + 20;
        load.wait_for(goal, PATIENCE)
            .unwrap_or_else(|error| panic!("after mishap {happened} ({way:?}): {error:#}"));
    }
    deployment.kill_server().unwrap();
    let mut record = load.join().unwrap();
    deployment.take_over().unwrap();
    assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
    assert_eq!(record.refused(), 0);
}

#[test]
fn the_load_goes_on_after_cuts_in_the_middle_of_frames() {
    survives("link cuts", Mishap::Cut, 40);
}

#[test]
fn the_load_goes_on_after_flipped_bits() {
    survives("link bits", Mishap::Garble, 40);
}

#[test]
fn the_load_goes_on_after_stalls() {
    survives("link stalls", Mishap::Stall, 20);
}

#[test]
fn a_takeover_in_the_middle_of_a_frame_loses_nothing() {
    let mut dice = Dice::from_environment("takeover in a frame");
    for _ in 0..10 {
        let (mut deployment, proxy) = behind_a_proxy();
        let load = Load::on(deployment.address().unwrap()).start(Record::new(8, 2), &mut dice);
        load.wait_for(100, PATIENCE).unwrap();
        proxy.plan(Way::There, dice.below(20_000), Mishap::Stall);
        proxy.wait_for_mishap(1);
        deployment.kill_server().unwrap();
        proxy.cut(false);
        proxy.heal();
        let mut record = load.join().unwrap();
        deployment.take_over().unwrap();
        assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
    }
}

/// A peer that speaks to the backup directly.
struct Peer {
    stream: TcpStream,
    reader: Reader,
}

impl Peer {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            reader: Reader::new(1 << 20),
        }
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message, or none when the backup has hung up.
    fn hear(&mut self) -> Option<Message> {
        loop {
            if let Some(body) = self.reader.take().unwrap() {
                return Some(Message::read(body).unwrap());
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.reader.push(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the backup neither answers nor hangs up: {error}"),
            }
        }
    }

    /// Waits until the backup hangs up, whatever it says before.
    fn hear_the_end(&mut self) {
        while self.hear().is_some() {}
    }
}

fn hello(name: &str, len: u64, term: Term) -> Message {
    Message::Hello(Hello {
        name: name.parse::<AreaName>().unwrap(),
        len,
        term,
        primary: PrimaryId([0xee; 16]),
        position: Position::default(),
        pending: None,
    })
}

fn refusal(message: Option<Message>) -> RefusalCode {
    match message {
        Some(Message::Refused(refusal)) => refusal.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Most memory that the process ever used, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap()
}

#[test]
fn hostile_peers_get_an_end_and_nobody_else_notices() {
    let mut dice = Dice::from_environment("hostile peers");
    let mut deployment = Deployment::replicated(&[]).unwrap();
    let backup = deployment.backup().unwrap();
    let (address, pid) = (backup.address, backup.program.id());
    let load = Load::on(deployment.address().unwrap()).start(Record::new(8, 2), &mut dice);
    load.wait_for(200, PATIENCE).unwrap();
    let before = peak_memory(pid);

    for _ in 0..50 {
        let mut peer = Peer::connect(address);
        let garbage: Vec<u8> = (0..200).map(|_| dice.roll().to_le_bytes()[0]).collect();
        // The backup may hang up while we still send.
        let _ = peer.stream.write_all(&garbage);
        peer.hear_the_end();
    }
    for _ in 0..50 {
        let mut peer = Peer::connect(address);
        let mut frame = MAGIC.to_vec();
        frame.extend_from_slice(&[dice.roll().to_le_bytes()[0], 0, 0, 0]);
        frame.extend_from_slice(&u32::MAX.to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        assert_eq!(frame.len(), HEADER_LEN);
        let _ = peer.stream.write_all(&frame);
        peer.hear_the_end();
    }
    endless_message(address);
    load.wait_for(load.acknowledged() + 200, PATIENCE).unwrap();

    let grown = peak_memory(pid).saturating_sub(before);
    assert!(grown < 64 << 10, "the backup took {grown} KiB more");
    deployment.kill_server().unwrap();
    let mut record = load.join().unwrap();
    deployment.take_over().unwrap();
    assert_eq!(deployment.judge_twice(&mut record).unwrap(), []);
}

/// Sends a message whose frames all say that more of them follow.
fn endless_message(address: SocketAddr) {
    let mut peer = Peer::connect(address);
    let mut message = Vec::new();
    let body = vec![0; 4 * MAX_PAYLOAD];
    afterimage_protocol::frame::write(&mut message, 1, &body, &[]);
    let frame = &message[..HEADER_LEN + MAX_PAYLOAD];
    let mut sent = 0;
    while sent < 1 << 30 && peer.stream.write_all(frame).is_ok() {
        sent += frame.len();
    }
    assert!(
        sent < 64 << 20,
        "the backup took {sent} bytes of a greeting, which has at most {MAX_GREETING}"
    );
    peer.hear_the_end();
}

#[test]
fn a_peer_that_stops_in_the_middle_of_a_frame_keeps_nobody_waiting() {
    let mut dice = Dice::from_environment("slow peers");
    let deployment = Deployment::replicated(&[]).unwrap();
    let address = deployment.backup().unwrap().address;
    let load = Load::on(deployment.address().unwrap()).start(Record::new(8, 0), &mut dice);
    let mut slow: Vec<Peer> = (0..20).map(|_| Peer::connect(address)).collect();
    for peer in &mut slow {
        peer.stream.write_all(&MAGIC).unwrap();
    }
    load.wait_for(load.acknowledged() + 500, PATIENCE).unwrap();
    load.stop().unwrap();
    for mut peer in slow {
        peer.hear_the_end();
    }
}

#[test]
fn more_connections_than_allowed_leave_the_primary_alone() {
    let mut dice = Dice::from_environment("many peers");
    let deployment = Deployment::replicated(&[]).unwrap();
    let address = deployment.backup().unwrap().address;
    let load = Load::on(deployment.address().unwrap()).start(Record::new(8, 0), &mut dice);
    load.wait_for(100, PATIENCE).unwrap();
    let crowd: Vec<_> = (0..400)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok())
        .collect();
    load.wait_for(load.acknowledged() + 200, PATIENCE).unwrap();
    drop(crowd);
    load.stop().unwrap();
}

#[test]
fn a_stranger_and_an_old_term_are_refused_and_told_why() {
    let mut deployment = Deployment::replicated(&[]).unwrap();
    // Twice taken over: the term is 3 now.
    for _ in 0..2 {
        deployment.kill_server().unwrap();
        deployment.take_over().unwrap();
    }
    let address = deployment.backup().unwrap().address;
    let ask = |message: &Message| {
        let mut peer = Peer::connect(address);
        peer.say(message);
        refusal(peer.hear())
    };
    let len = 64 << 20;
    assert_eq!(ask(&hello(AREA, len, Term(1))), RefusalCode::Fenced);
    assert_eq!(ask(&hello(AREA, len, Term::ZERO)), RefusalCode::Reigned);
    assert_eq!(ask(&hello(AREA, len, Term(3))), RefusalCode::Reigned);
    assert_eq!(ask(&hello(AREA, 2 << 20, Term(3))), RefusalCode::Length);
    let delta = Message::Delta {
        term: Term(1),
        level: Level::Replicated,
        epoch: Epoch(1),
        previous: Chain::START,
        payload: Vec::new(),
    };
    assert_eq!(ask(&delta), RefusalCode::Malformed);
    let strange = Message::Promote {
        name: "nothing".parse().unwrap(),
    };
    assert_eq!(ask(&strange), RefusalCode::Unknown);
}

#[test]
fn an_area_for_which_there_is_no_memory_is_refused_and_the_others_go_on() {
    let world = World::new().unwrap();
    let afterimage = binary("afterimage").unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -v 3000000; exec \"$@\"", "sh"])
        .arg(afterimage)
        .args(["backup", "--listen", "127.0.0.1:0", "--dir"])
        .arg(world.path().join("backup"));
    let mut backup = world.start(command, "backup").unwrap();
    let target = format!("tcp://{}", ready_on(&mut backup, PATIENCE).unwrap());
    let options = ["--target", &target];
    let good = world.server(&options).unwrap();
    let mut command = Command::new(binary("afterimage-kv").unwrap());
    command
        .args(["--listen", "127.0.0.1:0", "--area", "huge", "--size", "8G"])
        .args(["--target", &target]);
    let mut stranger = world.start(command, "stranger").unwrap();
    assert_eq!(stranger.wait().unwrap().code(), Some(1));
    assert!(stranger.tail().contains("no memory"), "{}", stranger.tail());
    let mut client = Connection::open(good.address, PATIENCE).unwrap();
    assert_eq!(
        client.ask(&[b"SET", b"a", b"1"]).unwrap(),
        Reply::Simple("OK".into())
    );
    let left = std::fs::read_dir(world.path().join("backup")).unwrap();
    assert!(left.flatten().all(|entry| entry.file_name() != "huge"));
}
