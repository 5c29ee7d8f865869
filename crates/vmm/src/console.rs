//! The thread that carries what is typed to the serial port.

use crate::error::{Error, SystemContext};
use afterimage_devices::{InputRoom, SerialPort, lock};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The running thread; dropping it ends and awaits it.
pub(crate) struct ConsoleThread {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl ConsoleThread {
    /// Starts carrying from `input` to `port`.
    pub(crate) fn start(
        input: File,
        port: Arc<Mutex<SerialPort>>,
        room: InputRoom,
    ) -> Result<Self, Error> {
        let stop = EventFd::new(EFD_NONBLOCK).doing("making an event descriptor")?;
        let end = stop.try_clone().doing("copying an event descriptor")?;
        let thread = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                if let Err(error) = carry(input, &port, &room, &end) {
                    tracing::warn!("the console takes no more input: {error}");
                }
            })
            .doing("starting the console thread")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for ConsoleThread {
    fn drop(&mut self) {
        // Fails only when the counter is full: then it is readable already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the console thread panicked; this is a defect");
        }
    }
}

/// Runs until the input ends or `stop` is written.
fn carry(
    mut input: File,
    port: &Mutex<SerialPort>,
    room: &InputRoom,
    stop: &EventFd,
) -> io::Result<()> {
    let mut bytes = [0; 64];
    loop {
        let free = lock(port).room().min(bytes.len());
        let source = if free == 0 {
            room.0.as_raw_fd()
        } else {
            input.as_raw_fd()
        };
        if !readable(source, stop.as_raw_fd())? {
            return Ok(());
        }
        if free == 0 {
            // Only says that there is room now.
            let _ = room.0.read();
            continue;
        }
        let count = match input.read(&mut bytes[..free]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        // Nobody else gives input, so there is still room, unless the guest has
        // put the port into loop-back: then what is typed is lost, as on wires.
        lock(port).input(&bytes[..count]);
    }
}

/// Waits until `source` can be read; `false` if `stop` came first.
fn readable(source: RawFd, stop: RawFd) -> io::Result<bool> {
    let watch = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut watched = [watch(source), watch(stop)];
    loop {
        // SAFETY: an array of two, of which the kernel writes `revents`.
        let count = unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) };
        if count >= 0 {
            return Ok(watched[1].revents == 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
