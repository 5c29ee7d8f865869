//! The command line.

use afterimage::{Level, OnLoss};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A key-value server that speaks the Redis protocol and keeps its data in a
/// critical data area: an acknowledged write survives the death of the server.
///
/// Exit status: 0 stopped when asked to; 1 an error; 2 wrong usage; 3 fenced, as
/// another primary has taken over; 4 in doubt, as nobody can tell whether the
/// last writes, which were not acknowledged, are safe.
#[derive(Debug, clap::Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Options {
    /// Address to serve clients on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6380")]
    pub(crate) listen: SocketAddr,

    /// Name of the area that holds the data.
    #[arg(long, value_name = "NAME", default_value = "kv")]
    pub(crate) area: String,

    /// Size of the area if it is made now, in bytes or with K, M or G.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub(crate) size: u64,

    /// Where commits go: `dir:PATH` or `tcp://HOST:PORT`; may be repeated.
    /// Without it: what is configured, or a directory of this user.
    #[arg(long = "target", value_name = "URL")]
    pub(crate) targets: Vec<String>,

    /// What a write waits for: local, sent, replicated or durable.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<Level>,

    /// At how many targets the level has to hold.
    #[arg(long, value_name = "N")]
    pub(crate) quorum: Option<u32>,

    /// What to do while too few targets are there: wait, stop, or continue with
    /// less safety.
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_loss: Option<OnLoss>,

    /// Most clients at a time; further ones are refused.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) maxclients: usize,

    /// Write the address to this file once clients are served.
    #[arg(long, value_name = "PATH")]
    pub(crate) port_file: Option<PathBuf>,

    /// Allow `DEBUG SEGFAULT`, with which any client can kill the server.
    #[arg(long)]
    pub(crate) enable_debug_command: bool,

    /// Acknowledge writes before they are safe: exists so that the tests can
    /// show that they would notice.
    #[arg(long, hide = true)]
    pub(crate) test_acknowledge_before_commit: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "not a size: write bytes, or a number with K, M or G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes_are_bytes_or_have_a_letter() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        for bad in ["", "M", "-1", "1T", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
