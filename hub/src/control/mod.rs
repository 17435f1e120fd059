//! The control plane: publishers, scrapes and health checks, on a thread and runtime of its own.
//!
//! It may be slow, stuck or down; delivery goes on. [`Control::serve`] is the way in.

mod accept;
mod auth;
mod inspect;
mod resource;
mod serve;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Response, StatusCode};
use warp::Filter as _;
use warp::path::FullPath;

use crate::broker::Overloaded;
use crate::config::Config;
use crate::counters::Counters;
use crate::proxy::unix_now;
use crate::purge::Publisher;
use accept::ReplyType;
use auth::Unauthorized;
use inspect::InspectError;
use resource::Resource;

/// Bytes in a publisher's request head.
const MAX_HEAD_BYTES: usize = 10_000;
/// How many times the limit of a body is read, and thrown away, before its sender is cut off. Who
/// is still sending would not read the answer.
const DISCARD_FACTOR: usize = 16;
/// When who was refused for too much that waits may come again.
const OVERLOAD_SECONDS: u64 = 1;
/// How long a publisher may take for a request's body.
const BODY_TIME: Duration = Duration::from_mins(1);
/// How long the body of a refused request is read.
const DISCARD_TIME: Duration = Duration::from_secs(5);

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

/// What comes before a request's body.
#[derive(Debug)]
struct Head {
    method: Method,
    path: FullPath,
    query: String,
    headers: HeaderMap,
}

