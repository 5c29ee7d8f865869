//! Both ends of the protocol against each other, without any I/O: every cut of
//! the conversation, and what a hostile peer may say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use afterimage_area_abi::{Level, PrimaryId, Reign};
use afterimage_delta::{Chain, Delta, DeltaBuilder, Epoch, Image, PAGE_SIZE, PageIndex, Term};
use afterimage_protocol::primary::{Event, Session as Primary};
use afterimage_protocol::target::{Replica, Session as Target};
use afterimage_protocol::{
    Held, Hello, Message, Position, Refusal, RefusalCode, promote, send_image,
};

const LEN: u64 = 4 * PAGE_SIZE as u64;

/// A target in memory.
struct Memory {
    image: Image,
    reign: Reign,
    persisted: Epoch,
}

impl Memory {
    fn new() -> Self {
        Self {
            image: Image::new(LEN).unwrap(),
            reign: Reign::default(),
            persisted: Epoch::ZERO,
        }
    }
}

impl Replica for Memory {
    fn held(&self) -> Held {
        Held {
            len: LEN,
            reign: self.reign,
            position: position(&self.image),
        }
    }
    fn set_reign(&mut self, reign: Reign) -> Result<(), String> {
        assert!(reign.term >= self.reign.term, "a term went back");
        self.reign = reign;
        Ok(())
    }
    fn persist(&mut self) -> Result<(), String> {
        self.persisted = self.image.epoch();
        Ok(())
    }
    fn append(&mut self, delta: &Delta, level: Level) -> Result<(), String> {
        self.image.apply(delta).map_err(|e| e.to_string())?;
        if level == Level::Durable {
            self.persisted = delta.epoch();
        }
        Ok(())
    }
    fn install(&mut self, image: Image) -> Result<(), String> {
        self.image = image;
        self.persist()
    }
    fn image(&self) -> Result<Image, String> {
        Ok(self.image.clone())
    }
}

fn position(image: &Image) -> Position {
    Position {
        epoch: image.epoch(),
        chain: image.chain(),
    }
}

fn hello(term: u64, image: &Image) -> Hello {
    Hello {
        name: "kv".parse().unwrap(),
        len: LEN,
        term: Term(term),
        primary: PrimaryId([1; 16]),
        position: position(image),
        pending: None,
    }
}

fn change(image: &Image, value: u8) -> Delta {
    let page = PageIndex(u32::from(value) % 4);
    let mut builder = DeltaBuilder::new(Vec::new());
    builder.page(page, image.page(page), &[value; PAGE_SIZE]);
    builder.finish(image.epoch().next(), image.chain())
}

fn message(delta: &Delta, term: Term, level: Level) -> Message {
    Message::Delta {
        term,
        level,
        epoch: delta.epoch(),
        previous: delta.previous(),
        payload: delta.payload().to_vec(),
    }
}

/// Connects: greeting, image in either direction, until the primary is ready.
fn connect(
    hello: &Hello,
    image: &mut Image,
    target: &mut Memory,
) -> Result<(Target, Term), Refusal> {
    let mut primary = Primary::new(hello.clone());
    let greeting = Target::greet(hello, target)?;
    let mut session = greeting.session;
    let mut inbox = vec![Message::Welcome(greeting.welcome)];
    if let Some(image) = greeting.image {
        send_image(&image, greeting.welcome.term, |m| {
            inbox.push(m.clone());
            Ok::<_, ()>(())
        })
        .unwrap();
    }
    for message in inbox {
        match primary.on_message(message).unwrap() {
            Event::Waiting | Event::Ready | Event::PendingHeld => {}
            Event::Image(taken) => *image = taken,
            Event::Behind { .. } => {
                let term = primary.term().unwrap();
                let mut acknowledged = None;
                send_image(image, term, |m| {
                    acknowledged = session.on_message(m.clone(), target)?;
                    Ok::<_, Refusal>(())
                })?;
                let event = primary.on_message(acknowledged.unwrap()).unwrap();
                assert!(matches!(
                    event,
                    Event::Acknowledged {
                        level: Level::Durable,
                        ..
                    }
                ));
            }
            Event::Acknowledged { .. } => unreachable!("nothing was sent"),
        }
    }
    Ok((session, primary.term().unwrap()))
}

#[test]
fn commits_reach_the_target_and_a_new_primary_takes_them_over() {
    let mut target = Memory::new();
    let mut image = Image::new(LEN).unwrap();
    let (mut session, term) = connect(&hello(0, &image), &mut image, &mut target).unwrap();
    for value in 1..20 {
        let delta = change(&image, value);
        let answer = session.on_message(message(&delta, term, Level::Replicated), &mut target);
        assert_eq!(
            answer.unwrap(),
            Some(Message::Ack {
                epoch: delta.epoch(),
                level: Level::Replicated
            })
        );
        image.apply(&delta).unwrap();
    }
    target.set_reign(promote(target.reign)).unwrap();
    let late = change(&image, 77);
    let refused = session.on_message(message(&late, term, Level::Replicated), &mut target);
    assert_eq!(refused.unwrap_err().code, RefusalCode::Fenced);

    let mut empty = Image::new(LEN).unwrap();
    let mut newcomer = hello(0, &empty);
    newcomer.primary = PrimaryId([2; 16]);
    let (_, term) = connect(&newcomer, &mut empty, &mut target).unwrap();
    assert_eq!((term, &empty), (Term(2), &image));
    assert_eq!(
        target.persisted,
        image.epoch(),
        "a welcome acknowledges at the strongest level"
    );
}

