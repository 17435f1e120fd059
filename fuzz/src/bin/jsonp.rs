//! JSONP: a request's target, a line end, and the body of its answer.
#![no_main]

use grip::cross_origin::{JsonpMode, JsonpRules};
use grip::instruct::Status;
use gripline_fuzz::{headers, split_once};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (target, body) = split_once(bytes, b"\n");
    let Ok(target) = PathAndQuery::try_from(target) else {
        return;
    };
    let json = JsonpRules {
        mode: JsonpMode::Basic,
        body: Some("data".to_owned()),
        default_callback: Some("call".to_owned()),
        ..JsonpRules::default()
    };
    for rules in [JsonpRules::default(), json] {
        let given = headers(b"host: a\naccept: text/html\nconnection: close");
        if let Ok(Some(request)) = rules.take_apart(&Method::GET, &target, &given) {
            assert!(!request.headers.contains_key("connection"));
            let status = Status::new(StatusCode::OK);
            let script = request.wrap.wrap(&status, &headers(body), body).body;
            assert!(script.starts_with(b"/**/") && script.ends_with(b");\n"));
        }
    }
});
