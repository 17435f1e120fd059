//! An origin that is killed while clients come, and comes back.
//!
//! [`run`] has new clients come at a steady rate through hub and edge, half for pages and half for
//! streams, which then are held; something is published once a second. Pages and streams are few and
//! have been asked for before, as is what people want while a site is in trouble.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval, interval_at};

use crate::chain::Chain;
use crate::client::{self, Client};
use crate::hub::Hub;
use crate::origin::{Answer, Origin};

/// Different pages, and as many different streams.
pub const PATHS: usize = 10;
/// Between one client and the next: 50 a second.
const GAP: Duration = Duration::from_millis(20);
const SECOND: Duration = Duration::from_secs(1);

const CHANNEL: &str = "updates";
const FIRST: &str = "first\n";
/// Not fresh for long when the origin is gone.
const PAGE: [&str; 1] = ["Cache-Control: s-maxage=2, stale-if-error=3600"];
/// Purged by each item.
const STREAM: [&str; 3] = [
    "Cache-Control: s-maxage=60, stale-if-error=3600",
    "Grip-Hold: stream",
    "Grip-Channel: updates",
];

/// How long clients come, in whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// With an origin.
    pub before: Duration,
    /// Without.
    pub outage: Duration,
    /// With it again.
    pub after: Duration,
}

/// One part of the plan.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Clients who asked for a page.
    pub pages: usize,
    /// Of them, those who got it.
    pub pages_served: usize,
    /// Clients who asked for a stream.
    pub streams: usize,
    /// Of them, those who got its beginning.
    pub streams_served: usize,
    /// Requests to the origin in each second.
    pub requests: Vec<usize>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    /// With an origin.
    pub before: Part,
    /// Without.
    pub outage: Part,
    /// With it again.
    pub after: Part,
    /// Items that were published.
    pub published: usize,
    /// Items for held clients, counted for each: those that were published after its stream began.
    pub due: usize,
    /// Of them, those that came.
    pub delivered: usize,
}

/// A client that is held.
struct Stream {
    client: Client,
    /// The last item that need not come, because it may have been there before.
    missed: usize,
}

/// Carries the plan out.
pub async fn run(plan: Plan) -> Report {
    let chain = start().await;
    let addr = chain.addr();
    let Chain {
        hub,
        mut origin,
        edge: _edge,
        ..
    } = chain;
    let items = Arc::new(AtomicUsize::new(0));
    let publishing = publish(&hub, plan.before + plan.outage + plan.after, &items);
    let mut held = Vec::new();
    let coming = async {
        let crowd = Crowd {
            addr,
            items: &items,
        };
        let before = crowd.come(plan.before, &origin, &mut held).await;
        origin.stop().await;
        let outage = crowd.come(plan.outage, &origin, &mut held).await;
        origin.start_again().await;
        let after = crowd.come(plan.after, &origin, &mut held).await;
        Report {
            before,
            outage,
            after,
            ..Report::default()
        }
    };
    let ((), mut report) = tokio::join!(publishing, coming);
    publish_next(&hub, &items).await;
    report.published = items.load(Ordering::Relaxed);
    for stream in held {
        let due = report.published - stream.missed;
        report.due += due;
        // Fails with what came instead, if the last does not come.
        let reading = tokio::spawn(stream.read_to(report.published));
        report.delivered += reading.await.unwrap_or(0);
    }
    report
}

fn page(number: usize) -> String {
    format!("/page/{number}")
}

fn stream(number: usize) -> String {
    format!("/stream/{number}")
}

/// Everything has been asked for once.
async fn start() -> Chain {
    let chain = Chain::start().await;
    for number in 0..PATHS {
        chain.origin.serve(&page(number), Answer::ok(&PAGE, FIRST));
        chain
            .origin
            .serve(&stream(number), Answer::ok(&STREAM, FIRST));
        chain.get(&page(number)).await.check(200, FIRST);
        chain.open(&stream(number)).await.stream_begins(FIRST).await;
    }
    chain
}

/// Publishes an item a second.
async fn publish(hub: &Hub, time: Duration, items: &AtomicUsize) {
    let mut ticks = interval(SECOND);
    for _ in 0..time.as_secs() {
        ticks.tick().await;
        publish_next(hub, items).await;
    }
}

async fn publish_next(hub: &Hub, items: &AtomicUsize) {
    let number = items.fetch_add(1, Ordering::Relaxed) + 1;
    hub.publish_stream(CHANNEL, &item(number)).await;
}

fn item(number: usize) -> String {
    format!("item {number}\n")
}

struct Crowd<'a> {
    addr: SocketAddr,
    items: &'a Arc<AtomicUsize>,
}

impl Crowd<'_> {
    /// Clients come for so long; who is held is added to `held`.
    async fn come(&self, time: Duration, origin: &Origin, held: &mut Vec<Stream>) -> Part {
        let (part, requests) = tokio::join!(self.ask(time, held), requests(origin, time));
        Part { requests, ..part }
    }

    async fn ask(&self, time: Duration, held: &mut Vec<Stream>) -> Part {
        let (mut pages, mut streams) = (JoinSet::new(), JoinSet::new());
        let mut part = Part::default();
        let mut ticks = interval(GAP);
        for number in 0..time.as_millis() / GAP.as_millis() {
            ticks.tick().await;
            let path = usize::try_from(number / 2).unwrap_or_default() % PATHS;
            if number % 2 == 0 {
                part.pages += 1;
                pages.spawn(is_served(self.addr, page(path)));
            } else {
                part.streams += 1;
                streams.spawn(open(self.addr, stream(path), Arc::clone(self.items)));
            }
        }
        // Who is not answered at all fails, and is not served.
        while let Some(served) = pages.join_next().await {
            part.pages_served += usize::from(served.unwrap_or(false));
        }
        while let Some(opened) = streams.join_next().await {
            if let Ok(Some(stream)) = opened {
                part.streams_served += 1;
                held.push(stream);
            }
        }
        part
    }
}

async fn is_served(addr: SocketAddr, path: String) -> bool {
    let response = client::get(addr, &path, &[]).await;
    response.status() == 200 && response.is_complete && response.body == FIRST.as_bytes()
}

async fn open(addr: SocketAddr, path: String, items: Arc<AtomicUsize>) -> Option<Stream> {
    let mut client = Client::get(addr, &path, &[]).await;
    let head = client.head().await;
    if client::status(&head) != 200 {
        return None;
    }
    client.receives_next(FIRST).await;
    let missed = items.load(Ordering::Relaxed);
    Some(Stream { client, missed })
}

impl Stream {
    /// How many of the items have come that had to, up to this one.
    async fn read_to(mut self, last: usize) -> usize {
        let content = self.client.content_until(&item(last)).await;
        let came: Vec<&str> = content.split_inclusive('\n').collect();
        let due = self.missed + 1..=last;
        due.filter(|number| came.contains(&item(*number).as_str()))
            .count()
    }
}

/// Requests to the origin, second by second.
async fn requests(origin: &Origin, time: Duration) -> Vec<usize> {
    let mut ticks = interval_at(Instant::now() + SECOND, SECOND);
    let mut before = total(origin);
    let mut counts = Vec::new();
    for _ in 0..time.as_secs() {
        ticks.tick().await;
        let after = total(origin);
        counts.push(after - before);
        before = after;
    }
    counts
}

fn total(origin: &Origin) -> usize {
    let paths = (0..PATHS).flat_map(|number| [page(number), stream(number)]);
    paths.map(|path| origin.count(&path)).sum()
}
