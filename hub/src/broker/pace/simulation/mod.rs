//! Random lives of an origin, its publisher, the edge, the hub and clients: when all has settled,
//! nobody shows an old value.
//!
//! The pacer and the edge's policy are the real ones. Origin, platform, broker and clients are
//! models, as naive as they can be: the origin writes a value, then its publisher publishes it with
//! ids; a client is answered by the edge and attached some time later; one that is behind asks the
//! origin, as the hub would for it. All things take random times and may fail.

mod edge;

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::broker::{Intake, Waiting};
use crate::config::ChannelPattern;
use edge::{Edge, Visit, answer};
use std::num::NonZeroU32;

/// Each failing schedule is printed with its seed.
const SCHEDULES: u64 = 20_000;
/// In which all that is random happens; milliseconds.
const LIFE: usize = 8_000;
/// By then all has settled: longer than the last retry takes.
const SETTLED: u64 = 60_000;
/// The longest fetch, shorter than a second purge takes to come.
const LONGEST_FETCH: usize = 1_500;

const CHANNELS: [&str; 4] = ["latest", "all", "unpaced", "short"];
const PACE: u64 = 1_000;
const DEADLINE: u64 = 300;

/// What is broken on purpose, so that the test is seen to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    NoSecondPurge,
    NoRetries,
    PublishBeforePurge,
    NoTrailingFlush,
}

