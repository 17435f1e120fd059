//! WebSockets until they are open, and the requests that they become.
//!
//! ```text
//! handshake ─▶ route ─▶ prepared headers ─▶ first target that is reached
//!     ├─ over HTTP: OPEN ─────▶ answered with OPEN ─┐
//!     ├─ natively: a handshake ─────────────▶ 101 ──┤─▶ hold
//!     └─ `test` ────────────────────────────────────┘
//!                               any other answer ─────▶ rejection
//! ```
//!
//! What is said on an open WebSocket is the engine's business; it comes back here with the requests
//! that are to be sent, [`Proxy::exchange_events`].

mod answer;
mod farewell;
mod native;
mod opening;
mod over_http;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use grip::hold::Answer;
use grip::websocket::extension::Extension;
use http::HeaderValue;
use http::header::{HeaderMap, SEC_WEBSOCKET_EXTENSIONS};
use hyper::upgrade::Upgraded;

use super::error::ProxyError;
use super::request::{self, Preparation};
use super::{
    Admission, Candour, ClientRequest, Held, Manner, Outcome, Proxy, response, root, test_origin,
    unix_now,
};
use crate::config::{Compression, SlowClients};
use crate::engine::websocket::{OriginStart, WebSocketStart};
use crate::engine::{AfterHold, Hold, HoldKind, Slot};
use crate::frames::Deflate;
use crate::handshake::{Handshake, Offer, Shake, Trust};
use crate::routes::{Grip, Protocol, Route, Setting, TargetKind, WebSocketTransport};
use crate::upstream::SendError;

pub(crate) use farewell::Farewell;
pub(super) use farewell::Farewells;
pub(super) use opening::Opening;

/// What an origin says to a handshake.
#[derive(Debug)]
enum Reply {
    Accepted(Box<Accepted>),
    /// The client gets this instead of a WebSocket.
    Rejected(Box<Answer>),
}

/// A WebSocket that its origin takes.
#[derive(Debug)]
struct Accepted {
    /// Of the origin's answer.
    headers: HeaderMap,
    origin: OriginStart,
    upgraded: Option<Upgraded>,
    farewell: Option<Farewell>,
}

/// Why an origin says nothing to a handshake.
#[derive(Debug)]
enum OpenError {
    /// It was not asked; the next target may be.
    Unsent(SendError),
    /// It broke off, or said what makes no sense.
    Broken(Broken),
}

/// What is wrong with an origin's answer to a handshake.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Send(SendError),
    #[error("an answer to something else: {0}")]
    Status(http::StatusCode),
    #[error("the body broke off or is too large")]
    Body,
    #[error("the events cannot be read: {0}")]
    Events(#[from] grip::websocket::event::EventError),
    #[error("the first event is not OPEN")]
    NotOpen,
    #[error("OPEN stands there twice")]
    OpenTwice,
    #[error("{0} is not that of a WebSocket")]
    Field(http::HeaderName),
    #[error("the WebSocket was lost at once: {0}")]
    Upgrade(#[from] hyper::Error),
    #[error("it takes too long")]
    Slow,
    #[error("the hub ends")]
    End,
}

impl From<SendError> for OpenError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(_) | SendError::Blocked => Self::Unsent(error),
            SendError::Closed | SendError::Other(_) => Self::Broken(Broken::Send(error)),
        }
    }
}

impl From<Broken> for OpenError {
    fn from(error: Broken) -> Self {
        Self::Broken(error)
    }
}

/// What a client asked for, as far as the answer depends on it.
#[derive(Debug)]
struct Client {
    opening: Opening,
    trust: Trust,
    offer: Offer,
    deflate: Option<(Deflate, HeaderValue)>,
    slow: SlowClients,
}

impl Proxy {
    /// Asks the targets in their order for a WebSocket.
    pub(super) async fn open(
        self: &Rc<Self>,
        request: Box<ClientRequest>,
        opening: Opening,
        manner: &mut Manner,
    ) -> Result<Outcome, ProxyError> {
        let ClientRequest { mut head, peer, .. } = *request;
        let Admission {
            route,
            trust,
            security,
        } = self.admit(&mut head, Protocol::WebSocket, manner)?;
        let client = Client {
            slow: self.slow_clients(&route),
            opening,
            trust,
            offer: offer(&route, trust, &head.headers),
            deflate: self.deflate(&route, &head.headers),
        };
        let path = head.uri.path_and_query().cloned().unwrap_or_else(root);
        let preparation = Preparation {
            config: &self.config,
            route: &route,
            trust,
            peer: peer.ip(),
            security,
            protocol: Protocol::WebSocket,
            last: &[],
            now: unix_now(),
        };
        preparation
            .apply(&mut head.headers)
            .map_err(|request::LoopFound| ProxyError::Loop)?;
        let handshake = Handshake::new(Shake {
            path: &route.rewrite_path(&path),
            headers: &head.headers,
            security,
            trust,
            offer: client.offer,
            tells_errors: manner.candour == Candour::Debug,
            route: Arc::clone(&route),
        });
        self.ask_to_open(client, &handshake, &head.headers).await
    }

