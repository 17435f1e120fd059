//! What shards and the broker say to each other; neither knows more of the other than this.

use std::sync::Arc;

use grip::ChannelName;
use grip::channel::ItemId;
use grip::publish::{Item, WsMessage};

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
    /// Its message for WebSockets, encoded once for all of them.
    pub(crate) encoded: Option<Encoded>,
}

impl Sequenced {
    pub(crate) fn new(sequence: Sequence, item: Item) -> Self {
        let encoded = match &item.ws_message {
            Some(WsMessage::Send { kind, content, .. }) => Some(Encoded::new(*kind, content)),
            _ => None,
        };
        Self {
            sequence,
            item,
            encoded,
        }
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
    /// Where the connection's content ends; for the history to replay from.
    pub(crate) prev_id: Option<ItemId>,
}

/// Whether a connection's content is known to be older than what its channels have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// No channel is known to be ahead.
    None,
    /// At least one of its channels has had an item that the content does not contain.
    Found,
}

/// What the broker says to a shard, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The connection is attached; every item after `cursor` follows in this mailbox.
    Attached {
        connection: ConnectionKey,
        cursor: Sequence,
        conflict: Conflict,
    },
    /// An item for a channel that the shard is interested in.
    Deliver(Arc<Sequenced>),
    /// Everybody who is held on this channel asks the origin what they have missed.
    Update(ChannelName),
    /// Everybody who is held over HTTP asks the origin what they have missed.
    Recover,
}
