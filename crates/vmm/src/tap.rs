//! A tap on the host: the other end of the guest's network card.

use crate::config::TapConfig;
use crate::error::Error;
use afterimage_devices::virtio::Frames;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// An open tap. It is not persistent: unless it was made by someone else, it
/// is gone when this is dropped, also when the process is killed.
#[derive(Debug)]
pub(crate) struct Tap(File);

impl Tap {
    /// Opens a tap, and gives it an address if that was asked for.
    pub(crate) fn open(config: &TapConfig) -> Result<Self, Error> {
        let failed = |action| {
            move |source| Error::Tap {
                name: config.name.clone(),
                action,
                source,
            }
        };
        let name = interface_name(&config.name).map_err(failed("naming it"))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(failed("opening /dev/net/tun"))?;
        let mut request = Request::new(name);
        // Frames as they are: no packet information, no offload header.
        request.0.ifr_ifru.ifru_flags = flags(libc::IFF_TAP | libc::IFF_NO_PI);
        request
            .send(file.as_raw_fd(), libc::TUNSETIFF)
            .map_err(failed("attaching to it"))?;
        if let Some((address, prefix)) = config.host_address {
            configure(name, address, prefix).map_err(failed("giving it an address"))?;
        }
        Ok(Self(file))
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Frames for Tap {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.0.read(frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write(frame).map(|_| ())
    }
}

type Name = [libc::c_char; libc::IFNAMSIZ];

fn interface_name(text: &str) -> io::Result<Name> {
    let sound = (1..libc::IFNAMSIZ).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if !sound {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an interface's name has 1 to 15 letters, digits or signs, and no '/'",
        ));
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(text.bytes()) {
        *to = libc::c_char::from_le_bytes([from]);
    }
    Ok(name)
}

/// Address, netmask and "up", by the ioctls of `netdevice(7)`.
fn configure(name: Name, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = match prefix {
        0..=32 => u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a prefix length is at most 32",
            ));
        }
    };
    // SAFETY: a system call without memory; the descriptor it returns is owned
    // by nobody else.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    let socket = socket.as_raw_fd();
    for (ioctl, value) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, Ipv4Addr::from(mask)),
    ] {
        let mut request = Request::new(name);
        request.0.ifr_ifru.ifru_addr = socket_address(value);
        request.send(socket, ioctl)?;
    }
    let mut request = Request::new(name);
    request.send(socket, libc::SIOCGIFFLAGS)?;
    // SAFETY: the kernel has just filled in the flags.
    let old = unsafe { request.0.ifr_ifru.ifru_flags };
    request.0.ifr_ifru.ifru_flags = old | flags(libc::IFF_UP);
    request.send(socket, libc::SIOCSIFFLAGS)
}

fn flags(flags: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(flags).expect("interface flags fit the field made for them")
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // After the port's two bytes.
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = libc::c_char::from_le_bytes([from]);
    }
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).expect("a small number"),
        sa_data: data,
    }
}

struct Request(libc::ifreq);

impl Request {
    fn new(name: Name) -> Self {
        // SAFETY: the structure is made of numbers and arrays of them, for
        // which zeros are values.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name = name;
        Self(request)
    }

    fn send(&mut self, fd: RawFd, ioctl: libc::c_ulong) -> io::Result<()> {
        // SAFETY: every ioctl used here takes a pointer to an `ifreq`, reads
        // the member that the caller has set, and may write to it.
        match unsafe { libc::ioctl(fd, ioctl, &raw mut self.0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for bad in ["", "a/b", "a b", "sixteen-bytes-xx", "tap\0"] {
            assert!(interface_name(bad).is_err(), "{bad:?}");
        }
        assert!(interface_name("fifteen-bytes-x").is_ok());
    }

    #[test]
    fn addresses_are_in_network_order_behind_the_port() {
        let address = socket_address(Ipv4Addr::new(192, 168, 77, 1));
        assert_eq!(address.sa_data[2..6], [-64, -88, 77, 1]);
    }
}
