//! Purge before publish, not too often: keeps items back until their window is over and the edge
//! has forgotten their channel.
//!
//! Pure: it says which channels to purge and which items to publish, in which order and when to ask
//! again; it does not know sockets or clocks. Read [`Pace`], then `Channel`.

mod channel;
mod coalesce;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grip::ChannelName;
use grip::channel::ItemId;
use grip::publish::{Item, Purge};
use rustc_hash::FxHashMap;

use crate::broker::{Admitted, Room};
use crate::bucket::Bucket;
use crate::config::{self, ChannelRule, Keep, PurgeRate};
use channel::{Cause, Channel, Due, Held, Lane, Wait};

/// Channels in one purge request, as many as the edge accepts.
pub(crate) const BATCH: usize = 256;

/// Channels that are remembered while no item of theirs waits; a few hundred bytes each. Beyond
/// that windows are not kept and purges are not repeated.
const MAX_CHANNELS: usize = 100_000;
/// One of so many channels in a purge is one that no item waits for, if there is one; so second
/// purges and retries are not put off for ever by a stream of items.
const BACKGROUND_SHARE: usize = 4;

/// From a failed purge to its first retry; twice as long after each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The longest that a target's `Retry-After` is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// How items are kept back.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The first that is for a channel counts.
    pub(crate) rules: Arc<[ChannelRule]>,
    /// `None` if there is nothing to purge.
    pub(crate) purging: Option<Purging>,
}

/// How channels are purged, where no rule says otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Purging {
    /// Whether items that leave it open are preceded by a purge.
    pub(crate) default: bool,
    /// How long an item waits for its purge at most.
    pub(crate) deadline: Duration,
    /// From the last purge of a channel to its second one.
    pub(crate) repurge_after: Option<Duration>,
    /// How many channels may be purged.
    pub(crate) rate: Option<PurgeRate>,
}

impl From<&config::Purge> for Purging {
    fn from(purge: &config::Purge) -> Self {
        Self {
            default: purge.default,
            deadline: purge.deadline,
            repurge_after: purge.repurge_after,
            rate: purge.rate,
        }
    }
}

/// What is done with the items of a channel.
#[derive(Debug, Clone, Copy)]
struct Rule {
    purge: bool,
    pace: Option<Duration>,
    keep: Keep,
    deadline: Duration,
}

/// A purge to be carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PurgeOrder<'a> {
    /// What to forget; at most [`BATCH`].
    pub(crate) channels: &'a [ChannelName],
    /// How long an answer is worth waiting for.
    pub(crate) timeout: Duration,
}

/// What came of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PurgeResult {
    /// It is done.
    Purged,
    /// It is not done, as far as is known.
    Failed {
        /// Before this is over, another would fail as well; `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Channels purged for items.
    pub(crate) purges: u64,
    /// Channels purged once more.
    pub(crate) second_purges: u64,
    /// Channels whose purge was tried again.
    pub(crate) retries: u64,
    /// Channels whose purge was not tried again, although it failed.
    pub(crate) given_up: u64,
    /// Items that a newer one stands for.
    pub(crate) coalesced: u64,
    /// Items that went out although their purge had failed or was late.
    pub(crate) unpurged: u64,
}

/// The id of an item that waits and that, or a newer one in its place, is going to be the channel's
/// next.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) channel: ChannelName,
    pub(crate) id: ItemId,
    /// Of the item, if a newer one has taken its place: as long as the id waits, it is one that
    /// waits.
    pub(crate) room: Option<Room>,
}

/// Items on their way to the broker.
///
/// The first item of a quiet channel is due at once, and opens a window; what comes in it is due
/// at its end, and opens the next. An item that is due goes out when its channel is purged, if that
/// is wanted, or when its deadline is over. Items of one channel leave in the order in which they
/// came. Purges are asked for one batch at a time; what becomes due meanwhile waits for the next
/// batch, because its data may be newer than what the running purge makes the edge forget.
///
/// An answer whose fetch began before a purge is stored after it. So a channel is purged once more
/// a while after its last purge; no item waits for that.
///
/// After each call ask [`Self::next_ready`] and [`Self::next_announced`] until `None`, then [`Self::next_purge`], then
/// [`Self::poll_timeout`].
#[derive(Debug)]
pub(crate) struct Pace<T> {
    settings: Settings,
    bucket: Option<Bucket>,
    /// Those with an item, a window, or a purge that is still to come.
    channels: FxHashMap<ChannelName, Channel<T>>,
    /// When to look at a channel again; each once at most.
    timers: BTreeSet<(Instant, ChannelName)>,
    /// Channels to be purged, in order, each once: those that an item waits for, and others.
    urgent: BTreeMap<u64, ChannelName>,
    background: BTreeMap<u64, ChannelName>,
    running: Vec<ChannelName>,
    /// Before this, the target takes no purges.
    blocked_until: Option<Instant>,
    /// When each item that waits came, the oldest first.
    arrivals: BTreeMap<u64, Instant>,
    ready: VecDeque<(Admitted, Option<T>)>,
    announced: VecDeque<Announced>,
    last_place: u64,
    tally: Tally,
    is_flushing: bool,
}

