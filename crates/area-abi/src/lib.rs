//! What library and VMM (and every later version of both) agree on.
//!
//! Three layouts: the [`control`] page through which an application in a guest
//! speaks to the VMM, the [`header`] with which an area describes itself, and
//! the words for what a commit waits for and came to ([`Level`], [`Outcome`]).
//! All numbers are little endian. `docs/reference/area.md` has the bytes.
#![forbid(unsafe_code)]

pub mod control;
pub mod header;
mod name;
mod outcome;
mod reign;

pub use name::{AreaName, BadName};
pub use outcome::{Level, Outcome, UnknownWord};
pub use reign::{PrimaryId, Reign};
