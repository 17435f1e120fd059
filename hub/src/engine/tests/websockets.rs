//! WebSockets: both sides talk, items come in between, and either side ends it.

use grip::publish::WsMessageKind;
use grip::websocket::event;
use grip::websocket::extension::Extension;
use grip::websocket::over_http::AnswerFields;
use http::uri::PathAndQuery;

use super::*;
use crate::engine::connections::Connection;
use crate::engine::websocket::{OriginStart, WebSocket, WebSocketStart};
use crate::exchange::ExchangeError;
use crate::frames::{self, Decoder, Deflate, Input, Mask, Masking, Payload, Piece, Place, Rules};
use crate::handshake::{Handshake, Offer, Shake, Trust};
use crate::routes::Security;
use crate::upstream::SendError;

const KEY: Mask = Mask::Key([1, 2, 3, 4]);

fn handshake(route: &str) -> Handshake {
    let routes = routes::parse(route).unwrap();
    Handshake::new(Shake {
        route: Arc::clone(&routes.all()[0]),
        path: &PathAndQuery::from_static("/chat"),
        headers: &HeaderMap::new(),
        security: Security::Plain,
        trust: Trust::Client,
        offer: Offer::Grip,
        tells_errors: true,
    })
}

fn fields(lines: &[(&'static str, &'static str)]) -> AnswerFields {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    AnswerFields::of(&headers)
}

/// GRIP with the usual prefix.
fn grip() -> Option<Extension> {
    let mut headers = HeaderMap::new();
    headers.insert("sec-websocket-extensions", "grip".parse().unwrap());
    Extension::accepted(&headers)
}

/// Ten megabytes of zeros, compressed and masked.
fn bomb() -> Bytes {
    let deflate = Deflate::with_window_bits(15).unwrap();
    let small = deflate.compress(&vec![0; 10_000_000]).unwrap();
    let mut frame = frames::message(WsMessageKind::Text, &small, KEY).to_vec();
    frame[0] |= 0x40;
    frame.into()
}

impl Bench {
    fn websocket_as(
        &mut self,
        route: &str,
        extension: Option<Extension>,
        origin: OriginStart,
    ) -> ConnectionKey {
        self.websocket_with(route, extension, origin, None)
    }

    fn websocket_with(
        &mut self,
        route: &str,
        extension: Option<Extension>,
        origin: OriginStart,
        deflate: Option<Deflate>,
    ) -> ConnectionKey {
        let handshake = handshake(route);
        let implicit = handshake.target().subscribe.clone();
        let kind = HoldKind::WebSocket(Box::new(WebSocketStart {
            head: Bytes::from_static(b"101 "),
            handshake,
            origin,
            extension,
            deflate,
        }));
        let hold = Hold {
            kind,
            slots: Slot::all(&[], "", &implicit),
            after: AfterHold::Close,
            slow: SlowClients::Disconnect,
            session: None,
        };
        let key = self.engine.open(hold, self.now);
        if !implicit.is_empty() {
            self.attach(key);
        }
        assert!(self.written(key).starts_with("101 "));
        key
    }

    /// A WebSocket over HTTP with GRIP, whose origin has said this behind OPEN.
    pub(super) fn websocket(&mut self, events: &'static str) -> ConnectionKey {
        let events = event::decode(&Bytes::from_static(events.as_bytes())).unwrap();
        let origin = OriginStart::OverHttp {
            fields: fields(&[]),
            events,
        };
        let key = self.websocket_as("* a:1,over_http", grip(), origin);
        self.outputs();
        key
    }

    /// The same, attached to the channel `a`.
    fn subscribed(&mut self) -> ConnectionKey {
        let key = self.websocket("TEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\"}\r\n");
        self.attach(key);
        key
    }

    fn native(&mut self) -> ConnectionKey {
        let key = self.websocket_as("* a:1", grip(), OriginStart::Native);
        self.outputs();
        key
    }

    fn sends(&mut self, key: ConnectionKey, frame: &Bytes) {
        self.engine.handle_input(key, frame, self.now);
    }

    fn text(&mut self, key: ConnectionKey, text: &str) {
        self.sends(
            key,
            &frames::message(WsMessageKind::Text, text.as_bytes(), KEY),
        );
    }

    #[track_caller]
    fn is_at_rest(&mut self, key: ConnectionKey, expected: bool) {
        let phase = self.engine.connections.phase(key.index);
        let Phase::WebSocket(_, socket) = phase else {
            panic!("it is a WebSocket");
        };
        assert_eq!(socket.is_at_rest(), expected, "{socket:?}");
    }

    fn closes(&mut self, key: ConnectionKey, content: &[u8]) {
        self.sends(key, &frames::close(content, KEY));
    }

    fn answer_with(&mut self, key: ConnectionKey, fields: AnswerFields, body: &'static str) {
        let exchanged = Ok((fields, Bytes::from_static(body.as_bytes())));
        self.engine.handle_exchanged(key, exchanged, self.now);
    }

    fn answer(&mut self, key: ConnectionKey, body: &'static str) {
        self.answer_with(key, fields(&[]), body);
    }

    /// Has the origin asked, for its next answer.
    fn refresh(&mut self, key: ConnectionKey) {
        self.sends(key, &frames::message(WsMessageKind::Pong, b"", KEY));
        self.outputs();
    }

    fn fail(&mut self, key: ConnectionKey, error: ExchangeError) {
        self.engine.handle_exchanged(key, Err(error), self.now);
    }

    fn origin_sends(&mut self, key: ConnectionKey, frame: &Bytes) {
        self.engine.handle_origin_input(key, frame, self.now);
    }

    /// The frames that wait for the client.
    fn frames(&mut self, key: ConnectionKey) -> Vec<String> {
        while self.engine.next_dirty().is_some() {}
        let Some(outbox) = self.engine.outbox(key) else {
            return Vec::new();
        };
        let bytes: Vec<u8> = std::iter::from_fn(|| outbox.pop()).flatten().collect();
        let after = self.engine.handle_flushed(key, self.now);
        let mut found = decoded(&bytes, Masking::Forbidden);
        if after == Some(AfterHold::Close) {
            found.push("end".to_owned());
        }
        found
    }

