//! HTTP/2 by hyper, with prior knowledge; RFC 9113 §3.3.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use grip::instruct::Status;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;

use super::{Connection, Handover};
use crate::client_io::{ClientIo, Gate};
use crate::errand::Again;
use crate::life::draining;
use crate::pipe::{self, Pipe, PipeEvent, Verdict, Wait, watched};
use crate::proxy::{ClientRequest, Content, Held, Original, Outcome, Proxy, ResponseBody, respond};
use crate::wire::{Wire, WireEvent};

/// Requests that one connection may have at a time.
const MAX_STREAMS: u32 = 1000;

/// How long a connection may be silent before the client is asked whether it is there.
const PING_AFTER: Duration = Duration::from_mins(2);

/// Runs hyper's tasks on the shard's thread.
#[derive(Debug, Clone)]
struct LocalExecutor(Rc<pipe::Connection>);

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(watched(future, Rc::clone(&self.0)));
    }
}

/// Bytes that may come on one stream before they are read, and on all of a connection's: several
/// streams may stand still before they keep the others from being heard.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 32 * STREAM_WINDOW;

/// What requests of a connection need.
#[derive(Debug, Clone)]
struct Service {
    proxy: Rc<Proxy>,
    peer: SocketAddr,
    handovers: mpsc::UnboundedSender<Handover>,
    pipe_events: mpsc::UnboundedSender<PipeEvent>,
    wire_events: mpsc::UnboundedSender<WireEvent>,
}

