//! WebSockets: what the client sends, what its origin says, and how either of them ends.
//!
//! Each is plain data. Bytes of the client become messages for the origin here; what the origin
//! says becomes frames in the outbox, in which published items stand as well. The conversation with
//! the origin is [`OverHttp`] or frames on a connection of its own; GRIP is the same on both.
//!
//! ```text
//! Open ──client closes──▶ CloseReceived ──origin closes──▶ Ended ──flushed──▶ Gone
//!   │                                                        ▲                  │
//!   └──origin, item, error, drain──▶ CloseSent ──client──────┘      origin knows │
//!   any ──client lost──▶ Gone ◀──────────────────────────────                   ▼
//!                                                                           forgotten
//! ```

mod client;
mod control;
mod native;
mod origin;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod simulation;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::ChannelName;
use grip::channel::ItemId;
use grip::filter::Filter;
use grip::publish::WsMessageKind;
use grip::websocket::close::Close;
use grip::websocket::event::Event;
use grip::websocket::extension::Extension;
use grip::websocket::over_http::{AnswerFields, OverHttp};

use super::connections::{Care, Connection, Front, HoldKind, Lane, Phase};
use super::{ENDING, Engine, Outbox, Output, Room, mark_dirty};
use crate::frames::{self, Deflate, Mask};
use crate::handshake::Handshake;
use crate::mailbox::{ConnectionKey, Sequenced};
use crate::routes::{EventsPerRequest, WebSocketTransport};
pub(super) use client::Incoming;
use native::Native;

/// Bytes waiting for a client from which on its origin is not asked for more, at most.
const MUCH: usize = 200_000;
/// How long a client may take to answer a close frame.
const CLOSING: Duration = Duration::from_secs(10);

/// A WebSocket whose origin has accepted it.
#[derive(Debug)]
pub(crate) struct WebSocketStart {
    /// The head of the answer as it goes on the wire; empty over HTTP/2.
    pub(crate) head: Bytes,
    pub(crate) handshake: Handshake,
    pub(crate) origin: OriginStart,
    /// GRIP, if the origin speaks it.
    pub(crate) extension: Option<Extension>,
    /// How messages are compressed, if they are.
    pub(crate) deflate: Option<Deflate>,
}

/// How the origin talks.
#[derive(Debug)]
pub(crate) enum OriginStart {
    /// WebSocket-over-HTTP.
    OverHttp {
        fields: AnswerFields,
        /// What the origin has said already, behind `OPEN`.
        events: Vec<Event>,
    },
    /// A WebSocket.
    Native,
    /// The hub itself: it subscribes to these channels and sends back what comes.
    Test(Vec<ChannelName>),
}

/// The cold part of a held WebSocket, most of which do nothing most of the time.
#[derive(Debug)]
pub(crate) struct WebSocket {
    pub(super) handshake: Handshake,
    origin: Origin,
    extension: Option<Extension>,
    talk: Talk,
    deflate: Option<Deflate>,
    /// Whether the client is read from.
    flow: Flow,
    /// What is under way, if anything is.
    work: Option<Box<Work>>,
}

/// What a WebSocket that rests does without.
#[derive(Debug, Default)]
struct Work {
    /// What came of the client's bytes so far; only if something is incomplete.
    incoming: Option<Box<Incoming>>,
    /// Channels that the broker is attaching, in the order in which it was asked.
    joining: VecDeque<Joining>,
    /// A message that is sent later; GRIP `send-delayed`.
    delayed: Option<Delayed>,
    /// When a close frame must have been answered.
    closes_at: Option<Instant>,
    /// When the engine looks at this WebSocket next, if it has to.
    reminded: Option<Instant>,
    /// What the origin has said and the client has not read weighs so much, at most; it doesn't make
    /// it a slow consumer.
    relayed: usize,
}

/// Who is at the other side of the hub.
#[derive(Debug)]
enum Origin {
    OverHttp(OverHttp),
    /// The same, whose words count no more; GRIP `detach`.
    Leaving(OverHttp),
    Native(Box<Native>),
    Test,
    /// Nobody any more.
    None,
}

/// How far client and hub are with each other; RFC 6455 §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Talk {
    Open,
    /// The client has sent its close frame, and the origin has to answer.
    CloseReceived,
    /// The hub has sent its close frame, and the client has to answer.
    CloseSent,
    /// All is said; the connection ends once all is written.
    Ended,
    /// The connection is gone; the origin has to know.
    Gone,
}

/// Who has to do something before the origin is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The client reads; the next write tells.
    OfClient,
    Other,
}

