//! The files of a stock Debian kernel and the order its modules load in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lzma_rust2::XzReader;

use crate::error::{Error, Result};

/// Most that a compressed module may grow to. The biggest are some 4 MiB.
const MODULE_LIMIT: u64 = 64 << 20;

/// A stock Debian cloud kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernel {
    /// Debian 12's own.
    #[default]
    V6_1,
    /// The newer one that Debian 12's security archive offers. Its KVM leaves
    /// more alone, so that mistakes show which 6.1 hides.
    V6_12,
}

impl Kernel {
    /// All of them, the daily one first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The package that always depends on the current build.
    pub(super) fn meta_package(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }

    /// What the name of that build starts with.
    pub(super) fn package_prefix(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-6.1.",
            Self::V6_12 => "linux-image-6.12.",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.to_string() == text)
            .ok_or_else(|| format!("no kernel {text}: there are 6.1 and 6.12"))
    }
}

/// A module, ready to be put into an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The module itself, uncompressed.
    pub content: Vec<u8>,
}

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    version: String,
    image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl KernelFiles {
    pub(super) fn find(root: &Path) -> Result<Self> {
        let modules_dir = root.join("lib/modules");
        let version = entries(&modules_dir)?
            .into_iter()
            .find_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .ok_or_else(|| Error::Malformed {
                what: format!("{} holds no kernel", modules_dir.display()),
            })?;
        let modules_dir = modules_dir.join(&version);
        let mut modules = BTreeMap::new();
        collect_modules(&modules_dir.join("kernel"), &mut modules)?;
        let list = modules_dir.join("modules.builtin");
        let built_in = fs::read_to_string(&list)
            .map_err(Error::file("read", &list))?
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self {
            image: root.join(format!("boot/vmlinuz-{version}")),
            version,
            modules,
            built_in,
        })
    }

    /// The kernel's release, as `uname -r` shows it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The bzImage.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The modules in `wanted` and all they depend on, in an order in which
    /// each comes after what it needs. What is built into this kernel is
    /// left out.
    ///
    /// # Errors
    /// The kernel does not have one of them, or a file cannot be read.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&name.replace('-', "_"), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.modules.get(name).ok_or_else(|| Error::NoModule {
            kernel: self.version.clone(),
            module: name.to_owned(),
        })?;
        let content = read_module(path)?;
        for dependency in dependencies(&content).ok_or_else(|| Error::Malformed {
            what: format!("{} is not a kernel module", path.display()),
        })? {
            self.visit(&dependency, seen, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)
        .map_err(Error::file("list", dir))?
        .map(|entry| Ok(entry.map_err(Error::file("list", dir))?.path()))
        .collect()
}

fn collect_modules(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in entries(dir)? {
        if path.is_dir() {
            collect_modules(&path, found)?;
        } else if let Some(name) = module_name(&path) {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// A module's content, decompressed where the package has it compressed.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let file = fs::read(path).map_err(Error::file("read", path))?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(file);
    }
    let mut content = Vec::new();
    XzReader::new(&file[..], false)
        .take(MODULE_LIMIT)
        .read_to_end(&mut content)
        .map_err(Error::file("decompress", path))?;
    Ok(content)
}

/// `.../kvm-amd.ko` and `.../kvm-amd.ko.xz` are both `kvm_amd`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// The `depends=` line of an ELF module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    let info = elf_section(module, b".modinfo")?;
    let line = info
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(b"depends="))?;
    let line = std::str::from_utf8(line).ok()?;
    let names = line.split(',').filter(|name| !name.is_empty());
    Some(names.map(|name| name.replace('-', "_")).collect())
}

/// A section's content in a 64-bit little-endian ELF file. Offsets are those
/// of the header layouts in elf(5).
fn elf_section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let headers = usize::try_from(word(file, 0x28, 8)?).ok()?;
    let size = usize::try_from(word(file, 0x3a, 2)?).ok()?;
    let count = usize::try_from(word(file, 0x3c, 2)?).ok()?;
    let names_index = usize::try_from(word(file, 0x3e, 2)?).ok()?;
    let header = |index: usize| file.get(headers.checked_add(index * size)?..);
    let content = |header: &[u8]| {
        let start = usize::try_from(word(header, 0x18, 8)?).ok()?;
        let length = usize::try_from(word(header, 0x20, 8)?).ok()?;
        file.get(start..start.checked_add(length)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let name = names.get(usize::try_from(word(header, 0, 4)?).ok()?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        (name == wanted).then(|| content(header)).flatten()
    })
}

fn word(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut value = [0; 8];
    value[..size].copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
    Some(u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn module_names_lose_dashes_and_compression() {
        let name = |path| module_name(Path::new(path));
        assert_eq!(name("a/kvm-amd.ko").as_deref(), Some("kvm_amd"));
        assert_eq!(name("a/virtio_ring.ko.xz").as_deref(), Some("virtio_ring"));
        assert_eq!(name("a/modules.order"), None);
    }

    #[test]
    fn kernels_are_named_as_people_name_them() {
        assert_eq!("6.1".parse(), Ok(Kernel::V6_1));
        assert_eq!("6.12".parse(), Ok(Kernel::V6_12));
        assert!("5.10".parse::<Kernel>().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_elf_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 64..256),
        ) {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            let _ = dependencies(&bytes);
        }
    }
}
