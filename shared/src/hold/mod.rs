//! What a held request is answered with.
//!
//! The order of items by id belongs in a file beside this one.

mod packed;
mod patch;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};

use crate::Limits;
use crate::fields;
use crate::http1::{self, Framing, Persistence};
use crate::instruct::{self, Instruct, InstructError, Status};
use crate::publish::{ResponseBody, ResponseMessage};

pub use packed::PackedAnswer;

/// Reads a response with an instruction, in whichever form that is: what is to be done, and what
/// the client gets unless something is published.
///
/// # Errors
/// Whatever of the instruction cannot be followed.
pub fn read_response(
    origin: Status,
    headers: &HeaderMap,
    body: Bytes,
    limits: &Limits,
) -> Result<(Instruct, Answer), InstructError> {
    let instruct = Instruct::from_headers(headers, limits)?;
    if !instruct::has_instruct_type(headers) {
        let answer = Answer::instructed(&instruct, origin, headers, body);
        return Ok((instruct, answer));
    }
    if origin.code != StatusCode::OK {
        return Err(InstructError::ContentStatus);
    }
    let (instruct, content) = instruct.with_content(&body, limits)?;
    let answer = Answer {
        status: instruct
            .status
            .clone()
            .unwrap_or_else(|| Status::new(StatusCode::OK)),
        headers: content.headers,
        body: content.body,
    };
    Ok((instruct, answer))
}

/// A complete response: a held request's own, until something is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status line.
    pub status: Status,
    /// Headers for the client, without framing and hop-by-hop fields.
    pub headers: HeaderMap,
    /// The body, or a stream's initial part of it.
    pub body: Bytes,
}

