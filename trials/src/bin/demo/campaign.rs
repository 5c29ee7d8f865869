//! The load, the kill in the middle of it, and the search afterwards.

use crate::event::{Emit, Event, Verdict};
use crate::stage::Stage;
use afterimage_trials::load::read_back;
use afterimage_trials::process::{Interrupted, interrupted};
use afterimage_trials::resp::{Connection, Reply};
use afterimage_trials::stamp::Stamp;
use anyhow::{Context as _, bail};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How often a wait looks for Ctrl-C, and the display learns of slow progress.
const TICK: Duration = Duration::from_millis(50);

/// Writes that a client sends before it waits for their acknowledgements.
const PIPELINE: u64 = 4;

/// Longest wait of a client for one reply.
const REPLY_PATIENCE: Duration = Duration::from_secs(30);

/// Longest time without any acknowledged write, a takeover included.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where the server is, if there is one.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Number of the server: 1, and 2 after the takeover.
    server: u32,
    address: Option<SocketAddr>,
}

/// What clients and conductor share.
struct Shared {
    place: Mutex<Place>,
    moved: Condvar,
    /// The next write that nobody has taken.
    next: AtomicU64,
    writes: u64,
    acknowledged: AtomicU64,
    /// Who waits for the writes, and is woken at each hundredth of them.
    conductor: Thread,
    stop: AtomicBool,
    /// Connections to the present server, to be ended when it is dead: a
    /// machine that vanishes closes none of them.
    open: Mutex<Vec<TcpStream>>,
    /// When the second server acknowledged its first write.
    first_after: OnceLock<Instant>,
}

impl Shared {
    fn place(&self) -> MutexGuard<'_, Place> {
        // Each change of it is one assignment, so it is sound after a panic.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a write that server number `server` acknowledged.
    fn count(&self, server: u32) {
        if server > 1 {
            self.first_after.get_or_init(Instant::now);
        }
        let done = 1 + self.acknowledged.fetch_add(1, Ordering::SeqCst);
        if done.is_multiple_of((self.writes / 100).max(1)) || done == self.writes {
            self.conductor.unpark();
        }
    }

    /// Tells the clients that the server is dead.
    fn set_dead(&self) {
        self.place().address = None;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Tells the clients where the next server is.
    fn set_next(&self, address: SocketAddr) {
        let mut place = self.place();
        *place = Place {
            server: place.server + 1,
            address: Some(address),
        };
        self.moved.notify_all();
    }

    /// Connects to the server with number `server`, if it still is the present
    /// one.
    fn connect(&self, server: u32, address: SocketAddr) -> io::Result<Connection> {
        let connection = Connection::open(address, REPLY_PATIENCE)?;
        let stream = connection.stream()?;
        // Locked while it is added, so that `set_dead` misses no connection.
        let place = self.place();
        if place.server != server || place.address.is_none() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
        Ok(connection)
    }

    /// Waits for a server; none when all is over. A client whose connection
    /// `failed` waits a moment first, as the server is most likely dead and
    /// this is just not known yet.
    fn wait_for_server(&self, failed: bool) -> Option<(u32, SocketAddr)> {
        let mut place = self.place();
        let mut wait = failed;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(address) = place.address.filter(|_| !wait) {
                return Some((place.server, address));
            }
            wait = false;
            place = self
                .moved
                .wait_timeout(place, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        None
    }
}

fn key(write: u64) -> String {
    format!("demo:{write}")
}

fn value(write: u64) -> String {
    let stamp = Stamp {
        writer: 0,
        sequence: write,
    };
    stamp.value()
}

/// Runs the whole of it on `stage`.
///
/// # Errors
/// If something other than the promise fails: a program does not start, a
/// server answers with an error, nothing moves any more.
pub(crate) fn run(
    stage: &mut dyn Stage,
    writes: u32,
    clients: u32,
    emit: &Emit,
) -> anyhow::Result<Verdict> {
    let address = stage.begin()?;
    let shared = Shared {
        place: Mutex::new(Place {
            server: 1,
            address: Some(address),
        }),
        moved: Condvar::new(),
        next: AtomicU64::new(0),
        writes: u64::from(writes),
        acknowledged: AtomicU64::new(0),
        conductor: thread::current(),
        stop: AtomicBool::new(false),
        open: Mutex::new(Vec::new()),
        first_after: OnceLock::new(),
    };
    let (address, killed) = thread::scope(|scope| {
        let workers: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let result = write_until_done(&shared);
                    shared.conductor.unpark();
                    result
                })
            })
            .collect();
        let conducted = conduct(stage, &shared, emit, || {
            workers.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        shared.stop.store(true, Ordering::Relaxed);
        shared.moved.notify_all();
        for worker in workers {
            match worker.join() {
                // The conductor's error says more than what it led to.
                Ok(result) if conducted.is_ok() => result?,
                Ok(_) => {}
                Err(_) => bail!("a client panicked"),
            }
        }
        conducted
    })?;
    step(emit, "reading every acknowledged write back");
    let found = read_back(address, (0..shared.writes).map(key), REPLY_PATIENCE)?;
    let found = (0..shared.writes)
        .filter(|&write| found.get(&key(write)) == Some(&value(write)))
        .count();
    let found = u64::try_from(found)?;
    let acknowledged = shared.acknowledged.load(Ordering::SeqCst);
    let first = shared
        .first_after
        .get()
        .context("no write was acknowledged after the takeover")?;
    Ok(Verdict {
        acknowledged,
        found,
        lost: acknowledged.saturating_sub(found),
        takeover: first.duration_since(killed).as_secs_f64(),
    })
}

