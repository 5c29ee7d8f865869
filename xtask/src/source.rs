//! Rust source without what is only said in it: comments and literals.

/// The code of a Rust file: comments become spaces, bytes of literals become
/// quotes; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let previous = out.chars().next_back().unwrap_or(' ');
        let (len, fill) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), Some(' '))
        } else if rest.starts_with("/*") {
            (block_comment(rest), Some(' '))
        } else if let Some(len) = raw_string(rest).filter(|_| !is_word(previous)) {
            (len, Some('"'))
        } else if first == '"' {
            (quoted(rest, '"'), Some('"'))
        } else if let Some(len) = character(rest) {
            (len, Some('"'))
        } else {
            (first.len_utf8(), None)
        };
        let (taken, later) = rest.split_at(len);
        match fill {
            None => out.push_str(taken),
            Some(fill) => out.extend(
                taken
                    .chars()
                    .map(|c| if c.is_whitespace() { c } else { fill }),
            ),
        }
        rest = later;
    }
    out
}

/// Lines on which a word stands in code, from 1.
pub(crate) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    (1..)
        .zip(code.lines())
        .filter(|(_, line)| has_word(line, word))
        .map(|(number, _)| number)
        .collect()
}

/// Whether a word, such as `unsafe` or `std::fs`, stands in a line by itself.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of `r"..."`, `r#"..."#`, with or without a `b` or `c` before it.
fn raw_string(text: &str) -> Option<usize> {
    let inner = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let inner = inner.strip_prefix('r')?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    let body = inner[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(
        body.find(&end)
            .map_or(text.len(), |at| start + at + end.len()),
    )
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a character literal; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let mut chars = inner.chars();
    match chars.next()? {
        '\\' => Some(quoted(text, '\'')),
        c => (chars.next()? == '\'').then(|| c.len_utf8() + 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_unsafe(text: &str) -> bool {
        !lines_with_word(&code(text), "unsafe").is_empty()
    }

    #[test]
    fn what_is_only_said_is_not_code() {
        for text in [
            "// unsafe",
            "/* /* unsafe */ unsafe */",
            "let a = \"unsafe \\\" unsafe\";",
            "let a = r#\"unsafe \" unsafe\"#;",
            "let a = br\"unsafe\";",
            "#![forbid(unsafe_code)]",
        ] {
            assert!(!has_unsafe(text), "{text}: {}", code(text));
        }
    }

    #[test]
    fn what_is_code_is_found_behind_anything() {
        for text in [
            "unsafe { x() }",
            "// no\nunsafe impl A for B {}",
            "/* */unsafe fn a() {}",
            "let a = '\"'; unsafe { b(a) }",
            "let a = '\\''; unsafe { b(a) }",
            "fn f<'a>(x: &'a str) { unsafe { g(x) } }",
            "let a = \"\\\\\"; unsafe { b(a) }",
        ] {
            assert!(has_unsafe(text), "{text}: {}", code(text));
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\n c */\n\"d\n e\"\nunsafe";
        assert_eq!(code(text).lines().count(), text.lines().count());
        assert_eq!(lines_with_word(&code(text), "unsafe"), [6]);
    }
}
