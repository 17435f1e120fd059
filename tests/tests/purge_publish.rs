//! Purge with publish: the edge has forgotten a channel before clients hear its news.
//!
//! Where the order of things is at stake, a scripted origin stands in for the edge.

use e2e::chain::Chain;
use e2e::client::Client;
use e2e::edge::PURGE_KEY;
use e2e::hub::{Hub, config};
use e2e::now;
use e2e::origin::{Answer, Gate, Origin, Request};
use grip::signature::{Keyring, VerifyingKey, verify_purge_token};
use gripline_hub::config::RawPurge;
use serde_json::{Value, json};

const STREAM: [&str; 3] = [
    "Cache-Control: s-maxage=60",
    "Grip-Hold: stream",
    "Grip-Channel: updates, others",
];
const PURGE_PATH: &str = "/.gripline/purge";
const PURGES: &str = "gripline_purges_total";
const PURGE_ERRORS: &str = "gripline_purge_errors_total";

fn purge(edge: &str) -> RawPurge {
    RawPurge {
        edge: Some(edge.to_owned()),
        key: Some(PURGE_KEY.to_owned()),
        ..RawPurge::default()
    }
}

/// A hub that purges, with an origin that is edge as well, and a held client.
async fn start(change: impl FnOnce(&mut RawPurge)) -> (Origin, Hub, Client) {
    let origin = Origin::start().await;
    origin.serve("/stream", Answer::ok(&STREAM, "hi\n"));
    let mut config = config(&origin.url());
    let mut purge = purge(&origin.url());
    change(&mut purge);
    config.purge = Some(purge);
    let hub = Hub::start_with(&config);
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    (origin, hub, client)
}

fn item(channel: &str, content: &str) -> Value {
    json!({"channel": channel, "formats": {"http-stream": {"content": content}}})
}

fn purged_channels(request: &Request) -> Value {
    let body: Value = serde_json::from_slice(&request.body).expect("a purge is JSON");
    body["channels"].clone()
}

#[tokio::test]
async fn items_wait_for_the_edges_answer() {
    let (origin, hub, mut client) = start(|_| {}).await;
    let gate = Gate::new();
    let answer = Answer::ok(&[], "{\"purged\":1}").after(&gate);
    origin.serve(PURGE_PATH, answer);

    let publishing = hub.publish_stream("updates", "one\n");
    let opening = async {
        origin
            .until(PURGE_PATH, |purges| {
                purges.first().is_some_and(|purge| purge.is_complete)
            })
            .await;
        // The edge has not answered yet. An item that did not wait would have been sent by the
        // time that a whole other exchange is over.
        assert_eq!(hub.metric("gripline_deliveries_total").await, 0);
        client.is_quiet();
        gate.open();
    };
    tokio::join!(publishing, opening);
    client.receives("one\n").await;
    assert_eq!(hub.metric(PURGES).await, 1);
    assert_eq!(hub.metric(PURGE_ERRORS).await, 0);
}

#[tokio::test]
async fn purge_requests_are_signed_for_their_body() {
    let (origin, hub, mut client) = start(|_| {}).await;
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":2}"));
    hub.publish(json!([item("updates", "one\n"), item("others", "two\n")]))
        .await;
    client.receives_next("one\ntwo\n").await;
    let mut channels = Vec::new();
    for request in origin.requests(PURGE_PATH) {
        assert_eq!(request.method(), "POST");
        assert_eq!(request.field("Content-Type"), Some("application/json"));
        let token = request.field("Authorization").unwrap_or_default();
        let token = token.strip_prefix("Bearer ").expect("a bearer token");
        let key = VerifyingKey::hs256(PURGE_KEY.as_bytes()).expect("the key is good");
        let keys = Keyring::from(key);
        let verified = verify_purge_token(&keys, token, &request.body, now());
        assert_eq!(verified, Ok(()));
        assert!(verify_purge_token(&keys, token, b"another body", now()).is_err());
        channels.extend(
            purged_channels(&request)
                .as_array()
                .cloned()
                .unwrap_or_default(),
        );
    }
    assert_eq!(channels, [json!("updates"), json!("others")]);
    assert_eq!(hub.metric(PURGES).await, 2);
}

#[tokio::test]
async fn an_item_may_say_that_nothing_is_to_be_purged() {
    let (origin, hub, mut client) = start(|_| {}).await;
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":1}"));
    let mut quiet = item("updates", "one\n");
    quiet["purge"] = json!(false);
    hub.publish(json!([quiet])).await;
    client.receives("one\n").await;
    assert_eq!(origin.count(PURGE_PATH), 0);
    hub.publish(json!([item("updates", "two\n")])).await;
    client.receives("two\n").await;
    assert_eq!(origin.count(PURGE_PATH), 1);
}

