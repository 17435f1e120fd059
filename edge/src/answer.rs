//! Answers, in the form that their visitor may see.

use fastly::http::request::SendError;
use fastly::{Body, Response};
use grip::cache::{Entry, client_answer, hub_headers};
use grip::fields::GRIPLINE_STALE;
use grip::instruct::Status;
use http::header::{AGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::log;
use crate::origin::headers_of;
use crate::visitor::Visitor;

/// Says where an answer comes from.
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Where an answer comes from; the value of `X-Cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The cache, fresh.
    Hit,
    /// The origin, and from now on the cache.
    Miss,
    /// The cache, although no longer fresh.
    Stale,
    /// The backup copy, because the origin fails.
    Backup,
    /// The origin, for this visitor alone.
    Pass,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale | Self::Backup => "stale",
            Self::Pass => "pass",
        }
    }
}

/// An answer, ready to be sent.
#[must_use]
pub(crate) struct Answer(Response);

impl Answer {
    /// Begins to send. The host goes on with the body, also after the module has ended.
    pub(crate) fn send(self) {
        self.0.send_to_client();
    }

    pub(crate) fn with_header(self, name: HeaderName, value: &str) -> Self {
        Self(self.0.with_set_header(name, value))
    }
}

/// The edge's own answer, as a line of text.
pub(crate) fn text(status: StatusCode, text: &str) -> Answer {
    let response = Response::from_status(status)
        .with_header(CONTENT_TYPE, "text/plain")
        .with_header(X_CACHE, Source::Pass.as_str())
        .with_body(format!("{text}\n"));
    Answer(response)
}

/// The edge's own answer while the origin fails and nothing is stored.
pub(crate) fn unavailable() -> Answer {
    let reason = "The origin does not answer, and nothing is stored.";
    text(StatusCode::SERVICE_UNAVAILABLE, reason).with_header(RETRY_AFTER, "1")
}

/// The edge's own answer to a failed request.
pub(crate) fn origin_failed(error: &SendError) -> Answer {
    log::event("origin_error", &[("error", &error.to_string())]);
    text(StatusCode::BAD_GATEWAY, "Error while proxying to origin.")
}

/// What is stored; for HEAD without the body.
pub(crate) fn stored(
    entry: &Entry,
    body: Vec<u8>,
    source: Source,
    visitor: Visitor,
    age: u64,
) -> Answer {
    let mut headers = entry.headers.clone();
    headers.insert(AGE, age.into());
    shown(entry.status, &headers, Body::from(body), source, visitor)
}

/// The origin's response to a request that was passed on.
pub(crate) fn passed(mut response: Response, visitor: Visitor) -> Answer {
    let headers = headers_of(response.get_headers());
    let body = response.take_body();
    shown(response.get_status(), &headers, body, Source::Pass, visitor)
}

/// An answer that came from the origin in whatever way.
pub(crate) fn shown(
    status: StatusCode,
    headers: &HeaderMap,
    body: Body,
    source: Source,
    visitor: Visitor,
) -> Answer {
    let (status, mut headers) = match visitor {
        Visitor::Hub => (Status::new(status), hub_headers(headers)),
        Visitor::Client => match client_answer(status, headers) {
            Ok(answer) => answer,
            Err(refusal) => {
                log::event("instruction_withheld", &[("reason", &refusal.to_string())]);
                let reason = format!("Not available here: {refusal}.");
                return text(refusal.status(), &reason).with_header(X_CACHE, source.as_str());
            }
        },
    };
    headers.insert(X_CACHE, HeaderValue::from_static(source.as_str()));
    if source == Source::Backup && visitor == Visitor::Hub {
        headers.insert(GRIPLINE_STALE, HeaderValue::from_static("1"));
    }
    let mut response = Response::from_status(status.code);
    for (name, value) in &headers {
        response.append_header(name, value);
    }
    response.set_body(body);
    Answer(response)
}