    /// The frames that wait for the origin.
    fn origin_frames(&mut self, key: ConnectionKey) -> Vec<String> {
        let Some(outbox) = self.engine.origin_outbox(key) else {
            return Vec::new();
        };
        let bytes: Vec<u8> = std::iter::from_fn(|| outbox.pop()).flatten().collect();
        self.engine.handle_origin_written(key);
        decoded(&bytes, Masking::Required)
    }
}

fn decoded(bytes: &[u8], masking: Masking) -> Vec<String> {
    let rules = Rules {
        masking,
        deflate: None,
        payload: Payload::Heard,
    };
    let mut decoder = Decoder::default();
    let mut input = bytes;
    let mut found = Vec::new();
    while let Some(input) = decoder.decode(&mut input, rules).unwrap() {
        found.push(match input {
            Input::Piece(Piece { kind, place, bytes }) => {
                let text = String::from_utf8_lossy(&bytes);
                match place {
                    Place::Whole => format!("{kind:?} {text}"),
                    place => format!("{kind:?} {place:?} {text}"),
                }
            }
            Input::Ping(content) => format!("Ping {}", String::from_utf8_lossy(&content)),
            Input::Pong(content) => format!("Pong {}", String::from_utf8_lossy(&content)),
            Input::Close(content) => match content.split_at_checked(2) {
                None => "Close".to_owned(),
                Some((code, reason)) => {
                    let code = u16::from_be_bytes([code[0], code[1]]);
                    let reason = String::from_utf8_lossy(reason);
                    format!("Close {code} {reason}").trim_end().to_owned()
                }
            },
        });
    }
    assert!(decoder.is_idle(), "whole frames only");
    found
}

#[test]
fn messages_go_to_the_origin_and_its_answers_to_the_client() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.text(key, "one");
    assert_eq!(bench.outputs(), [r"exchange TEXT 3\r\none\r\n"]);
    bench.text(key, "two");
    bench.sends(key, &frames::message(WsMessageKind::Ping, b"p", KEY));
    assert_eq!(bench.outputs(), [""; 0], "one request at a time");
    bench.answer(key, "TEXT 5\r\nm:uno\r\nTEXT 4\r\nlost\r\nPONG\r\n");
    assert_eq!(bench.frames(key), ["Text uno", "Pong "]);
    assert_eq!(
        bench.outputs(),
        [r"exchange TEXT 3\r\ntwo\r\nPING 1\r\np\r\n"]
    );
    bench.check_count(|counters| &counters.websocket_dropped, 1);
    bench.check_count(|counters| &counters.held_websockets, 1);
}

#[test]
fn fragments_are_one_message_for_the_origin() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    for (place, text) in [
        (Place::First, "a"),
        (Place::Middle, "b"),
        (Place::Last, "c"),
    ] {
        let piece = Piece {
            kind: frames::MessageKind::Text,
            place,
            bytes: Bytes::from(text),
        };
        bench.sends(key, &frames::piece(&piece, KEY));
        let ping = frames::message(WsMessageKind::Ping, b"", KEY);
        bench.sends(key, &ping);
    }
    assert_eq!(bench.outputs(), [r"exchange PING\r\n"]);
    bench.answer(key, "");
    assert_eq!(
        bench.outputs(),
        [r"exchange PING\r\nTEXT 3\r\nabc\r\nPING\r\n"]
    );
}

