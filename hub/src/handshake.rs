//! What a WebSocket's requests to its origin are made of, for as long as its client is there.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Uri};
use uuid::Uuid;

use crate::errand::{Behalf, Way};
use crate::routes::{Route, Security, Target};

/// A client's handshake, from which all later requests for it are made.
///
/// Idle WebSockets keep it, so what it has of its own is in one piece of memory, as short as it can
/// be: the id, the length of the path, the path, and for each field its name, the length of its
/// value and the value. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    route: Arc<Route>,
    packed: Arc<[u8]>,
    /// Where the target stands in the route.
    target: u32,
    security: Security,
    trust: Trust,
    offer: Offer,
    tells_errors: bool,
}

/// What a handshake is made of.
#[derive(Debug)]
pub(crate) struct Shake<'a> {
    pub(crate) route: Arc<Route>,
    /// As the origin knows it.
    pub(crate) path: &'a PathAndQuery,
    /// Prepared for the origin, but not signed.
    pub(crate) headers: &'a HeaderMap,
    /// Of the client's connection.
    pub(crate) security: Security,
    pub(crate) trust: Trust,
    pub(crate) offer: Offer,
    /// Whether the client is told what is wrong.
    pub(crate) tells_errors: bool,
}

/// Whether the client is another GRIP proxy, which acts on instructions by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Client,
    Proxy,
}

/// Which extensions the hub offers to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// GRIP.
    Grip,
    /// None.
    Nothing,
}

impl Handshake {
    /// Packs a handshake with the route's first target; makes up its id.
    pub(crate) fn new(shake: Shake<'_>) -> Self {
        Self {
            packed: pack(Uuid::new_v4(), shake.path, shake.headers),
            route: shake.route,
            target: 0,
            security: shake.security,
            trust: shake.trust,
            offer: shake.offer,
            tells_errors: shake.tells_errors,
        }
    }

    /// The same with another target of its route; `index` is less than the number of targets.
    pub(crate) fn at(&self, index: usize) -> Self {
        debug_assert!(index < self.route.targets.len(), "a target of the route");
        Self {
            target: u32::try_from(index).expect("a configuration has fewer targets"),
            ..self.clone()
        }
    }

    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub(crate) fn target(&self) -> &Target {
        let target = self.route.targets.get(self.target as usize);
        target.expect("routes have targets, and the index is that of one")
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }

    pub(crate) fn offer(&self) -> Offer {
        self.offer
    }

    /// Whether the client is told what is wrong.
    pub(crate) fn tells_errors(&self) -> bool {
        self.tells_errors
    }

    /// The value of `Connection-Id`: a version 4 UUID in lower case, with dashes.
    pub(crate) fn id(&self) -> HeaderValue {
        let mut buffer = Uuid::encode_buffer();
        let (id, _) = self.parts();
        let text = id.hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(text).expect("hexadecimal digits and dashes")
    }

    /// Path and query as the origin knows them.
    pub(crate) fn path(&self) -> PathAndQuery {
        let (_, rest) = self.parts();
        let path = take(rest).map_or(&b"/"[..], |(path, _)| path);
        PathAndQuery::try_from(path).unwrap_or_else(|_| PathAndQuery::from_static("/"))
    }

    /// The client's headers, prepared for the origin, without what each request has anew.
    pub(crate) fn headers(&self) -> HeaderMap {
        // One copy for all values.
        let (_, rest) = self.parts();
        let packed = Bytes::copy_from_slice(rest);
        let mut headers = HeaderMap::new();
        let mut rest = take(&packed).map_or(&[][..], |(_, rest)| rest);
        while let Some((name, after_name)) = take_name(rest)
            && let Some((value, after_value)) = take(after_name)
        {
            rest = after_value;
            // It was valid when it was packed.
            if let Ok(value) = HeaderValue::from_maybe_shared(packed.slice_ref(value)) {
                headers.append(name, value);
            }
        }
        headers
    }

