//! The guest's physical address space.
//!
//! | from | what |
//! |---|---|
//! | 0 | RAM, up to 3 GiB of it; its first MiB holds what the loader leaves for the kernel |
//! | 3 GiB | devices: virtio transports, I/O APIC, local APICs, KVM's own pages |
//! | 4 GiB | the rest of the RAM |
//! | the next GiB | areas, each at the start of a GiB of its own, with a hole behind it |
//!
//! Areas are never part of [`Layout::ram`], which is all that devices get.

use afterimage_area_abi::control::{CONTROL_LEN, DATA_ALIGN, DATA_OFFSET, DOORBELL_OFFSET};
use std::ops::Range;

/// Length and alignment in bytes of things below.
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// End of the RAM below 4 GiB, at most.
const LOW_RAM_END: u64 = 3 * GIB;
/// Start of the RAM above the devices.
const HIGH_RAM_START: u64 = 4 * GIB;
/// First transport of a virtio device; the others follow a page apart.
pub(crate) const VIRTIO_START: u64 = LOW_RAM_END + 0x1000_0000;
/// Distance in bytes between transports.
pub(crate) const VIRTIO_STEP: u64 = 0x1000;
/// Interrupt (GSI) of the first virtio device; the others follow. From 16 on
/// no interrupt of a PC's own devices is met.
pub(crate) const VIRTIO_FIRST_GSI: u32 = 16;
/// The I/O APIC has 24 inputs.
pub(crate) const MAX_VIRTIO: u32 = 24 - VIRTIO_FIRST_GSI;
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM wants on Intel processors (`KVM_SET_TSS_ADDR`).
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;
/// One page that KVM wants there too, below them.
pub(crate) const KVM_IDENTITY_MAP: u64 = KVM_TSS - 0x1000;

/// What the loader leaves in the first MiB.
pub(crate) const GDT: u64 = 0x500;
pub(crate) const ZERO_PAGE: u64 = 0x7000;
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
pub(crate) const PAGE_TABLES: u64 = 0x9000;
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Above this the first MiB is firmware's on every PC.
pub(crate) const FIRMWARE_START: u64 = 0x9_fc00;
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
pub(crate) const KERNEL: u64 = MIB;

/// Least RAM with which a stock kernel with its initrd comes up.
pub(crate) const MIN_RAM_MIB: u64 = 64;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// RAM, as guest-physical ranges in ascending order.
    pub ram: Vec<Range<u64>>,
    /// The areas, in the order in which their lengths were given.
    pub areas: Vec<AreaPlace>,
}

/// Where one area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaPlace {
    /// Guest-physical address of the control page.
    pub start: u64,
    /// Length in bytes of the area's data.
    pub data_len: u64,
}

/// The guest cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Too little or too much RAM.
    #[error("{mib} MiB of memory: at least {MIN_RAM_MIB} MiB are needed, and at most {} MiB are possible", 1 << 24)]
    Memory {
        /// The RAM asked for in MiB.
        mib: u64,
    },
    /// The data of an area have a length that the guest cannot map.
    #[error(
        "an area of {len} bytes: its length must be a multiple of {} MiB, at least once",
        DATA_ALIGN / MIB
    )]
    AreaLength {
        /// The length in bytes.
        len: u64,
    },
    /// The processor has too few address bits.
    #[error(
        "RAM and areas end at {end:#x}, but this processor's guests have {bits} address bits: use less memory"
    )]
    AddressBits {
        /// End of the last area.
        end: u64,
        /// Physical address bits of a guest.
        bits: u8,
    },
}

impl Layout {
    /// Lays out `memory_mib` MiB of RAM and areas with data of these lengths
    /// in bytes, for a processor with `bits` physical address bits.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(memory_mib: u64, area_lens: &[u64], bits: u8) -> Result<Self, LayoutError> {
        if !(MIN_RAM_MIB..=1 << 24).contains(&memory_mib) {
            return Err(LayoutError::Memory { mib: memory_mib });
        }
        let size = memory_mib * MIB;
        let low = 0..size.min(LOW_RAM_END);
        let high = HIGH_RAM_START..HIGH_RAM_START + (size - low.end);
        let ram: Vec<_> = [low, high].into_iter().filter(|r| !r.is_empty()).collect();
        let ram_end = ram[ram.len() - 1].end.max(HIGH_RAM_START);
        let mut areas = Vec::with_capacity(area_lens.len());
        let mut free_from = ram_end;
        for &data_len in area_lens {
            if data_len == 0
                || !data_len.is_multiple_of(DATA_ALIGN)
                || data_len > afterimage_delta::MAX_AREA_LEN
            {
                return Err(LayoutError::AreaLength { len: data_len });
            }
            let area = AreaPlace {
                start: free_from.next_multiple_of(GIB),
                data_len,
            };
            // A gap, or the kernel makes one resource of two neighbours.
            free_from = area.end() + DATA_ALIGN;
            areas.push(area);
        }
        let end = areas.last().map_or(ram_end, AreaPlace::end);
        if bits < 64 && end > 1 << bits {
            return Err(LayoutError::AddressBits { end, bits });
        }
        Ok(Self { ram, areas })
    }
}

impl AreaPlace {
    /// The doorbell: no memory is there.
    #[must_use]
    pub fn doorbell(&self) -> Range<u64> {
        self.start + DOORBELL_OFFSET..self.data()
    }

    /// Guest-physical address of the data.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.start + DATA_OFFSET
    }

    /// End of the control page.
    #[must_use]
    pub fn control_end(&self) -> u64 {
        self.start + CONTROL_LEN
    }

    /// First address behind the area.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.data() + self.data_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_lie_behind_the_ram_with_gaps_between() {
        for mib in [64, 3071, 3072, 3073, 8192, 70_000] {
            let lens = [2 * MIB, GIB, 3 * GIB - 2 * MIB, 4 * MIB];
            let layout = Layout::new(mib, &lens, 46).unwrap();
            let ram: u64 = layout.ram.iter().map(|r| r.end - r.start).sum();
            assert_eq!(ram, mib * MIB);
            let mut free_from = layout.ram.last().unwrap().end;
            for (area, len) in layout.areas.iter().zip(lens) {
                assert!(area.start >= free_from && area.start.is_multiple_of(GIB));
                assert!(area.data().is_multiple_of(DATA_ALIGN));
                assert_eq!(area.end() - area.data(), len);
                free_from = area.end() + 1;
            }
        }
    }

    #[test]
    fn ram_leaves_room_for_the_devices() {
        let layout = Layout::new(8192, &[], 40).unwrap();
        for place in [VIRTIO_START, u64::from(IO_APIC), KVM_TSS, KVM_IDENTITY_MAP] {
            assert!(layout.ram.iter().all(|r| !r.contains(&place)));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let memory = |mib| Layout::new(mib, &[], 46).unwrap_err();
        assert_eq!(memory(1), LayoutError::Memory { mib: 1 });
        assert_eq!(memory(u64::MAX), LayoutError::Memory { mib: u64::MAX });
        for len in [0, MIB, 3 * MIB, 65 * GIB, u64::MAX] {
            assert_eq!(
                Layout::new(128, &[len], 46).unwrap_err(),
                LayoutError::AreaLength { len }
            );
        }
        assert!(matches!(
            Layout::new(128, &[16 * MIB], 32).unwrap_err(),
            LayoutError::AddressBits { bits: 32, .. }
        ));
    }
}
