//! What the loader leaves in memory for a Linux kernel: the kernel itself, its
//! RAM disk, command line and boot parameters, and tables for the step into
//! 64-bit mode (`Documentation/arch/x86/boot.rst` of the kernel, "64-bit boot
//! protocol").

use crate::error::Error;
use crate::layout::{
    ACPI_TABLES, CMDLINE, FIRMWARE_START, GDT, KERNEL, Layout, MIB, PAGE_TABLES, ZERO_PAGE,
};
use crate::{Config, acpi};
use afterimage_devices::virtio::DeviceMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use std::fs::File;
use std::path::Path;
use vm_memory::{Bytes, GuestAddress};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// Specific-purpose memory (`E820_TYPE_SOFT_RESERVED` in the kernel): not used
/// as RAM, but offered to programs as a device.
const E820_SOFT_RESERVED: u32 = 0xefff_ffff;

/// A boot loader without a number of its own.
const LOADER_UNKNOWN: u8 = 0xff;
/// `loadflags`: the pointer to the end of the heap is valid.
const CAN_USE_HEAP: u8 = 1 << 7;
/// `xloadflags`: the kernel has the 64-bit entry.
const KERNEL_64: u16 = 1;
/// The 64-bit entry's distance from the kernel's start.
const ENTRY_64: u64 = 0x200;
/// First version of the boot protocol with `acpi_rsdp_addr` in it.
const PROTOCOL_WITH_RSDP: u16 = 0x020e;
/// End of the memory in which a RAM disk may lie, whatever the kernel allows.
const INITRD_END: u64 = 1 << 31;

/// The tables of segments that the vCPU starts with: none, none, code, data.
pub(crate) const SEGMENTS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Loads everything; returns the address at which the first vCPU starts.
pub(crate) fn load(
    config: &Config,
    layout: &Layout,
    memory: &DeviceMemory,
    virtio_devices: u32,
) -> Result<u64, Error> {
    let header = load_kernel(&config.kernel, memory)?;
    let kernel_end = kernel_end(&header);
    let initrd = match &config.initrd {
        Some(path) => load_initrd(path, &header, kernel_end, layout, memory)?,
        None => (0, 0),
    };
    load_cmdline(&config.cmdline, &header, memory)?;
    let tables = acpi::tables(config.vcpus, virtio_devices);
    write(memory, ACPI_TABLES, &tables.bytes)?;
    load_boot_params(header, initrd, layout, tables.rsdp, memory)?;
    for (index, segment) in SEGMENTS.iter().enumerate() {
        write(memory, GDT + index as u64 * 8, &segment.to_le_bytes())?;
    }
    load_page_tables(memory)?;
    Ok(KERNEL + ENTRY_64)
}

fn write(memory: &DeviceMemory, address: u64, bytes: &[u8]) -> Result<(), Error> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| Error::GuestMemory { address, source })
}

fn open(what: &'static str, path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::File {
        what,
        path: path.to_owned(),
        source,
    })
}

fn load_kernel(path: &Path, memory: &DeviceMemory) -> Result<setup_header, Error> {
    let refused = |reason: String| Error::Kernel {
        path: path.to_owned(),
        reason,
    };
    let mut file = open("the kernel", path)?;
    let loaded = BzImage::load(memory, Some(GuestAddress(KERNEL)), &mut file, None)
        .map_err(|error| refused(format!("{error}; a bzImage is needed")))?;
    let header = loaded
        .setup_header
        .ok_or_else(|| refused("it has no setup header".into()))?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < PROTOCOL_WITH_RSDP || flags & KERNEL_64 == 0 {
        return Err(refused(format!(
            "boot protocol {}.{}: a 64-bit kernel with protocol 2.14 (Linux 5.0) or later is needed",
            version >> 8,
            version & 0xff
        )));
    }
    Ok(header)
}

/// End of the memory that the kernel takes while it unpacks itself, which it
/// does at its preferred address if that is above where it was loaded.
fn kernel_end(header: &setup_header) -> u64 {
    let (preferred, size) = (header.pref_address, header.init_size);
    KERNEL.max(preferred).saturating_add(u64::from(size))
}

/// Puts the RAM disk as high as kernel and memory allow; returns address and
/// length.
fn load_initrd(
    path: &Path,
    header: &setup_header,
    kernel_end: u64,
    layout: &Layout,
    memory: &DeviceMemory,
) -> Result<(u32, u32), Error> {
    let mut file = open("the initrd", path)?;
    let unreadable = |source| Error::File {
        what: "the initrd",
        path: path.to_owned(),
        source,
    };
    let len = file.metadata().map_err(unreadable)?.len();
    let allowed = u64::from(header.initrd_addr_max).saturating_add(1);
    let end = layout.ram[0].end.min(allowed).min(INITRD_END);
    let address = end
        .checked_sub(len)
        .map(|start| start & !0xfff)
        .filter(|start| *start >= kernel_end)
        .ok_or(Error::InitrdTooLarge { len })?;
    let (Ok(address32), Ok(len32), Ok(count)) = (
        u32::try_from(address),
        u32::try_from(len),
        usize::try_from(len),
    ) else {
        return Err(Error::InitrdTooLarge { len });
    };
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, count)
        .map_err(|source| Error::GuestMemory { address, source })?;
    Ok((address32, len32))
}

