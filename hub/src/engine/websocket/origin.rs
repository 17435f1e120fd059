//! What a WebSocket's origin is asked over HTTP, and what becomes of what it says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::publish::WsMessageKind;
use grip::websocket::close::Close;
use grip::websocket::event::Event;
use grip::websocket::extension::{Extension, Frames, Word};
use http::HeaderMap;

use super::{Origin, Talk, Turn};
use crate::engine::connections::{Care, Phase};
use crate::engine::outbox::PIECE;
use crate::engine::{Engine, Output, mark_dirty};
use crate::exchange::{ExchangeError, Exchanged};
use crate::frames;
use crate::mailbox::ConnectionKey;

/// Retries of connections that failed together are spread over this time.
const JITTER: Duration = Duration::from_secs(1);

impl Engine {
    /// Hands the next request out, if one is due and the client reads what it got before.
    pub(super) fn ask_origin(&mut self, key: ConnectionKey, now: Instant) -> Turn {
        let much = self.much();
        let Some(connection) = self.connections.get(key) else {
            return Turn::Other;
        };
        let pending = connection.outbox.pending_bytes();
        let Phase::WebSocket(front, socket) = &mut connection.phase else {
            return Turn::Other;
        };
        if pending > much && socket.has_client() {
            front.care = Care::AfterWrite;
            return Turn::OfClient;
        }
        let Some(over_http) = socket.over_http() else {
            return Turn::Other;
        };
        let Some(request) = over_http.poll_request(now) else {
            return Turn::Other;
        };
        let mut meta = HeaderMap::new();
        for (name, value) in over_http.meta() {
            meta.append(name.clone(), value.clone());
        }
        // All shards share what is in it: a count that is touched without need costs all of them.
        let handshake = socket.handshake.clone();
        self.counters.websocket_exchanges.increment();
        self.outputs.push_back(Output::Exchange {
            connection: key,
            handshake,
            request,
            meta,
        });
        Turn::Other
    }

    /// What came of [`Output::Exchange`].
    pub(crate) fn handle_exchanged(
        &mut self,
        key: ConnectionKey,
        exchanged: Exchanged,
        now: Instant,
    ) {
        self.now = now;
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let Some(over_http) = socket.over_http() else {
            return;
        };
        match exchanged {
            Ok((fields, body)) => match over_http.handle_answer(&fields, &body, now) {
                Ok(events) => self.hear_origin(key, events, now),
                Err(error) => {
                    over_http.handle_failed();
                    self.lose_origin(key, Close::INTERNAL_ERROR, &error.to_string(), now);
                }
            },
            Err(error @ ExchangeError::Unsent(_)) => {
                if over_http.handle_unsent(now, jitter(key)).is_err() {
                    self.lose_origin(key, Close::BAD_GATEWAY, &error.to_string(), now);
                }
            }
            Err(error @ ExchangeError::Failed(_)) => {
                over_http.handle_failed();
                self.lose_origin(key, Close::INTERNAL_ERROR, &error.to_string(), now);
            }
        }
        self.resume_client(key);
        self.tend(key, now);
        self.check_invariants();
    }

