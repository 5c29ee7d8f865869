//! Commands that ask about the server.

use super::{Call, CommandError, Outcome};
use crate::glob;
use crate::limits::MAX_BULK;
use crate::store::{Heap, Store};
use std::fmt::Write as _;

/// Clients ask for the list of commands to complete words and may go on
/// without.
pub(super) fn command(call: &mut Call<'_>) -> Outcome {
    call.reply.array(0);
    Ok(())
}

pub(super) fn config(call: &mut Call<'_>) -> Outcome {
    match call.arg(1).to_ascii_uppercase().as_slice() {
        b"GET" if call.request.len() > 2 => {}
        b"RESETSTAT" => {
            return Err(CommandError::Refused("ERR the counters cannot be reset"));
        }
        b"SET" | b"REWRITE" => {
            return Err(CommandError::Refused(
                "ERR settings are given on the command line when the server starts",
            ));
        }
        _ => return Err(CommandError::Syntax),
    }
    let settings = [
        // Neither snapshots nor a log of its own: a write is safe as the
        // area's level says before it is answered.
        ("save", String::new()),
        ("appendonly", "no".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", call.facts.max_clients.to_string()),
        ("maxmemory", call.facts.area_len.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("proto-max-bulk-len", MAX_BULK.to_string()),
    ];
    let asked: Vec<Vec<u8>> = call
        .request
        .from(2)
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    let found: Vec<_> = settings
        .iter()
        .filter(|(name, _)| asked.iter().any(|p| glob::matches(p, name.as_bytes())))
        .collect();
    call.reply.array(2 * found.len());
    for (name, value) in found {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    Ok(())
}

pub(super) fn info<A: Heap>(call: &mut Call<'_>, store: &Store<A>) -> Outcome {
    let asked: Vec<Vec<u8>> = call
        .request
        .from(1)
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    let wanted = |section: &str| {
        asked.is_empty()
            || asked.iter().any(|asked| {
                asked == section.as_bytes()
                    || [&b"all"[..], b"default", b"everything"].contains(&asked.as_slice())
            })
    };
    let mut text = String::new();
    for (section, lines) in call.facts.sections(store.len()) {
        if !wanted(section) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        let title = section[..1].to_ascii_uppercase() + &section[1..];
        // Writing to a string cannot fail.
        let _ = write!(text, "# {title}\r\n");
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
    }
    call.reply.bulk(text.as_bytes());
    Ok(())
}