fn load_cmdline(cmdline: &str, header: &setup_header, memory: &DeviceMemory) -> Result<(), Error> {
    // The kernel's own limit, and the room there is below the firmware's part.
    let room = FIRMWARE_START - CMDLINE - 1;
    let max = u64::from(header.cmdline_size).min(room);
    if cmdline.len() as u64 > max || cmdline.contains('\0') {
        return Err(Error::Cmdline {
            max: usize::try_from(max).unwrap_or(usize::MAX),
        });
    }
    write(memory, CMDLINE, cmdline.as_bytes())?;
    write(memory, CMDLINE + cmdline.len() as u64, &[0])
}

fn load_boot_params(
    mut header: setup_header,
    (initrd, initrd_len): (u32, u32),
    layout: &Layout,
    rsdp: u64,
    memory: &DeviceMemory,
) -> Result<(), Error> {
    header.type_of_loader = LOADER_UNKNOWN;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = 0xfe00;
    header.cmd_line_ptr = u32::try_from(CMDLINE).expect("in the first MiB");
    header.ramdisk_image = initrd;
    header.ramdisk_size = initrd_len;
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp,
        ..boot_params::default()
    };
    let map = memory_map(layout);
    let mut table = params.e820_table;
    for (to, from) in table.iter_mut().zip(&map) {
        *to = *from;
    }
    params.e820_table = table;
    params.e820_entries = u8::try_from(map.len().min(table.len())).unwrap_or(u8::MAX);
    memory
        .write_obj(params, GuestAddress(ZERO_PAGE))
        .map_err(|source| Error::GuestMemory {
            address: ZERO_PAGE,
            source,
        })
}

/// The memory map that the firmware of a PC would hand over.
fn memory_map(layout: &Layout) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, r#type| boot_e820_entry {
        addr: start,
        size: end - start,
        r#type,
    };
    let mut map = vec![
        entry(0, FIRMWARE_START, E820_RAM),
        entry(FIRMWARE_START, MIB, E820_RESERVED),
        entry(MIB, layout.ram[0].end, E820_RAM),
    ];
    map.extend(
        layout.ram[1..]
            .iter()
            .map(|ram| entry(ram.start, ram.end, E820_RAM)),
    );
    map.extend(
        layout
            .areas
            .iter()
            .map(|area| entry(area.start, area.end(), E820_SOFT_RESERVED)),
    );
    map
}

/// Maps the first 4 GiB to themselves, in pages of 2 MiB: more than the kernel
/// needs before it makes tables of its own.
fn load_page_tables(memory: &DeviceMemory) -> Result<(), Error> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let level3 = PAGE_TABLES + 0x1000;
    write(
        memory,
        PAGE_TABLES,
        &(level3 | PRESENT_WRITABLE).to_le_bytes(),
    )?;
    for gib in 0..4u64 {
        let level2 = level3 + 0x1000 * (gib + 1);
        let entry = (level2 | PRESENT_WRITABLE).to_le_bytes();
        write(memory, level3 + gib * 8, &entry)?;
        let mut page = Vec::with_capacity(4096);
        for index in 0..512 {
            let address = (gib * 512 + index) * (2 * MIB);
            page.extend_from_slice(&(address | PRESENT_WRITABLE | LARGE).to_le_bytes());
        }
        write(memory, level2, &page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::BOOT_STACK;

    #[test]
    fn the_memory_map_offers_areas_as_soft_reserved_and_never_as_ram() {
        let layout = Layout::new(4096, &[4 * MIB, 64 * MIB], 40).unwrap();
        let map = memory_map(&layout);
        let of = |kind: u32| {
            let found = map.iter().filter(move |e| e.r#type == kind);
            found
                .map(|e| (e.addr, e.addr + e.size))
                .collect::<Vec<(u64, u64)>>()
        };
        let areas: Vec<_> = layout.areas.iter().map(|a| (a.start, a.end())).collect();
        assert_eq!(of(E820_SOFT_RESERVED), areas);
        for (start, end) in of(E820_RAM) {
            assert!(areas.iter().all(|(s, e)| end <= *s || start >= *e));
        }
    }

    #[test]
    fn what_is_left_for_the_kernel_does_not_overlap() {
        let places = [
            GDT..GDT + 32,
            ZERO_PAGE..ZERO_PAGE + 4096,
            BOOT_STACK - 0x100..BOOT_STACK,
            PAGE_TABLES..PAGE_TABLES + 6 * 4096,
            CMDLINE..FIRMWARE_START,
            ACPI_TABLES..MIB,
        ];
        assert!(places.windows(2).all(|p| p[0].end <= p[1].start));
    }
}
