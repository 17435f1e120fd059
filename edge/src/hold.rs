//! Holds and WebSockets, which the hub keeps: how they get there.
//!
//! In front of the hub the edge sends it what the origin said, and relays the hub's answer, which
//! the host goes on to pump when the module has ended. With the managed service, or a hub in its
//! place, the request itself is handed over and comes back signed.

use std::io::Read as _;
use std::time::Duration;

use fastly::http::request::{PendingRequest, PendingResponseKind, PollResult, SendError};
use fastly::{Body, Request, Response};
use grip::Limits;
use grip::cache::{GRIPLINE_HOPS, hub_headers, next_hop, pass_headers};
use grip::fields::{self, GRIPLINE_HOST, GRIPLINE_REFUSED, GRIPLINE_SIG};
use grip::hold_request::{self, HoldRequest};
use grip::instruct::{HoldMode, Instruct, Status};
use grip::signature::{Handoff, handoff_token, hold_token};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::answer::{self, Answer, Source, X_CACHE};
use crate::config::{ConfigError, Topology};
use crate::visit::{Visit, Visitor};
use crate::{log, not_configured, now, origin, trace};

/// Bytes of a response that asks for a hold, as many as the hub takes.
const MAX_BODY: u64 = 100_000;
/// How long the hub's answer to a response hold is watched for, so that a hub that is not there
/// shows. After that the host relays what comes, when it comes.
const WATCHED: Duration = Duration::from_millis(1300);
/// Between two looks; doubled each time.
const FIRST_LOOK: Duration = Duration::from_millis(2);

/// A client for the hub to hold.
#[derive(Debug)]
pub(crate) struct Hold {
    request: HoldRequest,
    source: Source,
    mode: Option<HoldMode>,
}

/// What becomes of a client whose answer asks for a hold.
pub(crate) fn answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: Body,
    source: Source,
    visit: &Visit<'_>,
) -> Answer {
    match visit.edge.topology {
        Topology::EdgeFront => held(status, headers, body, source, visit),
        // It comes back with the signature of a proxy, and then gets what was found here.
        Topology::Fanout if *visit.method() == Method::GET => Answer::Handoff,
        Topology::Fanout | Topology::HubFront => {
            visit.trace.note("held", "nowhere");
            let reason = "Not available here: this resource is served through a GRIP proxy only.";
            answer::text(StatusCode::NOT_IMPLEMENTED, reason).with_source(source)
        }
    }
}

fn held(
    status: StatusCode,
    headers: &HeaderMap,
    body: Body,
    source: Source,
    visit: &Visit<'_>,
) -> Answer {
    visit.trace.note("held", "hub");
    let mut initial = Vec::new();
    let read = body.take(MAX_BODY + 1).read_to_end(&mut initial);
    if read.is_err() {
        return answer::bad_gateway("Error while proxying to origin.", source);
    }
    if initial.len() as u64 > MAX_BODY {
        log::event("hold_too_large", &[("path", visit.path())]);
        let text = format!("A response that asks for a hold may have {MAX_BODY} bytes.");
        return answer::bad_gateway(&text, source);
    }
    let Ok(uri) = visit.url().as_str().parse::<Uri>() else {
        return answer::text(StatusCode::BAD_REQUEST, "The request's target is no URI.");
    };
    let mut response_headers = hub_headers(headers);
    answer::mark(&mut response_headers, source, visit);
    answer::tell_age(&mut response_headers, source, visit);
    let instruct = Instruct::from_headers(headers, &Limits::default());
    Answer::Hold(Box::new(Hold {
        request: HoldRequest {
            method: visit.method().clone(),
            uri,
            request_headers: client_headers(visit),
            status: Status::new(status),
            response_headers,
            body: initial.into(),
        },
        source,
        mode: instruct.ok().and_then(|instruct| instruct.hold),
    }))
}

