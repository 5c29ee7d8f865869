//! `afterimage run`.

use crate::size::Size;
use afterimage_area_abi::{AreaName, Level};
use afterimage_delta::{Delta, Image};
use afterimage_link::{
    Address, Config as FileConfig, Listener, OnLoss, Settings, TargetUrl, Targets, serve_status,
};
use afterimage_protocol::status::{AreaReport, Report};
use afterimage_vmm::{
    AreaConfig, Config, Console, End, Machine, NetConfig, StatusHandle, StopHandle, TapConfig,
    TargetsError, TargetsInfo,
};
use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// Always on the guest's command line: the console is what people look at, and
/// a guest that panics must end rather than hang.
const CMDLINE: &str = "console=ttyS0 panic=-1";

/// Options of `afterimage run`.
///
/// Runs an unmodified Linux guest. Each area appears in it as a device that
/// the library finds by the area's name. Without targets an area survives its
/// application and the guest's kernel, not this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guest's kernel (bzImage).
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Its initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Added to the kernel's command line, after `console=ttyS0 panic=-1`.
    #[arg(long, value_name = "TEXT", default_value = "")]
    append: String,
    /// The guest's RAM; areas come on top.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Size,
    /// Number of virtual processors.
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u8,
    /// Connect the guest's network card to this tap; it is made if needed.
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// Give the host's end of the tap this address and bring it up.
    #[arg(long, value_name = "ADDR/PREFIX", requires = "tap")]
    tap_address: Option<Cidr>,
    /// Where the guest's console goes: a file, or - for standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    console: PathBuf,
    /// Give the guest an area. May be repeated.
    #[arg(long = "area", value_name = "NAME=SIZE")]
    areas: Vec<AreaArg>,
    /// Where commits go: dir:PATH, tcp://HOST:PORT or unix:PATH. May be
    /// repeated. For every area; a --config file can tell them apart.
    #[arg(long = "target", value_name = "URL")]
    targets: Vec<TargetUrl>,
    /// How many targets must hold a commit. Default: all.
    #[arg(long, value_name = "N")]
    quorum: Option<u32>,
    /// What a commit waits for: local, sent, replicated or durable.
    #[arg(long, value_name = "LEVEL")]
    level: Option<Level>,
    /// What a commit does when the quorum cannot be reached: wait, stop or
    /// continue. Default: wait.
    #[arg(long, value_name = "CHOICE")]
    on_loss: Option<OnLoss>,
    /// Settings of the areas' targets (TOML), for areas without --target.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer `afterimage status` here: unix:PATH or HOST:PORT.
    #[arg(long, value_name = "ADDR")]
    status: Option<Address>,
}

/// `NAME=SIZE`.
#[derive(Clone, Debug)]
struct AreaArg {
    name: AreaName,
    len: u64,
}

impl FromStr for AreaArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, size) = text
            .split_once('=')
            .ok_or("use NAME=SIZE, such as kv=64M")?;
        Ok(Self {
            name: name.parse().map_err(|e| format!("{e}"))?,
            len: size.parse::<Size>()?.0,
        })
    }
}

/// `ADDRESS/PREFIX`.
#[derive(Clone, Copy, Debug)]
struct Cidr(Ipv4Addr, u8);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .and_then(|(address, prefix)| {
                let prefix = prefix.parse().ok().filter(|p| *p <= 32)?;
                Some(Self(address.parse().ok()?, prefix))
            })
            .ok_or_else(|| format!("{text:?} is not an address such as 192.168.77.1/24"))
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    // Opening an area begins a reign over it, so whatever else can fail is
    // tried before.
    for path in [Some(&args.kernel), args.initrd.as_ref()]
        .into_iter()
        .flatten()
    {
        File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    afterimage_vmm::probe::open()?;
    let listener = args
        .status
        .as_ref()
        .map(|a| Listener::bind(a).with_context(|| format!("cannot listen on {a}")))
        .transpose()?;
    let output = console(&args.console)?;
    let mut areas: Vec<AreaConfig> = Vec::new();
    let mut links = Vec::new();
    for area in &args.areas {
        if areas.iter().any(|other| other.name == area.name) {
            bail!("area {} is named twice", area.name);
        }
        let (config, targets) =
            open_area(&args, area).with_context(|| format!("area {}", area.name))?;
        areas.push(config);
        links.push((area.name.to_string(), targets));
    }
    let machine = Machine::new(Config {
        kernel: args.kernel.clone(),
        initrd: args.initrd.clone(),
        cmdline: format!("{CMDLINE} {}", args.append).trim_end().to_owned(),
        memory_mib: args.memory.0 >> 20,
        vcpus: args.vcpus,
        net: args.tap.clone().map(|name| NetConfig {
            tap: TapConfig {
                name,
                host_address: args.tap_address.map(|Cidr(a, p)| (a, p)),
            },
            mac: None,
        }),
        console: Console {
            output,
            input: None,
        },
        areas,
    })?;
    stop_on_signal(machine.stop_handle())?;
    if let Some(listener) = listener {
        let status = machine.status();
        std::thread::spawn(move || serve_status(&listener, || report(&status, &links)));
    }
    let end = machine.run()?;
    tracing::info!(?end, "the machine ended");
    if end == End::TripleFault {
        bail!(
            "the guest faulted beyond repair; if it printed nothing before, {} may not be a whole kernel",
            args.kernel.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn console(path: &PathBuf) -> Result<Box<dyn Write + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdout()));
    }
    let file = File::create(path).with_context(|| format!("console {}", path.display()))?;
    Ok(Box::new(file))
}

