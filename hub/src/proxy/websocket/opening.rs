//! Handshakes of clients: RFC 6455 §4.2 over HTTP/1.1, RFC 8441 over HTTP/2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Version, request};
use hyper::ext::Protocol;
use ring::digest;

use super::super::ClientRequest;
use super::super::error::ProxyError;

/// How a client asks for a WebSocket, and so how it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) enum Opening {
    /// With `Upgrade`.
    Http1 {
        /// The value of `Sec-WebSocket-Accept`.
        accept: HeaderValue,
    },
    /// With an extended `CONNECT`.
    Http2,
}

impl Opening {
    /// What a request says of it; `None` if it is for something else.
    ///
    /// # Errors
    /// [`ProxyError::Handshake`] if it is for a WebSocket, but not as it should be, and
    /// [`ProxyError::HandshakeVersion`] if it is for another version than 13.
    pub(in crate::proxy) fn of(request: &ClientRequest) -> Result<Option<Self>, ProxyError> {
        let opening = Self::of_head(&request.head)?;
        // Where a body would be, frames begin.
        let is_http1 = matches!(opening, Some(Self::Http1 { .. }));
        if is_http1 && !request.content.progress().is_complete() {
            return Err(ProxyError::Handshake);
        }
        Ok(opening)
    }

    fn of_head(head: &request::Parts) -> Result<Option<Self>, ProxyError> {
        let headers = &head.headers;
        if head.method == Method::CONNECT {
            let protocol = head.extensions.get::<Protocol>();
            if protocol.is_none_or(|protocol| protocol.as_str() != "websocket") {
                return Ok(None);
            }
            // Nothing in HTTP/2 says which version would do.
            check_version(headers).map_err(|_| ProxyError::Handshake)?;
            return Ok(Some(Self::Http2));
        }
        if head.version > Version::HTTP_11 || !has_token(headers, &UPGRADE, "websocket") {
            return Ok(None);
        }
        if head.version != Version::HTTP_11
            || head.method != Method::GET
            || !has_token(headers, &CONNECTION, "upgrade")
        {
            return Err(ProxyError::Handshake);
        }
        check_version(headers)?;
        let key = only(headers, &SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
        let key = key.ok_or(ProxyError::Handshake)?;
        let accept = accept(key);
        Ok(Some(Self::Http1 { accept }))
    }
}

fn check_version(headers: &HeaderMap) -> Result<(), ProxyError> {
    match only(headers, &SEC_WEBSOCKET_VERSION) {
        Some(b"13") => Ok(()),
        Some(_) => Err(ProxyError::HandshakeVersion),
        None => Err(ProxyError::Handshake),
    }
}

/// The trimmed value of a field that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes().trim_ascii()),
        _ => None,
    }
}

/// Whether the list in a field has this token, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|value| value.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether these are 16 bytes in base64; RFC 6455 §4.1.
fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|key| key.len() == 16)
}

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`; RFC 6455 §4.2.2.
pub(super) fn accept(key: &[u8]) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(context.finish());
    HeaderValue::try_from(accept).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const GOOD: &[(&str, &str)] = &[
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    /// A good handshake but for these changes; an empty value takes the field away.
    fn head(changes: &[(&'static str, &'static str)]) -> request::Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        for (name, value) in GOOD.iter().chain(changes) {
            head.headers.remove(*name);
            if !value.is_empty() {
                let value = HeaderValue::from_static(value);
                head.headers.insert(*name, value);
            }
        }
        head
    }

    /// `none`, `http1`, `http2`, or the status of a refusal.
    fn verdict(head: &request::Parts) -> String {
        match Opening::of_head(head) {
            Ok(None) => "none".to_owned(),
            Ok(Some(Opening::Http1 { .. })) => "http1".to_owned(),
            Ok(Some(Opening::Http2)) => "http2".to_owned(),
            Err(error) => {
                let answer = error.answer(super::super::Candour::Discreet);
                answer.status.code.as_str().to_owned()
            }
        }
    }

    #[track_caller]
    fn check(changes: &[(&'static str, &'static str)], expected: &str) {
        assert_eq!(verdict(&head(changes)), expected, "{changes:?}");
    }

    #[test]
    fn the_accept_value_is_that_of_the_standard() {
        let found = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(found, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let opening = Opening::of_head(&head(&[])).unwrap();
        assert_eq!(opening, Some(Opening::Http1 { accept: found }));
    }

    #[test]
    fn tokens_may_stand_in_lists_and_in_any_case() {
        check(&[("upgrade", "h2c, WebSocket")], "http1");
        check(&[("connection", "keep-alive, UPGRADE")], "http1");
    }

    #[test]
    fn requests_for_something_else_are_no_handshakes() {
        check(&[("upgrade", "")], "none");
        check(&[("upgrade", "h2c")], "none");
        check(&[("upgrade", "websockets")], "none");
    }

    #[test]
    fn handshakes_that_are_wrong_are_refused() {
        check(&[("connection", "")], "400");
        check(&[("connection", "keep-alive")], "400");
        check(&[("sec-websocket-key", "")], "400");
        check(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ")], "400");
        check(&[("sec-websocket-key", "c2hvcnQ=")], "400");
        check(&[("sec-websocket-version", "")], "400");
        let mut twice = head(&[]);
        let another = HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA==");
        twice.headers.append(SEC_WEBSOCKET_KEY, another);
        assert_eq!(verdict(&twice), "400", "two keys");
        let mut post = head(&[]);
        post.method = Method::POST;
        assert_eq!(verdict(&post), "400", "POST");
        let mut old = head(&[]);
        old.version = Version::HTTP_10;
        assert_eq!(verdict(&old), "400", "HTTP/1.0");
    }

    #[test]
    fn another_version_is_told_which_one_would_do() {
        check(&[("sec-websocket-version", "8")], "426");
        check(&[("sec-websocket-version", "13, 8")], "426");
        let answer = ProxyError::HandshakeVersion.answer(super::super::Candour::Discreet);
        assert_eq!(answer.headers[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(answer.headers[UPGRADE], "websocket");
        assert_eq!(answer.headers[CONNECTION], "Upgrade");
    }

    /// An extended CONNECT.
    #[track_caller]
    fn check_connect(protocol: Option<&'static str>, version: &'static str, expected: &str) {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = Method::CONNECT;
        head.version = Version::HTTP_2;
        if let Some(protocol) = protocol {
            head.extensions.insert(Protocol::from_static(protocol));
        }
        let version = HeaderValue::from_static(version);
        head.headers.insert(SEC_WEBSOCKET_VERSION, version);
        assert_eq!(verdict(&head), expected, "{protocol:?}");
    }

    #[test]
    fn over_http2_a_handshake_is_an_extended_connect() {
        check_connect(Some("websocket"), "13", "http2");
        check_connect(Some("websocket"), "8", "400");
        check_connect(Some("connect-udp"), "13", "none");
        check_connect(None, "13", "none");
        let mut plain = head(&[]);
        plain.version = Version::HTTP_2;
        assert_eq!(verdict(&plain), "none", "Upgrade means nothing there");
    }
}
