//! `afterimage-kv`: a key-value server that speaks the Redis protocol.
//!
//! The same program as an ordinary process and in a guest: it opens an area by
//! name and the library finds out where it runs.
#![cfg_attr(not(test), deny(unsafe_code))]

mod clients;
mod commands;
mod connection;
#[allow(unsafe_code)]
mod data;
mod facts;
mod glob;
mod inline;
mod limits;
mod options;
mod reply;
mod request;
mod server;
mod store;

use afterimage::Area;
use anyhow::Context as _;
use clap::Parser as _;
use data::Kv;
use facts::Facts;
use options::Options;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::{End, Server};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Descriptors besides those of the clients.
const OWN_DESCRIPTORS: u64 = 64;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            EnvFilter::builder()
                .with_env_var("AFTERIMAGE_LOG")
                .with_default_directive(LevelFilter::WARN.into())
                .from_env_lossy(),
        )
        .init();
    match run(&Options::parse()) {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Fenced(term)) => {
            eprintln!(
                "afterimage-kv: fenced: another primary has taken over in term {term}; \
                 writes that were not acknowledged may or may not be part of its data"
            );
            ExitCode::from(3)
        }
        Ok(End::InDoubt) => {
            eprintln!(
                "afterimage-kv: a target failed or contact with it was lost in a commit: its \
                 writes were not acknowledged and may or may not be safe; start again to find out"
            );
            ExitCode::from(4)
        }
        Err(error) => {
            eprintln!("afterimage-kv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<End> {
    let signal = end_signals().context("cannot handle signals")?;
    // Before the area is opened: a server that cannot serve must not begin a
    // reign.
    let listener = std::net::TcpListener::bind(options.listen).with_context(|| {
        format!(
            "cannot listen on {}; --listen takes another",
            options.listen
        )
    })?;
    let mut area = open(options)?;
    let status = area.status();
    let facts = Facts {
        started: Instant::now(),
        debug_allowed: options.enable_debug_command,
        max_clients: descriptors_for(options.maxclients)?,
        area: status.name.to_string(),
        area_len: status.len,
        engine: status.engine.to_string(),
        tracker: status.tracker.to_string(),
        term: status.term.0,
        epoch: status.epoch.0,
        outcome: "none".to_owned(),
        clients: 0,
        connections: 0,
        refused: 0,
        commands: 0,
        commits: 0,
        degraded: 0,
    };
    let ready = format!(
        "(area {}, {}, epoch {}, term {}, {} keys)",
        facts.area,
        facts.engine,
        facts.epoch,
        facts.term,
        area.root().store.len()
    );
    let early = options.test_acknowledge_before_commit;
    let server = Server::new(listener, signal, facts, early)?;
    let address = server.address()?;
    if let Some(path) = &options.port_file {
        std::fs::write(path, format!("{address}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Whoever started us may not care to read it.
    let _ = writeln!(std::io::stdout(), "ready on {address} {ready}");
    server.run(&mut area)
}

fn open(options: &Options) -> anyhow::Result<Area<Kv>> {
    let mut builder = Area::<Kv>::builder(&options.area).len(options.size);
    for target in &options.targets {
        builder = builder.target(target)?;
    }
    if let Some(level) = options.level {
        builder = builder.level(level);
    }
    if let Some(quorum) = options.quorum {
        builder = builder.quorum(quorum);
    }
    if let Some(on_loss) = options.on_loss {
        builder = builder.on_loss(on_loss);
    }
    Ok(builder.open()?)
}

/// A stream that becomes readable when SIGINT or SIGTERM arrives.
fn end_signals() -> std::io::Result<mio::net::UnixStream> {
    let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A commit that waits for its targets keeps the loop from noticing;
        // whoever asks twice means it. The order counts: the second signal
        // finds what the first has set.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(mio::net::UnixStream::from_std(receiver))
}

/// Asks the system for a descriptor for each client; how many clients fit.
fn descriptors_for(clients: usize) -> anyhow::Result<usize> {
    let wanted = u64::try_from(clients)?.saturating_add(OWN_DESCRIPTORS);
    let limit = getrlimit(Resource::Nofile);
    let Some(now) = limit.current.filter(|&now| now < wanted) else {
        return Ok(clients);
    };
    let raise = |to: u64, most: Option<u64>| {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(to),
                maximum: most,
            },
        )
        .map(|()| to)
    };
    let allowed = limit.maximum.map_or(wanted, |most| most.min(wanted));
    // Only the administrator may go beyond the hard limit.
    let raised = raise(
        wanted,
        Some(limit.maximum.map_or(wanted, |most| most.max(wanted))),
    )
    .or_else(|_| raise(allowed, limit.maximum))
    .context("cannot raise the limit of descriptors")?;
    let fit = raised.max(now).saturating_sub(OWN_DESCRIPTORS);
    let fit = usize::try_from(fit)?.min(clients);
    if fit < clients {
        eprintln!(
            "afterimage-kv: room for {fit} clients only; `ulimit -n {wanted}` gives room for {clients}"
        );
    }
    Ok(fit)
}
