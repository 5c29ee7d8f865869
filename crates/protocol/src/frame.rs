//! Frames: how a message is cut out of a stream of bytes.
//!
//! ```text
//! 0   magic     4 bytes  "AFI1"
//! 4   kind      u8       which message
//! 5   flags     u8       1: more frames of this message follow
//! 6   reserved  u16      0
//! 8   length    u32 LE   bytes of payload that follow, at most 1 MiB
//! 12  checksum  u32 LE   CRC-32C of bytes 0..12 and the payload
//! 16  payload
//! ```
//!
//! Nothing is allocated by a length that was announced: buffers grow with the
//! bytes that arrive, up to a limit that the reader's owner sets.

use afterimage_delta::{checksum, checksum_append};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"AFI1";
/// Bytes before the payload.
pub const HEADER_LEN: usize = 16;
/// Most payload bytes in one frame: large enough that headers do not matter,
/// small enough that a peer's buffer for one frame is nothing to worry about.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Most bytes of a message before the peer has said which area it is about:
/// what `Hello`, `Promote` and their answers need, with room.
pub const MAX_GREETING: usize = 4096;

const MORE: u8 = 1;

/// Why bytes are not a frame. The stream cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are wrong.
    #[error("not an Afterimage peer: a frame begins with {found:02x?} instead of \"AFI1\"")]
    Magic {
        /// What was there.
        found: [u8; 4],
    },
    /// The length is over the limit.
    #[error("frame of {len} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLong {
        /// The announced length in bytes.
        len: u32,
    },
    /// The message is over the limit.
    #[error("message of more than {limit} bytes; nothing that long is expected here")]
    Endless {
        /// The limit in bytes.
        limit: usize,
    },
    /// Flags or reserved bytes that this version does not know.
    #[error("frame has unknown flags {flags:#x}")]
    Flags {
        /// The flags and reserved bytes.
        flags: u32,
    },
    /// A frame of another message came between the frames of one.
    #[error("message of kind {expected} was continued by one of kind {found}")]
    Interleaved {
        /// Kind of the message begun.
        expected: u8,
        /// Kind of the frame found.
        found: u8,
    },
    /// The bytes changed on the way.
    #[error(
        "checksum of a frame of kind {kind} is {found:08x}, its bytes give {computed:08x}: the connection garbles data"
    )]
    Checksum {
        /// The frame's kind.
        kind: u8,
        /// The checksum in the frame.
        found: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
}

/// A whole message, not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Which message.
    pub kind: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Appends a message made of two parts to `out`, in as many frames as needed.
pub fn write(out: &mut Vec<u8>, kind: u8, head: &[u8], tail: &[u8]) {
    let total = head.len() + tail.len();
    out.reserve(total + HEADER_LEN * (1 + total / MAX_PAYLOAD));
    let mut sent = 0;
    loop {
        let len = (total - sent).min(MAX_PAYLOAD);
        let more = sent + len < total;
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[kind, if more { MORE } else { 0 }, 0, 0]);
        let announced = u32::try_from(len).expect("MAX_PAYLOAD fits");
        out.extend_from_slice(&announced.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let (from, to) = (sent, sent + len);
        out.extend_from_slice(&head[from.min(head.len())..to.min(head.len())]);
        out.extend_from_slice(
            &tail[from.saturating_sub(head.len())..to.saturating_sub(head.len())],
        );
        let sum = frame_checksum(&out[start..start + 12], &out[start + HEADER_LEN..]);
        out[start + 12..start + HEADER_LEN].copy_from_slice(&sum.to_le_bytes());
        sent = to;
        if !more {
            return;
        }
    }
}

fn frame_checksum(header: &[u8], payload: &[u8]) -> u32 {
    checksum_append(checksum(header), payload)
}

/// Cuts messages out of the bytes of a stream.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were taken already.
    taken: usize,
    partial: Option<Body>,
    limit: usize,
    failed: Option<FrameError>,
}

impl Reader {
    /// A reader that accepts messages of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            taken: 0,
            partial: None,
            limit,
            failed: None,
        }
    }

    /// Changes the limit, for messages not begun yet.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether the stream may end here: no message is begun.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.taken == self.buffer.len() && self.partial.is_none()
    }

    /// Adds bytes as they arrive. The owner adds no more than about a frame
    /// before it asks for messages.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes came.
    ///
    /// # Errors
    /// [`FrameError`], and the same one ever after.
    pub fn take(&mut self) -> Result<Option<Body>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let next = self.advance();
        self.failed = next.as_ref().err().copied();
        next
    }

    fn advance(&mut self) -> Result<Option<Body>, FrameError> {
        while let Some((header, payload)) = split(&self.buffer[self.taken..])? {
            if let Some(begun) = &self.partial
                && begun.kind != header.kind
            {
                return Err(FrameError::Interleaved {
                    expected: begun.kind,
                    found: header.kind,
                });
            }
            let body = self.partial.get_or_insert_with(|| Body {
                kind: header.kind,
                bytes: Vec::new(),
            });
            if body.bytes.len() + payload.len() > self.limit {
                return Err(FrameError::Endless { limit: self.limit });
            }
            body.bytes.extend_from_slice(payload);
            self.taken += HEADER_LEN + payload.len();
            if !header.more {
                return Ok(self.partial.take());
            }
        }
        Ok(None)
    }
}

