//! What an edge in front of the hub sends: clients to be held, and requests that it hands over.
//!
//! Of a hold request, the client's head takes the place of the request and the origin's response
//! that of an answer; then all goes on as if the hub had asked. A request that was handed over is a
//! client's own but for its host, which [`GRIPLINE_HOST`] names and [`GRIPLINE_SIG`] vouches for.

use std::sync::Arc;

use bytes::Bytes;
use grip::fields::{GRIPLINE_HOST, GRIPLINE_REFUSED, GRIPLINE_SIG, GRIPLINE_STALE};
use grip::hold::Answer;
use grip::hold_request::{self, HoldRequest, HoldRequestError};
use grip::instruct::{self, Status};
use grip::signature::{Handoff, Keyring, SignatureError, verify_handoff_token, verify_hold_token};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, SEC_WEBSOCKET_KEY};
use http::{HeaderValue, Method, Request, StatusCode, request};

use tokio::time::Instant;

use super::body::{Progress, Unread};
use super::error::ProxyError;
use super::response::{self, Age, Origin};
use super::{Asked, ClientRequest, Manner, Original, Outcome, Proxy, target, text, unix_now};
use crate::config::Limits;
use crate::dressing::Dressing;
use crate::routes::{Grip, Protocol, Route};

/// Why the edge gets no hold.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no [edge] key, so that nobody is held for an edge")]
    NoKey,
    #[error("only POST asks for a hold")]
    Method,
    #[error("a bearer token is needed")]
    NoToken,
    #[error("{0}")]
    Token(#[from] SignatureError),
    #[error("the body broke off")]
    Broken,
    #[error("the body is too large, at most {0} bytes are allowed")]
    TooLarge(usize),
    #[error("{0}")]
    Envelope(#[from] HoldRequestError),
    #[error("nobody is held for {0}")]
    Unheld(Method),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoKey => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoToken | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::TooLarge(_) | Self::Envelope(HoldRequestError::TooLarge) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Broken | Self::Envelope(_) | Self::Unheld(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// For the edge, which shows none of it to the client.
    fn answer(&self) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(GRIPLINE_REFUSED, HeaderValue::from_static("1"));
        if matches!(self, Self::Method) {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        Answer {
            status: Status::new(self.status()),
            headers,
            body: Bytes::from(format!("{self}\n")),
        }
    }
}

/// Whether a request is an edge's, for a client to be held.
pub(super) fn is_hold_request(request: &ClientRequest) -> bool {
    let head = &request.head;
    let is_of_type = || {
        let content_type = head.headers.get(CONTENT_TYPE);
        content_type.is_some_and(|it| it == hold_request::CONTENT_TYPE)
    };
    request.again.is_none() && head.uri.path() == hold_request::PATH && is_of_type()
}

/// Whether somebody whom the hub believes says for whom and for which host a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// Nobody does.
    Client,
    /// An edge does.
    Edge,
}

impl Proxy {
    /// Checks what a request says of an edge that handed it over. What is left in its head then is
    /// true.
    pub(super) fn check_handoff(&self, head: &mut request::Parts) -> Result<(), ProxyError> {
        let token = head.headers.remove(GRIPLINE_SIG);
        let host = head.headers.remove(GRIPLINE_HOST);
        let (Some(keys), Some(token)) = (&self.config.edge_keys, token) else {
            return Ok(());
        };
        let host = host.unwrap_or_else(|| HeaderValue::from_static(""));
        let path = head.uri.path_and_query();
        let websocket_key = head.headers.get(SEC_WEBSOCKET_KEY);
        let handoff = Handoff {
            host: text(&host),
            path_and_query: path.map_or("/", |path| path.as_str()),
            websocket_key: websocket_key.map_or(b"", HeaderValue::as_bytes),
        };
        verify_handoff_token(keys, text(&token), &handoff, unix_now())
            .map_err(ProxyError::Handoff)?;
        head.headers.insert(GRIPLINE_HOST, host);
        Ok(())
    }

    /// Holds a client of the edge's.
    pub(super) async fn hold_for_edge(
        &self,
        request: Box<ClientRequest>,
        manner: &mut Manner,
    ) -> Result<Outcome, ProxyError> {
        let (version, headers) = (request.head.version, &request.head.headers);
        let is_persistent = super::request::is_persistent(version, headers);
        let (asked_for, progress) = match self.read_hold_request(*request).await {
            Ok(read) => read,
            Err(refusal) => {
                self.counters.edge_refused.increment();
                tracing::warn!(error = %refusal, "hold request refused");
                return Ok(Outcome::Response(response::at_once(refusal.answer(), None)));
            }
        };
        self.counters.edge_holds.increment();
        let HoldRequest {
            method,
            uri,
            request_headers,
            status,
            response_headers,
            body,
        } = asked_for;
        let mut head = client_head(method, &uri, request_headers);
        head.version = version;
        let original = Original {
            body: original_body(&head, &self.config.limits),
            ..Original::of(&head)
        };
        let admission = self.admit(&mut head, Protocol::Http, manner)?;
        let path = head.uri.path_and_query().cloned();
        let path = admission
            .route
            .rewrite_path(&path.unwrap_or_else(super::root));
        if self.opens_to_others(&admission.route) {
            let cors = grip::cross_origin::Cors::of_request(&head.headers);
            manner.dressing = Some(Box::new(Dressing::Cors(cors)));
        }
        let behalf = super::behalf(&admission, &head.headers, &path, manner);
        let mut asked = Box::new(Asked {
            is_persistent,
            version,
            method: original.method.clone(),
            body: progress,
            returned: None,
            original,
            behalf: Arc::new(behalf),
            dressing: manner.dressing.clone(),
            trust: admission.trust,
            again: None,
            sent_at: Instant::now().into_std(),
            age: Age::Unknown,
            resume: self.event_resume(&admission.route, &mut head.headers),
            slow: self.slow_clients(&admission.route),
        });
        if let Some(first) = admission.route.targets.first() {
            target::take_implicit(&mut asked, first);
        }
        let origin = self.origin_of(status, response_headers, body, &admission.route)?;
        self.instructed(origin, asked).await
    }

    /// The response in a hold request, as if the hub had asked for it.
    fn origin_of(
        &self,
        status: Status,
        mut headers: HeaderMap,
        body: Bytes,
        route: &Route,
    ) -> Result<Origin, ProxyError> {
        let is_stale = headers.remove(GRIPLINE_STALE).is_some();
        let mut age = Age::take(&mut headers, Instant::now().into_std());
        if is_stale {
            self.counters.stale_answers.increment();
            age = Age::Backup;
        }
        let follows = route.grip == Grip::On && instruct::is_instruct(&headers);
        if follows && response::is_encoded(&headers) {
            return Err(ProxyError::Encoded);
        }
        Ok(Origin {
            status,
            headers,
            body,
            rest: None,
            age,
        })
    }

    async fn read_hold_request(
        &self,
        request: ClientRequest,
    ) -> Result<(HoldRequest, Arc<Progress>), Refusal> {
        let keys = self.config.edge_keys.as_ref().ok_or(Refusal::NoKey)?;
        if request.head.method != Method::POST {
            return Err(Refusal::Method);
        }
        let token = bearer(&request.head.headers).ok_or(Refusal::NoToken)?;
        let progress = request.content.progress();
        let limit = hold_request::MAX_HEADS + self.config.limits.instruct_bytes;
        let body = request
            .content
            .read(limit)
            .await
            .map_err(|error| match error {
                Unread::TooLarge => Refusal::TooLarge(limit),
                Unread::Broken => Refusal::Broken,
            })?;
        let asked_for = verified(keys, token, &body)?;
        if asked_for.body.len() > self.config.limits.instruct_bytes {
            return Err(Refusal::TooLarge(limit));
        }
        // The edge reads what answers its POST, and of HEAD that would be a body that never comes.
        if matches!(asked_for.method, Method::HEAD | Method::CONNECT) {
            return Err(Refusal::Unheld(asked_for.method));
        }
        Ok((asked_for, progress))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

fn verified(keys: &Keyring, token: &str, body: &Bytes) -> Result<HoldRequest, Refusal> {
    verify_hold_token(keys, token, body, unix_now())?;
    Ok(HoldRequest::decode(body)?)
}

/// The head of the client's request, as that of a request that was handed over and checked.
fn client_head(method: Method, uri: &http::Uri, headers: HeaderMap) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method;
    head.uri = uri
        .path_and_query()
        .cloned()
        .map(http::Uri::from)
        .unwrap_or_default();
    head.headers = headers;
    super::request::set_host(&mut head.headers, uri);
    if let Some(host) = head.headers.get(HOST).cloned() {
        head.headers.insert(GRIPLINE_HOST, host);
    }
    head
}

/// The body that the client's request had, if that is known and it can be read again as it is.
fn original_body(head: &request::Parts, limits: &Limits) -> Option<Bytes> {
    let lines = head.headers.iter();
    let bytes: usize = lines
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let fits = bytes + head.uri.path().len() + 64 <= limits.head_bytes
        && head.headers.len() <= limits.head_fields;
    let is_bodiless = matches!(head.method, Method::GET | Method::HEAD);
    (fits && is_bodiless).then(Bytes::new)
}

/// Who says for which host a request is. Its head was checked when it came.
pub(super) fn via(headers: &mut HeaderMap) -> Via {
    let Some(host) = headers.remove(GRIPLINE_HOST) else {
        return Via::Client;
    };
    headers.insert(HOST, host);
    Via::Edge
}
