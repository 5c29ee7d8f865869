//! Names of areas.

use std::fmt;
use std::str::FromStr;

/// Name of an area: 1 to 63 of `a-z A-Z 0-9 - _ .`, not starting with a dot, so
/// that it is a file name and a word in any log without quoting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AreaName(String);

/// The text is no name for an area.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad area name {0:?}: use 1 to {max} letters, digits, '-', '_' or '.', not starting with '.'", max = AreaName::MAX_LEN)]
pub struct BadName(String);

impl AreaName {
    /// Longest name in bytes; one less than the field in the control page, so
    /// that C can read it as a string.
    pub const MAX_LEN: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in a field of 64 bytes, padded with zeros.
    #[must_use]
    pub fn to_field(&self) -> [u8; 64] {
        let mut field = [0; 64];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }

    /// Reads a field of 64 bytes.
    ///
    /// # Errors
    /// [`BadName`] if it is not a zero-padded name.
    pub fn from_field(field: &[u8; 64]) -> Result<Self, BadName> {
        let len = field.iter().position(|&b| b == 0).unwrap_or(field.len());
        let bad = || BadName(String::from_utf8_lossy(&field[..len]).into_owned());
        if field[len..].iter().any(|&b| b != 0) {
            return Err(bad());
        }
        std::str::from_utf8(&field[..len])
            .map_err(|_| bad())?
            .parse()
    }
}

impl FromStr for AreaName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let sound = (1..=Self::MAX_LEN).contains(&text.len())
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for AreaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<AreaName>().is_err(), "{bad}");
        }
        assert!("x".repeat(63).parse::<AreaName>().is_ok());
    }

    #[test]
    fn a_field_with_bytes_after_the_end_is_refused() {
        let mut field = "kv".parse::<AreaName>().unwrap().to_field();
        assert_eq!(AreaName::from_field(&field).unwrap().as_str(), "kv");
        field[10] = b'x';
        assert!(AreaName::from_field(&field).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_fields_never_panic(field in any::<[u8; 32]>()) {
            let mut whole = [0; 64];
            whole[..32].copy_from_slice(&field);
            if let Ok(name) = AreaName::from_field(&whole) {
                prop_assert_eq!(name.to_field(), whole);
            }
        }
    }
}
