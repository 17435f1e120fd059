//! Who of this shard's connections hears which channel.

use grip::ChannelName;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::mailbox::Sequence;

/// A connection's place in a channel's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    channel: u32,
    position: u32,
}

/// A channel's view of one connection. Small and contiguous, because a fan-out walks all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    /// Index of the connection. It is live: ending a connection unsubscribes it.
    pub(crate) connection: u32,
    /// Which of the connection's subscriptions this is.
    slot: u32,
    /// The newest item that the connection has no need of; older ones are not delivered.
    pub(crate) cursor: Sequence,
}

/// The moved subscriber, whose connection has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) connection: u32,
    pub(crate) slot: usize,
    pub(crate) to: Subscription,
}

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    subscribers: Vec<Subscriber>,
}

/// The subscription index: channels by name, their subscribers in send order.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    ids: FxHashMap<ChannelName, u32>,
    channels: Slab<Channel>,
    len: usize,
}

impl Subscriptions {
    /// Subscribes a connection; `slot` counts its subscriptions.
    pub(crate) fn add(
        &mut self,
        name: &ChannelName,
        connection: u32,
        slot: usize,
        cursor: Sequence,
    ) -> Subscription {
        let channel = self.channel_id(name);
        let subscribers = &mut self.channels[channel as usize].subscribers;
        let position = narrow(subscribers.len());
        self.len += 1;
        subscribers.push(Subscriber {
            connection,
            slot: narrow(slot),
            cursor,
        });
        Subscription { channel, position }
    }

    /// Unsubscribes. The last subscriber takes the free place, if it is another one.
    pub(crate) fn remove(&mut self, subscription: Subscription) -> (ChannelName, Option<Moved>) {
        let index = subscription.channel as usize;
        let position = subscription.position as usize;
        let channel = &mut self.channels[index];
        channel.subscribers.swap_remove(position);
        self.len -= 1;
        let moved = channel.subscribers.get(position).map(|subscriber| Moved {
            connection: subscriber.connection,
            slot: subscriber.slot as usize,
            to: subscription,
        });
        if !channel.subscribers.is_empty() {
            return (channel.name.clone(), moved);
        }
        let channel = self.channels.remove(index);
        self.ids.remove(&channel.name);
        (channel.name, None)
    }

    /// How many subscriptions there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The channel of a subscription.
    pub(crate) fn name(&self, subscription: Subscription) -> &ChannelName {
        &self.channels[subscription.channel as usize].name
    }

    /// A subscription became another one of its connection's.
    pub(crate) fn set_slot(&mut self, subscription: Subscription, slot: usize) {
        let channel = &mut self.channels[subscription.channel as usize];
        channel.subscribers[subscription.position as usize].slot = narrow(slot);
    }

    /// The subscribers of a channel, in the order in which they are sent to.
    pub(crate) fn of(&self, name: &ChannelName) -> &[Subscriber] {
        self.find(name).map_or(&[], |(_, subscribers)| subscribers)
    }

    /// A channel's number, which is its own as long as it has subscribers, and these.
    pub(crate) fn find(&self, name: &ChannelName) -> Option<(u32, &[Subscriber])> {
        let id = *self.ids.get(name)?;
        Some((id, &self.channels[id as usize].subscribers))
    }

    /// Whether nobody hears anything, and nothing is kept of who did.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.channels.is_empty()
    }

    fn channel_id(&mut self, name: &ChannelName) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = narrow(self.channels.insert(Channel {
            name: name.clone(),
            subscribers: Vec::new(),
        }));
        self.ids.insert(name.clone(), id);
        id
    }
}

/// Indexes are 32 bits wide to keep subscribers small; memory ends long before them.
fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("a shard holds less than 2^32 of anything")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text)
    }

    #[test]
    fn the_last_subscriber_takes_the_free_place() {
        let mut subscriptions = Subscriptions::default();
        let places: Vec<Subscription> = (0..3)
            .map(|connection| subscriptions.add(&name("a"), connection, 0, Sequence(0)))
            .collect();
        let (channel, moved) = subscriptions.remove(places[0]);
        assert_eq!(channel, name("a"));
        let expected = Moved {
            connection: 2,
            slot: 0,
            to: places[0],
        };
        assert_eq!(moved, Some(expected));
        assert_eq!(subscriptions.remove(places[1]).1, None);
        let left: Vec<u32> = subscriptions
            .of(&name("a"))
            .iter()
            .map(|s| s.connection)
            .collect();
        assert_eq!(left, [2]);
    }

    #[test]
    fn a_channel_without_subscribers_is_forgotten() {
        let mut subscriptions = Subscriptions::default();
        let place = subscriptions.add(&name("a"), 0, 0, Sequence(0));
        subscriptions.remove(place);
        assert!(subscriptions.is_empty());
        assert!(subscriptions.of(&name("a")).is_empty());
    }
}
