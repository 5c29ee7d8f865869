//! The client's side of the Redis protocol, version 2.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Longest reply that is taken, in bytes or elements.
const MAX_LEN: usize = 64 << 20;

/// Time between two attempts to connect to a machine that is unreachable.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(20);

/// A server's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+text`
    Simple(String),
    /// `-text`
    Error(String),
    /// `:number`
    Integer(i64),
    /// A string of bytes, or null.
    Bulk(Option<Vec<u8>>),
    /// Replies that belong together.
    Array(Vec<Reply>),
}

/// A blocking connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    pending: Vec<u8>,
}

impl Connection {
    /// Connects. Neither this nor any later wait is longer than `patience`.
    ///
    /// A machine that took over an address may be unreachable for as long as
    /// the neighbour table remembers that it was not there: that is waited for.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn open(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        let stream = loop {
            match TcpStream::connect_timeout(&address, patience) {
                Err(error)
                    if error.kind() == io::ErrorKind::HostUnreachable
                        && Instant::now() < deadline =>
                {
                    thread::sleep(UNREACHABLE_PAUSE);
                }
                other => break other?,
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream: BufReader::new(stream),
            pending: Vec::new(),
        })
    }

    /// Another handle of its stream, with which another thread can end it.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn stream(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().try_clone()
    }

    /// Adds a request to those that [`Connection::flush`] will send.
    pub fn push(&mut self, words: &[&[u8]]) {
        self.pending
            .extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.pending
                .extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.pending.extend_from_slice(word);
            self.pending.extend_from_slice(b"\r\n");
        }
    }

    /// Sends the requests that were pushed.
    ///
    /// # Errors
    /// As the operating system says; some may have been sent.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.get_mut().write_all(&self.pending);
        self.pending.clear();
        result
    }

    /// Waits for one reply.
    ///
    /// # Errors
    /// If the connection ends first, or what comes is no reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let text = line.get(1..).unwrap_or_default();
        let number = || {
            text.parse::<i64>()
                .map_err(|_| unsound(format!("no number: {line:?}")))
        };
        match line.as_bytes().first() {
            Some(b'+') => Ok(Reply::Simple(text.to_owned())),
            Some(b'-') => Ok(Reply::Error(text.to_owned())),
            Some(b':') => number().map(Reply::Integer),
            Some(b'$') => match length(number()?)? {
                None => Ok(Reply::Bulk(None)),
                Some(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(len);
                    Ok(Reply::Bulk(Some(bytes)))
                }
            },
            Some(b'*') => (0..length(number()?)?.unwrap_or(0))
                .map(|_| self.receive())
                .collect::<io::Result<_>>()
                .map(Reply::Array),
            _ => Err(unsound(format!("no reply: {line:?}"))),
        }
    }

    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    /// As for [`Connection::flush`] and [`Connection::receive`].
    pub fn ask(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.push(words);
        self.flush()?;
        self.receive()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LEN).unwrap_or(u64::MAX);
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn length(number: i64) -> io::Result<Option<usize>> {
    match usize::try_from(number) {
        Ok(len) if len <= MAX_LEN => Ok(Some(len)),
        Err(_) if number == -1 => Ok(None),
        _ => Err(unsound(format!("length {number}"))),
    }
}

fn unsound(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
