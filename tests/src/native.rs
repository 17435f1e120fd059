//! An origin that speaks WebSocket itself, frame by frame.
//!
//! Each WebSocket that it is asked for becomes a [`Peer`], with which the test does as it likes:
//! also what no library would do.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::client::Client;
use crate::message::Head;
use crate::websocket::Frame;
use crate::within;

/// A listening origin.
#[derive(Debug)]
pub struct NativeOrigin {
    listener: TcpListener,
}

impl NativeOrigin {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        Self { listener }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Waits for a connection and its request, and answers nothing yet.
    pub async fn asked(&self) -> Peer {
        let accepted = within("a connection to the origin", self.listener.accept()).await;
        let (stream, _) = accepted.expect("it can be accepted");
        let mut client = Client::of(stream);
        let request = client.raw("a request", Head::take_from).await;
        Peer {
            request: request.expect("a whole head"),
            client,
        }
    }

    /// Waits for a connection, and accepts the WebSocket that it asks for with these fields.
    pub async fn accept(&self, fields: &[&str]) -> Peer {
        let mut peer = self.asked().await;
        peer.accept(fields).await;
        peer
    }
}

/// The origin's end of a WebSocket.
#[derive(Debug)]
pub struct Peer {
    request: Head,
    client: Client,
}

impl Peer {
    /// The head of the handshake's request.
    pub fn request(&self) -> &Head {
        &self.request
    }

    /// What is below.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Accepts the WebSocket with these fields besides those that make it one.
    pub async fn accept(&mut self, fields: &[&str]) {
        let key = self.request.field("Sec-WebSocket-Key");
        let key = key.expect("the hub asks for a WebSocket");
        let accept = derive_accept_key(key.as_bytes());
        let own = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            &format!("Sec-WebSocket-Accept: {accept}"),
        ];
        let head = [&own, fields, &["", ""]].concat().join("\r\n");
        self.send_raw(head.as_bytes()).await;
    }

    /// Sends a frame; origins do not mask.
    pub async fn send(&mut self, frame: Frame) {
        self.send_raw(&frame.unmasked().encode()).await;
    }

    /// Sends these bytes, whatever they mean.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.client.send_content(bytes).await;
    }

    /// The next frame; `None` if the connection ended.
    pub async fn try_frame(&mut self) -> Option<Frame> {
        let frame = self.client.raw("a frame", Frame::take_from).await?;
        assert!(frame.mask.is_some(), "the hub masks: {frame:?}");
        Some(frame)
    }

    /// The next frame, shown as sent by a server.
    pub async fn frame(&mut self) -> Frame {
        match self.try_frame().await {
            Some(frame) => frame.unmasked(),
            None => panic!("closed before a frame; {:?}", self.client),
        }
    }

    /// Reads a frame and fails unless it is this one, whose mask does not matter.
    pub async fn receives(&mut self, expected: Frame) {
        assert_eq!(self.frame().await, expected.unmasked());
    }

    /// Leaves without a word.
    pub fn vanish(self) {}
}
