//! What was published on each channel, and how many clients have it.

use std::ops::Range;
use std::time::Instant;

use super::Arrival;
use crate::item::Item;

#[derive(Debug, Default)]
pub(super) struct Channels(Vec<Channel>);

#[derive(Debug, Default)]
struct Channel {
    subscribers: u32,
    /// The number of the last item that an earlier run published.
    before: u32,
    published: Vec<Published>,
}

#[derive(Debug)]
struct Published {
    at: Instant,
    /// Clients that do not have it yet.
    missing: u32,
}

impl Channels {
    /// Takes over who hears what: a channel for each subscription.
    pub(super) fn count(&mut self, subscriptions: impl Iterator<Item = u32>) {
        for channel in &mut self.0 {
            channel.subscribers = 0;
        }
        for channel in subscriptions {
            self.at(channel).subscribers += 1;
        }
    }

    /// Begins a run on these channels.
    pub(super) fn prepare(&mut self, channels: Range<u32>) {
        for number in channels {
            let channel = self.at(number);
            channel.before += u32::try_from(channel.published.len()).unwrap_or(0);
            channel.published.clear();
        }
    }

    /// The number of the item that is published now, and whether it is due to anybody.
    pub(super) fn publish(&mut self, channel: u32, at: Instant) -> (u32, bool) {
        let channel = self.at(channel);
        let missing = channel.subscribers;
        channel.published.push(Published { at, missing });
        let number = u32::try_from(channel.published.len()).unwrap_or(0);
        (channel.before + number, missing > 0)
    }

    /// An item has come to a client: when it was published, and whether all have it now. `None` if
    /// it belongs to an earlier run.
    pub(super) fn arrive(&mut self, item: Item, arrival: Arrival) -> Option<(Instant, bool)> {
        let channel = self.0.get_mut(item.channel as usize)?;
        let index = item.number.checked_sub(channel.before + 1)?;
        let published = channel.published.get_mut(index as usize)?;
        // What comes again would stand for what another client has not got.
        let is_due = arrival != Arrival::Repeated && published.missing > 0;
        published.missing -= u32::from(is_due);
        Some((published.at, is_due && published.missing == 0))
    }

    /// Arrivals that are still due.
    pub(super) fn missing(&self, channels: Range<u32>) -> u64 {
        let range = channels.start as usize..channels.end as usize;
        let published = self.0[range].iter().flat_map(|channel| &channel.published);
        published.map(|it| u64::from(it.missing)).sum()
    }

    fn at(&mut self, channel: u32) -> &mut Channel {
        let index = channel as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Channel::default);
        }
        &mut self.0[index]
    }
}
