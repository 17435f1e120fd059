//! How much may wait between publishers and the shards' mailboxes, for the whole process.
//!
//! [`Intake`] is shared by all publishers. An item that is let in has its [`Room`] with it wherever
//! it waits, so no queue on the way needs a bound of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use grip::publish::Item;

use super::size;

/// What an item that stands for itself is taken for: one without content.
const NOTHING: usize = 512;

/// Who is full lets nothing in: publishers are told to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many items wait to be published")]
pub(crate) struct Overloaded;

/// How much waits, or may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) items: usize,
    /// As [`size::of`] has them.
    pub(crate) bytes: usize,
}

/// The count of all that was accepted and is in no mailbox yet.
#[derive(Debug, Clone)]
pub(crate) struct Intake(Arc<Shared>);

/// Nothing else is told by these numbers, so they need no order among each other.
#[derive(Debug)]
struct Shared {
    limit: Waiting,
    items: AtomicUsize,
    bytes: AtomicUsize,
}

/// An item that was let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) item: Item,
    pub(crate) room: Room,
}

/// What one item takes up until it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Intake {
    pub(crate) fn new(limit: Waiting) -> Self {
        Self(Arc::new(Shared {
            limit,
            items: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }))
    }

    /// Lets a request's items in, all or none of them. Where nothing waits, any request is let in:
    /// it is bounded by itself, and would be refused for ever.
    pub(crate) fn admit(&self, items: Vec<Item>) -> Result<Vec<Admitted>, Overloaded> {
        let sizes = items.iter().map(size::of);
        self.0.take(items.len(), sizes.sum())?;
        let admitted = items.into_iter().map(|item| {
            let bytes = size::of(&item);
            let shared = Arc::clone(&self.0);
            let room = Room { shared, bytes };
            Admitted { item, room }
        });
        Ok(admitted.collect())
    }

    /// Room for what has no content but has to wait like an item.
    pub(crate) fn admit_nothing(&self) -> Result<Room, Overloaded> {
        self.0.take(1, NOTHING)?;
        Ok(Room {
            shared: Arc::clone(&self.0),
            bytes: NOTHING,
        })
    }

    pub(crate) fn waiting(&self) -> Waiting {
        Waiting {
            items: self.0.items.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn take(&self, items: usize, bytes: usize) -> Result<(), Overloaded> {
        let before = add(&self.items, items, |before| {
            before == 0 || before.saturating_add(items) <= self.limit.items
        })?;
        let taken = add(&self.bytes, bytes, |waiting| {
            before == 0 || waiting.saturating_add(bytes) <= self.limit.bytes
        });
        if taken.is_err() {
            self.items.fetch_sub(items, Ordering::Relaxed);
        }
        taken.map(drop)
    }
}

/// Adds to a number unless it may not be, and returns what it was.
fn add(
    number: &AtomicUsize,
    more: usize,
    may: impl Fn(usize) -> bool,
) -> Result<usize, Overloaded> {
    number
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            may(before).then(|| before.saturating_add(more))
        })
        .map_err(|_| Overloaded)
}

