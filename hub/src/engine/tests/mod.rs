//! The engine alone: no sockets, a clock made by hand.

mod fanout;
mod filters;
mod links;
mod recovery;
mod simulation;
mod websockets;

use std::collections::HashMap;
use std::io::IoSlice;

use grip::Limits;
use grip::hold::{Answer, PackedAnswer};
use grip::instruct::{Instruct, Status};
use http::header::HeaderName;
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::*;
use crate::counters::Counter;
use crate::errand::{Behalf, Last, LinkError, Linked, News, Receipt, Way};
use crate::mailbox::{Attachment, Standing};
use crate::proxy::Links;
use crate::routes;

struct Bench {
    engine: Engine,
    counters: Arc<Counters>,
    now: Instant,
    sequence: u64,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do to start from"
    )]
    fn new() -> Self {
        let counters = Arc::new(Counters::default());
        let now = Instant::now();
        let budget = Budget::new(100, usize::MAX);
        Self {
            engine: Engine::new(budget, Limits::default(), Arc::clone(&counters), now),
            counters,
            now,
            sequence: 0,
        }
    }

    fn open(&mut self, kind: HoldKind, channels: &[&str]) -> ConnectionKey {
        let hold = Hold {
            kind,
            slots: slots(channels),
            after: AfterHold::Reuse,
            slow: SlowClients::Disconnect,
            session: None,
        };
        self.engine.open(hold, self.now)
    }

    fn attach(&mut self, key: ConnectionKey) {
        self.attach_at(key, self.sequence);
    }

    fn attach_at(&mut self, key: ConnectionKey, sequence: u64) {
        self.engine
            .handle_attached(key, Sequence(sequence), None, self.now);
    }

    fn stream(&mut self, channels: &[&str]) -> ConnectionKey {
        let key = self.open(stream(None), channels);
        self.attach(key);
        key
    }

    /// Opens a hold with the channels, links and metadata of an instruction.
    fn open_as(&mut self, kind: HoldKind, instruct: &str) -> ConnectionKey {
        let instruct = read(instruct);
        let links = Links::of(&instruct, &behalf().uri).unwrap();
        let session = Session::new(behalf(), instruct.meta).with_links(links.next, links.gone);
        let hold = Hold {
            kind,
            slots: Slot::all(&instruct.channels, "", &[]),
            after: AfterHold::Reuse,
            slow: SlowClients::Disconnect,
            session: Some(Box::new(session)),
        };
        self.engine.open(hold, self.now)
    }

    /// The same for a stream, attached, its head written and its outputs taken.
    fn stream_as(&mut self, instruct: &str) -> ConnectionKey {
        let key = self.open_as(stream(None), instruct);
        self.attach(key);
        self.outputs();
        self.written(key);
        key
    }

    fn tell(&mut self, key: ConnectionKey, news: News) {
        self.engine.handle_news(&[key], news, self.now);
    }

    /// A link was answered with this instruction.
    fn link(&mut self, key: ConnectionKey, instruct: &str) {
        self.tell(key, News::Linked(linked(instruct)));
    }

    /// A link was answered with this instruction and body.
    fn link_whole(&mut self, key: ConnectionKey, instruct: &str, body: &str) {
        self.link(key, instruct);
        self.body(key, body);
        self.tell(key, News::Complete);
    }

    fn body(&mut self, key: ConnectionKey, body: &str) {
        let (receipt, _) = Receipt::new();
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.tell(key, News::Body(body, receipt));
    }

    /// Appends an item that has ids.
    fn append_after(&mut self, channel: &str, prev_id: &str, id: &str) {
        let formats =
            format!(r#""id":"{id}","prev-id":"{prev_id}","http-stream":{{"content":"<{id}>"}}"#);
        self.publish(channel, &formats);
    }

    fn publish(&mut self, channel: &str, formats: &str) {
        self.sequence += 1;
        let body = format!(r#"{{"items":[{{"channel":"{channel}",{formats}}}]}}"#);
        let item = grip::publish::parse(body.as_bytes(), &Limits::default())
            .unwrap()
            .remove(0);
        let sequenced = Sequenced::new(Sequence(self.sequence), item);
        self.engine.handle_items(&[Arc::new(sequenced)], self.now);
    }

    fn append(&mut self, channel: &str, content: &str) {
        self.publish(
            channel,
            &format!(r#""http-stream":{{"content":"{content}"}}"#),
        );
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.engine.handle_timeout(self.now);
    }

    /// Writes everything, as a socket that takes all would.
    fn written(&mut self, key: ConnectionKey) -> String {
        while self.engine.next_dirty().is_some() {}
        let Some(outbox) = self.engine.outbox(key) else {
            return String::new();
        };
        let mut slices = [IoSlice::new(&[]); 64];
        let count = outbox.slices(&mut slices);
        let bytes: Vec<u8> = slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        outbox.consume(bytes.len());
        String::from_utf8(bytes).unwrap()
    }

    /// Tries to write to a client that takes nothing.
    fn blocked(&mut self, key: ConnectionKey) {
        let now = self.now;
        assert_eq!(self.engine.handle_flushed(key, now), None);
    }

    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.engine.poll_output())
            .map(|output| match output {
                Output::Attach { wanted, .. } => format!("attach {}", positions(&wanted)),
                Output::CatchUp { wanted, .. } => format!("catch up {}", positions(&wanted)),
                Output::Detach(names) => {
                    let names: Vec<&str> = names.iter().map(ChannelName::as_str).collect();
                    format!("detach {}", names.join(" "))
                }
                Output::Feed(_) => "feed".to_owned(),
                Output::Drop(_) => "drop".to_owned(),
                Output::Answer { answer, .. } => format!("answer {:?}", answer.body),
                Output::Retry { again, .. } => {
                    format!("retry {:?} {}", again.comparison, lines(&again.last))
                }
                Output::Listen(_) => "listen".to_owned(),
                Output::Resume(_) => "resume".to_owned(),
                Output::Exchange { request, .. } => {
                    format!("exchange {}", request.body.escape_ascii())
                }
                Output::WriteOrigin(_) => "write origin".to_owned(),
                Output::ResumeOrigin(_) => "resume origin".to_owned(),
                Output::FinishOrigin { .. } => "finish origin".to_owned(),
                Output::DropOrigin(_) => "drop origin".to_owned(),
                Output::DropClient(_) => "drop client".to_owned(),
                Output::Run { kind, .. } => match kind {
                    ErrandKind::Follow {
                        next,
                        last,
                        urgency,
                    } => format!("follow {} {urgency:?} {}", next.uri, lines(&last)),
                    ErrandKind::Ask { inquiry, last } => {
                        format!("ask {} {:?} {}", inquiry.url, inquiry.content, lines(&last))
                    }
                    ErrandKind::Gone(uri) => format!("gone {uri}"),
                },
            })
            .collect()
    }

    #[track_caller]
    fn check_count(&self, counter: impl Fn(&Counters) -> &Counter, expected: u64) {
        let text = format!("{:?}", counter(&self.counters));
        assert_eq!(text, format!("Counter({expected})"));
    }
}

