//! Commands on keys, whatever their values.

use super::{Call, CommandError, Outcome, within_limit};
use crate::glob;
use crate::store::{Heap, Store};

/// Keys per call of `SCAN` at least. Each call looks at every key, so a scan by
/// ten, as clients ask for, would take a time that grows with the square of
/// their number.
const SCAN_LEAST: usize = 10_000;

pub(super) fn dbsize<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    call.reply.count(store.len());
    Ok(())
}

pub(super) fn exists<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let there = call.request.from(1).filter(|key| store.contains(key));
    call.reply.count(there.count());
    Ok(())
}

pub(super) fn del<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let gone = call.request.from(1).filter(|key| store.remove(key));
    call.reply.count(gone.count());
    Ok(())
}

pub(super) fn flush<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    match call.arg(1).to_ascii_uppercase().as_slice() {
        b"" | b"SYNC" | b"ASYNC" => {}
        _ => return Err(CommandError::Syntax),
    }
    store.clear();
    call.reply.simple("OK");
    Ok(())
}

pub(super) fn kind<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let there = store.contains(call.arg(1));
    call.reply.simple(if there { "string" } else { "none" });
    Ok(())
}

pub(super) fn ttl<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let there = store.contains(call.arg(1));
    call.reply.integer(if there { -1 } else { -2 });
    Ok(())
}

pub(super) fn keys<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let pattern = call.arg(1);
    let found: Vec<&[u8]> = store
        .keys()
        .filter(|key| glob::matches(pattern, key))
        .collect();
    list(call, &found)
}

pub(super) fn scan<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let cursor = std::str::from_utf8(call.arg(1))
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .ok_or(CommandError::Refused("ERR invalid cursor"))?;
    let mut count = SCAN_LEAST;
    let mut pattern: &[u8] = b"*";
    let mut strings = true;
    let mut words = call.request.from(2);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(CommandError::Syntax)?;
        match word.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = value,
            b"COUNT" => {
                count = crate::request::number(value)
                    .and_then(|count| usize::try_from(count).ok())
                    .ok_or(CommandError::NotAnInteger)?
                    .max(SCAN_LEAST);
            }
            b"TYPE" => strings = value.eq_ignore_ascii_case(b"string"),
            _ => return Err(CommandError::Syntax),
        }
    }
    let (next, mut found) = store.scan(cursor, count);
    found.retain(|key| strings && glob::matches(pattern, key));
    call.reply.array(2);
    call.reply.bulk(next.to_string().as_bytes());
    list(call, &found)
}

fn list(call: &mut Call<'_>, keys: &[&[u8]]) -> Outcome {
    let mark = call.reply.len();
    call.reply.array(keys.len());
    for key in keys {
        call.reply.bulk(key);
        within_limit(call.reply, mark)?;
    }
    Ok(())
}
