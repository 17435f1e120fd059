//! What connections have missed, and clients that read too slowly.

use super::*;
use crate::engine::connections::Resume;

const CHANNEL: &str = "grip-channel: a; prev-id=1";
const NEXT: &str = "grip-link: </next>; rel=next";

impl Bench {
    /// Makes a connection's client one that may stay when it reads too slowly.
    fn stay(&mut self, key: ConnectionKey, slow: SlowClients) {
        self.engine.connections.live(key.index).1.slow = slow;
    }

    /// An item of the history: its id is `id`, and it follows the one before.
    fn past(&mut self, id: u64, formats: &str) -> Arc<Sequenced> {
        let body = format!(
            r#"{{"items":[{{"channel":"a","id":"{id}","prev-id":"{}",{formats}}}]}}"#,
            id - 1
        );
        let items = grip::publish::parse(body.as_bytes(), &Limits::default());
        self.sequence += 1;
        let sequence = Sequence(self.sequence);
        Arc::new(Sequenced::new(sequence, items.unwrap().remove(0)))
    }

    /// Items of the history from one id to another, with these contents behind their ids.
    fn history(&mut self, ids: std::ops::RangeInclusive<u64>, content: &str) -> CatchUp {
        let missed = ids.map(|id| {
            let formats = format!(
                r#""http-stream":{{"content":"<{id}{content}>"}},"http-response":{{"body":"<{id}>"}}"#
            );
            self.past(id, &formats)
        });
        CatchUp {
            standings: vec![(ChannelName::new("a"), Standing::UpToDate)],
            missed: missed.collect(),
            is_resumed: false,
        }
    }

    fn attach_with(&mut self, key: ConnectionKey, catch_up: CatchUp) {
        let cursor = Sequence(self.sequence);
        let catch_up = Some(Box::new(catch_up));
        self.engine.handle_attached(key, cursor, catch_up, self.now);
    }

    fn catch_up_with(&mut self, key: ConnectionKey, catch_up: CatchUp) {
        let catch_up = Some(Box::new(catch_up));
        self.engine.handle_caught_up(key, catch_up, self.now);
    }

    /// All that the client gets, without framing, while it reads whatever there is.
    fn read(&mut self, key: ConnectionKey) -> String {
        let mut content = String::new();
        loop {
            let written = self.written(key);
            if written.is_empty() {
                return content;
            }
            content += &written;
            self.engine.handle_flushed(key, self.now);
        }
    }

    /// The items in it.
    fn items(&mut self, key: ConnectionKey) -> String {
        let content = self.read(key);
        let items = content.split('<').skip(1);
        let items = items.filter_map(|item| Some(item.split_once('>')?.0.trim_end_matches('.')));
        items.collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn what_a_stream_has_missed_comes_behind_its_start_and_before_what_is_new() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), CHANNEL);
    let history = bench.history(2..=3, "");
    bench.attach_with(key, history);
    bench.append_after("a", "3", "4");
    assert_eq!(bench.items(key), "2 3 4");
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn a_request_is_answered_by_the_first_item_that_it_has_missed() {
    let mut bench = Bench::new();
    let key = bench.open_as(response(55), CHANNEL);
    let history = bench.history(2..=3, "");
    bench.attach_with(key, history);
    assert!(bench.written(key).ends_with("<2>"));
}

#[test]
fn what_an_item_told_others_to_do_is_over() {
    for action in ["close", "hint"] {
        let mut bench = Bench::new();
        let key = bench.open_as(stream(None), &format!("{CHANNEL} | {NEXT}"));
        bench.outputs();
        let formats = format!(r#""http-stream":{{"action":"{action}"}}"#);
        let past = bench.past(2, &formats);
        let mut history = bench.history(3..=3, "");
        history.missed.insert(0, past);
        bench.attach_with(key, history);
        assert_eq!(bench.items(key), "3", "{action}");
        assert_eq!(bench.outputs(), [""; 0], "{action}");
    }
}

#[test]
fn an_item_for_others_is_no_gap() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{CHANNEL} | {NEXT}"));
    let formats = r#""id":"2","prev-id":"1","http-response":{"body":"x"}"#;
    bench.publish("a", formats);
    bench.append_after("a", "2", "3");
    assert_eq!(bench.items(key), "3");
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn a_client_that_is_ahead_gets_nothing_that_it_has() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), "grip-channel: a; prev-id=4");
    let ahead = CatchUp {
        standings: vec![(ChannelName::new("a"), Standing::Ahead)],
        missed: Vec::new(),
        is_resumed: false,
    };
    bench.attach_with(key, ahead);
    for id in 3..=5 {
        bench.append_after("a", &(id - 1).to_string(), &id.to_string());
    }
    assert_eq!(bench.items(key), "5");
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn what_a_client_has_missed_goes_out_as_it_reads() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), CHANNEL);
    let history = bench.history(2..=40, "...................................");
    bench.attach_with(key, history);
    let pending = bench.engine.outbox(key).unwrap().pending_bytes();
    assert!(pending <= 150, "{pending} bytes wait");
    bench.append_after("a", "40", "41");
    let all: Vec<String> = (2..=41).map(|id| id.to_string()).collect();
    assert_eq!(bench.items(key), all.join(" "));
}

