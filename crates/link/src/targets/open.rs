//! Finding out, before anything is written, who holds most and whether this
//! primary may write.

use super::Targets;
use crate::directory::{Directory, DirectoryError};
use crate::query::status_of;
use crate::remote::{Greeted, Remote, RemoteError};
use crate::replica::report;
use crate::{Address, Settings, SettingsError, TargetUrl};
use afterimage_area_abi::{AreaName, PrimaryId, Reign};
use afterimage_delta::{Epoch, Image, ImageError, Term};
use afterimage_protocol::{Hello, Position};

/// An area's targets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The area's length is not possible.
    #[error(transparent)]
    Length(#[from] ImageError),
    /// A directory cannot be used.
    #[error("target {url}")]
    Directory {
        /// The target.
        url: TargetUrl,
        /// Why.
        source: Box<DirectoryError>,
    },
    /// A backup cannot be used.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// Not enough targets answer to know what was acknowledged.
    #[error(
        "{reachable} of {targets} targets can be reached, {needed} are needed to be sure of the last acknowledged commit ({problems})"
    )]
    Unreachable {
        /// Targets that answer.
        reachable: usize,
        /// Targets in all.
        targets: usize,
        /// How many must answer.
        needed: usize,
        /// What is wrong with the others.
        problems: String,
    },
    /// Another primary reigns.
    #[error(
        "area {name} has a primary in term {term} with epoch {epoch} at {holder}; if that one is dead, run `afterimage promote {holder} --area {name}` and start again"
    )]
    Reigned {
        /// The area.
        name: AreaName,
        /// Its term.
        term: Term,
        /// Its last epoch.
        epoch: Epoch,
        /// The target that holds it.
        holder: Address,
    },
    /// A target of an older term holds more than those of the newest.
    #[error(
        "area {name}: a target in term {other_term} holds epoch {other_epoch}, those in term {term} only epoch {epoch}: the wrong one was promoted; promote the fuller one, or remove its copy"
    )]
    Fuller {
        /// The area.
        name: AreaName,
        /// The newest term.
        term: Term,
        /// Its last epoch.
        epoch: Epoch,
        /// The older term.
        other_term: Term,
        /// Its last epoch.
        other_epoch: Epoch,
    },
    /// A backup that could not be asked has a history that nobody knew of.
    #[error(
        "target {0} holds more of this area than could be known when it was opened; open it again"
    )]
    Unknown(Address),
    /// The system has no random numbers.
    #[error("no random numbers for an identity")]
    Random,
}

/// What one target has, and which.
struct Candidate {
    reign: Reign,
    epoch: Epoch,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Directory(usize),
    Remote(usize),
}

impl Targets {
    /// Opens all targets of an area and finds the image to go on from: the
    /// fullest one of the newest term.
    ///
    /// Opening also begins this primary's reign, or continues it if a directory
    /// says that this is the same one.
    ///
    /// # Errors
    /// [`OpenError`] says which target, why, and what to do.
    pub fn open(
        name: &AreaName,
        len: u64,
        settings: &Settings,
    ) -> Result<(Self, Image), OpenError> {
        let quorum = settings.checked_quorum()?;
        let mut image = Image::new(len)?;
        let mut directories = Vec::new();
        let mut images = Vec::new();
        let mut remotes = Vec::new();
        for target in &settings.targets {
            match target {
                TargetUrl::Dir(path) => {
                    let (directory, image) = Directory::open(path, name, len)
                        .map_err(|error| directory_error(target, error))?;
                    directories.push(directory);
                    images.push(image);
                }
                TargetUrl::Peer(address) => remotes.push(Remote::new(address.clone(), settings)),
            }
        }
        let candidates = survey(name, &directories, &remotes, settings, quorum)?;
        // Where two hold the same, the directory's image is already in memory.
        let best = candidates.iter().max_by_key(|c| {
            let here = matches!(c.place, Place::Directory(_));
            (c.reign.term, c.epoch, here)
        });
        let mut hello = Hello {
            name: name.clone(),
            len,
            term: Term(1),
            primary: random_id()?,
            position: Position::default(),
            pending: None,
        };
        if let Some(best) = best {
            // A longer history of an older term may have been acknowledged.
            if let Some(fuller) = candidates.iter().find(|c| c.epoch > best.epoch) {
                return Err(OpenError::Fuller {
                    name: name.clone(),
                    term: best.reign.term,
                    epoch: best.epoch,
                    other_term: fuller.reign.term,
                    other_epoch: fuller.epoch,
                });
            }
            let own = candidates
                .iter()
                .any(|c| matches!(c.place, Place::Directory(_)) && c.reign == best.reign);
            (hello.term, hello.primary) = match (best.reign.primary, best.place) {
                (None, _) => (Term::ZERO, hello.primary),
                (Some(primary), _) if own => (best.reign.term, primary),
                (Some(_), Place::Remote(at)) => {
                    return Err(OpenError::Reigned {
                        name: name.clone(),
                        term: best.reign.term,
                        epoch: best.epoch,
                        holder: remotes[at].address().clone(),
                    });
                }
                (Some(primary), Place::Directory(_)) => (best.reign.term, primary),
            };
            match best.place {
                Place::Directory(at) => {
                    image = images.swap_remove(at);
                    if best.reign.primary.is_none() {
                        hello.term = best.reign.term.next();
                    }
                }
                Place::Remote(at) => {
                    let (greeted, term) = remotes[at]
                        .greet(&hello, &image)
                        .map_err(|e| OpenError::Remote(Box::new(e)))?;
                    hello.term = term;
                    if let Greeted::Image(taken) = greeted {
                        image = taken;
                    }
                }
            }
        }
        let mut targets = Self {
            directories,
            remotes,
            hello,
            quorum,
            level: settings.default_level(),
            on_loss: settings.on_loss,
            acknowledged: image.epoch(),
            degraded: false,
            stopped: None,
        };
        targets.greet_all(&image)?;
        let problems: Vec<_> = targets
            .reports()
            .into_iter()
            .filter(|r| !r.connected)
            .collect();
        let reachable = settings.targets.len() - problems.len();
        let needed = needed(settings.targets.len(), quorum);
        if reachable < needed {
            return Err(OpenError::Unreachable {
                reachable,
                targets: settings.targets.len(),
                needed,
                problems: problems
                    .into_iter()
                    .map(|r| format!("{}: {}", r.url, r.problem.unwrap_or_default()))
                    .collect::<Vec<_>>()
                    .join("; "),
            });
        }
        Ok((targets, image))
    }

