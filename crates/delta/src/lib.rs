//! Page sets, byte runs and the delta codec.
//!
//! Pure computation: no unsafe code, no I/O, no clock. What is here is used by
//! the process, by the VMM and by the backup alike, so that one encoding of a
//! change exists.
#![forbid(unsafe_code)]

mod codec;
mod diff;
mod image;
mod number;
mod pages;

pub use codec::{DecodeError, Delta, Run, max_encoded_len};
pub use diff::DeltaBuilder;
pub use image::{Image, ImageError, zeros};
pub use number::{Chain, Epoch, Term};
pub use pages::{PageIndex, PageSet, Pages};

/// Size in bytes of the unit of tracking.
pub const PAGE_SIZE: usize = 4096;

/// [`PAGE_SIZE`] for arithmetic on offsets.
pub const PAGE_SIZE_U64: u64 = PAGE_SIZE as u64;

/// The bytes of one page.
pub type Page = [u8; PAGE_SIZE];

/// The largest area this version handles, in bytes (64 GiB).
///
/// It bounds what a file or a peer can make us allocate by naming a size.
pub const MAX_AREA_LEN: u64 = 64 << 30;

/// Checksum of frames, records and images: CRC-32C (Castagnoli, RFC 3720
/// appendix B.4), as the processor computes it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Goes on with a [`checksum`] over more bytes:
/// `checksum_append(checksum(a), b) == checksum(a ++ b)`.
#[must_use]
pub fn checksum_append(checksum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(checksum, bytes)
}
