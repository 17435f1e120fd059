//! Clients that are held and count what they receive.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::net::TcpStream;
use mio::{Interest, Poll, Token};

use super::heard::Heard;
use super::{Arrival, Readiness};
use crate::item::{Finder, Item};
use crate::server::Dialect;
use crate::socket::{self, Received, header};

/// How clients are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    WebSocket,
    /// Long-polls, each followed by the next.
    Poll,
}

#[derive(Debug)]
pub(super) struct Clients {
    address: SocketAddr,
    dialect: Dialect,
    kind: Kind,
    all: Vec<Client>,
    opening: usize,
    held: usize,
    /// Who was refused, and when each may come again.
    refused: BinaryHeap<Reverse<(Instant, usize)>>,
    refusals: u64,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    state: State,
    finder: Finder,
    heard: Heard,
}

#[derive(Debug)]
enum State {
    /// Not connected.
    New,
    /// The request is sent, and this has come of the answer.
    Opening(Vec<u8>),
    Held,
    /// It waits for its turn; its connection is over.
    Refused,
    /// It reads no more.
    Stopped,
}

impl Clients {
    pub(super) fn new(address: SocketAddr, dialect: Dialect) -> Self {
        Self {
            address,
            dialect,
            kind: Kind::Stream,
            all: Vec::new(),
            opening: 0,
            held: 0,
            refused: BinaryHeap::new(),
            refusals: 0,
        }
    }

    /// How the last one is held.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// All that there ever were.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn opening(&self) -> usize {
        self.opening
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// How often any was refused.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Those of these numbers and above leave; all are held.
    pub(super) fn leave(&mut self, from: usize) {
        self.held -= self.all.drain(from..).len();
    }

    pub(super) fn connect(&mut self, kind: Kind, channels: &[u32], poll: &Poll) -> io::Result<()> {
        self.kind = kind;
        let number = self.all.len();
        self.all.push(Client {
            stream: connect(self.address, number, poll)?,
            state: State::New,
            finder: Finder::default(),
            heard: Heard::new(channels),
        });
        self.opening += 1;
        Ok(())
    }

    /// Has those come again whose turn it is.
    pub(super) fn connect_again(&mut self, poll: &Poll) -> io::Result<()> {
        let now = Instant::now();
        while let Some(Reverse((at, number))) = self.refused.peek().copied() {
            if at > now {
                break;
            }
            self.refused.pop();
            let client = &mut self.all[number];
            client.stream = connect(self.address, number, poll)?;
            client.state = State::New;
            self.opening += 1;
        }
        Ok(())
    }

