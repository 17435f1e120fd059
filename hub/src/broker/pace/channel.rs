//! One channel on the way: what waits, and for what.

use std::collections::VecDeque;
use std::time::Instant;

use super::Rule;
use crate::broker::Admitted;

/// What is known of a channel.
///
/// ```text
///              window open                window ends             purged, or deadline over
/// publish ──────────────────▶ held ────────────────────▶ due ────────────────────────────▶ ready
///    └── no window: opens one ───────────────────────────▲
/// ```
#[derive(Debug)]
pub(super) struct Channel<T> {
    pub(super) rule: Rule,
    /// Until then what comes is held.
    pub(super) window: Option<Instant>,
    /// What waits for the end of the window, in order.
    pub(super) held: VecDeque<Held>,
    /// What waits for a purge, in order; older than what is held.
    pub(super) due: VecDeque<Due<T>>,
    /// Its place in a queue of purges.
    pub(super) queued: Option<Queued>,
    /// What the running purge is for, if it is one of this channel.
    pub(super) running: Option<Cause>,
    /// When it is queued again, if no other reason comes first.
    pub(super) later: Option<(Instant, Cause)>,
    /// Purges that failed since the last one that did not.
    pub(super) failures: u32,
    /// The timer that is set for it.
    pub(super) timer: Option<Instant>,
}

/// An item that waits for the end of a window.
#[derive(Debug)]
pub(super) struct Held {
    /// Which of all arrivals it is.
    pub(super) place: u64,
    pub(super) admitted: Admitted,
    pub(super) needs_purge: bool,
}

/// An item that may wait for a purge.
#[derive(Debug)]
pub(super) struct Due<T> {
    /// Which of all arrivals it is.
    pub(super) place: u64,
    pub(super) admitted: Admitted,
    pub(super) ticket: Option<T>,
    pub(super) wait: Wait,
}

/// What an item that is due waits for, and until when at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A purge that has not begun.
    ForNextPurge(Instant),
    /// The purge that runs.
    ForRunningPurge(Instant),
    /// Nothing but the items before it.
    Over,
}

/// A place in one of the queues of purges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queued {
    pub(super) lane: Lane,
    pub(super) place: u64,
    pub(super) cause: Cause,
}

/// One of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// An item waits.
    Urgent,
    /// No item waits.
    Background,
}

/// What a channel is purged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Items, which may have gone out meanwhile; a second purge follows.
    Items,
    /// What was fetched during the purge before.
    Second,
}

impl<T> Channel<T> {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            window: None,
            held: VecDeque::new(),
            due: VecDeque::new(),
            queued: None,
            running: None,
            later: None,
            failures: 0,
            timer: None,
        }
    }

    /// Whether there is nothing to know.
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_none()
            && self.held.is_empty()
            && self.due.is_empty()
            && self.queued.is_none()
            && self.running.is_none()
            && self.later.is_none()
    }

    /// When something happens by itself.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let deadline = self.due.iter().find_map(|due| due.wait.deadline());
        let later = self.later.map(|(at, _)| at);
        self.window.into_iter().chain(deadline).chain(later).min()
    }

    /// It is no longer queued but being purged, for all items that are due.
    pub(super) fn begin_purge(&mut self) {
        self.running = self.queued.take().map(|queued| queued.cause);
        for due in &mut self.due {
            if let Wait::ForNextPurge(deadline) = due.wait {
                due.wait = Wait::ForRunningPurge(deadline);
            }
        }
    }

    /// Nothing waits for the running purge any more; returns how many items did.
    pub(super) fn end_wait_for_purge(&mut self) -> u64 {
        self.end_waits(|wait| matches!(wait, Wait::ForRunningPurge(_)))
    }

    /// Items whose deadline is over wait no longer; returns how many those are.
    pub(super) fn end_waits_until(&mut self, now: Instant) -> u64 {
        self.end_waits(|wait| wait.deadline().is_some_and(|deadline| deadline <= now))
    }

    fn end_waits(&mut self, is_over: impl Fn(Wait) -> bool) -> u64 {
        let mut ended = 0;
        for due in &mut self.due {
            if is_over(due.wait) {
                due.wait = Wait::Over;
                ended += 1;
            }
        }
        ended
    }
}

impl Wait {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::ForNextPurge(deadline) | Self::ForRunningPurge(deadline) => Some(deadline),
            Self::Over => None,
        }
    }
}
