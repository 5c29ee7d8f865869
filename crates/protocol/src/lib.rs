//! The replication protocol: frames, messages and the two ends as state
//! machines without I/O of their own.
//!
//! A primary and a target exchange [`Message`]s over any ordered byte stream.
//! [`primary::Session`] and [`target::Session`] are given messages and say
//! what to send; who moves the bytes (threads on sockets, a simulator) is not
//! their business. `docs/reference/protocol.md` describes every byte.
//!
//! ```text
//! primary                                  target
//!   | Hello {name, len, term, position} ---> |  admission: may this one write?
//!   | <--- Welcome {term, position}          |  or Refused {why}
//!   | <--- Image ... (to one that has none)  |
//!   | Image ... (to one that is behind) ---> |
//!   | Delta {term, epoch, previous} -------> |  in order, same history, same term
//!   | <------------------ Ack {epoch, level} |
//! ```
#![forbid(unsafe_code)]

mod admission;
pub mod frame;
mod message;
pub mod primary;
mod refusal;
pub mod status;
pub mod target;
mod transfer;
mod wire;

pub use admission::{Held, admit, promote};
pub use message::{BadMessage, Hello, Message, Position, Welcome};
pub use refusal::{Refusal, RefusalCode};
pub use transfer::{ImageReceiver, TransferError, send_image};

/// Version of the protocol; both sides must speak the same.
pub const PROTOCOL_VERSION: u16 = 1;
