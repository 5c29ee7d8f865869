//! A link that can be cut, held up and garbled at a chosen byte.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to the server behind the proxy.
    There,
    /// From the server back.
    Back,
}

/// What happens at the chosen byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Both directions end at once.
    Cut,
    /// This byte arrives with one bit flipped.
    Garble,
    /// Nothing goes on in this direction until [`Proxy::heal`].
    Stall,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    way: Way,
    /// Bytes in this direction that still go through.
    left: u64,
    mishap: Mishap,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    /// New connections are closed at once.
    refusing: bool,
    /// Plans that came to pass.
    mishaps: u64,
    connections: u64,
    open: Vec<TcpStream>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one before the server at `behind`.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn before(behind: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // Whoever connected sees the end of the connection.
                let _ = connect(&accepting, stream, behind);
            }
        });
        Ok(Self { address, shared })
    }

    /// Where to connect instead.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Plans a mishap after `left` more bytes in one direction. It happens once.
    pub fn plan(&self, way: Way, left: u64, mishap: Mishap) {
        self.shared.lock().plan = Some(Plan { way, left, mishap });
    }

    /// Waits until the planned mishap has happened, `count` in all.
    pub fn wait_for_mishap(&self, count: u64) {
        let mut state = self.shared.lock();
        while state.mishaps < count {
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends all connections, and refuses new ones if `refuse`.
    pub fn cut(&self, refuse: bool) {
        let mut state = self.shared.lock();
        state.refusing = refuse;
        for stream in state.open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.plan = None;
        state.refusing = false;
        self.shared.changed.notify_all();
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.lock().connections
    }
}

fn connect(shared: &Arc<Shared>, here: TcpStream, behind: SocketAddr) -> io::Result<()> {
    if shared.lock().refusing {
        return Ok(());
    }
    let there = TcpStream::connect(behind)?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    {
        let mut state = shared.lock();
        state.connections += 1;
        state.open.push(here.try_clone()?);
        state.open.push(there.try_clone()?);
    }
    for (way, from, to) in [
        (Way::There, here.try_clone()?, there.try_clone()?),
        (Way::Back, there, here),
    ] {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // However it ends, the other direction ends with it.
            let _ = pump(&shared, way, &from, &to);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

fn pump(shared: &Shared, way: Way, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let bytes = &mut buffer[..len];
        match due(shared, way, len) {
            None => to.write_all(bytes)?,
            Some((at, Mishap::Cut)) => {
                to.write_all(&bytes[..at])?;
                happened(shared);
                return Ok(());
            }
            Some((at, Mishap::Garble)) => {
                bytes[at] ^= 0x10;
                to.write_all(bytes)?;
                happened(shared);
            }
            Some((at, Mishap::Stall)) => {
                to.write_all(&bytes[..at])?;
                happened(shared);
                let mut state = shared.lock();
                while state.plan.is_some() {
                    state = shared
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                drop(state);
                to.write_all(&bytes[at..])?;
            }
        }
    }
}

/// The place in a piece of `len` bytes at which something is to happen.
fn due(shared: &Shared, way: Way, len: usize) -> Option<(usize, Mishap)> {
    let mut state = shared.lock();
    let plan = state.plan.as_mut().filter(|plan| plan.way == way)?;
    match usize::try_from(plan.left) {
        Ok(left) if left < len => {
            let mishap = plan.mishap;
            if mishap == Mishap::Stall {
                plan.left = 0;
            } else {
                state.plan = None;
            }
            Some((left, mishap))
        }
        _ => {
            plan.left -= u64::try_from(len).unwrap_or(plan.left);
            None
        }
    }
}

fn happened(shared: &Shared) {
    shared.lock().mishaps += 1;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, behind a proxy.
    fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        Proxy::before(address).unwrap()
    }

    fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(bytes)?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back)?;
        Ok(back)
    }

    #[test]
    fn a_cut_lets_exactly_the_bytes_before_it_through() {
        let proxy = echo();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(exchange(&mut stream, b"hello").unwrap(), b"hello");
        proxy.plan(Way::Back, 3, Mishap::Cut);
        stream.write_all(b"world").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"wor");
        let mut again = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(exchange(&mut again, b"back").unwrap(), b"back");
    }

    #[test]
    fn one_bit_is_garbled_once() {
        let proxy = echo();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        proxy.plan(Way::There, 1, Mishap::Garble);
        assert_eq!(exchange(&mut stream, b"aaa").unwrap(), b"aqa");
        assert_eq!(exchange(&mut stream, b"aaa").unwrap(), b"aaa");
    }

    #[test]
    fn a_stall_ends_when_it_is_healed() {
        let proxy = echo();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        proxy.plan(Way::There, 2, Mishap::Stall);
        stream.write_all(b"abcd").unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).unwrap();
        proxy.wait_for_mishap(1);
        proxy.heal();
        let mut rest = [0; 2];
        stream.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"cd");
    }

    #[test]
    fn nobody_gets_through_while_it_refuses() {
        let proxy = echo();
        proxy.cut(true);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert!(exchange(&mut stream, b"x").is_err());
        proxy.heal();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert!(exchange(&mut stream, b"x").is_ok());
    }
}
