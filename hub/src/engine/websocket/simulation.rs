//! WebSockets under operations that bytes choose.
//!
//! The simulation is broker, clients, origins and clock. It reads all that the engine writes as
//! clients and origins would, and panics where that, or what the engine asks for, makes no sense.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use grip::filter::Reply as Told;
use grip::websocket::event::{self, Event};
use grip::websocket::over_http::{AnswerFields, Request};
use grip::{Limits, publish};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};

use super::{Bytes, ChannelName, ConnectionKey, Duration, Instant, Mask, Origin, Talk};
use super::{OriginStart, WebSocketStart};
use crate::config::SlowClients;
use crate::engine::connections::{Lane, Phase};
use crate::engine::{AfterHold, Budget, Engine, ErrandKind, Hold, HoldKind, Outbox, Output, Slot};
use crate::errand::News;
use crate::exchange::ExchangeError;
use crate::frames::{
    self, Decoder, Deflate, Input, Masking, MessageKind, Payload, Piece, Place, Rules,
};
use crate::handshake::{Handshake, Offer, Shake, Trust};
use crate::mailbox::{Sequence, Sequenced};
use crate::routes::{self, Security};
use crate::upstream::SendError;
use grip::publish::WsMessageKind;
use grip::websocket::extension::Extension;

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const ROUTES: [&str; 4] = [
    "* a:1,over_http",
    "* a:1,over_http,one_event",
    "* a:1,over_http,sub=a",
    "* a:1,sub=b",
];
const MAX_PENDING_BYTES: usize = 300;

/// Runs the operations that the bytes choose, then ends all WebSockets.
pub(crate) fn simulate(bytes: &[u8]) {
    let mut simulation = Simulation::new(bytes);
    while !simulation.choices.as_slice().is_empty() {
        simulation.step();
        simulation.settle();
    }
    simulation.finish();
}

struct Simulation<'a> {
    choices: std::slice::Iter<'a, u8>,
    engine: Engine,
    now: Instant,
    handshakes: Vec<Handshake>,
    sequence: u64,
    sockets: Vec<Socket>,
    /// How many connections the broker has on each channel.
    interest: BTreeMap<ChannelName, u64>,
    /// What the broker has not answered yet.
    attaching: VecDeque<ConnectionKey>,
    /// Filters that have asked and not heard.
    asked: VecDeque<ConnectionKey>,
    blocked: Vec<ConnectionKey>,
    /// Bytes that may wait for all.
    total: usize,
    is_draining: bool,
}

/// A WebSocket as its client and its origin know it.
#[derive(Debug)]
struct Socket {
    key: ConnectionKey,
    client: Client,
    origin: Side,
    /// What the origin was asked and has not answered.
    exchange: Option<Request>,
    deflate: Option<Deflate>,
    /// Numbers of items that must come, if no filter has a say.
    expected: VecDeque<u64>,
}

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a client knows is so or not"
)]
struct Client {
    is_there: bool,
    is_stopped: bool,
    has_closed: bool,
    has_head: bool,
    /// Whether the hub's close frame was read, behind which nothing stands.
    was_closed: bool,
    /// Whether the origin may have left without a close.
    was_left: bool,
    decoder: Decoder,
    /// The text that is coming.
    text: Vec<u8>,
    /// Whether it sent the first part of a message.
    is_amid: bool,
    last_number: u64,
    next_message: u64,
}

/// The other end of the hub.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what an origin knows is so or not"
)]
struct Side {
    is_native: bool,
    is_there: bool,
    is_stopped: bool,
    has_closed: bool,
    is_amid: bool,
    decoder: Decoder,
    /// The number of the last message of the client.
    last_message: u64,
    /// Whether it accepted something in part.
    is_picky: bool,
    text: Vec<u8>,
}

