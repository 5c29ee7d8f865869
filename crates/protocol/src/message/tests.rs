use super::*;
use crate::frame::Reader;
use proptest::prelude::*;

fn all() -> Vec<Message> {
    let name: AreaName = "kv".parse().unwrap();
    let hello = Hello {
        name: name.clone(),
        len: 4096,
        term: Term(2),
        primary: PrimaryId([7; 16]),
        position: position(9, 10),
        pending: None,
    };
    vec![
        Message::Hello(hello.clone()),
        Message::Hello(Hello {
            pending: Some(Chain(3)),
            ..hello
        }),
        Message::Welcome(Welcome {
            term: Term(1),
            position: position(2, 3),
            image_follows: true,
        }),
        Message::Refused(Refusal {
            code: RefusalCode::Fenced,
            term: Term(4),
            epoch: Epoch(5),
            text: "why".into(),
        }),
        Message::Delta {
            term: Term(1),
            level: Level::Durable,
            epoch: Epoch(2),
            previous: Chain(3),
            payload: vec![1, 2, 3],
        },
        Message::Ack {
            epoch: Epoch(1),
            level: Level::Replicated,
        },
        Message::ImageBegin {
            term: Term(1),
            len: 4096,
            position: position(1, 2),
        },
        Message::ImageChunk {
            offset: 5,
            bytes: vec![1],
        },
        Message::ImageEnd { checksum: 9 },
        Message::Promote { name },
        Message::Promoted {
            term: Term(3),
            epoch: Epoch(4),
        },
        Message::StatusQuery,
        Message::Status {
            json: b"{}".to_vec(),
        },
    ]
}

#[test]
fn messages_survive_being_written() {
    for message in all() {
        let mut out = Vec::new();
        message.write(&mut out);
        let mut reader = Reader::new(1 << 20);
        reader.push(&out);
        let body = reader.take().unwrap().unwrap();
        assert_eq!(Message::read(body).unwrap(), message);
    }
}

#[test]
fn another_version_is_named() {
    let body = Body {
        kind: HELLO,
        bytes: vec![9, 0, 1, 2, 3],
    };
    assert_eq!(Message::read(body), Err(BadMessage::Version(9)));
}

proptest! {
    #[test]
    fn arbitrary_bodies_never_panic(kind in 0u8..14, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::read(Body { kind, bytes });
    }
}
