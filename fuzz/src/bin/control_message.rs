//! What an origin says on a WebSocket: its extension, a line end, and a message.
#![no_main]

use bytes::Bytes;
use grip::Limits;
use grip::publish::WsMessageKind;
use grip::websocket::control::Control;
use grip::websocket::extension::{Extension, Frames, Word};
use gripline_fuzz::split_once;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Control::parse(bytes, &Limits::default());
    let (offer, message) = split_once(bytes, b"\n");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(offer) {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, value);
    }
    let Some(extension) = Extension::accepted(&headers) else {
        return;
    };
    let content = Bytes::copy_from_slice(message);
    for kind in [WsMessageKind::Text, WsMessageKind::Binary] {
        for frames in [Frames::One, Frames::Many] {
            match extension.read(kind, &content, frames) {
                Word::Control(json) => {
                    assert_eq!([b"c:", &json[..]].concat(), message);
                    let _ = Control::parse(&json, &Limits::default());
                }
                Word::Relay(rest) => {
                    assert_eq!([extension.prefix(), &rest[..]].concat(), message);
                }
                Word::Drop => {}
            }
        }
    }
});
