//! Random choices that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// A stream of random numbers (SplitMix64) that its seed alone decides.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A stream that nobody has seen before, or the one of `AFTERIMAGE_SEED`.
    /// The seed is printed, so that a failure can be repeated.
    ///
    /// # Panics
    /// If `AFTERIMAGE_SEED` is no number.
    #[must_use]
    pub fn from_environment(what: &str) -> Self {
        let seed = match std::env::var("AFTERIMAGE_SEED") {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("AFTERIMAGE_SEED={text} is no number")),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |now| now.as_secs() ^ u64::from(now.subsec_nanos()) << 20),
        };
        eprintln!("{what}: repeat with AFTERIMAGE_SEED={seed}");
        Self::new(seed)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// Another stream, which this one decides.
    pub fn split(&mut self) -> Self {
        Self::new(self.roll())
    }
}
