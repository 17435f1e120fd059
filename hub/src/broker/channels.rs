//! Order, history and interest, as a pure state machine.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grip::ChannelName;
use grip::channel::ItemId;
use grip::publish::{Item, Sequencing};
use rustc_hash::FxHashMap;

use super::duplicates::{Duplicates, Novelty};
use super::history::{History, Place};
use super::sequencer::{Sequencer, Turn};
use super::size;
use crate::config::{self, ChannelRule, Config, FirstSubscription, Order};
use crate::mailbox::{
    Attachment, CatchUp, Command, ConnectionKey, Position, Sequence, Sequenced, ShardId, Standing,
    Wanted,
};

/// From a channel's first subscription to the update of who is on it then.
const UPDATE_AFTER: Duration = Duration::from_secs(1);

/// Ids of waiting items that are remembered for a channel; clients with older ones ask the origin.
const MAX_ANNOUNCED: usize = 1000;

/// How long a channel is remembered after its last connection left, at least. A client that polls is
/// not held between two polls, and what came meanwhile must show in its next one.
const LINGER: Duration = Duration::from_mins(1);

/// Items of all channels that wait for the ones before them; beyond, they go out as they are.
const MAX_EARLY: usize = 100_000;
/// Bytes of these items.
const MAX_EARLY_BYTES: usize = 64 << 20;

/// How often what is too old is forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// How a broker works.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) shards: usize,
    pub(crate) first_subscription: FirstSubscription,
    /// What is remembered of a channel, where no rule says otherwise.
    pub(crate) history: config::History,
    /// Bytes that are remembered of all channels.
    pub(crate) history_bytes: usize,
    pub(crate) order: Order,
    /// The first that is for a channel counts.
    pub(crate) rules: Arc<[ChannelRule]>,
    pub(crate) repeats: Repeats,
}

/// Whether items may come more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// They may, and are dropped here.
    DropHere,
    /// They were dropped on their way here.
    Dropped,
}

impl Settings {
    pub(crate) fn of(config: &Config, shards: usize, repeats: Repeats) -> Self {
        Self {
            shards,
            first_subscription: config.first_subscription,
            history: config.history,
            history_bytes: config.history_bytes,
            order: config.order,
            rules: Arc::clone(&config.channels),
            repeats,
        }
    }

    fn history_of(&self, name: &ChannelName) -> config::History {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.pattern.is_for(name.as_str()));
        rule.map_or(self.history, |rule| rule.history.over(self.history))
    }
}

/// What happened since the start, and what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Items dropped because their channel had their id already.
    pub(crate) duplicates: u64,
    /// Items that came before the ones that they follow.
    pub(crate) early: u64,
    /// Items that waited in vain for the ones that they follow.
    pub(crate) unfollowed: u64,
    /// Items that came after the ones that follow them.
    pub(crate) late: u64,
    /// Attachments that named where their content ends and are up to date.
    pub(crate) resumed: u64,
    /// Items that they got out of the history for that, one for each that got it.
    pub(crate) replayed: u64,
    /// Attachments whose missing items are not in the history.
    pub(crate) behind: u64,
    /// Items in the history.
    pub(crate) history_items: u64,
    /// Bytes of these.
    pub(crate) history_bytes: u64,
    /// Channels that are known.
    pub(crate) channels: u64,
}

/// Every channel that somebody listens to or that has had items lately, and the order of all items.
///
/// What a channel has had since [`Channel::since`] is known here; of a channel that is not known
/// itself, that is the broker's own `since`. So content that an origin wrote later is up to date, if
/// nothing says otherwise, and content that is older may lack anything.
///
/// Drain [`Broker::poll_output`] after each call.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(super) channels: FxHashMap<ChannelName, Channel>,
    common: Common,
}

/// What is not of one channel.
#[derive(Debug)]
struct Common {
    settings: Settings,
    last: Sequence,
    /// Since when nothing was published on channels that are not known.
    since: Instant,
    /// The last item of a channel that is not known any more.
    forgotten: Sequence,
    duplicates: Duplicates,
    /// Channels that may be forgotten, the next one first; some are wanted again.
    lingering: VecDeque<(Instant, ChannelName)>,
    /// Channels to be updated, the next one first; may name channels that are gone.
    updates: VecDeque<(Instant, ChannelName)>,
    /// When an item is waited for no longer, and its channel, the next one first; some have gone out.
    early: VecDeque<(Instant, ChannelName)>,
    /// Items that wait.
    early_items: usize,
    early_bytes: usize,
    /// When the oldest item of a channel is forgotten: once for each that has a history.
    expiries: BTreeSet<(Instant, ChannelName)>,
    swept: Instant,
    outputs: VecDeque<(ShardId, Command)>,
    tally: Tally,
}

#[derive(Debug)]
pub(super) struct Channel {
    name: ChannelName,
    /// How many connections of each shard want it.
    interest: Vec<Interest>,
    /// When it is forgotten, if nobody wants it and it has no history.
    lingers_until: Option<Instant>,
    /// Since when all that was published on it is known.
    since: Instant,
    /// When the last item in order came.
    last_at: Option<Instant>,
    sequencer: Sequencer,
    /// The ids of items that wait and that the next one stands for: content up to one of them is
    /// newer than the last item. The oldest first.
    announced: VecDeque<ItemId>,
    /// How much is remembered.
    kept: config::History,
    history: History,
    /// Its place in [`Common::expiries`].
    expiry: Option<Instant>,
    /// When the update after the first subscription is due.
    update_at: Option<Instant>,
}

#[derive(Debug)]
struct Interest {
    shard: ShardId,
    connections: usize,
}

