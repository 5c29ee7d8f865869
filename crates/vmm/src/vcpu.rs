//! A vCPU's thread: runs the guest, and answers what it left the guest for.

use crate::area::MountedArea;
use crate::error::{Error, KvmContext};
use crate::status::{ExitCounters, count};
use crate::tap::Tap;
use afterimage_devices::area::AddressSpace;
use afterimage_devices::virtio::Net;
use afterimage_devices::{Bus, PowerEvent, PowerSwitch};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Why a guest no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// It faulted in the handling of a fault in the handling of a fault, as a
    /// kernel does that cannot go on, or that has no other way to reset.
    TripleFault,
    /// A [`StopHandle`](crate::StopHandle) was used.
    Stopped,
}

/// What all vCPUs share.
pub(crate) struct Shared {
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) areas: Vec<MountedArea>,
    pub(crate) net: Option<Arc<Mutex<Net<Tap>>>>,
    pub(crate) power: PowerSwitch,
    pub(crate) exits: ExitCounters,
    pub(crate) console_lost: Arc<AtomicU64>,
    /// Set to end all vCPU threads; they are kicked then.
    pub(crate) stop: Arc<AtomicBool>,
}

/// Longest store or load of one instruction that KVM hands out.
const MMIO_LEN: usize = 8;

/// Runs the guest on this thread until it ends.
pub(crate) fn run(id: u8, vcpu: &mut VcpuFd, shared: &Shared) -> Result<End, Error> {
    loop {
        if shared.stop.load(Ordering::Acquire) {
            return Ok(End::Stopped);
        }
        let exits = &shared.exits;
        match vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                count(&exits.ports);
                if !shared.ports.read(u64::from(port), data) {
                    count(&exits.unclaimed);
                }
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                count(&exits.ports);
                if !shared.ports.write(u64::from(port), data) {
                    count(&exits.unclaimed);
                }
                if let Some(event) = shared.power.requested() {
                    return Ok(match event {
                        PowerEvent::Off => End::PowerOff,
                        PowerEvent::Reset => End::Reset,
                    });
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(&exits.mmio);
                if !shared.mmio.read(address, data) {
                    count(&exits.unclaimed);
                }
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                let bell = shared
                    .areas
                    .iter()
                    .find_map(|area| Some((area, area.doorbell_offset(address)?)));
                let Some((area, offset)) = bell else {
                    count(&exits.mmio);
                    if !shared.mmio.write(address, data) {
                        count(&exits.unclaimed);
                    }
                    continue;
                };
                count(&exits.doorbell);
                let mut copy = [0; MMIO_LEN];
                let len = data.len().min(MMIO_LEN);
                copy[..len].copy_from_slice(&data[..len]);
                let sregs = vcpu
                    .get_sregs()
                    .asking("reading the registers of a vCPU that rings")?;
                area.ring(offset, &copy[..len], AddressSpace::from_cr3(sregs.cr3));
            }
            Ok(VcpuExit::Shutdown) => return Ok(End::TripleFault),
            Ok(VcpuExit::InternalError) => {
                let number = internal_error(vcpu);
                return Err(gone(
                    id,
                    format!("KVM could not emulate what the guest did (suberror {number})"),
                ));
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let reason = format!("the processor refused to enter the guest ({reason:#x})");
                return Err(gone(id, reason));
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                let reason = format!("guest memory at {gpa:#x} is gone");
                return Err(gone(id, reason));
            }
            Ok(_) => count(&exits.other),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                count(&exits.interrupted);
            }
            Err(source) => {
                return Err(Error::Kvm {
                    action: "running a vCPU",
                    source,
                });
            }
        }
    }
}

fn gone(vcpu: u8, reason: String) -> Error {
    Error::Vcpu { vcpu, reason }
}

fn internal_error(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: called on an exit for an internal error, for which the kernel
    // fills in this member; any bits are a number.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
}
