//! The record of one connection.
//!
//! Each connection has keys of its own, so that its record does not depend on
//! the order in which a server served different connections.

use crate::fault::Fault;
use crate::resp::Reply;
use crate::stamp::{Reading, Stamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Keys and their values, as text.
pub type State = BTreeMap<String, String>;

/// A command on the keys of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `SET key value`
    Set(String, String),
    /// `MSET key value ...`
    SetAll(Vec<(String, String)>),
    /// `INCR key`
    Increment(String),
    /// `DEL key`
    Delete(String),
    /// `GET key`
    Get(String),
}

impl Op {
    /// The words to send.
    #[must_use]
    pub fn words(&self) -> Vec<&[u8]> {
        match self {
            Self::Set(key, value) => vec![b"SET", key.as_bytes(), value.as_bytes()],
            Self::SetAll(pairs) => std::iter::once(&b"MSET"[..])
                .chain(
                    pairs
                        .iter()
                        .flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]),
                )
                .collect(),
            Self::Increment(key) => vec![b"INCR", key.as_bytes()],
            Self::Delete(key) => vec![b"DEL", key.as_bytes()],
            Self::Get(key) => vec![b"GET", key.as_bytes()],
        }
    }

    /// The keys it changes.
    fn changes(&self) -> Vec<&String> {
        match self {
            Self::Set(key, _) | Self::Increment(key) | Self::Delete(key) => vec![key],
            Self::SetAll(pairs) => pairs.iter().map(|(key, _)| key).collect(),
            Self::Get(_) => Vec::new(),
        }
    }

    /// Carries it out on `state`; the answer that a server must give.
    fn apply(&self, state: &mut State) -> Reply {
        match self {
            Self::Set(key, value) => {
                state.insert(key.clone(), value.clone());
                Reply::Simple("OK".to_owned())
            }
            Self::SetAll(pairs) => {
                state.extend(pairs.iter().cloned());
                Reply::Simple("OK".to_owned())
            }
            Self::Increment(key) => {
                let number = 1 + state
                    .get(key)
                    .and_then(|value| value.parse::<i64>().ok())
                    .unwrap_or(0);
                state.insert(key.clone(), number.to_string());
                Reply::Integer(number)
            }
            Self::Delete(key) => Reply::Integer(i64::from(state.remove(key).is_some())),
            Self::Get(key) => Reply::Bulk(state.get(key).map(|value| value.as_bytes().to_vec())),
        }
    }
}

/// The record of one connection (and of those that come after it, in the same
/// name).
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    writer: u32,
    keys: BTreeSet<String>,
    /// As all acknowledged commands left it.
    safe: State,
    /// Keys that nobody changed since they were read after a takeover.
    settled: BTreeSet<String>,
    unanswered: VecDeque<Op>,
    acknowledged: u64,
    next_sequence: u64,
    refused: u64,
    faults: Vec<Fault>,
}

impl Ledger {
    /// The empty record of connection `writer`.
    #[must_use]
    pub fn new(writer: u32) -> Self {
        Self {
            writer,
            ..Self::default()
        }
    }

    /// The number of the connection.
    #[must_use]
    pub fn writer(&self) -> u32 {
        self.writer
    }

    /// Commands acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Commands that were answered with an error.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// A value that was never used before.
    pub fn fresh_value(&mut self) -> String {
        self.next_sequence += 1;
        Stamp {
            writer: self.writer,
            sequence: self.next_sequence,
        }
        .value()
    }

    /// Notes a command, before its first byte is sent.
    pub fn attempt(&mut self, op: Op) {
        for key in op.changes() {
            self.keys.insert(key.clone());
        }
        self.unanswered.push_back(op);
    }

    /// Notes the answer to the oldest unanswered command. An error means that
    /// it was not done.
    pub fn answer(&mut self, reply: &Reply) {
        let Some(op) = self.unanswered.pop_front() else {
            self.faults.push(Fault::Answer {
                asked: "nothing".to_owned(),
                answered: format!("{reply:?}"),
                expected: "silence".to_owned(),
            });
            return;
        };
        if let Reply::Error(_) = reply {
            self.refused += 1;
            return;
        }
        for key in op.changes() {
            self.settled.remove(key);
        }
        let expected = op.apply(&mut self.safe);
        self.acknowledged += 1;
        if *reply != expected {
            self.faults.push(Fault::Answer {
                asked: format!("{op:?}"),
                answered: format!("{reply:?}"),
                expected: format!("{expected:?}"),
            });
        }
    }

    /// All keys it ever tried to change.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// Judges what is found now. `found` may hold other connections' keys too.
    #[must_use]
    pub fn judge(&self, found: &State) -> Vec<Fault> {
        let mut faults = self.faults.clone();
        let found: State = self
            .keys
            .iter()
            .filter_map(|key| Some((key.clone(), found.get(key)?.clone())))
            .collect();
        let candidates = self.candidates();
        if candidates.contains(&found) {
            return faults;
        }
        let before = faults.len();
        for key in &self.keys {
            let value = found.get(key);
            if !candidates.iter().any(|state| state.get(key) == value) {
                faults.push(self.fault(key, value.cloned()));
            }
        }
        if faults.len() == before {
            faults.push(Fault::Mixed {
                writer: self.writer,
            });
        }
        faults
    }

    /// Takes what was found as what is true from now on: of the unanswered
    /// commands nothing more may appear, and nothing may go.
    pub fn settle(&mut self, found: &State) {
        for key in self.unanswered.iter().flat_map(Op::changes) {
            match found.get(key) {
                Some(value) => self.safe.insert(key.clone(), value.clone()),
                None => self.safe.remove(key),
            };
        }
        self.unanswered.clear();
        self.settled = self.keys.clone();
        self.faults.clear();
    }

    /// The states that may be found: all acknowledged commands, and then none,
    /// one, two ... of the unanswered ones.
    fn candidates(&self) -> Vec<State> {
        let mut state = self.safe.clone();
        let mut states = vec![state.clone()];
        for op in &self.unanswered {
            op.apply(&mut state);
            states.push(state.clone());
        }
        states
    }

    fn fault(&self, key: &str, found: Option<String>) -> Fault {
        let key = key.to_owned();
        let safe = self.safe.get(&key).cloned();
        if self.settled.contains(&key) {
            return Fault::Changed {
                key,
                found,
                seen: safe,
            };
        }
        if let Some(found) = &found
            && found.parse::<i64>().is_err()
            && Stamp::read(found) == Reading::Torn
        {
            return Fault::Torn {
                key,
                found: found.clone(),
            };
        }
        if is_older(found.as_deref(), safe.as_deref()) {
            return Fault::Lost {
                key,
                found,
                acknowledged: safe,
            };
        }
        Fault::Stray { key, found }
    }
}

/// Whether `found` is what a key held before it held `safe`. A deleted key that
/// is there again is an acknowledged deletion lost.
fn is_older(found: Option<&str>, safe: Option<&str>) -> bool {
    let (found, safe) = match (found, safe) {
        (None, Some(_)) | (Some(_), None) => return true,
        (None, None) => return false,
        (Some(found), Some(safe)) => (found, safe),
    };
    match (Stamp::read(found), Stamp::read(safe)) {
        (Reading::Sound(found), Reading::Sound(safe)) => found < safe,
        _ => match (found.parse::<i64>(), safe.parse::<i64>()) {
            (Ok(found), Ok(safe)) => found < safe,
            _ => false,
        },
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