/// Slots of channels such as `a` and `a;prev-id=1;filter=skip-self`.
fn slots(channels: &[&str]) -> Vec<Slot> {
    let mut headers = HeaderMap::new();
    for channel in channels {
        headers.append("grip-channel", channel.parse().unwrap());
    }
    let instruct = Instruct::from_headers(&headers, &Limits::default()).unwrap();
    Slot::all(&instruct.channels, "", &[])
}

/// An instruction such as `grip-hold: stream | grip-channel: a`.
fn read(instruct: &str) -> Instruct {
    let mut headers = HeaderMap::new();
    for header in instruct.split('|').filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(':').unwrap();
        let name: HeaderName = name.trim().parse().unwrap();
        headers.append(name, value.trim().parse().unwrap());
    }
    Instruct::from_headers(&headers, &Limits::default()).unwrap()
}

fn linked(instruct: &str) -> Arc<Linked> {
    let instruct = read(instruct);
    let links = Links::of(&instruct, &behalf().uri).unwrap();
    Arc::new(Linked {
        instruct,
        next: links.next,
        behalf: behalf(),
        asked_at: tokio::time::Instant::now().into_std(),
    })
}

/// A connection lacks items of these channels.
fn behind(channels: &[&str]) -> CatchUp {
    let standing = |name: &&str| (ChannelName::new(name), Standing::Behind);
    CatchUp {
        standings: channels.iter().map(standing).collect(),
        missed: Vec::new(),
        is_resumed: false,
    }
}

/// Channels with the ids behind which they are wanted: `a=7 b`.
fn positions(wanted: &Wanted) -> String {
    let position = |it: &Attachment| match &it.position {
        Some(position) => format!("{}={}", it.channel, position.prev_id.as_str()),
        None => it.channel.to_string(),
    };
    let texts: Vec<String> = wanted.channels.iter().map(position).collect();
    texts.join(" ")
}

