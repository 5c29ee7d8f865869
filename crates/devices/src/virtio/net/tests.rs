//! The card against drivers that keep the rules and drivers that do not.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[derive(Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: Vec<Vec<u8>>,
    /// Where the guest adds another buffer for each frame sent, as a second
    /// vCPU could: the ring never runs dry.
    refill: Option<(Arc<DeviceMemory>, GuestAddress)>,
}

impl Frames for Wire {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        let next = self.to_guest.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        frame[..next.len()].copy_from_slice(&next);
        Ok(next.len())
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        if let Some((memory, index)) = &self.refill {
            let old: u16 = memory.read_obj(*index).unwrap();
            memory.write_obj(old.wrapping_add(1), *index).unwrap();
        }
        self.from_guest.push(frame.to_vec());
        Ok(())
    }
}

/// All there is of RAM, and the start of what is none: an area, for example.
const RAM: u64 = 0x10_0000;
const SIZE: u16 = 16;
const WRITE: u16 = 2;
const NEXT: u16 = 1;

struct World {
    memory: Arc<DeviceMemory>,
    line: EventFd,
    net: Net<Wire>,
}

impl World {
    /// With these chains for the queue under test; the other has none.
    fn new(under_test: usize, chains: &[Descriptor]) -> Self {
        let ranges = [(GuestAddress(0), usize::try_from(RAM).unwrap())];
        let memory = Arc::new(DeviceMemory::from_ranges(&ranges).unwrap());
        let tested = queue(&memory, 0x1000, chains);
        let idle = queue(&memory, 0x8000, &[]);
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(line.try_clone().unwrap());
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let mut net = Net::new(Wire::default(), mac, memory.clone(), interrupt);
        let queues = match under_test {
            RX => vec![tested, idle],
            _ => vec![idle, tested],
        };
        net.activate(0, queues);
        Self { memory, line, net }
    }

