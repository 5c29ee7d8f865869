//! `demo`: an application survives the death of its machine, before your eyes.
//!
//! Real clients write to the key-value server over TCP; in the middle of it
//! the server is killed, another one takes over, and at the end every
//! acknowledged write is looked for.
//!
//! Where the machine cannot run virtual machines at hardware speed, all of the
//! part with virtual machines happens inside the lab's machine: this program
//! runs there once more and its events come out.
#![forbid(unsafe_code)]

mod campaign;
mod display;
mod event;
mod outside;
mod stage;

use afterimage_trials::machines::Guest;
use afterimage_trials::process::{Interrupted, interrupted, stop_on_signals};
use anyhow::Context as _;
use clap::Parser;
use display::Display;
use event::{Emit, Event};
use outside::Wish;
use stage::{Processes, Stage, VirtualMachines};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Kill a server in the middle of the load and look for every acknowledged
/// write.
///
/// The last line says what came of it; exit status 0 if nothing was lost, 1 if
/// something was or could not be tried, 2 for wrong usage, 130 after Ctrl-C.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Options {
    #[command(flatten)]
    mode: Mode,

    /// Writes in all; the server is killed in the middle of them.
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    writes: u32,

    /// Clients that write at the same time.
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,

    /// Show what the programs print.
    #[arg(long, short)]
    verbose: bool,

    /// Start servers that acknowledge before a write is safe: shows that this
    /// program would notice (not with virtual machines).
    #[arg(long, hide = true)]
    test_acknowledge_before_commit: bool,

    /// Print what happens as JSON, one event a line.
    #[arg(long, hide = true)]
    json: bool,
}

/// What is killed; by default a virtual machine.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Mode {
    /// One process whose data are in a directory; it is killed and started
    /// again.
    #[arg(long)]
    embedded: bool,

    /// A process and a backup on loopback; the process is killed and another
    /// one takes over.
    #[arg(long)]
    process: bool,

    /// Virtual machines right here, with real KVM: kernel and initrd of the
    /// guest.
    #[arg(long, hide = true, num_args = 2, value_names = ["KERNEL", "INITRD"])]
    inside: Option<Vec<PathBuf>>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let display = Arc::new(Display::new(options.json));
    match run(&options, &display) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if interrupted() || error.is::<Interrupted>() => {
            display.close();
            eprintln!("demo: interrupted; everything it started is stopped");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            display.close();
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, display: &Arc<Display>) -> anyhow::Result<bool> {
    stop_on_signals().context("cannot handle signals")?;
    let emit: Emit = {
        let (display, verbose) = (Arc::clone(display), options.verbose);
        Arc::new(move |event| {
            if verbose || !matches!(event, Event::Console { .. }) {
                display.show(&event);
            }
        })
    };
    emit(Event::Progress {
        done: 0,
        total: options.writes.into(),
    });
    let mode = &options.mode;
    let server_options: &[&str] = if options.test_acknowledge_before_commit {
        &["--test-acknowledge-before-commit"]
    } else {
        &[]
    };
    let mut stage: Box<dyn Stage> = if mode.embedded {
        Box::new(Processes::embedded(server_options, &emit)?)
    } else if mode.process {
        Box::new(Processes::replicated(server_options, &emit)?)
    } else if let Some([kernel, initrd]) = mode.inside.as_deref() {
        let guest = Guest {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
        };
        Box::new(VirtualMachines::new(guest, &emit)?)
    } else {
        let wish = Wish {
            writes: options.writes,
            clients: options.clients,
            verbose: options.verbose,
        };
        return outside::run(wish, &emit);
    };
    let verdict = campaign::run(stage.as_mut(), options.writes, options.clients, &emit)?;
    // Everything is stopped before the last line.
    drop(stage);
    let lost = verdict.lost;
    emit(Event::Verdict(verdict));
    Ok(lost == 0)
}
