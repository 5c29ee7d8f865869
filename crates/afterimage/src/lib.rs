//! Data that survives the machine it lives on.
//!
//! A program keeps the data it cannot lose in an **area** and changes it in
//! **transactions**. At a commit, what changed is found and carried to the
//! area's targets (a directory, backups elsewhere) as one atomic step; started
//! again, here or where a backup is, the program goes on from the last commit.
//!
//! The program is the same wherever it runs:
//!
//! - as an ordinary process, with a directory as target (the default: nothing
//!   needs to be configured) or with backups;
//! - in a virtual machine run by `afterimage run`, where the hypervisor finds
//!   the changes, out of reach of guest kernel and application.
//!
//! ```
//! use afterimage::{Area, AreaHeap, Root, in_area};
//!
//! in_area! {
//!     /// Balances of ten accounts.
//!     pub struct Bank { accounts: [u64; 10] }
//! }
//!
//! impl Root for Bank {
//!     const NAME: &'static str = "bank";
//!     fn init(_: AreaHeap) -> Self {
//!         Bank { accounts: [100; 10] }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let target = format!("dir:{}", dir.path().join("bank").display());
//! let mut area: Area<Bank> = Area::builder("bank").target(&target)?.open()?;
//! let mut bank = area.begin()?;
//! bank.accounts[0] -= 10;
//! bank.accounts[1] += 10;
//! let commit = bank.commit()?;
//! assert!(commit.outcome.is_held());
//! # Ok(())
//! # }
//! ```

mod area;
mod builder;
mod commit;
mod device;
mod engine;
mod error;
mod heap;
mod root;
mod status;

pub use afterimage_area_abi::{Level, Outcome};
pub use afterimage_delta::{Epoch, Term};
pub use afterimage_link::{OnLoss, TargetUrl};
pub use allocator_api2;
pub use area::{Area, Transaction};
pub use builder::Builder;
pub use commit::{Commit, CommitError};
pub use error::OpenError;
pub use heap::{AreaHeap, HeapStats, OutOfMemory};
pub use root::{InArea, Root};
pub use status::{EngineKind, Status};

#[doc(hidden)]
pub use root::require_in_area;
