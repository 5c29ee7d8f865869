//! All targets of an area, as a primary commits to them.

mod open;

use crate::directory::Directory;
use crate::remote::{Attempt, Remote};
use crate::{OnLoss, TargetUrl};
use afterimage_area_abi::{Level, Outcome, PrimaryId};
use afterimage_delta::{Delta, Epoch, Image, Term};
use afterimage_protocol::status::TargetReport;
use afterimage_protocol::{Hello, Position};
use std::time::Instant;

pub use open::OpenError;

/// Where an area's deltas go, and what a commit asks of those places.
///
/// One commit at a time: directories are written first, so that a directory
/// never holds less than a backup after a crash; then all backups are sent the
/// delta, then their answers are waited for.
#[derive(Debug)]
pub struct Targets {
    directories: Vec<Directory>,
    remotes: Vec<Remote>,
    /// What is said to a backup that is met again; its position follows the
    /// image.
    hello: Hello,
    quorum: u32,
    level: Level,
    on_loss: OnLoss,
    acknowledged: Epoch,
    /// Whether the last commit was let go below its quorum.
    degraded: bool,
    stopped: Option<Stopped>,
}

/// Why an area takes no more commits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stopped {
    Fenced(Term),
    Lost(String),
}

/// A commit was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A newer primary reigns.
    #[error("fenced: a newer primary has taken over in term {term}; this one must stop")]
    Fenced {
        /// The newer term.
        term: Term,
    },
    /// An earlier commit ended in doubt, and the setting for that is to stop.
    #[error(
        "stopped: an earlier commit ended in doubt ({reason}); restart to find out what the targets hold"
    )]
    Stopped {
        /// What went wrong.
        reason: String,
    },
}

impl Targets {
    /// Brings a delta to the targets and waits for the level.
    ///
    /// `image` is the image before the delta. The outcome is what is known;
    /// unless it is fenced, the caller makes the delta part of the image and
    /// then calls [`Targets::completed`].
    ///
    /// # Errors
    /// [`CommitError`], if the area takes no commits any more; nothing was
    /// sent then.
    pub fn commit(
        &mut self,
        delta: &Delta,
        image: &Image,
        level: Option<Level>,
    ) -> Result<Outcome, CommitError> {
        self.check_running()?;
        let level = level.unwrap_or(self.level);
        self.hello.position = Position {
            epoch: image.epoch(),
            chain: image.chain(),
        };
        let mut tried_again = false;
        loop {
            let held = match self.round(delta, image, level) {
                Ok(held) => held,
                Err(term) => {
                    tracing::error!(%term, "fenced: a newer primary has taken over");
                    self.stopped = Some(Stopped::Fenced(term));
                    return Ok(Outcome::Fenced { term });
                }
            };
            if level == Level::Local {
                return Ok(Outcome::Held { targets: 0 });
            }
            if self.is_empty() {
                return Ok(Outcome::Degraded { held: 0, wanted: 1 });
            }
            if held >= self.quorum {
                if level > Level::Sent {
                    self.acknowledged = delta.epoch();
                }
                if std::mem::take(&mut self.degraded) {
                    tracing::info!(epoch = %delta.epoch(), held, "commits are at their quorum again");
                }
                return Ok(Outcome::Held { targets: held });
            }
            let due = self.next_attempt().is_some_and(|at| at <= Instant::now());
            if due && !std::mem::replace(&mut tried_again, true) {
                continue;
            }
            match self.on_loss {
                OnLoss::Continue => {
                    if !std::mem::replace(&mut self.degraded, true) {
                        tracing::warn!(epoch = %delta.epoch(), held, wanted = self.quorum, "commits are degraded from here on");
                    }
                    return Ok(Outcome::Degraded {
                        held,
                        wanted: self.quorum,
                    });
                }
                OnLoss::Stop => return Ok(self.stop()),
                OnLoss::Wait => match self.next_attempt() {
                    Some(at) => pause_until(at),
                    // Only directories are missing, and a failed one does not
                    // come back while this process lives.
                    None => return Ok(self.stop()),
                },
            }
        }
    }

