//! What the hub remembers of channels, and how it orders their items: `[history]`, `[order]`.

use std::time::Duration;

use super::{Checker, RawChannelRule, RawHistory, RawOrder};

/// How much of a channel is remembered, for clients that come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Items of one channel; none: the channel is not remembered.
    pub items: usize,
    /// Bytes of the items of one channel.
    pub bytes: usize,
    /// How long an item is remembered.
    pub age: Duration,
}

/// The order of items and what becomes of those that are out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// How long an item waits for the one before it; zero: not at all.
    pub wait: Duration,
    /// Items of one channel that may wait so.
    pub items: usize,
    /// How long an item's id is known, so that the item is not published twice; zero: not at all.
    pub id_age: Duration,
    /// Ids that are known so, of all channels.
    pub ids: usize,
}

/// What a channel's rule says of its history, and nothing where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryRule {
    /// As [`History::items`].
    pub items: Option<usize>,
    /// As [`History::bytes`].
    pub bytes: Option<usize>,
    /// As [`History::age`].
    pub age: Option<Duration>,
}

impl HistoryRule {
    /// What is so for the channel, where `usual` is for all others.
    pub fn over(self, usual: History) -> History {
        History {
            items: self.items.unwrap_or(usual.items),
            bytes: self.bytes.unwrap_or(usual.bytes),
            age: self.age.unwrap_or(usual.age),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            items: 100,
            bytes: 1_000_000,
            age: Duration::from_mins(5),
        }
    }
}

/// Bytes of the items of all channels, if nothing else is said.
const TOTAL_BYTES: usize = 100_000_000;

impl Default for Order {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(5),
            items: 100,
            id_age: Duration::from_mins(1),
            ids: 1_000_000,
        }
    }
}

impl Checker<'_> {
    /// With the bytes of the items of all channels.
    pub(super) fn history(&mut self, raw: &RawHistory) -> Option<(History, usize)> {
        let usual = History::default();
        let age = match &raw.age {
            Some(age) => self.some_time("history.age", age),
            None => Some(usual.age),
        };
        let history = History {
            items: raw.items.unwrap_or(usual.items),
            bytes: raw.bytes.unwrap_or(usual.bytes),
            age: age?,
        };
        Some((history, raw.total_bytes.unwrap_or(TOTAL_BYTES)))
    }

    pub(super) fn order(&mut self, raw: &RawOrder) -> Option<Order> {
        let usual = Order::default();
        let wait = match &raw.wait {
            Some(wait) => self.short_time("order.wait", wait),
            None => Some(usual.wait),
        };
        let id_age = match &raw.id_age {
            Some(age) => self.short_time("order.id_age", age),
            None => Some(usual.id_age),
        };
        Some(Order {
            wait: wait?,
            items: raw.items.unwrap_or(usual.items),
            id_age: id_age?,
            ids: raw.ids.unwrap_or(usual.ids),
        })
    }

    pub(super) fn history_rule(&mut self, key: &str, rule: &RawChannelRule) -> Option<HistoryRule> {
        let age = rule
            .history_age
            .as_ref()
            .map(|age| self.some_time(&format!("{key}.history_age"), age));
        Some(HistoryRule {
            items: rule.history_items,
            bytes: rule.history_bytes,
            age: super::present(age)?,
        })
    }
}
