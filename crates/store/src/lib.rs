//! Crash-safe log of images and deltas.
//!
//! A store keeps one area: a base image, and a log of the deltas since. Two
//! files of the same generation number hold them:
//!
//! ```text
//! base-0000000000000007    the area as of some epoch
//! log-0000000000000007     the deltas after it, and who reigned
//! ```
//!
//! The highest base under its final name is the store; renaming a new base into
//! place is the one step that replaces it. `docs/reference/store.md` has every
//! byte and every crash case.
//!
//! [`Store::append`] writes without waiting, [`Store::sync`] makes everything
//! appended durable. After the first failed write or sync a store refuses all
//! further work. Reading never repairs: damage is told, a torn tail is dropped
//! only by [`Store::open`], and [`inspect`] changes nothing.
#![forbid(unsafe_code)]

mod base;
mod error;
mod inspect;
mod layout;
mod listing;
mod open;
mod origin;
mod record;
mod replace;
mod scan;
mod store;
mod window;

pub use error::{Damage, StoreError};
pub use inspect::{Inspection, inspect};
pub use store::{Compaction, Recovery, Sizes, Store};
