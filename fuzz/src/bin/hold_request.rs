//! Hold requests: what can be read is written as it was read, and shares its bytes.
#![no_main]

use bytes::Bytes;
use grip::hold_request::HoldRequest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let message = Bytes::copy_from_slice(bytes);
    let Ok(request) = HoldRequest::decode(&message) else {
        return;
    };
    assert!(message.ends_with(&request.body));
    assert!(request.uri.host().is_some(), "{}", request.uri);
    assert!(!request.status.code.is_informational());
    assert_eq!(HoldRequest::decode(&request.encode().into()), Ok(request));
});
