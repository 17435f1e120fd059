//! Pacing: many publishes to a channel become few, and nothing that counts is lost.
//!
//! Where exact numbers are at stake, windows are so long that they end by shutdown only.

use e2e::chain::Chain;
use e2e::client::Client;
use e2e::edge::PURGE_KEY;
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Gate, Origin};
use gripline_hub::config::{RawChannelRule, RawConfig, RawPurge};
use serde_json::{Value, json};

const STREAM: [&str; 3] = [
    "Cache-Control: s-maxage=60",
    "Grip-Hold: stream",
    "Grip-Channel: updates, others",
];
const PURGE_PATH: &str = "/.gripline/purge";
/// Longer than any test.
const FOR_EVER: &str = "1h";

fn rule(pattern: &str, pace: &str, keep: &str) -> RawChannelRule {
    RawChannelRule {
        pattern: Some(pattern.to_owned()),
        pace: Some(pace.to_owned()),
        keep: Some(keep.to_owned()),
        ..RawChannelRule::default()
    }
}

fn purge(edge: &str) -> RawPurge {
    RawPurge {
        edge: Some(edge.to_owned()),
        key: Some(PURGE_KEY.to_owned()),
        ..RawPurge::default()
    }
}

/// An origin that is edge as well.
async fn origin() -> Origin {
    let origin = Origin::start().await;
    origin.serve("/stream", Answer::ok(&STREAM, "hi\n"));
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":1}"));
    origin
}

/// A hub that purges, with these rules, and a held client.
async fn start(
    rules: &[RawChannelRule],
    change: impl FnOnce(&mut RawConfig),
) -> (Origin, Hub, Client) {
    let origin = origin().await;
    let mut config = config(&origin.url());
    config.channels = rules.to_vec();
    config.purge = Some(purge(&origin.url()));
    change(&mut config);
    let hub = Hub::start_with(&config);
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    (origin, hub, client)
}

fn item(channel: &str, content: &str) -> Value {
    json!({"channel": channel, "formats": {"http-stream": {"content": content}}})
}

/// `0` to `99`, each in a request of its own.
async fn publish_hundred(hub: &Hub, channel: &str) {
    for number in 0..100 {
        hub.publish_stream(channel, &format!("{number}\n")).await;
    }
}

fn lines(range: std::ops::Range<usize>) -> String {
    let lines: Vec<String> = range.map(|number| format!("{number}\n")).collect();
    lines.concat()
}

/// A publisher that got no answer sends its item again.
#[tokio::test]
async fn an_item_that_comes_twice_does_not_take_the_place_of_a_newer_one() {
    let (_origin, mut hub, mut client) = start(&[rule("up*", FOR_EVER, "latest")], |_| {}).await;
    let item = |id: &str| {
        let content = format!("{id}\n");
        json!({"channel": "updates", "id": id, "http-stream": {"content": content}})
    };
    for id in ["1", "2", "3", "2", "1"] {
        hub.publish(json!([item(id)])).await;
    }
    client.receives("1\n").await;
    assert_eq!(hub.metric("gripline_duplicate_items_total").await, 2);
    hub.shut_down();
    client.receives_next("3\n").await;
    client.ends().await;
    hub.ended().await;
}

#[tokio::test]
async fn a_burst_becomes_its_first_and_its_last_item_and_two_purges() {
    let (origin, mut hub, mut client) = start(&[rule("up*", FOR_EVER, "latest")], |_| {}).await;
    publish_hundred(&hub, "updates").await;
    client.receives("0\n").await;
    client.is_quiet();
    assert_eq!(hub.metric("gripline_purges_total").await, 1);
    assert_eq!(hub.metric("gripline_published_items_total").await, 100);
    assert_eq!(hub.metric("gripline_coalesced_items_total").await, 98);
    assert_eq!(hub.metric("gripline_waiting_items").await, 1);
    hub.shut_down();
    client.receives_next("99\n").await;
    assert_eq!(origin.count(PURGE_PATH), 2);
    client.ends().await;
    hub.ended().await;
}

#[tokio::test]
async fn with_all_kept_a_burst_arrives_whole_and_in_order() {
    let (origin, mut hub, mut client) = start(&[rule("up*", FOR_EVER, "all")], |_| {}).await;
    publish_hundred(&hub, "updates").await;
    client.receives("0\n").await;
    assert_eq!(hub.metric("gripline_waiting_items").await, 99);
    assert_eq!(hub.metric("gripline_coalesced_items_total").await, 0);
    hub.shut_down();
    client.receives_next(&lines(1..100)).await;
    assert_eq!(origin.count(PURGE_PATH), 2);
    client.ends().await;
    hub.ended().await;
}

