//! A virtio-mmio device's interrupt line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vmm_sys_util::eventfd::EventFd;

/// Status register and line, shared by the transport (which the guest reads
/// and acknowledges) and the device (which raises it).
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    status: AtomicU32,
    line: EventFd,
}

impl Interrupt {
    /// Bit of the status register: a device used a buffer.
    const USED: u32 = 1;

    /// An interrupt that writes to `line` when raised.
    #[must_use]
    pub fn new(line: EventFd) -> Self {
        Self(Arc::new(Inner {
            status: AtomicU32::new(0),
            line,
        }))
    }

    /// Tells the guest that buffers were used.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn used(&self) -> io::Result<()> {
        self.0.status.fetch_or(Self::USED, Ordering::SeqCst);
        self.0.line.write(1)
    }

    /// The status register.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.0.status.load(Ordering::SeqCst)
    }

    /// The guest has seen these bits.
    pub fn acknowledge(&self, bits: u32) {
        self.0.status.fetch_and(!bits, Ordering::SeqCst);
    }
}