impl Broker {
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        let order = settings.order;
        let duplicates = match settings.repeats {
            Repeats::DropHere => Duplicates::new(order.id_age, order.ids),
            Repeats::Dropped => Duplicates::off(),
        };
        Self {
            channels: FxHashMap::default(),
            common: Common {
                settings,
                last: Sequence::default(),
                since: now,
                forgotten: Sequence::default(),
                duplicates,
                lingering: VecDeque::new(),
                updates: VecDeque::new(),
                early: VecDeque::new(),
                early_items: 0,
                early_bytes: 0,
                expiries: BTreeSet::new(),
                swept: now,
                outputs: VecDeque::new(),
                tally: Tally::default(),
            },
        }
    }

    /// Gives the item its place, or has it wait for the one before it, and sends what has a place
    /// to the shards that want it. Returns how many connections want it.
    pub(crate) fn publish(&mut self, item: Item, now: Instant) -> usize {
        let common = &mut self.common;
        if common.duplicates.note(&item, now) == Novelty::Duplicate {
            common.tally.duplicates += 1;
            return 0;
        }
        let channel = match self.channels.get_mut(&item.channel) {
            Some(channel) => channel,
            None if item.id.is_none() || item.sequencing == Sequencing::Unordered => {
                // Nobody is there, and nobody could come back for it.
                common.last.0 += 1;
                return 0;
            }
            None => {
                let channel = Channel::new(item.channel.clone(), common);
                if channel.kept.items == 0 {
                    common.last.0 += 1;
                    return 0;
                }
                self.channels.entry(item.channel.clone()).or_insert(channel)
            }
        };
        common.take(channel, item, now);
        let connections = channel.connections();
        self.keep_within_budget();
        connections
    }

    /// An item with this id waits, and is going to be the channel's next, or one that stands for it.
    pub(crate) fn announce(&mut self, channel: &ChannelName, id: ItemId) {
        if let Some(channel) = self.channels.get_mut(channel) {
            if channel.announced.len() >= MAX_ANNOUNCED {
                channel.announced.pop_front();
            }
            channel.announced.push_back(id);
        }
    }

    /// Subscribes a connection. Its answer stands in the mailbox before every later item, and
    /// after every earlier one.
    pub(crate) fn attach(
        &mut self,
        shard: ShardId,
        connection: ConnectionKey,
        wanted: &Wanted,
        now: Instant,
    ) {
        let catch_up = self.compare(wanted);
        for Attachment { channel: name, .. } in &wanted.channels {
            let common = &mut self.common;
            let channel = self
                .channels
                .entry(name.clone())
                .or_insert_with(|| Channel::new(name.clone(), common));
            let is_first = channel.interest.is_empty() && channel.lingers_until.is_none();
            channel.lingers_until = None;
            channel.add(shard);
            if is_first && common.settings.first_subscription == FirstSubscription::Update {
                channel.update_at = Some(now + UPDATE_AFTER);
                common.updates.push_back((now + UPDATE_AFTER, name.clone()));
            }
        }
        let attached = Command::Attached {
            connection,
            cursor: self.common.last,
            catch_up,
        };
        self.common.outputs.push_back((shard, attached));
    }

    /// What a connection has missed on channels that it is attached to; answered in the mailbox,
    /// as [`Self::attach`].
    pub(crate) fn catch_up(&mut self, shard: ShardId, connection: ConnectionKey, wanted: &Wanted) {
        let caught_up = Command::CaughtUp {
            connection,
            catch_up: self.compare(wanted),
        };
        self.common.outputs.push_back((shard, caught_up));
    }

    /// One connection of `shard` less wants each of these channels.
    pub(crate) fn detach(&mut self, shard: ShardId, channels: Vec<ChannelName>, now: Instant) {
        for name in channels {
            let Some(channel) = self.channels.get_mut(&name) else {
                continue;
            };
            channel.remove(shard);
            if channel.interest.is_empty() {
                channel.lingers_until = Some(now + LINGER);
                self.common.lingering.push_back((now + LINGER, name));
            }
        }
    }

    /// Items may have been lost on their way here: nothing is known any more of what was, and every
    /// shard hears of it. GRIP `recover`.
    pub(crate) fn recover(&mut self, now: Instant) {
        self.common.since = now;
        let names: Vec<ChannelName> = self.channels.keys().cloned().collect();
        for name in names {
            let Some(channel) = self.channels.get_mut(&name) else {
                continue;
            };
            channel.sequencer.forget();
            channel.announced.clear();
            channel.since = now;
            while channel.history.len() > 0 {
                self.common.forget_oldest(channel);
            }
            self.forget_unused(&name);
        }
        let shards = (0..self.common.settings.shards).map(ShardId);
        let outputs = &mut self.common.outputs;
        outputs.extend(shards.map(|shard| (shard, Command::Recover)));
    }

    /// When [`Self::handle_timeout`] is to be called next; may change after every call.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let common = &self.common;
        let queues = [&common.updates, &common.lingering, &common.early];
        let fronts = queues.into_iter().filter_map(|queue| queue.front());
        let sweep = common.expiries.first().map(|(at, _)| {
            let at = *at;
            at.max(common.swept + SWEEP)
        });
        fronts.map(|(at, _)| *at).chain(sweep).min()
    }

    /// Lets items go that waited too long, updates channels whose first subscription was long enough
    /// ago, and forgets what is too old.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, name)) = self.common.early.pop_front_if(|(at, _)| *at <= now) {
            if let Some(channel) = self.channels.get_mut(&name) {
                self.common.let_overdue_go(channel, now);
            }
        }
        while let Some((_, name)) = self.common.lingering.pop_front_if(|(at, _)| *at <= now) {
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.lingers_until.take_if(|at| *at <= now);
                self.forget_unused(&name);
            }
        }
        while let Some((_, name)) = self.common.updates.pop_front_if(|(at, _)| *at <= now) {
            // A channel that was gone meanwhile has a later entry of its own, or none.
            if let Some(channel) = self.channels.get_mut(&name)
                && channel.update_at.take_if(|at| *at <= now).is_some()
            {
                let update = |shard| (shard, Command::Update(name.clone()));
                let shards = channel.interest.iter().map(|interest| interest.shard);
                self.common.outputs.extend(shards.map(update));
            }
        }
        if self.common.swept + SWEEP <= now {
            self.sweep(now);
        }
        self.keep_within_budget();
    }

    /// Lets all items go that wait for the one before them; from here on none does.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.common.settings.order.wait = Duration::ZERO;
        for (_, name) in std::mem::take(&mut self.common.early) {
            if let Some(channel) = self.channels.get_mut(&name) {
                self.common.let_all_go(channel, now);
            }
        }
        self.keep_within_budget();
    }

    /// What to put into which shard's mailbox next.
    pub(crate) fn poll_output(&mut self) -> Option<(ShardId, Command)> {
        self.common.outputs.pop_front()
    }

    /// Puts a command into the mailboxes of these shards.
    pub(super) fn tell(&mut self, shards: impl IntoIterator<Item = ShardId>, command: &Command) {
        let told = shards.into_iter().map(|shard| (shard, command.clone()));
        self.common.outputs.extend(told);
    }

    /// What happened since the start, and what there is.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            channels: self.channels.len() as u64,
            ..self.common.tally
        }
    }

    /// Forgets items that are too old.
    fn sweep(&mut self, now: Instant) {
        self.common.swept = now;
        while let Some((at, name)) = self.common.expiries.first()
            && *at <= now
        {
            let name = name.clone();
            if let Some(channel) = self.channels.get_mut(&name) {
                self.common.expire(channel, now);
            }
            self.forget_unused(&name);
        }
    }

    /// Forgets items of all channels that are the next to become too old, while there are too many.
    fn keep_within_budget(&mut self) {
        let budget = self.common.settings.history_bytes as u64;
        while self.common.tally.history_bytes > budget
            && let Some((_, name)) = self.common.expiries.first()
        {
            let name = name.clone();
            if let Some(channel) = self.channels.get_mut(&name) {
                self.common.forget_oldest(channel);
            }
            self.forget_unused(&name);
        }
    }

    /// Forgets a channel that nobody wants and that has nothing to remember.
    fn forget_unused(&mut self, name: &ChannelName) {
        let is_used = |channel: &mut Channel| {
            !channel.interest.is_empty()
                || channel.lingers_until.is_some()
                || channel.history.len() > 0
                || channel.sequencer.waiting() > 0
        };
        if self.channels.get_mut(name).is_none_or(is_used) {
            return;
        }
        if let Some(channel) = self.channels.remove(name) {
            let common = &mut self.common;
            common.forgotten = common.forgotten.max(channel.history.forgotten());
            if let Some(last_at) = channel.last_at
                && channel.kept.items > 0
            {
                // Content that is older than this may lack what is forgotten here. What is newer,
                // does not.
                common.since = common.since.max(last_at);
            }
        }
    }

    /// What a connection lacks.
    fn compare(&mut self, wanted: &Wanted) -> Option<Box<CatchUp>> {
        let mut catch_up = CatchUp {
            standings: Vec::new(),
            missed: Vec::new(),
            is_resumed: false,
        };
        let resumed = wanted
            .resume
            .as_ref()
            .and_then(|id| self.resume(&wanted.channels, id));
        if let Some(resumed) = resumed {
            catch_up = resumed;
        } else {
            for attachment in &wanted.channels {
                let standing = self.stand(attachment, &mut catch_up.missed);
                // What the origin has is what the client has, if there is no other channel.
                let is_only = wanted.channels.len() == 1;
                let is_same =
                    |position: &Position| Some(&position.prev_id) == wanted.resume.as_ref();
                if is_only
                    && standing == Standing::UpToDate
                    && attachment.position.as_ref().is_some_and(is_same)
                {
                    catch_up.is_resumed = true;
                }
                catch_up
                    .standings
                    .push((attachment.channel.clone(), standing));
            }
        }
        let tally = &mut self.common.tally;
        let has_position = |it: &Attachment| it.position.is_some() || wanted.resume.is_some();
        for (attachment, (_, standing)) in wanted.channels.iter().zip(&catch_up.standings) {
            match standing {
                Standing::Behind => tally.behind += 1,
                _ if has_position(attachment) => tally.resumed += 1,
                _ => {}
            }
        }
        let is_plain = catch_up.missed.is_empty()
            && !catch_up.is_resumed
            && catch_up
                .standings
                .iter()
                .all(|(_, standing)| *standing == Standing::UpToDate);
        if is_plain {
            return None;
        }
        tally.replayed += catch_up.missed.len() as u64;
        if catch_up.standings.len() > 1 {
            catch_up.missed.sort_unstable_by_key(|it| it.sequence);
        }
        Some(Box::new(catch_up))
    }

    /// How a position relates to what its channel has had; `missed` gets what it lacks.
    fn stand(&self, attachment: &Attachment, missed: &mut Vec<Arc<Sequenced>>) -> Standing {
        let Some(position) = &attachment.position else {
            return Standing::UpToDate;
        };
        let Some(channel) = self.channels.get(&attachment.channel) else {
            let common = &self.common;
            let is_remembered = common.settings.history_of(&attachment.channel).items > 0;
            return if position.is_since(common.since) || !is_remembered {
                Standing::UpToDate
            } else {
                Standing::Behind
            };
        };
        if channel.is_before(&position.prev_id) {
            return Standing::Ahead;
        }
        match channel.place_after(&position.prev_id) {
            Some(place) => {
                missed.extend(channel.history.from(place).cloned());
                Standing::UpToDate
            }
            None => channel.stand_without_place(position),
        }
    }

    /// Where a connection goes on whose client has the item with this id of one of the channels,
    /// and with it all that came before it on the others; `None` if nobody knows.
    fn resume(&self, channels: &[Attachment], id: &ItemId) -> Option<CatchUp> {
        let known = |it: &Attachment| self.channels.get(&it.channel);
        if channels.iter().filter_map(known).any(|it| it.is_before(id)) {
            return Some(self.resume_ahead(channels, id));
        }
        // The ids of two channels may be the same. Then it is better to have too much.
        let sequence = channels
            .iter()
            .filter_map(known)
            .filter_map(|channel| channel.sequence_of(id))
            .min()?;
        let mut missed = Vec::new();
        let mut standing = |attachment: &Attachment| {
            let Some(channel) = known(attachment) else {
                return if self.common.forgotten <= sequence {
                    Standing::Resumed(None)
                } else {
                    Standing::Behind
                };
            };
            let Some(place) = channel.history.place_behind(sequence) else {
                return Standing::Behind;
            };
            missed.extend(channel.history.from(place).cloned());
            let before = channel.history.id_before(place);
            let is_empty = channel.history.len() == 0;
            let before = before.or_else(|| channel.sequencer.last_id().filter(|_| is_empty));
            Standing::Resumed(before.cloned())
        };
        let name = |it: &Attachment| it.channel.clone();
        let standings: Vec<(ChannelName, Standing)> =
            channels.iter().map(|it| (name(it), standing(it))).collect();
        let is_behind = |(_, standing): &(ChannelName, Standing)| *standing == Standing::Behind;
        if standings.iter().any(is_behind) {
            // What is missing of that one stands in the stream's first body, if anywhere.
            return None;
        }
        Some(CatchUp {
            standings,
            missed,
            is_resumed: true,
        })
    }

    /// The same for an item that is still on its way here: the client has all that was.
    fn resume_ahead(&self, channels: &[Attachment], id: &ItemId) -> CatchUp {
        let standing = |attachment: &Attachment| {
            let channel = self.channels.get(&attachment.channel);
            let standing = match channel {
                Some(channel) if channel.is_before(id) => Standing::Ahead,
                Some(channel) => Standing::Resumed(channel.sequencer.last_id().cloned()),
                None => Standing::Resumed(None),
            };
            (attachment.channel.clone(), standing)
        };
        CatchUp {
            standings: channels.iter().map(standing).collect(),
            missed: Vec::new(),
            is_resumed: true,
        }
    }
}

