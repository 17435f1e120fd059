use super::*;
use crate::broker::{Intake, Waiting, size};
use crate::config::ChannelPattern;
use std::num::NonZeroU32;

const SECOND: Duration = Duration::from_secs(1);
const FAILED: PurgeResult = PurgeResult::Failed { retry_after: None };

/// A pacer with a clock that stands still unless it is told to go on.
struct Bench {
    pace: Pace<&'static str>,
    intake: Intake,
    now: Instant,
}

fn rule(pattern: &str, pace: Option<Duration>, keep: Keep) -> ChannelRule {
    ChannelRule {
        pattern: ChannelPattern::new(pattern),
        purge: None,
        pace,
        keep,
        deadline: None,
        history: config::HistoryRule::default(),
    }
}

/// Channels `l...` keep the latest and `k...` keep all, both with windows of a second. Items of
/// others don't wait.
fn settings() -> Settings {
    Settings {
        rules: Arc::new([
            rule("l*", Some(SECOND), Keep::Latest),
            rule("k*", Some(SECOND), Keep::All),
        ]),
        purging: Some(Purging {
            default: true,
            deadline: SECOND / 2,
            repurge_after: None,
            rate: None,
        }),
    }
}

fn with_second_purge() -> Settings {
    let mut settings = settings();
    if let Some(purging) = &mut settings.purging {
        purging.repurge_after = Some(2 * SECOND);
    }
    settings
}

fn with_rate(per_second: u32, burst: u32) -> Settings {
    let mut settings = settings();
    if let Some(purging) = &mut settings.purging {
        purging.rate = Some(PurgeRate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        });
    }
    settings
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self {
            pace: Pace::new(settings),
            intake: Intake::new(Waiting {
                items: 1_000,
                bytes: 1_000_000,
            }),
            now: tokio::time::Instant::now().into_std(),
        }
    }

    /// Publishes items without waiting in between: `a1` is an item of channel `a`, `a1-` one that
    /// needs no purge, `a1!` one that closes what it reaches.
    fn publish(&mut self, names: &[&'static str]) {
        for name in names {
            let format = if name.ends_with('!') {
                r#"{"action":"close"}"#.to_owned()
            } else {
                format!(r#"{{"content":"{name}"}}"#)
            };
            let purge = if name.ends_with('-') {
                r#""purge":false,"#
            } else {
                ""
            };
            let body = format!(
                r#"{{"items":[{{"channel":"{}",{purge}"meta":{{}},"id":"{name}","http-stream":{format}}}]}}"#,
                &name[..1],
            );
            self.take_in(&body, name);
        }
    }

    fn take_in(&mut self, body: &str, ticket: &'static str) {
        let items = grip::publish::parse(body.as_bytes(), &grip::Limits::default()).unwrap();
        for admitted in self.intake.admit(items).unwrap() {
            self.pace.publish(admitted, ticket, self.now);
        }
    }

    /// Items that have room in the intake.
    fn waiting(&self) -> usize {
        self.intake.waiting().items
    }

    /// Lets time pass, stopping at each timer.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.pace.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.pace.handle_timeout(self.now);
            if self.pace.poll_timeout().is_some_and(|at| at <= self.now) {
                // Only a purge can be wanted at once.
                break;
            }
        }
        self.now = end;
        self.pace.handle_timeout(end);
    }

    #[track_caller]
    fn purges(&mut self, expected: &str) {
        let channels: Vec<String> = match self.pace.next_purge(self.now) {
            Some(order) => order.channels.iter().map(ToString::to_string).collect(),
            None => Vec::new(),
        };
        assert_eq!(channels.join(" "), expected, "the purge");
    }

    #[track_caller]
    fn purged(&mut self, result: PurgeResult, expected: &str) {
        self.pace.handle_purged(result, self.now);
        self.ready(expected);
    }

    /// What goes out.
    #[track_caller]
    fn ready(&mut self, expected: &str) {
        let ready: Vec<String> = std::iter::from_fn(|| self.pace.next_ready())
            .map(|(admitted, _)| admitted.item.id.unwrap().as_str().to_owned())
            .collect();
        assert_eq!(ready.join(" "), expected, "what goes out");
    }

    #[track_caller]
    fn is_idle(&mut self) {
        while self.pace.next_announced().is_some() {}
        assert!(self.pace.is_idle(), "{:?}", self.pace);
        assert_eq!((self.pace.len(), self.waiting()), (0, 0));
        assert_eq!(self.pace.poll_timeout(), None);
    }
}

