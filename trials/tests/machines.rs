//! Virtual machines on real KVM, in the lab: all trials share one boot of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_lab::{Cache, GuestImage, Job, Kernel, Lab, layout};
use afterimage_trials::programs::binary;
use anyhow::Context as _;
use std::time::Duration;

/// Longest time for one trial: a takeover takes some ten seconds here.
const PATIENCE: Duration = Duration::from_secs(1200);

#[test]
fn acknowledged_writes_survive_the_death_of_machine_and_application() {
    afterimage_lab::try_twice(trials).unwrap();
}

fn trials() -> anyhow::Result<()> {
    let cache = Cache::prepare(&Cache::default_dir(), &mut |_| {})?;
    let server = binary("afterimage-kv")?;
    let image = GuestImage::new(
        &cache,
        Kernel::default(),
        &[("/bin/afterimage-kv", server.as_path())],
    )?;
    let lab = Lab::builder(&cache)
        .guest(image)
        .file("/bin/afterimage", binary("afterimage")?)
        .file("/bin/machine-trial", binary("machine-trial")?)
        .boot()?;
    for trial in [
        ["negative-control", "5"],
        ["application", "10"],
        ["machine", "20"],
    ] {
        println!("{trial:?}");
        let job = Job::new("/bin/machine-trial")
            .args([layout::GUEST_KERNEL, layout::GUEST_INITRD])
            .args(trial)
            .timeout(PATIENCE);
        lab.run(&job, |line| println!("{}", line.text))?
            .expect_success()
            .with_context(|| format!("{trial:?}"))?;
    }
    Ok(())
}
