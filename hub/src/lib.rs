//! The Gripline hub: a GRIP proxy that holds connections and fans publishes out to them.
//!
//! ```text
//! client ─▶ listen ─▶ proxy ─▶ origin or edge
//!                       │ response with an instruction             ▲ links, questions
//!                       ▼                                       errands
//!                     engine: holds the connection, attaches its channels ───────┐
//!                                                          ▲ attached: cursor    │
//! publisher ─▶ control ─▶ purge (pace) ─▶ broker: order, interest ◀──────────────┘
//!                                           │ item
//!                                           ▼
//!                     mailbox of each interested shard ─▶ engine ─▶ outbox ─▶ socket
//! ```
//!
//! It does not cache; that is the edge's part. [`Hub::start`] runs one in this process.

mod broker;
mod bucket;
mod client_io;
pub mod config;
mod control;
mod counters;
mod dressing;
mod engine;
mod errand;
mod errands;
mod exchange;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod http_address;
mod hub;
mod lease;
mod life;
mod listen;
mod mailbox;
mod open_files;
mod outflow;
mod pages;
mod pipe;
mod proxy;
mod purge;
#[cfg(test)]
mod recovery_simulation;
pub mod routes;
#[cfg(test)]
mod seed;
mod shard;
mod upstream;
mod wire;

pub use hub::{Hub, StartError};
pub use open_files::raise_open_files;
