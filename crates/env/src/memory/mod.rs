//! A disk that keeps what was synced apart from what was not.
//!
//! Operations are numbered; a [`Fault`] makes one of them fail, a [`Forgery`]
//! makes a sync return success without having done anything, and a crash
//! ([`MemoryDisk::crash`]) leaves any chosen part of the unsynced changes.
//! Everything is deterministic: the same calls give the same bytes.

mod crash;
mod fault;

pub use crash::{Change, Fate, SECTOR};
pub use fault::{Counted, Fault, Forgery, Operation, Repeat};

use crate::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A directory in memory; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// A file of a [`MemoryDisk`].
#[derive(Clone, Debug)]
pub struct MemoryFile {
    state: Arc<Mutex<State>>,
    number: u64,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The directory as programs see it, and as a crash would leave it if it
    /// lost every unsynced change.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    ids: u64,
    faults: fault::Faults,
}

#[derive(Clone, Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<ContentChange>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    Rename {
        from: String,
        to: String,
        number: u64,
    },
    Remove(String),
}

#[derive(Clone, Debug)]
enum ContentChange {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, number) => {
                names.insert(name.clone(), *number);
            }
            Self::Rename { from, to, number } => {
                names.remove(from);
                names.insert(to.clone(), *number);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl ContentChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write(content, *offset, bytes),
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A test that panicked in another thread has failed already.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn position(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl State {
    fn number(&self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, number: u64) -> &mut Content {
        self.files.entry(number).or_default()
    }

    fn rename_now(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl MemoryDisk {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn file(&self, number: u64) -> MemoryFile {
        MemoryFile {
            state: Arc::clone(&self.state),
            number,
        }
    }

    /// The bytes of a file as a program would read them, if it is there.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        let number = state.names.get(name)?;
        state.files.get(number).map(|file| file.seen.clone())
    }

    /// Puts a durable file there, as damage or a stranger would.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        let number = state.next_file;
        state.next_file += 1;
        state.names.insert(name.to_owned(), number);
        state.durable_names.insert(name.to_owned(), number);
        state.files.insert(
            number,
            Content {
                seen: bytes.clone(),
                durable: bytes,
                unsynced: Vec::new(),
            },
        );
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn list(&self) -> io::Result<BTreeSet<String>> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::List)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::Create)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.next_file;
        state.next_file += 1;
        state.files.insert(number, Content::default());
        state.rename_now(NameChange::Create(name.to_owned(), number));
        Ok(self.file(number))
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::Open)?;
        Ok(self.file(state.number(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::Rename)?;
        let number = state.number(from)?;
        state.rename_now(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            number,
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::Remove)?;
        state.number(name)?;
        state.rename_now(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::SyncDir)?;
        if !state.faults.forged(Operation::SyncDir) {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
        }
        Ok(())
    }

    fn fresh_id(&self) -> io::Result<[u8; 16]> {
        let mut state = lock(&self.state);
        state.ids += 1;
        let mut id = *b"memory disk     ";
        id[8..].copy_from_slice(&state.ids.to_le_bytes());
        Ok(id)
    }

    fn place(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::Len)?;
        Ok(state.file(self.number).seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::Read)?;
        let offset = position(offset)?;
        let bytes = offset
            .checked_add(buffer.len())
            .and_then(|end| state.file(self.number).seen.get(offset..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let offset = position(offset)?;
        let (taken, result) = state.faults.meet_write(bytes.len());
        if taken > 0 {
            let change = ContentChange::Write {
                offset,
                bytes: bytes[..taken].to_vec(),
            };
            let file = state.file(self.number);
            change.apply(&mut file.seen);
            file.unsynced.push(change);
        }
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.faults.meet(Operation::SetLen)?;
        let change = ContentChange::SetLen(position(len)?);
        let file = state.file(self.number);
        change.apply(&mut file.seen);
        file.unsynced.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let (harmed, result) = state.faults.meet_sync();
        if harmed {
            // As Linux does: the pages are clean now, still seen by whoever
            // reads, and no later sync will write them.
            state.file(self.number).unsynced.clear();
        }
        result?;
        if !state.faults.forged(Operation::SyncData) {
            let file = state.file(self.number);
            for change in std::mem::take(&mut file.unsynced) {
                change.apply(&mut file.durable);
            }
        }
        Ok(())
    }
}
