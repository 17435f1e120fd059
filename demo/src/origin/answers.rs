//! What each request gets.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use grip::UnixTime;
use grip::signature::{CLOCK_LEEWAY, VerifyingKey};
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use serde::Serialize;

use std::sync::Arc;

use super::store::{Store, StoreError};
use super::updates::{UpdateQueue, Updated};
use crate::counter::{Count, CounterName};

const GRIP_SIG: HeaderName = HeaderName::from_static("grip-sig");
const GRIP_HOLD: HeaderName = HeaderName::from_static("grip-hold");
const GRIP_CHANNEL: HeaderName = HeaderName::from_static("grip-channel");
const GRIP_KEEP_ALIVE: HeaderName = HeaderName::from_static("grip-keep-alive");

const COUNTERS_PATH: &str = "/counters/";

/// The edge keeps a value until an update purges it; an hour bounds the harm of a purge that got
/// lost. A day longer it may stand in for an origin that is down. Browsers and every other cache ask
/// again each time: an event stream's beginning must not come out of a browser's cache.
const CACHED_AT_EDGE: &str = "max-age=0, s-maxage=3600, stale-if-error=86400";
/// The page changes with a new version only, and nothing purges it.
const PAGE_CACHED_AT_EDGE: &str = "max-age=0, s-maxage=10, stale-if-error=86400";
const NOT_CACHED: &str = "no-store";

/// An SSE comment every 20 seconds of silence, so that no proxy between takes the stream for dead.
/// The hub decodes `\n`.
const KEEP_ALIVE: &str = r": keep-alive\n\n; format=cstring; timeout=20";

const PAGE: &str = include_str!("page.html");
/// The page needs itself and the origin of its URL, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const NOT_PROXIED: &str = "\
event streams need a GRIP proxy: this request carries no valid Grip-Sig, so nobody would hold the \
connection; send it to the hub, and see to it that hub, edge and origin have the same key\n";

/// Everything an answer may depend on.
#[derive(Debug)]
pub(super) struct Application {
    pub(super) store: Arc<Store>,
    pub(super) grip_key: VerifyingKey,
    pub(super) updates: UpdateQueue,
    pub(super) control: Uri,
}

/// What a client wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Json,
    Events,
}

/// Whether the request came through a GRIP proxy that we trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    GripProxy,
    Other,
}

impl Application {
    /// The answer to a request; bodies of requests mean nothing here.
    pub(super) async fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Response<Bytes> {
        if let Some(name) = path.strip_prefix(COUNTERS_PATH) {
            return self.answer_counter(method, name, headers).await;
        }
        match path {
            "/" => read_only(method, || page(&self.control)),
            "/health" => read_only(method, || text(StatusCode::OK, "ok\n")),
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; there are /, /health and /counters/NAME\n",
            ),
        }
    }

    async fn answer_counter(
        &self,
        method: &Method,
        name: &str,
        headers: &HeaderMap,
    ) -> Response<Bytes> {
        let name = match CounterName::parse(name) {
            Ok(name) => name,
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        match *method {
            Method::GET | Method::HEAD => self.answer_read(name, headers).await,
            Method::POST => self.answer_increment(name).await,
            _ => not_allowed("GET, HEAD, POST"),
        }
    }

    async fn answer_read(&self, name: CounterName, headers: &HeaderMap) -> Response<Bytes> {
        let wanted = wanted(headers);
        let caller = self.caller(headers);
        if (wanted, caller) == (Wanted::Events, Caller::Other) {
            let mut response = text(StatusCode::NOT_IMPLEMENTED, NOT_PROXIED);
            set(&mut response, VARY, "Accept");
            return response;
        }
        let store = Arc::clone(&self.store);
        let count = tokio::task::spawn_blocking(move || store.count(&name))
            .await
            .expect("a read does not panic, and is not aborted");
        match count {
            Ok(count) => counted(&count, wanted, caller),
            Err(error) => broken(&error),
        }
    }

    async fn answer_increment(&self, name: CounterName) -> Response<Bytes> {
        match self.updates.increment(name).await {
            Some(Ok(updated)) => incremented(&updated),
            Some(Err(error)) => broken(&error),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "the origin is stopping\n"),
        }
    }

    fn caller(&self, headers: &HeaderMap) -> Caller {
        let token = headers.get(GRIP_SIG).and_then(|token| token.to_str().ok());
        let is_valid = |token| self.grip_key.verify(token, now(), CLOCK_LEEWAY).is_ok();
        if token.is_some_and(is_valid) {
            Caller::GripProxy
        } else {
            Caller::Other
        }
    }
}

