//! Answers that are kept for long, by the thousand.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Answer;
use crate::instruct::Status;

/// An [`Answer`] in one piece of memory, as long as it has to be.
///
/// A header map has room for more than it holds, and its values keep the buffers alive that they
/// were read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedAnswer {
    status: Status,
    /// Each field as the length of its name, its name, the length of its value, and its value; then
    /// the body.
    bytes: Box<[u8]>,
    body_start: u32,
}

/// Bytes in front of a name or a value.
const LENGTH: usize = size_of::<u32>();

impl PackedAnswer {
    /// Copies an answer.
    ///
    /// # Panics
    /// If headers or body are longer than 4 GiB, which no limit of an instruction allows.
    pub fn pack(answer: &Answer) -> Self {
        let fields = answer.headers.iter();
        let size: usize = fields
            .map(|(name, value)| 2 * LENGTH + name.as_str().len() + value.len())
            .sum();
        let mut bytes = Vec::with_capacity(size + answer.body.len());
        for (name, value) in &answer.headers {
            push(&mut bytes, name.as_str().as_bytes());
            push(&mut bytes, value.as_bytes());
        }
        let body_start = narrow(bytes.len());
        bytes.extend_from_slice(&answer.body);
        Self {
            status: answer.status.clone(),
            bytes: bytes.into_boxed_slice(),
            body_start,
        }
    }

    /// The answer as it was.
    pub fn unpack(&self) -> Answer {
        let (mut fields, body) = self.bytes.split_at(self.body_start as usize);
        let mut headers = HeaderMap::new();
        while let Some((name, rest)) = take(fields)
            && let Some((value, rest)) = take(rest)
        {
            fields = rest;
            // They were valid when they were packed.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        }
        Answer {
            status: self.status.clone(),
            headers,
            body: Bytes::copy_from_slice(body),
        }
    }
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&narrow(part.len()).to_ne_bytes());
    bytes.extend_from_slice(part);
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.split_at_checked(u32::from_ne_bytes(*length) as usize)
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("limits keep headers and bodies far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check(reason: Option<&str>, fields: &[(&'static str, &[u8])], body: &'static str) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let answer = Answer {
            status: Status {
                code: StatusCode::OK,
                reason: reason.map(str::to_owned),
            },
            headers,
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(PackedAnswer::pack(&answer).unpack(), answer);
    }

    #[test]
    fn what_was_packed_comes_out_again() {
        check(None, &[], "");
        check(Some("Fine"), &[("a", b"")], "body");
        check(None, &[("a", b"1"), ("b", b"\xff"), ("a", b"2")], "\0\n");
    }

    #[test]
    fn no_byte_is_wasted() {
        let answer = Answer {
            status: Status::new(StatusCode::OK),
            headers: HeaderMap::from_iter([(
                HeaderName::from_static("etag"),
                HeaderValue::from_static("\"1\""),
            )]),
            body: Bytes::from_static(b"body"),
        };
        assert_eq!(PackedAnswer::pack(&answer).bytes.len(), 4 + 4 + 4 + 3 + 4);
    }
}
