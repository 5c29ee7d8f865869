//! Initramfs images: `newc` archives that come out byte for byte the same
//! whenever the same things are put in, on whatever machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cpio::NewcBuilder;
use cpio::newc::{ModeFileType, trailer};

use crate::error::{Error, Result};

#[derive(Debug, Clone)]
enum Node {
    Dir,
    Bytes { mode: u32, content: Vec<u8> },
    Copy { mode: u32, from: PathBuf },
    Symlink { target: String },
    CharDevice { mode: u32, major: u32, minor: u32 },
}

/// The description of an image. Paths inside are absolute; folders above an
/// entry come into being by themselves; an entry put twice is replaced.
#[derive(Debug, Clone)]
pub struct Initramfs {
    // Sorted, so a folder comes before what is in it and order never varies.
    nodes: BTreeMap<String, Node>,
}

impl Default for Initramfs {
    fn default() -> Self {
        Self::new()
    }
}

impl Initramfs {
    /// An image with nothing but `/dev/console` and `/dev/null`, which the
    /// kernel and its first process need before anything is mounted.
    #[must_use]
    pub fn new() -> Self {
        let mut image = Self {
            nodes: BTreeMap::new(),
        };
        image.put("/dev/console", device(0o600, 5, 1));
        image.put("/dev/null", device(0o666, 1, 3));
        image
    }

    /// An empty folder.
    pub fn dir(&mut self, path: &str) -> &mut Self {
        self.put(path, Node::Dir);
        self
    }

    /// A file with the given content and permission bits.
    pub fn bytes(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Self {
        let content = content.into();
        self.put(path, Node::Bytes { mode, content });
        self
    }

    /// A copy of a host's file, read when the image is written.
    pub fn copy(&mut self, path: &str, mode: u32, from: impl Into<PathBuf>) -> &mut Self {
        let from = from.into();
        self.put(path, Node::Copy { mode, from });
        self
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        let target = target.to_owned();
        self.put(path, Node::Symlink { target });
        self
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..end].to_owned())
                .or_insert(Node::Dir);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Writes the archive to `out`.
    ///
    /// # Errors
    /// A host file that cannot be read or is over 4 GiB, or `out` failing.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        for (number, (name, node)) in (1u32..).zip(&self.nodes) {
            let content = match node {
                Node::Bytes { content, .. } => content.clone(),
                Node::Copy { from, .. } => fs::read(from).map_err(Error::file("read", from))?,
                Node::Symlink { target } => target.clone().into_bytes(),
                Node::Dir | Node::CharDevice { .. } => Vec::new(),
            };
            let size = u32::try_from(content.len()).map_err(|_| Error::Malformed {
                what: format!("{name} is too big for an initramfs image (4 GiB is the limit)"),
            })?;
            let entry = NewcBuilder::new(name).ino(number).uid(0).gid(0).mtime(0);
            let entry = match node {
                Node::Dir => entry
                    .mode(0o755)
                    .nlink(2)
                    .set_mode_file_type(ModeFileType::Directory),
                Node::Bytes { mode, .. } | Node::Copy { mode, .. } => entry
                    .mode(*mode)
                    .nlink(1)
                    .set_mode_file_type(ModeFileType::Regular),
                Node::Symlink { .. } => entry
                    .mode(0o777)
                    .nlink(1)
                    .set_mode_file_type(ModeFileType::Symlink),
                Node::CharDevice { mode, major, minor } => entry
                    .mode(*mode)
                    .nlink(1)
                    .rdev_major(*major)
                    .rdev_minor(*minor)
                    .set_mode_file_type(ModeFileType::Char),
            };
            let mut writer = entry.write(&mut *out, size);
            writer
                .write_all(&content)
                .and_then(|()| writer.finish())
                .map_err(Error::io(format!("cannot write {name} into the image")))?;
        }
        trailer(&mut *out).map_err(Error::io("cannot end the image"))?;
        out.flush().map_err(Error::io("cannot end the image"))
    }

    /// Writes the archive into a file, replacing it.
    ///
    /// # Errors
    /// As [`Initramfs::write`].
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let file = fs::File::create(path).map_err(Error::file("create", path))?;
        self.write(&mut std::io::BufWriter::with_capacity(1 << 20, file))
    }
}

fn device(mode: u32, major: u32, minor: u32) -> Node {
    Node::CharDevice { mode, major, minor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(image: &Initramfs) -> Vec<u8> {
        let mut out = Vec::new();
        image.write(&mut out).unwrap();
        out
    }

    #[test]
    fn the_same_description_gives_the_same_bytes_in_any_order() {
        let mut one = Initramfs::new();
        one.bytes("/init", 0o755, "#!x").dir("/proc");
        one.symlink("/bin/sh", "busybox");
        let mut other = Initramfs::new();
        other.symlink("/bin/sh", "busybox");
        other.dir("/proc").bytes("/init", 0o755, "#!x");
        assert_eq!(archive(&one), archive(&other));
        other.bytes("/init", 0o700, "#!x");
        assert_ne!(archive(&one), archive(&other));
    }

    #[test]
    fn a_host_file_is_copied_whatever_its_own_owner_mode_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "content").unwrap();
        let mut copied = Initramfs::new();
        copied.copy("/x", 0o644, &path);
        let mut given = Initramfs::new();
        given.bytes("/x", 0o644, "content");
        assert_eq!(archive(&copied), archive(&given));
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_nothing_is_twice() {
        let mut image = Initramfs::new();
        image.bytes("/a/b/c", 0o644, "").bytes("/a-b", 0o644, "");
        let bytes = archive(&image);
        let mut input = &bytes[..];
        let mut names = Vec::new();
        loop {
            let reader = cpio::NewcReader::new(input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            input = reader.finish().unwrap();
        }
        assert_eq!(
            names,
            ["a", "a-b", "a/b", "a/b/c", "dev", "dev/console", "dev/null"]
        );
    }
}
