//! Who is in front of whom, and what of the configuration depends on it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::bail;
use gripline_hub::config::{RawConfig, RawEdge};
use gripline_hub::routes::{RawRoute, RawTarget, RawTargetTable};
use serde_json::json;

use super::viceroy::Manifest;

/// Viceroy loses what comes together with the answer to a WebSocket's handshake.
const HANDSHAKE_GAP: &str = "5ms";

/// How the parts stand in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Topology {
    /// Clients, hub, edge, origin.
    #[default]
    HubFront,
    /// Clients, edge, origin; the edge sends those to the hub who are to be held.
    EdgeFront,
    /// As edge-front, but requests are handed over to the managed service, for which the hub
    /// stands in.
    Fanout,
}

impl Topology {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HubFront, Self::EdgeFront, Self::Fanout];

    /// The name, as the edge's configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HubFront => "hub-front",
            Self::EdgeFront => "edge-front",
            Self::Fanout => "fanout",
        }
    }

    /// Whether clients connect to the hub; otherwise to the edge.
    pub fn is_hub_in_front(self) -> bool {
        self == Self::HubFront
    }

    /// The edge's configuration for a hub and an edge at these addresses.
    ///
    /// # Errors
    /// If the manifest's configuration is no JSON object.
    pub fn configure_edge(
        self,
        manifest: Manifest,
        edge: SocketAddr,
        hub: SocketAddr,
        hub_key: &str,
    ) -> anyhow::Result<Manifest> {
        let manifest = match self {
            // The edge sends nothing to the hub or to itself.
            Self::HubFront => manifest.without_backend("hub").without_backend("self"),
            Self::EdgeFront => manifest
                .with_backend("hub", &format!("http://{hub}"))
                .without_backend("self"),
            Self::Fanout => manifest
                .with_backend("self", &format!("http://{edge}"))
                .without_backend("hub"),
        };
        let json = json!({"topology": self.name()});
        let changes = json.as_object().cloned().unwrap_or_default();
        manifest
            .with_secret("hub-key", hub_key)
            .with_config(changes)
    }

    /// The hub's configuration for an edge at this URL.
    pub fn configure_hub(self, config: &mut RawConfig, edge: &str, hub_key: &str) {
        match self {
            Self::HubFront => config.origin = Some(edge.to_owned()),
            Self::EdgeFront => {
                config.origin = Some(edge.to_owned());
                config.handshake_gap = Some(HANDSHAKE_GAP.to_owned());
                config.edge = Some(RawEdge {
                    key: Some(hub_key.to_owned().into()),
                });
            }
            Self::Fanout => {
                let (_, address) = edge.split_once("://").unwrap_or(("", edge));
                config.origin = None;
                config.handshake_gap = Some(HANDSHAKE_GAP.to_owned());
                config.accept_pushpin_route = Some(true);
                let target = RawTargetTable {
                    address: Some(address.to_owned()),
                    over_http: Some(true),
                    ..RawTargetTable::default()
                };
                config.routes = vec![RawRoute {
                    id: Some("self".to_owned()),
                    // Links have no name of a route.
                    host: Some("*".to_owned()),
                    targets: vec![RawTarget::Table(Box::new(target))],
                    ..RawRoute::default()
                }];
                config.edge = Some(RawEdge {
                    key: Some(hub_key.to_owned().into()),
                });
            }
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Topology {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match Self::ALL.into_iter().find(|it| it.name() == text) {
            Some(topology) => Ok(topology),
            None => bail!("{text:?} is no topology; give hub-front, edge-front or fanout"),
        }
    }
}
