//! The thread that carries a network card's frames.

use crate::error::{Error, SystemContext};
use crate::tap::Tap;
use afterimage_devices::lock;
use afterimage_devices::virtio::{Net, RX, TX, Turn};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The running thread; dropping it ends and awaits it.
pub(crate) struct NetThread {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

/// What the thread waits for.
#[derive(Clone, Copy)]
enum Event {
    Frames = 0,
    Rx = 1,
    Tx = 2,
    Stop = 3,
}

impl NetThread {
    /// Starts carrying. `notify` are the card's queue notifications.
    pub(crate) fn start(net: Arc<Mutex<Net<Tap>>>, notify: [EventFd; 2]) -> Result<Self, Error> {
        let stop = EventFd::new(EFD_NONBLOCK).doing("making an event descriptor")?;
        let epoll = Epoll::new().doing("making an epoll descriptor")?;
        let tap = lock(&net).frames().as_raw_fd();
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        // The tap by edge: while the guest has given no buffer its frames wait
        // there, and must not wake the thread again and again.
        for (fd, events, event) in [
            (tap, edge, Event::Frames),
            (notify[RX].as_raw_fd(), EventSet::IN, Event::Rx),
            (notify[TX].as_raw_fd(), EventSet::IN, Event::Tx),
            (stop.as_raw_fd(), EventSet::IN, Event::Stop),
        ] {
            epoll
                .ctl(
                    ControlOperation::Add,
                    fd,
                    EpollEvent::new(events, event as u64),
                )
                .doing("watching the network card")?;
        }
        let thread = std::thread::Builder::new()
            .name("net".into())
            .spawn(move || {
                if let Err(error) = carry(&net, &epoll, &notify) {
                    tracing::error!("the network card stops: {error}");
                }
            })
            .doing("starting the network thread")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for NetThread {
    fn drop(&mut self) {
        // Fails only when the counter is full: then it is readable already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network thread panicked; this is a defect");
        }
    }
}

fn carry(net: &Mutex<Net<Tap>>, epoll: &Epoll, notify: &[EventFd; 2]) -> io::Result<()> {
    let mut events = [EpollEvent::default(); 4];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        for event in &events[..count] {
            let queue = match event.data() {
                data if data == Event::Stop as u64 => return Ok(()),
                data if data == Event::Tx as u64 => TX,
                _ => RX,
            };
            if event.data() != Event::Frames as u64 {
                // Only says that it was rung; fails if another has read it.
                let _ = notify[queue].read();
            }
            let turn = match queue {
                TX => lock(net).send(),
                _ => lock(net).receive(),
            };
            if turn == Turn::Again {
                // After the other events.
                notify[queue].write(1)?;
            }
        }
    }
}
