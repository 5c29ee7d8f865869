//! Reading a file from its start to its end with few system calls.

use afterimage_env::DiskFile;
use std::io;

/// Least that is read at once, in bytes.
const AHEAD: u64 = 1 << 20;

/// The part of a file that is in memory.
pub(crate) struct Window<'f, F> {
    file: &'f F,
    /// Length of the file when it was opened: what comes later is not seen.
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'f, F: DiskFile> Window<'f, F> {
    pub(crate) fn new(file: &'f F) -> io::Result<Self> {
        Ok(Self {
            file,
            len: file.len()?,
            start: 0,
            bytes: Vec::new(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes at `at`, or an error if the file has fewer: never is
    /// memory taken for more than the file has.
    pub(crate) fn get(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let end = at
            .checked_add(len)
            .filter(|end| *end <= self.len)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let ahead = len.max(AHEAD).min(self.len - at);
            self.bytes.resize(size(ahead)?, 0);
            self.start = at;
            if let Err(error) = self.file.read_at(&mut self.bytes, at) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let from = size(at - self.start)?;
        Ok(&self.bytes[from..from + size(len)?])
    }
}

fn size(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
