//! The targets of a route: one after the other, until one answers.

use std::sync::Arc;

use grip::fields::{self, GRIPLINE_STALE};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, Uri};
use hyper::body::Incoming;

use super::body::Content;
use super::error::ProxyError;
use super::response::{Age, Origin};
use super::{Asked, Outcome, Proxy, response, test_origin, text};
use crate::errand::Behalf;
use crate::handshake::Trust;
use crate::routes::{Addresses, Grip, Route, Target, TargetKind, Verify};
use crate::upstream::{
    ClientCertificatePaths, Endpoint, Reach, Security, SendError, TlsRules, Verification,
};

/// A request for any target of its route.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: PathAndQuery,
    /// All but `Host` is as the origin gets it.
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
}

/// Where a target stands in its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforeOthers,
    Last,
}

/// What came of one target.
enum Attempt {
    Answered(Box<Response<Incoming>>),
    /// The next target may do better.
    Failed(SendError, Content),
}

impl Proxy {
    /// Asks the targets in their order and says what becomes of the client.
    pub(super) async fn ask(
        &self,
        mut question: Box<Question>,
        mut asked: Box<Asked>,
    ) -> Result<Outcome, ProxyError> {
        let route = Arc::clone(&asked.behalf.route);
        let mut tried = Vec::new();
        let mut last_error = None;
        for (index, target) in route.targets.iter().enumerate() {
            let place = if index + 1 == route.targets.len() {
                Place::Last
            } else {
                Place::BeforeOthers
            };
            take_implicit(&mut asked, target);
            if target.kind == TargetKind::Test {
                let limit = self.config.limits.instruct_bytes;
                let (origin, returned) =
                    test_origin::answer(&route, &question.path, question.content, limit).await?;
                asked.returned = Some(returned);
                return self.instructed(origin, asked).await;
            }
            match self
                .try_target((target, place), question, &mut asked)
                .await?
            {
                (Attempt::Answered(response), _) => {
                    return self.answered(*response, asked, target).await;
                }
                (Attempt::Failed(error, content), rest) => {
                    tracing::debug!(%error, %target, "no answer from a target");
                    tried.push(target.to_string());
                    let can_go_on = error.allows_another(&rest.method, &content);
                    question = rest;
                    question.content = content;
                    last_error = Some(error);
                    if !can_go_on {
                        break;
                    }
                }
            }
        }
        Err(ProxyError::of(last_error.as_ref(), &tried))
    }

    /// Sends the request to one target; gives it back, with an empty body, for the next.
    async fn try_target(
        &self,
        (target, place): (&Target, Place),
        question: Box<Question>,
        asked: &mut Asked,
    ) -> Result<(Attempt, Box<Question>), ProxyError> {
        let Question {
            method,
            path,
            headers,
            content,
        } = *question;
        let (body, returned) = content.attempt();
        let mut request = Request::new(body);
        request.method_mut().clone_from(&method);
        *request.uri_mut() = Uri::from(path.clone());
        let rest = Box::new(Question {
            method,
            path,
            // Most routes have one target.
            headers: match place {
                Place::Last => HeaderMap::new(),
                Place::BeforeOthers => headers.clone(),
            },
            content: Content::complete(bytes::Bytes::new()),
        });
        *request.headers_mut() = headers;
        let host = requested_host(&asked.behalf.route, target);
        if let Some(host) = &host {
            request.headers_mut().insert(HOST, host.clone());
        }
        let host = host.or_else(|| request.headers().get(HOST).cloned());
        let endpoint = endpoint(target, host.as_ref().map_or("localhost", text));
        let sent = self.upstream.send(&endpoint, reach(target), request).await;
        match sent {
            Ok(response) => {
                asked.returned = Some(returned);
                Ok((Attempt::Answered(Box::new(response)), rest))
            }
            Err(_) if asked.body.has_failed() => Err(ProxyError::ClientBody),
            Err(error) => match returned.await {
                Ok(content) => {
                    tracing::debug!(%target, %error, "no answer from a target");
                    Ok((Attempt::Failed(error, content), rest))
                }
                Err(_) => Err(ProxyError::Origin),
            },
        }
    }

