//! The engine of one shard: who is held, who hears what, what is queued.
//!
//! Pure: it knows keys, bytes and instants; it does not know sockets, threads or tokio. Its shard
//! calls `handle_*` with what happened, then takes [`Engine::poll_output`] and
//! [`Engine::next_dirty`] until both are empty. Read [`Engine`] and [`connections::Phase`] first.

pub(crate) mod connections;
mod deadlines;
mod outbox;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::ChannelName;
use grip::channel::Channel;
use grip::http1::{LAST_CHUNK, Persistence};
use grip::publish::{HttpResponse, HttpStream, Item, StreamContent};
use rustc_hash::FxHashSet;

use crate::counters::Counters;
use crate::mailbox::{Attachment, ConnectionKey, Sequence, Sequenced};

pub(crate) use connections::{AfterHold, HoldKind, KeepAliveRule, StreamFraming, Waiting};
pub(crate) use outbox::Outbox;

use connections::{Beat, Connection, Connections, Opening, Phase};
use deadlines::Deadlines;
use subscriptions::Subscriptions;

/// What the shard has to do for the engine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Tell the broker that this connection wants these channels; answered by
    /// [`Engine::handle_attached`].
    Attach {
        connection: ConnectionKey,
        channels: Vec<Attachment>,
    },
    /// Tell the broker that one connection less wants each of these channels.
    Detach(Vec<ChannelName>),
    /// End this connection at once. The engine has forgotten it.
    Drop(ConnectionKey),
}

/// A hold that the proxy asks for.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) kind: HoldKind,
    pub(crate) channels: Vec<Channel>,
    pub(crate) after: AfterHold,
}

/// What happens to a connection whose outbox is full.
///
/// The policies that drop items instead belong beside this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlowConsumer {
    /// The connection ends when more bytes than this wait for it.
    pub(crate) max_pending_bytes: usize,
}

/// All held connections of a shard, their subscriptions and deadlines.
#[derive(Debug)]
pub(crate) struct Engine {
    connections: Connections,
    subscriptions: Subscriptions,
    deadlines: Deadlines,
    keep_alives: FxHashSet<Rc<KeepAliveRule>>,
    outputs: VecDeque<Output>,
    dirty: VecDeque<ConnectionKey>,
    /// Connections still to let go of; present once the drain began.
    draining: Option<Vec<ConnectionKey>>,
    slow_consumer: SlowConsumer,
    counters: Arc<Counters>,
    streams: u64,
    responses: u64,
}

impl Engine {
    pub(crate) fn new(slow_consumer: SlowConsumer, counters: Arc<Counters>, now: Instant) -> Self {
        Self {
            connections: Connections::default(),
            subscriptions: Subscriptions::default(),
            deadlines: Deadlines::new(now),
            keep_alives: FxHashSet::default(),
            outputs: VecDeque::new(),
            dirty: VecDeque::new(),
            draining: None,
            slow_consumer,
            counters,
            streams: 0,
            responses: 0,
        }
    }

    /// Takes a connection in. Nothing is written to it before the broker has attached it, so
    /// whoever sees the head of a stream gets everything that is published afterwards.
    pub(crate) fn open(&mut self, hold: Hold, now: Instant) -> ConnectionKey {
        let attachments = attachments(hold.channels);
        let channels: Vec<ChannelName> = attachments
            .iter()
            .map(|attachment| attachment.channel.clone())
            .collect();
        let opening = Opening {
            kind: hold.kind,
            channels,
        };
        let connection = self.connections.insert(opening, hold.after);
        if attachments.is_empty() {
            self.handle_attached(connection, Sequence::default(), now);
        } else {
            self.outputs.push_back(Output::Attach {
                connection,
                channels: attachments,
            });
        }
        connection
    }

