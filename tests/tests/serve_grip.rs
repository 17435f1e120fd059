//! An Express application with the unchanged @fanoutio/serve-grip, behind the hub.
//!
//! The libraries come from their registry, so `.ci/run` installs them and runs these tests.

use e2e::client::{self, Client};
use e2e::program::{Program, Served};
use serde_json::{Value, json};

async fn start() -> Served {
    let program = Program::node("node/express.mjs", &[]).await;
    program.behind_hub().await
}

/// Opens a stream, and reads what it begins with.
async fn stream(served: &Served, target: &str) -> Client {
    let mut client = served.open(target, &[]).await;
    let head = client.stream_begins("begin\n").await;
    assert_eq!(
        head.field("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    client
}

/// Opens a long-poll and waits until it is held.
async fn poll(served: &Served) -> Client {
    let client = served.open("/poll", &[]).await;
    served.hub.until_metric("gripline_held_responses", 1).await;
    client
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn a_stream_gets_what_the_application_publishes_until_it_is_closed() {
    let served = start().await;
    let mut first = stream(&served, "/stream").await;
    let mut second = stream(&served, "/stream").await;
    let item = json!({"channel": "news", "stream": "ä\n", "response": "not this"});
    served.tell("/publish", &item).await;
    served.tell("/bytes", &json!({"bytes": [0, 255, 10]})).await;
    served.tell("/close", &json!({})).await;
    for client in [&mut first, &mut second] {
        client.receives("ä\n").await;
        assert_eq!(client.piece().await, Some(vec![0, 255, 10]));
        client.ends().await;
    }
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn a_long_poll_is_answered_by_what_the_application_publishes() {
    let served = start().await;
    let mut client = poll(&served).await;
    let item = json!({"channel": "news", "stream": "not this", "response": "[1]"});
    served.tell("/publish", &item).await;
    let answer = client.response().await;
    answer.check(201, "[1]");
    assert_eq!(answer.head.start(), "HTTP/1.1 201 Well");
    assert_eq!(answer.field("X-By"), Some("javascript"));
    let content_type = answer.field("Content-Type");
    assert_eq!(content_type, Some("application/json; charset=utf-8"));
    assert_eq!(answer.head.names_beginning("grip-"), [""; 0]);
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn a_long_poll_may_be_answered_by_bytes() {
    let served = start().await;
    let mut client = poll(&served).await;
    served.tell("/bytes", &json!({"bytes": [0, 255, 10]})).await;
    assert_eq!(client.response().await.body, [0, 255, 10]);
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn a_long_poll_without_news_ends_with_its_own_answer() {
    let served = start().await;
    let answer = client::get(served.hub.addr(), "/poll/short", &[]).await;
    answer.check(200, r#"{"news":[]}"#);
    let stale = ["If-None-Match: \"0\""];
    let answer = client::get(served.hub.addr(), "/poll/fresh", &stale).await;
    answer.check(200, r#"{"news":[]}"#);
    let fresh = ["If-None-Match: \"1\""];
    let answer = client::get(served.hub.addr(), "/poll/fresh", &fresh).await;
    answer.check(304, "");
    assert_eq!(answer.field("ETag"), Some("\"1\""));
    assert_eq!(served.hub.metric("gripline_timeouts_total").await, 3);
}

async fn check_kept(target: &str, keep_alive: &str) {
    let served = start().await;
    let mut client = stream(&served, target).await;
    client.receives_next(keep_alive).await;
    client.receives_next(keep_alive).await;
    let item = json!({"channel": "news", "stream": "hello\n"});
    served.tell("/publish", &item).await;
    client.receives_next("hello\n").await;
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn keep_alives_are_written_as_the_library_escapes_them() {
    check_kept("/kept", ":\\ \t\r\n").await;
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn keep_alives_may_be_bytes() {
    check_kept("/kept/bytes", ";\n").await;
}

/// Numbers in the order in which the application got them.
fn numbers(range: impl IntoIterator<Item = u32>) -> String {
    let line = |text: String, number| text + &format!("{number}\n");
    range.into_iter().fold(String::new(), line)
}

async fn send(served: &Served, range: impl IntoIterator<Item = u32>, is_lost: &Value) {
    let number = |number| json!({"number": number, "isLost": is_lost});
    let order: Value = range.into_iter().map(number).collect();
    served.tell("/numbers", &order).await;
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn a_reliable_stream_follows_links_to_what_it_lacks() {
    let (sent, lost) = (json!(false), json!(true));
    let served = start().await;
    send(&served, 1..=5, &sent).await;
    let mut behind = served.open("/numbers?after=0", &[]).await;
    assert_eq!(client::status(&behind.head().await), 200);
    behind.receives(&numbers(1..=5)).await;
    send(&served, 6..=7, &sent).await;
    behind.receives(&numbers(6..=7)).await;
    assert_eq!(served.hub.metric("gripline_gaps_total").await, 0);
    send(&served, 8..=12, &lost).await;
    send(&served, [13], &sent).await;
    behind.receives(&numbers(8..=13)).await;
    send(&served, [14], &lost).await;
    served.recover().await;
    behind.receives(&numbers([14])).await;
    send(&served, [15], &sent).await;
    behind.receives(&numbers([15])).await;
}

#[track_caller]
fn check_grip(text: &str, expected: &Value) {
    let found: Value = serde_json::from_str(text).expect("it is JSON");
    assert_eq!(found, *expected);
}

#[tokio::test]
#[ignore = "needs serve-grip, see .ci/run"]
async fn the_library_knows_the_hub_by_its_signature_and_nobody_else() {
    let served = start().await;
    let hub = client::get(served.hub.addr(), "/grip", &["Grip-Sig: forged"]).await;
    let known = json!({"isProxied": true, "isSigned": true, "needsSigned": true});
    let mut expected = known.clone();
    expected["found"] = known;
    check_grip(&hub.text(), &expected);
    let direct = client::get(served.origin(), "/grip", &[]).await;
    let found = json!({"isProxied": false, "isSigned": false, "needsSigned": false});
    let mut expected = found.clone();
    expected["found"] = found;
    check_grip(&direct.text(), &expected);
}
