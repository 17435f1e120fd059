//! From bytes to messages, as the bytes come.

use std::io::Cursor;

use bytes::Bytes;
use grip::websocket::close::{self, Close};
use smallvec::SmallVec;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::deflate::Inflater;
use super::{Input, Masking, MessageKind, PIECE, Payload, Piece, Place, Rules};

/// Bytes of the longest header; RFC 6455 §5.2.
const MAX_HEAD: usize = 14;
/// Bytes in a control frame; RFC 6455 §5.5.
const MAX_CONTROL: u64 = 125;
/// Compressed bytes that are unmasked at a time.
const UNMASKED: usize = 1024;

/// What a peer must not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame with a reserved opcode or an impossible length")]
    Head,
    #[error("a frame with reserved bits")]
    Reserved,
    #[error("a frame that is not masked")]
    NotMasked,
    #[error("a frame that is masked")]
    Masked,
    #[error("a control frame that is too long or in parts")]
    Control,
    #[error("a new message within another")]
    Interrupted,
    #[error("a continuation of nothing")]
    Continuation,
    #[error("a close frame with a code that must not be sent")]
    CloseCode,
    #[error("text that is not UTF-8")]
    Utf8,
    #[error("compressed data that is none")]
    Deflate,
}

impl FrameError {
    /// What to close with; RFC 6455 §7.4.1.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => Close::INVALID_DATA,
            _ => Close::PROTOCOL_ERROR,
        }
    }
}

/// Reads one peer's frames. Unmasks, inflates and checks as bytes come, so that it fails at the
/// first byte that is wrong, and never holds more than [`PIECE`] bytes and a character.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of a header.
    head: SmallVec<[u8; MAX_HEAD]>,
    frame: Option<Frame>,
    message: Option<Message>,
    /// What came of a control frame.
    control: Vec<u8>,
}

/// A frame whose payload is coming.
#[derive(Debug)]
struct Frame {
    kind: FrameKind,
    left: u64,
    mask: Option<[u8; 4]>,
    /// Bytes of the mask that were used, modulo its length.
    turn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Data(End),
    Control(Control),
}

/// Whether a frame is its message's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    OfMessage,
    OfFrame,
}

/// A message that is coming.
#[derive(Debug)]
struct Message {
    kind: MessageKind,
    /// Set once a piece was given.
    has_begun: bool,
    payload: Vec<u8>,
    /// Bytes of the payload that are known to be whole characters.
    checked: usize,
    inflater: Option<Box<Inflater>>,
}

impl Decoder {
    /// What comes next. Takes what it reads from `input`; `None` if it has read all of it, and
    /// needs more.
    pub(crate) fn decode(
        &mut self,
        input: &mut &[u8],
        rules: Rules,
    ) -> Result<Option<Input>, FrameError> {
        loop {
            let Some(frame) = &mut self.frame else {
                if !self.read_head(input, rules)? {
                    return Ok(None);
                }
                continue;
            };
            let found = match frame.kind {
                FrameKind::Control(control) => {
                    frame.unmask(input, &mut self.control, usize::MAX);
                    if frame.left > 0 {
                        return Ok(None);
                    }
                    self.frame = None;
                    Some(finish_control(control, std::mem::take(&mut self.control))?)
                }
                FrameKind::Data(end) => match rules.payload {
                    Payload::Heard => self.read_data(input, end)?,
                    Payload::Skipped => {
                        self.skip_data(input, end);
                        None
                    }
                },
            };
            if found.is_some() {
                return Ok(found);
            }
            if self.frame.is_some() {
                return Ok(None);
            }
        }
    }

    /// Whether nothing is incomplete, so that a new decoder would do as well.
    pub(crate) fn is_idle(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.message.is_none()
    }

