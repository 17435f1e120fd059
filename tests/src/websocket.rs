//! WebSocket clients: one that is exact about every frame, one that another library wrote.
//!
//! [`WebSocket`] sends and receives single [`Frame`]s on a bare socket, and so may do what no client
//! should. [`Other`] is tokio-tungstenite with nothing added, for tests with many clients.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::client::{Client, Response, status};
use crate::message::Head;
use crate::transcript::escaped;
use crate::within;

/// RFC 6455 §1.3: the key of the example.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// RFC 6455 §1.3: what answers [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// RFC 6455 §5.7: the key of the example; masks all frames of clients, so that bytes can be exact.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// RFC 6455 §11.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Goes on with a message.
    Continuation,
    /// Begins a message of text.
    Text,
    /// Begins a message of bytes.
    Binary,
    /// Ends the conversation.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
    /// One of the reserved.
    Other(u8),
}

impl Opcode {
    fn of(code: u8) -> Self {
        match code {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            other => Self::Other(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
            Self::Other(code) => code & 0xf,
        }
    }
}

/// A frame; RFC 6455 §5.2.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub opcode: Opcode,
    /// Whether the message ends with it.
    pub is_final: bool,
    /// The three reserved bits, RSV1 being 4.
    pub reserved: u8,
    /// With what the payload is masked, if it is.
    pub mask: Option<[u8; 4]>,
    /// The payload, without the mask.
    pub payload: Vec<u8>,
}

/// Set in frames that begin a compressed message; RFC 7692 §6.
pub const COMPRESSED: u8 = 4;

impl Frame {
    /// A final frame as clients send it.
    pub fn new(opcode: Opcode, payload: impl AsRef<[u8]>) -> Self {
        Self {
            opcode,
            is_final: true,
            reserved: 0,
            mask: Some(MASK),
            payload: payload.as_ref().to_vec(),
        }
    }

    /// A text.
    pub fn text(text: &str) -> Self {
        Self::new(Opcode::Text, text)
    }

    /// Bytes.
    pub fn binary(bytes: impl AsRef<[u8]>) -> Self {
        Self::new(Opcode::Binary, bytes)
    }

    /// A ping.
    pub fn ping(bytes: impl AsRef<[u8]>) -> Self {
        Self::new(Opcode::Ping, bytes)
    }

    /// A pong.
    pub fn pong(bytes: impl AsRef<[u8]>) -> Self {
        Self::new(Opcode::Pong, bytes)
    }

    /// A close with code and reason.
    pub fn close(code: u16, reason: &str) -> Self {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        Self::new(Opcode::Close, payload)
    }

    /// The same frame, but the message goes on.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.is_final = false;
        self
    }

    /// The same frame as servers send it.
    #[must_use]
    pub fn unmasked(mut self) -> Self {
        self.mask = None;
        self
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let last = if self.is_final { 0x80 } else { 0 };
        let mut bytes = vec![last | (self.reserved & 7) << 4 | self.opcode.code()];
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let length = self.payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ ..0x7e), _) => bytes.push(masked | length),
            (_, Ok(length)) => {
                bytes.push(masked | 0x7e);
                bytes.extend(length.to_be_bytes());
            }
            _ => {
                bytes.push(masked | 0x7f);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(
            self.mask
                .unwrap_or_default()
                .iter()
                .take(4 * usize::from(masked != 0)),
        );
        bytes.extend(masked_with(&self.payload, self.mask));
        bytes
    }

    /// Takes a frame from the beginning of `input`; `None` if more is needed.
    ///
    /// Fails if the length is not written as short as it can be.
    pub(crate) fn take_from(input: &mut Vec<u8>) -> Option<Self> {
        let [first, second, ..] = input[..] else {
            return None;
        };
        let (length, mut at): (u64, usize) = match second & 0x7f {
            0x7e => (
                u16::from_be_bytes(*input.get(2..)?.first_chunk()?).into(),
                4,
            ),
            0x7f => (u64::from_be_bytes(*input.get(2..)?.first_chunk()?), 10),
            length => (length.into(), 2),
        };
        let length = usize::try_from(length).expect("a frame fits into memory");
        let mask = match second & 0x80 {
            0 => None,
            _ => Some(*input.get(at..)?.first_chunk()?),
        };
        at += 4 * usize::from(mask.is_some());
        let payload = input.get(at..at.checked_add(length)?)?;
        let frame = Self {
            opcode: Opcode::of(first & 0xf),
            is_final: first & 0x80 != 0,
            reserved: first >> 4 & 7,
            mask,
            payload: masked_with(payload, mask).collect(),
        };
        let bytes: Vec<u8> = input.drain(..at + length).collect();
        assert_eq!(frame.encode(), bytes, "{frame:?} is longer than it need be");
        Some(frame)
    }
}

