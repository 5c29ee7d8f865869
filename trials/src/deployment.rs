//! The key-value server with what keeps its data, and how another takes over.

use crate::dice::Dice;
use crate::fault::Fault;
use crate::ledger::State;
use crate::load::{Load, read_back};
use crate::process::PATIENCE;
use crate::programs::{Backup, Server, World};
use crate::record::Record;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A server and its target.
#[derive(Debug)]
pub struct Deployment {
    // Dropped in this order: server, backup, files.
    server: Option<Server>,
    backup: Option<Backup>,
    options: Vec<String>,
    world: World,
}

impl Deployment {
    /// A server whose data are in a directory, started with these options.
    ///
    /// # Errors
    /// If it does not start.
    pub fn embedded(options: &[&str]) -> anyhow::Result<Self> {
        Self::embedded_in(World::new()?, options)
    }

    /// As [`Deployment::embedded`], in a world that is there.
    ///
    /// # Errors
    /// If it does not start.
    pub fn embedded_in(world: World, options: &[&str]) -> anyhow::Result<Self> {
        let target = world.embedded();
        Self {
            server: None,
            backup: None,
            options: with_target(options, &target),
            world,
        }
        .started()
    }

    /// A server with a backup as its only target.
    ///
    /// # Errors
    /// If one of them does not start.
    pub fn replicated(options: &[&str]) -> anyhow::Result<Self> {
        Self::replicated_in(World::new()?, options, |backup| Ok(backup.target()))
    }

    /// As [`Deployment::replicated`], in a world that is there, and the server
    /// reaches the backup at the target that `reach` returns.
    ///
    /// # Errors
    /// If one of them does not start, or `reach` fails.
    pub fn replicated_in(
        world: World,
        options: &[&str],
        reach: impl FnOnce(&Backup) -> anyhow::Result<String>,
    ) -> anyhow::Result<Self> {
        let backup = world.backup(0)?;
        Self {
            server: None,
            options: with_target(options, &reach(&backup)?),
            backup: Some(backup),
            world,
        }
        .started()
    }

    fn started(mut self) -> anyhow::Result<Self> {
        self.start_server()?;
        Ok(self)
    }

    /// The files and programs around it.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The backup.
    ///
    /// # Errors
    /// If there is none, or it is killed.
    pub fn backup(&self) -> anyhow::Result<&Backup> {
        self.backup.as_ref().context("no backup runs")
    }

    /// Where the server serves clients.
    ///
    /// # Errors
    /// If it is killed.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.server.as_ref().context("no server runs")?.address)
    }

    /// The options that the server is started with.
    #[must_use]
    pub fn options(&self) -> Vec<&str> {
        self.options.iter().map(String::as_str).collect()
    }

    /// Takes the server out, so that the next one starts beside it.
    ///
    /// # Errors
    /// If it is killed.
    pub fn take_server(&mut self) -> anyhow::Result<Server> {
        self.server.take().context("no server runs")
    }

    /// Kills the server with SIGKILL.
    ///
    /// # Errors
    /// If there is none.
    pub fn kill_server(&mut self) -> anyhow::Result<()> {
        self.take_server()?.program.kill()
    }

    /// Kills the backup with SIGKILL; the port that it listened on.
    ///
    /// # Errors
    /// If there is none.
    pub fn kill_backup(&mut self) -> anyhow::Result<u16> {
        let backup = self.backup.take().context("no backup runs")?;
        backup.program.kill()?;
        Ok(backup.address.port())
    }

    /// Starts the backup again, with its old directory.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_backup(&mut self, port: u16) -> anyhow::Result<()> {
        self.backup = Some(self.world.backup(port)?);
        Ok(())
    }

    /// Starts a server, which goes on from what the target holds. With a
    /// backup, somebody has to promote it first.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        let server = self.world.server(&self.options())?;
        self.server = Some(server);
        Ok(())
    }

    /// Lets another server take over: promotes the backup, if there is one.
    ///
    /// # Errors
    /// If the takeover is refused or the server does not start.
    pub fn take_over(&mut self) -> anyhow::Result<()> {
        if let Some(backup) = &self.backup {
            self.world.promote(backup.address)?;
        }
        self.start_server()
    }

    /// Reads what the server holds of `record`'s keys.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn read(&self, record: &Record) -> anyhow::Result<State> {
        read_back(self.address()?, record.keys(), PATIENCE)
    }

    /// Judges the server's data, lets another server take over without a write
    /// in between, and judges again: what was seen once must stay.
    ///
    /// # Errors
    /// If a server does not answer or start.
    pub fn judge_twice(&mut self, record: &mut Record) -> anyhow::Result<Vec<Fault>> {
        let found = self.read(record)?;
        let mut faults = record.judge(&found);
        record.settle(&found);
        self.kill_server()?;
        self.take_over()?;
        faults.extend(record.judge(&self.read(record)?));
        Ok(faults)
    }

    /// One cycle: load, SIGKILL of the server at a random moment, takeover,
    /// judgement, second takeover, second judgement.
    ///
    /// # Errors
    /// If something other than the server's promise fails.
    pub fn kill_under_load(
        &mut self,
        record: Record,
        pipeline: usize,
        dice: &mut Dice,
    ) -> anyhow::Result<(Record, Vec<Fault>)> {
        let load = Load {
            pipeline,
            ..Load::on(self.address()?)
        };
        let running = load.start(record, dice);
        running
            .wait_for(1 + dice.below(300), PATIENCE)
            .with_context(|| self.server_log())?;
        spin(Duration::from_micros(dice.below(2000)));
        self.kill_server()?;
        let mut record = running.join()?;
        self.take_over()?;
        let faults = self.judge_twice(&mut record)?;
        Ok((record, faults))
    }

    /// What the server printed, for an error message.
    #[must_use]
    pub fn server_log(&self) -> String {
        match &self.server {
            Some(server) => format!("server trouble{}", server.program.tail()),
            None => "no server runs".to_owned(),
        }
    }
}

fn with_target(options: &[&str], target: &str) -> Vec<String> {
    ["--target", target]
        .iter()
        .chain(options)
        .map(|&word| word.to_owned())
        .collect()
}

/// Lets a random time pass, more exactly than sleeping would: the moment of
/// death is what varies from one cycle to the next.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}
