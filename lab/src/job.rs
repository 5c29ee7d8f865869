//! A program run inside the lab.

use std::time::Duration;

use crate::error::{Error, Evidence, Result, Tail};
use crate::frame::{Spec, Status, Stream};

/// Last lines of a job's output that an error shows.
const TAIL: usize = 40;

/// What to run, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) spec: Spec,
    pub(crate) input: Vec<u8>,
    pub(crate) timeout: Duration,
}

impl Job {
    /// Time that a job is given unless it says otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    /// A job that runs `program`, a path inside the lab.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            spec: Spec {
                program: program.into(),
                args: Vec::new(),
                env: Vec::new(),
                cwd: "/".into(),
            },
            input: Vec::new(),
            timeout: Self::DEFAULT_TIMEOUT,
        }
    }

    /// A job that runs a line in the lab's shell.
    #[must_use]
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new("/bin/sh").arg("-c").arg(line)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.spec.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.spec.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.push((key.into(), value.into()));
        self
    }

    /// Sets the folder that the program starts in.
    #[must_use]
    pub fn cwd(mut self, dir: impl Into<String>) -> Self {
        self.spec.cwd = dir.into();
        self
    }

    /// Gives the program these bytes as its standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Sets how long [`Running::wait`](crate::Running::wait) waits for the end.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A line that a job has printed, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where it was printed.
    pub stream: Stream,
    /// The line. Bytes that are not UTF-8 are replaced.
    pub text: &'a str,
}

/// A job that has ended.
#[derive(Debug, Clone)]
pub struct Done {
    pub(crate) program: String,
    pub(crate) console: Tail,
    /// How its process ended.
    pub status: Status,
    /// What it printed on standard output, up to
    /// [`OUTPUT_LIMIT`](crate::OUTPUT_LIMIT).
    pub stdout: Vec<u8>,
    /// What it printed on standard error, with the same limit.
    pub stderr: Vec<u8>,
    /// Bytes of both that were over the limit and are lost.
    pub dropped: u64,
}

impl Done {
    /// Whether the process exited with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == Status::Exited(0)
    }

    /// Standard output as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The job itself if it succeeded.
    ///
    /// # Errors
    /// Any other end than exit status 0, with the last lines of the job and
    /// of the console.
    pub fn expect_success(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        Err(Error::JobFailed {
            what: match self.status {
                Status::Exited(code) => format!("exited with status {code}"),
                Status::Killed(signal) => format!("was killed by signal {signal}"),
            },
            evidence: Evidence(vec![output_tail(&self.stdout, &self.stderr), self.console]),
            program: self.program,
        })
    }
}

pub(crate) fn output_tail(stdout: &[u8], stderr: &[u8]) -> Tail {
    let mut lines = Vec::new();
    for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        let text = String::from_utf8_lossy(bytes);
        let all: Vec<&str> = text.lines().collect();
        let last = &all[all.len().saturating_sub(TAIL)..];
        lines.extend(last.iter().map(|line| format!("{name}: {line}")));
    }
    Tail {
        title: "output of the program",
        lines,
    }
}
