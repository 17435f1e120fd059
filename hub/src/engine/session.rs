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

use crate::config::SlowClients;
use crate::errand::{Again, Behalf, Comparison, Last, Linked, Next, Receipt, Urgency};
use crate::mailbox::{Attachment, Position, Sequence, Sequenced};

/// Items that wait for one connection while it waits for an origin; more are dropped and counted.
const BACKLOG: usize = 100;

/// Answers of links after which an origin is not asked once more before the next item comes.
const MAX_ANSWERS: u8 = 8;

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
    /// Items that came while the connection was busy, and those that it has missed.
    pub(super) backlog: VecDeque<Pending>,
    /// How many of them it has missed.
    replays: usize,
    /// Whether more was missed than waits here: items of channels whose ids are checked are left
    /// out until the broker is asked for them.
    pub(super) has_missed: bool,
    /// The same when its link was followed; what came since then waits here.
    pub(super) had_missed: bool,
    /// Bytes of an item for which there was no room; nothing goes on before there is.
    pub(super) wanted_room: Option<usize>,
    /// Since when the client has read nothing, if it is waited for.
    pub(super) stall: Option<Stall>,
    /// Why the connection gets the item that is on its way to it.
    pub(super) source: Source,
    /// Kept while the client has much to read, to keep whoever sends a body from sending more.
    pub(super) receipt: Option<Rc<Receipt>>,
}

/// A client that is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    /// When it last read something, or began to be waited for.
    pub(super) since: Instant,
    /// When the engine looks.
    pub(super) reminded: Instant,
}

/// An item that waits for its connection.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) sequenced: Arc<Sequenced>,
    pub(super) source: Source,
}

/// Why a connection gets an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was published just now.
    Live,
    /// The connection has missed it. What it told those to do who were there is over.
    History,
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
    /// For what it has missed, from the broker.
    CatchingUp,
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
    /// The origin wrote what the connection has at this time, or later; absent: nobody knows.
    pub(crate) as_of: Option<Instant>,
    pub(crate) on_gap: OnGap,
    /// How many answers of links came since the last item.
    answers: u8,
    /// The last item that was taken.
    seen: Sequence,
    /// Whether an item came since the last beat.
    pub(super) is_heard: bool,
    pub(super) trail: Trail,
    /// Whether the last id came with the answer of a link, and is another than before.
    pub(super) is_moved: bool,
}

/// What is known of the items around the last one that a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trail {
    /// The next item follows it, or a gap shows.
    Whole,
    /// It is still to come. What comes before it, the connection has.
    Ahead,
    /// Some behind it are missing and not to be had, which was counted.
    Lost,
}

