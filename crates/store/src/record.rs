//! One record of a log.

use crate::layout::{
    ALIGN, RECORD_HEADER_LEN, RECORD_MAGIC, RecordHeader, SECTOR, Sealed as _, TRAILER_LEN,
    TRAILER_MAGIC, Trailer,
};
use afterimage_delta::{Chain, Epoch, Term};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// What a record says beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) kind: u32,
    /// Offset of the record in its log.
    pub(crate) position: u64,
    /// How much of the log was durable when it was written, in bytes.
    pub(crate) durable: u64,
    /// Checksum of the log's header: says which log.
    pub(crate) segment: u32,
    /// Checksum of the record before, or of the log's header.
    pub(crate) previous: u32,
    pub(crate) epoch: Epoch,
    pub(crate) term: Term,
    /// `Chain::after` of the payload.
    pub(crate) content: Chain,
}

/// Length in bytes of a record, or `None` if no file is that long.
pub(crate) fn record_len(payload: u64) -> Option<u64> {
    payload
        .checked_next_multiple_of(ALIGN)?
        .checked_add(RECORD_HEADER_LEN + TRAILER_LEN)
}

/// Writes a record into a buffer; returns its checksum.
pub(crate) fn encode(buffer: &mut Vec<u8>, label: &Label, payload: &[u8]) -> u32 {
    let mut header = RecordHeader {
        magic: RECORD_MAGIC,
        kind: label.kind.into(),
        position: label.position.into(),
        len: (payload.len() as u64).into(),
        epoch: label.epoch.0.into(),
        term: label.term.0.into(),
        durable: label.durable.into(),
        segment: label.segment.into(),
        previous: label.previous.into(),
        reserved: 0.into(),
        zero_parts: 0.into(),
        content: label.content.0.into(),
        checksum: 0.into(),
    };
    let head = size_of::<RecordHeader>();
    let tail = size_of::<Trailer>();
    let padded = payload.len().next_multiple_of(8);
    buffer.clear();
    buffer.reserve(head + padded + tail);
    buffer.extend_from_slice(header.as_bytes());
    buffer.extend_from_slice(payload);
    buffer.resize(head + padded, 0);
    let mut trailer = Trailer {
        magic: TRAILER_MAGIC,
        checksum: 0.into(),
    };
    buffer.extend_from_slice(trailer.as_bytes());
    header.zero_parts = zero_parts(buffer, label.position).into();
    header = header.seal();
    trailer.checksum = header.checksum;
    buffer[..head].copy_from_slice(header.as_bytes());
    buffer[head + padded..].copy_from_slice(trailer.as_bytes());
    header.checksum.get()
}

/// How many sectors after those of the header hold nothing but zeros, as far
/// as they are the record's.
///
/// A medium that lost a write leaves zeros where none were written, so more of
/// them than the writer counted means a torn record, and as many mean damage.
pub(crate) fn zero_parts(record: &[u8], position: u64) -> u32 {
    let first = (position + RECORD_HEADER_LEN).next_multiple_of(SECTOR) - position;
    let rest = usize::try_from(first)
        .ok()
        .and_then(|first| record.get(first..))
        .unwrap_or_default();
    let zero = rest.chunks(512).filter(|part| is_zero(part)).count();
    u32::try_from(zero).unwrap_or(u32::MAX)
}

/// Whether some sector's share of a header holds nothing but zeros.
pub(crate) fn has_zero_part(header: &[u8], position: u64) -> bool {
    let first = (position + 1).next_multiple_of(SECTOR) - position;
    let split = usize::try_from(first).map_or(header.len(), |first| first.min(header.len()));
    let (first, second) = header.split_at(split);
    is_zero(first) || (!second.is_empty() && is_zero(second))
}

fn is_zero(part: &[u8]) -> bool {
    part == &[0; 512][..part.len()]
}

/// The header, if these bytes are one.
pub(crate) fn header(bytes: &[u8]) -> Option<RecordHeader> {
    let header = RecordHeader::read_from_prefix(bytes).ok()?.0;
    (header.magic == RECORD_MAGIC && header.sound()).then_some(header)
}

/// The payload of a whole record whose header was checked, if all of it is as
/// it was written.
pub(crate) fn payload<'r>(
    record: &'r [u8],
    header: &RecordHeader,
    chain: Chain,
) -> Option<&'r [u8]> {
    let len = usize::try_from(header.len.get()).ok()?;
    let body = record.get(size_of::<RecordHeader>()..)?;
    let (payload, rest) = body.split_at_checked(len)?;
    let (padding, trailer) = rest.split_at_checked(len.next_multiple_of(8) - len)?;
    let trailer = Trailer::read_from_bytes(trailer).ok()?;
    let sound = chain.after(payload).0 == header.content.get()
        && padding.iter().all(|byte| *byte == 0)
        && trailer.magic == TRAILER_MAGIC
        && trailer.checksum == header.checksum;
    sound.then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label(position: u64, payload: &[u8]) -> Label {
        Label {
            kind: 1,
            position,
            durable: 256,
            segment: 7,
            previous: 8,
            epoch: Epoch(1),
            term: Term(2),
            content: Chain::START.after(payload),
        }
    }

    #[test]
    fn sectors_of_zeros_are_counted_without_those_of_the_header() {
        let mut buffer = Vec::new();
        let payload = vec![0; 2000];
        encode(&mut buffer, &label(256, &payload), &payload);
        // 256 .. 2336: the header's sector, three of zeros, one with the end.
        assert_eq!(header(&buffer).unwrap().zero_parts.get(), 3);
        buffer[600] = 1;
        assert_eq!(zero_parts(&buffer, 256), 2);
        assert!(!has_zero_part(&buffer[..72], 512 - 8));
        assert!(has_zero_part(
            &[[1; 8].as_slice(), &[0; 64]].concat(),
            512 - 8
        ));
        assert!(!has_zero_part(&[[1; 8].as_slice(), &[0; 64]].concat(), 512));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read(payload in prop::collection::vec(any::<u8>(), 0..1500), at in 0_u64..100) {
            let mut buffer = Vec::new();
            let label = label(at * 8, &payload);
            encode(&mut buffer, &label, &payload);
            prop_assert_eq!(Some(buffer.len() as u64), record_len(payload.len() as u64));
            let header = header(&buffer).unwrap();
            prop_assert_eq!(zero_parts(&buffer, at * 8), header.zero_parts.get());
            prop_assert_eq!(super::payload(&buffer, &header, Chain::START), Some(payload.as_slice()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
            prop_assert!(header(&bytes).is_none());
            let mut fake = RecordHeader::new_zeroed();
            fake.len = len.into();
            prop_assert!(payload(&bytes, &fake, Chain(1)).is_none());
        }
    }

    use zerocopy::FromZeros as _;
}
