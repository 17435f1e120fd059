//! An origin that sends back what it is sent, as WebSocket-over-HTTP and as a WebSocket.
//!
//! It speaks either on the same port, as each request asks for: what the hub does between client
//! and origin can be compared for both.

use std::io;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self};

use crate::message::{Decoder, Framing, Head, Piece, find};

const CONTENT_TYPE: &str = "application/websocket-events";

/// Serves forever.
///
/// # Errors
/// When no more connections can be accepted.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = Connection {
            stream,
            input: Vec::new(),
        };
        // Ends with its client, whatever happens; what it owes shows there.
        tokio::spawn(connection.serve());
    }
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        while let Some((head, body)) = self.request().await? {
            if let Some(key) = head.field("Sec-WebSocket-Key")
                && head.field("Upgrade").is_some()
            {
                let accept = derive_accept_key(key.as_bytes());
                return self.upgrade(&accept).await;
            }
            let answer = if head.field("Content-Type") == Some(CONTENT_TYPE) {
                let events = echo(&body);
                let length = events.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\r\n"
                );
                [head.into_bytes(), events].concat()
            } else {
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
            };
            self.stream.write_all(&answer).await?;
        }
        Ok(())
    }

    /// The next request; `None` after the last.
    async fn request(&mut self) -> io::Result<Option<(Head, Vec<u8>)>> {
        let head = loop {
            if let Some(head) = Head::take_from(&mut self.input) {
                break head;
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        };
        let mut decoder = Decoder::new(Framing::of_request(&head));
        let mut body = Vec::new();
        loop {
            match decoder.next(&mut self.input) {
                Some(Piece::Data(data)) => body.extend(data),
                Some(Piece::End) => return Ok(Some((head, body))),
                None if self.stream.read_buf(&mut self.input).await? == 0 => return Ok(None),
                None => {}
            }
        }
    }

    async fn upgrade(mut self, accept: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).await?;
        // Test suites send messages that are larger than the library's bounds.
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let (stream, input) = (self.stream, self.input);
        let stream =
            WebSocketStream::from_partially_read(stream, input, Role::Server, Some(config)).await;
        // How a conversation ends is for the other side to judge.
        let _ = echo_messages(stream).await;
        Ok(())
    }
}

/// The library answers pings and closes by itself.
async fn echo_messages(mut stream: WebSocketStream<TcpStream>) -> Result<(), tungstenite::Error> {
    while let Some(message) = stream.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            stream.send(message).await?;
        }
    }
    Ok(())
}

/// The events that answer these; those after one that is malformed are lost.
fn echo(events: &[u8]) -> Vec<u8> {
    let mut events = Bytes::copy_from_slice(events);
    let mut answer = Vec::new();
    while let Some((kind, content)) = next_event(&mut events) {
        let kind = match &kind[..] {
            b"PING" => "PONG",
            b"OPEN" => "OPEN",
            b"TEXT" => "TEXT",
            b"BINARY" => "BINARY",
            b"CLOSE" => "CLOSE",
            // Pongs and disconnects are not answered.
            _ => continue,
        };
        answer.extend_from_slice(kind.as_bytes());
        if let Some(content) = content {
            answer.extend_from_slice(format!(" {:x}\r\n", content.len()).as_bytes());
            answer.extend_from_slice(&content);
        }
        answer.extend_from_slice(b"\r\n");
    }
    answer
}

/// Takes an event's kind and content off the front.
fn next_event(events: &mut Bytes) -> Option<(Bytes, Option<Bytes>)> {
    let line = events.split_to(find(events, b"\r\n")?);
    let _ = events.split_to(2);
    let Some(blank) = line.iter().position(|byte| *byte == b' ') else {
        return Some((line, None));
    };
    let size = std::str::from_utf8(line.get(blank + 1..)?).ok()?;
    let size = usize::from_str_radix(size, 16).ok()?;
    if events.len() < size.checked_add(2)? {
        return None;
    }
    let content = events.split_to(size);
    let _ = events.split_to(2);
    Some((line.slice(..blank), Some(content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(events: &str, answer: &str) {
        let found = echo(events.as_bytes());
        assert_eq!(String::from_utf8_lossy(&found), answer);
    }

    #[test]
    fn events_are_sent_back() {
        check("OPEN\r\n", "OPEN\r\n");
        check(
            "TEXT 0\r\n\r\nBINARY b\r\nhello\r\nyou!\r\n",
            "TEXT 0\r\n\r\nBINARY b\r\nhello\r\nyou!\r\n",
        );
        check(
            "PING\r\nPING 1\r\nx\r\nPONG 1\r\nx\r\n",
            "PONG\r\nPONG 1\r\nx\r\n",
        );
        check("CLOSE\r\nDISCONNECT\r\n", "CLOSE\r\n");
        check("TEXT 5\r\nhell", "");
        check("TEXT x\r\nhell\r\n", "");
    }
}
