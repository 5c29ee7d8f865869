//! What is in the checkout: text files and packages.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything the checks look at.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) files: Vec<TextFile>,
    pub(crate) packages: Vec<Package>,
}

/// A text file, with its path from the checkout's root.
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A package and what it depends on.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its folder from the checkout's root.
    pub(crate) folder: String,
    /// For its own code, and to build it.
    pub(crate) dependencies: Vec<String>,
    /// For its tests and examples.
    pub(crate) dev_dependencies: Vec<String>,
}

/// Folders that hold nothing written by hand.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// Kinds of files that are read.
const TEXT: [&str; 4] = ["rs", "md", "toml", "sh"];

/// The checkout's root: cargo tells where this package is.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .and_then(|dir| Path::new(&dir).parent().map(Path::to_owned))
        .unwrap_or_else(|| ".".into())
}

impl Workspace {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut workspace = Self::default();
        workspace.walk(root, root)?;
        workspace.files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in &workspace.files {
            if let Some(folder) = file.path.strip_suffix("/Cargo.toml")
                && let Some(package) = Package::read(folder, &file.text)
                    .with_context(|| format!("{}: cannot be read", file.path))?
            {
                workspace.packages.push(package);
            }
        }
        Ok(workspace)
    }

    fn walk(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                    self.walk(root, &path)?;
                }
            } else if path
                .extension()
                .is_some_and(|kind| TEXT.iter().any(|text| kind == *text))
            {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("{}: cannot be read", path.display()))?;
                let path = path.strip_prefix(root)?.to_string_lossy().into_owned();
                self.files.push(TextFile { path, text });
            }
        }
        Ok(())
    }

    /// The text of a file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    }

    /// Rust files, `crates/x` for those below that folder, empty for all.
    pub(crate) fn rust<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a TextFile> {
        self.files
            .iter()
            .filter(move |file| file.path.ends_with(".rs") && file.path.starts_with(folder))
    }
}

#[derive(Deserialize)]
struct Manifest {
    package: Option<Named>,
    #[serde(flatten)]
    tables: Tables,
    #[serde(default)]
    target: BTreeMap<String, Tables>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Tables {
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
    #[serde(default)]
    build_dependencies: BTreeMap<String, toml::Value>,
    #[serde(default)]
    dev_dependencies: BTreeMap<String, toml::Value>,
}

impl Package {
    /// `None` for a manifest without a package.
    pub(crate) fn read(folder: &str, manifest: &str) -> Result<Option<Self>> {
        let manifest: Manifest = toml::from_str(manifest)?;
        let Some(package) = manifest.package else {
            return Ok(None);
        };
        let mut read = Self {
            name: package.name,
            folder: folder.to_owned(),
            dependencies: Vec::new(),
            dev_dependencies: Vec::new(),
        };
        for tables in std::iter::once(&manifest.tables).chain(manifest.target.values()) {
            let normal = tables.dependencies.iter().chain(&tables.build_dependencies);
            read.dependencies.extend(normal.map(real_name));
            let dev = tables.dev_dependencies.iter();
            read.dev_dependencies.extend(dev.map(real_name));
        }
        Ok(Some(read))
    }
}

/// The package behind an entry, which may have been renamed.
fn real_name((key, value): (&String, &toml::Value)) -> String {
    let renamed = value.get("package").and_then(toml::Value::as_str);
    renamed.unwrap_or(key).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_a_manifest_is_read() {
        let package = Package::read(
            "crates/x",
            "[package]\nname = 'x'\n[dependencies]\na.workspace = true\n[build-dependencies]\nb = '1'\n\
             [dev-dependencies]\nc = { package = 'd', version = '1' }\n[target.'cfg(unix)'.dependencies]\ne = '1'\n",
        )
        .unwrap()
        .unwrap();
        assert_eq!(package.dependencies, ["a", "b", "e"]);
        assert_eq!(package.dev_dependencies, ["d"]);
    }
}
