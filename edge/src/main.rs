//! The edge: a Fastly Compute module that caches GRIP responses with their instructions.
//!
//! ```text
//! request ─▶ grip::cache::classify ─┬─ health, purge ─▶ purge
//!                                   ├─ pass ──────────▶ origin ──────────────┐
//!                                   └─ lookup ─▶ cache ─▶ grip::cache::decide │
//!                                                  ▲ fill        │            ▼
//!                                                  └─ origin ◀───┘         answer ─▶ hub or client
//! ```
//!
//! Nothing is decided here: `grip::cache` says what to do, and this crate does it with the
//! platform's core cache. It knows no connection and holds nobody. Sending holds on to the hub and
//! handing over WebSockets belong in files beside `answer`.

mod answer;
mod cache;
mod config;
mod log;
mod origin;
mod purge;
mod visitor;

use std::time::{SystemTime, UNIX_EPOCH};

use fastly::Request;
use grip::UnixTime;
use grip::cache::{PassReason, RequestKind, classify, next_hop};
use http::StatusCode;
use http::header::HOST;

use answer::Answer;
use config::Edge;
use visitor::Visitor;

/// No macro around it: answers are sent when they are ready, and work may follow.
fn main() {
    let mut request = Request::from_client();
    let edge = Edge::open();
    // Health comes first, so that a module without configuration can be told from none at all.
    let policy = edge
        .as_ref()
        .map(|edge| edge.policy.clone())
        .unwrap_or_default();
    let kind = kind_of(&request, &policy);
    let edge = match (edge, &kind) {
        (_, RequestKind::Health) => return answer::text(StatusCode::OK, "OK").send(),
        (_, RequestKind::UnknownOwn) => {
            return answer::text(StatusCode::NOT_FOUND, "Not Found").send();
        }
        (Ok(edge), _) => edge,
        (Err(error), _) => {
            log::event("not_configured", &[("error", &error.to_string())]);
            let text = format!("The edge is not configured: {error}. See docs/edge.md.");
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, &text).send();
        }
    };
    if kind == RequestKind::Purge {
        return purge::handle(request, &edge).send();
    }
    if next_hop(&origin::headers_of(request.get_headers())).is_none() {
        log::event("loop", &[("path", request.get_path())]);
        let text = "The edge's origin leads back to the edge.";
        return answer::text(StatusCode::LOOP_DETECTED, text).send();
    }
    let visitor = Visitor::identify(&mut request, &edge);
    match kind {
        RequestKind::WebSocketOverHttp => websocket_over_http(request, visitor, &edge).send(),
        RequestKind::WebSocketUpgrade => {
            answer::text(
                StatusCode::NOT_IMPLEMENTED,
                "The edge does not accept WebSockets.",
            )
            .send();
        }
        RequestKind::Lookup(lookup) => cache::serve(&request, &lookup, visitor, &edge),
        RequestKind::Pass(reason) => pass(request, visitor, reason, &edge).send(),
        RequestKind::Health | RequestKind::Purge | RequestKind::UnknownOwn => {}
    }
}

fn kind_of(request: &Request, policy: &grip::cache::Policy) -> RequestKind {
    let path = request.get_path();
    let path_and_query = match request.get_query_str() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let headers = origin::headers_of(request.get_headers());
    // The SDK's own conversion to text panics where this says that it is none.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    classify(
        request.get_method(),
        host.unwrap_or_default(),
        path,
        &path_and_query,
        &headers,
        policy,
    )
}

/// Events go from the hub to the origin and back; who else sends them forges a connection's.
fn websocket_over_http(request: Request, visitor: Visitor, edge: &Edge) -> Answer {
    match visitor {
        Visitor::Hub => pass(request, visitor, PassReason::Method, edge),
        Visitor::Client => {
            log::event("websocket_events_refused", &[("path", request.get_path())]);
            let text = "Client not allowed to send WebSocket events directly.";
            answer::text(StatusCode::FORBIDDEN, text)
        }
    }
}

/// Everything that is not for the cache, streamed both ways.
fn pass(request: Request, visitor: Visitor, reason: PassReason, edge: &Edge) -> Answer {
    log::event(
        "pass",
        &[("reason", reason.as_str()), ("path", request.get_path())],
    );
    match origin::pass(request, visitor, edge) {
        Ok(response) => answer::passed(response, visitor),
        Err(error) => answer::origin_failed(&error),
    }
}

/// The time of day.
fn now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since_epoch.map_or(0, |duration| duration.as_secs()))
}
