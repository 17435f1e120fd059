//! Connections whose outboxes got something, in the order in which they are written to.

use std::collections::VecDeque;

use crate::mailbox::ConnectionKey;

/// Connections that are written to before others have their turn.
const TURN: usize = 256;

/// Who is to be written to; each connection is in it once at most.
///
/// A fan-out to many connections has a queue of its own, or goes on in the one that its cause has
/// already. These queues and the one of all other connections have their turns: a channel with many
/// subscribers delays nobody else by more than a turn, and of its own subscribers none is written to
/// again before all are.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    few: VecDeque<ConnectionKey>,
    many: VecDeque<FanOut>,
    /// Where connections are queued now.
    queue: Queue,
    turn: Turn,
    /// Taken in this turn.
    taken: usize,
}

/// Why many connections are to be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// An item, by the channel's number among subscriptions.
    Item(u32),
    /// News of what these and others asked for.
    News(ConnectionKey),
    /// The time is up.
    Deadline,
}

#[derive(Debug)]
struct FanOut {
    cause: Cause,
    keys: VecDeque<ConnectionKey>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    OfFew,
    OfMany,
}

/// Where connections are queued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Queue {
    #[default]
    Few,
    /// The fan-out in this place.
    Many(usize),
}

impl Dirty {
    /// Begins a fan-out to at most so many connections, to which all belong that are queued until
    /// its [`Self::end`].
    pub(super) fn begin(&mut self, cause: Cause, connections: usize) {
        if connections <= TURN {
            return;
        }
        let known = self.many.iter().position(|it| it.cause == cause);
        self.queue = Queue::Many(known.unwrap_or_else(|| {
            let keys = VecDeque::new();
            self.many.push_back(FanOut { cause, keys });
            self.many.len() - 1
        }));
    }

    /// The fan-out is over.
    pub(super) fn end(&mut self) {
        self.queue = Queue::Few;
    }

    pub(super) fn push(&mut self, key: ConnectionKey) {
        match self.queue {
            Queue::Few => self.few.push_back(key),
            Queue::Many(place) => self.many[place].keys.push_back(key),
        }
    }

    /// The next connection to write to.
    pub(super) fn pop(&mut self) -> Option<ConnectionKey> {
        if self.taken == TURN {
            self.pass();
        }
        let key = self.take().or_else(|| {
            self.pass();
            self.take()
        })?;
        self.taken += 1;
        Some(key)
    }

    pub(super) fn len(&self) -> usize {
        let many = self.many.iter().map(|it| it.keys.len());
        self.few.len() + many.sum::<usize>()
    }

    fn take(&mut self) -> Option<ConnectionKey> {
        match self.turn {
            Turn::OfFew => {
                let key = self.few.pop_front();
                if self.few.is_empty() {
                    // An idle shard keeps no memory for it.
                    self.few = VecDeque::new();
                }
                key
            }
            Turn::OfMany => {
                while let Some(first) = self.many.front_mut() {
                    if let Some(key) = first.keys.pop_front() {
                        return Some(key);
                    }
                    self.many.pop_front();
                }
                None
            }
        }
    }

    /// The next queue has its turn.
    fn pass(&mut self) {
        self.taken = 0;
        self.turn = match self.turn {
            Turn::OfFew => Turn::OfMany,
            Turn::OfMany => {
                if self.many.len() > 1 {
                    self.many.rotate_left(1);
                }
                Turn::OfFew
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: 0,
        }
    }

    /// Of the channel whose number is the first key's.
    fn fan_out(dirty: &mut Dirty, keys: std::ops::Range<u32>) {
        dirty.begin(Cause::Item(keys.start), keys.len());
        keys.for_each(|index| dirty.push(key(index)));
        dirty.end();
    }

    fn all(dirty: &mut Dirty) -> Vec<u32> {
        let keys = std::iter::from_fn(|| dirty.pop());
        keys.map(|key| key.index).collect()
    }

    #[test]
    fn everybody_is_written_to_once_and_each_queue_in_its_order() {
        let mut dirty = Dirty::default();
        fan_out(&mut dirty, 0..1000);
        fan_out(&mut dirty, 2000..2300);
        dirty.push(key(5000));
        fan_out(&mut dirty, 6000..6010);
        assert_eq!(dirty.len(), 1311);
        let order = all(&mut dirty);
        assert_eq!(dirty.len(), 0);
        assert_eq!(order.len(), 1311);
        for queue in [0..1000_u32, 2000..2300, 5000..6010] {
            let of_queue = order.iter().filter(|index| queue.contains(index));
            assert!(of_queue.is_sorted(), "{queue:?}");
        }
    }

    #[test]
    fn a_fan_out_to_many_delays_others_by_a_turn() {
        let mut dirty = Dirty::default();
        fan_out(&mut dirty, 0..10_000);
        let first: Vec<_> = (0..100).map(|_| dirty.pop()).collect();
        assert_eq!(first.last(), Some(&Some(key(99))));
        fan_out(&mut dirty, 20_000..20_010);
        fan_out(&mut dirty, 30_000..30_300);
        let order = all(&mut dirty);
        let place = |index| order.iter().position(|it| *it == index).unwrap();
        assert!(place(20_009) < TURN + 10, "{}", place(20_009));
        assert!(place(30_000) < 2 * TURN + 10, "{}", place(30_000));
        assert!(place(30_299) < 4 * TURN + 10, "{}", place(30_299));
    }

    #[test]
    fn the_next_item_of_a_channel_waits_until_all_have_the_one_before() {
        let mut dirty = Dirty::default();
        fan_out(&mut dirty, 0..10_000);
        // Written once, and to be written to again with each turn.
        for turn in 0..10 {
            let first: Vec<_> = (0..TURN).filter_map(|_| dirty.pop()).collect();
            assert_eq!(first.len(), TURN);
            dirty.begin(Cause::Item(0), 10_000);
            for key in first {
                dirty.push(key);
            }
            dirty.end();
            assert_eq!(dirty.many.len(), 1, "in turn {turn}");
        }
        let order = all(&mut dirty);
        let place = |index| order.iter().position(|it| *it == index);
        assert!(place(9_999) < place(0));
    }

    #[test]
    fn an_empty_queue_keeps_no_memory() {
        let mut dirty = Dirty::default();
        fan_out(&mut dirty, 0..10_000);
        fan_out(&mut dirty, 10_000..10_200);
        all(&mut dirty);
        assert_eq!(dirty.many.len() + dirty.few.capacity(), 0);
    }
}