    /// The channel of each subscription of a client that reads.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = u32> {
        let held = self.all.iter();
        let held = held.filter(|client| matches!(client.state, State::Held));
        held.flat_map(|client| client.heard.channels())
    }

    pub(super) fn stop(
        &mut self,
        numbers: impl Iterator<Item = usize>,
        poll: &Poll,
    ) -> io::Result<()> {
        for number in numbers {
            let client = &mut self.all[number];
            client.state = State::Stopped;
            poll.registry().deregister(&mut client.stream)?;
        }
        Ok(())
    }

    /// Reads all that has come for clients that read no more, and says how many bytes.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut total = 0;
        let stopped = self.all.iter();
        for client in stopped.filter(|client| matches!(client.state, State::Stopped)) {
            loop {
                match socket::receive(&client.stream, buffer)? {
                    Received::Bytes(count) => total += count,
                    Received::Nothing => break,
                    Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        }
        Ok(total)
    }

    /// Deals with what happened to a client, and calls `arrived` with every item.
    pub(super) fn handle(
        &mut self,
        number: usize,
        readiness: Readiness,
        buffer: &mut [u8],
        mut arrived: impl FnMut(Item, Arrival),
    ) -> io::Result<()> {
        let client = &mut self.all[number];
        if readiness.is_writable && matches!(client.state, State::New) {
            if let Some(error) = client.stream.take_error()? {
                return Err(error);
            }
            client.ask(self.dialect, self.address, self.kind)?;
            client.state = State::Opening(Vec::new());
            if self.kind == Kind::Poll {
                // It hears nothing before the first item.
                client.state = State::Held;
                self.opening -= 1;
                self.held += 1;
            }
        }
        let is_reading = matches!(client.state, State::Opening(_) | State::Held);
        if !readiness.is_readable || !is_reading {
            return Ok(());
        }
        loop {
            match socket::receive(&client.stream, buffer)? {
                Received::Bytes(count) => {
                    let mut bytes = &buffer[..count];
                    if let State::Opening(begun) = &mut client.state {
                        begun.extend_from_slice(bytes);
                        if let Some(wait) = refusal(begun) {
                            client.state = State::Refused;
                            self.opening -= 1;
                            self.refusals += 1;
                            self.refused.push(Reverse((Instant::now() + wait, number)));
                            return Ok(());
                        }
                        let Some(end) = beginning(begun, self.kind, self.dialect)? else {
                            return Ok(());
                        };
                        // What came with it is of this piece.
                        bytes = &bytes[bytes.len() - (begun.len() - end)..];
                        client.state = State::Held;
                        self.opening -= 1;
                        self.held += 1;
                    }
                    let heard = &mut client.heard;
                    let mut has_answer = false;
                    client.finder.find(bytes, &mut |item| {
                        has_answer = true;
                        arrived(item, heard.take(item));
                    });
                    if has_answer && self.kind == Kind::Poll {
                        client.ask(self.dialect, self.address, self.kind)?;
                    }
                    if count < buffer.len() {
                        return Ok(());
                    }
                }
                Received::Nothing => return Ok(()),
                Received::End => return Err(io::Error::other("a client was disconnected")),
            }
        }
    }
}

/// Begins to connect the client of this number.
fn connect(address: SocketAddr, number: usize, poll: &Poll) -> io::Result<TcpStream> {
    let from = u32::try_from(number).unwrap_or(0);
    let mut stream = socket::connect(address, from)?;
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut stream, Token(number), both)?;
    Ok(stream)
}

/// How long to wait, if the answer is that the client may come later.
fn refusal(bytes: &[u8]) -> Option<Duration> {
    let head = bytes.starts_with(b"HTTP/1.1 503").then_some(bytes)?;
    let end = memmem::find(head, b"\r\n\r\n")?;
    let seconds = header(&head[..end], "retry-after")?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Where the beginning of a held connection ends, if it is there.
fn beginning(bytes: &[u8], kind: Kind, dialect: Dialect) -> io::Result<Option<usize>> {
    if memmem::find(bytes, b"\r\n\r\n").is_none() {
        return Ok(None);
    }
    let (status, mark) = match kind {
        Kind::Stream | Kind::Poll => (&b"HTTP/1.1 200"[..], dialect.beginning()),
        Kind::WebSocket => (&b"HTTP/1.1 101"[..], &b"\r\n\r\n"[..]),
    };
    if !bytes.starts_with(status) {
        let answer = String::from_utf8_lossy(bytes).into_owned();
        return Err(io::Error::other(answer));
    }
    Ok(memmem::find(bytes, mark).map(|at| at + mark.len()))
}

impl Client {
    /// Asks to be held.
    fn ask(&self, dialect: Dialect, address: SocketAddr, kind: Kind) -> io::Result<()> {
        let request = dialect.subscribe(address, kind, self.heard.channels());
        socket::send(&self.stream, &request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_again() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n\r\nlater";
        assert_eq!(refusal(answer), Some(Duration::from_secs(3)));
        assert_eq!(refusal(&answer[..40]), None);
        assert_eq!(refusal(b"HTTP/1.1 200 OK\r\nRetry-After: 3\r\n\r\n"), None);
    }
}
