//! An area of a machine: its memory slots, its checkpointer and its targets
//! behind its doorbell.

use crate::config::AreaConfig;
use crate::error::{Error, SystemContext};
use crate::layout::AreaPlace;
use crate::seldom::Seldom;
use crate::status::AreaStatus;
use afterimage_area_abi::control::CONTROL_LEN;
use afterimage_area_abi::{Level, Outcome};
use afterimage_checkpoint::{AreaMemory, Checkpointer, Tracker};
use afterimage_delta::{Delta, Epoch, Image, Term};
use afterimage_devices::area::{
    AddressSpace, AreaBackend, AreaDevice, CommandError, ControlMemory, Done, Standing,
};
use afterimage_devices::lock;
use afterimage_track_kvm::{DirtyLog, KvmLog, Slot, SlotMemory};
use kvm_ioctls::VmFd;
use std::error::Error as StdError;
use std::fmt::Display;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use vm_memory::MmapRegion;

/// Why targets failed in a way that ends an area's commits.
pub type TargetsError = Box<dyn StdError + Send + Sync>;

/// Where an area's commits go.
pub trait Targets: Send {
    /// Carries one epoch to the targets and waits for what the level asks for
    /// (`None` for the default). `before` is the image that the delta leads
    /// on from, for a target that needs all of it.
    ///
    /// It must return in bounded time: the vCPU that rang is out of the guest
    /// meanwhile, and stopping the machine waits for it. It runs on a thread
    /// that may be interrupted by signals (`EINTR`).
    ///
    /// # Errors
    /// Anything after which the epoch must not become part of the image. The
    /// area then takes no more commits.
    fn commit(
        &mut self,
        delta: &Delta,
        before: &Image,
        level: Option<Level>,
    ) -> Result<Outcome, TargetsError>;

    /// Told after the last committed delta has become part of the image: the
    /// moment for work that needs all of it, such as compaction.
    fn completed(&mut self, _image: &Image) {}

    /// How the targets stand.
    fn describe(&self) -> TargetsInfo;
}

/// How an area's targets stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetsInfo {
    /// Term of the reign.
    pub term: Term,
    /// Number of targets configured.
    pub targets: u32,
    /// How many must hold an epoch.
    pub quorum: u32,
    /// Default level.
    pub level: Level,
    /// Last epoch that holds at the quorum.
    pub acknowledged: Epoch,
}

/// No targets: commits survive the application and the guest's kernel, but not
/// the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalOnly {
    committed: Epoch,
}

impl Targets for LocalOnly {
    fn commit(
        &mut self,
        delta: &Delta,
        _: &Image,
        _: Option<Level>,
    ) -> Result<Outcome, TargetsError> {
        self.committed = delta.epoch();
        Ok(Outcome::Held { targets: 0 })
    }

    fn describe(&self) -> TargetsInfo {
        TargetsInfo {
            term: Term::ZERO,
            targets: 0,
            quorum: 0,
            level: Level::Local,
            acknowledged: self.committed,
        }
    }
}

/// An area in a machine.
pub(crate) struct MountedArea {
    doorbell: Range<u64>,
    device: Mutex<AreaDevice<TrackedArea>>,
    /// A copy, so that reading it does not wait for a commit under way.
    status: Mutex<AreaStatus>,
    /// Last: the guest loses the memory after everything else is done with it.
    _slots: [Slot; 2],
}

impl MountedArea {
    /// Makes the area's memory, fills it, and gives it to the guest as slots
    /// `first_slot` and the next.
    pub(crate) fn new(
        vm: &Arc<VmFd>,
        first_slot: u32,
        place: AreaPlace,
        config: AreaConfig,
    ) -> Result<Self, Error> {
        let AreaConfig {
            name,
            image,
            targets,
        } = config;
        let control = control_memory()?;
        let mut memory = SlotMemory::new(place.data_len)?;
        // Before the slot exists, so that nothing of it is in the log.
        Checkpointer::<_, KvmLog>::load(&mut memory, &image);
        let slots = [
            Slot::plug(
                vm,
                first_slot,
                place.start,
                control.region().clone(),
                DirtyLog::Off,
            )?,
            Slot::plug(
                vm,
                first_slot + 1,
                place.data(),
                memory.region().clone(),
                DirtyLog::On,
            )?,
        ];
        let tracker = KvmLog::new(vm.clone(), first_slot + 1, memory.pages());
        let tracker_name = tracker.name();
        let checkpointer =
            Checkpointer::new(memory, tracker, image).map_err(|source| Error::Area {
                area: name.to_string(),
                source,
            })?;
        let backend = TrackedArea {
            name: name.to_string(),
            checkpointer,
            targets,
            stopped: None,
            attaches: Seldom::default(),
        };
        let device = AreaDevice::new(&name, place.data_len, tracker_name, control, backend);
        let area = Self {
            doorbell: place.doorbell(),
            status: Mutex::new(AreaStatus::default()),
            device: Mutex::new(device),
            _slots: slots,
        };
        area.publish(&lock(&area.device), place.data_len);
        Ok(area)
    }

    /// Whether a store goes to this area's doorbell; its offset there.
    pub(crate) fn doorbell_offset(&self, address: u64) -> Option<u64> {
        self.doorbell
            .contains(&address)
            .then(|| address - self.doorbell.start)
    }

