//! The ACPI tables: which processors there are, where the serial port and the
//! virtio devices are, how to switch off and reset.

use crate::layout::{
    ACPI_TABLES, IO_APIC, LOCAL_APIC, VIRTIO_FIRST_GSI, VIRTIO_START, VIRTIO_STEP,
};
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use afterimage_devices::{PowerControl, ResetPort, SerialPort};

const OEM: [u8; 6] = *b"AFTIMG";
const OEM_TABLE: [u8; 8] = *b"AFTERIMG";
const OEM_REVISION: u32 = 1;
/// System control interrupt. Nothing raises it; ACPI wants one.
const SCI: u8 = 9;

/// `IAPC_BOOT_ARCH`: there is no VGA and no CMOS clock to look for. (Bit 1,
/// a keyboard controller, is off as well.)
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// The tables as one block.
pub(crate) struct Tables {
    /// Bytes to be put at [`ACPI_TABLES`].
    pub(crate) bytes: Vec<u8>,
    /// Guest-physical address of the root pointer.
    pub(crate) rsdp: u64,
}

/// Makes the tables for so many processors and virtio devices.
pub(crate) fn tables(vcpus: u8, virtio_devices: u32) -> Tables {
    let mut block = Block::default();
    let facs = block.put(&bytes_of(&FACS::new()));
    let dsdt = block.put(dsdt(virtio_devices).as_slice());
    let fadt = block.put(&bytes_of(&fadt(facs, dsdt)));
    let madt = block.put(madt(vcpus).as_slice());
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = block.put(&bytes_of(&xsdt));
    let rsdp = block.put(&bytes_of(&Rsdp::new(OEM, xsdt)));
    Tables {
        bytes: block.bytes,
        rsdp,
    }
}

#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a table, aligned as the strictest (the FACS) wants it; returns
    /// its address.
    fn put(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = ACPI_TABLES + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(number: u16, bits: u8, size: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, size, u64::from(number))
}

fn fadt(facs: u64, dsdt: u64) -> acpi_tables::fadt::FADT {
    let event = port(PowerControl::EVENT_PORT, 32, AccessSize::DwordAccess);
    let control = port(PowerControl::CONTROL_PORT, 16, AccessSize::WordAccess);
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_64(facs)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(SCI).into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.pm1a_evt_blk = u32::from(PowerControl::EVENT_PORT).into();
    fadt.pm1_evt_len = PowerControl::EVENT_LEN;
    fadt.x_pm1a_evt_blk = event;
    fadt.pm1a_cnt_blk = u32::from(PowerControl::CONTROL_PORT).into();
    fadt.pm1_cnt_len = PowerControl::CONTROL_LEN;
    fadt.x_pm1a_cnt_blk = control;
    fadt.reset_reg = port(ResetPort::PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = ResetPort::RESET;
    fadt.finalize()
}

fn madt(vcpus: u8) -> Sdt {
    /// The PC's two interrupt controllers are there too.
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    /// Level triggered, active high.
    const LEVEL_HIGH: u16 = 0b1101;
    let mut madt = Sdt::new(*b"APIC", 36, 4, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&LOCAL_APIC.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..vcpus {
        madt.append_slice(&[0, 8, id, id]);
        madt.append_slice(&ENABLED.to_le_bytes());
    }
    // The I/O APIC, its inputs being the interrupts 0 to 23. Interrupt 0, the
    // timer, comes in at input 0: KVM's own routing.
    madt.append_slice(&[1, 12, vcpus, 0]);
    madt.append_slice(&IO_APIC.to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    // Not low, as ACPI would have it without this line.
    madt.append_slice(&[2, 10, 0, SCI]);
    madt.append_slice(&u32::from(SCI).to_le_bytes());
    madt.append_slice(&LEVEL_HIGH.to_le_bytes());
    // Non-maskable interrupts come in at LINT1 of every local APIC.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn dsdt(virtio_devices: u32) -> Sdt {
    let mut code = Vec::new();
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&PowerControl::SLEEP_OFF, &0u8, &0u8, &0u8]),
    )
    .to_aml_bytes(&mut code);
    Scope::new("_SB_".into(), vec![&Serial, &Virtio(virtio_devices)]).to_aml_bytes(&mut code);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&code);
    dsdt
}

/// COM1.
struct Serial;

impl Aml for Serial {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = u8::try_from(SerialPort::PORTS).unwrap_or(u8::MAX);
        let registers = IO::new(SerialPort::PORT, SerialPort::PORT, 0, ports);
        let interrupt = Interrupt::new(true, true, false, false, SerialPort::GSI);
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &0u8),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&registers, &interrupt]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The transports of so many devices.
struct Virtio(u32);

impl Aml for Virtio {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        for index in 0..self.0 {
            let base = VIRTIO_START + u64::from(index) * VIRTIO_STEP;
            let base = u32::try_from(base).expect("transports lie below 4 GiB");
            let step = u32::try_from(VIRTIO_STEP).expect("a page");
            let registers = Memory32Fixed::new(true, base, step);
            let interrupt = Interrupt::new(true, true, false, false, VIRTIO_FIRST_GSI + index);
            Device::new(
                Path::new(&format!("VR{index:02}")),
                vec![
                    &Name::new("_HID".into(), &"LNRO0005"),
                    &Name::new("_UID".into(), &index),
                    &Name::new("_CCA".into(), &1u8),
                    &Name::new(
                        "_CRS".into(),
                        &ResourceTemplate::new(vec![&registers, &interrupt]),
                    ),
                ],
            )
            .to_aml_bytes(sink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;

    fn at(tables: &Tables, address: u64) -> &[u8] {
        let bytes = &tables.bytes[usize::try_from(address - ACPI_TABLES).unwrap()..];
        let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        &bytes[..len as usize]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reached_from_the_root_and_adds_up() {
        let tables = tables(4, 2);
        assert!(ACPI_TABLES + tables.bytes.len() as u64 <= MIB);
        let root = &tables.bytes[usize::try_from(tables.rsdp - ACPI_TABLES).unwrap()..][..36];
        assert_eq!((&root[..8], sum(root)), (&b"RSD PTR "[..], 0));
        let xsdt = at(
            &tables,
            u64::from_le_bytes(root[24..32].try_into().unwrap()),
        );
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let entries: Vec<u64> = xsdt[36..]
            .chunks_exact(8)
            .map(|entry| u64::from_le_bytes(entry.try_into().unwrap()))
            .collect();
        let found: Vec<&[u8]> = entries.iter().map(|e| at(&tables, *e)).collect();
        assert!(found.iter().all(|table| sum(table) == 0));
        let names: Vec<&[u8]> = found.iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [&b"FACP"[..], b"APIC"]);
        let dsdt = at(
            &tables,
            u64::from_le_bytes(found[0][140..148].try_into().unwrap()),
        );
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let processors = found[1][44..].chunks_exact(8).take(4);
        assert!(
            processors
                .enumerate()
                .all(|(id, entry)| entry[..2] == [0, 8]
                    && usize::from(entry[3]) == id
                    && entry[4] == 1)
        );
    }
}