#[test]
fn contact_lost_at_any_point_of_a_commit_ends_with_the_same_image_on_both_sides() {
    for arrived in [false, true] {
        let mut target = Memory::new();
        let mut image = Image::new(LEN).unwrap();
        let (mut session, term) = connect(&hello(0, &image), &mut image, &mut target).unwrap();
        let delta = change(&image, 3);
        if arrived {
            // The answer is lost.
            session
                .on_message(message(&delta, term, Level::Replicated), &mut target)
                .unwrap();
        }
        let mut again = hello(term.0, &image);
        again.pending = Some(delta.chain());
        let (mut session, term) = connect(&again, &mut image, &mut target).unwrap();
        assert_eq!(target.image.epoch(), Epoch(u64::from(arrived)));
        if !arrived {
            session
                .on_message(message(&delta, term, Level::Replicated), &mut target)
                .unwrap();
        }
        image.apply(&delta).unwrap();
        assert_eq!(target.image, image);
    }
}

#[test]
fn a_target_that_is_behind_is_sent_the_image_and_one_that_is_ahead_keeps_its_own() {
    let mut image = Image::new(LEN).unwrap();
    let mut target = Memory::new();
    let (_, term) = connect(&hello(0, &image), &mut image, &mut target).unwrap();
    for value in 1..6 {
        let delta = change(&image, value);
        image.apply(&delta).unwrap();
    }
    connect(&hello(term.0, &image), &mut image, &mut target).unwrap();
    assert_eq!(target.image, image);

    let mut older = Image::new(LEN).unwrap();
    older.apply(&change(&older, 9)).unwrap();
    let refused = connect(&hello(term.0, &older), &mut older.clone(), &mut target).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Fuller);
    assert_eq!(target.image, image);
}

#[test]
fn whatever_a_reigning_peer_says_nothing_is_applied_in_part() {
    let mut image = Image::new(LEN).unwrap();
    let mut target = Memory::new();
    let (_, term) = connect(&hello(0, &image), &mut image, &mut target).unwrap();
    let good = change(&image, 1);
    let delta = |term, epoch, previous, payload: Vec<u8>| Message::Delta {
        term,
        level: Level::Replicated,
        epoch,
        previous,
        payload,
    };
    let mut half = good.payload().to_vec();
    half.truncate(half.len() - 1);
    let mut outside = good.payload().to_vec();
    outside[..8].copy_from_slice(&(LEN - 1).to_le_bytes());
    let cases = [
        (
            delta(Term(0), Epoch(1), Chain::START, good.payload().to_vec()),
            RefusalCode::Fenced,
        ),
        (
            delta(Term(9), Epoch(1), Chain::START, good.payload().to_vec()),
            RefusalCode::Fenced,
        ),
        (
            delta(term, Epoch(2), Chain::START, good.payload().to_vec()),
            RefusalCode::Order,
        ),
        (
            delta(term, Epoch(0), Chain::START, good.payload().to_vec()),
            RefusalCode::Order,
        ),
        (
            delta(term, Epoch(1), Chain(5), good.payload().to_vec()),
            RefusalCode::Diverged,
        ),
        (
            delta(term, Epoch(1), Chain::START, half),
            RefusalCode::Malformed,
        ),
        (
            delta(term, Epoch(1), Chain::START, outside),
            RefusalCode::Malformed,
        ),
        (Message::ImageEnd { checksum: 0 }, RefusalCode::Malformed),
        (
            Message::ImageChunk {
                offset: 0,
                bytes: vec![1],
            },
            RefusalCode::Malformed,
        ),
        (
            Message::ImageBegin {
                term,
                len: u64::MAX,
                position: Position::default(),
            },
            RefusalCode::Length,
        ),
        (Message::StatusQuery, RefusalCode::Malformed),
        (Message::Hello(hello(1, &image)), RefusalCode::Malformed),
    ];
    for (case, expected) in cases {
        let (mut session, _) = connect(&hello(term.0, &image), &mut image, &mut target).unwrap();
        let refused = session.on_message(case.clone(), &mut target).unwrap_err();
        assert_eq!(refused.code, expected, "{case:?}");
        assert_eq!(target.image, image, "{case:?} changed something");
    }
}

#[test]
fn an_image_that_holds_less_or_another_history_is_refused_at_its_begin_and_at_its_end() {
    let mut image = Image::new(LEN).unwrap();
    let mut target = Memory::new();
    let (_, term) = connect(&hello(0, &image), &mut image, &mut target).unwrap();
    for value in 1..4 {
        let delta = change(&image, value);
        image.apply(&delta).unwrap();
    }
    connect(&hello(term.0, &image), &mut image, &mut target).unwrap();
    let begin = |epoch, chain| Message::ImageBegin {
        term,
        len: LEN,
        position: Position { epoch, chain },
    };
    for (epoch, chain, expected) in [
        (Epoch(2), image.chain(), RefusalCode::Fuller),
        (image.epoch(), Chain(77), RefusalCode::Diverged),
    ] {
        let (mut session, _) = connect(&hello(term.0, &image), &mut image, &mut target).unwrap();
        let refused = session
            .on_message(begin(epoch, chain), &mut target)
            .unwrap_err();
        assert_eq!(refused.code, expected);
    }

    // Good when it begins; meanwhile more arrives by another connection.
    let (mut session, _) = connect(&hello(term.0, &image), &mut image, &mut target).unwrap();
    let next = begin(image.epoch().next(), Chain(5));
    session.on_message(next, &mut target).unwrap();
    for value in 5..8 {
        let delta = change(&target.image, value);
        target.image.apply(&delta).unwrap();
    }
    let held = target.image.clone();
    let end = Message::ImageEnd {
        checksum: afterimage_delta::checksum(&vec![0; usize::try_from(LEN).unwrap()]),
    };
    let refused = session.on_message(end, &mut target).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Fuller);
    assert_eq!(target.image, held);
}
