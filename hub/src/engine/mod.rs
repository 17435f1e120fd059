//! The engine of one shard: who is held, who hears what, what is queued.
//!
//! Pure: it knows keys, bytes and instants; it does not know sockets, threads or tokio. Its shard
//! calls `handle_*` with what happened, then takes [`Engine::poll_output`] and
//! [`Engine::next_dirty`] until both are empty. Read [`Engine`] and [`connections::Phase`] first.

mod budget;
mod catch_up;
pub(crate) mod connections;
mod count;
mod deadlines;
mod deliver;
mod dirty;
mod fanout;
mod follow;
mod outbox;
pub(crate) mod session;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod simulation;
mod subscriptions;
#[cfg(test)]
mod tests;
pub(crate) mod websocket;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::channel::ItemId;
use grip::hold::Answer;
use grip::http1::{LAST_CHUNK, Persistence};
use grip::publish::StreamContent;
use grip::websocket::close::Close;
use grip::websocket::over_http;
use grip::{ChannelName, Limits};
use http::HeaderMap;
use rustc_hash::FxHashSet;

use crate::config::SlowClients;
use crate::counters::Counters;
use crate::errand::{Again, Behalf, Comparison, ErrandKind};
use crate::handshake::Handshake;
use crate::mailbox::{CatchUp, ConnectionKey, Sequence, Sequenced, Wanted};

pub(crate) use budget::Budget;
pub(crate) use connections::{
    AfterBody, AfterHold, AfterStart, Events, HoldKind, KeepAliveRule, Repeat, Reply, Resume,
    StreamFraming, Waiting,
};
pub(crate) use outbox::Outbox;
pub(crate) use session::{OnGap, Session, Slot};
pub(crate) use websocket::Flow;

use catch_up::Gap;
use connections::{Beat, Care, Connection, Connections, EventIds, Lane, Opening, Phase};
use deadlines::Deadlines;
use dirty::{Cause, Dirty};
use subscriptions::Subscriptions;
use websocket::Incoming;

/// How long a client may take to read the end of its hold.
const ENDING: Duration = Duration::from_mins(1);
/// How often some of many connections are brought up to date.
const UPDATE_BEAT: Duration = Duration::from_millis(100);
/// Connections brought up to date in each beat.
const UPDATES_PER_BEAT: usize = 100;

/// What the shard has to do for the engine.
#[derive(Debug)]
pub(crate) enum Output {
    /// Tell the broker that this connection wants these channels; answered by
    /// [`Engine::handle_attached`].
    Attach {
        connection: ConnectionKey,
        wanted: Wanted,
    },
    /// Ask the broker what this connection has missed; answered by [`Engine::handle_caught_up`].
    CatchUp {
        connection: ConnectionKey,
        wanted: Wanted,
    },
    /// Tell the broker that one connection less wants each of these channels.
    Detach(Vec<ChannelName>),
    /// End this connection at once. The engine has forgotten it.
    Drop(ConnectionKey),
    /// The stream has begun: read the rest of its first body. What comes of it is answered by
    /// [`Engine::handle_news`].
    Feed(ConnectionKey),
    /// Answer this HTTP/2 request. The engine has forgotten it.
    Answer {
        connection: ConnectionKey,
        answer: Box<Answer>,
    },
    /// Ask the origin again what becomes of this request. The engine has forgotten it.
    Retry {
        connection: ConnectionKey,
        reply: Reply,
        again: Again,
    },
    /// Give the engine what this client sends, from what came already on:
    /// [`Engine::handle_input`].
    Listen(ConnectionKey),
    /// Go on reading what the client sends.
    Resume(ConnectionKey),
    /// Ask the WebSocket's origin; answered by [`Engine::handle_exchanged`].
    Exchange {
        connection: ConnectionKey,
        handshake: Handshake,
        request: over_http::Request,
        /// What the origin gave to be sent back to it.
        meta: HeaderMap,
    },
    /// [`Engine::origin_outbox`] got something.
    WriteOrigin(ConnectionKey),
    /// Go on reading what the WebSocket's origin sends.
    ResumeOrigin(ConnectionKey),
    /// End the connection to the WebSocket's origin once this is written.
    FinishOrigin {
        connection: ConnectionKey,
        rest: Outbox,
    },
    /// End the connection to the WebSocket's origin at once.
    DropOrigin(ConnectionKey),
    /// End the client's connection at once. Its origin may still have to know.
    DropClient(ConnectionKey),
    /// Run an errand; unless it is [`ErrandKind::Gone`], its report is answered by
    /// [`Engine::handle_news`].
    Run {
        connection: ConnectionKey,
        behalf: Arc<Behalf>,
        kind: ErrandKind,
    },
}

