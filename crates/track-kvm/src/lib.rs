//! Trackers of the VMM: what KVM knows about which pages a guest wrote.
//!
//! | tracker | how | what it can miss |
//! |---|---|---|
//! | [`KvmLog`] | KVM's dirty log on the area's memory slot, with manual protection | stores that do not come from a vCPU: see below |
//!
//! KVM's log sees every store of every vCPU, whether the application's, another
//! process's or the guest kernel's. It does not see what the host writes
//! through its own mapping. In this VMM two parts of the host could: device
//! emulation, which is given a memory view without any area in it, and the
//! checkpointer's abort, which writes the image's bytes into pages that it has
//! just harvested, so that afterwards those pages do equal the image and are
//! rightly not reported.
//!
//! This crate knows nothing of targets or of the machine around a slot.

mod kvm_log;
mod memory;
mod slot;

pub use kvm_log::{EnableError, KvmLog, enable_manual_protect};
pub use memory::{MemoryError, SlotMemory};
pub use slot::{DirtyLog, Slot, SlotError};
