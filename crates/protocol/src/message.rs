//! What primary and target say to each other.

use crate::PROTOCOL_VERSION;
use crate::frame::{self, Body};
use crate::refusal::{Refusal, RefusalCode};
use crate::wire::{
    AckWire, DeltaWire, HelloWire, ImageBeginWire, ImageChunkWire, ImageEndWire, PromotedWire,
    RefusedWire, WelcomeWire,
};
use afterimage_area_abi::{AreaName, Level, PrimaryId};
use afterimage_delta::{Chain, Delta, Epoch, Term};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How far a history goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last epoch.
    pub epoch: Epoch,
    /// The history up to it.
    pub chain: Chain,
}

/// A primary's first words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The area.
    pub name: AreaName,
    /// Its length in bytes.
    pub len: u64,
    /// Term of the primary's reign; zero if it has none and asks for one.
    pub term: Term,
    /// Who it is.
    pub primary: PrimaryId,
    /// What its image holds.
    pub position: Position,
    /// Chain of the one epoch after `position` that was sent before contact was
    /// lost, if there is one.
    pub pending: Option<Chain>,
}

/// A target's answer to a primary that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Term of the reign.
    pub term: Term,
    /// What the target holds.
    pub position: Position,
    /// Whether the target's image follows, which the primary is to go on from.
    pub image_follows: bool,
}

/// Everything that can be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Primary to target: the first message.
    Hello(Hello),
    /// Target to primary: go on.
    Welcome(Welcome),
    /// Target to anyone: no, and why. The last message.
    Refused(Refusal),
    /// Primary to target: one epoch.
    Delta {
        /// Term of the sender's reign.
        term: Term,
        /// What the acknowledgement is to mean.
        level: Level,
        /// The epoch it leads to.
        epoch: Epoch,
        /// The history it continues.
        previous: Chain,
        /// The encoded runs; not checked against an area yet.
        payload: Vec<u8>,
    },
    /// Target to primary: the level holds here, for all epochs up to this.
    Ack {
        /// The last epoch.
        epoch: Epoch,
        /// The level.
        level: Level,
    },
    /// A whole image begins.
    ImageBegin {
        /// Term of the sender's reign.
        term: Term,
        /// Its length in bytes.
        len: u64,
        /// Which one.
        position: Position,
    },
    /// A part of it that is not zeros.
    ImageChunk {
        /// Where, in bytes from the area's start.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// It is complete.
    ImageEnd {
        /// Checksum of the whole image.
        checksum: u32,
    },
    /// Tool to target: raise the term, so that a new primary can take over.
    Promote {
        /// The area.
        name: AreaName,
    },
    /// Target to tool: done.
    Promoted {
        /// The new term.
        term: Term,
        /// The last epoch.
        epoch: Epoch,
    },
    /// Tool to anyone: how are you?
    StatusQuery,
    /// The answer: JSON of a [`crate::status::Report`].
    Status {
        /// JSON text.
        json: Vec<u8>,
    },
}

/// A frame is whole, but its body is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// The kind is not known to this version.
    #[error("unknown message of kind {0}")]
    Kind(u8),
    /// The body is too short or too long.
    #[error("message of kind {kind} has a body of {len} bytes, which cannot be")]
    Length {
        /// The message's kind.
        kind: u8,
        /// Its length in bytes.
        len: usize,
    },
    /// A field holds what it may not.
    #[error("message of kind {kind}: bad {field}")]
    Field {
        /// The message's kind.
        kind: u8,
        /// The field.
        field: &'static str,
    },
    /// The peer speaks another version.
    #[error(
        "the peer speaks protocol version {0}, this program {PROTOCOL_VERSION}: bring both to the same version"
    )]
    Version(u16),
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const DELTA: u8 = 4;
const ACK: u8 = 5;
const IMAGE_BEGIN: u8 = 6;
const IMAGE_CHUNK: u8 = 7;
const IMAGE_END: u8 = 8;
const PROMOTE: u8 = 9;
const PROMOTED: u8 = 10;
const STATUS_QUERY: u8 = 11;
const STATUS: u8 = 12;

/// Bytes of a `Delta` message before the encoded runs.
pub(crate) const DELTA_HEAD: usize = size_of::<DeltaWire>();

const PENDING: u16 = 1;
const IMAGE_FOLLOWS: u32 = 1;

/// Appends a `Delta` message without copying the delta into a [`Message`].
pub(crate) fn write_delta(out: &mut Vec<u8>, term: Term, level: Level, delta: &Delta) {
    let head = DeltaWire {
        term: term.0.into(),
        epoch: delta.epoch().0.into(),
        previous: delta.previous().0.into(),
        level: level.code(),
        reserved: [0; 3],
    };
    frame::write(out, DELTA, head.as_bytes(), delta.payload());
}

