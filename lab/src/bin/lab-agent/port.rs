//! Finding the virtio-serial port that leads to the host.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use afterimage_lab::frame::PORT_NAME;
use anyhow::{Context, Result};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, recv, socket};

/// Multicast group of the kernel's own device events.
const KERNEL_EVENTS: u32 = 1;

/// Opens the port. It appears some time after its driver was loaded, and its
/// name later still, each with an event that is waited for.
pub(crate) fn open() -> Result<File> {
    let events = listen().context("cannot listen for device events")?;
    loop {
        if let Some(device) = find()? {
            return File::options()
                .read(true)
                .write(true)
                .open(&device)
                .with_context(|| format!("cannot open {device}"));
        }
        let mut event = [0; 8192];
        recv(&events, &mut event[..], RecvFlags::empty()).context("no device events")?;
    }
}

fn listen() -> rustix::io::Result<OwnedFd> {
    let events = socket(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    bind(&events, &SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
    Ok(events)
}

fn find() -> Result<Option<String>> {
    let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };
    for port in ports {
        let path = port?.path();
        let name = fs::read_to_string(path.join("name")).unwrap_or_default();
        if name.trim() == PORT_NAME {
            let device = path.file_name().unwrap_or_default().to_string_lossy();
            return Ok(Some(format!("/dev/{device}")));
        }
    }
    Ok(None)
}
