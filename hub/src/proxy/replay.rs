//! A client's request as it came, to be asked again.

use bytes::Bytes;
use grip::fields;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Request, Uri, Version};

/// The head of a request, and its body once that is known.
#[derive(Debug, Clone)]
pub(crate) struct Original {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// `None` if it was not read to its end.
    pub(crate) body: Option<Bytes>,
}

impl Original {
    pub(super) fn of(head: &http::request::Parts) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers: head.headers.clone(),
            body: None,
        }
    }

    /// The bytes of the request for an HTTP/1 server; none if the body is not known.
    pub(crate) fn encode(&self) -> Bytes {
        let Some(body) = &self.body else {
            return Bytes::new();
        };
        let mut out = Vec::with_capacity(512 + body.len());
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.uri.to_string().as_bytes());
        let version: &[u8] = match self.version {
            Version::HTTP_10 => b" HTTP/1.0\r\n",
            _ => b" HTTP/1.1\r\n",
        };
        out.extend_from_slice(version);
        for (name, value) in &self.headers {
            if *name == EXPECT || *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING {
                continue;
            }
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let has_length = self.headers.contains_key(CONTENT_LENGTH)
            || self.headers.contains_key(TRANSFER_ENCODING);
        if has_length {
            out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        // It is kept for long, so it shall not be longer than it has to.
        Bytes::from(out.into_boxed_slice())
    }

    /// The request again; `None` if its body is not known.
    pub(crate) fn request(self) -> Option<Request<Bytes>> {
        let body = self.body?;
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        fields::strip_hop_by_hop(request.headers_mut());
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::HOST;

    fn original(body: Option<&'static str>) -> Original {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a"));
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        Original {
            method: Method::POST,
            uri: Uri::from_static("/x?y=1"),
            version: Version::HTTP_11,
            headers,
            body: body.map(Bytes::from),
        }
    }

    #[test]
    fn a_request_is_written_with_the_length_of_what_was_read() {
        assert_eq!(
            original(Some("body")).encode(),
            "POST /x?y=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody"
        );
        assert_eq!(
            original(Some("")).encode(),
            "POST /x?y=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
        );
    }

    #[test]
    fn a_request_whose_body_is_not_known_is_not_written() {
        assert_eq!(original(None).encode(), "");
        assert!(original(None).request().is_none());
    }
}
