//! Inline commands: a line of words, for people with `nc` and for probes.

use std::ops::Range;

/// A quote has no partner, or a closing quote has a character right behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnbalancedQuotes;

/// Splits `line` into words at white space and reports where each one is.
///
/// `"..."` may hold `\n`, `\r`, `\t`, `\b`, `\a`, `\xHH` and any other character
/// after a backslash; `'...'` only `\'`. What stands for something else is
/// replaced in place: the meaning is never longer than its spelling.
pub(crate) fn split(
    line: &mut [u8],
    mut word: impl FnMut(Range<usize>),
) -> Result<(), UnbalancedQuotes> {
    let mut read = 0;
    loop {
        while line.get(read).is_some_and(u8::is_ascii_whitespace) {
            read += 1;
        }
        if read == line.len() {
            return Ok(());
        }
        let start = read;
        let mut write = start;
        while let Some(&byte) = line.get(read) {
            match byte {
                b'"' | b'\'' => quoted(line, byte, &mut read, &mut write)?,
                _ if byte.is_ascii_whitespace() => break,
                _ => {
                    line[write] = byte;
                    write += 1;
                    read += 1;
                }
            }
        }
        word(start..write);
    }
}

fn quoted(
    line: &mut [u8],
    quote: u8,
    read: &mut usize,
    write: &mut usize,
) -> Result<(), UnbalancedQuotes> {
    *read += 1;
    loop {
        let (byte, len) = match (line.get(*read..).unwrap_or_default(), quote) {
            ([], _) => return Err(UnbalancedQuotes),
            ([b, ..], _) if *b == quote => {
                *read += 1;
                return match line.get(*read) {
                    Some(next) if !next.is_ascii_whitespace() => Err(UnbalancedQuotes),
                    _ => Ok(()),
                };
            }
            ([b'\\', b'\'', ..], b'\'') => (b'\'', 2),
            ([b'\\', b'x', high, low, ..], b'"')
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), 4)
            }
            ([b'\\', b, ..], b'"') => (escaped(*b), 2),
            ([b, ..], _) => (*b, 1),
        };
        *read += len;
        line[*write] = byte;
        *write += 1;
    }
}

fn escaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
        let mut line = line.to_vec();
        let mut ranges = Vec::new();
        split(&mut line, |range| ranges.push(range))?;
        Ok(ranges.into_iter().map(|r| line[r].to_vec()).collect())
    }

    #[test]
    fn words_are_separated_by_any_white_space() {
        assert_eq!(
            words(b"  SET\tk   v ").unwrap(),
            [b"SET".to_vec(), b"k".to_vec(), b"v".to_vec()]
        );
        assert!(words(b" \t ").unwrap().is_empty());
    }

    #[test]
    fn quotes_hold_spaces_and_escapes() {
        assert_eq!(
            words(br#"ECHO "a b\n\x41\"" 'it\'s' """#).unwrap(),
            [
                b"ECHO".to_vec(),
                b"a b\nA\"".to_vec(),
                b"it's".to_vec(),
                Vec::new()
            ]
        );
    }

    #[test]
    fn a_quote_without_partner_is_refused() {
        for bad in [&b"\"abc"[..], b"'abc", b"\"a\"b", b"\"abc\\\""] {
            assert_eq!(words(bad), Err(UnbalancedQuotes), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(words) = words(&line) {
                prop_assert!(words.iter().map(Vec::len).sum::<usize>() <= line.len());
            }
        }

        #[test]
        fn any_bytes_spelled_in_hex_come_back(arg in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut line = b"X \"".to_vec();
            for byte in &arg {
                line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
            line.push(b'"');
            prop_assert_eq!(words(&line).unwrap(), vec![b"X".to_vec(), arg]);
        }
    }
}
