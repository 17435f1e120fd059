//! Edge to hub: a client's request and the origin's response to it, for the hub to hold the client.
//!
//! Where clients connect to the edge, the edge still finds out what a response asks for: it has the
//! cache. When that is a hold, it sends both to the hub, `POST` [`PATH`], as two HTTP/1.1 messages
//! in one body: the request's head, then the whole response. So fields keep their bytes and their
//! repetitions, and the hub reads the response as if it had asked the origin itself.
//! [`crate::signature::hold_token`] signs it.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};

use crate::http1::{CRLF, encode_field};
use crate::instruct::Status;

/// Where the hub takes hold requests.
pub const PATH: &str = "/.gripline/hold";
/// The media type of a hold request's body.
pub const CONTENT_TYPE: &str = "application/vnd.gripline.hold; v=1";
/// Bytes of both heads together.
pub const MAX_HEADS: usize = 64 * 1024;
/// Fields in one head.
const MAX_FIELDS: usize = 256;

/// A client that is to be held, and what the origin said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRequest {
    /// What the client asked for.
    pub method: Method,
    /// Absolute, as the client used it: `https://www.example.com/stream?x=1`.
    pub uri: Uri,
    /// The client's fields, `Host` included.
    pub request_headers: HeaderMap,
    /// The origin's status.
    pub status: Status,
    /// The origin's fields, instructions included.
    pub response_headers: HeaderMap,
    /// The origin's body: what the client gets first, or an instruction.
    pub body: Bytes,
}

/// Why a hold request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldRequestError {
    /// The first message is no request head.
    #[error("the client's request cannot be read: {0}")]
    Request(&'static str),
    /// The second message is no response.
    #[error("the origin's response cannot be read: {0}")]
    Response(&'static str),
    /// The request's target has no scheme or no host.
    #[error("the client's request must name an absolute http or https URI")]
    Target,
    /// More bytes than [`MAX_HEADS`] or more fields than are read.
    #[error(
        "the heads are too large, at most {MAX_HEADS} bytes and {MAX_FIELDS} fields each are allowed"
    )]
    TooLarge,
}

impl HoldRequest {
    /// The body of the hold request.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            method, uri, body, ..
        } = self;
        let mut out = format!("{method} {uri} HTTP/1.1\r\n").into_bytes();
        encode_fields(&mut out, &self.request_headers);
        let (code, reason) = (self.status.code.as_str(), self.status.reason());
        out.extend_from_slice(format!("HTTP/1.1 {code} {reason}\r\n").as_bytes());
        encode_fields(&mut out, &self.response_headers);
        out.extend_from_slice(body);
        out
    }

    /// Reads the body of a hold request; the initial body shares its bytes.
    ///
    /// # Errors
    /// The first mistake; nobody may be held then.
    pub fn decode(message: &Bytes) -> Result<Self, HoldRequestError> {
        let (request, request_length) = read_request(message)?;
        let rest = message.slice(request_length..);
        let (status, response_headers, response_length) = read_response(&rest)?;
        if request_length + response_length > MAX_HEADS {
            return Err(HoldRequestError::TooLarge);
        }
        let (method, uri, request_headers) = request;
        Ok(Self {
            method,
            uri,
            request_headers,
            status,
            response_headers,
            body: rest.slice(response_length..),
        })
    }
}

fn encode_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        encode_field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(CRLF);
}

type RequestHead = (Method, Uri, HeaderMap);

