//! Which seed a test of many fails with.

/// Says so when the test panics.
pub(crate) struct Seed(pub(crate) u64);

#[expect(clippy::print_stderr, reason = "for whoever reads of the failure")]
impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}
