//! What a store may ask of a medium.

use std::collections::BTreeSet;
use std::io;

/// One flat directory of files.
///
/// What the medium promises, and no more:
/// - a change to the directory (create, rename, remove) is durable only after
///   [`Disk::sync_dir`]; until then any subset of such changes may survive a
///   crash;
/// - a rename is atomic: the new name is the old file or the new one;
/// - syncing a file says nothing about its name.
///
/// File names are single components; the callers make them.
pub trait Disk: Send {
    /// A file of this directory.
    type File: DiskFile;

    /// Names of the files, in order.
    ///
    /// # Errors
    /// As the medium reports them.
    fn list(&self) -> io::Result<BTreeSet<String>>;

    /// Makes an empty file.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken; others as the
    /// medium reports them.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that exists, to read and write.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none; others as the medium
    /// reports them.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name; a file that had it is gone.
    ///
    /// # Errors
    /// As the medium reports them.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the medium reports them.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes to the directory so far durable.
    ///
    /// # Errors
    /// As the medium reports them.
    fn sync_dir(&self) -> io::Result<()>;

    /// Sixteen bytes that nothing else on any disk was given.
    ///
    /// # Errors
    /// If the machine has no source of random bytes.
    fn fresh_id(&self) -> io::Result<[u8; 16]>;

    /// Where a file is, in words for an error message or a shell.
    fn place(&self, name: &str) -> String;
}

/// An open file.
///
/// Until [`DiskFile::sync_data`] returns, a crash keeps any subset of the
/// writes, and of a write any subset of its 512-byte sectors; what was never
/// written reads as zeros. Offsets and lengths are in bytes.
pub trait DiskFile: Send {
    /// The length of the file.
    ///
    /// # Errors
    /// As the medium reports them.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As the medium reports them.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends earlier; others as the
    /// medium reports them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, with one system call where the kernel
    /// takes them at once; the file grows as needed.
    ///
    /// # Errors
    /// As the medium reports them; a part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or lets it grow by zeros.
    ///
    /// # Errors
    /// As the medium reports them.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length so far durable.
    ///
    /// # Errors
    /// As the medium reports them. After an error the bytes written since the
    /// last success may be gone although a later call succeeds: the kernel marks
    /// pages as clean whether or not they arrived.
    fn sync_data(&self) -> io::Result<()>;
}