struct Header {
    kind: u8,
    more: bool,
}

/// The first frame of `bytes`, once all of it is there.
fn split(bytes: &[u8]) -> Result<Option<(Header, &[u8])>, FrameError> {
    if let Some(found) = bytes.first_chunk::<4>()
        && *found != MAGIC
    {
        return Err(FrameError::Magic { found: *found });
    }
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (kind, flags, len, found) = (header[4], header[5], word(8), word(12));
    if flags & !MORE != 0 || header[6] != 0 || header[7] != 0 {
        return Err(FrameError::Flags {
            flags: word(4) >> 8,
        });
    }
    let payload_len = len as usize;
    if payload_len > MAX_PAYLOAD {
        return Err(FrameError::TooLong { len });
    }
    let Some(payload) = bytes.get(HEADER_LEN..HEADER_LEN + payload_len) else {
        return Ok(None);
    };
    let computed = frame_checksum(&header[..12], payload);
    if found != computed {
        return Err(FrameError::Checksum {
            kind,
            found,
            computed,
        });
    }
    let more = flags & MORE != 0;
    Ok(Some((Header { kind, more }, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(list: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, bytes) in list {
            write(&mut out, *kind, bytes, &[]);
        }
        out
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = frames(&[(4, b"twelve bytes")]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut reader = Reader::new(MAX_GREETING);
            reader.push(&bad);
            // A longer length waits for bytes that never come; all else fails.
            assert!(!matches!(reader.take(), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_waits_for_the_rest() {
        let good = frames(&[(4, b"twelve bytes")]);
        for len in 0..good.len() {
            let mut reader = Reader::new(MAX_GREETING);
            reader.push(&good[..len]);
            assert_eq!(reader.take(), Ok(None));
            assert_eq!(reader.is_at_boundary(), len == 0);
            reader.push(&good[len..]);
            assert_eq!(reader.take().unwrap().unwrap().bytes, b"twelve bytes");
            assert!(reader.is_at_boundary());
        }
    }

    #[test]
    fn long_messages_are_cut_and_joined_but_endless_ones_refused() {
        let long = vec![7; 2 * MAX_PAYLOAD + 5];
        let mut out = Vec::new();
        write(
            &mut out,
            3,
            &long[..MAX_PAYLOAD + 2],
            &long[MAX_PAYLOAD + 2..],
        );
        let mut reader = Reader::new(long.len());
        reader.push(&out);
        assert_eq!(reader.take().unwrap().unwrap().bytes, long);
        let mut reader = Reader::new(long.len() - 1);
        reader.push(&out);
        assert!(matches!(reader.take(), Err(FrameError::Endless { .. })));
        assert!(matches!(reader.take(), Err(FrameError::Endless { .. })));
    }

    #[test]
    fn a_length_bomb_is_refused_by_its_header_alone() {
        let mut header = frames(&[(4, b"")]);
        header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut reader = Reader::new(usize::MAX);
        reader.push(&header);
        assert_eq!(reader.take(), Err(FrameError::TooLong { len: u32::MAX }));
    }

    #[test]
    fn messages_do_not_interleave() {
        let mut first = Vec::new();
        write(&mut first, 3, &vec![0; MAX_PAYLOAD + 1], &[]);
        first.truncate(HEADER_LEN + MAX_PAYLOAD);
        let mut reader = Reader::new(usize::MAX);
        reader.push(&first);
        reader.push(&frames(&[(4, b"x")]));
        assert!(matches!(reader.take(), Err(FrameError::Interleaved { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), magic in any::<bool>()) {
            let mut reader = Reader::new(64);
            if magic {
                reader.push(&MAGIC);
            }
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.take() {}
        }

        #[test]
        fn messages_arrive_however_the_stream_is_cut(
            bodies in prop::collection::vec((1u8..9, prop::collection::vec(any::<u8>(), 0..50)), 1..8),
            cuts in prop::collection::vec(1usize..40, 1..40),
        ) {
            let list: Vec<_> = bodies.iter().map(|(k, b)| (*k, b.as_slice())).collect();
            let stream = frames(&list);
            let mut reader = Reader::new(64);
            let mut got = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                reader.push(now);
                while let Some(body) = reader.take().unwrap() {
                    got.push((body.kind, body.bytes));
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, bodies);
        }
    }
}