#[test]
fn an_item_waits_for_its_channels_purge_only() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1", "b1-", "b2-"]);
    bench.ready("b1- b2-");
    bench.purges("a");
    bench.ready("");
    bench.purged(PurgeResult::Purged, "a1");
    bench.is_idle();
}

#[test]
fn items_that_come_during_a_purge_share_the_next_one() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.publish(&["a2", "a3", "b1"]);
    bench.purges("");
    bench.purged(PurgeResult::Purged, "a1");
    bench.purges("a b");
    assert_eq!(bench.pace.len(), 3);
    bench.purged(PurgeResult::Purged, "a2 a3 b1");
    bench.is_idle();
}

#[test]
fn an_item_that_needs_no_purge_does_not_overtake_its_channel() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1", "a2-"]);
    bench.purges("a");
    bench.publish(&["a3-"]);
    bench.purged(PurgeResult::Purged, "a1 a2- a3-");
    bench.is_idle();
}

#[test]
fn a_batch_is_as_large_as_the_edge_accepts() {
    let mut bench = Bench::new(settings());
    let body: Vec<String> = (0..300)
        .map(|n| format!(r#"{{"channel":"c{n}","http-stream":{{"content":""}}}}"#))
        .collect();
    let body = format!(r#"{{"items":[{}]}}"#, body.join(","));
    bench.take_in(&body, "");
    let order = bench.pace.next_purge(bench.now).unwrap();
    assert_eq!(order.channels.len(), BATCH);
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    let order = bench.pace.next_purge(bench.now).unwrap();
    assert_eq!(order.channels.len(), 44);
}

#[test]
fn the_first_item_goes_at_once_and_the_newest_of_the_others_at_the_windows_end() {
    let mut bench = Bench::new(settings());
    bench.publish(&["l1"]);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l1");
    bench.pass(SECOND / 2);
    bench.publish(&["l2", "l3", "l4"]);
    bench.purges("");
    bench.ready("");
    assert_eq!(bench.pace.len(), 1);
    bench.pass(SECOND / 2);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l4");
    assert_eq!(bench.pace.tally().coalesced, 2);
    // The flush has opened a window as well.
    bench.publish(&["l5"]);
    bench.purges("");
    bench.pass(SECOND);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l5");
    bench.pass(SECOND);
    bench.is_idle();
    bench.publish(&["l6"]);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l6");
}

#[test]
fn ids_of_items_that_may_be_replaced_are_told_when_they_come() {
    let mut bench = Bench::new(settings());
    bench.publish(&["l1", "l2", "k1", "k2", "l3", "a1"]);
    let announced: Vec<String> = std::iter::from_fn(|| bench.pace.next_announced())
        .map(|announced| format!("{} {}", announced.channel, announced.id.as_str()))
        .collect();
    assert_eq!(announced, ["l l2", "l l3"]);
}

#[test]
fn all_items_go_out_in_order_with_one_purge() {
    let mut bench = Bench::new(settings());
    bench.publish(&["k1", "k2", "k3"]);
    bench.purges("k");
    bench.purged(PurgeResult::Purged, "k1");
    bench.publish(&["k4"]);
    bench.pass(SECOND);
    bench.purges("k");
    bench.purged(PurgeResult::Purged, "k2 k3 k4");
    assert_eq!(bench.pace.tally().coalesced, 0);
}

#[test]
fn an_item_that_does_something_keeps_its_place() {
    let mut bench = Bench::new(settings());
    bench.publish(&["l1", "l2", "l3", "l4!", "l5", "l6"]);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l1");
    bench.pass(SECOND);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l3 l4! l6");
}

#[test]
fn pacing_needs_no_purges() {
    let mut settings = settings();
    settings.purging = None;
    let mut bench = Bench::new(settings);
    bench.publish(&["l1", "l2", "l3", "a1"]);
    bench.ready("l1 a1");
    bench.purges("");
    bench.pass(SECOND);
    bench.ready("l3");
    bench.pass(SECOND);
    bench.is_idle();
}

#[test]
fn an_item_is_purged_for_if_one_that_it_stands_for_was_to_be() {
    let mut bench = Bench::new(settings());
    bench.publish(&["l1-", "l2", "l3-"]);
    bench.ready("l1-");
    bench.pass(SECOND);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l3-");
}

#[test]
fn no_item_waits_beyond_its_deadline() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.pass(SECOND / 4);
    bench.publish(&["a2", "b1"]);
    bench.pass(SECOND / 4);
    bench.ready("a1");
    bench.pass(SECOND / 4);
    bench.ready("a2 b1");
    assert_eq!(bench.pace.tally().unpurged, 3);
    // What the purge that is late was for is no longer to be known, but what came later is.
    bench.purged(PurgeResult::Purged, "");
    bench.purges("a b");
    bench.purged(PurgeResult::Purged, "");
    bench.is_idle();
}

#[test]
fn a_rule_has_its_own_deadline_and_says_whether_to_purge() {
    let mut settings = settings();
    let quick = ChannelRule {
        deadline: Some(SECOND / 10),
        ..rule("q", None, Keep::Latest)
    };
    let never = ChannelRule {
        purge: Some(false),
        ..rule("n", None, Keep::Latest)
    };
    settings.rules = Arc::new([quick, never, rule("*", Some(SECOND), Keep::All)]);
    let mut bench = Bench::new(settings);
    bench.publish(&["q1", "n1", "x1"]);
    bench.ready("n1");
    let order = bench.pace.next_purge(bench.now).unwrap();
    assert_eq!(order.timeout, SECOND / 2);
    bench.pass(SECOND / 10);
    bench.ready("q1");
    bench.pass(SECOND / 2);
    bench.ready("x1");
}

#[test]
fn a_channel_is_purged_once_more_after_its_last_purge() {
    let mut bench = Bench::new(with_second_purge());
    bench.publish(&["l1", "l2"]);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l1");
    bench.pass(SECOND);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l2");
    bench.pass(Duration::from_millis(1999));
    bench.purges("");
    bench.pass(Duration::from_millis(1));
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "");
    let tally = bench.pace.tally();
    assert_eq!((tally.purges, tally.second_purges), (2, 1));
    bench.is_idle();
}

#[test]
fn a_second_purge_that_waits_becomes_the_first_of_the_next_item() {
    let mut bench = Bench::new(with_second_purge());
    bench.publish(&["a1", "b1"]);
    bench.purges("a b");
    bench.purged(PurgeResult::Purged, "a1 b1");
    bench.publish(&["c1"]);
    bench.purges("c");
    bench.pass(2 * SECOND);
    bench.publish(&["a2"]);
    bench.purged(PurgeResult::Purged, "c1");
    bench.purges("a b");
    bench.purged(PurgeResult::Purged, "a2");
    let tally = bench.pace.tally();
    assert_eq!((tally.purges, tally.second_purges), (4, 1));
}

#[test]
fn an_item_does_not_wait_for_a_second_purge() {
    let mut bench = Bench::new(with_second_purge());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.purged(PurgeResult::Purged, "a1");
    bench.pass(2 * SECOND);
    bench.purges("a");
    bench.publish(&["b1-", "a2-"]);
    bench.ready("b1- a2-");
}

#[test]
fn a_purge_that_fails_is_tried_again_ever_more_slowly() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.purged(FAILED, "a1");
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        bench.pass(Duration::from_millis(1000 * seconds - 1));
        bench.purges("");
        bench.pass(Duration::from_millis(1));
        bench.purges("a");
        bench.purged(FAILED, "");
    }
    bench.pass(30 * SECOND);
    bench.purges("a");
    bench.purged(PurgeResult::Purged, "");
    let tally = bench.pace.tally();
    assert_eq!((tally.purges, tally.retries, tally.unpurged), (1, 8, 1));
    bench.is_idle();
}

