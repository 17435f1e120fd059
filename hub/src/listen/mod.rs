//! Client connections while hyper reads requests from them and writes answers.
//!
//! HTTP/1 and HTTP/2 come on the same port; the first bytes tell. A response that asks for a hold
//! is not answered by hyper: over HTTP/1 the connection is taken away from hyper once everything
//! before it is written, and handed to the shard, which writes the head itself; over HTTP/2, the
//! stream stays with hyper, and the shard gives and gets its content. TLS belongs in a file beside `http1`.

mod http1;
mod http2;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::errand::Again;
use crate::life::{Life, draining};
use crate::pipe::{Pipe, PipeEvent, Wait};
use crate::proxy::{Held, Proxy};
use crate::wire::{Wire, WireEvent};

/// How long a client may take for a request's head, and an open connection be without a request.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// What every HTTP/2 connection begins with; RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request that is given up to the shard because its response asks for a hold.
#[derive(Debug)]
pub(crate) enum Handover {
    /// The whole connection.
    Http1 {
        stream: TcpStream,
        /// Bytes that the client sent after its request.
        input: Bytes,
        held: Box<Held>,
    },
    /// The content of an HTTP/2 stream.
    Http2Stream { pipe: Rc<Pipe>, held: Box<Held> },
    /// A WebSocket over an HTTP/2 stream.
    Http2WebSocket { wire: Rc<Wire>, held: Box<Held> },
    /// The answer to an HTTP/2 request.
    Http2Response { wait: Wait, held: Box<Held> },
}

/// A client's connection, ready for its next request.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Bytes that the client has already sent.
    pub(crate) input: Bytes,
    /// Set if the client's next request was held before.
    pub(crate) again: Option<Again>,
    pub(crate) proxy: Rc<Proxy>,
    pub(crate) handovers: mpsc::UnboundedSender<Handover>,
    pub(crate) pipe_events: mpsc::UnboundedSender<PipeEvent>,
    pub(crate) wire_events: mpsc::UnboundedSender<WireEvent>,
    pub(crate) life: watch::Receiver<Life>,
}

impl Connection {
    /// Serves a client that has just connected, until its connection ends or is held.
    pub(crate) async fn serve_new(mut self) {
        let mut input = BytesMut::new();
        let is_http2 = tokio::select! {
            preface = tokio::time::timeout(HEAD_TIMEOUT, read_preface(&self.stream, &mut input)) => match preface {
                Ok(Ok(is_http2)) => is_http2,
                // Closed, broken, or silent for too long.
                Ok(Err(_)) | Err(_) => return,
            },
            () = draining(&mut self.life) => return,
        };
        self.input = input.freeze();
        if is_http2 {
            // Boxed, so that HTTP/1 connections don't take the memory of the larger ones.
            Box::pin(self.serve_http2()).await;
        } else {
            self.serve_http1().await;
        }
    }

    /// Serves an HTTP/1 client that had requests before.
    pub(crate) async fn serve_on(self) {
        self.serve_http1().await;
    }
}

/// Reads until it is clear whether the client speaks HTTP/2; what was read is in `input`.
async fn read_preface(stream: &TcpStream, input: &mut BytesMut) -> std::io::Result<bool> {
    const FIRST_READ: usize = 2048;
    loop {
        stream.readable().await?;
        input.reserve(FIRST_READ);
        match stream.try_read_buf(input) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if input.starts_with(PREFACE) {
            return Ok(true);
        }
        if !PREFACE.starts_with(input) {
            return Ok(false);
        }
    }
}
