//! What `/dev/kvm` on this machine can do, and how fast.
//!
//! A `/dev/kvm` that opens says little: some run guest code by emulation, a
//! hundred times slower than hardware. [`calibrate`] measures.

use crate::cpu;
pub use crate::error::OpenError;
use crate::error::{Error, SystemContext};
use crate::kick::Kick;
use crate::tiny::{CODE, TinyGuest};
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_SYNC_REGS, kvm_regs,
};
use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Opens `/dev/kvm`.
///
/// # Errors
/// [`OpenError`] says what to do.
pub fn open() -> Result<Kvm, OpenError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => OpenError::Missing,
        libc::EACCES | libc::EPERM => OpenError::Denied,
        errno => OpenError::Other(io::Error::from_raw_os_error(errno)),
    })?;
    let found = kvm.get_api_version();
    if u32::try_from(found) != Ok(KVM_API_VERSION) {
        return Err(OpenError::Version { found });
    }
    Ok(kvm)
}

/// What KVM says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Abilities {
    /// The loaded module: `kvm_intel`, `kvm_amd`, or `None` if neither shows
    /// (KVM may be built in, or be something else).
    pub module: Option<&'static str>,
    /// Whether guests have two-dimensional paging (EPT, NPT); `None` if the
    /// module does not say.
    pub nested_paging: Option<bool>,
    /// Whether the processor logs dirty pages by itself (PML, Intel only);
    /// `None` if the module does not say.
    pub page_modification_log: Option<bool>,
    /// Physical address bits of a guest.
    pub address_bits: u8,
    /// What the machine or a tracker uses, and whether KVM has it.
    pub features: Vec<Feature>,
}

/// Something that KVM may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name in KVM's documentation.
    pub name: &'static str,
    /// Whether a machine cannot be made without it.
    pub required: bool,
    /// Whether KVM has it.
    pub present: bool,
}

impl Abilities {
    /// Names of required features that are missing.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = self.features.iter().filter(|f| f.required && !f.present);
        missing.map(|f| f.name).collect()
    }
}

/// Asks KVM what it can do.
///
/// # Errors
/// When it does not answer.
pub fn abilities(kvm: &Kvm) -> Result<Abilities, Error> {
    let has = |cap| kvm.check_extension(cap);
    let has_raw = |cap: u32| kvm.check_extension_raw(cap.into()) > 0;
    let feature = |name, required, present| Feature {
        name,
        required,
        present,
    };
    let features = vec![
        feature("KVM_CAP_USER_MEMORY", true, has(Cap::UserMemory)),
        feature("KVM_CAP_IRQCHIP", true, has(Cap::Irqchip)),
        feature("KVM_CAP_PIT2", true, has(Cap::Pit2)),
        feature("KVM_CAP_IRQFD", true, has(Cap::Irqfd)),
        feature("KVM_CAP_IOEVENTFD", true, has(Cap::Ioeventfd)),
        feature("KVM_CAP_IMMEDIATE_EXIT", true, has(Cap::ImmediateExit)),
        feature(
            "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
            true,
            has_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
        ),
        feature(
            "KVM_CAP_TSC_DEADLINE_TIMER",
            false,
            has(Cap::TscDeadlineTimer),
        ),
        feature("KVM_CAP_READONLY_MEM", false, has(Cap::ReadonlyMem)),
        feature("KVM_CAP_SYNC_REGS", false, has_raw(KVM_CAP_SYNC_REGS)),
        feature("KVM_CAP_DIRTY_LOG_RING", false, has(Cap::DirtyLogRing)),
    ];
    let module = ["kvm_intel", "kvm_amd"].into_iter().find(|name| {
        Path::new("/sys/module")
            .join(name)
            .join("parameters")
            .exists()
    });
    let parameter = |name: &str| {
        let path = Path::new("/sys/module")
            .join(module?)
            .join("parameters")
            .join(name);
        let value = std::fs::read_to_string(path).ok()?;
        Some(matches!(value.trim(), "Y" | "1"))
    };
    let paging = match module {
        Some("kvm_intel") => "ept",
        _ => "npt",
    };
    Ok(Abilities {
        nested_paging: parameter(paging),
        page_modification_log: parameter("pml"),
        module,
        address_bits: cpu::address_bits(&cpu::supported(kvm)?),
        features,
    })
}

/// How fast guests run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Nanoseconds for an instruction of a simple loop.
    pub ns_per_instruction: f64,
}

/// What a [`Speed`] is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Guests run on the processor itself.
    Hardware,
    /// The machine that KVM runs on is itself emulated: right for tests, not
    /// for measuring.
    Emulated,
    /// Each instruction is emulated: a stock kernel would boot for half an
    /// hour.
    TooSlow,
}

