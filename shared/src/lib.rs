//! The GRIP protocols as pure code, shared by the hub and the edge.
//!
//! This crate opens no socket, reads no clock, draws no random number and spawns nothing: bytes and
//! times come in as arguments, values and bytes go out. It builds natively and for wasm, and its
//! tests run in both.
//!
//! ```text
//! origin ── response ──▶ instruct: what to hold, on which channels
//!                        cache:    may the edge store that answer, under which key, how long
//! edge ─ hold request ─▶ hold_request: a client and its response, for the hub to hold
//! publisher ─ POST ────▶ publish:  items, and the bytes they become on each transport
//!                        hold:     what a held request is answered with
//!                        filter:   what a subscription's filters make of an item
//!                        events:   ids in server-sent events
//! WebSocket ─ events ──▶ websocket: what its origin is asked over HTTP, what its messages mean
//! hub, edge, publisher ▶ signature: who said so
//! ```
//!
//! Start with [`instruct::Instruct`], [`publish::Item`] and [`websocket::over_http::OverHttp`].

pub mod cache;
pub mod channel;
pub mod cross_origin;
pub mod events;
pub mod fields;
pub mod filter;
pub mod hold;
pub mod hold_request;
pub mod http1;
pub mod instruct;
mod json;
#[cfg(test)]
mod noise;
pub mod publish;
pub mod signature;
mod value;
pub mod websocket;

pub use channel::ChannelName;

/// A moment in whole seconds since the Unix epoch, as JWT claims and HTTP dates count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This moment and `seconds` more.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this moment; zero if `earlier` is the later one.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Bounds on what one origin or publisher may ask for in one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Channels that one response may subscribe a connection to; bounds the subscription index.
    pub channels: usize,
    /// Bytes in one channel name; bounds keys in the broker, the index and surrogate keys.
    pub channel_name_bytes: usize,
    /// Filters on one channel, as the reference proxy allows.
    pub filters: usize,
    /// Items in one publish request.
    pub items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channels: 100,
            channel_name_bytes: 1024,
            filters: 5,
            items: 10_000,
        }
    }
}
