//! The script that a JSONP request is answered with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, SET_COOKIE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::JsonpError;
use crate::hold::Answer;
use crate::instruct::Status;

/// What a script gets as its callback's argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JsonpMode {
    /// The answer's body, which has to be an expression of JavaScript, such as JSON.
    Basic,
    /// An object of `body` (text), `code`, `headers` and `reason`.
    #[default]
    Extended,
}

/// What makes a script of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jsonp {
    mode: JsonpMode,
    /// Safe to write into a script.
    callback: String,
}

impl Jsonp {
    pub(super) fn new(mode: JsonpMode, callback: Vec<u8>) -> Result<Self, JsonpError> {
        String::from_utf8(callback)
            .ok()
            .filter(|callback| is_safe(callback))
            .map(|callback| Self { mode, callback })
            .ok_or(JsonpError::Callback)
    }

    /// The script that calls back with an answer, to be sent with status 200 whatever the
    /// answer's is. Of its headers only `Cache-Control` is on the script too.
    ///
    /// `headers` are those that the client would get without JSONP.
    pub fn wrap(&self, status: &Status, headers: &HeaderMap, body: &[u8]) -> Answer {
        let body = if status.is_bodiless() { &[] } else { body };
        let argument = match self.mode {
            JsonpMode::Basic => Cow::Borrowed(without_newline(body)),
            JsonpMode::Extended => Cow::Owned(described(status, headers, body).into_bytes()),
        };
        Answer {
            status: Status::new(StatusCode::OK),
            headers: script_headers(headers),
            body: self.call(&argument),
        }
    }

    fn call(&self, argument: &[u8]) -> Bytes {
        // The comment keeps the script from beginning with bytes of the client's choice, which
        // could make another kind of file of it.
        let parts = [b"/**/", self.callback.as_bytes(), b"(", argument, b");\n"];
        Bytes::from(parts.concat())
    }
}

/// Whether a callback is only names, members and indexes, so that it can do nothing but be called.
fn is_safe(callback: &str) -> bool {
    let is_safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'[' | b']');
    !callback.is_empty() && callback.bytes().all(is_safe)
}

fn without_newline(body: &[u8]) -> &[u8] {
    match body.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => body,
    }
}

/// The argument in extended mode. Members stand in the order of their names.
#[derive(Serialize)]
struct Described<'a> {
    body: Cow<'a, str>,
    code: u16,
    headers: BTreeMap<&'a str, String>,
    reason: &'a str,
}

fn described(status: &Status, headers: &HeaderMap, body: &[u8]) -> String {
    let described = Described {
        body: String::from_utf8_lossy(body),
        code: status.code.as_u16(),
        headers: described_headers(headers),
        reason: status.reason(),
    };
    let json = serde_json::to_string(&described).expect("numbers and strings are always JSON");
    // JSON that stands in a script: older engines end a line, and with it the string, at U+2028
    // and U+2029, and in a page `</script>` ends the script. None of them stands outside of
    // strings, where these escapes mean the same to every JSON parser.
    json.replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
        .replace("</", "<\\/")
}

fn described_headers(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut described = BTreeMap::new();
    // Browsers hide cookies from scripts of other origins; through here they would see them.
    for name in headers.keys().filter(|name| **name != SET_COOKIE) {
        let values: Vec<Cow<'_, str>> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        described.insert(name.as_str(), values.join(", "));
    }
    described
}

