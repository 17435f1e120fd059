//! While the origin fails, the edge goes on with what it has, instructions included.

use std::time::Duration;

use e2e::chain::Chain;
use e2e::client::{self, Client};
use e2e::origin::Answer;
use e2e::outage::{self, Plan};
use serde_json::json;

const STREAM: [&str; 3] = [
    "Cache-Control: s-maxage=60, stale-if-error=600",
    "Grip-Hold: stream",
    "Grip-Channel: updates",
];

async fn start() -> Chain {
    let chain = Chain::start_with(|manifest| {
        // A machine that is busy for a second must not change what is seen.
        let changes = json!({"fail_ttl": 60}).as_object().cloned();
        let manifest = manifest.with_config(changes.unwrap_or_default());
        manifest.expect("the configuration is JSON")
    })
    .await;
    chain.origin.serve("/stream", Answer::ok(&STREAM, "one\n"));
    chain
}

async fn open(chain: &Chain, cache: &str) -> Client {
    let mut client = chain.open("/stream").await;
    let head = client.stream_begins("one\n").await;
    assert_eq!(head.field("X-Cache"), Some(cache));
    assert_eq!(head.field("Gripline-Stale"), None);
    client
}

#[tokio::test]
async fn a_new_client_begins_with_cached_data_and_is_attached() {
    let mut chain = start().await;
    let mut old = open(&chain, "miss").await;
    chain.origin.stop().await;
    let mut new = open(&chain, "hit").await;
    chain.hub.publish_stream("updates", "two\n").await;
    old.receives("two\n").await;
    new.receives("two\n").await;
}

/// A publish purges what the edge has; the backup copy is not touched by that.
#[tokio::test]
async fn clients_are_set_up_even_after_a_purge() {
    let mut chain = start().await;
    let mut old = open(&chain, "miss").await;
    chain.origin.stop().await;
    chain.hub.publish_stream("updates", "two\n").await;
    old.receives("two\n").await;
    assert_eq!(chain.hub.metric("gripline_purges_total").await, 1);

    // The first finds out that the origin is down, the second is told so by a marker.
    let mut first = open(&chain, "stale").await;
    let mut second = open(&chain, "stale").await;
    chain.hub.publish_stream("updates", "three\n").await;
    for client in [&mut old, &mut first, &mut second] {
        client.receives("three\n").await;
    }
    assert_eq!(chain.hub.metric("gripline_stale_answers_total").await, 2);
}

#[tokio::test]
async fn an_origin_that_is_in_trouble_counts_as_down() {
    let chain = start().await;
    let _old = open(&chain, "miss").await;
    let trouble = Answer::status("503 Service Unavailable", &[], "in trouble\n");
    chain.origin.serve("/stream", trouble);
    chain.hub.publish_stream("updates", "two\n").await;
    let mut new = open(&chain, "stale").await;
    chain.hub.publish_stream("updates", "three\n").await;
    new.receives("three\n").await;
    assert_eq!(chain.origin.count("/stream"), 2);
}

/// Nothing purges this answer; it gets too old, and nobody confirms it.
#[tokio::test]
async fn an_old_answer_is_given_out_without_trying_a_dead_origin_each_time() {
    let chain = start().await;
    let fields = ["Cache-Control: s-maxage=1, stale-if-error=600"];
    chain.origin.serve("/page", Answer::ok(&fields, "one\n"));
    chain.get("/page").await.check(200, "one\n");
    let trouble = Answer::status("503 Service Unavailable", &[], "in trouble\n");
    chain.origin.serve("/page", trouble);
    while chain.origin.count("/page") < 2 {
        chain.get("/page").await.check(200, "one\n");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..3 {
        let requests = (0..10).map(|_| chain.get("/page"));
        for response in futures::future::join_all(requests).await {
            response.check(200, "one\n");
            assert_eq!(response.field("X-Cache"), Some("stale"));
        }
    }
    // The one that tried, and those that need not.
    assert!(chain.hub.metric("gripline_stale_answers_total").await >= 30);
    assert_eq!(chain.origin.count("/page"), 2);
}

#[tokio::test]
async fn an_old_answer_is_fetched_anew_once_the_origin_is_back() {
    let chain = Chain::start_with(|manifest| {
        let changes = json!({"fail_ttl": 1}).as_object().cloned();
        let manifest = manifest.with_config(changes.unwrap_or_default());
        manifest.expect("the configuration is JSON")
    })
    .await;
    let answer = |body: &str| {
        let fields = ["Cache-Control: s-maxage=1, stale-if-error=600"];
        Answer::ok(&fields, body)
    };
    chain.origin.serve("/page", answer("one\n"));
    chain.get("/page").await.check(200, "one\n");
    let trouble = Answer::status("503 Service Unavailable", &[], "in trouble\n");
    chain.origin.serve("/page", trouble);
    while chain.origin.count("/page") < 3 {
        chain.get("/page").await.check(200, "one\n");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    chain.origin.serve("/page", answer("two\n"));
    loop {
        let response = chain.get("/page").await;
        if response.body == b"two\n" {
            break;
        }
        response.check(200, "one\n");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored() {
    let chain = start().await;
    let fields = ["Cache-Control: s-maxage=60", "Content-Length: 8"];
    let broken = Answer::begin("200 OK", &fields).then("one\n").close();
    chain.origin.serve("/broken", broken);
    chain
        .get("/broken")
        .await
        .check(502, "Error while proxying to origin.\n");
    assert_eq!(chain.origin.count("/broken"), 1);
}

#[tokio::test]
async fn with_nothing_stored_the_client_is_told_and_the_origin_left_alone() {
    let mut chain = start().await;
    chain.origin.stop().await;
    chain
        .get("/stream")
        .await
        .check(502, "Error while proxying to origin.\n");
    let response = chain.get("/stream").await;
    response.check(503, "The origin does not answer, and nothing is stored.\n");
    assert_eq!(response.field("Retry-After"), Some("1"));
    // What is never stored is tried each time.
    for _ in 0..2 {
        client::request(chain.addr(), "POST", "/stream", &[], "x")
            .await
            .check(502, "Error while proxying to origin.\n");
    }
}

/// The bench `outage` shows the same for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_come_during_an_outage_all_are_served_and_hear_everything() {
    let plan = Plan {
        before: Duration::from_secs(1),
        outage: Duration::from_secs(4),
        after: Duration::from_secs(2),
    };
    let report = outage::run(plan).await;
    for part in [&report.before, &report.outage, &report.after] {
        assert_eq!(part.pages_served, part.pages, "{report:?}");
        assert_eq!(part.streams_served, part.streams, "{report:?}");
    }
    assert_eq!((report.outage.pages, report.outage.streams), (100, 100));
    assert_eq!(report.delivered, report.due, "{report:?}");
    assert!(report.due > 0, "{report:?}");
    assert_eq!(report.outage.requests, [0; 4], "{report:?}");
    // It is asked again, and by far fewer than those who come.
    let after: usize = report.after.requests.iter().sum();
    assert!((1..100).contains(&after), "{report:?}");
}
