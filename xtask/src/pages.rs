//! Pages that would otherwise go stale: links, magic words, settings, options.

use crate::workspace::Workspace;
use std::collections::BTreeSet;
use std::path::Path;

/// Sources whose magic words (`*b"..."`) a page must name.
const MAGIC_WORDS: [(&str, &str); 4] = [
    ("crates/store/src/layout.rs", "docs/reference/store.md"),
    ("crates/protocol/src/frame.rs", "docs/reference/protocol.md"),
    ("crates/area-abi/src/header.rs", "docs/reference/heap.md"),
    ("crates/area-abi/src/control.rs", "docs/reference/area.md"),
];

const CONFIG_SOURCE: &str = "crates/link/src/config.rs";
const CONFIG_PAGE: &str = "docs/reference/config.md";
const CLI_SOURCES: &str = "crates/cli/src/";
const CLI_PAGE: &str = "docs/reference/cli.md";
const PROGRAM: &str = "examples/bank/src/main.rs";

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut findings = dead_links(workspace);
    for (source, page) in MAGIC_WORDS {
        let text = workspace.text(source).unwrap_or_default();
        findings.extend(missing(workspace, page, source, &magic_words(text)));
    }
    let settings = setting_names(workspace.text(CONFIG_SOURCE).unwrap_or_default());
    findings.extend(missing(workspace, CONFIG_PAGE, CONFIG_SOURCE, &settings));
    let variables: Vec<_> = variables(workspace).into_iter().collect();
    findings.extend(missing(workspace, CONFIG_PAGE, "the sources", &variables));
    for file in workspace.rust(CLI_SOURCES) {
        findings.extend(missing(
            workspace,
            CLI_PAGE,
            &file.path,
            &options(&file.text),
        ));
    }
    let program = workspace.text(PROGRAM).unwrap_or_default();
    if !workspace
        .text("README.md")
        .unwrap_or_default()
        .contains(program)
    {
        findings.push(format!("README.md: its program is not {PROGRAM}"));
    }
    // A page that is not there is missed by each that looks for it.
    findings.dedup();
    findings
}

/// Words that a source has and its page lacks. A source without any word is a
/// finding too: the check would look at nothing.
fn missing(workspace: &Workspace, page: &str, source: &str, words: &[String]) -> Vec<String> {
    let Some(text) = workspace.text(page) else {
        return vec![format!("{page}: is not there")];
    };
    let absent = words.iter().filter(|word| !text.contains(word.as_str()));
    absent
        .map(|word| format!("{page}: says nothing of {word}, which {source} has"))
        .collect()
}

/// The words between `start` and the first byte that does not belong to one.
fn words_after<'t>(text: &'t str, start: &str, belongs: fn(char) -> bool) -> Vec<&'t str> {
    text.match_indices(start)
        .map(|(at, _)| {
            let rest = &text[at + start.len()..];
            &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())]
        })
        .filter(|word| !word.is_empty())
        .collect()
}

fn magic_words(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let words = words_after(code, "= *b\"", |c| c.is_ascii_alphanumeric());
    words.into_iter().map(str::to_owned).collect()
}

/// Fields of the section struct.
fn setting_names(source: &str) -> Vec<String> {
    let section = source.split("struct Section {").nth(1).unwrap_or_default();
    let fields = section.split('}').next().unwrap_or_default().lines();
    fields
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, _)| format!("`{name}`"))
        .collect()
}

/// Environment variables that programs read; those of tests apart.
fn variables(workspace: &Workspace) -> BTreeSet<String> {
    let sources = workspace
        .rust("")
        .filter(|file| !file.path.starts_with("xtask/"));
    sources
        .flat_map(|file| {
            words_after(&file.text, "\"AFTERIMAGE_", |c| {
                c.is_ascii_uppercase() || c == '_'
            })
        })
        .filter(|rest| !rest.starts_with("TEST_"))
        .map(|rest| format!("AFTERIMAGE_{rest}"))
        .collect()
}

/// Long options in clap's attributes.
fn options(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in source.split("#[arg(").skip(1) {
        let Some((attribute, rest)) = part.split_once(")]") else {
            continue;
        };
        if let Some((_, named)) = attribute.split_once("long = \"") {
            found.extend(named.split('"').next().map(|name| format!("--{name}")));
        } else if attribute.split(',').any(|word| word.trim() == "long") {
            let field = rest.trim_start().trim_start_matches("pub(crate) ");
            found.extend(
                field
                    .split(':')
                    .next()
                    .map(|name| format!("--{}", name.replace('_', "-"))),
            );
        }
    }
    found
}

/// Relative links in Markdown that lead nowhere.
fn dead_links(workspace: &Workspace) -> Vec<String> {
    let root = crate::workspace::root();
    let mut findings = Vec::new();
    for file in workspace
        .files
        .iter()
        .filter(|file| file.path.ends_with(".md"))
    {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for target in words_after(&file.text, "](", |c| !matches!(c, ')' | '#' | ' ')) {
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !root.join(folder).join(target).exists() {
                findings.push(format!(
                    "{}: link to {target}, which is not there",
                    file.path
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::TextFile;

    fn workspace(files: &[(&str, &str)]) -> Workspace {
        let files = files.iter().map(|(path, text)| TextFile {
            path: (*path).into(),
            text: (*text).into(),
        });
        Workspace {
            files: files.collect(),
            ..Workspace::default()
        }
    }

    #[test]
    fn a_word_that_its_page_lacks_and_a_page_that_is_not_there_are_found() {
        let w = workspace(&[("p.md", "has AFTRWORD only")]);
        let words =
            magic_words("const A: [u8; 8] = *b\"AFTRWORD\";\nconst B: [u8; 4] = *b\"LOG\\n\";");
        assert_eq!(words, ["AFTRWORD", "LOG"]);
        assert_eq!(missing(&w, "p.md", "s.rs", &words).len(), 1);
        assert_eq!(missing(&w, "q.md", "s.rs", &words).len(), 1);
    }

    #[test]
    fn settings_options_and_variables_are_read_from_the_sources() {
        assert_eq!(
            setting_names("struct Section {\n    #[serde(default)]\n    a_b: u8,\n}"),
            ["`a_b`"]
        );
        let source = "#[arg(long, value_name = \"N\")]\n    max_areas: usize,\n#[arg(long = \"area\")]\n areas: X,\n#[arg(value_name = \"Y\")]\n place: Y,";
        assert_eq!(options(source), ["--max-areas", "--area"]);
        let w = workspace(&[(
            "a.rs",
            "var(\"AFTERIMAGE_LEVEL\"); var(\"AFTERIMAGE_TEST_X\")",
        )]);
        assert_eq!(Vec::from_iter(variables(&w)), ["AFTERIMAGE_LEVEL"]);
    }

    #[test]
    fn a_dead_link_is_found() {
        let text = "[a](Cargo.toml) [b](https://x.org) [c](no/such.md) [d](#here)";
        assert_eq!(dead_links(&workspace(&[("README.md", text)])).len(), 1);
    }

    #[test]
    fn every_source_that_is_looked_at_has_words() {
        let w = Workspace::read(&crate::workspace::root()).unwrap();
        for (source, _) in MAGIC_WORDS {
            assert!(!magic_words(w.text(source).unwrap()).is_empty(), "{source}");
        }
        assert!(setting_names(w.text(CONFIG_SOURCE).unwrap()).len() > 3);
        assert!(w.rust(CLI_SOURCES).flat_map(|f| options(&f.text)).count() > 10);
        assert!(variables(&w).len() > 3);
    }
}
