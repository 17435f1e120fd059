//! The least that a server can do: one thread, one epoll instance, sockets in a slab.
//!
//! The origin and the wall are made of it. It reads requests of HTTP/1.1, one behind the other.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::socket::{self, Received};

const LISTENER: Token = Token(usize::MAX);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16_384;
/// Bytes read at a time.
const READ: usize = 16 * 1024;

/// What a server says to requests.
pub(crate) trait Service {
    /// Appends the answer of a request, whose body is complete.
    fn answer(&mut self, connection: usize, head: &[u8], body: &[u8], answer: &mut Vec<u8>);
    /// A connection has ended.
    fn gone(&mut self, connection: usize);
    /// All that had happened was dealt with.
    fn settle(&mut self, sockets: &mut Sockets);
}

/// All connections of a server.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Slab<Socket>);

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    /// The beginning of a request, while its rest is still to come.
    input: Vec<u8>,
    /// What the socket had no room for.
    #[expect(clippy::box_collection, reason = "idle connections pay for a pointer")]
    rest: Option<Box<Vec<u8>>>,
}

impl Sockets {
    /// Writes to a connection, now or when it has room. One that broke is found when it is read.
    pub(crate) fn write(&mut self, connection: usize, bytes: &[u8]) {
        let Some(socket) = self.0.get_mut(connection) else {
            return;
        };
        if let Some(rest) = &mut socket.rest {
            rest.extend_from_slice(bytes);
            return;
        }
        let written = (&socket.stream).write(bytes).unwrap_or(0);
        if written < bytes.len() {
            socket.rest = Some(Box::new(bytes[written..].to_vec()));
        }
    }

    fn write_rest(&mut self, connection: usize) {
        if let Some(rest) = self.0.get_mut(connection).and_then(|it| it.rest.take()) {
            self.write(connection, &rest);
        }
    }
}

/// Listens where there is room for many that come at once.
pub(crate) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Serves for ever.
pub(crate) fn serve(
    mut listener: TcpListener,
    service: &mut impl Service,
) -> io::Result<Infallible> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut sockets = Sockets::default();
    let mut buffer = vec![0; READ];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut sockets)?;
                continue;
            }
            let connection = event.token().0;
            if event.is_writable() {
                sockets.write_rest(connection);
            }
            if event.is_readable() || event.is_read_closed() {
                read(connection, &mut sockets, &mut buffer, service);
            }
        }
        service.settle(&mut sockets);
    }
}

fn accept(listener: &TcpListener, poll: &Poll, sockets: &mut Sockets) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nodelay(true)?;
                let place = sockets.0.vacant_entry();
                let both = Interest::READABLE | Interest::WRITABLE;
                poll.registry()
                    .register(&mut stream, Token(place.key()), both)?;
                place.insert(Socket {
                    stream,
                    input: Vec::new(),
                    rest: None,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // It ended before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read(connection: usize, sockets: &mut Sockets, buffer: &mut [u8], service: &mut impl Service) {
    loop {
        let Some(socket) = sockets.0.get_mut(connection) else {
            return;
        };
        match socket::receive(&socket.stream, buffer) {
            Ok(Received::Bytes(count)) => {
                let answer = take(connection, socket, &buffer[..count], service);
                if !answer.is_empty() {
                    sockets.write(connection, &answer);
                }
                if count < buffer.len() {
                    return;
                }
            }
            Ok(Received::Nothing) => return,
            Ok(Received::End) | Err(_) => {
                sockets.0.remove(connection);
                return service.gone(connection);
            }
        }
    }
}

/// The answers to all requests that are complete.
fn take(
    connection: usize,
    socket: &mut Socket,
    bytes: &[u8],
    service: &mut impl Service,
) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut input = std::mem::take(&mut socket.input);
    input.extend_from_slice(bytes);
    let mut rest = &input[..];
    while let Some((head, body)) = socket::message(rest) {
        service.answer(connection, head, body, &mut answer);
        rest = &rest[head.len() + body.len()..];
    }
    if !rest.is_empty() {
        socket.input = rest.to_vec();
    }
    answer
}