    /// The broker has attached the connection: items after `cursor` are for it.
    pub(crate) fn handle_attached(&mut self, key: ConnectionKey, cursor: Sequence, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            // Gone meanwhile, and detached when it went.
            return;
        };
        let phase = std::mem::replace(&mut connection.phase, Phase::Ending);
        let Phase::Opening(opening) = phase else {
            connection.phase = phase;
            return;
        };
        for (slot, name) in opening.channels.iter().enumerate() {
            let subscription = self.subscriptions.add(name, key.index, slot, cursor);
            connection.subscriptions.push(subscription);
        }
        match opening.kind {
            HoldKind::Stream {
                start,
                framing,
                keep_alive,
            } => self.begin_stream(key, start, framing, keep_alive, now),
            HoldKind::Response { waiting, timeout } => {
                self.begin_response(key, waiting, timeout, now);
            }
        }
        if self.draining.is_some() {
            self.let_go(key);
        }
        self.check_invariants();
    }

    fn begin_stream(
        &mut self,
        key: ConnectionKey,
        start: Bytes,
        framing: StreamFraming,
        keep_alive: Option<KeepAliveRule>,
        now: Instant,
    ) {
        self.streams += 1;
        self.show_held();
        let keep_alive = keep_alive.map(|rule| self.shared(rule));
        let (_, connection) = self.connections.live(key.index);
        connection.phase = Phase::Stream(framing);
        connection.outbox.push(start);
        mark_dirty(&mut self.dirty, key, connection);
        if let Some(rule) = keep_alive {
            let deadline = now + staggered(rule.timeout, key);
            connection.deadline = Some(deadline);
            connection.keep_alive = Some(rule);
            self.deadlines.remind(key, deadline);
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

    /// Delivers an item to everybody here who is subscribed to its channel.
    pub(crate) fn handle_item(&mut self, sequenced: &Sequenced, now: Instant) {
        let item = &sequenced.item;
        // Connections leave the channel's list only after the walk over it.
        let mut ending = Vec::new();
        let mut slow = Vec::new();
        for subscriber in self.subscriptions.of(&item.channel) {
            if sequenced.sequence <= subscriber.cursor {
                continue;
            }
            let (key, connection) = self.connections.live(subscriber.connection);
            match reaction(&connection.phase, item) {
                Reaction::Nothing => {}
                Reaction::End => ending.push(key),
                Reaction::Append(bytes) => {
                    if connection.outbox.pending_bytes() + bytes.len()
                        > self.slow_consumer.max_pending_bytes
                    {
                        slow.push(key);
                        continue;
                    }
                    self.counters.deliveries.increment();
                    connection.outbox.push(bytes);
                    connection.restart_keep_alive(now);
                    mark_dirty(&mut self.dirty, key, connection);
                }
            }
        }
        for key in ending {
            self.end_by_item(key, item);
        }
        for key in slow {
            self.counters.slow_consumers.increment();
            self.forget(key);
            self.outputs.push_back(Output::Drop(key));
        }
        self.check_invariants();
    }

    fn end_by_item(&mut self, key: ConnectionKey, item: &Item) {
        let (_, connection) = self.connections.live(key.index);
        if let (Phase::Response(waiting), Some(HttpResponse::Send(message))) =
            (&connection.phase, &item.http_response)
        {
            self.counters.deliveries.increment();
            let answer = waiting.answer.published(message);
            let bytes = answer.encode(waiting.version, connection.after.persistence());
            self.end(key, bytes);
        } else {
            self.let_go(key);
        }
    }

    /// Ends a hold as its time runs out: a stream with its end, a request with its own answer.
    fn let_go(&mut self, key: ConnectionKey) {
        let draining = self.draining.is_some();
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if draining {
            connection.after = AfterHold::Close;
        }
        let last = match &connection.phase {
            Phase::Stream(StreamFraming::Chunked) => Bytes::from_static(LAST_CHUNK),
            Phase::Stream(StreamFraming::Plain) => Bytes::new(),
            Phase::Response(waiting) => waiting
                .answer
                .encode(waiting.version, connection.after.persistence()),
            Phase::Opening(_) | Phase::Ending => return,
        };
        self.end(key, last);
    }

    /// Puts the last bytes in the outbox and unsubscribes.
    fn end(&mut self, key: ConnectionKey, last: Bytes) {
        let (_, connection) = self.connections.live(key.index);
        match std::mem::replace(&mut connection.phase, Phase::Ending) {
            Phase::Stream(_) => self.streams -= 1,
            Phase::Response(_) => self.responses -= 1,
            Phase::Opening(_) | Phase::Ending => {}
        }
        connection.outbox.push(last);
        connection.deadline = None;
        mark_dirty(&mut self.dirty, key, connection);
        self.unsubscribe(key);
        self.show_held();
    }

    /// When [`Self::handle_timeout`] is to be called next; may change after every `handle_*`.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.poll_timeout()
    }

    /// Sends keep-alives and answers requests whose time is up.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(keys) = self.deadlines.next_due(now) {
            for key in keys {
                self.handle_deadline(key, now);
            }
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
            Phase::Stream(_) => self.keep_alive(key, now),
            Phase::Opening(_) | Phase::Ending => {}
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
        // A client that does not read what it has needs no sign of life on top.
        if connection.outbox.is_empty() {
            self.counters.keep_alives.increment();
            connection.outbox.push(rule.bytes.clone());
            mark_dirty(&mut self.dirty, key, connection);
        }
    }

    /// The client left, or its connection broke.
    pub(crate) fn handle_gone(&mut self, key: ConnectionKey) {
        if self.connections.get(key).is_some() {
            self.counters.clients_gone.increment();
            self.forget(key);
        }
        self.check_invariants();
    }

    /// Begins to let go of all holds: whoever is held ends in [`Self::drain_some`], whoever comes
    /// later ends at once.
    pub(crate) fn drain(&mut self) {
        self.draining = Some(self.connections.keys().collect());
    }

    /// Lets go of up to `limit` more connections.
    pub(crate) fn drain_some(&mut self, limit: usize) {
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
        let key = self.dirty.pop_front()?;
        if let Some(connection) = self.connections.get(key) {
            connection.is_dirty = false;
        }
        Some(key)
    }

    /// The outbox of a connection that is still there.
    pub(crate) fn outbox(&mut self, key: ConnectionKey) -> Option<&mut Outbox> {
        Some(&mut self.connections.get(key)?.outbox)
    }

    /// Says whether the hold is over, now that the outbox is empty; then forgets the connection.
    pub(crate) fn handle_flushed(&mut self, key: ConnectionKey) -> Option<AfterHold> {
        let connection = self.connections.get(key)?;
        if !matches!(connection.phase, Phase::Ending) || !connection.outbox.is_empty() {
            return None;
        }
        let after = connection.after;
        self.forget(key);
        Some(after)
    }

    fn forget(&mut self, key: ConnectionKey) {
        self.unsubscribe(key);
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        match connection.phase {
            Phase::Opening(opening) => {
                if !opening.channels.is_empty() {
                    self.outputs.push_back(Output::Detach(opening.channels));
                }
            }
            Phase::Stream(_) => self.streams -= 1,
            Phase::Response(_) => self.responses -= 1,
            Phase::Ending => {}
        }
        if let Some(rule) = connection.keep_alive {
            self.release(&rule);
        }
        self.show_held();
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
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.streams + self.responses <= self.connections.len() as u64,
            "more holds than connections"
        );
    }
}

