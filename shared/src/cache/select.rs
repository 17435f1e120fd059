//! What of a stored answer a request gets: all of it, a part, or the word that it has not changed.

use std::ops::Range;

use http::header::{
    CONTENT_LOCATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderValue, StatusCode};

use super::directives::http_date;
use super::entry::Entry;
use crate::instruct;

/// What of a stored answer a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    Whole,
    /// `304`: the client has it; RFC 9110 §13.1.2, §13.1.3.
    NotModified,
    /// `206`: these bytes; RFC 9110 §14.
    Part(Range<u64>),
    /// `416`: the range begins behind the end.
    Unsatisfiable,
}

/// Says what of a stored answer with a body of `length` bytes a GET or HEAD gets.
///
/// An answer that holds, or is no `200`, is always given whole: conditions and ranges are about a
/// representation, and an instruction is none.
pub fn select(request: &HeaderMap, entry: &Entry, length: u64) -> Selection {
    if entry.status != StatusCode::OK || instruct::may_hold(&entry.headers) {
        return Selection::Whole;
    }
    let stored = &entry.headers;
    let is_unmodified = if request.contains_key(IF_NONE_MATCH) {
        names_stored(request, stored)
    } else {
        is_unmodified_since(request, stored)
    };
    if is_unmodified {
        return Selection::NotModified;
    }
    if !request.contains_key(RANGE) || !is_range_good(request, stored) {
        return Selection::Whole;
    }
    range(request, length)
}

impl Selection {
    /// Status and headers of what was selected.
    pub fn head(&self, entry: &Entry, length: u64) -> (StatusCode, HeaderMap) {
        let mut headers = entry.headers.clone();
        match self {
            Self::Whole => (entry.status, headers),
            Self::NotModified => {
                // What describes a body that is not there stays away; RFC 9110 §15.4.5.
                crate::fields::retain(&mut headers, |name| !describes_body(name));
                (StatusCode::NOT_MODIFIED, headers)
            }
            Self::Part(range) => {
                let last = range.end.saturating_sub(1);
                insert_range(
                    &mut headers,
                    &format!("bytes {}-{last}/{length}", range.start),
                );
                (StatusCode::PARTIAL_CONTENT, headers)
            }
            Self::Unsatisfiable => {
                insert_range(&mut headers, &format!("bytes */{length}"));
                (StatusCode::RANGE_NOT_SATISFIABLE, headers)
            }
        }
    }

    /// The bytes of the body that go with it.
    pub fn body(&self, length: u64) -> Range<u64> {
        match self {
            Self::Whole => 0..length,
            Self::Part(range) => range.clone(),
            Self::NotModified | Self::Unsatisfiable => 0..0,
        }
    }
}

fn insert_range(headers: &mut HeaderMap, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(CONTENT_RANGE, value);
    }
}

fn describes_body(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-") && *name != CONTENT_LOCATION
}

/// Whether `If-None-Match` names the stored answer, by weak comparison; RFC 9110 §13.1.2.
fn names_stored(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(etag) = stored.get(ETAG).map(|etag| opaque(etag.as_bytes())) else {
        // Any answer matches a star.
        return tags(request).any(|tag| tag == b"*");
    };
    tags(request).any(|tag| tag == b"*" || opaque(tag) == etag)
}

/// The entity tags in `If-None-Match`. A comma within a tag cuts it, and then it matches nothing.
fn tags(request: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    request
        .get_all(IF_NONE_MATCH)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// A tag without its mark of weakness; RFC 9110 §8.8.3.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.trim_ascii().strip_prefix(b"W/").unwrap_or(tag)
}

fn is_unmodified_since(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let date = |headers: &HeaderMap, name: &HeaderName| {
        headers.get(name)?.to_str().ok().and_then(http_date)
    };
    match (
        date(request, &IF_MODIFIED_SINCE),
        date(stored, &LAST_MODIFIED),
    ) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// Whether a range is of the answer that the client has a part of; RFC 9110 §13.1.5.
fn is_range_good(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else {
        return true;
    };
    let condition = condition.as_bytes().trim_ascii();
    let is_tag = condition.starts_with(b"\"") || condition.starts_with(b"W/");
    let stated = stored.get(if is_tag { ETAG } else { LAST_MODIFIED });
    // Only a strong validator says that the bytes are the same.
    let is_strong = !condition.starts_with(b"W/");
    is_strong && stated.is_some_and(|stated| stated.as_bytes().trim_ascii() == condition)
}

/// One range of bytes; several, or what makes no sense, are not answered with parts, as
/// RFC 9110 §14.2 allows.
fn range(request: &HeaderMap, length: u64) -> Selection {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Selection::Whole;
    };
    let text = line.to_str().ok();
    let bounds = text.and_then(|text| text.trim().strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = bounds else {
        return Selection::Whole;
    };
    let (first, last) = (number(first), number(last));
    match (first, last) {
        (Bound::None, Bound::At(0)) => Selection::Unsatisfiable,
        (Bound::None, Bound::At(_)) if length == 0 => Selection::Unsatisfiable,
        (Bound::None, Bound::At(suffix)) => Selection::Part(length.saturating_sub(suffix)..length),
        (Bound::At(first), Bound::At(last)) if last < first => Selection::Whole,
        (Bound::At(first), _) if first >= length && last != Bound::Wrong => {
            Selection::Unsatisfiable
        }
        (Bound::At(first), Bound::None) => Selection::Part(first..length),
        (Bound::At(first), Bound::At(last)) => {
            Selection::Part(first..last.saturating_add(1).min(length))
        }
        _ => Selection::Whole,
    }
}

/// A position in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    None,
    At(u64),
    Wrong,
}

