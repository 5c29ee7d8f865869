//! Histories that are the same in every run, and a judge of what survived.
#![allow(unreachable_pub, reason = "it is a module of each test")]
#![allow(dead_code, reason = "each test file uses a part")]

use afterimage_area_abi::{AreaName, PrimaryId, Reign};
use afterimage_delta::{Delta, DeltaBuilder, Image, PAGE_SIZE, PageIndex, Term};
use afterimage_env::{Disk, MemoryDisk};
use afterimage_store::{Store, StoreError};

pub const AREA_LEN: u64 = 2 * 4096;

pub fn name() -> AreaName {
    "bank".parse().unwrap()
}

pub fn reign(term: u64) -> Reign {
    Reign {
        term: Term(term),
        primary: Some(PrimaryId([u8::try_from(term).unwrap(); 16])),
    }
}

/// How an epoch changes the area.
#[derive(Clone, Copy, Debug)]
pub enum Write {
    /// A few bytes.
    Small,
    /// A page and a half of bytes that are not zero.
    Large,
    /// A page back to zeros, so that the payload has sectors of zeros.
    Zeros,
    /// Nothing.
    Nothing,
}

/// The next epoch after an image; its bytes depend on image and kind only.
pub fn next(image: &Image, write: Write) -> Delta {
    let mut bytes = image.bytes().to_vec();
    let value = u8::try_from(image.epoch().0 % 200).unwrap() + 17;
    match write {
        Write::Small => {
            let at = usize::from(value) * 37 % (bytes.len() - 8);
            bytes[at..at + 5].fill(value);
        }
        Write::Large => {
            for (at, byte) in bytes[..PAGE_SIZE * 3 / 2].iter_mut().enumerate() {
                *byte = u8::try_from(at % 251).unwrap() ^ value | 3;
            }
        }
        Write::Zeros => bytes[..PAGE_SIZE].fill(0),
        Write::Nothing => {}
    }
    let mut builder = DeltaBuilder::new(Vec::new());
    for page in (0..image.pages()).map(PageIndex) {
        let start = page.0 as usize * PAGE_SIZE;
        let new = bytes[start..start + PAGE_SIZE].try_into().unwrap();
        builder.page(page, image.page(page), new);
    }
    builder.finish(image.epoch().next(), image.chain())
}

/// One thing done to a store.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Append(Write),
    Sync,
    Reign(u64),
    Compact,
    /// Another history, some epochs back.
    Install,
    /// Close and open again.
    Reopen,
}

/// What a store was told, and what of it must be there.
#[derive(Clone, Debug)]
pub struct Model {
    pub created: bool,
    /// All states in order, and the first that may be found.
    pub states: Vec<Image>,
    pub safe_state: usize,
    pub reigns: Vec<Reign>,
    pub safe_reign: usize,
}

impl Model {
    pub fn new() -> Self {
        Self {
            created: false,
            states: vec![Image::new(AREA_LEN).unwrap()],
            safe_state: 0,
            reigns: vec![Reign::default()],
            safe_reign: 0,
        }
    }

    pub fn last(&self) -> &Image {
        self.states.last().unwrap()
    }

    fn all_safe(&mut self) {
        self.safe_state = self.states.len() - 1;
        self.safe_reign = self.reigns.len() - 1;
    }

    /// What was found is given out, so it must stay.
    pub fn found(&mut self, store: &Store<MemoryDisk>, image: &Image) {
        self.judge_state(store, image).unwrap();
        let same = |state: &Image| state == image;
        self.safe_state = self.states.iter().rposition(same).unwrap();
        let same = |reign: &Reign| *reign == store.reign();
        self.safe_reign = self.reigns.iter().rposition(same).unwrap();
    }

    /// Does the steps until one fails.
    pub fn run(&mut self, disk: &MemoryDisk, steps: &[Step]) -> Result<(), Stop> {
        let created = Store::create(disk.clone(), &name(), AREA_LEN);
        let mut store = created.map_err(|error| Stop { error, store: None })?;
        self.created = true;
        for step in steps {
            if let Step::Reopen = step {
                drop(store);
                let (opened, image) =
                    Store::open(disk.clone()).map_err(|error| Stop { error, store: None })?;
                assert_eq!(&image, self.last());
                store = opened;
                self.all_safe();
            } else if let Err(error) = self.step(&mut store, *step) {
                let store = Some(Box::new(store));
                return Err(Stop { error, store });
            }
        }
        assert_eq!(store.stopped(), None);
        Ok(())
    }

    pub fn step(&mut self, store: &mut Store<MemoryDisk>, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Append(write) => {
                let delta = next(self.last(), write);
                let mut image = self.last().clone();
                image.apply(&delta).unwrap();
                self.states.push(image);
                store.append(&delta)?;
                return Ok(());
            }
            Step::Sync => store.sync()?,
            Step::Reign(term) => {
                self.reigns.push(reign(term));
                store.set_reign(reign(term))?;
            }
            Step::Compact => store.compact(self.last())?,
            Step::Install => {
                let image = self.states[self.states.len() - 3].clone();
                self.states.push(image.clone());
                store.install(&image)?;
            }
            Step::Reopen => unreachable!("the store is not ours to drop"),
        }
        assert_eq!(store.synced_epoch(), self.last().epoch());
        assert_eq!(store.chain(), self.last().chain());
        self.all_safe();
        Ok(())
    }

    /// Opens what a crash left, and says what is wrong with it.
    pub fn judge(&self, disk: &MemoryDisk) -> Result<(), String> {
        match Store::open(disk.clone()) {
            Err(StoreError::Missing { .. }) if !self.created => {
                if !matches!(Store::exists(disk), Ok(false)) {
                    return Err("a missing store exists".into());
                }
                Store::create(disk.clone(), &name(), AREA_LEN)
                    .map(drop)
                    .map_err(|error| format!("creating it again: {error}"))
            }
            Err(error) => Err(error.to_string()),
            Ok((mut store, image)) => {
                self.judge_state(&store, &image)?;
                let files = disk.list().map_err(|error| error.to_string())?;
                if files.len() != 2 {
                    return Err(format!("files are left over: {files:?}"));
                }
                // It must be usable, and hold what it gave out, for good.
                let mut after = image.clone();
                after.apply(&next(&image, Write::Small)).unwrap();
                store
                    .append(&next(&image, Write::Small))
                    .and_then(|()| store.sync())
                    .map_err(|error| format!("going on: {error}"))?;
                match Store::open(disk.crash([])) {
                    Ok((_, image)) if image == after => Ok(()),
                    Ok((_, image)) => Err(format!("fell back to epoch {}", image.epoch())),
                    Err(error) => Err(format!("opening it again: {error}")),
                }
            }
        }
    }

    fn judge_state(&self, store: &Store<MemoryDisk>, image: &Image) -> Result<(), String> {
        if !self.states[self.safe_state..].contains(image) {
            let (epoch, safe) = (image.epoch(), self.states[self.safe_state].epoch());
            return Err(format!("found epoch {epoch}, epoch {safe} was safe"));
        }
        if !self.reigns[self.safe_reign..].contains(&store.reign()) {
            return Err(format!("found {:?}", store.reign()));
        }
        let ends = (store.epoch(), store.synced_epoch(), store.chain());
        if ends != (image.epoch(), image.epoch(), image.chain()) {
            return Err(format!("the store says {ends:?}"));
        }
        Ok(())
    }
}

/// Where the steps ended.
pub struct Stop {
    pub error: StoreError,
    pub store: Option<Box<Store<MemoryDisk>>>,
}
