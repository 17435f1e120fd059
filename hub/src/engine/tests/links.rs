//! Streams that go on with links: when one is followed, and what its answer changes.

use tokio::sync::oneshot::error::TryRecvError;

use super::*;

const NEXT: &str = "grip-link: </next>; rel=next; timeout=20";
const FOLLOW_LATER: &str = "follow http://o/next Low []";
const FOLLOW_NOW: &str = "follow http://o/next High []";
const GONE: &str = "grip-channel: a | grip-link: </gone>; rel=gone";

/// A stream on channel `a` whose link is being followed.
fn following(bench: &mut Bench) -> ConnectionKey {
    let key = bench.stream_as(&format!("grip-channel: a | {NEXT}"));
    hint(bench);
    assert_eq!(bench.outputs(), [FOLLOW_NOW]);
    key
}

fn hint(bench: &mut Bench) {
    bench.publish("a", r#""http-stream":{"action":"hint"}"#);
}

#[test]
fn a_link_without_hold_is_followed_at_once() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream_then(None, AfterStart::Link), NEXT);
    assert_eq!(bench.outputs(), [FOLLOW_NOW]);
    assert_eq!(bench.written(key), "head ");
    bench.check_count(|counters| &counters.links_followed, 1);
}

#[test]
fn a_link_after_a_body_waits_for_the_end_of_the_body() {
    let mut bench = Bench::new();
    let kind = stream_then(None, AfterStart::Body(AfterBody::Link));
    let key = bench.open_as(kind, NEXT);
    bench.body(key, "body");
    assert_eq!(bench.outputs(), ["feed"]);
    bench.tell(key, News::Complete);
    assert_eq!(bench.outputs(), [FOLLOW_NOW]);
    assert_eq!(bench.written(key), "head 4\r\nbody\r\n");
}

#[test]
fn a_chain_of_links_without_hold_ends_with_the_last() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream_then(None, AfterStart::Link), NEXT);
    bench.link_whole(key, NEXT, "one");
    bench.link_whole(key, "", "two");
    assert_eq!(bench.outputs(), [FOLLOW_NOW, FOLLOW_NOW]);
    let expected = "head 3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
    assert_eq!(bench.written(key), expected);
    assert_eq!(
        bench.engine.handle_flushed(key, bench.now),
        Some(AfterHold::Reuse)
    );
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_silent_stream_follows_its_link_once_in_each_beat() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("grip-channel: a | {NEXT}"));
    for beat in 1..=4 {
        bench.wait(20);
        assert_eq!(bench.outputs(), [FOLLOW_LATER], "beat {beat}");
        bench.link_whole(
            key,
            &format!("grip-hold: stream | grip-channel: a | {NEXT}"),
            "",
        );
    }
    bench.check_count(|counters| &counters.links_followed, 4);
}

#[test]
fn equal_links_are_followed_together_whenever_their_streams_began() {
    let mut bench = Bench::new();
    bench.stream_as(NEXT);
    while bench.outputs().is_empty() {
        bench.wait(1);
    }
    for _ in 0..5 {
        bench.stream_as(NEXT);
        bench.wait(1);
    }
    let mut together = Vec::new();
    for _ in 0..20 {
        together.push(bench.outputs().len());
        bench.wait(1);
    }
    together.retain(|count| *count > 0);
    assert_eq!(together, [5]);
}

/// How often a stream on `a` and `b` follows its link in a beat, after items on these channels.
#[track_caller]
fn check_beat(heard: &[&str], expected: usize) {
    let mut bench = Bench::new();
    bench.stream_as(&format!("grip-channel: a, b | {NEXT}"));
    for channel in heard {
        bench.append(channel, "x");
    }
    bench.wait(20);
    assert_eq!(bench.outputs().len(), expected, "{heard:?}");
}

#[test]
fn a_beat_is_skipped_when_all_channels_were_heard() {
    check_beat(&[], 1);
    check_beat(&["a", "a"], 1);
    check_beat(&["b"], 1);
    check_beat(&["a", "b"], 0);
}

#[test]
fn what_was_heard_counts_for_one_beat_only() {
    let mut bench = Bench::new();
    bench.stream_as(&format!("grip-channel: a | {NEXT}"));
    bench.append("a", "x");
    bench.wait(20);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.wait(20);
    assert_eq!(bench.outputs(), [FOLLOW_LATER]);
}

