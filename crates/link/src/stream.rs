//! Sockets of both kinds behind one type.

use crate::Address;
use rustix::net::{RecvFlags, recv};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP, without Nagle's delay.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// For TCP.
    Tcp(TcpListener),
    /// On this machine; the file is removed when it is dropped.
    Unix(UnixListener, PathBuf),
}

impl Stream {
    /// Connects.
    ///
    /// # Errors
    /// What the system said, or `TimedOut`.
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Address::Tcp(place) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in place.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// Bounds how long a read or a write may block.
    ///
    /// # Errors
    /// What the system said.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s
                .set_read_timeout(timeout)
                .and(s.set_write_timeout(timeout)),
            Self::Unix(s) => s
                .set_read_timeout(timeout)
                .and(s.set_write_timeout(timeout)),
        }
    }

    /// Ends it in both directions; whoever reads it on another thread wakes up.
    pub fn shutdown(&self) {
        // A socket that is not connected any more is what is wanted.
        let _ = match self {
            Self::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
            Self::Unix(s) => s.shutdown(std::net::Shutdown::Both),
        };
    }

    /// Another handle to the same socket.
    ///
    /// # Errors
    /// What the system said.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(s) => s.try_clone().map(Self::Tcp),
            Self::Unix(s) => s.try_clone().map(Self::Unix),
        }
    }

    /// Reads what there is, without waiting; `None` if there is nothing.
    ///
    /// # Errors
    /// What the system said.
    pub fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match recv(self.as_fd(), into, RecvFlags::DONTWAIT) {
            Ok((len, _)) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what there is; polls for up to `spin` before it sleeps.
    ///
    /// # Errors
    /// What the system said; `WouldBlock` after the time-out.
    pub fn read_soon(&mut self, into: &mut [u8], spin: Duration) -> io::Result<usize> {
        if !spin.is_zero() {
            let start = Instant::now();
            loop {
                if let Some(len) = self.read_now(into)? {
                    return Ok(len);
                }
                if start.elapsed() >= spin {
                    break;
                }
                // Where both ends share a core, the other one gets it now.
                std::thread::yield_now();
            }
        }
        loop {
            match self.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(into),
            Self::Unix(s) => s.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(bytes),
            Self::Unix(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Listener {
    /// Listens. A Unix socket left by a dead process is replaced.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(place) => TcpListener::bind(place).map(Self::Tcp),
            Address::Unix(path) => {
                let dead = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                    && UnixStream::connect(path)
                        .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
                if dead {
                    fs::remove_file(path)?;
                }
                UnixListener::bind(path).map(|l| Self::Unix(l, path.clone()))
            }
        }
    }

    /// Where it listens; the port is the real one if 0 was asked for.
    ///
    /// # Errors
    /// What the system said.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(l) => Address::Tcp(l.local_addr()?.to_string()),
            Self::Unix(_, path) => Address::Unix(path.clone()),
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What the system said.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(l) => {
                let (stream, _) = l.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(l, _) => l.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Gone already is as good.
            let _ = fs::remove_file(path);
        }
    }
}
