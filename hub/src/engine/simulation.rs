//! The engine under operations that bytes choose, beside a model too simple to be wrong.
//!
//! The simulation is broker, clients, origins and clock. It keeps books on what the engine says and
//! on what its clients read, and panics where they do not add up.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;

use grip::filter::{Filter, FilterError, FilterFault, Reply as Told};
use grip::hold::PackedAnswer;
use grip::instruct::{HoldMode, Instruct, KeepAlive, KeepAliveMode, Status};
use grip::{Limits, publish};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::{
    AfterBody, AfterHold, AfterStart, Answer, Arc, Behalf, Budget, Bytes, CatchUp, ChannelName,
    ConnectionKey, Duration, Engine, ErrandKind, Events, Hold, HoldKind, Instant, KeepAliveRule,
    LAST_CHUNK, Outbox, Output, Phase, Repeat, Reply, Sequence, Sequenced, Session, Slot,
    SlowClients, StreamContent, StreamFraming, Waiting,
};
use crate::errand::{LinkError, Linked, News, Next, Receipt, Way};
use crate::mailbox::Standing;
use crate::routes;

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const MAX_PENDING_BYTES: usize = 300;
const TIMEOUT: Duration = Duration::from_secs(5);
/// How late the engine may be.
const TICK: Duration = Duration::from_millis(100);
const HEAD: &str = "head ";
/// A keep-alive, which no item contains.
const BEAT: u8 = b'!';

/// Runs the operations that the bytes choose, then ends all holds.
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
    behalf: Arc<Behalf>,
    sequence: u64,
    /// The last id of each channel.
    ids: [u64; CHANNELS.len()],
    clients: Vec<Client>,
    /// How many connections the broker has on each channel.
    interest: BTreeMap<ChannelName, u64>,
    /// What the broker has not answered yet.
    attaching: VecDeque<Question>,
    /// What origins have not answered yet.
    asked: VecDeque<(ConnectionKey, Asked)>,
    /// Who has not read all of what was in the outbox.
    blocked: Vec<ConnectionKey>,
    /// Bytes that may wait for all.
    total: usize,
    /// Gone links to be told, less those that were.
    gone_links: usize,
    is_draining: bool,
}

#[derive(Debug)]
struct Client {
    key: ConnectionKey,
    /// Absent: it waits for a response.
    framing: Option<StreamFraming>,
    /// Which of [`CHANNELS`], one bit for each.
    channels: usize,
    has_session: bool,
    /// Whether nothing but its end was to come.
    is_ending: bool,
    received: Vec<u8>,
    /// What a stream without session gets, keep-alives and framing aside.
    expected: String,
}

/// What the broker was asked for.
#[derive(Debug, Clone, Copy)]
enum Question {
    Attach(ConnectionKey),
    CatchUp(ConnectionKey),
}

/// What an origin was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Link,
    Body,
    Opinion,
}

