//! A shard: one thread with its listener, its connections and one engine.
//!
//! [`Shard::run`] is the loop: everything that can wake the shard is one variant of [`Event`].
//! Client connections that are not held are tasks on the same thread; they hand a connection over
//! when a response asks for a hold, and get it back when the hold is over.

mod admission;
mod gate;
mod held;
mod listener;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grip::websocket::over_http;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::broker::{BrokerHandle, size};
use crate::client_io::{self, Asked};
use crate::config::{Config, Limits};
use crate::counters::Counters;
use crate::engine::{AfterHold, Budget, Engine, Flow, Outbox, Output, Reply};
use crate::errand::{Again, Errand, News, Receipt, Report};
use crate::errands::ErrandsHandle;
use crate::exchange::Exchanged;
use crate::handshake::Handshake;
use crate::life::{Life, draining};
use crate::listen::{self, Handover};
use crate::mailbox::{Command, ConnectionKey, Sequenced, ShardId};
use crate::pipe::{PipeEvent, Pipes, Verdict};
use crate::proxy::{Held, Proxy};
use crate::routes::Routes;
use crate::upstream::TlsConfig;
use crate::wire::{End, Wire, WireEvent, Wires};
use admission::{Admission, Reason, Refusal};
use gate::Gate;
use held::{HeldSet, Readiness};
use listener::Listener;

/// Commands that may wait for a shard.
pub(crate) const MAILBOX: usize = 1024;
/// Events handled before it is written to connections that have something.
const EVENTS_PER_TURN: usize = 64;
/// Connections written to before the shard's other tasks get their turn.
const WRITES_PER_TURN: usize = 256;
/// Bytes read of a WebSocket at a time.
const READ: usize = 64 * 1024;
/// Reads from one WebSocket before others have their turn.
const READS_PER_TURN: usize = 8;
/// Origins that are told at a time that clients have left.
const FAREWELLS: usize = 256;
/// How long a client may say nothing, not even to the kernel, before the kernel asks for it.
const VANISHED_AFTER: Duration = Duration::from_mins(2);
/// Clients without a place whose requests are waited for before they are refused, each for two
/// seconds at most and with a few kilobytes. Others are refused at once.
const REFUSALS: usize = 1024;
/// How often a drain lets go of some of the held connections.
const DRAIN_BEAT: Duration = Duration::from_millis(50);
/// Fewest connections that a drain lets go of at a time.
const DRAIN_LEAST: usize = 100;

/// Whatever wakes a shard.
enum Event {
    Accepted(TcpStream, SocketAddr),
    /// The first of those that have come.
    Command(Command),
    Handover(Handover),
    Sockets(Vec<Readiness>),
    Pipe(PipeEvent),
    Wire(WireEvent),
    Exchanged(ConnectionKey, Exchanged),
    Report(Report),
    Deadline,
    TaskEnded,
    Drain,
    DrainBeat,
}

impl Event {
    /// How many things have happened.
    fn size(&self) -> usize {
        match self {
            Self::Sockets(readiness) => readiness.len(),
            _ => 1,
        }
    }
}

/// What a shard is made of, before its thread runs.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) id: ShardId,
    pub(crate) config: Arc<Config>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) listener: std::net::TcpListener,
    pub(crate) mailbox: mpsc::Receiver<Command>,
    pub(crate) broker: BrokerHandle,
    pub(crate) errands: ErrandsHandle,
    /// What comes of errands.
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    /// The shard's own end of that queue, for bodies that it reads itself.
    pub(crate) report_sender: mpsc::UnboundedSender<Report>,
    pub(crate) tls: Arc<TlsConfig>,
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    /// For all shards together.
    pub(crate) budget: Budget,
    /// The same for all shards.
    pub(crate) epoch: std::time::Instant,
    pub(crate) life: watch::Receiver<Life>,
}

/// Runs a shard on this thread until its drain is over.
pub(crate) fn run(parts: Parts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ran = LocalSet::new().block_on(&runtime, async {
        Shard::new(parts)?.run().await;
        Ok(())
    });
    // A name that is being looked up would be waited for.
    runtime.shutdown_background();
    ran
}

