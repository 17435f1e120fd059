//! Events: the bodies of WebSocket-over-HTTP, `application/websocket-events`.
//!
//! ```text
//! OPEN⏎                       an event without content
//! TEXT 5⏎hello⏎               an event with content, and how long it is, in hexadecimal
//! ```
//!
//! Lines end with CR LF.

use std::io::Write as _;

use bytes::Bytes;
use http::header::{CONTENT_TYPE as FIELD, HeaderMap};

/// The media type of events.
pub const CONTENT_TYPE: &str = "application/websocket-events";

const CRLF: &[u8] = b"\r\n";

/// What happens on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client wants a WebSocket, or the origin accepts it.
    Open,
    /// A text message.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping; most have no content.
    Ping(Bytes),
    /// A pong; most have no content.
    Pong(Bytes),
    /// One side closes; the content of its close frame.
    Close(Bytes),
    /// One side is gone without a close.
    Disconnect,
}

/// Why a body is not one of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// A line without end.
    #[error("an event's first line has no end")]
    Line,
    /// A size that is no hexadecimal number, or a larger one than there can be.
    #[error("an event's size is not a number")]
    Size,
    /// The body ends within a content.
    #[error("an event's content is cut off")]
    Content,
    /// Something else than a line end behind a content.
    #[error("an event's content is longer than its size")]
    End,
}

impl Event {
    /// The content; empty for events that have none.
    pub fn content(&self) -> &[u8] {
        match self {
            Self::Text(content)
            | Self::Binary(content)
            | Self::Ping(content)
            | Self::Pong(content)
            | Self::Close(content) => content,
            Self::Open | Self::Disconnect => &[],
        }
    }

    /// Appends the event. Messages always have a size; other events only if they have content.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let name = match self {
            Self::Open => "OPEN",
            Self::Text(_) => "TEXT",
            Self::Binary(_) => "BINARY",
            Self::Ping(_) => "PING",
            Self::Pong(_) => "PONG",
            Self::Close(_) => "CLOSE",
            Self::Disconnect => "DISCONNECT",
        };
        let content = self.content();
        out.extend_from_slice(name.as_bytes());
        if !content.is_empty() || matches!(self, Self::Text(_) | Self::Binary(_)) {
            write!(out, " {:x}\r\n", content.len()).expect("a Vec takes all that is written");
            out.extend_from_slice(content);
        }
        out.extend_from_slice(CRLF);
    }

    fn named(name: &[u8], content: Bytes) -> Option<Self> {
        Some(match name {
            b"OPEN" => Self::Open,
            b"TEXT" => Self::Text(content),
            b"BINARY" => Self::Binary(content),
            b"PING" => Self::Ping(content),
            b"PONG" => Self::Pong(content),
            b"CLOSE" => Self::Close(content),
            b"DISCONNECT" => Self::Disconnect,
            _ => return None,
        })
    }
}

/// Reads a body; contents are parts of it.
///
/// Tolerated: sizes in upper case and with leading zeros, content where it means nothing, events of
/// unknown type, which are left out, and a last content without its line end.
///
/// # Errors
/// [`EventError`]; then nothing of the body counts.
pub fn decode(body: &Bytes) -> Result<Vec<Event>, EventError> {
    let mut events = Vec::new();
    let mut rest = body.clone();
    while !rest.is_empty() {
        let end = find(&rest, CRLF).ok_or(EventError::Line)?;
        let line = rest.split_to(end);
        let _ = rest.split_to(CRLF.len());
        let (name, content) = match line.iter().position(|byte| *byte == b' ') {
            None => (&line[..], Bytes::new()),
            Some(blank) => (
                &line[..blank],
                take_content(&mut rest, size(&line[blank + 1..])?)?,
            ),
        };
        events.extend(Event::named(name, content));
    }
    Ok(events)
}

fn size(digits: &[u8]) -> Result<usize, EventError> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(EventError::Size);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| EventError::Size)?;
    usize::from_str_radix(digits, 16).map_err(|_| EventError::Size)
}