impl<'a> Simulation<'a> {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do to start from"
    )]
    fn new(bytes: &'a [u8]) -> Self {
        let now = Instant::now();
        // For some, a few that don't read use up what there is for all.
        let total = [usize::MAX, 200][bytes.first().map_or(0, |byte| usize::from(byte % 2))];
        let budget = Budget::new(MAX_PENDING_BYTES, total);
        let routes = routes::parse("* test").expect("a route");
        Self {
            choices: bytes.iter(),
            engine: Engine::new(budget, Limits::default(), Arc::default(), now),
            now,
            behalf: Arc::new(Behalf {
                route: Arc::clone(&routes.all()[0]),
                uri: Uri::from_static("http://origin/"),
                implicit: Vec::new(),
                way: Way::Direct,
                tells_errors: bytes.len().is_multiple_of(2),
            }),
            sequence: 0,
            ids: [0; CHANNELS.len()],
            clients: Vec::new(),
            interest: BTreeMap::new(),
            attaching: VecDeque::new(),
            asked: VecDeque::new(),
            blocked: Vec::new(),
            total,
            gone_links: 0,
            is_draining: false,
        }
    }

    /// The next byte as a number below `bound`; zero behind the end.
    fn choose(&mut self, bound: usize) -> usize {
        self.choices
            .next()
            .map_or(0, |byte| usize::from(*byte) % bound)
    }

    fn step(&mut self) {
        match self.choose(16) {
            0 | 1 => self.open_stream(),
            2 => self.open_response(),
            3 | 4 => self.attach(),
            5..=7 => self.append(),
            8 => self.command(),
            9 => self.write(usize::MAX),
            10 => {
                let limit = self.choose(8);
                self.write(limit);
            }
            11 => {
                let tenths = self.choose(70) as u64;
                self.wait(Duration::from_millis(tenths * 100));
            }
            12 | 13 => self.answer_errand(),
            14 => self.leave(),
            _ => match self.choose(64) {
                0 => self.engine.handle_recover(self.now),
                1..=62 => {
                    let channel = CHANNELS[self.choose(CHANNELS.len())].into();
                    self.engine.handle_update(&channel, self.now);
                }
                _ => self.drain(1),
            },
        }
    }

    fn open_stream(&mut self) {
        let features = self.choose(256);
        let has = |bit: usize| features & 1 << bit != 0;
        let framing = if has(0) {
            StreamFraming::Plain
        } else {
            StreamFraming::Chunked
        };
        let keep_alive = has(1).then(|| self.keep_alive());
        let (has_session, has_next, has_body) = (has(2), has(2) && has(3), has(2) && has(4));
        let next = has_next.then(next_link);
        let then = match (has_body, has(5) && has_next) {
            (true, true) => AfterStart::Body(AfterBody::Link),
            (true, false) => AfterStart::Body(AfterBody::Items),
            (false, true) => AfterStart::Link,
            (false, false) => AfterStart::Items,
        };
        let kind = HoldKind::Stream {
            start: Bytes::from_static(HEAD.as_bytes()),
            framing,
            keep_alive: keep_alive.map(|it| KeepAliveRule::new(&it, framing)),
            then,
            events: Events::Plain,
        };
        let gone = (has_session && has(6)).then(|| Uri::from_static("http://origin/gone"));
        self.open(kind, Some(framing), has_session, next, gone);
    }

    fn keep_alive(&mut self) -> KeepAlive {
        let choice = self.choose(16);
        KeepAlive {
            data: Bytes::from_static(&[BEAT]),
            timeout: Duration::from_secs(1 + choice as u64 / 2),
            mode: if choice.is_multiple_of(2) {
                KeepAliveMode::Idle
            } else {
                KeepAliveMode::Interval
            },
        }
    }

    fn open_response(&mut self) {
        let features = self.choose(8);
        let request = Bytes::from_static(if features & 1 == 0 { b"request" } else { b"" });
        let reply = if features & 2 == 0 {
            Reply::Http1 {
                version: Version::HTTP_11,
                method: Method::GET,
                request,
            }
        } else {
            Reply::Http2(Repeat::Possible)
        };
        let waiting = Waiting {
            answer: PackedAnswer::pack(&Answer {
                status: Status::new(StatusCode::OK),
                headers: HeaderMap::new(),
                body: Bytes::from_static(b"[]"),
            }),
            dressing: None,
            reply,
        };
        let kind = HoldKind::Response {
            waiting: Box::new(waiting),
            timeout: TIMEOUT,
        };
        self.open(kind, None, features & 4 != 0, None, None);
    }

    fn open(
        &mut self,
        kind: HoldKind,
        framing: Option<StreamFraming>,
        has_session: bool,
        next: Option<Next>,
        gone: Option<Uri>,
    ) {
        let instruct = self.instruct(has_session);
        let channels = mask(&instruct);
        self.gone_links += usize::from(gone.is_some());
        let session = has_session.then(|| {
            let session = Session::new(Arc::clone(&self.behalf), instruct.meta);
            Box::new(session.with_links(next, gone))
        });
        let hold = Hold {
            kind,
            slots: Slot::all(&instruct.channels, "", &[]),
            after: AfterHold::Reuse,
            slow: SlowClients::Disconnect,
            session,
        };
        let key = self.engine.open(hold, self.now);
        self.clients.push(Client {
            key,
            framing,
            channels,
            has_session,
            is_ending: false,
            received: Vec::new(),
            expected: String::new(),
        });
    }

    /// An instruction with some of the channels, and ids and filters if a session is there to know
    /// them.
    fn instruct(&mut self, has_session: bool) -> Instruct {
        const FILTERS: [&str; 5] = ["none", "skip-self", "build-id", "var-subst", "http-check"];
        let channels = self.choose(1 << CHANNELS.len());
        let mut headers = HeaderMap::new();
        for (index, name) in CHANNELS.iter().enumerate() {
            if channels & 1 << index == 0 {
                continue;
            }
            let value = if has_session {
                let filter = FILTERS[self.choose(FILTERS.len())];
                let id = self.ids[index] + u64::from(self.choose(4) == 0);
                format!("{name}; prev-id={id}; filter={filter}")
            } else {
                (*name).to_owned()
            };
            let value = HeaderValue::try_from(value).expect("visible characters");
            headers.append("grip-channel", value);
        }
        let meta = "url=/ask, user=ada, id_format=x";
        headers.insert("grip-set-meta", HeaderValue::from_static(meta));
        let instruct = Instruct::from_headers(&headers, &Limits::default());
        instruct.expect("an instruction")
    }

    fn attach(&mut self) {
        let catch_up = match self.choose(8) {
            0 => Some(Box::new(behind())),
            _ => None,
        };
        match self.attaching.pop_front() {
            Some(Question::Attach(key)) => self.attached(key, catch_up),
            Some(Question::CatchUp(key)) => self.engine.handle_caught_up(key, catch_up, self.now),
            None => {}
        }
    }

    fn attached(&mut self, key: ConnectionKey, catch_up: Option<Box<CatchUp>>) {
        let cursor = Sequence(self.sequence);
        self.engine.handle_attached(key, cursor, catch_up, self.now);
    }

    /// Whether the connection waits for the rest of a body.
    fn is_amid_body(&mut self, key: ConnectionKey) -> bool {
        let connection = self.engine.connections.get(key);
        connection.is_some_and(|connection| connection.is_amid_body())
    }

    /// Whether the rest of a body comes.
    fn has_body(&self, key: ConnectionKey) -> bool {
        self.asked.contains(&(key, Asked::Body))
    }

    fn append(&mut self) {
        let channel = self.choose(CHANNELS.len());
        let content = format!("<{}>", self.sequence + 1);
        let mut slow = Vec::new();
        let limit = self.engine.budget.limit();
        for client in &mut self.clients {
            let Some(framing) = client.framing else {
                continue;
            };
            if client.has_session || !client.hears(channel, &mut self.engine) {
                continue;
            }
            let length = framing.frame(&StreamContent::new(content.as_bytes())).len();
            let outbox = self.engine.outbox(client.key).expect("it is held");
            if outbox.left() > 0 && outbox.weight() + length > limit {
                slow.push(client.key);
            } else {
                client.expected += &content;
            }
        }
        let formats = format!(
            r#""http-stream":{{"content":"{content}"}},"http-response":{{"body":"{content}"}}"#
        );
        self.publish(channel, &formats);
        let held = self.clients.iter_mut();
        for client in held.filter(|client| !client.has_session) {
            let is_slow = slow.contains(&client.key);
            let is_held = self.engine.outbox(client.key).is_some();
            if is_slow && is_held {
                // Others that were dropped have made room.
                assert!(
                    self.total < usize::MAX,
                    "slow consumers are dropped: {client:?}"
                );
                client.expected += &content;
            }
            assert!(
                is_slow || is_held || client.framing.is_none(),
                "nobody else is: {client:?}"
            );
        }
    }

    fn command(&mut self) {
        const COMMANDS: [&str; 6] = [
            r#""http-stream":{"action":"close"}"#,
            r#""http-stream":{"action":"hint"}"#,
            r#""http-stream":{"action":"refresh"}"#,
            r#""http-response":{"action":"hint"}"#,
            r#""http-response":{"action":"close"}"#,
            r#""http-response":{"body-patch":[{"op":"add","path":"/-","value":1}]}"#,
        ];
        let channel = self.choose(CHANNELS.len());
        let command = COMMANDS[self.choose(COMMANDS.len())];
        self.publish(channel, command);
    }

    fn publish(&mut self, channel: usize, formats: &str) {
        let previous = self.ids[channel];
        let ids = match self.choose(8) {
            0 => String::new(),
            1 => r#""id":"other","prev-id":"another","#.to_owned(),
            _ => {
                self.ids[channel] += 1;
                format!(r#""id":"{}","prev-id":"{previous}","#, previous + 1)
            }
        };
        let name = CHANNELS[channel];
        let body = format!(r#"{{"items":[{{"channel":"{name}",{ids}{formats}}}]}}"#);
        let items = publish::parse(body.as_bytes(), &Limits::default()).expect("an item");
        for item in items {
            self.sequence += 1;
            let sequence = Sequence(self.sequence);
            let sequenced = Arc::new(Sequenced::new(sequence, item));
            self.engine.handle_items(&[sequenced], self.now);
        }
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
            let found = self.clients.iter().position(|client| client.key == key);
            let index = found.expect("whoever has an outbox is a client");
            self.clients[index].received.extend(bytes);
            let was_full = self.engine.budget.excess() > 0 || !self.has_room_for_all(key);
            let end = self.engine.handle_flushed(key, self.now);
            assert!(
                was_full || self.engine.outbox(key).is_some() || end.is_some(),
                "nobody is ended by a write while there is room for all"
            );
            if end.is_some() {
                self.clients.swap_remove(index).check_end();
                assert!(!self.has_body(key), "half of a body is no end");
            }
        }
        for client in &self.clients {
            let Some(outbox) = self.engine.outbox(client.key) else {
                // It had to make room.
                continue;
            };
            client.check_received(outbox.is_empty());
            assert!(
                limit < usize::MAX || outbox.is_empty(),
                "whoever has something to read is told: {client:?}"
            );
        }
    }

    /// Whether what a connection has to read may wait beside what others have.
    fn has_room_for_all(&mut self, key: ConnectionKey) -> bool {
        let pending = self.engine.pending_bytes;
        let outbox = self.engine.outbox(key).expect("it is held");
        pending - outbox.left() + outbox.weight() <= self.total
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.engine.handle_timeout(self.now);
        let next = self.engine.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "it is never over");
        for client in &self.clients {
            if let Some(connection) = self.engine.connections.get(client.key) {
                let deadline = connection.deadline;
                let is_met = deadline.is_none_or(|deadline| deadline + TICK > self.now);
                assert!(is_met, "a deadline has passed: {client:?}");
            }
        }
    }

    fn answer_errand(&mut self) {
        let choice = self.choose(8);
        let Some((key, asked)) = self.asked.pop_front() else {
            return;
        };
        let news = match (asked, choice) {
            (Asked::Link, 0) => News::Failed(LinkError::Retrieve),
            (Asked::Link, _) => News::Linked(Arc::new(self.linked(choice))),
            (Asked::Body, 0) => News::Broken,
            (Asked::Body, 1..=4) => News::Complete,
            (Asked::Body, _) => News::Body(Bytes::from_static(b"body"), Receipt::new().0),
            (Asked::Opinion, 0) => News::Told(Err(FilterError {
                filter: Filter::HttpCheck,
                fault: FilterFault::Status(StatusCode::NOT_FOUND),
            })),
            (Asked::Opinion, 1 | 2) => News::Told(Ok(Told::Drop)),
            (Asked::Opinion, _) => News::Told(Ok(Told::Deliver(Bytes::from_static(b"told")))),
        };
        self.engine.handle_news(&[key], news, self.now);
        if self.is_amid_body(key) {
            self.asked.push_back((key, Asked::Body));
        }
    }

    fn linked(&mut self, choice: usize) -> Linked {
        let mut instruct = self.instruct(true);
        instruct.hold = (choice & 1 != 0).then_some(HoldMode::Stream);
        instruct.keep_alive = (choice & 4 != 0).then(|| self.keep_alive());
        Linked {
            instruct,
            next: (choice & 2 != 0).then(next_link),
            behalf: Arc::clone(&self.behalf),
            asked_at: self.now,
        }
    }

    fn leave(&mut self) {
        let choice = self.choose(256);
        if !self.clients.is_empty() {
            let client = self.clients.swap_remove(choice % self.clients.len());
            self.engine.handle_gone(client.key, self.now);
        }
    }

    fn drain(&mut self, limit: usize) {
        if !self.is_draining {
            self.is_draining = true;
            self.engine.drain();
        }
        self.engine.drain_some(limit, self.now);
    }

    /// Does what the engine wants, and compares.
    fn settle(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Attach { connection, wanted } => {
                    for attachment in wanted.channels {
                        *self.interest.entry(attachment.channel).or_default() += 1;
                    }
                    self.attaching.push_back(Question::Attach(connection));
                }
                Output::CatchUp { connection, .. } => {
                    self.attaching.push_back(Question::CatchUp(connection));
                }
                Output::Detach(names) => names.iter().for_each(|name| self.detach(name)),
                Output::Feed(key) => self.asked.push_back((key, Asked::Body)),
                Output::Drop(key) => {
                    let client = self.part_with(key);
                    assert!(
                        !client.is_ending || self.total < usize::MAX,
                        "whoever ends does so cleanly: {client:?}"
                    );
                }
                Output::Answer { connection, .. } | Output::Retry { connection, .. } => {
                    let client = self.part_with(connection);
                    assert!(client.framing.is_none(), "a stream is no request");
                    assert!(client.received.is_empty(), "nobody is answered twice");
                }
                Output::Run {
                    connection, kind, ..
                } => match kind {
                    ErrandKind::Follow { .. } => self.asked.push_back((connection, Asked::Link)),
                    ErrandKind::Ask { .. } => self.asked.push_back((connection, Asked::Opinion)),
                    ErrandKind::Gone(_) => self.gone_links -= 1,
                },
                other => panic!("no WebSocket is held: {other:?}"),
            }
        }
        assert_eq!(self.engine.len(), self.clients.len(), "everybody is known");
        for index in 0..self.clients.len() {
            let key = self.clients[index].key;
            let bodies = self
                .asked
                .iter()
                .filter(|asked| **asked == (key, Asked::Body));
            let (coming, wanted) = (bodies.count(), self.is_amid_body(key));
            assert_eq!(coming, usize::from(wanted), "each body is read once");
            let connection = self.engine.connections.get(key).expect("it is held");
            self.clients[index].is_ending = matches!(connection.phase, Phase::Ending);
        }
    }

    fn detach(&mut self, name: &ChannelName) {
        let count = self.interest.get_mut(name).filter(|count| **count > 0);
        *count.expect("nobody is detached who was not attached") -= 1;
    }

    fn part_with(&mut self, key: ConnectionKey) -> Client {
        assert!(
            self.engine.outbox(key).is_none(),
            "the engine has forgotten"
        );
        let found = self.clients.iter().position(|client| client.key == key);
        self.clients.swap_remove(found.expect("it was known"))
    }

    /// A drain ends every hold, and nothing is left of any.
    fn finish(mut self) {
        self.settle();
        self.write(usize::MAX);
        self.drain(usize::MAX);
        self.settle();
        while !self.attaching.is_empty() {
            self.attach();
            self.settle();
        }
        self.write(usize::MAX);
        self.settle();
        assert!(self.clients.is_empty(), "still held: {:?}", self.clients);
        assert!(self.interest.values().all(|count| *count == 0));
        for name in CHANNELS {
            assert!(self.engine.subscriptions.of(&name.into()).is_empty());
        }
        assert!(self.engine.keep_alives.is_empty());
        assert_eq!((self.engine.streams, self.engine.responses), (0, 0));
        assert_eq!(self.gone_links, 0);
        assert_eq!(self.engine.pending_bytes, 0, "nobody waits");
    }
}

