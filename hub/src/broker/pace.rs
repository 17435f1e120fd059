//! Purge before publish: keeps items back until the edge has forgotten their channel.
//!
//! Pure: it says which channels to purge and which items to publish, in which order. Coalescing
//! over time windows belongs here too.

use std::collections::VecDeque;

use grip::ChannelName;
use grip::publish::{Item, Purge};
use rustc_hash::FxHashMap;

/// Channels in one purge request, as many as the edge accepts.
pub(crate) const BATCH: usize = 256;

/// Items on their way to the broker.
///
/// Items of one channel leave in the order in which they came. Purges are asked for one batch at a
/// time; what comes meanwhile waits for the next batch, because its data may be newer than what
/// the running purge makes the edge forget.
#[derive(Debug)]
pub(crate) struct Pace<T> {
    default: bool,
    channels: FxHashMap<ChannelName, VecDeque<Waiting<T>>>,
    /// Channels that need a purge and have none running, in order, each once.
    queue: VecDeque<ChannelName>,
    running: Vec<ChannelName>,
    /// Items in `channels`.
    waiting: usize,
    ready: VecDeque<(Item, T)>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: Item,
    ticket: T,
    /// Whether the item was there when the running purge began.
    is_covered: bool,
}

impl<T> Pace<T> {
    /// `default` says whether items that leave it open are preceded by a purge.
    pub(crate) fn new(default: bool) -> Self {
        Self {
            default,
            channels: FxHashMap::default(),
            queue: VecDeque::new(),
            running: Vec::new(),
            waiting: 0,
            ready: VecDeque::new(),
        }
    }

    /// Takes an item in; `ticket` comes back with it.
    pub(crate) fn publish(&mut self, item: Item, ticket: T) {
        let waits = self.channels.contains_key(&item.channel);
        if !waits && !self.needs_purge(&item) {
            self.ready.push_back((item, ticket));
            return;
        }
        if !waits {
            self.queue.push_back(item.channel.clone());
        }
        self.waiting += 1;
        let waiting = Waiting {
            ticket,
            is_covered: false,
            item,
        };
        self.channels
            .entry(waiting.item.channel.clone())
            .or_default()
            .push_back(waiting);
    }

    /// The channels to purge next, at most [`BATCH`]; `None` while a purge runs or none is needed.
    /// Answer with [`Self::handle_purged`], whatever came of it.
    pub(crate) fn next_purge(&mut self) -> Option<&[ChannelName]> {
        if !self.running.is_empty() || self.queue.is_empty() {
            return None;
        }
        self.running = self.queue.drain(..self.queue.len().min(BATCH)).collect();
        for channel in &self.running {
            for waiting in self.channels.get_mut(channel).into_iter().flatten() {
                waiting.is_covered = true;
            }
        }
        Some(&self.running)
    }

    /// The running purge is over, or has taken too long: its items go out.
    pub(crate) fn handle_purged(&mut self) {
        for channel in std::mem::take(&mut self.running) {
            let Some(mut waiting) = self.channels.remove(&channel) else {
                continue;
            };
            // What came during the purge follows at once, up to the first that needs its own.
            while let Some(next) = waiting.pop_front() {
                if next.is_covered || !self.needs_purge(&next.item) {
                    self.waiting -= 1;
                    self.ready.push_back((next.item, next.ticket));
                } else {
                    waiting.push_front(next);
                    break;
                }
            }
            if !waiting.is_empty() {
                self.channels.insert(channel.clone(), waiting);
                self.queue.push_back(channel);
            }
        }
    }

    /// The next item to publish; ask until `None`.
    pub(crate) fn next_ready(&mut self) -> Option<(Item, T)> {
        self.ready.pop_front()
    }

    /// Whether nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.channels.is_empty() && self.ready.is_empty()
    }

    /// Items that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting + self.ready.len()
    }

    fn needs_purge(&self, item: &Item) -> bool {
        match item.purge {
            Purge::Before => true,
            Purge::Never => false,
            Purge::Default => self.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a1` is an item of channel `a` that needs a purge, `a1-` one that does not.
    fn publish(pace: &mut Pace<&'static str>, name: &'static str) {
        let body = format!(
            r#"{{"items":[{{"channel":"{}","purge":{},"http-stream":{{"content":"{name}"}}}}]}}"#,
            &name[..1],
            !name.ends_with('-')
        );
        let item = grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .unwrap()
            .remove(0);
        pace.publish(item, name);
    }

    fn ready(pace: &mut Pace<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| pace.next_ready())
            .map(|(_, name)| name)
            .collect()
    }

    fn purge(pace: &mut Pace<&'static str>) -> Vec<String> {
        pace.next_purge()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_item_waits_for_its_channels_purge_only() {
        let mut pace = Pace::new(false);
        for name in ["a1", "b1-", "b2-"] {
            publish(&mut pace, name);
        }
        assert_eq!(ready(&mut pace), ["b1-", "b2-"]);
        assert_eq!(purge(&mut pace), ["a"]);
        assert_eq!(ready(&mut pace), [""; 0]);
        pace.handle_purged();
        assert_eq!(ready(&mut pace), ["a1"]);
        assert!(pace.is_idle());
    }

    #[test]
    fn items_that_come_during_a_purge_share_the_next_one() {
        let mut pace = Pace::new(false);
        publish(&mut pace, "a1");
        assert_eq!(purge(&mut pace), ["a"]);
        for name in ["a2", "a3", "b1"] {
            publish(&mut pace, name);
        }
        assert_eq!(purge(&mut pace), [""; 0]);
        pace.handle_purged();
        assert_eq!(ready(&mut pace), ["a1"]);
        assert_eq!(purge(&mut pace), ["b", "a"]);
        assert_eq!(pace.len(), 3);
        pace.handle_purged();
        assert_eq!(ready(&mut pace), ["b1", "a2", "a3"]);
        assert!(pace.is_idle());
    }

    #[test]
    fn an_item_that_needs_no_purge_does_not_overtake_its_channel() {
        let mut pace = Pace::new(false);
        publish(&mut pace, "a1");
        publish(&mut pace, "a2-");
        assert_eq!(purge(&mut pace), ["a"]);
        publish(&mut pace, "a3-");
        pace.handle_purged();
        assert_eq!(ready(&mut pace), ["a1", "a2-", "a3-"]);
        assert!(pace.is_idle());
    }

    #[test]
    fn a_batch_is_as_large_as_the_edge_accepts() {
        let mut pace = Pace::new(true);
        let body: Vec<String> = (0..300)
            .map(|n| format!(r#"{{"channel":"c{n}","http-stream":{{"content":""}}}}"#))
            .collect();
        let body = format!(r#"{{"items":[{}]}}"#, body.join(","));
        for item in grip::publish::parse(body.as_bytes(), &grip::Limits::default()).unwrap() {
            pace.publish(item, ());
        }
        assert_eq!(pace.next_purge().unwrap().len(), BATCH);
        pace.handle_purged();
        assert_eq!(pace.next_purge().unwrap().len(), 44);
    }
}
