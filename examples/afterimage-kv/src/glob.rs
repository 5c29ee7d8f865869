//! Patterns of `KEYS`, `SCAN MATCH` and `CONFIG GET`.

/// Whether `text` matches `pattern`: `*` any bytes, `?` one byte, `[a-c]` and
/// `[^a-c]` one of some, `\` takes the next byte as it is.
///
/// Goes back to the last `*` only, so the time is at most the product of both
/// lengths whatever a client sends.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match one(pattern.get(p..).unwrap_or_default(), text[t]) {
            Step::Star => {
                star = Some((p + 1, t));
                p += 1;
            }
            Step::Match(len) => {
                p += len;
                t += 1;
            }
            Step::No => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|&b| b == b'*')
}

enum Step {
    /// The pattern goes on with a star.
    Star,
    /// The byte matches the pattern's next so many bytes.
    Match(usize),
    No,
}

fn one(pattern: &[u8], byte: u8) -> Step {
    let (matched, len) = match pattern {
        [] => return Step::No,
        [b'*', ..] => return Step::Star,
        [b'?', ..] => (true, 1),
        [b'[', rest @ ..] => {
            let (matched, len) = class(rest, byte);
            (matched, len + 1)
        }
        [b'\\', literal, ..] => (*literal == byte, 2),
        [literal, ..] => (*literal == byte, 1),
    };
    if matched { Step::Match(len) } else { Step::No }
}

/// What follows `[`: whether `byte` is in it, and how long it is. Without a
/// closing bracket it goes to the pattern's end.
fn class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let negated = pattern.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match pattern.get(at..).unwrap_or_default() {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= *literal == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_redis_says() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "anything"),
            ("h?llo", "hello"),
            ("h*llo", "heeeello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("a\\*b", "a*b"),
            ("*a*b*c", "xxaxxbxxbxc"),
            ("[\\]]", "]"),
        ] {
            assert!(
                matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("h[^e]llo", "hello"),
            ("h[a-c]llo", "hdllo"),
            ("a\\*b", "axb"),
            ("*a*b*c", "xxaxxbxxbx"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_exponential_time() {
        let pattern = b"*a".repeat(200);
        assert!(!matches(&pattern, &[b'a'; 150]));
    }

    proptest! {
        #[test]
        fn arbitrary_patterns_never_panic(
            pattern in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'['), Just(b'\\'), Just(b'*'), Just(b'-')], 0..30),
            text in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let _ = matches(&pattern, &text);
        }
    }
}
