//! A client that speaks HTTP/2 with prior knowledge, many requests on one connection.
//!
//! What it reads is the test's business: an [`Exchange`] that nobody reads fills its window.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::client::Response;
use crate::message::Head;
use crate::within;

/// Bytes that may be under way to one [`Exchange`].
pub const WINDOW: u32 = 64 * 1024;

/// A connection to the hub.
pub struct Http2 {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").finish_non_exhaustive()
    }
}

impl Http2 {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await;
        let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"));
        Self::over(stream).await
    }

    /// Speaks HTTP/2 over this connection.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let shaken = Builder::new()
            .initial_window_size(WINDOW)
            // One exchange that nobody reads leaves room for the others.
            .initial_connection_window_size(64 * WINDOW)
            .handshake(stream);
        let (requests, connection) = within("an HTTP/2 connection", shaken)
            .await
            .expect("the preface is sent");
        Self {
            requests,
            connection: tokio::spawn(connection),
        }
    }

    /// Sends a `GET`.
    pub async fn get(&mut self, target: &str, fields: &[&str]) -> Exchange {
        self.request("GET", target, fields, "").await
    }

    /// Sends a request. The host is `example.com` unless `fields` say otherwise.
    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[&str],
        body: &str,
    ) -> Exchange {
        let mut exchange = self.begin(method, target, fields).await;
        exchange.send_last(body);
        exchange
    }

    /// Sends the head of a request; its body follows with [`Exchange::send_last`].
    pub async fn begin(&mut self, method: &str, target: &str, fields: &[&str]) -> Exchange {
        let request = Request::builder().method(method);
        self.begin_with(request, target, fields).await
    }

    /// Asks for a stream of bytes that speaks this protocol; extended `CONNECT`, RFC 8441. Once
    /// [the head](Exchange::head) is 200, [`Exchange::send_bytes`] and
    /// [`Exchange::receives_bytes`] are its two directions.
    pub async fn connect_with(
        &mut self,
        protocol: &'static str,
        target: &str,
        fields: &[&str],
    ) -> Exchange {
        self.takes_extended_connect().await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .extension(Protocol::from_static(protocol));
        self.begin_with(request, target, fields).await
    }

    /// Opens a WebSocket.
    pub async fn websocket(&mut self, target: &str, fields: &[&str]) -> Exchange {
        let mut all = vec!["Sec-WebSocket-Version: 13"];
        all.extend(fields);
        let mut exchange = self.connect_with("websocket", target, &all).await;
        let head = exchange.head().await;
        assert_eq!(head.start(), "HTTP/2 200");
        exchange
    }

    /// Waits until the server has said that it takes extended `CONNECT`; RFC 8441 §3.
    async fn takes_extended_connect(&mut self) {
        let said = async {
            while !self.requests.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
        };
        within("SETTINGS_ENABLE_CONNECT_PROTOCOL", said).await;
    }

    async fn begin_with(
        &mut self,
        mut request: request::Builder,
        target: &str,
        fields: &[&str],
    ) -> Exchange {
        let mut host = "example.com";
        for field in fields {
            let (name, value) = field.split_once(": ").expect("a field has a name");
            if name.eq_ignore_ascii_case("host") {
                host = value;
            } else {
                request = request.header(name, value);
            }
        }
        let request = request.uri(format!("http://{host}{target}")).body(());
        let ready = within("a free stream", self.requests.clone().ready()).await;
        self.requests = ready.expect("the connection is open");
        let (response, body) = self
            .requests
            .send_request(request.expect("the request is good"), false)
            .expect("the connection is open");
        Exchange {
            sending: body,
            response: Some(response),
            content: Vec::new(),
            receiving: None,
        }
    }

    /// Cuts the connection.
    pub fn disconnect(self) {
        self.connection.abort();
    }

    /// Waits until the server has ended the connection, and fails unless that was in order.
    pub async fn is_closed_by_server(self) {
        drop(self.requests);
        let ended = within("the connection's end", self.connection).await;
        ended.expect("it does not panic").expect("a proper end");
    }
}

/// A request and its answer.
#[derive(Debug)]
pub struct Exchange {
    sending: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    receiving: Option<RecvStream>,
    /// Received, not yet compared.
    content: Vec<u8>,
}

