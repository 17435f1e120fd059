//! Many clients at once: one request to the origin if its answer is for all, else all of them at
//! the same time.

use e2e::chain::Chain;
use e2e::client::{self, Client};
use e2e::origin::{Answer, Gate};
use live_counter::stack::viceroy::Manifest;
use serde_json::json;
use tokio::task::JoinSet;

/// Each has an instance of the module in Viceroy, and connections to hub, edge and origin.
const CLIENTS: usize = 1000;

/// A chain that waits for the origin as long as the tests do: until all clients have asked.
async fn start() -> Chain {
    Chain::start_with(|manifest: Manifest| {
        let changes = json!({"collapse_wait_ms": 60_000}).as_object().cloned();
        let mut manifest = manifest
            .with_config(changes.unwrap_or_default())
            .expect("the configuration is JSON");
        let server = &mut manifest.table_mut()["local_server"];
        server["backends"]["origin"]["first_byte_timeout_ms"] = 60_000.into();
        manifest
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_clients_make_one_request() {
    let chain = start().await;
    let gate = Gate::new();
    let fields = [
        "Cache-Control: s-maxage=60",
        "Grip-Hold: stream",
        "Grip-Channel: updates",
    ];
    let answer = Answer::ok(&fields, "one\n").after(&gate);
    chain.origin.serve("/stream", answer);

    let mut opening = JoinSet::new();
    for _ in 0..CLIENTS {
        let addr = chain.addr();
        opening.spawn(async move {
            let mut client = Client::get(addr, "/stream", &[]).await;
            let head = client.stream_begins("one\n").await;
            let cache = head.field("X-Cache").unwrap_or_default().to_owned();
            (client, cache)
        });
    }
    // All of them have asked before the origin answers the first.
    chain
        .hub
        .until_metric("gripline_requests_total", CLIENTS as u64)
        .await;
    chain.origin.until_count("/stream", 1).await;
    gate.open();
    let clients = opening.join_all().await;
    assert_eq!(chain.origin.count("/stream"), 1);
    let misses = clients.iter().filter(|(_, cache)| cache == "miss").count();
    let hits = clients.iter().filter(|(_, cache)| cache == "hit").count();
    assert_eq!((misses, hits), (1, CLIENTS - 1));

    chain.hub.publish_stream("updates", "two\n").await;
    for (mut client, _) in clients {
        client.receives("two\n").await;
    }
}

/// The origin answers none before all of them wait there, so a queue would never end.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_of_an_uncacheable_url_do_not_wait_for_each_other() {
    const CLIENTS: usize = 50;
    let chain = start().await;
    let fields = ["Cache-Control: private, no-store"];
    // The first answer tells the edge that such answers are for one client only.
    chain.origin.serve("/own", Answer::ok(&fields, "first\n"));
    chain.get("/own").await.check(200, "first\n");

    let answer = Answer::ok(&fields, "own\n").after_gathering(CLIENTS);
    chain.origin.serve("/own", answer);
    let mut asking = JoinSet::new();
    for _ in 0..CLIENTS {
        let addr = chain.addr();
        asking.spawn(async move { client::get(addr, "/own", &[]).await });
    }
    for response in asking.join_all().await {
        response.check(200, "own\n");
        assert_eq!(response.field("X-Cache"), Some("pass"));
    }
    assert_eq!(chain.origin.count("/own"), CLIENTS + 1);
}

/// As above, from cold: the first is fetched for all, the others then go at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_waited_for_an_uncacheable_answer_go_on_together() {
    let chain = start().await;
    let fields = ["Cache-Control: private, no-store"];
    let first = Gate::new();
    let others = Answer::ok(&fields, "own\n").after_gathering(CLIENTS - 1);
    let answer = Answer::ok(&fields, "own\n").after(&first);
    let turn = std::sync::atomic::AtomicUsize::new(0);
    chain.origin.serve_with("/own", move |_| {
        match turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => answer.clone(),
            _ => others.clone(),
        }
    });
    let mut asking = JoinSet::new();
    for _ in 0..CLIENTS {
        let addr = chain.addr();
        asking.spawn(async move { client::get(addr, "/own", &[]).await });
    }
    chain
        .hub
        .until_metric("gripline_requests_total", CLIENTS as u64)
        .await;
    first.open();
    for response in asking.join_all().await {
        response.check(200, "own\n");
        assert_eq!(response.field("X-Cache"), Some("pass"));
    }
    assert_eq!(chain.origin.count("/own"), CLIENTS);
}
