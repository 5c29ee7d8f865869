//! The initramfs of the lab itself.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::initramfs::Initramfs;
use crate::layout;
use crate::packages::{Cache, KernelFiles, Set};

/// What the machine's own devices need.
const DEVICES: [&str; 3] = ["virtio_pci", "virtio_console", "virtio_net"];

/// What a VMM in it needs.
const VMM: [&str; 2] = ["kvm_amd", "tun"];

/// Folders where the dynamic linker looks without being told.
const LIBRARY_DIR: &str = "/lib/x86_64-linux-gnu";

/// An image that boots into the agent, with busybox and modules.
pub(crate) fn lab_image(
    cache: &Cache,
    kernel: &KernelFiles,
    agent: &Path,
    modules: &[String],
) -> Result<Initramfs> {
    let mut image = Initramfs::new();
    image.copy("/init", 0o755, agent);
    for dir in ["/proc", "/sys", "/tmp", "/run"] {
        image.dir(dir);
    }
    image.bytes("/etc/hosts", 0o644, layout::HOSTS);
    add_busybox(&mut image, cache)?;
    let mut wanted = DEVICES.to_vec();
    wanted.extend(VMM);
    wanted.extend(modules.iter().map(String::as_str));
    let mut list = String::new();
    for module in kernel.load_order(&wanted)? {
        let path = format!("{}/{}.ko", layout::MODULE_DIR, module.name);
        let parameters = match module.name.as_str() {
            "kvm_amd" => " npt=1",
            _ => "",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(list, "{path}{parameters}");
        image.bytes(&path, 0o644, module.content);
    }
    image.bytes(layout::MODULE_LIST, 0o644, list);
    Ok(image)
}

/// busybox and a link for each of its commands.
pub(crate) fn add_busybox(image: &mut Initramfs, cache: &Cache) -> Result<()> {
    let busybox = cache.busybox();
    for command in run(Command::new(&busybox).arg("--list"))?.lines() {
        image.symlink(&format!("/bin/{command}"), layout::BUSYBOX);
    }
    image.copy(layout::BUSYBOX, 0o755, busybox);
    Ok(())
}

/// A dynamically linked program with its libraries, at the places where its
/// linker finds them without a search path.
pub(crate) fn add_program(
    image: &mut Initramfs,
    cache: &Cache,
    set: Set,
    name: &str,
) -> Result<()> {
    let path = cache.program(set, name)?;
    let listing = run(Command::new("ldd")
        .arg(&path)
        .env("LD_LIBRARY_PATH", cache.library_path(set)))?;
    for (place, from) in parse_ldd(&listing).map_err(|library| Error::Malformed {
        what: format!("{name} needs {library}, which is neither here nor in the lab's cache"),
    })? {
        image.copy(&place, 0o755, from);
    }
    image.copy(&format!("/bin/{name}"), 0o755, path);
    Ok(())
}

/// Pairs of place inside and file on the host, from the lines of ldd:
/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`,
/// `/lib64/ld-linux-x86-64.so.2 (0x...)`, `linux-vdso.so.1 (0x...)`.
/// A library that is not found is the error.
fn parse_ldd(listing: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let mut libraries = Vec::new();
    for line in listing.lines() {
        let line = line.trim();
        match line.split_once(" => ") {
            Some((name, "not found")) => return Err(name.to_owned()),
            Some((name, found)) => {
                let from = found.split(" (").next().unwrap_or(found);
                libraries.push((format!("{LIBRARY_DIR}/{name}"), from.to_owned()));
            }
            None => {
                if let Some((loader, _)) = line.split_once(" (")
                    && loader.starts_with('/')
                {
                    libraries.push((loader.to_owned(), loader.to_owned()));
                }
            }
        }
    }
    Ok(libraries)
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(Error::io(format!("cannot run {program}")))?;
    if !output.status.success() {
        return Err(Error::Program {
            what: program,
            status: output.status.to_string(),
            detail: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                       \tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse_ldd(listing).unwrap();
        let places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(
            places,
            [
                "/lib/x86_64-linux-gnu/libssl.so.3",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        let missing = parse_ldd("\tliblzf.so.1 => not found\n");
        assert_eq!(missing, Err("liblzf.so.1".into()));
    }
}
