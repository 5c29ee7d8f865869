//! Load: many connections, each a thread, until they are stopped or the server
//! is gone.

use crate::dice::Dice;
use crate::ledger::{Ledger, Op, State};
use crate::process::{Interrupted, interrupted};
use crate::record::{Record, Sightings};
use crate::resp::{Connection, Reply};
use anyhow::{Context as _, bail};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Keys per `MGET` when reading back.
const READ_BACK: usize = 200;

/// What to put on a server.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub address: SocketAddr,
    /// Requests that a connection sends before it reads their replies.
    pub pipeline: usize,
    /// Longest wait for a reply; beyond it the server is given up.
    pub patience: Duration,
}

impl Load {
    /// Load on `address` of one request at a time.
    #[must_use]
    pub fn on(address: SocketAddr) -> Self {
        Self {
            address,
            pipeline: 1,
            patience: Duration::from_secs(20),
        }
    }

    /// Starts a thread for each ledger and each reader of `record`.
    #[must_use]
    pub fn start(&self, record: Record, dice: &mut Dice) -> Running {
        let meter = Arc::new(Meter::default());
        let writers = u32::try_from(record.ledgers.len()).unwrap_or(u32::MAX);
        let start = |work: Box<dyn FnOnce(&Meter) -> Done + Send>| {
            let meter = Arc::clone(&meter);
            thread::spawn(move || {
                let done = work(&meter);
                meter.wake();
                done
            })
        };
        let mut threads = Vec::new();
        for mut ledger in record.ledgers {
            let (load, mut dice) = (self.clone(), dice.split());
            threads.push(start(Box::new(move |meter| {
                let end = load.write(&mut ledger, &mut dice, meter);
                Done::Writer(ledger, end.err())
            })));
        }
        for mut seen in record.sightings {
            let (load, mut dice) = (self.clone(), dice.split());
            threads.push(start(Box::new(move |meter| {
                // However it ends, what was read was read.
                let _ = load.look(writers, &mut seen, &mut dice, meter);
                Done::Reader(seen)
            })));
        }
        Running { threads, meter }
    }

    fn connect(&self, meter: &Meter) -> io::Result<Connection> {
        let connection = Connection::open(self.address, self.patience)?;
        let stream = connection.stream()?;
        meter.lock_open().push(stream);
        Ok(connection)
    }

    fn write(&self, ledger: &mut Ledger, dice: &mut Dice, meter: &Meter) -> io::Result<()> {
        let mut connection = self.connect(meter)?;
        while !meter.stopped() {
            for _ in 0..self.pipeline {
                let op = choose(ledger, dice);
                connection.push(&op.words());
                ledger.attempt(op);
            }
            connection.flush()?;
            for _ in 0..self.pipeline {
                let reply = connection.receive()?;
                ledger.answer(&reply);
                meter.count();
            }
        }
        Ok(())
    }

    fn look(
        &self,
        writers: u32,
        seen: &mut Sightings,
        dice: &mut Dice,
        meter: &Meter,
    ) -> io::Result<()> {
        let mut connection = self.connect(meter)?;
        while !meter.stopped() && writers > 0 {
            let key = counter(u32::try_from(dice.below(u64::from(writers))).unwrap_or(0));
            if let Reply::Bulk(Some(value)) = connection.ask(&[b"GET", key.as_bytes()])?
                && let Ok(number) = String::from_utf8_lossy(&value).parse()
            {
                seen.note(&key, number);
            }
        }
        Ok(())
    }
}

/// The counter of a connection, which only ever goes up.
fn counter(writer: u32) -> String {
    format!("w{writer}.n")
}

fn choose(ledger: &mut Ledger, dice: &mut Dice) -> Op {
    let writer = ledger.writer();
    let key = format!("w{writer}.k{}", dice.below(8));
    match dice.below(20) {
        0..10 => Op::Set(key, ledger.fresh_value()),
        10..14 => Op::Increment(counter(writer)),
        14..17 => Op::SetAll(
            (0..3)
                .map(|i| (format!("w{writer}.p{i}"), ledger.fresh_value()))
                .collect(),
        ),
        17 => Op::Delete(key),
        _ => Op::Get(key),
    }
}

enum Done {
    Writer(Ledger, Option<io::Error>),
    Reader(Sightings),
}

