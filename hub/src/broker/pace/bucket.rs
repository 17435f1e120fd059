//! How many channels may be purged yet.

use std::time::{Duration, Instant};

use crate::config::PurgeRate;

/// A token bucket that fills evenly. Holds no count but the instant at which it will be full, so
/// that nothing has to be added up while time passes.
#[derive(Debug)]
pub(super) struct Bucket {
    /// In which one token comes.
    interval: Duration,
    /// What the bucket holds, as the time in which it fills.
    capacity: Duration,
    /// `None` before anything was taken.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(rate: PurgeRate) -> Self {
        let interval = Duration::from_secs(1) / rate.per_second.get();
        Self {
            interval,
            capacity: interval * rate.burst.get(),
            full_at: None,
        }
    }

    /// Tokens that are there.
    pub(super) fn available(&self, now: Instant) -> usize {
        let missing = self
            .full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let there = self.capacity.saturating_sub(missing).as_nanos();
        // An interval is a second divided by at most 2^32, and rounds to nothing at worst.
        let tokens = there / self.interval.as_nanos().max(1);
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }

    /// Takes tokens, at most those that are there.
    pub(super) fn take(&mut self, tokens: usize, now: Instant) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let from = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(from + self.interval * tokens);
    }

    /// When there is a token, if not now.
    pub(super) fn next_token(&self) -> Option<Instant> {
        self.full_at?
            .checked_sub(self.capacity)
            .map(|empty| empty + self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_taken_comes_back_evenly() {
        let start = tokio::time::Instant::now().into_std();
        let number = |number| NonZeroU32::new(number).unwrap();
        let mut bucket = Bucket::new(PurgeRate {
            per_second: number(2),
            burst: number(3),
        });
        assert_eq!(bucket.available(start), 3);
        assert_eq!(bucket.next_token(), None);
        bucket.take(3, start);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.next_token(), Some(start + SECOND / 2));
        assert_eq!(bucket.available(start + SECOND / 2), 1);
        assert_eq!(bucket.available(start + SECOND), 2);
        bucket.take(2, start + SECOND);
        assert_eq!(bucket.next_token(), Some(start + SECOND + SECOND / 2));
        assert_eq!(bucket.available(start + 60 * SECOND), 3);
    }
}
