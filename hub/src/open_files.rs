//! The process's limit of open files: every client takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one and returns what it is then; `None` is no
/// limit.
///
/// Programs are started with a soft limit of 1,024 for the sake of `select`, which breaks with
/// larger descriptors and which nothing here uses. It is the process's, so it is for programs to
/// call, not for [`Hub::start`](crate::Hub::start).
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            limit.current
        }
    }
}
