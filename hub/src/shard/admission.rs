//! Whether a client that connects is let in, and when it may come again if it is not.
//!
//! Pure: it is told the time and how many connections are open, and knows no sockets. Read
//! [`Admission`].

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;

/// The longest that a client is told to stay away, in seconds.
const LONGEST: u32 = 60;
/// Those who would have to stay away longer are spread over so many seconds before that.
const LATE: u32 = 30;
/// Nobody knows when one of the open connections ends, so those who find all places taken are
/// spread over so many seconds.
const FULL: u32 = 10;

/// Lets clients in, one by one, as far as the limits of a shard allow.
#[derive(Debug)]
pub(super) struct Admission {
    /// Connections that may be open.
    places: usize,
    pace: Option<Pace>,
    spread: Spread,
}

/// Why a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// All places are taken.
    Full,
    /// Too many come at once.
    TooFast,
}

/// A client that is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    /// Seconds until it may try again; RFC 9110 §10.2.3.
    pub(super) retry_after: u32,
}

impl Admission {
    /// For one of so many shards, which share the rate of connections per second.
    pub(super) fn new(places: usize, rate: Option<NonZeroU32>, shards: usize) -> Self {
        Self {
            places,
            pace: rate.map(|rate| Pace::new(rate, shards)),
            spread: Spread::default(),
        }
    }

    /// Whether there is a place for one more.
    pub(super) fn is_full(&self, open: usize) -> bool {
        open >= self.places
    }

    /// Lets a client in beside so many open connections, or says when it may come again.
    pub(super) fn admit(&mut self, open: usize, now: Instant) -> Result<(), Refusal> {
        if self.is_full(open) {
            return Err(Refusal {
                reason: Reason::Full,
                retry_after: self.spread.next(FULL),
            });
        }
        let Some(pace) = &mut self.pace else {
            return Ok(());
        };
        if pace.bucket.available(now) > 0 {
            pace.bucket.take(1, now);
            return Ok(());
        }
        let late = || LONGEST - LATE + self.spread.next(LATE);
        Err(Refusal {
            reason: Reason::TooFast,
            retry_after: pace.put_off(now).unwrap_or_else(late),
        })
    }
}

/// How fast clients are let in, and who waits for that.
#[derive(Debug)]
struct Pace {
    /// Holds what is let in during a second, so that those who were told to come in the same second
    /// may come at any moment of it.
    bucket: Bucket,
    interval: Duration,
    /// When the last of those who were told to come again has its turn.
    last_turn: Option<Instant>,
}

impl Pace {
    fn new(rate: NonZeroU32, shards: usize) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
        let interval = Duration::from_secs(shards.into()) / rate.get();
        let tokens = NonZeroU32::new(rate.get() / shards).unwrap_or(NonZeroU32::MIN);
        Self {
            bucket: Bucket::new(interval, tokens),
            interval,
            last_turn: None,
        }
    }

    /// In how many seconds there is a turn for one more; `None` if that is too far away.
    fn put_off(&mut self, now: Instant) -> Option<u32> {
        let after = self.last_turn.map_or(now, |turn| turn.max(now));
        let turn = after + self.interval;
        let wait = turn.saturating_duration_since(now);
        if wait > Duration::from_secs(LONGEST.into()) {
            return None;
        }
        self.last_turn = Some(turn);
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        u32::try_from(seconds).ok()
    }
}

/// Spreads clients evenly; by turns, because chance would have some come together.
#[derive(Debug, Default)]
struct Spread(u32);

impl Spread {
    /// One of the numbers from 1 to `last`.
    fn next(&mut self, last: u32) -> u32 {
        self.0 = self.0.wrapping_add(1);
        self.0 % last + 1
    }
}

