//! What a judge may find.

use std::fmt;

/// Something that a server must not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An acknowledged write is not there.
    Lost {
        /// The key.
        key: String,
        /// What is there instead.
        found: Option<String>,
        /// What was acknowledged.
        acknowledged: Option<String>,
    },
    /// A value that nobody wrote.
    Torn {
        /// The key.
        key: String,
        /// What is there.
        found: String,
    },
    /// A value that was written at some time, but cannot be there now.
    Stray {
        /// The key.
        key: String,
        /// What is there.
        found: Option<String>,
    },
    /// What was read after an earlier takeover has changed since, though nobody
    /// wrote.
    Changed {
        /// The key.
        key: String,
        /// What is there now.
        found: Option<String>,
        /// What was read then.
        seen: Option<String>,
    },
    /// Each value by itself may be there, but not all of them together: a
    /// command is there in part, or a later one without an earlier one.
    Mixed {
        /// The connection.
        writer: u32,
    },
    /// A reply during the load was wrong.
    Answer {
        /// What was asked.
        asked: String,
        /// What was answered.
        answered: String,
        /// What should have been.
        expected: String,
    },
    /// Somebody read a number of a counter that is lower now.
    Unseen {
        /// The counter.
        key: String,
        /// What somebody read.
        seen: i64,
        /// What is there.
        found: i64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn shown(value: &Option<String>) -> &str {
            value.as_deref().unwrap_or("nothing")
        }
        match self {
            Self::Lost {
                key,
                found,
                acknowledged,
            } => write!(
                f,
                "lost: {key} holds {} although {} was acknowledged",
                shown(found),
                shown(acknowledged)
            ),
            Self::Torn { key, found } => {
                write!(f, "torn: {key} holds {found}, which nobody wrote")
            }
            Self::Stray { key, found } => {
                write!(f, "stray: {key} holds {}, out of its time", shown(found))
            }
            Self::Changed { key, found, seen } => write!(
                f,
                "changed: {key} held {} after the takeover and holds {} now",
                shown(seen),
                shown(found)
            ),
            Self::Mixed { writer } => write!(
                f,
                "mixed: the values of connection {writer} are of no one time"
            ),
            Self::Answer {
                asked,
                answered,
                expected,
            } => write!(f, "answer: {asked} got {answered} instead of {expected}"),
            Self::Unseen { key, seen, found } => {
                write!(f, "unseen: {key} was read as {seen} and is {found} now")
            }
        }
    }
}
