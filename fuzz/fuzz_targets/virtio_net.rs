//! A network card against a driver that breaks every rule.

#![no_main]

use afterimage_devices::virtio::{
    DeviceMemory, FRAME_LEN, Frames, Interrupt, MacAddress, MmioTransport, Net,
};
use afterimage_devices::{BusDevice, lock};
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Small, so that addresses outside are found soon.
const RAM: u64 = 0x4_0000;

#[derive(Debug)]
enum Step {
    /// The steps of a sound driver, up to a running device.
    Start,
    Register {
        offset: u64,
        data: Vec<u8>,
    },
    Load {
        offset: u64,
        len: usize,
    },
    Memory {
        at: u64,
        bytes: [u8; 8],
    },
    Descriptor {
        queue: u64,
        index: u64,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    Offer {
        queue: u64,
        index: u16,
        heads: [u8; 4],
    },
    Frame(u16),
    Carry,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let queue = u.int_in_range(0..=1)?;
        Ok(match u.int_in_range(0..=11u8)? {
            0 => Self::Start,
            1 => {
                let len = *u.choose(&[4, 4, 4, 1, 2, 8])?;
                Self::Register {
                    offset: u.int_in_range(0..=0x1ff)?,
                    data: u.bytes(len)?.to_vec(),
                }
            }
            2 => Self::Load {
                offset: u.int_in_range(0..=0x1ff)?,
                len: *u.choose(&[1, 2, 4, 8])?,
            },
            3 => Self::Memory {
                at: u.int_in_range(0..=RAM - 8)?,
                bytes: u.arbitrary()?,
            },
            4..=6 => Self::Descriptor {
                queue,
                index: u.int_in_range(0..=15)?,
                address: if u.ratio(7, 8)? {
                    u.int_in_range(0..=RAM)?
                } else {
                    u.arbitrary()?
                },
                len: if u.ratio(7, 8)? {
                    u.int_in_range(0..=3000)?
                } else {
                    u.arbitrary()?
                },
                flags: u.int_in_range(0..=7)?,
                next: if u.ratio(7, 8)? {
                    u.int_in_range(0..=15)?
                } else {
                    u.arbitrary()?
                },
            },
            7..=8 => Self::Offer {
                queue,
                index: if u.ratio(7, 8)? {
                    u.int_in_range(0..=40)?
                } else {
                    u.arbitrary()?
                },
                heads: u.arbitrary()?,
            },
            9 => Self::Frame(u.arbitrary()?),
            _ => Self::Carry,
        })
    }
}

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<VecDeque<u16>>>);

impl Frames for Wire {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        let len = lock(&self.0).pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let len = usize::from(len).min(frame.len());
        frame[..len].fill(0x5a);
        Ok(len)
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        assert!((1..=FRAME_LEN).contains(&frame.len()));
        Ok(())
    }
}

fn start(transport: &mut MmioTransport) {
    let mut set = |offset: u64, value: u32| transport.write(offset, &value.to_le_bytes());
    for status in [0, 1, 3] {
        set(0x70, status);
    }
    for (page, features) in [(0, 1 << 5 | 1 << 29), (1, 1)] {
        set(0x24, page);
        set(0x20, features);
    }
    set(0x70, 0xb);
    for queue in 0..2u32 {
        set(0x30, queue);
        set(0x38, 16);
        let base = 0x1000 + queue * 0x4000;
        for (register, address) in [(0x80, base), (0x90, base + 0x1000), (0xa0, base + 0x2000)] {
            set(register, address);
            set(register + 4, 0);
        }
        set(0x44, 1);
    }
    set(0x70, 0xf);
}

fuzz_target!(|steps: Vec<Step>| {
    let event = || EventFd::new(EFD_NONBLOCK).expect("an event descriptor");
    let ranges = [(GuestAddress(0), usize::try_from(RAM).expect("small"))];
    let memory = Arc::new(DeviceMemory::from_ranges(&ranges).expect("memory"));
    let interrupt = Interrupt::new(event());
    let wire = Wire::default();
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let net = Net::new(wire.clone(), mac, memory.clone(), interrupt.clone());
    let net = Arc::new(Mutex::new(net));
    let notify = vec![event(), event()];
    let mut transport = MmioTransport::new(net.clone(), memory.clone(), interrupt, notify);
    let table = |queue: u64| 0x1000 + queue * 0x4000;
    for step in steps {
        match step {
            Step::Start => start(&mut transport),
            Step::Register { offset, data } => transport.write(offset, &data),
            Step::Load { offset, len } => transport.read(offset, &mut vec![0; len]),
            Step::Memory { at, bytes } => {
                memory
                    .write_slice(&bytes, GuestAddress(at))
                    .expect("in RAM");
            }
            Step::Descriptor {
                queue,
                index,
                address,
                len,
                flags,
                next,
            } => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&address.to_le_bytes());
                bytes[8..12].copy_from_slice(&len.to_le_bytes());
                bytes[12..14].copy_from_slice(&flags.to_le_bytes());
                bytes[14..].copy_from_slice(&next.to_le_bytes());
                let at = GuestAddress(table(queue) + index * 16);
                memory.write_slice(&bytes, at).expect("in RAM");
            }
            Step::Offer {
                queue,
                index,
                heads,
            } => {
                let ring = table(queue) + 0x1000;
                for (place, head) in (0u64..).zip(heads) {
                    let at = GuestAddress(ring + 4 + place * 2);
                    memory.write_obj(u16::from(head), at).expect("in RAM");
                }
                memory
                    .write_obj(index, GuestAddress(ring + 2))
                    .expect("in RAM");
            }
            Step::Frame(len) => {
                lock(&wire.0).push_back(len);
            }
            Step::Carry => {
                let mut net = lock(&net);
                let _ = net.receive();
                let _ = net.send();
            }
        }
    }
});