impl<'a> Simulation<'a> {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do to start from"
    )]
    fn new(bytes: &'a [u8]) -> Self {
        let now = Instant::now();
        // For some, a few that don't read use up what there is for all.
        let total = [usize::MAX, 3000][bytes.first().map_or(0, |byte| usize::from(byte % 2))];
        let budget = Budget::new(MAX_PENDING_BYTES, total);
        Self {
            choices: bytes.iter(),
            engine: Engine::new(budget, Limits::default(), Arc::default(), now),
            now,
            handshakes: ROUTES.iter().map(|route| handshake(route)).collect(),
            sequence: 0,
            sockets: Vec::new(),
            interest: BTreeMap::new(),
            attaching: VecDeque::new(),
            asked: VecDeque::new(),
            blocked: Vec::new(),
            total,
            is_draining: false,
        }
    }

    /// The next byte as a number below `bound`; zero behind the end.
    fn choose(&mut self, bound: usize) -> usize {
        self.choices
            .next()
            .map_or(0, |byte| usize::from(*byte) % bound)
    }

    /// One of the last few.
    fn one(&mut self) -> Option<usize> {
        let count = self.sockets.len();
        let back = self.choose(count.clamp(1, 4));
        count.checked_sub(back + 1)
    }

    fn step(&mut self) {
        match self.choose(24) {
            0 | 1 => self.open(),
            2..=4 => self.attach(),
            5..=7 => self.publish_message(),
            8 => self.publish_command(),
            9..=11 => self.client_sends(),
            12..=15 => self.answer(),
            16..=18 => self.origin_sends(),
            19 => self.write(usize::MAX),
            20 => {
                let limit = [1, 3, 10, 100, 1000, 150_000][self.choose(6)];
                self.write(limit);
            }
            21 => {
                let tenths = self.choose(256) as u64;
                self.wait(Duration::from_millis(tenths * 100));
            }
            22 => self.lose(),
            _ => match self.choose(16) {
                0 => self.drain(1),
                1 => self.engine.handle_recover(self.now),
                2..=4 => self.answer_filter(),
                _ => self.origin_reads(),
            },
        }
    }

    fn open(&mut self) {
        let route = self.choose(ROUTES.len());
        let features = self.choose(32);
        let has = |bit: usize| features & 1 << bit != 0;
        let is_native = route == 3;
        let events = self.events();
        let extension = has(0).then(grip).flatten();
        let deflate = has(1).then(|| Deflate::with_window_bits(9)).flatten();
        let origin = if is_native {
            OriginStart::Native
        } else {
            let keep_alive = has(2).then_some("20");
            OriginStart::OverHttp {
                fields: fields("keep-alive-interval", keep_alive),
                events: event::decode(&events).expect("events"),
            }
        };
        let handshake = self.handshakes[route].clone();
        let implicit = handshake.target().subscribe.clone();
        let start = WebSocketStart {
            head: Bytes::from_static(if has(3) { b"" } else { b"101 " }),
            handshake,
            origin,
            extension,
            deflate,
        };
        let hold = Hold {
            kind: HoldKind::WebSocket(Box::new(start)),
            slots: Slot::all(&[], "", &implicit),
            after: AfterHold::Close,
            slow: SlowClients::Disconnect,
            session: None,
        };
        let key = self.engine.open(hold, self.now);
        self.sockets.push(Socket {
            key,
            client: Client {
                is_there: true,
                was_left: !is_native && leaves(&events),
                // Until the engine wants to listen.
                is_stopped: true,
                has_head: has(3),
                ..Client::default()
            },
            origin: Side {
                is_native,
                is_stopped: true,
                ..Side::default()
            },
            exchange: None,
            deflate,
            expected: VecDeque::new(),
        });
    }

    fn attach(&mut self) {
        if let Some(key) = self.attaching.pop_front() {
            let cursor = Sequence(self.sequence);
            self.engine.handle_attached(key, cursor, None, self.now);
        }
    }

    fn publish_message(&mut self) {
        let channel = self.choose(CHANNELS.len());
        let number = self.sequence + 1;
        let content = format!("<{number}>");
        let mut slow = Vec::new();
        for socket in &mut self.sockets {
            let Some(frame) = socket.would_get(&mut self.engine, channel, &content) else {
                continue;
            };
            if frame == Delivery::Slow {
                slow.push(socket.key);
            } else {
                socket.expected.push_back(number);
            }
        }
        self.publish(channel, &format!(r#"{{"content":"{content}"}}"#));
        for key in slow {
            let phase = self.engine.connections.get(key).map(|it| &it.phase);
            let is_held = matches!(phase, Some(Phase::WebSocket(_, it)) if it.has_client());
            if is_held {
                // Others that were dropped have made room.
                assert!(self.total < usize::MAX, "slow consumers are dropped");
                self.socket(key).expected.push_back(number);
            }
        }
    }

    fn publish_command(&mut self) {
        const COMMANDS: [&str; 6] = [
            r#"{"action":"close"}"#,
            r#"{"action":"close","code":4001,"reason":"why"}"#,
            r#"{"action":"refresh"}"#,
            r#"{"action":"hint"}"#,
            r#"{"type":"ping","content":"p"}"#,
            r#"{"content-bin":"AAEC"}"#,
        ];
        let channel = self.choose(CHANNELS.len());
        let command = COMMANDS[self.choose(COMMANDS.len())];
        self.publish(channel, command);
    }

    fn publish(&mut self, channel: usize, message: &str) {
        let name = CHANNELS[channel];
        let body =
            format!(r#"{{"items":[{{"channel":"{name}","formats":{{"ws-message":{message}}}}}]}}"#);
        let items = publish::parse(body.as_bytes(), &Limits::default()).expect("an item");
        for item in items {
            self.sequence += 1;
            let sequenced = Arc::new(Sequenced::new(Sequence(self.sequence), item));
            self.engine.handle_items(&[sequenced], self.now);
        }
    }

    fn client_sends(&mut self) {
        let Some(index) = self.one() else {
            return;
        };
        let choice = self.choose(24);
        let size = [1, 130, 20_000, 70_000, 150_000][self.choose(12).saturating_sub(7)];
        let split = self.choose(4);
        let socket = &mut self.sockets[index];
        let client = &mut socket.client;
        if !client.is_there || client.is_stopped || client.has_closed {
            return;
        }
        let kind = MessageKind::Text;
        let mut number = || {
            client.next_message += 1;
            format!("#{}#{}", client.next_message, "x".repeat(size))
        };
        let part = |place, text: String| Piece {
            kind,
            place,
            bytes: Bytes::from(text),
        };
        let bytes = match choice {
            0..=9 if client.is_amid => frames::message(WsMessageKind::Pong, b"", KEY),
            0..=9 => frames::message(WsMessageKind::Text, number().as_bytes(), KEY),
            10..=13 if client.is_amid => {
                client.is_amid = false;
                frames::piece(&part(Place::Last, "y".repeat(size)), KEY)
            }
            10..=13 => {
                client.is_amid = true;
                frames::piece(&part(Place::First, number()), KEY)
            }
            14 if client.is_amid => frames::piece(&part(Place::Middle, "z".repeat(size)), KEY),
            14..=17 => frames::message(WsMessageKind::Ping, b"ping", KEY),
            18..=20 => {
                client.has_closed = true;
                frames::close(if choice == 18 { b"" } else { b"\x03\xe8bye" }, KEY)
            }
            21 => Bytes::from_static(b"not masked"),
            _ => frames::message(WsMessageKind::Pong, b"", KEY),
        };
        let key = socket.key;
        let (first, second) = bytes.split_at(bytes.len() * split / 4);
        for part in [first, second] {
            let flow = self.engine.handle_input(key, part, self.now);
            if flow == super::Flow::Stopped {
                self.sockets[index].client.is_stopped = true;
                // The rest is the same turn's, as when a socket was read before.
            }
        }
    }

    /// What an origin may say.
    fn events(&mut self) -> Bytes {
        let mut out = Vec::new();
        for _ in 0..self.choose(4) {
            self.event().encode(&mut out);
        }
        Bytes::from(out)
    }

    fn event(&mut self) -> Event {
        match self.choose(24) {
            0..=8 => Event::Text(self.control()),
            9..=11 => Event::Text(Bytes::from_static(b"m:said")),
            12 => Event::Text(Bytes::from_static(b"dropped")),
            13 => Event::Binary(Bytes::from_static(b"m:\0\xff")),
            14 => Event::Text(Bytes::from(format!("m:{}", "x".repeat(100_000)))),
            15 => Event::Ping(Bytes::from_static(b"hi")),
            16 => Event::Pong(Bytes::new()),
            17 => Event::Close(Bytes::from_static(b"\x03\xe8")),
            18 => Event::Close(Bytes::new()),
            19 => Event::Disconnect,
            20 => Event::Text(Bytes::from_static(b"m:\xff")),
            21 => Event::Open,
            _ => Event::Text(Bytes::from(vec![b'm', b':', b'y', b'y'])),
        }
    }

    fn control(&mut self) -> Bytes {
        const CONTROLS: [&str; 12] = [
            r#"c:{"type":"subscribe","channel":"a"}"#,
            r#"c:{"type":"subscribe","channel":"b"}"#,
            r#"c:{"type":"subscribe","channel":"c","filters":["skip-self"]}"#,
            r#"c:{"type":"subscribe","channel":"a","filters":["http-check"]}"#,
            r#"c:{"type":"unsubscribe","channel":"a"}"#,
            r#"c:{"type":"unsubscribe","channel":"b"}"#,
            r#"c:{"type":"detach"}"#,
            r#"c:{"type":"keep-alive","content":"beat","timeout":2}"#,
            r#"c:{"type":"keep-alive","content":"b","timeout":1,"mode":"interval"}"#,
            r#"c:{"type":"send-delayed","content":"late","timeout":1}"#,
            r#"c:{"type":"flush-delayed"}"#,
            r#"c:{"type":"set-meta","name":"url","value":"/ask"}"#,
        ];
        let mut choice = self.choose(2 * CONTROLS.len());
        if choice >= CONTROLS.len() {
            // Subscriptions are what most of it is about.
            choice %= 2;
        }
        Bytes::from_static(CONTROLS[choice].as_bytes())
    }

    /// An origin answers over HTTP.
    fn answer(&mut self) {
        let Some(index) = self.one() else {
            return;
        };
        let choice = self.choose(16);
        let socket = &mut self.sockets[index];
        let Some(request) = socket.exchange.take() else {
            return;
        };
        let exchanged = match choice {
            0 => Err(ExchangeError::Unsent(SendError::Connect("no".to_owned()))),
            1 => Err(ExchangeError::Unsent(SendError::Blocked)),
            2 if self.choose(4) == 0 => Err(failed()),
            3 if !request.body.is_empty() => {
                self.sockets[index].origin.is_picky = true;
                Ok((fields("content-bytes-accepted", Some("1")), Bytes::new()))
            }
            4 => Ok((fields("keep-alive-interval", Some("20")), Bytes::new())),
            5..=9 => {
                self.sockets[index].hear(&request);
                Ok((fields("x", None), Bytes::new()))
            }
            _ => {
                self.sockets[index].hear(&request);
                let events = self.events();
                self.sockets[index].client.was_left |= leaves(&events);
                Ok((fields("x", None), events))
            }
        };
        let key = self.sockets[index].key;
        self.engine.handle_exchanged(key, exchanged, self.now);
    }

    /// A native origin sends.
    fn origin_sends(&mut self) {
        let Some(index) = self.one() else {
            return;
        };
        let side = &self.sockets[index].origin;
        if !side.is_native || !side.is_there || side.is_stopped || side.has_closed {
            return;
        }
        let choice = self.choose(24);
        let control = self.control();
        let socket = &mut self.sockets[index];
        let side = &mut socket.origin;
        let text = |place, text: &[u8]| {
            let piece = Piece {
                kind: MessageKind::Text,
                place,
                bytes: Bytes::copy_from_slice(text),
            };
            frames::piece(&piece, Mask::None)
        };
        let bytes = match choice {
            0..=5 if !side.is_amid => text(Place::Whole, &control),
            6 | 7 if !side.is_amid => text(Place::Whole, b"m:said"),
            8 if !side.is_amid => text(Place::Whole, &vec![b'm'; 150_000]),
            9 if !side.is_amid => text(Place::Whole, &[b"m:", &vec![b'q'; 250_000][..]].concat()),
            10..=13 if !side.is_amid => {
                side.is_amid = true;
                text(
                    Place::First,
                    if choice == 10 { b"dropped" } else { b"m:fi" },
                )
            }
            0..=9 if side.is_amid => {
                side.is_amid = false;
                text(Place::Last, b"end")
            }
            10..=13 => text(Place::Middle, b"mid"),
            14..=16 => frames::message(WsMessageKind::Ping, b"o", Mask::None),
            17 => {
                side.has_closed = true;
                frames::close(b"\x03\xe8", Mask::None)
            }
            18 => Bytes::from_static(b"\x81\x80mask"),
            _ => frames::message(WsMessageKind::Pong, b"o", Mask::None),
        };
        let flow = self
            .engine
            .handle_origin_input(socket.key, &bytes, self.now);
        socket.origin.is_stopped = flow == super::Flow::Stopped;
    }

    /// Native origins read all that waits for them.
    fn origin_reads(&mut self) {
        for index in 0..self.sockets.len() {
            let key = self.sockets[index].key;
            if let Some(outbox) = self.engine.origin_outbox(key) {
                let bytes = read(outbox, usize::MAX);
                self.sockets[index].origin.read(&bytes);
                self.engine.handle_origin_written(key);
            }
        }
    }

    fn answer_filter(&mut self) {
        let choice = self.choose(3);
        if let Some(key) = self.asked.pop_front() {
            let told = match choice {
                0 => Told::Drop,
                _ => Told::Deliver(Bytes::from_static(b"told")),
            };
            self.engine
                .handle_news(&[key], News::Told(Ok(told)), self.now);
        }
    }

    /// A client or a native origin is lost.
    fn lose(&mut self) {
        let Some(index) = self.one() else {
            return;
        };
        let choice = self.choose(2);
        let socket = &mut self.sockets[index];
        if choice == 0 {
            if std::mem::take(&mut socket.client.is_there) {
                self.engine.handle_gone(socket.key, self.now);
            }
        } else if std::mem::take(&mut socket.origin.is_there) {
            self.engine.handle_origin_gone(socket.key, self.now);
        }
    }

    fn drain(&mut self, limit: usize) {
        if !self.is_draining {
            self.is_draining = true;
            self.engine.drain();
        }
        self.engine.drain_some(limit, self.now);
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.engine.handle_timeout(self.now);
        let next = self.engine.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "it is never over");
    }

    /// Lets all clients read, at most so many bytes each.
    fn write(&mut self, limit: usize) {
        let mut keys = std::mem::take(&mut self.blocked);
        keys.extend(std::iter::from_fn(|| self.engine.next_dirty()));
        for key in keys {
            let Some(outbox) = self.engine.outbox(key) else {
                continue;
            };
            let bytes = read(outbox, limit);
            if !outbox.is_empty() {
                self.blocked.push(key);
            }
            let found = self.sockets.iter_mut().find(|socket| socket.key == key);
            let socket = found.expect("whoever has an outbox is known");
            socket.read(&bytes);
            if self.engine.handle_flushed(key, self.now).is_some() {
                assert!(socket.client.is_there, "an end comes once");
                let client = &socket.client;
                assert!(
                    client.was_closed || client.was_left,
                    "it ends with a close frame"
                );
                socket.client.is_there = false;
            }
        }
        if limit == usize::MAX {
            self.check_read();
        }
    }

    /// All is written: nobody waits for anything.
    fn check_read(&mut self) {
        for socket in &mut self.sockets {
            let Some(connection) = self.engine.connections.get(socket.key) else {
                continue;
            };
            let pending = connection.outbox.pending_bytes();
            assert_eq!(pending, 0, "whoever has something to read is told");
            if let Phase::WebSocket(front, it) = &connection.phase
                && matches!(front.lane, Lane::Free(_))
                && it.talk == Talk::Open
            {
                assert!(socket.expected.is_empty(), "{socket:?}");
                assert!(!socket.client.is_amid_text(), "{socket:?}");
            }
        }
    }

    /// Does what the engine wants, and compares.
    fn settle(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.take(output);
        }
        let engine = &mut self.engine;
        self.sockets.retain(|socket| {
            let is_known = engine.connections.get(socket.key).is_some();
            if !is_known {
                assert!(
                    !socket.client.is_there,
                    "the client is forgotten: {socket:?}"
                );
                assert!(
                    !socket.origin.is_there,
                    "the origin is forgotten: {socket:?}"
                );
                assert!(socket.exchange.is_none() || !is_told(socket), "{socket:?}");
            }
            is_known
        });
        assert_eq!(engine.len(), self.sockets.len(), "everybody is known");
        let mut clients = 0;
        for socket in &self.sockets {
            let connection = engine.connections.get(socket.key).expect("it is known");
            if let Phase::WebSocket(_, it) = &connection.phase {
                assert_eq!(it.has_client(), socket.client.is_there, "{socket:?}");
                let is_native = matches!(it.origin, Origin::Native(_));
                assert_eq!(is_native, socket.origin.is_there, "{socket:?}");
                clients += u64::from(it.has_client());
                assert!(
                    it.has_client() || connection.outbox.is_empty(),
                    "nobody reads: {socket:?}"
                );
            }
        }
        assert_eq!(engine.websockets, clients);
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Attach { connection, wanted } => {
                for attachment in wanted.channels {
                    *self.interest.entry(attachment.channel).or_default() += 1;
                }
                self.attaching.push_back(connection);
            }
            Output::Detach(names) => {
                for name in names {
                    let count = self.interest.get_mut(&name).filter(|count| **count > 0);
                    *count.expect("nobody is detached who was not attached") -= 1;
                }
            }
            Output::Listen(key) => {
                let socket = self.socket(key);
                socket.client.is_stopped = false;
                socket.origin.is_stopped = false;
                socket.origin.is_there = socket.origin.is_native;
            }
            Output::Resume(key) => {
                let socket = self.socket(key);
                assert!(socket.client.is_stopped, "{socket:?}");
                socket.client.is_stopped = false;
            }
            Output::ResumeOrigin(key) => self.socket(key).origin.is_stopped = false,
            Output::Exchange {
                connection,
                request,
                ..
            } => {
                event::decode(&request.body).expect("events");
                let socket = self.socket(connection);
                let before = socket.exchange.replace(request);
                assert!(before.is_none(), "one at a time: {socket:?}");
            }
            Output::WriteOrigin(_) => {}
            Output::FinishOrigin {
                connection,
                mut rest,
            } => {
                let bytes = read(&mut rest, usize::MAX);
                let socket = self.socket(connection);
                socket.origin.read(&bytes);
                assert!(std::mem::take(&mut socket.origin.is_there), "{socket:?}");
            }
            Output::DropOrigin(key) => {
                let socket = self.socket(key);
                assert!(std::mem::take(&mut socket.origin.is_there), "{socket:?}");
            }
            Output::DropClient(key) => {
                let socket = self.socket(key);
                assert!(std::mem::take(&mut socket.client.is_there), "{socket:?}");
            }
            Output::Run {
                connection,
                kind: ErrandKind::Ask { .. },
                ..
            } => self.asked.push_back(connection),
            other => panic!("only WebSockets are held: {other:?}"),
        }
    }

    fn socket(&mut self, key: ConnectionKey) -> &mut Socket {
        let found = self.sockets.iter_mut().find(|socket| socket.key == key);
        found.expect("only whoever is known is spoken of")
    }

    /// All clients leave, and all origins answer: nothing is left.
    fn finish(mut self) {
        self.settle();
        self.write(usize::MAX);
        self.settle();
        if self.choose(2) == 0 {
            self.drain(usize::MAX);
            self.settle();
            self.write(usize::MAX);
        }
        self.settle();
        while !self.attaching.is_empty() {
            self.attach();
            self.settle();
        }
        for index in 0..self.sockets.len() {
            if std::mem::take(&mut self.sockets[index].client.is_there) {
                let key = self.sockets[index].key;
                self.engine.handle_gone(key, self.now);
            }
        }
        self.settle();
        // What waits is answered, and one more request, or as many as there are messages for
        // those who want them one by one.
        for _ in 0..20_000 {
            if self.sockets.is_empty() {
                break;
            }
            for index in 0..self.sockets.len() {
                let key = self.sockets[index].key;
                if self.sockets[index].exchange.take().is_some() {
                    let answer = Ok((fields("x", None), Bytes::new()));
                    self.engine.handle_exchanged(key, answer, self.now);
                }
            }
            self.settle();
            self.wait(Duration::from_secs(20));
            self.settle();
        }
        while !self.attaching.is_empty() {
            self.attach();
            self.settle();
        }
        assert!(self.sockets.is_empty(), "still held: {:?}", self.sockets);
        assert!(self.interest.values().all(|count| *count == 0));
        for name in CHANNELS {
            assert!(self.engine.subscriptions.of(&name.into()).is_empty());
        }
        assert!(self.engine.keep_alives.is_empty());
        assert_eq!(self.engine.pending_bytes, 0, "nobody waits");
    }
}

