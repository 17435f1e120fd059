//! Ids of items that were published lately, so that none is published twice.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use grip::ChannelName;
use grip::publish::Item;
use rustc_hash::FxHashSet;

/// Knows which ids each channel has had, for a while.
///
/// A publisher that got no answer sends its items again; this finds them. It keeps 128 bits of each
/// id, by hashes whose keys nobody knows: that two ids look the same is as likely as that the
/// machine errs.
#[derive(Debug)]
pub(crate) struct Duplicates {
    /// Zero: nothing is remembered.
    age: Duration,
    max: usize,
    keys: [RandomState; 2],
    known: FxHashSet<u128>,
    /// When each is forgotten, the next one first.
    order: VecDeque<(Instant, u128)>,
}

/// Whether an item came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Novelty {
    New,
    Duplicate,
}

impl Duplicates {
    /// Remembers up to `max` ids, each for `age`.
    pub(crate) fn new(age: Duration, max: usize) -> Self {
        Self {
            age,
            max,
            keys: [RandomState::new(), RandomState::new()],
            known: FxHashSet::default(),
            order: VecDeque::new(),
        }
    }

    /// Remembers nothing.
    pub(crate) fn off() -> Self {
        Self::new(Duration::ZERO, 0)
    }

    /// Whether the item's channel has had its id lately. From now on it has.
    pub(crate) fn note(&mut self, item: &Item, now: Instant) -> Novelty {
        let Some(id) = &item.id else {
            return Novelty::New;
        };
        if self.age.is_zero() || self.max == 0 {
            return Novelty::New;
        }
        while let Some((_, oldest)) = self.order.pop_front_if(|(until, _)| *until <= now) {
            self.known.remove(&oldest);
        }
        let print = self.print(&item.channel, id.as_str());
        if !self.known.insert(print) {
            return Novelty::Duplicate;
        }
        self.order.push_back((now + self.age, print));
        if self.order.len() > self.max
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        Novelty::New
    }

    fn print(&self, channel: &ChannelName, id: &str) -> u128 {
        let [high, low] = self
            .keys
            .each_ref()
            .map(|key| u128::from(key.hash_one((channel.as_str(), id))));
        (high << 64) | low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(channel: &str, id: &str) -> Item {
        let body = format!(
            r#"{{"items":[{{"channel":"{channel}"{id},"http-stream":{{"content":""}}}}]}}"#
        );
        grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .unwrap()
            .remove(0)
    }

    struct Bench {
        duplicates: Duplicates,
        now: Instant,
    }

    impl Bench {
        fn new(max: usize) -> Self {
            Self {
                duplicates: Duplicates::new(Duration::from_mins(1), max),
                now: tokio::time::Instant::now().into_std(),
            }
        }

        #[track_caller]
        fn check(&mut self, channel: &str, id: &str, expected: Novelty) {
            let item = item(channel, &format!(r#","id":"{id}""#));
            assert_eq!(self.duplicates.note(&item, self.now), expected);
        }
    }

    #[test]
    fn an_id_is_known_for_its_channel_and_for_a_while() {
        let mut bench = Bench::new(10);
        bench.check("a", "1", Novelty::New);
        bench.check("b", "1", Novelty::New);
        bench.check("a", "2", Novelty::New);
        bench.now += Duration::from_millis(59_999);
        bench.check("a", "1", Novelty::Duplicate);
        bench.now += Duration::from_millis(1);
        bench.check("a", "1", Novelty::New);
        bench.check("a", "1", Novelty::Duplicate);
    }

    #[test]
    fn the_oldest_ids_are_forgotten_first() {
        let mut bench = Bench::new(2);
        for id in ["1", "2", "3"] {
            bench.check("a", id, Novelty::New);
        }
        bench.check("a", "2", Novelty::Duplicate);
        bench.check("a", "3", Novelty::Duplicate);
        bench.check("a", "1", Novelty::New);
        assert_eq!(bench.duplicates.known.len(), 2);
    }

    #[test]
    fn items_without_id_are_always_new() {
        let mut bench = Bench::new(10);
        for _ in 0..2 {
            let item = item("a", "");
            assert_eq!(bench.duplicates.note(&item, bench.now), Novelty::New);
        }
        assert!(bench.duplicates.known.is_empty());
    }

    #[test]
    fn switched_off_it_knows_nothing() {
        let mut bench = Bench::new(10);
        bench.duplicates = Duplicates::off();
        for _ in 0..2 {
            bench.check("a", "1", Novelty::New);
        }
    }
}
