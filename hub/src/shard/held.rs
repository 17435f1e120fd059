//! The sockets of held connections, in an epoll instance of their own.
//!
//! An idle one costs a descriptor and one entry here: no task, no buffer, no registration with
//! tokio, which watches the epoll instance as a whole.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use tokio::io::unix::AsyncFd;

use crate::engine::Outbox;
use crate::mailbox::ConnectionKey;
use crate::pages::Pages;

/// Pieces that one system call writes.
const SLICES: usize = 64;
/// Events taken at a time.
const EVENTS: usize = 1024;
/// Bytes of later requests that a held client may send ahead; what is more waits in the kernel.
const MAX_INPUT: usize = 8192;

/// What happened to a held socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The client closed it, or it broke.
    Gone(ConnectionKey),
    /// It takes bytes again after it had taken all it could.
    Writable(ConnectionKey),
    /// There may be something to [read](HeldSet::read), or the client closed it.
    Readable(ConnectionKey),
}

/// What becomes of what a held client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It is kept for the client's next request.
    Keep,
    /// It is read when there is room for it.
    Pass,
    /// There is no room.
    Stopped,
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    generation: u32,
    /// Whether the last write was cut short, so that the next waits for [`Readiness::Writable`].
    is_blocked: bool,
    reading: Reading,
}

/// All sockets that a shard holds, by connection.
#[derive(Debug)]
pub(crate) struct HeldSet {
    poll: AsyncFd<Poll>,
    events: Events,
    sockets: Pages<Socket>,
    /// What clients sent ahead, by the index of their connection; most send nothing.
    inputs: HashMap<u32, Vec<u8>>,
}

impl HeldSet {
    #[expect(
        deprecated,
        reason = "its sound replacement is unsafe to call; Poll keeps one descriptor open all its life"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: AsyncFd::new(Poll::new()?)?,
            events: Events::with_capacity(EVENTS),
            sockets: Pages::default(),
            inputs: HashMap::new(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Takes a socket over from tokio.
    pub(crate) fn insert(
        &mut self,
        key: ConnectionKey,
        stream: tokio::net::TcpStream,
        input: &Bytes,
    ) -> io::Result<()> {
        let mut stream = TcpStream::from_std(stream.into_std()?);
        self.poll
            .get_ref()
            .registry()
            .register(&mut stream, token(key), Interest::READABLE)?;
        let socket = Socket {
            stream,
            generation: key.generation,
            is_blocked: false,
            reading: Reading::Keep,
        };
        self.sockets.put(key.index, socket);
        if !input.is_empty() {
            self.inputs.insert(key.index, input.to_vec());
        }
        Ok(())
    }

    /// Ends a connection.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<impl Sized + use<>> {
        let (socket, _) = self.forget(key)?;
        Some(socket.stream)
    }

    /// Gives a socket back to tokio, with what the client has sent meanwhile.
    pub(crate) fn take(
        &mut self,
        key: ConnectionKey,
    ) -> io::Result<Option<(tokio::net::TcpStream, SocketAddr, Bytes)>> {
        let Some((mut socket, input)) = self.forget(key) else {
            return Ok(None);
        };
        self.poll
            .get_ref()
            .registry()
            .deregister(&mut socket.stream)?;
        let stream = std::net::TcpStream::from(OwnedFd::from(socket.stream));
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let peer = stream.peer_addr()?;
        Ok(Some((stream, peer, input)))
    }

    /// From here on, what the client sends is for [`Self::read`]. Returns what it has sent already.
    pub(crate) fn listen(&mut self, key: ConnectionKey) -> Bytes {
        let Some(socket) = self.get(key) else {
            return Bytes::new();
        };
        socket.reading = Reading::Pass;
        let input = self.take_input(key.index);
        self.rearm(key);
        input
    }

    /// Whether the connection is here.
    pub(crate) fn has(&mut self, key: ConnectionKey) -> bool {
        self.get(key).is_some()
    }

    /// Whether what the client sends is for [`Self::read`].
    pub(crate) fn listens(&mut self, key: ConnectionKey) -> bool {
        self.get(key)
            .is_some_and(|socket| socket.reading != Reading::Keep)
    }