/// A hold that the proxy asks for.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) kind: HoldKind,
    /// The channels, each once.
    pub(crate) slots: Vec<Slot>,
    pub(crate) after: AfterHold,
    pub(crate) slow: SlowClients,
    /// Needed if any slot [needs one](Slot::needs_session) or there are links.
    pub(crate) session: Option<Box<Session>>,
}

/// All held connections of a shard, their subscriptions and deadlines.
#[derive(Debug)]
pub(crate) struct Engine {
    connections: Connections,
    subscriptions: Subscriptions,
    deadlines: Deadlines,
    /// When links are followed.
    beats: Deadlines,
    keep_alives: FxHashSet<Rc<KeepAliveRule>>,
    outputs: VecDeque<Output>,
    dirty: Dirty,
    /// Connections to bring up to date with their origins, some at a time.
    updates: VecDeque<ConnectionKey>,
    next_update: Option<Instant>,
    /// Connections still to let go of; present once the drain began.
    draining: Option<Vec<ConnectionKey>>,
    budget: Budget,
    counters: Arc<Counters>,
    /// What waits for this shard's clients, as far as it is counted.
    pending_bytes: usize,
    streams: u64,
    responses: u64,
    websockets: u64,
    limits: Limits,
    /// Memory for what is decoded, which is used again and again.
    spare: Option<Box<Incoming>>,
    /// When the shard called.
    now: Instant,
}

impl Engine {
    /// `epoch` is the same for all shards, so that their links are followed in the same beats.
    pub(crate) fn new(
        budget: Budget,
        limits: Limits,
        counters: Arc<Counters>,
        epoch: Instant,
    ) -> Self {
        Self {
            connections: Connections::default(),
            subscriptions: Subscriptions::default(),
            deadlines: Deadlines::new(epoch),
            beats: Deadlines::new(epoch),
            keep_alives: FxHashSet::default(),
            outputs: VecDeque::new(),
            dirty: Dirty::default(),
            updates: VecDeque::new(),
            next_update: None,
            draining: None,
            budget,
            counters,
            pending_bytes: 0,
            streams: 0,
            responses: 0,
            websockets: 0,
            limits,
            spare: None,
            now: epoch,
        }
    }

    /// Takes a connection in. Nothing is written to it before the broker has attached it, so
    /// whoever sees the head of a stream gets everything that is published afterwards.
    pub(crate) fn open(&mut self, hold: Hold, now: Instant) -> ConnectionKey {
        self.now = now;
        let wanted = Wanted {
            channels: hold.slots.iter().map(Slot::attachment).collect(),
            resume: hold.kind.resume().cloned(),
        };
        let opening = Opening {
            kind: hold.kind,
            slots: hold.slots,
        };
        let connection = self
            .connections
            .insert(opening, hold.after, hold.slow, hold.session);
        if wanted.channels.is_empty() {
            self.handle_attached(connection, Sequence::default(), None, now);
        } else {
            self.outputs
                .push_back(Output::Attach { connection, wanted });
        }
        connection
    }

