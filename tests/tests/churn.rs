//! Clients come and go while a publisher publishes without a pause: of what a client has had once,
//! it gets every later item, once and in order, and the origin is seldom asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::chain::Chain;
use e2e::client::{Client, status};
use e2e::origin::{Answer, Request};
use fastrand::Rng;
use gripline_hub::config::RawChannelRule;
use live_counter::stack::topology::Topology;
use serde_json::{Value, json};

/// Clients of the stream, and of those about so many are connected at a time.
const CLIENTS: u64 = 500;
/// Clients that poll.
const POLLERS: u64 = 10;
/// Items a second.
const RATE: u64 = 200;
const SECONDS: u64 = 12;
/// Between two publish requests.
const TICK: Duration = Duration::from_millis(50);
const PER_TICK: u64 = 10;
const TICKS: u64 = SECONDS * RATE / PER_TICK;
/// Reproduces who comes and goes, if not when.
const SEED: u64 = 20_261_123;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the origin knows, and what is told at the end.
#[derive(Debug, Default)]
struct World {
    newest: AtomicU64,
    /// Of the items for those who poll.
    newest_polled: AtomicU64,
    /// Whether the newest is the last.
    is_over: AtomicU64,
    connections: AtomicU64,
    resumed: AtomicU64,
    events: AtomicU64,
}

fn text(id: u64) -> String {
    format!("id: {id}\ndata: {id}\n\n")
}

/// A stream set up with what is newest now; the edge keeps this for two seconds.
fn stream(world: &World) -> Answer {
    let newest = world.newest.load(Ordering::SeqCst);
    let channel = format!("Grip-Channel: updates; prev-id={newest}");
    let fields = [
        "Content-Type: text/event-stream",
        "Cache-Control: max-age=0, s-maxage=2",
        "Grip-Hold: stream",
        &channel,
        "Grip-Link: </stream/next>; rel=next; timeout=3600",
    ];
    Answer::ok(&fields, &format!("event: state\ndata: {newest}\n\n"))
}

/// What came after the item that a client has.
fn next(world: &World, request: &Request) -> Answer {
    let newest = world.newest.load(Ordering::SeqCst);
    let last = request
        .field("Grip-Last")
        .and_then(|it| it.split_once("last-id="));
    let last: u64 = last.and_then(|(_, id)| id.parse().ok()).unwrap_or(newest);
    let channel = format!("Grip-Channel: updates; prev-id={newest}");
    let fields = [
        "Content-Type: text/event-stream",
        "Grip-Hold: stream",
        &channel,
        "Grip-Link: </stream/next>; rel=next; timeout=3600",
    ];
    let body: String = (last + 1..=newest).map(text).collect();
    Answer::ok(&fields, &body)
}

/// The answer to a client that has this item: there is nothing more yet. It stays true, and may be
/// kept.
fn poll(request: &Request) -> Answer {
    let last = request.target().rsplit('=').next().unwrap_or_default();
    let channel = format!("Grip-Channel: polled; prev-id={last}");
    let fields = [
        "Cache-Control: max-age=0, s-maxage=600",
        "Grip-Hold: response",
        &channel,
    ];
    Answer::ok(&fields, "nothing\n")
}

async fn start(world: &Arc<World>) -> Chain {
    let ignore = json!({"last_event_id": "ignore"}).as_object().cloned();
    let chain = Chain::start_as(
        Topology::HubFront,
        |manifest| {
            let manifest = manifest.with_config(ignore.unwrap_or_default());
            manifest.expect("the configuration is JSON")
        },
        |hub| {
            hub.sse_resume = Some(true);
            hub.channels = vec![RawChannelRule {
                pattern: Some("*".to_owned()),
                // All of it: those who read a little at a time are far behind in the end.
                history_items: Some(10_000),
                history_bytes: Some(10_000_000),
                ..RawChannelRule::default()
            }];
        },
    )
    .await;
    let state = Arc::clone(world);
    chain.origin.serve_with("/stream", move |_| stream(&state));
    let state = Arc::clone(world);
    chain
        .origin
        .serve_with("/stream/next", move |request| next(&state, request));
    chain.origin.serve_with("/poll", poll);
    chain
}

fn item(channel: &str, id: u64) -> Value {
    json!({
        "channel": channel,
        "id": id.to_string(),
        "prev-id": (id - 1).to_string(),
        "purge": false,
        "http-stream": {"content": format!("data: {id}\n\n")},
        "http-response": {"body": id.to_string()},
    })
}

/// Publishes at the rate; now and then two items the wrong way round, or one twice.
async fn publish(chain: &Chain, world: &World, random: &mut Rng) {
    let mut ticks = tokio::time::interval(TICK);
    for tick in 0..TICKS {
        ticks.tick().await;
        let first = world.newest.load(Ordering::SeqCst) + 1;
        let mut ids: Vec<u64> = (first..first + PER_TICK).collect();
        world.newest.store(first + PER_TICK - 1, Ordering::SeqCst);
        if random.u8(..4) == 0 {
            let at = random.usize(1..ids.len());
            ids.swap(at - 1, at);
        }
        if random.u8(..4) == 0 {
            ids.push(ids[0]);
        }
        let mut items: Vec<Value> = ids.into_iter().map(|id| item("updates", id)).collect();
        if tick % 2 == 0 {
            let id = world.newest_polled.fetch_add(1, Ordering::SeqCst) + 1;
            items.push(item("polled", id));
        }
        chain.hub.publish(Value::Array(items)).await;
    }
    world.is_over.store(1, Ordering::SeqCst);
}

