//! Publish requests, and what becomes of their items on the way to clients.
#![no_main]

use grip::Limits;
use grip::hold::{Answer, PackedAnswer};
use grip::http1::{LAST_CHUNK, Persistence};
use grip::instruct::Status;
use grip::publish::{self, HttpResponse, HttpStream};
use gripline_fuzz::{check_head, headers, unchunked};
use http::{Method, StatusCode, Version};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let held = Answer {
        status: Status::new(StatusCode::OK),
        headers: headers(b"content-type: application/json\netag: 1"),
        body: r#"{"a":{"b":[1,2]}}"#.into(),
    };
    for item in publish::parse(bytes, &Limits::default()).unwrap_or_default() {
        if let Some(HttpResponse::Send(message)) = item.http_response {
            let answer = held.published(&message);
            let encoded = answer.encode(Version::HTTP_11, &Method::GET, Persistence::Reuse);
            check_head(&encoded, answer.status.code, &answer.headers);
            assert_eq!(PackedAnswer::pack(&answer).unpack(), answer);
        }
        if let Some(HttpStream::Send { content, .. }) = item.http_stream {
            let body = [&content.chunk(), LAST_CHUNK].concat();
            assert_eq!(unchunked(&body).expect("chunks"), content.plain());
        }
    }
});
