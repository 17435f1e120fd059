//! Clients that do not read: what they lose, and what they get when they read again.

use e2e::client::Client;
use e2e::hub::{self, Hub};
use e2e::origin::{Answer, Origin};
use gripline_hub::config::RawLimits;
use serde_json::{Value, json};

/// More than the sockets' buffers take.
const ITEMS: usize = 1500;
const SIZE: usize = 16_000;

async fn start(slow: &str) -> (Origin, Hub) {
    start_with(slow, |_| {}).await
}

async fn start_with(slow: &str, change: impl FnOnce(&mut RawLimits)) -> (Origin, Hub) {
    let origin = Origin::start().await;
    for (path, channel) in [
        ("/plain", "Grip-Channel: updates"),
        ("/reliable", "Grip-Channel: updates; prev-id=0"),
    ] {
        let fields = ["Content-Type: text/plain", "Grip-Hold: stream", channel];
        origin.serve(path, Answer::ok(&fields, "begin\n"));
    }
    let mut config = hub::config(&origin.url());
    config.slow_clients = Some(slow.to_owned());
    config.limits.publish_bytes = Some(100_000);
    config.limits.pending_bytes = Some(100_000);
    change(&mut config.limits);
    config.history.items = Some(ITEMS);
    config.history.bytes = Some(ITEMS * SIZE * 2);
    let hub = Hub::start_with(&config);
    (origin, hub)
}

/// A client that has seen the beginning, and reads no more for now.
async fn open(hub: &Hub, path: &str) -> Client {
    let mut client = Client::get(hub.addr(), path, &[]).await;
    client.stream_begins("begin\n").await;
    client
}

async fn publish(hub: &Hub) {
    for first in (1..=ITEMS).step_by(5) {
        let items = (first..first + 5).map(|id| {
            json!({
                "channel": "updates",
                "id": id.to_string(),
                "prev-id": (id - 1).to_string(),
                "http-stream": {"content": format!("{id:0SIZE$}\n")},
            })
        });
        hub.publish(Value::Array(items.collect())).await;
    }
}

/// The numbers of the items that a client gets, up to the last.
async fn read(client: &mut Client) -> Vec<usize> {
    let content = client.content_until(&format!("{ITEMS:0SIZE$}\n")).await;
    let lines = content.lines();
    lines
        .map(|line| line.parse().expect("items come whole"))
        .collect()
}

async fn dropped(hub: &Hub) -> u64 {
    hub.metric("gripline_dropped_items_total").await
}

#[tokio::test]
async fn where_ids_are_checked_a_slow_client_gets_everything_in_the_end() {
    for slow in ["drop-oldest", "latest-only"] {
        let (_origin, hub) = start(slow).await;
        let mut client = open(&hub, "/reliable").await;
        publish(&hub).await;
        let expected: Vec<usize> = (1..=ITEMS).collect();
        assert!(read(&mut client).await == expected, "{slow}");
        assert_eq!(dropped(&hub).await, 0, "{slow}");
        assert!(hub.metric("gripline_overflows_total").await > 0, "{slow}");
    }
}

#[tokio::test]
async fn elsewhere_it_loses_what_is_not_the_newest() {
    for slow in ["drop-oldest", "latest-only"] {
        let (_origin, hub) = start(slow).await;
        let mut client = open(&hub, "/plain").await;
        publish(&hub).await;
        let got = read(&mut client).await;
        assert!(got.is_sorted_by(|one, other| one < other), "{slow}");
        assert!(got.len() < ITEMS, "{slow}: {} items", got.len());
        assert_eq!(dropped(&hub).await, (ITEMS - got.len()) as u64, "{slow}");
    }
}

#[tokio::test]
async fn the_kernel_takes_little_more_than_it_can_send() {
    let mut counts = Vec::new();
    for bytes in [131_072, 0] {
        let limit = |limits: &mut RawLimits| limits.unsent_bytes = Some(bytes);
        let (_origin, hub) = start_with("latest-only", limit).await;
        let mut client = open(&hub, "/plain").await;
        publish(&hub).await;
        counts.push(read(&mut client).await.len());
    }
    assert!(counts[0] * 2 < counts[1], "{counts:?}");
}

#[tokio::test]
async fn by_default_it_is_disconnected() {
    let (_origin, hub) = start("disconnect").await;
    let _client = open(&hub, "/reliable").await;
    publish(&hub).await;
    hub.until_metric("gripline_slow_consumers_total", 1).await;
    hub.until_metric("gripline_held_streams", 0).await;
}
