//! Handshakes of the hub's own with origins that speak WebSocket; RFC 6455 §4.1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use grip::fields;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, StatusCode};
use uuid::Uuid;

use super::super::{Proxy, unix_now};
use super::answer::has_only_grip;
use super::opening::{accept, has_token};
use super::over_http::{read_rejection, signed_headers};
use super::{Accepted, Broken, OpenError, Reply};
use crate::engine::websocket::OriginStart;
use crate::handshake::{Handshake, Offer};

impl Proxy {
    /// Asks the handshake's target for a WebSocket of its own; `headers` are those of the client,
    /// prepared for the origin.
    ///
    /// Cancel safe: dropped, it ends the request.
    pub(super) async fn open_native(
        &self,
        handshake: &Handshake,
        headers: &HeaderMap,
    ) -> Result<Reply, OpenError> {
        let key = STANDARD.encode(Uuid::new_v4().as_bytes());
        let key = HeaderValue::try_from(key).expect("base64 is visible ASCII");
        let mut headers = without_handshake(headers);
        headers = signed_headers(handshake, headers, &self.config.signature, unix_now());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let asked = self.send_as(handshake, Method::GET, headers, Bytes::new());
        let mut response = asked.await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let rejection = read_rejection(response).await?;
            return Ok(Reply::Rejected(Box::new(rejection)));
        }
        check_answer(response.headers(), &key, handshake.offer()).map_err(Broken::Field)?;
        let upgraded = hyper::upgrade::on(&mut response).await;
        Ok(Reply::Accepted(Box::new(Accepted {
            headers: std::mem::take(response.headers_mut()),
            origin: OriginStart::Native,
            upgraded: Some(upgraded.map_err(Broken::Upgrade)?),
            farewell: None,
        })))
    }
}

/// The client's headers without its own handshake; its subprotocols stay.
fn without_handshake(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    fields::retain(&mut headers, |name| {
        !matches!(
            *name,
            SEC_WEBSOCKET_KEY
                | SEC_WEBSOCKET_VERSION
                | SEC_WEBSOCKET_EXTENSIONS
                | SEC_WEBSOCKET_ACCEPT
                | CONTENT_LENGTH
        )
    });
    headers
}

/// Whether an answer means what its status says; else, the field that does not.
fn check_answer(headers: &HeaderMap, key: &HeaderValue, offer: Offer) -> Result<(), HeaderName> {
    let check = |name: HeaderName, is_right: bool| if is_right { Ok(()) } else { Err(name) };
    let accept = accept(key.as_bytes());
    let mut accepted = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let is_accepted = accepted.next() == Some(&accept) && accepted.next().is_none();
    let only_offered = match offer {
        Offer::Grip => has_only_grip(headers),
        Offer::Nothing => !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS),
    };
    check(UPGRADE, has_token(headers, &UPGRADE, "websocket"))?;
    check(CONNECTION, has_token(headers, &CONNECTION, "upgrade"))?;
    check(SEC_WEBSOCKET_ACCEPT, is_accepted)?;
    check(SEC_WEBSOCKET_EXTENSIONS, only_offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A good answer but for this line.
    #[track_caller]
    fn check(name: &'static str, value: &'static str, offer: Offer, is_right: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            (name, value),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let expected = if is_right { Ok(()) } else { Err(name) };
        let found = check_answer(&headers, &key, offer);
        let found = found.as_ref().map_err(HeaderName::as_str);
        assert_eq!(found, expected.as_ref().map_err(|name| *name), "{value}");
    }

    #[test]
    fn an_answer_has_to_be_that_of_a_websocket() {
        let offer = Offer::Grip;
        check("x", "y", offer, true);
        check("upgrade", "WebSocket", offer, true);
        check("upgrade", "h2c", offer, false);
        check("connection", "keep-alive, upgrade", offer, true);
        check("connection", "close", offer, false);
        check("sec-websocket-accept", "AAAA", offer, false);
    }

    #[test]
    fn an_origin_accepts_only_what_was_offered() {
        let name = "sec-websocket-extensions";
        check(name, "grip; message-prefix=x", Offer::Grip, true);
        check(name, "permessage-deflate", Offer::Grip, false);
        check(name, "grip, permessage-deflate", Offer::Grip, false);
        check(name, "grip", Offer::Nothing, false);
    }

    #[test]
    fn of_the_clients_handshake_only_the_subprotocols_go_on() {
        let mut headers = HeaderMap::new();
        for name in [
            "host",
            "sec-websocket-key",
            "sec-websocket-version",
            "sec-websocket-extensions",
            "sec-websocket-protocol",
            "content-length",
            "cookie",
        ] {
            headers.insert(name, HeaderValue::from_static("0"));
        }
        let kept = without_handshake(&headers);
        let names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "sec-websocket-protocol", "cookie"]);
    }
}
