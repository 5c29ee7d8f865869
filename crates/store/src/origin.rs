//! Where a generation starts from.

use crate::error::Damage;
use crate::layout::{BASE_MAGIC, FileHeader, LOG_MAGIC, Sealed as _, VERSION};
use afterimage_area_abi::{AreaName, Reign};
use afterimage_delta::{Chain, Epoch, MAX_AREA_LEN, PAGE_SIZE_U64};

/// What base and log of one generation agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Chosen at random when the store was made.
    pub(crate) store: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) name: AreaName,
    /// Length of the area in bytes.
    pub(crate) len: u64,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
    pub(crate) reign: Reign,
}

/// Why a file header is refused.
pub(crate) enum HeaderFault {
    Damage(Damage),
    Version(u32),
}

impl Origin {
    pub(crate) fn base_header(&self) -> FileHeader {
        self.header(BASE_MAGIC, 0)
    }

    /// `base` is the checksum that ends the base image.
    pub(crate) fn log_header(&self, base: u32) -> FileHeader {
        self.header(LOG_MAGIC, base)
    }

    fn header(&self, magic: [u8; 8], base: u32) -> FileHeader {
        FileHeader {
            magic,
            version: VERSION.into(),
            reserved: 0.into(),
            store: self.store,
            generation: self.generation.into(),
            name: self.name.to_field(),
            area_len: self.len.into(),
            epoch: self.epoch.0.into(),
            chain: self.chain.0.into(),
            base: base.into(),
            reign: self.reign.into(),
            unused: [0; 92],
            checksum: 0.into(),
        }
        .seal()
    }

    /// Checks a header that was read from the file of `generation`.
    pub(crate) fn from_header(
        header: &FileHeader,
        magic: [u8; 8],
        generation: u64,
    ) -> Result<Self, HeaderFault> {
        let damage = |damage| Err(HeaderFault::Damage(damage));
        let field = |name| HeaderFault::Damage(Damage::Field(name));
        if header.magic != magic {
            return damage(Damage::NotOurs);
        }
        if !header.sound() {
            return damage(Damage::Header);
        }
        if header.version.get() != VERSION {
            return Err(HeaderFault::Version(header.version.get()));
        }
        if header.generation.get() != generation {
            return damage(Damage::Misplaced);
        }
        if header.reserved.get() != 0 || header.unused != [0; 92] {
            return damage(Damage::Field("reserved"));
        }
        let len = header.area_len.get();
        if len == 0 || len > MAX_AREA_LEN || !len.is_multiple_of(PAGE_SIZE_U64) {
            return damage(Damage::Field("area length"));
        }
        Ok(Self {
            store: header.store,
            generation,
            name: AreaName::from_field(&header.name).map_err(|_| field("name"))?,
            len,
            epoch: Epoch(header.epoch.get()),
            chain: Chain(header.chain.get()),
            reign: header.reign.reign().ok_or_else(|| field("reign"))?,
        })
    }
}

/// Whether one reign may come after another: terms never go back, and a term
/// that a primary has claimed stays its own.
pub(crate) fn may_follow(stored: Reign, offered: Reign) -> bool {
    offered.term > stored.term
        || (offered.term == stored.term
            && (stored.primary.is_none() || stored.primary == offered.primary))
}
