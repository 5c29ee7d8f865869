//! The hypervisor on real KVM, in the lab; all of it in one boot: its tracker
//! against the contract, its doorbell against a well-behaved and a hostile
//! application, its network against stock clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_lab::{Cache, GuestImage, Job, Kernel, Lab, Running, Set, layout};
use afterimage_trials::programs::binary;
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

fn boot() -> Lab {
    let cache = Cache::prepare(&Cache::default_dir(), &mut |_| {}).unwrap();
    let server = binary("afterimage-kv").unwrap();
    let ring = example("ring");
    let guest = GuestImage::new(
        &cache,
        Kernel::default(),
        &[
            ("/bin/afterimage-kv", server.as_path()),
            ("/bin/ring", ring.as_path()),
        ],
    )
    .unwrap();
    Lab::builder(&cache)
        .guest(guest)
        .file("/bin/afterimage", binary("afterimage").unwrap())
        .file("/bin/kvm_contract", example("kvm_contract"))
        .program(Set::Redis, "redis-cli")
        .program(Set::Redis, "redis-benchmark")
        .boot()
        .unwrap()
}

/// Starts a machine with one area whose targets are a directory, and an
/// application.
fn machine(lab: &Lab, application: &[&str]) -> Running {
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
    lab.spawn(&job).unwrap()
}

fn output(lab: &Lab, job: &Job) -> String {
    let done = lab.run(job, |line| println!("{}", line.text)).unwrap();
    done.expect_success().unwrap().text()
}

/// A counter of the machine's area.
fn counter(lab: &Lab, name: &str) -> u64 {
    let text = output(
        lab,
        &Job::new("/bin/afterimage").args(["status", STATUS, "--json"]),
    );
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let counters = report["areas"][0]["counters"].as_array().unwrap().clone();
    let found = counters.iter().find(|pair| pair[0] == name).unwrap();
    found[1].as_u64().unwrap()
}

#[test]
fn the_hypervisor_keeps_its_promises_on_real_kvm() {
    let lab = boot();

    // The tracker, and three ways in which a broken one is found out.
    let text = output(
        &lab,
        &Job::new("/bin/kvm_contract").arg("50").timeout(PATIENCE),
    );
    assert_eq!(text.matches("kept its contract").count(), 6);
    assert_eq!(text.matches("was found out").count(), 3);

    // An application that does as it should, and a second one beside it.
    let mut run = machine(&lab, &["/bin/ring", "/dev/dax0.0", "check"]);
    run.wait_for_line(PATIENCE, |line| line.text.contains("check passed"))
        .unwrap();
    run.kill().unwrap();
    run.wait(|_| ()).unwrap();

    // One that rings with garbage in every field.
    let mut run = machine(&lab, &["/bin/ring", "/dev/dax0.0", "hostile", "20000", "7"]);
    run.wait_for_line(PATIENCE, |line| line.text.contains("hostile passed"))
        .unwrap();
    assert!(counter(&lab, "bad_rings") > 1000);
    assert!(counter(&lab, "refused") > 1000);
    run.kill().unwrap();
    run.wait(|_| ()).unwrap();
    output(
        &lab,
        &Job::new("/bin/busybox").args(["rm", "-r", "/tmp/area"]),
    );

    // Stock clients, over the guest's network.
    let mut run = machine(&lab, &["/bin/afterimage-kv", "--listen", "10.78.0.2:6379"]);
    run.wait_for_line(PATIENCE, |line| line.text.contains("ready on"))
        .unwrap();
    let cli = |words: &[&str]| {
        let job = Job::new("/bin/redis-cli")
            .args(["-h", "10.78.0.2"])
            .args(words.to_vec());
        output(&lab, &job).trim().to_owned()
    };
    assert_eq!(cli(&["set", "where", "in a guest"]), "OK");
    assert_eq!(cli(&["get", "where"]), "in a guest");
    let info = cli(&["info"]);
    assert!(
        info.contains("engine:guest") && info.contains("tracker:kvm-log"),
        "{info}"
    );
    let before = (counter(&lab, "commits"), counter(&lab, "rings"));
    let benchmark = Job::new("/bin/redis-benchmark")
        .args([
            "-h",
            "10.78.0.2",
            "-t",
            "set,get,incr",
            "-n",
            "1000",
            "-c",
            "20",
            "--csv",
        ])
        .timeout(PATIENCE);
    let text = output(&lab, &benchmark);
    assert!(!text.to_lowercase().contains("error"), "{text}");
    let after = (counter(&lab, "commits"), counter(&lab, "rings"));
    // One exit through the doorbell for each transaction, none for a read.
    assert_eq!(after.0 - before.0, after.1 - before.1);
    assert!(
        (1..=2000).contains(&(after.0 - before.0)),
        "{before:?} {after:?}"
    );
    run.kill().unwrap();
    run.wait(|_| ()).unwrap();
}