impl Admitted {
    /// Has the room fit the item again after it was changed. What grows here was let in already.
    pub(crate) fn fit(&mut self) {
        let bytes = size::of(&self.item);
        let waiting = &self.room.shared.bytes;
        if bytes > self.room.bytes {
            waiting.fetch_add(bytes - self.room.bytes, Ordering::Relaxed);
        } else {
            waiting.fetch_sub(self.room.bytes - bytes, Ordering::Relaxed);
        }
        self.room.bytes = bytes;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.items.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(contents: &[&str]) -> Vec<Item> {
        let items: Vec<String> = contents
            .iter()
            .map(|content| format!(r#"{{"channel":"a","http-stream":{{"content":"{content}"}}}}"#))
            .collect();
        let body = format!(r#"{{"items":[{}]}}"#, items.join(","));
        grip::publish::parse(body.as_bytes(), &grip::Limits::default()).unwrap()
    }

    /// The size of an item with so much content.
    fn size(content: usize) -> usize {
        size::of(&items(&[&"x".repeat(content)])[0])
    }

    fn intake(items: usize, bytes: usize) -> Intake {
        Intake::new(Waiting { items, bytes })
    }

    #[track_caller]
    fn check_waiting(intake: &Intake, items: usize, bytes: usize) {
        assert_eq!(intake.waiting(), Waiting { items, bytes });
    }

    #[test]
    fn what_waits_is_counted_until_it_is_dropped() {
        let intake = intake(10, 10_000);
        let mut admitted = intake.admit(items(&["", "four"])).unwrap();
        check_waiting(&intake, 2, size(0) + size(4));
        drop(admitted.remove(0));
        check_waiting(&intake, 1, size(4));
        drop(admitted);
        check_waiting(&intake, 0, 0);
    }

    #[test]
    fn a_request_is_let_in_as_a_whole_or_not_at_all() {
        let intake = intake(3, 1_000_000);
        let first = intake.admit(items(&["1", "2"])).unwrap();
        assert_eq!(intake.admit(items(&["3", "4"])).err(), Some(Overloaded));
        check_waiting(&intake, 2, 2 * size(1));
        let second = intake.admit(items(&["3"])).unwrap();
        assert_eq!(intake.admit(items(&["4"])).err(), Some(Overloaded));
        assert_eq!(intake.admit_nothing().err(), Some(Overloaded));
        drop(first);
        let third = intake.admit(items(&["4", "5"])).unwrap();
        check_waiting(&intake, 3, 3 * size(1));
        drop((second, third));
        check_waiting(&intake, 0, 0);
    }

    #[test]
    fn bytes_are_limited_like_items() {
        let intake = intake(100, 2 * size(4));
        let first = intake.admit(items(&["four"])).unwrap();
        assert_eq!(intake.admit(items(&["fiver"])).err(), Some(Overloaded));
        check_waiting(&intake, 1, size(4));
        let second = intake.admit(items(&["four"])).unwrap();
        check_waiting(&intake, 2, 2 * size(4));
        drop((first, second));
        check_waiting(&intake, 0, 0);
    }

    #[test]
    fn any_request_is_let_in_where_nothing_waits() {
        let intake = intake(1, 1);
        let first = intake.admit(items(&["one", "two"])).unwrap();
        assert_eq!(intake.admit(items(&["x"])).err(), Some(Overloaded));
        drop(first);
        let room = intake.admit_nothing().unwrap();
        check_waiting(&intake, 1, NOTHING);
        drop(room);
        check_waiting(&intake, 0, 0);
    }

    #[test]
    fn an_item_that_was_changed_takes_what_it_takes_now() {
        let intake = intake(10, 10_000);
        let mut admitted = intake.admit(items(&["x", "another"])).unwrap();
        let longer = items(&["longer"]).remove(0);
        for (item, content) in [(longer, 6), (items(&[""]).remove(0), 0)] {
            admitted[0].item = item;
            admitted[0].fit();
            check_waiting(&intake, 2, size(content) + size(7));
        }
        drop(admitted);
        check_waiting(&intake, 0, 0);
    }

    /// Threads that come and go: never more than the limit, and nothing is left of them.
    #[test]
    fn publishers_share_one_limit() {
        const LIMIT: usize = 5;
        let intake = intake(LIMIT, LIMIT * size(1));
        // With it there, no request finds nothing that waits.
        let lasting = intake.admit(items(&["0"])).unwrap();
        let admitted: usize = std::thread::scope(|scope| {
            let publish = || {
                let mut count = 0;
                for _ in 0..2_000 {
                    if let Ok(admitted) = intake.admit(items(&["1", "2"])) {
                        count += admitted.len();
                        let waiting = intake.waiting();
                        assert!(waiting.items <= LIMIT, "{waiting:?}");
                        assert!(waiting.bytes <= LIMIT * size(1), "{waiting:?}");
                    }
                }
                count
            };
            let publishers: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
            publishers.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert!(admitted > 0);
        check_waiting(&intake, 1, size(1));
        drop(lasting);
        check_waiting(&intake, 0, 0);
    }
}
