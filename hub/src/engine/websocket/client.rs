//! From the client's bytes to messages for the origin.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use grip::publish::WsMessageKind;
use grip::websocket::close::Close;
use grip::websocket::event::Event;
use grip::websocket::over_http::BUFFER;

use super::{CLOSING, Flow, MUCH, Origin, Talk, WebSocket};
use crate::engine::connections::{Care, Phase};
use crate::engine::{Engine, Output};
use crate::frames::{
    self, Decoder, Input, Mask, Masking, MessageKind, Payload, Piece, Place, Rules,
};
use crate::mailbox::ConnectionKey;

/// What is incomplete of the client's bytes.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    decoder: Decoder,
    /// The pieces so far of a message that goes to the origin as one.
    message: BytesMut,
    /// Bytes that wait until there is room for what they become.
    unread: BytesMut,
}

impl Incoming {
    fn is_idle(&self) -> bool {
        self.decoder.is_idle() && self.message.is_empty() && self.unread.is_empty()
    }
}

impl Engine {
    /// Bytes that the client sent. Says whether to go on reading.
    pub(crate) fn handle_input(&mut self, key: ConnectionKey, input: &[u8], now: Instant) -> Flow {
        self.now = now;
        let flow = self.read(key, input, now);
        self.check_invariants();
        flow
    }

    /// Decodes as much as there is room for; the rest waits.
    fn read(&mut self, key: ConnectionKey, mut input: &[u8], now: Instant) -> Flow {
        let Some(socket) = self.websocket(key) else {
            return Flow::Going;
        };
        // Most input is whole frames; those need no memory of their own in between.
        let own = socket.take_incoming();
        let mut incoming = own.or_else(|| self.spare.take()).unwrap_or_default();
        while let Some(rules) = self.rules(key) {
            if rules.payload == Payload::Skipped {
                incoming.message = BytesMut::new();
            }
            match incoming.decoder.decode(&mut input, rules) {
                Ok(None) => break,
                Ok(Some(found)) => {
                    self.hear(key, &mut incoming, found, now);
                    // A few compressed bytes may become many.
                    if self.check_flow(key, incoming.message.len()) == Flow::Stopped {
                        incoming.unread.extend_from_slice(input);
                        break;
                    }
                }
                Err(error) => {
                    self.counters.websocket_errors.increment();
                    self.refuse(key, error.code(), &error.to_string(), now);
                    break;
                }
            }
        }
        self.tend(key, now);
        let assembled = incoming.message.len();
        if incoming.is_idle() {
            incoming.message = BytesMut::new();
            self.spare = Some(incoming);
        } else if let Some(socket) = self.websocket(key)
            && socket.talk.hears()
        {
            socket.work().incoming = Some(incoming);
        }
        self.check_flow(key, assembled)
    }

    /// What the client's frames must be like; `None` if they are of no interest any more.
    fn rules(&mut self, key: ConnectionKey) -> Option<Rules> {
        let socket = self.websocket(key)?;
        socket.talk.hears().then(|| Rules {
            masking: Masking::Required,
            deflate: socket.deflate,
            payload: socket.payload(),
        })
    }

    /// Whether there is room for more of the client's messages.
    fn check_flow(&mut self, key: ConnectionKey, assembled: usize) -> Flow {
        let Some(connection) = self.connections.get(key) else {
            return Flow::Going;
        };
        let pending = connection.outbox.weight();
        let Phase::WebSocket(front, socket) = &mut connection.phase else {
            return Flow::Going;
        };
        let is_full = match &socket.origin {
            // A message is never too large for an empty buffer: it was refused while it came.
            Origin::OverHttp(over_http) => {
                let room = over_http.room();
                room < BUFFER && room <= assembled
            }
            Origin::Native(native) => native.is_full(),
            // What the hub itself answers waits for the client.
            Origin::Leaving(_) | Origin::Test | Origin::None => {
                if pending > MUCH {
                    front.care = Care::AfterWrite;
                }
                pending > MUCH
            }
        };
        // After a close nothing is kept of what comes.
        socket.flow = if is_full && socket.talk == Talk::Open {
            Flow::Stopped
        } else {
            Flow::Going
        };
        let is_stopped = socket.flow == Flow::Stopped;
        if is_stopped && socket.over_http().is_some_and(|it| it.is_stuck()) {
            // The origin won't be asked before there is more, and there is no room for more.
            socket.flow = Flow::Going;
            self.counters.websocket_errors.increment();
            let reason = "no room beside what the origin has left";
            self.refuse(key, Close::TOO_LARGE, reason, self.now);
            return Flow::Going;
        }
        socket.flow
    }