impl Refusal {
    /// What the client is told, in HTTP/1.1.
    pub(super) fn answer(self) -> String {
        let text = match self.reason {
            Reason::Full => "Too many clients are connected.\n",
            Reason::TooFast => "Too many clients connect at once.\n",
        };
        format!(
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            self.retry_after,
            text.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn paced(rate: u32, shards: usize) -> Admission {
        Admission::new(usize::MAX, NonZeroU32::new(rate), shards)
    }

    /// How many of so many clients are let in, and how many are told to come when.
    fn come(
        admission: &mut Admission,
        clients: usize,
        now: Instant,
    ) -> (usize, BTreeMap<u32, usize>) {
        let mut later = BTreeMap::new();
        let mut admitted = 0;
        for _ in 0..clients {
            match admission.admit(0, now) {
                Ok(()) => admitted += 1,
                Err(refusal) => *later.entry(refusal.retry_after).or_default() += 1,
            }
        }
        (admitted, later)
    }

    #[test]
    fn without_a_rate_all_are_let_in() {
        let mut admission = Admission::new(usize::MAX, None, 1);
        assert_eq!(
            come(&mut admission, 100_000, start()),
            (100_000, BTreeMap::new())
        );
    }

    #[test]
    fn those_who_find_all_places_taken_do_not_come_back_together() {
        let mut admission = Admission::new(3, None, 1);
        assert_eq!(admission.admit(2, start()), Ok(()));
        let mut later = BTreeMap::<u32, usize>::new();
        for _ in 0..100 {
            let refusal = admission.admit(3, start()).unwrap_err();
            assert_eq!(refusal.reason, Reason::Full);
            *later.entry(refusal.retry_after).or_default() += 1;
        }
        let evenly = (1..=FULL).map(|second| (second, 10)).collect();
        assert_eq!(later, evenly);
    }

    #[test]
    fn who_is_refused_for_lack_of_places_does_not_count_for_the_pace() {
        let mut admission = Admission::new(1, NonZeroU32::new(1), 1);
        let now = start();
        assert!(admission.admit(1, now).is_err());
        assert_eq!(admission.admit(0, now), Ok(()));
        let refusal = admission.admit(0, now).unwrap_err();
        assert_eq!(refusal.reason, Reason::TooFast);
    }

    #[test]
    fn a_storm_is_let_in_at_the_pace_if_all_come_when_they_are_told() {
        let mut admission = paced(100, 1);
        let now = start();
        let (admitted, later) = come(&mut admission, 1000, now);
        assert_eq!(admitted, 100);
        let evenly = (1..=9).map(|second| (second, 100)).collect();
        assert_eq!(later, evenly);
        for (second, clients) in later {
            let come = come(&mut admission, clients, now + second * SECOND);
            assert_eq!(come, (100, BTreeMap::new()), "after {second} s");
        }
    }

    #[test]
    fn those_who_come_at_other_times_than_they_were_told_wait_behind_the_others() {
        let mut admission = paced(10, 1);
        let now = start();
        assert_eq!(come(&mut admission, 30, now).1, [(1, 10), (2, 10)].into());
        let impatient = come(&mut admission, 10, now + SECOND / 2);
        assert_eq!(impatient, (5, [(2, 5)].into()));
        let late = come(&mut admission, 10, now + 60 * SECOND);
        assert_eq!(late, (10, BTreeMap::new()));
        let afterwards = come(&mut admission, 10, now + 60 * SECOND);
        assert_eq!(afterwards, (0, [(1, 10)].into()));
    }

    #[test]
    fn those_who_would_wait_longer_than_a_minute_are_spread_over_its_second_half() {
        let mut admission = paced(10, 1);
        let (admitted, later) = come(&mut admission, 10 + 600 + 300, start());
        assert_eq!(admitted, 10);
        let early = (1..=30).map(|second| (second, 10));
        let late = (31..=60).map(|second| (second, 20));
        assert_eq!(later, early.chain(late).collect());
    }

    #[test]
    fn shards_share_the_rate() {
        let mut admission = paced(100, 4);
        let now = start();
        assert_eq!(come(&mut admission, 50, now), (25, [(1, 25)].into()));
        assert_eq!(
            come(&mut admission, 30, now + SECOND),
            (25, [(1, 5)].into())
        );
    }

    #[test]
    fn a_rate_below_the_number_of_shards_lets_clients_in_all_the_same() {
        let mut admission = paced(1, 4);
        let now = start();
        assert_eq!(come(&mut admission, 2, now), (1, [(4, 1)].into()));
        assert_eq!(come(&mut admission, 1, now + 3 * SECOND).0, 0);
        assert_eq!(come(&mut admission, 1, now + 4 * SECOND).0, 1);
    }

    #[test]
    fn a_refusal_is_an_answer_that_ends_the_connection() {
        let refusal = Refusal {
            reason: Reason::TooFast,
            retry_after: 7,
        };
        assert_eq!(
            refusal.answer(),
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\ncontent-type: text/plain\r\n\
             content-length: 34\r\nconnection: close\r\n\r\nToo many clients connect at once.\n"
        );
    }
}
