//! How much may wait for clients that read too slowly: for each of them, and for all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The part of what is left for all that one connection may have.
///
/// So the more waits for others, the less may wait for each, and many slow clients have to share.
/// One that keeps up does not feel them: what was not tried to be written yet does not count. It
/// does so only where more is left at once than may wait for all.
const SHARE: usize = 8;

/// The bounds on outboxes; what becomes of a connection over them says its
/// [`SlowClients`](crate::config::SlowClients).
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    /// Bytes for one connection.
    each: usize,
    /// Bytes for all connections of all shards.
    total: usize,
    /// What waits at all shards. Nothing else is told by it, so it needs no order.
    waiting: Arc<AtomicUsize>,
}

impl Budget {
    /// A budget that clones share.
    pub(crate) fn new(each: usize, total: usize) -> Self {
        Self {
            each,
            total,
            waiting: Arc::default(),
        }
    }

    /// Bytes that may wait for one connection now.
    pub(super) fn limit(&self) -> usize {
        self.each.min(self.share())
    }

    /// Its part of what is left for all.
    pub(super) fn share(&self) -> usize {
        let waiting = self.waiting.load(Ordering::Relaxed);
        self.total.saturating_sub(waiting) / SHARE
    }

    /// Bytes that may wait for one whose client is not known to be slow: others have to share before
    /// it has.
    pub(super) fn own_limit(&self) -> usize {
        if self.excess() > 0 { 0 } else { self.each }
    }

    /// Bytes that wait beyond what may wait for all.
    pub(super) fn excess(&self) -> usize {
        self.waiting
            .load(Ordering::Relaxed)
            .saturating_sub(self.total)
    }

    /// What waits for a connection has changed.
    pub(super) fn count(&self, before: usize, after: usize) {
        if after > before {
            self.waiting.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.waiting.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_waits_for_all_the_less_may_wait_for_each() {
        let budget = Budget::new(1_000, 16_000);
        let other = budget.clone();
        assert_eq!(budget.limit(), 1_000);
        other.count(0, 8_000);
        assert_eq!(budget.limit(), 1_000);
        other.count(8_000, 12_000);
        assert_eq!(budget.limit(), 500);
        other.count(12_000, 16_001);
        assert_eq!(budget.limit(), 0);
        other.count(16_001, 0);
        assert_eq!(budget.limit(), 1_000);
    }

    #[test]
    fn any_number_of_slow_clients_stays_within_the_total() {
        let budget = Budget::new(1_000, 100_000);
        let mut waiting = vec![0; 10_000];
        for _ in 0..100 {
            for bytes in &mut waiting {
                if *bytes + 10 <= budget.limit() {
                    budget.count(*bytes, *bytes + 10);
                    *bytes += 10;
                }
            }
        }
        let total: usize = waiting.iter().sum();
        assert!((90_000..=100_000).contains(&total), "{total}");
    }
}