/// Whether the origin has to be told the end.
fn is_told(socket: &Socket) -> bool {
    let farewell = socket.exchange.as_ref();
    farewell.is_some_and(|request| request.body.starts_with(b"DISCONNECT"))
}

#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    Fits,
    Slow,
}

impl Socket {
    /// What becomes of a text that is published, if that can be foreseen.
    fn would_get(&self, engine: &mut Engine, channel: usize, content: &str) -> Option<Delivery> {
        let connection = engine.connections.get(self.key)?;
        if connection.session.is_some() {
            return None;
        }
        let Phase::WebSocket(front, it) = &connection.phase else {
            return None;
        };
        let waiting = match (&front.lane, it.waiting()) {
            (Lane::Closed, _) => return None,
            (Lane::Busy, Some(waiting)) => waiting.weight(),
            _ => 0,
        };
        let keeps_up = waiting == 0 && connection.outbox.left() == 0;
        let name = ChannelName::new(CHANNELS[channel]);
        let subscriptions = connection.subscriptions.iter();
        let mut names = subscriptions.map(|it| engine.subscriptions.name(*it));
        if !names.any(|it| *it == name) {
            return None;
        }
        let length = frames::message(WsMessageKind::Text, content.as_bytes(), Mask::None).len();
        let pending = connection.outbox.weight() + waiting + length;
        let limit = connection.limit(&engine.budget) + it.allowance();
        Some(if pending > limit && !keeps_up {
            Delivery::Slow
        } else {
            Delivery::Fits
        })
    }

