//! Access to a control page that the application may be writing to.

use afterimage_area_abi::control::{
    CONTROL_LEN, Command, ControlHeader, Reply, command_offset, reply_offset,
};
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use zerocopy::{FromBytes, IntoBytes};

/// The memory of a control page, shared with the guest.
///
/// Each command is copied out once, as a whole, and only the copy is looked
/// at. What the VMM wrote is never read back.
#[derive(Clone, Debug)]
pub struct ControlMemory(Arc<MmapRegion>);

/// The memory given is no control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a control page has {CONTROL_LEN} bytes, not {0}")]
pub struct WrongLength(pub usize);

/// Why every access below is in range: the length was checked by
/// [`ControlMemory::new`], and the layout's own test shows that header and
/// slots lie within it.
const IN_RANGE: &str = "header and slots lie within the control page";

impl ControlMemory {
    /// Takes memory of exactly [`CONTROL_LEN`] bytes.
    ///
    /// # Errors
    /// [`WrongLength`].
    pub fn new(region: Arc<MmapRegion>) -> Result<Self, WrongLength> {
        if region.size() as u64 != CONTROL_LEN {
            return Err(WrongLength(region.size()));
        }
        Ok(Self(region))
    }

    /// Copies a slot's command; `None` if there is no such slot.
    #[must_use]
    pub fn command(&self, slot: u32) -> Option<Command> {
        let mut bytes = [0; size_of::<Command>()];
        self.0
            .as_volatile_slice()
            .read_slice(&mut bytes, place(command_offset(slot)?))
            .expect(IN_RANGE);
        Some(Command::read_from_bytes(&bytes).expect("as many bytes as a command has"))
    }

    /// Writes the reply of a slot that [`ControlMemory::command`] found.
    ///
    /// The bytes are there when the ringing vCPU enters the guest again, which
    /// is what its application waits for.
    pub fn reply(&self, slot: u32, reply: &Reply) {
        if let Some(offset) = reply_offset(slot) {
            self.write(place(offset), reply.as_bytes());
        }
    }

    /// Writes the whole header.
    pub fn write_header(&self, header: &ControlHeader) {
        self.write(0, header.as_bytes());
    }

    /// Writes the fields of the header that change. Epochs are stored as one
    /// word each, so that a thread that polls them sees no torn number.
    pub fn update_header(&self, header: &ControlHeader) {
        let slice = self.0.as_volatile_slice();
        for (offset, value) in [
            (offset_of!(ControlHeader, term), header.term),
            (offset_of!(ControlHeader, committed), header.committed),
            (offset_of!(ControlHeader, acknowledged), header.acknowledged),
        ] {
            slice
                .store(value, offset, Ordering::Release)
                .expect(IN_RANGE);
        }
        for (offset, value) in [
            (offset_of!(ControlHeader, targets), header.targets),
            (offset_of!(ControlHeader, quorum), header.quorum),
            (offset_of!(ControlHeader, level), header.level),
            (
                offset_of!(ControlHeader, last_bad_ring),
                header.last_bad_ring,
            ),
        ] {
            slice
                .store(value, offset, Ordering::Release)
                .expect(IN_RANGE);
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0
            .as_volatile_slice()
            .write_slice(bytes, offset)
            .expect(IN_RANGE);
    }

    /// The memory itself, to be given to the guest.
    #[must_use]
    pub fn region(&self) -> &Arc<MmapRegion> {
        &self.0
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("offsets in a control page are below 1 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterimage_area_abi::Level;
    use afterimage_area_abi::control::{Request, SLOT_COUNT, Verb};

    #[test]
    fn commands_and_replies_are_found_where_the_layout_says() {
        let region = Arc::new(MmapRegion::new(1 << 20).unwrap());
        let control = ControlMemory::new(region.clone()).unwrap();
        let command = Command::new(Request {
            verb: Verb::Commit {
                level: Some(Level::Durable),
            },
            sequence: 9,
        });
        let slice = region.as_volatile_slice();
        slice
            .write_slice(command.as_bytes(), 4096 + 63 * 128)
            .unwrap();
        assert_eq!(control.command(63), Some(command));
        assert_eq!(control.command(SLOT_COUNT), None);
        control.reply(63, &Reply::refused(9, super::super::CommandError::Stopped));
        let mut error = [0; 4];
        slice.read_slice(&mut error, 4096 + 63 * 128 + 64).unwrap();
        assert_eq!(u32::from_le_bytes(error), 6);
    }

    #[test]
    fn memory_of_another_length_is_refused() {
        let region = Arc::new(MmapRegion::new(8192).unwrap());
        assert_eq!(ControlMemory::new(region).unwrap_err(), WrongLength(8192));
    }
}
