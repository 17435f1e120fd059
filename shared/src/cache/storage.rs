//! Whether an answer is stored, for how long, and under which surrogate keys.

use http::StatusCode;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, EXPIRES, HeaderMap,
    HeaderName, SET_COOKIE, TRAILER, VARY,
};

use super::directives::{Directives, http_date};
use super::{Lookup, Policy, keys};
use crate::Limits;
use crate::UnixTime;
use crate::fields::GRIP_HOLD;
use crate::instruct::{self, Instruct};
use crate::websocket::event;

pub(super) const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
pub(super) const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// Bytes of one surrogate key, and of all of them together, that the platform accepts.
const MAX_SURROGATE_KEY: usize = 1024;
const MAX_SURROGATE_KEYS: usize = 16 * 1024;

/// How an answer is stored. Durations are in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// How long it is fresh.
    pub ttl: u64,
    /// How long after that it is served while a newer one is fetched.
    pub stale_while_revalidate: u64,
    /// How long after that it is served while the origin fails.
    pub stale_if_error: u64,
    /// How old it was when it came.
    pub initial_age: u64,
    /// The request headers that chose it.
    pub vary: Vec<HeaderName>,
    /// What it can be purged by.
    pub surrogate_keys: Vec<String>,
    /// The copy that ordinary purges leave alone, for when the origin fails.
    pub backup: Option<Backup>,
}

/// How a backup copy is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// How long it is kept, in seconds.
    pub ttl: u64,
    /// What it can be purged by.
    pub surrogate_keys: Vec<String>,
}

/// How the marker is stored that says that answers to a key are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marking {
    /// The request headers that chose the answer: another choice may well be stored.
    pub vary: Vec<HeaderName>,
    /// What the answer would have been purged by.
    pub surrogate_keys: Vec<String>,
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// Not one of the statuses that are stored.
    Status,
    /// It sets a cookie.
    SetCookie,
    /// The origin forbids it.
    Forbidden,
    /// The origin does not say how long it is good for.
    NoFreshness,
    /// It is good for no time at all.
    NoTime,
    /// It is part of an answer.
    Range,
    /// It has trailers, which the cache has not.
    Trailers,
    /// It was encoded although identity was asked for.
    Encoding,
    /// It varies by something that the policy does not allow.
    Vary,
    /// It is answer to WebSocket-over-HTTP events.
    WebSocketEvents,
    /// Its body is larger than [`Policy::max_body`].
    Size,
    /// Its surrogate keys are more than the platform accepts.
    SurrogateKeys,
    /// Its headers are more than fit into metadata.
    Headers,
    /// Its instructions cannot be followed.
    Instruct,
    /// Its instructions are in the body, where the channels to purge it by are not looked for.
    InstructBody,
    /// Its instructions tell one client from another.
    ForOneClient,
    /// It answers a client's validator with no hold: those who have that validator are served from
    /// the answer without one.
    NoHold,
}

impl NotStored {
    /// A word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::SetCookie => "set-cookie",
            Self::Forbidden => "forbidden",
            Self::NoFreshness => "no-freshness",
            Self::NoTime => "no-time",
            Self::Range => "content-range",
            Self::Trailers => "trailers",
            Self::Encoding => "content-encoding",
            Self::Vary => "vary",
            Self::WebSocketEvents => "websocket-events",
            Self::Size => "size",
            Self::SurrogateKeys => "surrogate-keys",
            Self::Headers => "headers",
            Self::Instruct => "instruct",
            Self::InstructBody => "instruct-body",
            Self::ForOneClient => "for-one-client",
            Self::NoHold => "no-hold",
        }
    }
}