    /// The broker has attached the connection: items after `cursor` are for it, behind what it has
    /// missed.
    pub(crate) fn handle_attached(
        &mut self,
        key: ConnectionKey,
        cursor: Sequence,
        catch_up: Option<Box<CatchUp>>,
        now: Instant,
    ) {
        self.now = now;
        let Some(connection) = self.connections.get(key) else {
            // Gone meanwhile, and detached when it went.
            return;
        };
        let phase = std::mem::replace(&mut connection.phase, Phase::Ending);
        let Phase::Opening(opening) = phase else {
            connection.phase = phase;
            return self.join(key, cursor, catch_up, now);
        };
        for slot in &opening.slots {
            self.subscribe(key, &slot.channel, cursor);
        }
        let (_, connection) = self.connections.live(key.index);
        if let Some(session) = &mut connection.session {
            session.slots = opening.slots;
        }
        match opening.kind {
            HoldKind::Stream {
                start,
                framing,
                keep_alive,
                then,
                events,
            } => {
                let (start, ids, gap) = self.resume(key, start, events, catch_up);
                self.begin_stream(key, start, framing, now);
                self.connections.live(key.index).1.event_ids = ids;
                self.set_keep_alive(key, keep_alive, now);
                self.begin_session(key, then, gap, now);
            }
            HoldKind::Response { waiting, timeout } => {
                self.begin_response(key, waiting, timeout, now);
                match self.take_catch_up(key, catch_up) {
                    Gap::None => self.go_on(key, now),
                    // What the origin says then is not compared again: it may know less than was
                    // published, and would be asked for ever.
                    Gap::Found => self.retry(key, Comparison::Never),
                }
            }
            HoldKind::WebSocket(start) => self.begin_websocket(key, *start, now),
        }
        if self.draining.is_some() {
            self.let_go(key);
        }
        self.check_invariants();
    }

    fn subscribe(&mut self, key: ConnectionKey, channel: &ChannelName, cursor: Sequence) {
        let (_, connection) = self.connections.live(key.index);
        let slot = connection.subscriptions.len();
        let subscription = self.subscriptions.add(channel, key.index, slot, cursor);
        connection.subscriptions.push(subscription);
        self.show_subscriptions();
    }

    fn begin_stream(
        &mut self,
        key: ConnectionKey,
        start: Bytes,
        framing: StreamFraming,
        now: Instant,
    ) {
        self.streams += 1;
        self.show_held();
        let (_, connection) = self.connections.live(key.index);
        connection.phase = Phase::Stream(framing);
        connection.outbox.push(start);
        mark_dirty(&mut self.dirty, key, connection);
        self.set_beat(key, now);
    }

    /// Replaces the keep-alive of a stream.
    fn set_keep_alive(&mut self, key: ConnectionKey, rule: Option<KeepAliveRule>, now: Instant) {
        let rule = rule.map(|rule| self.shared(rule));
        let (_, connection) = self.connections.live(key.index);
        let old = std::mem::replace(&mut connection.keep_alive, rule);
        let deadline = connection
            .keep_alive
            .as_ref()
            .map(|rule| now + staggered(rule.timeout, key));
        let watched = std::mem::replace(&mut connection.deadline, deadline);
        // A reminder of an earlier deadline finds this one.
        if let Some(deadline) = deadline
            && watched.is_none_or(|watched| watched > deadline)
        {
            self.deadlines.remind(key, deadline);
        }
        if let Some(old) = old {
            self.release(&old);
        }
    }

    fn begin_response(
        &mut self,
        key: ConnectionKey,
        waiting: Box<Waiting>,
        timeout: Duration,
        now: Instant,
    ) {
        self.responses += 1;
        self.show_held();
        let deadline = now + timeout;
        let (_, connection) = self.connections.live(key.index);
        connection.phase = Phase::Response(waiting);
        connection.deadline = Some(deadline);
        self.deadlines.remind(key, deadline);
    }

    fn drop_slow(&mut self, key: ConnectionKey) {
        self.counters.slow_consumers.increment();
        if self.talk(key).is_some() {
            // Its origin has to know.
            self.drop_client(key, self.now);
        } else {
            self.abort(key);
        }
    }

    /// Ends a connection in the middle of what it gets.
    fn abort(&mut self, key: ConnectionKey) {
        self.forget(key);
        self.outputs.push_back(Output::Drop(key));
    }