struct Shard {
    id: ShardId,
    config: Arc<Config>,
    counters: Arc<Counters>,
    engine: Engine,
    held: HeldSet,
    pipes: Pipes,
    /// Rests of first bodies of streams that have not begun.
    feeds: FxHashMap<ConnectionKey, Incoming>,
    pipe_events: mpsc::UnboundedReceiver<PipeEvent>,
    pipe_event_sender: mpsc::UnboundedSender<PipeEvent>,
    wires: Wires,
    /// Connections to origins of WebSockets that have not begun.
    origins: FxHashMap<ConnectionKey, Upgraded>,
    wire_events: mpsc::UnboundedReceiver<WireEvent>,
    wire_event_sender: mpsc::UnboundedSender<WireEvent>,
    /// Room for requests of WebSockets whose clients have left. Where all leave at once, nobody
    /// waits for these, but a connection for each would leave none for others.
    farewells: Rc<Semaphore>,
    /// Requests of WebSockets that are under way.
    exchanges: JoinSet<(ConnectionKey, Exchanged)>,
    /// Room for what is read of WebSockets.
    buffer: Box<[u8]>,
    errands: ErrandsHandle,
    reports: mpsc::UnboundedReceiver<Report>,
    report_sender: mpsc::UnboundedSender<Report>,
    listener: Option<Listener>,
    admission: Admission,
    /// Clients without a place whose requests are waited for.
    refusals: JoinSet<()>,
    mailbox: mpsc::Receiver<Command>,
    gate: Gate,
    handovers: mpsc::UnboundedReceiver<Handover>,
    /// Not bounded by itself: a connection is in it once at most.
    handover_sender: mpsc::UnboundedSender<Handover>,
    broker: BrokerHandle,
    proxy: Rc<Proxy>,
    /// Clients that are not held.
    tasks: JoinSet<()>,
    /// What is read beside held clients: bodies, and origins of WebSockets.
    helpers: JoinSet<()>,
    life: watch::Receiver<Life>,
    drain: Option<Drain>,
    /// When the last event came.
    now: std::time::Instant,
}

struct Drain {
    next_beat: Instant,
    deadline: Instant,
    per_beat: usize,
}

impl Shard {
    fn new(parts: Parts) -> io::Result<Self> {
        let engine = Engine::new(
            parts.budget,
            parts.config.limits.grip.clone(),
            Arc::clone(&parts.counters),
            parts.epoch,
        );
        let limits = &parts.config.limits;
        let admission = Admission::new(limits.connections, limits.accept_rate, parts.config.shards);
        let (handover_sender, handovers) = mpsc::unbounded_channel();
        let (pipe_event_sender, pipe_events) = mpsc::unbounded_channel();
        let (wire_event_sender, wire_events) = mpsc::unbounded_channel();
        Ok(Self {
            id: parts.id,
            proxy: Rc::new(Proxy::new(
                Arc::clone(&parts.config),
                Arc::clone(&parts.counters),
                parts.tls,
                parts.routes,
            )),
            config: parts.config,
            counters: parts.counters,
            engine,
            held: HeldSet::new()?,
            pipes: Pipes::default(),
            feeds: FxHashMap::default(),
            pipe_events,
            pipe_event_sender,
            wires: Wires::default(),
            origins: FxHashMap::default(),
            wire_events,
            wire_event_sender,
            farewells: Rc::new(Semaphore::new(FAREWELLS)),
            exchanges: JoinSet::new(),
            buffer: vec![0; READ].into(),
            errands: parts.errands,
            reports: parts.reports,
            report_sender: parts.report_sender,
            listener: Some(Listener::new(parts.listener)?),
            admission,
            refusals: JoinSet::new(),
            mailbox: parts.mailbox,
            gate: Gate::new(),
            handovers,
            handover_sender,
            broker: parts.broker,
            tasks: JoinSet::new(),
            helpers: JoinSet::new(),
            life: parts.life,
            drain: None,
            now: parts.epoch,
        })
    }

