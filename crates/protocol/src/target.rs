//! The target's end: a connection of one primary.

use crate::admission::{Held, admit};
use crate::message::{DELTA_HEAD, Hello, Message, Position, Welcome};
use crate::refusal::{Refusal, RefusalCode};
use crate::transfer::{CHUNK, ImageReceiver};
use afterimage_area_abi::{Level, PrimaryId, Reign};
use afterimage_delta::{Chain, Delta, Epoch, Image, Term, max_encoded_len};

/// One area at a target, as the protocol sees it.
pub trait Replica {
    /// What is held.
    fn held(&self) -> Held;

    /// Records a reign, durably.
    ///
    /// # Errors
    /// What to tell the peer.
    fn set_reign(&mut self, reign: Reign) -> Result<(), String>;

    /// Makes everything that is held durable.
    ///
    /// # Errors
    /// What to tell the peer.
    fn persist(&mut self) -> Result<(), String>;

    /// Stores a delta that follows, and applies it; when it returns, the level
    /// holds here.
    ///
    /// # Errors
    /// What to tell the peer; nothing was applied then.
    fn append(&mut self, delta: &Delta, level: Level) -> Result<(), String>;

    /// Replaces everything by this image, durably.
    ///
    /// # Errors
    /// What to tell the peer; what was held is still held then.
    fn install(&mut self, image: Image) -> Result<(), String>;

    /// A copy of the image, to be given to a new primary.
    ///
    /// # Errors
    /// What to tell the peer.
    fn image(&self) -> Result<Image, String>;
}

/// State of a connection after its hello.
#[derive(Debug)]
pub struct Session {
    term: Term,
    primary: PrimaryId,
    receiving: Option<ImageReceiver>,
}

/// A hello was accepted.
#[derive(Debug)]
pub struct Greeting {
    /// The connection from here on.
    pub session: Session,
    /// To be sent first.
    pub welcome: Welcome,
    /// To be sent after it, in the reign's term, if there is one.
    pub image: Option<Image>,
}

impl Session {
    /// Decides about a primary's hello and records its reign.
    ///
    /// # Errors
    /// The refusal to send; then the connection ends.
    pub fn greet(hello: &Hello, replica: &mut dyn Replica) -> Result<Greeting, Refusal> {
        let held = replica.held();
        let admitted = admit(hello, &held)?;
        // The welcome is an acknowledgement at the strongest level of all that
        // is held: a primary that finds its pending epoch here does not send it
        // again.
        let failed = |text| held.refuse(RefusalCode::Failed, text);
        // Before anything is recorded, so that a target without memory can
        // still be asked by the next one.
        let image = admitted
            .takes_image
            .then(|| replica.image())
            .transpose()
            .map_err(failed)?;
        replica.persist().map_err(failed)?;
        if admitted.reign != held.reign {
            replica.set_reign(admitted.reign).map_err(failed)?;
        }
        Ok(Greeting {
            session: Self {
                term: admitted.reign.term,
                primary: hello.primary,
                receiving: None,
            },
            welcome: Welcome {
                term: admitted.reign.term,
                position: held.position,
                image_follows: admitted.takes_image,
            },
            image,
        })
    }

    /// Longest message in bytes that makes sense for an area of `len` bytes.
    #[must_use]
    pub fn message_limit(len: u64) -> usize {
        let delta = usize::try_from(max_encoded_len(len)).unwrap_or(usize::MAX);
        delta.saturating_add(DELTA_HEAD).max(CHUNK + 64)
    }

    /// Takes a message; the answer, if there is one, is to be sent.
    ///
    /// # Errors
    /// The refusal to send; then the connection ends.
    pub fn on_message(
        &mut self,
        message: Message,
        replica: &mut dyn Replica,
    ) -> Result<Option<Message>, Refusal> {
        let held = replica.held();
        // Another primary may have been let in since: every message counts
        // only as long as its sender reigns.
        self.check_reign(self.term, &held)?;
        match message {
            Message::Delta {
                term,
                level,
                epoch,
                previous,
                payload,
            } => {
                self.check_reign(term, &held)?;
                let delta = check_delta(&held, epoch, previous, payload)?;
                replica
                    .append(&delta, level)
                    .map_err(|text| held.refuse(RefusalCode::Failed, text))?;
                Ok(Some(Message::Ack { epoch, level }))
            }
            Message::ImageBegin {
                term,
                len,
                position,
            } => {
                self.check_reign(term, &held)?;
                check_image(&held, position)?;
                let receiver = ImageReceiver::new(len, held.len, position)
                    .map_err(|e| held.refuse(RefusalCode::Length, e.to_string()))?;
                self.receiving = Some(receiver);
                Ok(None)
            }
            Message::ImageChunk { offset, bytes } => {
                let receiver = self.receiving.as_mut().ok_or_else(|| unexpected(&held))?;
                receiver
                    .chunk(offset, &bytes)
                    .map_err(|e| held.refuse(RefusalCode::Malformed, e.to_string()))?;
                Ok(None)
            }
            Message::ImageEnd { checksum } => {
                let receiver = self.receiving.take().ok_or_else(|| unexpected(&held))?;
                let image = receiver
                    .finish(checksum)
                    .map_err(|e| held.refuse(RefusalCode::Malformed, e.to_string()))?;
                let position = Position {
                    epoch: image.epoch(),
                    chain: image.chain(),
                };
                check_image(&held, position)?;
                let epoch = image.epoch();
                replica
                    .install(image)
                    .map_err(|text| held.refuse(RefusalCode::Failed, text))?;
                Ok(Some(Message::Ack {
                    epoch,
                    level: Level::Durable,
                }))
            }
            _ => Err(unexpected(&held)),
        }
    }

    fn check_reign(&self, term: Term, held: &Held) -> Result<(), Refusal> {
        let reigns = term == held.reign.term && held.reign.primary == Some(self.primary);
        if reigns {
            return Ok(());
        }
        Err(held.refuse(
            RefusalCode::Fenced,
            format!(
                "the area is in term {}, the sender in term {term}: a newer primary has taken over",
                held.reign.term
            ),
        ))
    }
}

fn unexpected(held: &Held) -> Refusal {
    held.refuse(
        RefusalCode::Malformed,
        "a message that is not expected at this point",
    )
}

/// An image never takes the place of one that holds more, or as much of another
/// history.
fn check_image(held: &Held, position: Position) -> Result<(), Refusal> {
    if position == held.position || position.epoch > held.position.epoch {
        return Ok(());
    }
    let code = if position.epoch < held.position.epoch {
        RefusalCode::Fuller
    } else {
        RefusalCode::Diverged
    };
    Err(held.refuse(
        code,
        format!(
            "an image of epoch {} would overwrite epoch {}",
            position.epoch, held.position.epoch
        ),
    ))
}

fn check_delta(
    held: &Held,
    epoch: Epoch,
    previous: Chain,
    payload: Vec<u8>,
) -> Result<Delta, Refusal> {
    if epoch != held.position.epoch.next() {
        return Err(held.refuse(
            RefusalCode::Order,
            format!(
                "epoch {epoch} does not follow epoch {}",
                held.position.epoch
            ),
        ));
    }
    if previous != held.position.chain {
        return Err(held.refuse(
            RefusalCode::Diverged,
            format!("epoch {epoch} continues another history than the one held here"),
        ));
    }
    Delta::decode(epoch, previous, payload, held.len)
        .map_err(|e| held.refuse(RefusalCode::Malformed, e.to_string()))
}
