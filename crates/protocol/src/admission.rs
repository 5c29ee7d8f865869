//! Who may write to a target.
//!
//! The rules that keep acknowledged history safe, as pure functions:
//!
//! 1. A term never goes back, and has one primary.
//! 2. A primary without a history gets a term only where nobody reigns: a new
//!    area, or one that was promoted.
//! 3. A side that holds less, or another history, never overwrites one that
//!    holds more.

use crate::message::{Hello, Position};
use crate::refusal::{Refusal, RefusalCode};
use afterimage_area_abi::Reign;
use afterimage_delta::{Epoch, Term};

/// What a target holds of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Length of the area in bytes.
    pub len: u64,
    /// Who reigns.
    pub reign: Reign,
    /// How far its image goes.
    pub position: Position,
}

impl Held {
    /// A refusal that tells what is held here.
    pub(crate) fn refuse(&self, code: RefusalCode, text: impl Into<String>) -> Refusal {
        Refusal {
            code,
            term: self.reign.term,
            epoch: self.position.epoch,
            text: text.into(),
        }
    }
}

/// A primary that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The reign to be recorded, durably, before it is welcomed.
    pub reign: Reign,
    /// Whether it has nothing and is to go on from the target's image.
    pub takes_image: bool,
}

/// Decides about a primary that says hello to a target.
///
/// # Errors
/// The [`Refusal`] to answer; the target changes nothing then.
pub fn admit(hello: &Hello, held: &Held) -> Result<Admitted, Refusal> {
    if hello.len != held.len {
        return Err(held.refuse(
            RefusalCode::Length,
            format!(
                "area {} has {} bytes here, not {}: open it with the length it was made with",
                hello.name, held.len, hello.len
            ),
        ));
    }
    if hello.term == Term::ZERO {
        return claim(hello, held);
    }
    continue_reign(hello, held)
}

/// A primary without a reign asks for one.
fn claim(hello: &Hello, held: &Held) -> Result<Admitted, Refusal> {
    if held.reign.primary.is_some() {
        return Err(held.refuse(
            RefusalCode::Reigned,
            format!(
                "area {} has a primary in term {} with epoch {}; if that one is dead, run `afterimage promote` for this target and start again",
                hello.name, held.reign.term, held.position.epoch
            ),
        ));
    }
    let holds_something = held.position.epoch > Epoch::ZERO;
    if holds_something && hello.position != Position::default() {
        return Err(held.refuse(
            RefusalCode::Diverged,
            format!(
                "a primary without a term cannot have a history of area {}",
                hello.name
            ),
        ));
    }
    Ok(Admitted {
        reign: Reign {
            term: held.reign.term.max(Term(1)),
            primary: Some(hello.primary),
        },
        takes_image: holds_something,
    })
}

/// A primary with a reign comes back, or comes to another of its targets.
fn continue_reign(hello: &Hello, held: &Held) -> Result<Admitted, Refusal> {
    let same_term = hello.term == held.reign.term;
    if hello.term < held.reign.term {
        return Err(held.refuse(
            RefusalCode::Fenced,
            format!(
                "area {} is in term {}, the sender in term {}: a newer primary has taken over",
                hello.name, held.reign.term, hello.term
            ),
        ));
    }
    if same_term && held.reign.primary != Some(hello.primary) {
        return Err(held.refuse(
            RefusalCode::Reigned,
            format!(
                "term {} of area {} belongs to another primary here; promote this target again and start again if it holds the right copy (epoch {})",
                hello.term, hello.name, held.position.epoch
            ),
        ));
    }
    // The reigning primary after a restart that left it less than this target
    // holds: it asks for its own history back.
    let takes_image = same_term
        && hello.position == Position::default()
        && hello.pending.is_none()
        && held.position.epoch > Epoch::ZERO;
    if !takes_image {
        check_history(hello, held)?;
    }
    Ok(Admitted {
        reign: Reign {
            term: hello.term,
            primary: Some(hello.primary),
        },
        takes_image,
    })
}

fn check_history(hello: &Hello, held: &Held) -> Result<(), Refusal> {
    let own = hello.position;
    let pending = hello.pending.map(|chain| Position {
        epoch: own.epoch.next(),
        chain,
    });
    if held.position == own || Some(held.position) == pending || held.position.epoch < own.epoch {
        return Ok(());
    }
    let latest = pending.map_or(own.epoch, |p| p.epoch);
    let (code, text) = if held.position.epoch > latest {
        (
            RefusalCode::Fuller,
            format!(
                "this target holds area {} up to epoch {}, the sender only up to {latest}: promote this target, or remove its copy if the sender is right",
                hello.name, held.position.epoch
            ),
        )
    } else {
        (
            RefusalCode::Diverged,
            format!(
                "this target holds another history of area {} at epoch {}: one of the two must be removed by hand",
                hello.name, held.position.epoch
            ),
        )
    };
    Err(held.refuse(code, text))
}

