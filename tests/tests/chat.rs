//! A chat in a real browser, through the whole stack. Its application is Express with the unchanged
//! @fanoutio/serve-grip, which knows WebSockets as events over HTTP only.
//!
//! `.ci/run` installs Chromium and the libraries and runs these tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::client;
use e2e::program::{Program, Served};
use serde_json::Value;
use tokio::process::Command;

/// Starting a browser takes longer than anything else here.
const PATIENCE: Duration = Duration::from_mins(2);

async fn start() -> Served {
    let program = Program::node("node/chat.mjs", &[]).await;
    program.behind_edge_and_hub().await
}

/// Has Chromium's pages do this, and returns what the script says of it.
async fn play(served: &Served, scenario: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/chat_pages.mjs");
    let output = Command::new("node")
        .arg(script)
        .arg(format!("http://{}/", served.hub.addr()))
        .arg(scenario)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .expect("the browser is done in time")
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let log = served.edge_log();
    assert!(output.status.success(), "{said}{complaint}\n{log}");
    said.into_owned()
}

/// Waits until the application has heard this much of a name.
async fn hears(served: &Served, name: &str, count: usize) -> Vec<(String, String)> {
    let mut last = Vec::new();
    let reached = async {
        while last.len() < count {
            last = heard(served, name).await;
        }
    };
    // Whether it was reached shows in what was heard.
    let _ = tokio::time::timeout(e2e::PATIENCE, reached).await;
    assert_eq!(last.len(), count, "{name}: {last:?}");
    last
}

/// What the application has heard of a name: the ids of its WebSockets, and what they said.
async fn heard(served: &Served, name: &str) -> Vec<(String, String)> {
    let answer = client::get(served.origin(), "/heard", &[]).await;
    let all: Vec<Value> = serde_json::from_str(&answer.text()).unwrap();
    let text = |one: &Value, member: &str| one[member].as_str().unwrap().to_owned();
    let of_name = all.iter().filter(|one| one["name"] == name);
    of_name
        .map(|one| (text(one, "id"), text(one, "what")))
        .collect()
}

#[tokio::test]
#[ignore = "needs Chromium and serve-grip, see .ci/run"]
async fn pages_see_each_others_messages_once_and_in_order() {
    let served = start().await;
    play(&served, "talk").await;
    served.hub.until_metric("gripline_held_websockets", 0).await;
    for (name, count) in [("ann", 54), ("bob", 53)] {
        let heard = hears(&served, name, count).await;
        // One id all along, as the name that the application gave it has come back.
        assert!(heard.iter().all(|(id, _)| *id == heard[0].0), "{heard:?}");
        assert_eq!(heard[0].1, "OPEN");
    }
    let errors = "gripline_websocket_origin_errors_total";
    assert_eq!(served.hub.metric(errors).await, 0);
}

#[tokio::test]
#[ignore = "needs Chromium and serve-grip, see .ci/run"]
async fn the_application_hears_when_a_page_leaves() {
    let served = start().await;
    let end = play(&served, "leave").await;
    served.hub.until_metric("gripline_held_websockets", 0).await;
    for (name, end) in [
        ("ann", "CLOSE 3456"),
        ("bob", end.trim()),
        ("dan", "DISCONNECT"),
    ] {
        let heard = hears(&served, name, 2).await;
        assert_eq!([&heard[0].1, &heard[1].1], ["OPEN", end], "{name}");
    }
}

#[tokio::test]
#[ignore = "needs Chromium and serve-grip, see .ci/run"]
async fn a_page_that_connects_again_talks_as_before() {
    let served = start().await;
    play(&served, "return").await;
    let heard = heard(&served, "ann").await;
    let ids: Vec<_> = heard.iter().filter(|(_, what)| what == "OPEN").collect();
    assert_eq!(ids.len(), 3, "{heard:?}");
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}
