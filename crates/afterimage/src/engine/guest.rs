//! The engine in a guest: the area is a device of the virtual machine, and
//! commands go straight to the hypervisor.

use super::Engine;
use crate::device::Device;
use crate::{Commit, CommitError, EngineKind, Level, OpenError, Status};
use afterimage_area_abi::AreaName;
use afterimage_area_abi::control::{CommandError, ControlHeader, Reply, Request, Verb};
use afterimage_area_abi::header::{AreaHeader, default_base, text};
use afterimage_delta::{Epoch, Term};
use std::ptr::NonNull;

#[derive(Debug)]
pub(crate) struct Guest {
    name: AreaName,
    device: Device,
    base: NonNull<u8>,
    level: Option<Level>,
    sequence: u64,
    epoch: Epoch,
    /// A command failed, so memory and image may be apart.
    failed: bool,
}

fn ring(device: &mut Device, sequence: u64, verb: Verb) -> Result<Reply, CommitError> {
    let reply = device.ring(Request { verb, sequence });
    if reply.sequence != sequence {
        return Err(CommitError::NoAnswer {
            expected: sequence,
            found: reply.sequence,
        });
    }
    // An error code comes before everything else in the reply.
    let _ = reply.outcome()?;
    Ok(reply)
}

impl Guest {
    /// Attaches: the area is as of the last commit afterwards.
    pub(crate) fn attach(
        name: &AreaName,
        mut device: Device,
        level: Option<Level>,
    ) -> Result<Self, OpenError> {
        // First of all: an application that died in a transaction may have left
        // anything in the area, its header included.
        let attached = ring(&mut device, 1, Verb::Attach)?;
        // The device may be mapped anywhere to read where it wants to be.
        let header = device.peek_header()?;
        let first = AreaHeader::read(&header, device.data_len())?;
        let base = first.map_or_else(|| default_base(name.as_str()), |h| h.base);
        Ok(Self {
            name: name.clone(),
            base: device.map_data(base)?,
            device,
            level,
            sequence: 1,
            epoch: Epoch(attached.epoch),
            failed: false,
        })
    }

    /// Carries a command out; after one that failed it is not known what the
    /// area holds, so no other one is given.
    fn command(&mut self, verb: Verb) -> Result<Reply, CommitError> {
        if self.failed {
            return Err(CommandError::Stopped.into());
        }
        self.sequence += 1;
        let reply = ring(&mut self.device, self.sequence, verb);
        self.failed = reply.is_err();
        reply
    }

    fn control(&self) -> ControlHeader {
        self.device.control()
    }
}

impl Engine for Guest {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> u64 {
        self.device.data_len()
    }

    fn begin(&mut self) -> Result<(), CommitError> {
        // The hypervisor refuses commits of an area that is stopped; asking
        // beforehand would cost an exit for each transaction.
        if self.failed {
            return Err(CommandError::Stopped.into());
        }
        Ok(())
    }

    fn commit(&mut self, level: Option<Level>) -> Result<Commit, CommitError> {
        let level = level.or(self.level);
        let reply = self.command(Verb::Commit { level })?;
        let outcome = reply.outcome()?;
        self.epoch = Epoch(reply.epoch);
        Ok(Commit {
            epoch: self.epoch,
            outcome,
            pages: reply.pages,
        })
    }

    fn abort(&mut self) -> Result<(), CommitError> {
        self.command(Verb::Abort).map(drop)
    }

    fn status(&self) -> Status {
        let control = self.control();
        Status {
            name: self.name.to_string(),
            len: self.device.data_len(),
            engine: EngineKind::Guest,
            tracker: text(&control.tracker),
            term: Term(control.term),
            epoch: self.epoch,
            acknowledged: Epoch(control.acknowledged),
            targets: control.targets,
            quorum: control.quorum,
            level: u8::try_from(control.level).ok().and_then(Level::from_code),
            state: "running".to_owned(),
            counters: None,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The hypervisor takes the area back to the last commit at the next
        // attach, so a refusal here loses nothing.
        let _ = self.command(Verb::Detach);
    }
}
