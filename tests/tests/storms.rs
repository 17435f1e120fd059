//! More clients come than the hub may take: each is told when to come again, and whoever does is
//! held in the end. Those who are held notice nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::chain::Chain;
use e2e::client::{Client, Response, status};
use e2e::edge::purge;
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Origin};
use gripline_hub::config::RawLimits;
use tokio::task::JoinSet;

/// Clients that come at once, and those of them that may come in a second.
const CLIENTS: u32 = 300;
const RATE: u32 = 100;

const FULL: &str = "Too many clients are connected.\n";
const TOO_FAST: &str = "Too many clients connect at once.\n";

const REFUSED: &str = "gripline_connections_refused_total";
const PACED: &str = "gripline_connections_paced_total";
const HELD: &str = "gripline_held_streams";
const UNHEARD: &str = "gripline_connections_unheard_total";

async fn start(shards: usize, limits: RawLimits) -> (Origin, Hub) {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let mut config = config(&origin.url());
    config.shards = Some(shards);
    config.limits = limits;
    let hub = Hub::start_with(&config);
    (origin, hub)
}

async fn hold(hub: &Hub) -> Client {
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    client
}

/// Fails unless the hub says in this text when to come again; returns the seconds.
#[track_caller]
fn check_refusal(response: &Response, text: &str) -> u64 {
    response.check(503, text);
    assert_eq!(response.field("Connection"), Some("close"));
    let seconds = response.field("Retry-After").expect("it says when");
    seconds.parse().expect("it says so in seconds")
}

/// Comes again whenever it is told to; returns how often it was refused.
async fn be_held(addr: std::net::SocketAddr) -> (Client, u64) {
    for refusals in 0.. {
        let mut client = Client::get(addr, "/stream", &[]).await;
        let head = client.head().await;
        if status(&head) == 200 {
            client.receives("hi\n").await;
            return (client, refusals);
        }
        let response = client.response_after(head).await;
        let seconds = check_refusal(&response, TOO_FAST);
        assert!((1..=60).contains(&seconds), "{response:?}");
        client.is_closed_by_server().await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    unreachable!("the loop has no end")
}

#[expect(
    clippy::print_stdout,
    reason = "how long it takes is what one wants to see"
)]
#[tokio::test]
async fn all_of_a_storm_are_held_in_the_end_and_who_is_held_gets_what_is_published() {
    let (_origin, hub) = start(
        2,
        RawLimits {
            accept_rate: Some(RATE),
            ..RawLimits::default()
        },
    )
    .await;
    let begin = Instant::now();
    let mut witness = hold(&hub).await;
    let mut storm: JoinSet<_> = (0..CLIENTS).map(|_| be_held(hub.addr())).collect();
    let mut held = Vec::new();
    let mut refusals = 0;
    while let Some(ended) = storm.join_next().await {
        let (client, refused) = ended.expect("a client is held");
        refusals += refused;
        held.push(client);
        let content = format!("{}\n", held.len());
        hub.publish_stream("updates", &content).await;
        witness.receives(&content).await;
    }
    // A second's worth comes at once.
    let least = Duration::from_secs((CLIENTS / RATE - 1).into());
    assert!(begin.elapsed() >= least, "all are held too soon");
    assert!(refusals > 0);
    assert_eq!(hub.metric(PACED).await, refusals);
    assert_eq!(hub.metric(REFUSED).await, 0);
    hub.publish_stream("updates", "all\n").await;
    for client in &mut held {
        client.content_until("all\n").await;
    }
    println!(
        "{CLIENTS} clients, {refusals} refusals, {:?}",
        begin.elapsed()
    );
}

/// A hub with one place, and who has it.
async fn start_full() -> (Origin, Hub, Client) {
    let limits = RawLimits {
        connections: Some(1),
        ..RawLimits::default()
    };
    let (origin, hub) = start(1, limits).await;
    let held = hold(&hub).await;
    (origin, hub, held)
}

