//! The encoded form of a delta.
//!
//! ```text
//! payload := run*
//! run     := offset u64 LE, length u32 LE, length bytes
//! ```
//!
//! Runs ascend and do not overlap; each has at least one byte and lies in the
//! area. A payload that breaks a rule is refused as a whole, so nothing is ever
//! applied in part.

use crate::{Chain, Epoch, PAGE_SIZE_U64};

/// Bytes before the data of a run.
pub(crate) const RUN_HEADER_LEN: usize = 12;

/// Changed bytes of one epoch, checked against the size of its area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    epoch: Epoch,
    previous: Chain,
    payload: Vec<u8>,
}

/// One contiguous change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Distance of the first byte from the area's start, in bytes.
    pub offset: u64,
    /// The bytes after the change.
    pub bytes: &'a [u8],
}

/// Why bytes are not a delta for an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The payload ends inside a run.
    #[error("delta is cut short at byte {at} of {len}")]
    Truncated {
        /// Offset in the payload where a whole run was expected.
        at: usize,
        /// Length of the payload in bytes.
        len: usize,
    },
    /// A run leaves the area, is empty, or does not follow the one before it.
    #[error(
        "delta has a bad run at byte {at}: offset {offset}, length {len}, area {area_len} bytes"
    )]
    BadRun {
        /// Offset of the run's header in the payload.
        at: usize,
        /// The run's offset in the area.
        offset: u64,
        /// The run's length in bytes.
        len: u32,
        /// Length of the area in bytes.
        area_len: u64,
    },
}

/// Upper bound in bytes of an encoded delta for an area of `area_len` bytes.
///
/// Each run header is paid for by a gap of more than its own length, except the
/// first of each page.
#[must_use]
pub fn max_encoded_len(area_len: u64) -> u64 {
    area_len.saturating_add(
        area_len
            .div_ceil(PAGE_SIZE_U64)
            .saturating_mul(RUN_HEADER_LEN as u64),
    )
}

pub(crate) fn push_run(payload: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a run lies within one page");
    payload.extend_from_slice(&offset.to_le_bytes());
    payload.extend_from_slice(&len.to_le_bytes());
    payload.extend_from_slice(bytes);
}

impl Delta {
    /// Takes a payload that the diff made, so that it is known to be sound.
    pub(crate) fn from_checked(epoch: Epoch, previous: Chain, payload: Vec<u8>) -> Self {
        Self {
            epoch,
            previous,
            payload,
        }
    }

    /// Checks bytes from a file or a peer.
    ///
    /// # Errors
    /// [`DecodeError`] names the first run that is not sound for an area of
    /// `area_len` bytes.
    pub fn decode(
        epoch: Epoch,
        previous: Chain,
        payload: Vec<u8>,
        area_len: u64,
    ) -> Result<Self, DecodeError> {
        let mut at = 0;
        let mut free_from = 0;
        while at < payload.len() {
            let truncated = DecodeError::Truncated {
                at,
                len: payload.len(),
            };
            let (offset, len) = run_header(&payload, at).ok_or(truncated)?;
            let end = offset.checked_add(u64::from(len));
            let sound = len > 0 && offset >= free_from && end.is_some_and(|end| end <= area_len);
            let (true, Some(end)) = (sound, end) else {
                return Err(DecodeError::BadRun {
                    at,
                    offset,
                    len,
                    area_len,
                });
            };
            free_from = end;
            let data = at + RUN_HEADER_LEN;
            at = data + len as usize;
            if at > payload.len() {
                return Err(truncated);
            }
        }
        Ok(Self::from_checked(epoch, previous, payload))
    }

    /// The epoch this delta leads to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The chain of the epoch this delta starts from.
    #[must_use]
    pub fn previous(&self) -> Chain {
        self.previous
    }

    /// The chain of the epoch this delta leads to.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.previous.after(&self.payload)
    }

    /// The encoded runs.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The buffer, to be filled again.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The runs in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (offset, len) = run_header(&self.payload, at)?;
            let data = at + RUN_HEADER_LEN;
            at = data + len as usize;
            Some(Run {
                offset,
                bytes: &self.payload[data..at],
            })
        })
    }

    /// Brings an image of the epoch before to this epoch.
    ///
    /// # Panics
    /// If `image` is shorter than the area the delta was checked for: the
    /// caller mixed up two areas, and going on would lose data.
    pub fn apply(&self, image: &mut [u8]) {
        for run in self.runs() {
            let start = usize::try_from(run.offset).expect("a checked run lies in memory");
            image[start..start + run.bytes.len()].copy_from_slice(run.bytes);
        }
    }
}

fn run_header(payload: &[u8], at: usize) -> Option<(u64, u32)> {
    let offset = payload.get(at..at + 8)?.try_into().ok()?;
    let len = payload.get(at + 8..at + RUN_HEADER_LEN)?.try_into().ok()?;
    Some((u64::from_le_bytes(offset), u32::from_le_bytes(len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(payload: &[u8]) -> Result<Delta, DecodeError> {
        Delta::decode(Epoch(1), Chain::START, payload.to_vec(), 8192)
    }

    fn runs(list: &[(u64, &[u8])]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (offset, bytes) in list {
            push_run(&mut payload, *offset, bytes);
        }
        payload
    }

    #[test]
    fn runs_that_break_a_rule_are_refused() {
        let cases: [&[(u64, &[u8])]; 5] = [
            &[(8190, &[1, 2, 3])],
            &[(u64::MAX, &[1])],
            &[(5, &[])],
            &[(5, &[1, 2]), (6, &[1])],
            &[(5, &[1]), (4, &[1])],
        ];
        for case in cases {
            assert!(
                matches!(decode(&runs(case)), Err(DecodeError::BadRun { .. })),
                "{case:?}"
            );
        }
        assert!(decode(&runs(&[(5, &[1]), (6, &[1]), (8191, &[1])])).is_ok());
    }

    #[test]
    fn every_truncation_is_found_or_ends_between_runs() {
        let whole = runs(&[(0, &[1, 2, 3]), (100, &[4])]);
        for len in 1..whole.len() {
            let cut = decode(&whole[..len]);
            if len == 15 {
                assert!(cut.is_ok());
            } else {
                assert!(cut.is_err(), "{len}");
            }
        }
    }

    #[test]
    fn the_chain_depends_on_every_delta_before_it() {
        let one = Chain::START.after(b"a").after(b"b");
        let two = Chain::START.after(b"c").after(b"b");
        assert_ne!(one, two);
        assert_ne!(Chain::START.after(b""), Chain::START);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(delta) = decode(&bytes) {
                let mut image = vec![0; 8192];
                delta.apply(&mut image);
                prop_assert!(delta.payload().len() as u64 <= max_encoded_len(8192) || delta.runs().count() > 2);
            }
        }
    }
}
