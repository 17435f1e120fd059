//! Held connections as plain data.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::channel::ItemId;
use grip::hold::{Answer, PackedAnswer};
use grip::instruct::{KeepAlive, KeepAliveMode};
use grip::publish::StreamContent;
use http::{Method, Version};
use smallvec::SmallVec;

use super::outbox::Outbox;
use super::session::{Session, Slot};
use super::subscriptions::Subscription;
use super::websocket::{WebSocket, WebSocketStart};
use crate::config::SlowClients;
use crate::dressing::Dressing;
use crate::frames::Deflate;
use crate::mailbox::ConnectionKey;
use crate::pages::Pages;

/// How the parts of a stream are told apart on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamFraming {
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The content as it is, up to the end of the connection or stream; HTTP/1.0 and HTTP/2.
    Plain,
}

/// What becomes of the client's connection once all is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterHold {
    /// It serves the client's next request.
    Reuse,
    /// It ends.
    Close,
}

/// What holds a connection of its kind.
#[derive(Debug)]
pub(crate) enum HoldKind {
    /// GRIP `Grip-Hold: stream`.
    Stream {
        /// Head and initial body, as they go on the wire.
        start: Bytes,
        framing: StreamFraming,
        keep_alive: Option<KeepAliveRule>,
        then: AfterStart,
        events: Events,
    },
    /// GRIP `Grip-Hold: response`.
    Response {
        waiting: Box<Waiting>,
        timeout: Duration,
    },
    /// A WebSocket that its origin has accepted.
    WebSocket(Box<WebSocketStart>),
}

/// What a stream does with the ids of its items.
#[derive(Debug)]
pub(crate) enum Events {
    /// Nothing.
    Plain,
    /// It writes them into its events.
    WithIds,
    /// The same, and the client has some of the events already; needs a [`Session`].
    Resumed(Box<Resume>),
}

/// A stream of events that goes on where another one ended.
#[derive(Debug)]
pub(crate) struct Resume {
    /// The last event that the client has; `Last-Event-ID`.
    pub(crate) last_id: ItemId,
    /// What the stream starts with if it goes on there: its head without a body.
    pub(crate) head: Bytes,
}

/// Whether ids are written into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventIds {
    AsPublished,
    Written,
}

/// What a stream waits for once its start is written. All but the first need a [`Session`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterStart {
    /// Items.
    Items,
    /// Its next link, which is followed at once.
    Link,
    /// The rest of its first body; then items, or its link if it is not held.
    Body(AfterBody),
}

/// What a stream waits for once its first body is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBody {
    /// Items.
    Items,
    /// Its next link.
    Link,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The answer if nothing is published in time.
    pub(crate) answer: PackedAnswer,
    /// How answers are changed for this client, if they are.
    pub(crate) dressing: Option<Box<Dressing>>,
    pub(crate) reply: Reply,
}

/// How a waiting request is answered.
#[derive(Debug)]
pub(crate) enum Reply {
    /// With bytes in the outbox.
    Http1 {
        version: Version,
        method: Method,
        /// The request, for the origin to be asked again; empty if not all of it is known.
        request: Bytes,
    },
    /// With [`super::Output::Answer`].
    Http2(Repeat),
}

/// Whether the origin can be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Possible,
    /// Not all of the request is known.
    Impossible,
}

impl Reply {
    pub(super) fn repeat(&self) -> Repeat {
        match self {
            Self::Http1 { request, .. } if request.is_empty() => Repeat::Impossible,
            Self::Http1 { .. } => Repeat::Possible,
            Self::Http2(repeat) => *repeat,
        }
    }
}

impl Waiting {
    /// The answer as the client gets it.
    pub(super) fn dressed(&self, answer: Answer) -> Answer {
        match &self.dressing {
            None => answer,
            Some(dressing) => dressing.dress(answer),
        }
    }
}

/// A keep-alive as it goes on the wire; shared by all connections that have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct KeepAliveRule {
    pub(crate) bytes: Bytes,
    pub(crate) timeout: Duration,
    pub(crate) mode: Beat,
}

impl KeepAliveRule {
    /// The keep-alive of an instruction, framed.
    pub(crate) fn new(keep_alive: &KeepAlive, framing: StreamFraming) -> Self {
        Self {
            bytes: framing.frame(&StreamContent::new(&keep_alive.data)),
            timeout: keep_alive.timeout,
            mode: keep_alive.mode.into(),
        }
    }
}

/// What restarts a keep-alive's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Beat {
    /// Every item does.
    Idle,
    /// Nothing does.
    Interval,
}

impl From<KeepAliveMode> for Beat {
    fn from(mode: KeepAliveMode) -> Self {
        match mode {
            KeepAliveMode::Idle => Self::Idle,
            KeepAliveMode::Interval => Self::Interval,
        }
    }
}

