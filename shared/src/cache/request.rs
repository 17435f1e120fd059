//! What a request wants of the edge, and what of it goes on to the origin.

use http::Method;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONNECTION, EXPECT, FORWARDED, HeaderMap,
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PRAGMA,
    RANGE, UPGRADE,
};

use super::directives::Directives;
use super::keys::{self, MAX_CACHE_KEY};
use super::{LastEventId, Policy};
use crate::fields::{self, GRIP_LAST, GRIPLINE_HOST, GRIPLINE_SIG};
use crate::websocket::event;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FASTLY_KEY: HeaderName = HeaderName::from_static("fastly-key");
/// `Gripline-Hops`: how many edges a request has passed; ours.
pub const GRIPLINE_HOPS: HeaderName = HeaderName::from_static("gripline-hops");
/// Edges that one request may pass. Two are usual where an edge holds through a hub that asks it again.
const MAX_HOPS: u8 = 3;
/// The path under which the edge answers for itself; nothing of it goes to the origin.
const OWN_PATH: &str = "/.gripline";

/// What a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKind {
    /// Whether the edge runs; `GET /.gripline/health`.
    Health,
    /// That something is forgotten; `POST /.gripline/purge`.
    Purge,
    /// Anything else under the edge's own path.
    UnknownOwn,
    /// Events of a WebSocket, from the hub; never cached.
    WebSocketOverHttp,
    /// To become a WebSocket.
    WebSocketUpgrade,
    /// An answer from the origin, and from there only.
    Pass(PassReason),
    /// An answer that may be stored.
    Lookup(Lookup),
}

/// Why a request is not answered from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassReason {
    /// Neither GET nor HEAD.
    Method,
    /// A client that has missed something asks the origin for it; GRIP `Grip-Last`.
    GripLast,
    /// A condition that an answer from the cache would not honour.
    Condition,
    /// A reconnecting event stream.
    LastEventId,
    /// The client forbids it.
    NoStore,
    /// Host, path and validator are longer than a key may be.
    KeyTooLong,
}

impl PassReason {
    /// A word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::GripLast => "grip-last",
            Self::Condition => "condition",
            Self::LastEventId => "last-event-id",
            Self::NoStore => "no-store",
            Self::KeyTooLong => "key-too-long",
        }
    }
}

/// Where a stored answer is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The cache key, at most 4,096 bytes.
    pub key: Vec<u8>,
    /// The host as it stands in keys.
    pub host: String,
    /// Path and query as they stand in the key, and as the origin is asked for everybody.
    pub path_and_query: String,
    /// Whether the key holds a validator, so that a 304 may be stored under it.
    pub has_validator: bool,
    /// Whether an answer may be fetched for everybody, or only read.
    pub access: Access,
}

/// What a request may do with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and fill.
    Fill,
    /// Read what others filled: HEAD and parts of answers bring no whole answer.
    Read,
    /// Read what is for everybody although the client authenticates itself; RFC 9111 §3.5.
    ReadAuthorized,
}

impl Access {
    /// A word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Read => "read",
            Self::ReadAuthorized => "authorization",
        }
    }

    fn of(method: &Method, headers: &HeaderMap) -> Self {
        if headers.contains_key(AUTHORIZATION) {
            Self::ReadAuthorized
        } else if *method == Method::HEAD || headers.contains_key(RANGE) {
            Self::Read
        } else {
            Self::Fill
        }
    }
}

impl Lookup {
    /// The same without validator.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self {
            key: keys::cache_key(&self.host, &self.path_and_query, None),
            has_validator: false,
            ..self.clone()
        }
    }
}

