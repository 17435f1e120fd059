//! Asking the origin whether a stored answer is still good, and what its word makes of it.

use http::StatusCode;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, TRANSFER_ENCODING,
};

use super::entry::Entry;
use crate::fields::{self, GRIP_CHANNEL, GRIP_HOLD, GRIP_LAST, is_grip};

/// The conditions by which the origin may say that a stored answer has not changed; RFC 9111 §4.3.1.
/// None: it cannot be asked.
pub fn conditions(entry: &Entry) -> Option<Vec<(HeaderName, HeaderValue)>> {
    if !entry.kind.is_answer() || entry.status != StatusCode::OK {
        return None;
    }
    let pairs = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    let conditions: Vec<(HeaderName, HeaderValue)> = pairs
        .into_iter()
        .filter_map(|(stated, condition)| Some((condition, entry.headers.get(stated)?.clone())))
        .collect();
    (!conditions.is_empty()).then_some(conditions)
}

/// The headers of a stored answer, brought up to date by those of a 304; RFC 9111 §3.2.
///
/// GRIP headers are one instruction: if the 304 has any, they take the place of all. But an origin
/// that long-polls answers a condition that holds with a hold, which is an answer to that condition
/// and says nothing of what is stored here; then the stored ones stay.
pub fn updated(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    const OF_THE_BODY: [HeaderName; 4] = [
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        CONTENT_RANGE,
        TRANSFER_ENCODING,
    ];
    let mut new = not_modified.clone();
    fields::strip_hop_by_hop(&mut new);
    fields::retain(&mut new, |name| !OF_THE_BODY.contains(name));
    if is_of_another_hold(stored, &new) {
        fields::strip_grip(&mut new);
    }
    let has_grip = new.keys().any(is_grip);
    let mut updated = stored.clone();
    fields::retain(&mut updated, |name| {
        let is_replaced = new.contains_key(name) || (has_grip && is_grip(name));
        !is_replaced
    });
    for (name, value) in &new {
        updated.append(name.clone(), value.clone());
    }
    updated
}

fn is_of_another_hold(stored: &HeaderMap, new: &HeaderMap) -> bool {
    new.contains_key(GRIP_HOLD) && new.get(GRIP_HOLD) != stored.get(GRIP_HOLD)
}

/// Whether an answer to a client that said what it has shows a stored one to be old; GRIP
/// `Grip-Last`, and `prev-id` of `Grip-Channel`.
///
/// It is, if the origin names another id for one of its channels, or none to a client that had just
/// the stored one: then there is more than that.
pub fn is_outdated(stored: &HeaderMap, request: &HeaderMap, answer: &HeaderMap) -> bool {
    let (had, newer) = (
        ids(request, &GRIP_LAST, "last-id"),
        ids(answer, &GRIP_CHANNEL, "prev-id"),
    );
    let id_of = |ids: &[(String, String)], channel: &str| {
        let found = ids.iter().find(|(name, _)| name == channel);
        found.map(|(_, id)| id.clone())
    };
    ids(stored, &GRIP_CHANNEL, "prev-id")
        .into_iter()
        .any(|(channel, id)| match id_of(&newer, &channel) {
            Some(newer) => newer != id,
            None => id_of(&had, &channel) == Some(id),
        })
}

