//! Order and interest, as a pure state machine.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grip::ChannelName;
use grip::channel::ItemId;
use grip::publish::{Item, Sequencing};
use rustc_hash::FxHashMap;

use crate::config::FirstSubscription;
use crate::mailbox::{Attachment, Command, Conflict, ConnectionKey, Sequence, Sequenced, ShardId};

/// From a channel's first subscription to the update of who is on it then.
const UPDATE_AFTER: Duration = Duration::from_secs(1);

/// Ids of waiting items that are remembered for a channel; clients with older ones ask the origin.
const MAX_ANNOUNCED: usize = 1000;

/// How long a channel is remembered after its last connection left. A client that polls is not held
/// between two polls, and what came meanwhile must show in its next one.
const LINGER: Duration = Duration::from_mins(1);

/// Every channel that somebody listens to, and the order of all items.
///
/// Drain [`Broker::poll_output`] after each call.
#[derive(Debug)]
pub(crate) struct Broker {
    shards: usize,
    first_subscription: FirstSubscription,
    last: Sequence,
    /// Those that at least one connection wants, or wanted a short while ago.
    channels: FxHashMap<ChannelName, Channel>,
    /// Channels that may be forgotten, the next one first; some are wanted again.
    lingering: VecDeque<(Instant, ChannelName)>,
    /// Channels to be updated, the next one first; may name channels that are gone.
    updates: VecDeque<(Instant, ChannelName)>,
    outputs: VecDeque<(ShardId, Command)>,
}

#[derive(Debug, Default)]
struct Channel {
    /// How many connections of each shard want it.
    interest: Vec<Interest>,
    /// When it is forgotten, if nobody wants it.
    lingers_until: Option<Instant>,
    /// The id of the last item that went through in order, if it is known; GRIP `prev-id` is
    /// compared with it.
    last_id: Option<ItemId>,
    /// The ids of items that wait and that the next one stands for: content up to one of them is
    /// newer than `last_id`.
    announced: VecDeque<ItemId>,
    /// When the update after the first subscription is due.
    update_at: Option<Instant>,
}

#[derive(Debug)]
struct Interest {
    shard: ShardId,
    connections: usize,
}

impl Broker {
    pub(crate) fn new(shards: usize, first_subscription: FirstSubscription) -> Self {
        Self {
            shards,
            first_subscription,
            last: Sequence::default(),
            channels: FxHashMap::default(),
            lingering: VecDeque::new(),
            updates: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Gives the item its place and sends it to the shards that want it. Returns how many
    /// connections want it.
    pub(crate) fn publish(&mut self, item: Item) -> usize {
        self.last.0 += 1;
        let Some(channel) = self.channels.get_mut(&item.channel) else {
            return 0;
        };
        if item.sequencing == Sequencing::Ordered {
            channel.last_id.clone_from(&item.id);
            channel.announced.clear();
        }
        let sequenced = Arc::new(Sequenced::new(self.last, item));
        for interest in &channel.interest {
            let command = Command::Deliver(Arc::clone(&sequenced));
            self.outputs.push_back((interest.shard, command));
        }
        channel.connections()
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
        channels: Vec<Attachment>,
        now: Instant,
    ) {
        let mut conflict = Conflict::None;
        for Attachment {
            channel: name,
            prev_id,
        } in channels
        {
            let is_first = !self.channels.contains_key(&name);
            let channel = self.channels.entry(name.clone()).or_default();
            channel.lingers_until = None;
            channel.add(shard);
            if channel.is_ahead_of(prev_id.as_ref()) {
                conflict = Conflict::Found;
            }
            if is_first && self.first_subscription == FirstSubscription::Update {
                channel.update_at = Some(now + UPDATE_AFTER);
                self.updates.push_back((now + UPDATE_AFTER, name));
            }
        }
        let attached = Command::Attached {
            connection,
            cursor: self.last,
            conflict,
        };
        self.outputs.push_back((shard, attached));
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
                self.lingering.push_back((now + LINGER, name));
            }
        }
    }

    /// Items may have been lost on their way here: no last id is known any more, and every shard
    /// hears of it. GRIP `recover`.
    pub(crate) fn recover(&mut self) {
        for channel in self.channels.values_mut() {
            channel.last_id = None;
            channel.announced.clear();
        }
        let shards = (0..self.shards).map(ShardId);
        self.outputs
            .extend(shards.map(|shard| (shard, Command::Recover)));
    }

    /// When [`Self::handle_timeout`] is to be called next; may change after every call.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let queues = [self.updates.front(), self.lingering.front()];
        queues.into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Updates channels whose first subscription was long enough ago, and forgets those that nobody
    /// has wanted for long enough.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, name)) = self.lingering.pop_front_if(|(at, _)| *at <= now) {
            let is_over = |channel: &Channel| channel.lingers_until.is_some_and(|at| at <= now);
            if self.channels.get(&name).is_some_and(is_over) {
                self.channels.remove(&name);
            }
        }
        while let Some((_, name)) = self.updates.pop_front_if(|(at, _)| *at <= now) {
            // A channel that was gone meanwhile has a later entry of its own, or none.
            if let Some(channel) = self.channels.get_mut(&name)
                && channel.update_at.take_if(|at| *at <= now).is_some()
            {
                for interest in &channel.interest {
                    let command = Command::Update(name.clone());
                    self.outputs.push_back((interest.shard, command));
                }
            }
        }
    }

    /// What to put into which shard's mailbox next.
    pub(crate) fn poll_output(&mut self) -> Option<(ShardId, Command)> {
        self.outputs.pop_front()
    }
}

