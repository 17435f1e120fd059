//! What becomes of one request: it goes to the origin, and the answer is relayed, or it holds the
//! client.
//!
//! ```text
//! request ─▶ route ─▶ prepared headers ─▶ first target that answers ─▶ relay
//!                                                                   └▶ follow: hold, or at once
//! hold request of an edge: client's head, origin's response ──────────▲
//! ```
//!
//! Knows HTTP messages; does not know connections. [`Proxy::handle`] is the way in.

mod body;
mod edge;
mod error;
mod link;
mod replay;
pub(crate) mod request;
mod response;
mod target;
mod test_origin;
mod websocket;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use grip::UnixTime;
use grip::channel::ItemId;
use grip::cross_origin::Cors;
use grip::hold::Answer;
use grip::websocket::event;
use http::header::{HOST, HeaderMap, HeaderName, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{Config, SlowClients, SseResume};
use crate::counters::Counters;
use crate::dressing::Dressing;
use crate::engine::{AfterHold, Hold, HoldKind};
use crate::errand::{Again, Behalf, Way};
use crate::handshake::{Trust, origin_uri};
use crate::routes::{Lookup, Protocol, Route, Routes, Security, Setting};
use crate::upstream::{TlsConfig, Upstream};
use body::Progress;
use error::{Candour, ProxyError};
use request::{PUSHPIN_ROUTE, Preparation};
use response::Age;

pub(crate) use body::{Content, OriginBody, ResponseBody};
pub(crate) use link::{Links, resolve, way};
pub(crate) use replay::Original;
pub(crate) use response::{is_encoded, respond};
pub(crate) use target::endpoint;
pub(crate) use websocket::Farewell;

/// The last event that a client has; WHATWG HTML §9.2.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A shard's way to the origins.
#[derive(Debug)]
pub(crate) struct Proxy {
    config: Arc<Config>,
    counters: Arc<Counters>,
    upstream: Upstream<OriginBody>,
    routes: CurrentRoutes,
    farewells: websocket::Farewells,
}

/// The routes as they are now, without a lock for those who only read.
#[derive(Debug)]
pub(crate) struct CurrentRoutes {
    latest: RefCell<watch::Receiver<Arc<Routes>>>,
    current: RefCell<Arc<Routes>>,
}

impl CurrentRoutes {
    pub(crate) fn new(latest: watch::Receiver<Arc<Routes>>) -> Self {
        let current = Arc::clone(&latest.borrow());
        Self {
            latest: RefCell::new(latest),
            current: RefCell::new(current),
        }
    }

    pub(crate) fn now(&self) -> Arc<Routes> {
        let mut latest = self.latest.borrow_mut();
        if latest.has_changed().unwrap_or(false) {
            self.current
                .replace(Arc::clone(&latest.borrow_and_update()));
        }
        Arc::clone(&self.current.borrow())
    }
}

/// A client's request.
#[derive(Debug)]
pub(crate) struct ClientRequest {
    pub(crate) head: http::request::Parts,
    pub(crate) content: Content,
    pub(crate) peer: SocketAddr,
    /// Set if the request was held before.
    pub(crate) again: Option<Again>,
}

/// What a request comes to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// This answer.
    Response(Response<ResponseBody>),
    /// The client is held.
    Hold(Box<Held>),
}

/// A hold, and what is needed to carry it out.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) hold: Hold,
    /// The rest of a stream's first body.
    pub(crate) feed: Option<Incoming>,
    /// The head of an HTTP/2 stream, which is not written by the engine.
    pub(crate) head: Option<Answer>,
    /// The request, for an HTTP/2 request that may have to be asked again.
    pub(crate) original: Option<Original>,
    /// The origin's side of a WebSocket that goes on as one.
    pub(crate) origin: Option<Upgraded>,
    /// Of a WebSocket whose origin has to know when its client goes: dropped, it tells. Whoever
    /// takes the hold over and tells the origin by itself [forgets](Farewell::forget) it.
    pub(crate) farewell: Option<Farewell>,
}

impl Held {
    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self.hold.kind, HoldKind::WebSocket(_))
    }
}

/// What is needed of a request after it is gone.
#[derive(Debug)]
struct Asked {
    method: Method,
    version: Version,
    is_persistent: bool,
    body: Arc<Progress>,
    /// Where the body comes back to.
    returned: Option<tokio::sync::oneshot::Receiver<Content>>,
    original: Original,
    behalf: Arc<Behalf>,
    dressing: Option<Box<Dressing>>,
    trust: Trust,
    again: Option<Again>,
    /// When the origin was asked, or earlier.
    sent_at: std::time::Instant,
    /// Of the answer, once there is one.
    age: Age,
    resume: EventResume,
    slow: SlowClients,
}

