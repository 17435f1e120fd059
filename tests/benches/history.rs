//! What it costs to remember: `cargo bench -p e2e --bench history`.
//!
//! Memory: private bytes of a hub, a process of its own, for each item of 64 bytes in the history
//! of one channel, and for each channel that has had one such item; without what is remembered to
//! find repeated items, and with it.
//!
//! Publishing: processor time of the hub for an item, in requests of 100, with nothing remembered and
//! with everything as it is by default; for channels without subscribers, and for 1,000 channels
//! with 5 streams each.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use e2e::client::Client;
use e2e::origin::{Answer, Origin};
use e2e::released::Hub;
use serde_json::{Value, json};

/// Items, or channels, that memory is measured with.
const MANY: usize = 100_000;
/// The same before it is measured.
const FEW: usize = 10_000;
const BATCH: usize = 100;
const CHANNELS: usize = 1_000;
const STREAMS: usize = 5;
/// Items published while time is measured.
const PUBLISHED: usize = 100_000;

const ALL: &str =
    "[history]\nitems = 1000000\nbytes = 1000000000\nage = \"1h\"\ntotal_bytes = 1000000000\n";
const NO_IDS: &str = "[order]\nid_age = \"0s\"\n";
const NOTHING: &str = "[history]\nitems = 0\n[order]\nid_age = \"0s\"\nwait = \"0s\"\n";

/// An item of 64 bytes, the one after another on its channel.
fn item(channel: &str, id: usize) -> Value {
    let content = format!("{id:063}\n");
    json!({
        "channel": channel,
        "id": id.to_string(),
        "prev-id": id.wrapping_sub(1).to_string(),
        "http-stream": {"content": content},
    })
}

/// Publishes items over one connection.
async fn publish(hub: &Hub, items: impl Iterator<Item = Value>) {
    let mut client = Client::connect(hub.control).await;
    let items: Vec<Value> = items.collect();
    for batch in items.chunks(BATCH) {
        let body = json!({"items": batch}).to_string();
        client.request("POST", "/publish/", &[], &body).await;
        client.response().await.check(200, "Published\n");
    }
}

fn of_one_channel(from: usize, to: usize) -> impl Iterator<Item = Value> {
    (from + 1..=to).map(|id| item("updates", id))
}

fn of_many_channels(from: usize, to: usize) -> impl Iterator<Item = Value> {
    (from..to).map(|channel| item(&format!("channel-{channel:06}"), 1))
}

/// What each of many items takes, with these lines of `hub.toml`.
async fn measure_memory<I: Iterator<Item = Value>>(
    name: &str,
    config: &str,
    items: impl Fn(usize, usize) -> I,
) {
    let hub = Hub::start("http://127.0.0.1:1", config);
    publish(&hub, items(0, FEW)).await;
    let before = hub.private_bytes();
    publish(&hub, items(FEW, MANY)).await;
    let after = hub.private_bytes();
    let counted = hub.metric("gripline_history_items").await;
    assert_eq!(counted, MANY, "all are remembered");
    let bytes = hub.metric("gripline_history_bytes").await / MANY;
    let each = (after - before) / (MANY - FEW);
    println!("{name}: {each} bytes each; {bytes} count towards the limits");
}

/// Processor time for an item.
async fn measure_publishing(config: &str, origin: &Origin, streams: usize) -> Duration {
    let hub = Hub::start(&origin.url(), config);
    let mut clients = Vec::new();
    for channel in 0..CHANNELS {
        for _ in 0..streams {
            let target = format!("/stream?{channel}");
            clients.push(Client::get(hub.listen, &target, &[]).await);
        }
    }
    hub.until("gripline_held_streams", clients.len()).await;
    let items = |from: usize, to: usize| {
        (from..to).map(|index| {
            let channel = format!("channel-{}", index % CHANNELS);
            item(&channel, index / CHANNELS + 1)
        })
    };
    publish(&hub, items(0, FEW)).await;
    let before = hub.cpu_time();
    publish(&hub, items(FEW, FEW + PUBLISHED)).await;
    let all = (FEW + PUBLISHED) * streams;
    hub.until("gripline_deliveries_total", all).await;
    let took = hub.cpu_time().saturating_sub(before);
    drop(clients);
    took / u32::try_from(PUBLISHED).unwrap_or(u32::MAX)
}

#[tokio::main]
async fn main() {
    let without_ids = format!("{ALL}{NO_IDS}");
    measure_memory("an item of one channel", &without_ids, of_one_channel).await;
    measure_memory("the same, its id known", ALL, of_one_channel).await;
    measure_memory("a channel with one item", &without_ids, of_many_channels).await;
    measure_memory("the same, its id known", ALL, of_many_channels).await;

    let origin = Origin::start().await;
    origin.serve_with("/stream", |request| {
        let channel = request.target().rsplit('?').next().unwrap_or_default();
        let channel = format!("Grip-Channel: channel-{channel}");
        Answer::ok(&["Grip-Hold: stream", &channel], "begin\n")
    });
    for streams in [0, STREAMS] {
        let mut times = [Duration::MAX; 2];
        // Twice, one after the other, and the better of both: machines are shared.
        for _ in 0..2 {
            for (time, config) in times.iter_mut().zip([NOTHING, ""]) {
                *time = (*time).min(measure_publishing(config, &origin, streams).await);
            }
        }
        let [without, with] = times;
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!(
            "an item for {streams} streams: {without:?} with nothing remembered, {with:?} by default, \
             {ratio:.2} times as much"
        );
    }
}
