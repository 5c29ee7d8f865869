//! A target that is a backup on the network.

use crate::connection::{Connection, ConnectionError};
use crate::replica::report;
use crate::stream::Stream;
use crate::{Address, Settings};
use afterimage_area_abi::Level;
use afterimage_delta::{Delta, Epoch, Image, Term};
use afterimage_protocol::primary::{Event, Session, SessionError};
use afterimage_protocol::target::Session as TargetSession;
use afterimage_protocol::{Hello, Message, RefusalCode, send_image};
use std::time::{Duration, Instant};

/// Shortest and longest pause between attempts to reach a lost backup.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A backup, connected or lost.
#[derive(Debug)]
pub(crate) struct Remote {
    address: Address,
    link: Option<Link>,
    acknowledged: Epoch,
    problem: Option<String>,
    retry_at: Instant,
    pause: Duration,
    settings: Settings,
}

#[derive(Debug)]
struct Link {
    connection: Connection,
    session: Session,
    /// The last epoch handed over on this connection.
    sent: Epoch,
}

/// Why a backup does not take part.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It cannot be reached, or the connection broke.
    #[error("target {address}")]
    Connection {
        /// The backup.
        address: Address,
        /// What happened.
        source: ConnectionError,
    },
    /// It said no, or nonsense.
    #[error("target {address}")]
    Session {
        /// The backup.
        address: Address,
        /// What it said.
        source: SessionError,
    },
}

/// What an attempt to commit at one backup came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The level holds there.
    Held,
    /// It was handed over; whether it arrived is not known.
    Sent,
    /// It cannot be reached.
    Lost,
    /// It has a newer primary.
    Fenced(Term),
}

/// How a greeting ended.
pub(crate) enum Greeted {
    /// It holds what the primary has.
    Ready,
    /// The primary had nothing; this is what the backup has.
    Image(Image),
}

impl Remote {
    pub(crate) fn new(address: Address, settings: &Settings) -> Self {
        Self {
            address,
            link: None,
            acknowledged: Epoch::ZERO,
            problem: None,
            retry_at: Instant::now(),
            pause: RETRY.0,
            settings: settings.clone(),
        }
    }

    /// Connects and says hello; brings a backup that is behind up to `image`.
    /// `pending` is the epoch after the image, if one was begun.
    pub(crate) fn greet(
        &mut self,
        hello: &Hello,
        image: &Image,
    ) -> Result<(Greeted, Term), RemoteError> {
        let greeted = self.try_greet(hello, image);
        match &greeted {
            Ok(_) => {
                self.problem = None;
                self.pause = RETRY.0;
            }
            // Who it is, whoever shows the problem says.
            Err(RemoteError::Connection { source, .. }) => self.lose(&report(source)),
            Err(RemoteError::Session { source, .. }) => self.lose(&report(source)),
        }
        greeted
    }

    fn try_greet(&mut self, hello: &Hello, image: &Image) -> Result<(Greeted, Term), RemoteError> {
        let address = self.address.clone();
        let broken = |source: ConnectionError| RemoteError::Connection {
            address: address.clone(),
            source,
        };
        let said = |source: SessionError| RemoteError::Session {
            address: address.clone(),
            source,
        };
        let timeout = self.settings.timeout;
        let stream = Stream::connect(&self.address, timeout).map_err(|e| broken(e.into()))?;
        let mut connection =
            Connection::new(stream, timeout, self.settings.spin).map_err(|e| broken(e.into()))?;
        connection.set_limit(TargetSession::message_limit(hello.len));
        let mut session = Session::new(hello.clone());
        connection.send(&session.hello()).map_err(broken)?;
        loop {
            let message = connection.receive().map_err(broken)?;
            let event = session.on_message(message).map_err(said)?;
            let greeted = match event {
                Event::Waiting => continue,
                Event::Ready => {
                    self.acknowledged = hello.position.epoch;
                    Greeted::Ready
                }
                Event::PendingHeld => {
                    self.acknowledged = hello.position.epoch.next();
                    Greeted::Ready
                }
                Event::Image(taken) => {
                    self.acknowledged = taken.epoch();
                    Greeted::Image(taken)
                }
                Event::Behind { position } => {
                    tracing::info!(target = %self.address, theirs = %position.epoch, ours = %image.epoch(), "backup is behind: sending the whole image");
                    let term = session.term().unwrap_or(hello.term);
                    send_image(image, term, |m| connection.send(m)).map_err(broken)?;
                    continue;
                }
                Event::Acknowledged { epoch, .. } => {
                    self.acknowledged = epoch;
                    Greeted::Ready
                }
            };
            let term = session.term().unwrap_or(hello.term);
            self.link = Some(Link {
                connection,
                session,
                sent: Epoch::ZERO,
            });
            return Ok((greeted, term));
        }
    }