    async fn run(mut self) {
        while !self.is_drained() {
            let handled = if self.engine.dirty_len() > 0 {
                self.handle_some().await
            } else {
                let event = self.next_event().await;
                let size = event.size();
                self.handle(event);
                size
            };
            self.settle(handled.max(WRITES_PER_TURN)).await;
            // Each keeps its memory until then; in a storm one a turn would be too few.
            while self.tasks.try_join_next().is_some() {}
            while self.helpers.try_join_next().is_some() {}
            let tasks = self.tasks.len() + self.helpers.len() + self.exchanges.len();
            self.counters.tasks.set(tasks as u64);
            while self.refusals.try_join_next().is_some() {}
        }
        tracing::debug!(
            shard = self.id.0,
            held = self.engine.len(),
            tasks = self.tasks.len() + self.helpers.len(),
            "shard ends"
        );
    }

    /// Handles what has happened already, up to a turn's number of events, and says how many there
    /// were.
    async fn handle_some(&mut self) -> usize {
        let mut handled = 0;
        while handled < EVENTS_PER_TURN {
            let event = tokio::select! {
                biased;
                event = self.next_event() => event,
                () = std::future::ready(()) => break,
            };
            handled += event.size();
            self.handle(event);
            self.act();
        }
        handled
    }

    /// Cancel safe.
    async fn next_event(&mut self) -> Event {
        let deadline = self.engine.poll_timeout().map(Instant::from_std);
        let drain_beat = self.drain.as_ref().map(|drain| drain.next_beat);
        tokio::select! {
            Some(command) = self.mailbox.recv(), if self.gate.is_open() => Event::Command(command),
            Some(handover) = self.handovers.recv() => Event::Handover(handover),
            readiness = self.held.ready() => Event::Sockets(readiness),
            Some(event) = self.pipe_events.recv() => Event::Pipe(event),
            Some(event) = self.wire_events.recv() => Event::Wire(event),
            Some(Ok((key, exchanged))) = self.exchanges.join_next() => Event::Exchanged(key, exchanged),
            Some(report) = self.reports.recv() => Event::Report(report),
            (stream, peer) = accept(self.listener.as_mut()) => Event::Accepted(stream, peer),
            () = until(deadline) => Event::Deadline,
            Some(_) = self.tasks.join_next() => Event::TaskEnded,
            Some(_) = self.helpers.join_next() => Event::TaskEnded,
            Some(_) = self.refusals.join_next() => Event::TaskEnded,
            () = draining(&mut self.life), if self.drain.is_none() => Event::Drain,
            () = until(drain_beat) => Event::DrainBeat,
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now().into_std();
        self.now = now;
        match event {
            Event::Accepted(stream, peer) => self.accept(stream, peer),
            Event::Command(command) => self.obey(command, now),
            Event::Handover(handover) => self.hold(handover, now),
            Event::Sockets(readiness) => {
                for readiness in readiness {
                    self.handle_readiness(readiness, now);
                }
            }
            Event::Pipe(PipeEvent::Gone(key)) => self.lose(key),
            Event::Pipe(PipeEvent::Writable(key)) => self.write(key),
            Event::Wire(event) => self.handle_wire(event, now),
            Event::Exchanged(key, exchanged) => self.engine.handle_exchanged(key, exchanged, now),
            Event::Report(Report { connections, news }) => {
                self.engine.handle_news(&connections, news, now);
            }
            Event::Deadline => self.engine.handle_timeout(now),
            Event::TaskEnded => {}
            Event::Drain => {
                // What was published before is for those who are held until now.
                for _ in 0..self.mailbox.len() {
                    if let Ok(command) = self.mailbox.try_recv() {
                        self.obey(command, now);
                    }
                }
                self.begin_drain();
            }
            Event::DrainBeat => self.beat_drain(),
        }
    }

    /// Does what the broker says, and what else it has said already, as far as the gate is open.
    fn obey(&mut self, command: Command, now: std::time::Instant) {
        let mut next = Some(command);
        while let Some(command) = next {
            next = self.obey_one(command, now).or_else(|| self.next_command());
        }
    }

    /// Returns the next command, if it was looked at.
    fn obey_one(&mut self, command: Command, now: std::time::Instant) -> Option<Command> {
        self.gate.took();
        match command {
            Command::Deliver(item) => return self.deliver(item, now),
            Command::Attached {
                connection,
                cursor,
                catch_up,
            } => {
                self.engine
                    .handle_attached(connection, cursor, catch_up, now);
            }
            Command::CaughtUp {
                connection,
                catch_up,
            } => self.engine.handle_caught_up(connection, catch_up, now),
            Command::Update(channel) => self.engine.handle_update(&channel, now),
            Command::Recover => self.engine.handle_recover(now),
            Command::Count { channels, reply } => {
                let counts = channels.iter().map(|name| self.engine.count(name));
                reply.send(counts.collect());
            }
        }
        None
    }

    /// The next command that has come, if the gate is open.
    fn next_command(&mut self) -> Option<Command> {
        if self.gate.is_open() {
            self.mailbox.try_recv().ok()
        } else {
            None
        }
    }

    /// Delivers an item, and with it those of its channel that have come right behind it. Returns
    /// the command that follows them, if it was looked at.
    fn deliver(&mut self, item: Arc<Sequenced>, now: std::time::Instant) -> Option<Command> {
        self.gate.brought(size::of(&item.item));
        let mut items: SmallVec<[Arc<Sequenced>; 8]> = smallvec![item];
        let next = loop {
            match self.next_command() {
                Some(Command::Deliver(item)) if item.item.channel == items[0].item.channel => {
                    self.gate.took();
                    self.gate.brought(size::of(&item.item));
                    items.push(item);
                }
                next => break next,
            }
        };
        let subscribers = self.engine.handle_items(&items, now);
        self.gate.delivered(subscribers);
        next
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.is_full() {
            // A task that has handed its client over counts until it is looked at.
            while self.tasks.try_join_next().is_some() {}
        }
        if let Err(refusal) = self.admission.admit(self.open_connections(), self.now) {
            return self.turn_away(stream, refusal);
        }
        self.counters.connections.increment();
        if let Err(error) = prepare(&stream, &self.config.limits) {
            tracing::debug!(%error, "cannot set options of a connection");
        }
        let connection = self.connection(stream, peer, Bytes::new(), None);
        self.tasks.spawn_local(connection.serve_new());
    }

    fn turn_away(&mut self, stream: TcpStream, refusal: Refusal) {
        let counter = match refusal.reason {
            Reason::Full => &self.counters.connections_refused,
            Reason::TooFast => &self.counters.connections_paced,
        };
        counter.increment();
        let answer = refusal.answer();
        let asked = Asked::read(&stream);
        if asked == Asked::All {
            client_io::turn_away_at_once(&stream, &answer);
        } else if self.refusals.len() < REFUSALS {
            self.refusals
                .spawn_local(client_io::turn_away(stream, asked, answer));
        } else {
            self.counters.connections_unheard.increment();
            client_io::turn_away_at_once(&stream, &answer);
        }
    }

    /// Reads requests from an HTTP/1 connection in a task of its own.
    fn serve_on(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        input: Bytes,
        again: Option<Again>,
    ) {
        let connection = self.connection(stream, peer, input, again);
        self.tasks.spawn_local(connection.serve_on());
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        input: Bytes,
        again: Option<Again>,
    ) -> listen::Connection {
        listen::Connection {
            stream,
            peer,
            input,
            again,
            proxy: Rc::clone(&self.proxy),
            handovers: self.handover_sender.clone(),
            pipe_events: self.pipe_event_sender.clone(),
            wire_events: self.wire_event_sender.clone(),
            life: self.life.clone(),
        }
    }

    /// How many clients' connections and holds over HTTP/2 there are, but for those that are
    /// refused.
    fn open_connections(&self) -> usize {
        self.tasks.len() + self.held.len() + self.pipes.len() + self.wires.clients()
    }

    fn is_full(&self) -> bool {
        self.admission.is_full(self.open_connections())
    }

    fn hold(&mut self, handover: Handover, now: std::time::Instant) {
        match handover {
            Handover::Http2Stream { pipe, .. } if self.is_full() => {
                self.counters.holds_refused.increment();
                pipe.refuse();
            }
            Handover::Http2Response { wait, .. } if self.is_full() => {
                self.counters.holds_refused.increment();
                wait.settle(Verdict::Refused);
            }
            Handover::Http2WebSocket { wire, .. } if self.is_full() => {
                self.counters.holds_refused.increment();
                wire.refuse();
            }
            Handover::Http1 {
                stream,
                input,
                held,
            } => {
                let key = self.open(*held, now);
                if let Err(error) = self.held.insert(key, stream, &input) {
                    tracing::warn!(%error, "cannot hold a connection");
                    self.lose(key);
                }
            }
            Handover::Http2Stream { pipe, held } => {
                let key = self.open(*held, now);
                self.pipes.insert_stream(key, &pipe);
            }
            Handover::Http2WebSocket { wire, held } => {
                let key = self.open(*held, now);
                self.wires.insert(key, End::Client, &wire);
            }
            Handover::Http2Response { wait, held } => {
                let key = self.open(*held, now);
                self.pipes.insert_request(key, wait);
            }
        }
    }

    fn open(&mut self, held: Held, now: std::time::Instant) -> ConnectionKey {
        let key = self.engine.open(held.hold, now);
        if let Some(body) = held.feed {
            self.feeds.insert(key, body);
        }
        if let Some(farewell) = held.farewell {
            // From here on the engine tells the origin.
            farewell.forget();
        }
        if let Some(origin) = held.origin {
            self.origins.insert(key, origin);
        }
        key
    }

    fn handle_readiness(&mut self, readiness: Readiness, now: std::time::Instant) {
        match readiness {
            Readiness::Gone(key) => self.lose(key),
            Readiness::Writable(key) => self.write(key),
            Readiness::Readable(key) => self.read(key, now),
        }
    }

    /// Reads what a client sends, and stops where it has sent more than its origin takes.
    fn read(&mut self, key: ConnectionKey, now: std::time::Instant) {
        for _ in 0..READS_PER_TURN {
            match self.held.read(key, &mut self.buffer) {
                Ok(0) => return self.lose(key),
                Ok(count) => {
                    let input = &self.buffer[..count];
                    if self.engine.handle_input(key, input, now) == Flow::Stopped {
                        return self.held.stop(key);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.lose(key),
            }
        }
        // Others have their turn before the rest.
        self.held.rearm(key);
    }

    /// What a client has sent already, and what it sends, is for the engine.
    fn listen(&mut self, key: ConnectionKey) {
        if let Some(origin) = self.origins.remove(&key) {
            let (wire, carrier) = Wire::new(self.wire_event_sender.clone());
            self.wires.insert(key, End::Origin, &wire);
            self.helpers
                .spawn_local(carrier.carry(TokioIo::new(origin)));
        }
        let input = self.held.listen(key);
        if !input.is_empty() && self.engine.handle_input(key, &input, self.now) == Flow::Stopped {
            self.held.stop(key);
        }
    }

    fn handle_wire(&mut self, event: WireEvent, now: std::time::Instant) {
        match event {
            WireEvent::Input(key, end, bytes) => {
                let flow = match end {
                    End::Client => self.engine.handle_input(key, &bytes, now),
                    End::Origin => self.engine.handle_origin_input(key, &bytes, now),
                };
                if flow == Flow::Going {
                    self.wires.resume(key, end);
                }
            }
            WireEvent::Writable(key, End::Client) => self.write(key),
            WireEvent::Writable(key, End::Origin) => self.write_origin(key),
            WireEvent::Gone(key, End::Client) => self.lose(key),
            WireEvent::Gone(key, End::Origin) => {
                self.wires.give_up(key, End::Origin);
                self.engine.handle_origin_gone(key, now);
            }
        }
    }

    fn write_origin(&mut self, key: ConnectionKey) {
        if let Some(outbox) = self.engine.origin_outbox(key) {
            self.wires.write(key, End::Origin, outbox);
            self.engine.handle_origin_written(key);
        }
    }

    /// Sends a request with events of a WebSocket, beside everything else.
    fn exchange(
        &mut self,
        key: ConnectionKey,
        handshake: Handshake,
        request: over_http::Request,
        meta: HeaderMap,
    ) {
        let proxy = Rc::clone(&self.proxy);
        let has_left = !self.held.has(key) && !self.wires.has(key, End::Client);
        let farewells = has_left.then(|| Rc::clone(&self.farewells));
        self.exchanges.spawn_local(async move {
            let _turn = match &farewells {
                Some(farewells) => farewells.acquire().await.ok(),
                None => None,
            };
            let exchanged = proxy.exchange_events(&handshake, request, meta).await;
            (key, exchanged)
        });
    }

    /// Does what the engine asks for, but writes to so many connections only, so that everything
    /// else that wakes the shard has its turn.
    async fn settle(&mut self, writes: usize) {
        self.act();
        for _ in 0..writes {
            let Some(key) = self.engine.next_dirty() else {
                break;
            };
            self.write(key);
            self.gate.wrote();
            self.act();
        }
        if self.engine.dirty_len() > 0 {
            // Tasks have their turn too.
            tokio::task::yield_now().await;
        } else {
            self.gate.is_clean();
        }
    }

    /// Does all that the engine asks for beside writing.
    fn act(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Attach { connection, wanted } => {
                    self.broker.attach(self.id, connection, wanted);
                }
                Output::CatchUp { connection, wanted } => {
                    self.broker.catch_up(self.id, connection, wanted);
                }
                Output::Detach(channels) => self.broker.detach(self.id, channels),
                Output::Drop(key) => self.drop_connection(key),
                Output::Feed(key) => {
                    if let Some(body) = self.feeds.remove(&key) {
                        let reports = self.report_sender.clone();
                        self.helpers.spawn_local(feed(key, body, reports));
                    }
                }
                Output::Answer { connection, answer } => {
                    self.pipes.settle(connection, Verdict::Answer(answer));
                }
                Output::Retry {
                    connection,
                    reply,
                    again,
                } => self.retry(connection, reply, again),
                Output::Listen(key) => self.listen(key),
                Output::Resume(key) => {
                    self.held.resume(key);
                    self.wires.resume(key, End::Client);
                }
                Output::Exchange {
                    connection,
                    handshake,
                    request,
                    meta,
                } => self.exchange(connection, handshake, request, meta),
                Output::WriteOrigin(key) => self.write_origin(key),
                Output::ResumeOrigin(key) => self.wires.resume(key, End::Origin),
                Output::FinishOrigin {
                    connection,
                    mut rest,
                } => self.wires.finish(connection, End::Origin, &mut rest),
                Output::DropOrigin(key) => self.wires.give_up(key, End::Origin),
                Output::DropClient(key) => self.drop_client(key),
                Output::Run {
                    connection,
                    behalf,
                    kind,
                } => self.errands.run(Errand {
                    shard: self.id,
                    connection,
                    behalf,
                    kind,
                }),
            }
        }
    }

    fn write(&mut self, key: ConnectionKey) {
        let Some(outbox) = self.engine.outbox(key) else {
            return;
        };
        let written = self.held.write(key, outbox).unwrap_or_else(|| {
            let carried = self.pipes.write(key, outbox);
            let carried = carried.or_else(|| self.wires.write(key, End::Client, outbox));
            Ok(carried.unwrap_or(0))
        });
        match written {
            Ok(bytes) => self.counters.sent_bytes.add(bytes as u64),
            Err(_) => return self.lose(key),
        }
        match self.engine.handle_flushed(key, self.now) {
            None => self.note_blocked(key),
            Some(AfterHold::Close) => {
                self.pipes.finish(key);
                self.wires.finish(key, End::Client, &mut Outbox::default());
                self.close(key);
            }
            Some(AfterHold::Reuse) => self.give_back(key, &Bytes::new(), None),
        }
    }

    /// Ends a connection to which all is written.
    fn close(&mut self, key: ConnectionKey) {
        if !self.held.listens(key) {
            return drop(self.held.remove(key));
        }
        // A WebSocket's client may still be sending; its last frame must not be lost for that.
        if let Ok(Some((stream, ..))) = self.held.take(key) {
            self.tasks
                .spawn_local(client_io::write_and_close(stream, b""));
        }
    }

    /// Takes note of a client that does not take all that there is.
    fn note_blocked(&mut self, key: ConnectionKey) {
        if self.engine.is_ending(key) {
            self.engine.handle_blocked(key, Instant::now().into_std());
        }
    }

    /// Gives a connection back to a task that reads requests; `first` stands before what the
    /// client sends.
    fn give_back(&mut self, key: ConnectionKey, first: &Bytes, again: Option<Again>) {
        match self.held.take(key) {
            Ok(Some((stream, peer, input))) => {
                let input = if first.is_empty() {
                    input
                } else {
                    [first.as_ref(), &input].concat().into()
                };
                self.serve_on(stream, peer, input, again);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot give a connection back"),
        }
    }

    /// Asks the origin again what becomes of a request.
    fn retry(&mut self, key: ConnectionKey, reply: Reply, again: Again) {
        match reply {
            Reply::Http1 { request, .. } => self.give_back(key, &request, Some(again)),
            Reply::Http2(_) => self.pipes.settle(key, Verdict::Retry(again)),
        }
    }

    fn lose(&mut self, key: ConnectionKey) {
        self.engine.handle_gone(key, self.now);
        self.drop_connection(key);
    }

    fn drop_connection(&mut self, key: ConnectionKey) {
        self.feeds.remove(&key);
        self.origins.remove(&key);
        self.drop_client(key);
    }

    fn drop_client(&mut self, key: ConnectionKey) {
        self.pipes.give_up(key);
        self.wires.give_up(key, End::Client);
        drop(self.held.remove(key));
    }

    fn begin_drain(&mut self) {
        self.listener = None;
        self.engine.drain();
        let now = Instant::now();
        let beats = (self.config.drain.as_millis() / DRAIN_BEAT.as_millis() / 2).max(1);
        let beats = usize::try_from(beats).unwrap_or(usize::MAX);
        self.drain = Some(Drain {
            next_beat: now,
            deadline: now + self.config.drain,
            // Half of the window for letting go, half for clients to read.
            per_beat: self.engine.len().div_ceil(beats).max(DRAIN_LEAST),
        });
    }

    fn beat_drain(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.next_beat += DRAIN_BEAT;
            self.engine.drain_some(drain.per_beat, self.now);
        }
    }

    fn is_drained(&self) -> bool {
        let Some(drain) = &self.drain else {
            return false;
        };
        let is_done = self.engine.len() == 0
            && self.tasks.is_empty()
            && self.helpers.is_empty()
            && self.refusals.is_empty()
            && self.handovers.is_empty();
        is_done || Instant::now() >= drain.deadline
    }
}

/// Reads the rest of a stream's first body, at the speed at which its client reads it.
async fn feed(key: ConnectionKey, mut body: Incoming, reports: mpsc::UnboundedSender<Report>) {
    let report = |news| {
        // Fails only when the shard is gone.
        let _ = reports.send(Report {
            connections: vec![key],
            news,
        });
    };
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return report(News::Broken);
        };
        if let Ok(data) = frame.into_data() {
            let (receipt, end) = Receipt::new();
            report(News::Body(data, receipt));
            if end.await.is_err() {
                // The client is gone.
                return;
            }
        }
    }
    report(News::Complete);
}

