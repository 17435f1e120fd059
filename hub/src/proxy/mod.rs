//! What becomes of one request: it goes to the origin, and the answer is relayed, or it holds the
//! client.
//!
//! Knows HTTP messages; does not know connections. [`Proxy::handle`] is the way in. Routes, links
//! and retries belong in files beside `request` and `response`.

mod body;
mod request;
mod response;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grip::UnixTime;
use grip::fields::GRIPLINE_STALE;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::config::Config;
use crate::counters::Counters;
use crate::engine::{AfterHold, Hold};
use body::{ClientBody, Progress};
use request::OriginRequest;

pub(crate) use body::ResponseBody;

/// How long a connection to the origin may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection to the origin is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// A shard's way to the origin.
#[derive(Debug)]
pub(crate) struct Proxy {
    config: Arc<Config>,
    counters: Arc<Counters>,
    client: Client<HttpConnector, ClientBody>,
}

/// What a request comes to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// This answer.
    Response(Response<ResponseBody>),
    /// The client is held.
    Hold(Box<Hold>),
}

/// What is needed of a request after it is gone.
#[derive(Debug)]
struct Asked {
    version: Version,
    is_head: bool,
    is_persistent: bool,
    body: Arc<Progress>,
}

impl Asked {
    fn after_hold(&self) -> AfterHold {
        // Behind a body that nobody read, the next request cannot be found.
        if self.is_persistent && self.body.is_complete() {
            AfterHold::Reuse
        } else {
            AfterHold::Close
        }
    }
}

/// Why a request has no proper answer. Each becomes a plain text for the client.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    /// The client's request body broke off or is malformed.
    #[error("Failed to read request body.")]
    ClientBody,
    /// CONNECT asks for a tunnel, which the hub is not for.
    #[error("CONNECT is not supported.")]
    Connect,
    /// No connection to the origin.
    #[error("Unable to connect to any targets. Tried: {0}")]
    Unreachable(String),
    /// The origin broke off, or its answer is not HTTP.
    #[error("Error while proxying to origin.")]
    Origin,
    /// The response's instructions cannot be followed.
    #[error("Failed to parse accept instructions: {0}")]
    Instruct(#[from] grip::instruct::InstructError),
    /// The response carries instructions in a form that the hub does not read.
    #[error("Failed to parse accept instructions: {0}")]
    Form(&'static str),
    /// The response with instructions is larger than [`crate::config::Limits::instruct_bytes`].
    #[error("GRIP instruct response too large from {0}")]
    InstructTooLarge(String),
    /// The request's body is larger than a held request's may be.
    #[error("Request too large to accept GRIP instruct.")]
    RequestTooLarge,
}

impl ProxyError {
    fn status(&self) -> StatusCode {
        match self {
            Self::ClientBody | Self::RequestTooLarge => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// What the client reads. What only an operator should know is hidden without `debug`.
    fn text(&self, debug: bool) -> String {
        match self {
            Self::ClientBody | Self::RequestTooLarge | Self::Connect => format!("{self}\n"),
            _ if debug => format!("{self}\n"),
            _ => format!("{}\n", Self::Origin),
        }
    }

    fn count(&self, counters: &Counters) {
        match self {
            Self::ClientBody | Self::Connect => counters.malformed_heads.increment(),
            Self::Unreachable(_) | Self::Origin => counters.origin_errors.increment(),
            Self::Instruct(_)
            | Self::Form(_)
            | Self::InstructTooLarge(_)
            | Self::RequestTooLarge => {
                counters.instruct_errors.increment();
            }
        }
    }
}

impl Proxy {
    pub(crate) fn new(config: Arc<Config>, counters: Arc<Counters>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Self {
            config,
            counters,
            client,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends a request to the origin and says what becomes of the client.
    ///
    /// Cancel safe: dropped when the client leaves, it ends the request to the origin as well.
    pub(crate) async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Outcome {
        self.counters.requests.increment();
        match self.exchange(request, peer).await {
            Ok(outcome) => outcome,
            Err(error) => {
                error.count(&self.counters);
                tracing::warn!(%error, "request failed");
                Outcome::Response(text_response(error.status(), error.text(self.config.debug)))
            }
        }
    }

    async fn exchange(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Outcome, ProxyError> {
        if request.method() == Method::CONNECT {
            return Err(ProxyError::Connect);
        }
        let OriginRequest { request, asked } =
            request::to_origin(request, peer, &self.config, unix_now());
        let mut response = self.client.request(request).await.map_err(|error| {
            if asked.body.has_failed() {
                ProxyError::ClientBody
            } else if error.is_connect() {
                ProxyError::Unreachable(self.config.origin.authority.to_string())
            } else {
                tracing::debug!(error = ?error, "no answer from the origin");
                ProxyError::Origin
            }
        })?;
        if response.headers_mut().remove(GRIPLINE_STALE).is_some() {
            self.counters.stale_answers.increment();
        }
        if grip::instruct::is_instruct(response.headers()) {
            response::follow(response, &asked, &self.config).await
        } else {
            Ok(Outcome::Response(response::relay(response)))
        }
    }
}

fn text_response(status: StatusCode, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The time of day.
pub(crate) fn unix_now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since_epoch.map_or(0, |duration| duration.as_secs()))
}
