//! The edge: the real module in Viceroy, on a free port.

use std::net::SocketAddr;

use live_counter::stack::module;
use live_counter::stack::viceroy::{Interrupt, Manifest, Options, Viceroy};

/// The key that the edge purges for.
pub const PURGE_KEY: &str = "changeme-too";

/// The repository's manifest with this origin and the kit's keys.
pub fn manifest(origin: &str) -> Manifest {
    Manifest::of_repository()
        .expect("the repository has a manifest")
        .with_backend("origin", origin)
        .without_backend("hub")
        .without_backend("self")
        .with_secret("grip-key", crate::hub::SIG_KEY)
        .with_secret("purge-key", PURGE_KEY)
}

/// Builds the module and runs it with this manifest. Ends when dropped.
pub async fn start(manifest: Manifest) -> Viceroy {
    let module = module::build()
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    let options = Options {
        module,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        manifest,
        interrupt: Interrupt::Shared,
    };
    Viceroy::start(&options)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}
