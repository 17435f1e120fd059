//! Requests of the hub's own: where they go, what they carry.

use std::sync::Arc;

use bytes::Bytes;
use grip::fields::{self, GRIP_LAST};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;

use super::Errands;
use crate::errand::{Behalf, Last, Way};
use crate::proxy::request::{add_last, set_route_headers, sign};
use crate::proxy::{endpoint, unix_now, way};
use crate::routes::{self, Addresses, Lookup, Protocol, Route, TargetKind};
use crate::upstream::{Endpoint, Reach, Security, SendError, TlsRules, Verification};

/// A request of the hub's own.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// Absolute.
    pub(super) uri: &'a Uri,
    pub(super) headers: HeaderMap,
    pub(super) last: &'a [Last],
    pub(super) body: Bytes,
}

impl Errands {
    /// Sends a request the way that its URI is [reached](way). Either way it is signed like the
    /// client's.
    ///
    /// Cancel safe.
    pub(super) async fn send(
        &self,
        behalf: &Behalf,
        question: Question<'_>,
    ) -> Result<Response<Incoming>, SendError> {
        self.counters.errands.increment();
        match way(behalf, question.uri) {
            Way::Routes => match self.route(behalf, question.uri) {
                Some(route) => self.send_by_route(&route, question).await,
                None => Err(SendError::Other("no route is for it".to_owned())),
            },
            Way::Direct => self.send_directly(&behalf.route, question).await,
        }
    }

    /// The route of the client's request, if it is still there and is for this path; else the one
    /// that a request for this URI would take.
    fn route(&self, behalf: &Behalf, uri: &Uri) -> Option<Arc<Route>> {
        let host = uri.authority().map_or("", |authority| authority.host());
        let security = match uri.scheme_str() {
            Some("https") => routes::Security::Tls,
            _ => routes::Security::Plain,
        };
        let lookup = Lookup {
            host,
            path: uri.path(),
            protocol: Protocol::Http,
            security,
            id: Some(&behalf.route.id),
        };
        let routes = self.routes.now();
        let found = routes.find(&lookup);
        let found = found.or_else(|| routes.find(&Lookup { id: None, ..lookup }));
        found.cloned()
    }

    async fn send_directly(
        &self,
        route: &Route,
        question: Question<'_>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut targets = route.targets.iter();
        let is_confined = targets.any(|target| target.addresses == Addresses::Public);
        let reach = if is_confined {
            Reach::PublicOnly
        } else {
            Reach::Any
        };
        let endpoint = direct(question.uri);
        let headers = self.headers(route, &question, host_of(question.uri));
        let request = request(&question, path_of(question.uri), headers);
        self.upstream.send(&endpoint, reach, request).await
    }

    async fn send_by_route(
        &self,
        route: &Route,
        question: Question<'_>,
    ) -> Result<Response<Incoming>, SendError> {
        let path = route.rewrite_path(&path_of(question.uri));
        let mut failed = SendError::Closed;
        for target in &route.targets {
            if target.kind == TargetKind::Test {
                continue;
            }
            let host = target.host.as_ref().or(route.as_host.as_ref());
            let host = match host {
                Some(host) => HeaderValue::from_str(host.as_str()).ok(),
                None => host_of(question.uri),
            };
            let requested = host
                .as_ref()
                .and_then(|host| host.to_str().ok())
                .unwrap_or("localhost");
            let endpoint = endpoint(target, requested);
            let reach = match target.addresses {
                Addresses::All => Reach::Any,
                Addresses::Public => Reach::PublicOnly,
            };
            let mut headers = self.headers(route, &question, host.clone());
            set_route_headers(&mut headers, route);
            let request = request(&question, path.clone(), headers);
            match self.upstream.send(&endpoint, reach, request).await {
                Err(error @ (SendError::Connect(_) | SendError::Blocked)) => failed = error,
                sent => return sent,
            }
        }
        Err(failed)
    }

    fn headers(
        &self,
        route: &Route,
        question: &Question<'_>,
        host: Option<HeaderValue>,
    ) -> HeaderMap {
        let mut headers = question.headers.clone();
        fields::strip_grip(&mut headers);
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
        if question.method == Method::POST && question.body.is_empty() {
            // Left out by hyper, and asked for by many servers.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        debug_assert!(!headers.contains_key(GRIP_LAST), "stripped above");
        add_last(&mut headers, question.last);
        sign(&mut headers, route, &self.config.signature, unix_now());
        headers
    }
}

fn request(
    question: &Question<'_>,
    path: PathAndQuery,
    headers: HeaderMap,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(question.body.clone()));
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    request
}

fn path_of(uri: &Uri) -> PathAndQuery {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
}

fn host_of(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// A link's own host.
fn direct(uri: &Uri) -> Endpoint {
    let host = uri.host().unwrap_or("localhost");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_tls = uri.scheme_str() == Some("https");
    let security = if is_tls {
        Security::Tls(TlsRules {
            server_name: host.to_owned(),
            verification: Verification::Check,
            client_certificate: None,
        })
    } else {
        Security::Plain
    };
    Endpoint {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
        security,
    }
}