    /// The id, and what is packed behind it.
    fn parts(&self) -> (Uuid, &[u8]) {
        match self.packed.split_first_chunk() {
            Some((id, rest)) => (Uuid::from_bytes(*id), rest),
            None => (Uuid::nil(), &[]),
        }
    }

    /// On whose behalf the hub asks others about items.
    pub(crate) fn behalf(&self) -> Arc<Behalf> {
        Arc::new(Behalf {
            uri: origin_uri(&self.route, &self.headers(), &self.path(), self.security),
            way: Way::Routes,
            implicit: self.target().subscribe.clone(),
            tells_errors: self.tells_errors,
            route: Arc::clone(&self.route),
        })
    }
}

/// The request as its origin knows it, in memory of its own: a hold may keep it for long, and must
/// not keep the buffer that the request was read into.
pub(crate) fn origin_uri(
    route: &Route,
    headers: &HeaderMap,
    path: &PathAndQuery,
    security: Security,
) -> Uri {
    let named = route.as_host.as_ref().map(Authority::as_str);
    let asked = || headers.get(header::HOST)?.to_str().ok();
    let host = named.or_else(asked).unwrap_or("localhost");
    let scheme = match security {
        Security::Plain => "http",
        Security::Tls => "https",
    };
    let build = |host| format!("{scheme}://{host}{path}").parse::<Uri>();
    build(host)
        .or_else(|_| build("localhost"))
        .unwrap_or_default()
}

/// Names that most handshakes have, written as their place in this list, counted from 1; 0 stands
/// before a name that is written out.
const NAMES: [HeaderName; 24] = [
    header::HOST,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::ORIGIN,
    header::USER_AGENT,
    header::COOKIE,
    header::AUTHORIZATION,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::REFERER,
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-protocol"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("cdn-loop"),
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("priority"),
];

/// Whether each request has this field anew, or must not have it at all.
fn is_left_out(name: &HeaderName) -> bool {
    const LEFT_OUT: [HeaderName; 8] = [
        header::CONNECTION,
        header::UPGRADE,
        header::ACCEPT,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::SEC_WEBSOCKET_EXTENSIONS,
        HeaderName::from_static("connection-id"),
        HeaderName::from_static("content-bytes-replayed"),
    ];
    LEFT_OUT.contains(name) || name.as_str().starts_with("meta-")
}

fn pack(id: Uuid, path: &PathAndQuery, headers: &HeaderMap) -> Arc<[u8]> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(id.as_bytes());
    push(&mut bytes, path.as_str().as_bytes());
    for (name, value) in headers {
        if !is_left_out(name) {
            push_name(&mut bytes, name);
            push(&mut bytes, value.as_bytes());
        }
    }
    bytes.into()
}

fn push_name(bytes: &mut Vec<u8>, name: &HeaderName) {
    let known = NAMES.iter().position(|known| known == name);
    if let Some(code) = known.and_then(|index| u8::try_from(index + 1).ok()) {
        bytes.push(code);
    } else {
        bytes.push(0);
        push(bytes, name.as_str().as_bytes());
    }
}

fn take_name(bytes: &[u8]) -> Option<(HeaderName, &[u8])> {
    let (code, rest) = bytes.split_first()?;
    if let Some(index) = usize::from(*code).checked_sub(1) {
        return Some((NAMES.get(index)?.clone(), rest));
    }
    let (name, rest) = take(rest)?;
    Some((HeaderName::from_bytes(name).ok()?, rest))
}

/// Appends the length of a part and the part. Of the length, each byte has seven bits, the lowest
/// first, and the eighth bit says that there are more.
fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    let mut length = part.len();
    while length >= 0x80 {
        bytes.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    bytes.push(length.to_le_bytes()[0]);
    bytes.extend_from_slice(part);
}

