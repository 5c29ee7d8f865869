//! The bytes on disk. `docs/reference/store.md` describes them.

use afterimage_area_abi::{PrimaryId, Reign};
use afterimage_delta::{Term, checksum};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The format this version writes, and the only one it reads.
pub(crate) const VERSION: u32 = 1;

/// First bytes of a base image.
pub(crate) const BASE_MAGIC: [u8; 8] = *b"AFTRBASE";

/// First bytes of a log.
pub(crate) const LOG_MAGIC: [u8; 8] = *b"AFTRLOG\n";

/// Unit in which the medium writes whole or not at all, in bytes.
pub(crate) const SECTOR: u64 = 512;

/// Records start and end at multiples of this, so that no part of a record in
/// a sector is shorter.
pub(crate) const ALIGN: u64 = 8;

/// Most pages of a chunk of a base image: what is read and checked at once.
pub(crate) const CHUNK_PAGES: u32 = 256;

/// Start of both kinds of file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) reserved: U32,
    pub(crate) store: [u8; 16],
    pub(crate) generation: U64,
    pub(crate) name: [u8; 64],
    pub(crate) area_len: U64,
    pub(crate) epoch: U64,
    pub(crate) chain: U32,
    pub(crate) base: U32,
    pub(crate) reign: ReignField,
    pub(crate) unused: [u8; 92],
    pub(crate) checksum: U32,
}

/// A term and its primary.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ReignField {
    term: U64,
    claimed: U32,
    reserved: U32,
    primary: [u8; 16],
}

/// Start of a chunk of a base image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) first: U32,
    pub(crate) pages: U32,
    pub(crate) content: U32,
    pub(crate) previous: U32,
    pub(crate) checksum: U32,
}

/// End of a base image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Footer {
    pub(crate) magic: [u8; 4],
    pub(crate) chunks: U32,
    pub(crate) pages: U32,
    pub(crate) previous: U32,
    pub(crate) reserved: U32,
    pub(crate) checksum: U32,
}

/// Start of a record of a log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) kind: U32,
    pub(crate) position: U64,
    pub(crate) len: U64,
    pub(crate) epoch: U64,
    pub(crate) term: U64,
    pub(crate) durable: U64,
    pub(crate) segment: U32,
    pub(crate) previous: U32,
    pub(crate) reserved: U32,
    pub(crate) zero_parts: U32,
    // These two are last, so that the end of a header is never zero.
    pub(crate) content: U32,
    pub(crate) checksum: U32,
}

/// End of a record: never zero, and the same as in its header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Trailer {
    pub(crate) magic: [u8; 4],
    pub(crate) checksum: U32,
}

/// First bytes of a chunk.
pub(crate) const CHUNK_MAGIC: [u8; 4] = *b"CHNK";
/// First bytes of a footer.
pub(crate) const FOOTER_MAGIC: [u8; 4] = *b"FOOT";
/// First bytes of a record.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"RECD";
/// First bytes of a trailer.
pub(crate) const TRAILER_MAGIC: [u8; 4] = *b"DONE";

/// A record with the changes of an epoch.
pub(crate) const DELTA: u32 = 1;
/// A record with a new reign.
pub(crate) const REIGN: u32 = 2;

/// A fixed layout that ends in the checksum of what comes before it.
pub(crate) trait Sealed:
    FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned
{
    /// Where the checksum is.
    fn checksum(&mut self) -> &mut U32;

    /// The checksum it has.
    fn stored(&self) -> u32;

    /// The checksum it should have.
    fn computed(&self) -> u32 {
        let bytes = self.as_bytes();
        checksum(&bytes[..bytes.len() - size_of::<U32>()])
    }

    /// Sets the checksum.
    fn seal(mut self) -> Self
    where
        Self: Sized,
    {
        let computed = self.computed();
        self.checksum().set(computed);
        self
    }

    /// Whether the checksum matches.
    fn sound(&self) -> bool {
        self.stored() == self.computed()
    }
}

macro_rules! sealed {
    ($($name:ident: $len:literal),*) => {$(
        const _: () = assert!(size_of::<$name>() == $len);

        impl Sealed for $name {
            fn checksum(&mut self) -> &mut U32 {
                &mut self.checksum
            }

            fn stored(&self) -> u32 {
                self.checksum.get()
            }
        }
    )*};
}

sealed!(FileHeader: 256, ChunkHeader: 24, Footer: 24, RecordHeader: 72);
const _: () = assert!(size_of::<ReignField>() == 32);
const _: () = assert!(size_of::<Trailer>() == 8);

/// Length in bytes of a file's header.
pub(crate) const FILE_HEADER_LEN: u64 = size_of::<FileHeader>() as u64;
/// Length in bytes of a record's header.
pub(crate) const RECORD_HEADER_LEN: u64 = size_of::<RecordHeader>() as u64;
/// Length in bytes of a record's trailer.
pub(crate) const TRAILER_LEN: u64 = size_of::<Trailer>() as u64;

impl From<Reign> for ReignField {
    fn from(reign: Reign) -> Self {
        Self {
            term: reign.term.0.into(),
            claimed: u32::from(reign.primary.is_some()).into(),
            reserved: 0.into(),
            primary: reign.primary.map_or([0; 16], |primary| primary.0),
        }
    }
}

impl ReignField {
    /// The reign, if the fields are ones that a writer gives them.
    pub(crate) fn reign(&self) -> Option<Reign> {
        let primary = match self.claimed.get() {
            0 if self.primary == [0; 16] => None,
            1 => Some(PrimaryId(self.primary)),
            _ => return None,
        };
        (self.reserved.get() == 0).then_some(Reign {
            term: Term(self.term.get()),
            primary,
        })
    }
}