/// Whether a peer is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Going,
    /// Too much waits for the other side. [`Output::Resume`] ends it.
    Stopped,
}

/// A channel that the broker is attaching.
#[derive(Debug)]
pub(super) struct Joining {
    /// Its full name.
    pub(super) channel: ChannelName,
    /// As the origin knows it.
    pub(super) name: ChannelName,
    /// The last item that the client has, if the origin says.
    pub(super) prev_id: Option<ItemId>,
    pub(super) filters: Box<[Filter]>,
    pub(super) want: Want,
}

/// Whether a channel is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Still,
    NoMore,
}

#[derive(Debug)]
struct Delayed {
    frame: Bytes,
    at: Instant,
}

impl WebSocket {
    fn new(start: WebSocketStart, now: Instant) -> (Self, Vec<Event>) {
        let (origin, events) = match start.origin {
            OriginStart::OverHttp { fields, mut events } => {
                let per_request = match start.handshake.target().websocket {
                    WebSocketTransport::OverHttp(events) => events,
                    WebSocketTransport::Native => EventsPerRequest::All,
                };
                let mut over_http = OverHttp::new(per_request, &fields, now);
                over_http.handle_opening(&mut events);
                (Origin::OverHttp(over_http), events)
            }
            OriginStart::Native => (Origin::Native(Box::default()), Vec::new()),
            OriginStart::Test(_) => (Origin::Test, Vec::new()),
        };
        let socket = Self {
            handshake: start.handshake,
            origin,
            extension: start.extension,
            talk: Talk::Open,
            deflate: start.deflate,
            flow: Flow::Going,
            work: None,
        };
        (socket, events)
    }

    /// Whether published items are for it.
    fn lane(&self) -> Lane {
        match (&self.talk, &self.origin) {
            (Talk::Open, Origin::Native(native)) if native.is_amid_message() => Lane::Busy,
            (Talk::Open, _) => Lane::Free(self.deflate),
            _ => Lane::Closed,
        }
    }

    fn over_http(&mut self) -> Option<&mut OverHttp> {
        match &mut self.origin {
            Origin::OverHttp(over_http) | Origin::Leaving(over_http) => Some(over_http),
            Origin::Native(_) | Origin::Test | Origin::None => None,
        }
    }

    /// Whether nothing more has to be said to the origin, or heard from it.
    fn origin_knows(&self) -> bool {
        match &self.origin {
            Origin::OverHttp(over_http) | Origin::Leaving(over_http) => over_http.is_over(),
            Origin::Native(_) => false,
            Origin::Test | Origin::None => true,
        }
    }

    /// What waits for the end of the message that its origin is sending.
    pub(super) fn waiting(&self) -> Option<&Outbox> {
        match &self.origin {
            Origin::Native(native) => Some(&native.waiting),
            _ => None,
        }
    }

    pub(super) fn waiting_mut(&mut self) -> Option<&mut Outbox> {
        match &mut self.origin {
            Origin::Native(native) => Some(&mut native.waiting),
            _ => None,
        }
    }

    /// What of the origin may wait for the client beside items, by its weight.
    pub(super) fn allowance(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.relayed)
    }

    /// Why the hub closes. The client reads it only if the route tells.
    fn reason(&self, code: u16, reason: &str) -> Close {
        let is_told = self.handshake.tells_errors();
        Close::new(code, if is_told { reason } else { "" })
    }

    /// Whether the client is still there.
    pub(super) fn has_client(&self) -> bool {
        self.talk != Talk::Gone
    }

    /// How messages are compressed, if they are.
    pub(super) fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    /// The channels that the broker is attaching.
    pub(super) fn joining_names(&self) -> Vec<ChannelName> {
        let joining = self.work.iter().flat_map(|work| &work.joining);
        joining.map(|joining| joining.channel.clone()).collect()
    }

    /// Whether it has given back the memory for what is under way.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.work.is_none()
    }

    /// Channels that the broker is attaching.
    fn joining(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.joining.len())
    }

    fn joining_mut(&mut self) -> impl Iterator<Item = &mut Joining> {
        let work = self.work.as_deref_mut();
        work.into_iter().flat_map(|work| &mut work.joining)
    }

    /// When the client or the origin must have answered a close frame.
    fn closes_at(&self) -> Option<Instant> {
        self.work.as_ref()?.closes_at
    }

    fn delayed_until(&self) -> Option<Instant> {
        Some(self.work.as_ref()?.delayed.as_ref()?.at)
    }

    fn reminded(&self) -> Option<Instant> {
        self.work.as_ref()?.reminded
    }

    fn take_incoming(&mut self) -> Option<Box<Incoming>> {
        self.work.as_mut()?.incoming.take()
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    /// Gives back the memory for what is under way, if nothing is.
    fn rest(&mut self) {
        self.work = self.work.take().filter(|work| !work.is_over());
    }
}