/// The client's headers as the hub may show them to the origin.
fn client_headers(visit: &Visit<'_>) -> HeaderMap {
    let mut headers = pass_headers(visit.headers());
    fields::strip_grip(&mut headers);
    origin::forward_for(&mut headers, visit);
    let hop = next_hop(&headers).unwrap_or(u8::MAX);
    headers.insert(GRIPLINE_HOPS, u16::from(hop).into());
    headers
}

impl Hold {
    /// Sends it to the hub, and the hub's answer to the client.
    pub(crate) fn send(self, visit: &Visit<'_>) {
        let mode = self.mode;
        let source = self.source;
        let pending = match self.ask(visit) {
            Ok(pending) => pending,
            Err(failure) => return finish(failure.response(), source, visit),
        };
        // A stream's head comes at once; other answers may come after the module's time is over.
        let answered = match mode {
            Some(HoldMode::Stream) => Watched::Answered(pending.wait()),
            Some(HoldMode::Response) | None => watch(pending),
        };
        match answered {
            Watched::Answered(answered) => finish(relayed(answered, visit), source, visit),
            Watched::Pending(pending) => relay_later(pending, source, visit),
        }
    }

    fn ask(self, visit: &Visit<'_>) -> Result<PendingRequest, Failure> {
        let edge = visit.edge;
        let key = edge.hub_key()?;
        let body = self.request.encode();
        let token = hold_token(&key, &body, now());
        let mut url = visit.url().clone();
        url.set_path(hold_request::PATH);
        url.set_query(None);
        let request = Request::post(url)
            .with_header(AUTHORIZATION, format!("Bearer {token}"))
            .with_header(CONTENT_TYPE, hold_request::CONTENT_TYPE)
            .with_body(body)
            .with_pass(true);
        request
            .send_async(&*edge.hub)
            .map_err(|error| Failure::Unreachable(error.to_string()))
    }
}

/// What a moment's wait has brought.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it, on the stack"
)]
enum Watched {
    Answered(Result<Response, SendError>),
    Pending(PendingRequest),
}

/// Why the hub holds nobody.
enum Failure {
    NotConfigured(ConfigError),
    Unreachable(String),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::NotConfigured(error)
    }
}

impl Failure {
    fn response(self) -> Response {
        match self {
            Self::NotConfigured(error) => not_configured(&error),
            Self::Unreachable(error) => {
                log::event("hub_error", &[("error", &error)]);
                unavailable("The hub does not answer.")
            }
        }
    }
}

/// Waits a moment for an answer.
fn watch(mut pending: PendingRequest) -> Watched {
    let (mut watched, mut pause) = (Duration::ZERO, FIRST_LOOK);
    loop {
        pending = match pending.poll() {
            PollResult::Done(answered) => return Watched::Answered(answered),
            PollResult::Pending(pending) if watched >= WATCHED => return Watched::Pending(pending),
            PollResult::Pending(pending) => pending,
        };
        std::thread::sleep(pause);
        watched += pause;
        pause *= 2;
    }
}

/// The hub's answer, as the client gets it.
fn relayed(answered: Result<Response, SendError>, visit: &Visit<'_>) -> Response {
    let response = match answered {
        Ok(response) => response,
        Err(error) => return Failure::Unreachable(error.to_string()).response(),
    };
    if !response.contains_header(&GRIPLINE_REFUSED) {
        return response;
    }
    let status = response.get_status();
    let retry_after = response.get_header(RETRY_AFTER).cloned();
    let reason = String::from_utf8_lossy(&response.into_body_bytes()).into_owned();
    log::event(
        "hold_refused",
        &[
            ("status", status.as_str()),
            ("reason", reason.trim()),
            ("path", visit.path()),
        ],
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let mut response = unavailable("The hub takes nobody at this moment.");
        if let Some(retry_after) = retry_after {
            response.set_header(RETRY_AFTER, retry_after);
        }
        return response;
    }
    answer::plain(
        StatusCode::BAD_GATEWAY,
        "The hub refuses to hold this request.",
    )
}

fn unavailable(text: &str) -> Response {
    answer::plain(StatusCode::SERVICE_UNAVAILABLE, text).with_header(RETRY_AFTER, "1")
}