/// The reign after a promotion: a higher term that nobody has claimed.
#[must_use]
pub fn promote(reign: Reign) -> Reign {
    Reign {
        term: reign.term.next(),
        primary: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterimage_area_abi::PrimaryId;
    use afterimage_delta::Chain;

    const A: PrimaryId = PrimaryId([1; 16]);
    const B: PrimaryId = PrimaryId([2; 16]);

    fn held(term: u64, primary: Option<PrimaryId>, epoch: u64) -> Held {
        Held {
            len: 4096,
            reign: Reign {
                term: Term(term),
                primary,
            },
            position: at(epoch),
        }
    }

    fn at(epoch: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            chain: Chain(u32::try_from(epoch).unwrap() * 100),
        }
    }

    /// Zero is the position of one that has nothing.
    fn hello(term: u64, primary: PrimaryId, epoch: u64) -> Hello {
        Hello {
            name: "kv".parse().unwrap(),
            len: 4096,
            term: Term(term),
            primary,
            position: at(epoch),
            pending: None,
        }
    }

    /// Verdict of each case: the reign's term, and whether the image is taken.
    fn verdict(hello: &Hello, held: &Held) -> Result<(u64, bool), RefusalCode> {
        admit(hello, held)
            .map(|a| {
                assert_eq!(a.reign.primary, Some(hello.primary));
                assert!(a.reign.term >= held.reign.term, "a term went back");
                (a.reign.term.0, a.takes_image)
            })
            .map_err(|r| r.code)
    }

    #[test]
    fn the_rules_of_admission() {
        use RefusalCode::{Diverged, Fenced, Fuller, Length, Reigned};
        let cases = [
            (
                "a new area is claimed",
                hello(0, A, 0),
                held(0, None, 0),
                Ok((1, false)),
            ),
            (
                "a promoted one too, with its image",
                hello(0, B, 0),
                held(2, None, 9),
                Ok((2, true)),
            ),
            (
                "an empty primary never gets a reigned area",
                hello(0, B, 0),
                held(1, Some(A), 9),
                Err(Reigned),
            ),
            (
                "not even before the first commit",
                hello(0, B, 0),
                held(1, Some(A), 0),
                Err(Reigned),
            ),
            (
                "a primary comes back",
                hello(1, A, 9),
                held(1, Some(A), 9),
                Ok((1, false)),
            ),
            (
                "to a target that is behind",
                hello(1, A, 9),
                held(1, Some(A), 3),
                Ok((1, false)),
            ),
            (
                "to one that holds more",
                hello(1, A, 8),
                held(1, Some(A), 9),
                Err(Fuller),
            ),
            (
                "an old primary is fenced",
                hello(1, A, 9),
                held(2, Some(B), 9),
                Err(Fenced),
            ),
            (
                "also before the new term is claimed",
                hello(1, A, 9),
                held(2, None, 9),
                Err(Fenced),
            ),
            (
                "also if it holds more",
                hello(1, A, 99),
                held(2, None, 9),
                Err(Fenced),
            ),
            (
                "one term has one primary",
                hello(1, B, 9),
                held(1, Some(A), 9),
                Err(Reigned),
            ),
            (
                "a promoted term is claimed, not taken",
                hello(2, A, 9),
                held(2, None, 9),
                Err(Reigned),
            ),
            (
                "a newer primary comes to another target",
                hello(2, B, 9),
                held(1, Some(A), 9),
                Ok((2, false)),
            ),
            (
                "which must not hold more",
                hello(2, B, 8),
                held(1, Some(A), 9),
                Err(Fuller),
            ),
            (
                "an own history without a term",
                hello(0, B, 5),
                held(2, None, 9),
                Err(Diverged),
            ),
        ];
        for (case, hello, held, expected) in cases {
            assert_eq!(verdict(&hello, &held), expected, "{case}");
        }
        let shorter = Hello {
            len: 8192,
            ..hello(1, A, 9)
        };
        assert_eq!(verdict(&shorter, &held(1, Some(A), 9)), Err(Length));
    }

    #[test]
    fn a_pending_epoch_may_have_arrived_or_not_but_not_another_in_its_place() {
        let mut hello = hello(1, A, 8);
        hello.pending = Some(at(9).chain);
        assert!(verdict(&hello, &held(1, Some(A), 8)).is_ok());
        assert!(verdict(&hello, &held(1, Some(A), 9)).is_ok());
        assert_eq!(
            verdict(&hello, &held(1, Some(A), 10)),
            Err(RefusalCode::Fuller)
        );
        hello.pending = Some(Chain(7));
        assert_eq!(
            verdict(&hello, &held(1, Some(A), 9)),
            Err(RefusalCode::Diverged)
        );
    }
}
