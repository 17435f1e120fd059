//! Ids and links through the edge's cache: what a cached instruction is too old for comes from the
//! origin, asked once for all who miss it.

use e2e::chain::Chain;
use e2e::origin::Answer;
use live_counter::stack::topology::Topology;
use serde_json::{Value, json};

const CACHED: &str = "Cache-Control: max-age=0, s-maxage=60";
const LINK: &str = "Grip-Link: </next>; rel=next; timeout=3600";

fn stream(channel: &str, body: &str) -> Answer {
    Answer::ok(&[CACHED, "Grip-Hold: stream", channel, LINK], body)
}

/// An item that leaves the edge alone.
fn item(id: &str, prev_id: &str) -> Value {
    json!({
        "channel": "updates",
        "id": id,
        "prev-id": prev_id,
        "purge": false,
        "http-stream": {"content": format!("{id}\n")},
        "http-response": {"body": format!("{id}\n")},
    })
}

#[tokio::test]
async fn streams_set_up_by_the_edge_share_one_question_about_what_they_miss() {
    let chain = Chain::start().await;
    chain
        .origin
        .serve("/stream", stream("Grip-Channel: updates; prev-id=1", "1\n"));
    chain.origin.serve(
        "/next",
        stream("Grip-Channel: updates; prev-id=4", "3\n4\n"),
    );
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = chain.open("/stream").await;
        client.stream_begins("1\n").await;
        clients.push(client);
    }
    assert_eq!(chain.origin.count("/stream"), 1);

    chain
        .hub
        .publish(json!([item("2", "1"), item("4", "3")]))
        .await;
    for client in &mut clients {
        client.receives_next("2\n3\n4\n").await;
    }
    let question = chain.origin.only_request("/next");
    assert_eq!(question.field("Grip-Last"), Some("updates; last-id=2"));

    chain.hub.publish(json!([item("5", "4")])).await;
    for client in &mut clients {
        client.receives("5\n").await;
    }
    assert_eq!(chain.origin.count("/next"), 1);
    assert_eq!(chain.hub.metric("gripline_gaps_total").await, 20);
}

/// A chain whose hub remembers no items.
async fn start_forgetful() -> Chain {
    Chain::start_as(
        Topology::HubFront,
        |manifest| manifest,
        |hub| hub.history.items = Some(0),
    )
    .await
}

#[tokio::test]
async fn a_client_that_comes_with_an_old_cached_answer_is_brought_up_to_date() {
    let chain = start_forgetful().await;
    chain
        .origin
        .serve("/stream", stream("Grip-Channel: updates; prev-id=1", "1\n"));
    chain
        .origin
        .serve("/next", stream("Grip-Channel: updates; prev-id=2", "2\n"));
    let mut first = chain.open("/stream").await;
    first.stream_begins("1\n").await;
    chain.hub.publish(json!([item("2", "1")])).await;
    first.receives("2\n").await;

    // The edge still has the answer from before.
    let mut second = chain.open("/stream").await;
    second.stream_begins("1\n").await;
    second.receives("2\n").await;
    let question = chain.origin.only_request("/next");
    assert_eq!(question.field("Grip-Last"), Some("updates; last-id=1"));
    chain.hub.publish(json!([item("3", "2")])).await;
    first.receives("3\n").await;
    second.receives("3\n").await;
}

#[tokio::test]
async fn a_long_poll_with_an_old_cached_answer_is_asked_again_past_the_cache() {
    let chain = start_forgetful().await;
    let poll = |channel| Answer::ok(&[CACHED, "Grip-Hold: response", channel], "nothing\n");
    chain
        .origin
        .serve("/poll", poll("Grip-Channel: updates; prev-id=1"));
    let mut first = chain.open("/poll").await;
    chain.hub.until_metric("gripline_held_responses", 1).await;
    chain.hub.publish(json!([item("2", "1")])).await;
    first.response().await.check(200, "2\n");

    chain
        .origin
        .serve("/poll", Answer::ok(&["Grip-Channel: updates"], "2 again\n"));
    let response = chain.get("/poll").await;
    response.check(200, "2 again\n");
    // The edge finds out that its copy is old, and fetches another.
    chain.origin.until_count("/poll", 3).await;
    let requests = chain.origin.requests("/poll");
    let last: Vec<_> = requests.iter().map(|it| it.field("Grip-Last")).collect();
    assert_eq!(last, [None, Some("updates; last-id=1"), None]);
}