#[test]
fn who_reads_nothing_of_what_it_has_missed_is_disconnected() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), CHANNEL);
    bench.outputs();
    let history = bench.history(2..=40, "...................................");
    bench.attach_with(key, history);
    bench.wait(59);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.wait(2);
    assert_eq!(bench.outputs(), ["detach a", "drop"]);
    bench.check_count(|counters| &counters.slow_consumers, 1);
}

#[test]
fn who_reads_slowly_what_it_has_missed_stays_until_it_has_read_nothing_for_a_minute() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), CHANNEL);
    bench.outputs();
    let history = bench.history(2..=40, "...................................");
    bench.attach_with(key, history);
    bench.blocked(key);
    for _ in 0..4 {
        bench.wait(50);
        bench.engine.outbox(key).unwrap().consume(1);
        bench.blocked(key);
    }
    bench.wait(59);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.wait(2);
    assert_eq!(bench.outputs(), ["detach a", "drop"]);
}

#[test]
fn who_reads_what_it_has_missed_is_not_slow_because_an_item_is_large() {
    // The smaller one has no room only with its framing.
    for bytes in [72, 97] {
        let mut bench = Bench::new();
        let key = bench.stream_as(CHANNEL);
        bench.append_sized(2, 20);
        bench.blocked(key);
        bench.engine.session(key).unwrap().has_missed = true;
        bench.read_until(key, 25);
        assert_eq!(bench.outputs(), ["catch up a=2"]);
        bench.give(key, &[(3, bytes), (4, 10)]);
        assert_eq!(bench.outputs(), [""; 0], "{bytes}");
        let rest = bench.items(key);
        assert!(rest.ends_with("3 4"), "{bytes}: {rest}");
        bench.check_count(|counters| &counters.slow_consumers, 0);
    }
}