/// One client: connects, reads for a while, drops the connection in one way or another, and comes
/// back with the last event that it had.
async fn follow(chain: &Chain, world: &World, mut random: Rng) -> Vec<Client> {
    let mut abandoned = Vec::new();
    let mut have = None;
    loop {
        let away = Duration::from_millis(random.u64(..3000));
        tokio::time::sleep(away).await;
        let wanted = if world.is_over.load(Ordering::SeqCst) == 1 {
            u64::MAX
        } else {
            random.u64(1..RATE)
        };
        let mut client = connect(chain, world, have).await;
        let mut input = String::new();
        let mut heard = 0;
        while heard < wanted {
            if world.is_over.load(Ordering::SeqCst) == 1
                && have == Some(world.newest.load(Ordering::SeqCst))
            {
                world.events.fetch_add(heard, Ordering::SeqCst);
                return abandoned;
            }
            let piece = client.piece().await.expect("a stream does not end");
            input += std::str::from_utf8(&piece).expect("events are text");
            while let Some((event, rest)) = input.split_once("\n\n") {
                take(event, &mut have);
                heard += 1;
                input = rest.to_owned();
            }
        }
        world.events.fetch_add(heard, Ordering::SeqCst);
        match random.u8(..3) {
            0 => drop(client),
            1 => client.break_off(),
            // It reads nothing more, and does not say so.
            _ => abandoned.push(client),
        }
    }
}

async fn connect(chain: &Chain, world: &World, have: Option<u64>) -> Client {
    let field = have.map(|id| format!("Last-Event-ID: {id}"));
    let fields: Vec<&str> = field.iter().map(String::as_str).collect();
    let mut client = Client::get(chain.addr(), "/stream", &fields).await;
    client.be_patient(PATIENCE);
    assert_eq!(status(&client.head().await), 200);
    world.connections.fetch_add(1, Ordering::SeqCst);
    world
        .resumed
        .fetch_add(u64::from(have.is_some()), Ordering::SeqCst);
    client
}

/// The next event of a client that has all up to `have`.
#[track_caller]
fn take(event: &str, have: &mut Option<u64>) {
    let field = |name: &str| {
        let mut lines = event.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let number = |name| field(name).and_then(|text| text.parse::<u64>().ok());
    let data = number("data").expect("a number");
    if field("event") == Some("state") {
        assert_eq!(*have, None, "who comes back is not told how things stand");
    } else {
        assert_eq!(number("id"), Some(data));
        let expected = have.map(|have| have + 1);
        assert_eq!(Some(data), expected, "nothing is lost, nothing comes twice");
    }
    *have = Some(data);
}

/// A client that polls for one item after the other.
async fn follow_by_polls(chain: &Chain, mut random: Rng) {
    let mut have = 0;
    let mut client = Client::connect(chain.addr()).await;
    client.be_patient(PATIENCE);
    while have < TICKS / 2 {
        let target = format!("/poll?after={have}");
        client.request("GET", &target, &[], "").await;
        let response = client.response().await;
        response.check(200, &(have + 1).to_string());
        have += 1;
        // Somebody else's item comes meanwhile.
        tokio::time::sleep(Duration::from_millis(random.u64(..100))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_has_missed_nothing() {
    let mut random = Rng::with_seed(SEED);
    let world = Arc::new(World::default());
    let chain = Arc::new(start(&world).await);
    let began = Instant::now();
    let mut followers = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (chain, world) = (Arc::clone(&chain), Arc::clone(&world));
        let random = random.fork();
        followers.spawn(async move { follow(&chain, &world, random).await.len() });
    }
    for _ in 0..POLLERS {
        let chain = Arc::clone(&chain);
        let random = random.fork();
        followers.spawn(async move {
            follow_by_polls(&chain, random).await;
            0
        });
    }
    publish(&chain, &world, &mut random).await;
    let abandoned: usize = tokio::time::timeout(PATIENCE, followers.join_all())
        .await
        .expect("everybody has got the last item")
        .into_iter()
        .sum();
    report(&chain, &world, abandoned, began.elapsed()).await;
}

#[expect(clippy::print_stdout, reason = "the figures are what this shows")]
async fn report(chain: &Chain, world: &World, abandoned: usize, took: Duration) {
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let connections = count(&world.connections);
    let (streams, links) = (
        chain.origin.count("/stream"),
        chain.origin.count("/stream/next"),
    );
    println!(
        "seed {SEED}: {} items, {connections} connections ({} of them with a last event, {abandoned} abandoned), \
         {} events heard, in {took:.1?}: lost 0, repeated 0",
        count(&world.newest),
        count(&world.resumed),
        count(&world.events),
    );
    let metric = async |name: &str| chain.hub.metric(&format!("gripline_{name}_total")).await;
    let (gaps, followed) = (metric("gaps").await, metric("links_followed").await);
    println!(
        "resumed without the origin {}, replayed items {}, gaps {gaps}, links followed {followed}",
        metric("resumed").await,
        metric("replayed_items").await
    );
    println!(
        "origin requests: {streams} for streams, {links} for recoveries, {} in 10,000 connections",
        10_000 * links as u64 / connections
    );
    let polls: BTreeSet<String> = chain
        .origin
        .requests("/poll")
        .iter()
        .map(|request| request.target().to_owned())
        .collect();
    println!(
        "polls: {} items for {POLLERS} clients, {} origin requests",
        count(&world.newest_polled),
        chain.origin.count("/poll")
    );
    assert_eq!(
        chain.origin.count("/poll"),
        polls.len(),
        "each is asked once"
    );
    assert_eq!(metric("retries").await, 0);
    assert!(metric("duplicate_items").await > 0);
    assert!(metric("early_items").await > 0);
    assert!(
        streams as u64 * 10 < connections,
        "{streams} requests for {connections} streams"
    );
    assert!(
        links as u64 * 20 < connections,
        "{links} recoveries for {connections} streams"
    );
}
