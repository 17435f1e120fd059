//! What the end-to-end tests are made of.
//!
//! ```text
//! Client ──▶ Hub (in this process) ──▶ Edge (Viceroy) ──▶ Origin (scripted)
//!             ▲ publish, metrics
//! test ───────┘
//! ```
//!
//! [`chain::Chain`] is all of it wired together; [`hub::Hub`] and [`origin::Origin`] alone do for
//! what the edge has no part in. The promises are in `tests/`, one file each. Nothing here sleeps to
//! let things settle: tests wait for what they expect, and a wait that is too long shows what was
//! seen until then. The kit panics, as its callers are tests.

pub mod chain;
pub mod client;
pub mod echo;
pub mod edge;
pub mod events;
pub mod flood;
pub mod http2;
pub mod hub;
pub mod message;
pub mod native;
pub mod origin;
pub mod outage;
pub mod program;
pub mod purge_api;
pub mod released;
pub mod routes;
pub mod tls;
pub mod transcript;
pub mod websocket;

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grip::UnixTime;

/// How long anything may take that a test waits for; generous, because machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, but not longer than [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// The time of day.
pub fn now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since_epoch.map_or(0, |duration| duration.as_secs()))
}
