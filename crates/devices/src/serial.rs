//! The serial port ttyS0: the guest's console.

use crate::BusDevice;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest's output goes.
pub type ConsoleSink = Box<dyn Write + Send>;

/// A 16550 at [`SerialPort::PORT`].
pub struct SerialPort {
    uart: Serial<Line, Events, ConsoleSink>,
}

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Counts, and tells the input side when the guest has read what was there.
struct Events {
    room: EventFd,
    lost: Arc<AtomicU64>,
}

impl SerialEvents for Events {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn in_buffer_empty(&self) {
        // Only fails when the counter is full: then the input side is awake.
        let _ = self.room.write(1);
    }
}

/// How the input side learns that there is room again.
#[derive(Debug)]
pub struct InputRoom(pub EventFd);

impl SerialPort {
    /// First port.
    pub const PORT: u16 = 0x3f8;
    /// Number of ports.
    pub const PORTS: u16 = 8;
    /// Its interrupt (GSI), as on every PC.
    pub const GSI: u32 = 4;

    /// A port that raises `interrupt` and writes to `output`; also counts the
    /// bytes that `output` did not take.
    ///
    /// # Errors
    /// When no event descriptor is to be had.
    pub fn new(
        interrupt: EventFd,
        output: ConsoleSink,
        lost: Arc<AtomicU64>,
    ) -> io::Result<(Self, InputRoom)> {
        let room = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
        let events = Events {
            room: room.try_clone()?,
            lost,
        };
        let uart = Serial::with_events(Line(interrupt), events, output);
        Ok((Self { uart }, InputRoom(room)))
    }

    /// How many bytes of input it takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives input to the guest; returns how many bytes were taken.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        // The only errors are a full buffer (nothing taken) and an interrupt
        // that could not be raised, which the guest's next poll makes good.
        self.uart.enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let Ok(register) = u8::try_from(offset) else {
            return;
        };
        // The registers are bytes: a longer access is a string operation on
        // one of them.
        for byte in data {
            *byte = self.uart.read(register);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(register) = u8::try_from(offset) else {
            return;
        };
        for byte in data {
            // Bytes that the sink did not take are counted by `Events`. The
            // guest must go on: its console is not what the VM is for.
            let _ = self.uart.write(register, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event() -> EventFd {
        EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn string_operations_write_every_byte() {
        let out = Shared::default();
        let (mut port, _) =
            SerialPort::new(event(), Box::new(out.clone()), Arc::default()).unwrap();
        port.write(0, b"hello");
        assert_eq!(*out.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn a_console_that_went_away_is_counted_and_the_guest_goes_on() {
        let lost = Arc::new(AtomicU64::new(0));
        let (mut port, _) = SerialPort::new(event(), Box::new(Broken), lost.clone()).unwrap();
        port.write(0, b"abc");
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn input_is_bounded_and_room_is_announced_when_it_was_read() {
        let (mut port, room) =
            SerialPort::new(event(), Box::new(io::sink()), Arc::default()).unwrap();
        let taken = port.input(&[b'x'; 1000]);
        assert!(taken < 1000 && port.room() == 0);
        assert!(room.0.read().is_err(), "nothing was read yet");
        let mut bytes = vec![0; taken];
        port.read(0, &mut bytes);
        assert_eq!(bytes, vec![b'x'; taken]);
        assert!(room.0.read().is_ok());
    }

    proptest! {
        #[test]
        fn any_register_traffic_is_survived(
            ops in prop::collection::vec((0u64..12, any::<bool>(), prop::collection::vec(any::<u8>(), 1..9)), 0..100)
        ) {
            let (mut port, _) = SerialPort::new(event(), Box::new(io::sink()), Arc::default()).unwrap();
            for (offset, store, mut bytes) in ops {
                if store { port.write(offset, &bytes) } else { port.read(offset, &mut bytes) }
            }
            prop_assert!(port.room() <= 64);
        }
    }
}
