//! Random lives of connections with sessions: whatever happens, nothing is left of them.

use std::collections::BTreeSet;

use grip::filter::Reply as Decision;

use super::*;
use crate::seed::Seed;

const STEPS: usize = 400;
const CHANNELS: [&str; 3] = ["a", "b", "c"];
const FILTERS: [&str; 4] = ["skip-self", "var-subst", "http-check", "http-modify"];
const LINKS: [&str; 4] = [
    "grip-link: </next>; rel=next; timeout=3",
    "grip-link: </other>; rel=next; timeout=20",
    "grip-link: </gone>; rel=gone",
    "grip-keep-alive: beat; timeout=4",
];

/// A bench, and what its outputs add up to.
struct World {
    bench: Bench,
    random: Random,
    /// All that there ever were: news come late, too.
    keys: Vec<ConnectionKey>,
    /// Those that the broker has not answered yet.
    attaching: Vec<ConnectionKey>,
    /// Those that had something asked; most news are for them.
    asking: Vec<ConnectionKey>,
    /// Those with a gone link, and those for which it was told.
    watched: BTreeSet<(u32, u32)>,
    told_gone: Vec<(u32, u32)>,
    /// Attached less detached, for each channel.
    interest: HashMap<String, i64>,
    next_id: usize,
}

