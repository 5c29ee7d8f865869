//! `afterimage backup`.

use crate::size::Size;
use afterimage_link::{Address, Backup, Limits, Listener, Stream};
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Options of `afterimage backup`.
///
/// It keeps each area in a directory of its own below DIR and in memory, and
/// acknowledges a commit once it is in both (`replicated`: written, so that it
/// survives a crash of this program; `durable`: also on disk). Peers are not
/// authenticated in this version: listen on loopback or on a trusted network
/// only.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen: HOST:PORT or unix:PATH. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Address,
    /// Directory of the areas; made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Write the address to this file once it listens.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Most areas that are kept.
    #[arg(long, default_value_t = Limits::default().areas)]
    max_areas: usize,
    /// Most bytes of all areas together; they are kept in memory.
    #[arg(long, value_name = "SIZE", default_value = "16G")]
    max_bytes: Size,
    /// How long to poll for the next message while traffic is recent, in
    /// microseconds: saves a wake-up for that much processor time.
    #[arg(long, value_name = "US", default_value_t = 50)]
    spin: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let limits = Limits {
        areas: args.max_areas,
        bytes: args.max_bytes.0,
        spin: Duration::from_micros(args.spin),
        ..Limits::default()
    };
    let backup = Arc::new(Backup::open(&args.dir, limits)?);
    let listener = Listener::bind(&args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.address()?;
    stop_on_signal(Arc::clone(&backup), address.clone())?;
    if let Some(path) = &args.port_file {
        let place = match &address {
            Address::Tcp(place) => place.clone(),
            other => other.to_string(),
        };
        write_whole(path, &place)?;
    }
    println!("ready on {address}");
    std::io::stdout().flush()?;
    backup.serve(&listener)?;
    Ok(ExitCode::SUCCESS)
}

/// A reader never sees half of the file.
fn write_whole(path: &PathBuf, text: &str) -> Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, format!("{text}\n"))
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn stop_on_signal(backup: Arc<Backup>, address: Address) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    std::thread::spawn(move || {
        if signals.forever().next().is_none() {
            return;
        }
        if let Err(error) = backup.stop() {
            tracing::error!(%error, "not everything could be put on disk");
            std::process::exit(1);
        }
        // Wakes the accepting thread up, which then finds that it is to end.
        if Stream::connect(&address, Duration::from_secs(1)).is_err() {
            std::process::exit(0);
        }
    });
    Ok(())
}
