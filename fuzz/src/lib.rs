//! What fuzz targets need to make of their bytes.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The text up to the first occurrence of `separator`, and what is behind it; all of it and
/// nothing if there is none.
pub fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> (&'a [u8], &'a [u8]) {
    let found = bytes
        .windows(separator.len())
        .position(|window| window == separator);
    match found {
        Some(at) => (&bytes[..at], &bytes[at + separator.len()..]),
        None => (bytes, &[]),
    }
}

/// Header fields of lines such as `name: value`. What cannot stand in a message is left out.
pub fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let (name, value) = split_once(line, b":");
        let field = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        );
        if let (Ok(name), Ok(value)) = field {
            headers.append(name, value);
        }
    }
    headers
}

/// Checks that the bytes begin with the head of a response with exactly these fields, framing aside.
pub fn check_head(bytes: &[u8], status: http::StatusCode, headers: &HeaderMap) {
    let mut fields = vec![httparse::EMPTY_HEADER; headers.len() + 2];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes).expect("a response");
    assert!(parsed.is_complete(), "the head ends");
    assert_eq!(response.code, Some(status.as_u16()));
    let found = response.headers.iter().filter(|field| {
        !["content-length", "transfer-encoding", "connection"].contains(&field.name)
    });
    // Blanks around a value are not a part of it.
    let expected = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes().trim_ascii()));
    assert!(found.map(|field| (field.name, field.value)).eq(expected));
}

/// What a body in chunks means; absent unless it is well-formed and complete.
pub fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let httparse::Status::Complete((start, length)) = httparse::parse_chunk_size(body).ok()?
        else {
            return None;
        };
        let (chunk, rest) = body[start..].split_at_checked(usize::try_from(length).ok()?)?;
        content.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n")?;
        if chunk.is_empty() {
            return body.is_empty().then_some(content);
        }
    }
}
