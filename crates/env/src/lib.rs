//! The outside world as traits, and the real one.
//!
//! Code that must not lose data speaks to [`Disk`], so that the very same code
//! runs on a directory ([`RealDisk`]) and on a disk that tears, forgets and
//! fails on request ([`MemoryDisk`]). Nothing here knows what is stored.
#![forbid(unsafe_code)]

mod disk;
pub mod memory;
mod real;

pub use disk::{Disk, DiskFile};
pub use memory::MemoryDisk;
pub use real::{OpenError, RealDisk, make_dir};
