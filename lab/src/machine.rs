//! The lab's machine: what it is made of, booting it, running jobs in it.

use std::fs::File;
use std::io::BufWriter;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::console::Console;
use crate::error::{Error, Result};
use crate::frame::{PORT_NAME, Request};
use crate::guest::GuestImage;
use crate::image::lab_image;
use crate::initramfs::Initramfs;
use crate::job::{Done, Job, Line};
use crate::layout;
use crate::link::Link;
use crate::packages::{Cache, Kernel, Set};
use crate::qemu::Qemu;
use crate::running::Running;

/// Time from start to the agent's first word after which a boot counts as
/// hung. A boot takes 3 s; a host with its processors taken away stretches it.
const BOOT: Duration = Duration::from_secs(90);

/// Time for the agent to answer before a machine counts as hung. Emulated
/// machines on loaded hosts stall for seconds.
const ANSWER: Duration = Duration::from_secs(30);

/// Time to switch off in an orderly way before it is done the hard way.
const SWITCH_OFF: Duration = Duration::from_secs(10);

type ConsoleLine = Arc<dyn Fn(&str) + Send + Sync>;

/// What a lab is to be made of.
pub struct Builder<'a> {
    cache: &'a Cache,
    kernel: Kernel,
    memory_mib: u32,
    cpus: u8,
    agent: Option<PathBuf>,
    files: Vec<(String, PathBuf)>,
    programs: Vec<(Set, String)>,
    modules: Vec<String>,
    forwards: Vec<(Option<u16>, u16)>,
    guest: Option<GuestImage>,
    on_console: Option<ConsoleLine>,
    interrupted: fn() -> bool,
    boot_timeout: Duration,
    answer_timeout: Duration,
}

impl<'a> Builder<'a> {
    fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            kernel: Kernel::default(),
            memory_mib: 1536,
            cpus: 1,
            agent: None,
            files: Vec::new(),
            programs: Vec::new(),
            modules: Vec::new(),
            forwards: Vec::new(),
            guest: None,
            on_console: None,
            interrupted: || false,
            boot_timeout: BOOT,
            answer_timeout: ANSWER,
        }
    }

    /// The kernel whose KVM is used.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Memory of the machine.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Processors of the machine. One is the default and the safe choice:
    /// with two, machines that run VMs with several processors crash often.
    #[must_use]
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Puts an executable copy of a host file into the machine.
    #[must_use]
    pub fn file(mut self, inside: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        self.files.push((inside.into(), from.into()));
        self
    }

    /// Puts a program of a set of packages into `/bin` of the machine,
    /// together with the libraries it needs.
    #[must_use]
    pub fn program(mut self, set: Set, name: impl Into<String>) -> Self {
        self.programs.push((set, name.into()));
        self
    }

    /// Loads one more kernel module (and what it depends on).
    #[must_use]
    pub fn module(mut self, name: impl Into<String>) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Makes a TCP port of the machine reachable from the host;
    /// [`Lab::forwarded`] tells where. The host's connect succeeds before
    /// anything listens inside: wait for a reply, not for a connection.
    #[must_use]
    pub fn port_forward(mut self, inside: u16) -> Self {
        self.forwards.push((None, inside));
        self
    }

    /// As [`Builder::port_forward`], at a given port of the host's loopback.
    #[must_use]
    pub fn port_forward_at(mut self, host: u16, inside: u16) -> Self {
        self.forwards.push((Some(host), inside));
        self
    }

    /// Puts a guest's kernel and initrd into the machine, at
    /// [`layout::GUEST_KERNEL`] and [`layout::GUEST_INITRD`].
    #[must_use]
    pub fn guest(mut self, guest: GuestImage) -> Self {
        self.guest = Some(guest);
        self
    }

    /// Where the `lab-agent` program is, if not beside the running program.
    #[must_use]
    pub fn agent(mut self, path: impl Into<PathBuf>) -> Self {
        self.agent = Some(path.into());
        self
    }

    /// Calls `on_line` with every line of the machine's console.
    #[must_use]
    pub fn on_console(mut self, on_line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_console = Some(Arc::new(on_line));
        self
    }

    /// Asked many times a second while something is waited for: once it gives
    /// `true`, every wait ends with [`Error::Interrupted`].
    #[must_use]
    pub fn interrupted(mut self, interrupted: fn() -> bool) -> Self {
        self.interrupted = interrupted;
        self
    }

    /// How long a boot may take before it counts as hung.
    #[must_use]
    pub fn boot_timeout(mut self, timeout: Duration) -> Self {
        self.boot_timeout = timeout;
        self
    }

    /// How long a booted machine may take to say that it is alive, when it is
    /// asked because a job's time is over, before it counts as hung.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Builds the image, boots the machine and waits until it takes jobs.
    ///
    /// # Errors
    /// A file is missing, QEMU does not start, or the machine dies or hangs.
    pub fn boot(self) -> Result<Lab> {
        // In memory and reached through this process, so that no file is left
        // behind however this process ends.
        let initrd = memfd_create("lab-initrd", MemfdFlags::CLOEXEC)
            .map_err(|error| Error::io("cannot get memory for the image")(error.into()))?;
        let initrd = File::from(initrd);
        self.image()?
            .write(&mut BufWriter::with_capacity(1 << 20, &initrd))?;
        let initrd_path = format!("/proc/{}/fd/{}", std::process::id(), initrd.as_raw_fd());
        let forwards = self.forward_addresses()?;
        let mut command = self.qemu_command(&initrd_path)?;
        command.arg("-netdev").arg(netdev(&forwards));

        let (ours, theirs) =
            UnixStream::pair().map_err(Error::io("cannot create the agent's socket"))?;
        let console = Console::new(self.on_console);
        let link = Link::new(ours, console.clone(), self.answer_timeout, self.interrupted)?;
        let told = Arc::clone(&link);
        let qemu = Qemu::start(command, OwnedFd::from(theirs), &console, move |status| {
            told.gone(status.to_string());
        })?;
        let lab = Lab {
            link,
            forwards,
            _qemu: qemu,
        };
        lab.link.wait_ready(self.boot_timeout)?;
        Ok(lab)
    }

    fn image(&self) -> Result<Initramfs> {
        let agent = match &self.agent {
            Some(path) => path.clone(),
            None => sibling("lab-agent")?,
        };
        let kernel = self.cache.kernel(self.kernel)?;
        let mut image = lab_image(self.cache, &kernel, &agent, &self.modules)?;
        for (set, name) in &self.programs {
            crate::image::add_program(&mut image, self.cache, *set, name)?;
        }
        for (inside, from) in &self.files {
            image.copy(inside, 0o755, from);
        }
        if let Some(guest) = &self.guest {
            image.copy(layout::GUEST_KERNEL, 0o644, guest.kernel());
            image.bytes(layout::GUEST_INITRD, 0o644, guest.initrd());
        }
        Ok(image)
    }

    fn forward_addresses(&self) -> Result<Vec<(SocketAddr, u16)>> {
        let choose = |(host, inside): &(Option<u16>, u16)| {
            // A free port is found by asking for one and giving it back.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host.unwrap_or(0)));
            let address = listener.and_then(|listener| listener.local_addr());
            let what = format!("cannot get a port of this host for the lab's port {inside}");
            Ok((address.map_err(Error::io(what))?, *inside))
        };
        self.forwards.iter().map(choose).collect()
    }

    fn qemu_command(&self, initrd: &str) -> Result<Command> {
        let root = self.cache.root(Set::Qemu);
        let mut command = self.cache.command(Set::Qemu, "qemu-system-x86_64")?;
        command.env(
            "QEMU_MODULE_DIR",
            root.join("usr/lib/x86_64-linux-gnu/qemu"),
        );
        for data in ["share/qemu", "share/seabios", "lib/ipxe/qemu"] {
            command.arg("-L").arg(root.join("usr").join(data));
        }
        let smp = self.cpus.to_string();
        let memory = self.memory_mib.to_string();
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi"]);
        command.args(["-cpu", "EPYC,+svm,+npt", "-smp", &smp, "-m", &memory]);
        command.args(["-name", "lab,debug-threads=on", "-nodefaults"]);
        command.args(["-no-user-config", "-display", "none", "-no-reboot"]);
        // Standard input is the agent's socket, standard output the console.
        command.args(["-serial", "file:/dev/fd/1", "-monitor", "none"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-chardev", "socket,id=agent,fd=0", "-device"]);
        command.arg(format!("virtserialport,chardev=agent,name={PORT_NAME}"));
        command.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
        command.arg("-kernel");
        command.arg(self.cache.kernel(self.kernel)?.image());
        command.arg("-initrd").arg(initrd);
        // Without tsc=reliable the clock falls back to a far slower one.
        let append = "console=ttyS0 panic=-1 quiet tsc=reliable";
        command.args(["-append", append]);
        Ok(command)
    }
}

fn netdev(forwards: &[(SocketAddr, u16)]) -> String {
    let mut netdev = "user,id=n".to_owned();
    for (host, inside) in forwards {
        netdev.push_str(&format!(
            ",hostfwd=tcp:{}:{}-:{inside}",
            host.ip(),
            host.port()
        ));
    }
    netdev
}

/// A program that was built together with the running one.
fn sibling(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
    // Test programs are one folder below the others.
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| Error::MissingProgram {
            program: name.to_owned(),
            advice: "build it with `cargo build --release -p afterimage-lab`",
        })
}

