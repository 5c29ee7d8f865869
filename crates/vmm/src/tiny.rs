//! A guest of a few instructions, for measuring and for testing KVM itself: 32
//! bits, no paging, 64 KiB of memory.

use crate::cpu;
use crate::error::{Error, KvmContext, SystemContext};
use crate::kick::Kick;
use afterimage_track_kvm::{DirtyLog, Slot};
use kvm_bindings::kvm_regs;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io;
use std::sync::Arc;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// Bytes of memory, from guest-physical address 0.
pub(crate) const RAM_LEN: usize = 64 << 10;
/// Where the code is.
pub(crate) const CODE: u64 = 0x1000;
/// The memory's slot; others may follow.
const RAM_SLOT: u32 = 0;

/// Flat segments: 32-bit code, and data.
const CODE_SEGMENT: u64 = 0x00cf_9b00_0000_ffff;
const DATA_SEGMENT: u64 = 0x00cf_9300_0000_ffff;
/// Interrupts on (none comes): some processors (emulated ones) do not leave a
/// guest that has them off.
const FLAGS: u64 = 0x202;

/// The guest.
pub(crate) struct TinyGuest {
    pub(crate) vm: Arc<VmFd>,
    vcpu: VcpuFd,
    ram: Arc<MmapRegion>,
    _slot: Slot,
}

impl TinyGuest {
    /// A guest with this code at [`CODE`].
    pub(crate) fn new(kvm: &Kvm, code: &[u8]) -> Result<Self, Error> {
        let vm = Arc::new(kvm.create_vm().asking("making a virtual machine")?);
        let ram = Arc::new(
            MmapRegion::new(RAM_LEN)
                .map_err(io::Error::other)
                .doing("mapping a guest's memory")?,
        );
        let slot = Slot::plug(&vm, RAM_SLOT, 0, ram.clone(), DirtyLog::Off)?;
        let vcpu = vm.create_vcpu(0).asking("making a vCPU")?;
        vcpu.set_cpuid2(&cpu::supported(kvm)?)
            .asking("setting CPU features")?;
        let mut sregs = vcpu.get_sregs().asking("reading the system registers")?;
        sregs.cs = cpu::segment(CODE_SEGMENT, 1);
        for register in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *register = cpu::segment(DATA_SEGMENT, 2);
        }
        sregs.cr0 |= 1;
        vcpu.set_sregs(&sregs)
            .asking("setting the system registers")?;
        let guest = Self {
            vm,
            vcpu,
            ram,
            _slot: slot,
        };
        guest.write(CODE, code);
        Ok(guest)
    }

    /// Copies bytes into the guest's memory.
    ///
    /// # Panics
    /// If they do not fit.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let offset = usize::try_from(address).unwrap_or(usize::MAX);
        self.ram
            .as_volatile_slice()
            .write_slice(bytes, offset)
            .expect("a tiny guest's code and data fit its memory");
    }

    /// A way to end [`TinyGuest::call`] early.
    pub(crate) fn kick(&self) -> Result<Kick, Error> {
        Kick::new(&self.vcpu)
    }

    /// Runs from `regs.rip` until the guest halts.
    pub(crate) fn call(&mut self, regs: kvm_regs) -> Result<(), Error> {
        let regs = kvm_regs {
            rflags: FLAGS,
            rsp: 0xff00,
            ..regs
        };
        self.vcpu.set_regs(&regs).asking("setting the registers")?;
        match self.vcpu.run() {
            Ok(VcpuExit::Hlt) => Ok(()),
            Ok(exit) => Err(Error::Vcpu {
                vcpu: 0,
                reason: format!("the test guest left for another reason than its end: {exit:?}"),
            }),
            Err(source) => Err(Error::Kvm {
                action: "running a vCPU",
                source,
            }),
        }
    }
}
