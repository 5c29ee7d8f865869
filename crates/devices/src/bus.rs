//! Which device answers at which address.

use crate::lock;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A device behind loads and stores.
pub trait BusDevice: Send {
    /// Answers a load of `data.len()` bytes at `offset` from the device's
    /// start. `data` is zeros before.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes a store.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// The devices of one address space (ports, or memory), each behind a lock so
/// that several vCPUs can reach them.
#[derive(Default)]
pub struct Bus {
    /// Ascending, without overlap.
    places: Vec<Place>,
}

struct Place {
    range: Range<u64>,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Two devices would answer at the same address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("addresses {start:#x}..{end:#x} are taken or empty")]
pub struct Overlap {
    /// First address asked for.
    pub start: u64,
    /// First address behind.
    pub end: u64,
}

impl Bus {
    /// Puts a device at a range of addresses.
    ///
    /// # Errors
    /// [`Overlap`] if another device is there, or the range is empty.
    pub fn insert(
        &mut self,
        range: Range<u64>,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), Overlap> {
        let at = self.places.partition_point(|p| p.range.end <= range.start);
        let free = self
            .places
            .get(at)
            .is_none_or(|next| range.end <= next.range.start);
        if range.is_empty() || !free {
            return Err(Overlap {
                start: range.start,
                end: range.end,
            });
        }
        self.places.insert(at, Place { range, device });
        Ok(())
    }

    /// Answers a load. Where nothing is, all bits are one, as on real buses;
    /// then the result is `false`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some(place) = self.find(address, data.len()) else {
            data.fill(0xff);
            return false;
        };
        data.fill(0);
        lock(&place.device).read(address - place.range.start, data);
        true
    }

    /// Takes a store. Where nothing is, it is lost, and the result is `false`.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some(place) = self.find(address, data.len()) else {
            return false;
        };
        lock(&place.device).write(address - place.range.start, data);
        true
    }

    /// The device that has the access's first byte. Ports take string
    /// operations whose data are longer than the device, so the length is not
    /// compared with the range; a device looks at it itself.
    fn find(&self, address: u64, len: usize) -> Option<&Place> {
        if len == 0 {
            return None;
        }
        let at = self.places.partition_point(|p| p.range.end <= address);
        self.places.get(at).filter(|p| p.range.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Register(u8);

    impl BusDevice for Register {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = self.0 + u8::try_from(offset).unwrap();
        }
        fn write(&mut self, _: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    fn register(value: u8) -> Arc<Mutex<dyn BusDevice>> {
        Arc::new(Mutex::new(Register(value)))
    }

    #[test]
    fn each_address_leads_to_its_device_and_none_elsewhere() {
        let mut bus = Bus::default();
        bus.insert(0x20..0x24, register(1)).unwrap();
        bus.insert(0x10..0x20, register(100)).unwrap();
        let mut byte = [0];
        assert!(bus.read(0x21, &mut byte));
        assert_eq!(byte, [2]);
        assert!(bus.read(0x1f, &mut byte));
        assert_eq!(byte, [115]);
        assert!(!bus.read(0x24, &mut byte));
        assert_eq!(byte, [0xff]);
        assert!(!bus.write(0xf, &[1]));
        assert!(bus.write(0x10, &[7]));
        assert!(bus.read(0x10, &mut byte));
        assert_eq!(byte, [7]);
        assert!(!bus.read(0x10, &mut []));
    }

    #[test]
    fn devices_that_would_overlap_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x10..0x20, register(0)).unwrap();
        for range in [0x1f..0x30, 0x0..0x11, 0x12..0x13, 0x0..0x40, 0x30..0x30] {
            assert!(bus.insert(range, register(0)).is_err());
        }
    }
}
