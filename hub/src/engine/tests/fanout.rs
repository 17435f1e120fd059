//! Items that come together, and how much may wait.

use super::*;
use crate::engine::outbox::PIECE;

impl Bench {
    pub(super) fn with_budget(budget: Budget) -> Self {
        let mut bench = Self::new();
        bench.engine = Engine::new(
            budget,
            Limits::default(),
            Arc::clone(&bench.counters),
            bench.now,
        );
        bench
    }

    /// Items of channel `a`, not delivered yet.
    fn unsent(&mut self, formats: &[&str]) -> Vec<Arc<Sequenced>> {
        let items = formats.iter().map(|formats| {
            self.sequence += 1;
            let body = format!(r#"{{"items":[{{"channel":"a",{formats}}}]}}"#);
            let item = grip::publish::parse(body.as_bytes(), &Limits::default());
            let item = item.unwrap().remove(0);
            Arc::new(Sequenced::new(Sequence(self.sequence), item))
        });
        items.collect()
    }

    fn plain_stream(&mut self) -> ConnectionKey {
        let mut kind = stream(None);
        if let HoldKind::Stream { framing, .. } = &mut kind {
            *framing = StreamFraming::Plain;
        }
        let key = self.open(kind, &["a"]);
        self.attach(key);
        key
    }

    fn slow(&mut self, slow: SlowClients) -> ConnectionKey {
        let key = self.stream(&["a"]);
        self.engine.connections.get(key).unwrap().slow = slow;
        key
    }

    fn waiting(&mut self, key: ConnectionKey) -> Option<usize> {
        Some(self.engine.outbox(key)?.weight())
    }
}

/// What everybody gets of these items, and what the shard has to do, if they come as `deliver` says.
fn delivered(
    formats: &[&str],
    deliver: fn(&mut Engine, &[Arc<Sequenced>], Instant),
) -> Vec<String> {
    let mut bench = Bench::new();
    let early = bench.open(stream(None), &["a"]);
    let mut keys = vec![
        bench.stream(&["a"]),
        bench.stream(&["b", "a"]),
        bench.plain_stream(),
        bench.slow(SlowClients::DropOldest),
        bench.slow(SlowClients::LatestOnly),
        bench.stream_as("grip-channel: a; prev-id=1"),
        bench.websocket("OPEN\r\n"),
        early,
    ];
    let response = bench.open(response(10), &["a"]);
    bench.attach(response);
    keys.push(response);
    let items = bench.unsent(formats);
    // It came between them.
    bench.attach_at(early, 1);
    let now = bench.now;
    deliver(&mut bench.engine, &items, now);
    let mut all: Vec<String> = keys.into_iter().map(|key| bench.written(key)).collect();
    // Who is dealt with first does not matter.
    let mut outputs = bench.outputs();
    outputs.sort();
    all.extend(outputs);
    all.push(format!("{:?}", bench.counters.deliveries));
    all.push(format!("{:?}", bench.counters.slow_consumers));
    all
}

#[track_caller]
fn check_together(formats: &[&str]) {
    let one_by_one = delivered(formats, |engine, items, now| {
        for item in items {
            engine.handle_items(std::slice::from_ref(item), now);
        }
    });
    let together = delivered(formats, |engine, items, now| {
        engine.handle_items(items, now);
    });
    assert_eq!(together, one_by_one);
}

#[test]
fn items_that_come_together_are_the_same_to_all_as_one_by_one() {
    const CONTENT: [&str; 3] = [
        r#""http-stream":{"content":"one"},"ws-message":{"content":"1"}"#,
        r#""http-stream":{"content":"two"},"http-response":{"body":"2"}"#,
        r#""ws-message":{"content":"3"}"#,
    ];
    const CLOSE: &str = r#""http-stream":{"action":"close"},"ws-message":{"action":"close"}"#;
    const HINT: &str = r#""http-stream":{"action":"hint"},"http-response":{"action":"hint"}"#;
    let [first, second, third] = CONTENT;
    check_together(&[first]);
    check_together(&CONTENT);
    check_together(&[first, first, second, third, first]);
    check_together(&[first, CLOSE, second]);
    check_together(&[CLOSE, first]);
    check_together(&[first, HINT, second]);
    check_together(&[HINT, HINT]);
    let long = format!(r#""http-stream":{{"content":"{}"}}"#, "x".repeat(90));
    check_together(&[first, &long, second]);
    let huge = format!(r#""http-stream":{{"content":"{}"}}"#, "x".repeat(70_000));
    check_together(&[first, &huge, second]);
}

#[test]
fn items_that_come_together_are_one_piece() {
    let mut bench = Bench::new();
    let key = bench.stream(&["a"]);
    assert_eq!(bench.written(key), "head ");
    let items = bench.unsent(&[r#""http-stream":{"content":"x"}"#; 5]);
    let now = bench.now;
    bench.engine.handle_items(&items, now);
    let outbox = bench.engine.outbox(key).unwrap();
    assert_eq!(outbox.only().unwrap().len(), 5 * "1\r\nx\r\n".len());
}

#[test]
fn the_more_waits_for_all_the_earlier_is_a_client_slow() {
    // An eighth of what is left: 50 bytes with nothing waiting.
    let mut bench = Bench::with_budget(Budget::new(100, 400));
    let slow: Vec<ConnectionKey> = (0..12)
        .map(|_| bench.slow(SlowClients::Disconnect))
        .collect();
    for key in &slow {
        bench.written(*key);
    }
    let reading = bench.stream(&["a"]);
    for number in 0..8 {
        bench.append("a", "12345");
        for key in &slow {
            if bench.waiting(*key).is_some() {
                bench.blocked(*key);
            }
        }
        assert!(
            bench.written(reading).ends_with("5\r\n12345\r\n"),
            "{number}"
        );
        bench.blocked(reading);
        let total: usize = slow.iter().filter_map(|key| bench.waiting(*key)).sum();
        assert!(total <= 400, "{total} bytes wait");
    }
    bench.check_count(|counters| &counters.slow_consumers, 12);
    bench.check_count(|counters| &counters.pending_bytes, 0);
}

#[test]
fn an_item_larger_than_what_is_left_reaches_those_who_keep_up() {
    let mut bench = Bench::with_budget(Budget::new(100, 400));
    let reading = bench.stream(&["a"]);
    bench.written(reading);
    let content = "x".repeat(80);
    bench.append("a", &content);
    assert!(bench.written(reading).contains(&content));
}

#[test]
fn whoever_keeps_up_gets_all_that_comes_in_one_turn() {
    for slow in [SlowClients::Disconnect, SlowClients::DropOldest] {
        let mut bench = Bench::with_budget(Budget::new(100, 400));
        let reading = bench.open(stream(None), &["a", "b"]);
        bench.attach(reading);
        bench.engine.connections.get(reading).unwrap().slow = slow;
        bench.written(reading);
        let content = "x".repeat(40);
        for _ in 0..4 {
            bench.append("a", &content);
            bench.append("b", &content);
        }
        assert_eq!(bench.written(reading).matches(&content).count(), 8);
    }
}

#[test]
fn a_fan_out_to_many_sessions_delays_others_by_a_turn() {
    let mut bench = Bench::new();
    let sessions: Vec<ConnectionKey> = (0..600)
        .map(|_| bench.stream_as("grip-channel: a; prev-id=1"))
        .collect();
    let other = bench.stream(&["b"]);
    while bench.engine.next_dirty().is_some() {}
    bench.append_after("a", "1", "2");
    bench.append("b", "x");
    let order: Vec<ConnectionKey> = std::iter::from_fn(|| bench.engine.next_dirty()).collect();
    assert_eq!(order.len(), sessions.len() + 1);
    let place = order.iter().position(|key| *key == other).unwrap();
    assert!(place <= 256, "{place}");
}

/// Streams that are in order; then two items of so many bytes, of which a write takes 100 of each.
fn written_in_part(
    bench: &mut Bench,
    slow: SlowClients,
    streams: usize,
    bytes: usize,
) -> Vec<ConnectionKey> {
    let keys: Vec<ConnectionKey> = (0..streams).map(|_| bench.slow(slow)).collect();
    for key in &keys {
        bench.written(*key);
    }
    let content = "x".repeat(bytes);
    bench.append("a", &content);
    bench.append("a", &content);
    for key in &keys {
        bench.engine.outbox(*key).unwrap().consume(100);
        bench.blocked(*key);
    }
    keys
}

fn all_waiting(bench: &mut Bench, keys: &[ConnectionKey]) -> usize {
    keys.iter().filter_map(|key| bench.waiting(*key)).sum()
}

#[test]
fn what_a_first_write_leaves_ends_nobody_however_much_it_is() {
    for slow in [SlowClients::Disconnect, SlowClients::DropOldest] {
        let mut bench = Bench::with_budget(Budget::new(1000, 4000));
        let keys = written_in_part(&mut bench, slow, 20, 300);
        assert!(all_waiting(&mut bench, &keys) > 4000);
        bench.check_count(|counters| &counters.slow_consumers, 0);
        bench.check_count(|counters| &counters.dropped_items, 0);
    }
}

#[test]
fn who_has_not_read_that_by_the_next_item_makes_room() {
    let mut bench = Bench::with_budget(Budget::new(1000, 4000));
    let keys = written_in_part(&mut bench, SlowClients::Disconnect, 20, 300);
    let (reading, others) = keys.split_first().unwrap();
    bench.written(*reading);
    bench.blocked(*reading);
    bench.append("a", "next");
    for key in others {
        bench.blocked(*key);
    }
    assert!(bench.written(*reading).contains("next"));
    let waiting = all_waiting(&mut bench, others);
    assert!(waiting <= 4000, "{waiting} bytes wait");
    bench.check_count(|counters| &counters.pending_bytes, waiting as u64);
    // A delivery drops all for whom there is no room, and so makes some.
    assert!(others.iter().all(|key| bench.waiting(*key).is_none()));
}

#[test]
fn of_a_client_that_may_stay_only_what_has_begun_is_left_then() {
    let mut bench = Bench::with_budget(Budget::new(1000, 4000));
    let keys = written_in_part(&mut bench, SlowClients::DropOldest, 20, 300);
    bench.append("a", "next");
    for key in &keys {
        bench.blocked(*key);
    }
    bench.check_count(|counters| &counters.slow_consumers, 0);
    let waiting = all_waiting(&mut bench, &keys);
    bench.check_count(|counters| &counters.pending_bytes, waiting as u64);
    assert!(waiting < 4000 + 20 * 307, "{waiting} bytes wait");
}

#[test]
fn signs_of_life_for_many_delay_others_by_a_turn() {
    let mut bench = Bench::new();
    let many: Vec<ConnectionKey> = (0..600)
        .map(|_| {
            let key = bench.open(stream(Some(keep_alive(Beat::Idle))), &["a"]);
            bench.attach(key);
            key
        })
        .collect();
    let other = bench.stream(&["b"]);
    for key in &many {
        bench.written(*key);
    }
    while bench.engine.next_dirty().is_some() {}
    bench.wait(21);
    bench.append("b", "x");
    let order: Vec<ConnectionKey> = std::iter::from_fn(|| bench.engine.next_dirty()).collect();
    assert_eq!(order.len(), many.len() + 1);
    let place = order.iter().position(|key| *key == other).unwrap();
    assert!(place <= 256, "{place}");
}

#[test]
fn a_slow_client_that_leaves_makes_room_for_others() {
    let mut bench = Bench::with_budget(Budget::new(100, 160));
    let (first, second) = (bench.slow(SlowClients::DropOldest), bench.stream(&["a"]));
    bench.written(second);
    bench.append("a", "12345");
    bench.blocked(first);
    bench.check_count(|counters| &counters.pending_bytes, 15 + PIECE as u64);
    let now = bench.now;
    bench.engine.handle_gone(first, now);
    bench.check_count(|counters| &counters.pending_bytes, 0);
}
