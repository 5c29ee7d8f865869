//! The doorbell against a backend that keeps score, no virtual machine needed.

use super::*;
use afterimage_area_abi::control::{Command, SLOT_COUNT, command_offset, reply_offset};
use proptest::prelude::*;
use std::sync::Arc;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use zerocopy::{FromBytes, IntoBytes};

#[derive(Debug, Default)]
struct Score {
    attaches: u32,
    aborts: u32,
    commits: u64,
    detaches: u32,
    stopped: bool,
}

impl AreaBackend for Score {
    fn attach(&mut self, _: AddressSpace) -> Result<Done, CommandError> {
        self.attaches += 1;
        Ok(Done::here(2))
    }
    fn commit(&mut self, _: Option<Level>) -> Result<Done, CommandError> {
        if self.stopped {
            return Err(CommandError::Stopped);
        }
        self.commits += 1;
        Ok(Done {
            pages: 3,
            outcome: Outcome::Held { targets: 1 },
        })
    }
    fn abort(&mut self) -> Result<Done, CommandError> {
        self.aborts += 1;
        Ok(Done::here(1))
    }
    fn detach(&mut self) {
        self.detaches += 1;
    }
    fn standing(&self) -> Standing {
        Standing {
            term: Term(4),
            committed: Epoch(self.commits),
            acknowledged: Epoch(self.commits),
            targets: 1,
            quorum: 1,
            level: Level::Replicated,
        }
    }
}

struct World {
    memory: Arc<MmapRegion>,
    device: AreaDevice<Score>,
}

const APP: u64 = 0x1234_5000;

impl World {
    fn new() -> Self {
        let memory = Arc::new(MmapRegion::new(1 << 20).unwrap());
        let control = ControlMemory::new(memory.clone()).unwrap();
        let name = "kv".parse().unwrap();
        let device = AreaDevice::new(&name, 4 << 20, "told", control, Score::default());
        Self { memory, device }
    }

    fn put(&self, slot: u32, command: &Command) {
        let at = usize::try_from(command_offset(slot).unwrap()).unwrap();
        let slice = self.memory.as_volatile_slice();
        slice.write_slice(command.as_bytes(), at).unwrap();
    }

    fn reply(&self, slot: u32) -> Reply {
        let at = usize::try_from(reply_offset(slot).unwrap()).unwrap();
        let mut bytes = [0; size_of::<Reply>()];
        let slice = self.memory.as_volatile_slice();
        slice.read_slice(&mut bytes, at).unwrap();
        Reply::read_from_bytes(&bytes).unwrap()
    }

    fn header(&self) -> ControlHeader {
        let mut bytes = [0; size_of::<ControlHeader>()];
        let slice = self.memory.as_volatile_slice();
        slice.read_slice(&mut bytes, 0).unwrap();
        ControlHeader::read_from_bytes(&bytes).unwrap()
    }

    fn ask(&mut self, cr3: u64, verb: Verb) -> Result<Outcome, CommandError> {
        let sequence = self.device.counters().rings + 100;
        self.put(5, &Command::new(Request { verb, sequence }));
        self.device
            .ring(0, &5u32.to_le_bytes(), AddressSpace::from_cr3(cr3));
        let reply = self.reply(5);
        assert_eq!(reply.sequence, sequence);
        reply.outcome()
    }
}

impl World {
    fn attach(&mut self, cr3: u64) {
        assert_eq!(
            self.ask(cr3, Verb::Attach),
            Ok(Outcome::Held { targets: 0 })
        );
    }
}

const COMMIT: Verb = Verb::Commit { level: None };

#[test]
fn an_attached_application_commits_and_reads_its_epoch() {
    let mut world = World::new();
    assert!(world.ask(APP, Verb::Attach).is_ok());
    assert_eq!(world.ask(APP, COMMIT), Ok(Outcome::Held { targets: 1 }));
    let reply = world.reply(5);
    assert_eq!((reply.epoch, reply.term, reply.pages), (1, 4, 3));
    let header = world.header();
    assert_eq!((header.committed, header.acknowledged), (1, 1));
    assert!(world.ask(APP, Verb::Detach).is_ok());
    assert_eq!(world.ask(APP, COMMIT), Err(CommandError::NotAttached));
}

#[test]
fn the_same_process_is_known_under_another_pcid() {
    let mut world = World::new();
    world.attach(APP | 3);
    assert!(world.ask(APP | 7 | 1 << 63, COMMIT).is_ok());
}

#[test]
fn a_new_owner_replaces_the_old_one_who_is_told() {
    let mut world = World::new();
    world.attach(APP);
    let other = 0x7777_0000;
    assert_eq!(world.ask(other, COMMIT), Err(CommandError::NotOwner));
    world.attach(other);
    assert_eq!(world.ask(APP, COMMIT), Err(CommandError::NotOwner));
    assert_eq!(world.ask(APP, Verb::Abort), Err(CommandError::NotOwner));
    assert_eq!(world.ask(APP, Verb::Detach), Err(CommandError::NotOwner));
    assert!(world.ask(other, COMMIT).is_ok());
    let score = world.device.backend();
    assert_eq!((score.attaches, score.commits, score.aborts), (2, 1, 0));
}

#[test]
fn a_ring_that_names_no_slot_is_told_in_the_header() {
    let mut world = World::new();
    let app = AddressSpace::from_cr3(APP);
    let bad = |world: &mut World, offset, data: &[u8]| {
        world.device.ring(offset, data, app);
        world.header().last_bad_ring
    };
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (0, 0), (1, 4), (4, 4), (4096, 4)] {
        assert_eq!(
            bad(&mut world, offset, &vec![0; len]),
            CommandError::BadRing.code()
        );
    }
    for slot in [SLOT_COUNT, u32::MAX] {
        assert_eq!(
            bad(&mut world, 0, &slot.to_le_bytes()),
            CommandError::BadSlot.code()
        );
    }
    assert!(world.ask(APP, Verb::Attach).is_ok());
    assert_eq!(world.header().last_bad_ring, 0);
    assert_eq!(world.device.counters().bad_rings, 9);
}