impl<T> Pace<T> {
    pub(crate) fn new(settings: Settings) -> Self {
        let rate = settings.purging.as_ref().and_then(|purging| purging.rate);
        Self {
            bucket: rate.map(|rate| {
                let interval = Duration::from_secs(1) / rate.per_second.get();
                Bucket::new(interval, rate.burst)
            }),
            settings,
            channels: FxHashMap::default(),
            timers: BTreeSet::new(),
            urgent: BTreeMap::new(),
            background: BTreeMap::new(),
            running: Vec::new(),
            blocked_until: None,
            arrivals: BTreeMap::new(),
            ready: VecDeque::new(),
            announced: VecDeque::new(),
            last_place: 0,
            tally: Tally::default(),
            is_flushing: false,
        }
    }

    /// Takes an item in; `ticket` comes back with it, unless it waits for its window, when the
    /// ticket is dropped.
    pub(crate) fn publish(&mut self, admitted: Admitted, ticket: T, now: Instant) {
        let item = &admitted.item;
        let name = item.channel.clone();
        let mut channel = if let Some(channel) = self.check_out(&name) {
            channel
        } else {
            let rule = self.rule(&name);
            if rule.pace.is_none() && !self.needs_purge(rule, item) {
                self.ready.push_back((admitted, Some(ticket)));
                return;
            }
            Channel::new(rule)
        };
        let needs_purge = self.needs_purge(channel.rule, item);
        if channel.window.is_some() {
            self.hold(&mut channel, admitted, needs_purge, now);
        } else {
            channel.window = self.window(channel.rule, now);
            let held = Held {
                place: self.arrive(now),
                admitted,
                needs_purge,
            };
            self.make_due(&name, &mut channel, held, Some(ticket), now);
            self.release(&mut channel);
        }
        self.check_in(name, channel);
    }

