//! How much memory an idle held client costs the hub.
//!
//! `cargo bench -p e2e --bench idle_memory` runs the hub as a process of its own for each kind of
//! hold, and reports its private memory per client: for plain streams, for reliable ones (with an
//! id and a next link), for long-polls, whose request is kept, and for WebSockets over HTTP, whose
//! handshake is kept: of a client that says no more than it must, of a browser, and of a client
//! whose messages are compressed. The kernel's part, which sockets cost any server, is not in these
//! figures.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use e2e::client::{self, Client};
use e2e::origin::{Answer, Origin};
use e2e::websocket::WebSocket;

/// Each takes one open file here and one in the hub.
const CLIENTS: usize = 10_000;
/// Clients that are set up at a time.
const TOGETHER: usize = 100;

struct Hub {
    child: Child,
    listen: SocketAddr,
    control: SocketAddr,
}

impl Hub {
    fn start(origin: &str, kind: Kind) -> Self {
        let program = cargo_built_hub();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("hub.toml");
        let is_compressed = matches!(kind, Kind::CompressedWebSocket);
        std::fs::write(
            &config,
            format!("websocket_compression = {is_compressed}\n"),
        )
        .unwrap();
        let mut child = Command::new(program)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--control",
                "127.0.0.1:0",
                "--origin",
                origin,
            ])
            .args(["--sig-key", "changeme", "--log", "json", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| record["fields"][name].as_str().unwrap().parse().unwrap();
        let (listen, control) = (address("listen"), address("control"));
        // What else it logs is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            listen,
            control,
        }
    }

    /// Waits until at least so many clients are held.
    async fn until_held(&self, count: usize) {
        loop {
            let metrics = client::get(self.control, "/metrics", &[]).await.text();
            let held: usize = metrics
                .lines()
                .filter(|line| line.starts_with("gripline_held_"))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
                .sum();
            if held >= count {
                return;
            }
        }
    }

    /// Bytes of memory that are this process's alone.
    fn private_bytes(&self) -> usize {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter(|line| line.starts_with("Private_"))
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<usize>()
                    .unwrap()
                    * 1024
            })
            .sum()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the hub as users do.
fn cargo_built_hub() -> std::path::PathBuf {
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "-p",
            "gripline-hub",
            "--message-format",
            "json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .next_back()
        .unwrap()
}

/// What clients ask for, and whether they get anything at once.
#[derive(Clone, Copy)]
enum Kind {
    Stream,
    Reliable,
    LongPoll,
    WebSocket,
    BrowserWebSocket,
    CompressedWebSocket,
}

/// What Chromium sends with a handshake, and a session's cookie.
const BROWSER: [&str; 8] = [
    "Origin: https://www.example.com",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-US,en;q=0.9",
    "Cache-Control: no-cache",
    "Pragma: no-cache",
    "Cookie: session=7b2fe6f02d0c4b0a9c6e0d4d6f1f3a55; theme=dark",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
];

impl Kind {
    const ALL: [Self; 6] = [
        Self::Stream,
        Self::Reliable,
        Self::LongPoll,
        Self::WebSocket,
        Self::BrowserWebSocket,
        Self::CompressedWebSocket,
    ];

    /// Of a handshake.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::BrowserWebSocket => &BROWSER,
            Self::CompressedWebSocket => &BROWSER[7..],
            _ => &[],
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Stream => "/stream",
            Self::Reliable => "/reliable",
            Self::LongPoll => "/poll",
            Self::WebSocket | Self::BrowserWebSocket | Self::CompressedWebSocket => "/socket",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stream => "streams",
            Self::Reliable => "reliable streams",
            Self::LongPoll => "long-polls",
            Self::WebSocket => "WebSockets",
            Self::BrowserWebSocket => "WebSockets of browsers",
            Self::CompressedWebSocket => "compressed WebSockets",
        }
    }
}

async fn hold(hub: &Hub, kind: Kind, held_before: usize, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let mut opening = Vec::new();
        for _ in 0..TOGETHER.min(count - clients.len()) {
            opening.push(match kind {
                Kind::Stream | Kind::Reliable | Kind::LongPoll => {
                    Client::get(hub.listen, kind.path(), &[]).await
                }
                _ => WebSocket::ask(hub.listen, kind.path(), kind.fields()).await,
            });
        }
        for mut client in opening {
            match kind {
                Kind::Stream | Kind::Reliable => {
                    client.stream_begins("begin\n").await;
                }
                Kind::LongPoll => {}
                _ => {
                    client.head().await;
                }
            }
            clients.push(client);
        }
        // Not all at once, or what their set-up took at its peak would be counted.
        hub.until_held(held_before + clients.len()).await;
    }
    clients
}

async fn measure(origin: &Origin, kind: Kind) {
    let hub = Hub::start(&origin.url(), kind);
    // Threads, pools and code are paid for once, whatever the number of clients.
    let warm = hold(&hub, kind, 0, TOGETHER).await;
    let before = hub.private_bytes();
    let clients = hold(&hub, kind, TOGETHER, CLIENTS).await;
    let after = hub.private_bytes();
    let each = (after - before) / CLIENTS;
    let name = kind.name();
    println!("{CLIENTS} idle {name}: {before} -> {after} private bytes, {each} bytes each");
    drop((warm, clients));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let origin = Origin::start().await;
    let keep_alive = r"Grip-Keep-Alive: \n; format=cstring; timeout=55";
    let stream = [
        "Content-Type: text/event-stream",
        "Grip-Hold: stream",
        keep_alive,
    ];
    let plain = [&stream[..], &["Grip-Channel: updates"]].concat();
    origin.serve("/stream", Answer::ok(&plain, "begin\n"));
    let link = "Grip-Link: </reliable>; rel=next; timeout=3600";
    let reliable = [&stream[..], &["Grip-Channel: updates; prev-id=1", link]].concat();
    origin.serve("/reliable", Answer::ok(&reliable, "begin\n"));
    let poll = [
        "Grip-Hold: response",
        "Grip-Channel: updates",
        "Grip-Timeout: 600",
    ];
    origin.serve("/poll", Answer::ok(&poll, "nothing\n"));
    let subscribe = r#"c:{"type":"subscribe","channel":"updates"}"#;
    let accept = [
        "Content-Type: application/websocket-events",
        "Sec-WebSocket-Extensions: grip",
    ];
    let open = format!("OPEN\r\nTEXT {:x}\r\n{subscribe}\r\n", subscribe.len());
    origin.serve("/socket", Answer::ok(&accept, &open));
    let wanted = std::env::var("KINDS").unwrap_or_default();
    for kind in Kind::ALL {
        if kind.name().contains(&wanted) {
            measure(&origin, kind).await;
        }
    }
}
