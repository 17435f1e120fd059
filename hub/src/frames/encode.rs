//! From messages to bytes.

use bytes::Bytes;
use grip::publish::WsMessageKind;
use grip::websocket::message::MAX_CONTROL;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{MessageKind, PIECE, Piece, Place};

/// Whether a frame is masked, and with what; RFC 6455 §5.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// As frames for clients.
    None,
    /// As frames for origins.
    Key([u8; 4]),
}

/// A message as one frame. Of a ping or pong, what a frame has no room for is left out.
pub(crate) fn message(kind: WsMessageKind, content: &[u8], mask: Mask) -> Bytes {
    let content = match kind {
        WsMessageKind::Ping | WsMessageKind::Pong => content.get(..MAX_CONTROL).unwrap_or(content),
        WsMessageKind::Text | WsMessageKind::Binary => content,
    };
    let mut out = Vec::new();
    frame(&head(opcode(kind), mask), content, &mut out);
    Bytes::from(out)
}

/// A compressed message as one frame for a client; RFC 7692 §7.2.1.
pub(crate) fn deflated(kind: WsMessageKind, compressed: &[u8]) -> Bytes {
    let head = FrameHeader {
        rsv1: true,
        ..head(opcode(kind), Mask::None)
    };
    let mut out = Vec::new();
    frame(&head, compressed, &mut out);
    Bytes::from(out)
}

/// A message as frames of at most [`PIECE`] bytes, for a client.
pub(crate) fn split(kind: WsMessageKind, content: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(content.len() + content.len() / PIECE * 4 + 14);
    let mut rest = content;
    let mut opcode = opcode(kind);
    loop {
        let (part, after) = rest.split_at(rest.len().min(PIECE));
        let head = FrameHeader {
            is_final: after.is_empty(),
            ..head(opcode, Mask::None)
        };
        frame(&head, part, &mut out);
        if after.is_empty() {
            return Bytes::from(out);
        }
        rest = after;
        opcode = OpCode::Data(Data::Continue);
    }
}

/// A part of a message as one frame.
pub(crate) fn piece(piece: &Piece, mask: Mask) -> Bytes {
    let opcode = match (piece.place, piece.kind) {
        (Place::Middle | Place::Last, _) => OpCode::Data(Data::Continue),
        (_, MessageKind::Text) => OpCode::Data(Data::Text),
        (_, MessageKind::Binary) => OpCode::Data(Data::Binary),
    };
    let head = FrameHeader {
        is_final: matches!(piece.place, Place::Whole | Place::Last),
        ..head(opcode, mask)
    };
    let mut out = Vec::new();
    frame(&head, &piece.bytes, &mut out);
    Bytes::from(out)
}

/// A close frame; `content` is empty, or a code and a reason of at most 123 bytes.
pub(crate) fn close(content: &[u8], mask: Mask) -> Bytes {
    let mut out = Vec::new();
    frame(
        &head(OpCode::Control(Control::Close), mask),
        content,
        &mut out,
    );
    Bytes::from(out)
}

fn opcode(kind: WsMessageKind) -> OpCode {
    match kind {
        WsMessageKind::Text => OpCode::Data(Data::Text),
        WsMessageKind::Binary => OpCode::Data(Data::Binary),
        WsMessageKind::Ping => OpCode::Control(Control::Ping),
        WsMessageKind::Pong => OpCode::Control(Control::Pong),
    }
}

fn head(opcode: OpCode, mask: Mask) -> FrameHeader {
    FrameHeader {
        opcode,
        mask: match mask {
            Mask::None => None,
            Mask::Key(key) => Some(key),
        },
        ..FrameHeader::default()
    }
}

fn frame(head: &FrameHeader, payload: &[u8], out: &mut Vec<u8>) {
    let length = payload.len() as u64;
    out.reserve_exact(head.len(length) + payload.len());
    head.format(length, out)
        .expect("a Vec takes all that is written");
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = head.mask {
        super::decode::apply(mask, 0, &mut out[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_rfc() {
        // RFC 6455 §5.7.
        let text = |mask| message(WsMessageKind::Text, b"Hello", mask);
        assert_eq!(text(Mask::None), &b"\x81\x05Hello"[..]);
        let mask = Mask::Key([0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(
            text(mask),
            &b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"[..]
        );
        assert_eq!(
            message(WsMessageKind::Ping, b"Hello", Mask::None),
            &b"\x89\x05Hello"[..]
        );
        assert_eq!(close(b"\x03\xe8", Mask::None), &b"\x88\x02\x03\xe8"[..]);
        let large = message(WsMessageKind::Binary, &[0; 256], Mask::None);
        assert_eq!(large[..4], b"\x82\x7e\x01\x00"[..]);
        let part = |place, text: &'static str| Piece {
            kind: MessageKind::Text,
            place,
            bytes: Bytes::from_static(text.as_bytes()),
        };
        assert_eq!(
            piece(&part(Place::First, "Hel"), Mask::None),
            &b"\x01\x03Hel"[..]
        );
        assert_eq!(
            piece(&part(Place::Last, "lo"), Mask::None),
            &b"\x80\x02lo"[..]
        );
    }

    #[test]
    fn large_messages_are_split() {
        let bytes = split(WsMessageKind::Text, &vec![b'x'; PIECE + 1]);
        assert_eq!(bytes[..4], b"\x01\x7e\x40\x00"[..]);
        assert_eq!(bytes[bytes.len() - 3..], b"\x80\x01x"[..]);
        assert_eq!(split(WsMessageKind::Text, b"x"), &b"\x81\x01x"[..]);
        assert_eq!(split(WsMessageKind::Text, b""), &b"\x81\x00"[..]);
    }
}