#[test]
fn a_retry_is_merged_with_the_purge_of_a_newer_item() {
    let mut bench = Bench::new(with_second_purge());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.purged(FAILED, "a1");
    bench.publish(&["a2"]);
    bench.purges("a");
    bench.purged(PurgeResult::Purged, "a2");
    bench.pass(SECOND);
    bench.purges("");
    bench.pass(SECOND);
    bench.purges("a");
    bench.purged(PurgeResult::Purged, "");
    bench.is_idle();
}

#[test]
fn an_item_that_comes_during_a_purge_that_fails_gets_one_at_once() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.publish(&["a2"]);
    bench.purged(FAILED, "a1");
    bench.purges("a");
    bench.purged(PurgeResult::Purged, "a2");
    bench.is_idle();
}

#[test]
fn a_target_that_wants_to_be_left_alone_is() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1"]);
    bench.purges("a");
    let refusal = PurgeResult::Failed {
        retry_after: Some(3 * SECOND),
    };
    bench.purged(refusal, "a1");
    bench.publish(&["b1"]);
    bench.purges("");
    bench.pass(SECOND);
    bench.ready("b1");
    bench.purges("");
    bench.pass(2 * SECOND);
    bench.purges("b a");
}

#[test]
fn purges_over_the_rate_wait_and_are_merged() {
    let mut bench = Bench::new(with_rate(2, 2));
    bench.publish(&["a1", "b1", "c1", "d1"]);
    bench.purges("a b");
    bench.purged(PurgeResult::Purged, "a1 b1");
    bench.purges("");
    bench.publish(&["c2", "c3"]);
    bench.pass(SECOND / 2);
    bench.ready("c1 c2 c3 d1");
    bench.purges("c");
    bench.purged(PurgeResult::Purged, "");
    bench.purges("");
    bench.pass(SECOND / 2);
    bench.purges("d");
    bench.purged(PurgeResult::Purged, "");
    assert_eq!(bench.pace.tally().unpurged, 4);
    bench.is_idle();
}