    /// The client reads.
    fn read(&mut self, mut bytes: &[u8]) {
        assert!(bytes.is_empty() || self.client.is_there, "{self:?}");
        if !self.client.has_head && !bytes.is_empty() {
            // Its four bytes may come one by one.
            let known = self.client.text.len();
            let (head, rest) = bytes.split_at(bytes.len().min(4 - known));
            self.client.text.extend_from_slice(head);
            assert!(b"101 ".starts_with(&self.client.text), "{self:?}");
            bytes = rest;
            if self.client.text.len() < 4 {
                return;
            }
            self.client.text.clear();
            self.client.has_head = true;
        }
        let rules = Rules {
            masking: Masking::Forbidden,
            deflate: self.deflate,
            payload: Payload::Heard,
        };
        loop {
            let input = match self.client.decoder.decode(&mut bytes, rules) {
                Ok(None) => break,
                Ok(Some(input)) => input,
                Err(error) => panic!("{error}: {self:?}"),
            };
            assert!(!self.client.was_closed, "nothing stands behind a close");
            match input {
                Input::Piece(piece) => self.hear_piece(&piece),
                Input::Close(_) => {
                    self.client.was_closed = true;
                    self.expected.clear();
                }
                Input::Ping(_) | Input::Pong(_) => {}
            }
        }
    }

