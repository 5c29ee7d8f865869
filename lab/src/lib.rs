//! Real KVM on machines without it.
//!
//! Stock QEMU emulates a processor with AMD's virtualization (no hardware
//! support needed); in it boots a stock Debian kernel with the stock KVM.
//! Whatever is run in there, a VMM with a guest of its own included, runs on
//! the KVM that people have.
//!
//! ```no_run
//! use afterimage_lab::{Cache, Job, Lab};
//!
//! # fn main() -> afterimage_lab::Result<()> {
//! let cache = Cache::prepare(&Cache::default_dir(), &mut |p| eprintln!("{}", p.step))?;
//! let lab = Lab::builder(&cache).file("/bin/probe", "target/probe").boot()?;
//! let done = lab.run(&Job::new("/bin/probe").arg("--all"), |line| println!("{}", line.text))?;
//! assert!(done.success());
//! # Ok(())
//! # }
//! ```
//!
//! The parts: [`Cache`] fetches Debian's packages without installing them,
//! [`Initramfs`] writes images, [`GuestImage`] is the guest for a VMM in the
//! lab, [`Lab`] the machine, [`Job`] a program run in it. The `lab-agent`
//! program is the machine's first process and talks [`frame`]s with the host.

mod console;
mod error;
pub mod frame;
mod guest;
mod image;
mod initramfs;
mod job;
pub mod layout;
mod link;
mod machine;
mod packages;
mod qemu;
mod retry;
mod running;

pub use afterimage_vmm::probe::usable as usable_kvm;
pub use error::{Error, Evidence, Result, Tail};
pub use frame::{Status, Stream};
pub use guest::GuestImage;
pub use initramfs::Initramfs;
pub use job::{Done, Job, Line};
pub use link::OUTPUT_LIMIT;
pub use machine::{Builder, Lab};
pub use packages::{Cache, Kernel, KernelFiles, Module, Progress, Set};
pub use retry::try_twice;
pub use running::Running;