    /// Reads on if there is room again.
    pub(super) fn resume_client(&mut self, key: ConnectionKey) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if socket.flow == Flow::Going {
            return;
        }
        let work = socket.work.as_mut();
        let incoming = work.and_then(|work| work.incoming.as_mut());
        let (assembled, unread) = incoming.map_or_else(Default::default, |incoming| {
            let unread = std::mem::take(&mut incoming.unread);
            (incoming.message.len(), unread)
        });
        let mut flow = self.check_flow(key, assembled);
        if flow == Flow::Going {
            // Without new bytes, too: what was read may become more.
            flow = self.read(key, &unread, self.now);
        } else if let Some(socket) = self.websocket(key)
            && let Some(work) = &mut socket.work
            && let Some(incoming) = &mut work.incoming
        {
            incoming.unread = unread;
        }
        if flow == Flow::Going {
            self.outputs.push_back(Output::Resume(key));
        }
    }

    fn hear(&mut self, key: ConnectionKey, incoming: &mut Incoming, input: Input, now: Instant) {
        match input {
            Input::Close(content) => self.hear_close(key, content, now),
            Input::Piece(piece) => self.hear_piece(key, incoming, piece, now),
            Input::Ping(content) => self.hear_control(key, WsMessageKind::Ping, content, now),
            Input::Pong(content) => self.hear_control(key, WsMessageKind::Pong, content, now),
        }
    }

    fn hear_control(
        &mut self,
        key: ConnectionKey,
        kind: WsMessageKind,
        content: Bytes,
        now: Instant,
    ) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if socket.talk != Talk::Open {
            return;
        }
        match &mut socket.origin {
            Origin::OverHttp(over_http) => over_http.push(match kind {
                WsMessageKind::Ping => Event::Ping(content),
                _ => Event::Pong(content),
            }),
            Origin::Native(native) => {
                native.send(kind, &content);
                self.write_origin(key);
            }
            // Nobody else would answer.
            Origin::Leaving(_) | Origin::Test | Origin::None if kind == WsMessageKind::Ping => {
                let pong = frames::message(WsMessageKind::Pong, &content, Mask::None);
                self.push_frames(key, pong, now);
            }
            Origin::Leaving(_) | Origin::Test | Origin::None => {}
        }
    }

    fn hear_piece(
        &mut self,
        key: ConnectionKey,
        incoming: &mut Incoming,
        piece: Piece,
        now: Instant,
    ) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if socket.talk != Talk::Open {
            return;
        }
        match &mut socket.origin {
            Origin::OverHttp(_) | Origin::Test
                if incoming.message.len() + piece.bytes.len() > BUFFER =>
            {
                incoming.message = BytesMut::new();
                self.counters.websocket_errors.increment();
                self.refuse(key, Close::TOO_LARGE, "message too large", now);
            }
            Origin::OverHttp(over_http) => {
                let kind = piece.kind;
                if let Some(content) = incoming.assemble(piece) {
                    over_http.push(event(kind, content));
                }
            }
            Origin::Native(native) => {
                native.relay(&piece);
                self.write_origin(key);
            }
            Origin::Test => {
                let kind = WsMessageKind::from(piece.kind);
                if let Some(content) = incoming.assemble(piece) {
                    let frame = frames::message(kind, &content, Mask::None);
                    self.push_frames(key, frame, now);
                }
            }
            Origin::Leaving(_) | Origin::None => {}
        }
    }

    fn hear_close(&mut self, key: ConnectionKey, content: Bytes, now: Instant) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        match (socket.talk, &mut socket.origin) {
            (Talk::Open, Origin::OverHttp(over_http)) => {
                over_http.close(content);
                self.close_received(key);
            }
            (Talk::Open, Origin::Native(native)) => {
                native.close(&content);
                socket.work().closes_at = Some(now + CLOSING);
                self.close_received(key);
                self.write_origin(key);
            }
            (Talk::Open, Origin::Leaving(_) | Origin::Test | Origin::None) => {
                self.close_received(key);
                self.answer_close(key, &content, now);
            }
            (Talk::CloseSent, origin) => {
                match origin {
                    Origin::OverHttp(over_http) => over_http.close(content),
                    Origin::Native(native) => native.close(&content),
                    Origin::Leaving(_) | Origin::Test | Origin::None => {}
                }
                self.write_origin(key);
                self.end_client(key, now);
            }
            (Talk::CloseReceived | Talk::Ended | Talk::Gone, _) => {}
        }
    }

    /// Nothing is published to a client that has closed.
    fn close_received(&mut self, key: ConnectionKey) {
        if let Some(socket) = self.websocket(key) {
            socket.talk = Talk::CloseReceived;
            self.stop_items(key);
        }
    }

    /// Answers a client's close frame with its own content, as is usual; RFC 6455 §5.5.1.
    pub(super) fn answer_close(&mut self, key: ConnectionKey, content: &[u8], now: Instant) {
        let close = Close::from_content(content);
        self.send_close(key, close.as_ref(), now);
    }

    /// The client broke the protocol. Nothing that it sends counts any more.
    fn refuse(&mut self, key: ConnectionKey, code: u16, reason: &str, now: Instant) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let close = socket.reason(code, reason);
        // It did not close; so the origin hears that it vanished.
        match &mut socket.origin {
            Origin::OverHttp(over_http) => over_http.vanish(),
            Origin::Native(_) => {
                self.leave_native(key);
                self.outputs.push_back(Output::DropOrigin(key));
            }
            Origin::Leaving(_) | Origin::Test | Origin::None => {}
        }
        self.send_close(key, Some(&close), now);
        self.end_client(key, now);
    }
}

impl WebSocket {
    /// Whether anybody wants what the client's messages say. Who does not will never again.
    fn payload(&self) -> Payload {
        match (self.talk, &self.origin) {
            (Talk::Open, Origin::OverHttp(_) | Origin::Native(_) | Origin::Test) => Payload::Heard,
            _ => Payload::Skipped,
        }
    }
}

impl Incoming {
    /// The whole message, once its last piece is there.
    fn assemble(&mut self, piece: Piece) -> Option<Bytes> {
        match piece.place {
            Place::Whole => Some(piece.bytes),
            Place::First | Place::Middle => {
                self.message.extend_from_slice(&piece.bytes);
                None
            }
            Place::Last => {
                self.message.extend_from_slice(&piece.bytes);
                Some(std::mem::take(&mut self.message).freeze())
            }
        }
    }
}

fn event(kind: MessageKind, content: Bytes) -> Event {
    match kind {
        MessageKind::Text => Event::Text(content),
        MessageKind::Binary => Event::Binary(content),
    }
}

impl Talk {
    /// Whether the client's frames are still of interest.
    fn hears(self) -> bool {
        matches!(self, Self::Open | Self::CloseSent)
    }
}