impl Answer {
    /// The origin's response as its instruction shapes it; GRIP `Grip-Status`,
    /// `Grip-Expose-Headers`.
    pub fn instructed(
        instruct: &Instruct,
        origin: Status,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Self {
        Self {
            status: instruct.status.clone().unwrap_or(origin),
            headers: instruct.client_headers(headers),
            body,
        }
    }

    /// The answer that a published message makes of this one: the message's status and body,
    /// and its headers in place of those of the same name. The body is empty if it was to be
    /// patched and cannot be.
    #[must_use]
    pub fn published(&self, message: &ResponseMessage) -> Self {
        let mut headers = self.headers.clone();
        let is_replaced = |name: &HeaderName| {
            message
                .headers
                .iter()
                .any(|(replacing, _)| replacing == name)
        };
        fields::retain(&mut headers, |name| !is_replaced(name));
        for (name, value) in &message.headers {
            headers.append(name, value.clone());
        }
        fields::keep_exposed(&mut headers, &message.expose_headers);
        fields::strip_hop_by_hop(&mut headers);
        fields::retain(&mut headers, |name| *name != CONTENT_LENGTH);
        let body = match &message.body {
            ResponseBody::Complete(body) => body.clone(),
            ResponseBody::Patch(patch) => patch::apply(patch, &self.body).unwrap_or_default(),
        };
        Self {
            status: message.status.clone(),
            headers,
            body,
        }
    }

    /// The bytes of the whole response for an HTTP/1 client that asked with `method`: an answer to
    /// HEAD has no body, but its length; RFC 9110 §9.3.2.
    pub fn encode(
        &self,
        version: http::Version,
        method: &http::Method,
        persistence: Persistence,
    ) -> Bytes {
        let framing = if self.status.is_bodiless() {
            Framing::Bodiless
        } else {
            Framing::Length(self.body.len())
        };
        let mut out = Vec::with_capacity(256 + self.body.len());
        self.encode_head(&mut out, version, framing, persistence);
        if framing != Framing::Bodiless && *method != http::Method::HEAD {
            out.extend_from_slice(&self.body);
        }
        Bytes::from(out)
    }

    /// The head and the initial body of a stream that goes on, for an HTTP/1 client.
    ///
    /// `framing` is [`Framing::Chunked`] or, for HTTP/1.0, [`Framing::Close`].
    pub fn encode_stream_start(
        &self,
        version: http::Version,
        framing: Framing,
        persistence: Persistence,
    ) -> Bytes {
        let mut out = Vec::with_capacity(256 + self.body.len());
        self.encode_head(&mut out, version, framing, persistence);
        match framing {
            Framing::Chunked => http1::encode_chunk(&mut out, &self.body),
            _ => out.extend_from_slice(&self.body),
        }
        Bytes::from(out)
    }

    fn encode_head(
        &self,
        out: &mut Vec<u8>,
        version: http::Version,
        framing: Framing,
        persistence: Persistence,
    ) {
        http1::encode_head(
            out,
            version,
            &self.status,
            &self.headers,
            framing,
            persistence,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruct::HoldMode;
    use crate::noise::Noise;
    use crate::publish::{self, HttpResponse};
    use http::{HeaderValue, Method, Version};
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn instructed(status: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("etag", "\"1\""),
            ("grip-hold", "response"),
            ("grip-status", status),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let instruct = Instruct::from_headers(&headers, &Limits::default()).unwrap();
        let origin = Status::new(StatusCode::OK);
        Answer::instructed(
            &instruct,
            origin,
            &headers,
            Bytes::from_static(b"{\"a\":1}\n"),
        )
    }

    #[track_caller]
    fn check(answer: &Answer, expected: &str) {
        let bytes = answer.encode(Version::HTTP_11, &Method::GET, Persistence::Reuse);
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected);
    }

    fn read(
        origin: StatusCode,
        lines: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> Result<(Instruct, Answer), InstructError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let body = Bytes::from_static(body.as_bytes());
        read_response(Status::new(origin), &headers, body, &Limits::default())
    }

    const HEADER_FORM: [(&str, &str); 2] =
        [("content-type", "text/plain"), ("grip-hold", "stream")];
    const JSON_FORM: [(&str, &str); 3] = [
        ("content-type", "application/grip-instruct; charset=utf-8"),
        ("grip-channel", "a"),
        ("x-origin", "1"),
    ];

    #[test]
    fn the_content_type_decides_where_the_instruction_is() {
        let (instruct, answer) = read(StatusCode::NOT_FOUND, &HEADER_FORM, "{}").unwrap();
        assert_eq!(instruct.hold, Some(HoldMode::Stream));
        check(
            &answer,
            "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}",
        );
        let body = r#"{"hold":{"channels":[{"name":"b"}]},"response":{"headers":{"X-A":"1"},"body":"hi"}}"#;
        let (instruct, answer) = read(StatusCode::OK, &JSON_FORM, body).unwrap();
        assert_eq!(instruct.hold, Some(HoldMode::Response));
        assert_eq!(instruct.channels.len(), 2);
        check(
            &answer,
            "HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nhi",
        );
        let (_, answer) = read(StatusCode::OK, &JSON_FORM, "{}").unwrap();
        check(&answer, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn content_that_instructs_comes_with_status_200() {
        let error = read(StatusCode::CREATED, &JSON_FORM, "{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "response code for application/grip-instruct content must be 200"
        );
        let headers = [JSON_FORM[0], ("grip-hold", "none")];
        let error = read(StatusCode::OK, &headers, "{}").unwrap_err();
        assert_eq!(error, InstructError::HoldMode);
    }

    #[test]
    fn a_timeout_gives_the_instructed_answer() {
        check(
            &instructed(""),
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"1\"\r\ncontent-length: 8\r\n\r\n{\"a\":1}\n",
        );
    }

    #[test]
    fn a_304_has_no_body() {
        check(
            &instructed("304"),
            "HTTP/1.1 304 Not Modified\r\ncontent-type: application/json\r\netag: \"1\"\r\n\r\n",
        );
    }

    /// What a long-poll is answered with when the `http-response` of an item is `format`.
    #[track_caller]
    fn check_published(format: &str, expected: &str) {
        let body = format!(r#"{{"items":[{{"channel":"c","http-response":{format}}}]}}"#);
        let item = publish::parse(body.as_bytes(), &Limits::default())
            .unwrap()
            .remove(0);
        let Some(HttpResponse::Send(message)) = item.http_response else {
            panic!("no answer: {item:?}");
        };
        check(&instructed("304").published(&message), expected);
    }

    #[test]
    fn a_published_answer_inherits_what_it_does_not_replace() {
        check_published(
            r#"{"headers":{"etag":"\"2\"","connection":"close","content-length":"99"},"body":"{}\n"}"#,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"2\"\r\ncontent-length: 3\r\n\r\n{}\n",
        );
    }

    #[test]
    fn a_published_patch_changes_the_instructed_body() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"1\"\r\n";
        check_published(
            r#"{"body-patch":[{"op":"replace","path":"/a","value":2}]}"#,
            &format!("{head}content-length: 8\r\n\r\n{{\"a\":2}}\n"),
        );
        check_published(
            r#"{"body-patch":[{"op":"test","path":"/a","value":2}]}"#,
            &format!("{head}content-length: 0\r\n\r\n"),
        );
    }

    #[test]
    fn a_published_answer_shows_only_what_it_exposes() {
        check_published(
            r#"{"headers":[["X-A","1"],["X-B","2"],["Grip-Expose-Headers","ETag, x y"],["Grip-Expose-Headers","X-B, Grip-Hold"],["Grip-Hold","stream"]],"body":""}"#,
            "HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-b: 2\r\ncontent-length: 0\r\n\r\n",
        );
    }

    #[test]
    fn damaged_patches_are_applied_or_give_an_empty_body() {
        let valid = json!({"items": [{"channel": "c", "http-response": {
            "headers": {"Grip-Expose-Headers": "etag", "x-a": "1"},
            "body-patch": [
                {"op": "copy", "from": "", "path": "/b"},
                {"op": "move", "from": "/b/a", "path": "/c"},
                {"op": "test", "path": "/a", "value": 1},
                {"op": "add", "path": "/b/d", "value": [1]},
                {"op": "replace", "path": "/b/d/0", "value": "x"},
                {"op": "remove", "path": "/a"},
            ],
        }}]});
        let held = instructed("");
        let mut patched = [0, 0];
        for seed in 0..4000 {
            let damaged = Noise::new(seed).damaged(&valid);
            for item in publish::parse(&damaged, &Limits::default()).unwrap_or_default() {
                if let Some(HttpResponse::Send(message)) = item.http_response {
                    let answer = held.published(&message);
                    answer.encode(Version::HTTP_11, &Method::GET, Persistence::Reuse);
                    patched[usize::from(!answer.body.is_empty())] += 1;
                }
            }
        }
        assert!(patched.iter().all(|count| *count > 20), "{patched:?}");
    }

    #[test]
    fn a_stream_starts_with_its_initial_body() {
        let answer = instructed("");
        let chunked =
            answer.encode_stream_start(Version::HTTP_11, Framing::Chunked, Persistence::Reuse);
        assert!(chunked.ends_with(b"transfer-encoding: chunked\r\n\r\n8\r\n{\"a\":1}\n\r\n"));
        let plain =
            answer.encode_stream_start(Version::HTTP_10, Framing::Close, Persistence::Close);
        assert!(plain.ends_with(b"connection: close\r\n\r\n{\"a\":1}\n"));
    }
}
