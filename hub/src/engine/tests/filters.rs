//! Ids, gaps and filters: what is delivered of an item, and what a gap leads to.

use std::collections::BTreeMap;

use grip::filter::{Filter, FilterError, FilterFault, InquiryFailure, Reply as Decision};

use super::*;

const NEXT: &str = "grip-link: </next>; rel=next; timeout=20";
const CHECK: &str = "grip-channel: a; prev-id=1; filter=http-check | grip-set-meta: url=/ask";
const MODIFY: &str = "grip-channel: a; prev-id=1; filter=http-modify | grip-set-meta: url=/ask";

impl Bench {
    /// A request that waits as this instruction says, its outputs taken.
    fn poll_as(&mut self, instruct: &str) -> ConnectionKey {
        let key = self.open_as(response(55), instruct);
        self.attach(key);
        self.outputs();
        key
    }

    fn told(&mut self, key: ConnectionKey, decision: Decision) {
        self.tell(key, News::Told(Ok(decision)));
    }
}

fn deliver(content: &'static str) -> Decision {
    Decision::Deliver(Bytes::from_static(content.as_bytes()))
}

#[test]
fn items_that_continue_each_other_are_delivered() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("grip-channel: a; prev-id=1 | {NEXT}"));
    bench.append_after("a", "1", "2");
    bench.append_after("a", "2", "3");
    assert_eq!(bench.written(key), "3\r\n<2>\r\n3\r\n<3>\r\n");
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn an_item_without_id_ends_the_checks_of_its_channel() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("grip-channel: a; prev-id=1 | {NEXT}"));
    bench.publish("a", r#""prev-id":"1","http-stream":{"content":"x"}"#);
    bench.append_after("a", "8", "9");
    assert_eq!(bench.written(key), "1\r\nx\r\n3\r\n<9>\r\n");
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn a_channel_without_prev_id_is_not_checked() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("grip-channel: a | {NEXT}"));
    bench.append_after("a", "8", "9");
    assert_eq!(bench.written(key), "3\r\n<9>\r\n");
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn a_gap_has_a_stream_follow_its_link_with_what_it_has() {
    let mut bench = Bench::new();
    let channels = "grip-channel: a; prev-id=1 | grip-channel: b; prev-id=5 | grip-channel: c";
    let key = bench.stream_as(&format!("{channels} | {NEXT}"));
    bench.append_after("b", "5", "6");
    bench.written(key);
    bench.append_after("a", "2", "3");
    assert_eq!(bench.written(key), "");
    let follow = "follow http://o/next Low [a; last-id=1, b; last-id=6]";
    assert_eq!(bench.outputs(), [follow]);
    bench.check_count(|counters| &counters.gaps, 1);
    // What comes now is checked against what the link says.
    bench.append_after("a", "3", "4");
    let answer = "grip-hold: stream | grip-channel: a; prev-id=3";
    bench.link_whole(key, answer, "to 3");
    assert_eq!(bench.written(key), "4\r\nto 3\r\n3\r\n<4>\r\n");
}

#[test]
fn a_gap_throws_away_what_waits() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{CHECK} | {NEXT}"));
    bench.append_after("a", "1", "2");
    bench.append_after("a", "5", "6");
    bench.append_after("a", "2", "3");
    bench.outputs();
    bench.told(key, deliver("<2>"));
    let follow = "follow http://o/next Low [a; last-id=2]";
    assert_eq!(bench.outputs(), [follow]);
    bench.link_whole(key, "grip-hold: stream | grip-channel: a", "");
    assert_eq!(bench.written(key), "3\r\n<2>\r\n");
}

#[test]
fn a_gap_without_link_is_counted_and_the_rest_delivered() {
    let mut bench = Bench::new();
    let key = bench.stream_as("grip-channel: a; prev-id=1");
    bench.append_after("a", "2", "3");
    bench.append_after("a", "3", "4");
    assert_eq!(bench.written(key), "3\r\n<3>\r\n3\r\n<4>\r\n");
    assert_eq!(bench.outputs(), [""; 0]);
    bench.check_count(|counters| &counters.gaps, 1);
}

