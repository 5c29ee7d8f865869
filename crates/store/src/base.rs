//! Base images: an area as of one epoch, without its zero pages.

use crate::error::{Damage, StoreError};
use crate::layout::{
    BASE_MAGIC, CHUNK_MAGIC, CHUNK_PAGES, ChunkHeader, FILE_HEADER_LEN, FOOTER_MAGIC, FileHeader,
    Footer, Sealed as _,
};
use crate::listing::base_name;
use crate::origin::{HeaderFault, Origin};
use afterimage_delta::{Image, PAGE_SIZE, checksum};
use afterimage_env::{Disk, DiskFile};
use std::io;
use zerocopy::{FromBytes, IntoBytes as _};

const CHUNK_HEADER_LEN: u64 = size_of::<ChunkHeader>() as u64;
const FOOTER_LEN: u64 = size_of::<Footer>() as u64;

/// Writes a base image into an empty file.
///
/// `bytes` may be shorter than the area: the rest is zeros. Returns the
/// checksum that ends the file, and the file's length.
pub(crate) fn write<F: DiskFile>(
    file: &F,
    origin: &Origin,
    bytes: &[u8],
) -> io::Result<(u32, u64)> {
    let header = origin.base_header();
    file.write_at(header.as_bytes(), 0)?;
    let mut at = FILE_HEADER_LEN;
    let mut previous = header.checksum;
    let (mut chunks, mut pages) = (0_u32, 0_u32);
    let mut buffer = Vec::new();
    for (first, content) in chunks_of(bytes) {
        let count = u32::try_from(content.len() / PAGE_SIZE).unwrap_or(u32::MAX);
        let chunk = ChunkHeader {
            magic: CHUNK_MAGIC,
            first: first.into(),
            pages: count.into(),
            content: checksum(content).into(),
            previous,
            checksum: 0.into(),
        }
        .seal();
        buffer.clear();
        buffer.extend_from_slice(chunk.as_bytes());
        buffer.extend_from_slice(content);
        file.write_at(&buffer, at)?;
        at += buffer.len() as u64;
        previous = chunk.checksum;
        chunks += 1;
        pages += count;
    }
    let footer = Footer {
        magic: FOOTER_MAGIC,
        chunks: chunks.into(),
        pages: pages.into(),
        previous,
        reserved: 0.into(),
        checksum: 0.into(),
    }
    .seal();
    file.write_at(footer.as_bytes(), at)?;
    Ok((footer.checksum.get(), at + FOOTER_LEN))
}

/// The non-zero pages in pieces of at most [`CHUNK_PAGES`], each with the
/// number of its first page.
fn chunks_of(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let page = |index: u32| {
        let start = index as usize * PAGE_SIZE;
        bytes.get(start..start + PAGE_SIZE)
    };
    let is_zero = |page: &[u8]| page == [0; PAGE_SIZE];
    let mut next = 0;
    std::iter::from_fn(move || {
        while is_zero(page(next)?) {
            next += 1;
        }
        let first = next;
        while next - first < CHUNK_PAGES && page(next).is_some_and(|page| !is_zero(page)) {
            next += 1;
        }
        let range = first as usize * PAGE_SIZE..next as usize * PAGE_SIZE;
        Some((first, &bytes[range]))
    })
}

/// A base image that was opened; only its ends were read.
pub(crate) struct Base<F> {
    file: F,
    name: String,
    len: u64,
    header_checksum: u32,
    footer: Footer,
    pub(crate) origin: Origin,
}