fn script_headers(answer: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/javascript"),
    );
    for value in answer.get_all(CACHE_CONTROL) {
        headers.append(CACHE_CONTROL, value.clone());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::super::{headers_of, lines_of};
    use super::*;
    use serde_json::Value;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check_script(
        mode: JsonpMode,
        status: u16,
        headers: &[(&'static str, &str)],
        body: &[u8],
        expected: &[u8],
    ) {
        let wrap = Jsonp::new(mode, b"cb".to_vec()).unwrap();
        let status = Status::new(StatusCode::from_u16(status).unwrap());
        let answer = wrap.wrap(&status, &headers_of(headers), body);
        assert_eq!(answer.body, expected, "{}", answer.body.escape_ascii());
        assert_eq!(answer.status, Status::new(StatusCode::OK));
    }

    #[test]
    fn basic_mode_calls_back_with_the_body() {
        for (body, expected) in [
            (&b"{\"a\": 1}"[..], &b"/**/cb({\"a\": 1});\n"[..]),
            (b"1\n", b"/**/cb(1);\n"),
            (b"1\r\n", b"/**/cb(1);\n"),
            (b"1\n\n", b"/**/cb(1\n);\n"),
            (b"1\r", b"/**/cb(1\r);\n"),
            (b"\n1", b"/**/cb(\n1);\n"),
            (b"", b"/**/cb();\n"),
            (b"\xff</", b"/**/cb(\xff</);\n"),
        ] {
            check_script(JsonpMode::Basic, 404, &[("x-a", "1")], body, expected);
        }
        check_script(JsonpMode::Basic, 304, &[], b"1", b"/**/cb();\n");
    }

    #[test]
    fn extended_mode_calls_back_with_all_of_the_answer() {
        check_script(
            JsonpMode::Extended,
            200,
            &[("x-b", "1"), ("content-type", "text/plain"), ("x-b", "2")],
            b"a\"b\n",
            br#"/**/cb({"body":"a\"b\n","code":200,"headers":{"content-type":"text/plain","x-b":"1, 2"},"reason":"OK"});
"#,
        );
        check_script(
            JsonpMode::Extended,
            204,
            &[],
            b"x",
            b"/**/cb({\"body\":\"\",\"code\":204,\"headers\":{},\"reason\":\"No Content\"});\n",
        );
        check_script(
            JsonpMode::Extended,
            799,
            &[],
            b"",
            b"/**/cb({\"body\":\"\",\"code\":799,\"headers\":{},\"reason\":\"\"});\n",
        );
    }

    #[test]
    fn a_cookie_is_not_for_scripts() {
        check_script(
            JsonpMode::Extended,
            200,
            &[("set-cookie", "a=b; HttpOnly"), ("x-a", "1")],
            b"",
            b"/**/cb({\"body\":\"\",\"code\":200,\"headers\":{\"x-a\":\"1\"},\"reason\":\"OK\"});\n",
        );
    }

    fn extended_script(status: &Status, headers: &HeaderMap, body: &[u8]) -> String {
        let wrap = Jsonp::new(JsonpMode::Extended, b"cb".to_vec()).unwrap();
        String::from_utf8(wrap.wrap(status, headers, body).body.to_vec()).unwrap()
    }

    /// The argument of an extended script's callback.
    fn argument(script: &str) -> Value {
        let json = script.strip_prefix("/**/cb(").unwrap();
        serde_json::from_str(json.strip_suffix(");\n").unwrap()).unwrap()
    }

    #[track_caller]
    fn check_text(body: &[u8], expected: &str) {
        let ok = Status::new(StatusCode::OK);
        let script = extended_script(&ok, &HeaderMap::new(), body);
        let expected = format!(
            "/**/cb({{\"body\":\"{expected}\",\"code\":200,\"headers\":{{}},\"reason\":\"OK\"}});\n"
        );
        assert_eq!(script, expected);
        assert_eq!(
            argument(&script)["body"],
            *String::from_utf8_lossy(body),
            "{script}"
        );
    }

    #[test]
    fn text_cannot_break_out_of_the_script() {
        check_text(b"</script><b>", r"<\/script><b>");
        check_text(b"<</</", r"<<\/<\/");
        check_text(br"<\/", r"<\\/");
        check_text("a\u{2028}b\u{2029}".as_bytes(), r"a\u2028b\u2029");
        check_text(b"\"\\\n\r\0", r#"\"\\\n\r\u0000"#);
        check_text("\u{e9}\u{1f600}".as_bytes(), "\u{e9}\u{1f600}");
        check_text(b"a\xff\xc3", "a\u{fffd}\u{fffd}");
    }

    #[test]
    fn headers_and_reason_cannot_break_out_either() {
        let status = Status {
            code: StatusCode::OK,
            reason: Some("</script>\u{2028}".to_owned()),
        };
        let mut headers = headers_of(&[("x-a", "</script>\u{2029}")]);
        headers.insert("x-b", HeaderValue::from_bytes(b"\xff").unwrap());
        let script = extended_script(&status, &headers, b"");
        assert!(!script.contains(['\u{2028}', '\u{2029}']) && !script.contains("</"));
        let argument = argument(&script);
        assert_eq!(argument["reason"], "</script>\u{2028}");
        assert_eq!(argument["headers"]["x-a"], "</script>\u{2029}");
        assert_eq!(argument["headers"]["x-b"], "\u{fffd}");
    }

    #[test]
    fn the_script_may_be_cached_like_the_answer() {
        let headers = headers_of(&[
            ("cache-control", "private"),
            ("cache-control", "max-age=5"),
            ("content-type", "application/json"),
            ("etag", "\"1\""),
            ("content-length", "2"),
        ]);
        for mode in [JsonpMode::Basic, JsonpMode::Extended] {
            let wrap = Jsonp::new(mode, b"cb".to_vec()).unwrap();
            let answer = wrap.wrap(&Status::new(StatusCode::NOT_FOUND), &headers, b"{}");
            let expected = [
                ("cache-control", "private"),
                ("cache-control", "max-age=5"),
                ("content-type", "application/javascript"),
            ];
            assert_eq!(lines_of(&answer.headers), expected);
        }
    }
}