    /// Hands a delta over, connecting again if contact was lost and a new
    /// attempt is due.
    pub(crate) fn send(
        &mut self,
        hello: &Hello,
        image: &Image,
        delta: &Delta,
        level: Level,
    ) -> Attempt {
        if self.link.is_none() {
            if Instant::now() < self.retry_at {
                return Attempt::Lost;
            }
            let with_pending = Hello {
                pending: Some(delta.chain()),
                ..hello.clone()
            };
            match self.greet(&with_pending, image) {
                Ok(_) => tracing::info!(target = %self.address, "backup is back"),
                Err(RemoteError::Session {
                    source: SessionError::Refused(refusal),
                    ..
                }) if refusal.code == RefusalCode::Fenced => return Attempt::Fenced(refusal.term),
                Err(_) => return Attempt::Lost,
            }
        }
        // It arrived before contact was lost. A backup welcomes only once all
        // it holds is on disk, so this is as good as the strongest level.
        if self.acknowledged == delta.epoch() {
            return Attempt::Held;
        }
        if let Some(end) = self.take_answers() {
            return end;
        }
        let Some(link) = &mut self.link else {
            return Attempt::Lost;
        };
        if link.sent == delta.epoch() {
            return Attempt::Sent;
        }
        let mut encoded = Ok(());
        let session = &link.session;
        let sent = link
            .connection
            .send_with(|out| encoded = session.send_delta(out, delta, level));
        match (encoded, sent) {
            (Ok(()), Ok(())) => {
                link.sent = delta.epoch();
                Attempt::Sent
            }
            (Err(error), _) => self.lost(&error),
            // Part of it may have arrived, but a part is never applied; all of
            // it may have, if the answer was lost.
            (_, Err(error)) => self.lost(&error),
        }
    }

    /// Waits until the backup acknowledged the delta.
    pub(crate) fn wait(&mut self, delta: &Delta, level: Level) -> Attempt {
        while let Some(link) = &mut self.link {
            let message = match link.connection.receive() {
                Ok(message) => message,
                Err(error) => return self.lost(&error),
            };
            match self.on_message(message) {
                Ok(held) if self.acknowledged >= delta.epoch() && held >= level => {
                    return Attempt::Held;
                }
                Ok(_) => {}
                Err(end) => return end,
            }
        }
        Attempt::Lost
    }

    /// Takes what the backup has said since it was last listened to: nobody
    /// waits for the answers to commits at weaker levels. What ended the
    /// connection, if something did.
    fn take_answers(&mut self) -> Option<Attempt> {
        loop {
            let message = match self.link.as_mut()?.connection.receive_now() {
                Ok(message) => message?,
                // Connecting again is not a commit's failure yet.
                Err(error) => {
                    self.lost(&error);
                    return Some(Attempt::Lost);
                }
            };
            if let Err(end) = self.on_message(message) {
                return Some(end);
            }
        }
    }

    /// Takes a message from the backup: the level it acknowledged, or what
    /// became of the connection.
    fn on_message(&mut self, message: Message) -> Result<Level, Attempt> {
        let Some(link) = &mut self.link else {
            return Err(Attempt::Lost);
        };
        match link.session.on_message(message) {
            Ok(Event::Acknowledged { epoch, level }) => {
                self.acknowledged = epoch;
                Ok(level)
            }
            Ok(_) => Err(self.lost(&SessionError::Unexpected)),
            Err(SessionError::Refused(refusal)) if refusal.code == RefusalCode::Fenced => {
                self.lose(&refusal.text);
                Err(Attempt::Fenced(refusal.term))
            }
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&mut self, error: &dyn std::error::Error) -> Attempt {
        self.lose(&report(error));
        Attempt::Lost
    }

    fn lose(&mut self, problem: &str) {
        if self.problem.as_deref() != Some(problem) {
            tracing::warn!(target = %self.address, problem, "backup lost");
        }
        self.problem = Some(problem.to_owned());
        self.retry_at = Instant::now();
        // A connection that worked until now is tried again at once: the
        // backup may have been restarted since the last commit.
        if self.link.take().is_none() {
            self.retry_at += self.pause;
            self.pause = (self.pause * 2).min(RETRY.1);
        }
    }

    /// When it makes sense to try again; `None` while connected.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.link.is_none().then_some(self.retry_at)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn acknowledged(&self) -> Epoch {
        self.acknowledged
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}
