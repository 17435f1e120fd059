//! Text that stands for bytes, and what of it may be anything.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Stands for anything up to the end of a line.
const ANYTHING: &str = "{*}";
/// Before the name of what is anything at first and the same from then on.
const NAMED: &str = "{$";
const LINE_END: &str = "\\r\\n";

/// The bytes of a text; `None` if it has escapes that do not exist.
pub(super) fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let after = rest.split_at(character.len_utf8()).1;
        rest = match character {
            '\\' => escape(after, &mut bytes)?,
            '{' if let Some((count, part, after)) = repetition(after) => {
                bytes.extend(unescaped(part)?.repeat(count));
                after
            }
            other => {
                bytes.extend(other.to_string().into_bytes());
                after
            }
        };
    }
    Some(bytes)
}

/// Reads what follows a backslash; returns what follows that.
fn escape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let (escape, rest) = text.split_at_checked(1)?;
    let (byte, rest) = match escape {
        "n" => (b'\n', rest),
        "r" => (b'\r', rest),
        "t" => (b'\t', rest),
        "\\" => (b'\\', rest),
        "x" => {
            let (digits, rest) = rest.split_at_checked(2)?;
            (u8::from_str_radix(digits, 16).ok()?, rest)
        }
        _ => return None,
    };
    bytes.push(byte);
    Some(rest)
}

/// Reads `3*ab}`: how often what, and what follows.
fn repetition(text: &str) -> Option<(usize, &str, &str)> {
    let (count, rest) = text.split_once('*')?;
    let (part, rest) = rest.split_once('}')?;
    Some((count.parse().ok()?, part, rest))
}

/// The text that stands for these bytes.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                '\0'..' ' | '\x7f' => {
                    let _ = write!(text, "\\x{:02x}", u32::from(character));
                }
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// How much of what was received is as expected.
pub(super) enum Match {
    /// So many bytes.
    Whole(usize),
    /// As far as there are bytes.
    Part,
    None,
}

pub(super) fn matched(expected: &str, input: &[u8]) -> Match {
    let mut at = 0;
    let mut parts = expected.split(ANYTHING).peekable();
    while let Some(part) = parts.next() {
        let Some(part) = unescaped(part) else {
            return Match::None;
        };
        let rest = &input[at..];
        if rest.len() < part.len() {
            return if part.starts_with(rest) {
                Match::Part
            } else {
                Match::None
            };
        }
        if !rest.starts_with(&part) {
            return Match::None;
        }
        at += part.len();
        if parts.peek().is_some() {
            let Some(end) = input[at..]
                .iter()
                .position(|byte| matches!(byte, b'\r' | b'\n'))
            else {
                return Match::Part;
            };
            at += end;
        }
    }
    Match::Whole(at)
}

fn is_matched(expected: &str, received: &[u8]) -> bool {
    matches!(matched(expected, received), Match::Whole(length) if length == received.len())
}

/// Compares a request with its fields in any order; learns what the names stand for.
pub(super) fn compare_request(
    expected: &str,
    received: &[u8],
    names: &mut HashMap<String, String>,
) -> Result<(), String> {
    let found = escaped(received);
    let expected = named(expected, names);
    let (wanted_head, wanted_body) = parts(&expected);
    let (found_head, _) = parts(&found);
    let body = unescaped(found_head).map_or(0, |head| head.len());
    let (mut wanted, mut lines) = (lines(wanted_head), lines(found_head));
    wanted.sort_unstable();
    lines.sort_unstable();
    let is_equal = wanted.len() == lines.len()
        && wanted.iter().zip(&lines).all(|(wanted, line)| {
            let line = unescaped(line).unwrap_or_default();
            is_matched(&unnamed(wanted), &line)
        })
        && is_matched(wanted_body, received.get(body..).unwrap_or_default());
    if !is_equal {
        return Err(difference(&expected, received));
    }
    let learned = wanted.iter().zip(&lines);
    names.extend(learned.filter_map(|(wanted, line)| learn(wanted, line)));
    Ok(())
}

