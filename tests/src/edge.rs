//! The edge: the real module in Viceroy, on a free port.

use std::net::SocketAddr;
use std::path::PathBuf;

use grip::signature::{SigningKey, grip_sig, purge_token};
use live_counter::stack::module;
use live_counter::stack::viceroy::{Interrupt, Manifest, Options, Viceroy};

use crate::client::{self, Response};
use crate::hub::{SIG_ISS, SIG_KEY};
use crate::now;

/// The key that the edge purges for.
pub const PURGE_KEY: &str = "changeme-too";

/// The key that signs what the hub gets from the edge.
pub const HUB_KEY: &str = "changeme-as-well";

/// The repository's manifest with this origin and the kit's keys.
pub fn manifest(origin: &str) -> Manifest {
    Manifest::of_repository()
        .expect("the repository has a manifest")
        .with_backend("origin", origin)
        .without_backend("hub")
        .without_backend("self")
        .with_secret("grip-key", SIG_KEY)
        .with_secret("purge-key", PURGE_KEY)
}

/// Builds the module and runs it with this manifest. Ends when dropped.
pub async fn start(manifest: Manifest) -> Viceroy {
    start_at(SocketAddr::from(([127, 0, 0, 1], 0)), manifest, None).await
}

/// As [`start`], on this address, with the hub that stands in for the managed service.
pub async fn start_at(
    listen: SocketAddr,
    manifest: Manifest,
    fanout: Option<SocketAddr>,
) -> Viceroy {
    start_options(&Options {
        module: module().await,
        listen,
        manifest,
        fanout,
        interrupt: Interrupt::Shared,
    })
    .await
}

/// Runs a module that there is already, as [`start`] does.
pub async fn start_module(module: PathBuf, manifest: Manifest) -> Viceroy {
    start_options(&Options {
        module,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        manifest,
        fanout: None,
        interrupt: Interrupt::Shared,
    })
    .await
}

async fn start_options(options: &Options) -> Viceroy {
    Viceroy::start(options)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// Builds the module; its path.
pub async fn module() -> PathBuf {
    module::build()
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// A field with a signature such as the hub's.
pub fn signed() -> String {
    signed_with(SIG_KEY)
}

/// As [`signed`], with another key.
pub fn signed_with(key: &str) -> String {
    let key = SigningKey::hs256(key.as_bytes()).expect("the key is not empty");
    format!("Grip-Sig: {}", grip_sig(&key, SIG_ISS, now()))
}

/// Sends a properly signed purge request.
pub async fn purge(addr: SocketAddr, body: &str) -> Response {
    let key = SigningKey::hs256(PURGE_KEY.as_bytes()).expect("the key is not empty");
    let token = purge_token(&key, body.as_bytes(), now());
    let authorization = format!("Authorization: Bearer {token}");
    purge_as(addr, &[&authorization], body).await
}

/// Sends a purge request with these fields.
pub async fn purge_as(addr: SocketAddr, fields: &[&str], body: &str) -> Response {
    client::request(addr, "POST", "/.gripline/purge", fields, body).await
}