#[test]
fn a_hint_follows_the_link_and_does_nothing_without_one() {
    let mut bench = Bench::new();
    following(&mut bench);
    hint(&mut bench);
    hint(&mut bench);
    assert_eq!(bench.outputs(), [""; 0]);

    let mut bench = Bench::new();
    bench.stream_as("grip-channel: a");
    hint(&mut bench);
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn items_of_a_fetch_come_after_its_body() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    bench.append("a", "x");
    bench.link(key, "grip-hold: stream | grip-channel: a");
    bench.append("a", "y");
    bench.body(key, "body");
    assert_eq!(bench.written(key), "4\r\nbody\r\n");
    bench.tell(key, News::Complete);
    bench.append("a", "z");
    let expected = "1\r\nx\r\n1\r\ny\r\n1\r\nz\r\n";
    assert_eq!(bench.written(key), expected);
}

#[test]
fn a_hundred_items_wait_and_the_others_are_counted() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    for _ in 0..103 {
        bench.publish("a", r#""http-stream":{"content":""}"#);
    }
    bench.check_count(|counters| &counters.backlog_dropped, 3);
    bench.link_whole(key, "grip-hold: stream | grip-channel: a", "");
    bench.check_count(|counters| &counters.deliveries, 100);
}

#[test]
fn what_the_body_has_already_is_not_delivered_again() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    for (prev_id, id) in [("1", "2"), ("2", "3"), ("3", "4")] {
        bench.append_after("a", prev_id, id);
    }
    let answer = format!("grip-hold: stream | grip-channel: a; prev-id=3 | {NEXT}");
    bench.link_whole(key, &answer, "up to 3");
    assert_eq!(bench.written(key), "7\r\nup to 3\r\n3\r\n<4>\r\n");
    assert_eq!(bench.outputs(), [""; 0]);
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn a_link_takes_over_the_channels_of_its_instruction() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("grip-channel: a, b, c | {NEXT}"));
    bench.wait(20);
    bench.outputs();
    let answer = "grip-hold: stream | grip-channel: d, c, e";
    bench.link_whole(key, answer, "");
    assert_eq!(bench.outputs(), ["detach a b", "attach d e"]);
    // Items wait until the broker has answered, so that none overtakes another.
    bench.append("c", "c");
    assert_eq!(bench.written(key), "");
    bench.attach(key);
    for channel in ["a", "b", "c", "d", "e"] {
        bench.append(channel, channel);
    }
    let expected = "1\r\nc\r\n1\r\nc\r\n1\r\nd\r\n1\r\ne\r\n";
    assert_eq!(bench.written(key), expected);
    bench.engine.handle_gone(key, bench.now);
    assert_eq!(bench.outputs(), ["detach c d e"]);
}

#[test]
fn channels_that_were_being_joined_are_detached_once() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    bench.link_whole(key, "grip-hold: stream | grip-channel: a, b", "");
    assert_eq!(bench.outputs(), ["attach b"]);
    bench.engine.handle_gone(key, bench.now);
    bench.attach(key);
    bench.engine.handle_gone(key, bench.now);
    let mut outputs = bench.outputs();
    outputs.sort();
    assert_eq!(outputs, ["detach a", "detach b"]);
}

/// How a stream ends whose link came to this.
#[track_caller]
fn check_failure(news: News, text: &str) {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    bench.tell(key, news);
    let written = bench.written(key);
    assert!(
        written.contains(&format!("\n\n{text}\n\r\n0\r\n\r\n")),
        "{written}"
    );
    assert_eq!(bench.outputs(), ["detach a"]);
    bench.check_count(|counters| &counters.link_errors, 1);
}

#[test]
fn a_stream_whose_link_fails_says_why_and_ends() {
    check_failure(
        News::Failed(LinkError::Retrieve),
        "Failed to retrieve next link.",
    );
    check_failure(
        News::Failed(LinkError::Form),
        "Next link returned application/grip-instruct content.",
    );
    check_failure(
        News::Linked(linked("grip-hold: response | grip-channel: a")),
        "Next link returned non-stream hold.",
    );
}

#[test]
fn a_broken_body_cuts_the_stream_off() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    bench.link(key, "grip-hold: stream | grip-channel: a");
    bench.body(key, "half");
    bench.tell(key, News::Broken);
    assert_eq!(bench.outputs(), ["detach a", "drop"]);
    assert_eq!(bench.engine.len(), 0);

    let mut bench = Bench::new();
    let kind = stream_then(None, AfterStart::Body(AfterBody::Items));
    let key = bench.open_as(kind, "grip-channel: a");
    bench.attach(key);
    bench.tell(key, News::Broken);
    assert_eq!(bench.outputs(), ["attach a", "feed", "detach a", "drop"]);
}

