//! A client on a bare socket: it sends exact bytes and reads answers piece by piece.
//!
//! Every wait has a deadline, and a failure shows what was received so far.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::message::{Decoder, Framing, Head, Piece, find};

/// Received bytes that a failure shows.
const SHOWN: usize = 4000;
/// Bytes asked for at a time.
const READ_BYTES: usize = 16 * 1024;

/// A connection to the hub, or to any other server.
pub struct Client {
    stream: TcpStream,
    /// Received, not yet read by the test.
    input: Vec<u8>,
    /// Content of a body that was received while looking for more of it.
    content: Vec<u8>,
    received: Vec<u8>,
    body: Decoder,
    method: String,
    is_closed: bool,
    patience: Duration,
}

/// An answer, complete or broken off.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status line and fields.
    pub head: Head,
    /// The body's content.
    pub body: Vec<u8>,
    /// Whether the body came to the end that its framing promises.
    pub is_complete: bool,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        status(&self.head)
    }

    /// The complete body as text.
    #[track_caller]
    pub fn text(&self) -> String {
        assert!(self.is_complete, "the body broke off: {self:?}");
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The only value of this field; `None` if there is none.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// Fails unless status and text are these.
    #[track_caller]
    pub fn check(&self, status: u16, text: &str) {
        assert_eq!((self.status(), self.text().as_str()), (status, text));
    }
}

/// The status code in a response's head.
pub fn status(head: &Head) -> u16 {
    head.word(1).parse().expect("a status is a number")
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = self.received.len().saturating_sub(SHOWN);
        let received = String::from_utf8_lossy(&self.received[begin..]);
        let end = if self.is_closed { "closed" } else { "open" };
        write!(
            f,
            "received {} bytes, ending with\n{received}\n({end})",
            self.received.len()
        )
    }
}