impl<F: DiskFile> Base<F> {
    pub(crate) fn open<D: Disk<File = F>>(disk: &D, generation: u64) -> Result<Self, StoreError> {
        let name = base_name(generation);
        let place = disk.place(&name);
        let file = disk
            .open(&name)
            .map_err(StoreError::disk("open", place.as_str()))?;
        let len = file
            .len()
            .map_err(StoreError::disk("read", place.as_str()))?;
        let damaged = |offset, damage| StoreError::Damaged {
            file: place.clone(),
            offset,
            damage,
        };
        if len < FILE_HEADER_LEN + FOOTER_LEN {
            return Err(damaged(0, Damage::Short));
        }
        let header: FileHeader =
            read(&file, 0).map_err(StoreError::disk("read", place.as_str()))?;
        let origin =
            Origin::from_header(&header, BASE_MAGIC, generation).map_err(|fault| match fault {
                HeaderFault::Damage(damage) => damaged(0, damage),
                HeaderFault::Version(version) => StoreError::Version {
                    file: place.clone(),
                    version,
                },
            })?;
        let at = len - FOOTER_LEN;
        let footer: Footer = read(&file, at).map_err(StoreError::disk("read", place.as_str()))?;
        if footer.magic != FOOTER_MAGIC || !footer.sound() {
            return Err(damaged(at, Damage::Header));
        }
        if footer.reserved.get() != 0 {
            return Err(damaged(at, Damage::Field("reserved")));
        }
        Ok(Self {
            file,
            name: place,
            len,
            header_checksum: header.stored(),
            footer,
            origin,
        })
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The checksum that ends the file.
    pub(crate) fn checksum(&self) -> u32 {
        self.footer.stored()
    }

    /// Reads the whole image.
    pub(crate) fn image(&self) -> Result<Image, StoreError> {
        let mut bytes = zeros(self.origin.len)?;
        let end = self.len - FOOTER_LEN;
        let mut at = FILE_HEADER_LEN;
        let mut previous = self.header_checksum;
        let (mut chunks, mut pages, mut free) = (0_u32, 0_u32, 0);
        while at < end {
            let (header, content) = self.chunk(&mut bytes, at, end, free)?;
            if checksum(content) != header.content.get() {
                return Err(self.damaged(at, Damage::Content));
            }
            if header.previous.get() != previous {
                return Err(self.damaged(at, Damage::Misplaced));
            }
            at += CHUNK_HEADER_LEN + content.len() as u64;
            free = header.first.get() + header.pages.get();
            previous = header.stored();
            chunks += 1;
            pages += header.pages.get();
        }
        let footer = &self.footer;
        if (
            footer.chunks.get(),
            footer.pages.get(),
            footer.previous.get(),
        ) != (chunks, pages, previous)
        {
            return Err(self.damaged(end, Damage::Misplaced));
        }
        Ok(Image::from_parts(
            bytes,
            self.origin.epoch,
            self.origin.chain,
        )?)
    }

    /// Reads the chunk at `at` into its place among `bytes`; it may not start
    /// before page `free`.
    fn chunk<'b>(
        &self,
        bytes: &'b mut [u8],
        at: u64,
        end: u64,
        free: u32,
    ) -> Result<(ChunkHeader, &'b [u8]), StoreError> {
        if end - at < CHUNK_HEADER_LEN {
            return Err(self.damaged(at, Damage::Trailing));
        }
        let header: ChunkHeader =
            read(&self.file, at).map_err(StoreError::disk("read", self.name.as_str()))?;
        if header.magic != CHUNK_MAGIC || !header.sound() {
            return Err(self.damaged(at, Damage::Header));
        }
        let (first, pages) = (header.first.get(), header.pages.get());
        let start = first as usize * PAGE_SIZE;
        let len = pages as usize * PAGE_SIZE;
        let place = (first >= free && (1..=CHUNK_PAGES).contains(&pages))
            .then(|| bytes.get_mut(start..start + len))
            .flatten()
            .ok_or_else(|| self.damaged(at, Damage::Field("pages")))?;
        if end - at - CHUNK_HEADER_LEN < place.len() as u64 {
            return Err(self.damaged(at, Damage::Short));
        }
        self.file
            .read_at(place, at + CHUNK_HEADER_LEN)
            .map_err(StoreError::disk("read", self.name.as_str()))?;
        Ok((header, place))
    }

    fn damaged(&self, offset: u64, damage: Damage) -> StoreError {
        StoreError::Damaged {
            file: self.name.clone(),
            offset,
            damage,
        }
    }
}

pub(crate) fn read<T: FromBytes + zerocopy::IntoBytes>(
    file: &impl DiskFile,
    at: u64,
) -> io::Result<T> {
    let mut value = T::new_zeroed();
    file.read_at(value.as_mut_bytes(), at)?;
    Ok(value)
}

fn zeros(len: u64) -> Result<Vec<u8>, StoreError> {
    afterimage_delta::zeros(len).map_err(|_| StoreError::Memory { len })
}
