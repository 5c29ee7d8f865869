//! The transport against a device that only remembers.

use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Memo {
    activated: Option<(u64, Vec<(u16, u64)>)>,
    resets: u32,
}

impl VirtioDevice for Memo {
    fn device_type(&self) -> u32 {
        1
    }
    fn features(&self) -> u64 {
        1 << 5
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 32]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(offset & 0xff).unwrap());
    }
    fn activate(&mut self, features: u64, queues: Vec<Queue>) {
        let queues = queues.iter().map(|q| (q.size(), q.desc_table())).collect();
        self.activated = Some((features, queues));
    }
    fn reset(&mut self) {
        self.activated = None;
        self.resets += 1;
    }
}

const RAM: u64 = 1 << 20;

struct World {
    device: Arc<Mutex<Memo>>,
    transport: MmioTransport,
    notify: Vec<EventFd>,
}

impl World {
    fn new() -> Self {
        let event = || EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        let device = Arc::new(Mutex::new(Memo::default()));
        let ranges = [(GuestAddress(0), usize::try_from(RAM).unwrap())];
        let memory = DeviceMemory::from_ranges(&ranges).unwrap();
        let notify = vec![event(), event()];
        let copies = notify.iter().map(|e| e.try_clone().unwrap()).collect();
        let transport = MmioTransport::new(
            device.clone(),
            Arc::new(memory),
            Interrupt::new(event()),
            copies,
        );
        Self {
            device,
            transport,
            notify,
        }
    }

    fn set(&mut self, register: u32, value: u32) {
        self.transport
            .write(u64::from(register), &value.to_le_bytes());
    }

    fn get(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    fn status(&mut self, bits: u32) -> u32 {
        self.set(reg::VIRTIO_MMIO_STATUS, bits);
        self.get(reg::VIRTIO_MMIO_STATUS)
    }

    /// The driver's steps up to features, accepting what is given.
    fn negotiate(&mut self, features: u64) -> u32 {
        self.status(0);
        self.status(1);
        self.status(3);
        for page in [0, 1] {
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, half(features, page));
        }
        self.status(0xb)
    }

    fn queue(&mut self, index: u32, size: u32, address: u64) {
        self.set(reg::VIRTIO_MMIO_QUEUE_SEL, index);
        self.set(reg::VIRTIO_MMIO_QUEUE_NUM, size);
        for (low, part) in [
            (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, address),
            (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, address + 0x1000),
            (reg::VIRTIO_MMIO_QUEUE_USED_LOW, address + 0x2000),
        ] {
            self.set(low, half(part, 0));
            self.set(low + 4, half(part, 1));
        }
        self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn activated(&self) -> Option<(u64, Vec<(u16, u64)>)> {
        lock(&self.device).activated.clone()
    }
}

const FEATURES: u64 = 1 << 32 | 1 << 5;

#[test]
fn a_driver_that_keeps_the_order_gets_its_queues_going() {
    let mut world = World::new();
    assert_eq!(world.get(reg::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(world.get(reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(world.negotiate(FEATURES), 0xb);
    assert_eq!(world.get(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    world.queue(0, 64, 0x1_0000);
    world.queue(1, 16, 0x2_0000);
    assert_eq!(world.status(0xf), 0xf);
    let queues = vec![(64, 0x1_0000), (16, 0x2_0000)];
    assert_eq!(world.activated(), Some((FEATURES, queues)));
    // Too late to move a queue.
    world.queue(1, 8, 0x3_0000);
    assert_eq!(world.transport.queues[1].size(), 16);
    assert_eq!(world.status(0), 0);
    assert_eq!(world.activated(), None);
    assert_eq!(lock(&world.device).resets, 2);
}

#[test]
fn features_that_were_not_offered_or_are_needed_are_insisted_on() {
    let mut world = World::new();
    for features in [1 << 5, FEATURES | 1 << 20, FEATURES | 1 << 40, 0] {
        assert_eq!(world.negotiate(features), 3, "{features:#x}");
        assert_eq!(world.status(0xf), 3);
    }
}

#[test]
fn queues_that_do_not_lie_in_ram_are_not_used() {
    for address in [RAM - 0x1000, RAM, RAM << 20, !0xffff, 0x10_0000_0000] {
        let mut world = World::new();
        world.negotiate(FEATURES);
        world.queue(0, 64, 0x1_0000);
        world.queue(1, 32, address);
        assert_eq!(world.status(0xf) & 0x40, 0x40, "{address:#x}");
        assert_eq!(world.activated(), None);
    }
}

#[test]
fn a_queue_that_was_not_set_up_or_has_an_odd_size_stops_the_device() {
    let mut world = World::new();
    world.negotiate(FEATURES);
    world.queue(0, 64, 0x1_0000);
    assert_eq!(world.status(0xf), 0x4b);
    for size in [0, 3, 33, 64, 0x1_0020, u32::MAX] {
        let mut world = World::new();
        world.negotiate(FEATURES);
        world.queue(1, size, 0x1_0000);
        assert_eq!(world.transport.queues[1].size(), 32, "{size}");
    }
}

#[test]
fn only_notifications_of_queues_that_exist_are_passed_on() {
    let mut world = World::new();
    world.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    for queue in [2, 3, u32::MAX] {
        world.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }
    assert!(world.notify[0].read().is_err());
    assert_eq!(world.notify[1].read().unwrap(), 1);
}

proptest! {
    #[test]
    fn no_register_traffic_activates_a_queue_outside_ram(
        ops in prop::collection::vec(
            (prop_oneof![
                4 => prop::sample::select(vec![
                    reg::VIRTIO_MMIO_STATUS, reg::VIRTIO_MMIO_QUEUE_SEL, reg::VIRTIO_MMIO_QUEUE_NUM,
                    reg::VIRTIO_MMIO_QUEUE_READY, reg::VIRTIO_MMIO_QUEUE_DESC_LOW,
                    reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                    reg::VIRTIO_MMIO_QUEUE_USED_LOW, reg::VIRTIO_MMIO_DRIVER_FEATURES,
                    reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL]),
                1 => 0u32..0x200],
             prop_oneof![3 => 0u32..16, 2 => (0u32..0x200).prop_map(|v| v << 12), 1 => any::<u32>()],
             prop::sample::select(vec![4usize, 4, 4, 4, 4, 1, 2, 8])),
            0..80),
        start in any::<bool>())
    {
        let mut world = World::new();
        if start {
            world.negotiate(FEATURES);
            world.queue(0, 64, 0x1_0000);
            world.queue(1, 32, 0x2_0000);
        }
        for (register, value, len) in ops {
            let mut data = value.to_le_bytes().to_vec();
            data.resize(len, 0);
            world.transport.write(u64::from(register), &data);
            world.transport.read(u64::from(register), &mut data);
            if let Some((features, queues)) = world.activated() {
                prop_assert_eq!(features & !FEATURES, 0);
                for (size, table) in queues {
                    prop_assert!(table + 16 * u64::from(size) <= RAM);
                }
            }
        }
    }
}
