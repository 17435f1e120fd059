//! Clients of all kinds come, go, stop reading and die, for as long as one likes; the hub stays as it
//! is, and when all have gone it is as it was.
//!
//! `GRIPLINE_SOAK_SECONDS` says for how long, `GRIPLINE_SOAK_CLIENTS` how many are there at a time, and
//! `GRIPLINE_SOAK_RATE` how many items a second are published. Figures are printed with
//! `--nocapture`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::released::Hub;
use fastrand::Rng;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CHANNELS: usize = 50;
/// Bytes of the items that make clients slow which do not read.
const LARGE: usize = 30_000;
/// Reproduces who comes and what they do, if not when.
const SEED: u64 = 20_261_123;
const SAMPLES: u32 = 6;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// A route for each policy; slow clients are on channel `large`.
const CONFIG: &str = r#"
[limits]
publish_bytes = 65536
pending_bytes = 200000
total_pending_bytes = 20000000

[[routes]]
host = "*"
path_beg = "/oldest"
targets = ["ORIGIN,over_http"]
slow = "drop-oldest"

[[routes]]
host = "*"
path_beg = "/latest"
targets = ["ORIGIN,over_http"]
slow = "latest-only"

[[routes]]
host = "*"
targets = ["ORIGIN,over_http"]
"#;

/// What clients have to do, and what they did.
#[derive(Debug, Default)]
struct World {
    is_over: AtomicBool,
    connections: AtomicU64,
    items: AtomicU64,
    died: AtomicU64,
    slow: AtomicU64,
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// An origin that holds whoever asks on the channel that its path ends with.
async fn start_origin() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer_all(stream));
        }
    });
    (address, tasks)
}

