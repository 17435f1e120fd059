//! Why a WebSocket ends; RFC 6455 §7.4.

use bytes::Bytes;

/// Bytes of a reason, so that a close frame's content stays within 125; RFC 6455 §5.5.
pub const MAX_REASON: usize = 123;

/// A close code with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// A code that may stand in a frame.
    pub code: u16,
    /// Text of at most 123 bytes, often empty.
    pub reason: String,
}

impl Close {
    /// All is done.
    pub const NORMAL: u16 = 1000;
    /// The hub shuts down.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text that is not UTF-8, or compressed data that is none.
    pub const INVALID_DATA: u16 = 1007;
    /// A message is larger than it may be.
    pub const TOO_LARGE: u16 = 1009;
    /// The origin said something that cannot be done.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// The origin cannot be reached.
    pub const BAD_GATEWAY: u16 = 1014;

    /// The reason is cut at a character so that it fits into a frame.
    pub fn new(code: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON);
        Self {
            code,
            reason: reason[..end].to_owned(),
        }
    }

    /// Reads the content of a close frame or of a `CLOSE` event. `None`: there is no code, or one
    /// that must not stand in a frame, as libraries write for none. A reason that is not UTF-8 is
    /// left out.
    pub fn from_content(content: &[u8]) -> Option<Self> {
        let (code, reason) = content.split_first_chunk()?;
        let code = u16::from_be_bytes(*code);
        let reason = std::str::from_utf8(reason).unwrap_or_default();
        may_be_sent(code).then(|| Self::new(code, reason))
    }

    /// The content of a close frame: the code in two bytes, the highest first, then the reason.
    pub fn content(&self) -> Bytes {
        let mut content = self.code.to_be_bytes().to_vec();
        content.extend_from_slice(self.reason.as_bytes());
        Bytes::from(content)
    }
}

/// Whether a code may stand in a close frame; RFC 6455 §7.4 and the codes registered since.
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check(content: &[u8], expected: Option<(u16, &str)>) {
        let expected = expected.map(|(code, reason)| Close::new(code, reason));
        assert_eq!(Close::from_content(content), expected, "{content:?}");
    }

    #[test]
    fn a_close_has_a_code_and_a_reason_or_neither() {
        check(b"", None);
        check(b"\x03", None);
        check(b"\x03\xe8", Some((1000, "")));
        check(b"\x0f\xa1bye", Some((4001, "bye")));
        check(b"\x0f\xa1\xff", Some((4001, "")));
    }

    #[test]
    fn a_code_that_must_not_be_sent_is_none() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert_eq!(Close::from_content(&u16::to_be_bytes(code)), None, "{code}");
        }
        for code in [1000, 1003, 1007, 1011, 1014, 3000, 4999] {
            let content = u16::to_be_bytes(code);
            assert_eq!(
                Close::from_content(&content).unwrap().content(),
                content[..]
            );
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let close = Close::new(1000, &"ü".repeat(100));
        assert_eq!(close.content().len(), 2 + 122);
    }
}