#[tokio::test]
async fn who_finds_all_places_taken_is_told_when_to_come_again() {
    let (_origin, hub, held) = start_full().await;
    let mut waits = BTreeSet::new();
    let begin = Instant::now();
    for _ in 0..10 {
        let mut client = Client::get(hub.addr(), "/stream", &[]).await;
        let response = client.response().await;
        waits.insert(check_refusal(&response, FULL));
        client.is_closed_by_server().await;
    }
    // Who has asked is answered before the second that the silent get is over.
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Not all at once.
    assert_eq!(waits, (1..=10).collect());
    assert_eq!(hub.metric(REFUSED).await, 10);
    assert_eq!(hub.metric(PACED).await, 0);
    drop(held);
    hub.until_metric("gripline_held_streams", 0).await;
    hold(&hub).await;
}

#[tokio::test]
async fn who_asks_nothing_is_refused_all_the_same() {
    let (_origin, hub, _held) = start_full().await;
    let mut client = Client::connect(hub.addr()).await;
    let response = client.response().await;
    check_refusal(&response, FULL);
    client.is_closed_by_server().await;
}

#[tokio::test]
async fn the_refusal_comes_after_the_request() {
    let (_origin, hub, _held) = start_full().await;
    let begin = Instant::now();
    let mut client = Client::connect(hub.addr()).await;
    hub.until_metric(REFUSED, 1).await;
    // Beyond a second, silence is answered; on a slow machine nothing is seen then.
    if begin.elapsed() < Duration::from_millis(500) {
        client.is_quiet();
    }
    client.request("GET", "/stream", &[], "").await;
    check_refusal(&client.response().await, FULL);
}

#[tokio::test]
async fn a_request_of_several_pieces_is_refused_like_any_other() {
    let (_origin, hub, _held) = start_full().await;
    let mut client = Client::connect(hub.addr()).await;
    client.send("POST /stream HTTP/1.1\r\n").await;
    client.head().await;
    client
        .send_content(b"Host: example.com\r\nContent-Length: 100000\r\n\r\n")
        .await;
    client.send_content(&vec![b'x'; 100_000]).await;
    assert_eq!(client.raw_to_end().await, FULL);
}

#[tokio::test]
async fn many_who_ask_nothing_are_not_waited_for_and_disturb_nobody() {
    gripline_hub::raise_open_files();
    let (_origin, hub, mut held) = start_full().await;
    let mut silent = Vec::new();
    while hub.metric(UNHEARD).await == 0 {
        assert!(silent.len() < 8000, "all of them are waited for");
        for _ in 0..500 {
            silent.push(Client::connect(hub.addr()).await);
        }
        hub.publish_stream("updates", "still\n").await;
        held.receives("still\n").await;
    }
    hub.until_metric(REFUSED, silent.len() as u64).await;
    for client in &mut silent {
        check_refusal(&client.response().await, FULL);
    }
    held.is_quiet();
}

#[tokio::test]
async fn a_storm_through_the_edge_costs_the_origin_one_request_or_none() {
    let chain = Chain::start().await;
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        "Cache-Control: s-maxage=60",
    ];
    chain.origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let held = all_come(&chain).await;
    assert_eq!(chain.origin.count("/stream"), 1);
    // What is in the cache is for those who come back, too.
    drop(held);
    chain.hub.until_metric(HELD, 0).await;
    let held = all_come(&chain).await;
    assert_eq!(chain.origin.count("/stream"), 1);
    drop(held);
    chain.hub.until_metric(HELD, 0).await;
    let purged = purge(chain.edge.addr(), r#"{"channels":["updates"]}"#).await;
    assert_eq!(purged.status(), 200, "{purged:?}");
    let mut held = all_come(&chain).await;
    assert_eq!(chain.origin.count("/stream"), 2);
    chain.hub.publish_stream("updates", "all\n").await;
    for client in &mut held {
        client.content_until("all\n").await;
    }
}

/// Many clients at once, held.
async fn all_come(chain: &Chain) -> Vec<Client> {
    let address = chain.addr();
    let storm: JoinSet<_> = (0..CLIENTS)
        .map(|_| async move {
            let mut client = Client::get(address, "/stream", &[]).await;
            client.stream_begins("hi\n").await;
            client
        })
        .collect();
    storm.join_all().await
}
