//! The server that keeps areas for primaries elsewhere.

mod areas;
mod serve;

use crate::replica::ReplicaError;
use crate::stream::Listener;
use afterimage_protocol::status::Report;
use afterimage_store::StoreError;
use areas::Areas;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What a backup lets its peers use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Each has a thread and a buffer for one message.
    pub connections: usize,
    /// Areas in all.
    pub areas: usize,
    /// Bytes of all areas together; their images are kept in memory.
    pub bytes: u64,
    /// How long a peer may be silent in the middle of a message, and how long
    /// it may take to be rid of an answer.
    pub timeout: Duration,
    /// How long a thread polls for the next message while traffic is recent.
    pub spin: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            areas: 64,
            bytes: 16 << 30,
            timeout: Duration::from_secs(10),
            spin: Duration::from_micros(50),
        }
    }
}

/// A backup: a directory with one store for each area, and the images in
/// memory.
#[derive(Debug)]
pub struct Backup {
    areas: Areas,
    limits: Limits,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

/// A backup cannot begin its work.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The directory cannot be used.
    #[error("{path}: cannot be used as a backup's directory")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One of the areas in it cannot be recovered.
    #[error("{path}: this area cannot be recovered; move it away to start without it")]
    Area {
        /// The area's directory.
        path: PathBuf,
        /// Why.
        source: ReplicaError,
    },
    /// The socket failed.
    #[error("the listening socket failed")]
    Listen(#[source] io::Error),
}

impl Backup {
    /// Opens a directory, making it if it is not there, and recovers the areas
    /// in it.
    ///
    /// # Errors
    /// [`BackupError`]; one damaged area is enough, rather than a backup that
    /// silently lacks it.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, BackupError> {
        Ok(Self {
            areas: Areas::open(dir, limits)?,
            limits,
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// Serves connections, each on a thread, until [`Backup::stop`].
    ///
    /// # Errors
    /// [`BackupError::Listen`].
    pub fn serve(self: &Arc<Self>, listener: &Listener) -> Result<(), BackupError> {
        loop {
            let stream = match listener.accept() {
                Ok(stream) => stream,
                Err(error) if is_final(&error) => return Err(BackupError::Listen(error)),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    // Without descriptors or memory it fails again at once.
                    std::thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            if self.stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.connections.fetch_add(1, Ordering::AcqRel) >= self.limits.connections {
                self.connections.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!(
                    limit = self.limits.connections,
                    "connection refused: too many"
                );
                continue;
            }
            let backup = Arc::clone(self);
            let spawned = std::thread::Builder::new()
                .name("connection".into())
                .spawn(move || {
                    let counted = Counted(backup);
                    serve::connection(&counted.0, stream);
                });
            if let Err(error) = spawned {
                // The closure, and with it the count, is gone already, but it
                // counts only once it runs.
                self.connections.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!(%error, "connection refused: no thread");
            }
        }
    }

    /// Makes [`Backup::serve`] return at the next connection (make one), and
    /// puts everything on disk.
    ///
    /// # Errors
    /// The first [`StoreError`].
    pub fn stop(&self) -> Result<(), StoreError> {
        self.stopping.store(true, Ordering::Release);
        self.areas.sync()
    }

    /// What it holds.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            role: "backup".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            areas: self.areas.reports(),
            notes: Vec::new(),
        }
    }
}

/// One connection of those that are counted; gone even if its thread panics.
struct Counted(Arc<Backup>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Errors of accept(2) that are about the socket itself. The others, the
/// network's errors among them, are about one connection (accept(2), "Error
/// handling").
fn is_final(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
