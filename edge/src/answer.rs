//! Answers, in the form that their visitor may see.

use std::time::Duration;

use fastly::http::FramingHeadersMode;
use fastly::http::request::SendError;
use fastly::{Body, Response};
use grip::cache::{ClientRefusal, Entry, client_answer, hub_headers};
use grip::fields::{GRIPLINE_AGE, GRIPLINE_STALE};
use grip::instruct::Status;
use http::header::{AGE, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::config::Topology;
use crate::hold::{self, Hold};
use crate::origin::headers_of;
use crate::visit::{Visit, Visitor};
use crate::{log, trace};

/// Says where an answer comes from.
pub(crate) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Where an answer comes from; the value of `X-Cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The cache, fresh.
    Hit,
    /// The origin, and from now on the cache.
    Miss,
    /// The cache; the origin has confirmed it.
    Revalidated,
    /// The cache, although no longer fresh.
    Stale,
    /// The same, because the origin fails.
    Unconfirmed,
    /// The backup copy, because the origin fails.
    Backup,
    /// The origin, for this visitor alone.
    Pass,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Revalidated => "revalidated",
            Self::Stale | Self::Unconfirmed | Self::Backup => "stale",
            Self::Pass => "pass",
        }
    }

    /// Whether it was in the cache before.
    fn is_stored(self) -> bool {
        matches!(
            self,
            Self::Hit | Self::Stale | Self::Unconfirmed | Self::Backup
        )
    }

    /// As [`Self::as_str`], more exactly.
    fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            other => other.as_str(),
        }
    }
}

/// An answer, ready to be sent.
#[derive(Debug)]
#[must_use]
pub(crate) enum Answer {
    /// Here it is.
    Response(Box<Response>),
    /// The hub holds the client.
    Hold(Box<Hold>),
    /// Somebody else answers.
    Handoff,
}

impl Answer {
    /// Begins to send. The host goes on with the body, also after the module has ended.
    pub(crate) fn send(self, visit: &Visit<'_>) {
        match self {
            Self::Response(mut response) => {
                visit.trace.tell(&mut response);
                trace::log(visit, Some(response.get_status().as_u16()));
                response.send_to_client();
            }
            Self::Hold(hold) => hold.send(visit),
            Self::Handoff => hold::hand_over(visit),
        }
    }

    /// Sends an answer to nobody in particular.
    pub(crate) fn send_untraced(self) {
        if let Self::Response(response) = self {
            response.send_to_client();
        }
    }

    pub(crate) fn with_header(self, name: HeaderName, value: &str) -> Self {
        match self {
            Self::Response(response) => {
                Self::Response(Box::new(response.with_set_header(name, value)))
            }
            other => other,
        }
    }

    pub(crate) fn with_source(self, source: Source) -> Self {
        self.with_header(X_CACHE, source.as_str())
    }
}

/// A line of text.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response {
    Response::from_status(status)
        .with_header(CONTENT_TYPE, "text/plain")
        .with_body(format!("{text}\n"))
}

/// The edge's own answer, as a line of text.
pub(crate) fn text(status: StatusCode, text: &str) -> Answer {
    Answer::Response(Box::new(plain(status, text))).with_source(Source::Pass)
}

/// The edge's own answer while the origin fails and nothing is stored.
pub(crate) fn unavailable() -> Answer {
    let reason = "The origin does not answer, and nothing is stored.";
    text(StatusCode::SERVICE_UNAVAILABLE, reason).with_header(RETRY_AFTER, "1")
}

/// The edge's own answer to what the origin did wrong.
pub(crate) fn bad_gateway(reason: &str, source: Source) -> Answer {
    text(StatusCode::BAD_GATEWAY, reason).with_source(source)
}

/// The edge's own answer to a failed request.
pub(crate) fn origin_failed(error: &SendError) -> Answer {
    log::event("origin_error", &[("error", &error.to_string())]);
    bad_gateway("Error while proxying to origin.", Source::Pass)
}

/// What is stored, or what of it was selected; for HEAD without the body.
pub(crate) fn stored(
    entry: &Entry,
    (status, mut headers): (StatusCode, HeaderMap),
    body: Vec<u8>,
    source: Source,
    age: u64,
    visit: &Visit<'_>,
) -> Answer {
    headers.insert(AGE, age.into());
    visit.trace.note("age", age.to_string());
    visit.trace.note("ttl", entry.ttl.to_string());
    if *visit.method() != Method::HEAD {
        return shown(status, &headers, Body::from(body), source, visit);
    }
    let length = body.len();
    let mut answer = shown(status, &headers, Body::new(), source, visit);
    if let Answer::Response(response) = &mut answer {
        // The platform would count the bytes that are not sent.
        response.set_framing_headers_mode(FramingHeadersMode::ManuallyFromHeaders);
        response.set_header(CONTENT_LENGTH, length.to_string());
    }
    answer
}

/// The origin's response to a request that was passed on.
pub(crate) fn passed(mut response: Response, visit: &Visit<'_>) -> Answer {
    let headers = headers_of(response.get_headers());
    let body = response.take_body();
    shown(response.get_status(), &headers, body, Source::Pass, visit)
}

/// An answer that came from the origin in whatever way.
pub(crate) fn shown(
    status: StatusCode,
    headers: &HeaderMap,
    body: Body,
    source: Source,
    visit: &Visit<'_>,
) -> Answer {
    visit.trace.note("cache", source.name());
    let (status, mut headers) = match visit.visitor {
        Visitor::Hub => (Status::new(status), hub_headers(headers)),
        Visitor::Client => match client_answer(visit.method(), status, headers) {
            Ok(answer) => answer,
            Err(ClientRefusal::Hold) => return hold::answer(status, headers, body, source, visit),
            Err(refusal) => {
                log::event("instruction_withheld", &[("reason", &refusal.to_string())]);
                let reason = format!("Not available here: {refusal}.");
                return text(refusal.status(), &reason).with_source(source);
            }
        },
    };
    mark(&mut headers, source, visit);
    if visit.visitor == Visitor::Hub {
        tell_age(&mut headers, source, visit);
    }
    let mut response = Response::from_status(status.code);
    for (name, value) in &headers {
        response.append_header(name, value);
    }
    response.set_body(body);
    Answer::Response(Box::new(response))
}

/// Says where an answer is from, to those who may know.
pub(crate) fn mark(headers: &mut HeaderMap, source: Source, visit: &Visit<'_>) {
    headers.insert(X_CACHE, HeaderValue::from_static(source.as_str()));
    let is_for_hub = visit.visitor == Visitor::Hub || visit.edge.topology == Topology::EdgeFront;
    if matches!(source, Source::Unconfirmed | Source::Backup) && is_for_hub {
        headers.insert(GRIPLINE_STALE, HeaderValue::from_static("1"));
    }
}

/// Tells the hub how old an answer is.
pub(crate) fn tell_age(headers: &mut HeaderMap, source: Source, visit: &Visit<'_>) {
    let mut age = visit.answer_age();
    if !source.is_stored() {
        age = age.saturating_add(said_age(headers));
    }
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    headers.insert(GRIPLINE_AGE, millis.into());
}

/// How old the origin says that its answer is, at most; RFC 9111 §5.1.
fn said_age(headers: &HeaderMap) -> Duration {
    let Some(value) = headers.get(AGE) else {
        return Duration::ZERO;
    };
    match value.to_str().ok().and_then(|text| text.parse().ok()) {
        Some(0_u64) => Duration::ZERO,
        // Whole seconds, cut off.
        Some(seconds) => Duration::from_secs(seconds.saturating_add(1)),
        None => Duration::MAX,
    }
}
