//! A virtio network card (virtio 1.2, section 5.1) without offloads.

use super::{DeviceMemory, Interrupt, VirtioDevice};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueT};

/// Index of the queue by which the guest receives.
pub const RX: usize = 0;
/// Index of the queue by which the guest sends.
pub const TX: usize = 1;
/// Longest Ethernet frame in bytes that is carried: an interface may have any
/// MTU up to 65535. A longer one is dropped.
pub const FRAME_LEN: usize = 65535 + 14;

/// Virtio's own header before each frame (virtio 1.2, 5.1.6): all zeros but
/// for the number of buffers that a received frame takes, which is one.
const HEADER_LEN: usize = 12;
const RX_HEADER: [u8; HEADER_LEN] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// Entries of each queue: 256 frames in flight are more than a tap holds.
const QUEUE_SIZE: u16 = 256;
/// Frames moved before the device's thread looks at its other events.
const FRAMES_PER_TURN: usize = 512;

/// Where frames come from and go to: a tap on the host.
pub trait Frames: Send {
    /// Takes the next frame.
    ///
    /// # Errors
    /// `WouldBlock` if there is none now.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize>;

    /// Sends a frame.
    ///
    /// # Errors
    /// When it could not be sent; it is then lost, as frames may be.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What was carried and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames to the guest.
    pub received: u64,
    /// Frames from the guest.
    pub sent: u64,
    /// Frames to the guest that found a buffer that was too small or not in
    /// RAM.
    pub receive_dropped: u64,
    /// Frames from the guest that were malformed, or that the host did not
    /// take.
    pub send_dropped: u64,
    /// Queues given up because the guest broke their rules.
    pub broken_queues: u64,
}

/// Whether there may be more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Everything was carried.
    Done,
    /// A turn's share was carried: come again after looking at other events.
    Again,
}

/// The card.
pub struct Net<F> {
    frames: F,
    memory: Arc<DeviceMemory>,
    interrupt: Interrupt,
    mac: MacAddress,
    rx: Option<Queue>,
    tx: Option<Queue>,
    counters: NetCounters,
    /// Header and frame of the one being carried.
    scratch: Box<[u8]>,
}

impl<F: Frames> Net<F> {
    /// A card with this address, over these frames.
    #[must_use]
    pub fn new(
        frames: F,
        mac: MacAddress,
        memory: Arc<DeviceMemory>,
        interrupt: Interrupt,
    ) -> Self {
        Self {
            frames,
            memory,
            interrupt,
            mac,
            rx: None,
            tx: None,
            counters: NetCounters::default(),
            scratch: vec![0; HEADER_LEN + FRAME_LEN].into_boxed_slice(),
        }
    }

    /// Carries waiting frames to the guest, as far as it has given buffers.
    /// Call it when frames arrive and when the guest notifies [`RX`].
    pub fn receive(&mut self) -> Turn {
        let Some(mut queue) = self.rx.take() else {
            return Turn::Done;
        };
        match self.receive_into(&mut queue) {
            Ok(turn) => {
                self.rx = Some(queue);
                turn
            }
            Err(_) => self.give_up(),
        }
    }

    /// Carries the guest's frames out. Call it when the guest notifies [`TX`].
    pub fn send(&mut self) -> Turn {
        let Some(mut queue) = self.tx.take() else {
            return Turn::Done;
        };
        match self.send_from(&mut queue) {
            Ok(turn) => {
                self.tx = Some(queue);
                turn
            }
            Err(_) => self.give_up(),
        }
    }

    /// The queue is not used again before the driver resets the device.
    fn give_up(&mut self) -> Turn {
        self.counters.broken_queues += 1;
        Turn::Done
    }

