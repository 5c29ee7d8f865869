//! The demonstration tells the truth and cleans up after itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_trials::process::{Echo, PATIENCE, Program};
use afterimage_trials::programs::binary;
use rustix::process::Signal;
use std::path::Path;
use std::process::{Command, Output};

/// The demonstration, with its files in `folder`.
fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("demo").unwrap());
    command.args(arguments).env("TMPDIR", folder);
    command
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().unwrap_or_default().to_owned()
}

/// The command lines of processes that know of `folder`, besides this one.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[track_caller]
fn assert_nothing_left(folder: &Path) {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(files.is_empty(), "{files:?}");
    assert_eq!(processes_in(folder), [""; 0]);
}

#[test]
fn nothing_is_lost_and_the_last_line_says_so() {
    for mode in ["--embedded", "--process"] {
        let folder = tempfile::tempdir().unwrap();
        let output = demo(folder.path(), &[mode, "--writes", "3000"])
            .output()
            .unwrap();
        let last = last_line(&output);
        assert!(output.status.success(), "{mode}: {output:?}");
        let start = "acknowledged 3000, found 3000, lost 0, takeover ";
        let seconds = last
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(" s"))
            .and_then(|seconds| seconds.parse::<f64>().ok());
        assert!(seconds.is_some(), "{mode}: {last}");
        assert_nothing_left(folder.path());
    }
}

#[test]
fn a_server_that_acknowledges_too_early_is_found_out() {
    for mode in ["--embedded", "--process"] {
        let folder = tempfile::tempdir().unwrap();
        let early = "--test-acknowledge-before-commit";
        // A kill may by chance hit the moment in which nothing is missing.
        let found_out = (0..5).any(|_| {
            let output = demo(folder.path(), &[mode, "--writes", "3000", early])
                .output()
                .unwrap();
            let last = last_line(&output);
            assert!(last.starts_with("acknowledged 3000, found "), "{output:?}");
            assert_eq!(output.status.success(), last.contains(" lost 0,"), "{last}");
            output.status.code() == Some(1)
        });
        assert!(found_out, "{mode}: five early servers and nothing lost");
    }
}

#[test]
fn ctrl_c_leaves_no_process_and_no_file_behind() {
    for mode in ["--embedded", "--process"] {
        for signal in [Signal::INT, Signal::TERM] {
            let folder = tempfile::tempdir().unwrap();
            let logs = tempfile::tempdir().unwrap();
            let command = demo(folder.path(), &[mode, "--writes", "10000000"]);
            let mut program = Program::start(command, "demo", logs.path(), &Echo::none()).unwrap();
            program.wait_for_line("clients write", PATIENCE).unwrap();
            assert_ne!(
                processes_in(folder.path()),
                [""; 0],
                "the server's options name it"
            );
            program.signal(signal).unwrap();
            let status = program.wait().unwrap();
            assert_eq!(status.code(), Some(130), "{mode}{}", program.tail());
            assert_nothing_left(folder.path());
        }
    }
}