impl Client {
    /// Whether the stream is for items of the channel.
    fn hears(&self, channel: usize, engine: &mut Engine) -> bool {
        let connection = engine.connections.get(self.key).expect("it is held");
        self.channels & 1 << channel != 0 && matches!(connection.phase, Phase::Stream(_))
    }

    fn check_end(&self) {
        match self.framing {
            None => {
                let text = String::from_utf8_lossy(&self.received);
                assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{self:?}");
            }
            Some(StreamFraming::Chunked) => {
                assert!(self.received.ends_with(LAST_CHUNK), "{self:?}");
                self.check_received(true);
            }
            Some(StreamFraming::Plain) => self.check_received(true),
        }
    }

    /// Checks what came so far; `is_all`: nothing waits.
    fn check_received(&self, is_all: bool) {
        let Some(framing) = self.framing else {
            return;
        };
        let content = content(&self.received, framing);
        let content = content.unwrap_or_else(|| panic!("no chunks: {self:?}"));
        if self.has_session {
            let numbers: Vec<u64> = numbers(&content).collect();
            assert!(numbers.is_sorted_by(|one, other| one < other), "{self:?}");
        } else if is_all {
            assert_eq!(content, self.expected, "{self:?}");
        } else {
            assert!(self.expected.starts_with(&content), "{self:?}");
        }
    }
}

