//! Messages over a socket.

use crate::stream::Stream;
use afterimage_protocol::frame::{self, FrameError, Reader};
use afterimage_protocol::{BadMessage, Message};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Bytes asked of the socket at once.
const READ_LEN: usize = 64 << 10;

/// Traffic within this time of the last makes polling worth while.
const RECENT: Duration = Duration::from_millis(2);

/// A connection that cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The system said no.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The peer closed it.
    #[error("the peer closed the connection{}", if *.inside { " in the middle of a message" } else { "" })]
    Closed {
        /// Whether a message had begun.
        inside: bool,
    },
    /// The peer was silent for too long.
    #[error("the peer was silent for {0:?}")]
    Silent(Duration),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What came is no message.
    #[error(transparent)]
    Message(#[from] BadMessage),
}

/// A socket that carries messages.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    reader: Reader,
    out: Vec<u8>,
    input: Box<[u8]>,
    timeout: Duration,
    spin: Duration,
    last: Instant,
}

impl Connection {
    pub(crate) fn new(stream: Stream, timeout: Duration, spin: Duration) -> io::Result<Self> {
        stream.set_timeout(Some(timeout))?;
        Ok(Self {
            stream,
            reader: Reader::new(frame::MAX_GREETING),
            out: Vec::new(),
            input: vec![0; READ_LEN].into_boxed_slice(),
            timeout,
            spin,
            last: Instant::now(),
        })
    }

    /// Lets longer messages in.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.reader.set_limit(limit);
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(crate) fn send(&mut self, message: &Message) -> Result<(), ConnectionError> {
        self.send_with(|out| message.write(out))
    }

    /// Sends what `write` appends, in one piece.
    pub(crate) fn send_with(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), ConnectionError> {
        self.out.clear();
        write(&mut self.out);
        self.stream.write_all(&self.out)?;
        Ok(())
    }

    /// Waits for a message.
    pub(crate) fn receive(&mut self) -> Result<Message, ConnectionError> {
        self.receive_or_silence()?
            .ok_or(ConnectionError::Silent(self.timeout))
    }

    /// Waits for a message for as long as `patient` says so each time the peer
    /// was silent for the time-out; `None` when it no longer does.
    pub(crate) fn receive_patiently(
        &mut self,
        patient: impl Fn() -> bool,
    ) -> Result<Option<Message>, ConnectionError> {
        loop {
            match self.receive_or_silence()? {
                None if patient() => {}
                other => return Ok(other),
            }
        }
    }

    /// A message that has arrived already, if there is one.
    pub(crate) fn receive_now(&mut self) -> Result<Option<Message>, ConnectionError> {
        loop {
            if let Some(body) = self.reader.take()? {
                self.last = Instant::now();
                return Ok(Some(Message::read(body)?));
            }
            match self.stream.read_now(&mut self.input)? {
                None => return Ok(None),
                Some(0) => {
                    return Err(ConnectionError::Closed {
                        inside: !self.reader.is_at_boundary(),
                    });
                }
                Some(len) => self.reader.push(&self.input[..len]),
            }
        }
    }

    /// A message, or `None` if the peer was silent for the time-out between
    /// messages. In the middle of one, silence is a fault.
    fn receive_or_silence(&mut self) -> Result<Option<Message>, ConnectionError> {
        loop {
            if let Some(body) = self.reader.take()? {
                self.last = Instant::now();
                return Ok(Some(Message::read(body)?));
            }
            let spin = if self.last.elapsed() < RECENT {
                self.spin
            } else {
                Duration::ZERO
            };
            match self.stream.read_soon(&mut self.input, spin) {
                Ok(0) => {
                    return Err(ConnectionError::Closed {
                        inside: !self.reader.is_at_boundary(),
                    });
                }
                Ok(len) => self.reader.push(&self.input[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.reader.is_at_boundary() {
                        return Ok(None);
                    }
                    return Err(ConnectionError::Silent(self.timeout));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
