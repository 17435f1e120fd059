//! What fuzz targets call of parts that nobody else sees.

use grip::UnixTime;
use http::header::HeaderMap;

use crate::config::Config;

/// Runs the operations that the bytes choose against an engine.
///
/// # Panics
/// If it breaks a promise.
pub fn engine(bytes: &[u8]) {
    crate::engine::simulation::simulate(bytes);
}

/// Runs the operations that the bytes choose against an engine that holds WebSockets.
///
/// # Panics
/// If it breaks a promise.
pub fn websockets(bytes: &[u8]) {
    crate::engine::websocket::simulation::simulate(bytes);
}

/// Reads the bytes as WebSocket frames, all at once and in parts that the first byte chooses.
///
/// # Panics
/// If what is read depends on the parts.
pub fn frames(bytes: &[u8]) {
    crate::frames::check_splits(bytes);
}

/// Whether the control port lets a request with this head publish.
pub fn may_publish(
    config: &Config,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    now: UnixTime,
) -> bool {
    crate::control::may_publish(config, path, query, headers, now)
}
