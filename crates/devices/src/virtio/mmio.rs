//! The registers of the memory-mapped transport, version 2.

use super::{DeviceMemory, Interrupt, VirtioDevice};
use crate::{BusDevice, lock};
use std::sync::{Arc, Mutex};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as reg;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, Permissions};
use vmm_sys_util::eventfd::EventFd;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Version 2: not the legacy interface.
const VERSION: u32 = 2;
/// Nobody's vendor id: drivers do not look at it.
const VENDOR: u32 = 0x4941_5446;

/// Registers in front of a device.
pub struct MmioTransport {
    device: Arc<Mutex<dyn VirtioDevice>>,
    memory: Arc<DeviceMemory>,
    interrupt: Interrupt,
    notify: Vec<EventFd>,
    device_type: u32,
    offered: u64,
    accepted: u64,
    features_page: u32,
    accepted_page: u32,
    selected: usize,
    queues: Vec<Queue>,
    status: u32,
}

impl MmioTransport {
    /// Bytes of address space that a transport takes.
    pub const LEN: u64 = 0x200;
    /// Offset of the register that drivers notify by: its value is the queue.
    pub const NOTIFY: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

    /// Registers for `device`. One event descriptor for each queue in
    /// `notify`: written when the driver notifies that queue.
    ///
    /// # Panics
    /// If the device offers a queue size that is no power of two, which is a
    /// defect of the device.
    #[must_use]
    pub fn new(
        device: Arc<Mutex<dyn VirtioDevice>>,
        memory: Arc<DeviceMemory>,
        interrupt: Interrupt,
        notify: Vec<EventFd>,
    ) -> Self {
        let (device_type, offered, queues) = {
            let device = lock(&device);
            let queues = device
                .queue_sizes()
                .iter()
                .map(|size| Queue::new(*size).expect("devices offer sound queue sizes"))
                .collect();
            let offered = device.features() | 1 << VIRTIO_F_VERSION_1;
            (device.device_type(), offered, queues)
        };
        Self {
            device,
            memory,
            interrupt,
            notify,
            device_type,
            offered,
            accepted: 0,
            features_page: 0,
            accepted_page: 0,
            selected: 0,
            queues,
            status: 0,
        }
    }

    fn register(&self, offset: u32) -> u32 {
        let queue = self.queues.get(self.selected);
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device_type,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.features_page),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |q| u32::from(q.max_size())),
            reg::VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |q| u32::from(q.ready())),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            reg::VIRTIO_MMIO_STATUS => self.status,
            // The configuration space of our devices never changes.
            reg::VIRTIO_MMIO_CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.features_page = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_page = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) => {
                set_half(&mut self.accepted, self.accepted_page, value);
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => {
                self.selected = usize::try_from(value).unwrap_or(usize::MAX);
            }
            // Normally taken by an ioeventfd before it gets here.
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
                let queue = usize::try_from(value).unwrap_or(usize::MAX);
                if let Some(event) = self.notify.get(queue) {
                    // Only fails when the counter is full: then it is readable.
                    let _ = event.write(1);
                }
            }
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.set_queue_register(offset, value),
        }
    }

    /// Registers of the selected queue; only while the driver sets it up.
    fn set_queue_register(&mut self, offset: u32, value: u32) {
        if self.has(VIRTIO_CONFIG_S_DRIVER_OK) || !self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.selected) else {
            return;
        };
        let low = |old: u64| GuestAddress(old & !0xffff_ffff | u64::from(value));
        let high = |old: u64| GuestAddress(old & 0xffff_ffff | u64::from(value) << 32);
        // A size or an address that breaks the rules is not taken: the queue
        // is then refused as a whole when the driver says it is ready.
        let _ = match offset {
            reg::VIRTIO_MMIO_QUEUE_NUM => {
                queue.try_set_size(u16::try_from(value).unwrap_or(u16::MAX))
            }
            reg::VIRTIO_MMIO_QUEUE_READY => {
                queue.set_ready(value == 1);
                Ok(())
            }
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => {
                queue.try_set_desc_table_address(low(queue.desc_table()))
            }
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => {
                queue.try_set_desc_table_address(high(queue.desc_table()))
            }
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => {
                queue.try_set_avail_ring_address(low(queue.avail_ring()))
            }
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                queue.try_set_avail_ring_address(high(queue.avail_ring()))
            }
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => {
                queue.try_set_used_ring_address(low(queue.used_ring()))
            }
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => {
                queue.try_set_used_ring_address(high(queue.used_ring()))
            }
            _ => Ok(()),
        };
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    /// The driver may only go on, one step after the other, or start again.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let added = value & !self.status;
        if self.status & !value != 0 || self.has(VIRTIO_CONFIG_S_FAILED) {
            return;
        }
        if added & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status |= VIRTIO_CONFIG_S_FAILED;
            return;
        }
        const START: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
        self.status |= added & START;
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 && self.status & START == START {
            let known = self.accepted & !self.offered == 0;
            if known && self.accepted >> VIRTIO_F_VERSION_1 & 1 == 1 {
                self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            self.activate();
        }
    }

    fn activate(&mut self) {
        if !self.queues.iter().all(|q| sound(q, &self.memory)) {
            self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            return;
        }
        let queues = self.queues.iter().map(|queue| {
            // A copy through its state: the device's queue has its own cursors.
            Queue::try_from(queue.state()).expect("the state of a sound queue is sound")
        });
        lock(&self.device).activate(self.accepted, queues.collect());
        self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
    }

    fn reset(&mut self) {
        lock(&self.device).reset();
        self.queues.iter_mut().for_each(QueueT::reset);
        self.interrupt.acknowledge(u32::MAX);
        self.accepted = 0;
        self.features_page = 0;
        self.accepted_page = 0;
        self.selected = 0;
        self.status = 0;
    }
}

/// Whether a queue is ready and lies in RAM as a whole. As
/// [`QueueT::is_valid`], which writes a log line whenever a guest gets it
/// wrong.
fn sound(queue: &Queue, memory: &DeviceMemory) -> bool {
    let size = usize::from(queue.size());
    queue.ready()
        && memory.check_range(
            GuestAddress(queue.desc_table()),
            16 * size,
            Permissions::Read,
        )
        && memory.check_range(
            GuestAddress(queue.avail_ring()),
            6 + 2 * size,
            Permissions::Read,
        )
        && memory.check_range(
            GuestAddress(queue.used_ring()),
            6 + 8 * size,
            Permissions::Write,
        )
}

fn half(value: u64, page: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match page {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, page: u32, half: u32) {
    match page {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let config = u64::from(reg::VIRTIO_MMIO_CONFIG);
        if offset >= config {
            return lock(&self.device).read_config(offset - config, data);
        }
        // Registers are read in whole words (virtio 1.2, 4.2.2.2).
        if let (Ok(register), 4) = (u32::try_from(offset), data.len()) {
            data.copy_from_slice(&self.register(register).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(register), Ok(bytes)) = (u32::try_from(offset), data.try_into()) {
            self.set_register(register, u32::from_le_bytes(bytes));
        }
    }
}

#[cfg(test)]
mod tests;
