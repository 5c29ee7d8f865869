//! Process 1: file systems, modules, network, KVM; then reaping.

use std::ffi::CString;
use std::fs;
use std::process::{Command, Stdio};

use afterimage_lab::layout;
use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, finit_module, reboot};

const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
];

pub(crate) fn run() -> Result<()> {
    for (kind, at) in MOUNTS {
        fs::create_dir_all(at).with_context(|| format!("cannot create {at}"))?;
        mount(kind, at, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind} at {at}"))?;
    }
    load_modules()?;
    network()?;
    // One VM stays open for the machine's whole life: KVM patches its own
    // code whenever the number of VMs leaves or reaches zero, and emulated
    // processors have been seen to run the stale instructions.
    let _vm = if fs::exists("/dev/kvm")? {
        let kvm = afterimage_vmm::probe::open()?;
        Some(kvm.create_vm().context("cannot create a VM")?)
    } else {
        None
    };
    let agent = Command::new("/proc/self/exe")
        .spawn()
        .context("cannot start the agent")?;
    let agent = i32::try_from(agent.id()).ok().and_then(Pid::from_raw);
    loop {
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(error) => bail!("cannot wait for processes: {error}"),
        };
        if Some(pid) == agent {
            if status.exit_status() != Some(0) {
                eprintln!("lab-agent: the agent ended: {status:?}");
            }
            power_off();
        }
    }
}

/// Ends the machine.
pub(crate) fn power_off() {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("lab-agent: cannot power off: {error}");
    }
}

fn load_modules() -> Result<()> {
    let list = fs::read_to_string(layout::MODULE_LIST).context("cannot read the module list")?;
    for line in list.lines() {
        let (path, parameters) = line.split_once(' ').unwrap_or((line, ""));
        let file = fs::File::open(path).with_context(|| format!("cannot open {path}"))?;
        finit_module(&file, &CString::new(parameters)?, 0)
            .with_context(|| format!("cannot load {path} {parameters}"))?;
    }
    Ok(())
}

fn network() -> Result<()> {
    busybox("ip link set lo up")?;
    if fs::exists("/sys/class/net/eth0")? {
        busybox("ip link set eth0 up")?;
        // What QEMU's user network hands out to its first machine.
        busybox("ip addr add 10.0.2.15/24 dev eth0")?;
        busybox("ip route add default via 10.0.2.2")?;
    }
    Ok(())
}

fn busybox(line: &str) -> Result<()> {
    let status = Command::new(layout::BUSYBOX)
        .args(line.split(' '))
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run busybox {line}"))?;
    ensure!(status.success(), "busybox {line}: {status}");
    Ok(())
}
