//! `afterimage`: the virtual machine monitor, the backup and their tools.

mod backup;
mod doctor;
mod promote;
mod run;
mod size;
mod status;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Hypervisor-assisted application checkpointing.
///
/// A program keeps the data it cannot lose in an area; every commit reaches a
/// backup as one atomic step; when the primary dies, the program goes on at the
/// backup with every acknowledged transaction.
#[derive(Debug, Parser)]
#[command(name = "afterimage", version, propagate_version = true)]
struct Cli {
    /// What is logged to standard error: error, warn, info, debug or trace,
    /// also per module.
    #[arg(long, global = true, env = "AFTERIMAGE_LOG", default_value = "info")]
    log: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a virtual machine whose areas are checkpointed.
    Run(run::Args),
    /// Keep areas for primaries elsewhere.
    Backup(backup::Args),
    /// Let a new primary take an area over from a backup.
    Promote(promote::Args),
    /// Show what a backup, a virtual machine or a directory holds.
    Status(status::Args),
    /// Say what this machine can do, what is missing and how to fix it.
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("afterimage: bad --log {:?}: {error}", cli.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Backup(args) => backup::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("afterimage: {error:#}");
            ExitCode::FAILURE
        }
    }
}
