//! What this machine's own `/dev/kvm` is worth.
//!
//! That the file is there says little: on some cloud machines guests run by
//! emulation, and a stock kernel would boot for half an hour. So a small
//! guest is timed.

use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Where the guest's one page of memory is.
const CODE: GuestAddress = GuestAddress(0x1000);
const PAGE: usize = 4096;

/// `loop: dec ecx; jnz loop; hlt`, in real mode.
const PROGRAM: [u8; 5] = [0x66, 0x49, 0x75, 0xfc, 0xf4];

/// Turns of the loop, and instructions in each. Enough to make the cost of
/// entering the guest vanish, few enough to take 50 ms where each instruction
/// is emulated.
const TURNS: u32 = 20_000;
const INSTRUCTIONS: u32 = 2 * TURNS;

/// Runs timed; the fastest counts, for others may have used the processor.
const RUNS: u32 = 5;

/// Slowest instruction that still counts as run by hardware. Hardware takes
/// under 1 ns, emulators that translate some 10 ns, those that interpret over
/// 500 ns; a stock kernel's boot is some 10^9 instructions.
const USABLE: Duration = Duration::from_nanos(100);

/// What `/dev/kvm` is worth.
#[derive(Debug)]
pub enum HostKvm {
    /// There is none.
    Absent,
    /// It is there, but this user may not open it.
    Forbidden,
    /// It is there and does not work.
    Broken(io::Error),
    /// It works, but each guest instruction takes this long: no use for a
    /// stock kernel.
    Slow(Duration),
    /// It works at a speed that a stock kernel can be run with; each guest
    /// instruction takes this long.
    Usable(Duration),
}

impl HostKvm {
    /// Times a small guest. Takes 1 ms to 1 s.
    #[must_use]
    pub fn measure() -> Self {
        match instruction_time() {
            Ok(time) if time <= USABLE => Self::Usable(time),
            Ok(time) => Self::Slow(time),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Self::Absent,
                io::ErrorKind::PermissionDenied => Self::Forbidden,
                _ => Self::Broken(error),
            },
        }
    }

    /// Whether a stock kernel can be run with it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Usable(_))
    }
}

fn instruction_time() -> io::Result<Duration> {
    let vm = Kvm::new()?.create_vm()?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(CODE, PAGE)]).map_err(io::Error::other)?;
    memory
        .write_slice(&PROGRAM, CODE)
        .map_err(io::Error::other)?;
    let host = memory.get_host_address(CODE).map_err(io::Error::other)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: CODE.0,
        memory_size: PAGE as u64,
        userspace_addr: host as u64,
    };
    // SAFETY: the region is the whole of `memory`, one mapping of PAGE bytes
    // that `memory` owns; it is the VM's only region, so it overlaps none.
    // `memory` is dropped at the end of this function, after the last run of
    // the only vCPU, so the guest never runs without it.
    unsafe { vm.set_user_memory_region(region)? };
    let mut vcpu = vm.create_vcpu(0)?;
    let mut special = vcpu.get_sregs()?;
    special.cs.base = 0;
    special.cs.selector = 0;
    vcpu.set_sregs(&special)?;
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        fastest = fastest.min(run(&mut vcpu)?);
    }
    Ok(fastest / INSTRUCTIONS)
}

fn run(vcpu: &mut VcpuFd) -> io::Result<Duration> {
    let mut registers = vcpu.get_regs()?;
    registers.rip = CODE.0;
    registers.rcx = TURNS.into();
    registers.rflags = 2;
    vcpu.set_regs(&registers)?;
    let started = Instant::now();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(started.elapsed()),
            Ok(other) => return Err(io::Error::other(format!("unexpected exit {other:?}"))),
            // A signal came in between.
            Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_gets_a_verdict_in_a_second() {
        let started = Instant::now();
        let verdict = HostKvm::measure();
        assert!(started.elapsed() < Duration::from_secs(5));
        match &verdict {
            HostKvm::Absent => assert!(!std::fs::exists("/dev/kvm").unwrap()),
            HostKvm::Slow(time) => assert!(*time > USABLE),
            HostKvm::Usable(time) => assert!(*time <= USABLE),
            HostKvm::Forbidden | HostKvm::Broken(_) => {}
        }
        assert_eq!(verdict.is_usable(), matches!(verdict, HostKvm::Usable(_)));
    }
}
