//! Bodies of WebSocket-over-HTTP: what can be read can be written, and is the same then.
#![no_main]

use bytes::Bytes;
use grip::websocket::event;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(events) = event::decode(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let mut written = Vec::new();
    for event in &events {
        event.encode(&mut written);
    }
    assert_eq!(event::decode(&Bytes::from(written)), Ok(events));
});
