//! Recurring chores: `cargo xtask check` and `cargo xtask loc`.
#![forbid(unsafe_code)]

mod absences;
mod files;
mod layers;
mod loc;
mod pages;
mod protocol_page;
mod source;
mod unsafe_code;
mod workspace;

use std::process::ExitCode;
use workspace::Workspace;

const USAGE: &str = "usage: cargo xtask check | loc
  check  what no compiler checks: layers, absences, unsafe code, file sizes and names, pages
  loc    lines of code by package, tests apart";

/// A check: its name and what it finds wrong, one finding a line.
type Check = (&'static str, fn(&Workspace) -> Vec<String>);

const CHECKS: [Check; 6] = [
    ("layers", layers::check),
    ("absences", absences::check),
    ("unsafe", unsafe_code::check),
    ("files", files::check),
    ("pages", pages::check),
    ("protocol page", protocol_page::check),
];

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let workspace = match Workspace::read(&workspace::root()) {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match command.as_str() {
        "check" => check(&workspace),
        "loc" => {
            print!("{}", loc::table(&workspace));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn check(workspace: &Workspace) -> ExitCode {
    let mut wrong = 0;
    for (name, find) in CHECKS {
        for finding in find(workspace) {
            eprintln!("{name}: {finding}");
            wrong += 1;
        }
    }
    if wrong > 0 {
        eprintln!("xtask check: {wrong} findings");
        return ExitCode::FAILURE;
    }
    println!(
        "xtask check: {} checks over {} files and {} packages, nothing wrong",
        CHECKS.len(),
        workspace.files.len(),
        workspace.packages.len()
    );
    ExitCode::SUCCESS
}
