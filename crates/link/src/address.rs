//! Where targets are.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

/// A target as it is written in settings: `dir:PATH`, `tcp://HOST:PORT` or
/// `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetUrl {
    /// A directory of this machine.
    Dir(PathBuf),
    /// A backup.
    Peer(Address),
}

/// The text is no target, or no place where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad address {text:?}: use {expected}")]
pub struct BadAddress {
    text: String,
    expected: &'static str,
}

const PEERS: &str = "tcp://HOST:PORT or unix:PATH";
const TARGETS: &str = "dir:PATH, tcp://HOST:PORT or unix:PATH";

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let place = text.strip_prefix("tcp://").unwrap_or(text);
        let sound = place.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        });
        if sound {
            Ok(Self::Tcp(place.to_owned()))
        } else {
            Err(BadAddress {
                text: text.to_owned(),
                expected: PEERS,
            })
        }
    }
}

impl FromStr for TargetUrl {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("dir:").filter(|p| !p.is_empty()) {
            return Ok(Self::Dir(path.into()));
        }
        if text.starts_with("tcp://") || text.starts_with("unix:") {
            return text.parse().map(Self::Peer);
        }
        Err(BadAddress {
            text: text.to_owned(),
            expected: TARGETS,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(place) => write!(f, "tcp://{place}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
            Self::Peer(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_back_as_written() {
        for text in [
            "dir:/var/lib/x",
            "tcp://backup:7000",
            "tcp://[::1]:7",
            "unix:/run/a.sock",
        ] {
            assert_eq!(text.parse::<TargetUrl>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "dir:",
            "backup",
            "tcp://backup",
            "tcp://:7000",
            "tcp://a/b:1",
            "tcp://a:99999",
            "http://a:1",
        ] {
            assert!(text.parse::<TargetUrl>().is_err(), "{text}");
        }
    }
}
