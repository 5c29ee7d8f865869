//! The area's device in a guest, as stock Linux shows it: `/dev/daxN.M`.

use crate::OpenError;
use afterimage_area_abi::AreaName;
use afterimage_area_abi::control::{
    ABI_VERSION, CONTROL_LEN, Command, ControlHeader, DATA_OFFSET, DOORBELL_OFFSET, MAGIC, Reply,
    Request, command_offset, reply_offset,
};
use afterimage_area_abi::header::AreaHeader;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::ffi::c_void;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};
use zerocopy::{FromBytes, IntoBytes};

/// Where Linux lists devices of this kind.
const DEVICES: &str = "/sys/bus/dax/devices";

/// The only slot used as long as one thread at a time commits.
const SLOT: u32 = 0;

/// An open device of a wanted area.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    file: OwnedFd,
    control: Mapping,
    data: Option<Mapping>,
    data_len: u64,
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

/// Looks for the device of an area; `None` outside a guest that has areas.
///
/// # Errors
/// [`OpenError::Device`] and [`OpenError::NoSuchDevice`]: rather than going on
/// without the hypervisor that somebody set up.
pub(crate) fn find(name: &AreaName) -> Result<Option<Device>, OpenError> {
    let Ok(entries) = fs::read_dir(DEVICES) else {
        return Ok(None);
    };
    let mut others = Vec::new();
    for entry in entries.flatten() {
        let path = Path::new("/dev").join(entry.file_name());
        let Some(device) = Device::open(&path)? else {
            continue;
        };
        let found = AreaName::from_field(&device.control().name);
        if found.as_ref() == Ok(name) {
            device.lock()?;
            return Ok(Some(device));
        }
        others.push(found.map_or_else(|bad| bad.to_string(), |n| n.to_string()));
    }
    if others.is_empty() {
        return Ok(None);
    }
    Err(OpenError::NoSuchDevice {
        name: name.to_string(),
        found: others.join(", "),
    })
}

impl Device {
    /// `None` if it is not one of ours.
    fn open(path: &Path) -> Result<Option<Self>, OpenError> {
        let failed = |problem: &str, source: rustix::io::Errno| OpenError::Device {
            path: path.to_owned(),
            problem: problem.to_owned(),
            source: source.into(),
        };
        let file = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            let problem = match errno {
                rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => {
                    "permission denied; give this user access to the device"
                }
                rustix::io::Errno::NXIO => {
                    "no driver is bound to it; write its name to /sys/bus/dax/drivers/device_dax/new_id"
                }
                _ => "cannot be opened",
            };
            failed(problem, errno)
        })?;
        // Control page and doorbell: the device may be mapped in 2 MiB only.
        let len = DATA_OFFSET;
        let control = Mapping::new(&file, 0, len, None)
            .map_err(|errno| failed("its control page cannot be mapped", errno))?;
        let mut device = Self {
            path: path.to_owned(),
            file,
            control,
            data: None,
            data_len: 0,
        };
        let header = device.control();
        if header.magic != MAGIC {
            return Ok(None);
        }
        if header.abi_version != ABI_VERSION {
            return Err(OpenError::Device {
                path: path.to_owned(),
                problem: format!(
                    "made by a hypervisor of ABI version {}, this program speaks {ABI_VERSION}",
                    header.abi_version
                ),
                source: io::ErrorKind::Unsupported.into(),
            });
        }
        device.data_len = header.data_len;
        Ok(Some(device))
    }

    /// Keeps other processes of this guest away.
    fn lock(&self) -> Result<(), OpenError> {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            OpenError::Device {
                path: self.path.clone(),
                problem: "another process of this machine has the area open".to_owned(),
                source: errno.into(),
            }
        })
    }

    /// The control page as it is now.
    pub(crate) fn control(&self) -> ControlHeader {
        let mut bytes = [0; size_of::<ControlHeader>()];
        self.control.read(0, &mut bytes);
        ControlHeader::read_from_bytes(&bytes).unwrap_or_else(|_| unreachable!("same length"))
    }

    pub(crate) fn data_len(&self) -> u64 {
        self.data_len
    }

    /// The first bytes of the data.
    pub(crate) fn peek_header(&self) -> Result<[u8; AreaHeader::LEN], OpenError> {
        let mapping = Mapping::new(&self.file, DATA_OFFSET, CONTROL_LEN * 2, None)
            .map_err(|errno| self.unmappable(errno))?;
        let mut bytes = [0; AreaHeader::LEN];
        mapping.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Maps the data where it must be.
    pub(crate) fn map_data(&mut self, base: u64) -> Result<NonNull<u8>, OpenError> {
        let mapping = Mapping::new(&self.file, DATA_OFFSET, self.data_len, Some(base))
            .map_err(|errno| self.unmappable(errno))?;
        Ok(self.data.insert(mapping).start)
    }

    fn unmappable(&self, errno: rustix::io::Errno) -> OpenError {
        OpenError::Device {
            path: self.path.clone(),
            problem: "its data cannot be mapped; open the area once only, and early in the program"
                .to_owned(),
            source: errno.into(),
        }
    }

    /// Gives a command to the hypervisor; when this returns, it has answered.
    pub(crate) fn ring(&self, request: Request) -> Reply {
        let command = Command::new(request);
        let (command_at, reply_at) = command_offset(SLOT)
            .zip(reply_offset(SLOT))
            .expect("slot 0 exists");
        self.control.write(command_at, command.as_bytes());
        // The command must be in memory before the doorbell is rung, and the
        // reply read after: the store leaves this processor's guest mode, which
        // orders both, but the compiler must not move them either.
        fence(Ordering::SeqCst);
        self.control.store(DOORBELL_OFFSET, SLOT);
        fence(Ordering::SeqCst);
        let mut bytes = [0; size_of::<Reply>()];
        self.control.read(reply_at, &mut bytes);
        Reply::read_from_bytes(&bytes).unwrap_or_else(|_| unreachable!("same length"))
    }
}