impl Connection {
    /// Serves requests until the connection ends; held streams are part of it.
    pub(super) async fn serve_http2(mut self) {
        let limits = &self.proxy.config().limits;
        let gate = Rc::new(Gate::open());
        let shared = Rc::new(pipe::Connection::new(Rc::clone(&gate)));
        let mut builder = http2::Builder::new(LocalExecutor(Rc::clone(&shared)));
        builder
            .auto_date_header(false)
            // For WebSockets; RFC 8441 §3.
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            // A stream that is not read, such as a WebSocket whose origin is slow, must not take all
            // of the connection's window with it; RFC 9113 §5.2.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(PING_AFTER));
        let service = Service {
            proxy: Rc::clone(&self.proxy),
            peer: self.peer,
            handovers: self.handovers,
            pipe_events: self.pipe_events,
            wire_events: self.wire_events,
        };
        let service = service_fn(move |request| Box::pin(service.clone().answer(request)));
        let io = ClientIo::new(self.stream, self.input, gate);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let served = async {
            tokio::select! {
                result = connection.as_mut() => result,
                () = draining(&mut self.life) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        tokio::select! {
            result = served => if let Err(error) = result {
                tracing::debug!(%error, "client connection failed");
            },
            () = shared.stuck() => tracing::debug!("client connection is stuck"),
        }
    }
}

impl Service {
    async fn answer(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let is_connect = *request.method() == Method::CONNECT;
        let tunnel = is_connect.then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        join_cookies(&mut head.headers);
        let method = head.method.clone();
        let mut request = Box::new(ClientRequest {
            content: Content::of_client(body, self.proxy.config().limits.instruct_bytes),
            head,
            peer: self.peer,
            again: None,
        });
        loop {
            let hold = match self.proxy.handle(request).await {
                Outcome::Response(response) => {
                    return Ok(without_body(without_tunnel(response, &method), &method));
                }
                Outcome::Hold(hold) => hold,
            };
            if hold.is_websocket() {
                return Ok(self.hold_websocket(hold, tunnel).await);
            }
            match self.hold(hold).await {
                Ok(response) => return Ok(without_body(response, &method)),
                Err(again) => request = again,
            }
        }
    }

    /// Waits until the shard knows the answer, or begins to write a stream; or the request to ask
    /// again.
    async fn hold(
        &self,
        mut held: Box<Held>,
    ) -> Result<Response<ResponseBody>, Box<ClientRequest>> {
        if let Some(head) = held.head.take() {
            let (pipe, body) = Pipe::new(self.pipe_events.clone());
            let begun = Rc::clone(&pipe);
            // Fails only when the shard is gone, and the connection with it.
            let _ = self.handovers.send(Handover::Http2Stream { pipe, held });
            if begun.begun().await.is_err() {
                return Ok(unavailable());
            }
            let body = ResponseBody::Held(body);
            return Ok(respond(head.status, head.headers, body));
        }
        let original = held.original.take();
        let (wait, verdict) = Wait::new(self.pipe_events.clone());
        let _ = self.handovers.send(Handover::Http2Response { wait, held });
        match verdict.given().await {
            Some(Verdict::Answer(answer)) => Ok(respond(
                answer.status,
                answer.headers,
                ResponseBody::full(answer.body),
            )),
            Some(Verdict::Retry(again)) => match self.again(original, again) {
                Some(again) => Err(Box::new(again)),
                None => Ok(unavailable()),
            },
            Some(Verdict::Refused) | None => Ok(unavailable()),
        }
    }

    /// Waits until the shard begins a WebSocket, whose bytes then go between shard and stream.
    async fn hold_websocket(
        &self,
        mut held: Box<Held>,
        tunnel: Option<OnUpgrade>,
    ) -> Response<ResponseBody> {
        let (Some(answer), Some(tunnel)) = (held.head.take(), tunnel) else {
            return unavailable();
        };
        let (wire, carrier) = Wire::new(self.wire_events.clone());
        let begun = Rc::clone(&wire);
        // Fails only when the shard is gone, and the connection with it.
        let _ = self.handovers.send(Handover::Http2WebSocket { wire, held });
        if begun.begun().await.is_err() {
            return unavailable();
        }
        let carrying = pipe::carry();
        tokio::task::spawn_local(async move {
            let _carrying = carrying;
            // There once hyper has sent the head. If that fails, the carrier is dropped and tells.
            match tunnel.await {
                Ok(io) => carrier.carry(TokioIo::new(io)).await,
                Err(error) => tracing::debug!(%error, "client connection failed"),
            }
        });
        respond(
            answer.status,
            answer.headers,
            ResponseBody::full(Bytes::new()),
        )
    }

    fn again(&self, original: Option<Original>, again: Again) -> Option<ClientRequest> {
        let (head, body) = original?.request()?.into_parts();
        Some(ClientRequest {
            head,
            content: Content::complete(body),
            peer: self.peer,
            again: Some(again),
        })
    }
}

/// Puts all cookies in one field, as HTTP/1 has them; RFC 9113 §8.2.3.
fn join_cookies(headers: &mut HeaderMap) {
    let fields = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let fields: Vec<&[u8]> = fields.collect();
    if fields.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&fields.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Takes the body from answers that must not have one, which hyper does over HTTP/1 only; an answer
/// to HEAD keeps its length, RFC 9110 §9.3.2.
fn without_body(mut response: Response<ResponseBody>, method: &Method) -> Response<ResponseBody> {
    let is_bodiless = Status::new(response.status()).is_bodiless();
    // Bodies of origins were taken off by hyper's client.
    let ResponseBody::Full(body) = response.body() else {
        return response;
    };
    let length = body.size_hint().exact().filter(|length| *length > 0);
    let Some(length) = length.filter(|_| is_bodiless || *method == Method::HEAD) else {
        return response;
    };
    if !is_bodiless {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = ResponseBody::full(Bytes::new());
    response
}

/// Refuses a `CONNECT` whose origin says success but has opened nothing: the client would take it
/// for an open WebSocket, RFC 8441 §5, whose frames are the body.
fn without_tunnel(response: Response<ResponseBody>, method: &Method) -> Response<ResponseBody> {
    if *method != Method::CONNECT || !response.status().is_success() {
        return response;
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    respond(
        Status::new(StatusCode::BAD_GATEWAY),
        headers,
        ResponseBody::full(Bytes::from_static(b"Error while proxying to origin.\n")),
    )
}

/// The shard is gone, or has no room.
fn unavailable() -> Response<ResponseBody> {
    respond(
        Status::new(StatusCode::SERVICE_UNAVAILABLE),
        HeaderMap::new(),
        ResponseBody::full(Bytes::new()),
    )
}