/// Kills the server half-way and lets another one take over; where that one is,
/// and when the first died.
fn conduct(
    stage: &mut dyn Stage,
    shared: &Shared,
    emit: &Emit,
    all_ended: impl Fn() -> bool,
) -> anyhow::Result<(SocketAddr, Instant)> {
    let total = shared.writes;
    let reach = |goal: u64| -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            // In this order: a client ends after its last write was counted, so
            // once all have ended the count is final.
            let ended = all_ended();
            let done = shared.acknowledged.load(Ordering::SeqCst);
            emit(Event::Progress { done, total });
            if done >= goal {
                return Ok(());
            }
            if done != last {
                (last, since) = (done, Instant::now());
            }
            if interrupted() {
                return Err(Interrupted.into());
            }
            if ended || since.elapsed() > PATIENCE {
                bail!("only {done} of {goal} writes were acknowledged");
            }
            thread::park_timeout(TICK);
        }
    };
    step(emit, &format!("clients write to {}", stage.name()));
    reach(total / 2)?;
    step(emit, &format!("SIGKILL of {}", stage.name()));
    let killed = Instant::now();
    stage.kill()?;
    shared.set_dead();
    let address = stage.take_over()?;
    shared.set_next(address);
    step(emit, "clients go on at the survivor");
    reach(total)?;
    Ok((address, killed))
}

/// One client: takes some writes, sends them until each is acknowledged, takes
/// the next ones.
fn write_until_done(shared: &Shared) -> anyhow::Result<()> {
    let mut connection: Option<(u32, Connection)> = None;
    let mut failed = false;
    while !shared.stop.load(Ordering::Relaxed) {
        let first = shared.next.fetch_add(PIPELINE, Ordering::SeqCst);
        let mut left: VecDeque<u64> = (first..shared.writes.min(first + PIPELINE)).collect();
        if left.is_empty() {
            return Ok(());
        }
        while !left.is_empty() {
            if connection.is_none() {
                let Some((server, address)) = shared.wait_for_server(failed) else {
                    return Ok(());
                };
                connection = shared.connect(server, address).ok().map(|c| (server, c));
                failed = connection.is_none();
            }
            if let Some((server, open)) = &mut connection
                && send(shared, *server, open, &mut left)?.is_err()
            {
                // Nobody knows what was done: what is left is sent again, to
                // whoever is there then, and doing it twice changes nothing.
                connection = None;
                failed = true;
            }
        }
    }
    Ok(())
}

/// Sends the writes that are `left` and takes out those that are acknowledged.
fn send(
    shared: &Shared,
    server: u32,
    connection: &mut Connection,
    left: &mut VecDeque<u64>,
) -> anyhow::Result<io::Result<()>> {
    for &write in left.iter() {
        let (key, value) = (key(write), value(write));
        connection.push(&[b"SET", key.as_bytes(), value.as_bytes()]);
    }
    if let Err(error) = connection.flush() {
        return Ok(Err(error));
    }
    while let Some(write) = left.front() {
        match connection.receive() {
            Ok(Reply::Simple(ok)) if ok == "OK" => {
                left.pop_front();
                shared.count(server);
            }
            Ok(other) => bail!("SET {} was answered with {other:?}", key(*write)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

fn step(emit: &Emit, text: &str) {
    emit(Event::Step {
        text: text.to_owned(),
    });
}
