//! What shards and the broker say to each other; neither knows more of the other than this.

use std::ops::AddAssign;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use grip::ChannelName;
use grip::channel::ItemId;
use grip::publish::{HttpStream, Item, StreamContent, WsMessage};
use tokio::sync::mpsc;

use crate::frames::Encoded;

/// Names a held connection. A reused index has another generation, so a stale key finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The number of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardId(pub(crate) usize);

/// The place of an item in the order of everything published.
///
/// One count for all channels, so that it survives a channel that nobody remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence(pub(crate) u64);

/// An item in its place.
#[derive(Debug)]
pub(crate) struct Sequenced {
    pub(crate) sequence: Sequence,
    pub(crate) item: Item,
    /// Whether it comes behind items that follow it.
    pub(crate) is_late: bool,
    /// Its message for WebSockets, encoded once for all of them. Most items have none, and all that
    /// are remembered would keep room for it.
    pub(crate) encoded: Option<Box<Encoded>>,
    /// Its content for streams of events, with its id; made for the first of them.
    event: OnceLock<Option<StreamContent>>,
}

impl Sequenced {
    pub(crate) fn new(sequence: Sequence, item: Item) -> Self {
        let encoded = match &item.ws_message {
            Some(WsMessage::Send { kind, content, .. }) => {
                Some(Box::new(Encoded::new(*kind, content)))
            }
            _ => None,
        };
        Self {
            sequence,
            item,
            is_late: false,
            encoded,
            event: OnceLock::new(),
        }
    }

    /// The same, behind items that follow it.
    pub(crate) fn late(sequence: Sequence, item: Item) -> Self {
        Self {
            is_late: true,
            ..Self::new(sequence, item)
        }
    }

    /// Its content as an event with its id, if it is one that has none of its own.
    pub(crate) fn event(&self) -> Option<&StreamContent> {
        let event = self.event.get_or_init(|| {
            let id = self.item.id.as_ref()?;
            let Some(HttpStream::Send { content, .. }) = &self.item.http_stream else {
                return None;
            };
            let bytes = grip::events::with_id(&content.plain(), id)?;
            Some(StreamContent::new(&bytes))
        });
        event.as_ref()
    }
}

/// The same item in the same place is the same.
impl PartialEq for Sequenced {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence && self.item == other.item
    }
}

impl Eq for Sequenced {}

/// One channel that a connection wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) channel: ChannelName,
    /// Where the connection's content ends; absent: whatever comes next is good.
    pub(crate) position: Option<Position>,
}

/// Where a connection's content of a channel ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last item in it; GRIP `prev-id`.
    pub(crate) prev_id: ItemId,
    /// The origin wrote it at this time, or later; absent: nobody knows how old it is.
    pub(crate) as_of: Option<Instant>,
}

/// The channels that a connection wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) channels: Vec<Attachment>,
    /// The last item that the client has of any of them, whatever the positions say;
    /// `Last-Event-ID`.
    pub(crate) resume: Option<ItemId>,
}

/// What a connection has to know beyond what comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatchUp {
    /// One for each channel that it wants.
    pub(crate) standings: Vec<(ChannelName, Standing)>,
    /// What it has missed, in order.
    pub(crate) missed: Vec<Arc<Sequenced>>,
    /// Whether it goes on behind [`Wanted::resume`].
    pub(crate) is_resumed: bool,
}

/// How a connection's position relates to what its channel has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// With what it has missed, it is up to date, as far as is known.
    UpToDate,
    /// It is ahead: the last item that it has is still on its way here.
    Ahead,
    /// The same as up to date, behind the item with this id in place of its position; absent: its
    /// channel is not known to have had any.
    Resumed(Option<ItemId>),
    /// It lacks items that nobody here remembers.
    Behind,
}

/// What the broker says to a shard, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The connection is attached; every item after `cursor` follows in this mailbox.
    Attached {
        connection: ConnectionKey,
        cursor: Sequence,
        /// Absent: it is up to date with all its channels.
        catch_up: Option<Box<CatchUp>>,
    },
    /// What a connection has missed that is attached already; every item after it follows in this
    /// mailbox.
    CaughtUp {
        connection: ConnectionKey,
        /// Absent: it is up to date with all the channels.
        catch_up: Option<Box<CatchUp>>,
    },
    /// An item for a channel that the shard is interested in.
    Deliver(Arc<Sequenced>),
    /// Everybody who is held on this channel asks the origin what they have missed.
    Update(ChannelName),
    /// Everybody who is held over HTTP asks the origin what they have missed.
    Recover,
    /// Say how many connections hear these channels.
    Count {
        channels: Arc<[ChannelName]>,
        reply: CountReply,
    },
}

/// How many connections hear a channel, by transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Subscribers {
    pub(crate) streams: usize,
    pub(crate) responses: usize,
    pub(crate) websockets: usize,
}

impl AddAssign for Subscribers {
    fn add_assign(&mut self, other: Self) {
        self.streams += other.streams;
        self.responses += other.responses;
        self.websockets += other.websockets;
    }
}

/// Where a shard says how many connections it counts. Dropped unused if the shard has ended.
#[derive(Debug, Clone)]
pub(crate) struct CountReply(mpsc::UnboundedSender<Vec<Subscribers>>);

impl CountReply {
    /// A reply and the place where it arrives, once from each shard that gets a copy. No more come
    /// when the last copy is gone.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Vec<Subscribers>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Says what was counted, for each channel in the order in which they were asked for.
    pub(crate) fn send(self, counts: Vec<Subscribers>) {
        // Fails if whoever asked waits no longer.
        let _ = self.0.send(counts);
    }
}

/// The same place is the same.
impl PartialEq for CountReply {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for CountReply {}
