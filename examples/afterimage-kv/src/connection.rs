//! One client's connection: its bytes in, its replies out.

use crate::commands::{Call, Data, Demand, Session, execute};
use crate::facts::Facts;
use crate::limits::{OUTPUT_PAUSE, READ_PER_TURN};
use crate::reply::Reply;
use crate::request::RequestBuffer;
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read as _, Write as _};

/// What all connections share while they are served.
pub(crate) struct Shared<'a> {
    pub(crate) facts: &'a mut Facts,
    pub(crate) demand: &'a mut Option<Demand>,
    /// Room to read into; one for all, so that idle connections cost little.
    pub(crate) scratch: &'a mut [u8],
    /// Bytes read in this turn.
    pub(crate) read: &'a mut usize,
}

/// A client's connection.
///
/// It is served in two steps: [`Connection::serve`] carries out requests and
/// keeps the replies; [`Connection::flush`] sends them, and is called only once
/// the writes that they may tell of are safe.
pub(crate) struct Connection {
    stream: TcpStream,
    input: RequestBuffer,
    output: Reply,
    session: Session,
    /// There may be bytes to read.
    readable: bool,
    /// There may be room to send.
    writable: bool,
    /// The client sends no more.
    half_closed: bool,
    /// Requests were left in `input`, for lack of room in `output`.
    paused: bool,
    /// The connection is broken; nothing can be sent any more.
    broken: bool,
    /// It is in the queue of connections to be served.
    pub(crate) queued: bool,
}

impl Connection {
    /// Takes over an accepted connection.
    pub(crate) fn new(stream: TcpStream, id: u64) -> Self {
        // Replies are small and sent whole: waiting for more only delays them.
        // Where it cannot be set, they are late but right.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            input: RequestBuffer::new(),
            output: Reply::default(),
            session: Session {
                id,
                ..Session::default()
            },
            readable: true,
            writable: true,
            half_closed: false,
            paused: false,
            broken: false,
            queued: false,
        }
    }

    /// The stream, to register and deregister.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Takes note of what the operating system says of the stream.
    pub(crate) fn notice(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.half_closed |= event.is_read_closed();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Whether there is something to do without waiting for the system.
    pub(crate) fn has_work(&self) -> bool {
        self.has_room() && (self.readable || self.paused)
    }

    /// Whether there is something to send and a chance to.
    pub(crate) fn has_replies(&self) -> bool {
        self.output.len() > 0 && self.writable && !self.broken
    }

    /// Whether nothing more will come of it.
    pub(crate) fn is_over(&self) -> bool {
        self.broken || (self.session.closing && self.output.len() == 0)
    }

    fn has_room(&self) -> bool {
        !self.session.closing && !self.broken && self.output.len() < OUTPUT_PAUSE
    }

    /// Carries out the requests that are here.
    ///
    /// # Errors
    /// If the data could not be opened for changes.
    pub(crate) fn serve<D: Data>(
        &mut self,
        mut data: D,
        shared: &mut Shared<'_>,
    ) -> Result<D, D::Error> {
        let mut read = 0;
        loop {
            data = self.work_off(data, shared)?;
            if !self.has_room() || !self.readable || shared.demand.is_some() {
                return Ok(data);
            }
            if read >= READ_PER_TURN {
                return Ok(data);
            }
            match self.stream.read(shared.scratch) {
                Ok(0) => {
                    self.readable = false;
                    self.session.closing = true;
                }
                Ok(len) => {
                    read += len;
                    *shared.read += len;
                    // epoll(7): a read that returns less than was asked for has
                    // emptied the stream, and new bytes make a new event. An end
                    // that was already announced does not.
                    self.readable = len == shared.scratch.len() || self.half_closed;
                    self.input
                        .push(shared.scratch.get(..len).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
            }
        }
    }

    fn work_off<D: Data>(&mut self, mut data: D, shared: &mut Shared<'_>) -> Result<D, D::Error> {
        self.paused = true;
        while self.has_room() && shared.demand.is_none() {
            match self.input.next() {
                Ok(Some(request)) => {
                    shared.facts.commands += 1;
                    let call = Call {
                        request,
                        reply: &mut self.output,
                        session: &mut self.session,
                        facts: shared.facts,
                        demand: shared.demand,
                    };
                    data = execute(call, data)?;
                }
                Ok(None) => {
                    self.paused = false;
                    break;
                }
                Err(error) => {
                    self.output.error(format_args!("ERR {error}"));
                    self.session.closing = true;
                }
            }
        }
        Ok(data)
    }

    /// Sends replies, as many as the stream takes.
    pub(crate) fn flush(&mut self) {
        while self.has_replies() {
            match self.stream.write(self.output.bytes()) {
                Ok(0) => self.broken = true,
                Ok(len) => self.output.sent(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
            }
        }
    }

    /// Tells a client that there is no room for it.
    pub(crate) fn refuse(mut stream: TcpStream) -> io::Result<()> {
        // A new connection's buffer is empty, so this does not block.
        stream.write_all(b"-ERR max number of clients reached\r\n")
    }
}
