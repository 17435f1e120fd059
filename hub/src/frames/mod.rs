//! WebSocket frames: RFC 6455 §5, and compressed messages: RFC 7692.
//!
//! Pure: bytes in, pieces of messages out, and the other way round. Knows nothing of GRIP and
//! origins. [`Decoder`] reads; [`message`], [`piece`] and [`close`] write; [`Encoded`] is a message
//! that many connections get.

mod decode;
mod deflate;
mod encode;
mod encoded;
#[cfg(any(test, feature = "fuzzing"))]
mod splits;

use bytes::Bytes;
use grip::publish::WsMessageKind;

pub(crate) use decode::Decoder;
pub(crate) use deflate::Deflate;
pub(crate) use encode::{Mask, close, deflated, message, piece, split};
pub(crate) use encoded::Encoded;

#[cfg(feature = "fuzzing")]
pub(crate) use splits::check_splits;

/// Bytes of a message that are handled at once: shorter frames come whole, longer ones in pieces
/// of this size.
pub(crate) const PIECE: usize = 16_384;

/// What frames of a peer must be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) masking: Masking,
    /// Set if messages may be compressed.
    pub(crate) deflate: Option<Deflate>,
    pub(crate) payload: Payload,
}

/// What becomes of the content of messages. That of control frames always counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// It comes in pieces.
    Heard,
    /// Nobody wants it, now or later: it is neither inflated nor checked, and there are no pieces.
    Skipped,
}

/// Whether a peer's frames are masked; RFC 6455 §5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masking {
    /// As those of clients.
    Required,
    /// As those of servers.
    Forbidden,
}

/// What a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A message, or a part of one. Between the parts stand control frames only.
    Piece(Piece),
    Ping(Bytes),
    Pong(Bytes),
    /// Empty, or a code that may be sent and a reason.
    Close(Bytes),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The same for all parts.
    pub(crate) kind: MessageKind,
    pub(crate) place: Place,
    /// Of a text, whole characters.
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Text,
    Binary,
}

/// Where a part stands in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is all there is.
    Whole,
    First,
    Middle,
    Last,
}

impl From<MessageKind> for WsMessageKind {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Text => Self::Text,
            MessageKind::Binary => Self::Binary,
        }
    }
}
