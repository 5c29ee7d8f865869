//! A directory of the file system.

use crate::{Disk, DiskFile};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Name of the file whose lock says that a process writes to the directory.
const LOCK: &str = "LOCK";

/// A directory, held through its descriptor: renaming it does not lose it.
#[derive(Debug)]
pub struct RealDisk {
    dir: OwnedFd,
    path: PathBuf,
    /// Held for as long as this value lives; `None` where nothing may be
    /// changed.
    lock: Option<OwnedFd>,
}

/// A file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile(File);

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it.
    #[error(
        "{dir} is in use by {}: stop it first, or choose another directory",
        holder.as_deref().unwrap_or("another process")
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that has it, as far as it can be told.
        holder: Option<String>,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl RealDisk {
    /// Takes a directory for writing: makes it (mode 0700, and its parents) if
    /// it is not there, and locks it against every other writer.
    ///
    /// The lock goes with the process, however it ends. A forked child that
    /// does not execute another program holds it too.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another holder lives; [`OpenError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = dir.as_ref();
        make_dir(path)?;
        let dir = open_dir(path)?;
        let lock = lock(&dir, path)?;
        Ok(Self {
            dir,
            path: path.to_owned(),
            lock: Some(lock),
        })
    }

    /// Looks at a directory without taking or changing anything, whoever else
    /// has it. Every attempt to change it is refused
    /// ([`io::ErrorKind::ReadOnlyFilesystem`]).
    ///
    /// # Errors
    /// [`OpenError::Io`], also if there is no such directory.
    pub fn read_only(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = dir.as_ref();
        Ok(Self {
            dir: open_dir(path)?,
            path: path.to_owned(),
            lock: None,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<RealFile> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.dir, name, flags, mode)?;
        Ok(RealFile(file.into()))
    }
}

fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(rustix::io::Errno) -> OpenError + use<> {
    let path = path.to_owned();
    move |errno| OpenError::Io {
        action,
        path,
        source: errno.into(),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open directory", path))
}

/// The directory that holds `path`'s last component.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Makes a directory and those above it, each readable by its owner only, so
/// that it is still there after a power cut.
///
/// # Errors
/// [`OpenError`] names what could not be made or synced.
pub fn make_dir(path: &Path) -> Result<(), OpenError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => sync_parent(path),
        // Its maker may have died before it synced the parent.
        Err(rustix::io::Errno::EXIST) => match sync_parent(path) {
            // A parent we may pass but not read was made by somebody else.
            Err(OpenError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Ok(())
            }
            other => other,
        },
        Err(rustix::io::Errno::NOENT) if parent(path) != path => {
            make_dir(parent(path))?;
            rustix::fs::mkdir(path, Mode::RWXU)
                .or_else(|errno| match errno {
                    rustix::io::Errno::EXIST => Ok(()),
                    errno => Err(errno),
                })
                .map_err(failed("make directory", path))?;
            sync_parent(path)
        }
        Err(errno) => Err(failed("make directory", path)(errno)),
    }
}

fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let parent = parent(path);
    rustix::fs::fsync(open_dir(parent)?).map_err(failed("sync directory", parent))
}

fn lock(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, LOCK, flags, Mode::RUSR | Mode::WUSR)
        .map_err(failed("open the lock file of", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::InUse {
                dir: path.to_owned(),
                holder: holder(file.into()),
            });
        }
        Err(errno) => return Err(failed("lock", path)(errno)),
    }
    // Only for the message above, so a failure changes nothing.
    let mut file = File::from(file);
    let _ = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file.into())
}

/// Who wrote its process number into the lock file.
fn holder(file: File) -> Option<String> {
    let mut text = [0; 16];
    let len = file.read_at(&mut text, 0).ok()?;
    let process: u32 = std::str::from_utf8(text.get(..len)?)
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).ok();
    Some(match name {
        Some(name) => format!("process {process} ({})", name.trim()),
        None => format!("process {process}"),
    })
}

impl Disk for RealDisk {
    type File = RealFile;

    fn list(&self) -> io::Result<BTreeSet<String>> {
        // A fresh description, so that the position is not shared.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(self.dir.as_fd(), ".", flags, Mode::empty())?;
        let mut names = BTreeSet::new();
        for entry in rustix::fs::Dir::new(dir)? {
            let entry = entry?;
            // A name that is no text is none of ours.
            if let Ok(name) = entry.file_name().to_str()
                && ![".", "..", LOCK].contains(&name)
            {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        self.check_writable()?;
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        match self.lock {
            Some(_) => self.open_file(name, OFlags::RDWR),
            None => self.open_file(name, OFlags::RDONLY),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.check_writable()?;
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn fresh_id(&self) -> io::Result<[u8; 16]> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::from)?;
        Ok(id)
    }

    fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