#[test]
fn an_attach_repairs_a_header_that_was_written_over() {
    let mut world = World::new();
    let before = world.header();
    let slice = world.memory.as_volatile_slice();
    slice.write_slice(&[0xff; 4096], 0).unwrap();
    world.attach(APP);
    assert_eq!(world.header(), before);
}

#[test]
fn a_stopped_backend_is_answered_not_hidden() {
    let mut world = World::new();
    world.attach(APP);
    world.device.backend.stopped = true;
    assert_eq!(world.ask(APP, COMMIT), Err(CommandError::Stopped));
    assert_eq!(world.device.counters().refused, 1);
}

/// Commands that are mostly nearly right: those get past the first check.
fn command() -> impl Strategy<Value = [u8; 64]> {
    (
        0u32..6,
        prop_oneof![4 => Just(0u32), 2 => 1u32..6, 1 => any::<u32>()],
        any::<u64>(),
        prop::collection::vec((0usize..64, any::<u8>()), 0..2),
    )
        .prop_map(|(verb, level, sequence, damage)| {
            let mut bytes = [0; 64];
            bytes[..4].copy_from_slice(&verb.to_le_bytes());
            bytes[4..8].copy_from_slice(&level.to_le_bytes());
            bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
            for (at, value) in damage {
                bytes[at] = value;
            }
            bytes
        })
}

proptest! {
    #[test]
    fn every_ring_is_answered_and_only_owners_get_through(
        rings in prop::collection::vec(
            (command(), prop_oneof![5 => 0u32..SLOT_COUNT, 1 => any::<u32>()],
             prop_oneof![5 => Just((0u64, 4usize)), 1 => (0u64..(1 << 20), 0usize..9)], 0u64..3),
            1..60)
    ) {
        let mut world = World::new();
        let mut owner = None;
        for (bytes, slot, (offset, len), process) in rings {
            let command = Command::read_from_bytes(&bytes).unwrap();
            let named = command_offset(slot).is_some() && offset == 0 && len == 4;
            if command_offset(slot).is_some() {
                world.put(slot, &command);
            }
            let commits = world.device.backend().commits;
            let mut data = slot.to_le_bytes().to_vec();
            data.resize(len, 0);
            let caller = AddressSpace::from_cr3((process + 1) << 12);
            world.device.ring(offset, &data, caller);
            if !named {
                prop_assert!(world.header().last_bad_ring != 0);
                prop_assert_eq!(world.device.backend().commits, commits);
                continue;
            }
            let reply = world.reply(slot);
            prop_assert_eq!(reply.sequence, command.sequence);
            match command.parse() {
                Err(error) => prop_assert_eq!(reply.outcome(), Err(error)),
                Ok(request) if request.verb == Verb::Attach => {
                    prop_assert!(reply.outcome().is_ok());
                    owner = Some(caller);
                }
                Ok(request) if owner == Some(caller) => {
                    prop_assert!(reply.outcome().is_ok());
                    if request.verb == Verb::Detach { owner = None; }
                }
                Ok(_) => prop_assert!(reply.outcome().is_err()),
            }
            let moved = world.device.backend().commits != commits;
            prop_assert!(!moved || owner == Some(caller));
        }
    }
}

/// Rows `| offset | length | \`field\` |` of the table that follows a line.
fn documented(after: &str) -> Vec<(usize, usize, String)> {
    let page = include_str!("../../../../docs/reference/area.md");
    let (_, rest) = page.split_once(after).expect("the page has this line");
    let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let field = cells[3].strip_prefix('`')?.strip_suffix('`')?;
            Some((cells[1].parse().ok()?, cells[2].parse().ok()?, field.into()))
        })
        .collect()
}

macro_rules! fields {
    ($of:ty: $($field:ident)*) => {{
        let mut ends: Vec<usize> = vec![$(std::mem::offset_of!($of, $field)),*];
        ends.push(size_of::<$of>());
        let names = [$(stringify!($field)),*];
        let lens = ends.windows(2).map(|w| (w[0], w[1] - w[0]));
        lens.zip(names).map(|((at, len), name)| (at, len, name.to_owned())).collect::<Vec<_>>()
    }};
}

#[test]
fn the_reference_page_gives_the_layout_as_it_is() {
    let header = fields!(ControlHeader: magic abi_version slot_count name data_len term committed
        acknowledged targets quorum level last_bad_ring tracker);
    assert_eq!(documented("### Header"), header);
    let command = fields!(Command: verb level sequence transaction reserved);
    assert_eq!(documented("Command, written by"), command);
    let reply = fields!(Reply: error outcome held wanted epoch term sequence pages reserved);
    assert_eq!(documented("Reply, 64 bytes behind"), reply);
}

#[test]
fn the_reference_page_lists_every_error_code() {
    let page = include_str!("../../../../docs/reference/area.md");
    let (_, codes) = page.split_once("## Error codes").unwrap();
    let (codes, _) = codes.split_once("\n## ").unwrap();
    let listed: Vec<u32> = codes
        .lines()
        .filter_map(|row| row.split('|').nth(1)?.trim().parse().ok())
        .collect();
    let all: Vec<u32> = CommandError::ALL.iter().map(|e| e.code()).collect();
    assert_eq!(listed, all);
}
