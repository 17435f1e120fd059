//! Many streams with one link: the origin is asked once for all of them.

use e2e::client::Client;
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use serde_json::json;

const STREAMS: usize = 2000;
/// Streams that are opened at a time.
const TOGETHER: usize = 100;
/// Beats that are counted.
const BEATS: usize = 3;
const FOLLOWED: &str = "gripline_links_followed_total";

async fn start() -> (Origin, Hub, Vec<Client>) {
    let origin = Origin::start().await;
    let hold = [
        "Grip-Hold: stream",
        "Grip-Channel: updates; prev-id=0",
        "Grip-Link: </next>; rel=next; timeout=2",
    ];
    origin.serve("/stream", Answer::ok(&hold, "begin\n"));
    // Ids are checked by the hub alone: what the origin says does not change them.
    origin.serve("/next", Answer::ok(&hold, ""));
    let hub = Hub::start(&origin.url());
    let mut clients = Vec::with_capacity(STREAMS);
    while clients.len() < STREAMS {
        let mut opening = Vec::with_capacity(TOGETHER);
        for _ in 0..TOGETHER {
            opening.push(Client::get(hub.addr(), "/stream", &[]).await);
        }
        for mut client in opening {
            client.stream_begins("begin\n").await;
            clients.push(client);
        }
    }
    (origin, hub, clients)
}

async fn until_followed(hub: &Hub, count: u64) {
    while hub.metric(FOLLOWED).await < count {}
}

#[tokio::test]
async fn two_thousand_streams_cost_one_request_a_beat() {
    let (origin, hub, mut clients) = start().await;
    // A request is sent a while after its streams have asked for it, and long before the next beat.
    let first = origin.count("/next") + 1;
    origin.until_count("/next", first).await;
    let followed_before = hub.metric(FOLLOWED).await;
    origin.until_count("/next", first + BEATS).await;
    let followed = hub.metric(FOLLOWED).await - followed_before;
    // All streams of both shards are behind each request.
    assert!(
        followed >= (BEATS * STREAMS) as u64,
        "{BEATS} requests for {followed} streams"
    );
    assert_eq!(
        hub.metric("gripline_errands_total").await,
        origin.count("/next") as u64
    );
    for client in &mut clients {
        client.is_quiet();
    }
}

#[tokio::test]
async fn items_that_come_while_links_are_followed_arrive_once_and_in_order() {
    let (origin, hub, mut clients) = start().await;
    let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
    let link = "Grip-Link: </next>; rel=next; timeout=2";
    origin.serve("/next", Answer::ok(&[&hold[..], &[link]].concat(), ""));
    let beat = hub.metric(FOLLOWED).await + STREAMS as u64;
    until_followed(&hub, beat + STREAMS as u64).await;
    let mut expected = String::new();
    // A hint is an item as well, and a hundred may wait for each stream.
    for number in 0..50 {
        let content = format!("{number:03}\n");
        let hint = json!({"channel": "updates", "http-stream": {"action": "hint"}});
        let item = json!({"channel": "updates", "http-stream": {"content": content}});
        hub.publish(json!([item, hint])).await;
        expected += &content;
    }
    for client in &mut clients {
        client.receives(&expected).await;
    }
    assert_eq!(hub.metric("gripline_backlog_dropped_total").await, 0);
}
