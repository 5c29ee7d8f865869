//! The doorbell against a guest that stores anything anywhere.

#![no_main]

use afterimage_area_abi::control::{
    CONTROL_LEN, Command, CommandError, Reply, SLOT_COUNT, Verb, command_offset, reply_offset,
};
use afterimage_area_abi::{Level, Outcome};
use afterimage_delta::{Epoch, Term};
use afterimage_devices::area::{
    AddressSpace, AreaBackend, AreaDevice, ControlMemory, Done, Standing,
};
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use zerocopy::{FromBytes, IntoBytes};

/// Mostly what a program would do, sometimes what none would.
#[derive(Debug)]
enum Step {
    /// A command with a sound shape, to a slot that exists, rung.
    Ask {
        process: u64,
        slot: u32,
        verb: u32,
        level: u32,
        damage: Option<(usize, u8)>,
    },
    /// A store anywhere into the control page.
    Scribble { at: usize, bytes: [u8; 16] },
    /// Any store to the doorbell.
    Ring {
        process: u64,
        offset: u64,
        data: Vec<u8>,
    },
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let process = u.int_in_range(1..=3)?;
        Ok(match u.int_in_range(0..=7u8)? {
            0 => Self::Scribble {
                at: u.int_in_range(0..=(1 << 20) - 16)?,
                bytes: u.arbitrary()?,
            },
            1 => {
                let len = u.int_in_range(0..=8)?;
                Self::Ring {
                    process,
                    offset: u.int_in_range(0..=(1 << 20))?,
                    data: u.bytes(len)?.to_vec(),
                }
            }
            _ => Self::Ask {
                process,
                slot: u.int_in_range(0..=SLOT_COUNT - 1)?,
                verb: u.int_in_range(0..=5)?,
                level: if u.ratio(3, 4)? { 0 } else { u.arbitrary()? },
                damage: if u.ratio(7, 8)? {
                    None
                } else {
                    Some((u.int_in_range(0..=63)?, u.arbitrary()?))
                },
            },
        })
    }
}

#[derive(Default)]
struct Counting {
    commits: u64,
}

impl AreaBackend for Counting {
    fn attach(&mut self, _: AddressSpace) -> Result<Done, CommandError> {
        Ok(Done::here(0))
    }
    fn commit(&mut self, level: Option<Level>) -> Result<Done, CommandError> {
        if level == Some(Level::Sent) {
            return Err(CommandError::Stopped);
        }
        self.commits += 1;
        Ok(Done {
            pages: 1,
            outcome: Outcome::Held { targets: 1 },
        })
    }
    fn abort(&mut self) -> Result<Done, CommandError> {
        Ok(Done::here(1))
    }
    fn detach(&mut self) {}
    fn standing(&self) -> Standing {
        Standing {
            term: Term(1),
            committed: Epoch(self.commits),
            acknowledged: Epoch(self.commits),
            targets: 1,
            quorum: 1,
            level: Level::Durable,
        }
    }
}

fn place(offset: Option<u64>) -> usize {
    usize::try_from(offset.expect("a slot")).expect("small")
}

fuzz_target!(|steps: Vec<Step>| {
    let len = usize::try_from(CONTROL_LEN).expect("small");
    let memory = Arc::new(MmapRegion::new(len).expect("memory"));
    let control = ControlMemory::new(memory.clone()).expect("the right length");
    let name = "fuzz".parse().expect("a name");
    let mut device = AreaDevice::new(&name, 2 << 20, "none", control, Counting::default());
    let guest = memory.as_volatile_slice();
    let mut owner = None;
    for step in steps {
        match step {
            Step::Scribble { at, bytes } => guest.write_slice(&bytes, at).expect("in range"),
            Step::Ring {
                process,
                offset,
                data,
            } => {
                let commits = device.backend().commits;
                let before = device.counters();
                device.ring(offset, &data, AddressSpace::from_cr3(process << 12));
                assert_eq!(device.counters().rings, before.rings + 1);
                let named = offset == 0 && data.len() == 4;
                if !named {
                    assert_eq!(device.counters().bad_rings, before.bad_rings + 1);
                    assert_eq!(device.backend().commits, commits);
                }
                // What it rang for may have changed the owner: learn it anew.
                if named {
                    owner = None;
                    attach(&mut device, &memory, 3);
                    owner.replace(3);
                }
            }
            Step::Ask {
                process,
                slot,
                verb,
                level,
                damage,
            } => {
                let mut bytes = [0; 64];
                bytes[..4].copy_from_slice(&verb.to_le_bytes());
                bytes[4..8].copy_from_slice(&level.to_le_bytes());
                bytes[8] = 77;
                if let Some((at, value)) = damage {
                    bytes[at] = value;
                }
                guest
                    .write_slice(&bytes, place(command_offset(slot)))
                    .expect("in range");
                let caller = AddressSpace::from_cr3(process << 12);
                device.ring(0, &slot.to_le_bytes(), caller);
                let command = Command::read_from_bytes(&bytes).expect("64 bytes");
                let reply = reply(&memory, slot);
                assert_eq!(reply.sequence, command.sequence);
                let answer = reply.outcome().map(|_| ());
                match command.parse() {
                    Err(error) => assert_eq!(answer, Err(error)),
                    Ok(request) => match (request.verb, owner) {
                        (Verb::Attach, _) => {
                            assert_eq!(answer, Ok(()));
                            owner = Some(process);
                        }
                        (_, None) => assert_eq!(answer, Err(CommandError::NotAttached)),
                        (_, Some(other)) if other != process => {
                            assert_eq!(answer, Err(CommandError::NotOwner));
                        }
                        (Verb::Commit { level }, _) if level == Some(Level::Sent) => {
                            assert_eq!(answer, Err(CommandError::Stopped));
                        }
                        (Verb::Detach, _) => {
                            assert_eq!(answer, Ok(()));
                            owner = None;
                        }
                        _ => assert_eq!(answer, Ok(())),
                    },
                }
            }
        }
    }
});

fn reply(memory: &MmapRegion, slot: u32) -> Reply {
    let mut bytes = [0; size_of::<Reply>()];
    memory
        .as_volatile_slice()
        .read_slice(&mut bytes, place(reply_offset(slot)))
        .expect("in range");
    Reply::read_from_bytes(&bytes).expect("as many bytes")
}

fn attach(device: &mut AreaDevice<Counting>, memory: &MmapRegion, process: u64) {
    let command = Command::new(afterimage_area_abi::control::Request {
        verb: Verb::Attach,
        sequence: 1,
    });
    memory
        .as_volatile_slice()
        .write_slice(command.as_bytes(), place(command_offset(0)))
        .expect("in range");
    device.ring(
        0,
        &0u32.to_le_bytes(),
        AddressSpace::from_cr3(process << 12),
    );
    assert_eq!(reply(memory, 0).error, 0);
}
