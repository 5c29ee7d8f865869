//! Virtio devices behind the memory-mapped transport (virtio 1.2, section 4.2).

mod interrupt;
mod mmio;
mod net;

pub use interrupt::Interrupt;
pub use mmio::MmioTransport;
pub use net::{FRAME_LEN, Frames, MacAddress, Net, NetCounters, RX, TX, Turn};

use virtio_queue::Queue;

/// The guest's RAM as devices see it: no area is in it.
pub type DeviceMemory = vm_memory::GuestMemoryMmap<()>;

/// What is behind a transport.
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Features offered, without those of the transport.
    fn features(&self) -> u64;

    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Answers a load from the configuration space; what is not there stays
    /// as it is (zeros).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver is ready. Each queue is of a size that was offered and lies
    /// in RAM.
    fn activate(&mut self, features: u64, queues: Vec<Queue>);

    /// Lets go of all queues: when it returns, nothing is written to them any
    /// more.
    fn reset(&mut self);
}
