//! HTTP/1.0 clients: no chunks, and the end of the connection is the end of the body.

use e2e::client::Client;
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use serde_json::json;

async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    let stream = [
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        r"Grip-Keep-Alive: ping\n; format=cstring; timeout=4; mode=interval",
    ];
    origin.serve("/stream", Answer::ok(&stream, "hi\n"));
    let poll = ["Grip-Hold: response", "Grip-Channel: updates"];
    origin.serve("/poll", Answer::ok(&poll, "nothing\n"));
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n";
    origin.serve("/chunked", Answer::raw(chunked));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

async fn send(hub: &Hub, target: &str, fields: &str) -> Client {
    let mut client = Client::connect(hub.addr()).await;
    client
        .send(format!("GET {target} HTTP/1.0\r\n{fields}\r\n"))
        .await;
    client
}

#[tokio::test]
async fn a_stream_is_delimited_by_the_end_of_the_connection() {
    let (_origin, hub) = start().await;
    let mut client = send(&hub, "/stream", "").await;
    let head = client.stream_begins("hi\n").await;
    assert_eq!(head.field("Transfer-Encoding"), None);
    assert_eq!(head.field("Content-Length"), None);
    hub.publish_stream("updates", "x\n").await;
    client.receives("x\n").await;
    client.receives("ping\n").await;
    let close = json!({"action": "close"});
    hub.publish(json!([{"channel": "updates", "http-stream": close}]))
        .await;
    client.is_closed_by_server().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_with_a_length_and_closed() {
    let (_origin, hub) = start().await;
    let mut client = send(&hub, "/poll", "").await;
    hub.until_metric("gripline_held_responses", 1).await;
    hub.publish(json!([{"channel": "updates", "http-response": {"body": "news\n"}}]))
        .await;
    let response = client.response().await;
    response.check(200, "news\n");
    assert_eq!(response.field("Content-Length"), Some("5"));
    client.is_closed_by_server().await;
}

#[tokio::test]
async fn a_connection_that_the_client_wants_to_keep_is_kept() {
    let (_origin, hub) = start().await;
    let keep = "Connection: keep-alive\r\n";
    let mut client = send(&hub, "/plain", keep).await;
    client.response().await.check(200, "plain\n");
    client
        .send(format!("GET /poll HTTP/1.0\r\n{keep}\r\n"))
        .await;
    hub.until_metric("gripline_held_responses", 1).await;
    hub.publish(json!([{"channel": "updates", "http-response": {"body": "news\n"}}]))
        .await;
    client.response().await.check(200, "news\n");
    client.send("GET /plain HTTP/1.0\r\n\r\n").await;
    client.response().await.check(200, "plain\n");
    client.is_closed_by_server().await;
}

#[tokio::test]
async fn a_chunked_body_of_the_origin_arrives_without_chunks() {
    let (origin, hub) = start().await;
    let mut client = send(&hub, "/chunked", "").await;
    let response = client.response().await;
    response.check(200, "one\ntwo\n");
    assert_eq!(response.field("Transfer-Encoding"), None);
    let request = origin.only_request("/chunked");
    assert_eq!(request.head.start(), "GET /chunked HTTP/1.1");
    assert_eq!(request.field("Host"), Some("localhost"));
}
