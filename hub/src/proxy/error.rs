//! Why a request has no proper answer, and what the client reads of it.

use bytes::Bytes;
use grip::cross_origin::JsonpError;
use grip::filter::FilterError;
use grip::hold::Answer;
use grip::instruct::{InstructError, Status};
use grip::signature::SignatureError;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, StatusCode};

use crate::counters::Counters;

const NO_HANDSHAKE: &str = "Request contained an Upgrade header with value \"websocket\" but the request was not a valid WebSocket request.";

/// Why a request has no proper answer. Each becomes a plain text for the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The client's request body broke off or is malformed.
    #[error("Failed to read request body.")]
    ClientBody,
    /// CONNECT asks for a tunnel, which the hub is not for.
    #[error("CONNECT is not supported.")]
    Connect,
    /// More than one host; RFC 9112 §3.2.
    #[error("Failed to parse request: more than one Host")]
    Hosts,
    /// A transfer coding other than `chunked`; RFC 9112 §6.1.
    #[error("Transfer-Encoding is not supported.")]
    TransferCoding,
    /// A JSONP request that cannot be taken apart.
    #[error("{0}")]
    Jsonp(#[from] JsonpError),
    /// The request went round in a circle.
    #[error("Loop detected.")]
    Loop,
    /// No route is for the request.
    #[error("Route not found")]
    NoRoute,
    /// Events of WebSocket-over-HTTP come from proxies only.
    #[error("Client not allowed to send WebSocket events directly.")]
    WebSocketEvents,
    /// A request that claims to be handed over by an edge.
    #[error("The request was not handed over by a known edge: {0}.")]
    Handoff(SignatureError),
    /// A handshake that is none; RFC 6455 §4.2.1.
    #[error("{NO_HANDSHAKE}")]
    Handshake,
    /// A handshake of another version; RFC 6455 §4.2.2.
    #[error("{NO_HANDSHAKE}")]
    HandshakeVersion,
    /// No connection to any target.
    #[error("Unable to connect to any targets. Tried: {0}")]
    Unreachable(String),
    /// All targets have addresses that must not be connected to.
    #[error("Error: Origin host/IP blocked.")]
    Blocked,
    /// The origin broke off, or its answer is not HTTP.
    #[error("Error while proxying to origin.")]
    Origin,
    /// The response's instructions cannot be followed.
    #[error("Failed to parse accept instructions: {0}")]
    Instruct(#[from] InstructError),
    /// A filter fails on the response's body.
    #[error("Failed to parse accept instructions: filter error: {0}")]
    Filter(#[from] FilterError),
    /// Items cannot be appended to a response with `Content-Encoding`.
    #[error("Failed to parse accept instructions: the response has a Content-Encoding")]
    Encoded,
    /// The response with instructions is larger than [`crate::config::Limits::instruct_bytes`].
    #[error("GRIP instruct response too large from {0}")]
    InstructTooLarge(String),
    /// The request's body is larger than a held request's may be.
    #[error("Request too large to accept GRIP instruct.")]
    RequestTooLarge,
    /// A response is larger than a script may be.
    #[error("JSONP response too large from {0}")]
    JsonpTooLarge(String),
}

/// Whether clients are told what only an operator should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Candour {
    Discreet,
    Debug,
}

impl ProxyError {
    fn status(&self) -> StatusCode {
        match self {
            Self::ClientBody
            | Self::RequestTooLarge
            | Self::Hosts
            | Self::Jsonp(_)
            | Self::Handshake => StatusCode::BAD_REQUEST,
            Self::HandshakeVersion => StatusCode::UPGRADE_REQUIRED,
            Self::Connect | Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::WebSocketEvents => StatusCode::FORBIDDEN,
            Self::Handoff(_) => StatusCode::UNAUTHORIZED,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// What the client gets.
    pub(super) fn answer(&self, candour: Candour) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if matches!(self, Self::HandshakeVersion) {
            // Who requires an upgrade has to say to what; RFC 9110 §15.5.22.
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        Answer {
            status: Status::new(self.status()),
            headers,
            body: Bytes::from(self.text(candour)),
        }
    }

    /// What the client reads.
    fn text(&self, candour: Candour) -> String {
        match self {
            Self::ClientBody
            | Self::RequestTooLarge
            | Self::Connect
            | Self::Hosts
            | Self::TransferCoding
            | Self::Jsonp(_)
            | Self::Loop
            | Self::NoRoute
            | Self::Handshake
            | Self::HandshakeVersion
            | Self::Handoff(_)
            | Self::WebSocketEvents => format!("{self}\n"),
            _ if candour == Candour::Debug => format!("{self}\n"),
            _ => format!("{}\n", Self::Origin),
        }
    }

    pub(super) fn count(&self, counters: &Counters) {
        match self {
            Self::ClientBody
            | Self::Connect
            | Self::Hosts
            | Self::TransferCoding
            | Self::Jsonp(_)
            | Self::Handshake
            | Self::HandshakeVersion
            | Self::WebSocketEvents => {
                counters.malformed_heads.increment();
            }
            Self::Handoff(_) => counters.edge_refused.increment(),
            Self::NoRoute => counters.unrouted_requests.increment(),
            Self::Loop => counters.loops.increment(),
            Self::Unreachable(_) | Self::Blocked | Self::Origin | Self::JsonpTooLarge(_) => {
                counters.origin_errors.increment();
            }
            Self::Instruct(_)
            | Self::Filter(_)
            | Self::Encoded
            | Self::InstructTooLarge(_)
            | Self::RequestTooLarge => counters.instruct_errors.increment(),
        }
    }
}