/// Head and body.
fn parts(text: &str) -> (&str, &str) {
    let end = text.find("\\r\\n\\r\\n");
    text.split_at(end.map_or(text.len(), |end| end + 2 * LINE_END.len()))
}

/// With what is known in place of names.
fn named(text: &str, names: &HashMap<String, String>) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{NAMED}{name}}}"), value)
    })
}

/// With anything in place of a name.
fn unnamed(line: &str) -> String {
    let part = line.split_once(NAMED).and_then(|(before, rest)| {
        let (_, after) = rest.split_once('}')?;
        Some(format!("{before}{ANYTHING}{after}"))
    });
    part.unwrap_or_else(|| line.to_owned())
}

/// The name in a line, and what it stands for.
fn learn(wanted: &str, line: &str) -> Option<(String, String)> {
    let (before, rest) = wanted.split_once(NAMED)?;
    let (name, after) = rest.split_once('}')?;
    let value = line.strip_prefix(before)?.strip_suffix(after)?;
    Some((name.to_owned(), value.to_owned()))
}

/// The lines of an escaped text, each with its end.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive(LINE_END).collect()
}

/// What was expected and what came.
pub(super) fn difference(expected: &str, received: &[u8]) -> String {
    let mut text = String::from("expected\n");
    for line in lines(expected) {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str("received\n");
    for line in lines(&escaped(received)) {
        let _ = writeln!(text, "    {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], text: &str) {
        assert_eq!(escaped(bytes), text);
        assert_eq!(unescaped(text).as_deref(), Some(bytes));
    }

    #[test]
    fn all_bytes_can_be_written() {
        check(b"a\r\n\t\\ \x00\x1f\x7f", "a\\r\\n\\t\\\\ \\x00\\x1f\\x7f");
        check(b"\xff\xc3\xa4\xc3", "\\xff\u{e4}\\xc3");
        check(b"{\"a\": {}}", "{\"a\": {}}");
    }

    #[test]
    fn repetitions_are_written_out() {
        let text = unescaped("a{3*b\\n}{2*\u{e4}}{*}{x*y}");
        let expected = "ab\nb\nb\n\u{e4}\u{e4}{*}{x*y}";
        assert_eq!(text.as_deref(), Some(expected.as_bytes()));
    }

    #[test]
    fn fields_may_come_in_any_order_but_not_the_body() {
        let check = |received: &[u8]| {
            let expected = "POST /\\r\\na: {*}\\r\\nb: {$id}\\r\\n\\r\\n1\\r\\n2\\r\\n";
            compare_request(expected, received, &mut HashMap::new()).is_ok()
        };
        assert!(check(b"POST /\r\na: x\r\nb: y\r\n\r\n1\r\n2\r\n"));
        assert!(check(b"POST /\r\nb: x\r\na: y\r\n\r\n1\r\n2\r\n"));
        assert!(!check(b"POST /\r\na: x\r\nb: y\r\n\r\n2\r\n1\r\n"));
        assert!(!check(b"POST /\r\na: x\r\nb: y\r\n\r\n1\r\n2\r\n3"));
        assert!(!check(b"POST /\r\na: x\r\n\r\n1\r\n2\r\n"));
    }

    #[test]
    fn a_name_stands_for_the_same_text_each_time() {
        let mut names = HashMap::new();
        let mut check = |received: &[u8]| {
            let expected = "POST /\\r\\nid: {$id}\\r\\n\\r\\n";
            compare_request(expected, received, &mut names).is_ok()
        };
        assert!(check(b"POST /\r\nid: 1\r\n\r\n"));
        assert!(!check(b"POST /\r\nid: 2\r\n\r\n"));
        assert!(check(b"POST /\r\nid: 1\r\n\r\n"));
    }
}