    /// The channels to purge next; `None` while a purge runs or none is to be made. Answer with
    /// [`Self::handle_purged`], whatever came of it.
    pub(crate) fn next_purge(&mut self, now: Instant) -> Option<PurgeOrder<'_>> {
        if !self.running.is_empty() || self.blocked_until.is_some_and(|until| until > now) {
            return None;
        }
        let queued = self.urgent.len() + self.background.len();
        let allowed = self
            .bucket
            .as_ref()
            .map_or(BATCH, |bucket| bucket.available(now));
        let count = queued.min(allowed).min(BATCH);
        if count == 0 {
            return None;
        }
        let mut timeout = Duration::ZERO;
        for index in 0..count {
            let Some(name) = self.take_queued(index) else {
                break;
            };
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.begin_purge();
                timeout = timeout.max(channel.rule.deadline);
                self.tally.retries += u64::from(channel.failures > 0);
            }
            self.running.push(name);
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.take(self.running.len(), now);
        }
        Some(PurgeOrder {
            channels: &self.running,
            timeout,
        })
    }

    /// The running purge is over: its items go out.
    pub(crate) fn handle_purged(&mut self, result: PurgeResult, now: Instant) {
        if let PurgeResult::Failed {
            retry_after: Some(after),
        } = result
        {
            self.blocked_until = Some(now + after.min(MAX_RETRY_AFTER));
        }
        for name in std::mem::take(&mut self.running) {
            let Some(mut channel) = self.check_out(&name) else {
                continue;
            };
            let cause = channel.running.take();
            let covered = channel.end_wait_for_purge();
            match (result, cause) {
                (PurgeResult::Purged, Some(cause)) => self.purged(&mut channel, cause, now),
                (PurgeResult::Failed { .. }, Some(cause)) => {
                    self.tally.unpurged += covered;
                    self.purge_failed(&mut channel, cause, now);
                }
                (_, None) => {}
            }
            self.release(&mut channel);
            self.check_in(name, channel);
        }
    }

    /// The next item to publish, with its ticket if it kept it; ask until `None`.
    pub(crate) fn next_ready(&mut self) -> Option<(Admitted, Option<T>)> {
        self.ready.pop_front()
    }

    /// The next id to announce; ask until `None`, behind [`Self::next_ready`].
    pub(crate) fn next_announced(&mut self) -> Option<Announced> {
        self.announced.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called, and [`Self::next_purge`] after it; may change
    /// after every call.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let is_queued = !self.urgent.is_empty() || !self.background.is_empty();
        let purge = if is_queued && self.running.is_empty() {
            let token = self.bucket.as_ref().and_then(Bucket::next_token);
            self.blocked_until.max(token)
        } else {
            None
        };
        timer.into_iter().chain(purge).min()
    }

    /// Windows and deadlines end, purges are due again.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, name)) = self.timers.pop_first() else {
                break;
            };
            let Some(mut channel) = self.check_out(&name) else {
                continue;
            };
            if channel.window.is_some_and(|end| end <= now) {
                self.end_window(&name, &mut channel, now);
            }
            self.tally.unpurged += channel.end_waits_until(now);
            if let Some((_, cause)) = channel.later.take_if(|(at, _)| *at <= now) {
                self.queue(&name, &mut channel, Lane::Background, cause);
            }
            self.release(&mut channel);
            self.check_in(name, channel);
        }
    }

    /// Nothing waits for a window any more, now and later on. Purges that failed are tried once
    /// more.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.is_flushing = true;
        let names: Vec<ChannelName> = self.channels.keys().cloned().collect();
        for name in names {
            let Some(mut channel) = self.check_out(&name) else {
                continue;
            };
            self.end_window(&name, &mut channel, now);
            if let Some((_, cause)) = channel.later.take_if(|_| channel.failures > 0) {
                self.queue(&name, &mut channel, Lane::Background, cause);
            }
            self.release(&mut channel);
            self.check_in(name, channel);
        }
    }

    /// Whether nothing waits and nothing is to be purged any more, as far as is known now.
    pub(crate) fn is_idle(&self) -> bool {
        self.channels.is_empty() && self.ready.is_empty()
    }

    /// Items that wait.
    pub(crate) fn len(&self) -> usize {
        self.arrivals.len() + self.ready.len()
    }

    /// When the oldest item came that waits; for items that stand for others, the oldest of those.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.arrivals.first_key_value().map(|(_, at)| *at)
    }

    /// What happened since the start.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    fn rule(&self, name: &ChannelName) -> Rule {
        let rules = &self.settings.rules;
        let rule = rules.iter().find(|rule| rule.pattern.is_for(name.as_str()));
        let purging = self.settings.purging.as_ref();
        Rule {
            purge: rule
                .and_then(|rule| rule.purge)
                .unwrap_or_else(|| purging.is_some_and(|purging| purging.default)),
            pace: rule.and_then(|rule| rule.pace),
            keep: rule.map_or(Keep::All, |rule| rule.keep),
            deadline: rule
                .and_then(|rule| rule.deadline)
                .or_else(|| purging.map(|purging| purging.deadline))
                .unwrap_or_default(),
        }
    }

    fn needs_purge(&self, rule: Rule, item: &Item) -> bool {
        self.settings.purging.is_some()
            && match item.purge {
                Purge::Before => true,
                Purge::Never => false,
                Purge::Default => rule.purge,
            }
    }

    /// When a window ends that begins now, if one does.
    fn window(&self, rule: Rule, now: Instant) -> Option<Instant> {
        let may = !self.is_flushing && self.channels.len() < MAX_CHANNELS;
        rule.pace.filter(|_| may).map(|pace| now + pace)
    }

    /// Takes a channel out of the map and of the timers. [`Self::check_in`] puts it back.
    fn check_out(&mut self, name: &ChannelName) -> Option<Channel<T>> {
        let (name, mut channel) = self.channels.remove_entry(name)?;
        if let Some(timer) = channel.timer.take() {
            self.timers.remove(&(timer, name));
        }
        Some(channel)
    }

    fn check_in(&mut self, name: ChannelName, mut channel: Channel<T>) {
        if channel.is_idle() {
            return;
        }
        channel.timer = channel.next_timeout();
        if let Some(timer) = channel.timer {
            self.timers.insert((timer, name.clone()));
        }
        self.channels.insert(name, channel);
    }

    fn next_place(&mut self) -> u64 {
        self.last_place += 1;
        self.last_place
    }

    fn arrive(&mut self, now: Instant) -> u64 {
        let place = self.next_place();
        self.arrivals.insert(place, now);
        place
    }

    /// Has an item wait for the end of its window, perhaps in the place of another.
    fn hold(
        &mut self,
        channel: &mut Channel<T>,
        admitted: Admitted,
        needs_purge: bool,
        now: Instant,
    ) {
        let Some(admitted) = self.coalesce(channel, admitted, needs_purge) else {
            return;
        };
        if channel.rule.keep == Keep::Latest {
            self.announce(&admitted.item.channel, admitted.item.id.as_ref(), None);
        }
        channel.held.push_back(Held {
            place: self.arrive(now),
            admitted,
            needs_purge,
        });
    }

    /// Puts an item in the place of the one that came last, if it may; else gives it back.
    fn coalesce(
        &mut self,
        channel: &mut Channel<T>,
        admitted: Admitted,
        needs_purge: bool,
    ) -> Option<Admitted> {
        if channel.rule.keep != Keep::Latest {
            return Some(admitted);
        }
        let Some(last) = channel.held.back_mut() else {
            return Some(admitted);
        };
        let Admitted { item, room } = admitted;
        let id = item.id.clone();
        if let Some(item) = coalesce::replace(&mut last.admitted.item, item) {
            return Some(Admitted { item, room });
        }
        last.needs_purge |= needs_purge;
        last.admitted.fit();
        self.tally.coalesced += 1;
        self.announce(&last.admitted.item.channel, id.as_ref(), Some(room));
        None
    }

    fn announce(&mut self, channel: &ChannelName, id: Option<&ItemId>, room: Option<Room>) {
        let announced = id.map(|id| Announced {
            channel: channel.clone(),
            id: id.clone(),
            room,
        });
        self.announced.extend(announced);
    }

    /// What waited is due; and the next window begins, if anything did.
    fn end_window(&mut self, name: &ChannelName, channel: &mut Channel<T>, now: Instant) {
        channel.window = None;
        if channel.held.is_empty() {
            return;
        }
        channel.window = self.window(channel.rule, now);
        for held in std::mem::take(&mut channel.held) {
            self.make_due(name, channel, held, None, now);
        }
    }

    fn make_due(
        &mut self,
        name: &ChannelName,
        channel: &mut Channel<T>,
        held: Held,
        ticket: Option<T>,
        now: Instant,
    ) {
        let wait = if held.needs_purge {
            self.queue(name, channel, Lane::Urgent, Cause::Items);
            Wait::ForNextPurge(now + channel.rule.deadline)
        } else {
            Wait::Over
        };
        channel.due.push_back(Due {
            place: held.place,
            admitted: held.admitted,
            ticket,
            wait,
        });
    }

    /// Items whose wait is over go out, up to the first that still waits.
    fn release(&mut self, channel: &mut Channel<T>) {
        while let Some(due) = channel.due.pop_front_if(|due| due.wait == Wait::Over) {
            self.arrivals.remove(&due.place);
            self.ready.push_back((due.admitted, due.ticket));
        }
    }

    /// Has a channel purged, once, whatever it is wanted for.
    fn queue(&mut self, name: &ChannelName, channel: &mut Channel<T>, lane: Lane, cause: Cause) {
        channel.later = None;
        match channel.queued {
            Some(queued) if queued.lane == Lane::Urgent || lane == Lane::Background => return,
            Some(queued) => drop(self.background.remove(&queued.place)),
            None => {}
        }
        let place = self.next_place();
        let queue = match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Background => &mut self.background,
        };
        queue.insert(place, name.clone());
        channel.queued = Some(channel::Queued { lane, place, cause });
    }

    /// The next channel for the batch that has `index` already.
    fn take_queued(&mut self, index: usize) -> Option<ChannelName> {
        let from_background = index % BACKGROUND_SHARE == BACKGROUND_SHARE - 1;
        let taken = if from_background || self.urgent.is_empty() {
            self.background
                .pop_first()
                .or_else(|| self.urgent.pop_first())
        } else {
            self.urgent.pop_first()
        };
        taken.map(|(_, name)| name)
    }

    fn purged(&mut self, channel: &mut Channel<T>, cause: Cause, now: Instant) {
        channel.failures = 0;
        match cause {
            Cause::Items => {
                self.tally.purges += 1;
                let purging = self.settings.purging.as_ref();
                // What is queued is purged later anyway, and then a second time.
                if channel.queued.is_none()
                    && let Some(after) = purging.and_then(|purging| purging.repurge_after)
                    && self.channels.len() < MAX_CHANNELS
                {
                    channel.later = Some((now + after, Cause::Second));
                }
            }
            Cause::Second => self.tally.second_purges += 1,
        }
    }

    fn purge_failed(&mut self, channel: &mut Channel<T>, cause: Cause, now: Instant) {
        if channel.queued.is_some() {
            channel.failures = channel.failures.saturating_add(1);
        } else if self.is_flushing || self.channels.len() >= MAX_CHANNELS {
            channel.failures = 0;
            self.tally.given_up += 1;
        } else {
            let doublings = channel.failures.min(16);
            let after = FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY);
            channel.failures = channel.failures.saturating_add(1);
            channel.later = Some((now + after, cause));
        }
    }
}
