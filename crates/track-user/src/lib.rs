//! Trackers of a process: what an application's own address space can tell
//! about its writes.
//!
//! | tracker | how | misses |
//! |---|---|---|
//! | [`Mprotect`] | pages are read-only until first written; the fault (`SIGSEGV`) marks the page and lets the write through | nothing that the process's own instructions write; the *kernel* writing for the process (`read(2)` into a clean page) fails with `EFAULT` instead |
//!
//! This is the user-level baseline of Lee et al., DSN 2011, section 3.

mod fault;
mod mprotect;
mod region;

pub use mprotect::{Mprotect, probe};
pub use region::{MapError, Region};