#[test]
fn a_gap_has_the_origin_of_a_request_asked_again() {
    let mut bench = Bench::new();
    bench.poll_as("grip-channel: a; prev-id=1 | grip-channel: b; prev-id=5");
    bench.publish(
        "a",
        r#""id":"3","prev-id":"2","http-response":{"body":"x"}"#,
    );
    let retry = "retry New [a; last-id=1, b; last-id=5]";
    let expected = ["detach a b", retry];
    assert_eq!(bench.outputs(), expected);
    assert_eq!(bench.engine.len(), 0);
    bench.check_count(|counters| &counters.retries, 1);
}

/// What a conflict at the broker leads to.
#[track_caller]
fn check_conflict(kind: HoldKind, instruct: &str, expected: &[&str]) {
    let mut bench = Bench::new();
    let key = bench.open_as(kind, instruct);
    bench.outputs();
    bench
        .engine
        .handle_attached(key, Sequence(0), Some(Box::new(behind(&["a"]))), bench.now);
    assert_eq!(bench.outputs(), expected);
    bench.check_count(|counters| &counters.gaps, 1);
}

#[test]
fn a_conflict_has_the_origin_asked_at_once() {
    let channel = "grip-channel: a; prev-id=1";
    let linked = format!("{channel} | {NEXT}");
    let follow = "follow http://o/next Low [a; last-id=1]";
    check_conflict(stream(None), &linked, &[follow]);
    check_conflict(stream(None), channel, &[]);
    let retry = "retry Never [a; last-id=1]";
    check_conflict(response(55), channel, &["detach a", retry]);
}

