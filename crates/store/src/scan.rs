//! Reading a log from its first record to its last.

use crate::error::Damage;
use crate::layout::{
    ALIGN, DELTA, FILE_HEADER_LEN, RECORD_HEADER_LEN, REIGN, RecordHeader, ReignField, Sealed as _,
};
use crate::origin::{Origin, may_follow};
use crate::record;
use crate::window::Window;
use afterimage_area_abi::Reign;
use afterimage_delta::{Chain, Delta, Epoch, max_encoded_len};
use afterimage_env::DiskFile;
use std::io;
use zerocopy::FromBytes as _;

/// What a log holds.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// End of the last whole record.
    pub(crate) end: u64,
    /// Bytes after it.
    pub(crate) tail: u64,
    /// What is known to be durable because a later record says so.
    pub(crate) durable: u64,
    /// Checksum of the last record.
    pub(crate) last: u32,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
    pub(crate) reign: Reign,
    pub(crate) records: u64,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    Damage { so_far: Scan, damage: Damage },
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What was found where a record may start.
enum Found {
    /// A whole record of so many bytes.
    Record(RecordHeader, u64),
    /// The end, or a record that was never written whole.
    End,
    /// Something else.
    Damage(Damage),
}

/// Reads the records after a log's header; hands out the deltas in order.
pub(crate) fn scan<F: DiskFile>(
    file: &F,
    origin: &Origin,
    segment: u32,
    mut visit: impl FnMut(&Delta),
) -> Result<Scan, ScanError> {
    let mut window = Window::new(file)?;
    let mut so_far = Scan {
        end: FILE_HEADER_LEN,
        tail: 0,
        durable: FILE_HEADER_LEN,
        last: segment,
        epoch: origin.epoch,
        chain: origin.chain,
        reign: origin.reign,
        records: 0,
    };
    let mut spare = Vec::new();
    loop {
        let found = match find(&mut window, origin, segment, &so_far)? {
            Found::Record(header, len) => {
                let record = window.get(so_far.end, len)?;
                match record::payload(record, &header, so_far.chain) {
                    Some(payload) => accept(
                        payload,
                        &header,
                        origin,
                        &mut so_far,
                        &mut spare,
                        &mut visit,
                    )
                    .map(|()| so_far.end += len)
                    .err(),
                    // More zeros than the writer put there: a part never arrived.
                    None if record::zero_parts(record, so_far.end) > header.zero_parts.get() => {
                        match lost_write(&mut window, so_far.end, segment)? {
                            true => Some(Damage::LostWrite),
                            false => break,
                        }
                    }
                    None => Some(Damage::Content),
                }
            }
            Found::End => break,
            Found::Damage(damage) => Some(damage),
        };
        if let Some(damage) = found {
            return Err(ScanError::Damage { so_far, damage });
        }
    }
    so_far.tail = window.len().saturating_sub(so_far.end);
    Ok(so_far)
}

/// Looks at the header of the record that may start where the last one ended.
fn find<F: DiskFile>(
    window: &mut Window<'_, F>,
    origin: &Origin,
    segment: u32,
    so_far: &Scan,
) -> io::Result<Found> {
    let at = so_far.end;
    let left = window.len().saturating_sub(at);
    if left < RECORD_HEADER_LEN {
        return Ok(Found::End);
    }
    let bytes = window.get(at, RECORD_HEADER_LEN)?;
    let Some(header) = record::header(bytes) else {
        if !record::has_zero_part(bytes, at) {
            return Ok(Found::Damage(Damage::Header));
        }
        return Ok(match lost_write(window, at, segment)? {
            true => Found::Damage(Damage::LostWrite),
            false => Found::End,
        });
    };
    if header.position.get() != at
        || header.segment.get() != segment
        || header.previous.get() != so_far.last
    {
        return Ok(Found::Damage(Damage::Misplaced));
    }
    let durable = header.durable.get();
    if !(so_far.durable..=at).contains(&durable) {
        return Ok(Found::Damage(Damage::Field("durable")));
    }
    let len = header.len.get();
    if len > max_encoded_len(origin.len) {
        return Ok(Found::Damage(Damage::Field("length")));
    }
    Ok(match record::record_len(len) {
        Some(len) if len <= left => Found::Record(header, len),
        _ => Found::End,
    })
}

/// Checks what a sound record says, and goes on by it.
fn accept(
    payload: &[u8],
    header: &RecordHeader,
    origin: &Origin,
    so_far: &mut Scan,
    spare: &mut Vec<u8>,
    visit: &mut impl FnMut(&Delta),
) -> Result<(), Damage> {
    let epoch = Epoch(header.epoch.get());
    if header.reserved.get() != 0 {
        return Err(Damage::Field("reserved"));
    }
    match header.kind.get() {
        DELTA => {
            if epoch != so_far.epoch.next() {
                return Err(Damage::Field("epoch"));
            }
            if header.term.get() != so_far.reign.term.0 {
                return Err(Damage::Field("term"));
            }
            let mut bytes = std::mem::take(spare);
            bytes.clear();
            bytes.extend_from_slice(payload);
            let delta = Delta::decode(epoch, so_far.chain, bytes, origin.len)
                .map_err(|_| Damage::Field("runs"))?;
            visit(&delta);
            *spare = delta.into_payload();
            so_far.epoch = epoch;
            so_far.chain = Chain(header.content.get());
        }
        REIGN => {
            let reign = ReignField::read_from_bytes(payload)
                .ok()
                .and_then(|field| field.reign())
                .ok_or(Damage::Field("reign"))?;
            if epoch != so_far.epoch {
                return Err(Damage::Field("epoch"));
            }
            if header.term.get() != reign.term.0 || !may_follow(so_far.reign, reign) {
                return Err(Damage::Field("term"));
            }
            so_far.reign = reign;
        }
        _ => return Err(Damage::Field("kind")),
    }
    so_far.durable = header.durable.get();
    so_far.last = header.stored();
    so_far.records += 1;
    Ok(())
}

/// Whether a later record of this log says that what should be at `at` was
/// durable.
///
/// Records that were appended without a sync may survive one without the
/// other; those written after a sync cannot be there without what it made
/// durable.
fn lost_write<F: DiskFile>(window: &mut Window<'_, F>, at: u64, segment: u32) -> io::Result<bool> {
    let mut next = at + ALIGN;
    while next + RECORD_HEADER_LEN <= window.len() {
        if let Some(header) = record::header(window.get(next, RECORD_HEADER_LEN)?)
            && header.position.get() == next
            && header.segment.get() == segment
            && header.durable.get() > at
        {
            return Ok(true);
        }
        next += ALIGN;
    }
    Ok(false)
}
