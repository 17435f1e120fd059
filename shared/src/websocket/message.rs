//! A message that an origin leaves with the hub.

use bytes::Bytes;

use crate::publish::WsMessageKind;

/// Bytes in a ping or pong; RFC 6455 §5.5.
pub const MAX_CONTROL: usize = 125;

/// A message to be sent to the client, now or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: WsMessageKind,
    /// UTF-8 if it is text; at most [`MAX_CONTROL`] bytes of a ping or pong.
    pub content: Bytes,
}

/// Why a client would have to refuse a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// RFC 6455 §8.1.
    #[error("text is not UTF-8")]
    Text,
    /// RFC 6455 §5.5.
    #[error("a ping or pong has {0} bytes, at most {MAX_CONTROL} are allowed")]
    TooLong(usize),
}

impl Message {
    /// A message that any client accepts.
    ///
    /// # Errors
    /// [`MessageError`] if none would.
    pub fn new(kind: WsMessageKind, content: Bytes) -> Result<Self, MessageError> {
        let is_control = matches!(kind, WsMessageKind::Ping | WsMessageKind::Pong);
        if is_control && content.len() > MAX_CONTROL {
            return Err(MessageError::TooLong(content.len()));
        }
        if kind == WsMessageKind::Text && std::str::from_utf8(&content).is_err() {
            return Err(MessageError::Text);
        }
        Ok(Self { kind, content })
    }
}
