//! The host's end of the agent's port: what has been reported so far, and a
//! way to wait for more.

use std::collections::HashMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::error::{Error, Result, Tail};
use crate::frame::{self, JobNumber, Report, Request, Status, Stream};

/// Most of one output that is kept for a job, in bytes. What comes after is
/// dropped and counted, so a job that prints without end costs no more.
pub const OUTPUT_LIMIT: usize = 64 << 20;

/// How often the machine is asked whether it is alive.
///
/// The question is also an interrupt. QEMU's emulated processor was seen to
/// lose the timer interrupt for which an idle machine waits (one guest demo in
/// six; the machine slept for minutes); any other interrupt wakes it, and it
/// then finds that its timers are due.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// How soon a wish to end is noticed.
const ALERTNESS: Duration = Duration::from_millis(100);

/// How long QEMU may take to be gone once its socket is closed.
const END: Duration = Duration::from_secs(10);

/// One of a job's outputs so far.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) bytes: Vec<u8>,
    pub(crate) dropped: u64,
    pub(crate) ended: bool,
}

/// How far a job has come.
#[derive(Debug, Default)]
pub(crate) struct JobState {
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
    pub(crate) ended: Option<Status>,
    pub(crate) refused: Option<String>,
}

impl JobState {
    pub(crate) fn is_over(&self) -> bool {
        self.refused.is_some() || (self.ended.is_some() && self.stdout.ended && self.stderr.ended)
    }

