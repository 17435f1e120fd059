//! What a client has had of each of its channels.

use super::Arrival;
use crate::item::Item;

/// In the order of channels.
#[derive(Debug)]
pub(super) enum Heard {
    One(Past),
    Many(Box<[Past]>),
}

#[derive(Debug)]
pub(super) struct Past {
    channel: u32,
    /// The highest number that has come.
    last: u32,
    /// Which have come: the last in the lowest bit, and those before it above. One that is older
    /// than that counts as repeated.
    had: u128,
}

impl Heard {
    pub(super) fn new(channels: &[u32]) -> Self {
        let new = |channel: &u32| Past {
            channel: *channel,
            last: 0,
            had: 0,
        };
        if let [channel] = channels {
            return Self::One(new(channel));
        }
        let mut all: Box<[Past]> = channels.iter().map(new).collect();
        all.sort_unstable_by_key(|it| it.channel);
        Self::Many(all)
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = u32> {
        let all = match self {
            Self::One(past) => std::slice::from_ref(past),
            Self::Many(all) => all,
        };
        all.iter().map(|it| it.channel)
    }

    /// An item has come. One of a channel that the client does not hear is one too many as well.
    pub(super) fn take(&mut self, item: Item) -> Arrival {
        let past = match self {
            Self::One(past) => Some(past).filter(|it| it.channel == item.channel),
            Self::Many(all) => {
                let place = all.binary_search_by_key(&item.channel, |it| it.channel);
                place.ok().map(|place| &mut all[place])
            }
        };
        past.map_or(Arrival::Repeated, |past| past.take(item.number))
    }
}

impl Past {
    fn take(&mut self, number: u32) -> Arrival {
        if let Some(ahead) = number.checked_sub(self.last).filter(|ahead| *ahead > 0) {
            self.had = self.had.checked_shl(ahead).unwrap_or(0) | 1;
            self.last = number;
            return Arrival::InOrder;
        }
        match 1_u128.checked_shl(self.last - number) {
            Some(bit) if self.had & bit == 0 => {
                self.had |= bit;
                Arrival::Late
            }
            _ => Arrival::Repeated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Arrival::{InOrder, Late, Repeated};

    fn arrivals(numbers: &[u32]) -> Vec<Arrival> {
        let mut heard = Heard::new(&[7]);
        let items = numbers.iter().map(|number| Item {
            channel: 7,
            number: *number,
        });
        items.map(|item| heard.take(item)).collect()
    }

    #[test]
    fn what_comes_late_is_told_from_what_comes_again() {
        assert_eq!(
            arrivals(&[1, 2, 4, 3, 3, 4, 5]),
            [InOrder, InOrder, InOrder, Late, Repeated, Repeated, InOrder]
        );
    }

    #[test]
    fn the_first_may_be_any() {
        assert_eq!(arrivals(&[9, 10, 8, 8]), [InOrder, InOrder, Late, Repeated]);
    }

    #[test]
    fn what_is_older_than_is_known_counts_as_repeated() {
        assert_eq!(
            arrivals(&[1, 130, 3, 2, 1_000_000, 130]),
            [InOrder, InOrder, Late, Repeated, InOrder, Repeated]
        );
    }

    #[test]
    fn channels_are_told_apart() {
        let mut heard = Heard::new(&[5, 3, 4]);
        let mut take = |channel, number| heard.take(Item { channel, number });
        assert_eq!(take(5, 2), InOrder);
        assert_eq!(take(3, 2), InOrder);
        assert_eq!(take(5, 1), Late);
        assert_eq!(take(4, 2), InOrder);
        assert_eq!(take(4, 2), Repeated);
        assert_eq!(take(6, 1), Repeated);
    }
}
