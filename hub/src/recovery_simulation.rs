//! The broker and the engines of two shards, beside an origin, publishers and clients that are too
//! simple to be wrong: whatever gets lost, comes late, twice or out of order, and whoever leaves and
//! comes back, a client that can recover gets every item after its last one, once, in order.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use grip::channel::ItemId;
use grip::hold::{Answer, PackedAnswer};
use grip::instruct::{HoldMode, Instruct, Status};
use grip::websocket::event::Event;
use grip::websocket::extension::Extension;
use grip::websocket::over_http::AnswerFields;
use grip::{ChannelName, Limits, publish};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use crate::broker::{Broker, Repeats, Settings};
use crate::config::{self, FirstSubscription, Order, SlowClients};
use crate::counters::Counters;
use crate::engine::websocket::{OriginStart, WebSocketStart};
use crate::engine::{
    AfterHold, AfterStart, Budget, Engine, Events, Hold, HoldKind, Output, Repeat, Reply, Resume,
    Session, Slot, StreamFraming, Waiting,
};
use crate::errand::{Again, Behalf, ErrandKind, Last, Linked, News, Next, Receipt, Way};
use crate::handshake::{Handshake, Offer, Shake, Trust};
use crate::mailbox::{Command, ConnectionKey, ShardId, Wanted};
use crate::routes::{self, Security};
use crate::seed::Seed;

const SEEDS: u64 = 500;
const STEPS: usize = 2000;
const CHANNELS: [&str; 3] = ["a", "b", "c"];
const SHARDS: usize = 2;
const CLIENTS: usize = 14;
/// Of small items; the first shows that an outbox overflows, the second that a history is short.
const MAX_PENDING_BYTES: usize = 60;
const HISTORY_ITEMS: usize = 8;
const LINK_TIMEOUT: Duration = Duration::from_hours(1);

/// An item as its origin knows it; its number is its place from 1 on.
#[derive(Debug, Clone, Copy)]
struct Born {
    at: Instant,
    /// Whether it says something to streams and WebSockets; it always does to requests.
    is_for_streams: bool,
}