    /// Answers a waiting request.
    fn answer(&mut self, key: ConnectionKey, answer: Answer) {
        let (_, connection) = self.connections.live(key.index);
        let Phase::Response(waiting) = &connection.phase else {
            return;
        };
        let answer = waiting.dressed(answer);
        match waiting.reply {
            Reply::Http1 {
                version,
                ref method,
                ..
            } => {
                let persistence = connection.after.persistence();
                let bytes = answer.encode(version, method, persistence);
                self.end(key, bytes);
            }
            Reply::Http2(_) => {
                self.forget(key);
                self.outputs.push_back(Output::Answer {
                    connection: key,
                    answer: Box::new(answer),
                });
            }
        }
    }

    /// Has the origin asked again what becomes of a waiting request; GRIP `Grip-Last`.
    fn retry(&mut self, key: ConnectionKey, comparison: Comparison) {
        if self.draining.is_some() {
            return self.let_go(key);
        }
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let last = connection
            .session
            .as_ref()
            .map(|session| session.last())
            .unwrap_or_default();
        if let Phase::Response(waiting) = &connection.phase
            && waiting.reply.repeat() == Repeat::Impossible
        {
            return self.let_go(key);
        }
        if let Some(Phase::Response(waiting)) = self.forget(key) {
            self.counters.retries.increment();
            self.outputs.push_back(Output::Retry {
                connection: key,
                reply: waiting.reply,
                again: Again { last, comparison },
            });
        }
    }

    /// Ends a hold as its time runs out: a stream with its end, a request with its own answer.
    fn let_go(&mut self, key: ConnectionKey) {
        let is_draining = self.draining.is_some();
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if is_draining {
            connection.after = AfterHold::Close;
        }
        match &connection.phase {
            Phase::Stream(_) if connection.is_amid_body() => self.abort(key),
            Phase::Stream(framing) => {
                let last = framing.end();
                self.end(key, last);
            }
            Phase::Response(waiting) => {
                let answer = waiting.answer.unpack();
                self.answer(key, answer);
            }
            Phase::WebSocket(..) => {
                let close = Close::new(Close::GOING_AWAY, "");
                self.close_websocket(key, Some(&close), self.now);
            }
            Phase::Opening(_) | Phase::Ending => {}
        }
    }

    /// Puts the last bytes in the outbox and unsubscribes.
    fn end(&mut self, key: ConnectionKey, last: Bytes) {
        let (_, connection) = self.connections.live(key.index);
        match std::mem::replace(&mut connection.phase, Phase::Ending) {
            Phase::Stream(_) => self.streams -= 1,
            Phase::Response(_) => self.responses -= 1,
            // WebSockets end otherwise.
            Phase::WebSocket(..) | Phase::Opening(_) | Phase::Ending => {}
        }
        connection.outbox.push(last);
        connection.deadline = None;
        mark_dirty(&mut self.dirty, key, connection);
        self.unsubscribe(key);
        self.end_session(key);
        self.show_held();
    }

