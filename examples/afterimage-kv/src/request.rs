//! Requests as clients send them: arrays of bulk strings, or inline commands.
//!
//! The parser takes bytes in whatever pieces they arrive, looks at each byte
//! once, and holds no more than [`MAX_REQUEST`] bytes and [`MAX_ARGS`] arguments
//! of a request that is not complete.

use crate::inline;
use crate::limits::{MAX_ARGS, MAX_BULK, MAX_HEADER, MAX_INLINE, MAX_REQUEST};
use std::ops::Range;

/// Capacity that an idle connection may keep, in bytes.
const KEEP_CAPACITY: usize = 64 << 10;

/// The bytes are no request; the connection cannot go on, since nobody knows
/// where the next request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    BadCount,
    #[error("Protocol error: invalid bulk length")]
    BadLength,
    #[error("Protocol error: expected '$'")]
    NoDollar,
    #[error("Protocol error: bulk string without its line end")]
    NoLineEnd,
    #[error("Protocol error: too big inline request")]
    LongInline,
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    #[error("Protocol error: request longer than {MAX_REQUEST} bytes")]
    LongRequest,
}

/// One complete request: at least one argument, the first the command's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    bytes: &'a [u8],
    args: &'a [Range<usize>],
}

impl<'a> Request<'a> {
    /// Number of arguments, the command's name included.
    pub(crate) fn len(&self) -> usize {
        self.args.len()
    }

    /// Argument `i`; empty beyond the last, so that nothing panics when a
    /// command's arity was stated wrongly.
    pub(crate) fn arg(&self, i: usize) -> &'a [u8] {
        self.args
            .get(i)
            .and_then(|range| self.bytes.get(range.clone()))
            .unwrap_or_default()
    }

    /// The arguments from `first` on.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let this = *self;
        (first..this.len()).map(move |i| this.arg(i))
    }
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The first byte of a request.
    Start,
    /// A `*count` line.
    Count,
    /// A `$length` line; so many arguments are still to come.
    Length { left: usize },
    /// A bulk string of `len` bytes and its line end.
    Body { left: usize, len: usize },
    /// A line that is a request by itself.
    Inline,
    /// The request is complete and was handed out.
    Done,
}

/// Bytes of a connection that are not yet worked off.
#[derive(Debug)]
pub(crate) struct RequestBuffer {
    bytes: Vec<u8>,
    /// Where the request in hand begins.
    start: usize,
    /// The first byte that is not understood yet.
    at: usize,
    /// From here on nobody looked for a line end yet.
    scanned: usize,
    stage: Stage,
    /// Arguments found, relative to `start`.
    args: Vec<Range<usize>>,
}