impl Work {
    fn is_over(&self) -> bool {
        let has_time = self.closes_at.is_some() || self.reminded.is_some();
        let has_parts = self.incoming.is_some() || self.delayed.is_some();
        !has_time && !has_parts && self.joining.is_empty() && self.relayed == 0
    }
}

impl Connection {
    /// Whether its client may still be sent something.
    fn takes_frames(&self) -> bool {
        match &self.phase {
            Phase::WebSocket(_, socket) => {
                matches!(socket.talk, Talk::Open | Talk::CloseReceived)
            }
            _ => false,
        }
    }

    /// Whether published items are for its client, now or after a message.
    fn takes_items(&self) -> bool {
        match &self.phase {
            Phase::WebSocket(front, _) => front.lane != Lane::Closed,
            _ => false,
        }
    }
}

impl Engine {
    /// Writes the head, and does what the origin said with its acceptance.
    pub(super) fn begin_websocket(
        &mut self,
        key: ConnectionKey,
        mut start: WebSocketStart,
        now: Instant,
    ) {
        let head = std::mem::take(&mut start.head);
        let channels = match &mut start.origin {
            OriginStart::Test(channels) => std::mem::take(channels),
            OriginStart::OverHttp { .. } | OriginStart::Native => Vec::new(),
        };
        let (socket, events) = WebSocket::new(start, now);
        let (_, connection) = self.connections.live(key.index);
        connection.outbox.push(head);
        let front = Front {
            lane: socket.lane(),
            care: Care::AfterWrite,
        };
        connection.phase = Phase::WebSocket(front, Box::new(socket));
        // Also over HTTP/2, where the head is somebody else's: that the hold has begun is told by
        // its first write.
        mark_dirty(&mut self.dirty, key, connection);
        self.websockets += 1;
        self.show_held();
        self.outputs.push_back(Output::Listen(key));
        for channel in channels {
            self.join_channel(key, channel, Box::default());
        }
        self.hear_origin(key, events, now);
        self.tend(key, now);
    }

    /// The client is gone before its WebSocket has begun. Its origin has accepted it, and has to
    /// know.
    pub(super) fn miss_websocket(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let phase = std::mem::replace(&mut connection.phase, Phase::Ending);
        let Phase::Opening(opening) = phase else {
            connection.phase = phase;
            return;
        };
        let HoldKind::WebSocket(mut start) = opening.kind else {
            return;
        };
        let names = opening.slots.into_iter().map(|slot| slot.channel).collect();
        self.outputs.push_back(Output::Detach(names));
        match &mut start.origin {
            OriginStart::OverHttp { events, .. } => events.clear(),
            OriginStart::Test(channels) => channels.clear(),
            OriginStart::Native => {}
        }
        self.begin_websocket(key, *start, now);
        self.client_is_gone(key, now);
    }

    /// The WebSocket of a connection, with the connection's outbox.
    fn websocket(&mut self, key: ConnectionKey) -> Option<&mut WebSocket> {
        match &mut self.connections.get(key)?.phase {
            Phase::WebSocket(_, socket) => Some(socket),
            _ => None,
        }
    }

    /// Bytes waiting for a client from which on its origin is not asked for more: no more than a
    /// connection's part of what is left for all.
    fn much(&self) -> usize {
        MUCH.min(self.budget.share())
    }

    pub(super) fn talk(&mut self, key: ConnectionKey) -> Option<Talk> {
        Some(self.websocket(key)?.talk)
    }

    /// To be called after whatever changes how published items go.
    fn refresh_lane(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get(key)
            && let Phase::WebSocket(front, socket) = &mut connection.phase
        {
            front.lane = socket.lane();
        }
    }

    /// Frames for the client, of whoever speaks; nothing once it was told the end.
    pub(super) fn push_frames(&mut self, key: ConnectionKey, frames: Bytes, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if connection.takes_frames() {
            connection.outbox.push(frames);
            connection.restart_keep_alive(now);
            mark_dirty(&mut self.dirty, key, connection);
        }
    }