/// Decides by status and headers, before the body is read. Stricter than RFC 9111: freshness must
/// be stated, because requests with cookies are answered from the cache too.
///
/// # Errors
/// Why the answer is not stored.
pub fn storage(
    status: StatusCode,
    headers: &HeaderMap,
    lookup: &Lookup,
    policy: &Policy,
    now: UnixTime,
) -> Result<Storage, NotStored> {
    if lookup.has_validator && !instruct::may_hold(headers) {
        return Err(NotStored::NoHold);
    }
    check_status(status, headers, lookup)?;
    check_headers(headers, policy)?;
    let freshness = freshness(status, headers, policy, now)?;
    let vary = vary(headers, policy)?;
    let instruct =
        Instruct::from_headers(headers, &Limits::default()).map_err(|_| NotStored::Instruct)?;
    // A link that reports one client's end, or a user's name, would be said of everybody.
    if instruct.gone_link.is_some() || instruct.meta.contains_key("user") {
        return Err(NotStored::ForOneClient);
    }
    let channels: Vec<&str> = instruct
        .channels
        .iter()
        .map(|channel| channel.name.as_str())
        .collect();
    let surrogate_keys = surrogate_keys(headers, &channels, &lookup.host)?;
    let backup = if freshness.stale_if_error > 0 {
        Some(backup(&freshness, &surrogate_keys, policy)?)
    } else {
        None
    };
    Ok(Storage {
        ttl: freshness.ttl,
        stale_while_revalidate: freshness.stale_while_revalidate,
        stale_if_error: freshness.stale_if_error,
        initial_age: freshness.initial_age,
        vary,
        surrogate_keys,
        backup,
    })
}

/// How to mark that this answer is not stored, whatever the reason.
pub fn marking(headers: &HeaderMap, lookup: &Lookup, policy: &Policy) -> Marking {
    let instruct = Instruct::from_headers(headers, &Limits::default());
    let channels = instruct.map_or_else(|_| Vec::new(), |instruct| instruct.channels);
    let channels: Vec<&str> = channels
        .iter()
        .map(|channel| channel.name.as_str())
        .collect();
    let few_keys = |_| {
        vec![
            keys::EVERYTHING_KEY.to_owned(),
            keys::host_key(&lookup.host),
        ]
    };
    Marking {
        // What varies by anything else is stored for nobody.
        vary: vary(headers, policy).unwrap_or_default(),
        surrogate_keys: surrogate_keys(headers, &channels, &lookup.host).unwrap_or_else(few_keys),
    }
}

fn check_status(status: StatusCode, headers: &HeaderMap, lookup: &Lookup) -> Result<(), NotStored> {
    let is_held_304 = status == StatusCode::NOT_MODIFIED
        && lookup.has_validator
        && headers.contains_key(&GRIP_HOLD);
    let is_stored = matches!(status.as_u16(), 200 | 203 | 301 | 308);
    if is_held_304 || is_stored || is_negative(status) {
        Ok(())
    } else {
        Err(NotStored::Status)
    }
}

/// Whether an answer says that there is nothing.
fn is_negative(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 405 | 410 | 414)
}

fn check_headers(headers: &HeaderMap, policy: &Policy) -> Result<(), NotStored> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let is_encoded = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if headers.contains_key(SET_COOKIE) {
        Err(NotStored::SetCookie)
    } else if headers.contains_key(CONTENT_RANGE) {
        Err(NotStored::Range)
    } else if headers.contains_key(TRAILER) {
        Err(NotStored::Trailers)
    } else if is_encoded {
        Err(NotStored::Encoding)
    } else if event::is_events(headers) {
        Err(NotStored::WebSocketEvents)
    } else if instruct::has_instruct_type(headers) {
        Err(NotStored::InstructBody)
    } else if length.is_some_and(|length| length > policy.max_body) {
        Err(NotStored::Size)
    } else {
        Ok(())
    }
}

struct Freshness {
    ttl: u64,
    stale_while_revalidate: u64,
    stale_if_error: u64,
    initial_age: u64,
}