#[test]
fn what_is_too_much_to_keep_is_asked_for_afterwards() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{CHANNEL} | {NEXT}"));
    let publish = |bench: &mut Bench, id: u64, format: &str| {
        let prev_id = id - 1;
        bench.publish(
            "a",
            &format!(r#""id":"{id}","prev-id":"{prev_id}",{format}"#),
        );
    };
    publish(&mut bench, 2, r#""http-stream":{"action":"hint"}"#);
    bench.outputs();
    // They say nothing to streams, so that the client has not much to read.
    for id in 3..=150 {
        publish(&mut bench, id, r#""http-response":{"body":"x"}"#);
    }
    bench.check_count(|counters| &counters.backlog_dropped, 1);
    let answer = format!("grip-hold: stream | grip-channel: a; prev-id=2 | {NEXT}");
    bench.link_whole(key, &answer, "to 2");
    assert_eq!(bench.outputs(), ["catch up a=102"]);
    // What comes now, comes again with the answer.
    bench.append_after("a", "150", "151");
    assert_eq!(bench.items(key), "");
    let history = bench.history(103..=106, "");
    bench.catch_up_with(key, history);
    assert_eq!(bench.items(key), "103 104 105 106");
    bench.check_count(|counters| &counters.gaps, 0);
}

/// What a client that reads nothing has of five items, 24 bytes and a place in the queue each, when
/// there is room for three.
#[track_caller]
fn check_slow(slow: SlowClients, expected: &str, dropped: u64) {
    let mut bench = Bench::with_budget(Budget::new(290, usize::MAX));
    let key = bench.stream(&["a"]);
    bench.outputs();
    bench.stay(key, slow);
    bench.blocked(key);
    for id in 1..=5 {
        bench.append("a", &format!("<{id}................>"));
    }
    assert_eq!(bench.items(key), expected);
    bench.check_count(|counters| &counters.dropped_items, dropped);
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn a_slow_client_may_lose_items_in_place_of_its_connection() {
    check_slow(SlowClients::DropOldest, "3 4 5", 2);
    check_slow(SlowClients::LatestOnly, "4 5", 3);
}

#[test]
fn of_a_channel_with_ids_a_slow_client_loses_nothing() {
    for slow in [SlowClients::DropOldest, SlowClients::LatestOnly] {
        let mut bench = Bench::new();
        let key = bench.stream_as(CHANNEL);
        bench.stay(key, slow);
        for id in 2..=40 {
            bench.append_after("a", &(id - 1).to_string(), &id.to_string());
            bench.blocked(key);
        }
        let read = bench.items(key);
        let last: u64 = read.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(last < 40, "the outbox takes all");
        assert_eq!(bench.outputs(), [format!("catch up a={last}")]);
        let history = bench.history(last + 1..=40, "");
        bench.catch_up_with(key, history);
        let all: Vec<String> = (last + 1..=40).map(|id| id.to_string()).collect();
        assert_eq!(bench.items(key), all.join(" "));
        bench.check_count(|counters| &counters.overflows, 1);
        bench.check_count(|counters| &counters.dropped_items, 0);
    }
}

impl Bench {
    /// An item of so many bytes that follows the one before.
    fn sized(id: u64, bytes: usize) -> String {
        let fill = ".".repeat(bytes - 2 - id.to_string().len());
        format!(r#""http-stream":{{"content":"<{id}{fill}>"}}"#)
    }

    fn append_sized(&mut self, id: u64, bytes: usize) {
        let ids = format!(r#""id":"{id}","prev-id":"{}""#, id - 1);
        self.publish("a", &format!("{ids},{}", Self::sized(id, bytes)));
    }

    /// Gives a connection these items, which it has missed.
    fn give(&mut self, key: ConnectionKey, items: &[(u64, usize)]) {
        let items = items.iter();
        let missed = items.map(|(id, bytes)| self.past(*id, &Self::sized(*id, *bytes)));
        let catch_up = CatchUp {
            standings: vec![(ChannelName::new("a"), Standing::UpToDate)],
            missed: missed.collect(),
            is_resumed: false,
        };
        self.catch_up_with(key, catch_up);
    }

    /// The client reads all but so many bytes.
    fn read_until(&mut self, key: ConnectionKey, rest: usize) {
        let outbox = self.engine.outbox(key).unwrap();
        outbox.consume(outbox.pending_bytes() - rest);
        self.blocked(key);
    }
}

#[test]
fn what_has_no_room_is_asked_for_when_there_is_room() {
    for slow in [SlowClients::DropOldest, SlowClients::LatestOnly] {
        let mut bench = Bench::new();
        let key = bench.stream_as(CHANNEL);
        bench.stay(key, slow);
        bench.append_sized(2, 10);
        bench.blocked(key);
        bench.append_sized(3, 120);
        bench.blocked(key);
        assert_eq!(bench.outputs(), [""; 0]);
        assert_eq!(bench.items(key), "2");
        assert_eq!(bench.outputs(), ["catch up a=2"]);
        bench.append_sized(4, 10);
        bench.give(key, &[(3, 120), (4, 10)]);
        assert_eq!(bench.items(key), "3 4");
        bench.check_count(|counters| &counters.overflows, 1);
    }
}

#[test]
fn what_of_the_history_has_no_room_waits_for_it() {
    let mut bench = Bench::new();
    let key = bench.stream_as(CHANNEL);
    bench.stay(key, SlowClients::DropOldest);
    bench.append_sized(2, 80);
    bench.blocked(key);
    bench.append_sized(3, 30);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.read_until(key, 4);
    assert_eq!(bench.outputs(), ["catch up a=2"]);
    bench.give(key, &[(3, 30), (4, 90), (5, 10)]);
    bench.blocked(key);
    assert_eq!(bench.outputs(), [""; 0]);
    assert_eq!(bench.items(key), "3 4 5");
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn what_waits_behind_an_item_without_room_comes_back_with_it() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{CHANNEL} | {NEXT}"));
    bench.stay(key, SlowClients::DropOldest);
    bench.append_sized(2, 10);
    bench.blocked(key);
    bench.publish(
        "a",
        r#""id":"3","prev-id":"2","http-stream":{"action":"hint"}"#,
    );
    assert_eq!(bench.outputs().len(), 1, "it follows its link");
    bench.append_sized(4, 120);
    bench.append_sized(5, 10);
    let answer = format!("grip-hold: stream | grip-channel: a; prev-id=3 | {NEXT}");
    bench.link_whole(key, &answer, "");
    assert_eq!(bench.outputs(), [""; 0]);
    assert_eq!(bench.items(key), "2");
    assert_eq!(bench.outputs(), ["catch up a=3"]);
    bench.give(key, &[(4, 120), (5, 10)]);
    assert_eq!(bench.items(key), "4 5");
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn what_the_history_does_not_know_either_the_origin_is_asked_for() {
    let mut bench = Bench::new();
    let key = bench.stream_as(&format!("{CHANNEL} | {NEXT}"));
    bench.stay(key, SlowClients::DropOldest);
    for id in 2..=40 {
        bench.append_after("a", &(id - 1).to_string(), &id.to_string());
        bench.blocked(key);
    }
    bench.items(key);
    bench.outputs();
    bench.catch_up_with(key, behind(&["a"]));
    let outputs = bench.outputs();
    assert!(
        outputs[0].starts_with("follow http://o/next Low"),
        "{outputs:?}"
    );
}

/// A stream whose client says that event 5 is its last.
fn resumed(bench: &mut Bench, instruct: &str) -> ConnectionKey {
    let kind = HoldKind::Stream {
        start: Bytes::from_static(b"head body "),
        framing: StreamFraming::Plain,
        keep_alive: None,
        then: AfterStart::Items,
        events: Events::Resumed(Box::new(Resume {
            last_id: ItemId::new("5"),
            head: Bytes::from_static(b"head "),
        })),
    };
    bench.open_as(kind, instruct)
}

#[test]
fn events_go_on_behind_the_last_one_with_their_ids() {
    let mut bench = Bench::new();
    let key = resumed(&mut bench, CHANNEL);
    let formats = r#""http-stream":{"content":"data: x\n\n"}"#;
    let missed = vec![bench.past(6, formats)];
    let catch_up = CatchUp {
        standings: vec![(
            ChannelName::new("a"),
            Standing::Resumed(Some(ItemId::new("5"))),
        )],
        missed,
        is_resumed: true,
    };
    bench.attach_with(key, catch_up);
    bench.publish("a", &format!(r#""id":"7","prev-id":"6",{formats}"#));
    let expected = "head id: 6\ndata: x\n\nid: 7\ndata: x\n\n";
    assert_eq!(bench.read(key), expected);
    bench.check_count(|counters| &counters.gaps, 0);
}

#[test]
fn an_event_that_nobody_knows_is_told_to_the_origin() {
    let mut bench = Bench::new();
    let key = resumed(&mut bench, &format!("{CHANNEL} | {NEXT}"));
    bench.outputs();
    bench.attach(key);
    assert_eq!(bench.read(key), "head ");
    let follow = "follow http://o/next Low [a; last-id=5]";
    assert_eq!(bench.outputs(), [follow]);
}

#[test]
fn without_a_link_a_stream_begins_like_a_new_one() {
    let mut bench = Bench::new();
    let key = resumed(&mut bench, CHANNEL);
    bench.attach(key);
    bench.append_after("a", "1", "2");
    assert_eq!(bench.read(key), "head body id: 2\n<2>");
    bench.check_count(|counters| &counters.gaps, 1);
}

#[test]
fn events_of_a_stream_without_session_have_their_ids_too() {
    let mut bench = Bench::new();
    let kind = HoldKind::Stream {
        start: Bytes::from_static(b"head "),
        framing: StreamFraming::Plain,
        keep_alive: None,
        then: AfterStart::Items,
        events: Events::WithIds,
    };
    let key = bench.open(kind, &["a"]);
    bench.attach(key);
    bench.append_after("a", "1", "2");
    bench.append("a", "no id");
    assert_eq!(bench.read(key), "head id: 2\n<2>no id");
}

#[test]
fn an_origin_whose_ids_are_others_is_not_asked_for_ever() {
    let mut bench = Bench::new();
    let key = bench.open_as(stream(None), &format!("{CHANNEL} | {NEXT}"));
    bench.attach_with(key, behind(&["a"]));
    let mut questions = 0;
    for id in 100..120 {
        let outputs = bench.outputs();
        if outputs.iter().any(|output| output.starts_with("follow")) {
            questions += 1;
            let answer = format!("grip-hold: stream | grip-channel: a; prev-id={id} | {NEXT}");
            bench.link_whole(key, &answer, "");
        }
        bench.catch_up_with(key, behind(&["a"]));
    }
    assert_eq!(questions, 8);
    // An item shows that something is missing.
    bench.append_after("a", "1", "2");
    let outputs = bench.outputs();
    assert!(outputs[0].starts_with("follow"), "{outputs:?}");
}