    /// Reads a header; false if more bytes are needed.
    fn read_head(&mut self, input: &mut &[u8], rules: Rules) -> Result<bool, FrameError> {
        let known = self.head.len();
        let more = input.len().min(MAX_HEAD - known);
        self.head.extend_from_slice(&input[..more]);
        let mut cursor = Cursor::new(&self.head);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| FrameError::Head)?;
        let Some((head, length)) = parsed else {
            *input = &input[more..];
            return Ok(false);
        };
        let size = usize::try_from(cursor.position()).map_err(|_| FrameError::Head)?;
        *input = &input[size.saturating_sub(known)..];
        self.head.clear();
        self.begin(&head, length, rules)?;
        Ok(true)
    }

    fn begin(&mut self, head: &FrameHeader, length: u64, rules: Rules) -> Result<(), FrameError> {
        match (rules.masking, head.mask) {
            (Masking::Required, None) => return Err(FrameError::NotMasked),
            (Masking::Forbidden, Some(_)) => return Err(FrameError::Masked),
            _ => {}
        }
        let is_compressed = head.rsv1;
        let may_be_compressed = rules.deflate.is_some()
            && matches!(head.opcode, OpCode::Data(Data::Text | Data::Binary));
        if head.rsv2 || head.rsv3 || (is_compressed && !may_be_compressed) {
            return Err(FrameError::Reserved);
        }
        // The highest bit must not be set.
        if i64::try_from(length).is_err() {
            return Err(FrameError::Head);
        }
        let end = if head.is_final {
            End::OfMessage
        } else {
            End::OfFrame
        };
        let kind = match head.opcode {
            OpCode::Control(_) if length > MAX_CONTROL || !head.is_final => {
                return Err(FrameError::Control);
            }
            OpCode::Control(control) => FrameKind::Control(control),
            OpCode::Data(Data::Continue) if self.message.is_none() => {
                return Err(FrameError::Continuation);
            }
            OpCode::Data(Data::Continue) => FrameKind::Data(end),
            OpCode::Data(_) if self.message.is_some() => return Err(FrameError::Interrupted),
            OpCode::Data(data) => {
                let kind = match data {
                    Data::Text => MessageKind::Text,
                    _ => MessageKind::Binary,
                };
                let is_inflated = is_compressed && rules.payload == Payload::Heard;
                self.message = Some(Message {
                    kind,
                    has_begun: false,
                    payload: Vec::new(),
                    checked: 0,
                    inflater: is_inflated.then(Box::default),
                });
                FrameKind::Data(end)
            }
        };
        self.frame = Some(Frame {
            kind,
            left: length,
            mask: head.mask,
            turn: 0,
        });
        Ok(())
    }

    /// Reads a message's payload up to the next piece.
    fn read_data(&mut self, input: &mut &[u8], end: End) -> Result<Option<Input>, FrameError> {
        let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) else {
            return Ok(None);
        };
        let state = match &mut message.inflater {
            None => {
                let room = PIECE.saturating_sub(message.payload.len());
                let coming = usize::try_from(frame.left).unwrap_or(usize::MAX);
                message
                    .payload
                    .reserve_exact(coming.min(room).min(input.len()));
                frame.unmask(input, &mut message.payload, room);
                Inflated::All
            }
            Some(inflater) => frame.inflate(input, inflater, &mut message.payload, end)?,
        };
        message.check()?;
        let is_over = frame.left == 0 && state == Inflated::All;
        let is_last = is_over && end == End::OfMessage;
        if is_over {
            self.frame = None;
        } else if message.payload.len() < PIECE {
            return Ok(None);
        }
        let piece = message.piece(is_last)?;
        if is_last {
            self.message = None;
        }
        Ok(Some(Input::Piece(piece)))
    }

    /// Passes over a message's payload, and drops what there is of it.
    fn skip_data(&mut self, input: &mut &[u8], end: End) {
        let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) else {
            return;
        };
        message.clear();
        let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
        frame.advance(input, left.min(input.len()));
        if frame.left > 0 {
            return;
        }
        self.frame = None;
        if end == End::OfMessage {
            self.message = None;
        }
    }
}