fn take_content(rest: &mut Bytes, size: usize) -> Result<Bytes, EventError> {
    if size > rest.len() {
        return Err(EventError::Content);
    }
    let content = rest.split_to(size);
    if rest.starts_with(CRLF) {
        let _ = rest.split_to(CRLF.len());
    } else if !rest.is_empty() {
        return Err(EventError::End);
    }
    Ok(content)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Whether a message's body is of events, by its `Content-Type`; parameters don't count.
///
/// Of several lines, or types in one line, one is enough: who reads the last of them must not be
/// told something else than who reads the first.
pub fn is_events(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(FIELD).iter();
    let mut types = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    types.any(|value| {
        let media_type = value.split(|byte| *byte == b';').next();
        let media_type = media_type.unwrap_or_default().trim_ascii();
        media_type.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn bytes(content: &'static [u8]) -> Bytes {
        Bytes::from_static(content)
    }

    fn encoded(events: &[Event]) -> Bytes {
        let mut out = Vec::new();
        for event in events {
            event.encode(&mut out);
        }
        Bytes::from(out)
    }

    /// The bytes are what the events become, and the other way round.
    #[track_caller]
    fn check(body: &'static [u8], events: &[Event]) {
        assert_eq!(encoded(events), body);
        assert_eq!(decode(&bytes(body)).as_deref(), Ok(events));
    }

    #[track_caller]
    fn check_read(body: &'static [u8], expected: Result<&[Event], EventError>) {
        assert_eq!(
            decode(&bytes(body)).as_deref().map_err(|error| *error),
            expected
        );
    }

    #[test]
    fn events_are_exact() {
        check(b"", &[]);
        check(b"OPEN\r\n", &[Event::Open]);
        check(b"TEXT 5\r\nhello\r\n", &[Event::Text(bytes(b"hello"))]);
        check(b"TEXT 0\r\n\r\n", &[Event::Text(Bytes::new())]);
        let binary = Event::Binary(bytes(b"\x00\x01\xff"));
        check(b"BINARY 3\r\n\x00\x01\xff\r\n", &[binary]);
        check(
            b"PING\r\nPONG 2\r\nhi\r\n",
            &[Event::Ping(Bytes::new()), Event::Pong(bytes(b"hi"))],
        );
        check(
            b"CLOSE 2\r\n\x03\xe8\r\n",
            &[Event::Close(bytes(b"\x03\xe8"))],
        );
        check(
            b"CLOSE\r\nDISCONNECT\r\n",
            &[Event::Close(Bytes::new()), Event::Disconnect],
        );
        check(
            b"TEXT b\r\n[foo][hello\r\n",
            &[Event::Text(bytes(b"[foo][hello"))],
        );
        check(b"TEXT 2\r\n\r\n\r\n", &[Event::Text(bytes(b"\r\n"))]);
    }

    #[test]
    fn what_is_tolerated() {
        let hello = [Event::Text(bytes(b"hello world"))];
        check_read(b"TEXT B\r\nhello world\r\n", Ok(&hello));
        check_read(b"TEXT 000b\r\nhello world\r\n", Ok(&hello));
        check_read(b"TEXT b\r\nhello world", Ok(&hello));
        check_read(b"OPEN 2\r\nxx\r\n", Ok(&[Event::Open]));
        check_read(b"TEXT\r\n", Ok(&[Event::Text(Bytes::new())]));
        check_read(b"NOISE 2\r\nxx\r\nOPEN\r\n", Ok(&[Event::Open]));
        check_read(b"open\r\n", Ok(&[]));
    }

    #[test]
    fn what_is_not() {
        check_read(b"OPEN", Err(EventError::Line));
        check_read(b"OPEN\r\nTEXT 1", Err(EventError::Line));
        check_read(b"TEXT x\r\n", Err(EventError::Size));
        check_read(b"TEXT \r\n", Err(EventError::Size));
        check_read(b"TEXT +1\r\nx\r\n", Err(EventError::Size));
        check_read(b"TEXT 10000000000000000\r\n", Err(EventError::Size));
        check_read(b"TEXT ffffffff\r\n", Err(EventError::Content));
        check_read(b"TEXT 5\r\nhell", Err(EventError::Content));
        check_read(b"TEXT 4\r\nhello\r\n", Err(EventError::End));
    }

    #[test]
    fn events_are_told_by_their_type() {
        let mut headers = HeaderMap::new();
        assert!(!is_events(&headers));
        for (value, expected) in [
            ("application/websocket-events", true),
            ("Application/WebSocket-Events ; charset=utf-8", true),
            ("application/websocket-events2", false),
            ("text/plain", false),
        ] {
            headers.insert(FIELD, value.parse().unwrap());
            assert_eq!(is_events(&headers), expected, "{value}");
        }
        headers.append(FIELD, CONTENT_TYPE.parse().unwrap());
        assert!(is_events(&headers), "the last of two lines");
        headers.insert(
            FIELD,
            format!("text/plain, {CONTENT_TYPE}").parse().unwrap(),
        );
        assert!(is_events(&headers), "the last of two types");
    }

    #[test]
    fn whatever_is_written_can_be_read() {
        let mut noise = Noise::new(7);
        for _ in 0..500 {
            let count = noise.below(6);
            let events: Vec<Event> = (0..count).map(|_| event(&mut noise)).collect();
            assert_eq!(decode(&encoded(&events)), Ok(events));
        }
    }

    fn event(noise: &mut Noise) -> Event {
        let content = Bytes::from(noise.text(b"\r\n 0aT\xff", 40));
        match noise.below(7) {
            0 => Event::Open,
            1 => Event::Text(content),
            2 => Event::Binary(content),
            3 => Event::Ping(content),
            4 => Event::Pong(content),
            5 => Event::Close(content),
            _ => Event::Disconnect,
        }
    }
}
