//! Where virtual machines can run: on this machine, if its KVM runs guests at a
//! usable speed, else in the lab. Either way the same programs do the same
//! things.

use crate::process::{Echo, Program, interrupted};
use crate::programs::binary;
use afterimage_lab::{
    Cache, GuestImage, Job, Kernel, Lab, Line, Progress, Set, Status, Stream, layout,
};
use anyhow::{Context as _, bail};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A network namespace begins without a loopback that works.
const WITH_LOOPBACK: &str = r#""$0" ip link set lo up && exec "$@""#;

/// Programs of stock Redis, for those who ask for them.
const REDIS: [&str; 3] = ["redis-server", "redis-cli", "redis-benchmark"];

/// Takes a line that a program printed on standard output.
pub type TakeLine = Arc<dyn Fn(&str) + Send + Sync>;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its exit status.
    pub status: i32,
    /// The end of what it printed, standard error included.
    pub text: String,
}

impl End {
    /// Nothing, if its exit status is 0.
    ///
    /// # Errors
    /// What it printed.
    pub fn expect_success(self) -> anyhow::Result<()> {
        if self.status != 0 {
            bail!("exit status {}: {}", self.status, self.text.trim_end());
        }
        Ok(())
    }
}

/// What is needed there.
pub struct Wants {
    /// Programs in the guest beside the key-value server: path inside, file.
    pub guest: Vec<(String, PathBuf)>,
    /// Whether stock Redis's programs are in the PATH.
    pub redis: bool,
    /// Takes what the lab's console prints.
    pub console: TakeLine,
    /// Told what is being done.
    pub step: TakeLine,
}

/// A place with real KVM, a guest, and our programs.
pub struct Place(Kind);

enum Kind {
    Here {
        folder: tempfile::TempDir,
        kernel: PathBuf,
        busybox: PathBuf,
        variables: Vec<(&'static str, String)>,
    },
    Lab(Lab),
}

impl Wants {
    /// Only the guest, shown to nobody.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            guest: Vec::new(),
            redis: false,
            console: Arc::new(|_| ()),
            step: Arc::new(|_| ()),
        }
    }
}

impl Place {
    /// Fetches what is not here yet, and boots the lab if it is needed.
    ///
    /// # Errors
    /// If something cannot be had; with what to do.
    pub fn prepare(wants: Wants) -> anyhow::Result<Self> {
        (wants.step)("fetching Debian's kernel and tools, unless they are here");
        let told = Arc::clone(&wants.step);
        let cache = Cache::prepare(&Cache::default_dir(), &mut |p: Progress<'_>| {
            told(&match p.total {
                0 => p.step.to_owned(),
                total => format!("{} ({} of {total})", p.step, p.done),
            });
        })?;
        let server = binary("afterimage-kv")?;
        let mut files = vec![("/bin/afterimage-kv", server.as_path())];
        files.extend(
            wants
                .guest
                .iter()
                .map(|(to, from)| (to.as_str(), from.as_path())),
        );
        let guest = GuestImage::new(&cache, Kernel::default(), &files)?;
        match afterimage_lab::usable_kvm() {
            Ok(_) => Self::here(&cache, &guest, &wants),
            Err(why) => {
                (wants.step)(&format!("{:#}", anyhow::Error::from(why)));
                (wants.step)("booting the lab: an emulated machine that has real KVM");
                Self::lab(&cache, guest, wants)
            }
        }
    }

    fn here(cache: &Cache, guest: &GuestImage, wants: &Wants) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("afterimage-").tempdir()?;
        std::fs::write(folder.path().join("initrd"), guest.initrd())?;
        let mut variables = Vec::new();
        if wants.redis {
            // Ours are linked statically, so the libraries are for Redis only.
            let command = cache.command(Set::Redis, REDIS[0])?;
            let libraries = command.get_envs().find_map(|(name, value)| {
                (name == "LD_LIBRARY_PATH").then(|| value?.to_str().map(str::to_owned))?
            });
            variables.extend(libraries.map(|l| ("LD_LIBRARY_PATH", l)));
            let tools = cache.program(Set::Redis, REDIS[0])?;
            let tools = tools.parent().context("a program lies in a folder")?;
            let path = std::env::var("PATH").unwrap_or_default();
            variables.push(("PATH", format!("{}:{path}", tools.display())));
        }
        Ok(Self(Kind::Here {
            folder,
            kernel: guest.kernel().to_owned(),
            busybox: cache.busybox(),
            variables,
        }))
    }

    fn lab(cache: &Cache, guest: GuestImage, wants: Wants) -> anyhow::Result<Self> {
        let console = wants.console;
        let mut builder = Lab::builder(cache)
            .guest(guest)
            .interrupted(interrupted)
            .on_console(move |line| console(line));
        for name in [
            "afterimage",
            "afterimage-kv",
            "demo",
            "machine-trial",
            "compare",
        ] {
            builder = builder.file(format!("/bin/{name}"), binary(name)?);
        }
        if wants.redis {
            builder = REDIS
                .iter()
                .fold(builder, |builder, name| builder.program(Set::Redis, *name));
        }
        Ok(Self(Kind::Lab(
            builder.boot().context("cannot boot the lab")?,
        )))
    }

    /// Kernel and initrd of the guest, as programs there find them.
    #[must_use]
    pub fn guest(&self) -> [String; 2] {
        match &self.0 {
            Kind::Here { folder, kernel, .. } => {
                [kernel.clone(), folder.path().join("initrd")].map(|p| p.display().to_string())
            }
            Kind::Lab(_) => [layout::GUEST_KERNEL, layout::GUEST_INITRD].map(str::to_owned),
        }
    }

    /// Runs one of our programs there to its end. On this
    /// machine it gets a network of its own, where connecting a guest takes no
    /// privilege and leaves nothing behind.
    ///
    /// # Errors
    /// If it cannot be run, is killed, or takes longer than `patience`.
    pub fn run(
        &self,
        program: &str,
        arguments: &[String],
        patience: Duration,
        on_line: &TakeLine,
    ) -> anyhow::Result<End> {
        match &self.0 {
            Kind::Here {
                folder,
                busybox,
                variables,
                ..
            } => {
                let mut command = Command::new("unshare");
                command
                    .args(["--user", "--map-root-user", "--net"])
                    .args(["/bin/sh", "-c", WITH_LOOPBACK])
                    .arg(busybox)
                    .arg(binary(program)?)
                    .args(arguments)
                    .envs(variables.iter().map(|(name, value)| (name, value)));
                let take = Arc::clone(on_line);
                let echo = Echo::new(move |_, line| take(line));
                let mut running = Program::start(command, program, folder.path(), &echo)?;
                let status = running.wait_for_end(patience)?;
                let text = running.tail();
                let status = status
                    .code()
                    .with_context(|| format!("{program} ended with {status}{text}"))?;
                Ok(End { status, text })
            }
            Kind::Lab(lab) => {
                let job = Job::new(format!("/bin/{program}"))
                    .args(arguments)
                    .timeout(patience);
                let done = lab.run(&job, |line: Line<'_>| {
                    if line.stream == Stream::Stdout {
                        on_line(line.text);
                    }
                })?;
                let Status::Exited(status) = done.status else {
                    done.expect_success()?;
                    bail!("{program} ended in an unexpected way");
                };
                let text = String::from_utf8_lossy(&done.stderr).into_owned();
                Ok(End { status, text })
            }
        }
    }
}
