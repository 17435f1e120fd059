//! How much memory an idle held client costs the hub.
//!
//! `cargo bench -p e2e --bench idle_memory` runs the hub as a process of its own for each kind of
//! hold, and reports its private memory per client: for plain streams, for reliable ones (with an
//! id and a next link), for long-polls, whose request is kept, and for WebSockets over HTTP, whose
//! handshake is kept: of a client that says no more than it must, of a browser, and of a client
//! whose messages are compressed. The kernel's part, which sockets cost any server, is not in these
//! figures.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use e2e::client::Client;
use e2e::origin::{Answer, Origin};
use e2e::released::Hub;
use e2e::websocket::WebSocket;

/// Each takes one open file here and one in the hub.
const CLIENTS: usize = 10_000;
/// Clients that are set up at a time.
const TOGETHER: usize = 100;

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
        hub.until("gripline_held_", held_before + clients.len())
            .await;
    }
    clients
}

async fn measure(origin: &Origin, kind: Kind) {
    let is_compressed = matches!(kind, Kind::CompressedWebSocket);
    let config = format!("websocket_compression = {is_compressed}\n");
    let hub = Hub::start(&origin.url(), &config);
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