/// What the threads of a load and its owner tell each other.
#[derive(Default)]
struct Meter {
    acknowledged: AtomicU64,
    wake_at: AtomicU64,
    stop: AtomicBool,
    waiter: Mutex<Option<thread::Thread>>,
    /// All connections, to be cut.
    open: Mutex<Vec<TcpStream>>,
}

impl Meter {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn lock_open(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        let count = 1 + self.acknowledged.fetch_add(1, Ordering::SeqCst);
        if count >= self.wake_at.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Ok(waiter) = self.waiter.lock()
            && let Some(waiter) = waiter.as_ref()
        {
            waiter.unpark();
        }
    }
}

/// A load that is on.
pub struct Running {
    threads: Vec<JoinHandle<Done>>,
    meter: Arc<Meter>,
}

impl Running {
    /// Waits until `count` commands were acknowledged since the start.
    ///
    /// # Errors
    /// If that does not happen within `patience`, or all connections ended.
    pub fn wait_for(&self, count: u64, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        *self
            .meter
            .waiter
            .lock()
            .map_err(|_| anyhow::anyhow!("a thread of the load panicked"))? =
            Some(thread::current());
        self.meter.wake_at.store(count, Ordering::SeqCst);
        loop {
            // In this order: a thread ends after its last command was counted,
            // so once all have ended the count is final.
            let ended = self.threads.iter().all(JoinHandle::is_finished);
            let now = self.acknowledged();
            if now >= count {
                return Ok(());
            }
            if ended {
                bail!("all connections ended after {now} of {count} acknowledged commands");
            }
            if interrupted() {
                return Err(Interrupted.into());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("only {now} of {count} commands were acknowledged in {patience:?}");
            };
            // A thread that ends may be seen as running a moment longer.
            thread::park_timeout(left.min(Duration::from_millis(50)));
        }
    }

    /// Commands acknowledged since the start.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.meter.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends all connections. A machine that was killed closes none of them, so
    /// its clients would wait for replies for as long as they are told to.
    pub fn cut(&self) {
        self.meter.stop.store(true, Ordering::SeqCst);
        for stream in self.meter.lock_open().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until every connection ended, as they do when the server dies, and
    /// returns the record.
    ///
    /// # Errors
    /// If a thread panicked.
    pub fn join(self) -> anyhow::Result<Record> {
        self.finish().map(|(record, _)| record)
    }

    /// Lets every connection end after its present requests.
    ///
    /// # Errors
    /// If one of them was cut off or waited in vain.
    pub fn stop(self) -> anyhow::Result<Record> {
        self.meter.stop.store(true, Ordering::SeqCst);
        let (record, error) = self.finish()?;
        match error {
            None => Ok(record),
            Some(error) => Err(error).context("a connection did not end in order"),
        }
    }

    fn finish(self) -> anyhow::Result<(Record, Option<io::Error>)> {
        let mut record = Record::default();
        let mut first = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Done::Writer(ledger, error)) => {
                    record.ledgers.push(ledger);
                    first = first.or(error);
                }
                Ok(Done::Reader(seen)) => record.sightings.push(seen),
                Err(_) => bail!("a thread of the load panicked"),
            }
        }
        Ok((record, first))
    }
}

/// Reads the values of `keys`.
///
/// # Errors
/// If the server does not answer as it should.
pub fn read_back(
    address: SocketAddr,
    keys: impl IntoIterator<Item = String>,
    patience: Duration,
) -> anyhow::Result<State> {
    let keys: Vec<String> = keys.into_iter().collect();
    let mut connection = Connection::open(address, patience)?;
    let mut state = State::new();
    for keys in keys.chunks(READ_BACK) {
        let mut words = vec![&b"MGET"[..]];
        words.extend(keys.iter().map(|key| key.as_bytes()));
        let values = match connection.ask(&words)? {
            Reply::Array(values) if values.len() == keys.len() => values,
            other => bail!("MGET of {} keys got {other:?}", keys.len()),
        };
        for (key, value) in keys.iter().zip(values) {
            match value {
                Reply::Bulk(None) => {}
                Reply::Bulk(Some(value)) => {
                    let value = String::from_utf8_lossy(&value).into_owned();
                    state.insert(key.clone(), value);
                }
                other => bail!("MGET got {other:?} for {key}"),
            }
        }
    }
    Ok(state)
}
