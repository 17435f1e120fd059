//! What a held connection has beyond its subscriptions: ids to check, filters, links.
//!
//! Most connections have none of it and no [`Session`]; so delivery to them takes the short way.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use grip::ChannelName;
use grip::channel::{Channel, ItemId};
use grip::filter::{BodyFilter, Context, Filter, FilterError, Inquiry};
use grip::publish::Item;
use http::Uri;

use crate::errand::{Again, Behalf, Comparison, Last, Linked, Next, Receipt, Urgency};
use crate::mailbox::{Attachment, Sequenced};

/// Items that wait for one connection while it waits for an origin; more are dropped and counted.
const BACKLOG: usize = 100;

/// The cold part of a held connection.
#[derive(Debug)]
pub(crate) struct Session {
    /// On whose behalf its requests are made.
    pub(super) behalf: Arc<Behalf>,
    /// Subscription metadata; GRIP `Grip-Set-Meta`.
    pub(super) meta: BTreeMap<String, String>,
    /// One for each subscription of the connection, in the same order.
    pub(super) slots: Vec<Slot>,
    /// GRIP `Grip-Link` with `rel=next`.
    pub(super) next: Option<Next>,
    /// GRIP `Grip-Link` with `rel=gone`; only the first instruction's counts.
    pub(super) gone: Option<Uri>,
    /// When the next link is followed unless all channels were heard.
    pub(super) beat: Option<Instant>,
    pub(super) busy: Busy,
    /// A link to follow as soon as nothing else is under way.
    pub(super) wish: Option<Urgency>,
    /// Channels that the broker is attaching the connection to, after its start.
    pub(super) joining: Vec<Slot>,
    /// Items that came while the connection was busy.
    pub(super) backlog: VecDeque<Arc<Sequenced>>,
    /// Kept while the client has much to read, to keep whoever sends a body from sending more.
    pub(super) receipt: Option<Rc<Receipt>>,
}

/// What a session waits for; items wait behind it.
#[derive(Debug)]
pub(super) enum Busy {
    /// For nothing.
    Idle,
    /// For the rest of its first body.
    Feeding,
    /// For the answer of its next link.
    Following,
    /// For the rest of that answer.
    Receiving(Box<Receiving>),
    /// For what a server says of an item.
    Asking(Box<Asking>),
}

/// The answer of a next link, while its body comes.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) linked: Arc<Linked>,
    pub(super) filter: Option<BodyFilter>,
}

/// An item between two of its filters.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) sequenced: Arc<Sequenced>,
    /// As they were when the item came; its channel may have others by now.
    pub(super) filters: Box<[Filter]>,
    pub(super) inquiry: Inquiry,
}

/// What a connection knows of one of its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The channel's full name.
    pub(crate) channel: ChannelName,
    /// Its name as the origin knows it, without the route's prefix.
    pub(crate) name: ChannelName,
    pub(crate) prev_id: PrevId,
    pub(crate) filters: Box<[Filter]>,
    /// Whether an item came since the last beat.
    pub(super) is_heard: bool,
    /// Whether the id is compared with the last one published when the connection attaches.
    pub(super) is_compared: bool,
}

/// The id of the last item that a connection has of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PrevId {
    /// Nobody said; items are not checked.
    Unchecked,
    /// This one; an item that does not follow it shows a gap. Empty: an item without id.
    Is(ItemId),
}

impl Session {
    /// A session without links, for a connection that begins with these channels.
    pub(crate) fn new(behalf: Arc<Behalf>, meta: BTreeMap<String, String>) -> Self {
        Self {
            behalf,
            meta,
            slots: Vec::new(),
            next: None,
            gone: None,
            beat: None,
            busy: Busy::Idle,
            wish: None,
            joining: Vec::new(),
            backlog: VecDeque::new(),
            receipt: None,
        }
    }

    /// The same with these links.
    #[must_use]
    pub(crate) fn with_links(self, next: Option<Next>, gone: Option<Uri>) -> Self {
        Self { next, gone, ..self }
    }

    /// Whether items go through at once.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.busy, Busy::Idle) && self.joining.is_empty()
    }

    /// Whether the client is told what is wrong.
    pub(super) fn tells(&self) -> bool {
        self.behalf.tells_errors
    }

    /// Keeps an item for later; false if too many wait.
    pub(super) fn keep(&mut self, sequenced: &Arc<Sequenced>) -> bool {
        let has_room = self.backlog.len() < BACKLOG;
        if has_room {
            self.backlog.push_back(Arc::clone(sequenced));
        }
        has_room
    }

    /// The last ids of all channels that are checked; GRIP `Grip-Last`.
    pub(super) fn last(&self) -> Vec<Last> {
        self.slots
            .iter()
            .filter_map(|slot| match &slot.prev_id {
                PrevId::Unchecked => None,
                PrevId::Is(id) => Some(Last {
                    name: slot.name.clone(),
                    id: id.clone(),
                }),
            })
            .collect()
    }

    /// Calls `run` with what filters may look at.
    pub(super) fn with_context<T>(
        &self,
        item_meta: &BTreeMap<String, String>,
        run: impl FnOnce(&Context<'_>) -> T,
    ) -> T {
        let slots = self.slots.iter().chain(&self.joining);
        let channels: Vec<(&str, Option<&str>)> = slots
            .map(|slot| (slot.name.as_str(), slot.prev_id.id()))
            .collect();
        run(&Context {
            subscription_meta: &self.meta,
            item_meta,
            channels: &channels,
        })
    }

    /// The filter for a body, if any channel has one that acts on bodies.
    pub(super) fn body_filter(&self) -> Result<Option<BodyFilter>, FilterError> {
        let slots = self.slots.iter().chain(&self.joining);
        let mut filters: Vec<Filter> = Vec::new();
        for filter in slots.flat_map(|slot| slot.filters.iter()) {
            if !filters.contains(filter) {
                filters.push(*filter);
            }
        }
        self.with_context(&BTreeMap::new(), |context| {
            BodyFilter::new(&filters, context)
        })
    }

    /// Whether every channel had an item since the last call.
    pub(super) fn take_heard(&mut self) -> bool {
        let is_heard = !self.slots.is_empty() && self.slots.iter().all(|slot| slot.is_heard);
        for slot in &mut self.slots {
            slot.is_heard = false;
        }
        is_heard
    }

    /// Forgets items that came before the ids at which a new instruction begins.
    pub(super) fn forget_older(&mut self) {
        for slot in self.slots.iter().chain(&self.joining) {
            let PrevId::Is(id) = &slot.prev_id else {
                continue;
            };
            let mut has_begun = false;
            self.backlog.retain(|sequenced| {
                let item = &sequenced.item;
                has_begun |= item.channel == slot.channel && follows(item, id.as_str());
                has_begun || item.channel != slot.channel
            });
        }
    }
}

