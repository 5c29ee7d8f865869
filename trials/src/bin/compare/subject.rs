//! What is measured, running.

use afterimage_lab::{Cache, Set};
use afterimage_trials::deployment::Deployment;
use afterimage_trials::machines::{Guest, Machines};
use afterimage_trials::process::{PATIENCE, Program};
use afterimage_trials::programs::World;
use anyhow::Context as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server that answers SET.
#[derive(Debug)]
pub(crate) struct Subject {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// The row with the same level of safety.
    pub(crate) beside: Option<&'static str>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Whether each SET is followed by `WAIT 1 0` in the same write.
    pub(crate) waits: bool,
    /// Ends with it.
    _running: Running,
}

#[derive(Debug)]
#[expect(dead_code, reason = "kept alive, not looked at")]
enum Running {
    Deployment(Deployment),
    Machines(Machines),
    Redis(Vec<Program>, World),
}

const REDIS_FSYNC: &str = "redis, appendfsync always";
const REDIS_WAIT: &str = "redis, one replica, WAIT 1";

/// Starts everything.
pub(crate) fn all(
    redis_server: Option<&Path>,
    guest: Option<&[PathBuf]>,
) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = vec![
        redis_fsync(redis_server)?,
        deployment(
            "afterimage-kv, embedded (durable)",
            REDIS_FSYNC,
            Deployment::embedded(&[])?,
        )?,
        redis_wait(redis_server)?,
        deployment(
            "afterimage-kv, process (replicated)",
            REDIS_WAIT,
            Deployment::replicated(&[])?,
        )?,
    ];
    if let Some([kernel, initrd]) = guest {
        let guest = Guest {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
        };
        let mut machines = Machines::new(World::new()?, guest)?;
        subjects.push(Subject {
            name: "afterimage-kv, guest (replicated)",
            beside: Some(REDIS_WAIT),
            address: machines.boot()?,
            waits: false,
            _running: Running::Machines(machines),
        });
    }
    Ok(subjects)
}

fn deployment(
    name: &'static str,
    beside: &'static str,
    deployment: Deployment,
) -> anyhow::Result<Subject> {
    Ok(Subject {
        name,
        beside: Some(beside),
        address: deployment.address()?,
        waits: false,
        _running: Running::Deployment(deployment),
    })
}

fn redis_fsync(server: Option<&Path>) -> anyhow::Result<Subject> {
    let world = World::new()?;
    let (program, address) = redis(
        server,
        &world,
        &["--appendonly", "yes", "--appendfsync", "always"],
    )?;
    Ok(Subject {
        name: REDIS_FSYNC,
        beside: None,
        address,
        waits: false,
        _running: Running::Redis(vec![program], world),
    })
}

fn redis_wait(server: Option<&Path>) -> anyhow::Result<Subject> {
    let world = World::new()?;
    let (primary, address) = redis(server, &world, &["--repl-diskless-sync-delay", "0"])?;
    let port = address.port().to_string();
    let replica_world = World::new()?;
    let (mut replica, _) = redis(server, &replica_world, &["--replicaof", "127.0.0.1", &port])?;
    replica
        .wait_for_line_with("MASTER <-> REPLICA sync: Finished with success", PATIENCE)
        .context("the replica did not catch up")?;
    Ok(Subject {
        name: REDIS_WAIT,
        beside: None,
        address,
        waits: true,
        _running: Running::Redis(vec![primary, replica], world),
    })
}

fn redis(
    server: Option<&Path>,
    world: &World,
    options: &[&str],
) -> anyhow::Result<(Program, SocketAddr)> {
    let mut command = match server {
        Some(path) => Command::new(path),
        None => Cache::prepare_sets(&Cache::default_dir(), &[Set::Redis], &mut |_| {})?
            .command(Set::Redis, "redis-server")?,
    };
    // Redis does not take port 0, so a free one is looked for first.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    command
        .args(["--port", &address.port().to_string(), "--save", "", "--dir"])
        .arg(world.path())
        .args(options);
    let mut program = world.start(command, "redis")?;
    program.wait_for_line_with("Ready to accept connections", PATIENCE)?;
    Ok((program, address))
}
