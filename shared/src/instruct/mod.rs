//! Origin to hub: what a response asks the proxy to do with the client that is waiting for it.
//!
//! Knows headers and bytes; does not know connections. Read [`Instruct`] first. An instruction is
//! in the headers, and may go on in the body as `application/grip-instruct`.

mod headers;
mod json;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};

use crate::channel::Channel;
use crate::fields;
use crate::json::ShapeError;

/// Everything that one response instructs; GRIP `Grip-*` response headers, GRIP
/// `application/grip-instruct`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruct {
    /// Whether and how to hold the client; absent means: answer and be done.
    pub hold: Option<HoldMode>,
    /// Channels to subscribe the client to, in header order.
    pub channels: Vec<Channel>,
    /// How long a response hold waits; GRIP `Grip-Timeout`.
    pub timeout: Duration,
    /// What to send to an otherwise silent stream; GRIP `Grip-Keep-Alive`.
    pub keep_alive: Option<KeepAlive>,
    /// Where the next part of a stream comes from; GRIP `Grip-Link` with `rel=next`.
    pub next_link: Option<NextLink>,
    /// Whom to tell that the client is gone; GRIP `Grip-Link` with `rel=gone`.
    pub gone_link: Option<String>,
    /// Subscription metadata for filters; GRIP `Grip-Set-Meta`.
    pub meta: BTreeMap<String, String>,
    /// The status that the client gets instead of the origin's; GRIP `Grip-Status`.
    pub status: Option<Status>,
    /// The only origin headers that the client may see, if any are named; GRIP `Grip-Expose-Headers`.
    pub expose_headers: Vec<HeaderName>,
}

/// How a client is held; GRIP `Grip-Hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldMode {
    /// Nothing is sent until a publish or the timeout answers the request (long-polling).
    Response,
    /// Head and initial body go out at once, publishes are appended (streaming).
    Stream,
}

/// What is sent to a stream to show that it lives; GRIP `Grip-Keep-Alive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// The bytes to send, decoded.
    pub data: Bytes,
    /// How long to wait, at least one second.
    pub timeout: Duration,
    /// What restarts the wait.
    pub mode: KeepAliveMode,
}

/// What restarts a keep-alive's wait; GRIP `Grip-Keep-Alive` parameter `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAliveMode {
    /// Every published item does, so only silence is filled.
    Idle,
    /// Nothing does: a fixed beat.
    Interval,
}

/// GRIP `Grip-Link` with `rel=next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextLink {
    /// An absolute or relative URI reference, not resolved.
    pub uri: String,
    /// How long a stream may be silent before the link is followed.
    pub timeout: Duration,
}

/// A status code and the reason phrase beside it; GRIP `Grip-Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// 100 to 999.
    pub code: http::StatusCode,
    /// The reason phrase if it is not the standard one. Holds no control character.
    pub reason: Option<String>,
}

impl Status {
    /// A status with its standard reason phrase.
    pub fn new(code: http::StatusCode) -> Self {
        Self { code, reason: None }
    }

    /// The reason phrase to write: the given one, else the standard one, else nothing.
    pub fn reason(&self) -> &str {
        self.reason
            .as_deref()
            .or_else(|| self.code.canonical_reason())
            .unwrap_or_default()
    }

    /// Whether a response with this status never has a body; RFC 9110 §6.4.1.
    pub fn is_bodiless(&self) -> bool {
        self.code.is_informational() || matches!(self.code.as_u16(), 204 | 304)
    }
}