/// The channels in a field and the ids that a parameter gives them.
fn ids(headers: &HeaderMap, field: &HeaderName, parameter: &str) -> Vec<(String, String)> {
    let lines = headers.get_all(field).iter();
    let texts = lines.filter_map(|line| std::str::from_utf8(line.as_bytes()).ok());
    texts
        .flat_map(|line| line.split(','))
        .filter_map(|channel| {
            let mut parts = channel.split(';').map(str::trim);
            let name = parts.next()?;
            let id = parts.find_map(|part| {
                let (found, id) = part.split_once('=')?;
                (found.trim() == parameter).then(|| id.trim().trim_matches('"'))
            })?;
            Some((name.to_owned(), id.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixTime;
    use crate::cache::EntryKind;
    use crate::cache::headers_of;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    type Lines = &'static [(&'static str, &'static str)];

    fn entry(lines: Lines) -> Entry {
        Entry {
            headers: headers_of(lines),
            ..Entry::marker(EntryKind::Answer, UnixTime(0), 60)
        }
    }

    #[test]
    fn what_has_a_validator_can_be_asked_for() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let names = |entry: &Entry| {
            let conditions = conditions(entry).unwrap_or_default();
            let lines = conditions
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(names(&entry(&[])), [""; 0]);
        assert_eq!(
            names(&entry(&[("etag", "\"a\"")])),
            ["if-none-match: \"a\""]
        );
        let both = entry(&[
            ("etag", "W/\"a\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        let since = format!("if-modified-since: {date}");
        assert_eq!(names(&both), ["if-none-match: W/\"a\"", &since]);
        let marker = Entry {
            kind: EntryKind::PassMarker,
            ..both.clone()
        };
        assert_eq!(names(&marker), [""; 0]);
        let missing = Entry {
            status: StatusCode::NOT_FOUND,
            ..both
        };
        assert_eq!(names(&missing), [""; 0]);
    }

    #[track_caller]
    fn check_updated(stored: Lines, not_modified: Lines, expected: Lines) {
        let updated = updated(&headers_of(stored), &headers_of(not_modified));
        assert_eq!(updated, headers_of(expected), "{not_modified:?}");
    }

    #[test]
    fn headers_of_a_304_replace_the_stored_ones() {
        check_updated(
            &[("etag", "\"a\""), ("x-a", "1"), ("x-a", "2"), ("x-b", "3")],
            &[
                ("x-a", "4"),
                ("content-length", "0"),
                ("connection", "x-c"),
                ("x-c", "5"),
            ],
            &[("etag", "\"a\""), ("x-a", "4"), ("x-b", "3")],
        );
    }

    #[test]
    fn an_instruction_in_a_304_replaces_the_stored_one_as_a_whole() {
        check_updated(
            &[
                ("grip-hold", "stream"),
                ("grip-channel", "a; prev-id=1"),
                ("grip-timeout", "5"),
            ],
            &[("grip-hold", "stream"), ("grip-channel", "a; prev-id=2")],
            &[("grip-hold", "stream"), ("grip-channel", "a; prev-id=2")],
        );
        check_updated(
            &[("grip-hold", "stream"), ("grip-channel", "a")],
            &[("cache-control", "max-age=5")],
            &[
                ("grip-hold", "stream"),
                ("grip-channel", "a"),
                ("cache-control", "max-age=5"),
            ],
        );
        check_updated(
            &[("grip-channel", "a")],
            &[("grip-channel", "b")],
            &[("grip-channel", "b")],
        );
    }

    #[test]
    fn a_hold_for_the_condition_is_not_one_for_the_answer() {
        check_updated(
            &[("etag", "\"a\""), ("grip-channel", "a")],
            &[
                ("grip-hold", "response"),
                ("grip-channel", "b"),
                ("cache-control", "max-age=5"),
            ],
            &[
                ("etag", "\"a\""),
                ("grip-channel", "a"),
                ("cache-control", "max-age=5"),
            ],
        );
        check_updated(
            &[("grip-hold", "stream"), ("grip-channel", "a")],
            &[("grip-hold", "response"), ("grip-channel", "b")],
            &[("grip-hold", "stream"), ("grip-channel", "a")],
        );
    }

    #[track_caller]
    fn check_outdated(stored: Lines, last: Lines, answer: Lines, expected: bool) {
        let found = is_outdated(&headers_of(stored), &headers_of(last), &headers_of(answer));
        assert_eq!(found, expected, "{stored:?} {last:?} {answer:?}");
    }

    #[test]
    fn an_answer_to_who_has_something_shows_what_is_old() {
        let stored: Lines = &[("grip-channel", "a; prev-id=1")];
        let last: Lines = &[("grip-last", "a; last-id=1")];
        check_outdated(stored, last, &[("grip-channel", "a; prev-id=2")], true);
        check_outdated(stored, last, &[("grip-channel", "a; prev-id=1")], false);
        check_outdated(stored, last, &[("grip-channel", "x, a; prev-id=2")], true);
        // It was answered with what comes after.
        check_outdated(stored, last, &[], true);
        check_outdated(stored, &[("grip-last", "a; last-id=0")], &[], false);
        check_outdated(stored, &[("grip-last", "b; last-id=1")], &[], false);
        check_outdated(&[("grip-channel", "a")], last, &[], false);
        check_outdated(&[], last, &[("grip-channel", "a; prev-id=2")], false);
    }
}
