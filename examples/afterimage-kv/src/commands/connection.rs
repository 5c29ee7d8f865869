//! Commands on the connection, and those that end the server.

use super::{Call, CommandError, Demand, Outcome};
use crate::limits::MAX_CLIENT_NAME;
use crate::request::number;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn ping(call: &mut Call<'_>) -> Outcome {
    if call.request.len() == 1 {
        call.reply.simple("PONG");
    } else {
        call.reply.bulk(call.arg(1));
    }
    Ok(())
}

pub(super) fn echo(call: &mut Call<'_>) -> Outcome {
    call.reply.bulk(call.arg(1));
    Ok(())
}

pub(super) fn select(call: &mut Call<'_>) -> Outcome {
    match number(call.arg(1)) {
        Some(0) => call.reply.simple("OK"),
        Some(_) => return Err(CommandError::Refused("ERR DB index is out of range")),
        None => return Err(CommandError::NotAnInteger),
    }
    Ok(())
}

pub(super) fn quit(call: &mut Call<'_>) -> Outcome {
    call.session.closing = true;
    call.reply.simple("OK");
    Ok(())
}

pub(super) fn time(call: &mut Call<'_>) -> Outcome {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    call.reply.array(2);
    call.reply.bulk(now.as_secs().to_string().as_bytes());
    call.reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(())
}

pub(super) fn hello(call: &mut Call<'_>) -> Outcome {
    match (call.request.len(), call.arg(1)) {
        (1, _) | (_, b"2") => {}
        _ => {
            return Err(CommandError::Refused(
                "NOPROTO unsupported protocol version: this server speaks version 2",
            ));
        }
    }
    let mut words = call.request.from(2);
    while let Some(word) = words.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"SETNAME" => set_name(call, words.next().ok_or(CommandError::Syntax)?)?,
            _ => {
                return Err(CommandError::Refused(
                    "ERR unsupported HELLO option: this server has no users",
                ));
            }
        }
    }
    call.reply.array(14);
    for (field, value) in [
        ("server", "afterimage-kv"),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        call.reply.bulk(field.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    call.reply.bulk(b"proto");
    call.reply.integer(2);
    call.reply.bulk(b"id");
    id(call);
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        call.reply.bulk(field.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    call.reply.bulk(b"modules");
    call.reply.array(0);
    Ok(())
}

pub(super) fn client(call: &mut Call<'_>) -> Outcome {
    let word = call.arg(1).to_ascii_uppercase();
    match (word.as_slice(), call.request.len()) {
        (b"ID", 2) => id(call),
        (b"GETNAME", 2) => {
            let name = Some(call.session.name.as_slice()).filter(|name| !name.is_empty());
            call.reply.bulk_or_null(name);
        }
        (b"SETNAME", 3) => {
            set_name(call, call.arg(2))?;
            call.reply.simple("OK");
        }
        // Which library it is changes nothing here.
        (b"SETINFO", 4) => call.reply.simple("OK"),
        _ => {
            return Err(CommandError::Refused(
                "ERR unknown CLIENT subcommand or wrong number of arguments",
            ));
        }
    }
    Ok(())
}

fn id(call: &mut Call<'_>) {
    call.reply
        .integer(i64::try_from(call.session.id).unwrap_or(i64::MAX));
}

fn set_name(call: &mut Call<'_>, name: &[u8]) -> Outcome {
    let fits = name.len() <= MAX_CLIENT_NAME;
    if !fits || !name.iter().all(u8::is_ascii_graphic) {
        return Err(CommandError::Refused(
            "ERR Client names are at most 128 visible characters",
        ));
    }
    name.clone_into(&mut call.session.name);
    Ok(())
}

/// Every write that was answered is already safe, so there is nothing to save
/// and nothing to lose: whatever is asked for, the server just stops.
pub(super) fn shutdown(call: &mut Call<'_>) -> Outcome {
    call.session.closing = true;
    *call.demand = Some(Demand::Stop);
    Ok(())
}

pub(super) fn debug(call: &mut Call<'_>) -> Outcome {
    if !call.facts.debug_allowed {
        return Err(CommandError::Refused(
            "ERR DEBUG command not allowed: start the server with --enable-debug-command",
        ));
    }
    match call.arg(1).to_ascii_uppercase().as_slice() {
        b"SEGFAULT" => *call.demand = Some(Demand::Crash),
        _ => return Err(CommandError::Syntax),
    }
    Ok(())
}
