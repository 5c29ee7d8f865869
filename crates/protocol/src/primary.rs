//! The primary's end: its connection to one target.

use crate::message::{Hello, Message, Position, Welcome, write_delta};
use crate::refusal::{Refusal, RefusalCode};
use crate::transfer::{ImageReceiver, TransferError};
use afterimage_area_abi::Level;
use afterimage_delta::{Delta, Epoch, Image, Term};

/// What a message from the target came to.
#[derive(Debug)]
pub enum Event {
    /// Nothing to do yet.
    Waiting,
    /// The target holds exactly what the primary said it has.
    Ready,
    /// The target already holds the pending epoch.
    PendingHeld,
    /// The target holds less: the whole image is to be sent.
    Behind {
        /// What the target holds.
        position: Position,
    },
    /// The primary has nothing; this is what it is to go on from.
    Image(Image),
    /// The level holds at the target up to this epoch.
    Acknowledged {
        /// The epoch.
        epoch: Epoch,
        /// The level.
        level: Level,
    },
}

/// The connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The target said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The image did not arrive whole.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The target said something that does not belong here.
    #[error("the target answered with a message that is not expected at this point")]
    Unexpected,
}

/// State of a connection.
#[derive(Debug)]
pub struct Session {
    hello: Hello,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Greeting,
    /// The target's image is on its way.
    Taking {
        term: Term,
        receiver: Option<ImageReceiver>,
    },
    Open {
        term: Term,
    },
}

impl Session {
    /// Begins; the [`Hello`] is to be sent.
    #[must_use]
    pub fn new(hello: Hello) -> Self {
        Self {
            hello,
            phase: Phase::Greeting,
        }
    }

    /// The first message.
    #[must_use]
    pub fn hello(&self) -> Message {
        Message::Hello(self.hello.clone())
    }

    /// Term of the reign, once the target has welcomed.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        match self.phase {
            Phase::Greeting => None,
            Phase::Taking { term, .. } | Phase::Open { term } => Some(term),
        }
    }

    /// Appends a delta for the target to `out`.
    ///
    /// # Errors
    /// [`SessionError::Unexpected`] before the target is ready.
    pub fn send_delta(
        &self,
        out: &mut Vec<u8>,
        delta: &Delta,
        level: Level,
    ) -> Result<(), SessionError> {
        let Phase::Open { term } = self.phase else {
            return Err(SessionError::Unexpected);
        };
        write_delta(out, term, level, delta);
        Ok(())
    }

    /// Takes a message from the target.
    ///
    /// # Errors
    /// [`SessionError`]; the connection is to be closed.
    pub fn on_message(&mut self, message: Message) -> Result<Event, SessionError> {
        if let Message::Refused(refusal) = message {
            return Err(refusal.into());
        }
        match (&mut self.phase, message) {
            (Phase::Greeting, Message::Welcome(welcome)) => self.welcome(welcome),
            (Phase::Taking { receiver, .. }, Message::ImageBegin { len, position, .. })
                if receiver.is_none() =>
            {
                *receiver = Some(ImageReceiver::new(len, self.hello.len, position)?);
                Ok(Event::Waiting)
            }
            (
                Phase::Taking {
                    receiver: Some(receiver),
                    ..
                },
                Message::ImageChunk { offset, bytes },
            ) => {
                receiver.chunk(offset, &bytes)?;
                Ok(Event::Waiting)
            }
            (Phase::Taking { term, receiver }, Message::ImageEnd { checksum }) => {
                let image = receiver
                    .take()
                    .ok_or(SessionError::Unexpected)?
                    .finish(checksum)?;
                self.phase = Phase::Open { term: *term };
                Ok(Event::Image(image))
            }
            (Phase::Open { .. }, Message::Ack { epoch, level }) => {
                Ok(Event::Acknowledged { epoch, level })
            }
            _ => Err(SessionError::Unexpected),
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Result<Event, SessionError> {
        let Welcome {
            term,
            position,
            image_follows,
        } = welcome;
        if image_follows {
            if self.hello.position != Position::default() {
                return Err(SessionError::Unexpected);
            }
            self.phase = Phase::Taking {
                term,
                receiver: None,
            };
            return Ok(Event::Waiting);
        }
        self.phase = Phase::Open { term };
        let own = self.hello.position;
        let pending = self.hello.pending.map(|chain| Position {
            epoch: own.epoch.next(),
            chain,
        });
        if position == own {
            Ok(Event::Ready)
        } else if Some(position) == pending {
            Ok(Event::PendingHeld)
        } else if position.epoch < own.epoch {
            Ok(Event::Behind { position })
        } else {
            // The target checks this too; a primary never trusts that it did.
            Err(SessionError::Refused(Refusal {
                code: RefusalCode::Fuller,
                term,
                epoch: position.epoch,
                text: format!(
                    "the target holds epoch {}, this primary only {}",
                    position.epoch, own.epoch
                ),
            }))
        }
    }
}
