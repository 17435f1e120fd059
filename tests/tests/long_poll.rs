//! `Grip-Hold: response`: a request waits for a publish, or for its time to be up.

use e2e::client::{self, Client};
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use serde_json::json;

const HELD: &str = "gripline_held_responses";

async fn start(fields: &[&str], body: &str) -> (Origin, Hub) {
    let origin = Origin::start().await;
    let hold = ["Grip-Hold: response", "Grip-Channel: updates"];
    origin.serve("/poll", Answer::ok(&[&hold[..], fields].concat(), body));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

#[tokio::test]
async fn a_publish_answers_everybody_who_waits() {
    let (origin, hub) = start(&[], "nothing\n").await;
    let mut first = Client::get(hub.addr(), "/poll", &[]).await;
    let mut second = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric(HELD, 2).await;
    first.is_quiet();

    let answer = json!({"code": 201, "reason": "Made", "body": "news\n"});
    let item = json!({"channel": "updates", "formats": {"http-response": answer}});
    hub.publish(json!([item])).await;

    for client in [&mut first, &mut second] {
        let response = client.response().await;
        assert_eq!(response.head.start(), "HTTP/1.1 201 Made");
        response.check(201, "news\n");
        assert_eq!(response.field("Content-Length"), Some("5"));
        assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
    }
    assert_eq!(origin.count("/poll"), 2);
    hub.until_metric(HELD, 0).await;
}

#[tokio::test]
async fn an_answer_keeps_the_fields_that_the_publish_does_not_set() {
    let fields = ["Content-Type: application/json", "ETag: \"1\""];
    let (_origin, hub) = start(&fields, "{\"a\":1}\n").await;
    let mut client = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric(HELD, 1).await;

    let message = json!({"headers": {"etag": "\"2\"", "Grip-Hold": "stream"}, "body": "{}\n"});
    let item = json!({"channel": "updates", "http-response": message});
    hub.publish(json!([item])).await;

    let response = client.response().await;
    response.check(200, "{}\n");
    assert_eq!(response.field("Content-Type"), Some("application/json"));
    assert_eq!(response.head.values("ETag"), ["\"2\""]);
    assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
}

#[tokio::test]
async fn items_that_are_for_others_do_not_answer() {
    let (_origin, hub) = start(&[], "nothing\n").await;
    let mut client = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric(HELD, 1).await;

    let response = |body: &str| json!({"http-response": {"body": body}});
    hub.publish(json!([
        {"channel": "other", "formats": response("another channel\n")},
        {"channel": "Updates", "formats": response("names have a case\n")},
        {"channel": "updates", "formats": {"http-stream": {"content": "for streams\n"}}},
        {"channel": "updates", "formats": {"http-response": {"action": "close"}}},
        {"channel": "updates", "formats": response("this one\n")},
        {"channel": "updates", "formats": response("one too many\n")},
    ]))
    .await;

    client.response().await.check(200, "this one\n");
    client.request("GET", "/poll", &[], "").await;
    hub.until_metric(HELD, 1).await;
    client.is_quiet();
}

#[tokio::test]
async fn a_connection_serves_the_next_request_after_an_answer() {
    let (origin, hub) = start(&[], "nothing\n").await;
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    let mut client = Client::connect(hub.addr()).await;
    for round in ["one\n", "two\n"] {
        client.request("GET", "/poll", &[], "").await;
        hub.until_metric(HELD, 1).await;
        let item = json!({"channel": "updates", "http-response": {"body": round}});
        hub.publish(json!([item])).await;
        client.response().await.check(200, round);
    }
    client.request("GET", "/plain", &[], "").await;
    client.response().await.check(200, "plain\n");
    assert_eq!(hub.metric("gripline_connections_total").await, 1);
}

#[tokio::test]
async fn a_request_sent_ahead_is_answered_after_the_hold() {
    let (origin, hub) = start(&[], "nothing\n").await;
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    let mut client = Client::get(hub.addr(), "/poll", &[]).await;
    client.request("GET", "/plain", &[], "").await;
    hub.until_metric(HELD, 1).await;
    assert_eq!(origin.count("/plain"), 0);

    let item = json!({"channel": "updates", "http-response": {"body": "news\n"}});
    hub.publish(json!([item])).await;
    client.response().await.check(200, "news\n");
    client.response().await.check(200, "plain\n");
}

/// Takes the five seconds that are the shortest time there is.
#[tokio::test]
async fn when_time_is_up_the_instructed_answer_goes_out() {
    let (origin, hub) = start(&["Grip-Timeout: 5", "ETag: \"1\""], "nothing\n").await;
    let fields = [
        "Grip-Hold: response",
        "Grip-Channel: updates",
        "Grip-Timeout: 0",
        "Grip-Status: 304",
        "ETag: \"1\"",
    ];
    origin.serve("/conditional", Answer::ok(&fields, "nothing\n"));
    let mut plain = Client::get(hub.addr(), "/poll", &[]).await;
    let mut conditional = Client::get(hub.addr(), "/conditional", &[]).await;

    let response = plain.response().await;
    response.check(200, "nothing\n");
    assert_eq!(response.field("ETag"), Some("\"1\""));
    let response = conditional.response().await;
    assert_eq!(response.head.start(), "HTTP/1.1 304 Not Modified");
    response.check(304, "");
    assert_eq!(response.field("ETag"), Some("\"1\""));
    assert_eq!(response.field("Content-Length"), None);
    assert_eq!(response.head.names_beginning("grip-"), [""; 0]);

    assert_eq!(hub.metric("gripline_timeouts_total").await, 2);
    // Both still serve.
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    for client in [&mut plain, &mut conditional] {
        client.request("GET", "/plain", &[], "").await;
        client.response().await.check(200, "plain\n");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let (_origin, hub) = start(&[], "nothing\n").await;
    let client = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric(HELD, 1).await;
    drop(client);
    hub.until_metric(HELD, 0).await;
    assert_eq!(hub.metric("gripline_clients_gone_total").await, 1);
}

#[tokio::test]
async fn only_exposed_fields_reach_the_client() {
    let fields = [
        "Grip-Expose-Headers: etag, content-type",
        "Content-Type: text/plain",
        "ETag: \"1\"",
        "X-Inside: secret",
    ];
    let (origin, hub) = start(&fields, "nothing\n").await;
    let mut client = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric(HELD, 1).await;
    let item = json!({"channel": "updates", "http-response": {"body": "news\n"}});
    hub.publish(json!([item])).await;
    let response = client.response().await;
    assert_eq!(response.field("Content-Type"), Some("text/plain"));
    assert_eq!(response.field("ETag"), Some("\"1\""));
    assert_eq!(response.field("X-Inside"), None);

    // Instructions without a hold are followed as well.
    origin.serve("/now", Answer::ok(&fields, "now\n"));
    let response = client::get(hub.addr(), "/now", &[]).await;
    response.check(200, "now\n");
    assert_eq!(response.field("X-Inside"), None);
    assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
}
