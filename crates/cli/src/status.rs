//! `afterimage status`.

use afterimage_link::{TargetUrl, directory_status};
use afterimage_protocol::status::{AreaReport, Report};
use anyhow::Result;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Options of `afterimage status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whom to ask: tcp://HOST:PORT or unix:PATH of a backup or of a virtual
    /// machine's status socket, or dir:PATH of a store.
    #[arg(value_name = "PLACE")]
    place: TargetUrl,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let report = match &args.place {
        TargetUrl::Dir(path) => directory_status(path)?,
        TargetUrl::Peer(address) => afterimage_link::status(address)?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let mut out = format!("{} {}\n", report.role, report.version);
    for area in &report.areas {
        describe(&mut out, area);
    }
    if report.areas.is_empty() {
        out.push_str("no areas\n");
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn describe(out: &mut String, area: &AreaReport) {
    let reign = match &area.primary {
        Some(primary) => format!("primary {primary}"),
        None if area.tracker.is_some() => "busy".to_owned(),
        None => "unclaimed".to_owned(),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "area {}: {} bytes, term {} ({reign}), epoch {}, acknowledged {}, {}",
        area.name, area.len, area.term, area.epoch, area.acknowledged, area.state
    );
    if let Some(connected) = area.connected {
        let word = if connected {
            "connected"
        } else {
            "not connected"
        };
        let _ = writeln!(out, "  primary {word}");
    }
    if let Some(tracker) = &area.tracker {
        let _ = writeln!(out, "  tracker {tracker}");
    }
    for target in &area.targets {
        let state = if target.connected {
            "connected"
        } else {
            "lost"
        };
        let problem = target.problem.as_deref().unwrap_or("");
        let _ = writeln!(
            out,
            "  target {}: {state}, acknowledged {} {problem}",
            target.url, target.acknowledged
        );
    }
    for (name, value) in &area.counters {
        let _ = writeln!(out, "  {name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unclaimed_area_is_shown_as_such() {
        let report = Report {
            role: "backup".into(),
            areas: vec![AreaReport {
                name: "kv".into(),
                term: 2,
                ..AreaReport::default()
            }],
            ..Report::default()
        };
        assert!(text(&report).contains("area kv: 0 bytes, term 2 (unclaimed)"));
    }
}
