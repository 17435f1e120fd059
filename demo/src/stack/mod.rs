//! What it takes to run the edge on a workstation: its module, Viceroy, free ports, and waiting.
//!
//! What runs as a child process is ended when its value is dropped, so a failing test or a failing
//! start leaves nothing behind. This module knows no protocol beyond `GET` and a status code, and
//! nothing of Live Counter. Start with [`viceroy::Viceroy`].

pub mod health;
mod job;
pub mod module;
pub mod ports;
pub mod topology;
pub mod viceroy;

use std::path::{Path, PathBuf};

/// The directory of the workspace that this package was built in.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("the package is in the workspace");
    root.to_owned()
}
