//! Starting, stopping and killing real processes.

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest wait for a process to be ready or to end.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a log that an error shows at most.
const LOG_TAIL: i64 = 4000;

/// How soon a wait notices that it is to be given up.
const ALERTNESS: Duration = Duration::from_millis(50);

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on SIGINT, SIGTERM and SIGHUP make all waits fail, so that whoever
/// waits cleans up on the way out. The second one ends this process at once.
///
/// # Errors
/// If the signals cannot be handled.
pub fn stop_on_signals() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&INTERRUPTED))?;
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// Whether a signal asked for the end.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A signal asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes the lines that programs print: the program's name, and the line.
#[derive(Clone)]
pub struct Echo(Arc<TakeLine>);

type TakeLine = dyn Fn(&str, &str) + Send + Sync;

impl Echo {
    /// Calls `take` for each line, from any thread.
    pub fn new(take: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Drops all lines; they are in the logs all the same.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_, _| {})
    }
}

impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Echo")
    }
}

/// A program that runs. Dropping it kills it.
///
/// It also dies with the thread that started it, so that nothing is left
/// whatever happens to a trial: start programs from a thread that stays.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    /// Reads standard error to its end.
    errors: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Program {
    /// Starts `command`, which the errors call `name`. All it prints goes to a
    /// file in `logs` and to `echo`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        mut command: Command,
        name: &str,
        logs: &Path,
        echo: &Echo,
    ) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for whoever started the program: it kills it in order.
            .process_group(0);
        // SAFETY: between fork and exec only prctl(2) is called, which is
        // async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into)
            });
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let stderr = child.stderr.take().context("standard error is a pipe")?;
        let copy = |mut file: File| {
            let (echo, name) = (echo.clone(), name.to_owned());
            move |line: &str| {
                // A full disk must not stop the program.
                let _ = writeln!(file, "{line}");
                (echo.0)(&name, line);
            }
        };
        let mut copy_stdout = copy(file.try_clone()?);
        read_lines(stdout, move |line| {
            copy_stdout(line);
            // Nobody may wait for lines any more.
            let _ = sender.send(line.to_owned());
        });
        let errors = read_lines(stderr, copy(file));
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            errors: Some(errors),
            log,
        })
    }

    /// Waits for a line of its standard output that begins with `start`; the
    /// line.
    ///
    /// # Errors
    /// If it ends first, or takes longer than `patience`; with the last lines
    /// that it printed.
    pub fn wait_for_line(&mut self, start: &str, patience: Duration) -> anyhow::Result<String> {
        self.wait_for(start, |line| line.starts_with(start), patience)
    }

    /// As [`Program::wait_for_line`], for a line that has `text` anywhere.
    ///
    /// # Errors
    /// As [`Program::wait_for_line`].
    pub fn wait_for_line_with(&mut self, text: &str, patience: Duration) -> anyhow::Result<String> {
        self.wait_for(text, |line| line.contains(text), patience)
    }

    fn wait_for(
        &mut self,
        what: &str,
        wanted: impl Fn(&str) -> bool,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.line(deadline)? {
                Some(line) if wanted(&line) => return Ok(line),
                Some(_) => {}
                None => {
                    let status = self.reap()?;
                    bail!(
                        "{} ended ({status}) before {what:?}{}",
                        self.name,
                        self.tail()
                    )
                }
            }
        }
    }

    /// The next line of its standard output; none at the end.
    fn line(&mut self, deadline: Instant) -> anyhow::Result<Option<String>> {
        loop {
            if interrupted() {
                return Err(Interrupted.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(ALERTNESS)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    bail!("waited for {} in vain{}", self.name, self.tail())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within [`PATIENCE`].
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.wait_for_end(PATIENCE)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `patience`.
    pub fn wait_for_end(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        // Its standard output ends with it.
        while self.line(deadline)?.is_some() {}
        self.reap()
    }

    /// Takes the status of a program that has ended, once its log is complete.
    fn reap(&mut self) -> anyhow::Result<ExitStatus> {
        let status = self.child.wait()?;
        if let Some(errors) = self.errors.take() {
            // A panic there only shortens the log.
            let _ = errors.join();
        }
        Ok(status)
    }

    /// The end of what it printed, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        match tail(&self.log) {
            Ok(text) if text.is_empty() => String::new(),
            Ok(text) => format!("; it printed:\n{text}"),
            Err(error) => format!("; {} is unreadable: {error}", self.log.display()),
        }
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("a process has a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, line by line, in a thread: a full pipe would stop the
/// program.
fn read_lines(
    from: impl Read + Send + 'static,
    mut take: impl FnMut(&str) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // The end is the end, whatever the reason.
        while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
            take(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    })
}

fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let len = i64::try_from(file.metadata()?.len()).unwrap_or(LOG_TAIL);
    file.seek(SeekFrom::End(-len.min(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
