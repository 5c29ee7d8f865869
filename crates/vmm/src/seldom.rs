//! Keeps a guest from filling the log.

use std::time::{Duration, Instant};

/// Lets one event in a while through and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Instant>,
    held_back: u64,
}

impl Seldom {
    const WHILE: Duration = Duration::from_secs(1);

    /// Whether this event may be told of; if so, how many were not since the
    /// last one that was.
    pub(crate) fn pass(&mut self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < Self::WHILE)
        {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_with_its_size() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        assert_eq!(seldom.pass_at(start), Some(0));
        for _ in 0..500 {
            assert_eq!(seldom.pass_at(start + Seldom::WHILE / 2), None);
        }
        assert_eq!(seldom.pass_at(start + Seldom::WHILE), Some(500));
    }
}