impl Channel {
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

    /// Whether an item has gone through that content up to `prev_id` lacks, as far as is known.
    fn is_ahead_of(&self, prev_id: Option<&ItemId>) -> bool {
        match (&self.last_id, prev_id) {
            (Some(last_id), Some(prev_id)) => {
                last_id != prev_id && !self.announced.contains(prev_id)
            }
            _ => false,
        }
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

    /// A broker of two shards, and its clock.
    struct Bench {
        broker: Broker,
        now: Instant,
    }

    impl Bench {
        fn new(first_subscription: FirstSubscription) -> Self {
            Self {
                broker: Broker::new(2, first_subscription),
                now: tokio::time::Instant::now().into_std(),
            }
        }

        /// Attaches to channels such as `a b=5`, where 5 is the previous id.
        fn attach(&mut self, shard: usize, connection: u32, channels: &str) {
            let attachments = channels.split(' ').map(|channel| {
                let (name, prev_id) = channel.split_once('=').unzip();
                Attachment {
                    channel: ChannelName::new(name.unwrap_or(channel)),
                    prev_id: prev_id.map(ItemId::new),
                }
            });
            self.broker.attach(
                ShardId(shard),
                key(connection),
                attachments.collect(),
                self.now,
            );
        }

        fn detach(&mut self, shard: usize, channels: &str) {
            self.broker
                .detach(ShardId(shard), names(channels), self.now);
        }

        fn publish(&mut self, channel: &str) -> usize {
            self.broker.publish(item(channel))
        }

        /// Lets time pass, and the timer fire if it is due.
        fn wait(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
            if self.broker.poll_timeout().is_some_and(|at| at <= self.now) {
                self.broker.handle_timeout(self.now);
            }
        }

        /// Outputs in short: `0:attached@1`, `1:item@2`.
        fn outputs(&mut self) -> Vec<String> {
            let outputs = std::iter::from_fn(|| self.broker.poll_output());
            outputs
                .map(|(ShardId(shard), command)| match command {
                    Command::Attached {
                        cursor, conflict, ..
                    } => match conflict {
                        Conflict::None => format!("{shard}:attached@{}", cursor.0),
                        Conflict::Found => format!("{shard}:conflict@{}", cursor.0),
                    },
                    Command::Deliver(sequenced) => format!("{shard}:item@{}", sequenced.sequence.0),
                    Command::Update(channel) => format!("{shard}:update {channel}"),
                    Command::Recover => format!("{shard}:recover"),
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
    fn what_comes_between_two_polls_is_a_conflict_for_the_second() {
        let mut bench = bench();
        bench.attach(0, 1, "a=1");
        bench.detach(0, "a");
        bench
            .broker
            .publish(item_with("a", r#","id":"2","prev-id":"1""#));
        bench.attach(0, 2, "a=1");
        bench.check(&["0:attached@0", "0:conflict@1"]);
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
            bench.broker.publish(item_with("a", members));
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
        check_conflict(&[one, two], "=1", "conflict");
        check_conflict(&[one, two], "=2", "attached");
        check_conflict(&[two], "", "attached");
        check_conflict(&[], "=1", "attached");
    }

    #[test]
    fn an_id_that_the_next_item_stands_for_is_no_conflict() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.broker.publish(item_with("a", r#","id":"1""#));
        for id in ["2", "3"] {
            bench
                .broker
                .announce(&ChannelName::new("a"), ItemId::new(id));
        }
        bench.outputs();
        bench.attach(0, 2, "a=2");
        bench.attach(0, 3, "a=4");
        bench.check(&["0:attached@1", "0:conflict@1"]);
        bench
            .broker
            .publish(item_with("a", r#","id":"3","prev-id":"1""#));
        bench.outputs();
        bench.attach(0, 4, "a=2");
        bench.check(&["0:conflict@2"]);
    }

    #[test]
    fn ids_of_waiting_items_are_bounded() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.broker.publish(item_with("a", r#","id":"x""#));
        for id in 0..=MAX_ANNOUNCED {
            let id = ItemId::new(&id.to_string());
            bench.broker.announce(&ChannelName::new("a"), id);
        }
        bench.outputs();
        bench.attach(0, 2, "a=0");
        bench.attach(0, 3, "a=1");
        bench.check(&["0:conflict@1", "0:attached@1"]);
    }

    #[test]
    fn an_item_without_id_makes_the_last_id_unknown() {
        check_conflict(&[r#","id":"1""#, ""], "=7", "attached");
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
            bench.broker.publish(item_with(channel, r#","id":"5""#));
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
        bench.broker.publish(item_with("a", r#","id":"5""#));
        bench.detach(0, "a");
        bench.wait(60_000);
        bench.broker.publish(item_with("a", r#","id":"6""#));
        bench.outputs();
        bench.attach(0, 2, "a=4");
        bench.check(&["0:attached@2"]);
    }

    #[test]
    fn recovery_forgets_last_ids_and_reaches_every_shard() {
        let mut bench = bench();
        bench.attach(0, 1, "a");
        bench.broker.publish(item_with("a", r#","id":"5""#));
        bench.outputs();
        bench.broker.recover();
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
}