impl Common {
    /// Puts an item into its order.
    fn take(&mut self, channel: &mut Channel, item: Item, now: Instant) {
        let order = self.settings.order;
        if item.sequencing == Sequencing::Unordered {
            return self.send(channel, item);
        }
        if order.wait.is_zero() {
            channel.sequencer.skip_to(&item);
            return self.send_in_order(channel, item, now);
        }
        let until = now + order.wait;
        let bytes = size::of(&item);
        let history = &channel.history;
        match channel
            .sequencer
            .take(item, until, |item| history.is_behind(item))
        {
            Turn::Later => {
                self.tally.early += 1;
                self.early_items += 1;
                self.early_bytes += bytes;
                self.early.push_back((until, channel.name.clone()));
                let is_full = channel.sequencer.waiting() > order.items;
                let is_too_much =
                    self.early_items > MAX_EARLY || self.early_bytes > MAX_EARLY_BYTES;
                if is_full || is_too_much {
                    let history = &channel.history;
                    let oldest = channel.sequencer.oldest(|item| history.is_behind(item));
                    self.let_go(channel, oldest, now);
                }
            }
            turn => self.send_with_next(channel, turn, now),
        }
    }

    /// Lets items go that waited too long.
    fn let_overdue_go(&mut self, channel: &mut Channel, now: Instant) {
        loop {
            let history = &channel.history;
            let overdue = channel
                .sequencer
                .overdue(now, |item| history.is_behind(item));
            if overdue.is_none() {
                return;
            }
            self.let_go(channel, overdue, now);
        }
    }

