//! apt and dpkg, run with lists and caches of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::Kernel;
use crate::error::{Error, Result};

const NOT_DEBIAN: &str = "the lab is made of Debian's packages and needs apt and dpkg \
     (on Debian both are always there; on other systems use a Debian 12 machine or container)";

/// A package in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    name: String,
    version: String,
    /// As apt names the downloaded file.
    file: String,
}

/// apt with its state below one folder.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    pub(super) fn new(cache: &Path) -> Result<Self> {
        let dir = cache.join("apt");
        for folder in ["state/lists/partial", "cache/archives/partial", "debs"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        }
        let option = |key: &str, value: &str| format!("-o{key}={value}");
        let at = |key: &str, folder: &str| option(key, &dir.join(folder).to_string_lossy());
        let options = vec![
            at("Dir::State", "state"),
            at("Dir::State::lists", "state/lists"),
            at("Dir::Cache", "cache"),
            at("Dir::Log", "cache"),
            // What the machine has installed is read, never changed.
            option("Dir::State::status", "/var/lib/dpkg/status"),
            // Only the system's own database would need the lock.
            option("Debug::NoLocking", "true"),
            // As root apt would drop to a user who may not enter the cache.
            option("APT::Sandbox::User", "root"),
            option("APT::Install-Recommends", "false"),
            option("Acquire::Languages", "none"),
            option("Acquire::Retries", "3"),
        ];
        Ok(Self { dir, options })
    }

    /// Reads the package lists. Sources that fail are forgiven here: whether
    /// what is left will do is seen when packages are looked up.
    pub(super) fn update(&self) -> Result<()> {
        let output = run(self.command("apt-get").args(["-q", "update"]))?;
        fs::write(self.update_log(), &output.stderr)
            .map_err(Error::io("cannot write apt's messages into the cache"))
    }

    /// The packages and everything they need that this machine does not have.
    pub(super) fn closure(&self, names: &[&str]) -> Result<Vec<Wanted>> {
        let mut command = self.command("apt-get");
        // A package that is installed here is wanted all the same.
        command.args(["-qq", "--print-uris", "--reinstall", "install"]);
        let output = run(command.args(names))?;
        if !output.status.success() {
            return Err(self.no_package(&names.join(" "), &output));
        }
        let wanted = parse_uris(&String::from_utf8_lossy(&output.stdout));
        let found: BTreeSet<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
        match names.iter().find(|name| !found.contains(**name)) {
            Some(name) => Err(self.no_package(name, &output)),
            None => Ok(wanted),
        }
    }

    /// The package that the kernel's meta package stands for today.
    pub(super) fn kernel_package(&self, kernel: Kernel) -> Result<Wanted> {
        let meta = kernel.meta_package();
        let output = run(self.command("apt-cache").args(["depends", meta]))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = parse_depends(&text)
            .into_iter()
            .find(|name| name.starts_with(kernel.package_prefix()))
            .ok_or_else(|| self.no_package(meta, &output))?;
        let output = run(self
            .command("apt-get")
            .args(["-qq", "--print-uris", "download"])
            .arg(&name))?;
        parse_uris(&String::from_utf8_lossy(&output.stdout))
            .pop()
            .ok_or_else(|| self.no_package(&name, &output))
    }

    /// Downloads packages, as far as they are not there yet, and returns
    /// their files. apt checks each against its signed lists.
    pub(super) fn download(
        &self,
        wanted: &[Wanted],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<PathBuf>> {
        let folder = self.dir.join("debs");
        let mut command = self.command("apt-get");
        command.args(["-q", "download"]).current_dir(&folder);
        command.args(wanted.iter().map(|w| format!("{}={}", w.name, w.version)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_run("apt-get", error))?;
        let errors = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default())
        });
        let mut started = 0;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if line.starts_with("Get:") {
                    done(started);
                    started += 1;
                }
            }
        }
        let status = child.wait().map_err(Error::io("cannot wait for apt-get"))?;
        let errors = errors.map(|reader| reader.join().unwrap_or_default());
        if !status.success() {
            return Err(Error::Program {
                what: "downloading packages".into(),
                status: status.to_string(),
                detail: format!(
                    "{}\nIs the network up, and does `apt-get update` work?",
                    last_lines(&errors.unwrap_or_default())
                ),
            });
        }
        Ok(wanted.iter().map(|w| folder.join(&w.file)).collect())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C");
        command.stdin(Stdio::null());
        command
    }

    fn update_log(&self) -> PathBuf {
        self.dir.join("update.log")
    }

    fn no_package(&self, name: &str, output: &Output) -> Error {
        let update = fs::read_to_string(self.update_log()).unwrap_or_default();
        let said = String::from_utf8_lossy(&output.stderr);
        Error::NoPackage {
            name: name.to_owned(),
            detail: last_lines(&format!("{update}\n{said}")),
        }
    }
}

/// Unpacks a package's files below `root`; none of its scripts run.
pub(super) fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let output = run(Command::new("dpkg").arg("-x").arg(deb).arg(root))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program {
        what: format!("unpacking {}", deb.display()),
        status: output.status.to_string(),
        detail: last_lines(&String::from_utf8_lossy(&output.stderr)),
    })
}

fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().map_err(|error| not_run(&program, error))
}

fn not_run(program: &str, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        Error::MissingProgram {
            program: program.to_owned(),
            advice: NOT_DEBIAN,
        }
    } else {
        Error::io(format!("cannot run {program}"))(error)
    }
}

/// The lines of `--print-uris`: `'URI' NAME_VERSION_ARCH.deb SIZE HASH`.
fn parse_uris(text: &str) -> Vec<Wanted> {
    text.lines()
        .filter_map(|line| {
            let file = line.split_whitespace().nth(1)?;
            let mut parts = file.strip_suffix(".deb")?.splitn(3, '_');
            let (name, version) = (parts.next()?, parts.next()?);
            Some(Wanted {
                name: name.to_owned(),
                version: version.replace("%3a", ":"),
                file: file.to_owned(),
            })
        })
        .collect()
}

fn parse_depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_versions_and_epochs_are_read_from_print_uris() {
        let text = "'http://d/pool/busybox-static_1.35.0-4%2bdeb12u1%2bb1_amd64.deb' \
                    busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb 928188 SHA256:00\n\
                    W: something else\n";
        assert_eq!(
            parse_uris(text),
            [Wanted {
                name: "busybox-static".into(),
                version: "1:1.35.0-4+deb12u1+b1".into(),
                file: "busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb".into(),
            }]
        );
    }

    #[test]
    fn the_meta_package_names_the_kernel() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(parse_depends(text), ["linux-image-6.1.0-56-cloud-amd64"]);
    }
}