/// What a stream gets of `item` and of one that continues it, on a channel with these parameters.
#[track_caller]
fn check_item(parameters: &str, item: &str, expected: &str) {
    let mut bench = Bench::new();
    let meta = "grip-set-meta: user=me, word=hi";
    let key = bench.stream_as(&format!("grip-channel: a; prev-id=1{parameters} | {meta}"));
    bench.publish("a", &format!(r#""id":"2","prev-id":"1",{item}"#));
    bench.append_after("a", "2", "3");
    let written = bench.written(key);
    assert_eq!(written, expected, "{parameters} {item}");
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn a_dropped_item_counts_as_taken() {
    const AFTER: &str = "3\r\n<3>\r\n";
    let by = |sender: &str, action: &str| {
        format!(r#""meta":{{"sender":"{sender}"}},"http-stream":{{{action}}}"#)
    };
    let send = r#""content":"x""#;
    let close = r#""action":"close""#;
    let both = "1\r\nx\r\n3\r\n<3>\r\n";
    check_item("; filter=skip-self", &by("me", send), AFTER);
    check_item("; filter=skip-self", &by("you", send), both);
    check_item("", &by("me", send), both);
    check_item("; filter=skip-self", &by("me", close), AFTER);
    check_item("; filter=skip-self", &by("you", close), "0\r\n\r\n");
}

#[test]
fn content_is_filtered() {
    let item = r#""http-stream":{"content":"%(word)s"}"#;
    let expected = "2\r\nhi\r\n3\r\n<3>\r\n";
    check_item("; filter=var-subst", item, expected);
    check_item("", item, "8\r\n%(word)s\r\n3\r\n<3>\r\n");
}

#[test]
fn content_for_other_filters_ends_a_stream_that_is_told() {
    let mut bench = Bench::new();
    let key = bench.stream_as("grip-channel: a; filter=var-subst");
    let item = r#""http-stream":{"content":"x","content-filters":["build-id"]}"#;
    bench.publish("a", item);
    let text = "content filter mismatch: subscription=var-subst message=build-id";
    assert!(bench.written(key).contains(&format!("\n\n{text}\n")));
    assert_eq!(bench.outputs(), ["detach a"]);
    bench.check_count(|counters| &counters.filter_errors, 1);
}

#[test]
fn a_failed_filter_answers_a_request_that_is_told() {
    let mut bench = Bench::new();
    let key = bench.poll_as("grip-channel: a; filter=var-subst");
    bench.publish("a", r#""http-response":{"body":"%(none)s"}"#);
    let written = bench.written(key);
    assert!(written.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
    assert!(
        written.contains("\r\n\r\nfilter error: var-subst: "),
        "{written}"
    );
}

#[test]
fn a_client_that_is_told_nothing_is_spared_the_item_only() {
    let mut bench = Bench::new();
    let untold = Arc::new(Behalf {
        route: Arc::clone(&behalf().route),
        uri: behalf().uri.clone(),
        way: Way::Routes,
        implicit: Vec::new(),
        tells_errors: false,
    });
    let hold = Hold {
        kind: stream(None),
        slots: slots(&["a;prev-id=1;filter=var-subst"]),
        after: AfterHold::Reuse,
        slow: SlowClients::Disconnect,
        session: Some(Box::new(Session::new(untold, BTreeMap::new()))),
    };
    let key = bench.engine.open(hold, bench.now);
    bench.attach(key);
    let wrong = r#""id":"2","prev-id":"1","http-stream":{"content":"%(none)s"}"#;
    bench.publish("a", wrong);
    // Content for other filters is not even taken.
    let other = r#""id":"3","prev-id":"2","http-stream":{"content":"x","content-filters":[]}"#;
    bench.publish("a", other);
    bench.append_after("a", "2", "4");
    assert_eq!(bench.written(key), "head 3\r\n<4>\r\n");
    bench.check_count(|counters| &counters.filter_errors, 2);
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn items_wait_in_order_behind_a_question() {
    let mut bench = Bench::new();
    let key = bench.stream_as(CHECK);
    for (prev_id, id) in [("1", "2"), ("2", "3"), ("3", "4")] {
        bench.append_after("a", prev_id, id);
    }
    let ask = |id: u32| format!("ask /ask b\"<{id}>\" [a; last-id={id}]");
    assert_eq!(bench.outputs(), [ask(2)]);
    assert_eq!(bench.written(key), "");
    bench.told(key, deliver("<2>"));
    assert_eq!(bench.outputs(), [ask(3)]);
    bench.told(key, Decision::Drop);
    bench.told(key, deliver("<4>"));
    assert_eq!(bench.written(key), "3\r\n<2>\r\n3\r\n<4>\r\n");
    // Nobody asked.
    bench.told(key, deliver("late"));
    assert_eq!(bench.written(key), "");
}

#[test]
fn a_reply_changes_what_is_delivered() {
    let mut bench = Bench::new();
    let key = bench.stream_as(MODIFY);
    bench.append_after("a", "1", "2");
    assert_eq!(bench.outputs(), [r#"ask /ask b"<2>" [a; last-id=2]"#]);
    bench.told(key, deliver("new"));
    assert_eq!(bench.written(key), "3\r\nnew\r\n");

    let key = bench.poll_as(MODIFY);
    let item = r#""id":"2","prev-id":"1","http-response":{"body":"x"}"#;
    bench.publish("a", item);
    bench.told(key, deliver("other"));
    assert!(bench.written(key).ends_with("\r\n\r\nother"));
}

#[test]
fn a_question_without_reply_ends_a_stream_that_is_told() {
    let mut bench = Bench::new();
    let key = bench.stream_as(CHECK);
    bench.append_after("a", "1", "2");
    let error = FilterError {
        filter: Filter::HttpCheck,
        fault: FilterFault::Unanswered(InquiryFailure::Timeout),
    };
    bench.tell(key, News::Told(Err(error)));
    let text = "\n\nfilter error: http-check: network request failed: request timed out\n";
    assert!(bench.written(key).contains(text));
}

#[test]
fn an_update_waits_for_the_reply_to_a_question() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{CHECK} | {NEXT}"));
    bench.append_after("a", "1", "2");
    bench.outputs();
    bench.engine.handle_recover(bench.now);
    bench.wait(0);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.told(key, deliver("<2>"));
    assert_eq!(bench.outputs(), ["follow http://o/next Low [a; last-id=2]"]);
}
