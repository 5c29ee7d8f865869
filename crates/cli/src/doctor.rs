//! `afterimage doctor`.

use afterimage_vmm::probe::{self, Verdict};
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// Options of `afterimage doctor`.
///
/// Exit status 0 if programs can be protected here one way or another, 1 if
/// not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    detail: String,
    /// What to do about it; a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// Works, with a limit that one should know.
    Limited,
    Missing,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Good,
            detail: detail.into(),
            fix: None,
        }
    }

    fn lacking(
        what: &'static str,
        state: State,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            what,
            state,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut findings = vec![process_tracking(), state_folder()];
    findings.extend(kvm());
    findings.push(tap());
    findings.push(lab());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.state {
                State::Good => "ok     ",
                State::Limited => "limited",
                State::Missing => "missing",
            };
            println!("{mark}  {}: {}", finding.what, finding.detail);
            if let Some(fix) = &finding.fix {
                println!("         -> {fix}");
            }
        }
    }
    let usable = findings[0].state == State::Good;
    Ok(if usable {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn process_tracking() -> Finding {
    let what = "tracking in a process";
    match afterimage_track_user::probe() {
        Ok(()) => Finding::good(
            what,
            "mprotect (the only process tracker of this version), tried",
        ),
        Err(error) => Finding::lacking(
            what,
            State::Missing,
            format!("mprotect: {error}"),
            "use Linux on x86-64, without limits on memory mappings",
        ),
    }
}

/// Where embedded areas are kept when nothing is configured.
fn state_folder() -> Finding {
    let what = "default directory of embedded areas";
    let home = std::env::var("XDG_STATE_HOME").ok().or_else(|| {
        let home = std::env::var("HOME").ok()?;
        Some(format!("{home}/.local/state"))
    });
    let Some(home) = home else {
        return Finding::lacking(
            what,
            State::Limited,
            "HOME is not set",
            "set AFTERIMAGE_TARGETS=dir:/some/directory",
        );
    };
    // The nearest folder that is there decides whether one can be made.
    let nearest = Path::new(&home).ancestors().find(|p| p.exists());
    let writable =
        nearest.is_some_and(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok());
    if writable {
        Finding::good(what, format!("{home}/afterimage"))
    } else {
        Finding::lacking(
            what,
            State::Limited,
            format!("{home} cannot be written"),
            "set AFTERIMAGE_TARGETS=dir:/some/directory",
        )
    }
}

fn kvm() -> Vec<Finding> {
    let device = "KVM";
    let kvm = match probe::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            return vec![Finding::lacking(
                device,
                State::Missing,
                error.to_string(),
                "without it, ./demo and ./test use the lab (KVM in an emulated machine)",
            )];
        }
    };
    let mut findings = Vec::new();
    match probe::abilities(&kvm) {
        Ok(abilities) => {
            let missing = abilities.missing();
            let text = format!(
                "module {}, nested paging {}, page modification log {}",
                abilities.module.unwrap_or("not shown"),
                yes_no(abilities.nested_paging),
                yes_no(abilities.page_modification_log),
            );
            findings.push(if missing.is_empty() {
                Finding::good(device, text)
            } else {
                Finding::lacking(
                    device,
                    State::Missing,
                    format!("{text}; lacks {}", missing.join(", ")),
                    "use a newer kernel (Linux 5.7 or later)",
                )
            });
        }
        Err(error) => findings.push(Finding::lacking(
            device,
            State::Missing,
            error.to_string(),
            "see dmesg",
        )),
    }
    let speed = "speed of guests";
    findings.push(match probe::calibrate(&kvm) {
        Ok(measured) => {
            let ns = format!("{:.1} ns an instruction", measured.ns_per_instruction);
            match measured.verdict() {
                Verdict::Hardware => Finding::good(speed, format!("{ns}: hardware")),
                Verdict::Emulated => Finding::lacking(
                    speed,
                    State::Limited,
                    format!("{ns}: this machine is itself emulated; right for tests only"),
                    "measure on hardware",
                ),
                Verdict::TooSlow => Finding::lacking(
                    speed,
                    State::Missing,
                    format!("{ns}: guests are emulated instruction by instruction, a stock kernel would boot for half an hour"),
                    "use a machine with vmx or svm; ./demo and ./test use the lab here",
                ),
            }
        }
        Err(error) => Finding::lacking(speed, State::Missing, error.to_string(), "see dmesg"),
    });
    findings
}

fn yes_no(known: Option<bool>) -> &'static str {
    match known {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

fn tap() -> Finding {
    let what = "network for guests (/dev/net/tun)";
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    match opened {
        Ok(_) => Finding::good(what, "can be opened; making a tap takes CAP_NET_ADMIN"),
        Err(error) => Finding::lacking(
            what,
            State::Missing,
            error.to_string(),
            "sudo modprobe tun; run as root, or in a user namespace: unshare -rn",
        ),
    }
}

/// What the lab needs to fetch its packages.
fn lab() -> Finding {
    let what = "lab (KVM without hardware)";
    let missing: Vec<_> = ["apt-get", "dpkg"]
        .into_iter()
        .filter(|tool| !Path::new("/usr/bin").join(tool).exists())
        .collect();
    if missing.is_empty() {
        Finding::good(
            what,
            "apt-get and dpkg are there; packages are fetched when needed",
        )
    } else {
        Finding::lacking(
            what,
            State::Missing,
            format!("{} not found", missing.join(", ")),
            "use Debian 12",
        )
    }
}
