//! The key-value server in a virtual machine, and another machine that takes
//! over.
//!
//! Both have the same network address, one after the other, so that clients
//! only have to connect again.

use crate::process::Program;
use crate::programs::{AREA, Backup, World, binary, ready_on};
use anyhow::Context as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Longest wait for a guest to boot and to serve clients. Emulated machines on
/// a busy host take their time.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// The tap that connects the guest.
const TAP: &str = "afterimage0";

/// The host's end of it.
const HOST_ADDRESS: &str = "10.77.0.1";

/// Where the guest's server listens.
const GUEST_ADDRESS: &str = "10.77.0.2";

/// Length of both addresses' network prefix.
const PREFIX: u8 = 24;

/// Where the guest's server serves clients: the port that they try by
/// themselves.
pub const SERVER: &str = "10.77.0.2:6379";

/// A guest's files.
#[derive(Clone, Debug)]
pub struct Guest {
    /// A stock kernel (bzImage).
    pub kernel: PathBuf,
    /// Its initrd, with `/bin/afterimage-kv`.
    pub initrd: PathBuf,
}

impl Guest {
    /// The command that runs `application` in a machine with a network card;
    /// `options` of `afterimage run` come on top.
    ///
    /// # Errors
    /// If `afterimage` was not built.
    pub fn machine(&self, application: &[&str], options: &[&str]) -> anyhow::Result<Command> {
        let (program, arguments) = application.split_first().context("no application")?;
        let mut append = format!(
            "quiet afterimage.ip={GUEST_ADDRESS}/{PREFIX} afterimage.gw={HOST_ADDRESS} \
             afterimage.app={program}"
        );
        for argument in arguments {
            append.push_str(" afterimage.arg=");
            append.push_str(argument);
        }
        let mut command = Command::new(binary("afterimage")?);
        command
            .args(["run", "--memory", "192M", "--tap", TAP])
            .args(["--tap-address", &format!("{HOST_ADDRESS}/{PREFIX}")])
            .arg("--kernel")
            .arg(&self.kernel)
            .arg("--initrd")
            .arg(&self.initrd)
            .args(["--append", &append])
            .args(options);
        Ok(command)
    }
}

/// A virtual machine and a backup.
#[derive(Debug)]
pub struct Machines {
    // Dropped in this order: machine, backup, files.
    machine: Option<Program>,
    backup: Backup,
    guest: Guest,
    /// Options of the server besides address and area.
    options: Vec<String>,
    /// Options of `afterimage run` besides area and target.
    machine_options: Vec<String>,
    world: World,
}

impl Machines {
    /// Starts a backup; no machine yet.
    ///
    /// # Errors
    /// If it does not start.
    pub fn new(world: World, guest: Guest) -> anyhow::Result<Self> {
        Ok(Self {
            machine: None,
            backup: world.backup(0)?,
            guest,
            options: Vec::new(),
            machine_options: Vec::new(),
            world,
        })
    }

    /// Starts the servers in the machines with these options too.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Starts the machines with these options too.
    #[must_use]
    pub fn with_machine_options(mut self, options: &[&str]) -> Self {
        self.machine_options
            .extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Boots a machine whose server goes on from what the backup holds; where
    /// it serves clients.
    ///
    /// # Errors
    /// If it is not ready within [`BOOT_PATIENCE`].
    pub fn boot(&mut self) -> anyhow::Result<SocketAddr> {
        let mut application = vec!["/bin/afterimage-kv", "--listen", SERVER, "--area", AREA];
        application.extend(self.options.iter().map(String::as_str));
        let area = format!("{AREA}=64M");
        let target = self.backup.target();
        let mut options = vec!["--area", &area, "--target", &target];
        options.extend(self.machine_options.iter().map(String::as_str));
        let command = self.guest.machine(&application, &options)?;
        self.machine = Some(self.world.start(command, "machine")?);
        self.wait_for_server()
    }

    /// Waits until the machine's server (again) serves clients; where.
    ///
    /// # Errors
    /// If it does not within [`BOOT_PATIENCE`].
    pub fn wait_for_server(&mut self) -> anyhow::Result<SocketAddr> {
        let machine = self.machine.as_mut().context("no machine runs")?;
        ready_on(machine, BOOT_PATIENCE)
    }

    /// Waits until the machine's console shows a line with `text`.
    ///
    /// # Errors
    /// If it does not within [`BOOT_PATIENCE`].
    pub fn wait_for_console(&mut self, text: &str) -> anyhow::Result<String> {
        let machine = self.machine.as_mut().context("no machine runs")?;
        machine.wait_for_line_with(text, BOOT_PATIENCE)
    }

    /// Kills the backup with SIGKILL.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill_backup(&mut self) -> anyhow::Result<()> {
        self.backup.program.signal(rustix::process::Signal::KILL)?;
        self.backup.program.wait()?;
        Ok(())
    }

    /// Starts the backup again, with its old directory and address.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_backup(&mut self) -> anyhow::Result<()> {
        self.backup = self.world.backup(self.backup.address.port())?;
        Ok(())
    }

    /// Kills the machine with SIGKILL.
    ///
    /// # Errors
    /// If none runs.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.machine.take().context("no machine runs")?.kill()
    }

    /// Promotes the backup, so that the next machine may take over.
    ///
    /// # Errors
    /// If it refuses.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.world.promote(self.backup.address)
    }
}
