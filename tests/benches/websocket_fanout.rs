//! One message to 10,000 WebSockets, beside 10,000 HTTP streams in the same run.
//!
//! `cargo bench -p e2e --bench websocket_fanout` publishes to streams, to WebSockets over HTTP, and
//! to WebSockets whose messages are compressed: first one item at a time, each when all have the
//! one before, then many at once. Every client's bytes are compared, so nothing is missing, twice or
//! out of order. Figures are deliveries a second, and the hub's processor time for each.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::rc::Rc;
use std::time::{Duration, Instant};

use e2e::client;
use e2e::origin::{Answer, Origin};
use e2e::released::Hub;
use e2e::websocket::KEY;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// Each takes one open file here and one in the hub.
const CLIENTS: usize = 10_000;
/// Clients that are set up at a time.
const TOGETHER: usize = 100;
/// Items that are published one at a time.
const SINGLE: usize = 20;
/// Items that are published at once.
const BURST: usize = 20;
/// Bytes in an item; of words, for compression to be of use.
const SIZE: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    WebSocket,
    Compressed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Stream => "HTTP streams",
            Self::WebSocket => "WebSockets",
            Self::Compressed => "compressed WebSockets",
        }
    }

    fn gauge(self) -> &'static str {
        match self {
            Self::Stream => "gripline_held_streams",
            Self::WebSocket | Self::Compressed => "gripline_held_websockets",
        }
    }

    fn request(self) -> String {
        let upgrade = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        );
        match self {
            Self::Stream => "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            Self::WebSocket => format!("GET /socket HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"),
            Self::Compressed => format!(
                "GET /socket HTTP/1.1\r\nHost: a\r\n{upgrade}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            ),
        }
    }

    /// What the client has once it is held.
    fn beginning(self) -> &'static [u8] {
        match self {
            Self::Stream => b"begin\n\r\n",
            Self::WebSocket | Self::Compressed => b"\r\n\r\n",
        }
    }

    /// An item as it comes; of a compressed one, only how it begins is known.
    fn frame(self, item: &str) -> Vec<u8> {
        let size = u8::try_from(item.len()).unwrap();
        match self {
            Self::Stream => format!("{size:x}\r\n{item}\r\n").into_bytes(),
            Self::WebSocket => [&[0x81, size], item.as_bytes()].concat(),
            Self::Compressed => vec![0xc1],
        }
    }
}

fn item(number: usize) -> String {
    let mut text = format!("item {number}: ");
    while text.len() < SIZE {
        text.push_str("and again ");
    }
    text.truncate(SIZE);
    text
}

async fn open(hub: &Hub, kind: Kind) -> TcpStream {
    let mut stream = TcpStream::connect(hub.listen).await.unwrap();
    stream.write_all(kind.request().as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(kind.beginning()) {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{head:?}");
    }
    stream
}

async fn publish(hub: &Hub, items: std::ops::Range<usize>) {
    let items: Vec<serde_json::Value> = items
        .map(|number| {
            let content = item(number);
            serde_json::json!({
                "channel": "updates",
                "http-stream": {"content": content},
                "ws-message": {"content": content},
            })
        })
        .collect();
    let body = serde_json::json!({ "items": items }).to_string();
    let reply = client::request(hub.control, "POST", "/publish/", &[], &body).await;
    assert_eq!(reply.status(), 200);
}

/// A frame of a server, shorter than 126 bytes.
async fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut frame = vec![0; 2];
    stream.read_exact(&mut frame).await.unwrap();
    let size = usize::from(frame[1]);
    assert!(size < 126);
    frame.resize(2 + size, 0);
    stream.read_exact(&mut frame[2..]).await.unwrap();
    frame
}

/// Reads all items; says so after each.
async fn listen(mut stream: TcpStream, kind: Kind, first: Rc<Vec<Vec<u8>>>, done: Done) {
    for number in 0..SINGLE + BURST {
        let bytes = if kind == Kind::Compressed {
            let frame = read_frame(&mut stream).await;
            assert!(frame.starts_with(&kind.frame("")), "{frame:?}");
            // All clients have the same as the one that was asked before them.
            assert_eq!(frame, first[number]);
            continue_with(&done);
            continue;
        } else {
            let mut bytes = vec![0; first[number].len()];
            stream.read_exact(&mut bytes).await.unwrap();
            bytes
        };
        assert_eq!(bytes, first[number], "item {number}");
        continue_with(&done);
    }
}

