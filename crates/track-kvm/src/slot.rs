//! Memory slots of a guest.

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use vm_memory::MmapRegion;

/// Memory that a guest reaches at a guest-physical address. Dropping the value
/// takes it away from the guest again.
///
/// It holds the mapping, so that the guest never keeps an address of this
/// process at which something else may come to lie.
#[derive(Debug)]
pub struct Slot {
    vm: Arc<VmFd>,
    number: u32,
    address: u64,
    region: ManuallyDrop<Arc<MmapRegion>>,
}

/// KVM refused a slot.
#[derive(Debug, thiserror::Error)]
#[error("KVM refuses memory slot {slot} of {len} bytes at guest address {address:#x}")]
pub struct SlotError {
    /// Number of the slot.
    pub slot: u32,
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: usize,
    /// What KVM said.
    pub source: kvm_ioctls::Error,
}

/// Whether KVM notes which pages of a slot are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyLog {
    /// It does not.
    Off,
    /// It does, for [`crate::KvmLog`].
    On,
}

impl Slot {
    /// Gives memory to the guest as slot `number`, at guest-physical `address`.
    ///
    /// # Errors
    /// [`SlotError`], for example when another slot is there.
    pub fn plug(
        vm: &Arc<VmFd>,
        number: u32,
        address: u64,
        region: Arc<MmapRegion>,
        log: DirtyLog,
    ) -> Result<Self, SlotError> {
        let len = region.size();
        let request = kvm_userspace_memory_region {
            slot: number,
            flags: match log {
                DirtyLog::Off => 0,
                DirtyLog::On => KVM_MEM_LOG_DIRTY_PAGES,
            },
            guest_phys_addr: address,
            memory_size: len as u64,
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a mapping that `region` owns, and that this
        // process reads and writes only by volatile access (`vm-memory`). The
        // value returned keeps it mapped until the slot is gone.
        unsafe { vm.set_user_memory_region(request) }.map_err(|source| SlotError {
            slot: number,
            address,
            len,
            source,
        })?;
        Ok(Self {
            vm: Arc::clone(vm),
            number,
            address,
            region: ManuallyDrop::new(region),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let nothing = kvm_userspace_memory_region {
            slot: self.number,
            flags: 0,
            guest_phys_addr: self.address,
            memory_size: 0,
            userspace_addr: 0,
        };
        // SAFETY: a slot of length zero removes it and names no memory.
        let removed = unsafe { self.vm.set_user_memory_region(nothing) };
        if removed.is_ok() {
            // SAFETY: dropped once, here, and not used afterwards. If the slot
            // could not be removed the mapping stays for the process's life:
            // the guest may still reach it.
            unsafe { ManuallyDrop::drop(&mut self.region) };
        }
    }
}
