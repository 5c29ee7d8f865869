//! Settings from a file: the same for a process and for the VMM.
//!
//! ```toml
//! [area.bank]
//! targets = ["dir:/var/lib/afterimage/bank", "tcp://backup:7000"]
//! quorum = 2
//! level = "replicated"
//! on_loss = "wait"
//!
//! [default]
//! targets = ["tcp://backup:7000"]
//! ```

use crate::{BadAddress, Settings};
use afterimage_area_abi::{AreaName, UnknownWord};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    default: Option<Section>,
    #[serde(default)]
    area: BTreeMap<String, Section>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    #[serde(default)]
    targets: Vec<String>,
    quorum: Option<u32>,
    level: Option<String>,
    on_loss: Option<String>,
    timeout_ms: Option<u64>,
    spin_us: Option<u64>,
}

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what is expected.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        message: String,
    },
    /// A section has no targets.
    #[error("the configuration file's section for area {0} names no targets")]
    NoTargets(AreaName),
    /// A target in it is no target.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A word in it is not known.
    #[error(transparent)]
    Word(#[from] UnknownWord),
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// The settings of an area: its own section, or the default one; `None` if
    /// the file has neither.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn settings(&self, name: &AreaName) -> Result<Option<Settings>, ConfigError> {
        let Some(section) = self.area.get(name.as_str()).or(self.default.as_ref()) else {
            return Ok(None);
        };
        if section.targets.is_empty() {
            return Err(ConfigError::NoTargets(name.clone()));
        }
        let mut settings = Settings {
            quorum: section.quorum,
            level: section.level.as_deref().map(str::parse).transpose()?,
            on_loss: section
                .on_loss
                .as_deref()
                .map(str::parse)
                .transpose()?
                .unwrap_or_default(),
            ..Settings::default()
        };
        for target in &section.targets {
            settings.targets.push(target.parse()?);
        }
        if let Some(ms) = section.timeout_ms {
            settings.timeout = Duration::from_millis(ms.max(1));
        }
        if let Some(us) = section.spin_us {
            settings.spin = Duration::from_micros(us);
        }
        Ok(Some(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnLoss;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path())
    }

    #[test]
    fn an_area_has_its_own_section_or_the_default() {
        let config = read(
            "[area.bank]\ntargets = ['dir:/a', 'tcp://b:1']\nquorum = 1\non_loss = 'continue'\nspin_us = 0\n[default]\ntargets = ['dir:/d']\n",
        )
        .unwrap();
        let bank = config.settings(&"bank".parse().unwrap()).unwrap().unwrap();
        assert_eq!((bank.targets.len(), bank.quorum), (2, Some(1)));
        assert_eq!(
            (bank.on_loss, bank.spin),
            (OnLoss::Continue, Duration::ZERO)
        );
        let other = config.settings(&"kv".parse().unwrap()).unwrap().unwrap();
        assert_eq!(other.targets.len(), 1);
        assert!(
            Config::default()
                .settings(&"kv".parse().unwrap())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_misspelt_setting_is_an_error_not_a_default() {
        let error = read("[area.bank]\nquorom = 1\n").unwrap_err();
        assert!(error.to_string().contains("quorom"), "{error}");
        let config = read("[default]\ntargets = ['dir:/a']\nlevel = 'fast'\n").unwrap();
        assert!(config.settings(&"kv".parse().unwrap()).is_err());
    }
}
