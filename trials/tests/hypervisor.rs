//! The hypervisor on real KVM, in the lab; all of it in one boot: its tracker
//! against the contract, its doorbell against a well-behaved and a hostile
//! application, its network against stock clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_lab::{Cache, GuestImage, Job, Kernel, Lab, Running, Set, layout};
use afterimage_trials::programs::binary;
use anyhow::Context as _;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(300);

/// Where the machine's status socket is, inside the lab.
const STATUS: &str = "unix:/tmp/machine.sock";

/// An example program of the VMM's crate.
fn example(name: &str) -> PathBuf {
    let beside = binary("afterimage").unwrap();
    let path = beside.parent().unwrap().join("examples").join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release -p afterimage-vmm --examples`",
        path.display()
    );
    path
}

fn boot() -> anyhow::Result<Lab> {
    let cache = Cache::prepare(&Cache::default_dir(), &mut |_| {})?;
    let server = binary("afterimage-kv")?;
    let ring = example("ring");
    let guest = GuestImage::new(
        &cache,
        Kernel::default(),
        &[
            ("/bin/afterimage-kv", server.as_path()),
            ("/bin/ring", ring.as_path()),
        ],
    )?;
    Ok(Lab::builder(&cache)
        .guest(guest)
        .file("/bin/afterimage", binary("afterimage")?)
        .file("/bin/kvm_contract", example("kvm_contract"))
        .program(Set::Redis, "redis-cli")
        .program(Set::Redis, "redis-benchmark")
        .boot()?)
}

/// Starts a machine with one area whose targets are a directory, and an
/// application.
fn machine(lab: &Lab, application: &[&str]) -> anyhow::Result<Running> {
    let [program, arguments @ ..] = application else {
        panic!("no application");
    };
    let arguments: String = arguments
        .iter()
        .map(|a| format!(" afterimage.arg={a}"))
        .collect();
    let append = format!("quiet afterimage.ip=10.78.0.2/24 afterimage.app={program}{arguments}");
    let job = Job::new("/bin/afterimage")
        .args([
            "run",
            "--kernel",
            layout::GUEST_KERNEL,
            "--initrd",
            layout::GUEST_INITRD,
        ])
        .args([
            "--memory",
            "192M",
            "--tap",
            "tap0",
            "--tap-address",
            "10.78.0.1/24",
        ])
        .args([
            "--area",
            "kv=4M",
            "--target",
            "dir:/tmp/area",
            "--level",
            "replicated",
        ])
        .args(["--status", STATUS, "--append"])
        .arg(append)
        .timeout(PATIENCE);
    Ok(lab.spawn(&job)?)
}

fn output(lab: &Lab, job: &Job) -> anyhow::Result<String> {
    let done = lab.run(job, |line| println!("{}", line.text))?;
    Ok(done.expect_success()?.text())
}

/// A counter of the machine's area.
fn counter(lab: &Lab, name: &str) -> anyhow::Result<u64> {
    let job = Job::new("/bin/afterimage").args(["status", STATUS, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&output(lab, &job)?)?;
    report["areas"][0]["counters"]
        .as_array()
        .and_then(|counters| counters.iter().find(|pair| pair[0] == name)?[1].as_u64())
        .with_context(|| format!("no counter {name} in {report}"))
}

/// Runs an application in a machine until it prints `line`, does something, and
/// kills the machine.
fn with_machine(
    lab: &Lab,
    application: &[&str],
    line: &str,
    then: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut run = machine(lab, application)?;
    run.wait_for_line(PATIENCE, |seen| seen.text.contains(line))?;
    then()?;
    run.kill()?;
    run.wait(|_| ())?;
    // The next one begins with a new area.
    output(
        lab,
        &Job::new("/bin/busybox").args(["rm", "-r", "/tmp/area"]),
    )?;
    Ok(())
}

#[test]
fn the_hypervisor_keeps_its_promises_on_real_kvm() {
    afterimage_lab::try_twice(|| {
        let lab = boot()?;
        the_tracker_keeps_its_contract_and_broken_ones_are_found_out(&lab)?;
        applications_ring_well_and_badly(&lab)?;
        stock_clients_are_served_with_one_ring_for_each_transaction(&lab)
    })
    .unwrap();
}

fn the_tracker_keeps_its_contract_and_broken_ones_are_found_out(lab: &Lab) -> anyhow::Result<()> {
    let job = Job::new("/bin/kvm_contract").arg("50").timeout(PATIENCE);
    let text = output(lab, &job)?;
    assert_eq!(text.matches("kept its contract").count(), 6);
    assert_eq!(text.matches("was found out").count(), 3);
    Ok(())
}

fn applications_ring_well_and_badly(lab: &Lab) -> anyhow::Result<()> {
    let check = ["/bin/ring", "/dev/dax0.0", "check"];
    with_machine(lab, &check, "check passed", || Ok(()))?;
    let hostile = ["/bin/ring", "/dev/dax0.0", "hostile", "20000", "7"];
    with_machine(lab, &hostile, "hostile passed", || {
        assert!(counter(lab, "bad_rings")? > 1000);
        assert!(counter(lab, "refused")? > 1000);
        Ok(())
    })
}

fn stock_clients_are_served_with_one_ring_for_each_transaction(lab: &Lab) -> anyhow::Result<()> {
    let server = ["/bin/afterimage-kv", "--listen", "10.78.0.2:6379"];
    let cli = |words: &[&str]| {
        let job = Job::new("/bin/redis-cli").args(["-h", "10.78.0.2"]);
        output(lab, &job.args(words.to_vec())).map(|text| text.trim().to_owned())
    };
    with_machine(lab, &server, "ready on", || {
        assert_eq!(cli(&["set", "where", "in a guest"])?, "OK");
        assert_eq!(cli(&["get", "where"])?, "in a guest");
        let info = cli(&["info"])?;
        assert!(info.contains("engine:guest"), "{info}");
        assert!(info.contains("tracker:kvm-log"), "{info}");

        let before = (counter(lab, "commits")?, counter(lab, "rings")?);
        let benchmark = Job::new("/bin/redis-benchmark")
            .args(["-h", "10.78.0.2", "-t", "set,get,incr", "-n", "1000"])
            .args(["-c", "20", "--csv"])
            .timeout(PATIENCE);
        let text = output(lab, &benchmark)?;
        assert!(!text.to_lowercase().contains("error"), "{text}");
        let after = (counter(lab, "commits")?, counter(lab, "rings")?);
        // One exit through the doorbell for a transaction, none for a read.
        assert_eq!(after.0 - before.0, after.1 - before.1);
        assert!(
            (1..=2000).contains(&(after.0 - before.0)),
            "{before:?} {after:?}"
        );
        Ok(())
    })
}