    async fn ask_to_open(
        self: &Rc<Self>,
        client: Client,
        handshake: &Handshake,
        headers: &HeaderMap,
    ) -> Result<Outcome, ProxyError> {
        let route = handshake.route();
        let mut tried = Vec::new();
        let mut last_error = None;
        for (index, target) in route.targets.iter().enumerate() {
            let handshake = handshake.at(index);
            let reply = match (&target.kind, target.websocket) {
                (TargetKind::Test, _) => Ok(test_reply(&handshake)),
                (_, WebSocketTransport::OverHttp(_)) => self.open_over_http(&handshake).await,
                (_, WebSocketTransport::Native) => self.open_native(&handshake, headers).await,
            };
            match reply {
                Ok(Reply::Accepted(accepted)) => {
                    return Ok(Outcome::Hold(Box::new(client.held(*accepted, handshake))));
                }
                Ok(Reply::Rejected(answer)) => {
                    let answer = client.opening.rejection(*answer);
                    return Ok(Outcome::Response(response::at_once(answer, None)));
                }
                Err(OpenError::Broken(error)) => {
                    tracing::debug!(%error, %target, "no answer to a handshake");
                    return Err(ProxyError::Origin);
                }
                Err(OpenError::Unsent(error)) => {
                    tracing::debug!(%error, %target, "no answer from a target");
                    tried.push(target.to_string());
                    last_error = Some(error);
                }
            }
        }
        Err(ProxyError::of(last_error.as_ref(), &tried))
    }

    fn deflate(&self, route: &Route, headers: &HeaderMap) -> Option<(Deflate, HeaderValue)> {
        let is_on = self.config.websocket_compression == Compression::On
            || route.compression == Setting::On;
        if is_on {
            Deflate::negotiate(headers)
        } else {
            None
        }
    }
}

/// A GRIP proxy in front speaks GRIP for itself, if it does.
fn offer(route: &Route, trust: Trust, headers: &HeaderMap) -> Offer {
    let is_spoken = match trust {
        Trust::Client => route.grip == Grip::On,
        Trust::Proxy => answer::grip_extension(headers).is_some(),
    };
    if is_spoken {
        Offer::Grip
    } else {
        Offer::Nothing
    }
}

/// What the target `test` says: at `/ws` it speaks GRIP, and sends back what comes.
fn test_reply(handshake: &Handshake) -> Reply {
    let path = handshake.route().test_path(&handshake.path());
    let Some(channels) = test_origin::websocket_channels(&path) else {
        return Reply::Rejected(Box::new(test_origin::missing()));
    };
    let mut headers = HeaderMap::new();
    if handshake.offer() == Offer::Grip {
        let everything = HeaderValue::from_static("grip; message-prefix=\"\"");
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, everything);
    }
    Reply::Accepted(Box::new(Accepted {
        headers,
        origin: OriginStart::Test(channels),
        upgraded: None,
        farewell: None,
    }))
}

impl Client {
    fn held(self, accepted: Accepted, handshake: Handshake) -> Held {
        let Accepted {
            headers,
            origin,
            upgraded,
            farewell,
        } = accepted;
        let mut extensions = Vec::new();
        let mut extension = None;
        match (self.trust, self.offer) {
            (_, Offer::Nothing) => {}
            (Trust::Client, Offer::Grip) => extension = Extension::accepted(&headers),
            (Trust::Proxy, Offer::Grip) => extensions.extend(answer::grip_extension(&headers)),
        }
        let (deflate, answered) = self.deflate.unzip();
        extensions.extend(answered);
        let (head, answer) = self.opening.acceptance(headers, extensions);
        let implicit = &handshake.target().subscribe;
        Held {
            hold: Hold {
                slots: Slot::all(&[], &handshake.route().prefix, implicit),
                kind: HoldKind::WebSocket(Box::new(WebSocketStart {
                    head,
                    handshake,
                    origin,
                    extension,
                    deflate,
                })),
                after: AfterHold::Close,
                slow: self.slow,
                session: None,
            },
            feed: None,
            head: answer,
            original: None,
            origin: upgraded,
            farewell,
        }
    }
}
