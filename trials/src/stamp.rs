//! Values that say who wrote them, and that show when a byte is wrong.

use crate::dice::Dice;

/// Which write a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The connection that wrote it.
    pub writer: u32,
    /// The number of the write among those of this connection.
    pub sequence: u64,
}

/// What a value that was read turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Some write's value, every byte of it.
    Sound(Stamp),
    /// No write's value.
    Torn,
}

impl Stamp {
    /// The value: the stamp in front, then 16 to 128 bytes that follow from it,
    /// and now and then some pages of them.
    #[must_use]
    pub fn value(self) -> String {
        let mut dice = Dice::new(self.sequence << 20 | u64::from(self.writer));
        let words = match dice.below(32) {
            0 => 600,
            other => 1 + other % 8,
        };
        let tail: String = (0..words)
            .map(|_| format!("{:016x}", dice.roll()))
            .collect();
        format!("w{}.s{}.{tail}", self.writer, self.sequence)
    }

    /// What `value` is.
    #[must_use]
    pub fn read(value: &str) -> Reading {
        let parse = || {
            let mut parts = value.splitn(3, '.');
            let writer = parts.next()?.strip_prefix('w')?.parse().ok()?;
            let sequence = parts.next()?.strip_prefix('s')?.parse().ok()?;
            Some(Self { writer, sequence }).filter(|stamp| stamp.value() == value)
        };
        parse().map_or(Reading::Torn, Reading::Sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_any_byte_changed_or_missing_is_torn() {
        for sequence in 0..50 {
            let stamp = Stamp {
                writer: 7,
                sequence,
            };
            let value = stamp.value();
            assert_eq!(Stamp::read(&value), Reading::Sound(stamp));
            for cut in 0..value.len() {
                assert_eq!(Stamp::read(&value[..cut]), Reading::Torn);
                let mut changed = value.clone().into_bytes();
                changed[cut] ^= 1;
                let changed = String::from_utf8(changed).unwrap();
                assert_ne!(Stamp::read(&changed), Reading::Sound(stamp));
            }
        }
    }
}
