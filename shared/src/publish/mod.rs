//! Publisher to hub: items, the JSON they arrive in, and the bytes they become.
//!
//! Knows nothing of who receives an item. Read [`Item`] first.

mod json;
mod render;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use crate::channel::{ChannelName, ItemId};
use crate::instruct::Status;
use crate::websocket::close::Close;

pub use crate::json::ShapeError;
pub use json::{PublishError, parse};
pub use render::StreamContent;

/// One published item: the same news, written for each transport that shall hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The full name of the channel, route prefixes included.
    pub channel: ChannelName,
    /// The item's id, for order and resumption.
    pub id: Option<ItemId>,
    /// The id of the item before it on the same channel.
    pub prev_id: Option<ItemId>,
    /// The ids of items that this one stands for, the oldest first. Not the publisher's to say: a
    /// proxy that leaves items out puts it in. Whoever has one of them misses nothing.
    pub stands_for: Vec<ItemId>,
    /// Metadata for filters.
    pub meta: BTreeMap<String, String>,
    /// Content size in bytes as the publisher counts it.
    pub size: Option<u64>,
    /// Whether the item may be held back until its predecessor has come.
    pub sequencing: Sequencing,
    /// Whether the edge forgets the channel before this item goes out.
    pub purge: Purge,
    /// For response holds; `http-response`.
    pub http_response: Option<HttpResponse>,
    /// For stream holds; `http-stream`.
    pub http_stream: Option<HttpStream>,
    /// For WebSockets; `ws-message`.
    pub ws_message: Option<WsMessage>,
}

/// Whether an item waits for the one before it; publish member `no-seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequencing {
    /// Ordered by `id` and `prev-id`.
    Ordered,
    /// Delivered as it comes.
    Unordered,
}

/// What an item says of the edge's cache; publish member `purge`, ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// As the hub is configured.
    Default,
    /// The channel is purged before the item goes out.
    Before,
    /// The cache is left alone.
    Never,
}

/// What a response hold does with an item; publish format `http-response`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpResponse {
    /// Answers the held request.
    Send(ResponseMessage),
    /// Asks the origin again.
    Hint,
    /// Does nothing to a response hold.
    Close,
    /// Does nothing to a response hold.
    Refresh,
}

/// An answer to held requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseMessage {
    /// The status of the answer.
    pub status: Status,
    /// Headers in the order given; none of them is `Grip-*`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The only headers of the answer that the client may see, inherited ones included, if any are
    /// named; GRIP `Grip-Expose-Headers`.
    pub expose_headers: Vec<HeaderName>,
    /// The body, or how to make it.
    pub body: ResponseBody,
    /// The content filters that the body was written for; absent: any.
    pub content_filters: Option<Vec<String>>,
}

/// The body of an answer to held requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseBody {
    /// The same for every receiver; publish members `body` and `body-bin`.
    Complete(Bytes),
    /// Made of the body that each receiver would have got; publish member `body-patch`, RFC 6902.
    Patch(json_patch::Patch),
}

/// What a stream hold does with an item; publish format `http-stream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpStream {
    /// Appends to the stream.
    Send {
        /// The bytes as they reach the client, encoded once.
        content: StreamContent,
        /// The content filters that the content was written for; absent: any.
        content_filters: Option<Vec<String>>,
    },
    /// Follows the next link.
    Hint,
    /// Ends the stream.
    Close,
    /// Does nothing to a stream hold.
    Refresh,
}

/// What a WebSocket does with an item; publish format `ws-message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WsMessage {
    /// Sends a message.
    Send {
        /// The kind of message.
        kind: WsMessageKind,
        /// Its payload.
        content: Bytes,
        /// The content filters that the content was written for; absent: any.
        content_filters: Option<Vec<String>>,
    },
    /// Accepted, does nothing.
    Hint,
    /// Closes the WebSocket; absent: with a close frame without code.
    Close(Option<Close>),
    /// Makes a WebSocket-over-HTTP request.
    Refresh,
}

/// The kind of a WebSocket message; publish member `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WsMessageKind {
    /// Text message.
    Text,
    /// Binary message.
    Binary,
    /// Ping control frame.
    Ping,
    /// Pong control frame.
    Pong,
}
