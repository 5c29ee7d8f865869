//! Why somebody is told no.

use afterimage_delta::{Epoch, Term};
use std::fmt;

/// Why a peer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The reason, for programs.
    pub code: RefusalCode,
    /// Term that the refuser is in.
    pub term: Term,
    /// Last epoch that the refuser holds.
    pub epoch: Epoch,
    /// The reason, for people, with what to do.
    pub text: String,
}

/// Why a peer was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// A newer primary reigns.
    Fenced,
    /// Another primary reigns and nobody promoted.
    Reigned,
    /// The target holds more than the sender.
    Fuller,
    /// Same epoch, other history.
    Diverged,
    /// The area has another length.
    Length,
    /// There is no such area.
    Unknown,
    /// A delta does not follow what the target holds.
    Order,
    /// What was sent is not a message, or not one that is expected now.
    Malformed,
    /// The target cannot store.
    Failed,
    /// The target has no room for another area or connection.
    Full,
    /// A reason that this version does not know.
    Other(u16),
}

impl RefusalCode {
    const KNOWN: [Self; 10] = [
        Self::Fenced,
        Self::Reigned,
        Self::Fuller,
        Self::Diverged,
        Self::Length,
        Self::Unknown,
        Self::Order,
        Self::Malformed,
        Self::Failed,
        Self::Full,
    ];

    /// The number on the wire: 1 for the first of the known ones, and so on.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Other(code) => code,
            known => (1..)
                .zip(Self::KNOWN)
                .find(|(_, k)| *k == known)
                .map_or(0, |(code, _)| code),
        }
    }

    /// The reason behind a number.
    #[must_use]
    pub fn from_code(code: u16) -> Self {
        (1..)
            .zip(Self::KNOWN)
            .find(|(c, _)| *c == code)
            .map_or(Self::Other(code), |(_, known)| known)
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_codes_lead_back() {
        for code in 0..20 {
            assert_eq!(RefusalCode::from_code(code).code(), code);
        }
    }
}