impl Message {
    /// Appends the message to `out`, in frames.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (kind, head, tail): (u8, Vec<u8>, &[u8]) = match self {
            Self::Hello(hello) => (HELLO, hello.to_wire().as_bytes().to_vec(), &[]),
            Self::Welcome(welcome) => (WELCOME, welcome.to_wire().as_bytes().to_vec(), &[]),
            Self::Refused(refusal) => (
                REFUSED,
                RefusedWire {
                    code: refusal.code.code().into(),
                    reserved: 0.into(),
                    text_len: u32::try_from(refusal.text.len()).unwrap_or(0).into(),
                    term: refusal.term.0.into(),
                    epoch: refusal.epoch.0.into(),
                }
                .as_bytes()
                .to_vec(),
                refusal.text.as_bytes(),
            ),
            Self::Delta {
                term,
                level,
                epoch,
                previous,
                payload,
            } => (
                DELTA,
                DeltaWire {
                    term: term.0.into(),
                    epoch: epoch.0.into(),
                    previous: previous.0.into(),
                    level: level.code(),
                    reserved: [0; 3],
                }
                .as_bytes()
                .to_vec(),
                payload,
            ),
            Self::Ack { epoch, level } => (
                ACK,
                AckWire {
                    epoch: epoch.0.into(),
                    level: level.code(),
                    reserved: [0; 7],
                }
                .as_bytes()
                .to_vec(),
                &[],
            ),
            Self::ImageBegin {
                term,
                len,
                position,
            } => (
                IMAGE_BEGIN,
                ImageBeginWire {
                    term: term.0.into(),
                    len: (*len).into(),
                    epoch: position.epoch.0.into(),
                    chain: position.chain.0.into(),
                    reserved: 0.into(),
                }
                .as_bytes()
                .to_vec(),
                &[],
            ),
            Self::ImageChunk { offset, bytes } => {
                (IMAGE_CHUNK, offset.to_le_bytes().to_vec(), bytes)
            }
            Self::ImageEnd { checksum } => (
                IMAGE_END,
                ImageEndWire {
                    checksum: (*checksum).into(),
                    reserved: 0.into(),
                }
                .as_bytes()
                .to_vec(),
                &[],
            ),
            Self::Promote { name } => (PROMOTE, name.to_field().to_vec(), &[]),
            Self::Promoted { term, epoch } => (
                PROMOTED,
                PromotedWire {
                    term: term.0.into(),
                    epoch: epoch.0.into(),
                }
                .as_bytes()
                .to_vec(),
                &[],
            ),
            Self::StatusQuery => (STATUS_QUERY, Vec::new(), &[]),
            Self::Status { json } => (STATUS, Vec::new(), json),
        };
        frame::write(out, kind, &head, tail);
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`BadMessage`] names what is wrong; nothing of it is used then.
    pub fn read(body: Body) -> Result<Self, BadMessage> {
        let Body { kind, bytes } = body;
        Ok(match kind {
            HELLO => Self::Hello(Hello::from_body(&bytes)?),
            WELCOME => Self::Welcome(Welcome::from_wire(exact(kind, &bytes)?)),
            REFUSED => Self::Refused(read_refusal(&bytes)?),
            DELTA => read_delta(bytes)?,
            ACK => {
                let wire: AckWire = exact(kind, &bytes)?;
                Self::Ack {
                    epoch: Epoch(wire.epoch.get()),
                    level: level(kind, wire.level)?,
                }
            }
            IMAGE_BEGIN => {
                let wire: ImageBeginWire = exact(kind, &bytes)?;
                Self::ImageBegin {
                    term: Term(wire.term.get()),
                    len: wire.len.get(),
                    position: position(wire.epoch.get(), wire.chain.get()),
                }
            }
            IMAGE_CHUNK => {
                let (wire, rest) = prefix::<ImageChunkWire>(kind, &bytes)?;
                Self::ImageChunk {
                    offset: wire.offset.get(),
                    bytes: rest.to_vec(),
                }
            }
            IMAGE_END => {
                let wire: ImageEndWire = exact(kind, &bytes)?;
                Self::ImageEnd {
                    checksum: wire.checksum.get(),
                }
            }
            PROMOTE => Self::Promote {
                name: name(kind, &exact::<[u8; 64]>(kind, &bytes)?)?,
            },
            PROMOTED => {
                let wire: PromotedWire = exact(kind, &bytes)?;
                Self::Promoted {
                    term: Term(wire.term.get()),
                    epoch: Epoch(wire.epoch.get()),
                }
            }
            STATUS_QUERY if bytes.is_empty() => Self::StatusQuery,
            STATUS => Self::Status { json: bytes },
            STATUS_QUERY => return Err(length(kind, &bytes)),
            other => return Err(BadMessage::Kind(other)),
        })
    }
}

