//! One request: who sent it, what it says, and what the edge decides about it.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use fastly::http::Url;
use fastly::{Body, Request};
use grip::fields::GRIP_SIG;
use grip::signature::secrets_match;
use http::header::HOST;
use http::{HeaderMap, HeaderName, Method};

use crate::config::Edge;
use crate::log;
use crate::trace::Trace;

/// Asks for the edge's decisions in the answer; its value is the secret `debug-key`.
const GRIPLINE_DEBUG: HeaderName = HeaderName::from_static("gripline-debug");

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// A GRIP proxy, by its signature: it sees instructions.
    Hub,
    /// Anybody else: no instruction may reach it.
    Client,
}

/// A request on its way through the edge.
pub(crate) struct Visit<'a> {
    pub(crate) edge: &'a Edge,
    pub(crate) visitor: Visitor,
    pub(crate) trace: Trace,
    /// When it came.
    began: Instant,
    /// How old what the cache had for it was then.
    stored_age: Cell<Duration>,
    /// Without its body.
    request: Request,
    body: Cell<Option<Body>>,
    headers: HeaderMap,
}

impl<'a> Visit<'a> {
    /// Finds out who asks. A false GRIP `Grip-Sig` is removed and logged; its mere presence is no
    /// proof.
    pub(crate) fn new(mut request: Request, mut headers: HeaderMap, edge: &'a Edge) -> Self {
        let visitor = match headers.get(&GRIP_SIG) {
            None => Visitor::Client,
            // The SDK's own conversion to text panics where this says that it is none.
            Some(token) if token.to_str().is_ok_and(|token| edge.is_proxy(token)) => Visitor::Hub,
            Some(_) => {
                log::event("bad_signature", &[("path", request.get_path())]);
                headers.remove(&GRIP_SIG);
                Visitor::Client
            }
        };
        let trace = match headers.remove(&GRIPLINE_DEBUG) {
            None => Trace::hidden(),
            Some(shown) => match edge.debug_key() {
                Some(key) if secrets_match(&key, shown.as_bytes()) => Trace::shown(),
                _ => {
                    log::event("bad_debug_key", &[("path", request.get_path())]);
                    Trace::hidden()
                }
            },
        };
        let body = request.has_body().then(|| request.take_body());
        Self {
            edge,
            visitor,
            trace,
            began: Instant::now(),
            stored_age: Cell::default(),
            body: Cell::new(body),
            request,
            headers,
        }
    }

    /// The answer is from the cache, and this old.
    pub(crate) fn note_stored_age(&self, age: Duration) {
        self.stored_age.set(age);
    }

    /// How old the answer is by now, if the origin did not say that it was old already.
    pub(crate) fn answer_age(&self) -> Duration {
        self.stored_age.get() + self.began.elapsed()
    }

    pub(crate) fn method(&self) -> &Method {
        self.request.get_method()
    }

    pub(crate) fn url(&self) -> &Url {
        self.request.get_url()
    }

    pub(crate) fn path(&self) -> &str {
        self.request.get_path()
    }

    /// Path and query as sent.
    pub(crate) fn path_and_query(&self) -> String {
        path_and_query(self.request.get_url())
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The host that was asked for; empty if it is no text.
    pub(crate) fn host(&self) -> &str {
        let host = self.headers.get(HOST);
        host.and_then(|host| host.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn client_ip(&self) -> Option<IpAddr> {
        self.request.get_client_ip_addr()
    }

    /// The body, for whoever asks first.
    pub(crate) fn take_body(&self) -> Option<Body> {
        self.body.take()
    }

    /// The request as it came, to be handed over; without its body.
    pub(crate) fn original(&self) -> Request {
        self.request.clone_without_body()
    }
}

/// Path and query as sent.
pub(crate) fn path_and_query(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}
