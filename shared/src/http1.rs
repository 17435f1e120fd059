//! Bytes of HTTP/1 responses that the hub writes itself, because it took the connection over.

use http::Version;
use http::header::HeaderMap;

use crate::instruct::Status;

pub(crate) const CRLF: &[u8] = b"\r\n";

/// The chunk that ends a body without trailers; RFC 9112 §7.1.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How the end of a response body is told; RFC 9112 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end, for HTTP/1.0.
    Close,
    /// `Content-Length` in bytes.
    Length(usize),
    /// The status or the request's method rules a body out; nothing is said.
    Bodiless,
}

/// Whether the connection serves another request afterwards; RFC 9112 §9.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Another request may follow.
    Reuse,
    /// The connection ends with this response.
    Close,
}

/// Appends a response head. `headers` must hold no hop-by-hop field and no `Content-Length`.
pub fn encode_head(
    out: &mut Vec<u8>,
    version: Version,
    status: &Status,
    headers: &HeaderMap,
    framing: Framing,
    persistence: Persistence,
) {
    let is_http10 = version == Version::HTTP_10;
    out.extend_from_slice(if is_http10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    out.extend_from_slice(status.code.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.reason().as_bytes());
    out.extend_from_slice(CRLF);
    for (name, value) in headers {
        encode_field(out, name.as_str(), value.as_bytes());
    }
    match framing {
        Framing::Chunked => encode_field(out, "transfer-encoding", b"chunked"),
        Framing::Length(length) => {
            encode_field(out, "content-length", length.to_string().as_bytes());
        }
        Framing::Close | Framing::Bodiless => {}
    }
    match persistence {
        Persistence::Close => encode_field(out, "connection", b"close"),
        Persistence::Reuse if is_http10 => encode_field(out, "connection", b"keep-alive"),
        Persistence::Reuse => {}
    }
    out.extend_from_slice(CRLF);
}

pub(crate) fn encode_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(CRLF);
}

/// Appends `content` as one chunk; nothing for empty content, which would end the body.
pub fn encode_chunk(out: &mut Vec<u8>, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    out.extend_from_slice(format!("{:x}", content.len()).as_bytes());
    out.extend_from_slice(CRLF);
    out.extend_from_slice(content);
    out.extend_from_slice(CRLF);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use http::{HeaderValue, StatusCode};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check_head(version: Version, framing: Framing, persistence: Persistence, expected: &str) {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let mut out = Vec::new();
        let status = Status::new(StatusCode::OK);
        encode_head(&mut out, version, &status, &headers, framing, persistence);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn heads_say_how_the_body_ends() {
        use {Framing::*, Persistence as P};
        let fields = "x-a: 1\r\nx-a: 2\r\n";
        let (http10, http11) = (Version::HTTP_10, Version::HTTP_11);
        check_head(
            http11,
            Chunked,
            P::Reuse,
            &format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n"),
        );
        check_head(
            http11,
            Length(3),
            P::Close,
            &format!("HTTP/1.1 200 OK\r\n{fields}content-length: 3\r\nconnection: close\r\n\r\n"),
        );
        check_head(
            http10,
            Close,
            P::Close,
            &format!("HTTP/1.0 200 OK\r\n{fields}connection: close\r\n\r\n"),
        );
        check_head(
            http10,
            Length(3),
            P::Reuse,
            &format!(
                "HTTP/1.0 200 OK\r\n{fields}content-length: 3\r\nconnection: keep-alive\r\n\r\n"
            ),
        );
        check_head(
            http11,
            Bodiless,
            P::Reuse,
            &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"),
        );
    }

    #[test]
    fn chunks_count_in_hexadecimal() {
        let mut out = Vec::new();
        encode_chunk(&mut out, &[b'x'; 26]);
        assert!(out.starts_with(b"1a\r\nx"));
        assert!(out.ends_with(b"x\r\n"));
    }

    /// The content of a complete body in chunks, as the simplest of clients reads it.
    fn unchunked(mut body: &str) -> String {
        let mut content = String::new();
        loop {
            let (size, rest) = body.split_once("\r\n").unwrap();
            let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).unwrap());
            content += chunk;
            body = rest.strip_prefix("\r\n").unwrap();
            if chunk.is_empty() {
                assert_eq!(body, "", "behind the last chunk");
                return content;
            }
        }
    }

    #[test]
    fn content_in_any_pieces_is_read_back() {
        for seed in 0..500 {
            let mut noise = Noise::new(seed);
            let (mut body, mut content) = (Vec::new(), Vec::new());
            for _ in 0..noise.below(5) {
                let piece = noise.text(b"0a\r\n", 300);
                encode_chunk(&mut body, &piece);
                content.extend(piece);
            }
            body.extend_from_slice(LAST_CHUNK);
            let found = unchunked(std::str::from_utf8(&body).unwrap());
            assert_eq!(found.as_bytes(), content, "seed {seed}");
        }
    }
}