impl Connection {
    fn restart_keep_alive(&mut self, now: Instant) {
        if let Some(rule) = &self.keep_alive
            && rule.mode == Beat::Idle
        {
            // The reminder comes at the old time and finds this later one.
            self.deadline = Some(now + rule.timeout);
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

/// What a connection does with an item.
enum Reaction {
    Nothing,
    Append(Bytes),
    End,
}

fn reaction(phase: &Phase, item: &Item) -> Reaction {
    match (phase, &item.http_stream, &item.http_response) {
        (Phase::Stream(framing), Some(HttpStream::Send { content, .. }), _) => {
            Reaction::Append(framed(content, *framing))
        }
        (Phase::Stream(_), Some(HttpStream::Close), _)
        | (Phase::Response(_), _, Some(HttpResponse::Send(_))) => Reaction::End,
        // Hints follow links, which the engine does not know yet; refreshes are for WebSockets.
        _ => Reaction::Nothing,
    }
}

fn framed(content: &StreamContent, framing: StreamFraming) -> Bytes {
    match framing {
        StreamFraming::Chunked => content.chunk(),
        StreamFraming::Plain => content.plain(),
    }
}

fn mark_dirty(
    dirty: &mut VecDeque<ConnectionKey>,
    key: ConnectionKey,
    connection: &mut Connection,
) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push_back(key);
    }
}

/// Each channel once, in the order of the instruction.
fn attachments(channels: Vec<Channel>) -> Vec<Attachment> {
    let mut seen = FxHashSet::default();
    channels
        .into_iter()
        .filter(|channel| seen.insert(channel.name.clone()))
        .map(|channel| Attachment {
            channel: channel.name,
            prev_id: channel.prev_id,
        })
        .collect()
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
