//! Why a machine cannot be made, or stopped running.

use crate::layout::LayoutError;
use afterimage_checkpoint::CheckpointError;
use afterimage_track_kvm::{EnableError, MemoryError, SlotError};
use kvm_bindings::KVM_API_VERSION;
use std::io;
use std::path::PathBuf;

/// Why a machine cannot be made, or stopped running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// KVM refused something that it must be able to do.
    #[error("KVM: {action} failed")]
    Kvm {
        /// What was asked of KVM.
        action: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// RAM and areas cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The number of vCPUs is not possible.
    #[error("{0} vCPUs: use 1 to {max}", max = crate::config::MAX_VCPUS)]
    Vcpus(u8),
    /// RAM cannot be mapped.
    #[error("cannot map {mib} MiB of memory for the guest: use less, or free some")]
    Ram {
        /// Length in MiB.
        mib: u64,
        /// What the system said.
        source: vm_memory::mmap::FromRangesError,
    },
    /// A memory slot was refused.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// An area's memory is not to be had.
    #[error(transparent)]
    AreaMemory(#[from] MemoryError),
    /// Dirty pages cannot be tracked.
    #[error(transparent)]
    Tracking(#[from] EnableError),
    /// An area cannot be checkpointed.
    #[error("area {area}")]
    Area {
        /// The area's name.
        area: String,
        /// Why not.
        source: CheckpointError,
    },
    /// A file that the guest needs cannot be read.
    #[error("cannot read {what} {path}")]
    File {
        /// What the file is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel is no kernel that can be started, or does not fit.
    #[error("{path} cannot be started: {reason}")]
    Kernel {
        /// Its path.
        path: PathBuf,
        /// Why not, and what would do.
        reason: String,
    },
    /// The initrd does not fit into the memory.
    #[error("the initrd of {len} bytes does not fit into the guest's memory: use more memory")]
    InitrdTooLarge {
        /// Its length in bytes.
        len: u64,
    },
    /// The kernel command line is too long or has a zero byte.
    #[error("the kernel takes command lines of at most {max} bytes, without zero bytes")]
    Cmdline {
        /// Longest one in bytes.
        max: usize,
    },
    /// Guest memory could not be written while the guest was prepared.
    #[error("cannot write to the guest's memory at {address:#x}")]
    GuestMemory {
        /// Guest-physical address.
        address: u64,
        /// What was wrong.
        source: vm_memory::GuestMemoryError,
    },
    /// The tap cannot be had.
    #[error("tap {name}: {action} failed{}", hint(source))]
    Tap {
        /// The interface.
        name: String,
        /// What was done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread, an event descriptor or the like is not to be had.
    #[error("{action} failed")]
    System {
        /// What was done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A vCPU can run no further, and it is not the guest's own doing.
    #[error("vCPU {vcpu} stopped: {reason}")]
    Vcpu {
        /// Which one.
        vcpu: u8,
        /// Why.
        reason: String,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => {
            " (the capability CAP_NET_ADMIN is needed: run as root, or make the tap for your user beforehand with `ip tuntap add`)"
        }
        Some(libc::EBUSY) => " (another machine uses it)",
        Some(libc::ENOENT) => " (is the module tun loaded?)",
        _ => "",
    }
}

/// Names what was asked of KVM when it refuses.
pub(crate) trait KvmContext<T> {
    fn asking(self, action: &'static str) -> Result<T, Error>;
}

impl<T> KvmContext<T> for Result<T, kvm_ioctls::Error> {
    fn asking(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Kvm { action, source })
    }
}

/// Names what was asked of the system when it refuses.
pub(crate) trait SystemContext<T> {
    fn doing(self, action: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> SystemContext<T> for Result<T, E> {
    fn doing(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::System {
            action,
            source: source.into(),
        })
    }
}

/// Why `/dev/kvm` cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there.
    #[error(
        "/dev/kvm is not there: this machine offers no hardware virtualization, or its module is not loaded (try `modprobe kvm_intel` or `modprobe kvm_amd`)"
    )]
    Missing,
    /// This user may not open it.
    #[error(
        "/dev/kvm: permission denied; add yourself to the group kvm (`sudo usermod -aG kvm $USER`, then log in again) or run as root"
    )]
    Denied,
    /// It is something else.
    #[error("/dev/kvm speaks API version {found}, not {KVM_API_VERSION}")]
    Version {
        /// The version it speaks.
        found: i32,
    },
    /// Anything else.
    #[error("/dev/kvm cannot be opened")]
    Other(#[source] io::Error),
}
