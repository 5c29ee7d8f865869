//! PCI configuration mechanism #1 with nothing on the bus but a host bridge.
//!
//! No PCI device is offered. The bridge is there because Linux adds the
//! soft-reserved ranges of the firmware's memory map (our areas) to its
//! resource tree only on the way of its PCI set-up, and that ends early when
//! no configuration mechanism answers (`e820__reserve_resources_late`, called
//! from `pcibios_resource_survey`).

use crate::BusDevice;

/// Vendor and device id of the bridge: the ids that QEMU's generic host bridge
/// has, so that no driver mistakes it for real hardware with quirks.
const BRIDGE_ID: u32 = 0x0008_1b36;
/// Class 06, subclass 00: host bridge. Revision 0.
const BRIDGE_CLASS: u32 = 0x0600_0000;
/// Bit 31 of the address register: configuration cycles are on.
const ENABLE: u32 = 1 << 31;
/// Bits that a bus, device, function and register can have.
const ADDRESS_BITS: u32 = 0x80ff_fffc;

/// The eight ports from [`PciConfig::PORT`].
#[derive(Debug, Default)]
pub struct PciConfig {
    address: u32,
}

impl PciConfig {
    /// First port: the address register; the data register is 4 ports on.
    pub const PORT: u16 = 0xcf8;
    /// Number of ports.
    pub const PORTS: u16 = 8;

    fn data(&self) -> u32 {
        let place = self.address & !0xfc;
        match (place, self.address & 0xfc) {
            (ENABLE, 0) => BRIDGE_ID,
            (ENABLE, 8) => BRIDGE_CLASS,
            (ENABLE, _) => 0,
            _ => u32::MAX,
        }
    }
}

impl BusDevice for PciConfig {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let register = match offset {
            0 if data.len() == 4 => self.address,
            4..8 => self.data(),
            _ => u32::MAX,
        };
        let bytes = register.to_le_bytes();
        let start = usize::try_from(offset % 4).unwrap_or(0);
        data.fill(0xff);
        for (to, from) in data.iter_mut().zip(&bytes[start..]) {
            *to = *from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // The address register is written as a whole; its single bytes belong
        // to other devices on real machines, and the kernel's probe stores to
        // one of them. Nothing in the bridge can be changed.
        if let (0, Ok(bytes)) = (offset, data.try_into()) {
            self.address = u32::from_le_bytes(bytes) & ADDRESS_BITS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(pci: &mut PciConfig, address: u32) -> u32 {
        pci.write(0, &address.to_le_bytes());
        let mut data = [0; 4];
        pci.read(4, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_probe_of_linux_finds_mechanism_one_and_a_host_bridge() {
        let mut pci = PciConfig::default();
        pci.write(3, &[1]);
        assert_eq!(config(&mut pci, 0x8000_0000), BRIDGE_ID);
        let mut address = [0; 4];
        pci.read(0, &mut address);
        assert_eq!(u32::from_le_bytes(address), 0x8000_0000);
        let mut class = [0; 2];
        pci.write(0, &0x8000_0008_u32.to_le_bytes());
        pci.read(6, &mut class);
        assert_eq!(class, [0x00, 0x06]);
    }

    #[test]
    fn every_other_place_is_empty() {
        let mut pci = PciConfig::default();
        assert_eq!(config(&mut pci, 0x8000_0800), u32::MAX);
        assert_eq!(config(&mut pci, 0x8001_0000), u32::MAX);
        assert_eq!(config(&mut pci, 0), u32::MAX);
    }

    proptest! {
        #[test]
        fn pokes_of_any_shape_get_an_answer(
            pokes in prop::collection::vec((0u64..8, prop::collection::vec(any::<u8>(), 0..20)), 0..50)
        ) {
            let mut pci = PciConfig::default();
            for (offset, bytes) in pokes {
                pci.write(offset, &bytes);
                let mut data = bytes;
                pci.read(offset, &mut data);
            }
            prop_assert_eq!(config(&mut pci, 0x8000_0000), BRIDGE_ID);
        }
    }
}