fn masked_with(payload: &[u8], mask: Option<[u8; 4]>) -> impl Iterator<Item = u8> {
    let mask = mask.unwrap_or_default().into_iter().cycle();
    payload.iter().zip(mask).map(|(byte, key)| byte ^ key)
}

impl fmt::Debug for Frame {
    /// As transcripts write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.opcode {
            Opcode::Continuation => "cont",
            Opcode::Text => "text",
            Opcode::Binary => "binary",
            Opcode::Close => "close",
            Opcode::Ping => "ping",
            Opcode::Pong => "pong",
            Opcode::Other(_) => "reserved",
        })?;
        if self.reserved == COMPRESSED {
            f.write_char('~')?;
        } else if self.reserved != 0 {
            write!(f, "(reserved bits {})", self.reserved)?;
        }
        if !self.is_final {
            f.write_char('+')?;
        }
        let payload = match (self.opcode, self.payload.split_first_chunk()) {
            (Opcode::Close, Some((code, reason))) => {
                write!(f, " {}", u16::from_be_bytes(*code))?;
                reason
            }
            _ => &self.payload,
        };
        if !payload.is_empty() {
            write!(f, " {}", escaped(payload))?;
        }
        Ok(())
    }
}

/// A client's WebSocket, frame by frame.
#[derive(Debug)]
pub struct WebSocket {
    client: Client,
    head: Head,
}

impl WebSocket {
    /// Opens a WebSocket, and fails unless that is accepted.
    pub async fn open(addr: SocketAddr, target: &str, fields: &[&str]) -> Self {
        let client = Self::ask(addr, target, fields).await;
        Self::opened(client)
            .await
            .unwrap_or_else(|rejection| panic!("{rejection:?}"))
    }

    /// Asks for a WebSocket, and fails unless that is rejected.
    pub async fn rejected(addr: SocketAddr, target: &str, fields: &[&str]) -> Response {
        let client = Self::ask(addr, target, fields).await;
        match Self::opened(client).await {
            Ok(opened) => panic!("accepted: {opened:?}"),
            Err(rejection) => rejection,
        }
    }

    /// Sends a handshake with these fields besides those that it needs, and reads nothing.
    pub async fn ask(addr: SocketAddr, target: &str, fields: &[&str]) -> Client {
        let key = format!("Sec-WebSocket-Key: {KEY}");
        let own = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            &key,
        ];
        Client::get(addr, target, &[&own, fields].concat()).await
    }

    /// Reads the answer to what [`Self::ask`] sent.
    ///
    /// # Errors
    /// The whole answer, if it is a rejection.
    pub async fn opened(mut client: Client) -> Result<Self, Response> {
        let head = client.head().await;
        if status(&head) != 101 {
            return Err(client.response_after(head).await);
        }
        assert_eq!(head.field("Sec-WebSocket-Accept"), Some(ACCEPT));
        for (name, value) in [("Upgrade", "websocket"), ("Connection", "upgrade")] {
            let found = head.field(name).unwrap_or_default();
            assert!(found.eq_ignore_ascii_case(value), "{name} in {head}");
        }
        Ok(Self { client, head })
    }

    /// The head of the answer.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What is below.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Frame) {
        self.send_raw(&frame.encode()).await;
    }

    /// Sends these bytes, whatever they mean.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.client.send_content(bytes).await;
    }

    /// Sends a text in one frame.
    pub async fn text(&mut self, text: &str) {
        self.send(&Frame::text(text)).await;
    }

    /// The next frame; `None` if the connection ended.
    pub async fn try_frame(&mut self) -> Option<Frame> {
        let frame = self.client.raw("a frame", Frame::take_from).await?;
        assert_eq!(frame.mask, None, "servers do not mask: {frame:?}");
        Some(frame)
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Frame {
        match self.try_frame().await {
            Some(frame) => frame,
            None => panic!("closed before a frame; {:?}", self.client),
        }
    }

    /// The next message with its frames joined: what kind it is, and its content; control frames
    /// are messages of their own and may not come in between.
    pub async fn message(&mut self) -> (Opcode, Vec<u8>) {
        let mut frame = self.frame().await;
        let (kind, mut content) = (frame.opcode, frame.payload);
        while !frame.is_final {
            frame = self.frame().await;
            assert_eq!(frame.opcode, Opcode::Continuation, "{frame:?}");
            content.append(&mut frame.payload);
        }
        (kind, content)
    }

    /// Reads a frame and fails unless it is this one, whose mask does not matter.
    pub async fn receives(&mut self, expected: Frame) {
        assert_eq!(self.frame().await, expected.unmasked());
    }

    /// Reads a message and fails unless it is this text.
    pub async fn receives_text(&mut self, text: &str) {
        let (kind, content) = self.message().await;
        let content = String::from_utf8_lossy(&content);
        assert_eq!((kind, content.as_ref()), (Opcode::Text, text));
    }

    /// Closes with this code, and waits until that is answered with the same and then closed.
    pub async fn close(&mut self, code: u16, reason: &str) {
        self.send(&Frame::close(code, reason)).await;
        self.is_closed(code, reason).await;
    }

    /// Waits for a close with this code and reason, and for the end of the connection.
    pub async fn is_closed(&mut self, code: u16, reason: &str) {
        self.receives(Frame::close(code, reason)).await;
        self.client.is_closed_by_server().await;
    }

    /// Breaks the connection off, whatever is still under way.
    pub fn break_off(self) {
        self.client.break_off();
    }

    /// Leaves without a word.
    pub fn vanish(self) {}
}