    /// Lets items go, however long they have waited.
    fn let_all_go(&mut self, channel: &mut Channel, now: Instant) {
        while channel.sequencer.waiting() > 0 {
            let history = &channel.history;
            let oldest = channel.sequencer.oldest(|item| history.is_behind(item));
            self.let_go(channel, oldest, now);
        }
    }

    /// An item that waited goes out, although the one before it never came.
    fn let_go(&mut self, channel: &mut Channel, turn: Option<Turn>, now: Instant) {
        if let Some(turn) = turn {
            if let Turn::Now(item) | Turn::TooLate(item) = &turn {
                self.end_early(item);
            }
            self.tally.unfollowed += 1;
            self.send_with_next(channel, turn, now);
        }
    }

    /// An item waits no longer.
    fn end_early(&mut self, item: &Item) {
        self.early_items -= 1;
        self.early_bytes -= size::of(item);
    }

    /// Sends an item, and those that waited for it.
    fn send_with_next(&mut self, channel: &mut Channel, turn: Turn, now: Instant) {
        match turn {
            Turn::Now(item) => {
                self.send_in_order(channel, item, now);
                while let Some(next) = channel.sequencer.next_after_it() {
                    self.end_early(&next);
                    self.send_in_order(channel, next, now);
                }
            }
            Turn::TooLate(item) => {
                self.tally.late += 1;
                self.last.0 += 1;
                let late = Sequenced::late(self.last, item);
                self.deliver(channel, &Arc::new(late));
            }
            Turn::Later => {}
        }
    }

    fn send_in_order(&mut self, channel: &mut Channel, item: Item, now: Instant) {
        channel.pass_announced(item.id.as_ref());
        channel.last_at = Some(now);
        let bytes = size::of(&item);
        let sequenced = self.sequenced(item);
        self.deliver(channel, &sequenced);
        self.remember(channel, sequenced, bytes, now);
    }

    /// Sends an item that has no place among the others.
    fn send(&mut self, channel: &Channel, item: Item) {
        let sequenced = self.sequenced(item);
        self.deliver(channel, &sequenced);
    }

    fn sequenced(&mut self, item: Item) -> Arc<Sequenced> {
        self.last.0 += 1;
        Arc::new(Sequenced::new(self.last, item))
    }

    fn deliver(&mut self, channel: &Channel, sequenced: &Arc<Sequenced>) {
        for interest in &channel.interest {
            let command = Command::Deliver(Arc::clone(sequenced));
            self.outputs.push_back((interest.shard, command));
        }
    }

    fn remember(
        &mut self,
        channel: &mut Channel,
        sequenced: Arc<Sequenced>,
        bytes: usize,
        now: Instant,
    ) {
        let kept = channel.kept;
        if kept.items == 0 {
            return;
        }
        let (items_before, bytes_before) = (channel.history.len(), channel.history.bytes());
        channel.history.push(sequenced, bytes, now);
        self.tally.history_items += (channel.history.len() - items_before) as u64;
        self.tally.history_bytes += (channel.history.bytes() - bytes_before) as u64;
        if channel.expiry.is_none() {
            self.set_expiry(channel);
        }
        while channel.history.len() > kept.items || channel.history.bytes() > kept.bytes {
            self.forget_oldest_item(channel);
        }
        if channel.history.len() == 0 {
            self.set_expiry(channel);
        }
    }

    /// Forgets the items of a channel that are too old.
    fn expire(&mut self, channel: &mut Channel, now: Instant) {
        while let Some((_, at)) = channel.history.oldest()
            && at + channel.kept.age <= now
        {
            self.forget_oldest_item(channel);
        }
        self.set_expiry(channel);
    }

    /// Forgets the oldest item of a channel.
    fn forget_oldest(&mut self, channel: &mut Channel) {
        self.forget_oldest_item(channel);
        self.set_expiry(channel);
    }

    fn forget_oldest_item(&mut self, channel: &mut Channel) {
        if let Some(bytes) = channel.history.pop() {
            self.tally.history_items -= 1;
            self.tally.history_bytes -= bytes as u64;
        }
    }

    /// Looks at the channel again when its oldest item becomes too old.
    fn set_expiry(&mut self, channel: &mut Channel) {
        let oldest = channel.history.oldest();
        let expiry = oldest.map(|(_, at)| at + channel.kept.age);
        let old = std::mem::replace(&mut channel.expiry, expiry);
        if let Some(old) = old {
            self.expiries.remove(&(old, channel.name.clone()));
        }
        if let Some(expiry) = expiry {
            self.expiries.insert((expiry, channel.name.clone()));
        }
    }
}

impl Channel {
    fn new(name: ChannelName, common: &Common) -> Self {
        Self {
            kept: common.settings.history_of(&name),
            name,
            interest: Vec::new(),
            lingers_until: None,
            since: common.since,
            last_at: None,
            sequencer: Sequencer::default(),
            announced: VecDeque::new(),
            history: History::default(),
            expiry: None,
            update_at: None,
        }
    }

    pub(super) fn last_id(&self) -> Option<&ItemId> {
        self.sequencer.last_id()
    }

    /// The shards with connections that want it.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.interest.iter().map(|interest| interest.shard)
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    fn add(&mut self, shard: ShardId) {
        match self.interest.iter_mut().find(|found| found.shard == shard) {
            Some(interest) => interest.connections += 1,
            None => self.interest.push(Interest {
                shard,
                connections: 1,
            }),
        }
    }

    fn remove(&mut self, shard: ShardId) {
        self.interest.retain_mut(|interest| {
            if interest.shard == shard {
                interest.connections -= 1;
            }
            interest.connections > 0
        });
    }

    fn connections(&self) -> usize {
        let counts = self.interest.iter().map(|interest| interest.connections);
        counts.sum()
    }

    /// An item went out; those that it stands for wait no longer.
    fn pass_announced(&mut self, id: Option<&ItemId>) {
        match id.and_then(|id| self.announced.iter().rposition(|it| it == id)) {
            Some(at) => drop(self.announced.drain(..=at)),
            None if id.is_none() => self.announced.clear(),
            None => {}
        }
    }

    /// Whether the item with this id is still to come.
    fn is_before(&self, id: &ItemId) -> bool {
        self.announced.contains(id) || self.sequencer.is_waiting(id)
    }

    /// Where whoever has the item with this id goes on.
    fn place_after(&self, id: &ItemId) -> Option<Place> {
        self.history.place_after(id)
    }

    /// The same where the history has no place for it.
    fn stand_without_place(&self, position: &Position) -> Standing {
        match self.sequencer.last_id() {
            Some(last_id) if *last_id == position.prev_id => Standing::UpToDate,
            None if self.history.len() == 0 && position.is_since(self.since) => Standing::UpToDate,
            _ => Standing::Behind,
        }
    }

    /// The place of the item with this id in the order of everything, or one behind it that nothing
    /// of this channel stands before.
    fn sequence_of(&self, id: &ItemId) -> Option<Sequence> {
        match self.history.place_after(id) {
            Some(place) => Some(self.history.sequence_at(place)),
            None if self.sequencer.last_id() == Some(id) => Some(self.history.forgotten()),
            None => None,
        }
    }
}

