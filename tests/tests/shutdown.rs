//! A hub that shuts down finishes what it has begun.

use e2e::client::{self, Client};
use e2e::hub::Hub;
use e2e::origin::{Answer, Gate, Origin};
use gripline_hub::config::RawChannelRule;
use serde_json::json;
use tokio::net::TcpStream;

async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    let stream = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&stream, "hi\n"));
    let poll = ["Grip-Hold: response", "Grip-Channel: updates"];
    origin.serve("/poll", Answer::ok(&poll, "nothing\n"));
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

#[tokio::test]
async fn everybody_gets_a_proper_end() {
    let (origin, mut hub) = start().await;
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "slow\n").after(&gate));
    let mut stream = Client::get(hub.addr(), "/stream", &[]).await;
    stream.stream_begins("hi\n").await;
    let mut old_stream = Client::connect(hub.addr()).await;
    old_stream.send("GET /stream HTTP/1.0\r\n\r\n").await;
    old_stream.stream_begins("hi\n").await;
    let mut poll = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric("gripline_held_responses", 1).await;
    let mut idle = Client::get(hub.addr(), "/plain", &[]).await;
    idle.response().await.check(200, "plain\n");
    let mut slow = Client::get(hub.addr(), "/slow", &[]).await;
    origin.until_count("/slow", 1).await;

    hub.shut_down();
    stream.ends().await;
    stream.is_closed_by_server().await;
    old_stream.is_closed_by_server().await;
    let response = poll.response().await;
    response.check(200, "nothing\n");
    assert_eq!(response.field("Connection"), Some("close"));
    poll.is_closed_by_server().await;
    idle.is_closed_by_server().await;

    // Still under way, and the control plane outlives the clients.
    hub.until_metric("gripline_held_streams", 0).await;
    let refused = TcpStream::connect(hub.addr()).await;
    assert!(refused.is_err(), "new clients are not accepted");
    slow.is_quiet();
    gate.open();
    slow.response().await.check(200, "slow\n");
    slow.is_closed_by_server().await;
    hub.ended().await;
    let refused = TcpStream::connect(hub.control()).await;
    assert!(refused.is_err(), "new publishers are not accepted");
}

#[tokio::test]
async fn items_that_wait_for_the_one_before_them_go_out_before_the_end() {
    let (origin, mut without_pacing) = start().await;
    let mut config = e2e::hub::config(&origin.url());
    config.channels = vec![RawChannelRule {
        pattern: Some("*".to_owned()),
        pace: Some("1h".to_owned()),
        ..RawChannelRule::default()
    }];
    let mut with_pacing = Hub::start_with(&config);
    for hub in [&mut without_pacing, &mut with_pacing] {
        let mut stream = Client::get(hub.addr(), "/stream", &[]).await;
        stream.stream_begins("hi\n").await;
        hub.publish(json!([
            {"channel": "updates", "id": "1", "http-stream": {"content": "1\n"}},
            {"channel": "updates", "id": "3", "prev-id": "2", "http-stream": {"content": "3\n"}},
        ]))
        .await;
        stream.receives("1\n").await;
        stream.is_quiet();
        hub.shut_down();
        stream.receives_next("3\n").await;
        stream.ends().await;
        hub.ended().await;
    }
}

#[tokio::test]
async fn the_drain_ends_in_time_even_if_an_origin_never_answers() {
    let (origin, _) = start().await;
    let gate = Gate::new();
    origin.serve("/never", Answer::ok(&[], "never\n").after(&gate));
    let mut config = e2e::hub::config(&origin.url());
    config.drain = Some("200ms".to_owned());
    let mut hub = Hub::start_with(&config);
    let mut never = Client::get(hub.addr(), "/never", &[]).await;
    origin.until_count("/never", 1).await;
    hub.shut_down();
    hub.ended().await;
    never.is_closed_by_server().await;
}

#[tokio::test]
async fn a_hold_that_is_asked_for_during_the_drain_ends_at_once() {
    let (origin, mut hub) = start().await;
    let gate = Gate::new();
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/late", Answer::ok(&fields, "hi\n").after(&gate));
    let mut late = Client::get(hub.addr(), "/late", &[]).await;
    origin.until_count("/late", 1).await;
    let mut stream = Client::get(hub.addr(), "/stream", &[]).await;
    stream.stream_begins("hi\n").await;
    hub.shut_down();
    stream.ends().await;
    gate.open();
    late.response().await.check(200, "hi\n");
    hub.ended().await;
}

#[tokio::test]
async fn a_hub_with_nothing_to_do_ends_at_once() {
    let (_origin, mut hub) = start().await;
    client::get(hub.addr(), "/plain", &[]).await;
    hub.shut_down();
    hub.ended().await;
}
