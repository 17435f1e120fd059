//! What a channel has had lately, for clients whose content is older.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use grip::channel::ItemId;
use grip::publish::Item;

use crate::mailbox::{Sequence, Sequenced};

/// The last items of one channel in their order; shared with whoever still writes them.
///
/// It begins with an item that has an id, or follows one: nobody could name a place before that.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The last item that was forgotten, or never kept.
    forgotten: Sequence,
}

#[derive(Debug)]
struct Entry {
    sequenced: Arc<Sequenced>,
    bytes: u32,
    at: Instant,
}

/// A place in a history, behind an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// How many of the entries stand before it.
    index: usize,
}

impl History {
    /// Appends an item of so many bytes.
    pub(super) fn push(&mut self, sequenced: Arc<Sequenced>, bytes: usize, at: Instant) {
        let item = &sequenced.item;
        if self.entries.is_empty() && item.id.is_none() && item.prev_id.is_none() {
            self.forgotten = sequenced.sequence;
            return;
        }
        self.bytes += bytes;
        self.entries.push_back(Entry {
            sequenced,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            at,
        });
    }

    /// Forgets the oldest item; says how many bytes it had.
    pub(super) fn pop(&mut self) -> Option<usize> {
        let entry = self.entries.pop_front()?;
        self.forgotten = entry.sequenced.sequence;
        let bytes = entry.bytes as usize;
        self.bytes -= bytes;
        if self.entries.is_empty() {
            // A burst may have made it large.
            self.entries = VecDeque::new();
        }
        Some(bytes)
    }

    /// Items.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of these items.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last item that is not here any more, or never was.
    pub(super) fn forgotten(&self) -> Sequence {
        self.forgotten
    }

    /// The first item's place in the order, and when it came.
    pub(super) fn oldest(&self) -> Option<(Sequence, Instant)> {
        let entry = self.entries.front()?;
        Some((entry.sequenced.sequence, entry.at))
    }

    /// The ids of the first and the last item that have one.
    pub(super) fn span(&self) -> Option<(&ItemId, &ItemId)> {
        let ids = || {
            self.entries
                .iter()
                .filter_map(|it| it.sequenced.item.id.as_ref())
        };
        Some((ids().next()?, ids().next_back()?))
    }

    /// Whether an item comes after what follows it: its predecessor is here, and so is another behind
    /// that, or its successor is here.
    pub(super) fn is_behind(&self, item: &Item) -> bool {
        let is_known = |id: &ItemId| {
            self.entries.iter().rev().any(|entry| {
                let item = &entry.sequenced.item;
                item.id.as_ref() == Some(id) || item.stands_for.contains(id)
            })
        };
        let is_followed = |id: &ItemId| {
            let mut entries = self.entries.iter().rev();
            entries.any(|entry| entry.sequenced.item.prev_id.as_ref() == Some(id))
        };
        item.prev_id.as_ref().is_some_and(is_known) || item.id.as_ref().is_some_and(is_followed)
    }

    /// Where whoever has the item with this id, and nothing newer, goes on.
    pub(super) fn place_after(&self, id: &ItemId) -> Option<Place> {
        // Most clients are nearly up to date.
        for (index, entry) in self.entries.iter().enumerate().rev() {
            let item = &entry.sequenced.item;
            if item.id.as_ref() == Some(id) {
                return Some(Place { index: index + 1 });
            }
            // It follows that item, or stands for it.
            if item.prev_id.as_ref() == Some(id) || item.stands_for.contains(id) {
                return Some(Place { index });
            }
        }
        None
    }

    /// Where whoever has had everything up to `sequence` goes on, if nothing behind that was
    /// forgotten.
    pub(super) fn place_behind(&self, sequence: Sequence) -> Option<Place> {
        let is_known = self.forgotten <= sequence;
        is_known.then(|| Place {
            index: self
                .entries
                .partition_point(|entry| entry.sequenced.sequence <= sequence),
        })
    }

    /// The last place in the order of everything that stands before a place here.
    pub(super) fn sequence_at(&self, place: Place) -> Sequence {
        let before = place.index.checked_sub(1);
        let entry = before.and_then(|index| self.entries.get(index));
        match (entry, self.entries.get(place.index)) {
            (Some(entry), _) => entry.sequenced.sequence,
            // All that is known of what came before it.
            (None, Some(next)) => Sequence(next.sequenced.sequence.0.saturating_sub(1)),
            (None, None) => self.forgotten,
        }
    }

    /// The id of the item before a place, as far as the history says.
    pub(super) fn id_before(&self, place: Place) -> Option<&ItemId> {
        let before = place.index.checked_sub(1);
        if let Some(entry) = before.and_then(|index| self.entries.get(index)) {
            return entry.sequenced.item.id.as_ref();
        }
        let next = self.entries.get(place.index)?;
        next.sequenced.item.prev_id.as_ref()
    }

