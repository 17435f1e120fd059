//! Order and interest, as a pure state machine.

use std::collections::VecDeque;
use std::sync::Arc;

use grip::ChannelName;
use grip::publish::Item;
use rustc_hash::FxHashMap;

use crate::mailbox::{Attachment, Command, ConnectionKey, Sequence, Sequenced, ShardId};

/// Every channel that somebody listens to, and the order of all items.
///
/// Drain [`Broker::poll_output`] after each call.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    last: Sequence,
    /// By channel, how many connections of each shard want it; never an empty list.
    interest: FxHashMap<ChannelName, Vec<Interest>>,
    outputs: VecDeque<(ShardId, Command)>,
}

#[derive(Debug)]
struct Interest {
    shard: ShardId,
    connections: usize,
}

impl Broker {
    /// Gives the item its place and sends it to the shards that want it.
    pub(crate) fn publish(&mut self, item: Item) {
        self.last.0 += 1;
        let Some(interest) = self.interest.get(&item.channel) else {
            return;
        };
        let sequenced = Arc::new(Sequenced {
            sequence: self.last,
            item,
        });
        for interest in interest {
            let command = Command::Deliver(Arc::clone(&sequenced));
            self.outputs.push_back((interest.shard, command));
        }
    }

    /// Subscribes a connection. Its answer stands in the mailbox before every later item, and
    /// after every earlier one.
    pub(crate) fn attach(
        &mut self,
        shard: ShardId,
        connection: ConnectionKey,
        channels: Vec<Attachment>,
    ) {
        for attachment in channels {
            let interest = self.interest.entry(attachment.channel).or_default();
            match interest.iter_mut().find(|interest| interest.shard == shard) {
                Some(interest) => interest.connections += 1,
                None => interest.push(Interest {
                    shard,
                    connections: 1,
                }),
            }
        }
        let cursor = self.last;
        self.outputs
            .push_back((shard, Command::Attached { connection, cursor }));
    }

    /// One connection of `shard` less wants each of these channels.
    pub(crate) fn detach(&mut self, shard: ShardId, channels: Vec<ChannelName>) {
        for channel in channels {
            let Some(interest) = self.interest.get_mut(&channel) else {
                continue;
            };
            interest.retain_mut(|interest| {
                if interest.shard == shard {
                    interest.connections -= 1;
                }
                interest.connections > 0
            });
            if interest.is_empty() {
                self.interest.remove(&channel);
            }
        }
    }

    /// What to put into which shard's mailbox next.
    pub(crate) fn poll_output(&mut self) -> Option<(ShardId, Command)> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(channel: &str) -> Item {
        let body =
            format!(r#"{{"items":[{{"channel":"{channel}","http-stream":{{"content":"x"}}}}]}}"#);
        grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .unwrap()
            .remove(0)
    }

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: 1,
        }
    }

    fn attachment(channel: &str) -> Attachment {
        Attachment {
            channel: ChannelName::new(channel),
            prev_id: None,
        }
    }

    /// Outputs in short: `0:attached@1`, `1:item@2`.
    fn outputs(broker: &mut Broker) -> Vec<String> {
        std::iter::from_fn(|| broker.poll_output())
            .map(|(shard, command)| match command {
                Command::Attached { cursor, .. } => format!("{}:attached@{}", shard.0, cursor.0),
                Command::Deliver(sequenced) => format!("{}:item@{}", shard.0, sequenced.sequence.0),
            })
            .collect()
    }

    #[test]
    fn an_item_goes_only_to_shards_with_a_subscriber() {
        let mut broker = Broker::default();
        broker.publish(item("a"));
        broker.attach(ShardId(0), key(1), vec![attachment("a"), attachment("b")]);
        broker.attach(ShardId(1), key(1), vec![attachment("b")]);
        broker.publish(item("a"));
        broker.publish(item("b"));
        broker.publish(item("c"));
        let expected = [
            "0:attached@1",
            "1:attached@1",
            "0:item@2",
            "0:item@3",
            "1:item@3",
        ];
        assert_eq!(outputs(&mut broker), expected);
    }

    #[test]
    fn interest_ends_with_the_last_connection() {
        let mut broker = Broker::default();
        broker.attach(ShardId(0), key(1), vec![attachment("a")]);
        broker.attach(ShardId(0), key(2), vec![attachment("a")]);
        broker.detach(ShardId(0), vec![ChannelName::new("a")]);
        broker.publish(item("a"));
        broker.detach(ShardId(0), vec![ChannelName::new("a")]);
        broker.publish(item("a"));
        assert_eq!(
            outputs(&mut broker),
            ["0:attached@0", "0:attached@0", "0:item@1"]
        );
        assert!(broker.interest.is_empty());
    }

    #[test]
    fn a_detach_of_one_connection_does_not_undo_the_attach_of_the_next() {
        let mut broker = Broker::default();
        broker.attach(ShardId(0), key(1), vec![attachment("a")]);
        broker.attach(ShardId(0), key(2), vec![attachment("a")]);
        broker.detach(ShardId(0), vec![ChannelName::new("a")]);
        outputs(&mut broker);
        broker.publish(item("a"));
        assert_eq!(outputs(&mut broker), ["0:item@1"]);
    }
}
