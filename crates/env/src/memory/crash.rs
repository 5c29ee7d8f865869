//! What a crash may leave.

use super::{Content, ContentChange, MemoryDisk, State, lock, write};
use std::sync::{Arc, Mutex};

/// Size in bytes of what the medium writes whole or not at all.
pub const SECTOR: usize = 512;

/// Unsynced changes up to which every subset of them is a crash state of its
/// own; with more, [`SAMPLES`] are drawn.
const ENUMERATED: usize = 12;

/// Crash states drawn where there are too many.
const SAMPLES: usize = 64;

/// An unsynced change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// To the directory.
    Name,
    /// A write of so many bytes.
    Write(usize),
    /// A cut or an extension.
    SetLen,
}

/// What a crash makes of an unsynced change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never happened.
    Lost,
    /// It happened.
    Kept,
    /// Of a write, the first so many bytes: the file's length had come so far,
    /// so later changes of the file are lost. Anything but a write is lost.
    Cut(usize),
    /// Of a write, the length, and those sectors whose bit is set (the sector's
    /// place in the file, modulo 64); anything else is lost.
    Sectors(u64),
}

impl Fate {
    fn lost(self) -> Self {
        Self::Lost
    }
}

impl MemoryDisk {
    /// The unsynced changes, in an order that [`MemoryDisk::crash`] keeps:
    /// those of the directory first, then those of each file.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Change> {
        let state = lock(&self.state);
        let names = state.unsynced_names.iter().map(|_| Change::Name);
        let contents = state.files.values().flat_map(|file| &file.unsynced);
        names
            .chain(contents.map(|change| match change {
                ContentChange::Write { bytes, .. } => Change::Write(bytes.len()),
                ContentChange::SetLen(_) => Change::SetLen,
            }))
            .collect()
    }

    /// The disk after a crash that treats each unsynced change as told; changes
    /// without a fate are lost. Faults and forgeries end, this disk stays as it
    /// is.
    #[must_use]
    pub fn crash(&self, fates: impl IntoIterator<Item = Fate>) -> Self {
        let state = lock(&self.state);
        let mut fates = fates.into_iter().chain(std::iter::repeat(Fate::Lost));
        let mut fate = || fates.next().unwrap_or(Fate::Lost);
        let mut names = state.durable_names.clone();
        for change in &state.unsynced_names {
            if fate() == Fate::Kept {
                change.apply(&mut names);
            }
        }
        let mut files: std::collections::BTreeMap<_, _> = state
            .files
            .iter()
            .map(|(number, file)| (*number, survivor(file, &mut fate)))
            .collect();
        files.retain(|number, _| names.values().any(|named| named == number));
        Self {
            state: Arc::new(Mutex::new(State {
                durable_names: names.clone(),
                names,
                unsynced_names: Vec::new(),
                files,
                next_file: state.next_file,
                ids: state.ids,
                faults: super::fault::Faults::default(),
            })),
        }
    }

    /// What crashes at this moment may leave: with up to 12 unsynced changes
    /// every subset of them, and each write torn in several ways; with more, 64
    /// states drawn from `seed`.
    pub fn crash_states(&self, seed: u64) -> impl Iterator<Item = Self> + '_ {
        let unsynced = self.unsynced();
        let plans = if unsynced.len() <= ENUMERATED {
            every_subset(unsynced.len())
                .chain(every_tear(&unsynced))
                .collect()
        } else {
            samples(&unsynced, seed)
        };
        plans.into_iter().map(|plan| self.crash(plan))
    }
}

fn survivor(file: &Content, fate: &mut impl FnMut() -> Fate) -> Content {
    let mut bytes = file.durable.clone();
    let mut cut = false;
    for change in &file.unsynced {
        let fate = if cut { fate().lost() } else { fate() };
        match (change, fate) {
            (_, Fate::Kept) => change.apply(&mut bytes),
            (ContentChange::Write { offset, bytes: new }, Fate::Cut(len)) => {
                write(&mut bytes, *offset, &new[..len.min(new.len())]);
                cut = true;
            }
            (ContentChange::Write { offset, bytes: new }, Fate::Sectors(kept)) => {
                let end = offset + new.len();
                bytes.resize(bytes.len().max(end), 0);
                let mut at = *offset;
                while at < end {
                    let next = (at / SECTOR + 1) * SECTOR;
                    if kept >> (at / SECTOR % 64) & 1 == 1 {
                        let part = &new[at - offset..next.min(end) - offset];
                        write(&mut bytes, at, part);
                    }
                    at = next;
                }
            }
            _ => {}
        }
    }
    Content {
        seen: bytes.clone(),
        durable: bytes,
        unsynced: Vec::new(),
    }
}

fn every_subset(len: usize) -> impl Iterator<Item = Vec<Fate>> {
    (0_u32..1 << len).map(move |subset| {
        (0..len)
            .map(|at| match subset >> at & 1 {
                1 => Fate::Kept,
                _ => Fate::Lost,
            })
            .collect()
    })
}

/// Each write torn, with everything else kept and with everything after it
/// lost.
fn every_tear(unsynced: &[Change]) -> impl Iterator<Item = Vec<Fate>> {
    unsynced.iter().enumerate().flat_map(move |(at, change)| {
        let len = match change {
            Change::Write(len) => *len,
            Change::Name | Change::SetLen => 0,
        };
        let cuts = [1, 8, len / 2, len.saturating_sub(1)].map(Fate::Cut);
        let masks = [0, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, !1, !2];
        let tears = cuts.into_iter().chain(masks.map(Fate::Sectors));
        tears.filter(move |_| len > 1).flat_map(move |tear| {
            [Fate::Kept, Fate::Lost].map(|later| {
                let mut plan = vec![Fate::Kept; at];
                plan.push(tear);
                plan.resize(unsynced.len(), later);
                plan
            })
        })
    })
}

fn samples(unsynced: &[Change], seed: u64) -> Vec<Vec<Fate>> {
    // xorshift64*, so that a state depends on nothing but the seed.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    };
    let mut fate = |change: &Change| match (draw() % 4, change) {
        (0, Change::Write(_)) => Fate::Sectors(draw() ^ (draw() << 32)),
        (1, Change::Write(len)) => Fate::Cut(usize::try_from(draw()).unwrap_or(0) % (len + 1)),
        (2, _) => Fate::Lost,
        _ => Fate::Kept,
    };
    let all = [Fate::Lost, Fate::Kept].map(|fate| vec![fate; unsynced.len()]);
    let drawn = (2..SAMPLES).map(|_| unsynced.iter().map(&mut fate).collect());
    all.into_iter().chain(drawn).collect()
}
