//! What the broker knows of its channels, for operators.

use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use grip::ChannelName;
use grip::channel::ItemId;

use super::channels::{Broker, Channel};
use crate::mailbox::{Command, CountReply, ShardId};

/// Which channels are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inspection {
    /// This one, if it is known.
    Channel(ChannelName),
    /// The first in the order of their names.
    Page {
        /// Only those behind this name.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
}

/// A channel as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelView {
    pub(crate) name: ChannelName,
    /// The id of its last item in order, if that is known.
    pub(crate) last_id: Option<ItemId>,
    /// Absent: nothing is remembered.
    pub(crate) history: Option<HistoryView>,
}

/// What is remembered of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryView {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
    /// Of the first item that has one.
    pub(crate) first_id: Option<ItemId>,
    /// Of the last item that has one.
    pub(crate) last_id: Option<ItemId>,
    /// Since the first item came.
    pub(crate) age: Duration,
}

impl Broker {
    /// The channels that are looked at. The shards that have connections on any of them are asked to
    /// count these, behind everything that was said to them before.
    pub(crate) fn inspect(
        &mut self,
        inspection: &Inspection,
        reply: CountReply,
        now: Instant,
    ) -> Vec<ChannelView> {
        let views = match inspection {
            Inspection::Channel(name) => self.view(name, now).into_iter().collect(),
            Inspection::Page { after, limit } => self.page(after.as_deref(), *limit, now),
        };
        let shards = self.shards_of(&views);
        let count = Command::Count {
            channels: views.iter().map(|view| view.name.clone()).collect(),
            reply,
        };
        self.tell(shards, &count);
        views
    }

    /// The shards with connections on any of these channels, each once.
    fn shards_of(&self, views: &[ChannelView]) -> Vec<ShardId> {
        let mut shards = Vec::new();
        let known = views
            .iter()
            .filter_map(|view| self.channels.get(&view.name));
        for shard in known.flat_map(Channel::shards) {
            if !shards.contains(&shard) {
                shards.push(shard);
            }
        }
        shards
    }

    /// A channel that is known.
    fn view(&self, name: &ChannelName, now: Instant) -> Option<ChannelView> {
        let channel = self.channels.get(name)?;
        Some(channel.view(name, now))
    }

    /// The first channels in the order of their names, behind `after`; at most `limit`.
    ///
    /// Looks at all names, so that there is nothing to keep up for pages that are seldom asked for.
    fn page(&self, after: Option<&str>, limit: usize, now: Instant) -> Vec<ChannelView> {
        // The smallest names so far, the largest of them on top.
        let mut names = BinaryHeap::new();
        let is_behind = |name: &&ChannelName| after.is_none_or(|after| name.as_str() > after);
        for name in self.channels.keys().filter(is_behind) {
            if names.len() < limit {
                names.push(name);
            } else if let Some(mut largest) = names.peek_mut()
                && name < *largest
            {
                *largest = name;
            }
        }
        let names = names.into_sorted_vec();
        names
            .into_iter()
            .filter_map(|name| self.view(name, now))
            .collect()
    }
}

impl Channel {
    fn view(&self, name: &ChannelName, now: Instant) -> ChannelView {
        let history = self.history();
        let (first_id, last_id) = history.span().unzip();
        ChannelView {
            name: name.clone(),
            last_id: self.last_id().cloned(),
            history: history.oldest().map(|(_, at)| HistoryView {
                items: history.len(),
                bytes: history.bytes(),
                first_id: first_id.cloned(),
                last_id: last_id.cloned(),
                age: now.saturating_duration_since(at),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::channels::settings;
    use crate::config::FirstSubscription;
    use crate::mailbox::{Attachment, ConnectionKey, Wanted};

    fn broker(items: &[(&str, &str)]) -> (Broker, Instant) {
        let now = tokio::time::Instant::now().into_std();
        let mut broker = Broker::new(settings(FirstSubscription::Leave), now);
        for (channel, id) in items {
            let body = format!(
                r#"{{"items":[{{"channel":"{channel}","id":"{id}","http-stream":{{"content":""}}}}]}}"#
            );
            let items = grip::publish::parse(body.as_bytes(), &grip::Limits::default());
            broker.publish(items.unwrap().remove(0), now);
        }
        (broker, now)
    }

    #[test]
    fn a_channel_tells_its_last_id_and_what_is_remembered() {
        let (broker, now) = broker(&[("a", "1"), ("a", "2")]);
        let later = now + Duration::from_secs(3);
        let view = broker.view(&ChannelName::new("a"), later).unwrap();
        assert_eq!(view.last_id, Some(ItemId::new("2")));
        let history = view.history.unwrap();
        assert_eq!(history.items, 2);
        assert!(history.bytes > 0);
        assert_eq!(history.first_id, Some(ItemId::new("1")));
        assert_eq!(history.last_id, Some(ItemId::new("2")));
        assert_eq!(history.age, Duration::from_secs(3));
        assert_eq!(broker.view(&ChannelName::new("b"), later), None);
    }

    #[test]
    fn pages_are_in_the_order_of_names() {
        let items: Vec<(String, &str)> = (0..25).map(|n| (format!("c{n:02}ü"), "1")).collect();
        let items: Vec<(&str, &str)> = items
            .iter()
            .map(|(name, id)| (name.as_str(), *id))
            .collect();
        let (broker, now) = broker(&items);
        let mut names = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = broker.page(after.as_deref(), 10, now);
            assert!(page.len() <= 10);
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.name.as_str().to_owned());
            names.extend(page.into_iter().map(|view| view.name.as_str().to_owned()));
        }
        let expected: Vec<&str> = items.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, expected);
    }

    /// Looks at all channels in pages of this size.
    #[track_caller]
    fn check_pages(names: &[&str], after: Option<&str>, limit: usize, expected: &[&[&str]]) {
        let items: Vec<(&str, &str)> = names.iter().map(|name| (*name, "1")).collect();
        let (broker, now) = broker(&items);
        let mut after = after.map(str::to_owned);
        let mut pages = Vec::new();
        loop {
            let page = broker.page(after.as_deref(), limit, now);
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.name.as_str().to_owned());
            let names = page.iter().map(|view| view.name.as_str().to_owned());
            pages.push(names.collect::<Vec<_>>());
            assert!(pages.len() <= expected.len(), "{pages:?}");
        }
        assert_eq!(pages, expected);
    }

