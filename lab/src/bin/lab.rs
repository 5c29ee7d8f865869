//! `lab`: boot a machine with real KVM and run a program in it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use afterimage_lab::{
    Cache, Error, GuestImage, Job, Kernel, Lab, Line, Progress, Set, Status, Stream,
};
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// Exit status when the lab itself failed, as other tools that run programs
/// elsewhere have it.
const LAB_FAILED: u8 = 125;

/// Exit status when the program's time was over, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Real KVM on machines without it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Folder of the downloaded packages.
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Download what the lab is made of.
    Fetch {
        /// Everything, kernels for single tests included.
        #[arg(long)]
        all: bool,
    },
    /// Say what this machine's own /dev/kvm is worth.
    Host,
    /// Write a guest's kernel and initrd as DIR/vmlinuz and DIR/initrd.
    Guest(Guest),
    /// Boot a machine, run a program in it, pass on its exit status.
    Run(Run),
}

#[derive(Args)]
struct Guest {
    /// The guest's kernel.
    #[arg(long, default_value = "6.1", value_name = "VERSION")]
    kernel: Kernel,
    /// Put an executable copy of SRC at DEST of the initrd.
    #[arg(long = "guest-file", value_name = "DEST=SRC", value_parser = pair::<PathBuf>)]
    files: Vec<(String, PathBuf)>,
    /// Where to write them.
    dir: PathBuf,
}

#[derive(Args)]
struct Run {
    /// The kernel whose KVM is used.
    #[arg(long, default_value = "6.1", value_name = "VERSION")]
    kernel: Kernel,
    /// Memory of the machine.
    #[arg(long, default_value_t = 1536, value_name = "MIB")]
    memory: u32,
    /// Processors of the machine.
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u8,
    /// Put an executable copy of SRC at DEST.
    #[arg(long = "file", value_name = "DEST=SRC", value_parser = pair::<PathBuf>)]
    files: Vec<(String, PathBuf)>,
    /// Put a guest's kernel at /guest/vmlinuz and its initrd at /guest/initrd.
    #[arg(long)]
    with_guest: bool,
    /// Put a file into the guest's initrd (implies --with-guest).
    #[arg(long = "guest-file", value_name = "DEST=SRC", value_parser = pair::<PathBuf>)]
    guest_files: Vec<(String, PathBuf)>,
    /// Put redis-server, redis-cli and redis-benchmark into /bin.
    #[arg(long)]
    with_redis: bool,
    /// Load one more kernel module.
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Make a port of the machine reachable at the same port of localhost.
    #[arg(long = "forward", value_name = "PORT")]
    forwards: Vec<u16>,
    /// Set an environment variable of the program.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = pair::<String>)]
    env: Vec<(String, String)>,
    /// Give the program this long.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// Show the machine's console and the times.
    #[arg(long, short)]
    verbose: bool,
    /// Program inside the machine and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let dir = cli.cache.unwrap_or_else(Cache::default_dir);
    let result = match cli.command {
        What::Fetch { all } => {
            let mut sets = Set::DAILY.to_vec();
            if all {
                sets.push(Set::Kernel(Kernel::V6_12));
            }
            fetch(&dir, &sets).map(|_| ExitCode::SUCCESS)
        }
        What::Host => {
            match afterimage_lab::usable_kvm() {
                Ok(speed) => println!(
                    "/dev/kvm is usable: {:.1} ns for each instruction",
                    speed.ns_per_instruction
                ),
                Err(error) => println!("{:#}: the lab is needed", anyhow::Error::from(error)),
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Guest(guest) => write_guest(&dir, &guest),
        What::Run(run) => in_lab(&dir, run),
    };
    result.unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        ExitCode::from(match error.downcast_ref() {
            Some(Error::JobTimeout { .. }) => TIMED_OUT,
            _ => LAB_FAILED,
        })
    })
}