impl Slot {
    /// The slots of these channels, each channel once, and of channels that a route adds.
    pub(crate) fn all(channels: &[Channel], prefix: &str, implicit: &[ChannelName]) -> Vec<Self> {
        let mut slots: Vec<Self> = Vec::with_capacity(channels.len() + implicit.len());
        let mut seen = rustc_hash::FxHashSet::default();
        for channel in channels {
            let full = full_name(&channel.name, prefix);
            if seen.insert(full.clone()) {
                slots.push(Self {
                    channel: full,
                    name: channel.name.clone(),
                    prev_id: PrevId::of(channel.prev_id.as_ref()),
                    filters: channel
                        .filters
                        .iter()
                        .filter_map(|name| Filter::named(name))
                        .collect(),
                    is_heard: false,
                    is_compared: true,
                });
            }
        }
        for channel in implicit {
            if seen.insert(channel.clone()) {
                slots.push(Self {
                    channel: channel.clone(),
                    name: channel.clone(),
                    prev_id: PrevId::Unchecked,
                    filters: Box::default(),
                    is_heard: false,
                    is_compared: true,
                });
            }
        }
        slots
    }

    /// A channel that a WebSocket is subscribed to, whose ids nobody checks.
    pub(super) fn websocket(
        channel: ChannelName,
        name: ChannelName,
        filters: Box<[Filter]>,
    ) -> Self {
        Self {
            channel,
            name,
            prev_id: PrevId::Unchecked,
            filters,
            is_heard: false,
            is_compared: false,
        }
    }

    /// Whether a connection needs a session because of this channel.
    pub(crate) fn needs_session(&self) -> bool {
        self.prev_id != PrevId::Unchecked || !self.filters.is_empty()
    }

    /// The origin was asked again and gave this: an id with which it was asked is as new as it
    /// gets.
    pub(crate) fn compare_after(&mut self, again: &Again) {
        let is_known =
            |last: &Last| last.name == self.name && self.prev_id.id() == Some(last.id.as_str());
        self.is_compared = again.comparison == Comparison::New && !again.last.iter().any(is_known);
    }

    pub(super) fn attachment(&self) -> Attachment {
        let prev_id = match &self.prev_id {
            PrevId::Is(id) if self.is_compared => Some(id.clone()),
            PrevId::Is(_) | PrevId::Unchecked => None,
        };
        Attachment {
            channel: self.channel.clone(),
            prev_id,
        }
    }

    /// Whether the connection has the item already.
    pub(super) fn has(&self, item: &Item) -> bool {
        match (&self.prev_id, &item.id) {
            (PrevId::Is(last), Some(id)) => last == id,
            _ => false,
        }
    }

    /// Whether the item is the next one, as far as is known.
    pub(super) fn continues_with(&self, item: &Item) -> bool {
        match &self.prev_id {
            PrevId::Unchecked => true,
            PrevId::Is(id) => follows(item, id.as_str()),
        }
    }

    /// The item was taken.
    pub(super) fn advance(&mut self, item: &Item) {
        self.is_heard = true;
        if self.prev_id != PrevId::Unchecked {
            self.prev_id = PrevId::of(item.id.as_ref());
        }
    }
}

impl PrevId {
    fn of(id: Option<&ItemId>) -> Self {
        id.map_or(Self::Unchecked, |id| Self::Is(id.clone()))
    }

    fn id(&self) -> Option<&str> {
        match self {
            Self::Unchecked => None,
            Self::Is(id) => Some(id.as_str()),
        }
    }
}

/// Whether who has the item with this id misses nothing when `item` comes next. No id before it is
/// the same as an empty one.
fn follows(item: &Item, id: &str) -> bool {
    item.prev_id.as_ref().map_or("", ItemId::as_str) == id
        || item.stands_for.iter().any(|older| older.as_str() == id)
}

fn full_name(name: &ChannelName, prefix: &str) -> ChannelName {
    if prefix.is_empty() {
        name.clone()
    } else {
        ChannelName::new(&format!("{prefix}{name}"))
    }
}

/// Content as a filter left it, or as it was published.
#[derive(Debug)]
pub(super) enum Content {
    Original,
    Filtered(Bytes),
}

impl Content {
    /// What became of `original`.
    pub(super) fn compare(original: &Bytes, filtered: Bytes) -> Self {
        let is_same = original.as_ptr() == filtered.as_ptr() && original.len() == filtered.len();
        if is_same {
            Self::Original
        } else {
            Self::Filtered(filtered)
        }
    }
}