    #[test]
    fn a_page_is_full_unless_it_is_the_last() {
        let names = ["b", "d", "a", "e", "c"];
        check_pages(&names, None, 1, &[&["a"], &["b"], &["c"], &["d"], &["e"]]);
        check_pages(&names, None, 2, &[&["a", "b"], &["c", "d"], &["e"]]);
        check_pages(&names, None, 5, &[&["a", "b", "c", "d", "e"]]);
        check_pages(&names, None, usize::MAX, &[&["a", "b", "c", "d", "e"]]);
        check_pages(&[], None, 1, &[]);
    }

    #[test]
    fn a_page_begins_behind_a_name_that_need_not_be_a_channels() {
        let names = ["a", "c", "e"];
        check_pages(&names, Some(""), 9, &[&["a", "c", "e"]]);
        check_pages(&names, Some("a"), 9, &[&["c", "e"]]);
        check_pages(&names, Some("b"), 1, &[&["c"], &["e"]]);
        check_pages(&names, Some("e"), 9, &[]);
    }

    #[test]
    fn names_are_ordered_by_their_code_points() {
        let names = ["é", "z", "Z", "a/b", "a b", "a", "😀", "10", "9", "日本"];
        let ordered: &[&str] = &["10", "9", "Z", "a", "a b", "a/b", "z", "é", "日本", "😀"];
        check_pages(&names, None, 20, &[ordered]);
        check_pages(&names, None, 7, &[&ordered[..7], &ordered[7..]]);
    }

    #[test]
    fn the_shards_that_want_a_channel_count_each_once() {
        let (mut broker, now) = broker(&[("c", "1")]);
        for (shard, channels) in [(3, "a"), (1, "a b"), (0, "d"), (1, "b")] {
            let channels = channels.split(' ').map(|name| Attachment {
                channel: ChannelName::new(name),
                position: None,
            });
            let wanted = Wanted {
                channels: channels.collect(),
                resume: None,
            };
            let key = ConnectionKey {
                index: 0,
                generation: 0,
            };
            broker.attach(ShardId(shard), key, &wanted, now);
        }
        while broker.poll_output().is_some() {}
        let mut check = |inspection: Inspection, expected: &[&str], shards: &[usize]| {
            let (reply, _) = CountReply::new();
            let views = broker.inspect(&inspection, reply.clone(), now);
            let names: Vec<ChannelName> = views.into_iter().map(|view| view.name).collect();
            let expected: Vec<ChannelName> =
                expected.iter().map(|it| ChannelName::new(it)).collect();
            assert_eq!(names, expected);
            let count = Command::Count {
                channels: names.into(),
                reply,
            };
            let outputs: Vec<_> = std::iter::from_fn(|| broker.poll_output()).collect();
            let told = shards.iter().map(|shard| (ShardId(*shard), count.clone()));
            assert_eq!(outputs, told.collect::<Vec<_>>());
        };
        let page = |limit| Inspection::Page { after: None, limit };
        let channel = |name| Inspection::Channel(ChannelName::new(name));
        check(page(3), &["a", "b", "c"], &[3, 1]);
        check(page(9), &["a", "b", "c", "d"], &[3, 1, 0]);
        check(channel("b"), &["b"], &[1]);
        check(channel("c"), &["c"], &[]);
        check(channel("e"), &[], &[]);
    }
}