/// Why a response's instructions cannot be followed.
///
/// The texts are those of the reference proxy, because its users search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstructError {
    /// `Grip-Hold` is neither `response` nor `stream`.
    #[error("Grip-Hold must be set to either 'response' or 'stream'")]
    HoldMode,
    /// A channel names more filters than [`crate::Limits::filters`].
    #[error("too many filters for channel '{0}'")]
    TooManyFilters(String),
    /// More channels than [`crate::Limits::channels`].
    #[error("too many channels: {found}, at most {allowed} are allowed")]
    TooManyChannels {
        /// Channels in the response.
        found: usize,
        /// Channels allowed.
        allowed: usize,
    },
    /// A channel name longer than [`crate::Limits::channel_name_bytes`].
    #[error("channel name of {found} bytes is too long, at most {allowed} are allowed")]
    ChannelNameTooLong {
        /// Bytes in the name.
        found: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// A value that has to be text is not UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotText(&'static str),
    /// `Grip-Timeout` is no integer of 32 bits.
    #[error("failed to parse Grip-Timeout")]
    TimeoutSyntax,
    /// `Grip-Timeout` is negative.
    #[error("Grip-Timeout has invalid value")]
    TimeoutValue,
    /// `Grip-Keep-Alive` has parameters, but no data.
    #[error("Grip-Keep-Alive cannot be empty")]
    KeepAliveEmpty,
    /// `Grip-Keep-Alive` has an unterminated quote.
    #[error("failed to parse Grip-Keep-Alive")]
    KeepAliveSyntax,
    /// The keep-alive `timeout` is no integer of 32 bits.
    #[error("failed to parse Grip-Keep-Alive timeout value")]
    KeepAliveTimeoutSyntax,
    /// The keep-alive `timeout` is negative.
    #[error("Grip-Keep-Alive timeout has invalid value")]
    KeepAliveTimeoutValue,
    /// The keep-alive `mode` is neither `idle` nor `interval`.
    #[error("no such Grip-Keep-Alive mode '{0}'")]
    KeepAliveMode(String),
    /// The keep-alive `format` is none of `raw`, `cstring`, `base64`.
    #[error("no such Grip-Keep-Alive format '{0}'")]
    KeepAliveFormat(String),
    /// The keep-alive data is no valid cstring.
    #[error("failed to parse Grip-Keep-Alive cstring format")]
    KeepAliveCstring,
    /// A `Grip-Link` is not of the form `<uri>; rel=...`.
    #[error("failed to parse Grip-Link value")]
    LinkSyntax,
    /// A `Grip-Link` holds something that is no URI reference.
    #[error("Grip-Link contains invalid link")]
    LinkUri,
    /// The link `timeout` is no integer of 32 bits.
    #[error("failed to parse Grip-Link timeout value")]
    LinkTimeoutSyntax,
    /// The link `timeout` is negative.
    #[error("Grip-Link timeout has invalid value")]
    LinkTimeoutValue,
    /// `Grip-Status` does not begin with a code from 100 to 999.
    #[error("Grip-Status contains invalid status code")]
    StatusCode,
    /// `application/grip-instruct` comes with another status than 200.
    #[error("response code for application/grip-instruct content must be 200")]
    ContentStatus,
    /// The body is no JSON.
    #[error("failed to parse application/grip-instruct content as JSON")]
    ContentSyntax,
    /// The body is no JSON object.
    #[error("instruct must be an object")]
    ContentType,
    /// The `mode` of a hold is neither `response` nor `stream`.
    #[error("hold 'mode' must be set to either 'response' or 'stream'")]
    ContentHoldMode,
    /// A filter is not a string.
    #[error("filters contains value with wrong type")]
    FilterType,
    /// The body is not of the right shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// The content type of the JSON form of an instruction.
const INSTRUCT_TYPE: &[u8] = b"application/grip-instruct";

/// Whether a response is an instruction: it has a `Grip-*` header of any name, or is of type
/// `application/grip-instruct`.
pub fn is_instruct(headers: &HeaderMap) -> bool {
    headers.keys().any(fields::is_grip) || has_instruct_type(headers)
}

/// Whether the instruction is in the body, as `application/grip-instruct`.
pub fn has_instruct_type(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.split(|byte| *byte == b';').next() == Some(INSTRUCT_TYPE)
    })
}

/// Whether a response may ask for a hold, by its headers alone: it names one, or a link, or has its
/// instruction in the body.
pub fn may_hold(headers: &HeaderMap) -> bool {
    headers.contains_key(fields::GRIP_HOLD)
        || headers.contains_key(fields::GRIP_LINK)
        || has_instruct_type(headers)
}

impl Instruct {
    /// Headers for the client: the origin's, without `Grip-*`, hop-by-hop fields,
    /// `Content-Encoding` and `Content-Length`, and only the exposed ones if any are named.
    pub fn client_headers(&self, origin: &HeaderMap) -> HeaderMap {
        let named = fields::connection_names(origin);
        let exposed = &self.expose_headers;
        let mut headers = origin.clone();
        fields::retain(&mut headers, |name| {
            !fields::is_grip(name)
                && (exposed.is_empty() || exposed.contains(name))
                && !fields::is_hop_by_hop(name)
                && !named.contains(name)
                && ![CONTENT_ENCODING, CONTENT_LENGTH].contains(name)
        });
        headers
    }
}
