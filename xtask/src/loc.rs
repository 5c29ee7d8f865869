//! Lines of code by package, tests apart.

use crate::source::code;
use crate::workspace::{TextFile, Workspace};
use std::fmt::Write as _;

/// A line counts if something other than comment and white space is on it.
pub(crate) fn table(workspace: &Workspace) -> String {
    let mut out = format!("{:<28}{:>8}{:>8}\n", "package", "code", "tests");
    let mut total = (0, 0);
    for package in &workspace.packages {
        let folder = format!("{}/", package.folder);
        let mut sum = (0, 0);
        for file in workspace.rust(&folder) {
            let (own, tests) = count(file);
            sum = (sum.0 + own, sum.1 + tests);
        }
        total = (total.0 + sum.0, total.1 + sum.1);
        // Writing to a string does not fail.
        let _ = writeln!(out, "{:<28}{:>8}{:>8}", package.folder, sum.0, sum.1);
    }
    let _ = writeln!(out, "{:<28}{:>8}{:>8}", "all", total.0, total.1);
    out
}

/// Lines of code and of tests in a file: everything below `#[cfg(test)] mod`
/// is tests, and every file that is itself one.
fn count(file: &TextFile) -> (usize, usize) {
    let code = code(&file.text);
    let lines: Vec<&str> = code.lines().collect();
    let test_file = file.path.contains("/tests/")
        || file.path.ends_with("tests.rs")
        || file.path.contains("/benches/");
    let tests_from = if test_file {
        0
    } else {
        lines
            .windows(2)
            .position(|pair| pair[0].trim() == "#[cfg(test)]" && is_inline_module(pair[1]))
            .unwrap_or(lines.len())
    };
    let filled = |lines: &[&str]| lines.iter().filter(|l| !l.trim().is_empty()).count();
    (filled(&lines[..tests_from]), filled(&lines[tests_from..]))
}

fn is_inline_module(line: &str) -> bool {
    line.starts_with("mod ") && line.ends_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(path: &str, text: &str) -> (usize, usize) {
        count(&TextFile {
            path: path.into(),
            text: text.into(),
        })
    }

    #[test]
    fn comments_do_not_count_and_tests_count_apart() {
        let text = "//! Words.\n\nfn f() {}\n/* more\nwords */\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(counted("a/src/lib.rs", text), (1, 3));
        assert_eq!(counted("a/tests/x.rs", text), (0, 4));
        assert_eq!(
            counted("a/src/x.rs", "#[cfg(test)]\nmod tests;\nfn f() {}\n"),
            (3, 0)
        );
    }
}