/// The oldest bytes, as a socket takes them that has room for so many.
fn read(outbox: &mut Outbox, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit && !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 2];
        let count = outbox.slices(&mut slices);
        let pieces = slices[..count].iter().flat_map(|slice| slice.iter());
        let known = bytes.len();
        bytes.extend(pieces.take(limit - known));
        outbox.consume(bytes.len() - known);
    }
    bytes
}

/// The content of a stream's bytes, the last chunk of which may be cut off.
fn content(received: &[u8], framing: StreamFraming) -> Option<String> {
    let Some(body) = received.strip_prefix(HEAD.as_bytes()) else {
        return HEAD.as_bytes().starts_with(received).then(String::new);
    };
    let mut content = match framing {
        StreamFraming::Chunked => unchunked(body)?,
        StreamFraming::Plain => body.to_vec(),
    };
    content.retain(|byte| *byte != BEAT);
    String::from_utf8(content).ok()
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let chunk = &body[end + 2..];
        content.extend(chunk.iter().take(size));
        let Some(line_end) = chunk.get(size..) else {
            return Some(content);
        };
        if !line_end.starts_with(b"\r\n") {
            return b"\r\n".starts_with(line_end).then_some(content);
        }
        body = &line_end[2..];
    }
    let is_size = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'\r';
    body.iter().all(is_size).then_some(content)
}

