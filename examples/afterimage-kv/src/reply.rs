//! Replies, version 2 of the protocol.

use std::fmt;
use std::io::Write as _;

/// Replies of a connection that are not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of bytes so far; a place for [`Reply::back_to`].
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back all that was written after `len` was taken.
    pub(crate) fn back_to(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Forgets the first `len` bytes, which are sent.
    pub(crate) fn sent(&mut self, len: usize) {
        if len == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(64 << 10);
        } else {
            self.bytes.drain(..len);
        }
    }

    /// `+text`
    pub(crate) fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `-text`, where `text` begins with a code such as `ERR`. Line ends in it
    /// (it may quote the client) become spaces.
    pub(crate) fn error(&mut self, text: impl fmt::Display) {
        self.bytes.push(b'-');
        let start = self.bytes.len();
        // Writing to a vector cannot fail.
        let _ = write!(self.bytes, "{text}");
        for byte in &mut self.bytes[start..] {
            if byte.is_ascii_control() {
                *byte = b' ';
            }
        }
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `:number`
    pub(crate) fn integer(&mut self, number: i64) {
        let _ = write!(self.bytes, ":{number}\r\n");
    }

    /// A count of things in memory.
    pub(crate) fn count(&mut self, count: usize) {
        self.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// `$length`, then the bytes.
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        let _ = write!(self.bytes, "${}\r\n", bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A bulk string, or null for none.
    pub(crate) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.bytes.extend_from_slice(b"$-1\r\n"),
        }
    }

    /// `*length`: so many replies follow and belong together.
    pub(crate) fn array(&mut self, len: usize) {
        let _ = write!(self.bytes, "*{len}\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_bytes_of_the_protocol() {
        let mut reply = Reply::default();
        reply.simple("OK");
        reply.error("ERR no\r\nline end");
        reply.integer(-3);
        reply.array(2);
        reply.bulk(b"a\r\n");
        reply.bulk_or_null(None);
        assert_eq!(
            reply.bytes(),
            b"+OK\r\n-ERR no  line end\r\n:-3\r\n*2\r\n$3\r\na\r\n\r\n$-1\r\n"
        );
    }

    #[test]
    fn what_was_sent_or_taken_back_is_gone() {
        let mut reply = Reply::default();
        reply.simple("A");
        let mark = reply.len();
        reply.simple("B");
        reply.back_to(mark);
        reply.sent(1);
        assert_eq!(reply.bytes(), b"A\r\n");
        reply.sent(3);
        assert_eq!(reply.len(), 0);
    }
}