    /// Takes a store to the doorbell.
    pub(crate) fn ring(&self, offset: u64, data: &[u8], caller: AddressSpace) {
        // A panic in the middle of a commit may have lost pages: from then on
        // nothing is answered, which the library takes for a failure.
        let Ok(mut device) = self.device.lock() else {
            return;
        };
        device.ring(offset, data, caller);
        let data_len = lock(&self.status).data_len;
        self.publish(&device, data_len);
    }

    fn publish(&self, device: &AreaDevice<TrackedArea>, data_len: u64) {
        let backend = device.backend();
        let (standing, rings) = (backend.standing(), device.counters());
        let counters = backend.checkpointer.counters();
        let tracker = backend.checkpointer.tracker();
        *lock(&self.status) = AreaStatus {
            name: backend.name.clone(),
            tracker: tracker.name().to_owned(),
            data_len,
            attached: device.is_attached(),
            stopped: backend.stopped.clone(),
            term: standing.term.0,
            committed: standing.committed.0,
            acknowledged: standing.acknowledged.0,
            targets: standing.targets,
            quorum: standing.quorum,
            rings: rings.rings,
            bad_rings: rings.bad_rings,
            refused: rings.refused,
            commits: counters.commits,
            aborts: counters.aborts,
            given_back: counters.given_back,
            pages: counters.pages,
            changed_bytes: counters.changed_bytes,
            delta_bytes: counters.delta_bytes,
            tracking_ioctls: tracker.ioctls(),
        };
    }

    pub(crate) fn status(&self) -> AreaStatus {
        lock(&self.status).clone()
    }
}

fn control_memory() -> Result<ControlMemory, Error> {
    let len = usize::try_from(CONTROL_LEN).expect("1 MiB");
    let region = MmapRegion::new(len)
        .map_err(io::Error::other)
        .doing("mapping a control page")?;
    Ok(ControlMemory::new(Arc::new(region)).expect("made with a control page's length"))
}

/// Carries an area's commands out.
struct TrackedArea {
    name: String,
    checkpointer: Checkpointer<SlotMemory, KvmLog>,
    targets: Box<dyn Targets>,
    /// Why no more commits are taken.
    stopped: Option<String>,
    attaches: Seldom,
}

impl TrackedArea {
    /// From now on nothing is committed: what happens in the area can no
    /// longer be followed, or must no longer count.
    fn stop(&mut self, reason: &dyn Display) -> CommandError {
        tracing::error!(area = self.name, "the area takes no more commits: {reason}");
        self.stopped = Some(reason.to_string());
        CommandError::Internal
    }

    /// Any error means that the epoch's pages were given back.
    fn try_commit(&mut self, level: Option<Level>) -> Result<Done, TargetsError> {
        let prepared = self.checkpointer.prepare()?;
        let pages = u32::try_from(prepared.pages().len()).unwrap_or(u32::MAX);
        let outcome = self
            .targets
            .commit(prepared.delta(), prepared.image(), level)?;
        match outcome {
            // The area stops, so what its image holds no longer matters.
            Outcome::Fenced { .. } => drop(prepared),
            // In doubt: it was sent and may be part of history.
            Outcome::Held { .. } | Outcome::Degraded { .. } | Outcome::InDoubt => {
                prepared.complete()?;
                self.targets.completed(self.checkpointer.image());
            }
        }
        Ok(Done { pages, outcome })
    }

    fn check_going(&self) -> Result<(), CommandError> {
        match self.stopped {
            Some(_) => Err(CommandError::Stopped),
            None => Ok(()),
        }
    }
}

impl AreaBackend for TrackedArea {
    fn attach(&mut self, owner: AddressSpace) -> Result<Done, CommandError> {
        let done = self.abort()?;
        if let Some(unsaid) = self.attaches.pass() {
            tracing::info!(
                area = self.name,
                root = format_args!("{:#x}", owner.root()),
                undone_pages = done.pages,
                unsaid,
                "attached"
            );
        }
        Ok(done)
    }

    fn commit(&mut self, level: Option<Level>) -> Result<Done, CommandError> {
        self.check_going()?;
        let done = match self.try_commit(level) {
            Ok(done) => done,
            Err(error) => return Err(self.stop(&Chain(&*error))),
        };
        match done.outcome {
            Outcome::Fenced { term } => {
                self.stop(&format_args!("a newer primary reigns in term {term}"));
            }
            // Whoever attached again would read what may be lost.
            Outcome::InDoubt => {
                self.stop(&"a commit ended in doubt; start the machine again to find out what the targets hold");
            }
            Outcome::Held { .. } | Outcome::Degraded { .. } => {}
        }
        Ok(done)
    }

    fn abort(&mut self) -> Result<Done, CommandError> {
        self.check_going()?;
        match self.checkpointer.abort() {
            Ok(pages) => Ok(Done::here(pages)),
            Err(error) => Err(self.stop(&Chain(&error))),
        }
    }

    fn detach(&mut self) {}

    fn standing(&self) -> Standing {
        let info = self.targets.describe();
        Standing {
            term: info.term,
            committed: self.checkpointer.image().epoch(),
            acknowledged: info.acknowledged,
            targets: info.targets,
            quorum: info.quorum,
            level: info.level,
        }
    }
}

/// An error with its causes on one line.
struct Chain<'e, E: ?Sized>(&'e E);

impl<E: StdError + ?Sized> Display for Chain<'_, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
