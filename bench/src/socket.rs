//! Sockets that do not block, and the requests and answers that go over them.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use memchr::memmem;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// Addresses that clients come from; each has ports of its own.
const SOURCES: u32 = 60;

/// Begins to connect, from one of many addresses of this machine.
pub(crate) fn connect(to: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + number % SOURCES);
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(error)
        }
        _ => {
            socket.set_tcp_nodelay(true)?;
            Ok(TcpStream::from_std(socket.into()))
        }
    }
}

/// Whether anything may be left to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    /// The peer has closed the connection.
    End,
}

/// Reads once. Fewer bytes than there is room for are all that there were.
pub(crate) fn receive(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Received> {
    loop {
        return match stream.read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        };
    }
}

/// Writes something small to a socket that has room for it.
pub(crate) fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    match stream.write(bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(io::Error::other("a socket takes less than a request")),
    }
}

/// The first message in `bytes` if it is complete: its head with the empty line, and its body.
pub(crate) fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let length = header(&bytes[..head], "content-length")
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let body = bytes.get(head..head + length)?;
    Some((&bytes[..head], body))
}

/// A header's value.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(head).ok()?;
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Method and path of a request's head.
pub(crate) fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    Some((words.next()?, words.next()?))
}