    fn captured(&mut self, stream: Stream) -> &mut Captured {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

#[derive(Default)]
pub(crate) struct State {
    ready: bool,
    /// How the machine ended, once it has.
    gone: Option<String>,
    answered: u32,
    /// When it last answered a question.
    heard: Option<Instant>,
    /// It has not answered for so long that it never will.
    hangs: bool,
    next: u32,
    jobs: HashMap<JobNumber, JobState>,
}

impl State {
    pub(crate) fn job(&self, number: JobNumber) -> Option<&JobState> {
        self.jobs.get(&number)
    }
}

/// The link to one machine's agent.
pub(crate) struct Link {
    out: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
    console: Console,
    patience: Duration,
    interrupted: fn() -> bool,
}

impl Link {
    /// `patience` is how long the agent may take to answer a question before
    /// the machine is said to hang.
    pub(crate) fn new(
        socket: UnixStream,
        console: Console,
        patience: Duration,
        interrupted: fn() -> bool,
    ) -> Result<Arc<Self>> {
        let input = socket
            .try_clone()
            .map_err(Error::io("cannot share the agent's socket"))?;
        let link = Arc::new(Self {
            out: Mutex::new(socket),
            state: Mutex::default(),
            changed: Condvar::new(),
            console,
            patience,
            interrupted,
        });
        let reader = Arc::clone(&link);
        thread::Builder::new()
            .name("lab-link".into())
            .spawn(move || reader.read(input))
            .map_err(Error::io("cannot start a thread"))?;
        let beating = Arc::downgrade(&link);
        thread::Builder::new()
            .name("lab-heartbeat".into())
            .spawn(move || heartbeat(&beating))
            .map_err(Error::io("cannot start a thread"))?;
        Ok(link)
    }

    fn read(&self, input: UnixStream) {
        let mut input = BufReader::with_capacity(1 << 16, input);
        loop {
            match frame::receive_report(&mut input) {
                Ok(Some(report)) => self.note(report),
                // The machine's end is told by QEMU's own exit status.
                Ok(None) => return,
                Err(error) => {
                    self.gone(format!("its agent's port broke: {error}"));
                    return;
                }
            }
        }
    }

    fn note(&self, report: Report) {
        let mut state = self.lock();
        match report {
            Report::Ready => {
                state.ready = true;
                state.heard = Some(Instant::now());
            }
            Report::Alive(number) => {
                state.answered = state.answered.max(number);
                state.heard = Some(Instant::now());
            }
            Report::Output(job, stream, bytes) => {
                if let Some(job) = state.jobs.get_mut(&job) {
                    job.captured(stream).add(&bytes);
                }
            }
            Report::OutputEnd(job, stream) => {
                if let Some(job) = state.jobs.get_mut(&job) {
                    job.captured(stream).ended = true;
                }
            }
            Report::Ended(job, status) => {
                if let Some(job) = state.jobs.get_mut(&job) {
                    job.ended = Some(status);
                }
            }
            Report::Refused(job, reason) => {
                if let Some(job) = state.jobs.get_mut(&job) {
                    job.refused = Some(reason);
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that the machine has ended; the first reason stays.
    pub(crate) fn gone(&self, how: String) {
        self.lock().gone.get_or_insert(how);
        self.changed.notify_all();
    }

    /// Stops the reading thread.
    pub(crate) fn close(&self) {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Closed by the other side already is as good.
        let _ = out.shutdown(Shutdown::Both);
    }

    pub(crate) fn open_job(&self) -> JobNumber {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.jobs.insert(number, JobState::default());
        number
    }

    pub(crate) fn close_job(&self, number: JobNumber) -> Option<JobState> {
        self.lock().jobs.remove(&number)
    }

    pub(crate) fn send(&self, request: &Request) -> Result<()> {
        let sent = {
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            frame::send_request(&mut *out, request)
        };
        let Err(error) = sent else {
            return Ok(());
        };
        // A broken pipe says less than how the machine ended, which is known
        // as soon as QEMU has been waited for.
        self.wait_gone(END);
        match &self.lock().gone {
            Some(how) => Err(self.died(how, "a request was sent")),
            None => Err(Error::io("cannot send a request to the lab")(error)),
        }
    }

    /// Waits until `ready` gives something, the machine ends, or `until`
    /// passes (then the result is `None`).
    pub(crate) fn wait<T>(
        &self,
        during: &str,
        until: Option<Instant>,
        mut ready: impl FnMut(&State) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut state = self.lock();
        loop {
            if let Some(value) = ready(&state) {
                return Ok(Some(value));
            }
            if let Some(how) = &state.gone {
                return Err(self.died(how, during));
            }
            if state.hangs {
                return Err(self.hang(self.patience, during));
            }
            if (self.interrupted)() {
                return Err(Error::Interrupted);
            }
            let left = until.map_or(ALERTNESS, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(None);
            }
            state = self
                .changed
                .wait_timeout(state, left.min(ALERTNESS))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the agent's first word.
    pub(crate) fn wait_ready(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        self.wait("it booted", Some(until), |state| state.ready.then_some(()))?
            .ok_or_else(|| self.hang(patience, "it booted"))
    }

    /// Tells a machine that hangs from one that is only busy.
    ///
    /// # Errors
    /// [`Error::LabHang`] or [`Error::LabDied`].
    pub(crate) fn check_alive(&self, during: &str) -> Result<()> {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        drop(state);
        self.send(&Request::Ask(number))?;
        let until = Instant::now() + self.patience;
        self.wait(during, Some(until), |state| {
            (state.answered >= number).then_some(())
        })?
        .ok_or_else(|| self.hang(self.patience, during))
    }

    pub(crate) fn console_tail(&self) -> Tail {
        self.console.tail()
    }

    /// Waits for the machine's end and says whether it came.
    pub(crate) fn wait_gone(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while state.gone.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn died(&self, how: &str, during: &str) -> Error {
        Error::LabDied {
            status: how.to_owned(),
            during: during.to_owned(),
            console: self.console.tail(),
        }
    }

    fn hang(&self, waited: Duration, during: &str) -> Error {
        Error::LabHang {
            waited,
            during: during.to_owned(),
            console: self.console.tail(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until the link is gone or broken.
fn heartbeat(link: &Weak<Link>) {
    loop {
        thread::sleep(HEARTBEAT);
        let Some(link) = link.upgrade() else {
            return;
        };
        let mut state = link.lock();
        if state.gone.is_some() {
            return;
        }
        // Before its first word nobody reads the port.
        let ready = state.ready;
        if state.heard.is_some_and(|at| at.elapsed() > link.patience) {
            state.hangs = true;
            link.changed.notify_all();
            return;
        }
        state.next += 1;
        let number = state.next;
        drop(state);
        let mut out = link.out.lock().unwrap_or_else(PoisonError::into_inner);
        if ready && frame::send_request(&mut *out, &Request::Ask(number)).is_err() {
            return;
        }
    }
}

impl Captured {
    fn add(&mut self, bytes: &[u8]) {
        let room = OUTPUT_LIMIT - self.bytes.len();
        let kept = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.dropped += u64::try_from(bytes.len() - kept).unwrap_or(u64::MAX);
    }
}