/// The first that is stated: `Surrogate-Control: max-age`, `Cache-Control: s-maxage`, then
/// `max-age`, `Expires`, the policy's lifetimes of holds and of negative answers. RFC 9111 §4.2.1 and the edge-architecture
/// note for `Surrogate-Control`.
fn freshness(
    status: StatusCode,
    headers: &HeaderMap,
    policy: &Policy,
    now: UnixTime,
) -> Result<Freshness, NotStored> {
    let surrogate = Directives::of(headers, &SURROGATE_CONTROL);
    let shared = Directives::of(headers, &CACHE_CONTROL);
    let surrogate_ttl = surrogate.seconds("max-age");
    let forbids = |directives: &Directives| {
        ["private", "no-store", "no-cache"]
            .iter()
            .any(|name| directives.has(name))
    };
    // What is said to surrogates replaces what is said to everybody, a ban included.
    if forbids(&surrogate) || (surrogate_ttl.is_none() && forbids(&shared)) {
        return Err(NotStored::Forbidden);
    }
    let (ttl, winner) = if let Some(ttl) = surrogate_ttl {
        (ttl, &surrogate)
    } else {
        let ttl = shared
            .seconds("s-maxage")
            .or_else(|| shared.seconds("max-age"))
            .or_else(|| expires(headers, now))
            .or_else(|| policy.hold_ttl.filter(|_| headers.contains_key(&GRIP_HOLD)))
            .or_else(|| policy.negative_ttl.filter(|_| is_negative(status)));
        (ttl.ok_or(NotStored::NoFreshness)?, &shared)
    };
    let initial_age = age(headers);
    let ttl = ttl.min(policy.max_ttl);
    if ttl <= initial_age {
        return Err(NotStored::NoTime);
    }
    let may_be_stale = !winner.has("must-revalidate") && !winner.has("proxy-revalidate");
    let stale = |name: &str, default: u64| match (may_be_stale, winner.seconds(name)) {
        (false, _) => 0,
        (true, stated) => stated.unwrap_or(default).min(policy.max_ttl),
    };
    Ok(Freshness {
        ttl,
        stale_while_revalidate: stale("stale-while-revalidate", policy.stale_while_revalidate),
        stale_if_error: stale("stale-if-error", policy.stale_if_error),
        initial_age,
    })
}

/// `Expires` less `Date`; one that is no date means: expired. RFC 9111 §5.3.
fn expires(headers: &HeaderMap, now: UnixTime) -> Option<u64> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    let expires = headers.get(EXPIRES)?.to_str().ok().and_then(http_date);
    let date = text(&DATE).and_then(http_date).unwrap_or(now);
    Some(expires.map_or(0, |expires| expires.since(date)))
}

fn age(headers: &HeaderMap) -> u64 {
    headers
        .get(AGE)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .unwrap_or(0)
}

