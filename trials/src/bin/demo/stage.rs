//! What is killed and who takes over.

use crate::event::{Emit, Event};
use afterimage_trials::deployment::Deployment;
use afterimage_trials::machines::{Guest, Machines};
use afterimage_trials::process::Echo;
use afterimage_trials::programs::World;
use std::net::SocketAddr;
use std::sync::Arc;

/// A server that can be killed, with somebody to take over.
pub(crate) trait Stage {
    /// What the server is, for a person.
    fn name(&self) -> &'static str;

    /// Where the first server serves clients.
    fn begin(&mut self) -> anyhow::Result<SocketAddr>;

    /// Kills the server with SIGKILL.
    fn kill(&mut self) -> anyhow::Result<()>;

    /// Lets another one take over; where it serves clients.
    fn take_over(&mut self) -> anyhow::Result<SocketAddr>;
}

/// Ordinary processes.
pub(crate) struct Processes {
    deployment: Deployment,
    emit: Emit,
}

impl Processes {
    /// A server whose data are in a directory.
    pub(crate) fn embedded(options: &[&str], emit: &Emit) -> anyhow::Result<Self> {
        step(emit, "starting the server, its data in a directory");
        Ok(Self {
            deployment: Deployment::embedded_in(World::echoing(echo(emit))?, options)?,
            emit: Arc::clone(emit),
        })
    }

    /// A server with a backup.
    pub(crate) fn replicated(options: &[&str], emit: &Emit) -> anyhow::Result<Self> {
        step(emit, "starting the backup and the server");
        Ok(Self {
            deployment: Deployment::replicated_in(
                World::echoing(echo(emit))?,
                options,
                |backup| Ok(backup.target()),
            )?,
            emit: Arc::clone(emit),
        })
    }
}

impl Stage for Processes {
    fn name(&self) -> &'static str {
        "the server's process"
    }

    fn begin(&mut self) -> anyhow::Result<SocketAddr> {
        self.deployment.address()
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.deployment.kill_server()
    }

    fn take_over(&mut self) -> anyhow::Result<SocketAddr> {
        step(
            &self.emit,
            if self.deployment.backup().is_ok() {
                "the backup is promoted and another process takes over"
            } else {
                "the server is started again from its directory"
            },
        );
        self.deployment.take_over()?;
        self.deployment.address()
    }
}

/// Virtual machines.
pub(crate) struct VirtualMachines {
    machines: Machines,
    emit: Emit,
}

impl VirtualMachines {
    /// A backup; the machine comes with [`Stage::begin`].
    pub(crate) fn new(guest: Guest, emit: &Emit) -> anyhow::Result<Self> {
        step(emit, "starting the backup");
        Ok(Self {
            machines: Machines::new(World::echoing(echo(emit))?, guest)?,
            emit: Arc::clone(emit),
        })
    }
}

impl Stage for VirtualMachines {
    fn name(&self) -> &'static str {
        "the server in its virtual machine"
    }

    fn begin(&mut self) -> anyhow::Result<SocketAddr> {
        step(
            &self.emit,
            "booting a virtual machine: a stock Debian kernel with the server in it",
        );
        self.machines.boot()
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.machines.kill()
    }

    fn take_over(&mut self) -> anyhow::Result<SocketAddr> {
        step(
            &self.emit,
            "the backup is promoted and another virtual machine boots with its image",
        );
        self.machines.promote()?;
        self.machines.boot()
    }
}

/// Makes events of what programs print.
fn echo(emit: &Emit) -> Echo {
    let emit = Arc::clone(emit);
    Echo::new(move |source, line| {
        emit(Event::Console {
            source: source.to_owned(),
            line: line.to_owned(),
        });
    })
}

fn step(emit: &Emit, text: &str) {
    emit(Event::Step {
        text: text.to_owned(),
    });
}