/// Whether an inflater has more to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inflated {
    All,
    Part,
}

impl Frame {
    /// Moves as much as is there, but not more than `room`.
    fn unmask(&mut self, input: &mut &[u8], out: &mut Vec<u8>, room: usize) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = left.min(input.len()).min(room);
        let start = out.len();
        out.extend_from_slice(&input[..count]);
        if let Some(mask) = self.mask {
            apply(mask, self.turn, &mut out[start..]);
        }
        self.advance(input, count);
    }

    fn advance(&mut self, input: &mut &[u8], count: usize) {
        *input = &input[count..];
        self.left -= count as u64;
        self.turn = (self.turn + count) % 4;
    }

    /// Inflates what is there, until the payload is a piece long.
    fn inflate(
        &mut self,
        input: &mut &[u8],
        inflater: &mut Inflater,
        payload: &mut Vec<u8>,
        end: End,
    ) -> Result<Inflated, FrameError> {
        let mut unmasked = Vec::with_capacity(UNMASKED);
        while payload.len() < PIECE {
            unmasked.clear();
            let (before, turn, mut rest) = (self.left, self.turn, *input);
            self.unmask(&mut rest, &mut unmasked, UNMASKED);
            (self.left, self.turn) = (before, turn);
            let known = payload.len();
            let used = inflater
                .feed(&unmasked, payload)
                .map_err(|()| FrameError::Deflate)?;
            self.advance(input, used);
            // It may first have to give what it took in before.
            if used == 0 && payload.len() == known {
                break;
            }
        }
        if self.left > 0 || payload.len() >= PIECE {
            return Ok(if self.left > 0 {
                Inflated::All
            } else {
                Inflated::Part
            });
        }
        match end {
            End::OfFrame => Ok(Inflated::All),
            End::OfMessage => {
                let is_all = inflater.finish(payload).map_err(|()| FrameError::Deflate)?;
                Ok(if is_all {
                    Inflated::All
                } else {
                    Inflated::Part
                })
            }
        }
    }
}

/// The mask is used byte by byte, beginning with number `turn`; RFC 6455 §5.3.
pub(super) fn apply(mask: [u8; 4], turn: usize, bytes: &mut [u8]) {
    let mask = u32::from_le_bytes(mask).rotate_right(8 * u32::try_from(turn).unwrap_or(0));
    let word = u64::from(mask) << 32 | u64::from(mask);
    let (words, rest) = bytes.as_chunks_mut();
    for chunk in words {
        *chunk = (u64::from_le_bytes(*chunk) ^ word).to_le_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(word.to_le_bytes()) {
        *byte ^= mask;
    }
}

impl Message {
    fn clear(&mut self) {
        self.payload = Vec::new();
        self.checked = 0;
        self.inflater = None;
    }

    /// Looks whether the payload can be the beginning of a text.
    fn check(&mut self) -> Result<(), FrameError> {
        if self.kind == MessageKind::Binary {
            self.checked = self.payload.len();
            return Ok(());
        }
        let rest = self.payload.get(self.checked..).unwrap_or_default();
        match std::str::from_utf8(rest) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(FrameError::Utf8),
        }
        Ok(())
    }

    /// Takes the payload as a piece; what is not yet a character stays.
    fn piece(&mut self, is_last: bool) -> Result<Piece, FrameError> {
        let rest = self.payload.split_off(self.checked);
        if is_last && !rest.is_empty() {
            return Err(FrameError::Utf8);
        }
        let place = match (self.has_begun, is_last) {
            (false, true) => Place::Whole,
            (false, false) => Place::First,
            (true, false) => Place::Middle,
            (true, true) => Place::Last,
        };
        self.has_begun = true;
        self.checked = 0;
        Ok(Piece {
            kind: self.kind,
            place,
            bytes: Bytes::from(std::mem::replace(&mut self.payload, rest)),
        })
    }
}

