//! What to do with what the cache holds.

use super::{Entry, EntryKind};
use crate::UnixTime;

/// What the edge does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Deliver what is stored; it is fresh.
    Deliver,
    /// Deliver what is stored; somebody else fetches a newer one.
    DeliverStale,
    /// Deliver what is stored, then fetch a newer one.
    DeliverAndRefresh,
    /// Fetch for this client alone; such answers are not stored.
    Pass,
    /// Look up the answer without validator; conditions are for the edge to check.
    Plain,
    /// Fetch for everybody. If that fails, see [`Fallback`].
    Fetch(Fallback),
    /// Do not trouble the origin; serve the backup copy or an error.
    Failing,
}

/// What is served if a fetch fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// What is stored, although it is stale.
    Stored,
    /// The backup copy, if there is one.
    Backup,
}

/// Decides from what was found, whether the platform calls it stale, and whether it has made it
/// this request's duty to fetch.
pub fn decide(found: Option<&Entry>, is_stale: bool, has_duty: bool, now: UnixTime) -> Step {
    let Some(entry) = found else {
        // Without the duty there would be nobody to wait for, so nothing may be stored either.
        return if has_duty {
            Step::Fetch(Fallback::Backup)
        } else {
            Step::Pass
        };
    };
    let age = entry.age(now);
    let is_fresh = !is_stale && age < entry.ttl;
    match entry.kind {
        EntryKind::PassMarker if is_fresh || !has_duty => return Step::Pass,
        EntryKind::FailureMarker if is_fresh || !has_duty => return Step::Failing,
        EntryKind::PlainMarker if is_fresh || !has_duty => return Step::Plain,
        EntryKind::PassMarker | EntryKind::FailureMarker | EntryKind::PlainMarker => {
            return Step::Fetch(Fallback::Backup);
        }
        EntryKind::Answer | EntryKind::Unconfirmed => {}
    }
    let is_within = |window: u64| window > 0 && age < entry.ttl.saturating_add(window);
    if is_fresh {
        Step::Deliver
    } else if !has_duty {
        Step::DeliverStale
    } else if is_within(entry.stale_while_revalidate) {
        Step::DeliverAndRefresh
    } else if is_within(entry.stale_if_error) {
        Step::Fetch(Fallback::Stored)
    } else {
        Step::Fetch(Fallback::Backup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const FETCHED: UnixTime = UnixTime(1000);

    fn entry(kind: EntryKind) -> Entry {
        Entry {
            stale_while_revalidate: 10,
            stale_if_error: 100,
            ..Entry::marker(kind, FETCHED, 60)
        }
    }

    #[track_caller]
    fn check(kind: EntryKind, age: u64, is_stale: bool, has_duty: bool, expected: Step) {
        let found = decide(Some(&entry(kind)), is_stale, has_duty, FETCHED.plus(age));
        assert_eq!(
            found, expected,
            "{kind:?} age {age} stale {is_stale} duty {has_duty}"
        );
    }

    #[test]
    fn answers_are_delivered_while_they_may_be() {
        use EntryKind::Answer;
        check(Answer, 59, false, false, Step::Deliver);
        check(Answer, 60, true, false, Step::DeliverStale);
        check(Answer, 60, true, true, Step::DeliverAndRefresh);
        check(Answer, 69, true, true, Step::DeliverAndRefresh);
        check(Answer, 70, true, true, Step::Fetch(Fallback::Stored));
        check(Answer, 159, true, true, Step::Fetch(Fallback::Stored));
        check(Answer, 160, true, true, Step::Fetch(Fallback::Backup));
    }

    #[test]
    fn a_soft_purge_makes_a_young_answer_stale() {
        check(EntryKind::Answer, 1, true, false, Step::DeliverStale);
        check(EntryKind::Answer, 1, true, true, Step::DeliverAndRefresh);
    }

    #[test]
    fn markers_spare_the_origin_until_they_expire() {
        check(EntryKind::PassMarker, 1, false, false, Step::Pass);
        check(
            EntryKind::PassMarker,
            61,
            true,
            true,
            Step::Fetch(Fallback::Backup),
        );
        check(EntryKind::FailureMarker, 1, false, false, Step::Failing);
        check(EntryKind::PlainMarker, 1, false, false, Step::Plain);
        check(EntryKind::PlainMarker, 61, true, false, Step::Plain);
        check(
            EntryKind::PlainMarker,
            61,
            true,
            true,
            Step::Fetch(Fallback::Backup),
        );
        check(
            EntryKind::FailureMarker,
            61,
            true,
            true,
            Step::Fetch(Fallback::Backup),
        );
    }

    #[test]
    fn nothing_found_means_fetching_for_everybody_if_it_is_ones_duty() {
        assert_eq!(
            decide(None, false, true, FETCHED),
            Step::Fetch(Fallback::Backup)
        );
        assert_eq!(decide(None, false, false, FETCHED), Step::Pass);
    }
}