fn fetch(dir: &Path, sets: &[Set]) -> Result<Cache> {
    let terminal = std::io::stderr().is_terminal();
    let mut last = String::new();
    let cache = Cache::prepare_sets(dir, sets, &mut |progress| {
        show(progress, terminal, &mut last);
    })?;
    if terminal && !last.is_empty() {
        eprintln!();
    }
    Ok(cache)
}

fn show(progress: Progress<'_>, terminal: bool, last: &mut String) {
    let Progress { step, done, total } = progress;
    if terminal {
        eprint!("\r\x1b[Klab: {step}");
        if total > 0 {
            eprint!(" {done}/{total}");
        }
    } else if step != last {
        eprintln!("lab: {step}");
    }
    step.clone_into(last);
}

fn in_lab(dir: &Path, run: Run) -> Result<ExitCode> {
    let sets = [Set::Qemu, Set::Busybox, Set::Redis, Set::Kernel(run.kernel)];
    let cache = fetch(dir, &sets)?;
    let started = Instant::now();
    let mut builder = Lab::builder(&cache)
        .kernel(run.kernel)
        .memory_mib(run.memory)
        .cpus(run.cpus);
    for (inside, from) in run.files {
        builder = builder.file(inside, from);
    }
    for module in run.modules {
        builder = builder.module(module);
    }
    for port in run.forwards {
        builder = builder.port_forward_at(port, port);
    }
    if run.with_redis {
        for program in ["redis-server", "redis-cli", "redis-benchmark"] {
            builder = builder.program(Set::Redis, program);
        }
    }
    if run.with_guest || !run.guest_files.is_empty() {
        builder = builder.guest(guest_image(&cache, run.kernel, &run.guest_files)?);
    }
    if run.verbose {
        builder = builder.on_console(|line| eprintln!("console: {line}"));
    }
    let lab = builder.boot()?;
    if run.verbose {
        eprintln!("lab: up after {:.1} s", started.elapsed().as_secs_f32());
    }
    let mut words = run.program.into_iter();
    let mut job = Job::new(words.next().context("no program was named")?)
        .args(words)
        .timeout(Duration::from_secs(run.timeout));
    for (key, value) in run.env {
        job = job.env(key, value);
    }
    let done = lab.run(&job, print)?;
    if run.verbose {
        eprintln!("lab: done after {:.1} s", started.elapsed().as_secs_f32());
    }
    Ok(match done.status {
        Status::Exited(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        // As a shell shows a program that a signal killed.
        Status::Killed(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
    })
}

fn guest_image(
    cache: &Cache,
    kernel: Kernel,
    files: &[(String, PathBuf)],
) -> afterimage_lab::Result<GuestImage> {
    let files: Vec<_> = files
        .iter()
        .map(|(inside, from)| (inside.as_str(), from.as_path()))
        .collect();
    GuestImage::new(cache, kernel, &files)
}

fn write_guest(dir: &Path, guest: &Guest) -> Result<ExitCode> {
    let cache = fetch(dir, &[Set::Busybox, Set::Kernel(guest.kernel)])?;
    let image = guest_image(&cache, guest.kernel, &guest.files)?;
    std::fs::create_dir_all(&guest.dir)
        .and_then(|()| std::fs::copy(image.kernel(), guest.dir.join("vmlinuz")))
        .and_then(|_| std::fs::write(guest.dir.join("initrd"), image.initrd()))
        .with_context(|| format!("cannot write the guest into {}", guest.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn print(line: Line<'_>) {
    // Whoever reads may have gone; the program runs on all the same.
    let _ = match line.stream {
        Stream::Stdout => writeln!(std::io::stdout().lock(), "{}", line.text),
        Stream::Stderr => writeln!(std::io::stderr().lock(), "{}", line.text),
    };
}

fn pair<T: From<String>>(text: &str) -> std::result::Result<(String, T), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text} is not of the form A=B"))?;
    Ok((key.to_owned(), T::from(value.to_owned())))
}