/// Why a request to the control port is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("Not Found")]
    NotFound,
    #[error("Method not allowed: {found}.")]
    Method { found: Method, allowed: Method },
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
    #[error("{reason}")]
    Unauthorized {
        reason: Unauthorized,
        challenges: Vec<HeaderValue>,
    },
    #[error("Too many items wait to be published.")]
    Overloaded,
    #[error("{0}")]
    Publish(#[from] grip::publish::PublishError),
    #[error("{0}")]
    Inspect(#[from] InspectError),
}

impl From<Overloaded> for Refusal {
    fn from(_: Overloaded) -> Self {
        Self::Overloaded
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Inspect(error) => error.status(),
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadTooLarge | Self::BodyTooLarge | Self::BodyBrokeOff | Self::Publish(_) => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    fn response(self) -> Response<String> {
        let mut response = reply(self.status(), "text/plain", format!("{self}\n"));
        let headers = response.headers_mut();
        match self {
            Self::Method { allowed, .. } => {
                let allowed = HeaderValue::from_str(allowed.as_str());
                headers.insert(ALLOW, allowed.expect("a method is a token"));
            }
            Self::Inspect(InspectError::Busy) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Unauthorized { challenges, .. } => {
                for challenge in challenges {
                    headers.append(WWW_AUTHENTICATE, challenge);
                }
            }
            Self::Overloaded => {
                headers.insert(RETRY_AFTER, HeaderValue::from(OVERLOAD_SECONDS));
            }
            _ => {}
        }
        response
    }
}

impl Control {
    async fn respond(
        &self,
        head: &Head,
        body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    ) -> Response<String> {
        self.counters.control_requests.increment();
        let mut body = pin!(body);
        let refusal = match self.route(head, body.as_mut()).await {
            Ok(response) => return response,
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::Publish(_) => self.counters.publish_errors.increment(),
            Refusal::Overloaded => self.counters.publish_overloaded.increment(),
            Refusal::Unauthorized { .. } => self.counters.publish_unauthorized.increment(),
            _ => self.counters.control_refused.increment(),
        }
        tracing::info!(path = head.path.as_str(), %refusal, "control request refused");
        discard(body, self.config.limits.publish_bytes).await;
        refusal.response()
    }

    async fn route(
        &self,
        head: &Head,
        body: Pin<&mut impl Stream<Item = Result<impl Buf, warp::Error>>>,
    ) -> Result<Response<String>, Refusal> {
        check_size(head)?;
        check_length(head, self.config.limits.publish_bytes)?;
        let resource = Resource::find(&self.config.control_base, head.path.as_str(), &head.query)
            .ok_or(Refusal::NotFound)?;
        check_method(resource, &head.method)?;
        if resource.is_protected() {
            self.authenticate(&head.headers)?;
        }
        match resource {
            Resource::Root => Ok(text("Pushpin API\n")),
            Resource::Publish => self.publish(&head.headers, body).await,
            Resource::Recover => self.recover(&head.headers, body).await,
            Resource::Metrics => {
                let waiting = self.publisher.waiting();
                self.counters.intake_items.set(waiting.items as u64);
                self.counters.intake_bytes.set(waiting.bytes as u64);
                let text = Counters::render(self.all_counters.iter().map(AsRef::as_ref));
                Ok(reply(StatusCode::OK, "text/plain; version=0.0.4", text))
            }
            Resource::Health => Ok(text("OK\n")),
            Resource::Channel(name) => Ok(json(self.inspect_channel(name).await?)),
            Resource::Channels => {
                let (path, query) = (head.path.as_str(), &head.query);
                Ok(json(self.inspect_page(path, query).await?))
            }
        }
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(auth) = &self.config.control_auth else {
            return Ok(());
        };
        auth.admit(headers, unix_now())
            .map_err(|reason| Refusal::Unauthorized {
                reason,
                challenges: auth.challenges().collect(),
            })
    }

    async fn publish(
        &self,
        headers: &HeaderMap,
        body: Pin<&mut impl Stream<Item = Result<impl Buf, warp::Error>>>,
    ) -> Result<Response<String>, Refusal> {
        let body = complete_in_time(body, self.config.limits.publish_bytes).await?;
        let reply_type = ReplyType::negotiate(headers).ok_or(Refusal::NotAcceptable)?;
        let items = grip::publish::parse(&body, &self.config.limits.grip)?;
        let items = self.publisher.admit(items)?;
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
        body: Pin<&mut impl Stream<Item = Result<impl Buf, warp::Error>>>,
    ) -> Result<Response<String>, Refusal> {
        complete_in_time(body, self.config.limits.publish_bytes).await?;
        let reply_type = ReplyType::negotiate(headers).ok_or(Refusal::NotAcceptable)?;
        self.publisher.recover()?;
        Ok(match reply_type {
            ReplyType::Text => text("Updated\n"),
            ReplyType::Json => json("{\"message\":\"Updated\"}\n".to_owned()),
        })
    }
}

/// Whether a publish request with this head would be heard, were it of the right size.
#[cfg(feature = "fuzzing")]
pub(crate) fn may_publish(
    config: &Config,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    now: grip::UnixTime,
) -> bool {
    let resource = Resource::find(&config.control_base, path, query);
    let auth = config.control_auth.as_ref();
    resource == Some(Resource::Publish)
        && ReplyType::negotiate(headers).is_some()
        && auth.is_none_or(|auth| auth.admit(headers, now).is_ok())
}

/// The query; empty if there is none.
fn query() -> impl warp::Filter<Extract = (String,), Error = Infallible> + Clone {
    warp::query::raw().or_else(|_| async { Ok::<_, Infallible>((String::new(),)) })
}

fn check_size(head: &Head) -> Result<(), Refusal> {
    const COLON_AND_LINE_END: usize = 4;
    let target = head.path.as_str().len() + head.query.len();
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + COLON_AND_LINE_END);
    if target + fields.sum::<usize>() > MAX_HEAD_BYTES {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

/// Whether there is a body is asked of every method that may have one, before anything else.
fn check_length(head: &Head, limit: usize) -> Result<(), Refusal> {
    let announced = head.headers.get(CONTENT_LENGTH);
    let has_length = announced.is_some() || head.headers.contains_key(TRANSFER_ENCODING);
    let needs_length =
        ![Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS].contains(&head.method);
    if needs_length && !has_length {
        return Err(Refusal::LengthRequired);
    }
    // hyper lets nothing but numbers through; one that is no usize is larger than any limit.
    let is_over = |value: &HeaderValue| {
        let length = value.to_str().ok().and_then(|value| value.parse().ok());
        length.is_none_or(|length: usize| length > limit)
    };
    if announced.is_some_and(is_over) {
        return Err(Refusal::BodyTooLarge);
    }
    Ok(())
}

fn check_method(resource: Resource<'_>, method: &Method) -> Result<(), Refusal> {
    match resource.method() {
        Some(allowed) if allowed != method => Err(Refusal::Method {
            found: method.clone(),
            allowed,
        }),
        _ => Ok(()),
    }
}

/// The whole body, if it is not over the limit and comes in time.
async fn complete_in_time(
    body: Pin<&mut impl Stream<Item = Result<impl Buf, warp::Error>>>,
    limit: usize,
) -> Result<Bytes, Refusal> {
    tokio::time::timeout(BODY_TIME, complete(body, limit))
        .await
        .unwrap_or(Err(Refusal::BodyBrokeOff))
}

async fn complete(
    mut body: Pin<&mut impl Stream<Item = Result<impl Buf, warp::Error>>>,
    limit: usize,
) -> Result<Bytes, Refusal> {
    let mut complete = BytesMut::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| Refusal::BodyBrokeOff)?;
        if complete.len() + part.remaining() > limit {
            return Err(Refusal::BodyTooLarge);
        }
        bytes::BufMut::put(&mut complete, part);
    }
    Ok(complete.freeze())
}

/// Reads what is left of a body, so that its sender comes to read the answer.
async fn discard(
    mut body: Pin<&mut impl Stream<Item = Result<impl Buf, warp::Error>>>,
    limit: usize,
) {
    let read = async {
        let mut left = limit.saturating_mul(DISCARD_FACTOR);
        while let Some(Ok(part)) = body.next().await {
            match left.checked_sub(part.remaining()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whoever takes longer has had its chance.
    let _ = tokio::time::timeout(DISCARD_TIME, read).await;
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