#[derive(Debug)]
enum Event {
    /// The origin has a new value, which is published a moment later.
    Write(&'static str),
    Publish(&'static str, u64),
    OriginIs(Origin),
    Join(&'static str),
    /// A request is at the origin.
    AtOrigin(usize),
    /// Its answer is at the edge.
    AtEdge(usize),
    /// A client is attached to its channel.
    Attach(usize),
    /// The answer to a client that was behind.
    CaughtUp(usize, u64),
    AskAgain(usize),
    /// What a purge does, and what comes back of it.
    PurgeTakesEffect(Vec<ChannelName>),
    PurgeAnswered(PurgeResult),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Up,
    Down,
}

/// A fetch of the edge.
#[derive(Debug)]
struct Fetch {
    channel: &'static str,
    /// Who gets what comes of it, if it was not answered before.
    client: Option<usize>,
    fallback: Option<u64>,
    /// What the origin had.
    value: Option<u64>,
    /// Whether nothing of it is stored.
    is_pass: bool,
}

#[derive(Debug)]
struct Client {
    channel: &'static str,
    /// What it shows.
    value: Option<u64>,
    is_attached: bool,
    /// Whether it asks the origin for what it has missed; items wait then.
    is_asking: bool,
    backlog: Vec<(Vec<u64>, u64)>,
    /// It was answered from a backup: ids are not compared.
    is_unchecked: bool,
}

struct World {
    seed: u64,
    random: u64,
    fault: Fault,
    now: u64,
    start: Instant,
    pace: Pace<u64>,
    intake: Intake,
    edge: Edge,
    origin: Origin,
    values: HashMap<&'static str, u64>,
    events: BTreeMap<(u64, u64), Event>,
    last_event: u64,
    fetches: Vec<Fetch>,
    /// Visitors that wait for somebody else's fetch.
    waiting: Vec<(usize, &'static str)>,
    clients: Vec<Client>,
    /// The broker's last id of each channel.
    last_ids: HashMap<&'static str, u64>,
    /// Ids of items that the broker knows to wait.
    announced: HashMap<&'static str, Vec<u64>>,
    /// When values were published that have not gone out.
    published: HashMap<&'static str, Vec<(u64, u64)>>,
    unpurged: u64,
    is_settling: bool,
    violation: Option<String>,
}

fn settings(fault: Fault) -> Settings {
    let rule = |pattern, pace: Option<u64>, keep| ChannelRule {
        pattern: ChannelPattern::new(pattern),
        purge: None,
        pace: pace.map(Duration::from_millis),
        keep,
        deadline: None,
        history: config::HistoryRule::default(),
    };
    let repurge_after = Duration::from_secs(2);
    Settings {
        rules: Arc::new([
            rule("latest", Some(PACE), Keep::Latest),
            rule("all", Some(PACE), Keep::All),
            rule("short", Some(PACE / 10), Keep::Latest),
        ]),
        purging: Some(Purging {
            default: true,
            deadline: Duration::from_millis(DEADLINE),
            repurge_after: (fault != Fault::NoSecondPurge).then_some(repurge_after),
            rate: Some(PurgeRate {
                per_second: NonZeroU32::new(5).unwrap(),
                burst: NonZeroU32::new(10).unwrap(),
            }),
        }),
    }
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut world = Self {
            seed,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            fault,
            now: 0,
            start: tokio::time::Instant::now().into_std(),
            pace: Pace::new(settings(fault)),
            // Nobody publishes in its life as much as that.
            intake: Intake::new(Waiting {
                items: 1_000,
                bytes: 1_000_000,
            }),
            edge: Edge::default(),
            origin: Origin::Up,
            values: CHANNELS.map(|channel| (channel, 1)).into(),
            events: BTreeMap::new(),
            last_event: 0,
            fetches: Vec::new(),
            waiting: Vec::new(),
            clients: Vec::new(),
            last_ids: HashMap::new(),
            announced: HashMap::new(),
            published: HashMap::new(),
            unpurged: 0,
            is_settling: false,
            violation: None,
        };
        world.plan();
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % bound as u64).unwrap()
    }

    /// A duration below so many milliseconds; often a short one.
    fn time(&mut self, bound: usize) -> u64 {
        let bound = if self.below(3) == 0 {
            bound
        } else {
            bound / 20
        };
        self.below(bound.max(1)) as u64
    }

    fn at(&mut self, time: u64, event: Event) {
        self.last_event += 1;
        self.events.insert((time, self.last_event), event);
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Writes, joins and outages of a whole life; writes often in bursts.
    fn plan(&mut self) {
        for _ in 0..self.below(8) {
            let channel = CHANNELS[self.below(CHANNELS.len())];
            let begin = self.below(LIFE);
            for _ in 0..=self.below(6) {
                let time = begin + self.below(2_000);
                self.at(time as u64, Event::Write(channel));
            }
        }
        for _ in 0..=self.below(16) {
            let channel = CHANNELS[self.below(CHANNELS.len())];
            let time = self.below(LIFE + 2_000) as u64;
            self.at(time, Event::Join(channel));
        }
        if self.below(3) == 0 {
            let begin = self.below(LIFE) as u64;
            let end = begin + self.below(3_000) as u64;
            self.at(begin, Event::OriginIs(Origin::Down));
            self.at(end, Event::OriginIs(Origin::Up));
        }
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn violated(&mut self, what: &str) {
        if self.violation.is_none() {
            let (now, seed) = (self.now, self.seed);
            self.violation = Some(format!("seed {seed}, after {now} ms: {what}"));
        }
    }

    /// Lives until all has settled, and says what was wrong first.
    fn live(mut self) -> Option<String> {
        while let Some(time) = self.next_time().filter(|time| *time <= SETTLED) {
            self.now = self.now.max(time);
            self.is_settling = self.now > (LIFE + 4_000) as u64;
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 <= self.now
            {
                let event = entry.remove();
                self.handle(event);
                self.drive();
            }
            self.pace.handle_timeout(self.instant());
            self.drive();
        }
        self.settled();
        self.violation
    }

    /// The next event's, or the pacer's, rounded up to a millisecond.
    fn next_time(&self) -> Option<u64> {
        let event = self.events.first_key_value().map(|((time, _), _)| *time);
        let timer = self.pace.poll_timeout().map(|at| {
            let micros = at.saturating_duration_since(self.start).as_micros();
            u64::try_from(micros.div_ceil(1000)).unwrap()
        });
        event.into_iter().chain(timer).min()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Write(channel) => {
                let value = self.values[channel] + 1;
                self.values.insert(channel, value);
                // One publisher: it does not overtake itself.
                self.after(20, Event::Publish(channel, value));
            }
            Event::Publish(channel, value) => self.publish(channel, value),
            Event::OriginIs(origin) => self.origin = origin,
            Event::Join(channel) => self.join(channel),
            Event::AtOrigin(fetch) => {
                let fetched = &mut self.fetches[fetch];
                if self.origin == Origin::Up {
                    fetched.value = Some(self.values[fetched.channel]);
                }
                let delay = self.time(LONGEST_FETCH / 2);
                self.after(delay, Event::AtEdge(fetch));
            }
            Event::AtEdge(fetch) => self.end_fetch(fetch),
            Event::Attach(client) => self.attach(client),
            Event::AskAgain(client) => self.ask(client),
            Event::CaughtUp(client, value) => self.caught_up(client, value),
            Event::PurgeTakesEffect(channels) => {
                for channel in channels {
                    self.edge.purge(&grip::cache::channel_key(channel.as_str()));
                }
            }
            Event::PurgeAnswered(result) => self.pace.handle_purged(result, self.instant()),
        }
    }

    fn publish(&mut self, channel: &'static str, value: u64) {
        let body = format!(
            r#"{{"items":[{{"channel":"{channel}","id":"{value}","prev-id":"{}","http-stream":{{"content":""}}}}]}}"#,
            value - 1
        );
        let item = grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .unwrap()
            .remove(0);
        let published = self.published.entry(channel).or_default();
        published.push((value, self.now));
        if self.fault == Fault::PublishBeforePurge {
            self.deliver(&item);
        }
        let admitted = self.intake.admit(vec![item]).unwrap().remove(0);
        self.pace.publish(admitted, value, self.instant());
    }

    /// Does what the pacer wants.
    fn drive(&mut self) {
        while let Some((Admitted { item, .. }, ticket)) = self.pace.next_ready() {
            match self.fault {
                Fault::NoTrailingFlush if ticket.is_none() => {}
                Fault::PublishBeforePurge => {}
                _ => self.deliver(&item),
            }
        }
        while let Some(Announced { channel, id, .. }) = self.pace.next_announced() {
            let announced = self.announced.entry(known(&channel)).or_default();
            announced.push(number(Some(&id)));
        }
        let now = self.instant();
        let Some(order) = self.pace.next_purge(now) else {
            return;
        };
        let channels = order.channels.to_vec();
        let timeout = u64::try_from(order.timeout.as_millis()).unwrap();
        self.purge(channels, timeout);
    }

    /// A purge that takes its time, and may fail, with or without having had effect.
    fn purge(&mut self, channels: Vec<ChannelName>, timeout: u64) {
        let effect = self.time(150);
        let back = effect + self.time(250);
        let fate = if self.is_settling { 9 } else { self.below(10) };
        let has_effect = fate != 0 && fate != 1;
        if has_effect {
            self.after(effect, Event::PurgeTakesEffect(channels));
        }
        let failed = |retry_after| PurgeResult::Failed { retry_after };
        let (back, result) = match fate {
            0 | 2 => (back, failed(None)),
            1 if self.below(2) == 0 => (back, failed(Some(Duration::from_secs(2)))),
            1 => (timeout, failed(None)),
            _ if back >= timeout => (timeout, failed(None)),
            _ => (back, PurgeResult::Purged),
        };
        if self.fault == Fault::NoRetries {
            // As if it had been done.
            self.after(back, Event::PurgeAnswered(PurgeResult::Purged));
        } else {
            self.after(back, Event::PurgeAnswered(result));
        }
    }

    /// The broker: an item goes to all who are attached.
    fn deliver(&mut self, item: &Item) {
        let channel = known(&item.channel);
        let id = number(item.id.as_ref());
        let mut follows: Vec<u64> = item.stands_for.iter().map(|id| number(Some(id))).collect();
        follows.push(number(item.prev_id.as_ref()));
        self.check_time(channel, id);
        self.check_purged(channel, id);
        self.last_ids.insert(channel, id);
        self.announced.remove(channel);
        for client in 0..self.clients.len() {
            if self.clients[client].channel == channel && self.clients[client].is_attached {
                self.receive(client, &follows, id);
            }
        }
    }

    /// What is newest is late by one window and one deadline at most; a millisecond is lost to
    /// rounding at each end.
    fn check_time(&mut self, channel: &'static str, id: u64) {
        let limit = PACE + DEADLINE + 2;
        let now = self.now;
        let published = self.published.entry(channel).or_default();
        let is_late = published
            .iter()
            .any(|(value, at)| *value <= id && *at + limit < now);
        published.retain(|(value, _)| *value > id);
        if is_late {
            self.violated(&format!("{id} of {channel} is late"));
        }
    }

    /// When an item goes out, nothing is stored that is older than it and was there when it was due,
    /// a deadline ago at most, unless the pacer says that the purge failed or was late.
    fn check_purged(&mut self, channel: &'static str, id: u64) {
        let unpurged = self.pace.tally().unpurged;
        let is_excused = unpurged > self.unpurged;
        self.unpurged += u64::from(is_excused);
        let is_old = self
            .edge
            .stored(channel)
            .is_some_and(|object| object.value < id && object.inserted + DEADLINE < self.now);
        if is_old && !is_excused && self.fault != Fault::NoRetries {
            self.violated(&format!("{id} of {channel} went out before the purge"));
        }
    }

    fn join(&mut self, channel: &'static str) {
        let client = self.clients.len();
        self.clients.push(Client {
            channel,
            value: None,
            is_attached: false,
            is_asking: false,
            backlog: Vec::new(),
            is_unchecked: false,
        });
        self.visit(client);
    }

    fn visit(&mut self, client: usize) {
        let channel = self.clients[client].channel;
        match self.edge.visit(channel, self.now) {
            Visit::Stored(value) => self.answered(client, value),
            Visit::Backup(value) => self.answered_from_backup(client, value),
            Visit::Wait => self.waiting.push((client, channel)),
            Visit::Error => {}
            Visit::Pass => self.fetch(channel, Some(client), None, true),
            Visit::Fetch { answer, fallback } => {
                if let Some(value) = answer {
                    self.answered(client, value);
                }
                let client = answer.is_none().then_some(client);
                self.fetch(channel, client, fallback, false);
            }
        }
    }

    fn fetch(
        &mut self,
        channel: &'static str,
        client: Option<usize>,
        fallback: Option<u64>,
        is_pass: bool,
    ) {
        let delay = self.time(LONGEST_FETCH / 2);
        self.after(delay, Event::AtOrigin(self.fetches.len()));
        self.fetches.push(Fetch {
            channel,
            client,
            fallback,
            value: None,
            is_pass,
        });
    }

    fn end_fetch(&mut self, fetch: usize) {
        let Fetch {
            channel,
            client,
            fallback,
            value,
            is_pass,
        } = self.fetches[fetch];
        if !is_pass {
            let seconds = if channel == "short" { 3 } else { 3600 };
            let headers = value.map(|value| answer(channel, value, seconds));
            let fetched = value.zip(headers.as_ref());
            self.edge
                .fetched(channel, fetched, fallback.is_some(), self.now);
        }
        match (client, value.or(fallback)) {
            (None, _) => {}
            (Some(client), Some(value)) => self.answered(client, value),
            (Some(client), None) => {
                if let Visit::Backup(value) = self.edge.backup(channel, self.now) {
                    self.answered_from_backup(client, value);
                }
            }
        }
        let (ended, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, waited)| *waited == channel);
        self.waiting = waiting;
        let ended: Vec<(usize, &str)> = ended;
        for (client, _) in ended {
            self.visit(client);
        }
    }

    /// The hub has the answer; it attaches the client in a moment.
    fn answered(&mut self, client: usize, value: u64) {
        self.clients[client].value = Some(value);
        let delay = self.time(300);
        self.after(delay, Event::Attach(client));
    }

    fn answered_from_backup(&mut self, client: usize, value: u64) {
        self.clients[client].is_unchecked = true;
        self.answered(client, value);
    }

    fn attach(&mut self, client: usize) {
        self.clients[client].is_attached = true;
        let Client {
            channel,
            value,
            is_unchecked,
            ..
        } = self.clients[client];
        let last_id = self.last_ids.get(channel).copied();
        let announced = self.announced.get(channel);
        let is_announced = announced.is_some_and(|ids| ids.iter().any(|id| Some(*id) == value));
        if !is_unchecked && last_id.is_some() && last_id != value && !is_announced {
            self.ask(client);
        }
    }

    fn receive(&mut self, client: usize, follows: &[u64], id: u64) {
        let client_state = &mut self.clients[client];
        let value = client_state.value;
        if client_state.is_asking {
            client_state.backlog.push((follows.to_vec(), id));
        } else if client_state.is_unchecked || follows.iter().any(|id| Some(*id) == value) {
            client_state.value = Some(id);
        } else if value != Some(id) {
            self.ask(client);
        }
    }

    /// The origin is asked past the cache for what a client has missed.
    fn ask(&mut self, client: usize) {
        self.clients[client].is_asking = true;
        let delay = self.time(400);
        if self.origin == Origin::Up {
            let value = self.values[self.clients[client].channel];
            self.after(delay, Event::CaughtUp(client, value));
        } else {
            self.after(delay + 500, Event::AskAgain(client));
        }
    }

    fn caught_up(&mut self, client: usize, value: u64) {
        let state = &mut self.clients[client];
        state.is_asking = false;
        state.value = Some(value);
        for (follows, id) in std::mem::take(&mut state.backlog) {
            if id > value {
                self.receive(client, &follows, id);
            }
        }
    }

    fn settled(&mut self) {
        if !self.pace.is_idle() {
            self.violated("the pacer is still busy");
        }
        if self.intake.waiting() != (Waiting { items: 0, bytes: 0 }) {
            self.violated("what has left still takes up room");
        }
        for channel in CHANNELS {
            let newest = self.values[channel];
            if let Some(object) = self.edge.stored(channel)
                && object.value != newest
            {
                let old = object.value;
                self.violated(&format!("{old} of {channel} is stored, not {newest}"));
            }
            if let Some(client) = self.shows_other(channel, newest) {
                self.violated(&format!("a client of {channel} lacks {newest}: {client}"));
            }
        }
    }

    /// A client with another value. Those that have had nothing but a backup, and no item since, were
    /// told that it may be old.
    fn shows_other(&self, channel: &str, newest: u64) -> Option<String> {
        let shows_other = |client: &&Client| {
            client.channel == channel
                && client.is_attached
                && !client.is_unchecked
                && client.value != Some(newest)
        };
        self.clients
            .iter()
            .find(shows_other)
            .map(|client| format!("{client:?}"))
    }
}

fn known(channel: &ChannelName) -> &'static str {
    let mut known = CHANNELS.into_iter();
    let found = known.find(|known| *known == channel.as_str());
    found.expect("items are of these channels")
}

fn number(id: Option<&ItemId>) -> u64 {
    id.expect("items have ids").as_str().parse().unwrap()
}

#[test]
fn when_all_has_settled_nobody_shows_an_old_value() {
    let violations: Vec<String> = (1..=SCHEDULES)
        .filter_map(|seed| World::new(seed, Fault::None).live())
        .collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// What the test is worth: it notices when something is broken, in a small part of the schedules.
#[track_caller]
fn check_noticed(fault: Fault, expected: &str) {
    let found = (1..=SCHEDULES / 20).find_map(|seed| World::new(seed, fault).live());
    let found = found.expect("it is not noticed");
    assert!(found.contains(expected), "{found}");
}

#[test]
fn a_second_purge_that_is_left_out_is_noticed() {
    check_noticed(Fault::NoSecondPurge, "is stored, not");
}

#[test]
fn a_failed_purge_that_is_not_tried_again_is_noticed() {
    check_noticed(Fault::NoRetries, "is stored, not");
}

#[test]
fn an_item_that_goes_out_before_its_purge_is_noticed() {
    check_noticed(Fault::PublishBeforePurge, "went out before the purge");
}

#[test]
fn a_trailing_flush_that_is_left_out_is_noticed() {
    check_noticed(Fault::NoTrailingFlush, "lacks");
}
