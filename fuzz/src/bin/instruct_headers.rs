//! Instructions in headers.
#![no_main]

use grip::Limits;
use grip::instruct::Instruct;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (headers, limits) = (gripline_fuzz::headers(bytes), Limits::default());
    let Ok(instruct) = Instruct::from_headers(&headers, &limits) else {
        return;
    };
    assert!(instruct.channels.len() <= limits.channels);
    assert!(
        !instruct
            .client_headers(&headers)
            .keys()
            .any(grip::fields::is_grip)
    );
    for channel in instruct.channels {
        assert!(channel.name.as_str().len() <= limits.channel_name_bytes);
        assert!(channel.filters.len() <= limits.filters);
    }
});