fn length(kind: u8, bytes: &[u8]) -> BadMessage {
    BadMessage::Length {
        kind,
        len: bytes.len(),
    }
}

fn exact<T: FromBytes>(kind: u8, bytes: &[u8]) -> Result<T, BadMessage> {
    T::read_from_bytes(bytes).map_err(|_| length(kind, bytes))
}

fn prefix<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    kind: u8,
    bytes: &[u8],
) -> Result<(&T, &[u8]), BadMessage> {
    T::ref_from_prefix(bytes).map_err(|_| length(kind, bytes))
}

fn level(kind: u8, code: u8) -> Result<Level, BadMessage> {
    Level::from_code(code).ok_or(BadMessage::Field {
        kind,
        field: "level",
    })
}

fn name(kind: u8, field: &[u8; 64]) -> Result<AreaName, BadMessage> {
    AreaName::from_field(field).map_err(|_| BadMessage::Field {
        kind,
        field: "area name",
    })
}

fn position(epoch: u64, chain: u32) -> Position {
    Position {
        epoch: Epoch(epoch),
        chain: Chain(chain),
    }
}

fn read_delta(mut bytes: Vec<u8>) -> Result<Message, BadMessage> {
    let wire = *prefix::<DeltaWire>(DELTA, &bytes)?.0;
    bytes.drain(..DELTA_HEAD);
    Ok(Message::Delta {
        term: Term(wire.term.get()),
        level: level(DELTA, wire.level)?,
        epoch: Epoch(wire.epoch.get()),
        previous: Chain(wire.previous.get()),
        payload: bytes,
    })
}

fn read_refusal(bytes: &[u8]) -> Result<Refusal, BadMessage> {
    let (wire, text) = prefix::<RefusedWire>(REFUSED, bytes)?;
    if wire.text_len.get() as usize != text.len() {
        return Err(length(REFUSED, bytes));
    }
    Ok(Refusal {
        code: RefusalCode::from_code(wire.code.get()),
        term: Term(wire.term.get()),
        epoch: Epoch(wire.epoch.get()),
        // What a peer says ends up on a terminal.
        text: String::from_utf8_lossy(text)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    })
}

impl Hello {
    fn to_wire(&self) -> HelloWire {
        HelloWire {
            version: PROTOCOL_VERSION.into(),
            flags: if self.pending.is_some() { PENDING } else { 0 }.into(),
            reserved: 0.into(),
            name: self.name.to_field(),
            len: self.len.into(),
            term: self.term.0.into(),
            primary: self.primary.0,
            epoch: self.position.epoch.0.into(),
            chain: self.position.chain.0.into(),
            pending_chain: self.pending.map_or(0, |c| c.0).into(),
        }
    }

    fn from_body(bytes: &[u8]) -> Result<Self, BadMessage> {
        // The version comes first, so that any later body can be told apart.
        let version = bytes
            .first_chunk()
            .map(|v| u16::from_le_bytes(*v))
            .ok_or_else(|| length(HELLO, bytes))?;
        if version != PROTOCOL_VERSION {
            return Err(BadMessage::Version(version));
        }
        let wire: HelloWire = exact(HELLO, bytes)?;
        let flags = wire.flags.get();
        if flags & !PENDING != 0 {
            return Err(BadMessage::Field {
                kind: HELLO,
                field: "flags",
            });
        }
        Ok(Self {
            name: name(HELLO, &wire.name)?,
            len: wire.len.get(),
            term: Term(wire.term.get()),
            primary: PrimaryId(wire.primary),
            position: position(wire.epoch.get(), wire.chain.get()),
            pending: (flags & PENDING != 0).then(|| Chain(wire.pending_chain.get())),
        })
    }
}

impl Welcome {
    fn to_wire(self) -> WelcomeWire {
        WelcomeWire {
            term: self.term.0.into(),
            epoch: self.position.epoch.0.into(),
            chain: self.position.chain.0.into(),
            flags: if self.image_follows { IMAGE_FOLLOWS } else { 0 }.into(),
        }
    }

    fn from_wire(wire: WelcomeWire) -> Self {
        Self {
            term: Term(wire.term.get()),
            position: position(wire.epoch.get(), wire.chain.get()),
            image_follows: wire.flags.get() & IMAGE_FOLLOWS != 0,
        }
    }
}

#[cfg(test)]
mod tests;
