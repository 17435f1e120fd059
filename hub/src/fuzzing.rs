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
