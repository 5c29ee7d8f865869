//! What a commit waits for, and what it came to.

use afterimage_delta::Term;
use std::fmt;
use std::str::FromStr;

/// What a commit waits for before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The image beside the area has it. In a guest that survives the
    /// application and the guest's kernel; in a process, nothing.
    Local,
    /// Also handed to the link towards the targets; nothing is known of its
    /// arrival.
    Sent,
    /// A quorum of targets has it in memory and in its page cache: survives
    /// the loss of the primary's machine.
    Replicated,
    /// A quorum of targets has it on disk: survives the loss of power
    /// everywhere.
    Durable,
}

/// What a commit came to. It never says less than what is known, nor more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "an outcome other than `Held` means that less is safe than was asked for"]
pub enum Outcome {
    /// The level asked for holds at this many targets (0 for [`Level::Local`]).
    Held {
        /// Number of targets at which the level holds.
        targets: u32,
    },
    /// The application was let go on although fewer targets than the quorum
    /// hold it, because the setting for a lost target says so.
    Degraded {
        /// Number of targets at which the level holds.
        held: u32,
        /// The quorum.
        wanted: u32,
    },
    /// It was sent, and then contact was lost: targets may or may not hold it.
    InDoubt,
    /// A target has a newer primary; this one must stop. As with
    /// [`Outcome::InDoubt`], the transaction may or may not be part of the newer
    /// primary's history: a target may have had it when it was promoted.
    Fenced {
        /// The newer primary's term.
        term: Term,
    },
}

impl Outcome {
    /// Whether the level asked for holds at the quorum.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { targets } => write!(f, "held by {targets} targets"),
            Self::Degraded { held, wanted } => {
                write!(f, "degraded: held by {held} of {wanted} targets")
            }
            Self::InDoubt => f.write_str("in doubt: sent, but not acknowledged"),
            Self::Fenced { term } => write!(f, "fenced: a newer primary reigns in term {term}"),
        }
    }
}

impl Level {
    /// The word used in settings.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Sent => "sent",
            Self::Replicated => "replicated",
            Self::Durable => "durable",
        }
    }

    /// The number used in the control page and on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Local => 1,
            Self::Sent => 2,
            Self::Replicated => 3,
            Self::Durable => 4,
        }
    }

    /// The level behind a number from the control page or the wire.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Local),
            2 => Some(Self::Sent),
            3 => Some(Self::Replicated),
            4 => Some(Self::Durable),
            _ => None,
        }
    }
}

/// A setting holds a word that is not one of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {word:?}: use one of {known}")]
pub struct UnknownWord {
    /// What was read.
    pub what: &'static str,
    /// The word found.
    pub word: String,
    /// The words that would do.
    pub known: &'static str,
}

impl FromStr for Level {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        [Self::Local, Self::Sent, Self::Replicated, Self::Durable]
            .into_iter()
            .find(|level| level.word() == word)
            .ok_or_else(|| UnknownWord {
                what: "level",
                word: word.to_owned(),
                known: "local, sent, replicated, durable",
            })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_lead_back_to_their_level() {
        for code in 0..=u8::MAX {
            if let Some(level) = Level::from_code(code) {
                assert_eq!(level.code(), code);
                assert_eq!(level.word().parse(), Ok(level));
            }
        }
        assert!("fast".parse::<Level>().is_err());
    }
}