impl RequestBuffer {
    /// A buffer without bytes.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            at: 0,
            scanned: 0,
            stage: Stage::Start,
            args: Vec::new(),
        }
    }

    /// Takes bytes that arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.drop_worked_off();
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete request, if its last byte is here.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection has to be closed.
    pub(crate) fn next(&mut self) -> Result<Option<Request<'_>>, ProtocolError> {
        if self.stage == Stage::Done {
            self.begin();
        }
        while self.stage != Stage::Done {
            if !self.step()? {
                return Ok(None);
            }
        }
        Ok(Some(Request {
            bytes: self.bytes.get(self.start..self.at).unwrap_or_default(),
            args: &self.args,
        }))
    }

    fn begin(&mut self) {
        self.start = self.at;
        self.scanned = self.at;
        self.args.clear();
        self.stage = Stage::Start;
    }

    fn drop_worked_off(&mut self) {
        if self.stage == Stage::Done {
            self.begin();
        }
        if self.start == self.bytes.len() {
            self.bytes.clear();
        } else if self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
        } else {
            return;
        }
        self.at -= self.start;
        self.scanned -= self.start;
        self.start = 0;
        if self.bytes.capacity() > KEEP_CAPACITY && self.bytes.len() < KEEP_CAPACITY / 2 {
            self.bytes.shrink_to(KEEP_CAPACITY);
            self.args
                .shrink_to(KEEP_CAPACITY / size_of::<Range<usize>>());
        }
    }

    /// Understands one more element; false if its end is not here yet.
    fn step(&mut self) -> Result<bool, ProtocolError> {
        match self.stage {
            Stage::Start => match self.bytes.get(self.at) {
                None => return Ok(false),
                Some(b'*') => self.stage = Stage::Count,
                Some(_) => self.stage = Stage::Inline,
            },
            Stage::Count => {
                let Some(line) = self.line(MAX_HEADER, ProtocolError::BadCount)? else {
                    return Ok(false);
                };
                let count = number(&self.bytes[line][1..]).ok_or(ProtocolError::BadCount)?;
                match usize::try_from(count) {
                    // Redis takes an empty or negative array for no request.
                    Err(_) | Ok(0) => self.begin(),
                    Ok(count) if count > MAX_ARGS => return Err(ProtocolError::BadCount),
                    Ok(left) => self.stage = Stage::Length { left },
                }
            }
            Stage::Length { left } => return self.length(left),
            Stage::Body { left, len } => return self.body(left, len),
            Stage::Inline => {
                let Some(line) = self.line(MAX_INLINE, ProtocolError::LongInline)? else {
                    return Ok(false);
                };
                self.inline(line)?;
            }
            Stage::Done => {}
        }
        Ok(true)
    }

    fn length(&mut self, left: usize) -> Result<bool, ProtocolError> {
        if self.bytes.get(self.at).is_some_and(|&b| b != b'$') {
            return Err(ProtocolError::NoDollar);
        }
        let Some(line) = self.line(MAX_HEADER, ProtocolError::BadLength)? else {
            return Ok(false);
        };
        let len = number(&self.bytes[line][1..])
            .and_then(|len| usize::try_from(len).ok())
            .filter(|&len| len <= MAX_BULK)
            .ok_or(ProtocolError::BadLength)?;
        if self.at - self.start + len + 2 > MAX_REQUEST {
            return Err(ProtocolError::LongRequest);
        }
        self.stage = Stage::Body { left, len };
        Ok(true)
    }

    fn body(&mut self, left: usize, len: usize) -> Result<bool, ProtocolError> {
        let end = self.at + len;
        let Some(line_end) = self.bytes.get(end..end + 2) else {
            return Ok(false);
        };
        if line_end != b"\r\n" {
            return Err(ProtocolError::NoLineEnd);
        }
        self.args.push(self.at - self.start..end - self.start);
        self.at = end + 2;
        self.scanned = self.at;
        self.stage = match left - 1 {
            0 => Stage::Done,
            left => Stage::Length { left },
        };
        Ok(true)
    }

    fn inline(&mut self, line: Range<usize>) -> Result<(), ProtocolError> {
        let offset = line.start - self.start;
        inline::split(&mut self.bytes[line], |arg| {
            self.args.push(arg.start + offset..arg.end + offset);
        })
        .map_err(|inline::UnbalancedQuotes| ProtocolError::Quotes)?;
        if self.args.is_empty() {
            self.begin();
        } else {
            self.stage = Stage::Done;
        }
        Ok(())
    }

    /// The line that begins at `at`, without its line end; steps over it. None
    /// if its end is not here yet, `error` if it is longer than `max`.
    fn line(
        &mut self,
        max: usize,
        error: ProtocolError,
    ) -> Result<Option<Range<usize>>, ProtocolError> {
        let Some(newline) = self.bytes[self.scanned..].iter().position(|&b| b == b'\n') else {
            self.scanned = self.bytes.len();
            return if self.scanned - self.at > max {
                Err(error)
            } else {
                Ok(None)
            };
        };
        let newline = self.scanned + newline;
        if newline - self.at > max {
            return Err(error);
        }
        let end = match self.bytes[self.at..newline].last() {
            Some(b'\r') => newline - 1,
            _ => newline,
        };
        let line = self.at..end;
        self.at = newline + 1;
        self.scanned = self.at;
        Ok(Some(line))
    }
}

/// A decimal number, written as Redis writes it: no spaces, no plus sign, no
/// leading zeros.
pub(crate) fn number(digits: &[u8]) -> Option<i64> {
    match digits {
        [b'0'] => return Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => {}
        _ => return None,
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