#[tokio::test]
async fn the_last_item_comes_with_the_end_of_the_window() {
    let (origin, hub, mut client) = start(&[rule("*", "300ms", "latest")], |_| {}).await;
    publish_hundred(&hub, "updates").await;
    let content = client.content_until("\n99\n").await;
    assert!(content.starts_with("0\n"), "{content}");
    let numbers: Vec<u32> = content
        .lines()
        .map(|line| line.parse().expect(line))
        .collect();
    assert!(numbers.is_sorted(), "{content}");
    assert_eq!(hub.metric("gripline_waiting_items").await, 0);
    assert_eq!(hub.metric("gripline_oldest_waiting_milliseconds").await, 0);
    // One purge for each that arrived.
    let purges = hub.metric("gripline_purges_total").await;
    assert_eq!(purges, numbers.len() as u64);
    assert_eq!(origin.count(PURGE_PATH) as u64, purges);
}

#[tokio::test]
async fn channels_without_a_rule_are_not_paced() {
    let (origin, hub, mut client) = start(&[rule("updates", FOR_EVER, "latest")], |_| {}).await;
    for number in 0..3 {
        hub.publish_stream("others", &format!("{number}\n")).await;
    }
    client.receives_next("0\n1\n2\n").await;
    assert_eq!(origin.count(PURGE_PATH), 3);
}

#[tokio::test]
async fn a_rule_may_except_its_channels_from_purges() {
    let quiet = RawChannelRule {
        pattern: Some("updates".to_owned()),
        purge: Some(false),
        ..RawChannelRule::default()
    };
    let (origin, hub, mut client) = start(&[quiet], |_| {}).await;
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    assert_eq!(origin.count(PURGE_PATH), 0);
    hub.publish_stream("others", "two\n").await;
    client.receives("two\n").await;
    assert_eq!(origin.count(PURGE_PATH), 1);
}

#[tokio::test]
async fn pacing_needs_no_edge() {
    let rules = [rule("*", FOR_EVER, "latest")];
    let (origin, mut hub, mut client) = start(&rules, |config| config.purge = None).await;
    publish_hundred(&hub, "updates").await;
    client.receives("0\n").await;
    hub.shut_down();
    client.receives_next("99\n").await;
    client.ends().await;
    hub.ended().await;
    assert_eq!(origin.count(PURGE_PATH), 0);
}

/// The publisher's reply does not wait for the window; `matched` is for those who got the item.
#[tokio::test]
async fn a_publisher_is_told_at_once_that_its_item_waits() {
    let (_origin, hub, _client) = start(&[rule("*", FOR_EVER, "latest")], |_| {}).await;
    let body = json!({"items": [item("updates", "one\n")]}).to_string();
    for matched in [1, 0] {
        let reply = hub
            .post("/publish/", &["Accept: application/json"], &body)
            .await;
        let reply: Value = serde_json::from_str(&reply.text()).expect("JSON");
        assert_eq!(reply["matched"], matched, "{reply}");
    }
}

/// Ids that clients have from the origin while their items wait, or are replaced, are known.
#[tokio::test]
async fn content_from_the_middle_of_a_window_is_not_taken_for_old() {
    let rules = [rule("*", FOR_EVER, "latest")];
    let (origin, mut hub, mut first) = start(&rules, |config| config.purge = None).await;
    let stream = |id: usize| {
        let channel = format!("Grip-Channel: updates; prev-id={id}");
        let link = "Grip-Link: </next>; rel=next; timeout=3600";
        Answer::ok(&["Grip-Hold: stream", &channel, link], &format!("{id}\n"))
    };
    origin.serve("/next", stream(5));
    let publish = async |id: usize| {
        let mut item = item("updates", &format!("{id}\n"));
        item["id"] = json!(id.to_string());
        item["prev-id"] = json!((id - 1).to_string());
        hub.publish(json!([item])).await;
    };
    publish(1).await;
    first.receives("1\n").await;
    for id in 2..=4 {
        publish(id).await;
    }
    let mut clients = Vec::new();
    for id in [1, 2, 3] {
        origin.serve("/stream", stream(id));
        let mut client = Client::get(hub.addr(), "/stream", &[]).await;
        client.stream_begins(&format!("{id}\n")).await;
        clients.push(client);
    }
    hub.shut_down();
    for mut client in clients {
        client.receives_next("4\n").await;
        client.ends().await;
    }
    assert_eq!(origin.count("/next"), 0);
    first.receives_next("4\n").await;
    first.ends().await;
    hub.ended().await;
}

/// Sent at once, an item that closes would cut off what came before it.
#[tokio::test]
async fn a_close_stays_behind_what_came_before_it() {
    let (_origin, hub, mut client) = start(&[rule("*", "300ms", "latest")], |_| {}).await;
    let close = json!({"channel": "updates", "formats": {"http-stream": {"action": "close"}}});
    let items = ["1\n", "2\n", "3\n"].map(|content| item("updates", content));
    let [one, two, three] = items;
    hub.publish(json!([one, two, three, close])).await;
    client.receives_next("1\n3\n").await;
    client.ends().await;
}

