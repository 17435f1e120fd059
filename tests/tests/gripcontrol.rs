//! An origin written with the unchanged Python library gripcontrol, behind the hub.
//!
//! The library comes from its registry, so `.ci/run` installs it and runs these tests.

use e2e::client::{self, Client};
use e2e::program::{Program, Served};
use serde_json::json;

async fn start() -> Served {
    let program = Program::python("python/holds.py", &[]).await;
    program.behind_hub().await
}

/// Opens a long-poll and waits until it is held.
async fn held(served: &Served, target: &str) -> Client {
    let before = served.hub.metric("gripline_held_responses").await;
    let client = served.open(target, &[]).await;
    served
        .hub
        .until_metric("gripline_held_responses", before + 1)
        .await;
    client
}

async fn check_stream(target: &str) {
    let served = start().await;
    let mut client = served.open(target, &[]).await;
    let head = client.stream_begins("begin\n").await;
    assert_eq!(head.field("Content-Type"), Some("text/plain"));
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    let news = json!({"channel": "news", "stream": "ä %s\n", "response": "not this"});
    served.tell("/publish", &news).await;
    client.receives("ä %s\n").await;
    let weather = json!({"channel": "weather", "stream": "rain\n"});
    served.tell("/publish", &weather).await;
    client.receives("rain\n").await;
    let coffee = json!({"channel": "news", "stream": "café\n"});
    served.tell("/encoded", &coffee).await;
    client.receives("café\n").await;
    served.tell("/close", &json!({"channel": "news"})).await;
    client.ends().await;
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_stream_is_held_by_headers() {
    check_stream("/stream").await;
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_stream_is_held_by_an_instruction_in_json() {
    check_stream("/json/stream").await;
}

async fn check_poll(target: &str) {
    let served = start().await;
    let mut client = held(&served, target).await;
    let news = json!({"channel": "news", "stream": "not this", "response": "hello\n"});
    served.tell("/publish", &news).await;
    let answer = client.response().await;
    answer.check(200, "hello\n");
    assert_eq!(answer.field("X-By"), Some("python"));
    assert_eq!(answer.head.names_beginning("grip-"), [""; 0]);
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_long_poll_is_held_by_headers() {
    check_poll("/poll").await;
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_long_poll_is_held_by_an_instruction_in_json() {
    check_poll("/json/wait").await;
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_long_poll_ends_with_the_answer_of_its_instruction() {
    let served = start().await;
    let answer = client::get(served.hub.addr(), "/json/poll", &[]).await;
    answer.check(404, "none\n");
    assert_eq!(answer.head.start(), "HTTP/1.1 404 Nothing Yet");
    assert_eq!(answer.field("X-Poll"), Some("1"));
    assert_eq!(answer.field("Content-Type"), Some("text/plain"));
    let binary = client::get(served.hub.addr(), "/json/binary", &[]).await;
    assert_eq!((binary.status(), binary.body), (200, vec![0xff, 0]));
    let bare = client::get(served.hub.addr(), "/json/bare", &[]).await;
    bare.check(200, "");
    assert_eq!(served.hub.metric("gripline_timeouts_total").await, 3);
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_long_poll_knows_what_it_has_and_gets_the_next() {
    let served = start().await;
    let mut client = held(&served, "/counter?seen=0").await;
    served.tell("/count", &json!({})).await;
    client.response().await.check(200, "1\n");
    // While nobody is held, the application has it.
    served.tell("/count", &json!({})).await;
    let missed = client::get(served.hub.addr(), "/counter?seen=1", &[]).await;
    missed.check(200, "2\n");
    let mut client = held(&served, "/counter?seen=2").await;
    served.tell("/count", &json!({})).await;
    client.response().await.check(200, "3\n");
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_long_poll_that_missed_something_asks_again() {
    let served = start().await;
    let mut client = held(&served, "/counter?seen=0").await;
    served.tell("/count/silently", &json!({})).await;
    served.tell("/count", &json!({})).await;
    client.response().await.check(200, "2\n");
    assert_eq!(served.hub.metric("gripline_retries_total").await, 1);
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn a_hint_has_a_long_poll_ask_again() {
    let served = start().await;
    let mut client = held(&served, "/counter?seen=0").await;
    served.tell("/count/silently", &json!({})).await;
    served.tell("/hint", &json!({"channel": "counter"})).await;
    client.response().await.check(200, "1\n");
}

#[tokio::test]
#[ignore = "needs gripcontrol, see .ci/run"]
async fn only_the_hub_is_let_in() {
    let served = start().await;
    let direct = client::get(served.origin(), "/stream", &["Grip-Sig: forged"]).await;
    direct.check(501, "not by a hub\n");
    let fields = ["Grip-Sig: forged"];
    let mut client = served.open("/stream", &fields).await;
    client.stream_begins("begin\n").await;
}
