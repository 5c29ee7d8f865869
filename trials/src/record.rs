//! The client's own record, which is the judge.
//!
//! A client knows what it asked for and what was answered. From this alone
//! follows what may be found after a takeover: everything acknowledged, and of
//! the unanswered commands of a connection a beginning, each command whole or
//! not at all. What was once read after a takeover must stay as it is.

use crate::fault::Fault;
use crate::ledger::{Ledger, State};
use std::collections::{BTreeMap, BTreeSet};

/// The records of all connections.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Connections that write, each on its own keys.
    pub ledgers: Vec<Ledger>,
    /// Connections that read the others' counters.
    pub sightings: Vec<Sightings>,
}

impl Record {
    /// Empty records.
    #[must_use]
    pub fn new(writers: u32, readers: usize) -> Self {
        Self {
            ledgers: (0..writers).map(Ledger::new).collect(),
            sightings: vec![Sightings::default(); readers],
        }
    }

    /// Commands acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.ledgers.iter().map(Ledger::acknowledged).sum()
    }

    /// Commands answered with an error so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.ledgers.iter().map(Ledger::refused).sum()
    }

    /// Every key that is to be read for a judgement.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        let written = self.ledgers.iter().flat_map(Ledger::keys);
        let read = self.sightings.iter().flat_map(Sightings::keys);
        written.chain(read).map(str::to_owned).collect()
    }

    /// Judges what is found now; no fault means that all is well.
    #[must_use]
    pub fn judge(&self, found: &State) -> Vec<Fault> {
        let written = self.ledgers.iter().flat_map(|ledger| ledger.judge(found));
        let read = self.sightings.iter().flat_map(|seen| seen.judge(found));
        written.chain(read).collect()
    }

    /// Takes what was found as what is true from now on.
    pub fn settle(&mut self, found: &State) {
        for ledger in &mut self.ledgers {
            ledger.settle(found);
        }
    }
}

/// Numbers of counters that somebody read while others counted. They never go
/// down, so what was read once must be there for ever.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    highest: BTreeMap<String, i64>,
    faults: Vec<Fault>,
}

impl Sightings {
    /// Notes that `key` was read as `number`.
    pub fn note(&mut self, key: &str, number: i64) {
        let highest = self.highest.entry(key.to_owned()).or_insert(number);
        if number < *highest {
            self.faults.push(Fault::Unseen {
                key: key.to_owned(),
                seen: *highest,
                found: number,
            });
        }
        *highest = number.max(*highest);
    }

    /// The counters read so far.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.highest.keys().map(String::as_str)
    }

    /// Judges what is found now.
    #[must_use]
    pub fn judge(&self, found: &State) -> Vec<Fault> {
        let mut faults = self.faults.clone();
        for (key, &seen) in &self.highest {
            let found = found
                .get(key)
                .and_then(|value| value.parse().ok())
                .unwrap_or(0);
            if found < seen {
                faults.push(Fault::Unseen {
                    key: key.clone(),
                    seen,
                    found,
                });
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_somebody_read_must_stay() {
        let mut sightings = Sightings::default();
        sightings.note("n", 7);
        let found = |n: i64| sightings.judge(&State::from([("n".to_owned(), n.to_string())]));
        assert_eq!(found(7), []);
        assert_eq!(found(9), []);
        assert_eq!(
            found(6),
            [Fault::Unseen {
                key: "n".to_owned(),
                seen: 7,
                found: 6
            }]
        );
        sightings.note("n", 6);
        let seven = State::from([("n".to_owned(), "7".to_owned())]);
        assert_eq!(sightings.judge(&seven).len(), 1);
    }
}
