//! The copy of an area as of its last commit.

use crate::{Chain, Delta, Epoch, MAX_AREA_LEN, PAGE_SIZE, PAGE_SIZE_U64, Page, PageIndex};

/// The bytes of an area as of one epoch, and which epoch that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    bytes: Vec<u8>,
    epoch: Epoch,
    chain: Chain,
}

/// Why there is no image, or why a delta does not fit it; the image is as it
/// was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The length is no area's.
    #[error(
        "an area of {len} bytes is not possible: it has whole pages of {PAGE_SIZE} bytes, at least one, at most {MAX_AREA_LEN} bytes in all"
    )]
    Length {
        /// The length in bytes.
        len: u64,
    },
    /// There is not that much memory.
    #[error("no memory for an area of {len} bytes")]
    Memory {
        /// The length in bytes.
        len: u64,
    },
    /// The delta does not lead to the next epoch.
    #[error("the image is at epoch {image}, so a delta for epoch {delta} does not follow")]
    Epoch {
        /// Epoch of the image.
        image: Epoch,
        /// Epoch of the delta.
        delta: Epoch,
    },
    /// The delta starts from another history.
    #[error(
        "the delta for epoch {epoch} continues history {delta}, but the image has history {image}"
    )]
    Chain {
        /// Epoch of the delta.
        epoch: Epoch,
        /// Chain of the image.
        image: Chain,
        /// Chain that the delta expects.
        delta: Chain,
    },
}

impl Image {
    /// The image of a new area: zeros, epoch 0. Memory is taken as pages are
    /// first written.
    ///
    /// # Errors
    /// [`ImageError::Length`] and [`ImageError::Memory`].
    pub fn new(len: u64) -> Result<Self, ImageError> {
        if len == 0 || len > MAX_AREA_LEN || !len.is_multiple_of(PAGE_SIZE_U64) {
            return Err(ImageError::Length { len });
        }
        Ok(Self {
            bytes: zeros(len)?,
            epoch: Epoch::ZERO,
            chain: Chain::START,
        })
    }

    /// An image that was stored or sent.
    ///
    /// # Errors
    /// [`ImageError::Length`].
    pub fn from_parts(bytes: Vec<u8>, epoch: Epoch, chain: Chain) -> Result<Self, ImageError> {
        let len = bytes.len() as u64;
        if len == 0 || len > MAX_AREA_LEN || !len.is_multiple_of(PAGE_SIZE_U64) {
            return Err(ImageError::Length { len });
        }
        Ok(Self {
            bytes,
            epoch,
            chain,
        })
    }

    /// A copy of the image.
    ///
    /// # Errors
    /// [`ImageError::Memory`].
    pub fn try_clone(&self) -> Result<Self, ImageError> {
        let len = self.len();
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(self.bytes.len())
            .map_err(|_| ImageError::Memory { len })?;
        bytes.extend_from_slice(&self.bytes);
        Ok(Self { bytes, ..*self })
    }

    /// The bytes of the area.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of the area in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Never: an area has at least one page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from(self.bytes.len() / PAGE_SIZE).expect("MAX_AREA_LEN has fewer pages than 2^32")
    }

    /// The last commit in it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The history it has.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// One page.
    ///
    /// # Panics
    /// If the area has no such page.
    #[must_use]
    pub fn page(&self, index: PageIndex) -> &Page {
        let start = index.0 as usize * PAGE_SIZE;
        self.bytes[start..start + PAGE_SIZE]
            .try_into()
            .expect("a slice of a page's length is a page")
    }

    /// Checks that a delta is the next one of this very history.
    ///
    /// # Errors
    /// [`ImageError::Epoch`] and [`ImageError::Chain`].
    pub fn check_next(&self, epoch: Epoch, previous: Chain) -> Result<(), ImageError> {
        if epoch != self.epoch.next() {
            return Err(ImageError::Epoch {
                image: self.epoch,
                delta: epoch,
            });
        }
        if previous != self.chain {
            return Err(ImageError::Chain {
                epoch,
                image: self.chain,
                delta: previous,
            });
        }
        Ok(())
    }

    /// Goes on to the delta's epoch.
    ///
    /// # Errors
    /// As [`Image::check_next`]; then nothing was changed.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), ImageError> {
        self.check_next(delta.epoch(), delta.previous())?;
        delta.apply(&mut self.bytes);
        self.epoch = delta.epoch();
        self.chain = delta.chain();
        Ok(())
    }
}

/// Zeroed memory that is taken from the system as it is first written. It is
/// asked for in a way that can fail first, because the length may come from a
/// file or a peer and must not end the process.
///
/// # Errors
/// [`ImageError::Memory`].
pub fn zeros(len: u64) -> Result<Vec<u8>, ImageError> {
    let memory = || ImageError::Memory { len };
    let len = usize::try_from(len).map_err(|_| memory())?;
    let mut trial = Vec::<u8>::new();
    trial.try_reserve_exact(len).map_err(|_| memory())?;
    // Otherwise the compiler may take the allocation for unused.
    drop(std::hint::black_box(trial));
    Ok(vec![0; len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeltaBuilder;

    fn delta(image: &Image, value: u8) -> Delta {
        let mut builder = DeltaBuilder::new(Vec::new());
        builder.page(PageIndex(1), image.page(PageIndex(1)), &[value; PAGE_SIZE]);
        builder.finish(image.epoch().next(), image.chain())
    }

    #[test]
    fn only_the_next_delta_of_the_same_history_is_applied() {
        let mut image = Image::new(2 * PAGE_SIZE_U64).unwrap();
        let mut other = image.clone();
        let first = delta(&image, 1);
        image.apply(&first).unwrap();
        assert!(matches!(image.apply(&first), Err(ImageError::Epoch { .. })));
        let other_first = delta(&other, 2);
        other.apply(&other_first).unwrap();
        let other_second = delta(&other, 3);
        assert!(matches!(
            image.apply(&other_second),
            Err(ImageError::Chain { .. })
        ));
        assert_eq!(image.page(PageIndex(1)), &[1; PAGE_SIZE]);
        assert_eq!(image.epoch(), Epoch(1));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for len in [
            0,
            1,
            PAGE_SIZE_U64 + 1,
            MAX_AREA_LEN + PAGE_SIZE_U64,
            u64::MAX,
        ] {
            assert_eq!(Image::new(len), Err(ImageError::Length { len }));
        }
    }
}