/// Says what a request wants. `path` is without the query, `path_and_query` is as sent.
pub fn classify(
    method: &Method,
    host: &str,
    path: &str,
    path_and_query: &str,
    headers: &HeaderMap,
    policy: &Policy,
) -> RequestKind {
    if let Some(own) = path.strip_prefix(OWN_PATH) {
        match (method, own) {
            (&Method::GET | &Method::HEAD, "/health") => return RequestKind::Health,
            (_, "/purge") => return RequestKind::Purge,
            (_, "") => return RequestKind::UnknownOwn,
            _ if own.starts_with('/') => return RequestKind::UnknownOwn,
            // Another path that only begins like it.
            _ => {}
        }
    }
    if event::is_events(headers) {
        return RequestKind::WebSocketOverHttp;
    }
    if *method == Method::GET && is_websocket_upgrade(headers) {
        return RequestKind::WebSocketUpgrade;
    }
    if let Some(reason) = pass_reason(method, headers, policy) {
        return RequestKind::Pass(reason);
    }
    match lookup(method, host, path_and_query, headers, policy) {
        Some(lookup) => RequestKind::Lookup(lookup),
        None => RequestKind::Pass(PassReason::KeyTooLong),
    }
}

/// Where an answer to a GET or HEAD is looked for; none if host, path and validator are longer than
/// a key may be.
pub fn lookup(
    method: &Method,
    host: &str,
    path_and_query: &str,
    headers: &HeaderMap,
    policy: &Policy,
) -> Option<Lookup> {
    let host = keys::normal_host(host);
    let path_and_query = policy.query.apply(path_and_query);
    let if_none_match = headers.get(IF_NONE_MATCH);
    let key = keys::cache_key(
        &host,
        &path_and_query,
        if_none_match.map(http::HeaderValue::as_bytes),
    );
    // Room for the prefixes of backup copies and of what they are refreshed under.
    let fits = key.len() <= MAX_CACHE_KEY - 4;
    fits.then(|| Lookup {
        key,
        host,
        path_and_query,
        has_validator: if_none_match.is_some(),
        access: Access::of(method, headers),
    })
}

/// The value of [`GRIPLINE_HOPS`] to send on; absent: this request goes round in circles, because the
/// edge's origin leads back to the edge.
pub fn next_hop(headers: &HeaderMap) -> Option<u8> {
    let passed = match headers.get(GRIPLINE_HOPS) {
        None => 0,
        // Only edges write it; what is no number cannot be trusted to be small.
        Some(value) => value.to_str().ok()?.parse::<u8>().ok()?,
    };
    (passed < MAX_HOPS).then(|| passed + 1)
}

fn is_websocket_upgrade(headers: &HeaderMap) -> bool {
    let is_upgrade = fields::connection_names(headers).contains(&UPGRADE);
    let names_websocket = headers.get_all(UPGRADE).iter().any(|value| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"websocket")
    });
    is_upgrade && names_websocket
}

fn pass_reason(method: &Method, headers: &HeaderMap, policy: &Policy) -> Option<PassReason> {
    const CONDITIONS: [HeaderName; 2] = [IF_MATCH, IF_UNMODIFIED_SINCE];
    if !matches!(*method, Method::GET | Method::HEAD) {
        Some(PassReason::Method)
    } else if headers.contains_key(&GRIP_LAST) {
        Some(PassReason::GripLast)
    } else if CONDITIONS.iter().any(|name| headers.contains_key(name)) {
        Some(PassReason::Condition)
    } else if headers.contains_key(&LAST_EVENT_ID) && policy.last_event_id == LastEventId::Pass {
        Some(PassReason::LastEventId)
    } else if Directives::of(headers, &CACHE_CONTROL).has("no-store") {
        Some(PassReason::NoStore)
    } else {
        None
    }
}

