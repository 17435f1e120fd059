//! The application behind the measured servers: it answers with instructions as fast as it can.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::pin;
use crate::serve::{self, Service, Sockets};
use crate::socket::request_line;

/// First body of every stream; a client that has it is held.
pub(crate) const READY: &str = "ready\n";

/// An origin in a thread of its own, up to the end of the program.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    farewells: AtomicU64,
}

impl Origin {
    /// Starts it beside the load.
    pub(crate) fn start(cores: &[usize]) -> io::Result<Self> {
        let listener = serve::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        let counters = Arc::<Counters>::default();
        let mut answers = Answers(Arc::clone(&counters));
        let cores = cores.to_vec();
        std::thread::Builder::new()
            .name("origin".to_owned())
            .spawn(move || {
                let ended = pin(&cores).and_then(|()| serve::serve(listener, &mut answers));
                // Servers would be measured without it.
                println!("the origin has ended: {ended:?}");
            })?;
        Ok(Self { address, counters })
    }

    /// Requests answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::Relaxed)
    }

    /// Those of them that say that a WebSocket has ended.
    pub(crate) fn farewells(&self) -> u64 {
        self.counters.farewells.load(Ordering::Relaxed)
    }
}

struct Answers(Arc<Counters>);

impl Service for Answers {
    fn answer(&mut self, _connection: usize, head: &[u8], body: &[u8], answer: &mut Vec<u8>) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let path = request_line(head).map_or("", |(_, path)| path);
        let path = path.split('?').next().unwrap_or_default();
        let text = match path.rsplit_once('/') {
            Some(("/stream", channels)) => held("stream", "", channels),
            // Nobody is answered for want of an item while others are still set up.
            Some(("/poll", channels)) => held("response", "Grip-Timeout: 600\r\n", channels),
            Some(("/socket", channels)) => {
                if !body.starts_with(b"OPEN") {
                    self.0.farewells.fetch_add(1, Ordering::Relaxed);
                }
                events(channels, body)
            }
            _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        answer.extend_from_slice(text.as_bytes());
    }

    fn gone(&mut self, _connection: usize) {}

    fn settle(&mut self, _sockets: &mut Sockets) {}
}

/// Holds a client on channels whose names are joined by commas.
fn held(hold: &str, fields: &str, channels: &str) -> String {
    let channels = channels.replace(',', ", ");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nGrip-Hold: {hold}\r\nGrip-Channel: {channels}\r\n{fields}Content-Length: {}\r\n\r\n{READY}",
        READY.len()
    )
}

/// Accepts a WebSocket and subscribes it; agrees to everything else.
fn events(channels: &str, body: &[u8]) -> String {
    let events = if body.starts_with(b"OPEN") {
        let subscribe = |channel| {
            let control = format!(r#"c:{{"type":"subscribe","channel":"{channel}"}}"#);
            format!("TEXT {:x}\r\n{control}\r\n", control.len())
        };
        let subscribed: Vec<String> = channels.split(',').map(subscribe).collect();
        "OPEN\r\n".to_owned() + &subscribed.concat()
    } else {
        String::new()
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\nSec-WebSocket-Extensions: grip; message-prefix=\"\"\r\nContent-Length: {}\r\n\r\n{events}",
        events.len()
    )
}
