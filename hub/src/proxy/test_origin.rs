//! The target `test`: answers of the hub's own, to try clients without an origin.

use bytes::Bytes;
use grip::ChannelName;
use grip::hold::Answer;
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

/// The channels that a WebSocket at `/ws` is subscribed to; `None` at other paths.
pub(super) fn websocket_channels(path: &PathAndQuery) -> Option<Vec<ChannelName>> {
    let whole = path.path();
    if whole.strip_suffix('/').unwrap_or(whole) != "/ws" {
        return None;
    }
    let channels = channels(path.query());
    Some(channels.iter().map(|name| ChannelName::new(name)).collect())
}

/// The answer at other paths.
pub(super) fn missing() -> Answer {
    let Origin {
        status,
        headers,
        body,
        ..
    } = not_found();
    Answer {
        status,
        headers,
        body,
    }
}

fn resource(path: &PathAndQuery) -> Origin {
    let whole = path.path();
    match whole.strip_suffix('/').unwrap_or(whole) {
        "" => plain(StatusCode::OK, "Hello from the Gripline test handler!\n"),
        "/response" => hold("response", path.query(), "nothing for now\n"),
        "/stream" => hold("stream", path.query(), "[stream opened]\n"),
        _ => not_found(),
    }
}

fn not_found() -> Origin {
    plain(StatusCode::NOT_FOUND, "no such test resource\n")
}

fn plain(status: StatusCode, body: &'static str) -> Origin {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Origin {
        status: Status::new(status),
        headers,
        body: Bytes::from_static(body.as_bytes()),
        rest: None,
        age: Age::Since(tokio::time::Instant::now().into_std()),
    }
}

fn hold(mode: &'static str, query: Option<&str>, body: &'static str) -> Origin {
    let mut origin = plain(StatusCode::OK, body);
    let name = HeaderName::from_static("grip-hold");
    origin.headers.insert(name, HeaderValue::from_static(mode));
    for channel in channels(query) {
        if let Ok(value) = HeaderValue::from_bytes(channel.as_bytes()) {
            origin.headers.append("grip-channel", value);
        }
    }
    origin
}

fn channels(query: Option<&str>) -> Vec<String> {
    let mut channels: Vec<String> = form_urlencoded::parse(query.unwrap_or("").as_bytes())
        .filter(|(name, channel)| name == "channel" && !channel.is_empty())
        .map(|(_, channel)| channel.into_owned())
        .collect();
    if channels.is_empty() {
        channels.push("test".to_owned());
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &'static str, expected: Option<&[&str]>) {
        let channels = websocket_channels(&PathAndQuery::from_static(path));
        let names = channels.as_ref().map(|channels| {
            let names = channels.iter().map(ChannelName::as_str);
            names.collect::<Vec<&str>>()
        });
        assert_eq!(names.as_deref(), expected, "{path}");
    }

    #[test]
    fn websockets_are_at_one_path() {
        check("/ws", Some(&["test"]));
        check("/ws/", Some(&["test"]));
        check("/ws?channel=a&x=y&channel=b%20c", Some(&["a", "b c"]));
        check("/ws?channel=", Some(&["test"]));
        check("/", None);
        check("/wss", None);
    }
}