    /// When [`Self::handle_timeout`] is to be called next; may change after every `handle_*`.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.deadlines.poll_timeout(),
            self.beats.poll_timeout(),
            self.next_update,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sends keep-alives, follows links, and answers requests whose time is up.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        // They may be few or very many: who got the same item is due for a sign of life at the same
        // time.
        self.dirty.begin(Cause::Deadline, usize::MAX);
        while let Some(keys) = self.deadlines.next_due(now) {
            for key in keys {
                self.handle_deadline(key, now);
            }
        }
        while let Some(keys) = self.beats.next_due(now) {
            for key in keys {
                self.handle_beat(key, now);
                self.handle_chore(key, now);
            }
        }
        self.dirty.end();
        if self.next_update.is_some_and(|at| at <= now) {
            self.update_some(now);
        }
        self.check_invariants();
    }

    fn handle_deadline(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Some(deadline) = connection.deadline else {
            return;
        };
        if deadline > now {
            self.deadlines.remind(key, deadline);
            return;
        }
        match &connection.phase {
            Phase::Response(_) => {
                self.counters.timeouts.increment();
                self.let_go(key);
            }
            Phase::Stream(_) | Phase::WebSocket(..) => self.keep_alive(key, now),
            Phase::Ending => self.drop_slow(key),
            Phase::Opening(_) => {}
        }
    }

    /// Whether a hold is over and its last bytes are not yet written.
    pub(crate) fn is_ending(&mut self, key: ConnectionKey) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|connection| matches!(connection.phase, Phase::Ending))
    }

    /// The client does not take the last bytes of its hold. It has a minute to do so.
    pub(crate) fn handle_blocked(&mut self, key: ConnectionKey, now: Instant) {
        if let Some(connection) = self.connections.get(key)
            && connection.deadline.is_none()
        {
            let deadline = now + ENDING;
            connection.deadline = Some(deadline);
            self.deadlines.remind(key, deadline);
        }
    }

    fn keep_alive(&mut self, key: ConnectionKey, now: Instant) {
        let (_, connection) = self.connections.live(key.index);
        let Some(rule) = &connection.keep_alive else {
            return;
        };
        let deadline = now + staggered(rule.timeout, key);
        connection.deadline = Some(deadline);
        self.deadlines.remind(key, deadline);
        // A client that does not read what it has needs no sign of life on top, and one must not
        // stand in the middle of a body or message.
        let is_amid = match &connection.phase {
            Phase::WebSocket(front, _) => front.lane == Lane::Busy,
            _ => connection.is_amid_body(),
        };
        if connection.outbox.is_empty() && !is_amid {
            self.counters.keep_alives.increment();
            connection.outbox.push(rule.bytes.clone());
            mark_dirty(&mut self.dirty, key, connection);
        }
    }

    /// All origins are to be asked again; GRIP `recover`.
    pub(crate) fn handle_recover(&mut self, now: Instant) {
        // They are all there; who waits for an update is among them.
        self.updates.clear();
        let keys = self.connections.keys_where(Connection::can_be_updated);
        self.update_soon(keys, now);
    }

    /// The origins of a channel's connections are to be asked again.
    pub(crate) fn handle_update(&mut self, channel: &ChannelName, now: Instant) {
        let subscribers = self.subscriptions.of(channel).iter();
        let connections = &mut self.connections;
        let keys: Vec<ConnectionKey> = subscribers
            .map(|subscriber| connections.live(subscriber.connection).0)
            .collect();
        self.update_soon(keys, now);
    }

    fn update_soon(&mut self, keys: Vec<ConnectionKey>, now: Instant) {
        self.updates.extend(keys);
        if self.next_update.is_none() {
            self.next_update = Some(now);
        }
    }

    fn update_some(&mut self, now: Instant) {
        for key in self
            .updates
            .drain(..self.updates.len().min(UPDATES_PER_BEAT))
            .collect::<Vec<_>>()
        {
            self.update(key);
        }
        self.next_update = (!self.updates.is_empty()).then(|| now + UPDATE_BEAT);
    }

    /// The client left, or its connection broke.
    pub(crate) fn handle_gone(&mut self, key: ConnectionKey, now: Instant) {
        self.now = now;
        if let Some(connection) = self.connections.get(key) {
            self.counters.clients_gone.increment();
            match &connection.phase {
                Phase::WebSocket(..) => self.client_is_gone(key, now),
                Phase::Opening(opening) if matches!(opening.kind, HoldKind::WebSocket(_)) => {
                    self.miss_websocket(key, now);
                }
                _ => drop(self.forget(key)),
            }
        }
        self.check_invariants();
    }

    /// Begins to let go of all holds: whoever is held ends in [`Self::drain_some`], whoever comes
    /// later ends at once.
    pub(crate) fn drain(&mut self) {
        self.draining = Some(self.connections.keys().collect());
    }

    /// Lets go of up to `limit` more connections.
    pub(crate) fn drain_some(&mut self, limit: usize, now: Instant) {
        self.now = now;
        for _ in 0..limit {
            let Some(key) = self.draining.as_mut().and_then(Vec::pop) else {
                return;
            };
            self.let_go(key);
        }
    }

    /// Connections held, those included that still have bytes to be written.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// What the shard has to do next; ask until `None` after every `handle_*`.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A connection whose outbox got something; ask until `None` after every `handle_*`.
    pub(crate) fn next_dirty(&mut self) -> Option<ConnectionKey> {
        let key = self.dirty.pop()?;
        if let Some(connection) = self.connections.get(key) {
            connection.is_dirty = false;
        }
        Some(key)
    }

    /// How many [`Self::next_dirty`] has.
    pub(crate) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// The outbox of a connection that is still there.
    pub(crate) fn outbox(&mut self, key: ConnectionKey) -> Option<&mut Outbox> {
        Some(&mut self.connections.get(key)?.outbox)
    }

    /// To be called after each write. Says whether the hold is over, now that the outbox is
    /// empty; then forgets the connection, unless its origin still has to know.
    pub(crate) fn handle_flushed(&mut self, key: ConnectionKey, now: Instant) -> Option<AfterHold> {
        self.now = now;
        let connection = self.connections.get(key)?;
        let waiting = connection.outbox.weight();
        if connection.outbox.left() != waiting {
            self.count_left(key, waiting);
        }
        let connection = self.connections.get(key)?;
        match &connection.session {
            Some(_) => self.go_on_after_write(key, now),
            None if matches!(connection.phase, Phase::Stream(_)) => return None,
            None => {}
        }
        let connection = self.connections.get(key)?;
        if let Phase::WebSocket(front, _) = connection.phase {
            let ends = front.care == Care::AfterWrite && self.websocket_written(key, now);
            return ends.then_some(AfterHold::Close);
        }
        if !connection.outbox.is_empty() {
            return None;
        }
        if let Some(session) = &mut connection.session {
            session.receipt = None;
        }
        if !matches!(connection.phase, Phase::Ending) {
            return None;
        }
        let after = connection.after;
        self.forget(key);
        Some(after)
    }

    /// Counts what a write has left. Where more waits than may wait for all, whoever had not read
    /// everything and has more to read than before has to make room. What a first write leaves says
    /// nothing yet of how fast a client reads: one large item must not end all its subscribers.
    fn count_left(&mut self, key: ConnectionKey, waiting: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let before = connection.outbox.left();
        self.count_pending(key, waiting);
        if waiting <= before {
            return self.note_read(key);
        }
        let excess = self.budget.excess();
        if before > 0 && excess > 0 {
            self.relieve(key, excess);
        }
    }

    /// Takes so much off what waits for a connection, as its policy says: as far as there are
    /// items that may be left out, or with the connection.
    fn relieve(&mut self, key: ConnectionKey, excess: usize) {
        let (_, connection) = self.connections.live(key.index);
        if connection.slow == SlowClients::Disconnect {
            return self.drop_slow(key);
        }
        let allowed = connection.outbox.weight().saturating_sub(excess);
        let dropped = connection.outbox.drop_items(allowed);
        self.counters.dropped_items.add(dropped);
        let waiting = connection.outbox.weight();
        self.count_pending(key, waiting);
    }

    /// Counts what waits for a connection by its weight.
    fn count_pending(&mut self, key: ConnectionKey, waiting: usize) {
        if let Some(connection) = self.connections.get(key) {
            let before = connection.outbox.note_left(waiting);
            let after = connection.outbox.left();
            self.recount(before, after);
        }
    }

    /// What waits for a client has changed.
    fn recount(&mut self, before: usize, after: usize) {
        self.budget.count(before, after);
        self.pending_bytes = self.pending_bytes - before + after;
        self.counters.pending_bytes.set(self.pending_bytes as u64);
    }

    /// Forgets a connection and says in which phase it was.
    fn forget(&mut self, key: ConnectionKey) -> Option<Phase> {
        self.unsubscribe(key);
        self.end_session(key);
        self.count_pending(key, 0);
        let connection = self.connections.remove(key)?;
        match &connection.phase {
            Phase::Opening(opening) => {
                let names: Vec<ChannelName> = opening
                    .slots
                    .iter()
                    .map(|slot| slot.channel.clone())
                    .collect();
                if !names.is_empty() {
                    self.outputs.push_back(Output::Detach(names));
                }
            }
            Phase::Stream(_) => self.streams -= 1,
            Phase::Response(_) => self.responses -= 1,
            Phase::WebSocket(_, socket) => {
                if socket.has_client() {
                    self.websockets -= 1;
                }
                let names = socket.joining_names();
                if !names.is_empty() {
                    self.outputs.push_back(Output::Detach(names));
                }
            }
            Phase::Ending => {}
        }
        if let Some(rule) = connection.keep_alive {
            self.release(&rule);
        }
        self.show_held();
        Some(connection.phase)
    }

    fn unsubscribe(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let subscriptions = std::mem::take(&mut connection.subscriptions);
        let mut names = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let (name, moved) = self.subscriptions.remove(subscription);
            names.push(name);
            if let Some(moved) = moved {
                let (_, connection) = self.connections.live(moved.connection);
                connection.subscriptions[moved.slot] = moved.to;
            }
        }
        if !names.is_empty() {
            self.outputs.push_back(Output::Detach(names));
        }
    }

    /// The one copy of a keep-alive that many connections have.
    fn shared(&mut self, rule: KeepAliveRule) -> Rc<KeepAliveRule> {
        if let Some(shared) = self.keep_alives.get(&rule) {
            return Rc::clone(shared);
        }
        let rule = Rc::new(rule);
        self.keep_alives.insert(Rc::clone(&rule));
        rule
    }

    fn release(&mut self, rule: &Rc<KeepAliveRule>) {
        const SET_AND_CALLER: usize = 2;
        if Rc::strong_count(rule) == SET_AND_CALLER {
            self.keep_alives.remove(rule);
        }
    }

    fn show_held(&self) {
        self.counters.held_streams.set(self.streams);
        self.counters.held_responses.set(self.responses);
        self.counters.held_websockets.set(self.websockets);
        self.show_subscriptions();
    }

    fn show_subscriptions(&self) {
        let subscriptions = self.subscriptions.len() as u64;
        self.counters.subscriptions.set(subscriptions);
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.streams + self.responses + self.websockets <= self.connections.len() as u64,
            "more holds than connections"
        );
    }
}

