//! Purge requests: what is to be purged are surrogate keys.
#![no_main]

use grip::cache::PurgeRequest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(purge) = PurgeRequest::parse(bytes) else {
        return;
    };
    assert!(purge.surrogate_keys.len() >= purge.entries);
    for key in purge.surrogate_keys {
        assert!((1..=1024).contains(&key.len()), "{key:?}");
        assert!(key.bytes().all(|byte| byte.is_ascii_graphic()), "{key:?}");
    }
});
