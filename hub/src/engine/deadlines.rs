//! When something has to happen to a connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::mailbox::ConnectionKey;

/// How exact deadlines are: they are met at most this much late.
const TICK: Duration = Duration::from_millis(100);

/// A coarse timer wheel: connections by the tick in which they want to be looked at.
///
/// An entry is a reminder, not the truth. The connection knows its deadline; one that moved on is
/// reminded again, so that restarting a keep-alive costs nothing.
#[derive(Debug)]
pub(crate) struct Deadlines {
    start: Instant,
    ticks: BTreeMap<u64, Vec<ConnectionKey>>,
}

impl Deadlines {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            ticks: BTreeMap::new(),
        }
    }

    /// Where the ticks begin.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// Reminds of `key` at the end of the tick that holds `at`.
    pub(crate) fn remind(&mut self, key: ConnectionKey, at: Instant) {
        let tick = ticks_in(at.saturating_duration_since(self.start)) + 1;
        self.ticks.entry(tick).or_default().push(key);
    }

    /// The connections of the next tick that is over at `now`, each once; ask until `None`.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Vec<ConnectionKey>> {
        let over = ticks_in(now.saturating_duration_since(self.start));
        let (tick, _) = self.ticks.first_key_value()?;
        if *tick > over {
            return None;
        }
        let (_, mut keys) = self.ticks.pop_first()?;
        // Two reminders of one connection that met here go on as one.
        keys.sort_unstable_by_key(|key| (key.index, key.generation));
        keys.dedup();
        Some(keys)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (tick, _) = self.ticks.first_key_value()?;
        let millis = tick.saturating_mul(u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX));
        Some(self.start + Duration::from_millis(millis))
    }
}

fn ticks_in(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do to start from"
)]
mod tests {
    use super::*;

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: 0,
        }
    }

    #[test]
    fn nobody_is_reminded_early_or_twice_or_forgotten() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut deadlines = Deadlines::new(start);
        for millis in [250, 0, 99, 0, 100, 5000] {
            deadlines.remind(key(millis), at(u64::from(millis)));
        }
        assert_eq!(deadlines.poll_timeout(), Some(at(100)));
        assert_eq!(deadlines.next_due(at(99)), None);
        assert_eq!(deadlines.next_due(at(100)), Some(vec![key(0), key(99)]));
        assert_eq!(deadlines.next_due(at(100)), None);
        assert_eq!(deadlines.next_due(at(999)), Some(vec![key(100)]));
        assert_eq!(deadlines.next_due(at(999)), Some(vec![key(250)]));
        assert_eq!(deadlines.next_due(at(999)), None);
        assert_eq!(deadlines.poll_timeout(), Some(at(5100)));
    }
}
