//! `hub.toml`, without the files that it names.
#![no_main]

use std::path::Path;

use gripline_hub::config::RawConfig;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(mut raw) = RawConfig::from_toml(text) else {
        return;
    };
    raw.routes_file = None;
    raw.origin_tls.ca = None;
    // Whatever file that is, it is not for us to read.
    if format!("{raw:?}").contains("file:") {
        return;
    }
    if let Err(errors) = raw.check(Path::new("")) {
        assert!(!errors.mistakes().is_empty());
    }
});
