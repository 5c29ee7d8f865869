//! The programs under trial, started as a user would start them.

use crate::process::{Echo, PATIENCE, Program};
use anyhow::{Context as _, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Name of the area in all trials.
pub const AREA: &str = "kv";

/// The path of a program of this workspace, which lies beside the running one.
///
/// # Errors
/// If it was not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program lies")?;
    // A test lies one folder deeper than a program.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not beside {}: run `cargo build --release -p afterimage-cli -p afterimage-kv`",
                this.display()
            )
        })
}

/// A folder of its own for one trial, with the logs of its programs.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    echo: Echo,
}

impl World {
    /// An empty world; dropping it removes its files.
    ///
    /// # Errors
    /// If no folder can be made.
    pub fn new() -> anyhow::Result<Self> {
        Self::echoing(Echo::none())
    }

    /// An empty world whose programs' lines also go to `echo`.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn echoing(echo: Echo) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("afterimage-").tempdir()?;
        Ok(Self { folder, echo })
    }

    /// Where its files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of an embedded area, as a target.
    #[must_use]
    pub fn embedded(&self) -> String {
        format!("dir:{}", self.path().join("area").display())
    }

    /// Starts a backup; `port` 0 takes a free one.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn backup(&self, port: u16) -> anyhow::Result<Backup> {
        let mut command = Command::new(binary("afterimage")?);
        command
            .args(["backup", "--listen", &format!("127.0.0.1:{port}"), "--dir"])
            .arg(self.path().join("backup"));
        let mut program = Program::start(command, "backup", self.path(), &self.echo)?;
        let address = ready_on(&mut program, PATIENCE)?;
        Ok(Backup { program, address })
    }

    /// Starts the key-value server on a free port.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn server(&self, options: &[&str]) -> anyhow::Result<Server> {
        let mut program = self.server_unready(options)?;
        let address = ready_on(&mut program, PATIENCE)?;
        Ok(Server { program, address })
    }

    /// Starts the key-value server, without waiting that it becomes ready.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn server_unready(&self, options: &[&str]) -> anyhow::Result<Program> {
        let mut command = Command::new(binary("afterimage-kv")?);
        command
            .args(["--listen", "127.0.0.1:0", "--area", AREA])
            .args(options)
            // Whatever the user has configured is none of a trial's business.
            .env_remove("AFTERIMAGE_TARGETS")
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("XDG_STATE_HOME", self.path().join("state"));
        Program::start(command, "server", self.path(), &self.echo)
    }

    /// Starts any program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, command: Command, name: &str) -> anyhow::Result<Program> {
        Program::start(command, name, self.path(), &self.echo)
    }

    /// Makes the image of the backup at `address` the live area.
    ///
    /// # Errors
    /// If it is refused; with what it printed.
    pub fn promote(&self, address: SocketAddr) -> anyhow::Result<()> {
        self.afterimage(&["promote", &format!("tcp://{address}"), "--area", AREA])?;
        Ok(())
    }

    /// Runs `afterimage` with `arguments` to its end; what it printed on
    /// standard output.
    ///
    /// # Errors
    /// If its exit status is not 0; with what it printed.
    pub fn afterimage(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(binary("afterimage")?)
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!(
                "`afterimage {}` ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A backup that listens.
#[derive(Debug)]
pub struct Backup {
    /// The process.
    pub program: Program,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Backup {
    /// As a target of a primary.
    #[must_use]
    pub fn target(&self) -> String {
        format!("tcp://{}", self.address)
    }
}

/// A key-value server that serves clients.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub program: Program,
    /// Where clients connect.
    pub address: SocketAddr,
}

/// Waits until `program` says where it is ready.
///
/// # Errors
/// If it does not within `patience`.
pub fn ready_on(program: &mut Program, patience: Duration) -> anyhow::Result<SocketAddr> {
    let line = program.wait_for_line("ready on ", patience)?;
    line.split_whitespace()
        .nth(2)
        .map(|address| address.strip_prefix("tcp://").unwrap_or(address))
        .and_then(|address| address.parse().ok())
        .with_context(|| format!("no address in {line:?}"))
}
