//! The judge itself on trial: it must find each kind of fault.

use super::*;

fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

fn set(ledger: &mut Ledger, key: &str) -> String {
    let value = ledger.fresh_value();
    ledger.attempt(Op::Set(key.to_owned(), value.clone()));
    value
}

fn set_answered(ledger: &mut Ledger, key: &str) -> String {
    let value = set(ledger, key);
    ledger.answer(&ok());
    value
}

fn state(pairs: &[(&str, &String)]) -> State {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).clone()))
        .collect()
}

#[test]
fn an_acknowledged_write_must_be_there() {
    let mut ledger = Ledger::new(1);
    let old = set_answered(&mut ledger, "a");
    let new = set_answered(&mut ledger, "a");
    assert_eq!(ledger.judge(&state(&[("a", &new)])), []);
    for found in [None, Some(old)] {
        let is = found.iter().map(|v| ("a".to_owned(), v.clone())).collect();
        assert_eq!(
            ledger.judge(&is),
            [Fault::Lost {
                key: "a".to_owned(),
                found,
                acknowledged: Some(new.clone())
            }]
        );
    }
}

#[test]
fn an_unanswered_write_may_be_there_or_not() {
    let mut ledger = Ledger::new(1);
    let old = set_answered(&mut ledger, "a");
    let new = set(&mut ledger, "a");
    assert_eq!(ledger.judge(&state(&[("a", &old)])), []);
    assert_eq!(ledger.judge(&state(&[("a", &new)])), []);
    assert!(matches!(
        ledger.judge(&State::new())[..],
        [Fault::Lost { .. }]
    ));
}

#[test]
fn a_refused_write_must_not_be_there() {
    let mut ledger = Ledger::new(1);
    let value = set(&mut ledger, "a");
    ledger.answer(&Reply::Error("OOM".to_owned()));
    assert_eq!(ledger.judge(&State::new()), []);
    assert!(!ledger.judge(&state(&[("a", &value)])).is_empty());
    assert_eq!(ledger.refused(), 1);
}

#[test]
fn a_value_with_foreign_bytes_is_torn() {
    let mut ledger = Ledger::new(1);
    let mut value = set(&mut ledger, "a");
    value.replace_range(value.len() - 1.., "~");
    assert!(matches!(
        ledger.judge(&state(&[("a", &value)]))[..],
        [Fault::Torn { .. }]
    ));
}

#[test]
fn a_command_on_two_keys_is_there_whole_or_not_at_all() {
    let mut ledger = Ledger::new(3);
    let (a, b) = (ledger.fresh_value(), ledger.fresh_value());
    ledger.attempt(Op::SetAll(vec![
        ("a".to_owned(), a.clone()),
        ("b".to_owned(), b.clone()),
    ]));
    assert_eq!(ledger.judge(&State::new()), []);
    assert_eq!(ledger.judge(&state(&[("a", &a), ("b", &b)])), []);
    assert_eq!(
        ledger.judge(&state(&[("a", &a)])),
        [Fault::Mixed { writer: 3 }]
    );
}

#[test]
fn a_later_unanswered_write_is_not_there_without_an_earlier_one() {
    let mut ledger = Ledger::new(3);
    let a = set(&mut ledger, "a");
    let b = set(&mut ledger, "b");
    assert_eq!(ledger.judge(&state(&[("a", &a)])), []);
    assert_eq!(
        ledger.judge(&state(&[("b", &b)])),
        [Fault::Mixed { writer: 3 }]
    );
}

#[test]
fn what_was_seen_after_a_takeover_must_stay() {
    for there in [true, false] {
        let mut ledger = Ledger::new(1);
        let value = set(&mut ledger, "a");
        let with = state(&[("a", &value)]);
        let (seen, other) = if there {
            (with, State::new())
        } else {
            (State::new(), with)
        };
        assert_eq!(ledger.judge(&seen), []);
        ledger.settle(&seen);
        assert_eq!(ledger.judge(&seen), []);
        assert!(matches!(ledger.judge(&other)[..], [Fault::Changed { .. }]));
    }
}

#[test]
fn a_deleted_key_must_not_come_back() {
    let mut ledger = Ledger::new(1);
    let value = set_answered(&mut ledger, "a");
    ledger.attempt(Op::Delete("a".to_owned()));
    ledger.answer(&Reply::Integer(1));
    assert_eq!(ledger.judge(&State::new()), []);
    assert!(matches!(
        ledger.judge(&state(&[("a", &value)]))[..],
        [Fault::Lost { .. }]
    ));
}

#[test]
fn a_counter_counts_each_answer_once() {
    let mut ledger = Ledger::new(1);
    for n in 1..=3 {
        ledger.attempt(Op::Increment("n".to_owned()));
        ledger.answer(&Reply::Integer(n));
    }
    ledger.attempt(Op::Increment("n".to_owned()));
    let found = |n: i64| ledger.judge(&state(&[("n", &n.to_string())]));
    assert_eq!(found(3), []);
    assert_eq!(found(4), []);
    assert!(matches!(found(2)[..], [Fault::Lost { .. }]));
    assert!(matches!(found(5)[..], [Fault::Stray { .. }]));
}

#[test]
fn a_wrong_answer_during_the_load_is_kept() {
    let mut ledger = Ledger::new(1);
    ledger.attempt(Op::Increment("n".to_owned()));
    ledger.answer(&Reply::Integer(2));
    ledger.attempt(Op::Get("n".to_owned()));
    ledger.answer(&Reply::Bulk(None));
    let faults = ledger.judge(&state(&[("n", &"1".to_owned())]));
    assert_eq!(faults.len(), 2);
    assert!(faults.iter().all(|f| matches!(f, Fault::Answer { .. })));
}