/// What an origin says at one time.
#[derive(Debug, Clone, Copy)]
struct State {
    at: Instant,
    last: [usize; CHANNELS.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A stream that can ask its origin.
    Linked,
    /// One that cannot.
    Unlinked,
    /// A linked stream of events of one channel, whose client says what it has.
    Events,
    Poll,
    WebSocket,
}

#[derive(Debug)]
struct Client {
    kind: Kind,
    channels: Vec<usize>,
    slow: SlowClients,
    /// The last item of each channel.
    have: [usize; CHANNELS.len()],
    /// What it has heard since it was told how things stand.
    heard: BTreeSet<(usize, usize)>,
    /// Whether it has ever been connected.
    has_state: bool,
    /// Where it is held.
    held: Option<(usize, ConnectionKey)>,
    unread: Vec<u8>,
}

/// What a shard asks of the broker.
enum Request {
    Attach(ConnectionKey, Wanted),
    CatchUp(ConnectionKey, Wanted),
    Detach(Vec<ChannelName>),
}

/// What an origin is to answer.
enum Asked {
    Link(Vec<Last>),
    Body(Bytes),
    Complete,
}

struct Shard {
    engine: Engine,
    mailbox: VecDeque<Command>,
    requests: VecDeque<Request>,
    asked: VecDeque<(ConnectionKey, Asked)>,
    counters: Arc<Counters>,
}

struct World {
    random: Rng,
    now: Instant,
    broker: Broker,
    shards: Vec<Shard>,
    origin: [Vec<Born>; CHANNELS.len()],
    start: Instant,
    /// Items on their way to the broker.
    flight: Vec<(usize, usize)>,
    /// Items that never reach it.
    lost: BTreeSet<(usize, usize)>,
    clients: Vec<Client>,
    /// Whether things still go wrong.
    is_calm: bool,
    replayed: usize,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do to start from"
    )]
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let settings = Settings {
            shards: SHARDS,
            first_subscription: FirstSubscription::Leave,
            history: config::History {
                items: HISTORY_ITEMS,
                bytes: 100_000,
                age: Duration::from_secs(30),
            },
            history_bytes: 10_000,
            order: Order {
                wait: Duration::from_secs(2),
                items: 3,
                id_age: Duration::from_mins(10),
                ids: 100_000,
            },
            rules: Arc::new([]),
            repeats: Repeats::DropHere,
        };
        let shard = |_| {
            let counters = Arc::new(Counters::default());
            let budget = Budget::new(MAX_PENDING_BYTES, usize::MAX);
            Shard {
                engine: Engine::new(budget, Limits::default(), Arc::clone(&counters), now),
                mailbox: VecDeque::new(),
                requests: VecDeque::new(),
                asked: VecDeque::new(),
                counters,
            }
        };
        let mut random = Rng::with_seed(seed);
        let clients = (0..CLIENTS).map(|index| Client::new(index, &mut random));
        Self {
            clients: clients.collect(),
            random,
            now,
            broker: Broker::new(settings, now),
            shards: (0..SHARDS).map(shard).collect(),
            origin: [const { Vec::new() }; CHANNELS.len()],
            start: now,
            flight: Vec::new(),
            lost: BTreeSet::new(),
            is_calm: false,
            replayed: 0,
        }
    }

    fn step(&mut self) {
        let shard = self.random.usize(..SHARDS);
        match self.random.usize(..40) {
            0..=6 => self.publish(),
            7..=13 => self.arrive(),
            14..=17 => self.ask_broker(shard),
            18..=25 => self.command(shard),
            26..=28 => self.answer(shard),
            29..=33 => {
                let (client, limit) = (self.random.usize(..CLIENTS), self.random.usize(..60));
                self.read(client, limit);
            }
            34 if self.random.usize(..4) == 0 => {
                let client = self.random.usize(..CLIENTS);
                self.lose(client);
            }
            35..=36 => {
                let client = self.random.usize(..CLIENTS);
                self.connect(client);
            }
            37..=38 => {
                let millis = self.random.u64(..2000);
                self.wait(Duration::from_millis(millis));
            }
            39 if self.random.usize(..50) == 0 => self.wait(Duration::from_secs(40)),
            _ => {}
        }
        self.settle();
    }

    /// The origin has something new. It is published once or twice, seldom never.
    fn publish(&mut self) {
        let channel = self.random.usize(..CHANNELS.len());
        let copies = match self.random.usize(..200) {
            0 => 0,
            1..=20 => 2,
            _ => 1,
        };
        self.publish_on(channel, copies);
    }

    fn publish_on(&mut self, channel: usize, copies: usize) {
        self.origin[channel].push(Born {
            at: self.now,
            is_for_streams: self.random.usize(..8) != 0,
        });
        let number = self.origin[channel].len();
        for _ in 0..copies {
            self.flight.push((channel, number));
        }
        if copies == 0 {
            self.lost.insert((channel, number));
        }
    }

    /// One of the first few items on their way reaches the broker.
    fn arrive(&mut self) {
        if self.flight.is_empty() {
            return;
        }
        let reach = if self.random.usize(..4) == 0 { 4 } else { 1 };
        let at = self.random.usize(..reach.min(self.flight.len()));
        let (channel, number) = self.flight.remove(at);
        let content = token(channel, number);
        let stream = if self.origin[channel][number - 1].is_for_streams {
            format!(
                r#","http-stream":{{"content":"{content}"}},"ws-message":{{"content":"{content}"}}"#
            )
        } else {
            String::new()
        };
        let name = CHANNELS[channel];
        let body = format!(
            r#"{{"items":[{{"channel":"{name}","id":"{number}","prev-id":"{}","http-response":{{"body":"{content}"}}{stream}}}]}}"#,
            number - 1
        );
        let items = publish::parse(body.as_bytes(), &Limits::default()).expect("an item");
        for item in items {
            self.broker.publish(item, self.now);
        }
    }

    fn ask_broker(&mut self, shard: usize) {
        let id = ShardId(shard);
        match self.shards[shard].requests.pop_front() {
            Some(Request::Attach(key, wanted)) => self.broker.attach(id, key, &wanted, self.now),
            Some(Request::CatchUp(key, wanted)) => self.broker.catch_up(id, key, &wanted),
            Some(Request::Detach(names)) => self.broker.detach(id, names, self.now),
            None => {}
        }
    }

    fn command(&mut self, shard: usize) {
        let now = self.now;
        let shard = &mut self.shards[shard];
        match shard.mailbox.pop_front() {
            Some(Command::Attached {
                connection,
                cursor,
                catch_up,
            }) => {
                self.replayed += catch_up.as_ref().map_or(0, |it| it.missed.len());
                shard
                    .engine
                    .handle_attached(connection, cursor, catch_up, now);
            }
            Some(Command::CaughtUp {
                connection,
                catch_up,
            }) => shard.engine.handle_caught_up(connection, catch_up, now),
            Some(Command::Deliver(sequenced)) => {
                shard.engine.handle_items(&[sequenced], now);
            }
            Some(Command::Update(channel)) => shard.engine.handle_update(&channel, now),
            Some(Command::Recover) => shard.engine.handle_recover(now),
            // Nobody looks at channels here.
            Some(Command::Count { .. }) | None => {}
        }
    }

    /// What the origin says now, or said some time ago: such answers are cached.
    fn state(&mut self) -> State {
        let age = match self.random.usize(..4) {
            _ if self.is_calm => 0,
            0 | 1 => 0,
            2 => self.random.usize(..5_000),
            _ => self.random.usize(..60_000),
        };
        let at = self.now.checked_sub(Duration::from_millis(age as u64));
        let at = at.unwrap_or(self.start).max(self.start);
        State {
            at,
            last: std::array::from_fn(|channel| {
                self.origin[channel].partition_point(|born| born.at <= at)
            }),
        }
    }

    /// An origin answers. It knows what was asked with, and perhaps not yet the newest.
    fn answer(&mut self, shard: usize) {
        let Some((key, asked)) = self.shards[shard].asked.pop_front() else {
            return;
        };
        let now = self.now;
        match asked {
            Asked::Link(last) => {
                let (mut body, mut instruct) = (String::new(), HeaderMap::new());
                for Last { name, id } in &last {
                    let channel = index(name);
                    let (from, to) = self.news(channel, number(id));
                    body += &self.tokens(channel, from, to);
                    let value = format!("{name}; prev-id={to}");
                    let value = HeaderValue::try_from(value).expect("visible characters");
                    instruct.append("grip-channel", value);
                }
                let mut instruct =
                    Instruct::from_headers(&instruct, &Limits::default()).expect("an instruction");
                instruct.hold = Some(HoldMode::Stream);
                let linked = Linked {
                    instruct,
                    next: Some(next()),
                    behalf: behalf(),
                    asked_at: now,
                };
                let shard = &mut self.shards[shard];
                let news = News::Linked(Arc::new(linked));
                shard.engine.handle_news(&[key], news, now);
                shard.asked.push_back((key, Asked::Body(body.into())));
                shard.asked.push_back((key, Asked::Complete));
            }
            Asked::Body(body) => {
                let news = News::Body(body, Receipt::new().0);
                self.shards[shard].engine.handle_news(&[key], news, now);
            }
            Asked::Complete => {
                let engine = &mut self.shards[shard].engine;
                engine.handle_news(&[key], News::Complete, now);
            }
        }
    }

    /// From where to where an origin knows more than it was asked with.
    fn news(&mut self, channel: usize, last: usize) -> (usize, usize) {
        let newest = self.origin[channel].len();
        assert!(last <= newest, "nobody has what there never was");
        let lag = if self.is_calm {
            0
        } else {
            self.random.usize(..3)
        };
        (last, newest.saturating_sub(lag).max(last))
    }

    /// Items for streams after `from`, up to `to`.
    fn tokens(&self, channel: usize, from: usize, to: usize) -> String {
        let numbers =
            (from + 1..=to).filter(|number| self.origin[channel][number - 1].is_for_streams);
        numbers.map(|number| token(channel, number)).collect()
    }

    fn connect(&mut self, index: usize) {
        if self.clients[index].held.is_some() {
            return;
        }
        let shard = self.random.usize(..SHARDS);
        let state = self.state();
        match self.clients[index].kind {
            Kind::Poll => self.poll(index, shard, None),
            Kind::WebSocket => self.open_websocket(index, shard, self.arrived(state)),
            Kind::Unlinked => self.open_stream(index, shard, self.arrived(state)),
            Kind::Linked | Kind::Events => self.open_stream(index, shard, state),
        }
    }

    /// What the origin has said of items that have reached the broker.
    fn arrived(&self, state: State) -> State {
        let mut last = state.last;
        for (channel, number) in &self.flight {
            last[*channel] = last[*channel].min(number - 1);
        }
        State { last, ..state }
    }

    fn open_stream(&mut self, index: usize, shard: usize, state: State) {
        let client = &mut self.clients[index];
        let mut body = String::new();
        for channel in &client.channels {
            let last = state.last[*channel];
            write!(body, "={channel}:{last};").expect("a String takes all that is written");
        }
        let is_back = client.kind == Kind::Events && client.has_state;
        let events = match client.channels.as_slice() {
            [channel] if is_back => Events::Resumed(Box::new(Resume {
                last_id: ItemId::new(&client.have[*channel].to_string()),
                head: Bytes::new(),
            })),
            _ if client.kind == Kind::Events => Events::WithIds,
            _ => Events::Plain,
        };
        let kind = HoldKind::Stream {
            start: body.into(),
            framing: StreamFraming::Plain,
            keep_alive: None,
            then: AfterStart::Items,
            events,
        };
        let has_link = client.kind != Kind::Unlinked;
        let positions: Vec<(usize, usize)> = client
            .channels
            .iter()
            .map(|channel| (*channel, state.last[*channel]))
            .collect();
        let session = Session::new(behalf(), std::collections::BTreeMap::new());
        let session = session.with_links(has_link.then(next), None);
        let slots = slots(&positions, state.at);
        self.open(index, shard, kind, slots, Some(session));
    }

    /// A request for what comes after what the client has: the origin has nothing yet, or is asked
    /// `again`, or had nothing when the answer was cached.
    fn poll(&mut self, index: usize, shard: usize, again: Option<&Again>) {
        let client = &self.clients[index];
        let channel = client.channels[0];
        let have = client.have[channel];
        if self.is_calm && self.lost.contains(&(channel, have + 1)) {
            // A cached answer gets too old at last, and nothing else tells of this item.
            self.clients[index].have[channel] += 1;
            return;
        }
        let at = self.origin[channel].get(have).map_or(self.now, |born| {
            born.at
                .checked_sub(Duration::from_millis(1))
                .unwrap_or(born.at)
        });
        let mut slots = slots(&[(channel, have)], at.max(self.start));
        if let Some(again) = again {
            slots[0].compare_after(again);
        }
        let waiting = Waiting {
            answer: PackedAnswer::pack(&Answer {
                status: Status::new(StatusCode::OK),
                headers: HeaderMap::new(),
                body: Bytes::new(),
            }),
            dressing: None,
            reply: Reply::Http2(Repeat::Possible),
        };
        let kind = HoldKind::Response {
            waiting: Box::new(waiting),
            timeout: Duration::from_secs(30),
        };
        let session = Session::new(behalf(), std::collections::BTreeMap::new());
        self.open(index, shard, kind, slots, Some(session));
    }

    fn open_websocket(&mut self, index: usize, shard: usize, state: State) {
        let client = &mut self.clients[index];
        let mut events = Vec::new();
        for channel in &client.channels {
            // An origin that knows what its client has.
            let last = if client.has_state {
                client.have[*channel]
            } else {
                state.last[*channel]
            };
            client.have[*channel] = last;
            let name = CHANNELS[*channel];
            let subscribe =
                format!(r#"c:{{"type":"subscribe","channel":"{name}","prev-id":"{last}"}}"#);
            events.push(Event::Text(subscribe.into()));
        }
        client.has_state = true;
        let mut headers = HeaderMap::new();
        let offer = HeaderValue::from_static("grip; message-prefix=\"\"");
        headers.insert("sec-websocket-extensions", offer);
        let start = WebSocketStart {
            head: Bytes::new(),
            handshake: handshake(),
            origin: OriginStart::OverHttp {
                fields: AnswerFields::of(&headers),
                events,
            },
            extension: Extension::accepted(&headers),
            deflate: None,
        };
        let kind = HoldKind::WebSocket(Box::new(start));
        self.open(index, shard, kind, Vec::new(), None);
    }

    fn open(
        &mut self,
        index: usize,
        shard: usize,
        kind: HoldKind,
        slots: Vec<Slot>,
        session: Option<Session>,
    ) {
        let client = &mut self.clients[index];
        client.unread.clear();
        let hold = Hold {
            kind,
            slots,
            after: AfterHold::Close,
            slow: client.slow,
            session: session.map(Box::new),
        };
        let key = self.shards[shard].engine.open(hold, self.now);
        client.held = Some((shard, key));
    }

    /// A client reads so many bytes.
    fn read(&mut self, index: usize, limit: usize) {
        let Some((shard, key)) = self.clients[index].held else {
            return;
        };
        let engine = &mut self.shards[shard].engine;
        let Some(outbox) = engine.outbox(key) else {
            return;
        };
        while self.clients[index].unread.len() < usize::MAX {
            let mut slices = [IoSlice::new(&[])];
            if outbox.slices(&mut slices) == 0 {
                break;
            }
            let count = slices[0].len().min(limit);
            if count == 0 {
                break;
            }
            self.clients[index].unread.extend(&slices[0][..count]);
            outbox.consume(count);
            if limit < 1000 {
                break;
            }
        }
        engine.handle_flushed(key, self.now);
        let client = &mut self.clients[index];
        client.take(&self.origin);
    }

    /// A client's connection breaks.
    fn lose(&mut self, index: usize) {
        if let Some((shard, key)) = self.clients[index].held.take() {
            self.shards[shard].engine.handle_gone(key, self.now);
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        if self.broker.poll_timeout().is_some_and(|at| at <= self.now) {
            self.broker.handle_timeout(self.now);
        }
        for shard in &mut self.shards {
            shard.engine.handle_timeout(self.now);
        }
    }

    /// Passes on what broker and engines say.
    fn settle(&mut self) {
        while let Some((ShardId(shard), command)) = self.broker.poll_output() {
            self.shards[shard].mailbox.push_back(command);
        }
        for index in 0..SHARDS {
            while let Some(output) = self.shards[index].engine.poll_output() {
                self.carry_out(index, output);
            }
            while self.shards[index].engine.next_dirty().is_some() {}
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let shard = &mut self.shards[index];
        match output {
            Output::Attach { connection, wanted } => {
                shard
                    .requests
                    .push_back(Request::Attach(connection, wanted));
            }
            Output::CatchUp { connection, wanted } => {
                shard
                    .requests
                    .push_back(Request::CatchUp(connection, wanted));
            }
            Output::Detach(names) => shard.requests.push_back(Request::Detach(names)),
            Output::Run {
                connection,
                kind: ErrandKind::Follow { last, .. },
                ..
            } => shard.asked.push_back((connection, Asked::Link(last))),
            Output::Drop(key) | Output::DropClient(key) => {
                if let Some(client) = self.client_at(index, key) {
                    self.clients[client].held = None;
                }
            }
            Output::Answer { connection, answer } => {
                if let Some(client) = self.client_at(index, connection) {
                    let client = &mut self.clients[client];
                    client.held = None;
                    client.unread.extend(answer.body);
                    client.take(&self.origin);
                }
            }
            Output::Retry {
                connection, again, ..
            } => {
                if let Some(client) = self.client_at(index, connection) {
                    self.ask_again(client, index, &again);
                }
            }
            _ => {}
        }
    }

    /// The origin of a request is asked again: it answers, or has the client wait.
    fn ask_again(&mut self, index: usize, shard: usize, again: &Again) {
        let client = &mut self.clients[index];
        client.held = None;
        let channel = client.channels[0];
        let last = number(&again.last[0].id);
        assert_eq!(
            last, client.have[channel],
            "the origin is told what there is"
        );
        let (_, to) = self.news(channel, last);
        if to > last {
            self.clients[index].have[channel] = to;
        } else {
            self.poll(index, shard, Some(again));
        }
    }

    fn client_at(&self, shard: usize, key: ConnectionKey) -> Option<usize> {
        let mut clients = self.clients.iter();
        clients.position(|client| client.held == Some((shard, key)))
    }

    /// Nothing goes wrong any more, and everybody gets what there is.
    fn finish(&mut self) {
        self.is_calm = true;
        for round in 0..60 {
            if round % 20 == 0 {
                // Where the origin knew less than was published, or was asked too often, the next
                // item shows what is missing.
                for channel in 0..CHANNELS.len() {
                    self.publish_on(channel, 1);
                }
            }
            for _ in 0..3 {
                while !self.flight.is_empty() {
                    self.arrive();
                }
                for index in 0..CLIENTS {
                    self.connect(index);
                    self.read(index, usize::MAX);
                }
                self.settle();
                for shard in 0..SHARDS {
                    while !self.shards[shard].requests.is_empty() {
                        self.ask_broker(shard);
                    }
                    self.settle();
                    while !self.shards[shard].mailbox.is_empty() {
                        self.command(shard);
                    }
                    while !self.shards[shard].asked.is_empty() {
                        self.answer(shard);
                    }
                    self.settle();
                }
            }
            self.wait(Duration::from_secs(1));
            self.settle();
        }
        for client in &self.clients {
            client.check_all(&self.origin, &self.lost);
        }
    }
}

impl Client {
    fn new(index: usize, random: &mut Rng) -> Self {
        let kind = match index % 7 {
            0 | 1 => Kind::Linked,
            2 => Kind::Unlinked,
            3 | 4 => Kind::Events,
            5 => Kind::Poll,
            _ => Kind::WebSocket,
        };
        let first = random.usize(..CHANNELS.len());
        let channels = match kind {
            Kind::Linked | Kind::Unlinked | Kind::WebSocket if random.usize(..2) == 0 => {
                vec![first, (first + 1) % CHANNELS.len()]
            }
            _ => vec![first],
        };
        let slow = match random.usize(..3) {
            0 => SlowClients::Disconnect,
            1 => SlowClients::DropOldest,
            _ => SlowClients::LatestOnly,
        };
        Self {
            kind,
            channels,
            slow,
            have: [0; CHANNELS.len()],
            heard: BTreeSet::new(),
            has_state: false,
            held: None,
            unread: Vec::new(),
        }
    }

    /// Takes what it has read.
    fn take(&mut self, origin: &[Vec<Born>; CHANNELS.len()]) {
        if self.kind == Kind::WebSocket {
            return self.take_frames(origin);
        }
        while let Some(end) = self.unread.iter().position(|byte| *byte == b';') {
            let token: Vec<u8> = self.unread.drain(..=end).collect();
            let text = String::from_utf8(token).expect("text");
            self.hear(text.trim_end_matches(';'), origin);
        }
    }

    /// Server frames are not masked, and these messages are short; RFC 6455 §5.2.
    fn take_frames(&mut self, origin: &[Vec<Born>; CHANNELS.len()]) {
        while let [first, length, rest @ ..] = self.unread.as_slice() {
            let length = usize::from(*length);
            let Some(payload) = rest.get(..length) else {
                return;
            };
            let text = String::from_utf8_lossy(payload).into_owned();
            let is_text = *first == 0x81;
            self.unread.drain(..length + 2);
            if is_text {
                self.hear(text.trim_end_matches(';'), origin);
            }
        }
    }

    fn hear(&mut self, token: &str, origin: &[Vec<Born>; CHANNELS.len()]) {
        let (id, token) = match token.strip_prefix("id: ") {
            Some(rest) => rest.split_once('\n').expect("a line"),
            None => ("", token),
        };
        let is_state = token.starts_with('=');
        let (channel, item) = token[1..].split_once(':').expect("channel and number");
        let channel: usize = channel.parse().expect("a channel");
        let item: usize = item.parse().expect("a number");
        let have = self.have[channel];
        if is_state {
            self.have[channel] = item;
            self.heard.clear();
            self.has_state = true;
            return;
        }
        self.have[channel] = item.max(have);
        assert!(id.is_empty() || id == item.to_string(), "its own id");
        let is_new = self.heard.insert((channel, item));
        assert!(is_new, "twice {item}: {self:?}");
        if self.can_recover() {
            assert!(item > have, "{item} after {have}: {self:?}");
            let is_whole = self.misses_none(&origin[channel][have..item - 1]);
            assert!(is_whole, "{item} after {have}: {self:?}");
        }
    }

    fn misses_none(&self, skipped: &[Born]) -> bool {
        skipped
            .iter()
            .all(|born| self.kind != Kind::Poll && !born.is_for_streams)
    }

    fn can_recover(&self) -> bool {
        !matches!(self.kind, Kind::Unlinked | Kind::WebSocket)
    }

    /// Checks that it has everything up to the last item that reached the broker: of what came
    /// after that, nothing tells.
    fn check_all(&self, origin: &[Vec<Born>; CHANNELS.len()], lost: &BTreeSet<(usize, usize)>) {
        if !self.can_recover() {
            return;
        }
        for channel in &self.channels {
            let numbers = (1..=origin[*channel].len()).rev();
            let arrived = numbers.skip_while(|number| lost.contains(&(*channel, *number)));
            let newest = arrived.max().unwrap_or(0).max(self.have[*channel]);
            let rest = &origin[*channel][self.have[*channel]..newest];
            assert!(
                self.misses_none(rest),
                "{} are missing: {self:?}",
                rest.len()
            );
        }
    }
}

/// An item's content.
fn token(channel: usize, number: usize) -> String {
    let mut token = String::new();
    write!(token, "+{channel}:{number};").expect("a String takes all that is written");
    token
}

fn index(name: &ChannelName) -> usize {
    let mut names = CHANNELS.iter();
    names
        .position(|known| *known == name.as_str())
        .expect("a channel")
}

fn number(id: &ItemId) -> usize {
    id.as_str().parse().expect("a number")
}

fn slots(positions: &[(usize, usize)], at: Instant) -> Vec<Slot> {
    let mut headers = HeaderMap::new();
    for (channel, last) in positions {
        let value = format!("{}; prev-id={last}", CHANNELS[*channel]);
        let value = HeaderValue::try_from(value).expect("visible characters");
        headers.append("grip-channel", value);
    }
    let instruct = Instruct::from_headers(&headers, &Limits::default()).expect("an instruction");
    let mut slots = Slot::all(&instruct.channels, "", &[]);
    for slot in &mut slots {
        slot.as_of = Some(at);
    }
    slots
}

fn next() -> Next {
    Next {
        uri: Uri::from_static("http://origin/next"),
        timeout: LINK_TIMEOUT,
    }
}

fn behalf() -> Arc<Behalf> {
    let routes = routes::parse("* test").expect("a route");
    Arc::new(Behalf {
        route: Arc::clone(&routes.all()[0]),
        uri: Uri::from_static("http://origin/"),
        implicit: Vec::new(),
        way: Way::Direct,
        tells_errors: true,
    })
}

fn handshake() -> Handshake {
    let routes = routes::parse("* a:1,over_http").expect("a route");
    Handshake::new(Shake {
        route: Arc::clone(&routes.all()[0]),
        path: &PathAndQuery::from_static("/"),
        headers: &HeaderMap::new(),
        security: Security::Plain,
        trust: Trust::Client,
        offer: Offer::Grip,
        tells_errors: true,
    })
}

#[test]
fn whoever_can_recover_gets_everything_once_and_in_order() {
    let mut totals = [0; 9];
    for seed in 1..=SEEDS {
        let seed = Seed(seed);
        let mut world = World::new(seed.0);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish();
        let tally = world.broker.tally();
        let sum = |counter: fn(&Counters) -> u64| -> u64 {
            let counters = world.shards.iter().map(|shard| &*shard.counters);
            counters.map(counter).sum()
        };
        let counts = [
            tally.duplicates,
            tally.early,
            tally.unfollowed,
            tally.late,
            tally.replayed,
            tally.behind,
            sum(|counters| counters.links_followed.value()),
            sum(|counters| counters.retries.value()),
            sum(|counters| counters.overflows.value()),
        ];
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count;
        }
    }
    assert!(
        totals.iter().all(|total| *total > SEEDS),
        "too little happens: {totals:?}"
    );
}