    /// The origin can't be talked to any more. A client that is detached does not mind.
    pub(super) fn lose_origin(&mut self, key: ConnectionKey, code: u16, why: &str, now: Instant) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let is_leaving = matches!(socket.origin, Origin::Leaving(_));
        tracing::debug!(reason = why, "a WebSocket's origin failed");
        self.counters.websocket_origin_errors.increment();
        if !is_leaving {
            self.fail_websocket(key, code, why, now);
        }
    }

    /// What the origin says over HTTP, in its order.
    pub(super) fn hear_origin(&mut self, key: ConnectionKey, events: Vec<Event>, now: Instant) {
        for event in events {
            let Some(socket) = self.websocket(key) else {
                return;
            };
            let is_heard = matches!(socket.talk, Talk::Open | Talk::CloseReceived);
            if !is_heard || !matches!(socket.origin, Origin::OverHttp(_)) {
                // It was detached, or the end is near.
                return;
            }
            match event {
                Event::Text(content) => self.say(key, WsMessageKind::Text, &content, now),
                Event::Binary(content) => self.say(key, WsMessageKind::Binary, &content, now),
                Event::Ping(content) => self.pass(key, WsMessageKind::Ping, &content, now),
                Event::Pong(content) => self.pass(key, WsMessageKind::Pong, &content, now),
                Event::Close(content) => return self.answer_close(key, &content, now),
                // What it said before is still for the client.
                Event::Disconnect => return self.end_client(key, now),
                // The state machine has refused it where it must not stand.
                Event::Open => {}
            }
        }
    }

    /// A whole message of the origin.
    fn say(&mut self, key: ConnectionKey, kind: WsMessageKind, content: &Bytes, now: Instant) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let frames = if content.len() <= frames::PIECE {
            Frames::One
        } else {
            Frames::Many
        };
        match read(socket.extension.as_ref(), kind, content, frames) {
            Word::Control(json) => self.control(key, &json, now),
            Word::Relay(content) => self.relay(key, kind, &content, now),
            Word::Drop => self.counters.websocket_dropped.increment(),
        }
    }

    fn relay(&mut self, key: ConnectionKey, kind: WsMessageKind, content: &Bytes, now: Instant) {
        if kind == WsMessageKind::Text && std::str::from_utf8(content).is_err() {
            // The client would have to fail the connection; RFC 6455 §8.1.
            return self.lose_origin(key, Close::INTERNAL_ERROR, "text that is not UTF-8", now);
        }
        self.pass(key, kind, content, now);
    }

    /// A message as frames for the client.
    fn pass(&mut self, key: ConnectionKey, kind: WsMessageKind, content: &[u8], now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let frames = if content.len() <= frames::PIECE {
            connection.frame(kind, content)
        } else {
            frames::split(kind, content)
        };
        self.count_relayed(key, frames.len());
        self.push_frames(key, frames, now);
    }

    /// What the origin relays waits for the client without making it a slow one.
    pub(super) fn count_relayed(&mut self, key: ConnectionKey, bytes: usize) {
        self.counters.websocket_messages_out.increment();
        if let Some(connection) = self.connections.get(key)
            && let Phase::WebSocket(front, socket) = &mut connection.phase
        {
            socket.work().relayed += bytes + PIECE;
            front.care = Care::AfterWrite;
        }
    }

    /// Bytes for the native connection to the origin are there.
    pub(super) fn write_origin(&mut self, key: ConnectionKey) {
        if let Some(socket) = self.websocket(key)
            && let Origin::Native(native) = &mut socket.origin
            && native.has_output()
        {
            self.outputs.push_back(Output::WriteOrigin(key));
        }
    }

    /// What was held back because a message was under way.
    pub(super) fn flush_waiting(&mut self, key: ConnectionKey, now: Instant) {
        self.refresh_lane(key);
        let Some(native) = self.native(key) else {
            return;
        };
        if native.is_amid_message() || native.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut native.waiting);
        self.recount(waiting.left(), 0);
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if connection.takes_frames() {
            connection.outbox.take_from(&mut waiting);
            connection.restart_keep_alive(now);
            mark_dirty(&mut self.dirty, key, connection);
        }
    }

    /// Asks the origin for news of its own; publish action `refresh`.
    pub(in crate::engine) fn refresh_origin(&mut self, key: ConnectionKey, now: Instant) {
        if let Some(socket) = self.websocket(key)
            && socket.talk == Talk::Open
            && let Origin::OverHttp(over_http) = &mut socket.origin
        {
            over_http.refresh();
            self.tend(key, now);
        }
    }
}

/// What a message means with GRIP, or without.
pub(super) fn read(
    extension: Option<&Extension>,
    kind: WsMessageKind,
    content: &Bytes,
    frames: Frames,
) -> Word {
    match extension {
        Some(extension) => extension.read(kind, content, frames),
        None => Word::Relay(content.clone()),
    }
}

/// Different for each connection.
fn jitter(key: ConnectionKey) -> Duration {
    let spread = u32::try_from(JITTER.as_millis()).unwrap_or(u32::MAX);
    Duration::from_millis(u64::from(key.index.wrapping_mul(2_654_435_761) % spread))
}