fn id(key: ConnectionKey) -> (u32, u32) {
    (key.index, key.generation)
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::new(),
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            keys: Vec::new(),
            attaching: Vec::new(),
            asking: Vec::new(),
            watched: BTreeSet::new(),
            told_gone: Vec::new(),
            interest: HashMap::new(),
            next_id: 1,
        }
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.below(all.len())]
    }

    /// One of the last few.
    fn recent(&mut self, keys: &[ConnectionKey]) -> ConnectionKey {
        let from = keys.len().saturating_sub(8);
        self.one_of(&keys[from..])
    }

    /// Any instruction but for its hold.
    fn instruct(&mut self) -> String {
        let mut headers = vec!["grip-set-meta: url=/ask, user=me".to_owned()];
        for channel in CHANNELS {
            if self.random.below(2) == 0 {
                let mut header = format!("grip-channel: {channel}");
                if self.random.below(2) == 0 {
                    // Near the newest id, so that many fit.
                    let back = self.random.below(3);
                    let prev_id = self.next_id.saturating_sub(back);
                    header = format!("{header}; prev-id={prev_id}");
                }
                if self.random.below(2) == 0 {
                    header = format!("{header}; filter={}", self.one_of(&FILTERS));
                }
                headers.push(header);
            }
        }
        let [first, second, gone, keep_alive] = LINKS;
        match self.random.below(3) {
            0 => {}
            1 => headers.push(first.to_owned()),
            _ => headers.push(second.to_owned()),
        }
        for header in [gone, keep_alive] {
            if self.random.below(2) == 0 {
                headers.push(header.to_owned());
            }
        }
        headers.join(" | ")
    }

    fn open(&mut self) {
        let kind = match self.random.below(6) {
            0 | 1 => response(5),
            2 => stream_then(None, AfterStart::Link),
            3 => stream_then(None, AfterStart::Body(AfterBody::Items)),
            4 => stream_then(None, AfterStart::Body(AfterBody::Link)),
            _ => stream(Some(keep_alive(Beat::Idle))),
        };
        let instruct = self.instruct();
        let key = self.bench.open_as(kind, &instruct);
        if instruct.contains("rel=gone") {
            self.watched.insert(id(key));
        }
        self.keys.push(key);
    }

    fn publish(&mut self) {
        let channel = self.one_of(&CHANNELS);
        let formats = self.one_of(&[
            r#""http-stream":{"content":"x"},"http-response":{"body":"x"}"#,
            r#""http-stream":{"content":"%("},"meta":{"sender":"me"}"#,
            r#""http-stream":{"action":"hint"},"http-response":{"action":"hint"}"#,
            r#""http-stream":{"content":"y"}"#,
            r#""http-stream":{"content":"x","content-filters":[]}"#,
            r#""http-stream":{"action":"close"}"#,
        ]);
        let prev_id = self.next_id - self.random.below(2);
        self.next_id += 1;
        let ids = format!(r#""id":"{}","prev-id":"{prev_id}""#, self.next_id);
        self.bench.publish(channel, &format!("{ids},{formats}"));
    }

    /// News in no order that makes sense, also for connections that are gone.
    fn news(&mut self, key: ConnectionKey) {
        let instruct = self.instruct();
        let hold = self.one_of(&["grip-hold: stream | ", "", "grip-hold: response | "]);
        let (receipt, _) = Receipt::new();
        let news = match self.random.below(12) {
            0..=4 => News::Linked(linked(&format!("{hold}{instruct}"))),
            5 => News::Body(Bytes::from(vec![b'x'; 70_000]), receipt),
            6..=7 => News::Complete,
            8 => News::Broken,
            9 => News::Stalled,
            10 => News::Failed(LinkError::Retrieve),
            _ => News::Told(Ok(Decision::Deliver(Bytes::from_static(b"told")))),
        };
        self.bench.tell(key, news);
    }

    fn attach(&mut self) {
        if self.attaching.is_empty() {
            return;
        }
        let at = self.random.below(self.attaching.len());
        let key = self.attaching.swap_remove(at);
        let catch_up = (self.random.below(3) == 0).then(|| Box::new(behind(&CHANNELS)));
        let cursor = Sequence(self.bench.sequence);
        let now = self.bench.now;
        self.bench
            .engine
            .handle_attached(key, cursor, catch_up, now);
    }

    fn step(&mut self) {
        if self.keys.is_empty() {
            return self.open();
        }
        let keys = self.keys.clone();
        let key = self.recent(&keys);
        match self.random.below(40) {
            0..=5 => self.open(),
            6..=15 => self.publish(),
            16..=18 => self.news(key),
            19..=25 if !self.asking.is_empty() => {
                let asking = self.asking.clone();
                let key = self.recent(&asking);
                self.news(key);
            }
            26..=31 => self.attach(),
            32 => self.bench.engine.handle_gone(key, self.bench.now),
            33..=35 => self.bench.wait(1),
            36 => self.bench.engine.handle_recover(self.bench.now),
            37 => {
                let channel = ChannelName::new(self.one_of(&CHANNELS));
                self.bench.engine.handle_update(&channel, self.bench.now);
            }
            _ => self.flush(),
        }
        self.take_outputs();
        self.check_slots();
    }

    /// A session has one slot for each subscription, in the same order.
    fn check_slots(&mut self) {
        let engine = &mut self.bench.engine;
        for key in &self.keys {
            let Some(connection) = engine.connections.get(*key) else {
                continue;
            };
            let (Phase::Stream(_) | Phase::Response(_), Some(session)) =
                (&connection.phase, &connection.session)
            else {
                continue;
            };
            let slots = session.slots.iter().map(|slot| &slot.channel);
            let subscriptions = connection.subscriptions.iter();
            assert!(slots.eq(subscriptions.map(|one| engine.subscriptions.name(*one))));
        }
    }

    /// Every client reads all there is.
    fn flush(&mut self) {
        while let Some(key) = self.bench.engine.next_dirty() {
            if let Some(outbox) = self.bench.engine.outbox(key) {
                let pending = outbox.pending_bytes();
                outbox.consume(pending);
            }
            self.bench.engine.handle_flushed(key, self.bench.now);
        }
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.bench.engine.poll_output() {
            match output {
                Output::Attach { connection, wanted } => {
                    self.attaching.push(connection);
                    for attachment in wanted.channels {
                        self.count(&attachment.channel, 1);
                    }
                }
                Output::Detach(names) => names.iter().for_each(|name| self.count(name, -1)),
                Output::Run {
                    connection,
                    kind: ErrandKind::Gone(_),
                    ..
                } => self.told_gone.push(id(connection)),
                Output::Run { connection, .. } => self.asking.push(connection),
                _ => {}
            }
        }
    }

    fn count(&mut self, channel: &ChannelName, difference: i64) {
        let count = self
            .interest
            .entry(channel.as_str().to_owned())
            .or_default();
        *count += difference;
        assert!(*count >= 0, "{channel} is detached too often");
    }

    /// Everybody leaves, by a drain or alone.
    fn end(&mut self) {
        if self.random.below(2) == 0 {
            self.bench.engine.drain();
            self.open();
            self.bench.engine.drain_some(1000, self.bench.now);
            self.take_outputs();
            self.flush();
            while !self.attaching.is_empty() {
                self.attach();
                self.take_outputs();
            }
            self.flush();
            assert_eq!(self.bench.engine.len(), 0, "a drain leaves nobody");
        }
        for key in self.keys.clone() {
            self.bench.engine.handle_gone(key, self.bench.now);
        }
        self.take_outputs();
    }

    fn check_end(&self) {
        assert_eq!(self.bench.engine.len(), 0);
        assert!(self.bench.engine.subscriptions.is_empty());
        assert!(self.bench.engine.keep_alives.is_empty());
        assert!(self.interest.values().all(|count| *count == 0));
        self.bench.check_count(|counters| &counters.held_streams, 0);
        self.bench
            .check_count(|counters| &counters.held_responses, 0);
        let told: BTreeSet<(u32, u32)> = self.told_gone.iter().copied().collect();
        assert_eq!(told.len(), self.told_gone.len(), "a gone link is told once");
        assert_eq!(told, self.watched, "every gone link is told");
    }
}

#[test]
fn nothing_is_left_of_whoever_was_held() {
    let mut totals = [0; 6];
    for seed in 1..=200 {
        let seed = Seed(seed);
        let mut world = World::new(seed.0);
        for _ in 0..STEPS {
            world.step();
        }
        world.end();
        world.check_end();
        let counters = &world.bench.counters;
        let counts = [
            &counters.links_followed,
            &counters.link_errors,
            &counters.retries,
            &counters.gaps,
            &counters.filter_errors,
            &counters.timeouts,
        ];
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count.value();
        }
    }
    assert!(
        totals.iter().all(|total| *total > 50),
        "too little happens: {totals:?}"
    );
}