#[tokio::test]
async fn what_waits_for_a_purge_survives_a_shutdown_too() {
    let (origin, mut hub, mut client) = start(&[rule("*", FOR_EVER, "all")], |_| {}).await;
    let gate = Gate::new();
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    hub.publish_stream("updates", "two\n").await;
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":1}").after(&gate));
    hub.shut_down();
    origin.until_count(PURGE_PATH, 2).await;
    client.is_quiet();
    gate.open();
    client.receives_next("two\n").await;
    client.ends().await;
    hub.ended().await;
}

#[tokio::test]
async fn an_edge_that_does_not_answer_keeps_a_shutdown_up_for_the_deadline_only() {
    let (origin, mut hub, mut client) = start(&[rule("*", FOR_EVER, "all")], |config| {
        let purge = config.purge.as_mut().expect("it purges");
        purge.deadline = Some("100ms".to_owned());
    })
    .await;
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    hub.publish_stream("updates", "two\n").await;
    let never = Gate::new();
    origin.serve(PURGE_PATH, Answer::ok(&[], "{}").after(&never));
    hub.shut_down();
    client.receives_next("two\n").await;
    client.ends().await;
    hub.ended().await;
}

#[tokio::test]
async fn a_channel_is_purged_once_more_after_its_last_purge() {
    let (origin, hub, mut client) = start(&[], |config| {
        let purge = config.purge.as_mut().expect("it purges");
        purge.repurge_after = Some("200ms".to_owned());
    })
    .await;
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    hub.until_metric("gripline_second_purges_total", 1).await;
    assert_eq!(hub.metric("gripline_purges_total").await, 1);
    assert_eq!(origin.count(PURGE_PATH), 2);
}

#[tokio::test]
async fn a_purge_that_failed_is_tried_again() {
    let (origin, hub, mut client) = start(&[], |_| {}).await;
    let refusal = Answer::status("503 Service Unavailable", &[], "no\n");
    origin.serve(PURGE_PATH, refusal);
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":1}"));
    hub.until_metric("gripline_purges_total", 1).await;
    assert!(hub.metric("gripline_purge_retries_total").await >= 1);
    assert_eq!(hub.metric("gripline_unpurged_items_total").await, 1);
}

/// More channels than may be purged in a second: their items go out all the same, and every
/// channel is purged in the end, once.
#[tokio::test]
async fn purges_over_the_rate_wait_and_items_do_not() {
    let (origin, hub, mut client) = start(&[], |config| {
        let purge = config.purge.as_mut().expect("it purges");
        purge.deadline = Some("100ms".to_owned());
        purge.repurge_after = Some("0s".to_owned());
        (purge.per_second, purge.burst) = (Some(10), Some(2));
    })
    .await;
    let mut items: Vec<Value> = (0..8).map(|n| item(&format!("c{n}"), "")).collect();
    items.push(item("updates", "one\n"));
    hub.publish(json!(items)).await;
    client.receives("one\n").await;
    assert!(hub.metric("gripline_unpurged_items_total").await > 0);
    hub.until_metric("gripline_purges_total", 9).await;
    let mut purged: Vec<String> = Vec::new();
    for request in origin.requests(PURGE_PATH) {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let channels = body["channels"].as_array().expect("a list").clone();
        purged.extend(channels.iter().map(ToString::to_string));
    }
    purged.sort();
    purged.dedup();
    assert_eq!(purged.len(), 9);
}

/// The fetch of an answer began before its channel was purged, and it was stored after that: only
/// the second purge gets rid of it.
#[tokio::test]
async fn an_answer_that_was_being_fetched_during_a_purge_does_not_stay() {
    let chain = Chain::start().await;
    let gate = Gate::new();
    let old = Answer::ok(&STREAM, "old\n").after(&gate);
    chain.origin.serve("/stream", old);
    let fetching = async {
        let mut client = chain.open("/stream").await;
        client.stream_begins("old\n").await;
        client
    };
    let publishing = async {
        chain.origin.until_count("/stream", 1).await;
        chain.origin.serve("/stream", Answer::ok(&STREAM, "new\n"));
        chain.hub.publish_stream("updates", "news\n").await;
        gate.open();
    };
    let (_client, ()) = tokio::join!(fetching, publishing);
    let mut next = chain.open("/stream").await;
    next.stream_begins("old\n").await;
    chain
        .hub
        .until_metric("gripline_second_purges_total", 1)
        .await;
    let mut next = chain.open("/stream").await;
    next.stream_begins("new\n").await;
}
