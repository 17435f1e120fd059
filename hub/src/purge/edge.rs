//! The edge's signed purge endpoint, `POST /.gripline/purge`.

use bytes::Bytes;
use grip::ChannelName;
use grip::signature::{SigningKey, purge_token};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::Full;
use serde::Serialize;

use crate::config::HttpAddress;
use crate::proxy::unix_now;

/// Where the edge takes purges.
const PATH: &str = "/.gripline/purge";

/// The body of a purge request.
#[derive(Debug, Serialize)]
struct PurgeBody<'a> {
    channels: Vec<&'a str>,
}

/// A request that makes the edge forget these channels.
pub(super) fn request(
    address: &HttpAddress,
    key: &SigningKey,
    channels: &[ChannelName],
) -> Request<Full<Bytes>> {
    let body = PurgeBody {
        channels: channels.iter().map(ChannelName::as_str).collect(),
    };
    let body = serde_json::to_vec(&body).expect("names are strings");
    let token = purge_token(key, &body, unix_now());
    Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(HOST, address.authority().as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::from(body))
        .expect("all parts are valid")
}