/// Whether a stream of events is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum EventResume {
    /// That is the origin's affair.
    Off,
    /// The client has no event yet.
    New,
    /// The client has this one and those before it.
    After(ItemId),
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

    fn is_jsonp(&self) -> bool {
        matches!(self.dressing.as_deref(), Some(Dressing::Jsonp(_)))
    }
}

/// A request that may go to an origin.
struct Admission {
    route: Arc<Route>,
    trust: Trust,
    /// Of the client's connection.
    security: Security,
}

/// How a request's errors are told.
struct Manner {
    candour: Candour,
    dressing: Option<Box<Dressing>>,
}

impl Proxy {
    pub(crate) fn new(
        config: Arc<Config>,
        counters: Arc<Counters>,
        tls: Arc<TlsConfig>,
        routes: watch::Receiver<Arc<Routes>>,
    ) -> Self {
        Self {
            upstream: Upstream::new(tls, Arc::clone(&counters)),
            config,
            counters,
            routes: CurrentRoutes::new(routes),
            farewells: websocket::Farewells::default(),
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
    ///
    /// Runs within a `LocalSet`. Dropped while the origin of a WebSocket is being asked, it does not
    /// end that: the origin is told that the client is gone once it has accepted.
    pub(crate) async fn handle(self: &Rc<Self>, mut request: Box<ClientRequest>) -> Outcome {
        if request.again.is_none() {
            self.counters.requests.increment();
        }
        let mut manner = Manner {
            candour: if self.config.debug {
                Candour::Debug
            } else {
                Candour::Discreet
            },
            dressing: None,
        };
        // Boxed: few requests are for WebSockets or an edge's, and all would keep room for them.
        let outcome = if edge::is_hold_request(&request) {
            Box::pin(self.hold_for_edge(request, &mut manner)).await
        } else {
            match self.opening(&mut request) {
                Ok(None) => self.exchange(request, &mut manner).await,
                Ok(Some(opening)) => Box::pin(self.open(request, opening, &mut manner)).await,
                Err(error) => Err(error),
            }
        };
        outcome.unwrap_or_else(|error| {
            error.count(&self.counters);
            tracing::warn!(%error, "request failed");
            let answer = error.answer(manner.candour);
            Outcome::Response(response::at_once(answer, manner.dressing.as_deref()))
        })
    }

    /// What a request says of a WebSocket, once what it says of an edge is checked. A request that
    /// is asked again was checked when it came.
    fn opening(
        &self,
        request: &mut ClientRequest,
    ) -> Result<Option<websocket::Opening>, ProxyError> {
        if request.again.is_none() {
            self.check_handoff(&mut request.head)?;
        }
        websocket::Opening::of(request)
    }

    async fn exchange(
        &self,
        request: Box<ClientRequest>,
        manner: &mut Manner,
    ) -> Result<Outcome, ProxyError> {
        let ClientRequest {
            mut head,
            mut content,
            peer,
            again,
        } = *request;
        if head.method == Method::CONNECT {
            return Err(ProxyError::Connect);
        }
        let original = Original::of(&head);
        let is_persistent = request::is_persistent(head.version, &head.headers);
        let admission = self.admit(&mut head, Protocol::Http, manner)?;
        let route = &admission.route;
        let mut path = head.uri.path_and_query().cloned();
        if self.opens_to_others(route) {
            manner.dressing = Some(Box::new(Dressing::Cors(Cors::of_request(&head.headers))));
            let whole = path.clone().unwrap_or_else(root);
            let jsonp = route
                .jsonp
                .take_apart(&head.method, &whole, &head.headers)?;
            if let Some(jsonp) = jsonp {
                manner.dressing = Some(Box::new(Dressing::Jsonp(jsonp.wrap)));
                head.method = jsonp.method;
                head.headers = jsonp.headers;
                path = Some(jsonp.path_and_query);
                content = Content::complete(jsonp.body);
            }
        }
        let path = route.rewrite_path(&path.unwrap_or_else(root));
        let resume = self.event_resume(route, &mut head.headers);
        let behalf = Arc::new(behalf(&admission, &head.headers, &path, manner));
        // Boxed: it is handed on from step to step, and each would keep room for it.
        let asked = Box::new(Asked {
            is_persistent,
            version: head.version,
            method: original.method.clone(),
            body: content.progress(),
            returned: None,
            original,
            behalf,
            dressing: manner.dressing.clone(),
            trust: admission.trust,
            again: again.clone(),
            sent_at: Instant::now().into_std(),
            age: Age::Unknown,
            resume,
            slow: self.slow_clients(route),
        });
        let preparation = Preparation {
            config: &self.config,
            route,
            trust: admission.trust,
            peer: peer.ip(),
            security: admission.security,
            protocol: Protocol::Http,
            last: again.as_ref().map_or(&[], |again| &again.last),
            now: unix_now(),
        };
        preparation
            .apply(&mut head.headers)
            .map_err(|request::LoopFound| ProxyError::Loop)?;
        let question = Box::new(target::Question {
            method: head.method,
            path,
            headers: head.headers,
            content,
        });
        self.ask(question, asked).await
    }

    /// Finds out who asks for what, and whether that is allowed.
    fn admit(
        &self,
        head: &mut http::request::Parts,
        protocol: Protocol,
        manner: &mut Manner,
    ) -> Result<Admission, ProxyError> {
        check_head(&head.headers)?;
        let trust = Trust::of(&head.headers, self.config.upstream_key.as_ref(), unix_now());
        request::set_host(&mut head.headers, &head.uri);
        let via = edge::via(&mut head.headers);
        let security = request::security(&head.headers, &self.config, via);
        let route = self.route(head, protocol, security);
        let route = route.ok_or(ProxyError::NoRoute)?;
        if route.debug == Setting::On {
            manner.candour = Candour::Debug;
        }
        if event::is_events(&head.headers) && route.has_websocket_over_http() {
            return Err(ProxyError::WebSocketEvents);
        }
        Ok(Admission {
            route,
            trust,
            security,
        })
    }

    /// Whether a stream of events is resumed here. If so, the origin does not hear of it: what it
    /// said to another client will do.
    fn event_resume(&self, route: &Route, headers: &mut HeaderMap) -> EventResume {
        if route.sse_resume != Setting::On && self.config.sse_resume == SseResume::Off {
            return EventResume::Off;
        }
        let last_id = headers.remove(&LAST_EVENT_ID);
        let last_id = last_id
            .as_ref()
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        match last_id {
            None | Some("") => EventResume::New,
            Some(last_id) => EventResume::After(ItemId::new(last_id)),
        }
    }

    /// What becomes of a route's clients that read too slowly.
    fn slow_clients(&self, route: &Route) -> SlowClients {
        route.slow.unwrap_or(self.config.slow_clients)
    }

    /// Whether a route's answers are opened to pages of other origins.
    fn opens_to_others(&self, route: &Route) -> bool {
        route.cross_origin == Setting::On || self.config.auto_cross_origin
    }

    fn route(
        &self,
        head: &http::request::Parts,
        protocol: Protocol,
        security: Security,
    ) -> Option<Arc<Route>> {
        let host = head.headers.get(HOST)?;
        let id = if self.config.accept_pushpin_route {
            head.headers.get(PUSHPIN_ROUTE)
        } else {
            None
        };
        let lookup = Lookup {
            host: without_port(text(host)),
            path: head.uri.path(),
            protocol,
            security,
            id: id.map(text),
        };
        self.routes.now().find(&lookup).cloned()
    }
}

/// On whose behalf the hub asks further. `path` is as the origin knows it.
fn behalf(
    admission: &Admission,
    headers: &HeaderMap,
    path: &PathAndQuery,
    manner: &Manner,
) -> Behalf {
    let Admission {
        route, security, ..
    } = admission;
    Behalf {
        uri: origin_uri(route, headers, path, *security),
        way: Way::Routes,
        implicit: Vec::new(),
        tells_errors: manner.candour == Candour::Debug,
        route: Arc::clone(route),
    }
}

/// What hyper lets through and an origin may read otherwise.
fn check_head(headers: &HeaderMap) -> Result<(), ProxyError> {
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(ProxyError::Hosts);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| {
        coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    };
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if is_chunked(only) => Ok(()),
        _ => Err(ProxyError::TransferCoding),
    }
}

/// A header's value where only text has a meaning; what is no text matches nothing.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        // The colons of an IPv6 address stand in brackets.
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

fn root() -> PathAndQuery {
    PathAndQuery::from_static("/")
}

/// The time of day.
pub(crate) fn unix_now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since_epoch.map_or(0, |duration| duration.as_secs()))
}
