//! Bodies that are too big to keep: made, compared and counted on their way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::Client;
use crate::message::{Decoder, Framing, Head, Piece};
use crate::origin::Gate;
use crate::within;

/// Bytes that are written at a time, and read at a time by the origin.
const PIECE: usize = 64 * 1024;
/// How often the content repeats itself; no multiple of any buffer's size.
const PERIOD: usize = 251;

/// The content of all big bodies, and how much of it has passed.
#[derive(Debug)]
pub struct Content {
    pattern: Vec<u8>,
    passed: u64,
}

impl Default for Content {
    fn default() -> Self {
        let cycle = (0..u8::MAX).take(PERIOD).cycle();
        Self {
            pattern: cycle.take(PIECE + PERIOD).collect(),
            passed: 0,
        }
    }
}

impl Content {
    /// The next bytes, at most so many.
    fn next(&mut self, most: u64) -> &[u8] {
        let length = usize::try_from(most).map_or(PIECE, |most| most.min(PIECE));
        let begin = self.begin();
        self.passed += length as u64;
        &self.pattern[begin..begin + length]
    }

    /// Fails unless these are the next bytes.
    pub fn check(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE) {
            let begin = self.begin();
            let expected = &self.pattern[begin..begin + piece.len()];
            assert!(piece == expected, "other content after {}", self.passed);
            self.passed += piece.len() as u64;
        }
    }

    /// Bytes that have passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn begin(&self) -> usize {
        usize::try_from(self.passed % PERIOD as u64).expect("it is below the period")
    }
}

/// Sends a body of so many bytes, and says so piece by piece.
pub async fn upload(client: &mut Client, bytes: u64, mut on_piece: impl FnMut(u64)) {
    let mut content = Content::default();
    while content.passed() < bytes {
        client
            .send_content(content.next(bytes - content.passed()))
            .await;
        on_piece(content.passed());
    }
}

/// The same in chunks.
pub async fn upload_chunked(client: &mut Client, bytes: u64, mut on_piece: impl FnMut(u64)) {
    let mut content = Content::default();
    while content.passed() < bytes {
        let piece = content.next(bytes - content.passed());
        let size = format!("{:x}\r\n", piece.len());
        client.send_content(size.as_bytes()).await;
        client.send_content(piece).await;
        client.send_content(b"\r\n").await;
        on_piece(content.passed());
    }
    client.send_content(b"0\r\n\r\n").await;
}

/// Reads a body to its end, and says so piece by piece; returns its length.
pub async fn download(client: &mut Client, mut on_piece: impl FnMut(u64)) -> u64 {
    let mut content = Content::default();
    while let Some(piece) = client.piece().await {
        content.check(&piece);
        on_piece(content.passed());
    }
    content.passed()
}

/// An origin of big bodies; it ends when dropped.
///
/// `GET /sized/BYTES` and `GET /chunked/BYTES` are answered with such a body, and `GET /held/BYTES`
/// with one whose client is then held on channel `c`; whatever has a body of its own is answered
/// with its length, once that was read.
#[derive(Debug)]
pub struct Flood {
    addr: SocketAddr,
    server: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Bytes of the latest body on the connection that came first.
    first: AtomicU64,
    /// Bodies on the first connection are not read before it is open.
    gate: Gate,
    /// Open once there was a connection.
    connected: Gate,
}

impl Flood {
    /// Listens on a free port. Bodies are read at once.
    pub async fn start() -> Self {
        let flood = Self::start_closed().await;
        flood.open();
        flood
    }

    /// The same, but bodies on the first connection are not read before [`Self::open`].
    pub async fn start_closed() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            first: AtomicU64::new(0),
            gate: Gate::new(),
            connected: Gate::new(),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            addr,
            server,
            shared,
        }
    }

    /// Begins to read what has waited.
    pub fn open(&self) {
        self.shared.gate.open();
    }

    /// Waits for the first connection.
    pub async fn until_connected(&self) {
        within("a connection", self.shared.connected.opened()).await;
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What has passed of the latest body on the first connection.
    pub fn first(&self) -> u64 {
        self.shared.first.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut is_first = true;
    while let Ok((stream, _)) = listener.accept().await {
        shared.connected.open();
        let shared = std::mem::replace(&mut is_first, false).then(|| Arc::clone(&shared));
        let connection = Connection {
            stream,
            input: Vec::with_capacity(2 * PIECE),
            shared,
        };
        connections.spawn(connection.serve());
    }
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// Of the first connection only.
    shared: Option<Arc<Shared>>,
}

impl Connection {
    /// Ends at the first thing that goes wrong; what is counted tells how far it came.
    async fn serve(mut self) {
        while let Some(head) = self.read_head().await {
            let answered = match Framing::of_request(&head) {
                Framing::Empty => self.send_body(&head).await,
                framing => self.read_body(framing).await,
            };
            if answered.is_none() {
                return;
            }
        }
    }

    async fn read_head(&mut self) -> Option<Head> {
        loop {
            if let Some(head) = Head::take_from(&mut self.input) {
                return Some(head);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(1..) => Some(()),
            Ok(0) | Err(_) => None,
        }
    }

    fn count(&self, bytes: u64) {
        if let Some(shared) = &self.shared {
            shared.first.store(bytes, Ordering::Relaxed);
        }
    }

    async fn send_body(&mut self, head: &Head) -> Option<()> {
        let (framing, bytes) = head.word(1).strip_prefix('/')?.split_once('/')?;
        let bytes: u64 = bytes.parse().ok()?;
        let is_chunked = framing == "chunked";
        let field = match framing {
            "chunked" => "Transfer-Encoding: chunked".to_owned(),
            "held" => format!("Content-Length: {bytes}\r\nGrip-Hold: stream\r\nGrip-Channel: c"),
            _ => format!("Content-Length: {bytes}"),
        };
        self.send(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n").as_bytes())
            .await?;
        let mut content = Content::default();
        while content.passed() < bytes {
            let piece = content.next(bytes - content.passed());
            if is_chunked {
                let size = format!("{:x}\r\n", piece.len());
                self.stream.write_all(size.as_bytes()).await.ok()?;
            }
            self.stream.write_all(piece).await.ok()?;
            if is_chunked {
                self.stream.write_all(b"\r\n").await.ok()?;
            }
            self.count(content.passed());
        }
        if is_chunked {
            self.send(b"0\r\n\r\n").await?;
        }
        Some(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    async fn read_body(&mut self, framing: Framing) -> Option<()> {
        if let Some(shared) = &self.shared {
            shared.gate.opened().await;
        }
        let mut body = Decoder::new(framing);
        let mut content = Content::default();
        loop {
            match body.next(&mut self.input) {
                Some(Piece::Data(data)) => content.check(&data),
                Some(Piece::End) => break,
                None => self.read().await?,
            }
            self.count(content.passed());
        }
        let text = content.passed().to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
        self.send((head + &text).as_bytes()).await
    }
}

/// Bytes of memory that this process has.
pub fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second number is of pages") * PAGE
}
