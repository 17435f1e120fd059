//! What pacing does: publishes a second on one channel, and what becomes of them.
//!
//! `cargo bench -p e2e --bench pacing` publishes 1, 10, 100 and 1,000 values a second for 10 s, each
//! written to the origin first, through the hub with windows of a second, in which the latest item
//! is kept; the real edge is between hub and origin. Meanwhile 50 new clients a second ask for the
//! value, and one client listens to a stream. A client's staleness is how long before its request
//! began a newer value than the one that it gets was published; 0 if none was.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::client::{self, Client};
use e2e::edge::{self, PURGE_KEY};
use e2e::origin::{Answer, Origin};
use e2e::released::Hub;
use live_counter::stack::viceroy::Viceroy;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

/// How long publishes go on.
const TIME: Duration = Duration::from_secs(10);
/// New clients a second.
const CLIENTS: u32 = 50;

/// When each value was published, by its number; the first is never published.
type Published = Rc<watch::Sender<Vec<Instant>>>;

struct Run {
    origin: Origin,
    edge: Viceroy,
    hub: Hub,
    value: Arc<AtomicUsize>,
}

impl Run {
    async fn start() -> Self {
        let origin = Origin::start().await;
        let value = Arc::new(AtomicUsize::new(0));
        for (path, hold) in [("/value", "X-Hold: none"), ("/stream", "Grip-Hold: stream")] {
            let value = Arc::clone(&value);
            origin.serve_with(path, move |_| {
                let fields = [
                    "Surrogate-Control: max-age=3600",
                    "Grip-Channel: value",
                    hold,
                ];
                Answer::ok(&fields, &format!("{}\n", value.load(Ordering::SeqCst)))
            });
        }
        let edge = edge::start(edge::manifest(&origin.url())).await;
        let config = format!(
            "[[channels]]\npattern = \"*\"\npace = \"1s\"\nkeep = \"latest\"\n\
             [purge]\nedge = \"{}\"\nkey = \"{PURGE_KEY}\"\n",
            edge.url(),
        );
        let hub = Hub::start(&edge.url(), &config);
        Self {
            origin,
            edge,
            hub,
            value,
        }
    }

    /// Publishes so many values a second, one behind the other.
    async fn publish(&self, rate: u32, published: Published) -> usize {
        let mut client = Client::connect(self.hub.control).await;
        let begin = Instant::now();
        for number in 1.. {
            let due = begin + Duration::from_secs(1) / rate * (number - 1);
            if due >= begin + TIME {
                break;
            }
            sleep_until(due).await;
            let value = usize::try_from(number).unwrap();
            self.value.store(value, Ordering::SeqCst);
            let content = json!({"content": format!("{value}\n")});
            let body = json!({"items": [{"channel": "value", "http-stream": content}]});
            published.send_modify(|published| published.push(Instant::now()));
            client
                .request("POST", "/publish/", &[], &body.to_string())
                .await;
            client.response().await.check(200, "Published\n");
        }
        published.borrow().len()
    }
}

/// Asks for the value, and says how stale it is.
async fn ask(hub: std::net::SocketAddr, published: Published) -> Duration {
    let began = Instant::now();
    let response = client::get(hub, "/value", &[]).await;
    let value: usize = response.text().trim().parse().unwrap();
    // Values are counted from one, so this is when the next one was published.
    let newer = published.borrow().get(value).copied();
    newer.map_or(Duration::ZERO, |at| began.saturating_duration_since(at))
}

async fn ask_again_and_again(hub: std::net::SocketAddr, published: Published) -> Vec<Duration> {
    let begin = Instant::now();
    let mut clients = Vec::new();
    for number in 0.. {
        let due = begin + Duration::from_secs(1) / CLIENTS * number;
        if due >= begin + TIME {
            break;
        }
        sleep_until(due).await;
        clients.push(tokio::task::spawn_local(ask(hub, Rc::clone(&published))));
    }
    let mut staleness = Vec::new();
    for client in clients {
        staleness.push(client.await.unwrap());
    }
    staleness.sort();
    staleness
}

async fn measure(rate: u32) {
    let run = Run::start().await;
    let mut listener = Client::get(run.hub.listen, "/stream", &[]).await;
    listener.stream_begins("0\n").await;
    client::get(run.hub.listen, "/value", &[]).await;
    let published: Published = Rc::new(watch::Sender::default());
    let before = run.origin.count("/value");
    let (count, staleness) = tokio::join!(
        run.publish(rate, Rc::clone(&published)),
        ask_again_and_again(run.hub.listen, Rc::clone(&published)),
    );
    let last = format!("{count}\n");
    listener.content_until(&last).await;
    let heard = Instant::now();
    let late = published
        .borrow()
        .last()
        .map_or(Duration::ZERO, |at| heard.saturating_duration_since(*at));
    run.hub.until("gripline_second_purges_total", 1).await;
    let settled = client::get(run.hub.listen, "/value", &[]).await.text();
    assert_eq!(settled, last, "the newest value is what the edge has");
    let purges = run.hub.metric("gripline_purges_total").await;
    let seconds = run.hub.metric("gripline_second_purges_total").await;
    let fetches = run.origin.count("/value") - before;
    let at = |share: usize| {
        let index = (staleness.len() * share / 100).min(staleness.len() - 1);
        staleness[index].as_millis()
    };
    println!(
        "{rate:>10} {count:>10} {purges:>8} {seconds:>8} {fetches:>9} {:>8} {:>6} {:>6} {:>6} {:>10}",
        staleness.len(),
        at(50),
        at(99),
        at(100),
        late.as_millis(),
    );
    drop(run.edge);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    LocalSet::new().run_until(run()).await;
}

async fn run() {
    println!(
        "publishes                          second   fetches      new  staleness in ms      last one"
    );
    println!(
        "  a second      in all   purges   purges  by edge  clients    p50    p99    max     after ms"
    );
    for rate in [1, 10, 100, 1000] {
        measure(rate).await;
    }
}
