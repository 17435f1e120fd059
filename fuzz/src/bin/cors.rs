//! CORS: a request's headers, an empty line, and those of its answer.
#![no_main]

use grip::cross_origin::Cors;
use gripline_fuzz::{headers, split_once};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (request, answer) = split_once(bytes, b"\n\n");
    let origin = headers(answer);
    let mut answer = origin.clone();
    Cors::of_request(&headers(request)).apply(&mut answer);
    for name in origin.keys() {
        assert!(origin.get_all(name).iter().eq(answer.get_all(name)));
    }
});