impl Client {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"));
        Self::of(stream)
    }

    /// Talks over a connection that there is already.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            content: Vec::new(),
            received: Vec::new(),
            body: Decoder::new(Framing::Empty),
            method: String::new(),
            is_closed: false,
            patience: PATIENCE,
        }
    }

    /// Waits longer for what it reads than [`PATIENCE`].
    pub fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Connects and sends `GET` for this target with these fields.
    pub async fn get(addr: SocketAddr, target: &str, fields: &[&str]) -> Self {
        let mut client = Self::connect(addr).await;
        client.request("GET", target, fields, "").await;
        client
    }

    /// Sends a request; a body gets its length. The host is `example.com` unless `fields` say
    /// otherwise.
    pub async fn request(&mut self, method: &str, target: &str, fields: &[&str], body: &str) {
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        if !fields.iter().any(|field| field.starts_with("Host:")) {
            text += "Host: example.com\r\n";
        }
        for field in fields {
            text.push_str(field);
            text.push_str("\r\n");
        }
        if !body.is_empty() {
            let length = body.len().to_string();
            text.extend(["Content-Length: ", &length, "\r\n"]);
        }
        self.send(format!("{text}\r\n{body}")).await;
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if let Some(end) = bytes.iter().position(|byte| *byte == b' ') {
            self.method = String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
        self.send_content(bytes).await;
    }

    /// Sends these bytes, which begin no request.
    pub async fn send_content(&mut self, bytes: &[u8]) {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        match sent {
            Ok(Ok(())) => {}
            failed => panic!("cannot send ({failed:?}); {self:?}"),
        }
    }

    /// Reads the head of a response.
    pub async fn head(&mut self) -> Head {
        loop {
            if let Some(head) = Head::take_from(&mut self.input) {
                self.body = Decoder::new(Framing::of_response(&head, &self.method));
                return head;
            }
            let is_open = self.read("a head").await;
            assert!(is_open, "closed before the head was complete; {self:?}");
        }
    }

    /// The next piece of the body: a chunk, or whatever is there; `None` at its end.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        match self.try_piece().await {
            Ok(piece) => piece,
            Err(Truncated) => panic!("the body broke off; {self:?}"),
        }
    }

    async fn try_piece(&mut self) -> Result<Option<Vec<u8>>, Truncated> {
        loop {
            match self.body.next(&mut self.input) {
                Some(Piece::Data(data)) => return Ok(Some(data)),
                Some(Piece::End) => return Ok(None),
                None if self.read("more of the body").await => {}
                None if self.body.framing() == Framing::ToEnd => return Ok(None),
                None => return Err(Truncated),
            }
        }
    }

    /// Reads content until it ends with `text`, and returns what came since the last call.
    pub async fn content_until(&mut self, text: &str) -> String {
        while !self.content.ends_with(text.as_bytes()) {
            match self.try_piece().await {
                Ok(Some(piece)) => self.content.extend(piece),
                ended => panic!("{ended:?} before {text:?}; {self:?}"),
            }
        }
        let content = std::mem::take(&mut self.content);
        String::from_utf8_lossy(&content).into_owned()
    }

    /// Reads a head, and fails unless the status is 200 and content begins with exactly `text`.
    pub async fn stream_begins(&mut self, text: &str) -> Head {
        let head = self.head().await;
        assert_eq!(status(&head), 200, "{self:?}");
        let content = self.content_until(text).await;
        assert_eq!(content, text, "{self:?}");
        head
    }

    /// Reads content and fails unless exactly `text` comes next.
    pub async fn receives(&mut self, text: &str) {
        let content = self.content_until(text).await;
        assert_eq!(content, text, "{self:?}");
    }

    /// Reads as much content as `text` has, and fails unless it is the same; more may follow.
    pub async fn receives_next(&mut self, text: &str) {
        while self.content.len() < text.len() {
            let piece = self.piece().await;
            let piece = piece.unwrap_or_else(|| panic!("ended before {text:?}; {self:?}"));
            self.content.extend(piece);
        }
        let content: Vec<u8> = self.content.drain(..text.len()).collect();
        assert_eq!(String::from_utf8_lossy(&content), text, "{self:?}");
    }

    /// Reads until the body ends as its framing says, and fails if content came before that.
    pub async fn ends(&mut self) {
        if let Some(piece) = self.piece().await {
            panic!("{} before the end", String::from_utf8_lossy(&piece));
        }
    }

    /// Reads content until the connection ends, and fails if the body came to its proper end.
    pub async fn breaks_off(&mut self) {
        loop {
            match self.try_piece().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the body is complete; {self:?}"),
                Err(Truncated) => return,
            }
        }
    }

    /// Reads a whole response; an unfinished body shows in [`Response::is_complete`].
    pub async fn response(&mut self) -> Response {
        let head = self.head().await;
        self.response_after(head).await
    }

    /// Reads the rest of a response.
    pub async fn response_after(&mut self, head: Head) -> Response {
        let mut body = Vec::new();
        let is_complete = loop {
            match self.try_piece().await {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => break true,
                Err(Truncated) => break false,
            }
        };
        Response {
            head,
            body,
            is_complete,
        }
    }

    /// Reads raw bytes until `text` is among them, and returns what came up to its end.
    pub async fn raw_until(&mut self, text: &str) -> String {
        loop {
            if let Some(begin) = find(&self.input, text.as_bytes()) {
                let bytes: Vec<u8> = self.input.drain(..begin + text.len()).collect();
                return String::from_utf8_lossy(&bytes).into_owned();
            }
            let is_open = self.read(text).await;
            assert!(is_open, "closed before {text:?}; {self:?}");
        }
    }

    /// Reads raw bytes until `take` finds in them what is wanted; `None` if they end before that.
    pub(crate) async fn raw<T>(
        &mut self,
        wanted: &str,
        take: impl Fn(&mut Vec<u8>) -> Option<T>,
    ) -> Option<T> {
        loop {
            if let Some(found) = take(&mut self.input) {
                return Some(found);
            }
            if !self.read(wanted).await {
                return None;
            }
        }
    }

    /// Reads raw bytes until the server closes.
    pub async fn raw_to_end(&mut self) -> String {
        while self.read("the end").await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.input)).into_owned()
    }

    /// Waits until the server closes, and fails if bytes come before that.
    pub async fn is_closed_by_server(&mut self) {
        let rest = self.raw_to_end().await;
        assert_eq!(rest, "", "{self:?}");
    }

    /// Whether the connection is open as far as this side knows; does not wait.
    pub fn is_open(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while !self.is_closed {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => self.is_closed = true,
                Ok(count) => {
                    let before = self.input.len();
                    self.input.extend_from_slice(&buffer[..count]);
                    self.remember(before);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.is_closed = true,
            }
        }
        !self.is_closed
    }

    /// Fails if the server has sent anything that was not read, or has closed; does not wait.
    #[track_caller]
    pub fn is_quiet(&mut self) {
        assert!(self.is_open(), "closed; {self:?}");
        assert!(
            self.input.is_empty() && self.content.is_empty(),
            "not quiet; {self:?}"
        );
    }

    /// Breaks the connection off, whatever is still under way.
    pub fn break_off(self) {
        let set = self.stream.set_zero_linger();
        assert!(set.is_ok(), "{set:?}; {self:?}");
    }

    /// Sends no more, but goes on reading.
    pub async fn finish_sending(&mut self) {
        let shut = self.stream.shutdown().await;
        assert!(shut.is_ok(), "{shut:?}; {self:?}");
    }

    /// Reads some bytes; false when the server has closed.
    async fn read(&mut self, wanted: &str) -> bool {
        if self.is_closed {
            return false;
        }
        self.input.reserve(READ_BYTES);
        let before = self.input.len();
        let patience = self.patience;
        match timeout(patience, self.stream.read_buf(&mut self.input)).await {
            Ok(Ok(1..)) => self.remember(before),
            // A reset is how a server breaks off; what it means is up to the test.
            Ok(Ok(0) | Err(_)) => self.is_closed = true,
            Err(elapsed) => panic!("{elapsed:?}: no {wanted:?} within {patience:?}; {self:?}"),
        }
        !self.is_closed
    }

    /// Keeps a copy of what was received after the first `before` bytes of the input.
    fn remember(&mut self, before: usize) {
        self.received.extend_from_slice(&self.input[before..]);
        // Big bodies need not be kept twice.
        let surplus = self.received.len().saturating_sub(2 * SHOWN);
        if surplus > SHOWN {
            self.received.drain(..surplus);
        }
    }
}

/// The connection ended before the body did.
#[derive(Debug)]
struct Truncated;

/// Sends a `GET` on a connection of its own and reads the whole answer.
pub async fn get(addr: SocketAddr, target: &str, fields: &[&str]) -> Response {
    request(addr, "GET", target, fields, "").await
}

/// Sends a request on a connection of its own and reads the whole answer.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    target: &str,
    fields: &[&str],
    body: &str,
) -> Response {
    let mut client = Client::connect(addr).await;
    client.request(method, target, fields, body).await;
    client.response().await
}
