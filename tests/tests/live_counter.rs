//! Live Counter, all of it, as a browser's requests see it.

use e2e::chain::first_source;
use e2e::client::{self, Client};
use e2e::within;
use live_counter::demo::{Demo, Options};
use live_counter::stack::topology::Topology;

const EVENTS: &str = "Accept: text/event-stream";

async fn start(directory: &tempfile::TempDir) -> Demo {
    start_in(Topology::HubFront, directory).await
}

async fn start_in(topology: Topology, directory: &tempfile::TempDir) -> Demo {
    let data = directory.path().join("counters.redb");
    let options = Options::on_free_ports(topology, data);
    Demo::start(&options, &mut ())
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

/// Opens the event stream of counter `visits`; its first event must have this value.
async fn open(demo: &Demo, value: u64, cache: &str) -> Client {
    let mut client = Client::get(demo.front_addr(), "/counters/visits", &[EVENTS]).await;
    let head = client.head().await;
    assert_eq!(head.field("Content-Type"), Some("text/event-stream"));
    assert_eq!(head.field("X-Cache"), Some(cache));
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    receives(&mut client, value).await;
    client
}

/// Reads one event, which must have this value.
async fn receives(client: &mut Client, value: u64) {
    let event = client.content_until("\n\n").await;
    let found = event.lines().find_map(|line| line.strip_prefix("data:"));
    let expected = format!("{{\"name\":\"visits\",\"value\":{value}}}");
    assert_eq!(found.map(str::trim), Some(expected.as_str()), "{event}");
}

async fn increment(demo: &Demo) {
    let addr = demo.front_addr();
    let response = client::request(addr, "POST", "/counters/visits", &[], "").await;
    assert_eq!(response.status(), 200);
    assert!(
        response.text().contains("\"published\":true"),
        "{response:?}"
    );
}

#[tokio::test]
async fn two_clients_see_the_same_increments_and_a_third_begins_with_the_value() {
    for topology in Topology::ALL {
        see_the_same_increments(topology).await;
    }
}

async fn see_the_same_increments(topology: Topology) {
    let directory = directory();
    let demo = start_in(topology, &directory).await;
    let source = first_source(topology);
    let mut first = open(&demo, 0, source).await;
    let mut second = open(&demo, 0, "hit").await;
    for value in 1..=3 {
        increment(&demo).await;
        receives(&mut first, value).await;
        receives(&mut second, value).await;
    }
    let mut third = open(&demo, 3, source).await;
    let mut fourth = open(&demo, 3, "hit").await;
    increment(&demo).await;
    for client in [&mut first, &mut second, &mut third, &mut fourth] {
        receives(client, 4).await;
    }
    within("the demo's end", demo.stop())
        .await
        .expect("it stops");
    for client in [&mut first, &mut second, &mut third, &mut fourth] {
        client.ends().await;
    }
}

#[tokio::test]
async fn the_value_can_be_asked_for_as_json() {
    let directory = directory();
    let demo = start(&directory).await;
    for (value, cache) in [(0, "miss"), (0, "hit")] {
        let response = client::get(demo.front_addr(), "/counters/visits", &[]).await;
        let expected = format!("{{\"name\":\"visits\",\"value\":{value}}}\n");
        response.check(200, &expected);
        assert_eq!(response.field("X-Cache"), Some(cache));
    }
    increment(&demo).await;
    let response = client::get(demo.front_addr(), "/counters/visits", &[]).await;
    response.check(200, "{\"name\":\"visits\",\"value\":1}\n");
    assert_eq!(response.field("X-Cache"), Some("miss"));
    demo.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let directory = directory();
    let demo = start(&directory).await;
    increment(&demo).await;
    increment(&demo).await;
    within("the demo's end", demo.stop())
        .await
        .expect("it stops");
    let demo = start(&directory).await;
    let mut client = open(&demo, 2, "miss").await;
    increment(&demo).await;
    receives(&mut client, 3).await;
    demo.stop().await.expect("it stops");
}

/// What each says, that it runs; and the page, which any browser shows.
#[tokio::test]
async fn every_part_answers() {
    let directory = directory();
    let demo = start(&directory).await;
    let page = client::get(demo.hub_addr(), "/", &["Accept: text/html"]).await;
    assert_eq!(page.status(), 200);
    assert!(page.text().contains("<!doctype html>"), "{page:?}");
    for (addr, path) in [
        (demo.origin_addr(), "/health"),
        (demo.edge_addr(), "/.gripline/health"),
        (demo.control_addr(), "/health"),
    ] {
        let response = client::get(addr, path, &[]).await;
        assert_eq!(response.status(), 200, "{path}");
    }
    // Around the hub nobody could hold the client.
    let response = client::get(demo.origin_addr(), "/counters/visits", &[EVENTS]).await;
    assert_eq!(response.status(), 501);
    let response = client::get(demo.edge_addr(), "/counters/visits", &[EVENTS]).await;
    assert_eq!(response.status(), 501);
    demo.stop().await.expect("it stops");
}
