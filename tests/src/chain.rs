//! Origin, edge and hub in a row, with one key for all of them.

use std::net::SocketAddr;

use gripline_hub::config::RawPurge;
use live_counter::stack::viceroy::{Manifest, Viceroy};

use crate::client::{self, Client, Response};
use crate::hub::Hub;
use crate::origin::Origin;
use crate::{edge, hub};

/// The whole chain. The hub purges the edge before every item.
#[derive(Debug)]
pub struct Chain {
    /// What clients connect to.
    pub hub: Hub,
    /// Between hub and origin.
    pub edge: Viceroy,
    /// Where it all comes from.
    pub origin: Origin,
}

impl Chain {
    /// Starts a chain with the repository's configuration of the edge.
    pub async fn start() -> Self {
        Self::start_with(|manifest| manifest).await
    }

    /// Starts a chain with changes to the edge's configuration.
    pub async fn start_with(change: impl FnOnce(Manifest) -> Manifest) -> Self {
        let origin = Origin::start().await;
        let edge = edge::start(change(edge::manifest(&origin.url()))).await;
        let mut config = hub::config(&edge.url());
        config.purge = Some(RawPurge {
            edge: Some(edge.url()),
            key: Some(edge::PURGE_KEY.to_owned()),
            ..RawPurge::default()
        });
        let hub = Hub::start_with(&config);
        Self { hub, edge, origin }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.hub.addr()
    }

    /// Asks for something that is held, as a new client.
    pub async fn open(&self, target: &str) -> Client {
        Client::get(self.addr(), target, &[]).await
    }

    /// Asks for something that is answered, as a new client.
    pub async fn get(&self, target: &str) -> Response {
        client::get(self.addr(), target, &[]).await
    }
}
