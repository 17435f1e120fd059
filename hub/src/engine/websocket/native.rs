//! Origins that speak WebSocket themselves.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

use bytes::Bytes;
use grip::publish::WsMessageKind;
use grip::websocket::close::Close;
use grip::websocket::extension::{Frames, Word};

use super::origin::read;
use super::{Flow, Origin, Talk};
use crate::engine::connections::{Care, Phase};
use crate::engine::{Engine, Outbox, Output};
use crate::frames::{
    self, Decoder, Input, Mask, Masking, MessageKind, Payload, Piece, Place, Rules,
};
use crate::mailbox::ConnectionKey;

/// Bytes that may wait for the origin before its client is stopped.
const FULL: usize = 64 * 1024;

/// A WebSocket to the origin.
#[derive(Debug, Default)]
pub(super) struct Native {
    decoder: Decoder,
    outbox: Outbox,
    masks: Masks,
    /// What becomes of the message that is coming.
    verdict: Option<Verdict>,
    /// Frames of others that wait for the end of that message.
    pub(super) waiting: Outbox,
    has_closed: bool,
    flow: Stop,
}

/// What becomes of the rest of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Relay,
    Drop,
}

/// Whether the origin is read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    /// Until the client has read more.
    Yes,
}

/// Keys that nobody can foresee; RFC 6455 §10.3.
#[derive(Debug, Default)]
struct Masks {
    state: RandomState,
    count: u64,
}

impl Masks {
    fn next(&mut self) -> Mask {
        self.count += 1;
        let [a, b, c, d, ..] = self.state.hash_one(self.count).to_ne_bytes();
        Mask::Key([a, b, c, d])
    }
}

impl Native {
    /// A piece of a client's message.
    pub(super) fn relay(&mut self, piece: &Piece) {
        let mask = self.masks.next();
        self.push(frames::piece(piece, mask));
    }

    /// A ping or pong of the client.
    pub(super) fn send(&mut self, kind: WsMessageKind, content: &[u8]) {
        let mask = self.masks.next();
        self.push(frames::message(kind, content, mask));
    }

    /// Closes, once.
    pub(super) fn close(&mut self, content: &[u8]) {
        let mask = self.masks.next();
        self.push(frames::close(content, mask));
        self.has_closed = true;
    }

    fn push(&mut self, frame: Bytes) {
        if !self.has_closed {
            self.outbox.push(frame);
        }
    }

    /// The end of the connection, once all is written.
    pub(super) fn finish(&mut self, key: ConnectionKey) -> Output {
        Output::FinishOrigin {
            connection: key,
            rest: std::mem::take(&mut self.outbox),
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the client has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.outbox.weight() > FULL
    }

    /// Whether the client has the beginning of a message without its end.
    pub(super) fn is_amid_message(&self) -> bool {
        self.verdict == Some(Verdict::Relay)
    }
}

impl Engine {
    /// Bytes of a native origin. Says whether to go on reading.
    pub(crate) fn handle_origin_input(
        &mut self,
        key: ConnectionKey,
        mut input: &[u8],
        now: Instant,
    ) -> Flow {
        self.now = now;
        let rules = Rules {
            masking: Masking::Forbidden,
            deflate: None,
            payload: Payload::Heard,
        };
        while let Some(native) = self.native(key) {
            match native.decoder.decode(&mut input, rules) {
                Ok(None) => break,
                Ok(Some(input)) => self.hear_native(key, input, now),
                Err(error) => {
                    self.lose_origin(key, Close::INTERNAL_ERROR, &error.to_string(), now);
                    break;
                }
            }
        }
        self.tend(key, now);
        self.check_invariants();
        let much = self.much();
        let Some(connection) = self.connections.get(key) else {
            return Flow::Going;
        };
        if connection.outbox.pending_bytes() > much
            && let Phase::WebSocket(front, socket) = &mut connection.phase
            && let Origin::Native(native) = &mut socket.origin
        {
            front.care = Care::AfterWrite;
            native.flow = Stop::Yes;
            return Flow::Stopped;
        }
        Flow::Going
    }

    pub(super) fn native(&mut self, key: ConnectionKey) -> Option<&mut Native> {
        match &mut self.websocket(key)?.origin {
            Origin::Native(native) => Some(native),
            _ => None,
        }
    }

    /// What waits for a native origin.
    pub(crate) fn origin_outbox(&mut self, key: ConnectionKey) -> Option<&mut Outbox> {
        Some(&mut self.native(key)?.outbox)
    }

    /// To be called after each write to the origin.
    pub(crate) fn handle_origin_written(&mut self, key: ConnectionKey) {
        self.resume_client(key);
    }

