//! `machine-trial`: what is tried with virtual machines, where there is real
//! KVM: inside the lab, or on a machine whose KVM is usable. The tests outside
//! read its exit status.
#![forbid(unsafe_code)]

mod hypervisor;

use afterimage_trials::dice::Dice;
use afterimage_trials::fault::Fault;
use afterimage_trials::load::{Load, read_back};
use afterimage_trials::machines::{Guest, Machines};
use afterimage_trials::process::Echo;
use afterimage_trials::programs::World;
use afterimage_trials::record::Record;
use afterimage_trials::resp::{Connection, Reply};
use anyhow::{bail, ensure};
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Longest wait for a reply or for progress: an emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections that write, and that read.
const CLIENTS: (u32, usize) = (8, 1);

/// Try the hypervisor; kill virtual machines and ask the clients' record what
/// is missing.
///
/// Exit status 0 if the trial went as it must, else 1.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The guest's kernel.
    kernel: PathBuf,
    /// The guest's initrd.
    initrd: PathBuf,
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Trial {
    /// The tracker `kvm-log` against the contract, and broken ones that must be
    /// found out.
    Contract {
        /// Random epochs for each size of area.
        epochs: u32,
    },
    /// Applications that ring the doorbell well, and with garbage (needs
    /// `/bin/ring` in the guest).
    Ring,
    /// Stock `redis-cli` and `redis-benchmark` against a server in a guest.
    Clients,
    /// SIGKILL of the VMM at random points; another machine takes over.
    Machine {
        /// How often.
        times: u32,
    },
    /// SIGKILL of the server in the guest, which starts it again.
    Application {
        /// How often.
        times: u32,
    },
    /// A commit in doubt in a guest: nobody sees what may be lost.
    Doubt,
    /// As `machine` with a server that acknowledges too early: must find a
    /// loss.
    NegativeControl {
        /// How often to try at most.
        times: u32,
    },
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("machine-trial: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let guest = Guest {
        kernel: options.kernel.clone(),
        initrd: options.initrd.clone(),
    };
    let world = World::echoing(Echo::new(|source, line| println!("{source} | {line}")))?;
    let mut dice = Dice::from_environment("machine trial");
    match options.trial {
        Trial::Contract { epochs } => hypervisor::contract(epochs),
        Trial::Ring => hypervisor::ring(&world, &guest),
        Trial::Clients => hypervisor::clients(&world, &guest),
        Trial::Doubt => {
            doubt(Machines::new(world, guest)?.with_machine_options(&["--on-loss", "stop"]))
        }
        Trial::Machine { times } => {
            let machines = Machines::new(world, guest)?;
            let lost = kill_machines(machines, times, &mut dice)?;
            show(&lost)
        }
        Trial::NegativeControl { times } => {
            let early = ["--test-acknowledge-before-commit"];
            let machines = Machines::new(world, guest)?.with(&early);
            let faults = kill_machines(machines, times, &mut dice)?;
            match faults.iter().find(|f| matches!(f, Fault::Lost { .. })) {
                Some(lost) => {
                    println!("found as it must be: {lost}");
                    Ok(())
                }
                None => bail!("{times} kills and the judge found nothing lost: {faults:?}"),
            }
        }
        Trial::Application { times } => {
            let machines = Machines::new(world, guest)?.with(&["--enable-debug-command"]);
            show(&kill_applications(machines, times, &mut dice)?)
        }
    }
}

fn show(faults: &[Fault]) -> anyhow::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    for fault in faults {
        eprintln!("{fault}");
    }
    bail!("the judge found {} faults", faults.len())
}

/// Kills machine after machine; the first faults found. Each judgement also
/// says whether what was seen after the takeover before is still there.
fn kill_machines(
    mut machines: Machines,
    times: u32,
    dice: &mut Dice,
) -> anyhow::Result<Vec<Fault>> {
    let mut record = Record::new(CLIENTS.0, CLIENTS.1);
    let mut address = machines.boot()?;
    for time in 1..=times {
        let load = patient(address).start(record, dice);
        load.wait_for(1 + dice.below(200), PATIENCE)?;
        machines.kill()?;
        load.cut();
        record = load.join()?;
        machines.promote()?;
        address = machines.boot()?;
        let faults = judge(&mut record, address)?;
        if !faults.is_empty() {
            return Ok(faults);
        }
        println!(
            "kill {time} of {times}: all of {} acknowledged commands are there",
            record.acknowledged()
        );
    }
    // Once more without a write in between: what was seen must stay.
    machines.kill()?;
    machines.promote()?;
    let address = machines.boot()?;
    judge(&mut record, address)
}

/// Kills the server in the guest again and again; the first faults found.
fn kill_applications(
    mut machines: Machines,
    times: u32,
    dice: &mut Dice,
) -> anyhow::Result<Vec<Fault>> {
    let mut record = Record::new(CLIENTS.0, CLIENTS.1);
    let mut address = machines.boot()?;
    for time in 1..=times {
        let load = patient(address).start(record, dice);
        load.wait_for(1 + dice.below(200), PATIENCE)?;
        let mut killer = Connection::open(address, PATIENCE)?;
        if killer.ask(&[b"DEBUG", b"SEGFAULT"]).is_ok() {
            bail!("the server answered instead of dying");
        }
        record = load.join()?;
        address = machines.wait_for_server()?;
        let faults = judge(&mut record, address)?;
        if !faults.is_empty() {
            return Ok(faults);
        }
        println!(
            "kill {time} of {times}: all of {} acknowledged commands are there",
            record.acknowledged()
        );
    }
    // The backup has it all too.
    machines.kill()?;
    machines.promote()?;
    let address = machines.boot()?;
    judge(&mut record, address)
}

/// The backup is gone and commits stop: the write is not answered, the server
/// that is started again in the same machine does not serve from it, and after
/// the takeover it is as if it had never been, since the backup never had it.
fn doubt(mut machines: Machines) -> anyhow::Result<()> {
    let address = machines.boot()?;
    let set = |value: &str| -> anyhow::Result<Reply> {
        let mut connection = Connection::open(address, PATIENCE)?;
        Ok(connection.ask(&[b"SET", b"key", value.as_bytes()])?)
    };
    ensure!(set("old")? == Reply::Simple("OK".into()));
    machines.kill_backup()?;
    ensure!(set("new").is_err(), "a commit in doubt was acknowledged");
    machines.wait_for_console("ended with status 4")?;
    // The area is stopped, so the next one cannot open it.
    machines.wait_for_console("ended with status 1")?;
    machines.kill()?;
    machines.start_backup()?;
    machines.promote()?;
    let mut connection = Connection::open(machines.boot()?, PATIENCE)?;
    let value = connection.ask(&[b"GET", b"key"])?;
    ensure!(value == Reply::Bulk(Some(b"old".to_vec())), "{value:?}");
    Ok(())
}

fn patient(address: SocketAddr) -> Load {
    Load {
        patience: PATIENCE,
        ..Load::on(address)
    }
}

fn judge(record: &mut Record, address: SocketAddr) -> anyhow::Result<Vec<Fault>> {
    let found = read_back(address, record.keys(), PATIENCE)?;
    let faults = record.judge(&found);
    record.settle(&found);
    Ok(faults)
}
