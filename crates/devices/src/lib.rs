//! What a guest can touch: parsers and registers.
//!
//! Everything here is driven by a guest that may be hostile. So nothing here
//! panics on what a guest stores, allocates by a size that a guest names, or
//! writes a log line for each mistake of a guest; mistakes are counted.
//!
//! This crate knows nothing of KVM: a device gets stores and loads from
//! whoever runs the guest, and answers through memory and event descriptors.
//! All of it is tested and fuzzed without a virtual machine.
//!
//! Devices that reach guest memory by themselves (virtio) are given a memory
//! view that holds the guest's RAM only. An area's data is never part of it:
//! a device cannot change an area behind its tracker's back, because it has no
//! address for it.
#![forbid(unsafe_code)]

pub mod area;
mod bus;
mod pci;
mod power;
mod serial;
pub mod virtio;

pub use bus::{Bus, BusDevice, Overlap};
pub use pci::PciConfig;
pub use power::{PowerControl, PowerEvent, PowerSwitch, ResetPort};
pub use serial::{ConsoleSink, InputRoom, SerialPort};

/// Locks a device, also after a thread panicked while it held it: the machine
/// is then about to stop, and the others must get out of the guest first.
pub fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
