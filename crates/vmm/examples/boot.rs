//! Boots a kernel with its console on this terminal:
//!
//! ```text
//! boot KERNEL INITRD [tap=NAME,ADDRESS/PREFIX] [area=NAME,MIB]... [memory=MIB] [vcpus=N] [stop=SECONDS] [-- CMDLINE]
//! ```

use afterimage_delta::Image;
use afterimage_vmm::{AreaConfig, Config, Console, LocalOnly, Machine, NetConfig, TapConfig};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let mut args = std::env::args().skip(1);
    let usage = "usage: boot KERNEL INITRD [tap=NAME,ADDRESS/PREFIX] [area=NAME,MIB]... [memory=MIB] [vcpus=N] [stop=SECONDS] [-- CMDLINE]";
    let mut config = Config {
        kernel: args.next().context(usage)?.into(),
        initrd: Some(args.next().context(usage)?.into()),
        cmdline: "console=ttyS0 panic=-1".into(),
        memory_mib: 256,
        vcpus: 1,
        net: None,
        console: Console {
            output: Box::new(io::stdout()),
            input: Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
        },
        areas: Vec::new(),
    };
    let mut stop_after = None;
    while let Some(arg) = args.next() {
        match arg.split_once('=') {
            None if arg == "--" => config.cmdline = args.by_ref().collect::<Vec<_>>().join(" "),
            Some(("memory", mib)) => config.memory_mib = mib.parse()?,
            Some(("vcpus", count)) => config.vcpus = count.parse()?,
            Some(("stop", seconds)) => stop_after = Some(Duration::from_secs(seconds.parse()?)),
            Some(("tap", tap)) => config.net = Some(net(tap)?),
            Some(("area", area)) => config.areas.push(self::area(area)?),
            _ => bail!(usage),
        }
    }
    let machine = Machine::new(config)?;
    let status = machine.status();
    if let Some(after) = stop_after {
        let stop = machine.stop_handle();
        std::thread::spawn(move || {
            std::thread::sleep(after);
            stop.stop();
        });
    }
    let end = machine.run()?;
    eprintln!("{end:?} {:#?}", status.read());
    Ok(())
}

fn net(text: &str) -> Result<NetConfig> {
    let (name, address) = text.split_once(',').context("tap=NAME,ADDRESS/PREFIX")?;
    let (address, prefix) = address.split_once('/').context("ADDRESS/PREFIX")?;
    Ok(NetConfig {
        tap: TapConfig {
            name: name.into(),
            host_address: Some((address.parse()?, prefix.parse()?)),
        },
        mac: None,
    })
}

fn area(text: &str) -> Result<AreaConfig> {
    let (name, mib) = text.split_once(',').context("area=NAME,MIB")?;
    Ok(AreaConfig {
        name: name.parse()?,
        image: Image::new(mib.parse::<u64>()? << 20)?,
        targets: Box::new(LocalOnly::default()),
    })
}