async fn answer_all(mut stream: TcpStream) {
    let mut input = Vec::new();
    while let Some(end) = find(&mut stream, &mut input, b"\r\n\r\n").await {
        let head = String::from_utf8_lossy(&input[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let size = end + length.unwrap_or(0);
        while input.len() < size {
            if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let channel = path.rsplit('/').next().unwrap_or_default();
        let answer = if path.starts_with("/nobody") {
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nready\n".to_owned()
        } else if head.starts_with("post") {
            let is_opening = input[end..].starts_with(b"OPEN");
            accept(if is_opening { channel } else { "" })
        } else {
            let hold = if path.contains("poll") {
                "response"
            } else {
                "stream"
            };
            format!(
                "HTTP/1.1 200 OK\r\nGrip-Hold: {hold}\r\nGrip-Timeout: 3\r\nGrip-Channel: {channel}\r\nGrip-Keep-Alive: \\n; format=cstring; timeout=5\r\nContent-Length: 6\r\n\r\nready\n"
            )
        };
        input.drain(..size);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Accepts a WebSocket and subscribes it; or agrees to anything else.
fn accept(channel: &str) -> String {
    let subscribe = format!(r#"c:{{"type":"subscribe","channel":"{channel}"}}"#);
    let events = match channel {
        "" => String::new(),
        _ => format!("OPEN\r\nTEXT {:x}\r\n{subscribe}\r\n", subscribe.len()),
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\nSec-WebSocket-Extensions: grip; message-prefix=\"\"\r\nContent-Length: {}\r\n\r\n{events}",
        events.len()
    )
}

/// Reads until the bytes have come, and says where they end.
async fn find(stream: &mut TcpStream, input: &mut Vec<u8>, bytes: &[u8]) -> Option<usize> {
    loop {
        let mut windows = input.windows(bytes.len());
        if let Some(at) = windows.position(|window| window == bytes) {
            return Some(at + bytes.len());
        }
        if stream.read_buf(input).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// Publishes to all channels in turns, and now and then something large, until it is over.
async fn publish(control: SocketAddr, rate: u64, world: Arc<World>) {
    const TICK: Duration = Duration::from_millis(20);
    let per_tick = (rate * 20 / 1000).max(1);
    let mut stream = TcpStream::connect(control).await.expect("a connection");
    let mut numbers = [0_u64; CHANNELS];
    let mut channel = 0;
    let mut ticks = tokio::time::interval(TICK);
    while !world.is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let mut items = Vec::new();
        for _ in 0..per_tick {
            numbers[channel] += 1;
            let text = format!("#{:08};", numbers[channel]);
            items.push(json!({
                "channel": format!("c{channel}"),
                "http-stream": {"content": text},
                "http-response": {"body": text},
                "ws-message": {"content": text},
            }));
            channel = (channel + 1) % CHANNELS;
        }
        request(&mut stream, &json!({ "items": items }).to_string()).await;
        let large = "x".repeat(LARGE);
        let item = json!({"channel": "large", "http-stream": {"content": large}, "ws-message": {"content": large}});
        request(&mut stream, &json!({ "items": [item] }).to_string()).await;
    }
}

async fn request(stream: &mut TcpStream, body: &str) {
    let length = body.len();
    let head = format!("POST /publish/ HTTP/1.1\r\nHost: hub\r\nContent-Length: {length}\r\n\r\n");
    let request = [head.as_bytes(), body.as_bytes()].concat();
    stream.write_all(&request).await.expect("the hub listens");
    let mut answer = Vec::new();
    let end = find(stream, &mut answer, b"Published\n").await;
    assert!(end.is_some(), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// Comes, does something, and goes; again and again.
async fn visit_again(hub: SocketAddr, mut rng: Rng, world: Arc<World>) {
    while !world.is_over.load(Ordering::Relaxed) {
        world.connections.fetch_add(1, Ordering::Relaxed);
        let channel = rng.usize(..CHANNELS);
        let stay = Duration::from_millis(rng.u64(200..5_000));
        let stream = connect(hub).await;
        match rng.u8(..20) {
            0..9 => listen(stream, &format!("/stream/c{channel}"), "", stay, &world).await,
            9..14 => {
                listen(
                    stream,
                    &format!("/socket/c{channel}"),
                    UPGRADE,
                    stay,
                    &world,
                )
                .await;
            }
            14..17 => poll(stream, &format!("/poll/c{channel}"), &world).await,
            17 => stand_still(stream, &mut rng, stay, &world).await,
            _ => die(stream, &mut rng, &world).await,
        }
    }
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// From one of several addresses, which have ports of their own.
async fn connect(hub: SocketAddr) -> TcpStream {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 50;
    let source = [127, 0, 0, 2 + u8::try_from(number).expect("it is small")];
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((source, 0).into()).expect("a port");
    let connected = timeout(PATIENCE, socket.connect(hub)).await;
    connected.expect("in time").expect("the hub listens")
}

async fn ask(stream: &mut TcpStream, path: &str, fields: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the hub reads");
}

/// Reads for a while: items come once and in order.
async fn listen(mut stream: TcpStream, path: &str, fields: &str, stay: Duration, world: &World) {
    ask(&mut stream, path, fields).await;
    let mut input = Vec::new();
    let begun = timeout(PATIENCE, find(&mut stream, &mut input, b"\r\n\r\n")).await;
    assert!(
        begun.expect("an answer in time").is_some(),
        "{path} is held"
    );
    let status = String::from_utf8_lossy(&input[..12.min(input.len())]).into_owned();
    assert!(
        ["HTTP/1.1 200", "HTTP/1.1 101"].contains(&&*status),
        "{status}"
    );
    let mut last = 0;
    let until = Instant::now() + stay;
    loop {
        let rest = until.saturating_duration_since(Instant::now());
        match timeout(rest, find(&mut stream, &mut input, b";")).await {
            Err(_) => return,
            Ok(end) => {
                let end = end.unwrap_or_else(|| panic!("the hub has ended {path}"));
                last = check(&input[..end], last, path);
                world.items.fetch_add(1, Ordering::Relaxed);
                input.drain(..end);
            }
        }
    }
}

/// The number of an item that ends these bytes, which follows the last one.
fn check(bytes: &[u8], last: u64, path: &str) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let number = text
        .rsplit('#')
        .next()
        .and_then(|it| it.trim_end_matches(';').parse().ok());
    let number = number.unwrap_or_else(|| panic!("no item: {text:?}"));
    assert!(
        last == 0 || number == last + 1,
        "{number} behind {last} on {path}"
    );
    number
}

async fn poll(mut stream: TcpStream, path: &str, world: &World) {
    let mut input = Vec::new();
    for _ in 0..3 {
        ask(&mut stream, path, "").await;
        let answer = timeout(PATIENCE, body(&mut stream, &mut input)).await;
        let answer = answer.expect("an answer in time");
        // The origin's when the time is up, or an item.
        match &*answer.unwrap_or_else(|| panic!("the hub answers {path}")) {
            b"ready\n" => {}
            item => {
                check(item, 0, path);
                world.items.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The body of the next answer.
async fn body(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = find(stream, input, b"\r\n\r\n").await?;
    let head = String::from_utf8_lossy(&input[..end]).to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length: usize = head
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| rest.split("\r\n").next()?.parse().ok())
        .unwrap_or_else(|| panic!("a length: {head}"));
    while input.len() < end + length {
        if stream.read_buf(input).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body = input.drain(..end + length).skip(end).collect();
    Some(body)
}

/// Reads nothing, where much is published.
async fn stand_still(mut stream: TcpStream, rng: &mut Rng, stay: Duration, world: &World) {
    let route = ["/stream", "/oldest", "/latest", "/socket"][rng.usize(..4)];
    let fields = if route == "/socket" { UPGRADE } else { "" };
    ask(&mut stream, &format!("{route}/large"), fields).await;
    world.slow.fetch_add(1, Ordering::Relaxed);
    sleep(stay * 2).await;
}

/// Ends without a word, at some point.
async fn die(mut stream: TcpStream, rng: &mut Rng, world: &World) {
    world.died.fetch_add(1, Ordering::Relaxed);
    let part = match rng.u8(..4) {
        0 => String::new(),
        1 => "GET /stream/c1 HTTP/1.1\r\nHos".to_owned(),
        2 => "GET /stream/c1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        _ => format!("GET /socket/c1 HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n\u{1}"),
    };
    stream
        .write_all(part.as_bytes())
        .await
        .expect("the hub reads");
    sleep(Duration::from_millis(rng.u64(..300))).await;
    // A reset, not an end.
    stream.set_zero_linger().expect("an option");
}

/// What the hub takes.
#[derive(Debug)]
#[expect(dead_code, reason = "figures that are printed")]
struct Sample {
    megabytes: f64,
    descriptors: usize,
    threads: usize,
    /// Of the hub's runtimes.
    tasks: usize,
    held: usize,
    /// Processors.
    load: f64,
}

impl Sample {
    async fn take(hub: &Hub, since: (Instant, Duration)) -> Self {
        let used = hub.cpu_time().saturating_sub(since.1);
        Self {
            megabytes: f64::from(u32::try_from(hub.private_bytes() / 1024).unwrap_or(0)) / 1024.0,
            descriptors: hub.descriptors(),
            threads: hub.threads(),
            tasks: hub.metric("gripline_tasks ").await,
            held: hub.metric("gripline_held_").await,
            load: used.as_secs_f64() / since.0.elapsed().as_secs_f64(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[expect(clippy::print_stdout, reason = "the long run is reported")]
async fn nothing_is_left_of_clients_that_have_gone() {
    gripline_hub::raise_open_files();
    let seconds = setting("GRIPLINE_SOAK_SECONDS", 60);
    let clients = setting("GRIPLINE_SOAK_CLIENTS", 300);
    let rate = setting("GRIPLINE_SOAK_RATE", 500);
    let (origin, origin_tasks) = start_origin().await;
    let config = CONFIG.replace("ORIGIN", &origin.to_string());
    let hub = Hub::start_routed(&config);
    let world = Arc::new(World::default());
    // All threads have begun when all shards have served somebody.
    for number in 0..40 {
        let stream = connect(hub.listen).await;
        poll(stream, &format!("/nobody/c{number}"), &world).await;
    }
    hub.until_none("gripline_tasks ").await;
    let idle = hub.descriptors();
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(hub.control, rate, Arc::clone(&world)));
    for number in 0..clients {
        let rng = Rng::with_seed(SEED + number);
        tasks.spawn(visit_again(hub.listen, rng, Arc::clone(&world)));
    }
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        let since = (Instant::now(), hub.cpu_time());
        sleep(Duration::from_secs(seconds) / SAMPLES).await;
        let sample = Sample::take(&hub, since).await;
        println!("{sample:?}");
        samples.push(sample);
    }
    world.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("everybody got what is theirs");
    }
    println!("{world:?}");
    let items = world.items.load(Ordering::Relaxed);
    assert!(
        items > 2 * world.connections.load(Ordering::Relaxed),
        "items arrive"
    );
    let slow = hub.metric("gripline_slow_consumers_total").await;
    let dropped = hub.metric("gripline_dropped_items_total").await;
    println!("slow consumers {slow}, dropped items {dropped}");
    assert!(slow > 0 && dropped > 0, "the policies act");

    drop(origin_tasks);
    let gone = async {
        for gauge in [
            "gripline_held_",
            "gripline_subscriptions ",
            "gripline_pending_bytes ",
            "gripline_tasks ",
        ] {
            hub.until_none(gauge).await;
        }
        while hub.descriptors() > idle {
            tokio::task::yield_now().await;
        }
    };
    let gone = timeout(PATIENCE, gone).await;
    assert!(
        gone.is_ok(),
        "{} descriptors, {idle} before",
        hub.descriptors()
    );
    let (first, last) = (&samples[0], &samples[samples.len() - 1]);
    assert!(
        last.megabytes <= first.megabytes * 1.1 + 10.0,
        "memory has grown: {first:?}, {last:?}"
    );
    assert_eq!(last.threads, first.threads);
}
