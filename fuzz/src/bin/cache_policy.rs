//! The edge's decisions: a request's headers, an empty line, and those of its answer.
#![no_main]

use grip::UnixTime;
use grip::cache::{self, Entry, EntryKind, Policy, RequestKind};
use gripline_fuzz::{headers, split_once};
use http::{Method, StatusCode};

/// Bytes of a stored body.
const LENGTH: u64 = 1000;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (request, answer) = split_once(bytes, b"\n\n");
    let (target, request) = split_once(request, b"\n");
    let (request, answer) = (headers(request), headers(answer));
    let policy = Policy::default();
    let target = String::from_utf8_lossy(target);
    let path = target.split('?').next().unwrap_or_default();
    let kind = cache::classify(
        &Method::GET,
        "Example.com",
        path,
        &target,
        &request,
        &policy,
    );
    cache::next_hop(&request);
    for method in [Method::GET, Method::HEAD] {
        if let Ok((_, shown)) = cache::client_answer(&method, StatusCode::OK, &answer) {
            assert!(!shown.keys().any(grip::fields::is_grip), "{shown:?}");
        }
    }
    let RequestKind::Lookup(lookup) = kind else {
        return;
    };
    let fill = cache::fill_headers(&request, &lookup);
    assert!(!fill.contains_key("connection"), "{fill:?}");
    let now = UnixTime(1_700_000_000);
    cache::marking(&answer, &lookup, &policy);
    if let Ok(storage) = cache::storage(StatusCode::OK, &answer, &lookup, &policy, now) {
        assert!((1..=policy.max_ttl).contains(&storage.ttl), "{storage:?}");
        let headers = Entry::stored_headers(&answer);
        assert!(!headers.contains_key("set-cookie"));
        let entry = Entry {
            headers,
            ..Entry::marker(EntryKind::Answer, now, storage.ttl)
        };
        let selection = cache::select(&request, &entry, LENGTH);
        assert!(selection.body(LENGTH).end <= LENGTH, "{selection:?}");
        cache::conditions(&entry);
        cache::updated(&entry.headers, &request);
        cache::is_outdated(&entry.headers, &request, &answer);
    }
});
