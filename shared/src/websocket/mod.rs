//! WebSockets between client, hub and origin, as pure code.
//!
//! Two layers that know nothing of each other: how client and origin exchange messages over HTTP,
//! and what GRIP adds to their messages, on whatever transport.
//!
//! ```text
//! over_http: what an origin is asked, and when ── event: the bodies of these requests and answers
//! extension: which messages are for the hub ────── control: what those say
//! ```
//!
//! Frames of RFC 6455 are not here: the edge sees none.

pub mod close;
pub mod control;
pub mod event;
pub mod extension;
pub mod message;
pub mod over_http;

// `Instant` has no `now` in a browser, and nobody else gives one.
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;