impl Position {
    /// Whether the origin wrote it after this moment.
    fn is_since(&self, moment: Instant) -> bool {
        self.as_of.is_some_and(|as_of| as_of >= moment)
    }
}

/// The settings of tests: one shard, and the usual.
#[cfg(test)]
pub(super) fn settings(first_subscription: FirstSubscription) -> Settings {
    Settings {
        shards: 1,
        first_subscription,
        history: config::History::default(),
        history_bytes: 1_000_000,
        order: Order::default(),
        rules: Arc::new([]),
        repeats: Repeats::DropHere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An item for the stream of a channel, with these further members.
    fn item_with(channel: &str, members: &str) -> Item {
        let body = format!(
            r#"{{"items":[{{"channel":"{channel}","http-stream":{{"content":"x"}}{members}}}]}}"#
        );
        grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .unwrap()
            .remove(0)
    }

    fn item(channel: &str) -> Item {
        item_with(channel, "")
    }

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: 1,
        }
    }

    fn names(channels: &str) -> Vec<ChannelName> {
        channels.split(' ').map(ChannelName::new).collect()
    }

    /// What an answer says, in short.
    fn told(what: &str, cursor: Sequence, catch_up: Option<Box<CatchUp>>) -> String {
        let Some(catch_up) = catch_up else {
            return format!("{what}@{}", cursor.0);
        };
        let is_behind =
            |(_, standing): &(ChannelName, Standing)| matches!(standing, Standing::Behind);
        let what = match catch_up.is_resumed {
            _ if catch_up.standings.iter().any(is_behind) => "conflict",
            true => "resumed",
            false => what,
        };
        let mut text = format!("{what}@{}", cursor.0);
        for (name, standing) in &catch_up.standings {
            match standing {
                Standing::Ahead => text.push_str(&[" ", name.as_str(), "?"].concat()),
                Standing::Resumed(Some(id)) => {
                    text.push_str(&[" ", name.as_str(), "=", id.as_str()].concat());
                }
                Standing::Resumed(None) => text.push_str(&[" ", name.as_str(), "="].concat()),
                Standing::UpToDate | Standing::Behind => {}
            }
        }
        for missed in &catch_up.missed {
            let id = missed.item.id.as_ref().map_or("-", ItemId::as_str);
            text.push_str(&[" ", missed.item.channel.as_str(), id].concat());
        }
        text
    }

    /// A broker of two shards, and its clock.
    struct Bench {
        broker: Broker,
        now: Instant,
    }

    impl Bench {
        fn new(first_subscription: FirstSubscription) -> Self {
            Self::with(Settings {
                shards: 2,
                ..settings(first_subscription)
            })
        }

        fn with(settings: Settings) -> Self {
            let now = tokio::time::Instant::now().into_std();
            Self {
                broker: Broker::new(settings, now),
                now,
            }
        }

        /// Attaches to channels such as `a b=5`, where 5 is the previous id.
        fn attach(&mut self, shard: usize, connection: u32, channels: &str) {
            let wanted = self.wanted(channels, Duration::ZERO);
            self.attach_as(shard, connection, &wanted);
        }

        fn attach_as(&mut self, shard: usize, connection: u32, wanted: &Wanted) {
            let (shard, key) = (ShardId(shard), key(connection));
            self.broker.attach(shard, key, wanted, self.now);
        }

        /// Channels such as `a b=5 c=`, with content of this age; behind `?7` a client goes on.
        fn wanted(&self, channels: &str, age: Duration) -> Wanted {
            let (channels, resume) = match channels.split_once('?') {
                Some((channels, resume)) => (channels, Some(resume)),
                None => (channels, None),
            };
            let attachments = channels.split(' ').map(|channel| {
                let (name, prev_id) = channel.split_once('=').unzip();
                Attachment {
                    channel: ChannelName::new(name.unwrap_or(channel)),
                    position: prev_id.map(|prev_id| Position {
                        prev_id: ItemId::new(prev_id),
                        as_of: self.now.checked_sub(age),
                    }),
                }
            });
            Wanted {
                channels: attachments.collect(),
                resume: resume.map(ItemId::new),
            }
        }

        fn detach(&mut self, shard: usize, channels: &str) {
            self.broker
                .detach(ShardId(shard), names(channels), self.now);
        }

        fn publish(&mut self, channel: &str) -> usize {
            self.broker.publish(item(channel), self.now)
        }

        fn publish_item(&mut self, item: Item) {
            self.broker.publish(item, self.now);
        }

        /// Publishes items such as `2<1` on a channel, the second id being the previous one.
        fn publish_all(&mut self, channel: &str, items: &str) {
            for text in items.split(' ') {
                let members = match text.split_once('<') {
                    Some(("", prev_id)) => format!(r#","prev-id":"{prev_id}""#),
                    Some((id, prev_id)) => format!(r#","id":"{id}","prev-id":"{prev_id}""#),
                    None => format!(r#","id":"{text}""#),
                };
                self.broker.publish(item_with(channel, &members), self.now);
            }
        }

        /// Lets time pass, and the timer fire if it is due.
        fn wait(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
            if self.broker.poll_timeout().is_some_and(|at| at <= self.now) {
                self.broker.handle_timeout(self.now);
            }
        }

        /// Outputs in short: `0:attached@1`, `1:item@2`, `0:conflict@3`; in `0:attached@3 a+1,2 b?`
        /// the connection gets items 1 and 2 of channel `a`, and is ahead in `b`.
        fn outputs(&mut self) -> Vec<String> {
            let outputs = std::iter::from_fn(|| self.broker.poll_output());
            outputs
                .map(|(ShardId(shard), command)| match command {
                    Command::Attached {
                        cursor, catch_up, ..
                    } => format!("{shard}:{}", told("attached", cursor, catch_up)),
                    Command::CaughtUp { catch_up, .. } => {
                        format!("{shard}:{}", told("caught up", Sequence(0), catch_up))
                    }
                    Command::Deliver(sequenced) => format!("{shard}:item@{}", sequenced.sequence.0),
                    Command::Update(channel) => format!("{shard}:update {channel}"),
                    Command::Recover => format!("{shard}:recover"),
                    Command::Count { .. } => format!("{shard}:count"),
                })
                .collect()
        }

        #[track_caller]
        fn check(&mut self, expected: &[&str]) {
            assert_eq!(self.outputs(), expected);
        }
    }

    fn bench() -> Bench {
        Bench::new(FirstSubscription::Leave)
    }

    #[test]
    fn an_item_goes_only_to_shards_with_a_subscriber() {
        let mut bench = bench();
        bench.publish("a");
        bench.attach(0, 1, "a b");
        bench.attach(1, 1, "b");
        for channel in ["a", "b", "c"] {
            bench.publish(channel);
        }
        bench.check(&[
            "0:attached@1",
            "1:attached@1",
            "0:item@2",
            "0:item@3",
            "1:item@3",
        ]);
    }

    #[test]
    fn interest_ends_with_the_last_connection() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.attach(0, 2, "a");
        bench.detach(0, "a");
        bench.publish("a");
        bench.detach(0, "a");
        bench.publish("a");
        bench.check(&["0:attached@0", "0:attached@0", "0:item@1"]);
    }

    #[test]
    fn a_channel_is_remembered_for_a_minute_after_its_last_connection() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.detach(0, "a");
        bench.wait(59_999);
        assert_eq!(bench.broker.channels.len(), 1);
        bench.wait(1);
        assert!(bench.broker.channels.is_empty());
    }

    #[test]
    fn a_channel_that_is_wanted_again_is_not_forgotten() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.detach(0, "a");
        bench.wait(30_000);
        bench.attach(0, 2, "a");
        bench.wait(30_000);
        assert_eq!(bench.publish("a"), 1);
        bench.detach(0, "a");
        bench.wait(59_999);
        assert_eq!(bench.broker.channels.len(), 1);
        bench.wait(1);
        assert!(bench.broker.channels.is_empty());
    }

    #[test]
    fn what_comes_between_two_polls_is_for_the_second() {
        let mut bench = bench();
        bench.attach(0, 1, "a=1");
        bench.detach(0, "a");
        bench.publish_item(item_with("a", r#","id":"2","prev-id":"1""#));
        bench.attach(0, 2, "a=1");
        bench.check(&["0:attached@0", "0:attached@1 a2"]);
    }

    #[test]
    fn a_detach_of_one_connection_does_not_undo_the_attach_of_the_next() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.attach(0, 2, "a");
        bench.detach(0, "a");
        bench.outputs();
        bench.publish("a");
        bench.check(&["0:item@1"]);
    }

    #[test]
    fn an_item_matches_the_connections_of_all_shards() {
        let mut bench = bench();
        assert_eq!(bench.publish("a"), 0);
        bench.attach(0, 1, "a b");
        bench.attach(0, 2, "a");
        bench.attach(1, 1, "a");
        assert_eq!((bench.publish("a"), bench.publish("b")), (3, 1));
        bench.detach(0, "a b");
        assert_eq!((bench.publish("a"), bench.publish("b")), (2, 0));
    }

    /// What a connection with `prev_id` meets on a channel that has had these items while somebody
    /// listened.
    #[track_caller]
    fn check_conflict(items: &[&str], prev_id: &str, expected: &str) {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        for members in items {
            bench.publish_item(item_with("a", members));
        }
        bench.outputs();
        bench.attach(1, 1, &format!("other a{prev_id}"));
        let cursor = items.len();
        bench.check(&[format!("1:{expected}@{cursor}").as_str()]);
    }

    #[test]
    fn a_previous_id_other_than_the_known_last_one_is_a_conflict() {
        let (one, two) = (r#","id":"1""#, r#","id":"2","prev-id":"1""#);
        check_conflict(&[one], "=1", "attached");
        check_conflict(&[one], "=2", "conflict");
        check_conflict(&[one, two], "=0", "conflict");
        check_conflict(&[one, two], "=2", "attached");
        check_conflict(&[two], "", "attached");
        check_conflict(&[], "=1", "attached");
    }

    #[test]
    fn an_id_that_the_next_item_stands_for_is_no_conflict() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_item(item_with("a", r#","id":"1""#));
        for id in ["2", "3"] {
            bench
                .broker
                .announce(&ChannelName::new("a"), ItemId::new(id));
        }
        bench.outputs();
        bench.attach(0, 2, "a=2");
        bench.attach(0, 3, "a=4");
        bench.check(&["0:attached@1 a?", "0:conflict@1"]);
        bench.publish_item(item_with("a", r#","id":"3","prev-id":"1""#));
        bench.outputs();
        bench.attach(0, 4, "a=2");
        bench.check(&["0:conflict@2"]);
    }

    #[test]
    fn ids_of_waiting_items_are_bounded() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_item(item_with("a", r#","id":"x""#));
        for id in 0..=MAX_ANNOUNCED {
            let id = ItemId::new(&id.to_string());
            bench.broker.announce(&ChannelName::new("a"), id);
        }
        bench.outputs();
        bench.attach(0, 2, "a=0");
        bench.attach(0, 3, "a=1");
        bench.check(&["0:conflict@1", "0:attached@1 a?"]);
    }

    #[test]
    fn behind_an_item_without_id_an_id_that_was_never_there_is_a_conflict() {
        check_conflict(&[r#","id":"1""#, ""], "=7", "conflict");
        check_conflict(&[""], "=7", "attached");
    }

    #[test]
    fn an_item_out_of_order_leaves_the_last_id() {
        let unordered = r#","id":"9","no-seq":true"#;
        check_conflict(&[r#","id":"1""#, unordered], "=1", "attached");
        check_conflict(&[r#","id":"1""#, unordered], "=9", "conflict");
        check_conflict(&[unordered], "=1", "attached");
    }

    #[test]
    fn a_conflict_shows_to_everybody_who_is_behind() {
        let mut bench = bench();
        bench.attach(0, 1, "a b");
        for channel in ["a", "b"] {
            bench.publish_item(item_with(channel, r#","id":"5""#));
        }
        bench.outputs();
        bench.attach(0, 2, "a=4 b=5");
        bench.attach(0, 3, "a=4 b=5");
        bench.attach(0, 4, "a=4 b=4");
        bench.check(&["0:conflict@2", "0:conflict@2", "0:conflict@2"]);
    }

    #[test]
    fn the_last_id_goes_when_the_channel_is_forgotten() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_item(item_with("a", r#","id":"5""#));
        bench.detach(0, "a");
        bench.wait(299_000);
        bench.attach(0, 2, "a=4");
        bench.detach(0, "a");
        bench.wait(60_000);
        bench.outputs();
        bench.attach(0, 3, "a=4");
        bench.check(&["0:attached@1"]);
    }

    #[test]
    fn recovery_forgets_last_ids_and_reaches_every_shard() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_item(item_with("a", r#","id":"5""#));
        bench.outputs();
        bench.broker.recover(bench.now);
        bench.attach(0, 2, "a=4");
        bench.check(&["0:recover", "1:recover", "0:attached@1"]);
    }

    #[test]
    fn a_channel_is_updated_a_second_after_its_first_subscription() {
        let mut bench = Bench::new(FirstSubscription::Update);
        bench.attach(0, 1, "a");
        bench.wait(400);
        bench.attach(1, 1, "a b");
        bench.outputs();
        bench.wait(599);
        bench.check(&[]);
        bench.wait(1);
        bench.check(&["0:update a", "1:update a"]);
        bench.wait(399);
        bench.check(&[]);
        bench.wait(1);
        bench.check(&["1:update b"]);
        assert_eq!(bench.broker.poll_timeout(), None);
    }

    #[test]
    fn a_channel_without_subscribers_is_not_updated() {
        let mut bench = Bench::new(FirstSubscription::Update);
        bench.attach(0, 1, "a");
        bench.wait(500);
        bench.detach(0, "a");
        bench.wait(500);
        bench.check(&["0:attached@0"]);
    }

    #[test]
    fn a_channel_that_is_still_remembered_has_no_second_first_subscription() {
        let mut bench = Bench::new(FirstSubscription::Update);
        bench.attach(0, 1, "a");
        bench.wait(1000);
        bench.detach(0, "a");
        bench.wait(59_999);
        bench.attach(0, 2, "a");
        bench.outputs();
        bench.wait(2000);
        bench.check(&[]);
        bench.detach(0, "a");
        bench.wait(60_000);
        bench.attach(0, 3, "a");
        bench.outputs();
        bench.wait(1000);
        bench.check(&["0:update a"]);
    }

    #[test]
    fn without_the_setting_nothing_is_updated() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        assert_eq!(bench.broker.poll_timeout(), None);
    }

    /// What a connection gets that wants these channels, after the items were published on `a`.
    #[track_caller]
    fn check_catch_up(items: &str, wanted: &str, expected: &str) {
        let mut bench = bench();
        bench.publish_all("a", items);
        bench.outputs();
        bench.attach(0, 1, wanted);
        let cursor = items.split(' ').count();
        let (first, rest) = expected.split_once(' ').unwrap_or((expected, ""));
        let expected = format!("0:{first}@{cursor} {rest}");
        bench.check(&[expected.trim_end()]);
    }

    #[test]
    fn what_came_after_an_id_is_replayed() {
        check_catch_up("1 2<1 3<2", "a=1", "attached a2 a3");
        check_catch_up("1 2<1 3<2", "a=3", "attached");
        check_catch_up("2<1 3<2", "a=1", "attached a2 a3");
        check_catch_up("1 2<1 3<2", "a=0", "conflict");
        check_catch_up("1 2<1 3<2", "a", "attached");
        check_catch_up("1 <1 3", "a=1", "attached a- a3");
    }

    #[test]
    fn items_of_many_channels_are_replayed_in_their_order() {
        let mut bench = bench();
        bench.publish_all("a", "1 2<1");
        bench.publish_all("b", "1 2<1");
        bench.publish_all("a", "3<2");
        bench.attach(0, 1, "a=1 b=1 c=1");
        bench.check(&["0:attached@5 a2 b2 a3"]);
    }

    #[test]
    fn replay_and_live_items_are_one_sequence() {
        let mut bench = bench();
        bench.publish_all("a", "1 2<1");
        bench.attach(0, 1, "a=1");
        bench.publish_all("a", "3<2");
        bench.check(&["0:attached@2 a2", "0:item@3"]);
    }

    #[test]
    fn items_wait_for_the_ones_that_they_follow() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_all("a", "1 3<2 4<3");
        bench.attach(0, 2, "a=1");
        bench.publish_all("a", "2<1");
        bench.check(&[
            "0:attached@0",
            "0:item@1",
            "0:attached@1",
            "0:item@2",
            "0:item@3",
            "0:item@4",
        ]);
        assert_eq!(bench.broker.tally().early, 2);
        assert_eq!(bench.broker.tally().unfollowed, 0);
        let common = &bench.broker.common;
        assert_eq!((common.early_items, common.early_bytes), (0, 0));
        bench.attach(0, 3, "a=1");
        bench.check(&["0:attached@4 a2 a3 a4"]);
    }

    #[test]
    fn an_item_whose_predecessor_never_comes_goes_out_after_a_while() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_all("a", "1 3<2 4<3");
        bench.outputs();
        bench.wait(4_999);
        bench.check(&[]);
        bench.wait(1);
        bench.check(&["0:item@2", "0:item@3"]);
        assert_eq!(bench.broker.tally().unfollowed, 1);
        bench.publish_all("a", "2<1");
        bench.check(&["0:item@4"]);
        assert_eq!(bench.broker.tally().late, 1);
        // It is out of order: who comes later gets what is in order, and sees the gap.
        bench.attach(0, 2, "a=1");
        bench.check(&["0:attached@4 a3 a4"]);
    }

    #[test]
    fn only_so_many_items_wait() {
        let mut bench = Bench::with(Settings {
            order: Order {
                items: 2,
                ..Order::default()
            },
            ..settings(FirstSubscription::Leave)
        });
        bench.attach(0, 1, "a");
        bench.publish_all("a", "1 9<8 3<2 4<3");
        bench.outputs();
        assert_eq!(bench.broker.tally().unfollowed, 1);
        bench.publish_all("a", "2<1");
        bench.attach(0, 2, "a=8");
        bench.check(&["0:item@3", "0:attached@3 a9"]);
    }

    #[test]
    fn when_the_hub_ends_no_item_waits_for_another() {
        let mut bench = bench();
        bench.attach(0, 1, "a b");
        bench.publish_all("a", "1 5<4 4<3 3<2");
        bench.publish_all("b", "1 3<2");
        bench.outputs();
        bench.broker.flush(bench.now);
        bench.check(&["0:item@3", "0:item@4", "0:item@5", "0:item@6"]);
        let common = &bench.broker.common;
        assert_eq!((common.early_items, common.early_bytes), (0, 0));
        bench.attach(0, 2, "a=2");
        bench.check(&["0:attached@6 a3 a4 a5"]);
        bench.publish_all("a", "7<6");
        bench.check(&["0:item@7"]);
    }

    #[test]
    fn without_a_wait_items_go_out_as_they_come() {
        let mut bench = Bench::with(Settings {
            order: Order {
                wait: Duration::ZERO,
                ..Order::default()
            },
            ..settings(FirstSubscription::Leave)
        });
        bench.attach(0, 1, "a");
        bench.publish_all("a", "1 3<2 2<1");
        bench.attach(0, 2, "a=3");
        bench.check(&[
            "0:attached@0",
            "0:item@1",
            "0:item@2",
            "0:item@3",
            "0:attached@3 a2",
        ]);
    }

    #[test]
    fn an_item_that_comes_twice_goes_out_once() {
        let mut bench = bench();
        bench.attach(0, 1, "a b");
        bench.publish_all("a", "1 2<1 1 2<1");
        bench.publish_all("b", "1");
        bench.check(&["0:attached@0", "0:item@1", "0:item@2", "0:item@3"]);
        assert_eq!(bench.broker.tally().duplicates, 2);
    }

    #[test]
    fn whoever_has_what_is_still_to_come_is_ahead() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.publish_all("a", "1 3<2");
        let name = ChannelName::new("b");
        bench.publish_all("b", "1");
        bench.broker.announce(&name, ItemId::new("2"));
        bench.outputs();
        bench.attach(0, 2, "a=3 b=2");
        bench.check(&["0:attached@2 a? b?"]);
        bench.attach(0, 3, "a=1?3");
        bench.check(&["0:resumed@2 a?"]);
        bench.publish_all("a", "2<1");
        bench.publish_all("b", "2<1");
        bench.outputs();
        bench.attach(0, 4, "a=3 b=2");
        bench.check(&["0:attached@5"]);
    }

    /// A broker that remembers little.
    fn forgetful(items: usize, bytes: usize, total: usize) -> Bench {
        let mut settings = settings(FirstSubscription::Leave);
        settings.history.items = items;
        settings.history.bytes = bytes;
        settings.history_bytes = total;
        Bench::with(settings)
    }

    /// Bytes of a small item.
    fn item_bytes() -> usize {
        size::of(&item("a"))
    }

    #[test]
    fn a_channel_remembers_so_many_items() {
        let mut bench = forgetful(2, 1_000_000, 1_000_000);
        bench.publish_all("a", "1 2<1 3<2");
        bench.attach(0, 1, "a=0");
        bench.attach(0, 2, "a=1");
        bench.check(&["0:conflict@3", "0:attached@3 a2 a3"]);
        assert_eq!(bench.broker.tally().history_items, 2);
    }

    #[test]
    fn a_channel_remembers_so_many_bytes() {
        let mut bench = forgetful(100, 2 * item_bytes(), 1_000_000);
        bench.publish_all("a", "1 2<1 3<2 4<3");
        bench.attach(0, 1, "a=1");
        bench.attach(0, 2, "a=2");
        bench.check(&["0:conflict@4", "0:attached@4 a3 a4"]);
    }

    #[test]
    fn all_channels_together_remember_so_many_bytes() {
        let mut bench = forgetful(100, 1_000_000, 3 * item_bytes());
        bench.publish_all("a", "1 2<1");
        bench.wait(10);
        bench.publish_all("b", "1 2<1");
        bench.wait(10);
        bench.publish_all("c", "1");
        let tally = bench.broker.tally();
        assert_eq!((tally.history_items, tally.channels), (3, 2));
        assert!(tally.history_bytes <= 3 * item_bytes() as u64);
        bench.attach(0, 1, "b=1");
        bench.check(&["0:attached@5 b2"]);
        // What was forgotten is younger than this content.
        let wanted = bench.wanted("a=1", Duration::from_millis(30));
        bench.attach_as(0, 2, &wanted);
        bench.check(&["0:conflict@5"]);
    }

    #[test]
    fn a_channel_without_subscribers_costs_nothing_once_its_history_is_too_old() {
        let mut bench = bench();
        for channel in ["a", "b"] {
            bench.publish_all(channel, "1 2<1");
            bench.wait(1);
        }
        bench.wait(301_000);
        assert_eq!(bench.broker.tally(), Tally::default());
        assert!(bench.broker.common.expiries.is_empty());
        assert!(bench.broker.common.lingering.is_empty());
        assert_eq!(bench.broker.poll_timeout(), None);
    }

    #[test]
    fn a_channel_without_history_is_not_remembered() {
        let mut bench = forgetful(0, 0, 0);
        bench.publish_all("a", "1 2<1");
        assert_eq!(bench.broker.tally().channels, 0);
        bench.attach(0, 1, "a=1");
        bench.check(&["0:attached@2"]);
        bench.publish_all("a", "3<2");
        bench.attach(0, 2, "a=3");
        bench.attach(0, 3, "a=2");
        bench.check(&["0:item@3", "0:attached@3", "0:conflict@3"]);
    }

    /// What a connection meets with content of this age on a channel that nobody knows, ten seconds
    /// after the start.
    #[track_caller]
    fn check_unknown(age: u64, expected: &str) {
        let mut bench = bench();
        bench.wait(10_000);
        let wanted = bench.wanted("a=1", Duration::from_millis(age));
        bench.attach_as(0, 1, &wanted);
        bench.check(&[expected]);
    }

    #[test]
    fn content_from_before_the_start_may_lack_anything() {
        check_unknown(10_000, "0:attached@0");
        check_unknown(10_001, "0:conflict@0");
    }

    #[test]
    fn content_from_before_what_was_forgotten_may_lack_it() {
        let mut bench = bench();
        bench.wait(1_000);
        bench.publish_all("a", "1");
        bench.wait(400_000);
        for (age, expected) in [(400_000, "0:attached@1"), (400_001, "0:conflict@1")] {
            let wanted = bench.wanted("b=1", Duration::from_millis(age));
            bench.attach_as(0, 1, &wanted);
            bench.check(&[expected]);
            bench.detach(0, "b");
        }
    }

    #[test]
    fn what_was_before_a_recovery_is_not_relied_on() {
        let mut bench = bench();
        bench.publish_all("a", "1 2<1");
        bench.wait(1_000);
        bench.broker.recover(bench.now);
        assert_eq!(bench.broker.tally().channels, 0);
        bench.wait(1_000);
        bench.outputs();
        for (age, expected) in [(1_000, "0:attached@2"), (1_001, "0:conflict@2")] {
            let wanted = bench.wanted("a=1", Duration::from_millis(age));
            bench.attach_as(0, 1, &wanted);
            bench.check(&[expected]);
            bench.detach(0, "a");
        }
    }

    #[test]
    fn a_client_goes_on_behind_its_last_event() {
        check_catch_up("1 2<1 3<2", "a=1?2", "resumed a=2 a3");
        check_catch_up("1 2<1 3<2", "a?2", "resumed a=2 a3");
        check_catch_up("2<1", "a=9?1", "resumed a=1 a2");
        check_catch_up("1 2<1", "a=2?2", "resumed a=2");
        check_catch_up("1 2<1", "a=1?0", "attached a2");
        check_catch_up("1 2<1", "b=7?7", "resumed");
    }

    #[test]
    fn the_last_event_of_one_channel_says_what_is_missing_of_all() {
        let mut bench = bench();
        bench.publish_all("a", "a1");
        bench.publish_all("b", "b1");
        bench.publish_all("a", "a2<a1");
        bench.publish_all("b", "b2<b1");
        bench.attach(0, 1, "a=a1 b=b1?a2");
        bench.check(&["0:resumed@4 a=a2 b=b1 bb2"]);
        bench.attach(0, 2, "a=a1 b=b1 c?b1");
        bench.check(&["0:resumed@4 a=a1 b=b1 c= aa2 bb2"]);
    }

    #[test]
    fn a_last_event_that_two_channels_have_is_the_older_one() {
        let mut bench = bench();
        bench.publish_all("a", "1");
        bench.publish_all("b", "1 2<1");
        bench.publish_all("a", "2<1");
        bench.attach(0, 1, "a b?2");
        bench.check(&["0:resumed@4 a=1 b=2 a2"]);
    }

    #[test]
    fn a_client_goes_on_with_all_channels_or_with_none() {
        let mut bench = forgetful(1, 1_000_000, 1_000_000);
        bench.publish_all("a", "a1");
        bench.publish_all("b", "b1 b2<b1");
        bench.attach(0, 1, "a=a1 b=b2?a1");
        bench.check(&["0:attached@3"]);
        bench.attach(0, 2, "a=x b=b2?a1");
        bench.check(&["0:conflict@3"]);
    }

    #[test]
    fn whoever_is_attached_already_can_ask_what_it_has_missed() {
        let mut bench = bench();
        bench.attach(0, 1, "a=1");
        bench.publish_all("a", "1 2<1 3<2");
        bench.outputs();
        let wanted = bench.wanted("a=2", Duration::ZERO);
        bench.broker.catch_up(ShardId(0), key(1), &wanted);
        bench.check(&["0:caught up@0 a3"]);
        bench.detach(0, "a");
        bench.publish_all("a", "4<3");
        bench.check(&[]);
    }
}