#[test]
fn channels_that_no_item_waits_for_get_their_share() {
    let mut settings = with_rate(1, 4);
    if let Some(purging) = &mut settings.purging {
        purging.repurge_after = Some(SECOND);
    }
    let mut bench = Bench::new(settings);
    bench.publish(&["a1", "b1"]);
    bench.purges("a b");
    bench.purged(PurgeResult::Purged, "a1 b1");
    bench.pass(4 * SECOND);
    bench.publish(&["c1", "d1", "e1", "f1"]);
    bench.purges("c d e a");
}

#[test]
fn a_flush_ends_all_windows() {
    let mut bench = Bench::new(with_second_purge());
    bench.publish(&["l1", "l2", "k1", "k2"]);
    bench.purges("l k");
    bench.purged(PurgeResult::Purged, "l1 k1");
    bench.pace.flush(bench.now);
    bench.publish(&["k3"]);
    let order = bench.pace.next_purge(bench.now).unwrap();
    assert_eq!(order.channels.len(), 2);
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    let mut ready: Vec<String> = std::iter::from_fn(|| bench.pace.next_ready())
        .map(|(admitted, _)| admitted.item.id.unwrap().as_str().to_owned())
        .collect();
    ready.sort();
    assert_eq!(ready, ["k2", "k3", "l2"]);
    bench.publish(&["l3"]);
    bench.purges("l");
    bench.purged(FAILED, "l3");
    bench.pass(2 * SECOND);
    bench.purges("k");
    bench.purged(PurgeResult::Purged, "");
    assert_eq!(bench.pace.tally().given_up, 1);
    bench.is_idle();
}

