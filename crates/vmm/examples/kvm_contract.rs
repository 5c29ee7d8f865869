//! What this machine's KVM can do, and whether `kvm-log` keeps its contract
//! on it.

use afterimage_vmm::probe;
use afterimage_vmm::selftest::{Fault, kvm_log_contract, kvm_log_negative_control};
use anyhow::{Result, bail};
use std::time::Instant;

fn main() -> Result<()> {
    let kvm = probe::open()?;
    println!("{:#?}", probe::abilities(&kvm)?);
    let speed = probe::calibrate(&kvm)?;
    println!("{speed:?}: {:?}", speed.verdict());
    let epochs = std::env::args().nth(1).map_or(Ok(20), |n| n.parse())?;
    for pages in [8, 63, 64, 65, 70, 200] {
        let start = Instant::now();
        kvm_log_contract(pages, 1, epochs)?;
        println!(
            "kvm-log, {pages} pages: kept its contract in {:?}",
            start.elapsed()
        );
    }
    for fault in Fault::ALL {
        match kvm_log_negative_control(fault, 1)? {
            Some(how) => println!("{fault:?} was found out: {how}"),
            None => bail!("the suite did not notice {fault:?}"),
        }
    }
    Ok(())
}
