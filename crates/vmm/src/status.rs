//! What a machine did so far. Reading it costs the guest nothing.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// A machine's counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// How often vCPUs left the guest.
    pub exits: Exits,
    /// The areas.
    pub areas: Vec<AreaStatus>,
    /// The network card, if there is one.
    pub net: Option<NetStatus>,
    /// Bytes that the guest's console output did not take.
    pub console_bytes_lost: u64,
}

/// Why vCPUs left the guest, counted over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exits {
    /// For a port.
    pub ports: u64,
    /// For a memory-mapped device.
    pub mmio: u64,
    /// For an area's doorbell.
    pub doorbell: u64,
    /// For an address (port or memory) at which nothing is; also counted
    /// above.
    pub unclaimed: u64,
    /// For a signal.
    pub interrupted: u64,
    /// For anything else.
    pub other: u64,
}

/// One area.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AreaStatus {
    /// Its name.
    pub name: String,
    /// The tracker in use.
    pub tracker: String,
    /// Length of its data in bytes.
    pub data_len: u64,
    /// Whether an application is attached.
    pub attached: bool,
    /// Why it takes no more commits; `None` while it does.
    pub stopped: Option<String>,
    /// Term of the reign.
    pub term: u64,
    /// Last epoch in the image.
    pub committed: u64,
    /// Last epoch that holds at the quorum.
    pub acknowledged: u64,
    /// Number of targets.
    pub targets: u32,
    /// How many must hold an epoch.
    pub quorum: u32,
    /// Stores to the doorbell.
    pub rings: u64,
    /// Stores to the doorbell that named no slot.
    pub bad_rings: u64,
    /// Commands refused.
    pub refused: u64,
    /// Commits since the machine was made.
    pub commits: u64,
    /// Aborts since then, those of attaches included.
    pub aborts: u64,
    /// Commits whose pages were given back because they failed.
    pub given_back: u64,
    /// Pages that the tracker reported.
    pub pages: u64,
    /// Bytes that differed from the image.
    pub changed_bytes: u64,
    /// Bytes of deltas.
    pub delta_bytes: u64,
    /// System calls made for tracking.
    pub tracking_ioctls: u64,
}

/// The network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetStatus {
    /// Frames to the guest.
    pub received: u64,
    /// Frames from the guest.
    pub sent: u64,
    /// Frames to the guest that were lost.
    pub receive_dropped: u64,
    /// Frames from the guest that were lost.
    pub send_dropped: u64,
    /// Queues given up because the guest broke their rules.
    pub broken_queues: u64,
}

/// [`Exits`] while they are counted.
#[derive(Debug, Default)]
pub(crate) struct ExitCounters {
    pub(crate) ports: AtomicU64,
    pub(crate) mmio: AtomicU64,
    pub(crate) doorbell: AtomicU64,
    pub(crate) unclaimed: AtomicU64,
    pub(crate) interrupted: AtomicU64,
    pub(crate) other: AtomicU64,
}

impl ExitCounters {
    pub(crate) fn read(&self) -> Exits {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Exits {
            ports: of(&self.ports),
            mmio: of(&self.mmio),
            doorbell: of(&self.doorbell),
            unclaimed: of(&self.unclaimed),
            interrupted: of(&self.interrupted),
            other: of(&self.other),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