/// The headers of a request that fetches an answer for everybody: the client's, without what asks
/// for another form of it, for a part of it, or speaks for this client's connection.
pub fn fill_headers(client: &HeaderMap, lookup: &Lookup) -> HeaderMap {
    const FOR_ONE_CLIENT: [HeaderName; 8] = [
        CACHE_CONTROL,
        PRAGMA,
        IF_MODIFIED_SINCE,
        IF_RANGE,
        RANGE,
        LAST_EVENT_ID,
        // Another host than the key's: links made of it would be everybody's.
        FORWARDED,
        X_FORWARDED_HOST,
    ];
    let mut headers = pass_headers(client);
    fields::strip_grip(&mut headers);
    for name in &FOR_ONE_CLIENT {
        headers.remove(name);
    }
    if !lookup.has_validator {
        headers.remove(IF_NONE_MATCH);
    }
    headers
}

/// The headers of a request that is passed on for one client, its `Grip-*` included: whether they
/// are to be believed is for the caller to say.
///
/// An encoded answer could neither be held nor shared, so none is asked for.
pub fn pass_headers(client: &HeaderMap) -> HeaderMap {
    let mut headers = client.clone();
    fields::strip_hop_by_hop(&mut headers);
    for name in [
        &ACCEPT_ENCODING,
        &EXPECT,
        &FASTLY_KEY,
        &CONNECTION,
        &GRIPLINE_HOST,
        &GRIPLINE_SIG,
    ] {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::headers_of;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn kind(method: &Method, path: &str, lines: &[(&'static str, &'static str)]) -> RequestKind {
        let bare = path.split('?').next().unwrap();
        classify(
            method,
            "Example.com",
            bare,
            path,
            &headers_of(lines),
            &Policy::default(),
        )
    }

    #[track_caller]
    fn check_pass(method: &Method, lines: &[(&'static str, &'static str)], reason: PassReason) {
        assert_eq!(
            kind(method, "/x", lines),
            RequestKind::Pass(reason),
            "{lines:?}"
        );
    }

    #[test]
    fn the_edges_own_path_never_reaches_the_origin() {
        let (get, post) = (&Method::GET, &Method::POST);
        assert_eq!(kind(get, "/.gripline/health", &[]), RequestKind::Health);
        assert_eq!(kind(post, "/.gripline/purge", &[]), RequestKind::Purge);
        assert_eq!(kind(get, "/.gripline/purge", &[]), RequestKind::Purge);
        assert_eq!(kind(get, "/.gripline/x", &[]), RequestKind::UnknownOwn);
        assert_eq!(kind(get, "/.gripline", &[]), RequestKind::UnknownOwn);
        assert!(matches!(
            kind(get, "/.griplines", &[]),
            RequestKind::Lookup(_)
        ));
    }

    #[test]
    fn websockets_are_told_apart() {
        let upgrade = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        assert_eq!(
            kind(&Method::GET, "/ws", &upgrade),
            RequestKind::WebSocketUpgrade
        );
        let events = [("content-type", "application/websocket-events")];
        assert_eq!(
            kind(&Method::POST, "/ws", &events),
            RequestKind::WebSocketOverHttp
        );
        assert!(matches!(
            kind(&Method::GET, "/ws", &[("upgrade", "websocket")]),
            RequestKind::Lookup(_)
        ));
    }

    #[test]
    fn what_is_for_one_client_is_passed() {
        let get = &Method::GET;
        check_pass(&Method::POST, &[], PassReason::Method);
        check_pass(&Method::OPTIONS, &[], PassReason::Method);
        check_pass(get, &[("grip-last", "a; last-id=1")], PassReason::GripLast);
        check_pass(get, &[("if-match", "\"1\"")], PassReason::Condition);
        check_pass(get, &[("last-event-id", "1")], PassReason::LastEventId);
        check_pass(get, &[("cache-control", "no-store")], PassReason::NoStore);
        let long = format!("/{}", "x".repeat(5000));
        assert_eq!(
            kind(get, &long, &[]),
            RequestKind::Pass(PassReason::KeyTooLong)
        );
    }

    #[test]
    fn what_brings_no_whole_answer_for_everybody_only_reads() {
        let access = |method: &Method, lines: &[(&'static str, &'static str)]| match kind(
            method, "/x", lines,
        ) {
            RequestKind::Lookup(lookup) => lookup.access,
            other => panic!("{other:?}"),
        };
        assert_eq!(access(&Method::GET, &[]), Access::Fill);
        assert_eq!(access(&Method::HEAD, &[]), Access::Read);
        assert_eq!(
            access(&Method::GET, &[("range", "bytes=0-1")]),
            Access::Read
        );
        let authorized = [("authorization", "x"), ("range", "bytes=0-1")];
        assert_eq!(access(&Method::GET, &authorized), Access::ReadAuthorized);
    }

    #[test]
    fn the_key_without_validator_is_that_of_a_request_without_one() {
        let lookup =
            |lines: &[(&'static str, &'static str)]| match kind(&Method::GET, "/x?a=1", lines) {
                RequestKind::Lookup(lookup) => lookup,
                other => panic!("{other:?}"),
            };
        let with_validator = lookup(&[("if-none-match", "\"1\"")]);
        assert_eq!(with_validator.plain(), lookup(&[]));
        assert_ne!(with_validator.key, lookup(&[]).key);
    }

    #[test]
    fn a_client_cannot_force_a_miss() {
        for value in ["no-cache", "max-age=0"] {
            assert!(matches!(
                kind(&Method::GET, "/x", &[("cache-control", value)]),
                RequestKind::Lookup(_)
            ));
        }
    }

    #[test]
    fn keys_follow_host_query_and_validator() {
        let key = |path: &str, lines: &[(&'static str, &'static str)]| match kind(
            &Method::GET,
            path,
            lines,
        ) {
            RequestKind::Lookup(lookup) => (lookup.key, lookup.has_validator),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            key("/x?a=1", &[]),
            (b"gl1\0example.com\0/x?a=1".to_vec(), false)
        );
        let (with_validator, has_validator) = key("/x", &[("if-none-match", "\"1\"")]);
        assert_eq!(with_validator, b"gl1\0example.com\0/x\0inm=\"1\"");
        assert!(has_validator);
        assert_eq!(key("/x", &[("cookie", "a=b")]), key("/x", &[]));
    }

    #[test]
    fn last_event_ids_may_be_ignored_by_configuration() {
        let policy = Policy {
            last_event_id: LastEventId::Ignore,
            ..Policy::default()
        };
        let headers = headers_of(&[("last-event-id", "1")]);
        let kind = classify(&Method::GET, "a", "/x", "/x", &headers, &policy);
        assert!(matches!(kind, RequestKind::Lookup(_)));
    }

    #[test]
    fn a_request_that_goes_round_in_circles_is_stopped() {
        assert_eq!(next_hop(&HeaderMap::new()), Some(1));
        for (value, expected) in [
            ("0", Some(1)),
            ("2", Some(3)),
            ("3", None),
            ("255", None),
            ("256", None),
            ("-1", None),
            ("x", None),
        ] {
            let headers = headers_of(&[("gripline-hops", value)]);
            assert_eq!(next_hop(&headers), expected, "{value}");
        }
    }

    #[test]
    fn a_fill_does_not_depend_on_who_asks() {
        let client = headers_of(&[
            ("accept", "text/event-stream"),
            ("accept-encoding", "br"),
            ("cookie", "a=b"),
            ("grip-sig", "forged"),
            ("grip-last", "a; last-id=1"),
            ("cache-control", "no-cache"),
            ("if-none-match", "\"1\""),
            ("if-modified-since", "x"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("fastly-key", "secret"),
            ("x-forwarded-host", "evil.example"),
        ]);
        let lookup = lookup(&Method::GET, "a", "/x", &client, &Policy::default()).unwrap();
        let names = |lookup: &Lookup| {
            let headers = fill_headers(&client, lookup);
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&lookup), ["accept", "cookie", "if-none-match"]);
        assert_eq!(names(&lookup.plain()), ["accept", "cookie"]);
    }
}