/// A client who is told what is wrong.
fn behalf() -> Arc<Behalf> {
    let routes = routes::parse("* a:1").unwrap();
    Arc::new(Behalf {
        route: Arc::clone(&routes.all()[0]),
        uri: Uri::from_static("http://o/first"),
        way: Way::Routes,
        implicit: Vec::new(),
        tells_errors: true,
    })
}

/// The lines of `Grip-Last`.
fn lines(last: &[Last]) -> String {
    let lines: Vec<String> = last.iter().map(Last::text).collect();
    format!("[{}]", lines.join(", "))
}

fn stream(keep_alive: Option<KeepAliveRule>) -> HoldKind {
    stream_then(keep_alive, AfterStart::Items)
}

fn stream_then(keep_alive: Option<KeepAliveRule>, then: AfterStart) -> HoldKind {
    HoldKind::Stream {
        start: Bytes::from_static(b"head "),
        framing: StreamFraming::Chunked,
        keep_alive,
        then,
        events: Events::Plain,
    }
}

fn response(seconds: u64) -> HoldKind {
    HoldKind::Response {
        waiting: Box::new(Waiting {
            answer: PackedAnswer::pack(&Answer {
                status: Status::new(StatusCode::OK),
                headers: HeaderMap::new(),
                body: Bytes::from_static(b"nothing"),
            }),
            dressing: None,
            reply: Reply::Http1 {
                version: Version::HTTP_11,
                method: Method::GET,
                request: Bytes::from_static(b"request"),
            },
        }),
        timeout: Duration::from_secs(seconds),
    }
}

fn keep_alive(mode: Beat) -> KeepAliveRule {
    KeepAliveRule {
        bytes: Bytes::from_static(b"beat "),
        timeout: Duration::from_secs(20),
        mode,
    }
}

#[test]
fn a_stream_begins_once_it_is_attached_and_gets_items_in_order() {
    let mut bench = Bench::new();
    let key = bench.open(stream(None), &["a"]);
    assert_eq!(bench.outputs(), ["attach a"]);
    bench.append("a", "early");
    assert_eq!(bench.written(key), "");
    bench.attach(key);
    bench.append("a", "x");
    bench.append("other", "no");
    bench.append("a", "yz");
    assert_eq!(bench.written(key), "head 1\r\nx\r\n2\r\nyz\r\n");
    bench.check_count(|counters| &counters.deliveries, 2);
    bench.check_count(|counters| &counters.held_streams, 1);
}

#[test]
fn items_at_or_below_the_cursor_are_not_repeated() {
    let mut bench = Bench::new();
    let key = bench.open(stream(None), &["a"]);
    bench.attach_at(key, 2);
    for content in ["1", "2", "3"] {
        bench.append("a", content);
    }
    assert_eq!(bench.written(key), "head 1\r\n3\r\n");
}

#[test]
fn a_channel_named_twice_is_subscribed_once() {
    let mut bench = Bench::new();
    let key = bench.stream(&["a", "a", "b"]);
    assert_eq!(bench.outputs(), ["attach a b"]);
    bench.append("a", "x");
    bench.append("b", "y");
    assert_eq!(bench.written(key), "head 1\r\nx\r\n1\r\ny\r\n");
}

#[test]
fn a_hold_without_channels_is_held_all_the_same() {
    let mut bench = Bench::new();
    let key = bench.open(stream(None), &[]);
    assert_eq!(bench.outputs(), [""; 0]);
    assert_eq!(bench.written(key), "head ");
}

