//! From the client's request to the origin's.

use std::net::IpAddr;

use grip::UnixTime;
use grip::fields::{self, GRIP_FEATURE, GRIP_FEATURES, GRIP_LAST, GRIP_SIG};
use grip::signature::{VerifyingKey, grip_sig};
use http::header::{
    self, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName,
};
use http::{HeaderValue, Uri, Version};

use super::edge::Via;
use crate::config::{Config, ForwardedFor, SetProtocol, Signature};
use crate::errand::Last;
use crate::handshake::Trust;
use crate::routes::{Grip, OrigHeaders, Protocol, Route, Security};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PROTOCOL: HeaderName = HeaderName::from_static("x-forwarded-protocol");
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// Names the route that a request is for.
pub(super) const PUSHPIN_ROUTE: HeaderName = HeaderName::from_static("pushpin-route");
/// What stands before the names of a client's headers that are passed on a second time.
const ORIGINAL_MARK: &str = "eb9bf0f5-";
/// What a request without `Host` is taken to be for.
const DEFAULT_HOST: HeaderValue = HeaderValue::from_static("localhost");

impl Trust {
    /// A client is a proxy if it signs with the key that only proxies know; GRIP `Grip-Sig`.
    pub(super) fn of(headers: &HeaderMap, key: Option<&VerifyingKey>, now: UnixTime) -> Self {
        let token = headers
            .get(GRIP_SIG)
            .and_then(|token| std::str::from_utf8(token.as_bytes()).ok());
        match (key, token) {
            (Some(key), Some(token)) if key.verify(token, now, 0).is_ok() => Self::Proxy,
            _ => Self::Client,
        }
    }
}

/// What the headers of a request for the origin depend on, beside the client's.
#[derive(Debug)]
pub(super) struct Preparation<'a> {
    pub(super) config: &'a Config,
    pub(super) route: &'a Route,
    pub(super) trust: Trust,
    pub(super) peer: IpAddr,
    pub(super) security: Security,
    pub(super) protocol: Protocol,
    pub(super) last: &'a [Last],
    pub(super) now: UnixTime,
}

/// The request has come through here before; RFC 8586 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoopFound;

impl Preparation<'_> {
    /// Makes the origin's headers of the client's: its own connection's are gone, the route's are
    /// added, and it is signed; but requests for a WebSocket are signed one by one. Only `Host` is
    /// left to be set for each target.
    pub(super) fn apply(&self, headers: &mut HeaderMap) -> Result<(), LoopFound> {
        let original = match self.route.orig_headers {
            OrigHeaders::Copy => headers.clone(),
            OrigHeaders::Strip => HeaderMap::new(),
        };
        set_route_headers(headers, self.route);
        mark_originals(headers, &original, self.config);
        strip(headers);
        if self.config.accept_pushpin_route {
            headers.remove(PUSHPIN_ROUTE);
        }
        add_to_loop(headers, self.config.cdn_loop.as_deref())?;
        if self.trust == Trust::Client {
            fields::strip_grip(headers);
            if self.route.grip == Grip::On && self.protocol == Protocol::Http {
                sign(headers, self.route, &self.config.signature, self.now);
                add_last(headers, self.last);
            }
        }
        self.forward_protocol(headers);
        let rules = match self.trust {
            Trust::Client => self.config.forwarded_for,
            Trust::Proxy => self.config.forwarded_for_trusted,
        };
        forward_for(headers, self.peer, rules);
        Ok(())
    }

    fn forward_protocol(&self, headers: &mut HeaderMap) {
        let rules = self.config.forwarded_protocol;
        if !rules.accept && rules.set == SetProtocol::Neither {
            return;
        }
        headers.remove(X_FORWARDED_PROTO);
        headers.remove(X_FORWARDED_PROTOCOL);
        if self.security == Security::Plain {
            return;
        }
        let scheme = HeaderValue::from_static(match self.protocol {
            Protocol::Http => "https",
            Protocol::WebSocket => "wss",
        });
        match rules.set {
            SetProtocol::Neither => {}
            SetProtocol::Proto => drop(headers.insert(X_FORWARDED_PROTO, scheme)),
            SetProtocol::Both => {
                headers.insert(X_FORWARDED_PROTO, scheme.clone());
                headers.insert(X_FORWARDED_PROTOCOL, scheme);
            }
        }
    }
}

