//! The demonstration with virtual machines tells the truth and cleans up after
//! itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use afterimage_trials::process::{Echo, Program};
use afterimage_trials::programs::binary;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(400);

/// The demonstration, with its files in `folder`.
fn demo(folder: &Path, writes: &str) -> Command {
    let mut command = Command::new(binary("demo").unwrap());
    command.args(["--writes", writes]).env("TMPDIR", folder);
    command
}

/// Nothing is left of what was started with files in `folder`: everything
/// inherits the variable that names it.
#[track_caller]
fn assert_nothing_left(folder: &Path) {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(files.is_empty(), "{files:?}");
    let variable = format!("TMPDIR={}", folder.display());
    let left: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let environment = std::fs::read(path.join("environ")).ok()?;
            String::from_utf8_lossy(&environment)
                .contains(&variable)
                .then(|| std::fs::read_to_string(path.join("comm")).unwrap_or_default())
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_machine_dies_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let command = demo(folder.path(), "2000");
    let mut program = Program::start(command, "demo", logs.path(), &Echo::none()).unwrap();
    let last = program
        .wait_for_line("acknowledged 2000, found 2000, lost 0, takeover ", PATIENCE)
        .unwrap();
    let status = program.wait().unwrap();
    assert!(status.success(), "{last}{}", program.tail());
    assert_nothing_left(folder.path());
}

#[test]
fn ctrl_c_in_the_middle_leaves_no_process_and_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let command = demo(folder.path(), "10000000");
    let mut program = Program::start(command, "demo", logs.path(), &Echo::none()).unwrap();
    program.wait_for_line("clients write", PATIENCE).unwrap();
    program.signal(Signal::INT).unwrap();
    let status = program.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{}", program.tail());
    assert_nothing_left(folder.path());
}