/// Whether an item fits into an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// It does not, and its connection is to end.
    None,
    Some,
}

impl HoldKind {
    /// The last item that the client says that it has.
    fn resume(&self) -> Option<&ItemId> {
        match self {
            Self::Stream {
                events: Events::Resumed(resume),
                ..
            } => Some(&resume.last_id),
            _ => None,
        }
    }
}

impl Connection {
    /// Whether so many more bytes may wait. Who has taken all that was written keeps up, however
    /// much is to be written now.
    fn has_room(&self, bytes: usize, limit: usize) -> bool {
        if self.outbox.left() == 0 && self.waiting().is_none_or(Outbox::is_empty) {
            return true;
        }
        let total = self.weight() + bytes;
        total <= limit || total <= limit + self.allowance()
    }

    /// Bytes that may wait for it. A client that reads is not slow because its origin is.
    fn limit(&self, budget: &Budget) -> usize {
        let reads = self.outbox.left() == 0 && self.is_amid_message();
        if reads && self.slow == SlowClients::Disconnect {
            budget.own_limit()
        } else {
            budget.limit()
        }
    }

    /// Whether items wait for the end of a message.
    fn is_amid_message(&self) -> bool {
        matches!(&self.phase, Phase::WebSocket(front, _) if front.lane == Lane::Busy)
    }

