//! The `Access-Control-*` fields of an answer whose origin wrote none.

use http::HeaderValue;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_LANGUAGE,
    CONTENT_LENGTH, CONTENT_TYPE, EXPIRES, HeaderMap, HeaderName, LAST_MODIFIED, ORIGIN, PRAGMA,
};

use crate::{fields, value};

/// What of a request decides about the `Access-Control-*` fields of its answer; Fetch, CORS protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    origin: HeaderValue,
}

impl Cors {
    /// Remembers what the request asks for; an empty field counts as absent.
    pub fn of_request(headers: &HeaderMap) -> Self {
        const EVERY_METHOD: &str = "OPTIONS, HEAD, GET, POST, PUT, DELETE";
        let given = |name| headers.get(name).filter(|value| !value.is_empty()).cloned();
        Self {
            methods: given(ACCESS_CONTROL_REQUEST_METHOD)
                .unwrap_or(HeaderValue::from_static(EVERY_METHOD)),
            headers: joined(
                value::list(headers, &ACCESS_CONTROL_REQUEST_HEADERS)
                    .filter(|name| !name.is_empty()),
            ),
            origin: given(ORIGIN).unwrap_or(HeaderValue::from_static("*")),
        }
    }

    /// Adds each field that the answer does not have yet. `headers` are those that the client
    /// gets, because their names are listed in `Access-Control-Expose-Headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let exposed = joined(
            headers
                .keys()
                .filter(|name| needs_exposure(name))
                .map(|name| name.as_str().as_bytes()),
        );
        let wanted = [
            (ACCESS_CONTROL_ALLOW_METHODS, Some(self.methods.clone())),
            (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone()),
            (ACCESS_CONTROL_EXPOSE_HEADERS, exposed),
            (
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                Some(HeaderValue::from_static("true")),
            ),
            (ACCESS_CONTROL_ALLOW_ORIGIN, Some(self.origin.clone())),
            (
                ACCESS_CONTROL_MAX_AGE,
                Some(HeaderValue::from_static("3600")),
            ),
        ];
        for (name, value) in wanted {
            if let Some(value) = value {
                headers.entry(name).or_insert(value);
            }
        }
    }
}

/// Whether pages see the field only if it is listed, and may know of it at all.
fn needs_exposure(name: &HeaderName) -> bool {
    const ALWAYS_EXPOSED: [HeaderName; 7] = [
        CACHE_CONTROL,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        EXPIRES,
        LAST_MODIFIED,
        PRAGMA,
    ];
    !ALWAYS_EXPOSED.contains(name)
        && !name.as_str().starts_with("access-control-")
        && !fields::is_grip(name)
}

fn joined<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let list = pieces.collect::<Vec<_>>().join(&b", "[..]);
    HeaderValue::from_bytes(&list)
        .ok()
        .filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::{headers_of, lines_of};
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Applies the request's wishes to the answer and compares the answer's line of this name.
    #[track_caller]
    fn check(
        request: &[(&'static str, &str)],
        answer: &[(&'static str, &str)],
        name: &str,
        expected: Option<&str>,
    ) {
        let mut headers = headers_of(answer);
        Cors::of_request(&headers_of(request)).apply(&mut headers);
        let found: Vec<&str> = headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_plain_request_allows_everything() {
        let mut headers = HeaderMap::new();
        Cors::of_request(&HeaderMap::new()).apply(&mut headers);
        let expected = [
            ("access-control-allow-credentials", "true"),
            (
                "access-control-allow-methods",
                "OPTIONS, HEAD, GET, POST, PUT, DELETE",
            ),
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "3600"),
        ];
        assert_eq!(lines_of(&headers), expected);
    }

    #[test]
    fn the_wanted_method_is_allowed() {
        let (wanted, allowed) = (
            "access-control-request-method",
            "access-control-allow-methods",
        );
        let every = "OPTIONS, HEAD, GET, POST, PUT, DELETE";
        check(&[(wanted, "PATCH")], &[], allowed, Some("PATCH"));
        check(&[(wanted, "")], &[], allowed, Some(every));
    }

    #[test]
    fn the_wanted_headers_are_allowed() {
        let (wanted, allowed) = (
            "access-control-request-headers",
            "access-control-allow-headers",
        );
        check(&[(wanted, "X-A")], &[], allowed, Some("X-A"));
        check(&[(wanted, "x-a,x-b")], &[], allowed, Some("x-a, x-b"));
        check(
            &[(wanted, "x-a, ,x-b,"), (wanted, "x-c")],
            &[],
            allowed,
            Some("x-a, x-b, x-c"),
        );
        check(&[(wanted, "")], &[], allowed, None);
        check(&[(wanted, " , ")], &[], allowed, None);
    }

    #[test]
    fn the_asking_origin_is_allowed() {
        let allowed = "access-control-allow-origin";
        let origin = "https://a.example";
        check(&[("origin", origin)], &[], allowed, Some(origin));
        check(&[("origin", "null")], &[], allowed, Some("null"));
        check(&[("origin", "")], &[], allowed, Some("*"));
    }

    #[test]
    fn all_but_well_known_fields_are_exposed() {
        let exposed = "access-control-expose-headers";
        check(&[], &[("x-a", "1")], exposed, Some("x-a"));
        check(
            &[],
            &[
                ("x-a", "1"),
                ("x-a", "2"),
                ("etag", "\"1\""),
                ("griplike", "1"),
            ],
            exposed,
            Some("x-a, etag, griplike"),
        );
        for silent in [
            "cache-control",
            "content-language",
            "content-length",
            "content-type",
            "expires",
            "last-modified",
            "pragma",
            "access-control-anything",
            "grip-anything",
        ] {
            check(&[], &[(silent, "1")], exposed, None);
        }
    }

    #[test]
    fn what_the_origin_says_stays() {
        for name in [
            "access-control-allow-methods",
            "access-control-allow-headers",
            "access-control-expose-headers",
            "access-control-allow-credentials",
            "access-control-allow-origin",
            "access-control-max-age",
        ] {
            check(
                &[
                    ("access-control-request-method", "PATCH"),
                    ("access-control-request-headers", "x-b"),
                    ("origin", "https://a.example"),
                ],
                &[(name, "own"), ("x-a", "1")],
                name,
                Some("own"),
            );
        }
    }
}