impl Speed {
    /// Hardware takes a cycle or two for both instructions: below 0.5 ns with
    /// any clock of the last twenty years.
    const HARDWARE_NS: f64 = 1.0;
    /// A whole machine in QEMU's translator was seen to take 2 to 5 ns, in
    /// Bochs some 10 to 60, instruction by instruction emulation of a guest 400
    /// to 800.
    const USABLE_NS: f64 = 150.0;

    /// What it is good for.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.ns_per_instruction {
            ns if ns < Self::HARDWARE_NS => Verdict::Hardware,
            ns if ns < Self::USABLE_NS => Verdict::Emulated,
            _ => Verdict::TooSlow,
        }
    }
}

/// Measures how fast a guest counts. It takes well below a second, and gives
/// up after [`CALIBRATION_LIMIT`].
///
/// # Errors
/// When the guest does not run, or not to its end in time.
pub fn calibrate(kvm: &Kvm) -> Result<Speed, Error> {
    /// Long enough that one exit (microseconds) does not count.
    const LONG_ENOUGH: Duration = Duration::from_millis(10);
    const FIRST_TURNS: u64 = 20_000;
    const MOST_TURNS: u64 = 1 << 26;
    /// `dec ecx; jnz` back to it; `hlt`.
    const LOOP: [u8; 4] = [0x49, 0x75, 0xfd, 0xf4];
    const INSTRUCTIONS_A_TURN: f64 = 2.0;

    let mut guest = TinyGuest::new(kvm, &LOOP)?;
    let _watchdog = Watchdog::start(guest.kick()?)?;
    let mut count = |turns| {
        let start = Instant::now();
        guest.call(kvm_regs {
            rip: CODE,
            rcx: turns,
            ..kvm_regs::default()
        })?;
        Ok::<_, Error>(start.elapsed())
    };
    // The first entry into a guest maps its memory, which takes longer than
    // all the counting.
    count(1)?;
    let mut turns = FIRST_TURNS;
    loop {
        let took = count(turns)?;
        if took >= LONG_ENOUGH || turns >= MOST_TURNS {
            let turns = u32::try_from(turns).map_or(f64::MAX, f64::from);
            let ns = took.as_secs_f64() * 1e9 / turns / INSTRUCTIONS_A_TURN;
            return Ok(Speed {
                ns_per_instruction: ns,
            });
        }
        turns *= 8;
    }
}

/// Why a stock kernel cannot be run with this machine's KVM.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not work.
    #[error("/dev/kvm does not work")]
    Broken(#[from] Error),
    /// It works, far too slowly.
    #[error("/dev/kvm emulates each guest instruction ({ns:.0} ns): a stock kernel would boot for half an hour", ns = .0.ns_per_instruction)]
    Slow(Speed),
}

/// Whether a stock kernel can be run here, by trying; its speed if so.
///
/// # Errors
/// [`Unusable`], the reason.
pub fn usable() -> Result<Speed, Unusable> {
    let speed = calibrate(&open()?)?;
    match speed.verdict() {
        Verdict::Hardware | Verdict::Emulated => Ok(speed),
        Verdict::TooSlow => Err(Unusable::Slow(speed)),
    }
}

/// After this, [`calibrate`] gives up.
pub const CALIBRATION_LIMIT: Duration = Duration::from_secs(10);

/// Kicks a vCPU out of a guest that does not come to an end.
struct Watchdog {
    /// Dropped to call it off.
    off: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _entered: crate::kick::Entered,
}

impl Watchdog {
    /// Watches the vCPU that the calling thread is going to run.
    fn start(kick: Kick) -> Result<Self, Error> {
        let (off, called_off) = mpsc::channel();
        let entered = kick.enter();
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || {
                let waited = called_off.recv_timeout(CALIBRATION_LIMIT);
                if waited == Err(mpsc::RecvTimeoutError::Timeout) {
                    kick.kick();
                }
            })
            .doing("starting a watchdog thread")?;
        Ok(Self {
            off: Some(off),
            thread: Some(thread),
            _entered: entered,
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.off.take());
        if let Some(thread) = self.thread.take() {
            // It only waits and kicks.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_far_apart() {
        let verdict = |ns_per_instruction| Speed { ns_per_instruction }.verdict();
        assert_eq!(verdict(0.3), Verdict::Hardware);
        assert_eq!(verdict(2.0), Verdict::Emulated);
        assert_eq!(verdict(30.0), Verdict::Emulated);
        assert_eq!(verdict(600.0), Verdict::TooSlow);
        assert_eq!(verdict(f64::INFINITY), Verdict::TooSlow);
    }
}
