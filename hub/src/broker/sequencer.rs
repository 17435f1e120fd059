//! The order of a channel's items, by their ids; publish members `id` and `prev-id`.

use std::collections::VecDeque;
use std::time::Instant;

use grip::channel::ItemId;
use grip::publish::{Item, Sequencing};

/// What one channel has had last, and the items that came too early.
#[derive(Debug, Default)]
pub(super) struct Sequencer {
    /// The id of the last item that went through in order, if it is known.
    last_id: Option<ItemId>,
    /// In the order in which they came.
    #[expect(
        clippy::box_collection,
        reason = "most channels have none, and pay for a pointer, not for a queue"
    )]
    early: Option<Box<VecDeque<Early>>>,
}

/// An item that waits for the one before it.
#[derive(Debug)]
struct Early {
    item: Item,
    /// When it goes out all the same.
    until: Instant,
}

/// What becomes of an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It goes out now, and others may follow it: [`Sequencer::next_after_it`].
    Now(Item),
    /// It waits.
    Later,
    /// The channel has had what follows its predecessor: it goes out now, out of order.
    TooLate(Item),
}

impl Sequencer {
    /// The id of the last item in order.
    pub(super) fn last_id(&self) -> Option<&ItemId> {
        self.last_id.as_ref()
    }

    /// Whether an item with this id waits.
    pub(super) fn is_waiting(&self, id: &ItemId) -> bool {
        self.early().any(|early| early.item.id.as_ref() == Some(id))
    }

    /// How many items wait.
    pub(super) fn waiting(&self) -> usize {
        self.early.as_ref().map_or(0, |early| early.len())
    }

    /// Takes an item that is to be ordered. `is_late` says whether the channel is known to have had
    /// what comes after it.
    pub(super) fn take(
        &mut self,
        item: Item,
        until: Instant,
        is_late: impl Fn(&Item) -> bool,
    ) -> Turn {
        match (&self.last_id, &item.prev_id) {
            (Some(last), Some(prev)) if last != prev => {
                if is_late(&item) {
                    return Turn::TooLate(item);
                }
                let early = self.early.get_or_insert_default();
                early.push_back(Early { item, until });
                Turn::Later
            }
            _ => {
                self.pass(&item);
                Turn::Now(item)
            }
        }
    }

    /// The item that comes next, now that its predecessor went out; ask until `None`.
    pub(super) fn next_after_it(&mut self) -> Option<Item> {
        let last = self.last_id.as_ref()?;
        let at = self
            .early()
            .position(|early| early.item.prev_id.as_ref() == Some(last))?;
        let item = self.remove(at)?;
        self.pass(&item);
        Some(item)
    }

