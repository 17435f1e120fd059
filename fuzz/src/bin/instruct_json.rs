//! Instructions in bodies, and the answers in them.
#![no_main]

use bytes::Bytes;
use grip::Limits;
use grip::hold::{self, PackedAnswer};
use grip::http1::Persistence;
use grip::instruct::Status;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};

const INSTRUCT: HeaderValue = HeaderValue::from_static("application/grip-instruct");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let origin = HeaderMap::from_iter([(CONTENT_TYPE, INSTRUCT)]);
    let body = Bytes::copy_from_slice(bytes);
    let read = hold::read_response(
        Status::new(StatusCode::OK),
        &origin,
        body,
        &Limits::default(),
    );
    let Ok((_, answer)) = read else {
        return;
    };
    let encoded = answer.encode(Version::HTTP_11, &Method::GET, Persistence::Reuse);
    gripline_fuzz::check_head(&encoded, answer.status.code, &answer.headers);
    assert_eq!(PackedAnswer::pack(&answer).unpack(), answer);
});