/// The route's own headers in place of the client's.
pub(crate) fn set_route_headers(headers: &mut HeaderMap, route: &Route) {
    for (name, _) in &route.headers {
        headers.remove(name);
    }
    for (name, value) in &route.headers {
        if let Some(value) = value {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Passes the client's headers a second time under marked names. Only a route that copies them lets
/// marked ones through.
fn mark_originals(headers: &mut HeaderMap, original: &HeaderMap, config: &Config) {
    let marked: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(ORIGINAL_MARK))
        .cloned()
        .collect();
    if original.is_empty() {
        for name in marked {
            headers.remove(name);
        }
        return;
    }
    for (name, value) in original {
        let needs_mark = config.orig_headers_need_mark.contains(name);
        if name.as_str().starts_with(ORIGINAL_MARK) || needs_mark {
            continue;
        }
        let copy = HeaderName::try_from(format!("{ORIGINAL_MARK}{name}"));
        if let Ok(copy) = copy
            && !marked.contains(&copy)
        {
            headers.append(copy, value.clone());
        }
    }
}

fn add_to_loop(headers: &mut HeaderMap, token: Option<&str>) -> Result<(), LoopFound> {
    let Some(token) = token else {
        return Ok(());
    };
    let mut values = list(headers, &CDN_LOOP);
    let is_ours = |value: &String| value.split(';').next().is_some_and(|id| id.trim() == token);
    if values.iter().any(is_ours) {
        return Err(LoopFound);
    }
    values.push(token.to_owned());
    insert_list(headers, CDN_LOOP, &values);
    Ok(())
}

/// RFC 9112 §9.3.
pub(super) fn is_persistent(version: Version, headers: &HeaderMap) -> bool {
    let named = fields::connection_names(headers);
    if version == Version::HTTP_11 {
        !named.contains(&HeaderName::from_static("close"))
    } else {
        named.contains(&HeaderName::from_static("keep-alive"))
    }
}

/// The host that the client asked for: in the target if it is absolute, else in `Host`;
/// RFC 9112 §3.2.2.
pub(super) fn set_host(headers: &mut HeaderMap, uri: &Uri) {
    let named = uri.authority().and_then(|authority| {
        let without_user = authority.as_str().rsplit('@').next();
        HeaderValue::from_str(without_user.unwrap_or_default()).ok()
    });
    if let Some(host) = named {
        headers.insert(HOST, host);
    } else if !headers.contains_key(HOST) {
        headers.insert(HOST, DEFAULT_HOST);
    }
}

/// Whether the client's connection is encrypted, or that of the proxy before it where that is
/// believed.
pub(super) fn security(headers: &HeaderMap, config: &Config, via: Via) -> Security {
    if !config.forwarded_protocol.accept && via == Via::Client {
        return Security::Plain;
    }
    let said = headers
        .get(X_FORWARDED_PROTOCOL)
        .or_else(|| headers.get(X_FORWARDED_PROTO));
    match said.map(|value| value.as_bytes().trim_ascii()) {
        Some(b"https" | b"wss") => Security::Tls,
        _ => Security::Plain,
    }
}

fn strip(headers: &mut HeaderMap) {
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    fields::strip_hop_by_hop(headers);
    headers.remove(ACCEPT_ENCODING);
    headers.remove(CONTENT_ENCODING);
    headers.remove(EXPECT);
    if is_chunked {
        // Transfer-Encoding overrides it; both together are a smuggler's trick.
        headers.remove(CONTENT_LENGTH);
    }
}

/// Joins all values in one field, after the rules.
fn forward_for(headers: &mut HeaderMap, peer: IpAddr, rules: ForwardedFor) {
    let mut values = list(headers, &X_FORWARDED_FOR);
    if let Some(keep) = rules.keep {
        values.drain(..values.len().saturating_sub(keep));
    }
    if rules.append {
        values.push(peer.to_string());
    }
    insert_list(headers, X_FORWARDED_FOR, &values);
}

/// The values of all lines of a field.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

/// Joins values in one line, which is absent if there are none.
fn insert_list(headers: &mut HeaderMap, name: HeaderName, values: &[String]) {
    headers.remove(&name);
    if let Ok(joined) = HeaderValue::from_str(&values.join(", "))
        && !values.is_empty()
    {
        headers.insert(name, joined);
    }
}

/// Signs a request; GRIP `Grip-Sig`, `Grip-Feature`.
pub(crate) fn sign(headers: &mut HeaderMap, route: &Route, hub: &Signature, now: UnixTime) {
    let key = route.sig_key.as_ref().unwrap_or(&hub.key);
    let issuer = route.sig_iss.as_ref().unwrap_or(&hub.issuer);
    let token = grip_sig(key, issuer, now);
    let token = HeaderValue::from_str(&token).expect("a token is base64url and dots");
    headers.insert(GRIP_SIG, token);
    headers.insert(GRIP_FEATURE, HeaderValue::from_static(GRIP_FEATURES));
}

/// Says what the client has; GRIP `Grip-Last`.
pub(crate) fn add_last(headers: &mut HeaderMap, last: &[Last]) {
    for last in last {
        if let Ok(value) = HeaderValue::from_bytes(last.text().as_bytes()) {
            headers.append(GRIP_LAST, value);
        }
    }
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
        forward_for(&mut headers, "192.0.2.9".parse().unwrap(), rules);
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
        check_host("http://user:word@b:2/x", None, "b:2");
    }
}