    /// One attempt at all targets; how many hold the delta, or the term of the
    /// newer primary.
    fn round(&mut self, delta: &Delta, image: &Image, level: Level) -> Result<u32, Term> {
        // Targets get every epoch, in order, even if nothing is waited for.
        let sent = self.send(delta, image, level.max(Level::Sent))?;
        let mut held = sent.held;
        for index in sent.waiting {
            match self.remotes[index].wait(delta, level) {
                Attempt::Held => held += 1,
                Attempt::Fenced(term) => return Err(term),
                Attempt::Lost | Attempt::Sent => {}
            }
        }
        Ok(held)
    }

    fn send(&mut self, delta: &Delta, image: &Image, level: Level) -> Result<Sent, Term> {
        let mut sent = Sent::default();
        for directory in &mut self.directories {
            let has_it = directory.acknowledged() == delta.epoch();
            if has_it || directory.commit(delta, level) {
                sent.held += 1;
            }
        }
        for (index, remote) in self.remotes.iter_mut().enumerate() {
            match remote.send(&self.hello, image, delta, level) {
                Attempt::Held => sent.held += 1,
                Attempt::Sent if level == Level::Sent => sent.held += 1,
                Attempt::Sent => sent.waiting.push(index),
                Attempt::Lost => {}
                Attempt::Fenced(term) => return Err(term),
            }
        }
        Ok(sent)
    }

    /// Says that the last committed delta is in the image.
    pub fn completed(&mut self, image: &Image) {
        for directory in &mut self.directories {
            directory.compact_if_due(image);
        }
    }

    /// Refuses if no commits are taken any more.
    ///
    /// # Errors
    /// [`CommitError`], the reason.
    pub fn check_running(&self) -> Result<(), CommitError> {
        match &self.stopped {
            None => Ok(()),
            Some(Stopped::Fenced(term)) => Err(CommitError::Fenced { term: *term }),
            Some(Stopped::Lost(reason)) => Err(CommitError::Stopped {
                reason: reason.clone(),
            }),
        }
    }

    fn stop(&mut self) -> Outcome {
        let reports = self.reports().into_iter();
        let problems: Vec<_> = reports
            .filter_map(|r| r.problem.map(|p| format!("{}: {p}", r.url)))
            .collect();
        let reason = problems.join("; ");
        tracing::error!(reason, "commit in doubt; the area takes no more commits");
        self.stopped = Some(Stopped::Lost(reason));
        Outcome::InDoubt
    }

    fn next_attempt(&self) -> Option<Instant> {
        self.remotes.iter().filter_map(Remote::retry_at).min()
    }

    /// Whether there is no target at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.remotes.is_empty()
    }

    /// Number of targets.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.directories.len() + self.remotes.len()).unwrap_or(u32::MAX)
    }

    /// How many must hold an epoch.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        self.quorum
    }

    /// What a commit waits for unless it says otherwise.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Term of this primary's reign.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hello.term
    }

    /// Identity of this primary.
    #[must_use]
    pub fn primary(&self) -> PrimaryId {
        self.hello.primary
    }

    /// Last epoch that holds at the quorum.
    #[must_use]
    pub fn acknowledged(&self) -> Epoch {
        self.acknowledged
    }

    /// `running`, or why no commits are taken.
    #[must_use]
    pub fn state(&self) -> String {
        self.check_running()
            .map_or_else(|error| error.to_string(), |()| "running".to_owned())
    }

    /// How each target is.
    #[must_use]
    pub fn reports(&self) -> Vec<TargetReport> {
        let directories = self.directories.iter().map(|d| TargetReport {
            url: TargetUrl::Dir(d.path().to_owned()).to_string(),
            connected: d.problem().is_none(),
            acknowledged: d.acknowledged().0,
            problem: d.problem().map(str::to_owned),
        });
        let remotes = self.remotes.iter().map(|r| TargetReport {
            url: r.address().to_string(),
            connected: r.is_connected(),
            acknowledged: r.acknowledged().0,
            problem: r.problem().map(str::to_owned),
        });
        directories.chain(remotes).collect()
    }
}

#[derive(Default)]
struct Sent {
    held: u32,
    /// Indices of backups whose answer is to be waited for.
    waiting: Vec<usize>,
}

fn pause_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}