#[test]
fn close_ends_a_stream_cleanly_and_gives_the_connection_back() {
    let mut bench = Bench::new();
    let key = bench.stream(&["a"]);
    bench.publish("a", r#""http-stream":{"action":"close"}"#);
    assert_eq!(bench.engine.handle_flushed(key, bench.now), None);
    bench.append("a", "late");
    assert_eq!(bench.written(key), "head 0\r\n\r\n");
    assert_eq!(
        bench.engine.handle_flushed(key, bench.now),
        Some(AfterHold::Reuse)
    );
    assert_eq!(bench.outputs(), ["attach a", "detach a"]);
    assert_eq!(bench.engine.len(), 0);
    bench.check_count(|counters| &counters.held_streams, 0);
}

#[test]
fn a_plain_stream_has_no_framing() {
    let mut bench = Bench::new();
    let kind = HoldKind::Stream {
        start: Bytes::from_static(b"head "),
        framing: StreamFraming::Plain,
        keep_alive: None,
        then: AfterStart::Items,
        events: Events::Plain,
    };
    let key = bench.open(kind, &["a"]);
    bench.attach(key);
    bench.append("a", "x");
    bench.publish("a", r#""http-stream":{"action":"close"}"#);
    assert_eq!(bench.written(key), "head x");
    assert!(bench.engine.handle_flushed(key, bench.now).is_some());
}

#[test]
fn a_response_hold_is_answered_by_the_first_publish_only() {
    let mut bench = Bench::new();
    let key = bench.open(response(55), &["a"]);
    bench.attach(key);
    assert_eq!(bench.written(key), "");
    for body in ["one", "two"] {
        bench.publish("a", &format!(r#""http-response":{{"body":"{body}"}}"#));
    }
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";
    assert_eq!(bench.written(key), expected);
    assert_eq!(
        bench.engine.handle_flushed(key, bench.now),
        Some(AfterHold::Reuse)
    );
}

#[test]
fn each_transport_hears_its_own_format_only() {
    let mut bench = Bench::new();
    let stream = bench.stream(&["a"]);
    let poll = bench.open(response(55), &["a"]);
    bench.attach(poll);
    bench.publish("a", r#""ws-message":{"content":"x"}"#);
    bench.publish("a", r#""http-response":{"action":"close"}"#);
    bench.publish("a", r#""http-stream":{"action":"refresh"}"#);
    bench.append("a", "s");
    assert_eq!(bench.written(stream), "head 1\r\ns\r\n");
    assert_eq!(bench.written(poll), "");
}

#[test]
fn a_timeout_answers_with_what_the_origin_said() {
    let mut bench = Bench::new();
    let key = bench.open(response(55), &["a"]);
    bench.attach(key);
    bench.wait(54);
    assert_eq!(bench.written(key), "");
    bench.wait(2);
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnothing";
    assert_eq!(bench.written(key), expected);
    bench.check_count(|counters| &counters.timeouts, 1);
}

#[test]
fn an_idle_keep_alive_is_put_off_by_items_and_an_interval_is_not() {
    for (mode, expected) in [
        (Beat::Idle, "1\r\nx\r\n"),
        (Beat::Interval, "1\r\nx\r\nbeat "),
    ] {
        let mut bench = Bench::new();
        let key = bench.open(stream(Some(keep_alive(mode))), &["a"]);
        bench.attach(key);
        assert_eq!(bench.written(key), "head ");
        bench.wait(15);
        bench.append("a", "x");
        assert_eq!(bench.written(key), "1\r\nx\r\n");
        bench.wait(6);
        let later = bench.written(key);
        assert_eq!(format!("1\r\nx\r\n{later}"), expected, "{mode:?}");
        bench.wait(15);
        assert_eq!(
            bench.written(key),
            if mode == Beat::Idle { "beat " } else { "" }
        );
    }
}

#[test]
fn a_client_that_does_not_read_gets_no_keep_alive_on_top() {
    let mut bench = Bench::new();
    let key = bench.open(stream(Some(keep_alive(Beat::Interval))), &["a"]);
    bench.attach(key);
    bench.wait(21);
    bench.wait(21);
    assert_eq!(bench.written(key), "head ");
    bench.wait(21);
    assert_eq!(bench.written(key), "beat ");
}

#[test]
fn equal_keep_alives_share_memory_and_are_forgotten_with_their_last_user() {
    let mut bench = Bench::new();
    let keys: Vec<ConnectionKey> = (0..3)
        .map(|_| {
            let key = bench.open(stream(Some(keep_alive(Beat::Idle))), &["a"]);
            bench.attach(key);
            key
        })
        .collect();
    assert_eq!(bench.engine.keep_alives.len(), 1);
    for key in keys {
        bench.engine.handle_gone(key, bench.now);
    }
    assert!(bench.engine.keep_alives.is_empty());
}

#[test]
fn a_slow_consumer_is_dropped_and_the_others_go_on() {
    let mut bench = Bench::new();
    let slow = bench.stream(&["a"]);
    let quick = bench.stream(&["a"]);
    bench.outputs();
    bench.blocked(slow);
    let content = "x".repeat(40);
    let mut received = String::new();
    for _ in 0..3 {
        bench.append("a", &content);
        received += &bench.written(quick);
    }
    assert_eq!(bench.outputs(), ["detach a", "drop"]);
    assert!(bench.engine.outbox(slow).is_none());
    assert_eq!(received.matches(&content).count(), 3);
    bench.check_count(|counters| &counters.slow_consumers, 1);
}

#[test]
fn a_client_has_a_minute_to_read_the_end_of_its_hold() {
    let mut bench = Bench::new();
    let key = bench.stream(&["a"]);
    bench.publish("a", r#""http-stream":{"action":"close"}"#);
    bench.outputs();
    assert!(bench.engine.is_ending(key));
    bench.engine.handle_blocked(key, bench.now);
    bench.wait(59);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.wait(2);
    assert_eq!(bench.outputs(), ["drop"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn whoever_leaves_before_the_answer_is_detached_once() {
    let mut bench = Bench::new();
    let key = bench.open(stream(None), &["a", "b"]);
    bench.engine.handle_gone(key, bench.now);
    bench.attach(key);
    bench.engine.handle_gone(key, bench.now);
    assert_eq!(bench.outputs(), ["attach a b", "detach a b"]);
    bench.check_count(|counters| &counters.clients_gone, 1);
}

#[test]
fn a_drain_ends_streams_and_answers_requests_and_closes() {
    let mut bench = Bench::new();
    let held = bench.stream(&["a"]);
    let poll = bench.open(response(55), &["a"]);
    bench.attach(poll);
    bench.engine.drain();
    bench.engine.drain_some(10, bench.now);
    assert_eq!(bench.written(held), "head 0\r\n\r\n");
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nnothing";
    assert_eq!(bench.written(poll), answer);
    assert_eq!(
        bench.engine.handle_flushed(held, bench.now),
        Some(AfterHold::Close)
    );
    let late = bench.open(stream(None), &[]);
    assert_eq!(bench.written(late), "head 0\r\n\r\n");
}

#[test]
fn a_drain_lets_go_of_no_more_than_it_is_told() {
    let mut bench = Bench::new();
    let keys: Vec<ConnectionKey> = (0..5).map(|_| bench.stream(&["a"])).collect();
    bench.engine.drain();
    bench.engine.drain_some(2, bench.now);
    let ended = keys
        .into_iter()
        .filter(|key| bench.written(*key).ends_with("0\r\n\r\n"))
        .count();
    assert_eq!(ended, 2);
}

#[test]
fn prev_ids_reach_the_broker() {
    let mut bench = Bench::new();
    let hold = Hold {
        kind: stream(None),
        slots: slots(&["a;prev-id=7"]),
        after: AfterHold::Close,
        slow: SlowClients::Disconnect,
        session: None,
    };
    bench.engine.open(hold, bench.now);
    assert_eq!(bench.outputs(), ["attach a=7"]);
}

/// A small generator, so that a seed reproduces a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// What a client should have received: its channels and text.
struct Model {
    channels: Vec<&'static str>,
    expected: String,
    received: String,
}

/// Random operations against a naive model; a failure prints its seed.
#[test]
fn every_subscriber_gets_every_item_once_and_in_order() {
    for seed in 1..=200 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    const CHANNELS: [&str; 3] = ["a", "b", "c"];
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut bench = Bench::new();
    let mut models: HashMap<ConnectionKey, Model> = HashMap::new();
    for step in 0..300 {
        let keys: Vec<ConnectionKey> = models.keys().copied().collect();
        match random.below(10) {
            0..=2 if models.len() < 20 => {
                let channels: Vec<&'static str> = CHANNELS
                    .into_iter()
                    .filter(|_| random.below(2) == 0)
                    .collect();
                let key = bench.stream(&channels);
                let model = Model {
                    channels,
                    expected: "head ".to_owned(),
                    received: String::new(),
                };
                models.insert(key, model);
            }
            3 if !keys.is_empty() => {
                let key = keys[random.below(keys.len())];
                bench.engine.handle_gone(key, bench.now);
                models.remove(&key);
            }
            4..=6 => {
                for key in keys {
                    let written = bench.written(key);
                    models.get_mut(&key).unwrap().received += &written;
                }
            }
            _ => {
                // Nobody may become slow here: the model does not know that policy.
                for key in keys {
                    let written = bench.written(key);
                    models.get_mut(&key).unwrap().received += &written;
                }
                let channel = CHANNELS[random.below(CHANNELS.len())];
                let content = format!("{step:03}");
                bench.append(channel, &content);
                for model in models.values_mut() {
                    if model.channels.contains(&channel) {
                        model.expected.extend(["3\r\n", &content, "\r\n"]);
                    }
                }
            }
        }
    }
    for (key, mut model) in models {
        model.received += &bench.written(key);
        assert_eq!(model.received, model.expected, "seed {seed}");
    }
}
