//! `Grip-Hold: stream`: the answer stays open, and published content is appended to it.

use e2e::client::{self, Client};
use e2e::hub::Hub;
use e2e::origin::{Answer, Gate, Origin};
use serde_json::json;

const STREAM: [&str; 2] = ["Grip-Hold: stream", "Grip-Channel: updates"];

async fn start(fields: &[&str]) -> (Origin, Hub) {
    let origin = Origin::start().await;
    let fields = [&STREAM[..], fields].concat();
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

#[tokio::test]
async fn a_stream_is_head_body_items_and_an_end() {
    let (origin, hub) = start(&["Content-Type: text/plain"]).await;
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    let head = client.stream_begins("hi\n").await;
    assert_eq!(head.field("Content-Type"), Some("text/plain"));
    assert_eq!(head.field("Transfer-Encoding"), Some("chunked"));
    assert_eq!(head.field("Content-Length"), None);
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    client.is_quiet();

    hub.publish_stream("updates", "x\n").await;
    client.receives("x\n").await;
    let close = json!({"action": "close", "content": ""});
    hub.publish(json!([{"channel": "updates", "http-stream": close}]))
        .await;
    client.ends().await;
    hub.until_metric("gripline_held_streams", 0).await;

    // The connection is good for more.
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    client.request("GET", "/plain", &[], "").await;
    client.response().await.check(200, "plain\n");
}

#[tokio::test]
async fn status_and_reason_are_the_origins_or_those_of_grip_status() {
    let (origin, hub) = start(&["Grip-Status: 202 Soon"]).await;
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    assert_eq!(client.head().await.start(), "HTTP/1.1 202 Soon");

    let answer = Answer::status("404 Not Yet", &STREAM, "hi\n");
    origin.serve("/missing", answer);
    let mut client = Client::get(hub.addr(), "/missing", &[]).await;
    assert_eq!(client.head().await.start(), "HTTP/1.1 404 Not Yet");
    client.receives("hi\n").await;
    hub.publish_stream("updates", "x\n").await;
    client.receives("x\n").await;
}

#[tokio::test]
async fn a_stream_hears_all_of_its_channels_and_no_other() {
    let (_origin, hub) = start(&["Grip-Channel: second, third; filter=unknown"]).await;
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    for channel in ["updates", "other", "second", "unknown", "third"] {
        hub.publish_stream(channel, &format!("{channel}\n")).await;
    }
    client.receives_next("updates\nsecond\nthird\n").await;
    client.is_quiet();
}

#[tokio::test]
async fn binary_content_arrives_as_it_was() {
    let (_origin, hub) = start(&[]).await;
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    let format = json!({"content-bin": "AAH/DQo="});
    hub.publish(json!([{"channel": "updates", "formats": {"http-stream": format}}]))
        .await;
    let piece = client.piece().await;
    assert_eq!(piece.as_deref(), Some(&b"\x00\x01\xff\r\n"[..]));
}

/// Publisher and client race for the broker, so this is tried many times.
#[tokio::test]
async fn a_late_stream_gets_no_old_items() {
    let (_origin, hub) = start(&[]).await;
    for _ in 0..100 {
        hub.publish_stream("updates", "old\n").await;
        let mut client = Client::get(hub.addr(), "/stream", &[]).await;
        client.stream_begins("hi\n").await;
        hub.publish_stream("updates", "new\n").await;
        client.receives("new\n").await;
    }
}

#[tokio::test]
async fn a_hold_without_channels_is_held_all_the_same() {
    let (origin, hub) = start(&[]).await;
    origin.serve("/bare", Answer::ok(&["Grip-Hold: stream"], "hi\n"));
    let mut client = Client::get(hub.addr(), "/bare", &[]).await;
    client.stream_begins("hi\n").await;
    hub.until_metric("gripline_held_streams", 1).await;
    client.is_quiet();
}

#[tokio::test]
async fn head_requests_are_never_held() {
    let (origin, hub) = start(&[]).await;
    origin.serve(
        "/stream",
        Answer::begin("200 OK", &[&STREAM[..], &["Content-Length: 3"]].concat()),
    );
    let response = client::request(hub.addr(), "HEAD", "/stream", &[], "").await;
    response.check(200, "");
    assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
    assert_eq!(hub.metric("gripline_held_streams").await, 0);
}

#[tokio::test]
async fn a_stream_whose_client_leaves_is_forgotten() {
    let (_origin, hub) = start(&[]).await;
    let mut first = Client::get(hub.addr(), "/stream", &[]).await;
    let mut second = Client::get(hub.addr(), "/stream", &[]).await;
    first.stream_begins("hi\n").await;
    second.stream_begins("hi\n").await;
    drop(first);
    hub.until_metric("gripline_held_streams", 1).await;
    hub.publish_stream("updates", "x\n").await;
    second.receives("x\n").await;
    assert_eq!(hub.metric("gripline_deliveries_total").await, 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let (origin, _) = start(&[]).await;
    let mut config = e2e::hub::config(&origin.url());
    config.limits.pending_bytes = Some(100_000);
    config.limits.publish_bytes = Some(100_000);
    let hub = Hub::start_with(&config);
    let mut reader = Client::get(hub.addr(), "/stream", &[]).await;
    let mut sleeper = Client::get(hub.addr(), "/stream", &[]).await;
    reader.stream_begins("hi\n").await;
    sleeper.stream_begins("hi\n").await;

    // More than the kernel's buffers and the outbox take together.
    let item = format!("{}\n", "x".repeat(50_000));
    while hub.metric("gripline_slow_consumers_total").await == 0 {
        hub.publish_stream("updates", &item).await;
        reader.receives(&item).await;
    }
    hub.until_metric("gripline_held_streams", 1).await;
    sleeper.breaks_off().await;
    hub.publish_stream("updates", "still here\n").await;
    reader.receives("still here\n").await;
}

#[tokio::test]
async fn a_large_body_is_passed_on_and_then_held() {
    let origin = Origin::start().await;
    let content = "x".repeat(300_000);
    let gate = Gate::new();
    let length = format!("Content-Length: {}", 2 * content.len());
    let fields = [&STREAM[..], &[&length]].concat();
    let answer = Answer::begin("200 OK", &fields)
        .then(&content)
        .waiting_for(&gate)
        .then(&content);
    origin.serve("/large", answer);
    let hub = Hub::start(&origin.url());
    let mut client = Client::get(hub.addr(), "/large", &[]).await;
    client.head().await;
    client.receives_next(&content).await;
    // What is published amid the body follows it.
    hub.publish_stream("updates", "item\n").await;
    gate.open();
    client.receives_next(&content).await;
    client.receives("item\n").await;
    hub.publish_stream("updates", "another\n").await;
    client.receives("another\n").await;
}

#[tokio::test]
async fn a_large_body_that_breaks_off_reaches_the_client_so() {
    let origin = Origin::start().await;
    let fields = [&STREAM[..], &["Content-Length: 300000"]].concat();
    let answer = Answer::begin("200 OK", &fields)
        .then("x".repeat(200_000))
        .close();
    origin.serve("/large", answer);
    let hub = Hub::start(&origin.url());
    let mut client = Client::get(hub.addr(), "/large", &[]).await;
    client.head().await;
    client.breaks_off().await;
    hub.until_metric("gripline_held_streams", 0).await;
}
