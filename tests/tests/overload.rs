//! More than the hub can take: publishers are told, and what was taken arrives.

use e2e::client::{Client, Response};
use e2e::edge::PURGE_KEY;
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Gate, Origin};
use gripline_hub::config::{RawLimits, RawPurge};
use serde_json::{Value, json};

const PURGE_PATH: &str = "/.gripline/purge";
const WAITING: &str = "gripline_intake_items";
const OVERLOADED: &str = "gripline_publish_overloaded_total";

/// A hub that takes no more than this, behind an edge that answers purges when the gate is open,
/// and a held client.
async fn start(limits: RawLimits) -> (Origin, Gate, Hub, Client) {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let gate = Gate::new();
    let purged = Answer::ok(&[], "{\"purged\":1}");
    origin.serve(PURGE_PATH, purged.after(&gate));
    let mut config = config(&origin.url());
    config.limits = limits;
    config.purge = Some(RawPurge {
        edge: Some(origin.url()),
        key: Some(PURGE_KEY.to_owned()),
        // Longer than any test.
        deadline: Some("1h".to_owned()),
        ..RawPurge::default()
    });
    let hub = Hub::start_with(&config);
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    (origin, gate, hub, client)
}

fn item(content: &str) -> Value {
    json!({"channel": "updates", "formats": {"http-stream": {"content": content}}})
}

async fn publish(hub: &Hub, contents: &[&str]) -> Response {
    let items: Vec<Value> = contents.iter().map(|content| item(content)).collect();
    hub.try_publish(&json!({"items": items}).to_string()).await
}

#[track_caller]
fn check_overloaded(response: &Response) {
    response.check(503, "Too many items wait to be published.\n");
    assert_eq!(response.field("Retry-After"), Some("1"));
}

#[tokio::test]
async fn items_over_the_limit_are_refused_and_the_others_arrive() {
    let (_origin, gate, hub, mut client) = start(RawLimits {
        waiting_items: Some(3),
        ..RawLimits::default()
    })
    .await;
    let taken = async {
        publish(&hub, &["1\n", "2\n"])
            .await
            .check(200, "Published\n");
    };
    let last_taken = async {
        hub.until_metric(WAITING, 2).await;
        publish(&hub, &["3\n"]).await.check(200, "Published\n");
    };
    let refused = async {
        hub.until_metric(WAITING, 3).await;
        check_overloaded(&publish(&hub, &["no\n"]).await);
        check_overloaded(&hub.post("/recover/", &[], "{}").await);
        assert_eq!(hub.metric(OVERLOADED).await, 2);
        assert_eq!(hub.metric(WAITING).await, 3);
        client.is_quiet();
        gate.open();
    };
    tokio::join!(taken, last_taken, refused);
    client.receives_next("1\n2\n3\n").await;
    hub.until_metric(WAITING, 0).await;
    assert_eq!(hub.metric("gripline_intake_bytes").await, 0);
    publish(&hub, &["4\n", "5\n", "6\n"])
        .await
        .check(200, "Published\n");
    client.receives_next("4\n5\n6\n").await;
    assert_eq!(hub.metric("gripline_published_items_total").await, 6);
}

#[tokio::test]
async fn a_request_is_refused_as_a_whole_unless_nothing_else_waits() {
    let (_origin, gate, hub, mut client) = start(RawLimits {
        waiting_items: Some(2),
        ..RawLimits::default()
    })
    .await;
    let taken = async { publish(&hub, &["1\n"]).await.check(200, "Published\n") };
    let refused = async {
        hub.until_metric(WAITING, 1).await;
        check_overloaded(&publish(&hub, &["no\n", "no\n"]).await);
        gate.open();
    };
    tokio::join!(taken, refused);
    hub.until_metric(WAITING, 0).await;
    publish(&hub, &["2\n", "3\n", "4\n"])
        .await
        .check(200, "Published\n");
    client.receives_next("1\n2\n3\n4\n").await;
}

#[tokio::test]
async fn bytes_over_the_limit_are_refused() {
    let (_origin, gate, hub, mut client) = start(RawLimits {
        waiting_bytes: Some(10_000),
        ..RawLimits::default()
    })
    .await;
    let taken = async { publish(&hub, &["1\n"]).await.check(200, "Published\n") };
    let refused = async {
        hub.until_metric(WAITING, 1).await;
        check_overloaded(&publish(&hub, &[&"x".repeat(10_000)]).await);
        gate.open();
    };
    tokio::join!(taken, refused);
    client.receives("1\n").await;
    assert_eq!(hub.metric(OVERLOADED).await, 1);
}
