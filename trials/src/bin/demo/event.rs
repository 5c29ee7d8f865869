//! What happens in a demonstration, apart from how it is shown.
//!
//! In the lab the demonstration runs inside a machine and its events come out
//! as lines of JSON, to be shown by a program outside.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Takes events, from any thread.
pub(crate) type Emit = Arc<dyn Fn(Event) + Send + Sync>;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A new part begins.
    Step {
        /// What is being done, for a person.
        text: String,
    },
    /// Writes were acknowledged.
    Progress {
        /// So many until now.
        done: u64,
        /// So many in all.
        total: u64,
    },
    /// A program printed a line.
    Console {
        /// The program.
        source: String,
        /// The line.
        line: String,
    },
    /// It is over.
    Verdict(Verdict),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Writes that a server acknowledged, before or after the takeover.
    pub(crate) acknowledged: u64,
    /// Those of them that are there at the end.
    pub(crate) found: u64,
    /// Those that are not.
    pub(crate) lost: u64,
    /// Seconds from the kill to the first write acknowledged after it.
    pub(crate) takeover: f64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A process takes over faster than one decimal could show.
        let decimals = if self.takeover < 0.95 { 3 } else { 1 };
        write!(
            f,
            "acknowledged {}, found {}, lost {}, takeover {:.decimals$} s",
            self.acknowledged, self.found, self.lost, self.takeover
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_form_that_is_promised() {
        let verdict = Verdict {
            acknowledged: 20_000,
            found: 20_000,
            lost: 0,
            takeover: 5.23,
        };
        assert_eq!(
            verdict.to_string(),
            "acknowledged 20000, found 20000, lost 0, takeover 5.2 s"
        );
        let fast = Verdict {
            takeover: 0.0421,
            ..verdict
        };
        assert!(fast.to_string().ends_with("takeover 0.042 s"));
    }

    #[test]
    fn events_come_back_from_their_json() {
        let events = [
            Event::Step { text: "a".into() },
            Event::Progress { done: 1, total: 2 },
            Event::Verdict(Verdict {
                acknowledged: 1,
                found: 1,
                lost: 0,
                takeover: 0.5,
            }),
        ];
        for event in events {
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }
    }
}