/// A booted machine. Dropping it ends it, with everything in it.
pub struct Lab {
    link: Arc<Link>,
    forwards: Vec<(SocketAddr, u16)>,
    _qemu: Qemu,
}

impl Lab {
    /// A machine made of what is in `cache`.
    #[must_use]
    pub fn builder(cache: &Cache) -> Builder<'_> {
        Builder::new(cache)
    }

    /// Runs a job to its end; see [`Running::wait`].
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn run(&self, job: &Job, on_line: impl FnMut(Line<'_>)) -> Result<Done> {
        self.spawn(job)?.wait(on_line)
    }

    /// Starts a job. Any number may run at the same time.
    ///
    /// # Errors
    /// The lab is gone. That the program could not be started is told by
    /// waiting for it.
    pub fn spawn(&self, job: &Job) -> Result<Running> {
        Running::start(&self.link, job)
    }

    /// Where the host reaches a port of the machine, if it was forwarded.
    #[must_use]
    pub fn forwarded(&self, inside: u16) -> Option<SocketAddr> {
        self.forwards
            .iter()
            .find(|(_, port)| *port == inside)
            .map(|(host, _)| *host)
    }

    /// The content of a file inside the machine, up to
    /// [`OUTPUT_LIMIT`](crate::OUTPUT_LIMIT).
    ///
    /// # Errors
    /// There is no such file, or the lab is gone.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let job = Job::new(layout::BUSYBOX).arg("cat").arg(path);
        let done = self.run(&job, |_| ())?.expect_success()?;
        Ok(done.stdout)
    }

    /// The machine's memory of its console: the last lines.
    #[must_use]
    pub fn console(&self) -> Vec<String> {
        self.link.console_tail().lines
    }

    /// Switches the machine off and says whether it went off by itself.
    ///
    /// # Errors
    /// The machine is gone already.
    pub fn power_off(self) -> Result<bool> {
        self.link.send(&Request::PowerOff)?;
        Ok(self.link.wait_gone(SWITCH_OFF))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.link.close();
    }
}
