//! The hypervisor's promises: its tracker, its doorbell, its network.

use afterimage_trials::machines::{BOOT_PATIENCE, Guest, SERVER};
use afterimage_trials::programs::World;
use afterimage_vmm::selftest::{Fault, kvm_log_contract, kvm_log_negative_control};
use anyhow::{Context as _, bail, ensure};
use std::process::Command;

/// Sizes of areas in pages: below, at and above a word of KVM's bitmap, and not
/// round.
const SIZES: [u32; 6] = [8, 63, 64, 65, 70, 200];

/// Runs the contract suite, then the suite on trackers broken on purpose.
pub(crate) fn contract(epochs: u32) -> anyhow::Result<()> {
    for pages in SIZES {
        kvm_log_contract(pages, 1, epochs)?;
        println!("kvm-log keeps its contract on {pages} pages");
    }
    for fault in Fault::ALL {
        match kvm_log_negative_control(fault, 1)? {
            Some(how) => println!("{fault:?} was found out: {how}"),
            None => bail!("the suite did not notice {fault:?}"),
        }
    }
    Ok(())
}

/// A well-behaved application and a second one beside it; then one that rings
/// with garbage in every field.
pub(crate) fn ring(world: &World, guest: &Guest) -> anyhow::Result<()> {
    let check = ["/bin/ring", "/dev/dax0.0", "check"];
    with_machine(world, guest, &check, "check passed", |_| Ok(()))?;
    let hostile = ["/bin/ring", "/dev/dax0.0", "hostile", "20000", "7"];
    with_machine(world, guest, &hostile, "hostile passed", |machine| {
        let (bad, refused) = (machine.counter("bad_rings")?, machine.counter("refused")?);
        println!("{bad} rings named no slot, {refused} commands were refused");
        ensure!(
            bad > 1000 && refused > 1000,
            "garbage was taken for commands"
        );
        Ok(())
    })
}

/// Stock clients; each transaction is one ring of the doorbell, a read is none.
pub(crate) fn clients(world: &World, guest: &Guest) -> anyhow::Result<()> {
    let server = ["/bin/afterimage-kv", "--listen", SERVER];
    with_machine(world, guest, &server, "ready on", |machine| {
        ensure!(redis("redis-cli", &["set", "where", "in a guest"])? == "OK");
        ensure!(redis("redis-cli", &["get", "where"])? == "in a guest");
        let info = redis("redis-cli", &["info"])?;
        ensure!(info.contains("engine:guest"), "{info}");
        ensure!(info.contains("tracker:kvm-log"), "{info}");
        let before = (machine.counter("commits")?, machine.counter("rings")?);
        let arguments = ["-t", "set,get,incr", "-n", "1000", "-c", "20", "--csv"];
        let text = redis("redis-benchmark", &arguments)?;
        ensure!(!text.to_lowercase().contains("error"), "{text}");
        let commits = machine.counter("commits")? - before.0;
        let rings = machine.counter("rings")? - before.1;
        println!("3000 requests: {commits} transactions, {rings} rings");
        ensure!(commits == rings && (1..=2000).contains(&commits));
        Ok(())
    })
}

/// A machine while it runs.
struct Machine<'w> {
    world: &'w World,
    status: String,
}

impl Machine<'_> {
    /// A counter of its area.
    fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.world.afterimage(&["status", &self.status, "--json"])?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        report["areas"][0]["counters"]
            .as_array()
            .and_then(|counters| counters.iter().find(|pair| pair[0] == name)?[1].as_u64())
            .with_context(|| format!("no counter {name} in {text}"))
    }
}

/// Runs an application in a machine with a new area until it prints `line`,
/// does something, and kills the machine.
fn with_machine(
    world: &World,
    guest: &Guest,
    application: &[&str],
    line: &str,
    then: impl FnOnce(&Machine<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(world.path())?;
    let target = format!("dir:{}", folder.path().join("area").display());
    let status = format!("unix:{}", folder.path().join("status").display());
    let options = [
        "--area",
        "kv=4M",
        "--target",
        &target,
        "--level",
        "replicated",
        "--status",
        &status,
    ];
    let command = guest.machine(application, &options)?;
    let mut program = world.start(command, "machine")?;
    program.wait_for_line_with(line, BOOT_PATIENCE)?;
    then(&Machine { world, status })?;
    program.kill()
}

/// Runs one of stock Redis's clients against the server; what it printed.
fn redis(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let (host, port) = SERVER.split_once(':').context("an address has a port")?;
    let output = Command::new(program)
        .args(["-h", host, "-p", port])
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        output.status.success(),
        "{program} ended with {}: {text}",
        output.status
    );
    Ok(text)
}