impl Mapping {
    fn new(
        file: &OwnedFd,
        offset: u64,
        len: u64,
        base: Option<u64>,
    ) -> Result<Self, rustix::io::Errno> {
        let size = usize::try_from(len).map_err(|_| rustix::io::Errno::NOMEM)?;
        let address = usize::try_from(base.unwrap_or(0)).map_err(|_| rustix::io::Errno::NOMEM)?;
        let wanted = std::ptr::with_exposed_provenance_mut::<c_void>(address);
        let flags = match base {
            Some(_) => MapFlags::SHARED | MapFlags::FIXED_NOREPLACE,
            None => MapFlags::SHARED,
        };
        // SAFETY: without a base the kernel chooses free addresses, with one
        // NOREPLACE makes it refuse taken ones; so no memory that Rust knows of
        // is affected.
        let start = unsafe {
            mmap(
                wanted,
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                file,
                offset,
            )?
        };
        let mapping = Self {
            start: NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?,
            len: size,
        };
        if base.is_some() && start != wanted {
            return Err(rustix::io::Errno::EXIST);
        }
        // A forked child must not write into transactions of its parent: it
        // faults instead.
        // SAFETY: the range was mapped above; the advice changes only what
        // fork does with it.
        unsafe { madvise(start, size, Advice::LinuxDontFork) }?;
        Ok(mapping)
    }

    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let offset = usize::try_from(offset).expect("an offset in the mapping");
        assert!(offset + len <= self.len, "an access inside the mapping");
        // SAFETY: just checked.
        unsafe { self.start.as_ptr().add(offset) }
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        for (at, byte) in into.iter_mut().enumerate() {
            // SAFETY: inside the mapping. Volatile, because the hypervisor
            // writes here behind the compiler's back.
            *byte = unsafe { from.add(at).read_volatile() };
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping; volatile as above.
            unsafe { to.add(at).write_volatile(*byte) };
        }
    }

    fn store(&self, offset: u64, value: u32) {
        let to = self.at(offset, size_of::<u32>()).cast::<u32>();
        assert!(to.is_aligned(), "an aligned store");
        // SAFETY: inside the mapping and aligned.
        unsafe { to.write_volatile(value) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`, unmapped nowhere else; pointers into it do not
        // outlive the device, which the engine owns.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "unmapping an own mapping");
    }
}
