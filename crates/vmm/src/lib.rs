//! The machine: a KVM virtual machine whose areas are checkpointed.
//!
//! ```text
//! Machine ---- vCPU threads ----+---- ports and memory-mapped devices (crate devices)
//!    |                          |
//!    |                          +---- doorbell of an area
//!    |                                   |
//!    +---- RAM: devices see it           checkpointer with KVM's dirty log
//!    +---- areas: devices do not            |
//!                                        targets
//! ```
//!
//! [`Machine::new`] builds a machine from a [`Config`], [`Machine::run`] runs
//! it until the guest stops or a [`StopHandle`] is used, [`StatusHandle`]
//! tells what it did. What a commit is sent to comes from outside, as
//! [`Targets`].

mod acpi;
mod area;
mod boot;
mod config;
mod console;
mod cpu;
mod error;
mod kick;
mod layout;
mod machine;
mod net;
pub mod probe;
mod seldom;
pub mod selftest;
mod status;
mod tap;
mod tiny;
mod vcpu;

pub use afterimage_devices::virtio::MacAddress;
pub use area::{LocalOnly, Targets, TargetsError, TargetsInfo};
pub use config::{AreaConfig, Config, Console, NetConfig, TapConfig};
pub use error::Error;
pub use layout::{AreaPlace, Layout, LayoutError};
pub use machine::{Machine, StatusHandle, StopHandle};
pub use status::{AreaStatus, Exits, NetStatus, Status};
pub use vcpu::End;
