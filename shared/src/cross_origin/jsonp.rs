//! JSONP requests: a script's URL says what to ask the origin.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, VIA,
};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::query::{Query, decode};
use super::script::{Jsonp, JsonpMode};
use crate::fields;

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// How a route reads and answers JSONP requests. The names are decoded and not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonpRules {
    /// The callback's argument.
    pub mode: JsonpMode,
    /// The parameter that names the callback.
    pub callback: String,
    /// The parameter that holds a JSON body; absent: `_body` holds one of any type.
    pub body: Option<String>,
    /// The callback of requests that name none, but have the parameter [`Self::body`].
    pub default_callback: Option<String>,
    /// The method of requests without `_method`; absent: GET in extended mode, POST in basic mode.
    pub default_method: Option<Method>,
}

impl Default for JsonpRules {
    fn default() -> Self {
        Self {
            mode: JsonpMode::default(),
            callback: "callback".to_owned(),
            body: None,
            default_callback: None,
            default_method: None,
        }
    }
}

/// A JSONP request taken apart: what to ask the origin, and what to do with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonpRequest {
    /// The method for the origin.
    pub method: Method,
    /// The target for the origin, without the parameters that are JSONP's own.
    pub path_and_query: PathAndQuery,
    /// Headers for the origin: the client's without hop-by-hop fields, under those of `_headers`.
    /// `Content-Length` is that of [`Self::body`], and absent if that is empty.
    pub headers: HeaderMap,
    /// The body for the origin.
    pub body: Bytes,
    /// What makes a script of the answer.
    pub wrap: Jsonp,
}

/// What is wrong with a JSONP request; the client gets the text with status 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonpError {
    /// The callback's name is not safe to write into a script, or empty.
    #[error("Invalid callback parameter.")]
    Callback,
    /// `_method` is no method, or one that no page may send.
    #[error("Invalid _method parameter.")]
    Method,
    /// `_headers` is no JSON object of strings that may stand in headers.
    #[error("Invalid _headers parameter.")]
    Headers,
    /// The parameter [`JsonpRules::body`] is not encoded as parameters are.
    #[error("Invalid body parameter.")]
    JsonBody,
    /// `_body` is not encoded as parameters are.
    #[error("Invalid _body parameter.")]
    Body,
}

impl JsonpRules {
    /// Takes a request apart; absent: it is not a JSONP request, because it is no GET or says
    /// nothing of a callback. What the client sent as body, if anything, is not for the origin.
    ///
    /// A parameter that is given more than once counts once, with its first value.
    pub fn take_apart(
        &self,
        method: &Method,
        path_and_query: &PathAndQuery,
        headers: &HeaderMap,
    ) -> Result<Option<JsonpRequest>, JsonpError> {
        if *method != Method::GET {
            return Ok(None);
        }
        let mut query = Query::of(path_and_query);
        let Some(wrap) = self.take_callback(&mut query)? else {
            return Ok(None);
        };
        let method = self.take_method(&mut query)?;
        let given = take_headers(&mut query)?;
        let body = self.take_body(&mut query)?;
        Ok(Some(JsonpRequest {
            method,
            path_and_query: query.behind(path_and_query.path()),
            headers: origin_headers(headers, given, &body),
            body: body.bytes,
            wrap,
        }))
    }

    fn take_callback(&self, query: &mut Query<'_>) -> Result<Option<Jsonp>, JsonpError> {
        let callback = match query.take(&self.callback) {
            Some(value) => decode(value).ok_or(JsonpError::Callback)?,
            None => match &self.default_callback {
                Some(callback) if self.has_json_body(query) => callback.clone().into_bytes(),
                _ => return Ok(None),
            },
        };
        Jsonp::new(self.mode, callback).map(Some)
    }

    fn has_json_body(&self, query: &Query<'_>) -> bool {
        self.body.as_ref().is_some_and(|name| query.has(name))
    }

    fn take_method(&self, query: &mut Query<'_>) -> Result<Method, JsonpError> {
        match (query.take("_method"), &self.default_method, self.mode) {
            (Some(value), ..) => decode(value)
                .and_then(|method| Method::from_bytes(&method).ok())
                .filter(is_sendable)
                .ok_or(JsonpError::Method),
            (None, Some(method), _) => Ok(method.clone()),
            (None, None, JsonpMode::Extended) => Ok(Method::GET),
            (None, None, JsonpMode::Basic) => Ok(Method::POST),
        }
    }

