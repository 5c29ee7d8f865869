//! The guest for a VMM that runs in the lab, or anywhere: a stock kernel and
//! an initrd with busybox, modules, an application and a small `/init`.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::image::add_busybox;
use crate::initramfs::Initramfs;
use crate::layout;
use crate::packages::{Cache, Kernel};

/// The guest's first process; see the comments in it.
const INIT: &str = include_str!("../guest/init");

/// What the guest's devices need: those of a VMM without PCI devices, and the
/// area's.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_net", "dax_hmem", "device_dax"];

/// A guest's kernel and initrd.
#[derive(Debug, Clone)]
pub struct GuestImage {
    kernel: PathBuf,
    initrd: Vec<u8>,
}

impl GuestImage {
    /// A guest on a stock kernel that holds `files` (path inside, host file),
    /// each executable. What it runs is said on its kernel command line.
    ///
    /// # Errors
    /// The kernel is not in the cache, or a file cannot be read.
    pub fn new(cache: &Cache, kernel: Kernel, files: &[(&str, &Path)]) -> Result<Self> {
        let kernel = cache.kernel(kernel)?;
        let mut image = Initramfs::new();
        image.bytes("/init", 0o755, INIT);
        for dir in ["/proc", "/sys", "/tmp", "/run"] {
            image.dir(dir);
        }
        image.bytes("/etc/hosts", 0o644, layout::HOSTS);
        add_busybox(&mut image, cache)?;
        let mut list = String::new();
        for module in kernel.load_order(&MODULES)? {
            let path = format!("{}/{}.ko", layout::MODULE_DIR, module.name);
            list.push_str(&path);
            list.push('\n');
            image.bytes(&path, 0o644, module.content);
        }
        image.bytes(layout::MODULE_LIST, 0o644, list);
        for (inside, from) in files {
            image.copy(inside, 0o755, *from);
        }
        let mut initrd = Vec::new();
        image.write(&mut initrd)?;
        Ok(Self {
            kernel: kernel.image().to_owned(),
            initrd,
        })
    }

    /// The bzImage on the host.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The initrd.
    #[must_use]
    pub fn initrd(&self) -> &[u8] {
        &self.initrd
    }
}
