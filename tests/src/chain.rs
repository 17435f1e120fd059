//! Origin, edge and hub in a row, with one key for all of them.

use std::net::SocketAddr;

use gripline_hub::config::{RawConfig, RawPurge};
use live_counter::stack::ports;
use live_counter::stack::topology::Topology;
use live_counter::stack::viceroy::{Manifest, Viceroy};

use crate::client::{self, Client, Response};
use crate::edge::HUB_KEY;
use crate::hub::Hub;
use crate::origin::Origin;
use crate::{edge, hub};

/// The whole chain. The hub purges the edge before every item.
#[derive(Debug)]
pub struct Chain {
    /// Who is in front of whom.
    pub topology: Topology,
    /// What holds clients.
    pub hub: Hub,
    /// What asks the origin.
    pub edge: Viceroy,
    /// Where it all comes from.
    pub origin: Origin,
}

impl Chain {
    /// Starts a chain with the repository's configuration of the edge, and the hub in front.
    pub async fn start() -> Self {
        Self::start_with(|manifest| manifest).await
    }

    /// As [`Self::start`], with changes to the edge's configuration.
    pub async fn start_with(change: impl FnOnce(Manifest) -> Manifest) -> Self {
        Self::start_in(Topology::HubFront, change).await
    }

    /// Starts a chain with changes to the edge's configuration.
    pub async fn start_in(topology: Topology, change: impl FnOnce(Manifest) -> Manifest) -> Self {
        Self::start_as(topology, change, |_| {}).await
    }

    /// Starts a chain with changes to the configurations of the edge and of the hub.
    pub async fn start_as(
        topology: Topology,
        change: impl FnOnce(Manifest) -> Manifest,
        change_hub: impl FnOnce(&mut RawConfig),
    ) -> Self {
        let origin = Origin::start().await;
        let [hub_addr, edge_addr] = match topology {
            // Each is told where the one before it is.
            Topology::HubFront => [any_addr(); 2],
            Topology::EdgeFront | Topology::Fanout => [(); 2].map(|()| free_addr()),
        };
        let manifest = topology
            .configure_edge(edge::manifest(&origin.url()), edge_addr, hub_addr, HUB_KEY)
            .expect("the manifest can be changed");
        let fanout = (topology == Topology::Fanout).then_some(hub_addr);
        let edge = edge::start_at(edge_addr, change(manifest), fanout).await;
        let mut config = hub::config(&edge.url());
        config.listen = Some(hub_addr.to_string());
        topology.configure_hub(&mut config, &edge.url(), HUB_KEY);
        config.purge = Some(RawPurge {
            edge: Some(edge.url()),
            key: Some(edge::PURGE_KEY.to_owned()),
            ..RawPurge::default()
        });
        change_hub(&mut config);
        let hub = Hub::start_with(&config);
        Self {
            topology,
            hub,
            edge,
            origin,
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        if self.topology.is_hub_in_front() {
            self.hub.addr()
        } else {
            self.edge.addr()
        }
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

/// Where the first client's answer is from, by `X-Cache`. A request that is handed over when its
/// answer is found comes back, and then finds it in the cache.
pub fn first_source(topology: Topology) -> &'static str {
    match topology {
        Topology::HubFront | Topology::EdgeFront => "miss",
        Topology::Fanout => "hit",
    }
}

fn any_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An address that is free right now.
pub fn free_addr() -> SocketAddr {
    ports::choose(any_addr()).expect("there are free ports")
}
