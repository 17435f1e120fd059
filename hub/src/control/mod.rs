//! The control plane: publishers, scrapes and health checks, on a thread and runtime of its own.
//!
//! It may be slow, stuck or down; delivery goes on. [`Control::serve`] is the way in.
//! Authentication of publishers belongs in a file beside `accept`.

mod accept;

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use warp::Filter as _;

use crate::config::Config;
use crate::counters::Counters;
use crate::life::{Life, draining};
use crate::purge::Publisher;
use accept::ReplyType;

/// Bytes in a publisher's request head.
const MAX_HEAD_BYTES: usize = 10_000;
/// How many times the limit of a body is read, and thrown away, before its sender is cut off. Who
/// is still sending would not read the answer.
const DISCARD_FACTOR: usize = 16;

/// What the control port serves.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) config: Arc<Config>,
    /// This thread's own.
    pub(crate) counters: Arc<Counters>,
    /// Every thread's.
    pub(crate) all_counters: Arc<[Arc<Counters>]>,
    pub(crate) publisher: Publisher,
}

/// Why a request to the control port is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("Not Found")]
    NotFound,
    #[error("Method not allowed: {found}.")]
    Method {
        found: Method,
        allowed: &'static str,
    },
    #[error("Request header too large.")]
    HeadTooLarge,
    #[error("Request requires Content-Length.")]
    LengthRequired,
    #[error("Request body too large.")]
    BodyTooLarge,
    #[error("Request body broke off.")]
    BodyBrokeOff,
    #[error("Not Acceptable. Supported formats are text/plain and application/json.")]
    NotAcceptable,
    #[error("{0}")]
    Publish(#[from] grip::publish::PublishError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn response(&self) -> Response<String> {
        let mut response = reply(self.status(), "text/plain", format!("{self}\n"));
        if let Self::Method { allowed, .. } = self {
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}

impl Control {
    /// Serves until the hub drains and the requests under way are answered.
    pub(crate) async fn serve(self, listener: TcpListener, mut life: watch::Receiver<Life>) {
        let filter = warp::method()
            .and(warp::path::full())
            .and(warp::header::headers_cloned())
            .and(warp::body::stream())
            .then(move |method, path: warp::path::FullPath, headers, body| {
                let control = self.clone();
                async move { control.respond(method, path.as_str(), &headers, body).await }
            });
        warp::serve(filter)
            .incoming(listener)
            .graceful(async move { draining(&mut life).await })
            .run()
            .await;
    }

    async fn respond(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    ) -> Response<String> {
        self.counters.control_requests.increment();
        match self.route(method, path, headers, body).await {
            Ok(response) => response,
            Err(refusal) => {
                match refusal {
                    Refusal::Publish(_) => self.counters.publish_errors.increment(),
                    _ => self.counters.control_refused.increment(),
                }
                tracing::info!(path, %refusal, "control request refused");
                refusal.response()
            }
        }
    }

    async fn route(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    ) -> Result<Response<String>, Refusal> {
        check_head(path, headers)?;
        match path.strip_suffix('/').unwrap_or(path) {
            "" => Ok(text("Pushpin API\n")),
            "/publish" => {
                allow(&method, &Method::POST, "POST")?;
                self.publish(headers, body).await
            }
            "/recover" => {
                allow(&method, &Method::POST, "POST")?;
                self.recover(headers, body).await
            }
            "/metrics" => {
                allow(&method, &Method::GET, "GET")?;
                let text = Counters::render(self.all_counters.iter().map(AsRef::as_ref));
                Ok(reply(StatusCode::OK, "text/plain; version=0.0.4", text))
            }
            "/health" => {
                allow(&method, &Method::GET, "GET")?;
                Ok(text("OK\n"))
            }
            _ => Err(Refusal::NotFound),
        }
    }

    async fn publish(
        &self,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    ) -> Result<Response<String>, Refusal> {
        check_length(headers)?;
        let body = complete(body, self.config.limits.publish_bytes).await?;
        let reply_type = ReplyType::negotiate(headers).ok_or(Refusal::NotAcceptable)?;
        let items = grip::publish::parse(&body, &self.config.limits.grip)?;
        self.counters.published_items.add(items.len() as u64);
        let matched = self.publisher.publish(items).await;
        Ok(match reply_type {
            ReplyType::Text => text("Published\n"),
            ReplyType::Json => json(format!(
                "{{\"message\":\"Published\",\"matched\":{matched}}}\n"
            )),
        })
    }

    /// Has every held client ask the origin what it has missed; the body means nothing.
    async fn recover(
        &self,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    ) -> Result<Response<String>, Refusal> {
        check_length(headers)?;
        complete(body, self.config.limits.publish_bytes).await?;
        let reply_type = ReplyType::negotiate(headers).ok_or(Refusal::NotAcceptable)?;
        self.publisher.recover().await;
        Ok(match reply_type {
            ReplyType::Text => text("Updated\n"),
            ReplyType::Json => json("{\"message\":\"Updated\"}\n".to_owned()),
        })
    }
}

fn allow(method: &Method, allowed: &Method, name: &'static str) -> Result<(), Refusal> {
    if method == allowed {
        return Ok(());
    }
    Err(Refusal::Method {
        found: method.clone(),
        allowed: name,
    })
}

fn check_head(path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    const COLON_AND_LINE_END: usize = 4;
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + COLON_AND_LINE_END);
    if path.len() + fields.sum::<usize>() > MAX_HEAD_BYTES {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

fn check_length(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        Ok(())
    } else {
        Err(Refusal::LengthRequired)
    }
}

/// The whole body, if it is not over the limit.
async fn complete(
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    limit: usize,
) -> Result<Bytes, Refusal> {
    let mut body = std::pin::pin!(body);
    let mut complete = BytesMut::new();
    let mut length = 0;
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| Refusal::BodyBrokeOff)?;
        length += part.remaining();
        if length <= limit {
            bytes::BufMut::put(&mut complete, part);
        } else if length > limit.saturating_mul(DISCARD_FACTOR) {
            break;
        }
    }
    if length > limit {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(complete.freeze())
}

fn text(text: &str) -> Response<String> {
    reply(StatusCode::OK, "text/plain", text.to_owned())
}

fn json(text: String) -> Response<String> {
    reply(StatusCode::OK, "application/json", text)
}

fn reply(status: StatusCode, content_type: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