fn open_area(args: &Args, area: &AreaArg) -> Result<(AreaConfig, Shared)> {
    let mut settings = match (&args.config, args.targets.is_empty()) {
        (Some(path), true) => FileConfig::load(path)?
            .settings(&area.name)?
            .with_context(|| format!("{} has no section for it and no default", path.display()))?,
        _ => Settings {
            targets: args.targets.clone(),
            ..Settings::default()
        },
    };
    settings.quorum = args.quorum.or(settings.quorum);
    settings.level = args.level.or(settings.level);
    settings.on_loss = args.on_loss.unwrap_or(settings.on_loss);
    if !area.len.is_multiple_of(2 << 20) || area.len == 0 {
        bail!("an area's size is a multiple of 2 MiB");
    }
    let (targets, image) = Targets::open(&area.name, area.len, &settings)?;
    tracing::info!(area = %area.name, term = %targets.term(), epoch = %image.epoch(), "area opened");
    let shared = Shared(Arc::new(Mutex::new(targets)));
    let config = AreaConfig {
        name: area.name.clone(),
        image,
        targets: Box::new(shared.clone()),
    };
    Ok((config, shared))
}

/// The targets, reached by the vCPU that commits and by the status socket.
#[derive(Clone)]
struct Shared(Arc<Mutex<Targets>>);

impl afterimage_vmm::Targets for Shared {
    fn commit(
        &mut self,
        delta: &Delta,
        before: &Image,
        level: Option<Level>,
    ) -> Result<afterimage_area_abi::Outcome, TargetsError> {
        let mut targets = self.0.lock().map_err(|_| "the targets failed earlier")?;
        Ok(targets.commit(delta, before, level)?)
    }

    fn completed(&mut self, image: &Image) {
        if let Ok(mut targets) = self.0.lock() {
            targets.completed(image);
        }
    }

    fn describe(&self) -> TargetsInfo {
        let targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        TargetsInfo {
            term: targets.term(),
            targets: targets.len(),
            quorum: targets.quorum(),
            level: targets.level(),
            acknowledged: targets.acknowledged(),
        }
    }
}

fn stop_on_signal(stop: StopHandle) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            stop.stop();
        }
        // A commit that waits for its targets keeps the machine from ending;
        // whoever asks twice means it.
        if let Some(signal) = signals.next() {
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn report(status: &StatusHandle, links: &[(String, Shared)]) -> Report {
    let status = status.read();
    let mut notes = vec![format!(
        "exits: {} ports, {} devices, {} doorbell, {} other",
        status.exits.ports, status.exits.mmio, status.exits.doorbell, status.exits.other
    )];
    let areas = status.areas.iter().map(|area| {
        let targets = links.iter().find(|(name, _)| *name == area.name);
        let mut primary = None;
        let targets = match targets.map(|(_, shared)| shared.0.try_lock()) {
            Some(Ok(targets)) => {
                primary = Some(targets.primary().to_string());
                targets.reports()
            }
            Some(Err(TryLockError::WouldBlock)) => {
                notes.push(format!(
                    "area {}: a commit is waiting for its targets",
                    area.name
                ));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let counter = |name: &str, value| (name.to_owned(), value);
        AreaReport {
            name: area.name.clone(),
            len: area.data_len,
            term: area.term,
            primary,
            epoch: area.committed,
            acknowledged: area.acknowledged,
            connected: None,
            tracker: Some(area.tracker.clone()),
            state: area.stopped.clone().unwrap_or_else(|| "running".into()),
            targets,
            counters: vec![
                counter("commits", area.commits),
                counter("aborts", area.aborts),
                counter("given_back", area.given_back),
                counter("pages", area.pages),
                counter("changed_bytes", area.changed_bytes),
                counter("delta_bytes", area.delta_bytes),
                counter("tracking_ioctls", area.tracking_ioctls),
                counter("rings", area.rings),
                counter("bad_rings", area.bad_rings),
                counter("refused", area.refused),
            ],
        }
    });
    let areas = areas.collect();
    Report {
        role: "vmm".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        areas,
        notes,
    }
}
