//! The WebSocket extension `grip`: whether an origin speaks it, and what its messages mean then.

use bytes::Bytes;
use http::header::{HeaderMap, SEC_WEBSOCKET_EXTENSIONS};

use crate::publish::WsMessageKind;
use crate::value::{self, Piece};

/// What stands before messages for the client, unless the origin says otherwise.
const PREFIX: &[u8] = b"m:";
/// What stands before messages for the hub.
const CONTROL: &[u8] = b"c:";

/// GRIP, as an origin has accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    prefix: Prefix,
}

/// What stands before messages for the client. Most origins have one of the first two, which take
/// no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Prefix {
    /// [`PREFIX`].
    Usual,
    Empty,
    Other(Box<Bytes>),
}

/// In how many frames a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// In one.
    One,
    /// In more; the first is looked at.
    Many,
}

/// What is done with a message of the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The hub does what this JSON says.
    Control(Bytes),
    /// It goes to the client: this, and whatever frames follow.
    Relay(Bytes),
    /// It goes nowhere, nor do the frames that follow.
    Drop,
}

impl Extension {
    /// What an origin's answer to the handshake accepts: `grip`, which may have the parameter
    /// `message-prefix`. A prefix with nothing behind its `=` is empty.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        value::list(headers, &SEC_WEBSOCKET_EXTENSIONS).find_map(|extension| {
            let piece = Piece::parse(extension).ok()?;
            let prefix = piece.parameters.first("message-prefix");
            (piece.main == b"grip").then(|| Self::new(prefix.unwrap_or(PREFIX)))
        })
    }

    fn new(prefix: &[u8]) -> Self {
        let prefix = match prefix {
            PREFIX => Prefix::Usual,
            [] => Prefix::Empty,
            other => Prefix::Other(Box::new(Bytes::copy_from_slice(other))),
        };
        Self { prefix }
    }

    /// What stands before messages for the client.
    pub fn prefix(&self) -> &[u8] {
        match &self.prefix {
            Prefix::Usual => PREFIX,
            Prefix::Empty => &[],
            Prefix::Other(prefix) => prefix,
        }
    }

    /// What a message means, by its first frame. One for the hub has a single frame of text; pings
    /// and pongs go through.
    pub fn read(&self, kind: WsMessageKind, frame: &Bytes, frames: Frames) -> Word {
        if matches!(kind, WsMessageKind::Ping | WsMessageKind::Pong) {
            return Word::Relay(frame.clone());
        }
        if kind == WsMessageKind::Text && frame.starts_with(CONTROL) {
            return match frames {
                Frames::One => Word::Control(frame.slice(CONTROL.len()..)),
                Frames::Many => Word::Drop,
            };
        }
        if frame.starts_with(self.prefix()) {
            return Word::Relay(frame.slice(self.prefix().len()..));
        }
        Word::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check_accepted(lines: &[&'static str], prefix: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, line.parse().unwrap());
        }
        let found = Extension::accepted(&headers);
        let found = found.as_ref().map(Extension::prefix);
        assert_eq!(found, prefix.map(str::as_bytes), "{lines:?}");
    }

    #[test]
    fn an_origin_accepts_by_name() {
        check_accepted(&[], None);
        check_accepted(&["grip"], Some("m:"));
        check_accepted(&["x-other; a=1, grip"], Some("m:"));
        check_accepted(&["permessage-deflate", "grip"], Some("m:"));
        check_accepted(&["GRIP"], None);
        check_accepted(&["gripe"], None);
        check_accepted(&["x; grip"], None);
        check_accepted(&["grip; message-prefix=a, grip"], Some("a"));
    }

    #[test]
    fn what_cannot_be_read_is_not_accepted() {
        check_accepted(&[r#"grip; message-prefix="a"#], None);
        // The rest of its line belongs to the quote, other lines do not.
        check_accepted(&[r#"x; a="b, grip"#], None);
        check_accepted(&[r#"x; a="b"#, "grip"], Some("m:"));
    }

    #[test]
    fn a_prefix_may_be_anything() {
        check_accepted(&[r#"grip; message-prefix="""#], Some(""));
        check_accepted(&["grip; message-prefix="], Some(""));
        check_accepted(&["grip; message-prefix"], Some(""));
        check_accepted(&["grip; other=1"], Some("m:"));
        check_accepted(&["grip;message-prefix=xyz"], Some("xyz"));
        check_accepted(&[r#"grip; message-prefix="a, b; c""#], Some("a, b; c"));
    }

    #[track_caller]
    fn check(prefix: &'static str, kind: WsMessageKind, frame: &'static str, expected: &Word) {
        let extension = Extension::new(prefix.as_bytes());
        let frame = Bytes::from_static(frame.as_bytes());
        assert_eq!(extension.read(kind, &frame, Frames::One), *expected);
    }

    #[test]
    fn messages_are_told_apart_by_what_they_begin_with() {
        use WsMessageKind::{Binary, Ping, Text};
        let relay = |text: &'static str| Word::Relay(Bytes::from_static(text.as_bytes()));
        check("m:", Text, "m:hello", &relay("hello"));
        check("m:", Binary, "m:hello", &relay("hello"));
        check("m:", Text, "hello", &Word::Drop);
        check("m:", Text, "", &Word::Drop);
        check("m:", Ping, "hello", &relay("hello"));
        check(
            "m:",
            Text,
            "c:{}",
            &Word::Control(Bytes::from_static(b"{}")),
        );
        check("m:", Binary, "c:{}", &Word::Drop);
        check("", Text, "hello", &relay("hello"));
        check("", Text, "c:{}", &Word::Control(Bytes::from_static(b"{}")));
        check("", Binary, "c:{}", &relay("c:{}"));
        check(
            "c:",
            Text,
            "c:{}",
            &Word::Control(Bytes::from_static(b"{}")),
        );
    }

    #[test]
    fn a_control_message_in_several_frames_is_none() {
        let extension = Extension::new(b"");
        let frame = Bytes::from_static(b"c:{");
        let word = extension.read(WsMessageKind::Text, &frame, Frames::Many);
        assert_eq!(word, Word::Drop);
    }

    #[test]
    fn the_first_of_several_frames_decides_for_all() {
        let extension = Extension::new(PREFIX);
        for kind in [WsMessageKind::Text, WsMessageKind::Binary] {
            let read = |frame| extension.read(kind, &Bytes::from_static(frame), Frames::Many);
            assert_eq!(read(b"m:a"), Word::Relay(Bytes::from_static(b"a")));
            assert_eq!(read(b"m:"), Word::Relay(Bytes::new()));
            // A prefix that goes on in the next frame is none.
            assert_eq!(read(b"m"), Word::Drop);
            assert_eq!(read(b"a"), Word::Drop);
        }
    }
}