/// The numbers of the items in the content.
fn numbers(content: &str) -> impl Iterator<Item = u64> {
    let items = content.split('<').skip(1);
    items.filter_map(|item| item.split_once('>')?.0.parse().ok())
}

/// A connection lacks items of all channels.
fn behind() -> CatchUp {
    let standing = |name: &&str| ((*name).into(), Standing::Behind);
    CatchUp {
        standings: CHANNELS.iter().map(standing).collect(),
        missed: Vec::new(),
        is_resumed: false,
    }
}

fn next_link() -> Next {
    Next {
        uri: Uri::from_static("http://origin/next"),
        timeout: TIMEOUT,
    }
}

/// The instruction's channels, one bit for each.
fn mask(instruct: &Instruct) -> usize {
    let names = CHANNELS.iter().enumerate();
    names
        .filter(|(_, name)| {
            instruct
                .channels
                .iter()
                .any(|it| it.name.as_str() == **name)
        })
        .map(|(index, _)| 1 << index)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_keeps_its_promises_whatever_happens() {
        for seed in 1..=400 {
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

    #[track_caller]
    fn check_content(received: &str, expected: Option<&str>) {
        let found = content(received.as_bytes(), StreamFraming::Chunked);
        assert_eq!(found.as_deref(), expected, "{received:?}");
    }

    #[test]
    fn the_content_of_chunks_is_known_before_their_end() {
        let whole = "head 3\r\n<1>\r\n1\r\n!\r\n0\r\n\r\n";
        check_content(whole, Some("<1>"));
        for end in 0..whole.len() {
            let known = end.saturating_sub("head 3\r\n".len()).min(3);
            check_content(&whole[..end], Some(&"<1>"[..known]));
        }
        for bad in ["tail ", "head x", "head 3\r\n<1>4", "head 3\n<1>\r\n\r\n"] {
            check_content(bad, None);
        }
    }
}
