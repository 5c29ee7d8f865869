//! How an area describes itself: the first bytes of its data.
//!
//! Written by the library when it makes the area, and read by every later
//! version before anything else in the area is believed.

use afterimage_delta::{MAX_AREA_LEN, PAGE_SIZE_U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of an area that was formatted.
pub const MAGIC: [u8; 8] = *b"AFTRAREA";
/// Version of the layout of header and heap.
pub const FORMAT: u32 = 1;
/// Where the heap may begin, in bytes from the area's start: the header has the
/// first page for itself.
pub const HEAP_OFFSET: u64 = PAGE_SIZE_U64;

/// Lowest address at which areas are mapped. Linux on x86-64 puts programs,
/// heaps, libraries and stacks far from it, with and without randomisation.
const BASE_FLOOR: u64 = 0x2100_0000_0000;
/// Number of places for areas above [`BASE_FLOOR`], each [`MAX_AREA_LEN`] wide.
const BASE_PLACES: u64 = 256;

/// The header of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AreaHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT`].
    pub format: u32,
    /// The caller's version of the root type.
    pub root_version: u32,
    /// Length of the area in bytes.
    pub len: u64,
    /// Virtual address at which the area must be mapped.
    pub base: u64,
    /// Offset of the root object from the area's start; 0 for none yet.
    pub root: u64,
    /// Size of the root object in bytes.
    pub root_len: u64,
    /// Alignment of the root object in bytes.
    pub root_align: u64,
    /// Name of the root type, padded with zeros.
    pub root_type: [u8; 64],
    /// Version of the library that made the area, padded with zeros.
    pub writer: [u8; 32],
}

/// Why bytes are not the header of an area that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Neither zeros nor an area's first bytes.
    #[error("the area does not start with an area header: was something else stored there?")]
    Foreign,
    /// Written by a version with another layout.
    #[error(
        "the area has format {found}, this version reads format {FORMAT}: use the version that wrote it ({writer})"
    )]
    Format {
        /// The format found.
        found: u32,
        /// The version that wrote it.
        writer: String,
    },
    /// A field cannot be true for this area.
    #[error("the area's header is damaged: {0}")]
    Damaged(&'static str),
}

/// Address at which an area of this name is made: a place chosen by its name,
/// so that several areas of one program do not meet as a rule. Once made, the
/// header's `base` counts.
#[must_use]
pub fn default_base(name: &str) -> u64 {
    let place = u64::from(afterimage_delta::checksum(name.as_bytes())) % BASE_PLACES;
    BASE_FLOOR + place * MAX_AREA_LEN
}

impl AreaHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = size_of::<Self>();

    /// The header of a new area without a root.
    #[must_use]
    pub fn new(len: u64, base: u64, writer: &str) -> Self {
        Self {
            magic: MAGIC,
            format: FORMAT,
            root_version: 0,
            len,
            base,
            root: 0,
            root_len: 0,
            root_align: 0,
            root_type: [0; 64],
            writer: text_field(writer),
        }
    }

    /// Reads the first bytes of an area of `len` bytes; `None` if the area was
    /// never formatted (all zeros).
    ///
    /// # Errors
    /// [`HeaderError`] if something is there that cannot be used.
    pub fn read(bytes: &[u8; Self::LEN], len: u64) -> Result<Option<Self>, HeaderError> {
        if bytes.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let header = Self::read_from_bytes(bytes).map_err(|_| HeaderError::Foreign)?;
        if header.magic != MAGIC {
            return Err(HeaderError::Foreign);
        }
        if header.format != FORMAT {
            return Err(HeaderError::Format {
                found: header.format,
                writer: text(&header.writer),
            });
        }
        header.check(len).map_err(HeaderError::Damaged)?;
        Ok(Some(header))
    }

    fn check(&self, len: u64) -> Result<(), &'static str> {
        if self.len != len {
            return Err("its length is not that of the area");
        }
        if self.base < BASE_FLOOR
            || !self.base.is_multiple_of(super::control::DATA_ALIGN)
            || self.base >= BASE_FLOOR + BASE_PLACES * MAX_AREA_LEN
        {
            return Err("its address is not one that areas are mapped at");
        }
        if self.root == 0 {
            return Ok(());
        }
        let end = self.root.checked_add(self.root_len);
        if self.root < HEAP_OFFSET || end.is_none_or(|end| end > len) {
            return Err("its root lies outside the area");
        }
        if !self.root_align.is_power_of_two() || !self.root.is_multiple_of(self.root_align) {
            return Err("its root is not aligned");
        }
        Ok(())
    }
}

/// Text in a zero-padded field, cut to fit.
#[must_use]
pub fn text_field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let len = text.len().min(N - 1);
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    field
}

/// The text of a zero-padded field; what is not UTF-8 is replaced.
#[must_use]
pub fn text(field: &[u8]) -> String {
    let len = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 4 << 20;

    fn bytes(header: &AreaHeader) -> [u8; AreaHeader::LEN] {
        header.as_bytes().try_into().unwrap()
    }

    #[test]
    fn zeros_are_an_area_that_was_never_formatted() {
        assert_eq!(AreaHeader::read(&[0; AreaHeader::LEN], LEN), Ok(None));
    }

    #[test]
    fn a_header_is_read_back_and_each_damage_is_named() {
        let good = AreaHeader {
            root: 8192,
            root_len: 64,
            root_align: 8,
            ..AreaHeader::new(LEN, default_base("kv"), "0.1.0")
        };
        assert_eq!(AreaHeader::read(&bytes(&good), LEN), Ok(Some(good)));
        let damaged = [
            AreaHeader {
                len: LEN + 1,
                ..good
            },
            AreaHeader {
                base: good.base + 1,
                ..good
            },
            AreaHeader { base: 0, ..good },
            AreaHeader { root: LEN, ..good },
            AreaHeader { root: 16, ..good },
            AreaHeader {
                root_len: u64::MAX,
                ..good
            },
            AreaHeader {
                root_align: 0,
                ..good
            },
            AreaHeader { root: 8193, ..good },
        ];
        for header in damaged {
            let read = AreaHeader::read(&bytes(&header), LEN);
            assert!(matches!(read, Err(HeaderError::Damaged(_))), "{header:?}");
        }
        let newer = AreaHeader { format: 2, ..good };
        assert!(matches!(
            AreaHeader::read(&bytes(&newer), LEN),
            Err(HeaderError::Format { found: 2, .. })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(start in any::<[u8; 24]>()) {
            let mut whole = [0; AreaHeader::LEN];
            whole[..24].copy_from_slice(&start);
            let _ = AreaHeader::read(&whole, LEN);
        }
    }
}
