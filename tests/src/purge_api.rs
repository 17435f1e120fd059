//! Stands in for the CDN's interface for purges, as far as that is documented: `POST
//! /service/ID/purge/KEY` and `POST /service/ID/purge` with `surrogate_keys`.
//!
//! It refuses what the documentation does not allow, and has a real edge forget what it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::message::{Decoder, Framing, Head, Piece};
use crate::{edge, within};

/// The service that it knows.
pub const SERVICE: &str = "SU1Z0isxPaozGVKXdv0eY";
/// Who has this may purge the service.
pub const TOKEN: &str = "the-token-of-the-account";
/// Keys in one request.
const MAX_KEYS: usize = 256;

/// What was purged by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// Surrogate keys.
    pub keys: Vec<String>,
    /// Whether they stand in the body.
    pub is_batch: bool,
    /// Whether what they are on became stale only.
    pub is_soft: bool,
}

/// The interface, on a port of its own.
#[derive(Debug)]
pub struct PurgeApi {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// What forgets, if anything does.
    edge: Option<SocketAddr>,
    purges: watch::Sender<Vec<Purge>>,
    /// Refusals to come, each the seconds in `Retry-After`.
    refusals: Mutex<Vec<u64>>,
    refused: watch::Sender<Vec<String>>,
}

impl PurgeApi {
    /// Purges nothing.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Purges this edge.
    pub async fn start_for(edge: SocketAddr) -> Self {
        Self::start_with(Some(edge)).await
    }

    async fn start_with(edge: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            edge,
            purges: watch::Sender::default(),
            refusals: Mutex::default(),
            refused: watch::Sender::default(),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            server,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Refuses the next request, with so many seconds to wait.
    pub fn refuse_next(&self, retry_after: u64) {
        let mut refusals = self
            .shared
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refusals.push(retry_after);
    }

    /// What was purged so far.
    pub fn purges(&self) -> Vec<Purge> {
        self.shared.purges.borrow().clone()
    }

    /// Answers to requests that were refused.
    pub fn refused(&self) -> Vec<String> {
        self.shared.refused.borrow().clone()
    }

    /// Waits until so many requests have purged something.
    pub async fn until_purges(&self, count: usize) {
        let mut purges = self.shared.purges.subscribe();
        let reached = async { drop(purges.wait_for(|purges| purges.len() >= count).await) };
        within("purges", reached).await;
    }
}

impl Drop for PurgeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// Ends when the hub leaves.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut input = Vec::new();
    loop {
        let head = loop {
            match Head::take_from(&mut input) {
                Some(head) => break head,
                None => read(&mut stream, &mut input).await?,
            }
        };
        let mut body = Vec::new();
        let mut decoder = Decoder::new(Framing::of_request(&head));
        loop {
            match decoder.next(&mut input) {
                Some(Piece::Data(data)) => body.extend(data),
                Some(Piece::End) => break,
                None => read(&mut stream, &mut input).await?,
            }
        }
        let (status, fields, answer) = shared.answer(&head, &body).await;
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\n{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).await.ok()?;
    }
}

async fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<()> {
    stream.read_buf(input).await.ok().filter(|&read| read > 0)?;
    Some(())
}

impl Shared {
    async fn answer(&self, head: &Head, body: &[u8]) -> (&'static str, String, Value) {
        let refusal = self
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let (status, fields, message) = match (refusal, purge(head, body)) {
            (Some(seconds), _) => (
                "429 Too Many Requests",
                format!("Retry-After: {seconds}\r\n"),
                "Exceeded purge rate limit",
            ),
            (None, Err((status, message))) => (status, String::new(), message),
            (None, Ok(purge)) => {
                self.forget(&purge).await;
                let answer = match purge.keys.as_slice() {
                    [_] if !purge.is_batch => json!({"status": "ok", "id": "1-1"}),
                    keys => keys.iter().map(|key| (key.clone(), json!("1-1"))).collect(),
                };
                self.purges.send_modify(|purges| purges.push(purge));
                return ("200 OK", String::new(), answer);
            }
        };
        let line = format!("{} {status}", head.start());
        self.refused.send_modify(|refused| refused.push(line));
        (status, fields, json!({ "msg": message }))
    }

    async fn forget(&self, purge: &Purge) {
        if let Some(addr) = self.edge {
            let body = json!({"keys": purge.keys, "soft": purge.is_soft}).to_string();
            edge::purge(addr, &body)
                .await
                .check(200, &format!("{{\"purged\":{}}}\n", purge.keys.len()));
        }
    }
}

fn purge(head: &Head, body: &[u8]) -> Result<Purge, (&'static str, &'static str)> {
    if head.field("Fastly-Key") != Some(TOKEN) {
        return Err((
            "401 Unauthorized",
            "Provided credentials are missing or invalid",
        ));
    }
    let prefix = format!("/service/{SERVICE}/purge");
    let Some(rest) = head.word(1).strip_prefix(&prefix) else {
        return Err(("404 Not Found", "Record not found"));
    };
    if head.word(0) != "POST" {
        return Err(("405 Method Not Allowed", "Method not allowed"));
    }
    if head.field("Accept") != Some("application/json") {
        return Err(("406 Not Acceptable", "Not acceptable"));
    }
    let keys: Vec<String> = if let Some(key) = rest.strip_prefix('/') {
        vec![key.to_owned()]
    } else {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let keys = body["surrogate_keys"].as_array();
        keys.into_iter()
            .flatten()
            .filter_map(|key| key.as_str().map(str::to_owned))
            .collect()
    };
    if keys.is_empty() || keys.len() > MAX_KEYS || keys.iter().any(String::is_empty) {
        return Err(("400 Bad Request", "Bad request"));
    }
    Ok(Purge {
        is_batch: rest.is_empty(),
        is_soft: head.field("Fastly-Soft-Purge") == Some("1"),
        keys,
    })
}