fn take(mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return bytes.split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{Lookup, Protocol, parse};

    fn route(text: &str) -> Arc<Route> {
        let lookup = Lookup {
            host: "a",
            path: "/",
            protocol: Protocol::WebSocket,
            security: Security::Plain,
            id: None,
        };
        Arc::clone(parse(text).unwrap().find(&lookup).unwrap())
    }

    fn handshake(path: &'static str, headers: &HeaderMap) -> Handshake {
        Handshake::new(Shake {
            route: route("* a:1,sub=all b:2"),
            path: &PathAndQuery::from_static(path),
            headers,
            security: Security::Tls,
            trust: Trust::Client,
            offer: Offer::Grip,
            tells_errors: true,
        })
    }

    fn headers(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value).unwrap();
            (HeaderName::from_static(name), value)
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    #[track_caller]
    fn check_kept(fields: &[(&'static str, &[u8])]) {
        check(fields, fields);
    }

    #[track_caller]
    fn check(fields: &[(&'static str, &[u8])], kept: &[(&'static str, &[u8])]) {
        let handshake = handshake("/chat?x=%20", &headers(fields));
        assert_eq!(handshake.path(), "/chat?x=%20");
        let (found, kept) = (handshake.headers(), headers(kept));
        assert!(found.iter().eq(kept.iter()), "{found:?}, not {kept:?}");
    }

    #[test]
    fn what_was_packed_comes_out_again_in_its_order() {
        let long = vec![b'x'; 20_000];
        check_kept(&[]);
        check_kept(&[("host", b"a:1"), ("cookie", b""), ("x-private", b"\xff\t")]);
        check_kept(&[("x", b"1"), ("y", b"2"), ("x", b"3"), ("priority", b"4")]);
        check_kept(&[("x", &long[..127]), ("y", &long[..128]), ("cookie", &long)]);
    }

    #[test]
    fn what_each_request_has_anew_is_left_out() {
        check(
            &[
                ("connection", b"Upgrade"),
                ("host", b"a"),
                ("upgrade", b"websocket"),
                ("accept", b"*/*"),
                ("content-type", b"text/plain"),
                ("content-length", b"0"),
                ("connection-id", b"1"),
                ("content-bytes-replayed", b"1"),
                ("sec-websocket-extensions", b"permessage-deflate"),
                ("sec-websocket-protocol", b"chat, superchat"),
                ("meta-user", b"eve"),
                ("metadata", b"1"),
            ],
            &[
                ("host", b"a"),
                ("sec-websocket-protocol", b"chat, superchat"),
                ("metadata", b"1"),
            ],
        );
    }

    #[test]
    fn a_plain_handshake_takes_less_than_120_bytes() {
        let headers = headers(&[
            ("host", b"app.example.com"),
            ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", b"13"),
        ]);
        let handshake = handshake("/chat", &headers);
        let counts = 2 * size_of::<usize>();
        let memory = counts + size_of::<Handshake>() + handshake.packed.len();
        assert_eq!(handshake.packed.len(), 16 + 6 + 17 + 26 + 4);
        assert!(memory < 120, "{memory} bytes");
    }

    #[test]
    fn each_has_an_id_which_stays_when_the_target_changes() {
        let first = handshake("/", &HeaderMap::new());
        let other = handshake("/", &HeaderMap::new());
        assert_ne!(first.id(), other.id());
        assert_eq!(first.target().to_string(), "a:1");
        let second = first.at(1);
        assert_eq!(second.target().to_string(), "b:2");
        assert_eq!(second.id(), first.id());
        let id = first.id();
        let id = id.to_str().unwrap();
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(id.chars().nth(14), Some('4'), "{id}");
        assert_eq!(id, id.to_lowercase());
    }

    #[test]
    fn others_are_asked_on_behalf_of_the_client_that_was_there() {
        let behalf = handshake("/chat", &headers(&[("host", b"app:81")])).behalf();
        assert_eq!(behalf.uri, "https://app:81/chat");
        assert_eq!(behalf.implicit.len(), 1);
        assert!(behalf.tells_errors);
    }
}
