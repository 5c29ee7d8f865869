//! Sizes and names of files.

use crate::workspace::{TextFile, Workspace};

/// Most lines of a file; beyond it nobody reads it as a whole.
const MOST_LINES: usize = 500;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "misc"];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    workspace.files.iter().flat_map(check_file).collect()
}

fn check_file(file: &TextFile) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    if lines > MOST_LINES {
        findings.push(format!(
            "{}: {lines} lines, more than {MOST_LINES}: split it by what it does",
            file.path
        ));
    }
    for part in file.path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        if EMPTY_NAMES.contains(&stem) {
            findings.push(format!(
                "{}: {stem:?} says nothing; name it after what it does",
                file.path
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, lines: usize) -> usize {
        check_file(&TextFile {
            path: path.into(),
            text: "x\n".repeat(lines),
        })
        .len()
    }

    #[test]
    fn long_files_and_empty_names_are_found() {
        assert_eq!(findings("crates/a/src/lib.rs", MOST_LINES), 0);
        assert_eq!(findings("crates/a/src/lib.rs", MOST_LINES + 1), 1);
        assert_eq!(findings("crates/a/src/utils.rs", 1), 1);
        assert_eq!(findings("crates/common/src/lib.rs", 1), 1);
        assert_eq!(findings("crates/uncommon/src/lib.rs", 1), 0);
    }
}