    /// A published message, which never stands within another.
    pub(super) fn push_published(
        &mut self,
        key: ConnectionKey,
        frame: Bytes,
        sequenced: &Sequenced,
        now: Instant,
    ) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if !connection.takes_items() {
            return;
        }
        let limit = connection.limit(&self.budget);
        if connection.push_in_room(frame, sequenced, limit, &self.counters) == Room::None {
            return self.drop_slow(key);
        }
        self.note_pushed(key, now);
    }

    /// A message that is not the origin's next, which never stands within another.
    pub(super) fn push_message(&mut self, key: ConnectionKey, frame: Bytes, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if !connection.takes_items() {
            return;
        }
        let limit = connection.limit(&self.budget);
        if connection.make_room(frame.len(), limit, &self.counters) == Room::None {
            return self.drop_slow(key);
        }
        connection.queue().push(frame);
        self.note_pushed(key, now);
    }

    /// Something has got in [`Connection::queue`].
    fn note_pushed(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if connection.is_amid_message() {
            return self.count_waiting(key);
        }
        connection.restart_keep_alive(now);
        mark_dirty(&mut self.dirty, key, connection);
    }

    /// Closes from the hub's side: the client gets this close frame, the origin a close without
    /// code.
    pub(super) fn close_websocket(
        &mut self,
        key: ConnectionKey,
        close: Option<&Close>,
        now: Instant,
    ) {
        if let Some(socket) = self.websocket(key) {
            match &mut socket.origin {
                Origin::OverHttp(over_http) => over_http.close(Bytes::new()),
                Origin::Native(native) => native.close(&[]),
                Origin::Leaving(_) | Origin::Test | Origin::None => {}
            }
            self.write_origin(key);
            self.send_close(key, close, now);
            self.tend(key, now);
        }
    }

    /// Sends a close frame unless one was sent. If the client has sent its own, that is the end.
    fn send_close(&mut self, key: ConnectionKey, close: Option<&Close>, now: Instant) {
        let content = close.map(Close::content).unwrap_or_default();
        self.flush_waiting(key, now);
        let Some(talk) = self.talk(key) else {
            return;
        };
        if matches!(talk, Talk::Open | Talk::CloseReceived) {
            self.push_frames(key, frames::close(&content, Mask::None), now);
        }
        let Some(socket) = self.websocket(key) else {
            return;
        };
        match talk {
            Talk::Open => {
                socket.talk = Talk::CloseSent;
                socket.work().closes_at = Some(now + CLOSING);
                self.stop_items(key);
                // Its close frame may stand behind what it was stopped at.
                self.resume_client(key);
            }
            Talk::CloseReceived => self.end_client(key, now),
            Talk::CloseSent | Talk::Ended | Talk::Gone => {}
        }
    }

    /// The client has nothing more to expect but what is in the outbox.
    fn end_client(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Phase::WebSocket(front, socket) = &mut connection.phase else {
            return;
        };
        if matches!(socket.talk, Talk::Ended | Talk::Gone) {
            return;
        }
        front.care = Care::AfterWrite;
        socket.talk = Talk::Ended;
        socket.work().closes_at = Some(now + ENDING);
        mark_dirty(&mut self.dirty, key, connection);
        self.stop_items(key);
    }

    /// No items, timers or keep-alives any more.
    fn stop_items(&mut self, key: ConnectionKey) {
        self.refresh_lane(key);
        self.unsubscribe(key);
        self.end_session(key);
        if let Some(socket) = self.websocket(key)
            && let Some(work) = &mut socket.work
        {
            work.delayed = None;
        }
        self.leave_joining(key);
        self.drop_keep_alive(key);
    }

    fn drop_keep_alive(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        connection.deadline = None;
        if let Some(rule) = connection.keep_alive.take() {
            self.release(&rule);
        }
    }

    /// Ends the client's connection at once, whatever it still has to get.
    pub(super) fn drop_client(&mut self, key: ConnectionKey, now: Instant) {
        if self
            .websocket(key)
            .is_some_and(|socket| socket.has_client())
        {
            self.outputs.push_back(Output::DropClient(key));
            self.client_is_gone(key, now);
        }
    }

    /// The client is gone, whoever ended it: the origin is told unless it knows.
    pub(super) fn client_is_gone(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Phase::WebSocket(_, socket) = &mut connection.phase else {
            return;
        };
        if socket.talk == Talk::Gone {
            return;
        }
        let was_told = socket.talk == Talk::Ended;
        socket.talk = Talk::Gone;
        if let Some(work) = &mut socket.work {
            work.incoming = None;
            work.closes_at = None;
        }
        match &mut socket.origin {
            Origin::OverHttp(over_http) | Origin::Leaving(over_http) => over_http.vanish(),
            Origin::Native(_) | Origin::Test | Origin::None => {}
        }
        connection.outbox.clear();
        if let Some(mut native) = self.leave_native(key) {
            self.outputs.push_back(if was_told {
                native.finish(key)
            } else {
                Output::DropOrigin(key)
            });
        }
        // It is remembered until its origin knows, which may be long.
        self.count_pending(key, 0);
        self.stop_items(key);
        self.websockets -= 1;
        self.show_held();
        self.tend(key, now);
    }

    /// Asks the origin what there is to ask, takes care of times, and forgets what is over.
    pub(super) fn tend(&mut self, key: ConnectionKey, now: Instant) {
        let turn = self.ask_origin(key, now);
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if socket.talk == Talk::CloseReceived && socket.origin_knows() {
            // The origin heard the close and did not answer it.
            self.send_close(key, None, now);
        }
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if matches!(socket.origin, Origin::Leaving(_)) && socket.origin_knows() {
            socket.origin = Origin::None;
        }
        if socket.talk == Talk::Gone && socket.origin_knows() {
            self.forget(key);
            return;
        }
        let origin = match &socket.origin {
            // Its time may have come, but it has to wait for the client, which no time tells.
            _ if turn == Turn::OfClient => None,
            Origin::OverHttp(over_http) | Origin::Leaving(over_http) => over_http.poll_timeout(),
            Origin::Native(_) | Origin::Test | Origin::None => None,
        };
        let next = [socket.delayed_until(), origin, socket.closes_at()]
            .into_iter()
            .flatten()
            .min();
        if let Some(next) = next
            && socket.reminded().is_none_or(|reminded| reminded > next)
        {
            socket.work().reminded = Some(next);
            self.beats.remind(key, next);
        } else {
            socket.rest();
        }
    }

    /// A reminder of [`Self::tend`] came.
    pub(super) fn handle_chore(&mut self, key: ConnectionKey, now: Instant) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let Some(work) = &mut socket.work else {
            return;
        };
        work.reminded = None;
        if work.closes_at.is_some_and(|at| at <= now) {
            work.closes_at = None;
            return self.stop_waiting(key, now);
        }
        if socket.delayed_until().is_some_and(|at| at <= now) {
            self.flush_delayed(key, now);
        }
        self.tend(key, now);
    }

    /// Whoever has to answer a close frame has not.
    fn stop_waiting(&mut self, key: ConnectionKey, now: Instant) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if socket.talk != Talk::CloseReceived {
            return self.drop_client(key, now);
        }
        if self.leave_native(key).is_some() {
            self.outputs.push_back(Output::DropOrigin(key));
        }
        self.send_close(key, None, now);
        self.tend(key, now);
    }

    /// Some of what waits for the client is written, or all. Says whether its connection ends.
    pub(super) fn websocket_written(&mut self, key: ConnectionKey, now: Instant) -> bool {
        self.resume_origin(key);
        self.resume_client(key);
        let Some(connection) = self.connections.get(key) else {
            return false;
        };
        let is_empty = connection.outbox.is_empty();
        let Phase::WebSocket(front, socket) = &mut connection.phase else {
            return false;
        };
        let is_over = is_empty && socket.talk == Talk::Ended;
        // No more of it waits than there is.
        if let Some(work) = &mut socket.work {
            work.relayed = work.relayed.min(connection.outbox.weight());
        }
        if is_empty {
            front.care = Care::Never;
        }
        if is_over {
            self.client_is_gone(key, now);
        } else {
            self.tend(key, now);
        }
        is_over
    }

    /// Ends a WebSocket that can't go on. The client reads why only if the route tells.
    pub(super) fn fail_websocket(
        &mut self,
        key: ConnectionKey,
        code: u16,
        reason: &str,
        now: Instant,
    ) {
        if let Some(socket) = self.websocket(key) {
            let close = socket.reason(code, reason);
            self.close_websocket(key, Some(&close), now);
        }
    }
}

impl Connection {
    /// The message as a frame of this client's connection.
    pub(super) fn frame(&self, kind: WsMessageKind, content: &[u8]) -> Bytes {
        if matches!(kind, WsMessageKind::Text | WsMessageKind::Binary)
            && let Phase::WebSocket(_, socket) = &self.phase
            && let Some(deflate) = socket.deflate
            && let Some(compressed) = deflate.compress(content)
        {
            return frames::deflated(kind, &compressed);
        }
        frames::message(kind, content, Mask::None)
    }
}
