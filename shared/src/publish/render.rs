//! From an item to the bytes on the wire.

use std::ops::Range;

use bytes::Bytes;

use crate::http1;

/// The content of an `http-stream` item, encoded once for all its receivers.
///
/// The plain content is a part of the chunk, so both share one allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamContent {
    chunk: Bytes,
    plain: Range<usize>,
}

impl StreamContent {
    /// Frames `content` as one chunk. Empty content becomes no bytes at all, because an empty
    /// chunk would end the stream; RFC 9112 §7.1.
    pub fn new(content: &[u8]) -> Self {
        let mut chunk = Vec::new();
        http1::encode_chunk(&mut chunk, content);
        let end = chunk.len().saturating_sub(http1::CRLF.len());
        Self {
            plain: end - content.len()..end,
            chunk: Bytes::from(chunk),
        }
    }

    /// One chunk of `Transfer-Encoding: chunked`.
    pub fn chunk(&self) -> Bytes {
        self.chunk.clone()
    }

    /// The content without framing, for HTTP/1.0 and HTTP/2.
    pub fn plain(&self) -> Bytes {
        self.chunk.slice(self.plain.clone())
    }
}

impl std::fmt::Debug for StreamContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.plain(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_chunk_and_the_plain_content_are_the_same_bytes() {
        let content = StreamContent::new(b"data: hello\n\n");
        assert_eq!(content.chunk(), "d\r\ndata: hello\n\n\r\n");
        assert_eq!(content.plain(), "data: hello\n\n");
        assert_eq!(content.plain().as_ptr(), content.chunk()[3..].as_ptr());
    }

    #[test]
    fn empty_content_does_not_end_the_stream() {
        let content = StreamContent::new(b"");
        assert_eq!(content.chunk(), "");
        assert_eq!(content.plain(), "");
    }
}
