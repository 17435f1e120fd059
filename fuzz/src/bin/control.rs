//! Publishers: a request's target, and its headers. Only who knows a secret may publish.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use grip::UnixTime;
use gripline_fuzz::{headers, split_once};
use gripline_hub::config::{Config, RawConfig};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = r#"
        control_base = "/base"
        [control_auth]
        key = "changeme"
        user = "user"
        password = "pass"
    "#;
    let raw = RawConfig::from_toml(text).expect("TOML");
    raw.check(Path::new("")).expect("a configuration")
});

/// `changeme`, and `user:pass` in Base64 without padding.
const SECRETS: [&[u8]; 2] = [b"changeme", b"dXNlcjpwYXNz"];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (target, fields) = split_once(bytes, b"\n");
    let target = String::from_utf8_lossy(target);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let now = UnixTime(1_700_000_000);
    if gripline_hub::fuzzing::may_publish(&CONFIG, path, query, &headers(fields), now) {
        assert!(target.contains("/publish"));
        let has = |secret: &&[u8]| fields.windows(secret.len()).any(|window| window == *secret);
        assert!(SECRETS.iter().any(has));
    }
});
