//! The target `test`: answers of the hub's own, to try clients without an origin.

use bytes::Bytes;
use grip::instruct::Status;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use url::form_urlencoded;

use super::body::Content;
use super::error::ProxyError;
use super::response::{Age, Origin};
use crate::routes::Route;

/// Answers a request whose body has up to `limit` bytes: `/` greets, `/response` and `/stream` hold
/// on the channels of the query's `channel` parameters. The body comes back with the answer.
pub(super) async fn answer(
    route: &Route,
    path: &PathAndQuery,
    content: Content,
    limit: usize,
) -> Result<(Origin, oneshot::Receiver<Content>), ProxyError> {
    let (mut body, returned) = content.attempt();
    let mut bytes = 0;
    while bytes <= limit
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|_| ProxyError::ClientBody)?;
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    let origin = if bytes > limit {
        plain(StatusCode::BAD_REQUEST, "request too large\n")
    } else {
        resource(&route.test_path(path))
    };
    Ok((origin, returned))
}

fn resource(path: &PathAndQuery) -> Origin {
    let whole = path.path();
    match whole.strip_suffix('/').unwrap_or(whole) {
        "" => plain(StatusCode::OK, "Hello from the Gripline test handler!\n"),
        "/response" => hold("response", path.query(), "nothing for now\n"),
        "/stream" => hold("stream", path.query(), "[stream opened]\n"),
        _ => plain(StatusCode::NOT_FOUND, "no such test resource\n"),
    }
}

fn plain(status: StatusCode, body: &'static str) -> Origin {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Origin {
        status: Status::new(status),
        headers,
        body: Bytes::from_static(body.as_bytes()),
        rest: None,
        age: Age::Fresh,
    }
}

fn hold(mode: &'static str, query: Option<&str>, body: &'static str) -> Origin {
    let mut origin = plain(StatusCode::OK, body);
    let name = HeaderName::from_static("grip-hold");
    origin.headers.insert(name, HeaderValue::from_static(mode));
    let mut channels: Vec<String> = form_urlencoded::parse(query.unwrap_or("").as_bytes())
        .filter(|(name, _)| name == "channel")
        .map(|(_, channel)| channel.into_owned())
        .collect();
    if channels.is_empty() {
        channels.push("test".to_owned());
    }
    for channel in channels {
        if let Ok(value) = HeaderValue::from_bytes(channel.as_bytes()) {
            origin.headers.append("grip-channel", value);
        }
    }
    origin
}
