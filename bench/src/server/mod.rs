//! The servers that are measured, each in processes of its own.

mod hub;
mod nchan;
mod pushpin;
mod wall;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::item::Item;
use crate::load::Kind;
use crate::origin::READY;
use crate::process::{self, Process};
use crate::scenario::DEADLINE;

pub(crate) use hub::{Hub, build};

/// A server that runs; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) clients: SocketAddr,
    pub(crate) publish: SocketAddr,
    pub(crate) dialect: Dialect,
    processes: Vec<Process>,
    /// Where its configuration is.
    _directory: Option<TempDir>,
}

impl Server {
    /// Processor time that it has used, the kernel's for it included.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let each = self.processes.iter().flat_map(Process::family);
        each.map(process::cpu_time).sum()
    }

    /// Bytes of user memory (PSS).
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let each = self.processes.iter().flat_map(Process::family);
        each.map(process::memory).sum()
    }

    /// The most memory that there was at any time until it is over, as far as one sees it by looking
    /// now and then.
    pub(crate) fn peak_memory(&self, is_over: &AtomicBool) -> io::Result<u64> {
        const INTERVAL: Duration = Duration::from_millis(50);
        let mut peak = self.memory()?;
        while !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(INTERVAL);
            peak = peak.max(self.memory()?);
        }
        Ok(peak)
    }

    /// The sum of the hub's metrics whose name begins so.
    pub(crate) fn metric(&self, prefix: &str) -> io::Result<u64> {
        let mut stream = TcpStream::connect(self.publish)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")?;
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics)?;
        let found = metrics.lines().filter(|line| line.starts_with(prefix));
        Ok(found
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    /// Waits until the hub's metric is this.
    pub(crate) fn until(&self, prefix: &str, value: u64) -> io::Result<()> {
        /// Looking costs the hub time.
        const INTERVAL: Duration = Duration::from_millis(5);
        let begun = Instant::now();
        loop {
            let found = self.metric(prefix)?;
            if found == value {
                return Ok(());
            }
            if begun.elapsed() > DEADLINE {
                let text = format!("{prefix} is {found} and not {value}");
                return Err(io::Error::other(text));
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// What publishers and clients say to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `POST /publish/` with JSON items; paths of the [`crate::origin`].
    Grip,
    /// `POST` of the content; the channel is in the path.
    Nchan,
}

impl Dialect {
    /// A request that publishes an item.
    pub(crate) fn publish(self, to: SocketAddr, item: Item, kind: Kind) -> Vec<u8> {
        let (channel, text) = (channel(item.channel), item.text());
        if self == Self::Nchan {
            let length = text.len() + 1;
            return format!(
                "POST /publish/{channel} HTTP/1.1\r\nHost: {to}\r\nContent-Length: {length}\r\n\r\n{text}\n"
            )
            .into_bytes();
        }
        let format = match kind {
            Kind::Stream => format!(r#""http-stream":{{"content":"{text}\n"}}"#),
            Kind::WebSocket => format!(r#""ws-message":{{"content":"{text}\n"}}"#),
            Kind::Poll => format!(r#""http-response":{{"body":"{text}\n"}}"#),
        };
        let body = format!(r#"{{"items":[{{"channel":"{channel}","formats":{{{format}}}}}]}}"#);
        format!(
            "POST /publish/ HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// A request to be held on these channels.
    pub(crate) fn subscribe(
        self,
        to: SocketAddr,
        kind: Kind,
        channels: impl Iterator<Item = u32>,
    ) -> Vec<u8> {
        let channels = channels.map(channel).collect::<Vec<_>>().join(",");
        let (path, fields) = match kind {
            // Without this header it is a long-poll.
            Kind::Stream if self == Self::Nchan => ("stream", "TE: chunked\r\n"),
            Kind::Stream => ("stream", ""),
            Kind::Poll => ("poll", ""),
            Kind::WebSocket => (
                "socket",
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
        };
        format!("GET /{path}/{channels} HTTP/1.1\r\nHost: {to}\r\n{fields}\r\n").into_bytes()
    }

    /// What a stream begins with once it is held.
    pub(crate) fn beginning(self) -> &'static [u8] {
        match self {
            Self::Grip => READY.as_bytes(),
            Self::Nchan => b"\r\n\r\n",
        }
    }
}

/// An address that nobody listens on, and no client connects from.
fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sees that there is a program of this name.
fn is_installed(program: &str) -> io::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        Ok(())
    } else {
        Err(io::Error::other(format!("{program} is not installed")))
    }
}

fn until_it_listens(name: &str, at: SocketAddr, process: &mut Process) -> io::Result<()> {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect(at) {
        if let Some(status) = process.child().try_wait()? {
            return Err(io::Error::other(format!("{name} has ended: {status}")));
        }
        if begun.elapsed() > DEADLINE {
            let text = format!("{name} does not listen on {at}: {error}");
            return Err(io::Error::other(text));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn channel(number: u32) -> String {
    format!("c{number:x}")
}
