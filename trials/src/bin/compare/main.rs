//! `compare`: the same client against Afterimage and stock Redis, everything
//! in one run on one machine.
//!
//! Each row is measured several times in turn with the others, so that a
//! machine whose speed drifts drifts for all; medians are printed, and ratios
//! to stock Redis at the same level of safety.
#![forbid(unsafe_code)]

mod subject;

use afterimage_trials::resp::{Connection, Reply};
use anyhow::{Context as _, bail};
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use subject::Subject;

/// Measure SET requests beside stock Redis.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Clients at the same time, each with one request under way; one column
    /// each.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How often each is repeated; medians count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value: usize,
    /// Where redis-server is, with its libraries; default: the lab's package
    /// cache, filled if need be.
    #[arg(long)]
    redis_server: Option<PathBuf>,
    /// Also measure in a virtual machine (needs usable KVM): kernel and initrd
    /// of the guest.
    #[arg(long, num_args = 2, value_names = ["KERNEL", "INITRD"])]
    guest: Option<Vec<PathBuf>>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let subjects = subject::all(options.redis_server.as_deref(), options.guest.as_deref())?;
    let mut samples = vec![vec![Vec::new(); options.clients.len()]; subjects.len()];
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            for (clients, samples) in options.clients.iter().zip(samples) {
                samples.push(measure(subject, *clients, options)?);
            }
        }
    }
    print(options, &subjects, &samples);
    Ok(())
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
struct Sample {
    requests_per_second: f64,
    median_us: f64,
}

fn measure(subject: &Subject, clients: usize, options: &Options) -> anyhow::Result<Sample> {
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let mut latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let (stop, address, waits) = (&stop, subject.address, subject.waits);
                scope.spawn(move || drive(address, waits, client, options.value, stop))
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(options.seconds));
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in threads {
            let latencies = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))?;
            all.extend(latencies.with_context(|| format!("measuring {}", subject.name))?);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    let took = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let Some(median) = latencies.get(latencies.len() / 2) else {
        bail!("{}: no request was answered in time", subject.name);
    };
    Ok(Sample {
        requests_per_second: f64::from(u32::try_from(latencies.len())?) / took,
        median_us: median.as_secs_f64() * 1e6,
    })
}

/// One client: the next request leaves when the last is answered.
fn drive(
    address: SocketAddr,
    waits: bool,
    client: usize,
    value: usize,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::open(address, Duration::from_secs(30))?;
    let mut latencies = Vec::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("client:{client}:{}", number % 100);
        let text = format!("{number:0>value$}");
        let start = Instant::now();
        connection.push(&[b"SET", key.as_bytes(), text.as_bytes()]);
        if waits {
            connection.push(&[b"WAIT", b"1", b"0"]);
        }
        connection.flush()?;
        let answer = connection.receive()?;
        if answer != Reply::Simple("OK".into()) {
            bail!("SET was answered with {answer:?}");
        }
        if waits {
            let answer = connection.receive()?;
            if answer != Reply::Integer(1) {
                bail!("WAIT was answered with {answer:?}");
            }
        }
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

fn print(options: &Options, subjects: &[Subject], samples: &[Vec<Vec<Sample>>]) {
    println!(
        "SET of {} bytes: requests per second, median latency, ratio to the row it is compared with",
        options.value
    );
    let line = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        println!(
            "{name:<40}{}",
            cells.map(|cell| format!("{cell:>28}")).collect::<String>()
        );
    };
    line(
        "",
        &mut options.clients.iter().map(|n| format!("{n} clients")),
    );
    let rate = |row: usize, column: usize| median(&samples[row][column], |s| s.requests_per_second);
    for (row, subject) in subjects.iter().enumerate() {
        let cells = (0..options.clients.len()).map(|column| {
            let us = median(&samples[row][column], |s| s.median_us);
            let ratio = subjects
                .iter()
                .position(|other| Some(other.name) == subject.beside)
                .map_or(String::new(), |other| {
                    format!(" x{:.2}", rate(row, column) / rate(other, column))
                });
            format!("{:.0}/s {us:.0} us{ratio}", rate(row, column))
        });
        line(subject.name, &mut cells.into_iter());
    }
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