#[tokio::test]
async fn an_item_may_ask_for_a_purge_where_none_is_usual() {
    let (origin, hub, mut client) = start(|purge| purge.default = Some(false)).await;
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":1}"));
    hub.publish(json!([item("updates", "one\n")])).await;
    client.receives("one\n").await;
    assert_eq!(origin.count(PURGE_PATH), 0);
    let mut purging = item("updates", "two\n");
    purging["purge"] = json!(true);
    hub.publish(json!([purging])).await;
    client.receives("two\n").await;
    assert_eq!(origin.count(PURGE_PATH), 1);
}

/// An item without a purge waits for those before it on its channel.
#[tokio::test]
async fn no_item_overtakes_another_of_its_channel() {
    let (origin, hub, mut client) = start(|_| {}).await;
    let gate = Gate::new();
    origin.serve(PURGE_PATH, Answer::ok(&[], "{\"purged\":1}").after(&gate));
    let mut second = item("updates", "second\n");
    second["purge"] = json!(false);
    let items = json!([item("updates", "first\n"), second]);
    let opening = async {
        origin.until_count(PURGE_PATH, 1).await;
        client.is_quiet();
        gate.open();
    };
    tokio::join!(hub.publish(items), opening);
    client.receives_next("first\nsecond\n").await;
}

#[tokio::test]
async fn an_edge_that_is_down_delays_nobody() {
    let (mut edge, _hub, _client) = start(|_| {}).await;
    let url = edge.url();
    edge.stop().await;
    let (_origin, hub, mut client) = start(|purge| purge.edge = Some(url)).await;
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    assert_eq!(hub.metric(PURGE_ERRORS).await, 1);
    assert_eq!(hub.metric(PURGES).await, 0);
}

#[tokio::test]
async fn an_edge_that_does_not_answer_delays_nobody_beyond_the_deadline() {
    let (origin, hub, mut client) = start(|purge| purge.deadline = Some("100ms".to_owned())).await;
    let never = Gate::new();
    origin.serve(PURGE_PATH, Answer::ok(&[], "{}").after(&never));
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    hub.publish_stream("updates", "two\n").await;
    client.receives("two\n").await;
    assert_eq!(hub.metric(PURGE_ERRORS).await, 2);
}

#[tokio::test]
async fn an_edge_that_refuses_delays_nobody() {
    let (origin, hub, mut client) = start(|_| {}).await;
    let refusal = Answer::status("401 Unauthorized", &[], "no\n");
    origin.serve(PURGE_PATH, refusal);
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    assert_eq!(hub.metric(PURGE_ERRORS).await, 1);
}

/// The real edge: whoever asks after hearing the news gets the news.
#[tokio::test]
async fn nobody_reads_the_old_value_after_hearing_of_the_new_one() {
    let chain = Chain::start().await;
    let answer = |round: usize| Answer::ok(&STREAM, &format!("{round}\n"));
    chain.origin.serve("/stream", answer(0));
    let mut client = chain.open("/stream").await;
    client.stream_begins("0\n").await;
    for round in 1..=20 {
        let value = format!("{round}\n");
        chain.origin.serve("/stream", answer(round));
        chain.hub.publish_stream("updates", &value).await;
        client.receives(&value).await;
        let mut next = chain.open("/stream").await;
        let head = next.stream_begins(&value).await;
        assert_eq!(head.field("X-Cache"), Some("miss"));
        assert_eq!(chain.origin.count("/stream"), round + 1);
    }
    assert_eq!(chain.hub.metric(PURGES).await, 20);
}

/// Channel names may be anything; the surrogate key of each is made of it.
#[tokio::test]
async fn channels_of_any_name_are_purged() {
    let chain = Chain::start().await;
    let long = "x".repeat(1000);
    for (number, name) in ["a b", "ü%/:", "gl-all", &long].into_iter().enumerate() {
        let path = format!("/{number}");
        let channel = format!("Grip-Channel: {name}");
        let fields = [STREAM[0], STREAM[1], &channel];
        chain.origin.serve(&path, Answer::ok(&fields, "hi\n"));
        let mut first = chain.open(&path).await;
        first.stream_begins("hi\n").await;
        chain.hub.publish_stream(name, "news\n").await;
        first.receives("news\n").await;
        let mut second = chain.open(&path).await;
        let head = second.stream_begins("hi\n").await;
        assert_eq!(head.field("X-Cache"), Some("miss"), "{name}");
    }
    assert_eq!(chain.hub.metric(PURGES).await, 4);
}
