//! What a crate knows nothing of, as words that its code does not have.
//!
//! The layers keep packages apart; this keeps the standard library's outside
//! world out of crates that are to be pure or to reach it one way only.

use crate::source::{code, has_word};
use crate::workspace::{TextFile, Workspace};

/// A crate's folder, words that its code must not have, and the sentence that
/// they hold up.
struct Absence(&'static str, &'static [&'static str], &'static str);

const WORLD: &[&str] = &[
    "std::fs",
    "std::net",
    "std::io",
    "std::os",
    "std::thread",
    "std::time",
    "std::env",
    "libc",
    "rustix",
];

#[rustfmt::skip]
const ABSENCES: [Absence; 7] = [
    Absence("crates/delta/src", WORLD, "delta is pure computation"),
    Absence("crates/area-abi/src", WORLD, "area-abi is layouts, no I/O"),
    Absence("crates/protocol/src", WORLD, "protocol has no I/O and no clock of its own"),
    Absence("crates/checkpoint/src", &["std::fs", "std::net", "std::thread", "libc", "rustix"],
        "checkpoint knows nothing of KVM, files or the network"),
    Absence("crates/store/src", &["std::fs", "std::net", "std::thread", "std::time", "libc", "rustix"],
        "store reaches the disk through env's Disk only, and knows nothing of the network"),
    Absence("crates/devices/src", &["std::fs", "std::net", "std::thread", "libc", "rustix"],
        "devices get bytes and give bytes; they open nothing"),
    Absence("crates/track-kvm/src", &["std::fs", "std::net", "std::thread"],
        "track-kvm knows nothing of targets"),
];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut findings = Vec::new();
    for Absence(folder, words, sentence) in ABSENCES {
        for file in workspace.rust(folder) {
            findings.extend(in_file(file, words, sentence));
        }
    }
    findings
}

fn in_file(file: &TextFile, words: &[&str], sentence: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(code(&file.text).lines()) {
        for word in words.iter().filter(|word| names(line, word)) {
            findings.push(format!("{}:{number}: {word}, but {sentence}", file.path));
        }
    }
    findings
}

/// Whether a line names a path, by itself or in a group (`std::{fs, io}`).
fn names(line: &str, path: &str) -> bool {
    has_word(line, path)
        || path.split_once("::").is_some_and(|(first, last)| {
            line.split_once(&format!("{first}::{{"))
                .is_some_and(|(_, group)| has_word(group, last))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        let file = TextFile {
            path: "crates/x/src/lib.rs".into(),
            text: text.into(),
        };
        in_file(&file, &["std::fs", "libc"], "it has no files").len()
    }

    #[test]
    fn a_word_that_must_be_absent_is_found_however_it_is_imported() {
        for text in [
            "use std::fs;",
            "use std::{fmt, fs};",
            "std::fs::read(p)",
            "libc::open(p)",
        ] {
            assert_eq!(findings(text), 1, "{text}");
        }
        for text in [
            "use std::fmt;",
            "// std::fs",
            "use std::{fmt, io};",
            "use std::fsync;",
        ] {
            assert_eq!(findings(text), 0, "{text}");
        }
    }

    #[test]
    fn every_folder_named_is_there() {
        let workspace = Workspace::read(&crate::workspace::root()).unwrap();
        for Absence(folder, ..) in ABSENCES {
            assert!(workspace.rust(folder).next().is_some(), "{folder}");
        }
    }
}
