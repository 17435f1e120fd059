//! What a client has missed comes from the hub's history, and its origin is left alone.

use e2e::chain::Chain;
use e2e::client::Client;
use e2e::events::{self, GRIP, OPEN};
use e2e::origin::{Answer, Request};
use e2e::websocket::WebSocket;
use live_counter::stack::topology::Topology;
use serde_json::{Value, json};

const CACHED: &str = "Cache-Control: max-age=0, s-maxage=60, stale-if-error=600";
const CHANNEL: &str = "Grip-Channel: updates; prev-id=1";
const EVENTS: &str = "Content-Type: text/event-stream";
const LINK: &str = "Grip-Link: </next>; rel=next; timeout=3600";

/// An item that leaves the edge alone.
fn item(id: u32) -> Value {
    json!({
        "channel": "updates",
        "id": id.to_string(),
        "prev-id": (id - 1).to_string(),
        "purge": false,
        "http-stream": {"content": format!("data: {id}\n\n")},
        "http-response": {"body": format!("{id}\n")},
        "ws-message": {"content": id.to_string()},
    })
}

async fn publish(chain: &Chain, ids: &[u32]) {
    let items: Vec<Value> = ids.iter().copied().map(item).collect();
    chain.hub.publish(Value::Array(items)).await;
}

async fn start_in(topology: Topology) -> Chain {
    let ignore = json!({"last_event_id": "ignore"}).as_object().cloned();
    let chain = Chain::start_as(
        topology,
        |manifest| {
            let manifest = manifest.with_config(ignore.unwrap_or_default());
            manifest.expect("the configuration is JSON")
        },
        |hub| hub.sse_resume = Some(true),
    )
    .await;
    let stream = [CACHED, EVENTS, "Grip-Hold: stream", CHANNEL, LINK];
    chain
        .origin
        .serve("/stream", Answer::ok(&stream, "data: 1\n\n"));
    let poll = [CACHED, "Grip-Hold: response", CHANNEL];
    chain.origin.serve("/poll", Answer::ok(&poll, "nothing\n"));
    let next = [
        "Grip-Hold: stream",
        "Grip-Channel: updates; prev-id=9",
        LINK,
    ];
    chain
        .origin
        .serve("/next", Answer::ok(&next, "id: 9\ndata: 9\n\n"));
    chain
}

async fn start() -> Chain {
    start_in(Topology::HubFront).await
}

async fn back(chain: &Chain, last_event_id: &str) -> Client {
    let field = format!("Last-Event-ID: {last_event_id}");
    Client::get(chain.addr(), "/stream", &[field.as_str()]).await
}

#[tokio::test]
async fn a_stream_set_up_with_an_old_instruction_gets_what_came_since() {
    let chain = start().await;
    let mut first = chain.open("/stream").await;
    first.stream_begins("data: 1\n\n").await;
    publish(&chain, &[2, 3]).await;
    first
        .receives_next("id: 2\ndata: 2\n\nid: 3\ndata: 3\n\n")
        .await;
    let mut second = chain.open("/stream").await;
    let all = "data: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n";
    second.stream_begins(all).await;
    publish(&chain, &[4]).await;
    for client in [&mut first, &mut second] {
        client.receives_next("id: 4\ndata: 4\n\n").await;
    }
    assert_eq!(chain.origin.count("/stream"), 1);
    assert_eq!(chain.origin.count("/next"), 0);
    assert_eq!(chain.hub.metric("gripline_gaps_total").await, 0);
    assert_eq!(chain.hub.metric("gripline_replayed_items_total").await, 2);
}

#[tokio::test]
async fn a_message_between_two_polls_is_for_the_second_at_once() {
    let chain = start().await;
    let mut client = Client::connect(chain.addr()).await;
    client.request("GET", "/poll", &[], "").await;
    chain.hub.until_metric("gripline_held_responses", 1).await;
    publish(&chain, &[2]).await;
    client.response().await.check(200, "2\n");
    publish(&chain, &[3]).await;
    // The origin has said of this answer that the client has item 1; so it has missed 2 and 3, and
    // a poll gets one at a time.
    client.request("GET", "/poll", &[], "").await;
    client.response().await.check(200, "2\n");
    assert_eq!(chain.origin.count("/poll"), 1);
    assert_eq!(chain.hub.metric("gripline_retries_total").await, 0);
}