/// The life of a held connection.
///
/// ```text
/// Opening ──attached──▶ Stream ───close, drain──────────┐
///    │                                                  ▼
///    ├──────attached──▶ Response ──publish, timeout──▶ Ending ──flushed──▶ gone
///    │                     │
///    ├──────conflict───────┴──────hint, gap, recover──▶ asked again (gone from here)
///    │
///    └──────attached──▶ WebSocket, see there
/// ```
///
/// What a stream waits for meanwhile, its [`Session`] knows.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waits for the broker; nothing was written.
    Opening(Box<Opening>),
    /// Head and initial body are in the outbox or written; items are appended.
    Stream(StreamFraming),
    /// Nothing was written.
    Response(Box<Waiting>),
    /// The head is in the outbox or written; frames are appended.
    WebSocket(Front, Box<WebSocket>),
    /// The last bytes are in the outbox; nothing more is delivered.
    Ending,
}

/// What a delivery has to know of a WebSocket, so that the rest of it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) lane: Lane,
    pub(crate) care: Care,
}

/// How published messages reach a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// At once, encoded like this.
    Free(Option<Deflate>),
    /// After the message that is under way.
    Busy,
    /// Not at all.
    Closed,
}

/// Whether a WebSocket has to be looked at after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    Never,
    AfterWrite,
}

#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) kind: HoldKind,
    pub(crate) slots: Vec<Slot>,
}

/// One held connection. What a delivery touches of it stands first.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) outbox: Outbox,
    pub(crate) phase: Phase,
    pub(crate) is_dirty: bool,
    pub(crate) after: AfterHold,
    pub(crate) event_ids: EventIds,
    pub(crate) slow: SlowClients,
    generation: u32,
    /// When it wants to be looked at, if ever.
    pub(crate) deadline: Option<Instant>,
    pub(crate) keep_alive: Option<Rc<KeepAliveRule>>,
    pub(crate) subscriptions: SmallVec<[Subscription; 2]>,
    /// What few connections have.
    pub(crate) session: Option<Box<Session>>,
}

/// All held connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pages: Pages<Connection>,
    /// Indexes below `next` that are not taken. The lowest is taken first, so that the pages at the
    /// end become free when there are fewer connections.
    free: BinaryHeap<Reverse<u32>>,
    next: u32,
    generation: u32,
}

impl Connections {
    pub(crate) fn insert(
        &mut self,
        opening: Opening,
        after: AfterHold,
        slow: SlowClients,
        session: Option<Box<Session>>,
    ) -> ConnectionKey {
        self.generation = self.generation.wrapping_add(1);
        let connection = Connection {
            outbox: Outbox::default(),
            phase: Phase::Opening(Box::new(opening)),
            is_dirty: false,
            after,
            event_ids: EventIds::AsPublished,
            slow,
            generation: self.generation,
            deadline: None,
            keep_alive: None,
            subscriptions: SmallVec::new(),
            session,
        };
        let index = self.vacant();
        self.pages.put(index, connection);
        ConnectionKey {
            index,
            generation: self.generation,
        }
    }

    fn vacant(&mut self) -> u32 {
        if let Some(Reverse(index)) = self.free.pop() {
            return index;
        }
        let index = self.next;
        self.next = index
            .checked_add(1)
            .expect("a shard holds less than 2^32 connections");
        index
    }

    pub(crate) fn get(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.pages
            .get_mut(key.index)
            .filter(|connection| connection.generation == key.generation)
    }

    /// The connection at an index that is known to be live.
    pub(crate) fn live(&mut self, index: u32) -> (ConnectionKey, &mut Connection) {
        let connection = self.pages.get_mut(index).expect("it is live");
        let generation = connection.generation;
        (ConnectionKey { index, generation }, connection)
    }

    /// The phase of the connection at an index that is known to be live.
    pub(crate) fn phase(&self, index: u32) -> &Phase {
        &self.pages.get(index).expect("it is live").phase
    }

    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<Connection> {
        self.get(key)?;
        let connection = self.pages.take(key.index)?;
        if self.pages.len() == 0 {
            self.free = BinaryHeap::new();
            self.next = 0;
        } else {
            self.free.push(Reverse(key.index));
        }
        Some(connection)
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The connections of which something is so.
    pub(crate) fn keys_where(&self, is_so: impl Fn(&Connection) -> bool) -> Vec<ConnectionKey> {
        let chosen = self
            .pages
            .iter()
            .filter(|(_, connection)| is_so(connection));
        chosen.map(key).collect()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = ConnectionKey> {
        self.pages.iter().map(key)
    }
}

fn key((index, connection): (u32, &Connection)) -> ConnectionKey {
    ConnectionKey {
        index,
        generation: connection.generation,
    }
}