/// Small writes must not wait for the client's acknowledgement of the one before; and a client that
/// vanished without a word must be found out, also on a stream to which nothing is published.
fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(VANISHED_AFTER)
        .with_interval(Duration::from_secs(30))
        .with_retries(4);
    let socket = SockRef::from(stream);
    if let Some(bytes) = limits.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = limits.unsent_bytes {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    socket.set_tcp_keepalive(&keep_alive)
}

/// The next connection.
///
/// Cancel safe.
async fn accept(listener: Option<&mut Listener>) -> (TcpStream, SocketAddr) {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
    use std::path::Path;

    use http_body_util::Empty;
    use hyper::Request;
    use hyper::client::conn::http1;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::broker::{self, Repeats};
    use crate::config::{RawConfig, SlowClients};
    use crate::engine::{AfterStart, Events, Hold, HoldKind, StreamFraming};
    use crate::errands;

    /// A shard, what may end only after it, and where it gets its clients.
    fn shard() -> (Shard, Vec<Box<dyn std::any::Any>>, SocketAddr) {
        let raw = RawConfig {
            origin: Some("http://127.0.0.1:1".to_owned()),
            ..RawConfig::default()
        };
        let config = Arc::new(raw.check(Path::new("")).unwrap());
        let counters = Arc::<Counters>::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let settings = broker::Settings::of(&config, 1, Repeats::Dropped);
        let (broker, _) = broker::spawn(vec![commands], settings, Arc::clone(&counters)).unwrap();
        let tls = Arc::new(TlsConfig::new(&config.origin_tls));
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (route_sender, routes) = watch::channel(Arc::clone(&config.routes));
        let (errands, _) = errands::spawn(
            Arc::clone(&config),
            Arc::clone(&counters),
            Arc::clone(&tls),
            routes.clone(),
            vec![report_sender.clone()],
        )
        .unwrap();
        let (life_sender, life) = watch::channel(Life::Running);
        let shard = Shard::new(Parts {
            id: ShardId(0),
            counters,
            listener,
            mailbox,
            broker,
            errands,
            reports,
            report_sender,
            tls,
            routes,
            budget: Budget::new(1_000_000, 1_000_000),
            epoch: Instant::now().into_std(),
            life,
            config,
        });
        let others: Vec<Box<dyn std::any::Any>> =
            vec![Box::new(route_sender), Box::new(life_sender)];
        (shard.unwrap(), others, address)
    }

    /// A body of which nothing has come.
    async fn unfinished_body() -> Incoming {
        let (near, mut far) = duplex(1000);
        let (mut requests, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let origin = async {
            far.read_u8().await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
                .await
                .unwrap();
        };
        let asked = requests.send_request(Request::new(Empty::<Bytes>::new()));
        let (response, ()) = tokio::join!(asked, origin);
        response.unwrap().into_body()
    }

    /// A stream that waits for its first body.
    fn held(feed: Incoming) -> Box<Held> {
        Box::new(Held {
            hold: Hold {
                kind: HoldKind::Stream {
                    start: Bytes::from_static(b"head"),
                    framing: StreamFraming::Chunked,
                    keep_alive: None,
                    then: AfterStart::Items,
                    events: Events::Plain,
                },
                slots: Vec::new(),
                after: AfterHold::Reuse,
                slow: SlowClients::Disconnect,
                session: None,
            },
            feed: Some(feed),
            head: None,
            original: None,
            origin: None,
            farewell: None,
        })
    }

    /// The same socket under this descriptor or the next free one.
    fn copy(socket: BorrowedFd<'_>, descriptor: i32) -> TcpStream {
        let copy = rustix::io::fcntl_dupfd_cloexec(socket, descriptor).unwrap();
        let copy = std::net::TcpStream::from(copy);
        TcpStream::from_std(copy).unwrap()
    }

    #[tokio::test]
    async fn commands_are_taken_again_when_nothing_is_left_to_write() {
        let (mut shard, _others, _) = shard();
        shard.gate.delivered(1_000_000);
        assert!(!shard.gate.is_open());
        // As many writes as there were.
        shard.settle(0).await;
        assert!(shard.gate.is_open());
    }

    #[tokio::test]
    async fn nothing_is_kept_for_a_socket_that_cannot_be_held() {
        let (mut shard, _others, address) = shard();
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        // epoll goes on watching a descriptor that was closed if there are others of its socket,
        // and does not take the same one twice. Other tests don't use as many.
        let stream = copy(socket.as_fd(), 900);
        let descriptor = stream.as_raw_fd();
        let key = ConnectionKey {
            index: 1000,
            generation: 1,
        };
        shard.held.insert(key, stream, &Bytes::new()).unwrap();
        drop(shard.held.remove(key));
        let stream = copy(socket.as_fd(), descriptor);
        assert_eq!(stream.as_raw_fd(), descriptor);

        let handover = Handover::Http1 {
            stream,
            input: Bytes::new(),
            held: held(unfinished_body().await),
        };
        shard.hold(handover, shard.now);
        assert_eq!(shard.held.len(), 0, "it cannot be held");
        assert_eq!(shard.engine.len(), 0);
        assert!(shard.feeds.is_empty());
    }
}