fn number(text: &str) -> Bound {
    let text = text.trim();
    if text.is_empty() {
        return Bound::None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Bound::Wrong;
    }
    // A position too far for this type is as good as the farthest.
    Bound::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixTime;
    use crate::cache::{EntryKind, headers_of};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const LENGTH: u64 = 10;
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn entry(lines: &[(&'static str, &'static str)]) -> Entry {
        Entry {
            headers: headers_of(lines),
            ..Entry::marker(EntryKind::Answer, UnixTime(0), 60)
        }
    }

    fn usual() -> Entry {
        entry(&[("etag", "\"a\""), ("last-modified", MODIFIED)])
    }

    #[track_caller]
    fn check(entry: &Entry, request: &[(&'static str, &'static str)], expected: &Selection) {
        let found = select(&headers_of(request), entry, LENGTH);
        assert_eq!(found, *expected, "{request:?}");
    }

    #[test]
    fn a_client_that_has_the_answer_is_told_so() {
        use Selection::{NotModified, Whole};
        let usual = usual();
        check(&usual, &[], &Whole);
        check(&usual, &[("if-none-match", "\"a\"")], &NotModified);
        check(&usual, &[("if-none-match", "\"b\", W/\"a\"")], &NotModified);
        check(
            &usual,
            &[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")],
            &NotModified,
        );
        check(&usual, &[("if-none-match", "*")], &NotModified);
        check(&usual, &[("if-none-match", "\"b\"")], &Whole);
        check(&usual, &[("if-none-match", "a")], &Whole);
        check(&usual, &[("if-modified-since", BEFORE)], &Whole);
        check(&usual, &[("if-modified-since", MODIFIED)], &NotModified);
        check(&usual, &[("if-modified-since", AFTER)], &NotModified);
        check(&usual, &[("if-modified-since", "yesterday")], &Whole);
        // The tag decides where there is one.
        let both = [("if-none-match", "\"b\""), ("if-modified-since", AFTER)];
        check(&usual, &both, &Whole);
        let weak = entry(&[("etag", "W/\"a\"")]);
        check(&weak, &[("if-none-match", "\"a\"")], &NotModified);
        check(&entry(&[]), &[("if-none-match", "\"a\"")], &Whole);
        check(&entry(&[]), &[("if-none-match", "*")], &NotModified);
    }

    #[test]
    fn an_instruction_is_always_given_whole() {
        for held in [("grip-hold", "stream"), ("grip-link", "</n>; rel=next")] {
            let held = entry(&[held, ("etag", "\"a\"")]);
            check(&held, &[("if-none-match", "\"a\"")], &Selection::Whole);
            check(&held, &[("range", "bytes=0-1")], &Selection::Whole);
        }
        let missing = Entry {
            status: StatusCode::NOT_FOUND,
            ..usual()
        };
        check(&missing, &[("if-none-match", "\"a\"")], &Selection::Whole);
        // A channel alone is there to be purged by.
        let channel = entry(&[("grip-channel", "a"), ("etag", "\"a\"")]);
        check(
            &channel,
            &[("if-none-match", "\"a\"")],
            &Selection::NotModified,
        );
    }

    #[test]
    fn one_range_is_a_part() {
        use Selection::{Part, Unsatisfiable, Whole};
        for (range, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-4", Part(2..5)),
            ("bytes=2-", Part(2..10)),
            ("bytes=2-99999999999999999999", Part(2..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-11", Part(0..10)),
            ("bytes=-0", Unsatisfiable),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-11", Unsatisfiable),
            ("bytes=4-2", Whole),
            ("bytes=0-1,3-4", Whole),
            ("bytes=a-b", Whole),
            ("bytes=10-x", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("lines=0-1", Whole),
        ] {
            check(&usual(), &[("range", range)], &expected);
        }
        let empty = select(&headers_of(&[("range", "bytes=-1")]), &usual(), 0);
        assert_eq!(empty, Unsatisfiable);
    }

    #[test]
    fn a_part_is_of_the_answer_that_the_client_has() {
        use Selection::{Part, Whole};
        let check_if = |condition: &'static str, expected: &Selection| {
            let request = [("range", "bytes=0-1"), ("if-range", condition)];
            check(&usual(), &request, expected);
        };
        check_if("\"a\"", &Part(0..2));
        check_if("\"b\"", &Whole);
        check_if("W/\"a\"", &Whole);
        check_if(MODIFIED, &Part(0..2));
        check_if(AFTER, &Whole);
    }

    #[test]
    fn heads_say_what_was_selected() {
        let entry = entry(&[
            ("etag", "\"a\""),
            ("content-type", "text/plain"),
            ("content-location", "/y"),
        ]);
        let head = |selection: &Selection| {
            let (status, headers) = selection.head(&entry, LENGTH);
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            let range = headers
                .get(CONTENT_RANGE)
                .map(|range| range.to_str().unwrap().to_owned());
            (status.as_u16(), names.join(" "), range)
        };
        let (status, names, _) = head(&Selection::NotModified);
        assert_eq!((status, names.as_str()), (304, "content-location etag"));
        let (status, _, range) = head(&Selection::Part(2..5));
        assert_eq!((status, range.as_deref()), (206, Some("bytes 2-4/10")));
        let (status, _, range) = head(&Selection::Unsatisfiable);
        assert_eq!((status, range.as_deref()), (416, Some("bytes */10")));
        assert_eq!(Selection::Whole.body(LENGTH), 0..10);
        assert_eq!(Selection::Part(2..5).body(LENGTH), 2..5);
        assert_eq!(Selection::NotModified.body(LENGTH), 0..0);
    }
}
