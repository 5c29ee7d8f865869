//! Turns "commit" into a delta.
//!
//! A [`Checkpointer`] owns the memory of an area, the [`Tracker`] that knows
//! which of its pages were written, and the image of the last commit. The same
//! code serves a process and the VMM; they bring their own memory and tracker.
//!
//! ```text
//! area's memory --tracker--> harvest --compare with image--> delta --> targets
//! ```
//!
//! It knows nothing of KVM, of files or of the network.
#![forbid(unsafe_code)]

mod checkpointer;
pub mod contract;
mod tracker;

pub use checkpointer::{CheckpointError, Checkpointer, Counters, Prepared};
pub use tracker::{AreaMemory, Tracker, TrackerError};