    async fn answered(
        &self,
        mut response: Response<Incoming>,
        asked: Box<Asked>,
        target: &Target,
    ) -> Result<Outcome, ProxyError> {
        if response.status().is_informational() {
            // hyper passes those over that may come before an answer; this is none.
            return Err(ProxyError::Origin);
        }
        if response.headers().contains_key(TRANSFER_ENCODING) {
            // It overrides the length, which would be a lie to the client; RFC 9112 §6.3.
            fields::retain(response.headers_mut(), |name| *name != CONTENT_LENGTH);
        }
        let is_stale = response.headers_mut().remove(GRIPLINE_STALE).is_some();
        if is_stale {
            self.counters.stale_answers.increment();
        }
        let age = Age::take(response.headers_mut(), asked.sent_at);
        let follows = asked.trust == Trust::Client
            && asked.behalf.route.grip == Grip::On
            && grip::instruct::is_instruct(response.headers());
        if !follows {
            let relayed = self.relayed(response, &asked, target).await?;
            return Ok(Outcome::Response(relayed));
        }
        if asked.body.bytes() > self.config.limits.instruct_bytes {
            return Err(ProxyError::RequestTooLarge);
        }
        if response::is_encoded(response.headers()) {
            return Err(ProxyError::Encoded);
        }
        let limits = &self.config.limits;
        let age = if is_stale { Age::Backup } else { age };
        let origin = Origin::read(response, limits, target, age).await?;
        self.instructed(origin, asked).await
    }
}

impl ProxyError {
    /// No target is left, and the last one failed so.
    pub(super) fn of(error: Option<&SendError>, tried: &[String]) -> Self {
        match error {
            Some(SendError::Connect(_)) => Self::Unreachable(tried.join(", ")),
            Some(SendError::Blocked) => Self::Blocked,
            _ => Self::Origin,
        }
    }
}

impl SendError {
    /// Whether another target may be tried with this request.
    fn allows_another(&self, method: &Method, content: &Content) -> bool {
        match self {
            Self::Blocked | Self::Connect(_) => content.can_be_sent_again(),
            // The origin may have handled it; RFC 9110 §9.2.2.
            Self::Closed => method.is_idempotent() && content.can_be_sent_again(),
            Self::Other(_) => false,
        }
    }
}

/// The channels that a target adds to every hold; `sub`.
pub(super) fn take_implicit(asked: &mut Asked, target: &Target) {
    if target.subscribe == asked.behalf.implicit {
        return;
    }
    asked.behalf = Arc::new(Behalf {
        route: Arc::clone(&asked.behalf.route),
        uri: asked.behalf.uri.clone(),
        way: asked.behalf.way,
        implicit: target.subscribe.clone(),
        tells_errors: asked.behalf.tells_errors,
    });
}

/// The host that a target is asked for, if it is not the client's.
pub(super) fn requested_host(route: &Route, target: &Target) -> Option<HeaderValue> {
    let host: &Authority = target.host.as_ref().or(route.as_host.as_ref())?;
    HeaderValue::from_str(host.as_str()).ok()
}

pub(super) fn reach(target: &Target) -> Reach {
    match target.addresses {
        Addresses::All => Reach::Any,
        Addresses::Public => Reach::PublicOnly,
    }
}

/// Where a target is, for requests that name this host.
pub(crate) fn endpoint(target: &Target, requested_host: &str) -> Endpoint {
    let TargetKind::Http { host, port } = &target.kind else {
        unreachable!("a test target is answered by the hub itself");
    };
    let security = match &target.tls {
        None => Security::Plain,
        Some(rules) => {
            let server_name = match rules.verify {
                Verify::ConnectHost => host.clone(),
                Verify::RequestHost | Verify::Nothing => {
                    super::without_port(requested_host).to_owned()
                }
            };
            let verification = match rules.verify {
                Verify::Nothing => Verification::Skip,
                Verify::RequestHost | Verify::ConnectHost => Verification::Check,
            };
            Security::Tls(TlsRules {
                server_name,
                verification,
                client_certificate: rules.client.as_ref().map(|paths| ClientCertificatePaths {
                    certificate: paths.certificate.clone(),
                    key: paths.key.clone(),
                }),
            })
        }
    };
    Endpoint {
        host: host.clone(),
        port: *port,
        security,
    }
}