    /// What waits for the end of the message that is under way, if one is.
    fn waiting(&self) -> Option<&Outbox> {
        match &self.phase {
            Phase::WebSocket(front, socket) if front.lane == Lane::Busy => socket.waiting(),
            _ => None,
        }
    }

    /// Where items go: behind the message that is under way, if one is.
    fn queue(&mut self) -> &mut Outbox {
        match &mut self.phase {
            Phase::WebSocket(front, socket) if front.lane == Lane::Busy => {
                socket.waiting_mut().unwrap_or(&mut self.outbox)
            }
            _ => &mut self.outbox,
        }
    }

    /// What waits for its client weighs so much.
    fn weight(&self) -> usize {
        self.outbox.weight() + self.waiting().map_or(0, Outbox::weight)
    }

    /// Leaves out the oldest items until what waits weighs at most so much, as far as there are any;
    /// says how many.
    fn drop_items(&mut self, allowed: usize) -> u64 {
        let waiting = self.waiting().map_or(0, Outbox::weight);
        let mut dropped = self.outbox.drop_items(allowed.saturating_sub(waiting));
        if waiting > 0 {
            let allowed = allowed.saturating_sub(self.outbox.weight());
            dropped += self.queue().drop_items(allowed);
        }
        dropped
    }

    /// Makes room for an item of so many bytes, as it is to be made for slow clients.
    fn make_room(&mut self, bytes: usize, limit: usize, counters: &Counters) -> Room {
        if self.has_room(bytes, limit) {
            return Room::Some;
        }
        let dropped = match self.slow {
            SlowClients::Disconnect => return Room::None,
            // More than need be, so that not every item looks through the whole outbox.
            SlowClients::DropOldest => {
                let allowed = (limit + self.allowance()) / 4 * 3;
                self.drop_items(allowed.saturating_sub(bytes))
            }
            SlowClients::LatestOnly => self.drop_items(0),
        };
        counters.dropped_items.add(dropped);
        Room::Some
    }

