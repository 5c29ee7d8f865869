//! A program inside a guest that uses an area's device by hand: what the
//! library does, and what it would never do.
//!
//! ```text
//! ring /dev/dax0.0 check          attach, commit, abort, a second process
//! ring /dev/dax0.0 hostile N SEED N rings with garbage
//! ring /dev/dax0.0 bench PAGES N  N commits of so many changed pages
//! ```

use afterimage_area_abi::control::{
    Command, CommandError, ControlHeader, DATA_OFFSET, DOORBELL_LEN, DOORBELL_OFFSET, Reply,
    Request, SLOT_COUNT, Verb, command_offset, reply_offset,
};
use afterimage_area_abi::{AreaName, Outcome};
use anyhow::{Context, Result, bail, ensure};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::OpenOptions;
use std::process::Command as Process;
use std::time::Instant;
use zerocopy::{FromBytes, IntoBytes};

const COMMIT: Verb = Verb::Commit { level: None };

struct Device {
    base: *mut u8,
    sequence: u64,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [path, "check"] => check(path),
        [path, "intrude"] => intrude(path),
        [path, "hostile", count, seed] => hostile(path, count.parse()?, seed.parse()?),
        [path, "bench", pages, count] => bench(path, pages.parse()?, count.parse()?),
        _ => bail!("usage: ring DEVICE check | hostile N SEED | bench PAGES N"),
    }
}

impl Device {
    fn open(path: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("open {path}"))?;
        let map = |len: usize| {
            // SAFETY: a new mapping at an address of the kernel's choice.
            unsafe {
                mmap(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED,
                    &file,
                    0,
                )
            }
        };
        let first = usize::try_from(DATA_OFFSET)?;
        let device = Self {
            base: map(first).context("map the control page")?.cast(),
            sequence: 0,
        };
        let header = device.header();
        ensure!(
            header.magic == afterimage_area_abi::control::MAGIC,
            "{path} is no area"
        );
        let whole = first + usize::try_from(header.data_len)?;
        let base = map(whole).context("map the area")?.cast();
        Ok(Self { base, ..device })
    }

    fn at(&self, offset: u64) -> *mut u8 {
        // SAFETY: every offset used lies in the mapping.
        unsafe {
            self.base
                .add(usize::try_from(offset).expect("below the length"))
        }
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        // SAFETY: mapped memory; any bytes are an array of bytes.
        unsafe { self.at(offset).cast::<[u8; N]>().read_volatile() }
    }

    fn write<const N: usize>(&self, offset: u64, bytes: [u8; N]) {
        // SAFETY: mapped memory that nothing in this program borrows.
        unsafe { self.at(offset).cast::<[u8; N]>().write_volatile(bytes) }
    }

    fn header(&self) -> ControlHeader {
        let bytes = self.read::<{ size_of::<ControlHeader>() }>(0);
        ControlHeader::read_from_bytes(&bytes).expect("as many bytes")
    }

    fn ring(&self, slot: u32) {
        // SAFETY: an aligned word in the doorbell's mapping.
        unsafe { self.at(DOORBELL_OFFSET).cast::<u32>().write_volatile(slot) }
    }

    fn reply(&self, slot: u32) -> Reply {
        let offset = reply_offset(slot).expect("a slot");
        let bytes = self.read::<{ size_of::<Reply>() }>(offset);
        Reply::read_from_bytes(&bytes).expect("as many bytes")
    }

    /// Asks, and takes no other outcome than that it holds.
    fn held(&mut self, verb: Verb) -> Result<()> {
        match self.ask(verb)?.outcome()? {
            Outcome::Held { .. } => Ok(()),
            other => bail!("{verb:?}: {other}"),
        }
    }

    fn ask(&mut self, verb: Verb) -> Result<Reply> {
        self.sequence += 1;
        let command = Command::new(Request {
            verb,
            sequence: self.sequence,
        });
        let bytes: [u8; 64] = command.as_bytes().try_into()?;
        self.write(command_offset(3).expect("a slot"), bytes);
        self.ring(3);
        let reply = self.reply(3);
        ensure!(reply.sequence == self.sequence, "a stale reply: {reply:?}");
        Ok(reply)
    }
}

