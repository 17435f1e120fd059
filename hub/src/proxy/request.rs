//! From the client's request to the origin's.

use std::net::SocketAddr;

use grip::UnixTime;
use grip::fields::{self, GRIP_FEATURE, GRIP_FEATURES, GRIP_SIG};
use grip::signature::grip_sig;
use http::header::{
    self, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName,
};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri, Version};
use hyper::body::Incoming;

use super::Asked;
use super::body::ClientBody;
use crate::config::{Config, ForwardedFor, Signature};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Said of the client's connection, so a client may not say them itself.
const X_FORWARDED_PROTO: [HeaderName; 2] = [
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-protocol"),
];
/// What a request without `Host` is taken to be for.
const DEFAULT_HOST: HeaderValue = HeaderValue::from_static("localhost");

pub(super) struct OriginRequest {
    pub(super) request: Request<ClientBody>,
    pub(super) asked: Asked,
}

/// The same request as it goes to the origin: its own connection's headers gone, and signed.
pub(super) fn to_origin(
    request: Request<Incoming>,
    peer: SocketAddr,
    config: &Config,
    now: UnixTime,
) -> OriginRequest {
    let (mut parts, body) = request.into_parts();
    let (body, progress) = ClientBody::new(body);
    let asked = Asked {
        version: parts.version,
        is_head: parts.method == Method::HEAD,
        is_persistent: is_persistent(parts.version, &parts.headers),
        body: progress,
    };
    set_host(&mut parts.headers, &parts.uri);
    strip(&mut parts.headers);
    forward_for(&mut parts.headers, peer, config.forwarded_for);
    sign(&mut parts.headers, &config.signature, now);
    let path = parts.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = config.origin.uri(&path);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    OriginRequest {
        request: Request::from_parts(parts, body),
        asked,
    }
}

/// RFC 9112 §9.3.
fn is_persistent(version: Version, headers: &HeaderMap) -> bool {
    let named = fields::connection_names(headers);
    if version == Version::HTTP_11 {
        !named.contains(&HeaderName::from_static("close"))
    } else {
        named.contains(&HeaderName::from_static("keep-alive"))
    }
}

/// The host that the client asked for: in the target if it is absolute, else in `Host`;
/// RFC 9112 §3.2.2.
fn set_host(headers: &mut HeaderMap, uri: &Uri) {
    let named = uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = named {
        headers.insert(HOST, host);
    } else if !headers.contains_key(HOST) {
        headers.insert(HOST, DEFAULT_HOST);
    }
}

fn strip(headers: &mut HeaderMap) {
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    fields::strip_hop_by_hop(headers);
    fields::strip_grip(headers);
    headers.remove(ACCEPT_ENCODING);
    headers.remove(CONTENT_ENCODING);
    headers.remove(EXPECT);
    if is_chunked {
        // Transfer-Encoding overrides it; both together are a smuggler's trick.
        headers.remove(CONTENT_LENGTH);
    }
    for name in &X_FORWARDED_PROTO {
        headers.remove(name);
    }
}

/// Joins all values in one field, after the rules.
fn forward_for(headers: &mut HeaderMap, peer: SocketAddr, rules: ForwardedFor) {
    let mut values: Vec<String> = headers
        .get_all(&X_FORWARDED_FOR)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned())
        .filter(|value| !value.is_empty())
        .collect();
    if let Some(keep) = rules.keep {
        values.drain(..values.len().saturating_sub(keep));
    }
    if rules.append {
        values.push(peer.ip().to_string());
    }
    headers.remove(&X_FORWARDED_FOR);
    if let Ok(joined) = HeaderValue::from_str(&values.join(", "))
        && !values.is_empty()
    {
        headers.insert(X_FORWARDED_FOR, joined);
    }
}

fn sign(headers: &mut HeaderMap, signature: &Signature, now: UnixTime) {
    let token = grip_sig(&signature.key, &signature.issuer, now);
    let token = HeaderValue::from_str(&token).expect("a token is base64url and dots");
    headers.insert(GRIP_SIG, token);
    headers.insert(GRIP_FEATURE, HeaderValue::from_static(GRIP_FEATURES));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_forwarded(lines: &[&'static str], rules: ForwardedFor, expected: &[&str]) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
        }
        forward_for(&mut headers, "192.0.2.9:1".parse().unwrap(), rules);
        let found: Vec<&str> = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(found, expected, "{lines:?} {rules:?}");
    }

    #[test]
    fn forwarded_for_follows_its_rules() {
        let rules = |keep, append| ForwardedFor { keep, append };
        check_forwarded(&[], rules(None, false), &[]);
        check_forwarded(&["a, b", "c"], rules(None, false), &["a, b, c"]);
        check_forwarded(&["a, b", "c"], rules(Some(2), false), &["b, c"]);
        check_forwarded(&["a, b"], rules(Some(0), false), &[]);
        check_forwarded(&["a"], rules(None, true), &["a, 192.0.2.9"]);
        check_forwarded(&["a, b"], rules(Some(1), true), &["b, 192.0.2.9"]);
        check_forwarded(&[], rules(None, true), &["192.0.2.9"]);
    }

    #[track_caller]
    fn check_persistent(version: Version, connection: &'static str, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
        assert_eq!(
            is_persistent(version, &headers),
            expected,
            "{version:?} {connection}"
        );
    }

    #[test]
    fn connections_persist_as_their_version_says() {
        check_persistent(Version::HTTP_11, "", true);
        check_persistent(Version::HTTP_11, "x, Close", false);
        check_persistent(Version::HTTP_10, "", false);
        check_persistent(Version::HTTP_10, "Keep-Alive", true);
    }

    #[track_caller]
    fn check_host(uri: &'static str, host: Option<&'static str>, expected: &str) {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(HOST, HeaderValue::from_static(host));
        }
        set_host(&mut headers, &Uri::from_static(uri));
        assert_eq!(headers[HOST], expected);
    }

    #[test]
    fn the_host_is_the_one_that_the_client_asked_for() {
        check_host("/x", Some("a:1"), "a:1");
        check_host("/x", None, "localhost");
        check_host("http://b:2/x", Some("a:1"), "b:2");
    }
}