    fn hear_piece(&mut self, piece: &Piece) {
        self.client.text.extend_from_slice(&piece.bytes);
        if !matches!(piece.place, Place::Whole | Place::Last) {
            return;
        }
        let text = std::mem::take(&mut self.client.text);
        let Some(number) = numbered(&text, '<', '>') else {
            return;
        };
        assert!(self.client.last_number < number, "{number}: {self:?}");
        self.client.last_number = number;
        if self.expected.front().is_some_and(|first| *first <= number) {
            assert_eq!(self.expected.pop_front(), Some(number), "{self:?}");
        }
    }

    /// The origin takes all of a request.
    fn hear(&mut self, request: &Request) {
        for event in event::decode(&request.body).expect("events") {
            if let Event::Text(content) = event
                && !self.origin.is_picky
            {
                let number = numbered(&content, '#', '#');
                self.origin.hear_message(number.expect("its number"));
            }
        }
    }
}

impl Client {
    fn is_amid_text(&self) -> bool {
        !self.decoder.is_idle()
    }
}

impl Side {
    /// A native origin reads.
    fn read(&mut self, mut bytes: &[u8]) {
        assert!(self.is_there || bytes.is_empty());
        let rules = Rules {
            masking: Masking::Required,
            deflate: None,
            payload: Payload::Heard,
        };
        loop {
            match self.decoder.decode(&mut bytes, rules) {
                Ok(None) => return,
                Ok(Some(Input::Piece(piece))) => {
                    self.text.extend_from_slice(&piece.bytes);
                    if matches!(piece.place, Place::Whole | Place::Last) {
                        let number = numbered(&std::mem::take(&mut self.text), '#', '#');
                        self.hear_message(number.expect("its number"));
                    }
                }
                Ok(Some(_)) => {}
                Err(error) => panic!("{error}: {self:?}"),
            }
        }
    }