fn finish(mut response: Response, source: Source, visit: &Visit<'_>) {
    response.set_header(X_CACHE, source.as_str());
    visit.trace.tell(&mut response);
    trace::log(visit, Some(response.get_status().as_u16()));
    response.send_to_client();
}

/// Leaves the rest to the host.
fn relay_later(mut pending: PendingRequest, source: Source, visit: &Visit<'_>) {
    pending.set_response_header(X_CACHE, source.as_str(), PendingResponseKind::Any);
    if let Some((name, value)) = visit.trace.header() {
        pending.set_response_header(name, value, PendingResponseKind::Any);
    }
    trace::log(visit, None);
    if let Err(error) = pending.send_to_client() {
        log::event("hub_error", &[("error", &error.to_string())]);
    }
}

/// Whether a request is handed over without a look at its answer.
pub(crate) fn is_for_others(visit: &Visit<'_>) -> bool {
    let edge = visit.edge;
    edge.topology == Topology::Fanout
        && visit.visitor == Visitor::Client
        && *visit.method() == Method::GET
        && edge
            .stream_paths
            .iter()
            .any(|beginning| visit.path().starts_with(beginning))
}

/// Hands a WebSocket over to whoever holds them.
pub(crate) fn websocket(visit: &Visit<'_>) -> Answer {
    match visit.edge.topology {
        Topology::EdgeFront | Topology::Fanout => Answer::Handoff,
        Topology::HubFront => {
            let text = "The edge does not accept WebSockets.";
            answer::text(StatusCode::NOT_IMPLEMENTED, text)
        }
    }
}

/// Hands the request over. After that there is no answer of the edge's any more.
pub(crate) fn hand_over(visit: &Visit<'_>) {
    let edge = visit.edge;
    let request = match handed(visit) {
        Ok(request) => request,
        Err(error) => return finish(not_configured(&error), Source::Pass, visit),
    };
    let (place, handed) = match edge.topology {
        Topology::Fanout => ("fanout", request.handoff_fanout(&edge.own)),
        Topology::EdgeFront | Topology::HubFront => ("hub", request.handoff_websocket(&edge.hub)),
    };
    visit.trace.note("held", place);
    trace::log(visit, None);
    if let Err(error) = handed {
        log::event("handoff_failed", &[("error", &error.to_string())]);
    }
}

/// The client's request as the hub gets it: with the host that it is for, which a handed-over
/// request loses, and a signature for that.
fn handed(visit: &Visit<'_>) -> Result<Request, ConfigError> {
    let edge = visit.edge;
    let mut request = visit.original();
    // As it came: what the visit has taken out already is still there.
    let names: Vec<HeaderName> = request.get_header_names().cloned().collect();
    for name in names {
        let is_ours = fields::is_grip(&name) || name.as_str().starts_with("gripline-");
        if is_ours {
            request.remove_header(name);
        }
    }
    let mut added = HeaderMap::new();
    let hop = next_hop(visit.headers()).unwrap_or(u8::MAX);
    added.insert(GRIPLINE_HOPS, u16::from(hop).into());
    origin::forward_for(&mut added, visit);
    let key = match edge.topology {
        // The managed service has signatures of its own, so that there may be no key.
        Topology::Fanout => edge.hub_key().ok(),
        Topology::EdgeFront | Topology::HubFront => Some(edge.hub_key()?),
    };
    if let (Some(key), Some(host)) = (key, visit.headers().get(HOST)) {
        let path_and_query = visit.path_and_query();
        let websocket_key = visit.headers().get(SEC_WEBSOCKET_KEY);
        let handoff = Handoff {
            host: visit.host(),
            path_and_query: &path_and_query,
            websocket_key: websocket_key.map_or(b"", HeaderValue::as_bytes),
        };
        let token = handoff_token(&key, &handoff, now());
        added.insert(GRIPLINE_HOST, host.clone());
        if let Ok(token) = HeaderValue::from_str(&token) {
            added.insert(GRIPLINE_SIG, token);
        }
    }
    for (name, value) in &added {
        request.append_header(name, value);
    }
    Ok(request)
}
