//! The edge: a Fastly Compute module that caches GRIP responses with their instructions.
//!
//! ```text
//! request ─▶ grip::cache::classify ─┬─ health, purge ─▶ purge
//!                                   ├─ pass ──────────▶ origin ──────────────┐
//!                                   └─ lookup ─▶ cache ─▶ grip::cache::decide │
//!                                                  ▲ fill        │            ▼
//!                                                  └─ origin ◀───┘         answer ─▶ hub or client
//!                                                                             └─▶ hold ─▶ hub
//! ```
//!
//! Nothing is decided here: `grip::cache` says what to do, and this crate does it with the
//! platform's core cache. It knows no connection and holds nobody: `hold` sends holds to the hub and
//! hands WebSockets over.

mod answer;
mod cache;
mod config;
mod hold;
mod log;
mod origin;
mod purge;
mod trace;
mod visit;

use std::time::{SystemTime, UNIX_EPOCH};

use fastly::{Request, Response};
use grip::UnixTime;
use grip::cache::{PassReason, Policy, RequestKind, classify, next_hop};
use http::header::HOST;
use http::{HeaderMap, StatusCode};

use answer::Answer;
use config::{ConfigError, Edge};
use visit::{Visit, Visitor};

/// No macro around it: answers are sent when they are ready, and work may follow.
fn main() {
    let mut request = Request::from_client();
    let headers = origin::headers_of(request.get_headers());
    let edge = Edge::open();
    // Health comes first, so that a module without configuration can be told from none at all.
    let kind = match &edge {
        Ok(edge) => kind_of(&request, &headers, &edge.policy),
        Err(_) => kind_of(&request, &headers, &Policy::default()),
    };
    let edge = match (edge, &kind) {
        (_, RequestKind::Health) => return answer::text(StatusCode::OK, "OK").send_untraced(),
        (_, RequestKind::UnknownOwn) => {
            return answer::text(StatusCode::NOT_FOUND, "Not Found").send_untraced();
        }
        (Ok(edge), _) => edge,
        (Err(error), _) => return not_configured(&error).send_to_client(),
    };
    if kind == RequestKind::Purge {
        return purge::handle(&mut request, &edge).send_untraced();
    }
    if next_hop(&headers).is_none() {
        log::event("loop", &[("path", request.get_path())]);
        let text = "The edge's origin leads back to the edge.";
        return answer::text(StatusCode::LOOP_DETECTED, text).send_untraced();
    }
    let visit = Visit::new(request, headers, &edge);
    match kind {
        _ if hold::is_for_others(&visit) => Answer::Handoff.send(&visit),
        RequestKind::WebSocketOverHttp => websocket_over_http(&visit).send(&visit),
        RequestKind::WebSocketUpgrade => hold::websocket(&visit).send(&visit),
        RequestKind::Lookup(lookup) => cache::serve(&lookup, &visit),
        RequestKind::Pass(PassReason::GripLast) if visit.visitor == Visitor::Hub => {
            visit.trace.note("reason", PassReason::GripLast.as_str());
            cache::catch_up(&visit);
        }
        RequestKind::Pass(reason) => pass(&visit, reason).send(&visit),
        RequestKind::Health | RequestKind::Purge | RequestKind::UnknownOwn => {}
    }
}

fn kind_of(request: &Request, headers: &HeaderMap, policy: &Policy) -> RequestKind {
    let path = request.get_path();
    let path_and_query = visit::path_and_query(request.get_url());
    // The SDK's own conversion to text panics where this says that it is none.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    classify(
        request.get_method(),
        host.unwrap_or_default(),
        path,
        &path_and_query,
        headers,
        policy,
    )
}

fn not_configured(error: &ConfigError) -> Response {
    log::event("not_configured", &[("error", &error.to_string())]);
    let text = format!("The edge is not configured: {error}. See docs/edge.md.");
    answer::plain(StatusCode::SERVICE_UNAVAILABLE, &text)
}

/// Events go from the hub to the origin and back; who else sends them forges a connection's.
fn websocket_over_http(visit: &Visit<'_>) -> Answer {
    match visit.visitor {
        Visitor::Hub => pass(visit, PassReason::Method),
        Visitor::Client => {
            log::event("websocket_events_refused", &[("path", visit.path())]);
            let text = "Client not allowed to send WebSocket events directly.";
            answer::text(StatusCode::FORBIDDEN, text)
        }
    }
}

/// Everything that is not for the cache, streamed both ways.
fn pass(visit: &Visit<'_>, reason: PassReason) -> Answer {
    visit.trace.note("reason", reason.as_str());
    match origin::pass(visit) {
        Ok(response) => answer::passed(response, visit),
        Err(error) => answer::origin_failed(&error),
    }
}

/// The time of day.
fn now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since_epoch.map_or(0, |duration| duration.as_secs()))
}
