//! The values of conditions, targets and properties: from texts to types.

use std::net::Ipv6Addr;

use http::HeaderValue;
use http::header::HeaderName;
use http::uri::{Authority, PathAndQuery};

use super::{Host, unbracketed};

/// What [`path`] takes.
pub(super) const A_PATH: &str = "a path that begins with / and has no query";

/// Any text but none.
pub(super) fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of a condition.
pub(super) fn host(text: &str) -> Option<Host> {
    match text {
        "" => Some(Host::ById),
        "*" => Some(Host::Any),
        _ => {
            let is_name = |it: &Authority| it.host() == text && !text.contains('*');
            let name = authority(text).filter(is_name)?;
            Some(Host::Exact(name.host().to_ascii_lowercase()))
        }
    }
}

/// A host, and a port other than 0 if there is one.
pub(super) fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    let is_host = match host.strip_prefix('[') {
        Some(_) => unbracketed(host).parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty(),
    };
    let is_port = |port: u16| port != 0;
    let is_complete = host == text || authority.port_u16().is_some_and(is_port);
    (is_host && is_complete && !text.contains('@')).then_some(authority)
}

/// How a path begins.
pub(super) fn path(text: &str) -> Option<String> {
    let path: PathAndQuery = text.parse().ok()?;
    (text.starts_with('/') && path.path() == text).then(|| text.to_owned())
}

/// A name, and a value unless it is empty.
pub(super) fn header(text: &str) -> Option<(HeaderName, Option<HeaderValue>)> {
    let (name, value) = text.split_once(':')?;
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let value = match value.trim() {
        "" => None,
        value => Some(HeaderValue::from_bytes(value.as_bytes()).ok()?),
    };
    Some((name, value))
}