    fn used(&self) -> u16 {
        let queue = self.net.rx.as_ref().unwrap().used_ring();
        self.memory.read_obj(GuestAddress(queue + 2)).unwrap()
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

/// A queue with its three parts a page apart, and these chains available.
fn queue(memory: &DeviceMemory, base: u64, chains: &[Descriptor]) -> Queue {
    let (available, used) = (base + 0x1000, base + 0x2000);
    let mut heads = 0u16;
    let mut head = true;
    for (index, descriptor) in (0u16..).zip(chains) {
        let at = GuestAddress(base + u64::from(index) * 16);
        let entry = RawDescriptor::from(*descriptor);
        memory.write_obj(entry, at).unwrap();
        if head {
            let at = GuestAddress(available + 4 + u64::from(heads) * 2);
            memory.write_obj(index, at).unwrap();
            heads += 1;
        }
        head = descriptor.flags() & NEXT == 0;
    }
    let at = GuestAddress(available + 2);
    memory.write_obj(heads, at).unwrap();
    let mut queue = Queue::new(SIZE).unwrap();
    queue
        .try_set_desc_table_address(GuestAddress(base))
        .unwrap();
    let (available, used) = (GuestAddress(available), GuestAddress(used));
    queue.try_set_avail_ring_address(available).unwrap();
    queue.try_set_used_ring_address(used).unwrap();
    queue.set_ready(true);
    queue
}

fn buffer(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor::new(address, len, flags, next)
}

#[test]
fn a_frame_reaches_the_guest_behind_a_header_of_one_buffer() {
    let chains = [
        buffer(0x2_0000, 12, WRITE | NEXT, 1),
        buffer(0x2_1000, 1514, WRITE, 0),
    ];
    let mut world = World::new(RX, &chains);
    world.net.frames.to_guest.push_back(vec![7; 60]);
    assert_eq!(world.net.receive(), Turn::Done);
    assert_eq!(world.bytes(0x2_0000, 12), RX_HEADER);
    assert_eq!(world.bytes(0x2_1000, 61), [vec![7; 60], vec![0]].concat());
    assert_eq!(world.used(), 1);
    assert_eq!(world.line.read().unwrap(), 1);
    assert_eq!(world.net.counters().received, 1);
}

#[test]
fn frames_wait_on_the_wire_until_the_guest_gives_buffers() {
    let mut world = World::new(RX, &[]);
    world.net.frames.to_guest.push_back(vec![7; 60]);
    assert_eq!(world.net.receive(), Turn::Done);
    assert_eq!(world.net.frames.to_guest.len(), 1);
    assert!(world.line.read().is_err());
}

#[test]
fn a_buffer_without_a_frame_stays_with_the_guest() {
    let mut world = World::new(RX, &[buffer(0x2_0000, 1526, WRITE, 0)]);
    assert_eq!(world.net.receive(), Turn::Done);
    assert_eq!(world.used(), 0);
    world.net.frames.to_guest.push_back(vec![9; 64]);
    assert_eq!(world.net.receive(), Turn::Done);
    assert_eq!(world.used(), 1);
    assert_eq!(world.bytes(0x2_000c, 64), vec![9; 64]);
}

#[test]
fn a_frame_that_does_not_fit_its_buffer_is_dropped_as_a_whole() {
    let mut world = World::new(RX, &[buffer(0x2_0000, 40, WRITE, 0)]);
    world.net.frames.to_guest.push_back(vec![9; 64]);
    assert_eq!(world.net.receive(), Turn::Done);
    assert_eq!(world.bytes(0x2_0000, 40), vec![0; 40]);
    assert_eq!(world.net.counters().receive_dropped, 1);
    assert_eq!(world.used(), 1);
}

#[test]
fn nothing_is_written_or_read_outside_of_ram() {
    for address in [RAM - 20, RAM, RAM + 0x1000, u64::MAX - 10] {
        let mut world = World::new(RX, &[buffer(address, 1526, WRITE, 0)]);
        world.net.frames.to_guest.push_back(vec![9; 64]);
        assert_eq!(world.net.receive(), Turn::Done);
        assert_eq!(world.net.counters().receive_dropped, 1, "{address:#x}");

        let mut world = World::new(TX, &[buffer(address, 100, 0, 0)]);
        assert_eq!(world.net.send(), Turn::Done);
        assert!(world.net.frames.from_guest.is_empty());
        assert_eq!(world.net.counters().send_dropped, 1, "{address:#x}");
    }
}

#[test]
fn a_sent_frame_loses_its_header_and_frames_of_odd_lengths_are_dropped() {
    let chains = [
        buffer(0x2_0000, 12, NEXT, 1),
        buffer(0x2_1000, 30, NEXT, 2),
        buffer(0x2_2000, 30, 0, 0),
        buffer(0x2_0000, 12, 0, 0),
        buffer(0x2_0000, 3, 0, 0),
        buffer(0x2_0000, 70_000, 0, 0),
    ];
    let mut world = World::new(TX, &chains);
    let write = |at, value| {
        let bytes = [value; 30];
        world.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    };
    write(0x2_1000, 1);
    write(0x2_2000, 2);
    assert_eq!(world.net.send(), Turn::Done);
    let frames = &world.net.frames.from_guest;
    assert_eq!(*frames, [[[1; 30], [2; 30]].concat()]);
    assert_eq!(world.net.counters().send_dropped, 3);
}

#[test]
fn a_queue_that_is_longer_than_itself_is_given_up_until_a_reset() {
    let mut world = World::new(TX, &[buffer(0x2_0000, 100, 0, 0)]);
    let ring = world.net.tx.as_ref().unwrap().avail_ring();
    let index = GuestAddress(ring + 2);
    world.memory.write_obj(SIZE * 2, index).unwrap();
    assert_eq!(world.net.send(), Turn::Done);
    assert_eq!(world.net.counters().broken_queues, 1);
    assert_eq!(world.net.send(), Turn::Done);
    assert_eq!(world.net.counters().broken_queues, 1);
}

#[test]
fn a_guest_that_never_runs_dry_does_not_keep_the_thread() {
    let mut world = World::new(TX, &[buffer(0x2_0000, 64, 0, 0)]);
    let ring = world.net.tx.as_ref().unwrap().avail_ring();
    world.net.frames.refill = Some((world.memory.clone(), GuestAddress(ring + 2)));
    for turn in 1..=3 {
        assert_eq!(world.net.send(), Turn::Again);
        let sent = u64::try_from(FRAMES_PER_TURN).unwrap() * turn;
        assert_eq!(world.net.counters().sent, sent);
    }
    world.net.frames.refill = None;
    assert_eq!(world.net.send(), Turn::Done);
}

fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    (
        prop_oneof![6 => 0x2_0000u64..0x3_0000, 1 => RAM - 64..RAM + 64, 1 => any::<u64>()],
        prop_oneof![6 => 0u32..2000, 1 => any::<u32>()],
        0u16..8,
        prop_oneof![6 => 0u16..SIZE, 1 => any::<u16>()],
    )
}

proptest! {
    #[test]
    fn any_descriptors_are_survived_and_all_that_is_used_is_counted(
        table in prop::collection::vec(descriptor(), usize::from(SIZE)),
        heads in prop::collection::vec(prop_oneof![8 => 0u16..SIZE, 1 => any::<u16>()], usize::from(SIZE)),
        count in prop_oneof![8 => 0u16..=SIZE, 1 => any::<u16>()],
        queue in prop_oneof![Just(RX), Just(TX)],
    ) {
        let mut world = World::new(queue, &[]);
        let tested = [&world.net.rx, &world.net.tx][queue].as_ref().unwrap();
        let (descriptors, ring) = (tested.desc_table(), tested.avail_ring());
        for (index, (address, len, flags, next)) in (0u64..).zip(table) {
            let entry = RawDescriptor::from(Descriptor::new(address, len, flags, next));
            world.memory.write_obj(entry, GuestAddress(descriptors + index * 16)).unwrap();
        }
        for (index, head) in (0u64..).zip(heads) {
            world.memory.write_obj(head, GuestAddress(ring + 4 + index * 2)).unwrap();
        }
        world.memory.write_obj(count, GuestAddress(ring + 2)).unwrap();
        for _ in 0..SIZE {
            world.net.frames.to_guest.push_back(vec![1; 200]);
        }
        let _ = world.net.receive();
        let _ = world.net.send();
        let counters = world.net.counters();
        let moved = counters.received + counters.sent + counters.receive_dropped + counters.send_dropped;
        prop_assert!(moved <= u64::from(count.min(SIZE)) + 1);
        prop_assert_eq!(world.net.frames.from_guest.len() as u64, counters.sent);
        prop_assert!(world.net.frames.from_guest.iter().all(|f| f.len() <= FRAME_LEN));
    }
}