    /// Reads what there is; nothing of a client that has to wait. After anything but an error, ask
    /// again.
    pub(crate) fn read(&mut self, key: ConnectionKey, buffer: &mut [u8]) -> io::Result<usize> {
        match self.get(key) {
            Some(socket) if socket.reading == Reading::Pass => loop {
                match socket.stream.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => return read,
                }
            },
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads no more of the client until [`Self::resume`].
    pub(crate) fn stop(&mut self, key: ConnectionKey) {
        if let Some(socket) = self.get(key) {
            socket.reading = Reading::Stopped;
        }
    }

    /// Reads on.
    pub(crate) fn resume(&mut self, key: ConnectionKey) {
        if let Some(socket) = self.get(key) {
            socket.reading = Reading::Pass;
            self.rearm(key);
        }
    }

    /// Tells of what is there to read, also if that was told before.
    pub(crate) fn rearm(&mut self, key: ConnectionKey) {
        let interest = match self.get(key) {
            Some(socket) if socket.is_blocked => Interest::READABLE | Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        if let Err(error) = self.watch(key, interest) {
            tracing::error!(%error, "cannot watch a held connection");
        }
    }

    /// Takes a socket out, with what the client sent ahead.
    fn forget(&mut self, key: ConnectionKey) -> Option<(Socket, Bytes)> {
        self.get(key)?;
        let input = self.take_input(key.index);
        Some((self.sockets.take(key.index)?, input))
    }

    fn take_input(&mut self, index: u32) -> Bytes {
        let input = self.inputs.remove(&index);
        if self.inputs.is_empty() {
            self.inputs = HashMap::new();
        }
        input.unwrap_or_default().into()
    }

    fn get(&mut self, key: ConnectionKey) -> Option<&mut Socket> {
        self.sockets
            .get_mut(key.index)
            .filter(|socket| socket.generation == key.generation)
    }

    /// Writes as much of the outbox as the socket takes, and says how many bytes that is; `None` if
    /// there is no such socket.
    pub(crate) fn write(
        &mut self,
        key: ConnectionKey,
        outbox: &mut Outbox,
    ) -> Option<io::Result<usize>> {
        let socket = self.get(key)?;
        if socket.is_blocked {
            return Some(Ok(0));
        }
        let (written, end) = socket.write(outbox);
        Some(match end {
            Ok(Written::All) => Ok(written),
            Ok(Written::Some) => self
                .watch(key, Interest::READABLE | Interest::WRITABLE)
                .map(|()| written),
            Err(error) => Err(error),
        })
    }

    fn watch(&mut self, key: ConnectionKey, interest: Interest) -> io::Result<()> {
        // The fields are borrowed one by one: the socket is changed while the registry is read.
        let socket = self.sockets.get_mut(key.index);
        let Some(socket) = socket.filter(|socket| socket.generation == key.generation) else {
            return Ok(());
        };
        socket.is_blocked = interest.is_writable();
        self.poll
            .get_ref()
            .registry()
            .reregister(&mut socket.stream, token(key), interest)
    }

    /// What happened since the last call; never nothing.
    ///
    /// Cancel safe: events are taken out after the last wait.
    pub(crate) async fn ready(&mut self) -> Vec<Readiness> {
        loop {
            let found = match self.poll.readable_mut().await {
                Ok(mut guard) => {
                    let poll = guard.get_inner_mut();
                    let polled = poll.poll(&mut self.events, Some(Duration::ZERO));
                    if polled.is_err() || self.events.iter().count() < EVENTS {
                        guard.clear_ready();
                    }
                    polled
                }
                Err(error) => Err(error),
            };
            if let Err(error) = found
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot watch held connections");
            }
            let readiness = self.take_events();
            if !readiness.is_empty() {
                return readiness;
            }
        }
    }

    /// Reads what the client sent, for later; false if it will send nothing more.
    fn keep_input(&mut self, key: ConnectionKey) -> bool {
        let Some(socket) = self.sockets.get_mut(key.index) else {
            return false;
        };
        let mut buffer = [0; 2048];
        while self.inputs.get(&key.index).map_or(0, Vec::len) < MAX_INPUT {
            match socket.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    let input = self.inputs.entry(key.index).or_default();
                    input.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn take_events(&mut self) -> Vec<Readiness> {
        let events: Vec<_> = self
            .events
            .iter()
            .map(|event| {
                (
                    key(event.token()),
                    event.is_readable(),
                    is_over(event),
                    is_broken(event),
                    event.is_writable(),
                )
            })
            .collect();
        self.events.clear();
        let mut readiness = Vec::new();
        for (key, is_readable, is_over, is_broken, is_writable) in events {
            let Some(socket) = self.get(key) else {
                continue;
            };
            if socket.reading == Reading::Stopped && is_broken {
                // Nobody would read this, and it is told once only. A client that has just ceased
                // to send is heard to its end when it is read again.
                readiness.push(Readiness::Gone(key));
                continue;
            }
            let is_kept = socket.reading == Reading::Keep;
            if !is_kept && (is_over || is_readable) {
                // What the client sent before it left still counts.
                readiness.push(Readiness::Readable(key));
            }
            let is_blocked = socket.is_blocked;
            if is_kept && (is_over || (is_readable && !self.keep_input(key))) {
                readiness.push(Readiness::Gone(key));
            } else if is_writable && is_blocked {
                match self.watch(key, Interest::READABLE) {
                    Ok(()) => readiness.push(Readiness::Writable(key)),
                    Err(_) => readiness.push(Readiness::Gone(key)),
                }
            }
        }
        readiness
    }
}

/// How far a write came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    /// The socket takes no more.
    Some,
}

impl Socket {
    /// Writes until the outbox is empty or the socket full, and says how many bytes that is.
    fn write(&mut self, outbox: &mut Outbox) -> (usize, io::Result<Written>) {
        let mut total = 0;
        while !outbox.is_empty() {
            let written = match outbox.only() {
                Some(piece) => self.stream.write(piece),
                None => self.write_pieces(outbox),
            };
            match written {
                Ok(0) => return (total, Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    outbox.consume(bytes);
                    total += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (total, Ok(Written::Some));
                }
                Err(error) => return (total, Err(error)),
            }
        }
        (total, Ok(Written::All))
    }

    fn write_pieces(&mut self, outbox: &Outbox) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = outbox.slices(&mut slices);
        self.stream.write_vectored(&slices[..count])
    }
}

fn is_over(event: &mio::event::Event) -> bool {
    is_broken(event) || event.is_read_closed()
}

/// Whether nothing goes either way any more.
fn is_broken(event: &mio::event::Event) -> bool {
    event.is_error() || event.is_write_closed()
}

/// 64 bits hold both halves of a key.
fn token(key: ConnectionKey) -> Token {
    Token((key.generation as usize) << 32 | key.index as usize)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "takes the halves apart that `token` put together"
)]
fn key(token: Token) -> ConnectionKey {
    ConnectionKey {
        index: token.0 as u32,
        generation: (token.0 >> 32) as u32,
    }
}