impl Exchange {
    /// Sends some of the body.
    pub fn send(&mut self, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let sent = self.sending.send_data(body, false);
        sent.expect("the stream is open");
    }

    /// Sends some of a stream of bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let sent = self.sending.send_data(Bytes::copy_from_slice(bytes), false);
        sent.expect("the stream is open");
    }

    /// Sends the rest of the body, which may be empty.
    pub fn send_last(&mut self, body: &str) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let sent = self.sending.send_data(body, true);
        sent.expect("the stream is open");
    }

    /// Ends the body with trailers.
    pub fn send_trailers(&mut self, name: &'static str, value: &'static str) {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, http::HeaderValue::from_static(value));
        let sent = self.sending.send_trailers(trailers);
        sent.expect("the stream is open");
    }

    /// Says that the answer is not wanted any more.
    pub fn reset(mut self) {
        self.sending.send_reset(Reason::CANCEL);
    }

    /// Waits until the server resets the stream, without reading.
    pub async fn is_reset(&mut self) -> Reason {
        let reset = std::future::poll_fn(|context| self.sending.poll_reset(context));
        within("a reset", reset).await.expect("a reset")
    }

    /// Waits for the head of the answer.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("an answer")
    }

    /// Waits for the head of the answer, or for what comes instead.
    pub async fn try_head(&mut self) -> Result<Head, h2::Error> {
        let response = self.response.take().expect("a head is read once");
        let (parts, body) = within("a head", response).await?.into_parts();
        self.receiving = Some(body);
        let fields = parts.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        });
        let start = format!("HTTP/2 {}", parts.status.as_u16());
        Ok(Head::new(start, fields.collect()))
    }

    /// The next piece of the body; `None` at its end.
    pub async fn try_piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let body = self.receiving.as_mut().expect("the head was read");
        while let Some(piece) = within("more of the body", body.data()).await {
            let piece = piece?;
            let released = body.flow_control().release_capacity(piece.len());
            released.expect("that much was received");
            // An empty one only carries the end.
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        let trailers = within("the end", body.trailers()).await?;
        assert_eq!(trailers, None, "trailers");
        Ok(None)
    }

    /// Reads as much as `text` has, and fails unless it is the same; more may follow.
    pub async fn receives(&mut self, text: &str) {
        let content = self.read_bytes(text.len()).await;
        assert!(
            content == text.as_bytes(),
            "{}",
            String::from_utf8_lossy(&content)
        );
    }

    /// Reads as much as `bytes` has, and fails unless it is the same; more may follow.
    pub async fn receives_bytes(&mut self, bytes: &[u8]) {
        assert_eq!(self.read_bytes(bytes.len()).await, bytes);
    }

    /// Reads exactly so many bytes.
    pub async fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.content.len() < count {
            match self.try_piece().await {
                Ok(Some(piece)) => self.content.extend_from_slice(&piece),
                ended => panic!("{ended:?} before {count} bytes; {:?}", self.content),
            }
        }
        self.content.drain(..count).collect()
    }

    /// Fails unless the status is 200 and content begins with `text`.
    pub async fn stream_begins(&mut self, text: &str) -> Head {
        let head = self.head().await;
        assert_eq!(head.start(), "HTTP/2 200");
        self.receives(text).await;
        head
    }

    /// Fails unless the body ends here, and in order.
    pub async fn ends(&mut self) {
        assert_eq!(self.content, b"", "content that was not compared");
        let end = self.try_piece().await.expect("a proper end");
        assert_eq!(end, None);
    }

    /// Reads to the end, and fails unless the server resets the stream.
    pub async fn breaks_off(&mut self) -> h2::Error {
        loop {
            match self.try_piece().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the body is complete"),
                Err(error) => return error,
            }
        }
    }

    /// Reads the whole answer; a body that is reset shows in [`Response::is_complete`].
    pub async fn response(&mut self) -> Response {
        let head = self.head().await;
        let mut body = Vec::new();
        let is_complete = loop {
            match self.try_piece().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Response {
            head,
            body,
            is_complete,
        }
    }
}