    /// The oldest waiting item, if its time is over at `now`; it goes out although its predecessor
    /// never came. Ask [`Self::next_after_it`] after each.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        is_late: impl Fn(&Item) -> bool,
    ) -> Option<Turn> {
        let is_over = self.early().next().is_some_and(|early| early.until <= now);
        if is_over { self.oldest(is_late) } else { None }
    }

    /// The oldest waiting item, because too many wait. Ask [`Self::next_after_it`] after it.
    pub(super) fn oldest(&mut self, is_late: impl Fn(&Item) -> bool) -> Option<Turn> {
        let item = self.remove(self.first_of_chain(0))?;
        if is_late(&item) {
            return Some(Turn::TooLate(item));
        }
        self.pass(&item);
        Some(Turn::Now(item))
    }

    /// An item goes out as it comes, whatever it follows.
    pub(super) fn skip_to(&mut self, item: &Item) {
        self.pass(item);
    }

    /// The last id is not to be relied on any more.
    pub(super) fn forget(&mut self) {
        self.last_id = None;
    }

    fn early(&self) -> impl Iterator<Item = &Early> {
        self.early.iter().flat_map(|early| early.iter())
    }

    /// The first of the waiting items that lead to the one at `at`.
    fn first_of_chain(&self, mut at: usize) -> usize {
        // A ring of items, each of which follows another, ends somewhere too.
        for _ in 0..self.waiting() {
            let item = self.early().nth(at).map(|early| &early.item);
            let Some(prev_id) = item.and_then(|item| item.prev_id.as_ref()) else {
                break;
            };
            let before = |early: &Early| early.item.id.as_ref() == Some(prev_id);
            let Some(found) = self.early().position(before) else {
                break;
            };
            at = found;
        }
        at
    }

    fn remove(&mut self, at: usize) -> Option<Item> {
        let early = self.early.as_mut()?;
        let Early { item, .. } = early.remove(at)?;
        if early.is_empty() {
            self.early = None;
        }
        Some(item)
    }

    fn pass(&mut self, item: &Item) {
        debug_assert_eq!(item.sequencing, Sequencing::Ordered);
        self.last_id.clone_from(&item.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn item(id: &str, prev_id: &str) -> Item {
        let member = |name: &str, id: &str| {
            if id.is_empty() {
                String::new()
            } else {
                format!(r#","{name}":"{id}""#)
            }
        };
        let body = format!(
            r#"{{"items":[{{"channel":"a","http-stream":{{"content":""}}{}{}}}]}}"#,
            member("id", id),
            member("prev-id", prev_id)
        );
        grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .unwrap()
            .remove(0)
    }

    /// A sequencer whose channel has had the items `had`, and its clock.
    struct Bench {
        sequencer: Sequencer,
        had: Vec<ItemId>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                sequencer: Sequencer::default(),
                had: Vec::new(),
                now: tokio::time::Instant::now().into_std(),
            }
        }

        /// Takes items such as `2<1`, and returns what goes out: `2`, or `2!` if it is too late.
        fn take(&mut self, items: &str) -> String {
            let mut out = Vec::new();
            for text in items.split(' ') {
                let (id, prev_id) = text.split_once('<').unwrap_or((text, ""));
                let until = self.now + Duration::from_secs(5);
                let had = &self.had;
                let turn = self
                    .sequencer
                    .take(item(id, prev_id), until, |item| is_late(had, item));
                self.put(&mut out, turn);
            }
            out.join(" ")
        }

        fn overdue(&mut self) -> String {
            let mut out = Vec::new();
            loop {
                let had = &self.had;
                let overdue = self.sequencer.overdue(self.now, |item| is_late(had, item));
                let Some(turn) = overdue else {
                    break;
                };
                self.put(&mut out, turn);
            }
            out.join(" ")
        }

        fn put(&mut self, out: &mut Vec<String>, turn: Turn) {
            let mut next = match turn {
                Turn::Now(item) => Some(item),
                Turn::Later => None,
                Turn::TooLate(item) => {
                    out.push(format!("{}!", name(&item)));
                    None
                }
            };
            while let Some(item) = next {
                self.had.extend(item.id.clone());
                out.push(name(&item));
                next = self.sequencer.next_after_it();
            }
        }
    }

    fn is_late(had: &[ItemId], item: &Item) -> bool {
        item.prev_id.as_ref().is_some_and(|id| had.contains(id))
    }

    fn name(item: &Item) -> String {
        item.id.as_ref().map_or("-", ItemId::as_str).to_owned()
    }

    #[track_caller]
    fn check(items: &str, expected: &str) {
        assert_eq!(Bench::new().take(items), expected, "{items}");
    }

    #[test]
    fn items_go_out_behind_the_one_that_they_follow() {
        check("1 2<1 3<2", "1 2 3");
        check("1 3<2 2<1", "1 2 3");
        check("1 4<3 3<2 5<4 2<1", "1 2 3 4 5");
        check("1 3<2 4<3", "1");
    }

    #[test]
    fn what_follows_nothing_never_waits() {
        check("7<6 9", "7 9");
        check("1 2 3<2", "1 2 3");
    }

    #[test]
    fn behind_an_item_without_id_anything_goes() {
        check("1 <1 9<8", "1 - 9");
        check("1 3<2 <1 9<8", "1 - 9");
    }

    #[test]
    fn whoever_follows_what_was_followed_already_is_too_late() {
        check("1 2<1 3<1", "1 2 3!");
        check("1 2<1 3<1 4<2", "1 2 3! 4");
    }

    #[test]
    fn both_of_two_that_wait_for_the_same_go_out() {
        let mut bench = Bench::new();
        assert_eq!(bench.take("1 3<2 4<2 2<1"), "1 2 3");
        bench.now += Duration::from_secs(5);
        assert_eq!(bench.overdue(), "4!");
        assert_eq!(bench.take("5<3"), "5");
    }

    #[test]
    fn an_item_waits_only_so_long() {
        let mut bench = Bench::new();
        assert_eq!(bench.take("1 3<2 4<3"), "1");
        bench.now += Duration::from_millis(4_999);
        assert_eq!(bench.overdue(), "");
        bench.now += Duration::from_millis(1);
        assert_eq!(bench.overdue(), "3 4");
        assert_eq!(bench.sequencer.waiting(), 0);
        assert_eq!(bench.take("5<4"), "5");
    }

    #[test]
    fn of_items_that_wait_too_long_the_first_in_order_goes_first() {
        let mut bench = Bench::new();
        assert_eq!(bench.take("1 5<4 4<3 3<2"), "1");
        bench.now += Duration::from_secs(5);
        assert_eq!(bench.overdue(), "3 4 5");
    }

    #[test]
    fn a_ring_of_items_goes_out_too() {
        let mut bench = Bench::new();
        assert_eq!(bench.take("1 5<6 6<5"), "1");
        bench.now += Duration::from_secs(5);
        assert_eq!(bench.overdue(), "5 6");
    }

    #[test]
    fn the_oldest_goes_first_when_too_many_wait() {
        let mut bench = Bench::new();
        bench.take("1 9<8 3<2 4<3");
        assert_eq!(bench.sequencer.waiting(), 3);
        let oldest = bench.sequencer.oldest(|_| false);
        assert_eq!(oldest, Some(Turn::Now(item("9", "8"))));
        assert_eq!(bench.sequencer.last_id(), Some(&ItemId::new("9")));
        assert_eq!(bench.sequencer.next_after_it(), None);
    }

    #[test]
    fn waiting_ids_are_known() {
        let mut bench = Bench::new();
        bench.take("1 3<2");
        assert!(bench.sequencer.is_waiting(&ItemId::new("3")));
        assert!(!bench.sequencer.is_waiting(&ItemId::new("2")));
        bench.take("2<1");
        assert!(!bench.sequencer.is_waiting(&ItemId::new("3")));
    }
}
