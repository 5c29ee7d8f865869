//! Peers that say less, or more, than a commit needs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use afterimage_area_abi::{AreaName, Level, Outcome, PrimaryId};
use afterimage_delta::{Chain, DeltaBuilder, Epoch, PAGE_SIZE, PageIndex, Term};
use afterimage_link::{
    Address, Backup, Limits, Listener, OnLoss, QueryError, Settings, Stream, Targets, promote,
};
use afterimage_protocol::frame::Reader;
use afterimage_protocol::status::Report;
use afterimage_protocol::{Hello, Message, Position, RefusalCode, Welcome};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

const LEN: u64 = 16 * PAGE_SIZE as u64;

fn name() -> AreaName {
    "kv".parse().unwrap()
}

fn say(stream: &mut Stream, message: &Message) {
    let mut bytes = Vec::new();
    message.write(&mut bytes);
    stream.write_all(&bytes).unwrap();
}

/// The next message, or `None` at the end.
fn hear(stream: &mut Stream, reader: &mut Reader) -> Option<Message> {
    let mut piece = [0; 4096];
    loop {
        if let Some(body) = reader.take().unwrap() {
            return Some(Message::read(body).unwrap());
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(len) => reader.push(&piece[..len]),
        }
    }
}

/// A backup that welcomes everyone and answers each delta with `answer`.
fn liar(answer: Message) -> Address {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().unwrap();
    std::thread::spawn(move || {
        while let Ok(mut stream) = listener.accept() {
            let mut reader = Reader::new(1 << 20);
            while let Some(message) = hear(&mut stream, &mut reader) {
                match message {
                    Message::StatusQuery => {
                        let json = serde_json::to_vec(&Report::default()).unwrap();
                        say(&mut stream, &Message::Status { json });
                        break;
                    }
                    Message::Hello(hello) => say(
                        &mut stream,
                        &Message::Welcome(Welcome {
                            term: hello.term,
                            position: hello.position,
                            image_follows: false,
                        }),
                    ),
                    _ => say(&mut stream, &answer),
                }
            }
        }
    });
    address
}

#[test]
fn an_answer_for_an_older_epoch_or_a_weaker_level_is_no_acknowledgement() {
    let ack = |epoch, level| Message::Ack {
        epoch: Epoch(epoch),
        level,
    };
    for (answer, held) in [
        (ack(1, Level::Durable), true),
        (ack(0, Level::Durable), false),
        (ack(1, Level::Replicated), false),
        (ack(1, Level::Sent), false),
    ] {
        let settings = Settings {
            targets: vec![liar(answer.clone()).to_string().parse().unwrap()],
            level: Some(Level::Durable),
            on_loss: OnLoss::Stop,
            timeout: Duration::from_millis(200),
            ..Settings::default()
        };
        let (mut targets, image) = Targets::open(&name(), LEN, &settings).unwrap();
        let mut builder = DeltaBuilder::new(Vec::new());
        builder.page(PageIndex(0), image.page(PageIndex(0)), &[1; PAGE_SIZE]);
        let delta = builder.finish(Epoch(1), Chain::START);
        let outcome = targets.commit(&delta, &image, None).unwrap();
        let expected = if held {
            Outcome::Held { targets: 1 }
        } else {
            Outcome::InDoubt
        };
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[test]
fn a_backup_that_is_behind_its_primary_is_not_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let backup = Arc::new(Backup::open(dir.path(), Limits::default()).unwrap());
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().unwrap();
    let server = Arc::clone(&backup);
    std::thread::spawn(move || server.serve(&listener));

    // A primary whose image is on its way when it dies.
    let mut stream = Stream::connect(&address, Duration::from_secs(5)).unwrap();
    let hello = Hello {
        name: name(),
        len: LEN,
        term: Term(1),
        primary: PrimaryId([1; 16]),
        position: Position {
            epoch: Epoch(5),
            chain: Chain(5),
        },
        pending: None,
    };
    say(&mut stream, &Message::Hello(hello));
    let welcome = hear(&mut stream, &mut Reader::new(4096)).unwrap();
    assert!(matches!(welcome, Message::Welcome(_)), "{welcome:?}");
    drop(stream);

    let refused = promote(&address, &name()).unwrap_err();
    let QueryError::Refused { source, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(source.code, RefusalCode::Fuller);
    assert!(backup.report().areas[0].state.contains("behind"));
}
