//! Header fields by their role: hop-by-hop, GRIP, and those that a held answer drops.

use http::header::{CONNECTION, HeaderMap, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

/// GRIP `Grip-Sig`: the proxy's signature on a request.
pub const GRIP_SIG: HeaderName = HeaderName::from_static("grip-sig");
/// GRIP `Grip-Feature`: what the proxy can do.
pub const GRIP_FEATURE: HeaderName = HeaderName::from_static("grip-feature");
/// GRIP `Grip-Hold`.
pub const GRIP_HOLD: HeaderName = HeaderName::from_static("grip-hold");
/// GRIP `Grip-Link`: where a stream goes on, and whom to tell of its end.
pub const GRIP_LINK: HeaderName = HeaderName::from_static("grip-link");
/// GRIP `Grip-Channel`.
pub const GRIP_CHANNEL: HeaderName = HeaderName::from_static("grip-channel");
/// GRIP `Grip-Expose-Headers`: the only headers that a client may see.
pub const GRIP_EXPOSE_HEADERS: HeaderName = HeaderName::from_static("grip-expose-headers");
/// GRIP `Grip-Last`: the last ids a client has seen, on retries and link requests.
pub const GRIP_LAST: HeaderName = HeaderName::from_static("grip-last");

/// `Gripline-Stale`: the edge's word to the hub that an answer is old because the origin fails: its
/// ids may be older than the hub's history, and nobody can be asked for what came after them.
pub const GRIPLINE_STALE: HeaderName = HeaderName::from_static("gripline-stale");

/// `Gripline-Age`: the edge's word to the hub how old an answer is, in milliseconds; `Age` has whole
/// seconds only, RFC 9111 §5.1. Who attaches with it may have missed what was published since.
pub const GRIPLINE_AGE: HeaderName = HeaderName::from_static("gripline-age");

/// `Gripline-Host`: the host that a client asked the edge for, on what the edge hands to the hub;
/// ours. It counts only where [`GRIPLINE_SIG`] vouches for it.
pub const GRIPLINE_HOST: HeaderName = HeaderName::from_static("gripline-host");
/// `Gripline-Sig`: the edge's signature on what it hands to the hub; ours.
pub const GRIPLINE_SIG: HeaderName = HeaderName::from_static("gripline-sig");
/// `Gripline-Refused`: the hub's answer is not for the client: it does not hold what the edge asked
/// it to hold; ours.
pub const GRIPLINE_REFUSED: HeaderName = HeaderName::from_static("gripline-refused");

/// The value of `Grip-Feature`: the GRIP features that work through this hub and edge.
///
/// Libraries split it at a comma and one space.
pub const GRIP_FEATURES: &str = "status, link:next, link:gone, filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, filter:var-subst, filter:http-check, filter:http-modify";

const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether the field speaks of one connection only and is never forwarded; RFC 9110 §7.6.1.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Whether the field is a GRIP instruction or signature: any name that begins with `Grip-`.
pub fn is_grip(name: &HeaderName) -> bool {
    name.as_str().starts_with("grip-")
}

/// The names listed in `Connection`, which are hop-by-hop too; RFC 9110 §7.6.1.
pub fn connection_names(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// Removes all hop-by-hop fields, those named in `Connection` included.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named = connection_names(headers);
    retain(headers, |name| {
        !is_hop_by_hop(name) && !named.contains(name)
    });
}

/// Removes every `Grip-*` field.
pub fn strip_grip(headers: &mut HeaderMap) {
    retain(headers, |name| !is_grip(name));
}

/// Removes every field but the exposed ones, if any are named; GRIP `Grip-Expose-Headers`.
pub fn keep_exposed(headers: &mut HeaderMap, exposed: &[HeaderName]) {
    if !exposed.is_empty() {
        retain(headers, |name| exposed.contains(name));
    }
}

/// Removes fields and leaves the others in their order, which `HeaderMap::remove` does not.
pub fn retain(headers: &mut HeaderMap, keeps: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&keeps) {
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in &*headers {
        if keeps(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    *headers = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_is_kept_keeps_its_order() {
        let mut headers = HeaderMap::new();
        for name in ["a", "connection", "b", "c", "b"] {
            headers.append(name, HeaderValue::from_static("x"));
        }
        strip_hop_by_hop(&mut headers);
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(headers.get_all("b").iter().count(), 2);
    }

    #[test]
    fn fields_named_in_connection_are_dropped_with_it() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close, X-Private"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("x-public", HeaderValue::from_static("2"));
        strip_hop_by_hop(&mut headers);
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-public"]);
    }

    #[test]
    fn every_grip_field_is_dropped_known_or_not() {
        let mut headers = HeaderMap::new();
        for name in [
            "grip-hold",
            "grip-channel",
            "grip-anything",
            "gripline-host",
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        strip_grip(&mut headers);
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["gripline-host"]);
    }
}