/// A client's WebSocket by tokio-tungstenite.
#[derive(Debug)]
pub struct Other(WebSocketStream<TcpStream>);

impl Other {
    /// Opens a WebSocket, and fails unless that is accepted.
    pub async fn open(addr: SocketAddr, target: &str) -> Self {
        let opening = async {
            let stream = TcpStream::connect(addr).await?;
            let uri = format!("ws://{addr}{target}");
            let (stream, _) = tokio_tungstenite::client_async(uri, stream).await?;
            Ok::<_, tungstenite::Error>(Self(stream))
        };
        let opened = within("a WebSocket", opening).await;
        opened.unwrap_or_else(|error| panic!("{target} was not opened: {error}"))
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Message) {
        let sent = within("sending", self.0.send(message)).await;
        sent.unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// The next message; pings are answered when this is called again. `None` at the end.
    pub async fn message(&mut self) -> Option<Message> {
        let message = within("a message", self.0.next()).await?;
        Some(message.unwrap_or_else(|error| panic!("no message: {error}")))
    }

    /// Reads a message and fails unless it is this text.
    pub async fn receives_text(&mut self, text: &str) {
        assert_eq!(self.message().await, Some(Message::text(text)));
    }

    /// Closes, and waits for the end.
    pub async fn close(mut self) {
        let closed = within("closing", self.0.close(None)).await;
        closed.unwrap_or_else(|error| panic!("cannot close: {error}"));
        while self.message().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 §5.7 and §5.2: these bytes are this frame, and nothing less is.
    #[track_caller]
    fn check(bytes: &[u8], frame: &Frame, text: &str) {
        assert_eq!(frame.encode(), bytes);
        assert_eq!(format!("{frame:?}"), text);
        for end in 0..bytes.len() {
            assert_eq!(Frame::take_from(&mut bytes[..end].to_vec()), None, "{end}");
        }
        let mut input = [bytes, b"rest"].concat();
        assert_eq!(Frame::take_from(&mut input).as_ref(), Some(frame));
        assert_eq!(input, b"rest");
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        let hello = Frame::text("Hello");
        check(
            b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
            &hello,
            "text Hello",
        );
        check(b"\x81\x05Hello", &hello.unmasked(), "text Hello");
        let begin = Frame::text("Hel").unmasked().unfinished();
        check(b"\x01\x03Hel", &begin, "text+ Hel");
        let end = Frame::new(Opcode::Continuation, "lo").unmasked();
        check(b"\x80\x02lo", &end, "cont lo");
    }

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        for (length, head) in [
            (125, &b"\x82\x7d"[..]),
            (126, b"\x82\x7e\x00\x7e"),
            (0xffff, b"\x82\x7e\xff\xff"),
            (0x10000, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ] {
            let frame = Frame::binary(vec![0; length]).unmasked();
            assert_eq!(frame.encode(), [head, &vec![0; length]].concat());
            assert_eq!(Frame::take_from(&mut frame.encode()), Some(frame));
        }
    }

    #[test]
    fn frames_are_shown_as_transcripts_write_them() {
        check(
            b"\x88\x05\x03\xe8bye",
            &Frame::close(1000, "bye").unmasked(),
            "close 1000 bye",
        );
        check(
            b"\x88\x00",
            &Frame::new(Opcode::Close, "").unmasked(),
            "close",
        );
        let mut compressed = Frame::text("\u{1}").unmasked();
        compressed.reserved = COMPRESSED;
        check(b"\xc1\x01\x01", &compressed, "text~ \\x01");
    }
}
