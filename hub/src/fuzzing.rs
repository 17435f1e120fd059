//! What fuzz targets call of parts that nobody else sees.

/// Runs the operations that the bytes choose against an engine.
///
/// # Panics
/// If it breaks a promise.
pub fn engine(bytes: &[u8]) {
    crate::engine::simulation::simulate(bytes);
}
