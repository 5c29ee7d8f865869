//! How a guest asks to be switched off or reset.

use crate::BusDevice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a guest can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// To be switched off.
    Off,
    /// To be reset.
    Reset,
}

/// Carries a guest's wish from the devices to whoever runs the vCPUs.
#[derive(Clone, Debug, Default)]
pub struct PowerSwitch(Arc<AtomicU8>);

impl PowerSwitch {
    /// Asks for something. The first wish counts.
    pub fn request(&self, event: PowerEvent) {
        let code = match event {
            PowerEvent::Off => 1,
            PowerEvent::Reset => 2,
        };
        // A wish that came second changes nothing, so the result is not needed.
        let _ = self
            .0
            .compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What was asked for.
    #[must_use]
    pub fn requested(&self) -> Option<PowerEvent> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(PowerEvent::Off),
            2 => Some(PowerEvent::Reset),
            _ => None,
        }
    }
}

/// ACPI's fixed power-management registers: event block (4 bytes) and control
/// register (2 bytes). No event ever happens; the control register's sleep
/// command switches off.
#[derive(Debug)]
pub struct PowerControl {
    switch: PowerSwitch,
    /// Enable bits of the event block, kept because ACPI reads them back.
    enable: u16,
}

impl PowerControl {
    /// First port of the event block.
    pub const EVENT_PORT: u16 = 0x600;
    /// Bytes of the event block: status and enable.
    pub const EVENT_LEN: u8 = 4;
    /// Port of the control register.
    pub const CONTROL_PORT: u16 = 0x604;
    /// Bytes of the control register.
    pub const CONTROL_LEN: u8 = 2;
    /// Number of ports in all.
    pub const PORTS: u16 = 6;
    /// The sleep type that means "off"; the DSDT's `_S5` names it.
    pub const SLEEP_OFF: u8 = 5;

    const SLEEP_ENABLE: u16 = 1 << 13;
    /// The interpreter is in ACPI mode: there is no other.
    const SCI_ENABLE: u16 = 1;

    /// Registers that tell `switch`.
    #[must_use]
    pub fn new(switch: PowerSwitch) -> Self {
        Self { switch, enable: 0 }
    }
}

impl BusDevice for PowerControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let registers = [0, self.enable, Self::SCI_ENABLE];
        let bytes = registers.map(u16::to_le_bytes);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(bytes.as_flattened().iter().skip(start)) {
            *to = *from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = data.try_into() else { return };
        let value = u16::from_le_bytes(bytes);
        match offset {
            2 => self.enable = value,
            4 if value & Self::SLEEP_ENABLE != 0
                && (value >> 10) & 7 == u16::from(Self::SLEEP_OFF) =>
            {
                self.switch.request(PowerEvent::Off);
            }
            _ => {}
        }
    }
}

/// The keyboard controller's command port, of which only the reset line is
/// left. ACPI's reset register points here too.
#[derive(Debug)]
pub struct ResetPort(PowerSwitch);

impl ResetPort {
    /// The port.
    pub const PORT: u16 = 0x64;
    /// The command: pulse the reset line.
    pub const RESET: u8 = 0xfe;

    /// A port that tells `switch`.
    #[must_use]
    pub fn new(switch: PowerSwitch) -> Self {
        Self(switch)
    }
}

impl BusDevice for ResetPort {
    // Status zero (the bus clears the data): input buffer empty, so that the
    // kernel's wait before the command ends at once.
    fn read(&mut self, _: u64, _: &mut [u8]) {}

    fn write(&mut self, _: u64, data: &[u8]) {
        if data == [Self::RESET] {
            self.0.request(PowerEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sleep_command_for_off_switches_off() {
        let switch = PowerSwitch::default();
        let mut control = PowerControl::new(switch.clone());
        for value in [0u16, 5 << 10, 1 << 13, (4 << 10) | (1 << 13)] {
            control.write(4, &value.to_le_bytes());
        }
        control.write(4, &[0xff]);
        control.write(0, &[0xff, 0xff]);
        assert_eq!(switch.requested(), None);
        control.write(4, &((5u16 << 10) | (1 << 13)).to_le_bytes());
        assert_eq!(switch.requested(), Some(PowerEvent::Off));
    }

    #[test]
    fn the_first_wish_counts() {
        let switch = PowerSwitch::default();
        ResetPort::new(switch.clone()).write(0, &[0xfe]);
        switch.request(PowerEvent::Off);
        assert_eq!(switch.requested(), Some(PowerEvent::Reset));
    }

    #[test]
    fn loads_of_any_length_and_place_are_answered() {
        let mut control = PowerControl::new(PowerSwitch::default());
        control.write(2, &[0x20, 0x01]);
        let mut word = [0; 2];
        control.read(2, &mut word);
        assert_eq!(word, [0x20, 0x01]);
        control.read(4, &mut word);
        assert_eq!(word, [1, 0]);
        for offset in 0..6 {
            control.read(offset, &mut [0; 9]);
        }
    }
}
