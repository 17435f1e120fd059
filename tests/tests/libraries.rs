//! The original GRIP client libraries publish to the hub unchanged.
//!
//! They come from their registries, so `.ci/run` installs them and runs these tests:
//! `npm ci --prefix tests/node`, a virtual environment in `target/python`.

use std::path::PathBuf;
use std::process::Stdio;

use e2e::client::{Client, Response};
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use e2e::within;
use tokio::process::Command;

struct Held {
    _origin: Origin,
    hub: Hub,
    stream: Client,
    poll: Client,
}

/// A stream and a long-poll, both held on the channel `news`.
async fn held() -> Held {
    let origin = Origin::start().await;
    let stream = ["Grip-Hold: stream", "Grip-Channel: news"];
    origin.serve("/stream", Answer::ok(&stream, "begin\n"));
    let poll = ["Grip-Hold: response", "Grip-Channel: news"];
    origin.serve("/poll", Answer::ok(&poll, ""));
    let hub = Hub::start(&origin.url());
    let mut stream = Client::get(hub.addr(), "/stream", &[]).await;
    stream.stream_begins("begin\n").await;
    let poll = Client::get(hub.addr(), "/poll", &[]).await;
    hub.until_metric("gripline_held_responses", 1).await;
    Held {
        _origin: origin,
        hub,
        stream,
        poll,
    }
}

/// Runs a program of this folder against the hub's control port.
async fn run(hub: &Hub, program: PathBuf, script: &str) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(script);
    let control_uri = format!("http://{}", hub.control());
    let output = Command::new(&program)
        .args([script.as_os_str(), control_uri.as_ref(), "news".as_ref()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the library", output)
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{output:?}");
}

async fn check(mut held: Held, items: &[&str], library: &str) {
    let expected: String = items.concat();
    let received = held
        .stream
        .content_until(items.last().expect("there are items"))
        .await;
    assert_eq!(received, expected);
    let answer: Response = held.poll.response().await;
    answer.check(200, &format!("{library} response\n"));
    assert_eq!(answer.field("X-Library"), Some(library));
}

#[tokio::test]
#[ignore = "needs the Python library, see .ci/run"]
async fn the_python_library_publishes_unchanged() {
    let held = held().await;
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
    run(&held.hub, PathBuf::from(python), "python/publish.py").await;
    let items = [
        "python stream\n",
        "python ids\n",
        "python batch 0\n",
        "python batch 1\n",
        "python batch 2\n",
        "python batch 3\n",
        "python batch 4\n",
    ];
    check(held, &items, "python").await;
}

#[tokio::test]
#[ignore = "needs the JavaScript library, see .ci/run"]
async fn the_javascript_library_publishes_unchanged() {
    let held = held().await;
    run(&held.hub, PathBuf::from("node"), "node/publish.mjs").await;
    let items = ["javascript stream\n", "javascript ids\n"];
    check(held, &items, "javascript").await;
}