    fn receive_into(&mut self, queue: &mut Queue) -> Result<Turn, QueueError> {
        let memory = Arc::clone(&self.memory);
        let memory = &*memory;
        let mut turn = Turn::Again;
        let mut used = false;
        for _ in 0..FRAMES_PER_TURN {
            let Some(chain) = queue.iter(memory)?.next() else {
                // Ask to be told of the next buffer, then look once more: it
                // may have come before the guest saw the wish.
                if queue.enable_notification(memory)? {
                    continue;
                }
                turn = Turn::Done;
                break;
            };
            let Ok(len) = self.frames.receive(&mut self.scratch[HEADER_LEN..]) else {
                queue.go_to_previous_position();
                turn = Turn::Done;
                break;
            };
            let head = chain.head_index();
            self.scratch[..HEADER_LEN].copy_from_slice(&RX_HEADER);
            let bytes = &self.scratch[..HEADER_LEN + len.min(FRAME_LEN)];
            let written = chain.writer(memory).ok().filter(|writer| {
                // All or nothing: half a frame is none.
                writer.available_bytes() >= bytes.len()
            });
            let written = match written.map(|mut writer| writer.write_all(bytes)) {
                Some(Ok(())) => bytes.len(),
                _ => 0,
            };
            if written == 0 {
                self.counters.receive_dropped += 1;
            } else {
                self.counters.received += 1;
            }
            give_back(queue, memory, head, written)?;
            used = true;
        }
        self.tell(queue, memory, used)?;
        Ok(turn)
    }

    fn send_from(&mut self, queue: &mut Queue) -> Result<Turn, QueueError> {
        let memory = Arc::clone(&self.memory);
        let memory = &*memory;
        let mut turn = Turn::Again;
        let mut used = false;
        queue.disable_notification(memory)?;
        for _ in 0..FRAMES_PER_TURN {
            let Some(chain) = queue.iter(memory)?.next() else {
                if queue.enable_notification(memory)? {
                    continue;
                }
                turn = Turn::Done;
                break;
            };
            let head = chain.head_index();
            let sent = match chain.reader(memory) {
                Ok(mut reader) => {
                    let len = reader.available_bytes();
                    (HEADER_LEN + 1..=self.scratch.len()).contains(&len)
                        && reader.read_exact(&mut self.scratch[..len]).is_ok()
                        && self.frames.send(&self.scratch[HEADER_LEN..len]).is_ok()
                }
                Err(_) => false,
            };
            if sent {
                self.counters.sent += 1;
            } else {
                self.counters.send_dropped += 1;
            }
            give_back(queue, memory, head, 0)?;
            used = true;
        }
        self.tell(queue, memory, used)?;
        Ok(turn)
    }

    fn tell(&self, queue: &mut Queue, memory: &DeviceMemory, used: bool) -> Result<(), QueueError> {
        if used && queue.needs_notification(memory)? {
            // Fails only when the counter of the line is full, and then an
            // interrupt is on its way already.
            let _ = self.interrupt.used();
        }
        Ok(())
    }

    /// What was carried so far.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// The frames' source, for its events.
    #[must_use]
    pub fn frames(&self) -> &F {
        &self.frames
    }
}

fn give_back(
    queue: &mut Queue,
    memory: &DeviceMemory,
    head: u16,
    written: usize,
) -> Result<(), QueueError> {
    // The queue checks this too, but writes a log line for it.
    if head >= queue.size() {
        return Err(QueueError::InvalidDescriptorIndex);
    }
    let written = u32::try_from(written).unwrap_or(u32::MAX);
    queue.add_used(memory, head, written)
}

impl<F: Frames> VirtioDevice for Net<F> {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(self.mac.0.iter().skip(start)) {
            *to = *from;
        }
    }

    fn activate(&mut self, features: u64, queues: Vec<Queue>) {
        let mut queues = queues.into_iter().map(|mut queue| {
            queue.set_event_idx(features >> VIRTIO_RING_F_EVENT_IDX & 1 == 1);
            queue
        });
        self.rx = queues.next();
        self.tx = queues.next();
    }

    fn reset(&mut self) {
        self.rx = None;
        self.tx = None;
    }
}

#[cfg(test)]
mod tests;
