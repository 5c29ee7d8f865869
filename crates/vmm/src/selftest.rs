//! The contract suite of `checkpoint` on real KVM, with a guest as the writer.
//!
//! These functions need a `/dev/kvm`; the lab calls them.

use crate::error::Error;
use crate::probe;
use crate::tiny::{CODE, TinyGuest};
use afterimage_checkpoint::contract::{self, Subject};
use afterimage_checkpoint::{AreaMemory, Checkpointer, Tracker, TrackerError};
use afterimage_delta::{Image, PAGE_SIZE_U64, PageSet};
use afterimage_track_kvm::{DirtyLog, KvmLog, Slot, SlotMemory, enable_manual_protect};
use kvm_bindings::kvm_regs;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Ways to store that the guest takes in turn: strings of bytes and of words,
/// and single stores.
const ROUTINES: [&[u8]; 3] = [
    // cld; rep movsb; hlt
    &[0xfc, 0xf3, 0xa4, 0xf4],
    // cld; mov edx, ecx; shr ecx, 2; rep movsd; mov ecx, edx; and ecx, 3;
    // rep movsb; hlt
    &[
        0xfc, 0x89, 0xca, 0xc1, 0xe9, 0x02, 0xf3, 0xa5, 0x89, 0xd1, 0x83, 0xe1, 0x03, 0xf3, 0xa4,
        0xf4,
    ],
    // mov al, [esi]; mov [edi], al; inc esi; inc edi; dec ecx; jnz; hlt
    &[0x8a, 0x06, 0x88, 0x07, 0x46, 0x47, 0x49, 0x75, 0xf7, 0xf4],
];
/// Distance in bytes between the routines.
const ROUTINE_STEP: u64 = 64;
/// Where the bytes to store are put, and how many at a time.
const SOURCE: u64 = 0x4000;
const SOURCE_LEN: usize = 0x8000;
/// Where the area is, in guest-physical memory.
const AREA: u64 = 1 << 20;
const AREA_SLOT: u32 = 1;
/// Another slot, so that the tracker must keep to its own.
const OTHER: u64 = 64 << 20;
const OTHER_SLOT: u32 = 2;

/// A way to break the tracker on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last page of each harvest is not reported.
    DropsTheLastPage,
    /// The log is cleared before it is read.
    ClearsBeforeReading,
    /// Pages that are given back are forgotten.
    ForgetsWhatIsGivenBack,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::DropsTheLastPage,
        Self::ClearsBeforeReading,
        Self::ForgetsWhatIsGivenBack,
    ];
}

/// Runs the contract suite on `kvm-log` with an area of so many pages.
///
/// # Errors
/// [`Error`] when the guest cannot be made.
///
/// # Panics
/// When the tracker breaks its contract.
pub fn kvm_log_contract(pages: u32, seed: u64, epochs: u32) -> Result<(), Error> {
    let mut subject = GuestSubject::new(pages, |tracker| tracker)?;
    contract::check(&mut subject, seed, epochs);
    Ok(())
}

/// Runs the suite on a tracker that is broken on purpose; tells how the suite
/// found it out.
///
/// # Errors
/// `Ok(None)` is the bad case: the suite saw nothing. [`Error`] when the guest
/// cannot be made.
pub fn kvm_log_negative_control(fault: Fault, seed: u64) -> Result<Option<String>, Error> {
    let mut subject = GuestSubject::new(70, |tracker| Broken { tracker, fault })?;
    let result = catch_unwind(AssertUnwindSafe(|| contract::check(&mut subject, seed, 5)));
    Ok(result.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    }))
}

/// An area whose writer is a guest.
struct GuestSubject<T: Tracker> {
    guest: TinyGuest,
    checkpointer: Checkpointer<SlotMemory, T>,
    turn: u64,
    _slots: [Slot; 2],
}

impl<T: Tracker> GuestSubject<T> {
    fn new(pages: u32, tracker: impl FnOnce(KvmLog) -> T) -> Result<Self, Error> {
        let kvm = probe::open()?;
        let mut code = Vec::new();
        for routine in ROUTINES {
            let start = code.len();
            code.extend_from_slice(routine);
            code.resize(start + usize::try_from(ROUTINE_STEP).expect("small"), 0xf4);
        }
        let guest = TinyGuest::new(&kvm, &code)?;
        enable_manual_protect(&guest.vm)?;
        let len = u64::from(pages) * PAGE_SIZE_U64;
        let memory = SlotMemory::new(len)?;
        let other = SlotMemory::new(3 * PAGE_SIZE_U64)?;
        let plug = |slot, address, memory: &SlotMemory| {
            let region = memory.region().clone();
            Slot::plug(&guest.vm, slot, address, region, DirtyLog::On)
        };
        let slots = [
            plug(AREA_SLOT, AREA, &memory)?,
            plug(OTHER_SLOT, OTHER, &other)?,
        ];
        let log = KvmLog::new(guest.vm.clone(), AREA_SLOT, memory.pages());
        let area_error = |source| Error::Area {
            area: "selftest".into(),
            source,
        };
        let image = Image::new(len).map_err(|e| area_error(e.into()))?;
        let checkpointer = Checkpointer::new(memory, tracker(log), image).map_err(area_error)?;
        Ok(Self {
            guest,
            checkpointer,
            turn: 0,
            _slots: slots,
        })
    }

    fn store(&mut self, address: u64, bytes: &[u8]) {
        self.turn += 1;
        self.guest.write(SOURCE, bytes);
        self.guest
            .call(kvm_regs {
                rip: CODE + self.turn % ROUTINES.len() as u64 * ROUTINE_STEP,
                rsi: SOURCE,
                rdi: address,
                rcx: bytes.len() as u64,
                ..kvm_regs::default()
            })
            .expect("the test guest stores what it is told");
    }
}

impl<T: Tracker> Subject for GuestSubject<T> {
    type Memory = SlotMemory;
    type Tracker = T;

    fn checkpointer(&mut self) -> &mut Checkpointer<SlotMemory, T> {
        &mut self.checkpointer
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (index, part) in bytes.chunks(SOURCE_LEN).enumerate() {
            let at = offset + index * SOURCE_LEN;
            self.store(AREA + at as u64, part);
        }
        // A neighbour that is written too must not disturb the area.
        self.store(OTHER + self.turn % 3 * PAGE_SIZE_U64, &[1]);
    }
}

/// A tracker with a fault.
struct Broken {
    tracker: KvmLog,
    fault: Fault,
}

impl Tracker for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn harvest(&mut self) -> Result<PageSet, TrackerError> {
        let all = self.tracker.harvest()?;
        match self.fault {
            Fault::ForgetsWhatIsGivenBack => Ok(all),
            // The first harvest has cleared what it read and is thrown away.
            Fault::ClearsBeforeReading => self.tracker.harvest(),
            Fault::DropsTheLastPage => {
                let mut fewer = PageSet::new(all.capacity());
                let count = all.len().saturating_sub(1);
                for page in all.iter().take(count) {
                    fewer.insert(page);
                }
                Ok(fewer)
            }
        }
    }

    fn give_back(&mut self, pages: &PageSet) {
        if self.fault != Fault::ForgetsWhatIsGivenBack {
            self.tracker.give_back(pages);
        }
    }
}