type Done = mpsc::UnboundedSender<()>;

fn continue_with(done: &Done) {
    let _ = done.send(());
}

async fn until_all(heard: &mut mpsc::UnboundedReceiver<()>, count: usize) {
    for _ in 0..count {
        heard.recv().await.unwrap();
    }
}

struct Figures {
    single: f64,
    burst: f64,
}

async fn measure(origin: &Origin, kind: Kind) -> Figures {
    let is_compressed = kind == Kind::Compressed;
    let config = format!("websocket_compression = {is_compressed}\n");
    let hub = Hub::start(&origin.url(), &config);
    // What one client gets, in order, is what all get.
    let mut expected = Vec::new();
    if is_compressed {
        let mut one = open(&hub, kind).await;
        hub.until(kind.gauge(), 1).await;
        publish(&hub, 0..SINGLE + BURST).await;
        for _ in 0..SINGLE + BURST {
            expected.push(read_frame(&mut one).await);
        }
    } else {
        expected.extend((0..SINGLE + BURST).map(|number| kind.frame(&item(number))));
    }
    let mut clients = Vec::with_capacity(CLIENTS);
    while clients.len() < CLIENTS {
        let opening = (0..TOGETHER).map(|_| open(&hub, kind));
        clients.extend(futures::future::join_all(opening).await);
    }
    hub.until(kind.gauge(), CLIENTS).await;
    let (done, mut heard) = mpsc::unbounded_channel();
    let expected = Rc::new(expected);
    for stream in clients {
        let listening = listen(stream, kind, Rc::clone(&expected), done.clone());
        tokio::task::spawn_local(listening);
    }
    let (began, cpu) = (Instant::now(), hub.cpu_time());
    for number in 0..SINGLE {
        publish(&hub, number..number + 1).await;
        until_all(&mut heard, CLIENTS).await;
    }
    let single = report(
        kind,
        "one at a time",
        SINGLE,
        began,
        hub.cpu_time().saturating_sub(cpu),
    );
    let (began, cpu) = (Instant::now(), hub.cpu_time());
    publish(&hub, SINGLE..SINGLE + BURST).await;
    until_all(&mut heard, CLIENTS * BURST).await;
    let burst = report(
        kind,
        "at once",
        BURST,
        began,
        hub.cpu_time().saturating_sub(cpu),
    );
    Figures { single, burst }
}

fn report(kind: Kind, way: &str, items: usize, began: Instant, cpu: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let deliveries = (items * CLIENTS) as f64;
    let rate = deliveries / began.elapsed().as_secs_f64();
    let each = cpu.as_secs_f64() * 1e6 / deliveries;
    let name = kind.name();
    println!(
        "{items} items {way} to {CLIENTS} {name}: {rate:.0} deliveries a second, {each:.2} µs of the hub each"
    );
    each
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    LocalSet::new().run_until(run()).await;
}

async fn run() {
    let origin = Origin::start().await;
    let stream = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&stream, "begin\n"));
    let subscribe = r#"c:{"type":"subscribe","channel":"updates"}"#;
    let accept = [
        "Content-Type: application/websocket-events",
        "Sec-WebSocket-Extensions: grip",
    ];
    let open = format!("OPEN\r\nTEXT {:x}\r\n{subscribe}\r\n", subscribe.len());
    origin.serve("/socket", Answer::ok(&accept, &open));
    let streams = measure(&origin, Kind::Stream).await;
    for kind in [Kind::WebSocket, Kind::Compressed] {
        let figures = measure(&origin, kind).await;
        println!(
            "{} cost the hub {:.2} times as much as HTTP streams one at a time, {:.2} times at once",
            kind.name(),
            figures.single / streams.single,
            figures.burst / streams.burst
        );
    }
}