#[test]
fn a_subscription_brings_items_until_it_ends() {
    let mut bench = Bench::new();
    let key = bench.websocket("TEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\"}\r\n");
    bench.publish("a", r#""ws-message":{"content":"early"}"#);
    bench.attach(key);
    bench.publish("a", r#""ws-message":{"content":"x"}"#);
    bench.publish("a", r#""ws-message":{"content-bin":"eQ=="}"#);
    bench.publish("a", r#""ws-message":{"type":"ping"}"#);
    assert_eq!(bench.frames(key), ["Text x", "Binary y", "Ping "]);
    bench.text(key, "stop");
    bench.outputs();
    bench.answer(
        key,
        "TEXT 26\r\nc:{\"type\":\"unsubscribe\",\"channel\":\"a\"}\r\n",
    );
    assert_eq!(bench.outputs(), ["detach a"]);
    bench.publish("a", r#""ws-message":{"content":"late"}"#);
    assert_eq!(bench.frames(key), [""; 0]);
}

#[test]
fn a_channel_left_before_it_was_attached_is_detached() {
    let mut bench = Bench::new();
    let key = bench.websocket("TEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\"}\r\nTEXT 26\r\nc:{\"type\":\"unsubscribe\",\"channel\":\"a\"}\r\n");
    bench.attach(key);
    assert_eq!(bench.outputs(), ["detach a"]);
    let key = bench.websocket("TEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\"}\r\n");
    bench.engine.handle_gone(key, bench.now);
    assert_eq!(bench.outputs(), [r"exchange DISCONNECT\r\n"]);
    bench.attach(key);
    assert_eq!(bench.outputs(), ["detach a"]);
}

#[test]
fn filters_and_metadata_work_as_for_streams() {
    let mut bench = Bench::new();
    let key = bench.websocket(concat!(
        "TEXT 3c\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\",\"filters\":[\"skip-self\"]}\r\n",
        "TEXT 2f\r\nc:{\"type\":\"set-meta\",\"name\":\"user\",\"value\":\"u\"}\r\n"
    ));
    bench.attach(key);
    bench.publish(
        "a",
        r#""meta":{"sender":"u"},"ws-message":{"content":"own"}"#,
    );
    bench.publish(
        "a",
        r#""meta":{"sender":"v"},"ws-message":{"content":"other"}"#,
    );
    assert_eq!(bench.frames(key), ["Text other"]);
}

#[test]
fn a_client_that_closes_is_answered_with_the_origins_close() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.closes(key, b"\x03\xe8bye");
    assert_eq!(
        bench.outputs(),
        ["detach a", r"exchange CLOSE 5\r\n\x03\xe8bye\r\n"]
    );
    bench.answer(key, "TEXT 6\r\nm:last\r\nCLOSE 4\r\n\x0f\u{21}ok\r\n");
    assert_eq!(bench.frames(key), ["Text last", "Close 3873 ok", "end"]);
    assert_eq!(bench.engine.len(), 0);
    bench.check_count(|counters| &counters.held_websockets, 0);
}

#[test]
fn an_origin_that_does_not_answer_a_close_ends_the_websocket_all_the_same() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.closes(key, b"\x03\xe8");
    bench.outputs();
    bench.answer(key, "");
    assert_eq!(bench.frames(key), ["Close", "end"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn an_origin_that_closes_hears_the_clients_answer() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.text(key, "x");
    bench.outputs();
    bench.answer(key, "CLOSE 2\r\n\u{f}\u{21}\r\nTEXT 4\r\nm:no\r\n");
    assert_eq!(bench.frames(key), ["Close 3873"]);
    bench.text(key, "too late");
    assert_eq!(bench.outputs(), [""; 0]);
    bench.closes(key, b"\x03\xe8");
    assert_eq!(bench.outputs(), [r"exchange CLOSE 2\r\n\x03\xe8\r\n"]);
    assert_eq!(bench.frames(key), ["end"]);
    assert_eq!(bench.engine.len(), 1, "the origin has not heard it yet");
    bench.answer(key, "");
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_client_that_vanishes_is_told_to_the_origin() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.text(key, "x");
    bench.outputs();
    bench.engine.handle_gone(key, bench.now);
    assert_eq!(bench.outputs(), [""; 0], "a request is under way");
    bench.answer(key, "TEXT 3\r\nm:y\r\n");
    assert_eq!(bench.outputs(), [r"exchange DISCONNECT\r\n"]);
    bench.answer(key, "");
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_client_that_reads_too_slowly_is_cut_off_and_its_origin_told() {
    let long = format!(r#""ws-message":{{"content":"{}"}}"#, "x".repeat(60));
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.outputs();
    bench.publish("a", &long);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.blocked(key);
    bench.publish("a", &long);
    let expected = ["drop client", "detach a", r"exchange DISCONNECT\r\n"];
    assert_eq!(bench.outputs(), expected);
    bench.check_count(|counters| &counters.slow_consumers, 1);
    bench.check_count(|counters| &counters.held_websockets, 0);
    bench.answer(key, "");
    assert_eq!(bench.engine.len(), 0);

    let mut bench = Bench::new();
    let key = bench.native();
    let subscribe = br#"c:{"type":"subscribe","channel":"a"}"#;
    bench.origin_sends(
        key,
        &frames::message(WsMessageKind::Text, subscribe, Mask::None),
    );
    bench.attach(key);
    bench.outputs();
    bench.publish("a", &long);
    bench.blocked(key);
    bench.publish("a", &long);
    let expected = ["drop client", "detach a", "drop origin"];
    let mut outputs = bench.outputs();
    outputs.sort();
    assert_eq!(outputs.len(), expected.len(), "{outputs:?}");
    for output in expected {
        assert!(outputs.iter().any(|it| it == output), "{outputs:?}");
    }
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_client_that_does_not_answer_a_close_is_cut_off() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.publish(
        "a",
        r#""ws-message":{"action":"close","code":4001,"reason":"go"}"#,
    );
    assert_eq!(bench.frames(key), ["Close 4001 go"]);
    assert_eq!(bench.outputs(), ["detach a", r"exchange CLOSE\r\n"]);
    bench.answer(key, "");
    bench.publish("a", r#""ws-message":{"content":"late"}"#);
    assert_eq!(bench.frames(key), [""; 0]);
    bench.wait(9);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.wait(2);
    assert_eq!(bench.outputs(), ["drop client"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_client_that_breaks_the_protocol_is_closed_and_the_origin_told() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.sends(key, &frames::message(WsMessageKind::Text, b"x", Mask::None));
    let frames = bench.frames(key);
    assert!(frames[0].starts_with("Close 1002"), "{frames:?}");
    assert_eq!(frames[1], "end");
    assert_eq!(bench.outputs(), [r"exchange DISCONNECT\r\n"]);
    bench.check_count(|counters| &counters.websocket_errors, 1);
}

#[test]
fn a_message_that_no_request_can_carry_closes_the_websocket() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    let large = vec![b'x'; 200_001];
    bench.sends(key, &frames::message(WsMessageKind::Text, &large, KEY));
    assert_eq!(bench.frames(key), ["Close 1009 message too large", "end"]);
}

#[test]
fn a_client_waits_while_much_waits_for_its_origin() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    let half = frames::message(WsMessageKind::Text, &vec![b'x'; 110_000], KEY);
    bench.sends(key, &half);
    let flow = bench.engine.handle_input(key, &half, bench.now);
    assert_eq!(flow, Flow::Stopped);
    bench.outputs();
    bench.answer(key, "");
    let outputs = bench.outputs();
    assert!(outputs[0].starts_with("exchange"));
    assert_eq!(outputs[1..], ["resume"]);
}

#[test]
fn an_origin_that_fails_closes_the_websocket() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.text(key, "x");
    bench.outputs();
    bench.fail(key, SendError::Closed.into());
    let frames = bench.frames(key);
    assert!(frames[0].starts_with("Close 1011"), "{frames:?}");
    bench.closes(key, b"");
    assert_eq!(bench.outputs(), [""; 0], "it is not asked again");
    assert_eq!(bench.frames(key), ["end"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_request_that_did_not_reach_the_origin_is_sent_again() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.text(key, "x");
    let request = bench.outputs();
    for seconds in [1, 2, 4, 8, 16] {
        bench.fail(key, SendError::Connect("refused".to_owned()).into());
        assert_eq!(bench.outputs(), [""; 0]);
        bench.wait(seconds + 2);
        assert_eq!(bench.outputs(), request, "after {seconds} s");
    }
    bench.fail(key, SendError::Connect("refused".to_owned()).into());
    let frames = bench.frames(key);
    assert!(frames[0].starts_with("Close 1014"), "{frames:?}");
}

#[test]
fn a_detached_client_stays_and_is_answered_by_the_hub() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.text(key, "x");
    bench.outputs();
    bench.answer(key, "TEXT 13\r\nc:{\"type\":\"detach\"}\r\n");
    assert_eq!(bench.outputs(), [r"exchange CLOSE\r\n"]);
    bench.answer(key, "CLOSE\r\n");
    bench.text(key, "nobody reads this");
    bench.sends(key, &frames::message(WsMessageKind::Ping, b"p", KEY));
    bench.publish("a", r#""ws-message":{"content":"item"}"#);
    assert_eq!(bench.frames(key), ["Pong p", "Text item"]);
    bench.closes(key, b"\x03\xe8");
    assert_eq!(bench.frames(key), ["Close 1000", "end"]);
    assert_eq!(bench.outputs(), ["detach a"]);
    assert_eq!(bench.engine.len(), 0);
}

/// Looking at it would cost the hub much, and the client nothing.
#[test]
fn what_a_client_says_to_nobody_is_not_looked_at() {
    let mut bench = Bench::new();
    let no_text = frames::message(WsMessageKind::Text, b"\xff", KEY);
    let key = bench.websocket(DETACH);
    bench.outputs();
    bench.sends(key, &no_text);
    bench.sends(key, &frames::message(WsMessageKind::Ping, b"p", KEY));
    assert_eq!(bench.frames(key), ["Pong p"]);
    let key = bench.websocket("");
    bench.engine.drain();
    bench.engine.drain_some(10, bench.now);
    assert_eq!(bench.frames(key), ["Close 1001"]);
    bench.sends(key, &no_text);
    bench.closes(key, b"");
    assert_eq!(bench.frames(key), ["end"]);
    bench.check_count(|counters| &counters.websocket_errors, 0);
}

#[test]
fn what_was_to_be_a_message_is_dropped_when_its_origin_leaves() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.refresh(key);
    bench.sends(key, &frames::piece(&of_text(Place::First, "one"), KEY));
    bench.answer(key, DETACH);
    bench.sends(key, &frames::piece(&of_text(Place::Middle, "\u{ff}"), KEY));
    bench.sends(key, &frames::piece(&of_text(Place::Last, "two"), KEY));
    assert_eq!(bench.outputs(), [r"exchange CLOSE\r\n"]);
    bench.answer(key, "CLOSE\r\n");
    bench.is_at_rest(key, true);
    assert_eq!(bench.frames(key), [""; 0]);
}

/// What comes out counts, not only what goes in.
#[test]
fn a_bomb_is_inflated_no_further_than_there_is_room() {
    let mut bench = Bench::new();
    let deflate = Deflate::with_window_bits(15);
    let over_http = OriginStart::OverHttp {
        fields: fields(&[]),
        events: Vec::new(),
    };
    let key = bench.websocket_with("* a:1,over_http", grip(), over_http, deflate);
    bench.sends(key, &bomb());
    assert_eq!(bench.frames(key), ["Close 1009 message too large", "end"]);
    let key = bench.websocket_with("* a:1", grip(), OriginStart::Native, deflate);
    let flow = bench.engine.handle_input(key, &bomb(), bench.now);
    assert_eq!(flow, Flow::Stopped);
    let pending = |bench: &mut Bench| bench.engine.origin_outbox(key).unwrap().pending_bytes();
    assert!(pending(&mut bench) < 200_000);
    // With each write there is room for as much again.
    let outbox = bench.engine.origin_outbox(key).unwrap();
    while outbox.pop().is_some() {}
    bench.engine.handle_origin_written(key);
    assert!((1..200_000).contains(&pending(&mut bench)));
}

#[test]
fn delayed_messages_and_keep_alives_come_in_time() {
    let mut bench = Bench::new();
    let key = bench.websocket(concat!(
        "TEXT 37\r\nc:{\"type\":\"send-delayed\",\"content\":\"later\",\"timeout\":5}\r\n",
        "TEXT 3a\r\nc:{\"type\":\"keep-alive\",\"message-type\":\"ping\",\"content\":\"\"}\r\n"
    ));
    bench.wait(4);
    assert_eq!(bench.frames(key), [""; 0]);
    bench.wait(2);
    assert_eq!(bench.frames(key), ["Text later"]);
    bench.wait(50);
    assert_eq!(bench.frames(key), [""; 0], "the message put it off");
    bench.wait(6);
    assert_eq!(bench.frames(key), ["Ping "]);
}

#[test]
fn another_delayed_message_sends_the_first_at_once() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.refresh(key);
    bench.answer(
        key,
        concat!(
            "TEXT 2b\r\nc:{\"type\":\"send-delayed\",\"content\":\"first\"}\r\n",
            "TEXT 2c\r\nc:{\"type\":\"send-delayed\",\"content\":\"second\"}\r\n"
        ),
    );
    assert_eq!(bench.frames(key), ["Text first"]);
    bench.text(key, "x");
    bench.outputs();
    bench.answer(key, "TEXT 1a\r\nc:{\"type\":\"flush-delayed\"}\r\n");
    assert_eq!(bench.frames(key), ["Text second"]);
    bench.wait(2);
    assert_eq!(bench.frames(key), [""; 0], "once");
}

#[test]
fn a_refresh_is_a_request_without_events() {
    let mut bench = Bench::new();
    bench.subscribed();
    bench.publish("a", r#""ws-message":{"action":"refresh"}"#);
    assert_eq!(bench.outputs(), ["exchange "]);
}

#[test]
fn a_drain_closes_websockets() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.engine.drain();
    bench.engine.drain_some(10, bench.now);
    assert_eq!(bench.frames(key), ["Close 1001"]);
    assert_eq!(bench.outputs(), ["detach a", r"exchange CLOSE\r\n"]);
}

#[test]
fn an_origin_that_disconnects_is_heard_to_its_last_message() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.refresh(key);
    bench.answer(key, "TEXT 6\r\nm:last\r\nDISCONNECT\r\nTEXT 4\r\nm:no\r\n");
    assert_eq!(bench.frames(key), ["Text last", "end"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn what_there_is_no_room_for_waits_and_is_not_lost() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    // All in one read.
    let half = frames::message(WsMessageKind::Text, &vec![b'x'; 110_000], KEY);
    let last = frames::message(WsMessageKind::Text, b"last", KEY);
    let input = [&half[..], &half, &last].concat();
    let flow = bench.engine.handle_input(key, &input, bench.now);
    assert_eq!(flow, Flow::Stopped);
    let first = bench.outputs().concat();
    assert!(!first.contains("last"), "there was no room");
    bench.answer(key, "");
    let rest = bench.outputs();
    assert!(rest[0].contains("last"), "{}", rest[0].len());
    assert_eq!(rest[1], "resume");
}

/// The origin leaves what it was given, and would be asked again with more only.
#[test]
fn a_client_for_whose_message_the_origin_makes_no_room_is_closed() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    let message = |length| frames::message(WsMessageKind::Text, &vec![b'x'; length], KEY);
    bench.sends(key, &message(120_000));
    bench.outputs();
    bench.answer_with(key, fields(&[("content-bytes-accepted", "0")]), "");
    assert_eq!(bench.outputs(), [""; 0]);
    bench.sends(key, &message(100_000));
    let reason = "no room beside what the origin has left";
    let expected = format!("Close 1009 {reason}");
    assert_eq!(bench.frames(key), [&expected, "end"]);
}

#[test]
fn a_stopped_client_that_is_closed_is_read_on() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    let large = frames::message(WsMessageKind::Text, &vec![b'x'; 199_999], KEY);
    bench.sends(key, &large);
    let flow = bench.engine.handle_input(key, &large, bench.now);
    assert_eq!(flow, Flow::Stopped);
    bench.outputs();
    bench.publish("a", r#""ws-message":{"action":"close"}"#);
    assert!(bench.outputs().contains(&"resume".to_owned()));
    bench.closes(key, b"");
    assert_eq!(bench.frames(key), ["Close", "end"]);
}

#[test]
fn a_native_origin_that_does_not_answer_a_close_is_left() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.closes(key, b"\x03\xe8");
    bench.outputs();
    bench.wait(11);
    assert_eq!(bench.outputs(), ["drop origin"]);
    assert_eq!(bench.frames(key), ["Close", "end"]);
    assert_eq!(bench.engine.len(), 0);
}

fn of_text(place: Place, text: &str) -> Piece {
    Piece {
        kind: frames::MessageKind::Text,
        place,
        bytes: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn piece(place: Place, text: &str) -> Bytes {
    frames::piece(&of_text(place, text), Mask::None)
}

fn whole(text: &str) -> Bytes {
    piece(Place::Whole, text)
}

#[test]
fn a_native_origin_gets_and_gives_frames() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.text(key, "x");
    bench.sends(key, &frames::message(WsMessageKind::Ping, b"p", KEY));
    assert_eq!(bench.outputs(), ["write origin", "write origin"]);
    assert_eq!(bench.origin_frames(key), ["Text x", "Ping p"]);
    bench.origin_sends(key, &whole("c:{\"type\":\"subscribe\",\"channel\":\"a\"}"));
    assert_eq!(bench.outputs(), ["attach a"]);
    bench.origin_sends(key, &whole("m:hello"));
    bench.origin_sends(key, &whole("dropped"));
    bench.origin_sends(key, &frames::message(WsMessageKind::Pong, b"p", Mask::None));
    assert_eq!(bench.frames(key), ["Text hello", "Pong p"]);
}

#[test]
fn an_item_stands_behind_the_message_that_it_met() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.origin_sends(key, &whole("c:{\"type\":\"subscribe\",\"channel\":\"a\"}"));
    bench.attach(key);
    bench.origin_sends(key, &piece(Place::First, "m:he"));
    bench.publish("a", r#""ws-message":{"content":"item"}"#);
    bench.origin_sends(key, &piece(Place::Last, "llo"));
    bench.publish("a", r#""ws-message":{"content":"next"}"#);
    assert_eq!(
        bench.frames(key),
        ["Text First he", "Text Last llo", "Text item", "Text next"]
    );
}

#[test]
fn all_of_a_message_without_prefix_is_dropped() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.origin_sends(key, &piece(Place::First, "no prefix"));
    bench.origin_sends(key, &piece(Place::Middle, "m:x"));
    bench.origin_sends(key, &piece(Place::Last, "m:y"));
    bench.origin_sends(key, &whole("m:z"));
    assert_eq!(bench.frames(key), ["Text z"]);
}

#[test]
fn closes_go_through_to_a_native_origin_and_back() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.closes(key, b"\x03\xe8bye");
    bench.outputs();
    assert_eq!(bench.origin_frames(key), ["Close 1000 bye"]);
    assert_eq!(bench.frames(key), [""; 0]);
    bench.origin_sends(key, &frames::close(b"\x03\xe9", Mask::None));
    assert_eq!(bench.frames(key), ["Close 1001", "end"]);
    assert_eq!(bench.outputs(), ["finish origin"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_native_origin_that_closes_hears_the_client() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.origin_sends(key, &frames::close(b"\x03\xe9", Mask::None));
    assert_eq!(bench.frames(key), ["Close 1001"]);
    bench.closes(key, b"\x03\xe9");
    assert_eq!(bench.origin_frames(key), ["Close 1001"]);
    assert_eq!(bench.frames(key), ["end"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn a_native_origin_that_is_lost_closes_the_websocket() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.engine.handle_origin_gone(key, bench.now);
    let frames = bench.frames(key);
    assert!(frames[0].starts_with("Close 1014"), "{frames:?}");
    let other = bench.native();
    bench.engine.handle_gone(other, bench.now);
    assert_eq!(bench.outputs(), ["drop origin"]);
}

#[test]
fn the_test_origin_sends_back_what_comes() {
    let mut bench = Bench::new();
    let channels = vec![ChannelName::new("test")];
    let key = bench.websocket_as("* test", None, OriginStart::Test(channels));
    assert_eq!(bench.outputs(), ["listen", "attach test"]);
    bench.text(key, "x");
    assert_eq!(bench.frames(key), ["Text x"]);
}

#[test]
fn an_attach_that_no_channel_waits_for_takes_no_memory() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.is_at_rest(key, true);
    bench.attach(key);
    bench.is_at_rest(key, true);
}

/// A client says which channels: it may say one twice.
#[test]
fn a_channel_of_the_test_origin_is_joined_once() {
    let mut bench = Bench::new();
    let channels = ["test", "test"].map(ChannelName::new).to_vec();
    let key = bench.websocket_as("* test,sub=test", None, OriginStart::Test(channels));
    bench.engine.handle_gone(key, bench.now);
    let attached = bench.outputs();
    let count = |what: &str| attached.iter().filter(|output| *output == what).count();
    assert_eq!(
        (count("attach test"), count("detach test")),
        (1, 1),
        "{attached:?}"
    );
}

const DETACH: &str = "TEXT 13\r\nc:{\"type\":\"detach\"}\r\n";

#[test]
fn an_origin_that_detached_hears_one_close_and_is_asked_no_more() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.refresh(key);
    bench.answer_with(key, fields(&[("keep-alive-interval", "20")]), DETACH);
    assert_eq!(bench.outputs(), [r"exchange CLOSE\r\n"]);
    bench.answer(key, "TEXT 6\r\nm:late\r\n");
    bench.wait(100);
    assert_eq!(bench.outputs(), [""; 0]);
    assert_eq!(bench.frames(key), [""; 0]);
    bench.engine.handle_gone(key, bench.now);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn nothing_waits_for_an_origin_once_the_hub_has_closed() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.refresh(key);
    bench.answer_with(key, fields(&[("keep-alive-interval", "20")]), "");
    bench.publish("a", r#""ws-message":{"action":"close"}"#);
    assert_eq!(bench.outputs(), ["detach a", r"exchange CLOSE\r\n"]);
    bench.answer(key, "");
    bench.closes(key, b"");
    assert_eq!(bench.frames(key), ["Close", "end"]);
    assert_eq!(bench.engine.len(), 0);
}

#[test]
fn an_origin_that_waits_for_its_client_is_asked_once_that_has_read() {
    let mut bench = Bench::new();
    let key = bench.websocket("");
    bench.refresh(key);
    let much = format!("TEXT 30d42\r\nm:{}\r\n", "x".repeat(200_000));
    let answer = (fields(&[("keep-alive-interval", "20")]), Bytes::from(much));
    bench.engine.handle_exchanged(key, Ok(answer), bench.now);
    bench.wait(60);
    assert_eq!(bench.outputs(), [""; 0]);
    bench.frames(key);
    assert_eq!(bench.outputs(), [r"exchange "]);
}

#[test]
fn a_slow_consumer_is_told_to_the_origin() {
    for told in [r"exchange DISCONNECT\r\n", "drop origin"] {
        let mut bench = Bench::new();
        let key = if told == "drop origin" {
            let key = bench.native();
            bench.origin_sends(key, &whole(r#"c:{"type":"subscribe","channel":"a"}"#));
            bench.attach(key);
            key
        } else {
            bench.subscribed()
        };
        bench.outputs();
        bench.publish("a", r#""ws-message":{"content":"x"}"#);
        bench.blocked(key);
        let long = format!(r#""ws-message":{{"content":"{}"}}"#, "x".repeat(101));
        bench.publish("a", &long);
        let outputs = bench.outputs();
        assert!(outputs.contains(&"drop client".to_owned()), "{outputs:?}");
        assert!(outputs.contains(&told.to_owned()), "{outputs:?}");
        bench.check_count(|counters| &counters.slow_consumers, 1);
        bench.check_count(|counters| &counters.held_websockets, 0);
    }
}

#[test]
fn a_client_that_is_gone_before_it_began_is_told_to_the_origin() {
    let mut bench = Bench::new();
    let handshake = handshake("* a:1,over_http,sub=a");
    let implicit = handshake.target().subscribe.clone();
    let start = WebSocketStart {
        head: Bytes::from_static(b"101 "),
        handshake,
        origin: OriginStart::OverHttp {
            fields: fields(&[]),
            events: vec![event::Event::Text(Bytes::from_static(b"m:x"))],
        },
        extension: grip(),
        deflate: None,
    };
    let hold = Hold {
        kind: HoldKind::WebSocket(Box::new(start)),
        slots: Slot::all(&[], "", &implicit),
        after: AfterHold::Close,
        slow: SlowClients::Disconnect,
        session: None,
    };
    let key = bench.engine.open(hold, bench.now);
    assert_eq!(bench.outputs(), ["attach a"]);
    bench.engine.handle_gone(key, bench.now);
    let told = ["detach a", "listen", r"exchange DISCONNECT\r\n"];
    assert_eq!(bench.outputs(), told);
    bench.attach(key);
    bench.answer(key, "");
    assert_eq!(bench.outputs(), [""; 0]);
    assert_eq!(bench.engine.len(), 0);
    bench.check_count(|counters| &counters.held_websockets, 0);
}

#[test]
fn what_waits_for_the_end_of_a_message_is_not_sent_into_it() {
    let mut bench = Bench::new();
    let key = bench.native();
    bench.origin_sends(key, &whole(r#"c:{"type":"subscribe","channel":"a"}"#));
    bench.attach(key);
    let beat = r#"c:{"type":"keep-alive","content":"beat","timeout":2}"#;
    bench.origin_sends(key, &whole(beat));
    bench.origin_sends(key, &piece(Place::First, "m:begun"));
    bench.publish("a", r#""ws-message":{"content":"item"}"#);
    assert_eq!(bench.written(key), "\x01\x05begun");
    bench.wait(10);
    bench.origin_sends(key, &frames::close(b"\x03\xe8", Mask::None));
    assert_eq!(bench.frames(key), ["Close 1000"]);
}

/// The frame that begins a message.
const BEGUN: &str = "\x01\x05begun";

impl Bench {
    /// A client that reads everything, subscribed to a channel, while its native origin is amid a
    /// message.
    fn amid_message(&mut self, slow: SlowClients, prev_id: &str) -> ConnectionKey {
        let key = self.native();
        let subscribe = format!(r#"c:{{"type":"subscribe","channel":"a"{prev_id}}}"#);
        self.origin_sends(key, &whole(&subscribe));
        self.attach(key);
        self.outputs();
        self.engine.connections.live(key.index).1.slow = slow;
        self.origin_sends(key, &piece(Place::First, "m:begun"));
        assert_eq!(self.written(key), BEGUN);
        self.blocked(key);
        key
    }

    fn publish_text(&mut self, id: u64, bytes: usize) {
        let fill = ".".repeat(bytes);
        let ids = format!(r#""id":"{id}","prev-id":"{}""#, id - 1);
        self.publish(
            "a",
            &format!(r#"{ids},"ws-message":{{"content":"{id}{fill}"}}"#),
        );
    }

    /// The items that the client gets once the message is over.
    fn items_behind(&mut self, key: ConnectionKey) -> String {
        self.origin_sends(key, &piece(Place::Last, "end"));
        while self.engine.next_dirty().is_some() {}
        let mut read = BEGUN.as_bytes().to_vec();
        while let Some(bytes) = self.engine.outbox(key).and_then(Outbox::pop) {
            read.extend(bytes);
            self.blocked(key);
        }
        let frames = decoded(&read, Masking::Forbidden);
        let texts = frames.iter().filter_map(|it| it.strip_prefix("Text "));
        let texts = texts.map(|it| it.trim_end_matches('.'));
        texts.skip(1).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn of_a_channel_with_ids_nothing_is_lost_amid_a_message() {
    for slow in [SlowClients::DropOldest, SlowClients::LatestOnly] {
        let mut bench = Bench::new();
        let key = bench.amid_message(slow, r#","prev-id":"0""#);
        for id in 1..=40 {
            bench.publish_text(id, 30);
        }
        bench.check_count(|counters| &counters.dropped_items, 0);
        bench.check_count(|counters| &counters.overflows, 1);
        let read = bench.items_behind(key);
        assert!(read.starts_with("Last end 1 2"), "{read}");
        let last: u64 = read.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(last < 40, "all waits");
        assert_eq!(bench.outputs(), [format!("catch up a={last}")]);
    }
}

#[test]
fn elsewhere_the_oldest_are_left_out_amid_a_message() {
    let mut bench = Bench::new();
    let key = bench.amid_message(SlowClients::DropOldest, "");
    for id in 1..=9 {
        bench.publish_text(id, 30);
    }
    assert_eq!(bench.items_behind(key), "Last end 8 9");
}

#[test]
fn a_client_that_reads_is_not_slow_because_others_share_while_its_origin_is_amid_a_message() {
    // An eighth of what is left for all: 50 bytes with nothing waiting.
    let mut bench = Bench::with_budget(Budget::new(100, 400));
    let key = bench.amid_message(SlowClients::Disconnect, "");
    bench.publish_text(1, 37);
    bench.publish_text(2, 37);
    assert_eq!(bench.items_behind(key), "Last end 1 2");
    bench.amid_message(SlowClients::Disconnect, "");
    for id in 1..=3 {
        bench.publish_text(id, 37);
    }
    bench.check_count(|counters| &counters.slow_consumers, 1);
}

#[test]
fn a_client_that_reads_does_not_stall_because_its_origin_does() {
    let mut bench = Bench::new();
    let key = bench.amid_message(SlowClients::Disconnect, r#","prev-id":"0""#);
    bench.publish_text(1, 60);
    bench.engine.session(key).unwrap().has_missed = true;
    let now = bench.now;
    bench.engine.go_on(key, now);
    bench.wait(61);
    bench.wait(61);
    assert_eq!(bench.outputs(), [""; 0]);
    assert_eq!(bench.items_behind(key), "Last end 1");
    assert_eq!(bench.outputs(), ["catch up a=1"]);
}

#[test]
fn what_waits_for_the_end_of_a_message_is_counted_until_it_is_written_or_given_up() {
    let mut bench = Bench::new();
    let key = bench.amid_message(SlowClients::Disconnect, "");
    bench.publish_text(1, 20);
    bench.check_count(|counters| &counters.pending_bytes, 23);
    assert_eq!(bench.items_behind(key), "Last end 1");
    bench.check_count(|counters| &counters.pending_bytes, 0);
    let ends: [fn(&mut Bench, ConnectionKey); 4] = [
        |bench, key| bench.engine.handle_gone(key, bench.now),
        |bench, key| bench.engine.handle_origin_gone(key, bench.now),
        |bench, key| bench.origin_sends(key, &frames::close(b"", Mask::None)),
        |bench, key| bench.sends(key, &Bytes::from_static(b"not masked")),
    ];
    for end in ends {
        let key = bench.amid_message(SlowClients::Disconnect, "");
        bench.publish_text(1, 20);
        bench.check_count(|counters| &counters.pending_bytes, 23);
        end(&mut bench, key);
        bench.frames(key);
        bench.check_count(|counters| &counters.pending_bytes, 0);
    }
}

#[test]
fn an_origin_that_was_stopped_by_items_is_read_on() {
    let mut bench = Bench::new();
    let key = bench.native();
    let large = piece(Place::Whole, &format!("m:{}", "x".repeat(200_000)));
    bench.origin_sends(key, &large);
    bench.frames(key);
    // Its messages are written, and what waits is not its own.
    let outbox = bench.engine.outbox(key).unwrap();
    outbox.push(large.slice(..));
    let flow = bench
        .engine
        .handle_origin_input(key, &whole("dropped"), bench.now);
    assert_eq!(flow, Flow::Stopped);
    bench.outputs();
    while bench.engine.next_dirty().is_some() {}
    while bench.engine.outbox(key).unwrap().pop().is_some() {}
    bench.engine.handle_flushed(key, bench.now);
    assert_eq!(bench.outputs(), ["resume origin"]);
}

/// Its origin's messages are for the client whatever waits; they are not read on, but what has come
/// of them has to go somewhere.
#[test]
fn who_gets_more_than_it_reads_makes_room() {
    let mut bench = Bench::with_budget(Budget::new(1000, 4000));
    let key = bench.websocket("");
    for (answer, ended) in [("TEXT 5\r\nm:one\r\n", 0), ("TEXT 5\r\nm:two\r\n", 1)] {
        bench.text(key, "asks");
        bench.outputs();
        if ended > 0 {
            bench.engine.budget.count(0, 5000);
        }
        bench.answer(key, answer);
        bench.blocked(key);
        bench.check_count(|counters| &counters.slow_consumers, ended);
    }
}

#[test]
fn an_origin_is_read_on_as_far_as_there_is_room_for_all() {
    let mut bench = Bench::with_budget(Budget::new(1000, 4000));
    let key = bench.native();
    let flows = [400, 200].map(|bytes| {
        let message = whole(&format!("m:{}", "x".repeat(bytes)));
        let flow = bench.engine.handle_origin_input(key, &message, bench.now);
        bench.blocked(key);
        flow
    });
    assert_eq!(flows, [Flow::Going, Flow::Stopped]);
    bench.outputs();
    bench.frames(key);
    assert_eq!(bench.outputs(), ["resume origin"]);
    let key = bench.websocket("");
    bench.text(key, "asks");
    bench.outputs();
    bench.engine.budget.count(0, 4000);
    bench.answer(key, "TEXT 3\r\nm:y\r\n");
    bench.text(key, "asks");
    assert_eq!(bench.outputs(), [""; 0]);
    bench.frames(key);
    assert_eq!(bench.outputs().len(), 1, "the origin is asked");
}

#[test]
fn a_client_that_was_stopped_can_close_once_its_native_origin_is_lost() {
    let mut bench = Bench::new();
    let key = bench.native();
    let large = frames::message(WsMessageKind::Text, &vec![b'x'; 100_000], KEY);
    let flow = bench.engine.handle_input(key, &large, bench.now);
    assert_eq!(flow, Flow::Stopped);
    bench.outputs();
    bench.engine.handle_origin_gone(key, bench.now);
    assert_eq!(bench.outputs(), ["resume"]);
}

#[test]
fn a_client_that_does_not_read_the_hubs_pongs_is_not_read_either() {
    let mut bench = Bench::new();
    let key = bench.websocket(DETACH);
    bench.outputs();
    let ping = frames::message(WsMessageKind::Ping, &[b'x'; 125], KEY);
    let many = std::iter::repeat_with(|| bench.engine.handle_input(key, &ping, bench.now));
    let read = many.take(10_000).take_while(|flow| *flow == Flow::Going);
    assert!(read.count() < 2000);
    bench.frames(key);
    assert_eq!(bench.outputs(), ["resume"]);
}

#[test]
fn a_channel_left_behind_a_question_brings_nothing_more() {
    let mut bench = Bench::new();
    let key = bench.websocket(concat!(
        "TEXT 2f\r\nc:{\"type\":\"set-meta\",\"name\":\"url\",\"value\":\"/a\"}\r\n",
        "TEXT 3d\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\",\"filters\":[\"http-check\"]}\r\n",
    ));
    bench.attach(key);
    bench.publish("a", r#""ws-message":{"content":"x"}"#);
    assert_eq!(bench.outputs(), [r#"ask /a b"x" []"#]);
    bench.refresh(key);
    bench.answer(
        key,
        "TEXT 26\r\nc:{\"type\":\"unsubscribe\",\"channel\":\"a\"}\r\n",
    );
    let reply = grip::filter::Reply::Deliver(Bytes::from_static(b"x"));
    bench.tell(key, News::Told(Ok(reply)));
    assert_eq!(bench.frames(key), [""; 0]);
}

#[test]
fn a_delay_of_nothing_is_over_soon() {
    let mut bench = Bench::new();
    let key = bench
        .websocket("TEXT 33\r\nc:{\"type\":\"send-delayed\",\"content\":\"x\",\"timeout\":0}\r\n");
    bench.wait(1);
    assert_eq!(bench.frames(key), ["Text x"]);
}

#[test]
fn whoever_hears_a_channel_is_counted_by_transport() {
    let mut bench = Bench::new();
    let count = |bench: &Bench, channel: &str| {
        let count = bench.engine.count(&ChannelName::new(channel));
        [count.streams, count.responses, count.websockets]
    };
    let keys = [
        bench.stream(&["a"]),
        bench.stream(&["a", "b"]),
        bench.open(response(55), &["b"]),
        bench.subscribed(),
    ];
    assert_eq!(count(&bench, "a"), [2, 0, 1]);
    assert_eq!(count(&bench, "b"), [1, 0, 0]);
    bench.attach(keys[2]);
    assert_eq!(count(&bench, "b"), [1, 1, 0]);
    assert_eq!(count(&bench, "c"), [0, 0, 0]);
    bench.publish("b", r#""http-response":{"body":"x"}"#);
    assert_eq!(count(&bench, "b"), [1, 0, 0]);
    for key in keys {
        bench.engine.handle_gone(key, bench.now);
    }
    assert_eq!(count(&bench, "a"), [0, 0, 0]);
}

#[test]
fn what_a_websocket_keeps_while_it_rests_is_little() {
    assert!(size_of::<WebSocket>() <= 88);
    assert!(size_of::<Connection>() <= 128);
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.is_at_rest(key, true);
    for (place, is_at_rest) in [(Place::First, false), (Place::Last, true)] {
        let piece = Piece {
            kind: frames::MessageKind::Text,
            place,
            bytes: Bytes::from("a"),
        };
        bench.sends(key, &frames::piece(&piece, KEY));
        bench.is_at_rest(key, is_at_rest);
    }
    bench.answer(key, "TEXT 5\r\nm:uno\r\n");
    bench.is_at_rest(key, false);
    assert_eq!(bench.frames(key), ["Text uno"]);
    bench.is_at_rest(key, true);
}

#[test]
fn what_waited_for_a_client_that_has_left_is_not_counted_while_its_origin_hears_of_it() {
    let mut bench = Bench::new();
    let key = bench.subscribed();
    bench.publish("a", r#""ws-message":{"content":"waits"}"#);
    bench.engine.handle_flushed(key, bench.now);
    bench.check_count(|counters| &counters.pending_bytes, 7);
    bench.engine.handle_gone(key, bench.now);
    bench.check_count(|counters| &counters.pending_bytes, 0);
    bench.fail(key, SendError::Connect("refused".to_owned()).into());
    assert_eq!(bench.engine.len(), 1, "it asks again");
    bench.check_count(|counters| &counters.pending_bytes, 0);
}