/// The names to vary by. `Accept-Encoding` needs none: identity is always asked for.
fn vary(headers: &HeaderMap, policy: &Policy) -> Result<Vec<HeaderName>, NotStored> {
    let mut names = Vec::new();
    for line in headers.get_all(VARY) {
        for name in line
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
        {
            if name.is_empty() || name.eq_ignore_ascii_case(b"accept-encoding") {
                continue;
            }
            let name = HeaderName::from_bytes(name).map_err(|_| NotStored::Vary)?;
            if !policy.vary.contains(&name) {
                return Err(NotStored::Vary);
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

fn surrogate_keys(
    headers: &HeaderMap,
    channels: &[&str],
    host: &str,
) -> Result<Vec<String>, NotStored> {
    let mut keys = vec![keys::EVERYTHING_KEY.to_owned(), keys::host_key(host)];
    keys.extend(channels.iter().map(|channel| keys::channel_key(channel)));
    let stated = headers
        .get_all(&SURROGATE_KEY)
        .iter()
        .flat_map(|line| line.as_bytes().split(u8::is_ascii_whitespace))
        .filter_map(|key| std::str::from_utf8(key).ok())
        .filter(|key| is_surrogate_key(key) && !key.starts_with(keys::RESERVED))
        .map(str::to_owned);
    keys.extend(stated);
    checked(keys)
}

fn checked(mut keys: Vec<String>) -> Result<Vec<String>, NotStored> {
    keys.sort_unstable();
    keys.dedup();
    if keys.iter().map(|key| key.len() + 1).sum::<usize>() > MAX_SURROGATE_KEYS {
        return Err(NotStored::SurrogateKeys);
    }
    Ok(keys)
}

/// Whether the platform accepts the key.
pub(super) fn is_surrogate_key(key: &str) -> bool {
    (1..=MAX_SURROGATE_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

fn backup(
    freshness: &Freshness,
    surrogate_keys: &[String],
    policy: &Policy,
) -> Result<Backup, NotStored> {
    let surrogate_keys = surrogate_keys.iter().map(|key| keys::backup_key(key));
    let ttl = freshness.ttl.saturating_add(freshness.stale_if_error);
    Ok(Backup {
        ttl: ttl.max(policy.backup_ttl),
        surrogate_keys: checked(surrogate_keys.collect())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Access;
    use http::HeaderValue;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: UnixTime = UnixTime(784_111_777);

    fn stored(status: u16, lines: &[(&'static str, &'static str)]) -> Result<Storage, NotStored> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let lookup = Lookup {
            key: Vec::new(),
            host: "example.com".to_owned(),
            has_validator: status == 304,
            path_and_query: "/x".to_owned(),
            access: Access::Fill,
        };
        let status = StatusCode::from_u16(status).unwrap();
        storage(status, &headers, &lookup, &Policy::default(), NOW)
    }

    #[track_caller]
    fn check_ttl(lines: &[(&'static str, &'static str)], expected: Result<u64, NotStored>) {
        assert_eq!(
            stored(200, lines).map(|storage| storage.ttl),
            expected,
            "{lines:?}"
        );
    }

    #[test]
    fn the_first_stated_freshness_wins() {
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        let date = ("date", "Sun, 06 Nov 1994 08:50:07 GMT");
        check_ttl(
            &[
                ("surrogate-control", "max-age=1"),
                ("cache-control", "s-maxage=2, max-age=3"),
                expires,
            ],
            Ok(1),
        );
        check_ttl(
            &[("cache-control", "max-age=3, s-maxage=2"), expires],
            Ok(2),
        );
        check_ttl(&[("cache-control", "max-age=3"), expires], Ok(3));
        check_ttl(&[expires], Ok(60));
        check_ttl(&[expires, date], Ok(30));
        check_ttl(&[("expires", "0")], Err(NotStored::NoTime));
        check_ttl(&[], Err(NotStored::NoFreshness));
        check_ttl(&[("cache-control", "public")], Err(NotStored::NoFreshness));
        check_ttl(&[("cache-control", "s-maxage=0")], Err(NotStored::NoTime));
        check_ttl(&[("cache-control", "max-age=999999999")], Ok(86_400));
    }

    #[test]
    fn a_ban_for_everybody_does_not_bind_surrogates() {
        for ban in ["private", "no-store", "no-cache, max-age=60"] {
            check_ttl(&[("cache-control", ban)], Err(NotStored::Forbidden));
            check_ttl(
                &[("cache-control", ban), ("surrogate-control", "max-age=60")],
                Ok(60),
            );
        }
        check_ttl(
            &[
                ("surrogate-control", "no-store, max-age=60"),
                ("cache-control", "max-age=60"),
            ],
            Err(NotStored::Forbidden),
        );
    }

    #[test]
    fn time_spent_in_other_caches_counts() {
        let storage = stored(200, &[("cache-control", "max-age=60"), ("age", "50")]).unwrap();
        assert_eq!((storage.ttl, storage.initial_age), (60, 50));
        check_ttl(
            &[("cache-control", "max-age=60"), ("age", "60")],
            Err(NotStored::NoTime),
        );
    }

    #[test]
    fn staleness_comes_from_the_header_that_won() {
        let stale = |lines: &[(&'static str, &'static str)]| {
            let storage = stored(200, lines).unwrap();
            (storage.stale_while_revalidate, storage.stale_if_error)
        };
        assert_eq!(stale(&[("cache-control", "max-age=1")]), (0, 3600));
        assert_eq!(
            stale(&[(
                "cache-control",
                "max-age=1, stale-while-revalidate=5, stale-if-error=0"
            )]),
            (5, 0)
        );
        assert_eq!(
            stale(&[
                ("surrogate-control", "max-age=1, stale-if-error=7"),
                ("cache-control", "max-age=1, stale-while-revalidate=5"),
            ]),
            (0, 7)
        );
        assert_eq!(
            stale(&[(
                "cache-control",
                "max-age=1, must-revalidate, stale-if-error=9"
            )]),
            (0, 0)
        );
    }

    #[test]
    fn a_backup_outlives_its_original_and_ordinary_purges() {
        let storage = stored(
            200,
            &[
                ("cache-control", "max-age=10, stale-if-error=5000"),
                ("grip-channel", "a, b"),
                ("surrogate-key", "mine"),
            ],
        )
        .unwrap();
        let backup = storage.backup.unwrap();
        assert_eq!(backup.ttl, 5010);
        assert_eq!(
            backup.surrogate_keys,
            [
                "gl-backup",
                "gl-backup-ch:a",
                "gl-backup-ch:b",
                "gl-backup-host:example.com",
                "gl-backup-key:mine"
            ]
        );
        assert!(
            !storage
                .surrogate_keys
                .iter()
                .any(|key| backup.surrogate_keys.contains(key))
        );
        let none = stored(200, &[("cache-control", "max-age=10, stale-if-error=0")]).unwrap();
        assert_eq!(none.backup, None);
    }

    #[test]
    fn what_is_not_there_is_kept_if_the_operator_says_so() {
        let policy = Policy {
            negative_ttl: Some(7),
            ..Policy::default()
        };
        let ttl = |status: u16, policy: &Policy| {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = HeaderMap::new();
            let stored = storage(status, &headers, &lookup_of_host_h(), policy, NOW);
            stored.map(|storage| storage.ttl)
        };
        for status in [404, 405, 410, 414] {
            assert_eq!(ttl(status, &policy), Ok(7), "{status}");
            let unsaid = ttl(status, &Policy::default());
            assert_eq!(unsaid, Err(NotStored::NoFreshness), "{status}");
        }
        assert_eq!(ttl(200, &policy), Err(NotStored::NoFreshness));
        assert_eq!(ttl(500, &policy), Err(NotStored::Status));
    }

    #[track_caller]
    fn check_refused(status: u16, line: (&'static str, &'static str), expected: NotStored) {
        let found = stored(status, &[("cache-control", "max-age=60"), line]);
        assert_eq!(found, Err(expected), "{status} {line:?}");
    }

    #[test]
    fn some_answers_are_never_stored() {
        let nothing = ("x-a", "1");
        for status in [201, 204, 206, 302, 400, 429, 500, 503] {
            check_refused(status, nothing, NotStored::Status);
        }
        check_refused(304, nothing, NotStored::NoHold);
        check_refused(200, ("set-cookie", "a=b"), NotStored::SetCookie);
        check_refused(200, ("content-range", "bytes 0-1/2"), NotStored::Range);
        check_refused(200, ("trailer", "x"), NotStored::Trailers);
        check_refused(200, ("content-encoding", "gzip"), NotStored::Encoding);
        check_refused(
            200,
            ("content-type", "application/websocket-events"),
            NotStored::WebSocketEvents,
        );
        check_refused(200, ("content-length", "1048577"), NotStored::Size);
        check_refused(200, ("vary", "*"), NotStored::Vary);
        check_refused(200, ("vary", "Accept, Cookie"), NotStored::Vary);
        check_refused(200, ("grip-hold", "x"), NotStored::Instruct);
        check_refused(
            200,
            ("content-type", "application/grip-instruct"),
            NotStored::InstructBody,
        );
        check_refused(
            200,
            ("grip-link", "</g>; rel=gone"),
            NotStored::ForOneClient,
        );
        check_refused(
            200,
            ("grip-set-meta", "user=\"alice\""),
            NotStored::ForOneClient,
        );
    }

    #[test]
    fn a_held_304_is_stored_under_its_validator() {
        let lines = [("cache-control", "max-age=60"), ("grip-hold", "response")];
        assert!(stored(304, &lines).is_ok());
    }

    #[test]
    fn an_answer_varies_only_by_what_is_allowed() {
        let storage = stored(
            200,
            &[
                ("cache-control", "max-age=60"),
                ("vary", "Accept, accept-encoding"),
                ("vary", "accept,"),
            ],
        )
        .unwrap();
        assert_eq!(storage.vary, ["accept"]);
    }

    #[test]
    fn keys_are_the_channels_the_hosts_and_the_origins() {
        let storage = stored(
            200,
            &[
                ("cache-control", "max-age=60"),
                ("grip-hold", "stream"),
                ("grip-channel", "updates; prev-id=1, b c"),
                ("surrogate-key", "one two gl-forged one"),
            ],
        )
        .unwrap();
        let expected = [
            "gl-all",
            "gl-ch:b%20c",
            "gl-ch:updates",
            "gl-host:example.com",
            "one",
            "two",
        ];
        assert_eq!(storage.surrogate_keys, expected);
    }

    fn lookup_of_host_h() -> Lookup {
        Lookup {
            key: Vec::new(),
            host: "h".to_owned(),
            has_validator: false,
            path_and_query: "/x".to_owned(),
            access: Access::Fill,
        }
    }

    #[test]
    fn a_marker_stands_for_one_variant_and_goes_with_its_channels() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cache-control", "no-store"),
            ("vary", "Accept"),
            ("grip-channel", "a"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let lookup = lookup_of_host_h();
        let marked = marking(&headers, &lookup, &Policy::default());
        assert_eq!(marked.vary, ["accept"]);
        assert_eq!(marked.surrogate_keys, ["gl-all", "gl-ch:a", "gl-host:h"]);
        headers.append("vary", HeaderValue::from_static("Cookie"));
        headers.append("grip-hold", HeaderValue::from_static("nonsense"));
        let marked = marking(&headers, &lookup, &Policy::default());
        assert!(marked.vary.is_empty());
        assert_eq!(marked.surrogate_keys, ["gl-all", "gl-host:h"]);
    }

    #[test]
    fn more_keys_than_the_platform_accepts_are_not_stored() {
        let key = "k".repeat(1000);
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
        for number in 0..17 {
            let key = HeaderValue::from_str(&format!("{key}{number}")).unwrap();
            headers.append("surrogate-key", key);
        }
        let lookup = lookup_of_host_h();
        let stored = storage(StatusCode::OK, &headers, &lookup, &Policy::default(), NOW);
        assert_eq!(stored, Err(NotStored::SurrogateKeys));
        let marked = marking(&headers, &lookup, &Policy::default());
        assert_eq!(marked.surrogate_keys, ["gl-all", "gl-host:h"]);
    }

    #[test]
    fn holds_may_have_a_lifetime_by_configuration() {
        let mut headers = HeaderMap::new();
        headers.insert("grip-hold", HeaderValue::from_static("stream"));
        let policy = Policy {
            hold_ttl: Some(30),
            ..Policy::default()
        };
        let lookup = Lookup {
            key: Vec::new(),
            host: String::new(),
            has_validator: false,
            path_and_query: "/x".to_owned(),
            access: Access::Fill,
        };
        let ttl = |headers: &HeaderMap| {
            storage(StatusCode::OK, headers, &lookup, &policy, NOW).map(|storage| storage.ttl)
        };
        assert_eq!(ttl(&headers), Ok(30));
        headers.remove("grip-hold");
        assert_eq!(ttl(&headers), Err(NotStored::NoFreshness));
    }
}