    /// All items from a place on.
    pub(super) fn from(&self, place: Place) -> impl Iterator<Item = &Arc<Sequenced>> {
        let entries = self.entries.iter().skip(place.index);
        entries.map(|entry| &entry.sequenced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of items such as `2<1`, one for each place in the order from 1 on.
    fn history(items: &str) -> History {
        let now = tokio::time::Instant::now().into_std();
        let mut history = History::default();
        for (index, text) in items.split(' ').enumerate() {
            let (id, prev_id) = text.split_once('<').unzip();
            let mut item = item();
            let [id, prev_id] = [id.unwrap_or(text), prev_id.unwrap_or_default()]
                .map(|id| (!id.is_empty()).then(|| ItemId::new(id)));
            item.id = id;
            item.prev_id = prev_id;
            let sequenced = Sequenced::new(Sequence(index as u64 + 1), item);
            history.push(Arc::new(sequenced), 10, now);
        }
        history
    }

    fn item() -> Item {
        let body = br#"{"items":[{"channel":"a","http-stream":{"content":""}}]}"#;
        grip::publish::parse(body, &grip::Limits::default())
            .unwrap()
            .remove(0)
    }

    fn ids<'a>(items: impl Iterator<Item = &'a Arc<Sequenced>>) -> String {
        let name = |it: &Arc<Sequenced>| it.item.id.as_ref().map_or("-", ItemId::as_str).to_owned();
        items.map(name).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check_after(history: &History, id: &str, expected: Option<&str>) {
        let place = history.place_after(&ItemId::new(id));
        let found = place.map(|place| ids(history.from(place)));
        assert_eq!(found.as_deref(), expected, "{id}");
    }

    #[test]
    fn a_client_gets_what_came_after_its_id() {
        let history = history("2<1 3<2 <3 4");
        check_after(&history, "1", Some("2 3 - 4"));
        check_after(&history, "2", Some("3 - 4"));
        check_after(&history, "3", Some("- 4"));
        check_after(&history, "4", Some(""));
        check_after(&history, "0", None);
        check_after(&history, "5", None);
    }

    #[test]
    fn an_item_that_stands_for_others_is_for_whoever_has_them() {
        let mut history = history("1");
        let mut latest = item();
        latest.id = Some(ItemId::new("4"));
        latest.prev_id = Some(ItemId::new("1"));
        latest.stands_for = vec![ItemId::new("2"), ItemId::new("3")];
        let now = tokio::time::Instant::now().into_std();
        history.push(Arc::new(Sequenced::new(Sequence(2), latest)), 10, now);
        for id in ["1", "2", "3"] {
            check_after(&history, id, Some("4"));
        }
        check_after(&history, "4", Some(""));
    }

    #[track_caller]
    fn check_behind_items(id: &str, prev_id: &str, expected: bool) {
        let mut item = item();
        item.id = Some(ItemId::new(id));
        item.prev_id = Some(ItemId::new(prev_id));
        assert_eq!(
            history("2<1 4<3").is_behind(&item),
            expected,
            "{id}<{prev_id}"
        );
    }

    #[test]
    fn an_item_is_behind_what_follows_it() {
        check_behind_items("3", "2", true);
        check_behind_items("x", "2", true);
        check_behind_items("1", "0", true);
        check_behind_items("6", "5", false);
        check_behind_items("2", "9", false);
    }

    #[test]
    fn what_is_forgotten_is_no_place_to_go_on_from() {
        let mut history = history("1 2<1 3<2");
        assert_eq!((history.len(), history.bytes()), (3, 30));
        assert_eq!(history.pop(), Some(10));
        assert_eq!((history.len(), history.bytes()), (2, 20));
        check_after(&history, "1", Some("2 3"));
        assert_eq!(history.pop(), Some(10));
        check_after(&history, "1", None);
        check_after(&history, "2", Some("3"));
        assert_eq!(history.span(), Some((&ItemId::new("3"), &ItemId::new("3"))));
        assert_eq!((history.pop(), history.pop()), (Some(10), None));
        assert_eq!(history.entries.capacity(), 0);
    }

    #[test]
    fn nobody_can_name_a_place_before_items_without_ids() {
        let history = history("");
        assert_eq!(history.len(), 0);
        assert_eq!(history.place_behind(Sequence(0)), None);
        assert!(history.place_behind(Sequence(1)).is_some());
    }

    #[track_caller]
    fn check_behind(history: &History, sequence: u64, expected: Option<(&str, &str)>) {
        let place = history.place_behind(Sequence(sequence));
        let found = place.map(|place| {
            let before = history.id_before(place).map_or("-", ItemId::as_str);
            (before.to_owned(), ids(history.from(place)))
        });
        let expected = expected.map(|(before, items)| (before.to_owned(), items.to_owned()));
        assert_eq!(found, expected, "{sequence}");
    }

    #[test]
    fn a_place_in_the_order_of_everything_is_a_place_here() {
        let mut history = history("2<1 3<2 4<3");
        check_behind(&history, 0, Some(("1", "2 3 4")));
        check_behind(&history, 1, Some(("2", "3 4")));
        check_behind(&history, 9, Some(("4", "")));
        history.pop();
        check_behind(&history, 0, None);
        check_behind(&history, 1, Some(("2", "3 4")));
    }

    #[test]
    fn a_place_here_is_a_place_in_the_order_of_everything() {
        let history = history("2<1 3<2");
        for (id, sequence) in [("1", 0), ("2", 1), ("3", 2)] {
            let place = history.place_after(&ItemId::new(id)).unwrap();
            assert_eq!(history.sequence_at(place), Sequence(sequence), "{id}");
        }
    }
}
