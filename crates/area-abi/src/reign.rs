//! Who may write to an area's targets.

use afterimage_delta::Term;
use std::fmt;

/// Identity of a primary, chosen at random when it starts its reign: tells a
/// primary that reconnects from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrimaryId(pub [u8; 16]);

impl fmt::Display for PrimaryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A term, and who reigns in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reign {
    /// The term; zero before the first primary.
    pub term: Term,
    /// The primary of that term; `None` while the term was given out by a
    /// promotion and nobody has claimed it yet.
    pub primary: Option<PrimaryId>,
}
