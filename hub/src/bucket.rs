//! How much of something may happen yet, if it is limited in the long run.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// A token bucket that fills evenly. Holds no count but the instant at which it will be full, so
/// that nothing has to be added up while time passes.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// In which one token comes.
    interval: Duration,
    /// What the bucket holds, as the time in which it fills.
    capacity: Duration,
    /// `None` before anything was taken.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket of so many tokens, one of which comes in each interval.
    pub(crate) fn new(interval: Duration, tokens: NonZeroU32) -> Self {
        Self {
            interval,
            capacity: interval * tokens.get(),
            full_at: None,
        }
    }

    /// Tokens that are there.
    pub(crate) fn available(&self, now: Instant) -> usize {
        let missing = self
            .full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let there = self.capacity.saturating_sub(missing).as_nanos();
        // An interval may have been rounded to nothing.
        let tokens = there / self.interval.as_nanos().max(1);
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }

    /// Takes tokens, at most those that are there.
    pub(crate) fn take(&mut self, tokens: usize, now: Instant) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let from = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(from + self.interval * tokens);
    }

    /// When there is a token, if not now.
    pub(crate) fn next_token(&self) -> Option<Instant> {
        self.full_at?
            .checked_sub(self.capacity)
            .map(|empty| empty + self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_taken_comes_back_evenly() {
        let start = tokio::time::Instant::now().into_std();
        let mut bucket = Bucket::new(SECOND / 2, NonZeroU32::new(3).unwrap());
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
