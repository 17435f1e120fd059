//! The CDN's own interface for purges by surrogate key.
//!
//! `POST /service/ID/purge/KEY` for one, `POST /service/ID/purge` with `surrogate_keys` for up to
//! 256 of them.

use bytes::Bytes;
use grip::ChannelName;
use grip::cache::{PurgeMode, channel_key};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use serde::Serialize;

use crate::config::FastlyPurge;

const FASTLY_KEY: HeaderName = HeaderName::from_static("fastly-key");
const FASTLY_SOFT_PURGE: HeaderName = HeaderName::from_static("fastly-soft-purge");

/// The body of a purge of several keys.
#[derive(Debug, Serialize)]
struct PurgeBody {
    surrogate_keys: Vec<String>,
}

/// A request that makes the whole CDN forget these channels.
pub(super) fn request(fastly: &FastlyPurge, channels: &[ChannelName]) -> Request<Full<Bytes>> {
    let mut keys: Vec<String> = channels
        .iter()
        .map(|channel| channel_key(channel.as_str()))
        .collect();
    let path = format!("/service/{}/purge", fastly.service);
    let builder = Request::builder()
        .method(Method::POST)
        .header(HOST, fastly.api.authority().as_str())
        .header(ACCEPT, "application/json")
        .header(FASTLY_KEY, fastly.token.value());
    let is_single = channels.len() == 1;
    let mut request = if let Some(key) = keys.pop_if(|key| is_single && is_path_segment(key)) {
        builder
            .uri(format!("{path}/{key}"))
            .body(Full::default())
            .expect("ids and plain keys are valid in paths")
    } else {
        let body = PurgeBody {
            surrogate_keys: keys,
        };
        let body = serde_json::to_vec(&body).expect("keys are strings");
        builder
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .expect("ids are valid in paths")
    };
    if fastly.mode == PurgeMode::Soft {
        let headers = request.headers_mut();
        headers.insert(FASTLY_SOFT_PURGE, HeaderValue::from_static("1"));
    }
    request
}

/// Whether a key means itself in a path; another one goes into a body, where nothing is decoded.
fn is_path_segment(key: &str) -> bool {
    key.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte))
}