/// In either topology: first a client that comes back, then one whose last event nobody knows.
async fn check_resume(topology: Topology) {
    let chain = start_in(topology).await;
    let mut first = chain.open("/stream").await;
    first.stream_begins("data: 1\n\n").await;
    publish(&chain, &[2, 3, 4]).await;
    first.content_until("id: 4\ndata: 4\n\n").await;
    drop(first);
    let mut second = back(&chain, "3").await;
    second.stream_begins("id: 4\ndata: 4\n\n").await;
    publish(&chain, &[5]).await;
    second.receives_next("id: 5\ndata: 5\n\n").await;
    // This one has all there is.
    let mut third = back(&chain, "5").await;
    publish(&chain, &[6]).await;
    third.stream_begins("id: 6\ndata: 6\n\n").await;
    assert_eq!(chain.origin.count("/next"), 0);

    // What came after this one, the origin knows.
    let mut stranger = back(&chain, "x").await;
    stranger.stream_begins("id: 9\ndata: 9\n\n").await;
    let question = chain.origin.only_request("/next");
    assert_eq!(question.field("Grip-Last"), Some("updates; last-id=x"));
    for request in chain.origin.requests("/stream") {
        assert_eq!(request.field("Last-Event-ID"), None);
    }
}

#[tokio::test]
async fn events_are_resumed_behind_the_last_one_that_a_client_has() {
    check_resume(Topology::HubFront).await;
}

#[tokio::test]
async fn events_are_resumed_behind_an_edge_too() {
    check_resume(Topology::EdgeFront).await;
}

#[tokio::test]
async fn of_those_who_come_back_nobody_troubles_the_origin() {
    let chain = start().await;
    let mut first = chain.open("/stream").await;
    first.stream_begins("data: 1\n\n").await;
    publish(&chain, &[2, 3]).await;
    first.content_until("id: 3\ndata: 3\n\n").await;
    for _ in 0..20 {
        back(&chain, "2")
            .await
            .stream_begins("id: 3\ndata: 3\n\n")
            .await;
    }
    assert_eq!(chain.origin.count("/stream"), 1);
    assert_eq!(chain.origin.count("/next"), 0);
}

/// The backup copy's data is old by nature.
#[tokio::test]
async fn while_the_origin_is_down_old_data_is_brought_up_to_date() {
    let mut chain = start().await;
    let mut first = chain.open("/stream").await;
    first.stream_begins("data: 1\n\n").await;
    chain.origin.stop().await;
    let mut purging = item(2);
    purging["purge"] = Value::Bool(true);
    chain.hub.publish(json!([purging, item(3)])).await;
    first.content_until("id: 3\ndata: 3\n\n").await;
    let mut second = chain.open("/stream").await;
    let all = "data: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n";
    second.stream_begins(all).await;
    assert!(chain.hub.metric("gripline_stale_answers_total").await > 0);
}

#[tokio::test]
async fn a_websocket_gets_what_came_after_the_item_that_its_origin_names() {
    let chain = start().await;
    chain.origin.serve_with("/ws", |request: &Request| {
        if !events::opens(request) {
            return events::answer(&[], "");
        }
        let control = r#"c:{"type":"subscribe","channel":"updates","prev-id":"1"}"#;
        events::answer(&[GRIP], [OPEN, &events::text(control)].concat())
    });
    publish(&chain, &[2, 3]).await;
    let mut socket = WebSocket::open(chain.addr(), "/ws", &[]).await;
    socket.receives_text("2").await;
    socket.receives_text("3").await;
    publish(&chain, &[4]).await;
    socket.receives_text("4").await;
}

#[tokio::test]
async fn an_item_that_comes_twice_or_too_early_is_delivered_once_and_in_order() {
    let chain = start().await;
    let mut client = chain.open("/stream").await;
    client.stream_begins("data: 1\n\n").await;
    publish(&chain, &[2, 4, 2, 3, 4]).await;
    let rest = "id: 2\ndata: 2\n\nid: 3\ndata: 3\n\nid: 4\ndata: 4\n\n";
    client.receives_next(rest).await;
    publish(&chain, &[5]).await;
    client.receives_next("id: 5\ndata: 5\n\n").await;
    assert_eq!(chain.hub.metric("gripline_duplicate_items_total").await, 2);
    assert_eq!(chain.hub.metric("gripline_early_items_total").await, 1);
}
