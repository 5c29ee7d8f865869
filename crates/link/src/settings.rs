//! What is configured about an area's targets.

use crate::TargetUrl;
use afterimage_area_abi::{Level, UnknownWord};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a commit does when fewer targets than the quorum can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLoss {
    /// It waits until they are back. Nothing is acknowledged that could be
    /// lost, and nothing is acknowledged at all meanwhile.
    #[default]
    Wait,
    /// It ends in doubt and the area takes no more commits.
    Stop,
    /// It ends degraded and the application goes on with less safety.
    Continue,
}

impl OnLoss {
    /// The word used in settings.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Stop => "stop",
            Self::Continue => "continue",
        }
    }
}

impl FromStr for OnLoss {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        [Self::Wait, Self::Stop, Self::Continue]
            .into_iter()
            .find(|choice| choice.word() == word)
            .ok_or_else(|| UnknownWord {
                what: "on-loss setting",
                word: word.to_owned(),
                known: "wait, stop, continue",
            })
    }
}

impl fmt::Display for OnLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Targets of an area, and what a commit asks of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where deltas go.
    pub targets: Vec<TargetUrl>,
    /// How many must hold an epoch; `None` for all of them.
    pub quorum: Option<u32>,
    /// What a commit waits for; `None` for `replicated` if there is a backup
    /// among the targets, else `durable`.
    pub level: Option<Level>,
    /// What happens when the quorum cannot be reached.
    pub on_loss: OnLoss,
    /// How long a target may be silent before it counts as lost.
    pub timeout: Duration,
    /// How long a commit polls for the acknowledgement before it sleeps. Saves
    /// a wake-up (tens of microseconds) at the price of that much processor
    /// time at most for each commit; zero turns it off.
    pub spin: Duration,
}

/// The settings cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The quorum is not between 1 and the number of targets.
    #[error("a quorum of {quorum} is not possible with {targets} targets")]
    Quorum {
        /// The quorum asked for.
        quorum: u32,
        /// Number of targets.
        targets: usize,
    },
    /// Something is to be waited for, and there is nobody who could have it.
    #[error(
        "level {level} needs a target and none is configured; name one (dir:PATH, tcp://HOST:PORT), or ask for level local"
    )]
    NoTarget {
        /// The level asked for.
        level: Level,
    },
    /// A target is named twice, so one copy would count as two.
    #[error("target {0} is named twice")]
    Twice(TargetUrl),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            quorum: None,
            level: None,
            on_loss: OnLoss::default(),
            timeout: Duration::from_secs(10),
            spin: Duration::from_micros(50),
        }
    }
}

impl Settings {
    /// How many targets must hold an epoch.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn checked_quorum(&self) -> Result<u32, SettingsError> {
        for (at, target) in self.targets.iter().enumerate() {
            if self.targets[..at].contains(target) {
                return Err(SettingsError::Twice(target.clone()));
            }
        }
        if let Some(level) = self.level
            && self.targets.is_empty()
            && level > Level::Local
        {
            return Err(SettingsError::NoTarget { level });
        }
        let all = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        match self.quorum {
            None => Ok(all),
            Some(quorum) if (1..=all).contains(&quorum) => Ok(quorum),
            Some(quorum) => Err(SettingsError::Quorum {
                quorum,
                targets: self.targets.len(),
            }),
        }
    }

    /// What a commit waits for unless it says otherwise.
    #[must_use]
    pub fn default_level(&self) -> Level {
        let remote = self.targets.iter().any(|t| matches!(t, TargetUrl::Peer(_)));
        self.level
            .unwrap_or(match (self.targets.is_empty(), remote) {
                (true, _) => Level::Local,
                (_, true) => Level::Replicated,
                (_, false) => Level::Durable,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(targets: &[&str], quorum: Option<u32>) -> Settings {
        Settings {
            targets: targets.iter().map(|t| t.parse().unwrap()).collect(),
            quorum,
            ..Settings::default()
        }
    }

    #[test]
    fn the_quorum_is_all_targets_unless_set_and_never_impossible() {
        assert_eq!(
            settings(&["dir:/a", "dir:/b"], None).checked_quorum(),
            Ok(2)
        );
        assert_eq!(
            settings(&["dir:/a", "dir:/b"], Some(1)).checked_quorum(),
            Ok(1)
        );
        assert!(settings(&["dir:/a"], Some(2)).checked_quorum().is_err());
        assert!(settings(&["dir:/a"], Some(0)).checked_quorum().is_err());
        assert!(
            settings(&["dir:/a", "dir:/a"], None)
                .checked_quorum()
                .is_err()
        );
    }

    #[test]
    fn a_level_that_waits_for_nobody_is_refused() {
        let mut nobody = settings(&[], None);
        assert_eq!(nobody.checked_quorum(), Ok(0));
        nobody.level = Some(Level::Local);
        assert_eq!(nobody.checked_quorum(), Ok(0));
        nobody.level = Some(Level::Durable);
        assert!(nobody.checked_quorum().is_err());
    }

    #[test]
    fn the_level_follows_from_the_targets() {
        assert_eq!(settings(&[], None).default_level(), Level::Local);
        assert_eq!(settings(&["dir:/a"], None).default_level(), Level::Durable);
        assert_eq!(
            settings(&["dir:/a", "tcp://b:1"], None).default_level(),
            Level::Replicated
        );
    }
}