fn now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 makes every signature good until the year it shows; that is its owner's.
    UnixTime(since_epoch.map_or(0, |duration| duration.as_secs()))
}

/// Events if the client lists them at all: nobody who does can live with JSON instead.
fn wanted(headers: &HeaderMap) -> Wanted {
    let is_events = |range: &str| {
        let media_type = range.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case("text/event-stream")
    };
    let lists_events = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(is_events));
    if lists_events {
        Wanted::Events
    } else {
        Wanted::Json
    }
}

/// The value, with what the hub and the edge are to do about it.
fn counted(count: &Count, wanted: Wanted, caller: Caller) -> Response<Bytes> {
    let mut response = match wanted {
        Wanted::Json => body(count.to_json() + "\n", "application/json"),
        Wanted::Events => body(count.to_event(), "text/event-stream"),
    };
    set(&mut response, VARY, "Accept");
    if caller == Caller::Other {
        // Only the edge learns of updates; any other cache would keep an old value.
        set(&mut response, CACHE_CONTROL, NOT_CACHED);
        return response;
    }
    set(&mut response, CACHE_CONTROL, CACHED_AT_EDGE);
    // JSON names its channel, too. Without a hold that subscribes nobody, but the edge tags what it
    // stores with every channel named, so one purge drops both forms; the edge keeps its tags for
    // channels to itself, so a `Surrogate-Key` could not say that.
    set(&mut response, GRIP_CHANNEL, &count.name.channel());
    if wanted == Wanted::Events {
        set(&mut response, GRIP_HOLD, "stream");
        set(&mut response, GRIP_KEEP_ALIVE, KEEP_ALIVE);
    }
    response
}

/// The answer to an increment.
#[derive(Serialize)]
struct Incremented<'a> {
    name: &'a str,
    value: u64,
    published: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn incremented(updated: &Updated) -> Response<Bytes> {
    let incremented = Incremented {
        name: updated.count.name.as_str(),
        value: updated.count.value,
        published: updated.published.is_ok(),
        error: updated.published.as_ref().err().map(ToString::to_string),
    };
    let json = serde_json::to_string(&incremented).expect("strings and numbers are JSON");
    let mut response = body(json + "\n", "application/json");
    set(&mut response, CACHE_CONTROL, NOT_CACHED);
    response
}

fn page(control: &Uri) -> Response<Bytes> {
    let control = control.to_string();
    let html = PAGE.replace("{{control}}", control.trim_end_matches('/'));
    let mut response = body(html, "text/html; charset=utf-8");
    set(&mut response, CACHE_CONTROL, PAGE_CACHED_AT_EDGE);
    set(&mut response, CONTENT_SECURITY_POLICY, PAGE_POLICY);
    response
}

fn broken(error: &StoreError) -> Response<Bytes> {
    let logged: &dyn std::error::Error = error;
    tracing::error!(error = logged, "the store failed");
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the counters cannot be read or written; the origin's log says why\n",
    )
}

fn read_only(method: &Method, response: impl FnOnce() -> Response<Bytes>) -> Response<Bytes> {
    match *method {
        Method::GET | Method::HEAD => response(),
        _ => not_allowed("GET, HEAD"),
    }
}

fn not_allowed(allowed: &'static str) -> Response<Bytes> {
    let message = format!("method not allowed; there are {allowed}\n");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &message);
    set(&mut response, ALLOW, allowed);
    response
}

/// A line for people, which no cache keeps.
fn text(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = body(text.to_owned(), "text/plain; charset=utf-8");
    *response.status_mut() = status;
    set(&mut response, CACHE_CONTROL, NOT_CACHED);
    response
}

fn body(body: String, content_type: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    set(&mut response, CONTENT_TYPE, content_type);
    response
}

fn set(response: &mut Response<Bytes>, name: HeaderName, value: &str) {
    let value =
        HeaderValue::from_str(value).expect("constants and channel names are visible ASCII");
    response.headers_mut().insert(name, value);
}
