//! `Grip-Keep-Alive`: signs of life on a silent stream. The shortest time between two is a second.

use e2e::client::Client;
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};

/// A client of a stream with this keep-alive, after the initial body.
async fn start(keep_alive: &str) -> (Origin, Hub, Client) {
    let origin = Origin::start().await;
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        &format!("Grip-Keep-Alive: {keep_alive}"),
    ];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let hub = Hub::start(&origin.url());
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    (origin, hub, client)
}

#[tokio::test]
async fn a_silent_stream_gets_keep_alives() {
    let (_origin, hub, mut client) = start(r"ping\n\n; format=cstring; timeout=1").await;
    client.receives("ping\n\n").await;
    client.receives("ping\n\n").await;
    assert!(hub.metric("gripline_keep_alives_total").await >= 2);
}

#[tokio::test]
async fn published_items_and_keep_alives_share_a_stream() {
    let (_origin, hub, mut client) =
        start(r"ping\n; format=cstring; timeout=4; mode=interval").await;
    hub.publish_stream("updates", "one\n").await;
    client.receives("one\n").await;
    client.receives("ping\n").await;
    hub.publish_stream("updates", "two\n").await;
    client.receives("two\n").await;
    client.receives("ping\n").await;
}

/// Items come every third of a second, for three times as long as the time that brings a
/// keep-alive.
#[tokio::test]
async fn an_idle_keep_alive_waits_for_silence() {
    let (_origin, hub, mut client) = start(r"ping\n; format=cstring; timeout=2; mode=idle").await;
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(330));
    for number in 0..18 {
        beat.tick().await;
        let item = format!("{number}\n");
        hub.publish_stream("updates", &item).await;
        client.receives(&item).await;
    }
    assert_eq!(hub.metric("gripline_keep_alives_total").await, 0);
    client.receives("ping\n").await;
}

/// As above, but the beat goes on whatever is published.
#[tokio::test]
async fn an_interval_keep_alive_does_not_wait_for_silence() {
    let (_origin, hub, mut client) =
        start(r"ping\n; format=cstring; timeout=1; mode=interval").await;
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(330));
    let mut content = String::new();
    while !content.contains("ping\n") {
        beat.tick().await;
        hub.publish_stream("updates", "x\n").await;
        content += &client.content_until("x\n").await;
    }
    let before = content.split("ping\n").next().unwrap_or_default();
    assert!(before.len() < 10 * "x\n".len(), "{content:?}");
}

#[tokio::test]
async fn bytes_may_be_written_in_three_ways() {
    for (keep_alive, expected) in [
        (r"ping\n; timeout=1", r"ping\n"),
        (r"a\\\x2f\r\n; format=cstring; timeout=1", "a\\/\r\n"),
        ("cGluZzsK; format=base64; timeout=1", "ping;\n"),
    ] {
        let (_origin, _hub, mut client) = start(keep_alive).await;
        client.receives(expected).await;
    }
}