fn check(path: &str) -> Result<()> {
    let mut device = Device::open(path)?;
    let header = device.header();
    let name = AreaName::from_field(&header.name)?;
    println!(
        "area {name}, {} bytes, epoch {}",
        header.data_len, header.committed
    );
    ensure!(device.ask(COMMIT)?.outcome() == Err(CommandError::NotAttached));
    device.held(Verb::Attach)?;
    let last = DATA_OFFSET + header.data_len - 8;
    let before: [u8; 8] = device.read(DATA_OFFSET);
    let value = (header.committed + 1).to_le_bytes();
    device.write(DATA_OFFSET, value);
    device.write(last, value);
    let reply = device.ask(COMMIT)?;
    println!("commit: {reply:?}");
    ensure!(matches!(reply.outcome(), Ok(Outcome::Held { .. })));
    ensure!(reply.epoch == header.committed + 1 && reply.pages >= 2);
    ensure!(device.header().committed == reply.epoch);

    device.write(DATA_OFFSET, [0xee; 8]);
    device.write(DATA_OFFSET + 8192, [0xee; 8]);
    let reply = device.ask(Verb::Abort)?;
    println!("abort: {reply:?}");
    ensure!(reply.outcome().is_ok() && reply.pages >= 2);
    ensure!(device.read(DATA_OFFSET) == value && device.read(last) == value);
    println!("aborted: {before:?} -> {value:?} stayed");

    let child = Process::new(std::env::current_exe()?)
        .args([path, "intrude"])
        .status()?;
    ensure!(child.success(), "the second process failed");
    let refused = device.ask(COMMIT)?.outcome();
    ensure!(refused == Err(CommandError::NotOwner), "{refused:?}");
    ensure!(
        device.read::<8>(DATA_OFFSET) == value,
        "the attach undid the change"
    );
    device.held(Verb::Attach)?;
    device.held(Verb::Detach)?;
    println!("check passed");
    Ok(())
}

/// A second process: refused before it attaches, then the owner.
fn intrude(path: &str) -> Result<()> {
    let mut device = Device::open(path)?;
    ensure!(device.ask(COMMIT)?.outcome() == Err(CommandError::NotOwner));
    ensure!(device.ask(Verb::Detach)?.outcome() == Err(CommandError::NotOwner));
    device.write(DATA_OFFSET, [0xdd; 8]);
    device.held(Verb::Attach)?;
    Ok(())
}

fn hostile(path: &str, count: u64, seed: u64) -> Result<()> {
    let mut device = Device::open(path)?;
    let mut state = seed;
    let mut next = |bound: u64| {
        // The generator of SplitMix64, as in the contract suite.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    };
    let mut answers = [0u64; 16];
    for _ in 0..count {
        let slot = u32::try_from(next(u64::from(SLOT_COUNT)))?;
        let mut bytes = [0u8; 64];
        bytes[0] = u8::try_from(next(7))?;
        bytes[4] = u8::try_from(next(7))?;
        for _ in 0..next(4) {
            bytes[usize::try_from(next(64))?] = u8::try_from(next(256))?;
        }
        device.write(command_offset(slot).expect("a slot"), bytes);
        if next(8) == 0 {
            let at = next(1 << 20) & !63;
            device.write(at, [0xa5; 64]);
        }
        match next(6) {
            0 => {
                let at = DOORBELL_OFFSET + next(DOORBELL_LEN - 8);
                match next(4) {
                    0 => device.write(at, [1u8; 1]),
                    1 => device.write(at, [1u8; 2]),
                    2 => device.write(at, [1u8; 8]),
                    _ => device.write(at, [1u8; 4]),
                }
            }
            1 => device.ring(u32::try_from(next(1 << 32))?),
            2 => drop(device.read::<4>(DOORBELL_OFFSET + (next(DOORBELL_LEN) & !3))),
            _ => device.ring(slot),
        }
        let error = device.reply(slot).error;
        answers[usize::try_from(error)?.min(15)] += 1;
    }
    println!("answers by code: {answers:?}");
    device.held(Verb::Attach)?;
    let before = device.header().committed;
    let reply = device.ask(COMMIT)?;
    ensure!(
        reply.outcome().is_ok() && reply.epoch == before + 1,
        "{reply:?}"
    );
    println!("hostile passed: {count} rings, and the VMM still answers");
    Ok(())
}

fn bench(path: &str, pages: u64, count: u64) -> Result<()> {
    let mut device = Device::open(path)?;
    device.held(Verb::Attach)?;
    let mut times = Vec::new();
    let mut stores = Vec::new();
    for turn in 0..count {
        let start = Instant::now();
        for page in 0..pages {
            device.write(DATA_OFFSET + page * 4096, (turn + 1).to_le_bytes());
        }
        stores.push(start.elapsed());
        let start = Instant::now();
        device.held(COMMIT)?;
        times.push(start.elapsed());
    }
    times.sort();
    stores.sort();
    let middle = times.len() / 2;
    println!(
        "{pages} pages: stores {:?}, commit {:?} (medians of {count})",
        stores[middle], times[middle]
    );
    Ok(())
}
