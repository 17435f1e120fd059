//! A server that does nothing but what cannot be left out: it keeps sockets by channel, and writes
//! what is published to each. With as many items in each write no hub can be faster, so it is the wall
//! that hubs are held against.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use clap::ValueEnum;
use memchr::memmem;
use rustc_hash::FxHashMap;
use tungstenite::handshake::derive_accept_key;

use crate::origin::READY;
use crate::serve::{self, Service, Sockets};
use crate::socket::{header, request_line};

/// When the wall writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Writes {
    /// Once for each item.
    Each,
    /// Once for all items of a channel that have come by then.
    Merged,
}

/// Serves clients and publishers at the address, as HTTP/1.1 streams and as WebSockets.
pub(crate) fn run(at: SocketAddr, writes: Writes) -> io::Result<Infallible> {
    let mut wall = Wall {
        writes,
        channels: FxHashMap::default(),
        members: FxHashMap::default(),
        published: Vec::new(),
    };
    serve::serve(serve::listen(at)?, &mut wall)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Chunk,
    Frame,
}

#[derive(Debug, Default)]
struct Channel {
    streams: Vec<u32>,
    websockets: Vec<u32>,
}

struct Wall {
    writes: Writes,
    channels: FxHashMap<String, Channel>,
    /// The channels of each connection.
    members: FxHashMap<u32, Box<str>>,
    /// Channels and contents, in order.
    published: Vec<(String, Vec<u8>)>,
}

impl Service for Wall {
    fn answer(&mut self, connection: usize, head: &[u8], body: &[u8], answer: &mut Vec<u8>) {
        let path = request_line(head).map_or("", |(_, path)| path);
        match path.rsplit_once('/') {
            Some(("/publish", "")) => {
                self.published.extend(item(body));
                answer
                    .extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nPublished\n");
            }
            Some(("/stream", channels)) => {
                self.subscribe(connection, channels, Framing::Chunk);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
                answer.extend_from_slice(head.as_bytes());
                answer.extend_from_slice(&framed(Framing::Chunk, READY.as_bytes()));
            }
            Some(("/socket", channels)) => {
                self.subscribe(connection, channels, Framing::Frame);
                let key = header(head, "sec-websocket-key").unwrap_or_default();
                let accept = derive_accept_key(key.as_bytes());
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                answer.extend_from_slice(head.as_bytes());
            }
            _ => answer.extend_from_slice(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        }
    }

    fn gone(&mut self, connection: usize) {
        let connection = narrow(connection);
        let Some(channels) = self.members.remove(&connection) else {
            return;
        };
        for name in channels.split(',') {
            if let Some(channel) = self.channels.get_mut(name) {
                channel.streams.retain(|it| *it != connection);
                channel.websockets.retain(|it| *it != connection);
            }
        }
    }

    fn settle(&mut self, sockets: &mut Sockets) {
        let published = std::mem::take(&mut self.published);
        if self.writes == Writes::Each {
            for (channel, content) in published {
                self.deliver(&channel, &[content], sockets);
            }
            return;
        }
        let mut merged: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
        for (channel, content) in published {
            match merged.iter_mut().find(|(name, _)| *name == channel) {
                Some((_, contents)) => contents.push(content),
                None => merged.push((channel, vec![content])),
            }
        }
        for (channel, contents) in merged {
            self.deliver(&channel, &contents, sockets);
        }
    }
}

impl Wall {
    fn subscribe(&mut self, connection: usize, channels: &str, framing: Framing) {
        let connection = narrow(connection);
        for name in channels.split(',') {
            let channel = self.channels.entry(name.to_owned()).or_default();
            match framing {
                Framing::Chunk => channel.streams.push(connection),
                Framing::Frame => channel.websockets.push(connection),
            }
        }
        self.members.insert(connection, channels.into());
    }

    fn deliver(&self, channel: &str, contents: &[Vec<u8>], sockets: &mut Sockets) {
        let Some(channel) = self.channels.get(channel) else {
            return;
        };
        let all = |framing| -> Vec<u8> {
            let framed = contents.iter().map(|content| framed(framing, content));
            framed.collect::<Vec<_>>().concat()
        };
        if !channel.streams.is_empty() {
            let bytes = all(Framing::Chunk);
            for connection in &channel.streams {
                sockets.write(*connection as usize, &bytes);
            }
        }
        if !channel.websockets.is_empty() {
            let bytes = all(Framing::Frame);
            for connection in &channel.websockets {
                sockets.write(*connection as usize, &bytes);
            }
        }
    }
}

/// Channel and content of the one item in a publish request, looked for and not parsed.
fn item(body: &[u8]) -> Option<(String, Vec<u8>)> {
    let channel = text_behind(body, br#""channel":""#)?;
    let content = text_behind(body, br#""content":""#)?;
    let mut content = content.strip_suffix(br"\n").unwrap_or(content).to_vec();
    content.push(b'\n');
    Some((String::from_utf8_lossy(channel).into_owned(), content))
}

fn text_behind<'a>(body: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let text = &body[memmem::find(body, name)? + name.len()..];
    Some(&text[..memchr::memchr(b'"', text)?])
}

/// Content of less than 126 bytes as it goes on the wire.
fn framed(framing: Framing, content: &[u8]) -> Vec<u8> {
    match framing {
        Framing::Chunk => {
            let size = format!("{:x}\r\n", content.len());
            [size.as_bytes(), content, b"\r\n"].concat()
        }
        Framing::Frame => {
            let size = u8::try_from(content.len()).unwrap_or(125);
            [&[0x81, size], content].concat()
        }
    }
}

fn narrow(connection: usize) -> u32 {
    u32::try_from(connection).unwrap_or(u32::MAX)
}