#[test]
fn a_flush_tries_failed_purges_once_more() {
    let mut bench = Bench::new(settings());
    bench.publish(&["a1"]);
    bench.purges("a");
    bench.purged(FAILED, "a1");
    bench.pace.flush(bench.now);
    bench.purges("a");
    bench.purged(FAILED, "");
    bench.is_idle();
}

#[test]
fn the_age_of_what_waits_is_that_of_the_oldest_that_it_stands_for() {
    let mut bench = Bench::new(settings());
    bench.publish(&["l1"]);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l1");
    assert_eq!(bench.pace.oldest(), None);
    bench.publish(&["l2"]);
    let came = bench.now;
    bench.pass(SECOND / 2);
    bench.publish(&["l3"]);
    assert_eq!(bench.pace.oldest(), Some(came));
}

#[test]
fn what_waits_has_its_room_until_it_has_left() {
    let mut bench = Bench::new(settings());
    bench.publish(&["k1", "k2", "k3", "b1-"]);
    assert_eq!(bench.waiting(), 4);
    bench.ready("b1-");
    assert_eq!(bench.waiting(), 3);
    bench.purges("k");
    bench.purged(PurgeResult::Purged, "k1");
    assert_eq!(bench.waiting(), 2);
    bench.pass(SECOND);
    bench.purges("k");
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    let first = bench.pace.next_ready();
    assert_eq!(bench.waiting(), 2);
    drop(first);
    assert_eq!(bench.waiting(), 1);
    bench.ready("k3");
    assert_eq!(bench.intake.waiting().bytes, 0);
}

/// An id takes no more room than its item did, and none when it is told.
#[test]
fn what_is_replaced_leaves_its_room_when_its_id_is_told() {
    let mut bench = Bench::new(settings());
    bench.publish(&["l1", "l2", "l3", "l4"]);
    assert_eq!(bench.waiting(), 4);
    while bench.pace.next_announced().is_some() {}
    assert_eq!(bench.waiting(), 2);
    bench.purges("l");
    bench.purged(PurgeResult::Purged, "l1");
    bench.pass(SECOND);
    bench.purges("l");
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    let last = bench.pace.next_ready().unwrap().0;
    assert_eq!(last.item.stands_for.len(), 2);
    assert_eq!(bench.intake.waiting().bytes, size::of(&last.item));
    drop(last);
    assert_eq!(bench.intake.waiting(), Waiting { items: 0, bytes: 0 });
}

#[test]
fn an_item_without_id_that_is_replaced_has_no_room_any_more() {
    let mut bench = Bench::new(settings());
    for content in ["1", "2", "345"] {
        let item = format!(r#"{{"channel":"l","http-stream":{{"content":"{content}"}}}}"#);
        bench.take_in(&format!(r#"{{"items":[{item}]}}"#), "");
    }
    let expected = bench.pace.channels[&ChannelName::new("l")].held[0]
        .admitted
        .item
        .clone();
    assert_eq!(bench.waiting(), 2);
    bench.purges("l");
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    assert!(bench.pace.next_ready().is_some());
    let bytes = size::of(&expected);
    assert_eq!(bench.intake.waiting(), Waiting { items: 1, bytes });
}

/// The publisher of an item that waits for its window has its answer at once.
#[test]
fn an_item_that_waits_for_a_window_gives_up_its_ticket() {
    let mut bench = Bench::new(settings());
    bench.publish(&["k1", "k2"]);
    bench.purges("k");
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    assert_eq!(bench.pace.next_ready().unwrap().1, Some("k1"));
    bench.pass(SECOND);
    bench.purges("k");
    bench.pace.handle_purged(PurgeResult::Purged, bench.now);
    assert_eq!(bench.pace.next_ready().unwrap().1, None);
}
