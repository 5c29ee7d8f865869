//! The event loop.
//!
//! One turn: take what the system reports, carry out what the clients ask,
//! commit all of the turn's writes as one transaction, and only then send the
//! turn's replies. Every reply waits for the commit, a read's too: it may tell
//! of a write of the same turn, and nobody may see what can still be lost.

use crate::clients::Clients;
use crate::commands::Demand;
use crate::connection::{Connection, Shared};
use crate::data::{Kv, Turn};
use crate::facts::Facts;
use crate::limits::READ_PER_TURN_ALL;
use afterimage::{Area, Outcome};
use anyhow::Context as _;
use mio::net::{TcpListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

const LISTENER: Token = Token(usize::MAX - 1);
const SIGNAL: Token = Token(usize::MAX - 2);

/// How the server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to stop.
    Stopped,
    /// Another primary has taken over, in this term.
    Fenced(u64),
    /// Nobody can tell whether the last writes are safe.
    InDoubt,
}

/// A bound server with its clients.
pub(crate) struct Server {
    poll: Poll,
    listener: TcpListener,
    /// Becomes readable when a signal asks for the end.
    signal: UnixStream,
    clients: Clients,
    facts: Facts,
    scratch: Vec<u8>,
    /// Connections may wait to be accepted though no event will say so.
    accept_again: bool,
    acknowledge_early: bool,
}

impl Server {
    /// Serves at `listener`. `signal` ends the server when it becomes readable.
    pub(crate) fn new(
        listener: std::net::TcpListener,
        signal: UnixStream,
        facts: Facts,
        acknowledge_early: bool,
    ) -> anyhow::Result<Self> {
        let mut signal = signal;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new().context("cannot make an epoll instance")?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        registry.register(&mut signal, SIGNAL, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            signal,
            clients: Clients::default(),
            facts,
            scratch: vec![0; 64 << 10],
            accept_again: false,
            acknowledge_early,
        })
    }

    /// The address that clients connect to.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until the end.
    ///
    /// # Errors
    /// If the area or the operating system fails. No reply was sent for a
    /// write that is not safe.
    pub(crate) fn run(mut self, area: &mut Area<Kv>) -> anyhow::Result<End> {
        let mut events = Events::with_capacity(1024);
        loop {
            let patience = self.clients.has_queue().then_some(Duration::ZERO);
            match self.poll.poll(&mut events, patience) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("waiting for clients failed"),
            }
            let mut stop = self.notice(&events);
            let mut demand = None;
            let served = match self.turn(area, &mut demand)? {
                Ok(served) => served,
                Err(end) => return Ok(end),
            };
            stop |= demand == Some(Demand::Stop);
            self.finish(&served);
            if stop {
                return Ok(End::Stopped);
            }
        }
    }

    /// Queues the connections that events are about; true if a signal came.
    fn notice(&mut self, events: &Events) -> bool {
        let mut stop = false;
        for event in events {
            match event.token() {
                LISTENER => self.accept_again = true,
                SIGNAL => stop = self.signal.read(&mut [0; 16]).is_ok(),
                Token(place) => {
                    if let Some(connection) = self.clients.get(place) {
                        connection.notice(event);
                        self.clients.queue(place);
                    }
                }
            }
        }
        if self.accept_again {
            self.accept();
        }
        stop
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) if self.clients.len() >= self.facts.max_clients => {
                    self.facts.refused += 1;
                    // The client is gone already, or will see the end.
                    let _ = Connection::refuse(stream);
                }
                Ok((mut stream, _)) => {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    let place = self.clients.next_place();
                    let registry = self.poll.registry();
                    if let Err(error) = registry.register(&mut stream, place, interest) {
                        eprintln!("afterimage-kv: cannot watch a new connection: {error}");
                        continue;
                    }
                    self.facts.connections += 1;
                    self.clients
                        .add(Connection::new(stream, self.facts.connections));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_again = false;
                    break;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    // Out of descriptors, most likely: tried again each turn.
                    eprintln!("afterimage-kv: cannot accept a connection: {error}");
                    break;
                }
            }
        }
        self.facts.clients = self.clients.len();
    }

    /// Carries out requests and makes their writes safe. The places served, or
    /// the end that the commit came to.
    fn turn(
        &mut self,
        area: &mut Area<Kv>,
        demand: &mut Option<Demand>,
    ) -> anyhow::Result<Result<Vec<usize>, End>> {
        let mut served = Vec::new();
        let mut read = 0;
        let mut turn = Turn::Reading(area);
        while read < READ_PER_TURN_ALL
            && demand.is_none()
            && let Some(place) = self.clients.next_queued()
        {
            let Some(connection) = self.clients.get(place) else {
                continue;
            };
            let mut shared = Shared {
                facts: &mut self.facts,
                demand,
                scratch: &mut self.scratch,
                read: &mut read,
            };
            turn = connection
                .serve(turn, &mut shared)
                .context("cannot begin a transaction")?;
            served.push(place);
        }
        if *demand == Some(Demand::Crash) {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .context("cannot kill itself")?;
        }
        if self.acknowledge_early {
            self.send(&served);
            // Long enough that a kill at a random time falls into it.
            std::thread::sleep(Duration::from_millis(2));
        }
        let Some(commit) = turn
            .commit()
            .context("cannot make the last writes safe; none of them was acknowledged")?
        else {
            return Ok(Ok(served));
        };
        self.facts.commits += 1;
        self.facts.epoch = commit.epoch.0;
        self.facts.outcome = commit.outcome.to_string();
        Ok(match commit.outcome {
            Outcome::Held { .. } => Ok(served),
            Outcome::Degraded { .. } => {
                self.facts.degraded += 1;
                Ok(served)
            }
            Outcome::InDoubt => Err(End::InDoubt),
            Outcome::Fenced { term } => Err(End::Fenced(term.0)),
        })
    }

    fn send(&mut self, places: &[usize]) {
        for &place in places {
            if let Some(connection) = self.clients.get(place) {
                connection.flush();
            }
        }
    }

    /// Sends the replies of a turn whose writes are safe, and sees to what the
    /// connections need next.
    fn finish(&mut self, served: &[usize]) {
        self.send(served);
        for &place in served {
            let Some(connection) = self.clients.get(place) else {
                continue;
            };
            if connection.is_over() {
                if let Some(mut connection) = self.clients.remove(place) {
                    // Closing deregisters too; this only does it first.
                    let _ = self.poll.registry().deregister(connection.stream());
                }
            } else if connection.has_work() {
                self.clients.queue(place);
            }
        }
        self.facts.clients = self.clients.len();
    }
}
