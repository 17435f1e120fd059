//! What a scripted origin says to WebSockets that reach it over HTTP.

use crate::origin::{Answer, Origin, Request};
use crate::transcript::escaped;

/// The media type of events.
pub const CONTENT_TYPE: &str = "Content-Type: application/websocket-events";
/// The origin speaks GRIP.
pub const GRIP: &str = "Sec-WebSocket-Extensions: grip";
/// What the hub's first request says.
pub const OPEN: &str = "OPEN\r\n";
/// A close with code 1000.
pub const CLOSE: &[u8] = b"CLOSE 2\r\n\x03\xe8\r\n";

/// An answer with these fields and events.
pub fn answer(fields: &[&str], events: impl AsRef<[u8]>) -> Answer {
    let events = events.as_ref();
    let length = format!("Content-Length: {}", events.len());
    let fields = [&[CONTENT_TYPE, &length], fields].concat();
    Answer::begin("200 OK", &fields).then(events)
}

/// An event with content.
pub fn event(kind: &str, content: &str) -> String {
    format!("{kind} {:x}\r\n{content}\r\n", content.len())
}

/// A text of the origin.
pub fn text(content: &str) -> String {
    event("TEXT", content)
}

/// What subscribes the WebSocket to a channel.
pub fn subscribe(channel: &str) -> String {
    text(&format!(
        r#"c:{{"type":"subscribe","channel":"{channel}"}}"#
    ))
}

/// How long a request's events are; scripts see its head only.
pub fn length(request: &Request) -> usize {
    let length = request.field("Content-Length").unwrap_or_default();
    length.parse().expect("the hub tells the length")
}

/// Whether a request asks for a WebSocket. No message is as short as that.
pub fn opens(request: &Request) -> bool {
    length(request) == OPEN.len()
}

/// Whether a request tells that the client closed, with a code and no reason. Texts of three letters
/// are as long.
pub fn closes(request: &Request) -> bool {
    length(request) == CLOSE.len()
}

/// The events of all requests for this path. Bytes that are no text are shown as such.
pub fn bodies(origin: &Origin, path: &str) -> Vec<String> {
    let requests = origin.requests(path);
    requests
        .iter()
        .map(|request| escaped(&request.body))
        .collect()
}

/// Waits until the last of so many requests for this path is there in full.
pub async fn until_complete(origin: &Origin, path: &str, count: usize) {
    let is_so = |requests: &[&Request]| {
        requests.len() >= count && requests.iter().all(|request| request.is_complete)
    };
    origin.until(path, is_so).await;
}