    /// Begins the reign everywhere, and brings everyone up to the image.
    fn greet_all(&mut self, image: &Image) -> Result<(), OpenError> {
        self.hello.position = Position {
            epoch: image.epoch(),
            chain: image.chain(),
        };
        for directory in &mut self.directories {
            directory.greet(&self.hello, image).map_err(|error| {
                directory_error(&TargetUrl::Dir(directory.path().to_owned()), error)
            })?;
        }
        for remote in &mut self.remotes {
            if remote.is_connected() {
                continue;
            }
            match remote.greet(&self.hello, image) {
                Ok((Greeted::Ready, _)) => {}
                Ok((Greeted::Image(_), _)) => {
                    return Err(OpenError::Unknown(remote.address().clone()));
                }
                // It was counted as unreachable already, or becomes so now;
                // commits see to it.
                Err(RemoteError::Connection { .. }) => {}
                Err(error) => return Err(OpenError::Remote(Box::new(error))),
            }
        }
        Ok(())
    }
}

/// Asks everyone what they hold.
fn survey(
    name: &AreaName,
    directories: &[Directory],
    remotes: &[Remote],
    settings: &Settings,
    quorum: u32,
) -> Result<Vec<Candidate>, OpenError> {
    let mut candidates = Vec::new();
    let mut problems = Vec::new();
    for (at, directory) in directories.iter().enumerate() {
        let held = directory.held();
        candidates.push(Candidate {
            reign: held.reign,
            epoch: held.position.epoch,
            place: Place::Directory(at),
        });
    }
    for (at, remote) in remotes.iter().enumerate() {
        match status_of(remote.address(), settings.timeout) {
            Ok(status) => candidates.extend(
                status
                    .areas
                    .iter()
                    .filter(|area| area.name == name.as_str())
                    .map(|area| Candidate {
                        reign: Reign {
                            term: Term(area.term),
                            primary: area.primary.as_deref().and_then(parse_id),
                        },
                        epoch: Epoch(area.epoch),
                        place: Place::Remote(at),
                    }),
            ),
            Err(error) => problems.push(format!("{}: {}", remote.address(), report(&error))),
        }
    }
    let targets = settings.targets.len();
    let reachable = targets - problems.len();
    let needed = needed(targets, quorum);
    if reachable < needed {
        return Err(OpenError::Unreachable {
            reachable,
            targets,
            needed,
            problems: problems.join("; "),
        });
    }
    // A directory just made holds nothing and says nothing.
    candidates.retain(|c| c.reign.term > Term::ZERO || c.epoch > Epoch::ZERO);
    Ok(candidates)
}

/// How many targets must answer: any set of this size meets every quorum, so it
/// has the last acknowledged epoch, and it can acknowledge new ones.
fn needed(targets: usize, quorum: u32) -> usize {
    let quorum = quorum as usize;
    quorum
        .max((targets + 1).saturating_sub(quorum))
        .min(targets)
}

fn directory_error(url: &TargetUrl, error: DirectoryError) -> OpenError {
    OpenError::Directory {
        url: url.clone(),
        source: Box::new(error),
    }
}

fn random_id() -> Result<PrimaryId, OpenError> {
    let mut id = [0; 16];
    let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(16) => Ok(PrimaryId(id)),
        _ => Err(OpenError::Random),
    }
}

fn parse_id(text: &str) -> Option<PrimaryId> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (text.len() == 32).then(|| PrimaryId(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_being_shown() {
        let id = PrimaryId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(parse_id(&id.to_string()), Some(id));
        assert_eq!(parse_id("12"), None);
        assert_ne!(random_id().unwrap(), random_id().unwrap());
    }
}
