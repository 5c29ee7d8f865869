//! The engine in a guest: the area is a device of the virtual machine, and
//! commands go straight to the hypervisor.

use super::Engine;
use crate::device::Device;
use crate::{Commit, CommitError, EngineKind, Level, OpenError, Status};
use afterimage_area_abi::AreaName;
use afterimage_area_abi::control::{ControlHeader, Reply, Request, Verb};
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
}

impl Guest {
    /// Attaches: the area is as of the last commit afterwards.
    pub(crate) fn attach(
        name: &AreaName,
        mut device: Device,
        level: Option<Level>,
    ) -> Result<Self, OpenError> {
        // The device may be mapped anywhere to read where it wants to be.
        let header = device.peek_header()?;
        let first = AreaHeader::read(&header, device.data_len())?;
        let base = first.map_or_else(|| default_base(name.as_str()), |h| h.base);
        let mut guest = Self {
            name: name.clone(),
            base: device.map_data(base)?,
            device,
            level,
            sequence: 0,
            epoch: Epoch::ZERO,
        };
        let reply = guest.command(Verb::Attach)?;
        guest.epoch = Epoch(reply.epoch);
        Ok(guest)
    }

    fn command(&mut self, verb: Verb) -> Result<Reply, CommitError> {
        self.sequence += 1;
        let reply = self.device.ring(Request {
            verb,
            sequence: self.sequence,
        });
        if reply.sequence != self.sequence {
            return Err(CommitError::NoAnswer {
                expected: self.sequence,
                found: reply.sequence,
            });
        }
        // An error code comes before everything else in the reply.
        let _ = reply.outcome()?;
        Ok(reply)
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