fn finish_control(control: Control, content: Vec<u8>) -> Result<Input, FrameError> {
    Ok(match control {
        Control::Ping => Input::Ping(content.into()),
        Control::Pong => Input::Pong(content.into()),
        Control::Close => {
            check_close(&content)?;
            Input::Close(content.into())
        }
        Control::Reserved(_) => return Err(FrameError::Head),
    })
}

fn check_close(content: &[u8]) -> Result<(), FrameError> {
    match content.split_first_chunk() {
        None if content.is_empty() => Ok(()),
        Some((code, reason)) if close::may_be_sent(u16::from_be_bytes(*code)) => {
            std::str::from_utf8(reason)
                .map(|_| ())
                .map_err(|_| FrameError::Utf8)
        }
        _ => Err(FrameError::CloseCode),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Deflate, Mask, encode};
    use super::*;
    use grip::publish::WsMessageKind;

    const CLIENT: Rules = Rules {
        masking: Masking::Required,
        deflate: None,
        payload: Payload::Heard,
    };
    const ORIGIN: Rules = Rules {
        masking: Masking::Forbidden,
        deflate: None,
        payload: Payload::Heard,
    };

    /// What the bytes are, read in steps of `step` bytes.
    fn read(bytes: &[u8], rules: Rules, step: usize) -> Result<Vec<Input>, FrameError> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for mut input in bytes.chunks(step) {
            while let Some(input) = decoder.decode(&mut input, rules)? {
                found.push(input);
            }
            assert!(input.is_empty(), "all is read");
        }
        Ok(found)
    }

    /// A frame of a server from its first byte, the payload masked for clients.
    fn frame(first: u8, payload: &[u8], rules: Rules) -> Vec<u8> {
        let length = payload.len();
        let mut bytes = vec![first];
        if length <= 125 {
            bytes.push(u8::try_from(length).unwrap());
        } else {
            bytes.push(126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        if rules.masking == Masking::Required {
            bytes[1] |= 0x80;
            bytes.extend([1, 2, 3, 4]);
        }
        let start = bytes.len();
        bytes.extend_from_slice(payload);
        if rules.masking == Masking::Required {
            apply([1, 2, 3, 4], 0, &mut bytes[start..]);
        }
        bytes
    }

    fn frames(list: &[(u8, &[u8])], rules: Rules) -> Vec<u8> {
        let frames = list.iter();
        frames
            .flat_map(|(first, payload)| frame(*first, payload, rules))
            .collect()
    }

    /// Whatever the splits and whoever sends.
    #[track_caller]
    fn check(list: &[(u8, &[u8])], expected: Result<&[Input], FrameError>) {
        for rules in [CLIENT, ORIGIN] {
            let bytes = frames(list, rules);
            for step in [1, 2, 3, 5, bytes.len().max(1)] {
                let found = read(&bytes, rules, step);
                assert_eq!(
                    found.as_deref().map_err(|error| *error),
                    expected,
                    "{list:?}"
                );
            }
        }
    }

    fn piece(kind: MessageKind, place: Place, bytes: &'static [u8]) -> Input {
        Input::Piece(Piece {
            kind,
            place,
            bytes: Bytes::from_static(bytes),
        })
    }

    fn text(place: Place, text: &'static str) -> Input {
        piece(MessageKind::Text, place, text.as_bytes())
    }

    #[test]
    fn messages_and_control_frames_are_read() {
        check(&[], Ok(&[]));
        check(&[(0x81, b"Hello")], Ok(&[text(Place::Whole, "Hello")]));
        check(&[(0x81, b"")], Ok(&[text(Place::Whole, "")]));
        check(
            &[(0x82, b"\x00\xff")],
            Ok(&[piece(MessageKind::Binary, Place::Whole, b"\x00\xff")]),
        );
        check(
            &[(0x89, b"hi"), (0x8a, b"")],
            Ok(&[
                Input::Ping(Bytes::from_static(b"hi")),
                Input::Pong(Bytes::new()),
            ]),
        );
        let close = Bytes::from_static(b"\x03\xe8bye");
        check(&[(0x88, b"\x03\xe8bye")], Ok(&[Input::Close(close)]));
        check(&[(0x88, b"")], Ok(&[Input::Close(Bytes::new())]));
    }

    #[test]
    fn a_message_in_frames_comes_in_pieces_with_control_frames_between() {
        check(
            &[(0x01, b"Hel"), (0x89, b"x"), (0x00, b""), (0x80, b"lo")],
            Ok(&[
                text(Place::First, "Hel"),
                Input::Ping(Bytes::from_static(b"x")),
                text(Place::Middle, ""),
                text(Place::Last, "lo"),
            ]),
        );
    }

    #[test]
    fn broken_rules_are_told_apart() {
        check(&[(0x83, b"")], Err(FrameError::Head));
        check(&[(0x8b, b"")], Err(FrameError::Head));
        for first in [0xc1, 0xa1, 0x91, 0xc9] {
            check(&[(first, b"x")], Err(FrameError::Reserved));
        }
        check(&[(0x09, b"")], Err(FrameError::Control));
        check(&[(0x89, &[0; 126])], Err(FrameError::Control));
        check(&[(0x80, b"x")], Err(FrameError::Continuation));
        check(&[(0x00, b"x")], Err(FrameError::Continuation));
        assert_eq!(read(b"\x81\x00", CLIENT, 2), Err(FrameError::NotMasked));
        assert_eq!(
            read(b"\x81\x80\x00\x00\x00\x00", ORIGIN, 9),
            Err(FrameError::Masked)
        );
        let huge = b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(read(huge, ORIGIN, 10), Err(FrameError::Head));
        let interrupted = frames(&[(0x01, b"a"), (0x81, b"b")], ORIGIN);
        assert_eq!(read(&interrupted, ORIGIN, 9), Err(FrameError::Interrupted));
    }

    #[test]
    fn closes_are_checked() {
        check(&[(0x88, b"\x03")], Err(FrameError::CloseCode));
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            check(&[(0x88, &code.to_be_bytes())], Err(FrameError::CloseCode));
        }
        check(&[(0x88, b"\x03\xe8\xff")], Err(FrameError::Utf8));
    }

    #[test]
    fn text_fails_at_the_first_byte_that_cannot_be_utf8() {
        let bad: [&[u8]; 9] = [
            b"\x80",
            b"\xbf",
            b"\xc0",
            b"\xc1",
            b"\xe0\x80",
            b"\xed\xa0",
            b"\xf0\x80",
            b"\xf4\x90",
            b"\xf5",
        ];
        for bytes in bad {
            // The frame is not complete: more was announced.
            let mut whole = bytes.to_vec();
            whole.extend_from_slice(b"more");
            let frame = frame(0x81, &whole, CLIENT);
            let begun = &frame[..frame.len() - 4];
            assert_eq!(read(begun, CLIENT, 1), Err(FrameError::Utf8), "{bytes:?}");
        }
        check(&[(0x81, b"\xce")], Err(FrameError::Utf8));
    }

    #[test]
    fn characters_are_not_cut() {
        let word = "κόσμε".as_bytes();
        for cut in 1..word.len() {
            let bytes = frames(&[(0x01, &word[..cut]), (0x80, &word[cut..])], CLIENT);
            let found = read(&bytes, CLIENT, 1).unwrap();
            let mut joined = Vec::new();
            for input in found {
                let Input::Piece(piece) = input else {
                    panic!("no control frames")
                };
                assert!(std::str::from_utf8(&piece.bytes).is_ok(), "cut at {cut}");
                joined.extend_from_slice(&piece.bytes);
            }
            assert_eq!(joined, word);
        }
    }

    #[test]
    fn a_large_frame_comes_in_pieces() {
        let payload = vec![b'x'; PIECE * 2 + 5];
        let bytes = frame(0x82, &payload, CLIENT);
        for step in [1000, 4096, bytes.len()] {
            let lengths: Vec<(Place, usize)> = read(&bytes, CLIENT, step)
                .unwrap()
                .into_iter()
                .map(|input| match input {
                    Input::Piece(piece) => (piece.place, piece.bytes.len()),
                    other => panic!("{other:?}"),
                })
                .collect();
            let expected = [
                (Place::First, PIECE),
                (Place::Middle, PIECE),
                (Place::Last, 5),
            ];
            assert_eq!(lengths, expected);
        }
        let bytes = frame(0x82, &payload[..PIECE], CLIENT);
        assert_eq!(
            read(&bytes, CLIENT, 7).unwrap().len(),
            1,
            "whole up to that size"
        );
    }

    #[test]
    fn what_is_written_can_be_read() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let content = vec![b'x'; length];
            for (mask, rules) in [(Mask::None, ORIGIN), (Mask::Key([9, 0, 255, 3]), CLIENT)] {
                let bytes = encode::message(WsMessageKind::Binary, &content, mask);
                let mut joined = Vec::new();
                for input in read(&bytes, rules, 1021).unwrap() {
                    if let Input::Piece(piece) = input {
                        joined.extend_from_slice(&piece.bytes);
                    }
                }
                assert_eq!(joined, content);
            }
        }
    }

    fn compressed(rules: Rules) -> Rules {
        Rules {
            deflate: Deflate::with_window_bits(15),
            ..rules
        }
    }

    #[test]
    fn compressed_messages_are_inflated() {
        // The examples of RFC 7692 §7.2.3.
        let rules = compressed(ORIGIN);
        let hello = text(Place::Whole, "Hello");
        for bytes in [
            &b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
            b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
            b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ] {
            for step in [1, 2, bytes.len()] {
                assert_eq!(
                    read(bytes, rules, step).as_deref(),
                    Ok(&[hello.clone()][..])
                );
            }
        }
        let parts = b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00";
        let mut joined = Vec::new();
        for input in read(parts, rules, 1).unwrap() {
            if let Input::Piece(piece) = input {
                joined.extend_from_slice(&piece.bytes);
            }
        }
        assert_eq!(joined, b"Hello");
    }

    #[test]
    fn an_empty_compressed_message_and_a_plain_one_are_read() {
        let rules = compressed(ORIGIN);
        let bytes = b"\xc1\x01\x00\x81\x01x";
        let expected = [text(Place::Whole, ""), text(Place::Whole, "x")];
        assert_eq!(read(bytes, rules, 1).as_deref(), Ok(&expected[..]));
    }

    #[test]
    fn data_that_is_not_compressed_is_an_error() {
        let rules = compressed(ORIGIN);
        assert_eq!(
            read(b"\xc1\x02\xff\xff", rules, 1),
            Err(FrameError::Deflate)
        );
    }

    #[test]
    fn a_compressed_message_may_be_cut_anywhere() {
        let rules = compressed(ORIGIN);
        let content = b"a much repeated text, ".repeat(100);
        let deflate = Deflate::with_window_bits(15).unwrap();
        let small = deflate.compress(&content).unwrap();
        for size in 1..small.len() {
            let mut parts = small.chunks(size).peekable();
            let mut first = 0x42;
            let mut bytes = Vec::new();
            while let Some(part) = parts.next() {
                let last = if parts.peek().is_none() { 0x80 } else { 0 };
                bytes.extend(frame(first | last, part, rules));
                first = 0;
            }
            let mut joined = Vec::new();
            for input in read(&bytes, rules, bytes.len()).unwrap() {
                if let Input::Piece(piece) = input {
                    joined.extend_from_slice(&piece.bytes);
                }
            }
            assert_eq!(joined, content, "frames of {size} bytes");
        }
    }

    #[test]
    fn short_compressed_data_may_be_a_long_message() {
        let rules = compressed(ORIGIN);
        let deflate = Deflate::with_window_bits(15).unwrap();
        for length in (1..40).map(|it| it * 97) {
            let content = vec![b'x'; length];
            let Some(small) = deflate.compress(&content) else {
                continue;
            };
            let bytes = encode::deflated(WsMessageKind::Text, &small);
            for step in [1, 3, bytes.len()] {
                let expected = Input::Piece(Piece {
                    kind: MessageKind::Text,
                    place: Place::Whole,
                    bytes: content.clone().into(),
                });
                assert_eq!(read(&bytes, rules, step), Ok(vec![expected]), "{length}");
            }
        }
    }

    /// Whatever comes where it is not asked for, frames are told apart.
    #[test]
    fn what_is_skipped_has_no_pieces_and_is_not_checked() {
        let rules = Rules {
            payload: Payload::Skipped,
            ..compressed(CLIENT)
        };
        let list: [(u8, &[u8]); 6] = [
            (0xc1, b"\xff\xff"),
            (0x41, &[0xff; 200]),
            (0x89, b"hi"),
            (0x80, b"\xff"),
            (0x81, b"\xff"),
            (0x88, b"\x03\xe8"),
        ];
        let bytes = frames(&list, rules);
        let expected = [
            Input::Ping(Bytes::from_static(b"hi")),
            Input::Close(Bytes::from_static(b"\x03\xe8")),
        ];
        for step in [1, 2, 7, bytes.len()] {
            assert_eq!(read(&bytes, rules, step).as_deref(), Ok(&expected[..]));
        }
        let interrupted = frames(&[(0x01, b"a"), (0x81, b"b")], rules);
        assert_eq!(read(&interrupted, rules, 3), Err(FrameError::Interrupted));
    }

    #[test]
    fn what_is_skipped_is_not_inflated() {
        let heard = compressed(CLIENT);
        let skipped = Rules {
            payload: Payload::Skipped,
            ..heard
        };
        let content = vec![0; 1_000_000];
        let small = heard.deflate.unwrap().compress(&content).unwrap();
        let bytes = frame(0xc2, &small, CLIENT);
        // It begins while somebody hears it, or when nobody does any more.
        for begun in [0, 3, 500] {
            let mut decoder = Decoder::default();
            let (mut first, rest) = bytes.split_at(begun);
            while decoder.decode(&mut first, heard).unwrap().is_some() {}
            let (mut more, mut last) = rest.split_at(rest.len() - 1);
            assert_eq!(decoder.decode(&mut more, skipped), Ok(None));
            let message = decoder.message.as_ref().unwrap();
            assert!(message.inflater.is_none(), "behind {begun} bytes");
            assert_eq!(message.payload.capacity(), 0);
            assert_eq!(decoder.decode(&mut last, skipped), Ok(None));
            assert!(decoder.is_idle() && last.is_empty());
        }
    }

    #[test]
    fn a_bomb_is_inflated_in_pieces() {
        let rules = compressed(ORIGIN);
        let content = vec![0; 10_000_000];
        let deflate = Deflate::with_window_bits(15).unwrap();
        let small = deflate.compress(&content).unwrap();
        let bytes = encode::deflated(WsMessageKind::Binary, &small);
        let mut decoder = Decoder::default();
        let mut input = &bytes[..];
        let mut sum = 0;
        while let Some(Input::Piece(piece)) = decoder.decode(&mut input, rules).unwrap() {
            assert!(piece.bytes.len() <= PIECE * 2, "{}", piece.bytes.len());
            sum += piece.bytes.len();
        }
        assert_eq!(sum, content.len());
        assert!(decoder.is_idle());
    }
}
