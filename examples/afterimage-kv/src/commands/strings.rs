//! Commands on single values and numbers.

use super::{Call, CommandError, Outcome, within_limit};
use crate::request::number;
use crate::store::{Heap, Store};

pub(super) fn get<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    call.reply.bulk_or_null(store.get(call.arg(1)));
    Ok(())
}

pub(super) fn mget<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let mark = call.reply.len();
    call.reply.array(call.request.len() - 1);
    for key in call.request.from(1) {
        call.reply.bulk_or_null(store.get(key));
        within_limit(call.reply, mark)?;
    }
    Ok(())
}

pub(super) fn strlen<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    call.reply
        .count(store.get(call.arg(1)).map_or(0, <[u8]>::len));
    Ok(())
}

/// What stands behind key and value of a `SET`.
#[derive(Default)]
struct SetOptions {
    only_new: bool,
    only_old: bool,
    get: bool,
}

impl SetOptions {
    fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Self, CommandError> {
        let mut options = Self::default();
        for word in words {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => options.only_new = true,
                b"XX" => options.only_old = true,
                b"GET" => options.get = true,
                // No value ever expires, so there is no time to keep.
                b"KEEPTTL" => {}
                b"EX" | b"PX" | b"EXAT" | b"PXAT" => {
                    return Err(CommandError::Refused(
                        "ERR expiry is not supported: a value stays until it is deleted",
                    ));
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        if options.only_new && options.only_old {
            return Err(CommandError::Syntax);
        }
        Ok(options)
    }
}

pub(super) fn set<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let options = SetOptions::parse(call.request.from(3))?;
    let (key, value) = (call.arg(1), call.arg(2));
    if options.get {
        call.reply.bulk_or_null(store.get(key));
    }
    let there = store.contains(key);
    if (options.only_new && there) || (options.only_old && !there) {
        if !options.get {
            call.reply.bulk_or_null(None);
        }
        return Ok(());
    }
    store.set(key, value)?;
    if !options.get {
        call.reply.simple("OK");
    }
    Ok(())
}

pub(super) fn setnx<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let free = !store.contains(call.arg(1));
    if free {
        store.set(call.arg(1), call.arg(2))?;
    }
    call.reply.integer(i64::from(free));
    Ok(())
}

pub(super) fn getset<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    call.reply.bulk_or_null(store.get(call.arg(1)));
    store.set(call.arg(1), call.arg(2))?;
    Ok(())
}

pub(super) fn getdel<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    call.reply.bulk_or_null(store.get(call.arg(1)));
    store.remove(call.arg(1));
    Ok(())
}

/// Keys and values of an `MSET`.
fn pairs<'a>(
    call: &Call<'a>,
) -> Result<impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a>, CommandError> {
    let request = call.request;
    if request.len().is_multiple_of(2) {
        let name = String::from_utf8_lossy(request.arg(0)).to_ascii_lowercase();
        return Err(CommandError::Arity(name));
    }
    Ok((1..request.len())
        .step_by(2)
        .map(move |i| (request.arg(i), request.arg(i + 1))))
}

pub(super) fn mset<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    store.set_all(pairs(call)?)?;
    call.reply.simple("OK");
    Ok(())
}

pub(super) fn msetnx<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let pairs = pairs(call)?;
    let free = !pairs.clone().any(|(key, _)| store.contains(key));
    if free {
        store.set_all(pairs)?;
    }
    call.reply.integer(i64::from(free));
    Ok(())
}

pub(super) fn append<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let len = store.append(call.arg(1), call.arg(2))?;
    call.reply.count(len);
    Ok(())
}

pub(super) fn incr<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    add(call, store, 1)
}

pub(super) fn decr<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    add(call, store, -1)
}

pub(super) fn incrby<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let by = number(call.arg(2)).ok_or(CommandError::NotAnInteger)?;
    add(call, store, by)
}

pub(super) fn decrby<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>) -> Outcome {
    let by = number(call.arg(2))
        .and_then(i64::checked_neg)
        .ok_or(CommandError::NotAnInteger)?;
    add(call, store, by)
}

fn add<A: Heap>(call: &mut Call<'_>, store: &mut Store<A>, by: i64) -> Outcome {
    let sum = store.add(call.arg(1), by)?;
    call.reply.integer(sum);
    Ok(())
}
