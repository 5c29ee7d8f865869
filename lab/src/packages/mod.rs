//! The cache of Debian packages that a lab is made of.
//!
//! Packages are downloaded with apt, which checks their signatures, and
//! unpacked with `dpkg -x` into the cache. Nothing is installed, no root is
//! needed, and apt's lists and archives are the cache's own.

mod apt;
mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use kernel::{Kernel, KernelFiles, Module};

use crate::error::{Error, Result};
use apt::Apt;

/// Changed when the way of unpacking changes, so that old caches are refilled.
const RECIPE: u32 = 1;

/// A group of packages that is fetched, unpacked and renewed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// QEMU with its firmware.
    Qemu,
    /// A static busybox.
    Busybox,
    /// Stock Redis: `redis-server`, `redis-cli`, `redis-benchmark`.
    Redis,
    /// A stock Debian kernel.
    Kernel(Kernel),
}

impl Set {
    /// What a lab on the daily kernel needs.
    pub const DAILY: [Self; 4] = [
        Self::Qemu,
        Self::Busybox,
        Self::Redis,
        Self::Kernel(Kernel::V6_1),
    ];

    fn folder(self) -> String {
        match self {
            Self::Qemu => "qemu".into(),
            Self::Busybox => "busybox".into(),
            Self::Redis => "redis".into(),
            Self::Kernel(kernel) => format!("kernel-{kernel}"),
        }
    }

    /// The packages by name; what they depend on comes along if the machine
    /// does not have it. Those that bring data files are named themselves, so
    /// that they are fetched even where they are installed.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Qemu => &[
                "qemu-system-x86",
                "qemu-system-common",
                "qemu-system-data",
                "seabios",
                "ipxe-qemu",
            ],
            Self::Busybox => &["busybox-static"],
            Self::Redis => &["redis-server", "redis-tools"],
            Self::Kernel(_) => &[],
        }
    }

    /// A file that must be there after unpacking, without its folder.
    fn proof(self) -> &'static str {
        match self {
            Self::Qemu => "usr/bin/qemu-system-x86_64",
            Self::Busybox => "bin/busybox",
            Self::Redis => "usr/bin/redis-server",
            Self::Kernel(_) => "boot",
        }
    }

    fn stamp(self) -> String {
        format!("recipe {RECIPE}: {}", self.packages().join(" "))
    }
}

/// How far filling the cache has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done, for a person.
    pub step: &'a str,
    /// Packages done of [`Progress::total`]; both zero where unknown.
    pub done: usize,
    /// Packages in this step.
    pub total: usize,
}