    fn hear_message(&mut self, number: u64) {
        assert!(number > self.last_message, "{number}: {self:?}");
        self.last_message = number;
    }
}

const KEY: Mask = Mask::Key([1, 2, 3, 4]);

/// The number between the first two marks.
fn numbered(text: &[u8], first: char, last: char) -> Option<u64> {
    let text = String::from_utf8_lossy(text);
    let (number, _) = text.strip_prefix(first)?.split_once(last)?;
    number.parse().ok()
}

/// The oldest bytes, as a socket takes them that has room for so many.
fn read(outbox: &mut Outbox, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit && !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 2];
        let count = outbox.slices(&mut slices);
        let known = bytes.len();
        for slice in &slices[..count] {
            let room = limit - bytes.len();
            bytes.extend_from_slice(slice.get(..room).unwrap_or(slice));
        }
        outbox.consume(bytes.len() - known);
    }
    bytes
}

fn handshake(route: &str) -> Handshake {
    let routes = routes::parse(route).expect("a route");
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

/// GRIP with the usual prefix.
fn grip() -> Option<Extension> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_static("grip");
    headers.insert("sec-websocket-extensions", value);
    Extension::accepted(&headers)
}

fn fields(name: &'static str, value: Option<&'static str>) -> AnswerFields {
    let mut headers = HeaderMap::new();
    if let Some(value) = value {
        headers.insert(name, HeaderValue::from_static(value));
    }
    AnswerFields::of(&headers)
}

fn failed() -> ExchangeError {
    ExchangeError::from(SendError::Closed)
}

/// Whether an origin goes without a close.
fn leaves(events: &Bytes) -> bool {
    event::decode(events).is_ok_and(|events| events.contains(&Event::Disconnect))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websockets_keep_their_promises_whatever_happens() {
        for seed in 1..=1000 {
            let mut state: u64 = seed;
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[6]
            })
            .take(1000)
            .collect();
            simulate(&bytes);
        }
    }
}
