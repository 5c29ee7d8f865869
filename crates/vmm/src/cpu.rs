//! What a vCPU is before its first instruction: features, registers, MSRs.

use crate::boot::SEGMENTS;
use crate::error::{Error, KvmContext};
use crate::layout::{BOOT_STACK, GDT, PAGE_TABLES, ZERO_PAGE};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_fpu, kvm_msr_entry, kvm_regs,
    kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

/// Leaf 1, ECX: the timestamp-deadline timer.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: a hypervisor is present. Without it Linux does not look for
/// kvm-clock.
const HYPERVISOR: u32 = 1 << 31;

/// The features that KVM can give to vCPU `id` of `count`.
pub(crate) fn features(supported: &CpuId, deadline_timer: bool, id: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    // Bits of an APIC id that number the cores.
    let core_bits = u32::from(count).next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                entry.ecx |= HYPERVISOR;
                if deadline_timer {
                    entry.ecx |= TSC_DEADLINE;
                }
                entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | u32::from(id) << 24;
                // Several logical processors in the package.
                let many = 1 << 28;
                entry.edx = entry.edx & !many | if count > 1 { many } else { 0 };
            }
            // Topology: one thread a core, all cores in one package.
            (0xb | 0x1f, index) => topology(entry, index, core_bits, id, count),
            (0x8000_0008, _) => {
                entry.ecx = core_bits << 12 | u32::from(count - 1);
            }
            (0x8000_001e, _) => {
                entry.eax = u32::from(id);
                entry.ebx = u32::from(id);
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    cpuid
}

fn topology(entry: &mut kvm_cpuid_entry2, index: u32, core_bits: u32, id: u8, count: u8) {
    let (shift, processors, kind) = match index {
        0 => (0, 1, 1),
        1 => (core_bits, u32::from(count), 2),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = processors;
    entry.ecx = index | kind << 8;
    entry.edx = u32::from(id);
}

/// What KVM can give to guests on this machine.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .asking("reading the supported CPU features")
}

/// Whether guests can have the timestamp-deadline timer, which KVM does not
/// list among the features.
pub(crate) fn has_deadline_timer(kvm: &Kvm) -> bool {
    kvm.check_extension(Cap::TscDeadlineTimer)
}

/// Number of physical address bits of a guest.
pub(crate) fn address_bits(supported: &CpuId) -> u8 {
    let sizes = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008)
        .map_or(36, |entry| entry.eax);
    // Bits 16 to 23, where given, are what the processor's second level of
    // paging can map; that can be less than what the first can name.
    let [physical, _, guest, _] = sizes.to_le_bytes();
    if guest == 0 {
        physical
    } else {
        physical.min(guest)
    }
}

/// MSRs whose value after reset would not do.
pub(crate) fn set_msrs(vcpu: &VcpuFd) -> Result<(), Error> {
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRINGS: u64 = 1;
    const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    /// All memory is write-back cached unless page tables say otherwise. The
    /// kernel maps an area by what this says.
    const ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
    let values = [
        (IA32_MISC_ENABLE, FAST_STRINGS),
        (IA32_MTRR_DEF_TYPE, ENABLED_WRITE_BACK),
    ];
    let entries = values.map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    });
    let msrs = Msrs::from_entries(&entries).expect("two are below every limit");
    vcpu.set_msrs(&msrs).asking("setting MSRs")?;
    Ok(())
}

/// Floating point as `finit` leaves it.
pub(crate) fn set_fpu(vcpu: &VcpuFd) -> Result<(), Error> {
    vcpu.set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..kvm_fpu::default()
    })
    .asking("setting the floating-point registers")
}

/// The pins of the local APIC as firmware leaves them: the PC's old interrupt
/// controller at LINT0, non-maskable interrupts at LINT1.
pub(crate) fn set_lapic(vcpu: &VcpuFd) -> Result<(), Error> {
    const LINT0: usize = 0x350;
    const LINT1: usize = 0x360;
    const EXTERNAL: u32 = 0x700;
    const NON_MASKABLE: u32 = 0x400;
    let mut lapic = vcpu.get_lapic().asking("reading the local APIC")?;
    for (register, mode) in [(LINT0, EXTERNAL), (LINT1, NON_MASKABLE)] {
        for (to, from) in lapic.regs[register..register + 4]
            .iter_mut()
            .zip(mode.to_le_bytes())
        {
            *to = std::ffi::c_char::from_le_bytes([from]);
        }
    }
    vcpu.set_lapic(&lapic).asking("setting the local APIC")
}

/// Puts the first vCPU into 64-bit mode at the kernel's entry.
pub(crate) fn set_boot_registers(vcpu: &VcpuFd, entry: u64) -> Result<(), Error> {
    const CR0_PROTECTED_PAGED: u64 = 1 | 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
    let mut sregs = vcpu.get_sregs().asking("reading the system registers")?;
    let code = segment(SEGMENTS[2], 2);
    let data = segment(SEGMENTS[3], 3);
    sregs.cs = code;
    for register in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *register = data;
    }
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 8 * 4 - 1;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 |= CR0_PROTECTED_PAGED;
    sregs.efer |= EFER_LONG_MODE;
    vcpu.set_sregs(&sregs)
        .asking("setting the system registers")?;
    vcpu.set_regs(&kvm_regs {
        rip: entry,
        rsi: ZERO_PAGE,
        rsp: BOOT_STACK,
        rbp: BOOT_STACK,
        rflags: 2,
        ..kvm_regs::default()
    })
    .asking("setting the registers")
}

/// A segment register as loading entry `index` of a table with this descriptor
/// would leave it.
pub(crate) fn segment(descriptor: u64, index: u16) -> kvm_segment {
    let [l0, l1, b0, b1, b2, access, flags, b3] = descriptor.to_le_bytes();
    let limit = u32::from_le_bytes([l0, l1, flags & 0xf, 0]);
    let pages = flags >> 7;
    kvm_segment {
        base: u64::from(u32::from_le_bytes([b0, b1, b2, b3])),
        limit: if pages == 1 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        selector: index * 8,
        type_: access & 0xf,
        s: access >> 4 & 1,
        dpl: access >> 5 & 3,
        present: access >> 7,
        avl: flags >> 4 & 1,
        l: flags >> 5 & 1,
        db: flags >> 6 & 1,
        g: pages,
        unusable: 0,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat_and_of_the_right_kind() {
        let code = segment(SEGMENTS[2], 2);
        assert_eq!((code.base, code.limit, code.selector), (0, u32::MAX, 16));
        assert_eq!((code.l, code.db, code.s, code.present), (1, 0, 1, 1));
        assert_eq!(code.type_ & 8, 8);
        let data = segment(SEGMENTS[3], 3);
        assert_eq!((data.l, data.db, data.type_), (0, 1, 3));
    }

    #[test]
    fn each_vcpu_is_told_its_own_id_and_that_there_is_a_hypervisor() {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            ..kvm_cpuid_entry2::default()
        };
        let leaves = [leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x8000_0008, 0)];
        let supported = CpuId::from_entries(&leaves).unwrap();
        let cpuid = features(&supported, true, 2, 3);
        let [one, thread, core, sizes] = cpuid.as_slice() else {
            panic!("leaves were lost");
        };
        assert_eq!(one.ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(one.ebx >> 24, 2);
        assert_eq!((thread.edx, thread.ebx), (2, 1));
        assert_eq!((core.eax, core.ebx, core.ecx), (2, 3, 0x201));
        assert_eq!(sizes.ecx, 2 << 12 | 2);
    }
}
