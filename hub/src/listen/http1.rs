//! HTTP/1 by hyper, up to the moment at which a response asks for a hold.

use std::cell::RefCell;
use std::future::{Future as _, pending};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Connection, HEAD_TIMEOUT, Handover};
use crate::client_io::{self, ClientIo, Gate, Gated};
use crate::engine::HoldKind;
use crate::errand::Again;
use crate::life::draining;
use crate::proxy::{ClientRequest, Content, Held, Outcome, Proxy, ResponseBody};

/// How hyper's part of a connection ends.
enum End {
    /// The connection is over.
    Closed,
    /// hyper gave up on what the client sent.
    Failed(hyper::Error),
    /// A response asked for this.
    Hold(Box<Held>),
}

/// Bytes by which a field of a request that is asked again may be longer than it was: the blank
/// behind its colon, and a length in place of a transfer coding.
const REPLAY_ROOM: usize = 32;

impl Connection {
    /// How much longer the head of a request that is asked again may be.
    fn replay_room(&self) -> usize {
        match self.again {
            Some(_) => self.proxy.config().limits.head_fields * REPLAY_ROOM,
            None => 0,
        }
    }

    /// Serves requests until the connection ends or is held.
    pub(super) async fn serve_http1(mut self) {
        let limits = &self.proxy.config().limits;
        let mut builder = http1::Builder::new();
        builder
            .auto_date_header(false)
            .max_buf_size(limits.head_bytes + self.replay_room())
            .max_headers(limits.head_fields)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        let gate = Rc::new(Gate::default());
        let asked: Rc<RefCell<Option<Box<Held>>>> = Rc::default();
        let again = Rc::new(RefCell::new(self.again.take()));
        let service = service_fn(|request| {
            // Boxed: a connection's memory must not hold the largest request's state twice over.
            Box::pin(answer(
                Rc::clone(&self.proxy),
                request,
                self.peer,
                Rc::clone(&gate),
                Rc::clone(&asked),
                // The first request is the one that was held before.
                again.take(),
            ))
        });
        let io = TokioIo::new(ClientIo::new(self.stream, self.input, Rc::clone(&gate)));
        let mut connection = builder.serve_connection(io, service);
        let end = {
            let mut drain = pin!(draining(&mut self.life));
            let mut is_draining = false;
            std::future::poll_fn(|context| {
                if !is_draining && drain.as_mut().poll(context).is_ready() {
                    is_draining = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
                match connection.poll_without_shutdown(context) {
                    Poll::Ready(Ok(())) => Poll::Ready(End::Closed),
                    Poll::Ready(Err(error)) => Poll::Ready(End::Failed(error)),
                    // An earlier response may still wait to be written; it goes first.
                    Poll::Pending if gate.is_flushed() => match asked.borrow_mut().take() {
                        Some(hold) => Poll::Ready(End::Hold(hold)),
                        None => Poll::Pending,
                    },
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        let parts = connection.into_parts();
        let (stream, unread) = parts.io.into_inner().into_parts();
        match end {
            End::Closed => client_io::write_and_close(stream, b"").await,
            End::Failed(error) => {
                if gate.has_refused() || error.is_parse() {
                    refuse(stream, &error, &self.proxy).await;
                } else {
                    tracing::debug!(%error, "client connection failed");
                }
            }
            End::Hold(mut held) => {
                let gap = self.proxy.config().handshake_gap;
                let Some(stream) = answer_handshake(stream, &mut held, gap).await else {
                    return;
                };
                let handover = Handover::Http1 {
                    stream,
                    input: joined(parts.read_buf, &unread),
                    held,
                };
                // Fails only when the shard is gone, and the connection with it.
                let _ = self.handovers.send(handover);
            }
        }
    }
}

/// What hyper has read but not used, and what it has not read of the earlier input.
fn joined(read: Bytes, unread: &[u8]) -> Bytes {
    if unread.is_empty() {
        return read;
    }
    [&read, unread].concat().into()
}

/// Answers one request, or leaves the hold that is asked for in `asked` and never ends.
async fn answer(
    proxy: Rc<Proxy>,
    request: Request<Incoming>,
    peer: SocketAddr,
    gate: Rc<Gate>,
    asked: Rc<RefCell<Option<Box<Held>>>>,
    again: Option<Again>,
) -> Result<Response<Gated<ResponseBody>>, std::convert::Infallible> {
    let answering = gate.begin();
    let (head, body) = request.into_parts();
    let request = Box::new(ClientRequest {
        head,
        content: Content::of_client(body, proxy.config().limits.instruct_bytes),
        peer,
        again,
    });
    match proxy.handle(request).await {
        Outcome::Response(response) => Ok(response.map(|body| answering.with(body))),
        Outcome::Hold(hold) => {
            asked.replace(Some(hold));
            pending().await
        }
    }
}

/// Writes a WebSocket's head before its time, if nothing may follow it for a while. `None`: the
/// client is gone, and its origin will be told.
async fn answer_handshake(
    mut stream: TcpStream,
    held: &mut Held,
    gap: Duration,
) -> Option<TcpStream> {
    if !gap.is_zero()
        && let HoldKind::WebSocket(start) = &mut held.hold.kind
    {
        let answer = std::mem::take(&mut start.head);
        stream.write_all(&answer).await.ok()?;
        tokio::time::sleep(gap).await;
    }
    Some(stream)
}

/// Answers a request head that hyper could not read; hyper's own answer says nothing.
async fn refuse(stream: TcpStream, error: &hyper::Error, proxy: &Proxy) {
    let counters = proxy.counters();
    let text = if error.is_parse_too_large() {
        counters.oversized_heads.increment();
        let limit = proxy.config().limits.head_bytes;
        format!("Request header size exceeded limit of {limit} bytes.\n")
    } else {
        counters.malformed_heads.increment();
        format!("Failed to parse request: {error}\n")
    };
    client_io::refuse(stream, &text).await;
}
