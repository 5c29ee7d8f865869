//! What a machine is made of.

use crate::Targets;
use afterimage_area_abi::AreaName;
use afterimage_delta::Image;
use afterimage_devices::virtio::MacAddress;
use std::fmt;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Most vCPUs of a machine: what was tried.
pub(crate) const MAX_VCPUS: u8 = 32;

/// A machine.
pub struct Config {
    /// The kernel, a bzImage as distributions ship it.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, with `console=ttyS0` for output on
    /// [`Config::console`].
    pub cmdline: String,
    /// RAM in MiB; areas come on top.
    pub memory_mib: u64,
    /// Number of vCPUs, 1 to 32.
    pub vcpus: u8,
    /// A network card.
    pub net: Option<NetConfig>,
    /// Where ttyS0 leads to.
    pub console: Console,
    /// The areas, in the order in which the guest numbers its
    /// `/dev/daxN.0`.
    pub areas: Vec<AreaConfig>,
}

/// A network card on a tap.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The tap on the host.
    pub tap: TapConfig,
    /// The card's address; `None` for one made from the tap's name.
    pub mac: Option<MacAddress>,
}

/// A tap on the host. One that does not exist is made, and is gone when the
/// machine is.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// Name of the interface, 1 to 15 bytes.
    pub name: String,
    /// Address and prefix length to give to the host's side, which is then
    /// also brought up; `None` to leave the interface as it is.
    pub host_address: Option<(Ipv4Addr, u8)>,
}

/// The two directions of a serial console.
pub struct Console {
    /// Takes what the guest prints. While it blocks, the vCPU that prints
    /// stands still; what it refuses is lost and counted.
    pub output: Box<dyn std::io::Write + Send>,
    /// Gives what is typed; `None` for nothing.
    pub input: Option<File>,
}

/// An area of a machine.
pub struct AreaConfig {
    /// The name by which the application opens it.
    pub name: AreaName,
    /// The bytes with which it starts, and its length: a multiple of 2 MiB.
    pub image: Image,
    /// Where commits go.
    pub targets: Box<dyn Targets>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let areas: Vec<&str> = self.areas.iter().map(|a| a.name.as_str()).collect();
        f.debug_struct("Config")
            .field("kernel", &self.kernel)
            .field("initrd", &self.initrd)
            .field("cmdline", &self.cmdline)
            .field("memory_mib", &self.memory_mib)
            .field("vcpus", &self.vcpus)
            .field("net", &self.net)
            .field("areas", &areas)
            .finish_non_exhaustive()
    }
}