    /// Appends an item, with room made for it, but for one that has awaited its room: whether it has
    /// any was asked before it was taken, and it is never left out.
    fn push_in_room(
        &mut self,
        bytes: Bytes,
        sequenced: &Sequenced,
        limit: usize,
        counters: &Counters,
    ) -> Room {
        let session = self.session.as_ref();
        if session.is_some_and(|it| it.awaits_room(&sequenced.item.channel, self.slow)) {
            self.queue().push(bytes);
            return Room::Some;
        }
        let room = self.make_room(bytes.len(), limit, counters);
        if room == Room::Some {
            self.queue().push_items(bytes, 1);
        }
        room
    }

    /// What may wait beside items, by its weight.
    fn allowance(&self) -> usize {
        match &self.phase {
            Phase::WebSocket(_, socket) => socket.allowance(),
            _ => 0,
        }
    }

    /// An item's content as this stream has it.
    fn stream_content<'a>(
        &self,
        sequenced: &'a Sequenced,
        content: &'a StreamContent,
    ) -> &'a StreamContent {
        match self.event_ids {
            EventIds::AsPublished => content,
            EventIds::Written => sequenced.event().unwrap_or(content),
        }
    }

    fn restart_keep_alive(&mut self, now: Instant) {
        if let Some(rule) = &self.keep_alive
            && rule.mode == Beat::Idle
        {
            // The reminder comes at the old time and finds this later one.
            self.deadline = Some(now + rule.timeout);
        }
    }
}

impl StreamFraming {
    /// What a complete stream ends with.
    fn end(self) -> Bytes {
        match self {
            Self::Chunked => Bytes::from_static(LAST_CHUNK),
            Self::Plain => Bytes::new(),
        }
    }

    /// A piece of content as it goes on the wire.
    fn frame(self, content: &StreamContent) -> Bytes {
        match self {
            Self::Chunked => content.chunk(),
            Self::Plain => content.plain(),
        }
    }
}

impl AfterHold {
    pub(crate) fn persistence(self) -> Persistence {
        match self {
            Self::Reuse => Persistence::Reuse,
            Self::Close => Persistence::Close,
        }
    }
}

fn mark_dirty(dirty: &mut Dirty, key: ConnectionKey, connection: &mut Connection) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push(key);
    }
}

/// A wait a little shorter than `timeout`, different for each connection, so that connections that
/// began together do not beat together.
fn staggered(timeout: Duration, key: ConnectionKey) -> Duration {
    let spread = (timeout / 2).min(Duration::from_secs(1)).as_millis();
    let spread = u64::try_from(spread).unwrap_or(1).max(1);
    // Knuth's multiplicative hash: neighbours end up far apart.
    let scattered = u64::from(key.index.wrapping_mul(2_654_435_761)) % spread;
    timeout.saturating_sub(Duration::from_millis(scattered))
}