/// The head, and how many bytes it takes.
fn read_request(bytes: &[u8]) -> Result<(RequestHead, usize), HoldRequestError> {
    let mut fields = vec![httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let length = complete(head.parse(bytes), bytes).map_err(|error| match error {
        Unread::TooLarge => HoldRequestError::TooLarge,
        Unread::Malformed(text) => HoldRequestError::Request(text),
    })?;
    let method = head.method.and_then(|text| text.parse().ok());
    let method: Method = method.ok_or(HoldRequestError::Request("invalid method"))?;
    let uri: Option<Uri> = head.path.and_then(|text| text.parse().ok());
    let uri = uri.ok_or(HoldRequestError::Target)?;
    let is_absolute = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if !is_absolute {
        return Err(HoldRequestError::Target);
    }
    let headers = header_map(head.headers).ok_or(HoldRequestError::Request("invalid field"))?;
    Ok(((method, uri, headers), length))
}

/// Status and fields, and how many bytes they take.
fn read_response(bytes: &[u8]) -> Result<(Status, HeaderMap, usize), HoldRequestError> {
    let mut fields = vec![httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let length = complete(head.parse(bytes), bytes).map_err(|error| match error {
        Unread::TooLarge => HoldRequestError::TooLarge,
        Unread::Malformed(text) => HoldRequestError::Response(text),
    })?;
    let code = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    // Something that comes before an answer is none; RFC 9110 §15.2.
    let code = code.filter(|code| !code.is_informational());
    let code = code.ok_or(HoldRequestError::Response("invalid status"))?;
    let is_usual = |reason: &&str| Some(*reason) != code.canonical_reason();
    let status = Status {
        code,
        reason: head.reason.filter(is_usual).map(str::to_owned),
    };
    let headers = header_map(head.headers).ok_or(HoldRequestError::Response("invalid field"))?;
    Ok((status, headers, length))
}

enum Unread {
    TooLarge,
    Malformed(&'static str),
}

fn complete(parsed: httparse::Result<usize>, bytes: &[u8]) -> Result<usize, Unread> {
    match parsed {
        Ok(httparse::Status::Complete(length)) => Ok(length),
        Ok(httparse::Status::Partial) if bytes.len() > MAX_HEADS => Err(Unread::TooLarge),
        Ok(httparse::Status::Partial) => Err(Unread::Malformed("it is incomplete")),
        Err(httparse::Error::TooManyHeaders) => Err(Unread::TooLarge),
        Err(httparse::Error::HeaderName) => Err(Unread::Malformed("invalid field name")),
        Err(httparse::Error::HeaderValue) => Err(Unread::Malformed("invalid field value")),
        Err(httparse::Error::Version) => Err(Unread::Malformed("invalid version")),
        Err(_) => Err(Unread::Malformed("invalid first line")),
    }
}

fn header_map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn headers_of(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn hold_request() -> HoldRequest {
        HoldRequest {
            method: Method::GET,
            uri: Uri::from_static("https://www.example.com/stream?x=1"),
            request_headers: headers_of(&[("host", b"www.example.com"), ("cookie", b"a=b")]),
            status: Status::new(StatusCode::OK),
            response_headers: headers_of(&[
                ("grip-hold", b"stream"),
                ("grip-channel", b"a"),
                ("grip-channel", b"b; prev-id=1"),
                ("x-latin", b"\xe4"),
            ]),
            body: Bytes::from_static(b"first\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\0\xff"),
        }
    }

    #[test]
    fn both_messages_are_written_as_http() {
        let request = HoldRequest {
            body: Bytes::from_static(b"first"),
            ..hold_request()
        };
        assert_eq!(
            String::from_utf8_lossy(&request.encode()),
            "GET https://www.example.com/stream?x=1 HTTP/1.1\r\n\
             host: www.example.com\r\ncookie: a=b\r\n\r\n\
             HTTP/1.1 200 OK\r\n\
             grip-hold: stream\r\ngrip-channel: a\r\ngrip-channel: b; prev-id=1\r\nx-latin: \u{fffd}\r\n\r\n\
             first"
        );
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let reasons = [None, Some("Gone Fishing".to_owned())];
        for reason in reasons {
            let mut request = hold_request();
            request.status.reason = reason;
            assert_eq!(HoldRequest::decode(&request.encode().into()), Ok(request));
        }
    }

    #[test]
    fn a_head_that_is_cut_anywhere_is_an_error() {
        let request = HoldRequest {
            body: Bytes::new(),
            ..hold_request()
        };
        let message = Bytes::from(request.encode());
        for end in 0..message.len() {
            let cut = HoldRequest::decode(&message.slice(..end));
            assert!(cut.is_err(), "{end}: {cut:?}");
        }
    }

    #[track_caller]
    fn check_error(message: &str, expected: &str) {
        let error = HoldRequest::decode(&Bytes::copy_from_slice(message.as_bytes()));
        let error = error.expect_err(message).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_no_pair_of_messages_is_refused() {
        let request = "GET http://a/ HTTP/1.1\r\n\r\n";
        check_error("", "the client's request cannot be read: it is incomplete");
        check_error("nonsense\r\n\r\n", "the client's request cannot be read");
        check_error("GET /x HTTP/1.1\r\n\r\n", "absolute http or https URI");
        check_error(
            "GET ftp://a/ HTTP/1.1\r\n\r\n",
            "absolute http or https URI",
        );
        check_error(
            "GET http://a/ HTTP/1.1\r\n a: b\r\n\r\n",
            "invalid field name",
        );
        check_error(
            request,
            "the origin's response cannot be read: it is incomplete",
        );
        check_error(
            &format!("{request}{request}"),
            "the origin's response cannot be read",
        );
        check_error(
            &format!("{request}HTTP/1.1 099 X\r\n\r\n"),
            "invalid status",
        );
        check_error(
            &format!("{request}HTTP/1.1 103 Early Hints\r\n\r\n"),
            "invalid status",
        );
        check_error(
            &format!("{request}HTTP/3 200 OK\r\n\r\n"),
            "invalid version",
        );
    }

    #[test]
    fn heads_are_bounded() {
        let request = "GET http://a/ HTTP/1.1\r\n";
        let response = "\r\nHTTP/1.1 200 OK\r\n\r\n";
        let fields = "a: b\r\n".repeat(MAX_FIELDS + 1);
        check_error(&format!("{request}{fields}{response}"), "too large");
        let long = format!("a: {}\r\n", "x".repeat(MAX_HEADS));
        check_error(&format!("{request}{long}{response}"), "too large");
        check_error(&format!("{request}{long}"), "too large");
    }

    #[test]
    fn no_change_makes_it_panic() {
        let message = hold_request().encode();
        for seed in 0..2000 {
            let mut noise = Noise::new(seed);
            let mut changed = message.clone();
            for _ in 0..=noise.below(4) {
                let at = noise.below(changed.len());
                changed[at] = noise
                    .text(b"\0\r\n: a1\xff", 1)
                    .first()
                    .copied()
                    .unwrap_or(0);
            }
            let changed = Bytes::from(changed);
            // Either an error, or something that can be written and read again.
            if let Ok(request) = HoldRequest::decode(&changed) {
                assert_eq!(
                    HoldRequest::decode(&request.encode().into()),
                    Ok(request),
                    "seed {seed}"
                );
            }
        }
    }
}
