//! The sockets of held connections, in an epoll instance of their own.
//!
//! An idle one costs a descriptor and one entry here: no task, no buffer, no registration with
//! tokio, which watches the epoll instance as a whole.

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
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    generation: u32,
    /// Whether the last write was cut short, so that the next waits for [`Readiness::Writable`].
    is_blocked: bool,
    /// What the client sent ahead; most send nothing.
    #[expect(
        clippy::box_collection,
        reason = "idle connections pay for a pointer only"
    )]
    input: Option<Box<Vec<u8>>>,
}

/// All sockets that a shard holds, by connection.
#[derive(Debug)]
pub(crate) struct HeldSet {
    poll: AsyncFd<Poll>,
    events: Events,
    sockets: Vec<Option<Socket>>,
    len: usize,
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
            sockets: Vec::new(),
            len: 0,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
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
        let index = key.index as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        self.sockets[index] = Some(Socket {
            stream,
            generation: key.generation,
            is_blocked: false,
            input: (!input.is_empty()).then(|| Box::new(input.to_vec())),
        });
        self.len += 1;
        Ok(())
    }

    /// Ends a connection.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<impl Sized + use<>> {
        let socket = self.forget(key)?;
        Some(socket.stream)
    }

    /// Gives a socket back to tokio, with what the client has sent meanwhile.
    pub(crate) fn take(
        &mut self,
        key: ConnectionKey,
    ) -> io::Result<Option<(tokio::net::TcpStream, SocketAddr, Bytes)>> {
        let Some(mut socket) = self.forget(key) else {
            return Ok(None);
        };
        self.poll
            .get_ref()
            .registry()
            .deregister(&mut socket.stream)?;
        let stream = std::net::TcpStream::from(OwnedFd::from(socket.stream));
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let peer = stream.peer_addr()?;
        let input = socket.input.map(|input| Bytes::from(*input));
        Ok(Some((stream, peer, input.unwrap_or_default())))
    }

    fn forget(&mut self, key: ConnectionKey) -> Option<Socket> {
        self.get(key)?;
        self.len -= 1;
        self.sockets[key.index as usize].take()
    }

    fn get(&mut self, key: ConnectionKey) -> Option<&mut Socket> {
        self.sockets
            .get_mut(key.index as usize)?
            .as_mut()
            .filter(|socket| socket.generation == key.generation)
    }

    /// Writes as much of the outbox as the socket takes.
    pub(crate) fn write(&mut self, key: ConnectionKey, outbox: &mut Outbox) -> io::Result<Written> {
        let mut written = Written { bytes: 0 };
        let Some(socket) = self.get(key) else {
            return Ok(written);
        };
        if socket.is_blocked {
            return Ok(written);
        }
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = outbox.slices(&mut slices);
            match socket.stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    outbox.consume(bytes);
                    written.bytes += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch(key, Interest::READABLE | Interest::WRITABLE)?;
                    return Ok(written);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn watch(&mut self, key: ConnectionKey, interest: Interest) -> io::Result<()> {
        // The fields are borrowed one by one: the socket is changed while the registry is read.
        let socket = self.sockets[key.index as usize].as_mut();
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

    fn take_events(&mut self) -> Vec<Readiness> {
        let events: Vec<_> = self
            .events
            .iter()
            .map(|event| {
                (
                    key(event.token()),
                    event.is_readable(),
                    is_over(event),
                    event.is_writable(),
                )
            })
            .collect();
        self.events.clear();
        let mut readiness = Vec::new();
        for (key, is_readable, is_over, is_writable) in events {
            let Some(socket) = self.get(key) else {
                continue;
            };
            if is_over || (is_readable && !socket.read()) {
                readiness.push(Readiness::Gone(key));
            } else if is_writable && socket.is_blocked {
                match self.watch(key, Interest::READABLE) {
                    Ok(()) => readiness.push(Readiness::Writable(key)),
                    Err(_) => readiness.push(Readiness::Gone(key)),
                }
            }
        }
        readiness
    }
}

impl Socket {
    /// Reads what the client sent, for later; false if it will send nothing more.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 2048];
        while self.input.as_ref().map_or(0, |input| input.len()) < MAX_INPUT {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self
                    .input
                    .get_or_insert_default()
                    .extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

fn is_over(event: &mio::event::Event) -> bool {
    event.is_error() || event.is_read_closed() || event.is_write_closed()
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