/// A filled cache.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Where the cache is unless told otherwise: `$AFTERIMAGE_LAB_CACHE`, or
    /// `lab-cache` in the `target` folder that this program was built into,
    /// or `target/lab-cache` of the current folder.
    #[must_use]
    pub fn default_dir() -> PathBuf {
        if let Some(dir) = std::env::var_os("AFTERIMAGE_LAB_CACHE") {
            return dir.into();
        }
        std::env::current_exe()
            .ok()
            .and_then(|exe| {
                exe.ancestors()
                    .find(|dir| dir.file_name().is_some_and(|name| name == "target"))
                    .map(|target| target.join("lab-cache"))
            })
            .unwrap_or_else(|| "target/lab-cache".into())
    }

    /// Fills the cache with [`Set::DAILY`] as far as it is not filled yet.
    ///
    /// # Errors
    /// No apt, no network, a package that does not exist, a full disk.
    pub fn prepare(dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Self> {
        Self::prepare_sets(dir, &Set::DAILY, progress)
    }

    /// Fills the cache with `sets` as far as it is not filled yet. Processes
    /// that do so at the same time wait for one another.
    ///
    /// # Errors
    /// As [`Cache::prepare`].
    pub fn prepare_sets(
        dir: &Path,
        sets: &[Set],
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let dir = dir.canonicalize().map_err(Error::file("find", dir))?;
        let cache = Self { dir };
        if sets.iter().all(|set| cache.holds(*set)) {
            return Ok(cache);
        }
        let lock_path = cache.dir.join("lock");
        let lock = fs::File::create(&lock_path).map_err(Error::file("create", &lock_path))?;
        lock.lock().map_err(Error::file("lock", &lock_path))?;
        let missing: Vec<Set> = sets.iter().copied().filter(|s| !cache.holds(*s)).collect();
        if !missing.is_empty() {
            let apt = Apt::new(&cache.dir)?;
            progress(step("reading package lists"));
            apt.update()?;
            for set in missing {
                cache.fill(set, &apt, progress)?;
            }
        }
        Ok(cache)
    }

    fn holds(&self, set: Set) -> bool {
        fs::read_to_string(self.beside(set, "stamp")).is_ok_and(|s| s == set.stamp())
            && self.root(set).join(set.proof()).exists()
    }

    fn fill(&self, set: Set, apt: &Apt, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let wanted = match set {
            Set::Kernel(kernel) => vec![apt.kernel_package(kernel)?],
            _ => apt.closure(set.packages())?,
        };
        let name = set.folder();
        let debs = apt.download(&wanted, &mut |done| {
            progress(Progress {
                step: &format!("downloading {name}"),
                done,
                total: wanted.len(),
            });
        })?;
        let root = self.root(set);
        let stamp = self.beside(set, "stamp");
        let fresh = self.beside(set, "unpacking");
        for old in [&fresh, &root] {
            remove_tree(old)?;
        }
        fs::create_dir_all(&fresh).map_err(Error::file("create", &fresh))?;
        for (done, deb) in debs.iter().enumerate() {
            progress(Progress {
                step: &format!("unpacking {name}"),
                done,
                total: debs.len(),
            });
            apt::unpack(deb, &fresh)?;
        }
        if !fresh.join(set.proof()).exists() {
            return Err(Error::NoPackage {
                name: name.clone(),
                detail: format!("what was unpacked has no {}", set.proof()),
            });
        }
        // The stamp is written last: a crash before it means doing all again.
        fs::rename(&fresh, &root).map_err(Error::file("rename", &fresh))?;
        fs::write(&stamp, set.stamp()).map_err(Error::file("write", &stamp))?;
        for deb in &debs {
            fs::remove_file(deb).map_err(Error::file("remove", deb))?;
        }
        progress(Progress {
            step: &format!("unpacked {name}"),
            done: debs.len(),
            total: debs.len(),
        });
        Ok(())
    }

    /// The cache's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder that a set of packages is unpacked into.
    #[must_use]
    pub fn root(&self, set: Set) -> PathBuf {
        self.dir.join(set.folder())
    }

    /// A file or folder beside a set's own. Not made by replacing an
    /// extension: `kernel-6.1` and `kernel-6.12` would get the same one.
    fn beside(&self, set: Set, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", set.folder()))
    }

    /// The static busybox.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.root(Set::Busybox).join(Set::Busybox.proof())
    }

    /// The files of a kernel.
    ///
    /// # Errors
    /// The kernel's set was not prepared.
    pub fn kernel(&self, kernel: Kernel) -> Result<KernelFiles> {
        if !self.holds(Set::Kernel(kernel)) {
            return Err(self.not_cached(&format!("kernel {kernel}")));
        }
        KernelFiles::find(&self.root(Set::Kernel(kernel)))
    }

    /// A command that runs a program of a set on this host, with the
    /// libraries of that set.
    ///
    /// # Errors
    /// There is no such program in the set, or it was not prepared.
    pub fn command(&self, set: Set, program: &str) -> Result<Command> {
        let path = self.program(set, program)?;
        let mut command = Command::new(path);
        command.env("LD_LIBRARY_PATH", self.library_path(set));
        Ok(command)
    }

    /// Where a program of a set is.
    ///
    /// # Errors
    /// As [`Cache::command`].
    pub fn program(&self, set: Set, program: &str) -> Result<PathBuf> {
        ["usr/bin", "bin", "usr/sbin", "sbin"]
            .iter()
            .map(|folder| self.root(set).join(folder).join(program))
            .find(|path| path.exists())
            .ok_or_else(|| self.not_cached(program))
    }

    pub(crate) fn library_path(&self, set: Set) -> String {
        let root = self.root(set);
        ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| root.join(folder).to_string_lossy().into_owned())
            .join(":")
    }

    fn not_cached(&self, what: &str) -> Error {
        Error::NotCached {
            what: what.to_owned(),
            dir: self.dir.display().to_string(),
        }
    }
}

fn step(step: &str) -> Progress<'_> {
    Progress {
        step,
        done: 0,
        total: 0,
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache as it is after `sets` were unpacked, without the packages.
    fn filled(sets: &[Set]) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            dir: dir.path().canonicalize().unwrap(),
        };
        for set in sets {
            fs::create_dir_all(cache.root(*set).join(set.proof())).unwrap();
            fs::write(cache.beside(*set, "stamp"), set.stamp()).unwrap();
        }
        (dir, cache)
    }

    #[test]
    fn a_filled_cache_needs_neither_apt_nor_network() {
        let (dir, _) = filled(&Set::DAILY);
        let quiet = &mut |progress: Progress<'_>| panic!("{}", progress.step);
        assert!(Cache::prepare(dir.path(), quiet).is_ok());
    }

    #[test]
    fn each_set_has_its_own_stamp() {
        for set in [Set::Kernel(Kernel::V6_1), Set::Kernel(Kernel::V6_12)] {
            let (_dir, cache) = filled(&[set]);
            assert!(cache.holds(set));
            for other in Kernel::ALL.map(Set::Kernel) {
                assert_eq!(cache.holds(other), other == set);
            }
        }
    }

    #[test]
    fn what_was_unpacked_by_an_older_recipe_is_not_trusted() {
        let (_dir, cache) = filled(&[Set::Busybox]);
        assert!(cache.holds(Set::Busybox));
        fs::write(cache.beside(Set::Busybox, "stamp"), "recipe 0: x").unwrap();
        assert!(!cache.holds(Set::Busybox));
    }
}