#[test]
fn the_end_of_a_stream_outlives_the_body_that_it_did_not_take() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    bench.link(key, "grip-hold: response | grip-channel: a");
    bench.tell(key, News::Broken);
    assert_eq!(bench.outputs(), ["detach a"]);
    assert!(bench.written(key).ends_with("0\r\n\r\n"));
}

#[test]
fn only_who_has_much_to_read_is_dropped_when_others_wait() {
    let mut bench = Bench::new();
    let keys = [following(&mut bench), following(&mut bench)];
    for key in keys {
        bench.link(key, "grip-hold: stream | grip-channel: a");
    }
    let (receipt, mut end) = Receipt::new();
    let piece = News::Body(Bytes::from(vec![b'x'; 100_000]), receipt);
    bench.engine.handle_news(&keys, piece, bench.now);
    bench.written(keys[0]);
    bench.engine.handle_flushed(keys[0], bench.now);
    assert!(end.try_recv().is_err(), "the second has not read it");
    bench.engine.handle_news(&keys, News::Stalled, bench.now);
    assert_eq!(bench.outputs(), ["detach a", "drop"]);
    assert_eq!(end.try_recv(), Ok(()));
    bench.engine.handle_news(&keys, News::Complete, bench.now);
    bench.append("a", "x");
    assert_eq!(bench.written(keys[0]), "1\r\nx\r\n");
    bench.check_count(|counters| &counters.slow_consumers, 1);
}

#[test]
fn whoever_sends_to_nobody_hears_so() {
    let mut bench = Bench::new();
    let key = following(&mut bench);
    bench.engine.handle_gone(key, bench.now);
    let (receipt, mut end) = Receipt::new();
    bench.tell(key, News::Body(Bytes::from_static(b"x"), receipt));
    assert_eq!(end.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn a_shorter_keep_alive_of_a_link_counts_from_then_on() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), &format!("grip-channel: a | {NEXT}"));
    bench.attach(key);
    hint(&mut bench);
    let link = |keep_alive: &str| {
        format!("grip-hold: stream | grip-channel: a | {NEXT} | grip-keep-alive: {keep_alive}")
    };
    bench.link_whole(key, &link("slow; timeout=300"), "");
    hint(&mut bench);
    bench.link_whole(key, &link("fast; timeout=10"), "");
    bench.written(key);
    bench.wait(11);
    assert_eq!(bench.written(key), "4\r\nfast\r\n");
}

/// The gone link is told once when this ends a hold.
#[track_caller]
fn check_gone(kind: HoldKind, end: impl FnOnce(&mut Bench, ConnectionKey)) {
    let mut bench = Bench::new();
    let key = bench.open_as(kind, GONE);
    bench.attach(key);
    end(&mut bench, key);
    bench.written(key);
    bench.engine.handle_flushed(key, bench.now);
    bench.engine.handle_gone(key, bench.now);
    let mut outputs = bench.outputs();
    outputs.retain(|output| output.starts_with("gone"));
    assert_eq!(outputs, ["gone http://o/gone"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_gone_link_is_told_once_however_a_stream_ends() {
    let check = |end: fn(&mut Bench, ConnectionKey)| check_gone(stream(None), end);
    check(|bench, key| bench.engine.handle_gone(key, bench.now));
    check(|bench, _| bench.publish("a", r#""http-stream":{"action":"close"}"#));
    check(|bench, _| bench.append("a", &"x".repeat(101)));
    check(|bench, _| {
        bench.engine.drain();
        bench.engine.drain_some(1, bench.now);
    });
}

#[test]
fn a_gone_link_is_told_once_however_a_response_ends() {
    let check = |end: fn(&mut Bench, ConnectionKey)| check_gone(response(55), end);
    check(|bench, key| bench.engine.handle_gone(key, bench.now));
    check(|bench, _| bench.wait(56));
    check(|bench, _| bench.publish("a", r#""http-response":{"body":"x"}"#));
    check(|bench, _| bench.publish("a", r#""http-response":{"action":"hint"}"#));
    check(|bench, _| {
        bench.engine.drain();
        bench.engine.drain_some(1, bench.now);
    });
}

#[test]
fn only_the_first_gone_link_counts() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{GONE} | {NEXT}"));
    hint(&mut bench);
    let answer = "grip-hold: stream | grip-channel: a | grip-link: </other>; rel=gone";
    bench.link_whole(key, answer, "");
    bench.engine.handle_gone(key, bench.now);
    let expected = [FOLLOW_NOW, "detach a", "gone http://o/gone"];
    assert_eq!(bench.outputs(), expected);
}
