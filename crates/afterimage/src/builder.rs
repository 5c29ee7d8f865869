//! How an area is opened, and where its settings come from.

use crate::engine::{self, Engine};
use crate::{Area, Level, OnLoss, OpenError, Root, device};
use afterimage_area_abi::AreaName;
use afterimage_area_abi::control::DATA_ALIGN;
use afterimage_delta::MAX_AREA_LEN;
use afterimage_link::{Config, Settings, TargetUrl};
use std::env;
use std::marker::PhantomData;
use std::path::PathBuf;

/// Length of a new area unless it is given: 64 MiB, of which only what is used
/// takes memory or disk.
const DEFAULT_LEN: u64 = 64 << 20;

/// Settings of an area about to be opened.
///
/// Where they come from, the first that says anything about targets counts:
/// this builder; the variables `AFTERIMAGE_TARGETS` (comma-separated),
/// `AFTERIMAGE_QUORUM`, `AFTERIMAGE_LEVEL`, `AFTERIMAGE_ON_LOSS`; the file
/// named by `AFTERIMAGE_CONFIG`, else `afterimage/config.toml` in the user's
/// configuration folder; else one directory in the user's state folder.
///
/// In a virtual machine that has an area of this name, the hypervisor has the
/// targets, and of these settings only the level counts.
#[derive(Clone, Debug)]
pub struct Builder<T> {
    name: String,
    len: Option<u64>,
    targets: Vec<TargetUrl>,
    quorum: Option<u32>,
    level: Option<Level>,
    on_loss: Option<OnLoss>,
    root: PhantomData<fn() -> T>,
}

impl<T: Root> Builder<T> {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            len: None,
            targets: Vec::new(),
            quorum: None,
            level: None,
            on_loss: None,
            root: PhantomData,
        }
    }

    /// Length of the area in bytes: a multiple of 2 MiB. An area that exists
    /// must be opened with the length it has. Default: 64 MiB.
    #[must_use]
    pub fn len(mut self, bytes: u64) -> Self {
        self.len = Some(bytes);
        self
    }

    /// Adds a target: `dir:PATH`, `tcp://HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// [`OpenError::Address`].
    pub fn target(mut self, url: &str) -> Result<Self, OpenError> {
        self.targets.push(url.parse()?);
        Ok(self)
    }

    /// How many targets must hold a commit. Default: all.
    #[must_use]
    pub fn quorum(mut self, targets: u32) -> Self {
        self.quorum = Some(targets);
        self
    }

    /// What commits wait for. Default: `replicated` if there is a backup among
    /// the targets, else `durable`.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// What a commit does when the quorum cannot be reached. Default: it waits.
    #[must_use]
    pub fn on_loss(mut self, choice: OnLoss) -> Self {
        self.on_loss = Some(choice);
        self
    }

    /// Opens the area, or makes it, and begins this primary's reign.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub fn open(self) -> Result<Area<T>, OpenError> {
        let name: AreaName = self.name.parse()?;
        let engine: Box<dyn Engine> = match device::find(&name)? {
            Some(device) => Box::new(engine::Guest::attach(&name, device, self.level)?),
            None => {
                let len = self.len.unwrap_or(DEFAULT_LEN);
                if len == 0 || !len.is_multiple_of(DATA_ALIGN) || len > MAX_AREA_LEN {
                    return Err(OpenError::Length { len });
                }
                let settings = self.settings(&name)?;
                Box::new(engine::Process::open(&name, len, &settings)?)
            }
        };
        Area::start(engine)
    }

    fn settings(&self, name: &AreaName) -> Result<Settings, OpenError> {
        let mut settings = if self.targets.is_empty() {
            configured(name)?
        } else {
            Settings {
                targets: self.targets.clone(),
                ..Settings::default()
            }
        };
        settings.quorum = self.quorum.or(settings.quorum);
        settings.level = self.level.or(settings.level);
        settings.on_loss = self.on_loss.unwrap_or(settings.on_loss);
        Ok(settings)
    }
}

/// The settings from environment or file, or the default.
fn configured(name: &AreaName) -> Result<Settings, OpenError> {
    if let Some(list) = variable("AFTERIMAGE_TARGETS") {
        return from_environment(&list);
    }
    let file = match variable("AFTERIMAGE_CONFIG") {
        Some(path) => Some(PathBuf::from(path)),
        None => folder("XDG_CONFIG_HOME", ".config")
            .map(|dir| dir.join("afterimage/config.toml"))
            .filter(|path| path.exists()),
    };
    if let Some(path) = file
        && let Some(settings) = Config::load(&path)?.settings(name)?
    {
        return Ok(settings);
    }
    let state = folder("XDG_STATE_HOME", ".local/state").ok_or(OpenError::NoHome)?;
    Ok(Settings {
        targets: vec![TargetUrl::Dir(state.join("afterimage").join(name.as_str()))],
        ..Settings::default()
    })
}

fn from_environment(list: &str) -> Result<Settings, OpenError> {
    let mut settings = Settings::default();
    for url in list.split(',').map(str::trim).filter(|u| !u.is_empty()) {
        settings.targets.push(url.parse()?);
    }
    if settings.targets.is_empty() {
        return Err(OpenError::Environment {
            name: "AFTERIMAGE_TARGETS",
            value: list.to_owned(),
            problem: "names no target".into(),
        });
    }
    if let Some(value) = variable("AFTERIMAGE_QUORUM") {
        settings.quorum = Some(value.parse().map_err(|_| OpenError::Environment {
            name: "AFTERIMAGE_QUORUM",
            value,
            problem: "not a number of targets".into(),
        })?);
    }
    settings.level = variable("AFTERIMAGE_LEVEL")
        .map(|w| w.parse())
        .transpose()?;
    if let Some(word) = variable("AFTERIMAGE_ON_LOSS") {
        settings.on_loss = word.parse()?;
    }
    Ok(settings)
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// A folder of the XDG base directory specification.
fn folder(name: &str, below_home: &str) -> Option<PathBuf> {
    variable(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(below_home)))
}
