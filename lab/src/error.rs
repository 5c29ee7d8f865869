//! What can go wrong with the lab, each with what to do about it.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program of the host that the lab needs is missing.
    #[error("{program} was not found on this machine: {advice}")]
    MissingProgram {
        /// The program.
        program: String,
        /// What to do.
        advice: &'static str,
    },
    /// A program of the host ran and failed.
    #[error("{what} failed ({status}): {detail}")]
    Program {
        /// What was being done.
        what: String,
        /// Its exit status in words.
        status: String,
        /// The last lines it printed.
        detail: String,
    },
    /// The machine's package sources do not offer a package.
    #[error(
        "package {name} cannot be found in this machine's apt sources: {detail}\n\
         The lab needs Debian 12 (bookworm) with its main and security archives reachable"
    )]
    NoPackage {
        /// The package.
        name: String,
        /// What apt said.
        detail: String,
    },
    /// The cache lacks something that a lab needs.
    #[error("{what} is not in the lab's cache {dir}: run `lab fetch`")]
    NotCached {
        /// What is missing.
        what: String,
        /// The cache's folder.
        dir: String,
    },
    /// A kernel module that was asked for does not exist in that kernel.
    #[error("kernel {kernel} has no module {module}")]
    NoModule {
        /// Version of the kernel.
        kernel: String,
        /// The module.
        module: String,
    },
    /// A file could not be read, written or understood.
    #[error("{what}")]
    Io {
        /// What was being done, on which file.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not in the form that it should have.
    #[error("{what}")]
    Malformed {
        /// Which file, and what is wrong with it.
        what: String,
    },
    /// The lab's machine ended although nobody told it to.
    #[error("the lab's machine ended ({status}) while {during}{console}")]
    LabDied {
        /// How QEMU ended.
        status: String,
        /// What was going on.
        during: String,
        /// The console's last lines.
        console: Tail,
    },
    /// The lab's machine runs but does not answer: a fault of the emulated
    /// machine, not of what is tested in it. It may be tried once more.
    #[error("the lab's machine did not answer for {} s while {during}{console}", waited.as_secs())]
    LabHang {
        /// How long it was waited for.
        waited: Duration,
        /// What was going on.
        during: String,
        /// The console's last lines.
        console: Tail,
    },
    /// Whoever started the lab wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// A job did not end (or a line did not come) in the time it was given;
    /// the lab itself still answers.
    #[error("{program} in the lab: {what} after {} s{evidence}", waited.as_secs())]
    JobTimeout {
        /// The job's program.
        program: String,
        /// What did not happen.
        what: String,
        /// The time it was given.
        waited: Duration,
        /// The last lines of the job and of the console.
        evidence: Evidence,
    },
    /// A job could not be started, or ended otherwise than was asked for.
    #[error("{program} in the lab: {what}{evidence}")]
    JobFailed {
        /// The job's program.
        program: String,
        /// What happened.
        what: String,
        /// The last lines of the job and of the console.
        evidence: Evidence,
    },
}

impl Error {
    /// Whether the lab itself is to blame, so that trying once more is fair.
    #[must_use]
    pub fn is_lab_fault(&self) -> bool {
        matches!(self, Self::LabHang { .. } | Self::LabDied { .. })
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn file(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("cannot {verb} {}", path.display()))
    }
}

/// The last lines of several streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence(pub Vec<Tail>);

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|tail| tail.fmt(f))
    }
}

/// The last lines of a stream, as they are shown below an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Whose lines they are.
    pub title: &'static str,
    /// The lines, oldest first.
    pub lines: Vec<String>,
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return Ok(());
        }
        write!(f, "\n--- {}, last lines", self.title)?;
        for line in &self.lines {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}