    /// Reads the origin on if its client has read enough.
    pub(super) fn resume_origin(&mut self, key: ConnectionKey) {
        let much = self.much();
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if connection.outbox.pending_bytes() > much / 2 {
            return;
        }
        if let Some(native) = self.native(key)
            && std::mem::take(&mut native.flow) == Stop::Yes
        {
            self.outputs.push_back(Output::ResumeOrigin(key));
        }
    }

    /// The connection to a native origin is gone.
    pub(crate) fn handle_origin_gone(&mut self, key: ConnectionKey, now: Instant) {
        self.now = now;
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if !matches!(socket.origin, Origin::Native(_)) {
            return;
        }
        self.leave_native(key);
        self.refresh_lane(key);
        if self.talk(key) == Some(Talk::Open) {
            self.lose_origin(key, Close::BAD_GATEWAY, "the origin is gone", now);
        }
        self.resume_client(key);
        self.tend(key, now);
        self.check_invariants();
    }

    fn hear_native(&mut self, key: ConnectionKey, input: Input, now: Instant) {
        match input {
            Input::Piece(piece) => self.hear_native_piece(key, piece, now),
            Input::Ping(content) => self.pass_control(key, WsMessageKind::Ping, &content, now),
            Input::Pong(content) => self.pass_control(key, WsMessageKind::Pong, &content, now),
            Input::Close(content) => {
                self.drop_unfinished(key);
                self.answer_close(key, &content, now);
            }
        }
    }

    /// The rest of a message never comes, and so nothing can stand behind it but a close.
    fn drop_unfinished(&mut self, key: ConnectionKey) {
        if let Some(native) = self.native(key)
            && native.is_amid_message()
        {
            native.waiting.clear();
            self.count_waiting(key);
        }
    }

    /// Gives a native origin up, with what waits for the end of its message. Whoever calls says what
    /// becomes of the connection to it.
    pub(super) fn leave_native(&mut self, key: ConnectionKey) -> Option<Box<Native>> {
        self.native(key)?.waiting.clear();
        self.count_waiting(key);
        let socket = self.websocket(key)?;
        match std::mem::replace(&mut socket.origin, Origin::None) {
            Origin::Native(native) => Some(native),
            _ => None,
        }
    }

    /// Counts what waits for the end of a message as waiting for the client.
    pub(super) fn count_waiting(&mut self, key: ConnectionKey) {
        if let Some(native) = self.native(key) {
            let waiting = native.waiting.weight();
            let before = native.waiting.note_left(waiting);
            let after = native.waiting.left();
            self.recount(before, after);
        }
    }

    /// A control frame, which may stand between the frames of a message; RFC 6455 §5.4.
    fn pass_control(
        &mut self,
        key: ConnectionKey,
        kind: WsMessageKind,
        content: &[u8],
        now: Instant,
    ) {
        let frame = frames::message(kind, content, Mask::None);
        self.count_relayed(key, frame.len());
        self.push_frames(key, frame, now);
    }

    fn hear_native_piece(&mut self, key: ConnectionKey, mut piece: Piece, now: Instant) {
        let verdict = match piece.place {
            Place::Middle | Place::Last => self.native(key).and_then(|native| native.verdict),
            Place::Whole | Place::First => self.judge(key, &mut piece, now),
        };
        let ends = matches!(piece.place, Place::Whole | Place::Last);
        if let Some(native) = self.native(key) {
            native.verdict = if ends { None } else { verdict };
        }
        if verdict == Some(Verdict::Relay) {
            let frame = frames::piece(&piece, Mask::None);
            self.count_relayed(key, frame.len());
            self.push_frames(key, frame, now);
        }
        if ends {
            self.flush_waiting(key, now);
        } else {
            self.refresh_lane(key);
        }
    }

    /// What the beginning of a message says of all of it. Takes its prefix off; does what it says
    /// if it is for the hub.
    fn judge(&mut self, key: ConnectionKey, piece: &mut Piece, now: Instant) -> Option<Verdict> {
        let kind = match piece.kind {
            MessageKind::Text => WsMessageKind::Text,
            MessageKind::Binary => WsMessageKind::Binary,
        };
        let frames = match piece.place {
            Place::Whole => Frames::One,
            _ => Frames::Many,
        };
        let socket = self.websocket(key)?;
        match read(socket.extension.as_ref(), kind, &piece.bytes, frames) {
            Word::Relay(content) => {
                piece.bytes = content;
                Some(Verdict::Relay)
            }
            Word::Control(json) => {
                self.control(key, &json, now);
                None
            }
            Word::Drop => {
                self.counters.websocket_dropped.increment();
                Some(Verdict::Drop)
            }
        }
    }
}