/// What becomes of a connection that lacks items which nobody here remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnGap {
    /// Its origin is asked for them.
    Recover,
    /// Its origin was asked, and stays with what it said; the next item shows who is right.
    Wait,
    /// Nobody can be asked: it goes on with what comes.
    GoOn,
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
            replays: 0,
            has_missed: false,
            had_missed: false,
            wanted_room: None,
            stall: None,
            source: Source::Live,
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
        let has_room = self.backlog.len() < BACKLOG + self.replays;
        if has_room {
            self.backlog.push_back(Pending {
                sequenced: Arc::clone(sequenced),
                source: Source::Live,
            });
        }
        has_room
    }

    /// Keeps what the connection has missed, however much it is.
    pub(super) fn keep_missed(&mut self, missed: Vec<Arc<Sequenced>>) {
        self.replays += missed.len();
        self.backlog
            .extend(missed.into_iter().map(|sequenced| Pending {
                sequenced,
                source: Source::History,
            }));
    }

    /// The next item that waits.
    pub(super) fn next_pending(&mut self) -> Option<Pending> {
        let pending = self.backlog.pop_front()?;
        if pending.source == Source::History {
            self.replays -= 1;
        }
        if self.backlog.is_empty() {
            // What was missed may have been much.
            self.backlog = VecDeque::new();
        }
        Some(pending)
    }

    /// An item waits again, before all others.
    pub(super) fn put_back(&mut self, pending: Pending) {
        if pending.source == Source::History {
            self.replays += 1;
        }
        self.backlog.push_front(pending);
    }

    /// There is no room for so many bytes of an item: it comes back, with all that follows it, when
    /// the client has read more.
    pub(super) fn leave_out(&mut self, pending: Pending, bytes: usize) {
        self.wanted_room = Some(bytes);
        if pending.source == Source::History {
            return self.put_back(pending);
        }
        self.has_missed = true;
        let channel = &pending.sequenced.item.channel;
        self.backlog
            .retain(|it| it.sequenced.item.channel != *channel);
        self.count_replays();
    }

    fn count_replays(&mut self) {
        let replays = self.backlog.iter();
        self.replays = replays
            .filter(|pending| pending.source == Source::History)
            .count();
    }

    /// Whether more is to be had from the broker or out of the history, once the client has read
    /// what it has.
    pub(super) fn waits_for_client(&self) -> bool {
        let next = self.backlog.front();
        next.map_or(self.has_missed, |next| next.source == Source::History)
    }

    /// Whether items of this channel are left out now, because the broker is going to be asked for
    /// them.
    pub(super) fn leaves_out(&self, channel: &ChannelName) -> bool {
        (self.has_missed || matches!(self.busy, Busy::CatchingUp)) && self.checks(channel)
    }

    /// Whether an item of a channel waits until there is room for it: one that the connection has
    /// missed, or is to get later. For others room is made, or their connection ends.
    pub(super) fn awaits_room(&self, channel: &ChannelName, slow: SlowClients) -> bool {
        self.source == Source::History || slow != SlowClients::Disconnect && self.checks(channel)
    }

    /// Whether the ids of a channel's items are checked.
    pub(super) fn checks(&self, channel: &ChannelName) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| slot.channel == *channel && slot.is_checked())
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

    /// Forgets items that came before the ids at which a new instruction begins. What came between
    /// such an id and the items that wait was missed.
    pub(super) fn forget_older(&mut self) {
        for slot in self.slots.iter_mut().chain(&mut self.joining) {
            let is_moved = std::mem::take(&mut slot.is_moved);
            let PrevId::Is(id) = &slot.prev_id else {
                if is_moved {
                    // Nobody can tell any more which of them the answer contains.
                    let channel = &slot.channel;
                    self.backlog
                        .retain(|pending| pending.sequenced.item.channel != *channel);
                }
                continue;
            };
            let (mut has_begun, mut is_known) = (false, false);
            self.backlog.retain(|pending| {
                let item = &pending.sequenced.item;
                if item.channel != slot.channel {
                    return true;
                }
                has_begun |= follows(item, id.as_str());
                is_known |= has_begun || item.id.as_ref() == Some(id);
                has_begun
            });
            self.has_missed |= (is_moved || self.had_missed) && !is_known;
        }
        self.had_missed = false;
        self.count_replays();
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
                    ..Self::unchecked(channel.name.clone())
                });
            }
        }
        for channel in implicit {
            if seen.insert(channel.clone()) {
                slots.push(Self::unchecked(channel.clone()));
            }
        }
        slots
    }

    /// A channel whose ids nobody checks.
    fn unchecked(channel: ChannelName) -> Self {
        Self {
            name: channel.clone(),
            channel,
            prev_id: PrevId::Unchecked,
            filters: Box::default(),
            as_of: None,
            on_gap: OnGap::Recover,
            answers: 0,
            seen: Sequence::default(),
            is_heard: false,
            trail: Trail::Whole,
            is_moved: false,
        }
    }

    /// A channel that a WebSocket is subscribed to.
    pub(super) fn websocket(
        channel: ChannelName,
        name: ChannelName,
        prev_id: Option<&ItemId>,
        filters: Box<[Filter]>,
    ) -> Self {
        Self {
            name,
            prev_id: PrevId::of(prev_id),
            filters,
            ..Self::unchecked(channel)
        }
    }

    /// What a link's answer says in place of this one, which it was asked with.
    pub(super) fn replaced_by(&self, wanted: Self) -> Self {
        let is_moved = wanted.prev_id != self.prev_id;
        let answers = self.answers.saturating_add(1);
        // Whoever says the same again would say so for ever, and so would one whose ids are others
        // than those of items.
        let on_gap = if is_moved && answers < MAX_ANSWERS {
            OnGap::Recover
        } else {
            OnGap::Wait
        };
        Self {
            on_gap,
            answers,
            seen: self.seen,
            is_moved,
            ..wanted
        }
    }

    /// Whether the ids of items are checked.
    pub(super) fn is_checked(&self) -> bool {
        self.prev_id != PrevId::Unchecked
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
        if again.comparison == Comparison::Never || again.last.iter().any(is_known) {
            self.on_gap = OnGap::Wait;
        }
    }

    pub(super) fn attachment(&self) -> Attachment {
        let position = match &self.prev_id {
            PrevId::Is(prev_id) => Some(Position {
                prev_id: prev_id.clone(),
                as_of: self.as_of,
            }),
            PrevId::Unchecked => None,
        };
        Attachment {
            channel: self.channel.clone(),
            position,
        }
    }

    /// Whether the connection has the item already.
    pub(super) fn has(&mut self, sequenced: &Sequenced) -> bool {
        let item = &sequenced.item;
        let is_last = match (&self.prev_id, &item.id) {
            (PrevId::Is(last), Some(id)) => last == id,
            _ => false,
        };
        if self.trail == Trail::Ahead && (is_last || self.continues_with(item)) {
            self.trail = Trail::Whole;
        }
        let is_seen = sequenced.sequence <= self.seen;
        if is_seen && self.is_checked() && self.continues_with(item) {
            // A link's answer went back behind it.
            self.prev_id = PrevId::of(item.id.as_ref());
        }
        is_last || self.trail == Trail::Ahead || is_seen
    }

    /// Whether the item is the next one, as far as is known.
    pub(super) fn continues_with(&self, item: &Item) -> bool {
        match &self.prev_id {
            PrevId::Unchecked => true,
            PrevId::Is(id) => follows(item, id.as_str()),
        }
    }

    /// The item was taken.
    pub(super) fn advance(&mut self, sequenced: &Sequenced) {
        self.is_heard = true;
        self.pass(sequenced);
    }

    /// The item says nothing to connections of this kind; what follows it comes next.
    pub(super) fn pass(&mut self, sequenced: &Sequenced) {
        if !sequenced.is_late {
            // Of what follows a late item, some stands before it.
            self.seen = sequenced.sequence;
        }
        // What its origin said before this is of no account any more.
        self.on_gap = OnGap::Recover;
        self.answers = 0;
        if self.is_checked() {
            self.prev_id = PrevId::of(sequenced.item.id.as_ref());
        }
    }

    /// The last id is this one from now on; without one, ids are not checked any more.
    pub(super) fn go_on_from(&mut self, id: Option<&ItemId>) {
        self.prev_id = PrevId::of(id);
    }
}

impl PrevId {
    pub(super) fn of(id: Option<&ItemId>) -> Self {
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
