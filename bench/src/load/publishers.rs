//! Connections that publish, each with one request at a time.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Poll, Token};

use super::clients::Kind;
use super::{FIRST_PUBLISHER, Order};
use crate::item::Item;
use crate::server::Dialect;
use crate::socket::{self, Received, header};

#[derive(Debug)]
pub(super) struct Publishers {
    dialect: Dialect,
    address: SocketAddr,
    connections: Vec<Publisher>,
    idle: Vec<usize>,
}

#[derive(Debug)]
struct Publisher {
    stream: TcpStream,
    input: Vec<u8>,
    /// A request has no answer yet.
    is_asking: bool,
    /// The server has closed the connection, or does so after its last answer.
    is_over: bool,
}

impl Publishers {
    pub(super) fn connect(
        address: SocketAddr,
        dialect: Dialect,
        count: usize,
        poll: &Poll,
    ) -> io::Result<Self> {
        let connections = (0..count).map(|number| Publisher::connect(address, number, poll));
        Ok(Self {
            dialect,
            address,
            connections: connections.collect::<io::Result<_>>()?,
            idle: (0..count).collect(),
        })
    }

    /// Whether all requests were answered.
    pub(super) fn are_idle(&self) -> bool {
        self.idle.len() == self.connections.len()
    }

    /// A connection over which the channel's next item may go now.
    pub(super) fn take_idle(&mut self, order: Order, channel: u32) -> Option<usize> {
        match order {
            Order::Any => self.idle.pop(),
            Order::Kept => {
                let number = channel as usize % self.connections.len();
                let place = self.idle.iter().position(|idle| *idle == number)?;
                Some(self.idle.swap_remove(place))
            }
        }
    }

    /// Publishes over a connection that was idle.
    pub(super) fn publish(
        &mut self,
        number: usize,
        item: Item,
        kind: Kind,
        poll: &Poll,
    ) -> io::Result<()> {
        let request = self.dialect.publish(self.address, item, kind);
        let publisher = &mut self.connections[number];
        if publisher.is_over {
            *publisher = Publisher::connect(self.address, number, poll)?;
        }
        publisher.is_asking = true;
        socket::send(&publisher.stream, &request)
    }

    /// Reads answers; anything but success ends the run. Servers may close connections that are
    /// idle.
    pub(super) fn read(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        let publisher = &mut self.connections[number];
        while !publisher.is_over {
            match socket::receive(&publisher.stream, buffer) {
                Ok(Received::Bytes(count)) => {
                    publisher.input.extend_from_slice(&buffer[..count]);
                }
                Ok(Received::Nothing) => return Ok(()),
                Ok(Received::End) | Err(_) if !publisher.is_asking => publisher.is_over = true,
                Ok(Received::End) => return Err(io::Error::other("a publisher was disconnected")),
                Err(error) => return Err(error),
            }
            if let Some((head, body)) = socket::message(&publisher.input) {
                if !head.starts_with(b"HTTP/1.1 2") {
                    let text = String::from_utf8_lossy(&publisher.input).into_owned();
                    return Err(io::Error::other(text));
                }
                publisher.is_over = header(head, "connection") == Some("close");
                let size = head.len() + body.len();
                publisher.input.drain(..size);
                publisher.is_asking = false;
                self.idle.push(number);
            }
        }
        Ok(())
    }
}

impl Publisher {
    fn connect(address: SocketAddr, number: usize, poll: &Poll) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let token = Token(FIRST_PUBLISHER + number);
        poll.registry()
            .register(&mut stream, token, Interest::READABLE)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            is_asking: false,
            is_over: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use mio::Events;

    use super::*;

    #[test]
    fn a_connection_that_is_closed_while_idle_is_made_again() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut poll = Poll::new()?;
        let mut publishers = Publishers::connect(listener.local_addr()?, Dialect::Grip, 1, &poll)?;
        drop(listener.accept()?);
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::from_secs(10)))?;
        let mut buffer = [0; 64];
        publishers.read(0, &mut buffer)?;
        let item = Item {
            channel: 0,
            number: 1,
        };
        let number = publishers.take_idle(Order::Any, 0).expect("it is idle");
        publishers.publish(number, item, Kind::Stream, &poll)?;
        drop(listener.accept()?);
        poll.poll(&mut events, Some(Duration::from_secs(10)))?;
        assert!(publishers.read(0, &mut buffer).is_err());
        Ok(())
    }

    #[test]
    fn where_order_counts_an_item_waits_for_the_answer_to_the_one_before() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let poll = Poll::new()?;
        let mut publishers = Publishers::connect(listener.local_addr()?, Dialect::Grip, 4, &poll)?;
        assert_eq!(publishers.take_idle(Order::Kept, 1), Some(1));
        assert_eq!(publishers.take_idle(Order::Kept, 5), None);
        assert_eq!(publishers.take_idle(Order::Kept, 2), Some(2));
        publishers.idle.push(1);
        assert_eq!(publishers.take_idle(Order::Kept, 5), Some(1));
        Ok(())
    }
}
