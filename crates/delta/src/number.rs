//! The counters that order history: epochs, terms and the chain of checksums.

use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The one that follows this one.
            ///
            /// Saturates: at one a nanosecond the last is five centuries away.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Number of a commit, 1, 2, 3 ... per area; never reused. Zero is the
    /// area as it was made, all bytes zero.
    Epoch
}

counter! {
    /// Number of a primary's reign over an area; a new primary has a higher
    /// one and targets refuse lower ones. Zero is no reign at all.
    Term
}

/// Checksum over all deltas up to an epoch: two holders with the same epoch and
/// chain hold the same history.
///
/// `chain(n) = crc32c(chain(n-1) as 4 bytes little endian ++ payload(n))`,
/// `chain(0) = 0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub u32);

impl Chain {
    /// The chain of an area without commits.
    pub const START: Self = Self(0);

    /// The chain after one more delta, given its encoded bytes.
    #[must_use]
    pub fn after(self, payload: &[u8]) -> Self {
        Self(crate::checksum_append(
            crate::checksum(&self.0.to_le_bytes()),
            payload,
        ))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