    fn take_body(&self, query: &mut Query<'_>) -> Result<Body, JsonpError> {
        let (name, content_type, error) = match &self.body {
            Some(name) => (name.as_str(), Some(JSON), JsonpError::JsonBody),
            None => ("_body", None, JsonpError::Body),
        };
        let Some(value) = query.take(name) else {
            return Ok(Body::default());
        };
        Ok(Body {
            bytes: Bytes::from(decode(value).ok_or(error)?),
            content_type,
        })
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body for the origin, and its type where the route knows it.
#[derive(Default)]
struct Body {
    bytes: Bytes,
    content_type: Option<HeaderValue>,
}

/// Whether a page may send the method; Fetch, forbidden methods.
///
/// CONNECT has no path, and the answer to TRACE shows cookies that are hidden from scripts.
fn is_sendable(method: &Method) -> bool {
    !matches!(*method, Method::CONNECT | Method::TRACE)
}

fn take_headers(query: &mut Query<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, JsonpError> {
    match query.take("_headers") {
        Some(value) => given_headers(value).ok_or(JsonpError::Headers),
        None => Ok(Vec::new()),
    }
}

fn given_headers(value: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let fields: BTreeMap<String, String> = serde_json::from_slice(&decode(value)?).ok()?;
    let mut given = Vec::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        if is_settable(&name) {
            given.push((name, value));
        }
    }
    Some(given)
}

/// Whether a page may set the field. The others are ignored: those that are set here, those that
/// speak of one connection or of the body's length, and those that proxies vouch for, because a
/// page must not speak in their name.
fn is_settable(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 7] = [
        ACCEPT,
        CDN_LOOP,
        CONTENT_LENGTH,
        EXPECT,
        FORWARDED,
        HOST,
        VIA,
    ];
    !RESERVED.contains(name)
        && !name.as_str().starts_with("x-forwarded-")
        && !fields::is_grip(name)
        && !fields::is_hop_by_hop(name)
}

fn origin_headers(
    client: &HeaderMap,
    given: Vec<(HeaderName, HeaderValue)>,
    body: &Body,
) -> HeaderMap {
    let mut headers = client.clone();
    fields::strip_hop_by_hop(&mut headers);
    headers.remove(CONTENT_LENGTH);
    for (name, _) in &given {
        headers.remove(name);
    }
    for (name, value) in given {
        // Names that differ in case only are distinct in JSON.
        headers.append(name, value);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    if let Some(content_type) = &body.content_type {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    if !body.bytes.is_empty() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.bytes.len()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::super::{headers_of, lines_of};
    use super::*;
    use crate::instruct::Status;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn basic() -> JsonpRules {
        JsonpRules {
            mode: JsonpMode::Basic,
            ..JsonpRules::default()
        }
    }

    /// Rules with `jsonp_cb=cb`, `jsonp_body=data`, `jsonp_defcb=own.cb`, `jsonp_defmethod=PUT`.
    fn custom() -> JsonpRules {
        JsonpRules {
            mode: JsonpMode::Extended,
            callback: "cb".to_owned(),
            body: Some("data".to_owned()),
            default_callback: Some("own.cb".to_owned()),
            default_method: Some(Method::PUT),
        }
    }

    fn take_apart(rules: &JsonpRules, target: &str) -> Result<Option<JsonpRequest>, JsonpError> {
        let target = PathAndQuery::try_from(target).unwrap();
        rules.take_apart(&Method::GET, &target, &HeaderMap::new())
    }

    fn taken_apart(rules: &JsonpRules, target: &str) -> JsonpRequest {
        take_apart(rules, target).unwrap().unwrap()
    }

    fn jsonp(mode: JsonpMode, callback: &str) -> Jsonp {
        Jsonp::new(mode, callback.into()).unwrap()
    }

    /// `expected` is callback, method, target and body.
    #[track_caller]
    fn check(rules: &JsonpRules, target: &str, expected: [&str; 4]) {
        let request = taken_apart(rules, target);
        let [callback, expected @ ..] = expected;
        let found = [
            request.method.as_str(),
            request.path_and_query.as_str(),
            std::str::from_utf8(&request.body).unwrap(),
        ];
        assert_eq!(found, expected);
        assert_eq!(request.wrap, jsonp(rules.mode, callback));
    }

    #[track_caller]
    fn check_plain(rules: &JsonpRules, target: &str) {
        assert_eq!(take_apart(rules, target), Ok(None));
    }

    #[track_caller]
    fn check_error(rules: &JsonpRules, target: &str, expected: &str) {
        let error = take_apart(rules, target).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_get_with_a_callback_is_jsonp() {
        let rules = JsonpRules::default();
        check(&rules, "/a?callback=cb", ["cb", "GET", "/a", ""]);
        check(&rules, "/a?c%61llback=c%62", ["cb", "GET", "/a", ""]);
        check(&rules, "/a?callback=b&callback=c", ["b", "GET", "/a", ""]);
        check_plain(&rules, "/a");
        check_plain(&rules, "/a?");
        check_plain(&rules, "/a?cb=x&_method=PUT&_body=x");
        check_plain(&rules, "/a?Callback=x");
    }

    #[test]
    fn other_methods_are_not_jsonp() {
        let target = PathAndQuery::from_static("/a?callback=cb");
        for method in [Method::POST, Method::HEAD, Method::OPTIONS] {
            let found = JsonpRules::default().take_apart(&method, &target, &HeaderMap::new());
            assert_eq!(found, Ok(None), "{method}");
        }
    }

    #[test]
    fn routes_choose_names_and_defaults() {
        let rules = custom();
        check(&rules, "/a?cb=f", ["f", "PUT", "/a", ""]);
        check(&rules, "/a?cb=f&data={}", ["f", "PUT", "/a", "{}"]);
        check(&rules, "/a?data={}&b", ["own.cb", "PUT", "/a?b", "{}"]);
        check(
            &rules,
            "/a?data=1&callback=f&_body=2",
            ["own.cb", "PUT", "/a?callback=f&_body=2", "1"],
        );
        check_plain(&rules, "/a?callback=f");
        let without_body = JsonpRules {
            body: None,
            ..custom()
        };
        check_plain(&without_body, "/a?data=1&_body=2");
        let without_callback = JsonpRules {
            default_callback: None,
            ..custom()
        };
        check_plain(&without_callback, "/a?data=1");
    }

    #[test]
    fn callbacks_are_safe_to_write_into_a_script() {
        let rules = JsonpRules::default();
        for callback in ["a", "$", "_.$", "jQuery1_2", "a.b[0].c", "A9"] {
            let target = format!("/?callback={callback}");
            check(&rules, &target, [callback, "GET", "/", ""]);
        }
        for bad in [
            "",
            "%",
            "%4",
            "%zz",
            "a(b)",
            "a%28",
            "a+b",
            "a;b",
            "a-b",
            "%3C",
            "a%0A",
            "a%00",
            "%22a%22",
            "'a'",
            "a/b",
            "a%3Db",
            "%FF",
            "%C3%A9",
            "%E2%80%A8",
            "a%5C",
        ] {
            check_error(
                &rules,
                &format!("/?callback={bad}"),
                "Invalid callback parameter.",
            );
        }
        check_error(&rules, "/?callback", "Invalid callback parameter.");
        let careless = JsonpRules {
            default_callback: Some("alert(1);f".to_owned()),
            ..custom()
        };
        check_error(&careless, "/?data=1", "Invalid callback parameter.");
    }

    #[test]
    fn the_method_is_a_parameter_or_the_modes() {
        let extended = JsonpRules::default();
        check(&extended, "/?callback=f", ["f", "GET", "/", ""]);
        check(&basic(), "/?callback=f", ["f", "POST", "/", ""]);
        for rules in [extended, basic(), custom()] {
            let given = format!("/?_method=PATCH&{}=f&_method=PUT", rules.callback);
            check(&rules, &given, ["f", "PATCH", "/", ""]);
        }
        let rules = JsonpRules::default();
        check(&rules, "/?callback=f&_method=x-%61", ["f", "x-a", "/", ""]);
        for bad in [
            "", "%", "A+B", "A%20B", "A%0D%0AB", "%FF", "CONNECT", "TRACE",
        ] {
            check_error(
                &rules,
                &format!("/?callback=f&_method={bad}"),
                "Invalid _method parameter.",
            );
        }
    }

    #[test]
    fn the_body_is_a_parameter() {
        let rules = JsonpRules::default();
        check(&rules, "/?callback=f&_body=", ["f", "GET", "/", ""]);
        check(
            &rules,
            "/?callback=f&_body=a+%2B%3D=",
            ["f", "GET", "/", "a +=="],
        );
        check(
            &rules,
            "/?callback=f&_body=1&_body=2",
            ["f", "GET", "/", "1"],
        );
        check_error(&rules, "/?callback=f&_body=%4", "Invalid _body parameter.");
        check_error(&custom(), "/?cb=f&data=%4", "Invalid body parameter.");
        let request = taken_apart(&rules, "/?callback=f&_body=%FF%00");
        assert_eq!(request.body, &b"\xff\0"[..]);
    }

    #[test]
    fn other_parameters_stay_as_they_were() {
        check(
            &JsonpRules::default(),
            "/a%20b?z=1&_headers={}&%61=+%2b&callback=f&_method=PUT&b&_body=x&c=%zz&z=2",
            ["f", "PUT", "/a%20b?z=1&%61=+%2b&b&c=%zz&z=2", "x"],
        );
    }

    #[test]
    fn the_first_mistake_is_told() {
        let rules = JsonpRules::default();
        let all = "callback=%&_method=%&_headers=%&_body=%";
        check_error(&rules, &format!("/?{all}"), "Invalid callback parameter.");
        let all = all.replacen("=%", "=f", 1);
        check_error(&rules, &format!("/?{all}"), "Invalid _method parameter.");
        let all = all.replacen("=%", "=PUT", 1);
        check_error(&rules, &format!("/?{all}"), "Invalid _headers parameter.");
        let all = all.replacen("=%", "={}", 1);
        check_error(&rules, &format!("/?{all}"), "Invalid _body parameter.");
    }

    #[track_caller]
    fn check_headers(
        rules: &JsonpRules,
        target: &str,
        client: &[(&'static str, &str)],
        expected: &[(&str, &str)],
    ) {
        let target = PathAndQuery::try_from(target).unwrap();
        let found = rules.take_apart(&Method::GET, &target, &headers_of(client));
        assert_eq!(lines_of(&found.unwrap().unwrap().headers), expected);
    }

    #[test]
    fn every_media_type_is_accepted() {
        let rules = JsonpRules::default();
        let accepted = [("accept", "*/*")];
        check_headers(&rules, "/?callback=f", &[], &accepted);
        check_headers(
            &rules,
            "/?callback=f",
            &[("accept", "text/html"), ("accept", "text/javascript")],
            &accepted,
        );
    }

    #[test]
    fn what_speaks_of_the_clients_own_message_is_left_out() {
        check_headers(
            &JsonpRules::default(),
            "/?callback=f",
            &[
                ("connection", "close, x-hop"),
                ("content-length", "9"),
                ("host", "example.com"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("x-hop", "1"),
            ],
            &[("accept", "*/*"), ("host", "example.com")],
        );
    }

    #[test]
    fn given_headers_take_the_place_of_the_clients() {
        check_headers(
            &JsonpRules::default(),
            "/?callback=f&_headers={%22X-A%22:%223%22,%22x-a%22:%224+5%22,%22X-C%22:%22%C3%A9%22}",
            &[("x-a", "1"), ("x-a", "2"), ("x-b", "1")],
            &[
                ("accept", "*/*"),
                ("x-a", "3"),
                ("x-a", "4 5"),
                ("x-b", "1"),
                ("x-c", "\u{e9}"),
            ],
        );
    }

    #[test]
    fn some_headers_cannot_be_given() {
        let client = [("host", "example.com"), ("via", "1.1 a")];
        let expected = [("accept", "*/*"), ("host", "example.com"), ("via", "1.1 a")];
        for name in [
            "Accept",
            "CDN-Loop",
            "Connection",
            "Content-Length",
            "Expect",
            "Forwarded",
            "Grip-Sig",
            "HOST",
            "Transfer-Encoding",
            "Upgrade",
            "Via",
            "X-Forwarded-For",
        ] {
            let target = format!("/?callback=f&_headers={{%22{name}%22:%221%22}}");
            check_headers(&JsonpRules::default(), &target, &client, &expected);
        }
    }

    #[test]
    fn given_headers_are_an_object_of_strings() {
        for bad in [
            "",
            "%",
            "{",
            "[]",
            "null",
            "%22a%22",
            "{%22a%22:1}",
            "{%22a%22:null}",
            "{%22host%22:1}",
            "{%22a%22:[%22b%22]}",
            "{%22a+b%22:%22c%22}",
            "{%22%22:%22c%22}",
            "{%22a%22:%22b%5Cr%5Cn%22}",
            "{%22a%22:%22b%5Cu0000%22}",
            "{%22a%22:%22%FF%22}",
            "{}{}",
        ] {
            check_error(
                &JsonpRules::default(),
                &format!("/?callback=f&_headers={bad}"),
                "Invalid _headers parameter.",
            );
        }
    }

    #[test]
    fn a_body_has_its_length_and_on_some_routes_its_type() {
        let client = [("content-length", "9"), ("content-type", "text/plain")];
        check_headers(
            &JsonpRules::default(),
            "/?callback=f&_body=%C3%A9+",
            &client,
            &[
                ("accept", "*/*"),
                ("content-length", "3"),
                ("content-type", "text/plain"),
            ],
        );
        check_headers(
            &custom(),
            "/?data={}&_headers={%22content-type%22:%22text/html%22}",
            &client,
            &[
                ("accept", "*/*"),
                ("content-length", "2"),
                ("content-type", "application/json"),
            ],
        );
        check_headers(
            &custom(),
            "/?data=",
            &[],
            &[("accept", "*/*"), ("content-type", "application/json")],
        );
        check_headers(
            &custom(),
            "/?cb=f&_headers={%22content-type%22:%22text/html%22}",
            &[],
            &[("accept", "*/*"), ("content-type", "text/html")],
        );
    }

    /// A small generator, so that a seed reproduces a run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % bound as u64).unwrap()
        }
    }

    fn random_target(random: &mut Random) -> String {
        const PIECES: [&str; 32] = [
            "&",
            "&",
            "&",
            "&",
            "=",
            "=",
            "%",
            "%4",
            "%41",
            "%FF",
            "%00",
            "%0D%0A",
            "+",
            "?",
            "/",
            "\u{e9}",
            "a",
            "[0]",
            "(",
            "callback",
            "callback=",
            "c%61llback=f",
            "callback=f&",
            "&_method=",
            "PUT",
            "&_headers=",
            "{}",
            "{%22",
            "%22:%22",
            "%22}",
            "&_body=",
            "&data=",
        ];
        let mut target = ["/?", "/a/b?", "?"][random.below(3)].to_owned();
        for _ in 0..random.below(24) {
            target.push_str(PIECES[random.below(PIECES.len())]);
        }
        target
    }

    /// Any query is refused, left alone, or taken apart into something safe.
    #[test]
    fn no_query_does_harm() {
        let mut taken = 0;
        for seed in 1..=20_000_u64 {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let rules = [JsonpRules::default(), basic(), custom()][random.below(3)].clone();
            let target = random_target(&mut random);
            if let Ok(Some(request)) = take_apart(&rules, &target) {
                check_harmless(&rules, &request, &format!("seed {seed}, {target}"));
                taken += 1;
            }
        }
        assert!(taken > 1_000, "{taken}");
    }

    #[track_caller]
    fn check_harmless(rules: &JsonpRules, request: &JsonpRequest, context: &str) {
        let length = request.headers.get(CONTENT_LENGTH);
        let length = length.map_or("0", |value| value.to_str().unwrap());
        assert_eq!(length, request.body.len().to_string(), "{context}");
        let rest = &request.path_and_query;
        let again = rules.take_apart(&Method::GET, rest, &request.headers);
        assert_eq!(again, Ok(None), "{context}");
        let ok = Status::new(http::StatusCode::OK);
        let script = request.wrap.wrap(&ok, &request.headers, &request.body);
        let script = String::from_utf8_lossy(&script.body);
        let (callback, _) = script.split_once('(').unwrap();
        let callback = callback.strip_prefix("/**/").unwrap();
        let is_safe = |letter: char| letter.is_ascii_alphanumeric() || "_$.[]".contains(letter);
        assert!(
            !callback.is_empty() && callback.chars().all(is_safe),
            "{context}"
        );
    }
}
