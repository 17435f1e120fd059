//! The configuration as its user wrote it: `hub.toml`, where every value may still be wrong.

use serde::Deserialize;

use crate::routes::RawRoute;

/// The content of `hub.toml`. Absent keys take the default; unknown ones are an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Address for clients.
    pub listen: Option<String>,
    /// Address for publishers.
    pub control: Option<String>,
    /// Path that publishers' paths may begin with.
    pub control_base: Option<String>,
    /// Where requests go.
    pub origin: Option<String>,
    /// How WebSockets reach `origin`.
    pub origin_websocket: Option<String>,
    /// File that says where requests go, in place of `origin`.
    pub routes_file: Option<String>,
    /// Where requests go, in place of `origin`.
    #[serde(default)]
    pub routes: Vec<RawRoute>,
    /// Threads that serve clients.
    pub shards: Option<usize>,
    /// Longest duration of a shutdown.
    pub drain: Option<String>,
    /// Whether error answers tell what is wrong.
    pub debug: Option<bool>,
    /// Whether answers of all routes are opened to pages of other origins.
    pub auto_cross_origin: Option<bool>,
    /// Whether messages to WebSockets of all routes are compressed.
    pub websocket_compression: Option<bool>,
    /// Whether server-sent events of all routes are resumed.
    pub sse_resume: Option<bool>,
    /// What becomes of clients of all routes that read too slowly.
    pub slow_clients: Option<String>,
    /// Whether clients may name the route of their request.
    pub accept_pushpin_route: Option<bool>,
    /// The hub's name in `CDN-Loop`.
    pub cdn_loop: Option<String>,
    /// Headers that routes with `orig_headers` do not copy.
    pub orig_headers_need_mark: Option<Vec<String>>,
    /// How long nothing follows the answer to a WebSocket's handshake.
    pub handshake_gap: Option<String>,
    /// What publishers have to prove, if anything.
    pub control_auth: Option<RawControlAuth>,
    /// An edge in front, if there is one.
    pub edge: Option<RawEdge>,
    /// How requests to the origin are signed.
    #[serde(default)]
    pub grip: RawGrip,
    /// TLS with origins.
    #[serde(default)]
    pub origin_tls: RawOriginTls,
    /// `X-Forwarded-*`.
    #[serde(default)]
    pub forwarded: RawForwarded,
    /// Bounds on input.
    #[serde(default)]
    pub limits: RawLimits,
    /// What is done with the items of channels.
    #[serde(default)]
    pub channels: Vec<RawChannelRule>,
    /// The edge to purge, if any.
    pub purge: Option<RawPurge>,
    /// What is remembered of channels.
    #[serde(default)]
    pub history: RawHistory,
    /// How items are ordered.
    #[serde(default)]
    pub order: RawOrder,
}

/// `[history]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHistory {
    /// Items of one channel.
    pub items: Option<usize>,
    /// Bytes of the items of one channel.
    pub bytes: Option<usize>,
    /// How long an item is remembered.
    pub age: Option<String>,
    /// Bytes of the items of all channels.
    pub total_bytes: Option<usize>,
}

/// `[order]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOrder {
    /// How long an item waits for the one before it.
    pub wait: Option<String>,
    /// Items of one channel that wait so.
    pub items: Option<usize>,
    /// How long an item's id is known.
    pub id_age: Option<String>,
    /// Ids that are known so.
    pub ids: Option<usize>,
}

/// `[control_auth]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawControlAuth {
    /// Key of tokens, which may also be sent itself.
    pub key: Option<String>,
    /// Issuer that tokens must name.
    pub iss: Option<String>,
    /// User for `Authorization: Basic`.
    pub user: Option<String>,
    /// The password that goes with it.
    pub password: Option<String>,
}

/// `[edge]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEdge {
    /// The edge's hub key.
    pub key: Option<RawKeys>,
}

/// A key, or several while they are changed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum RawKeys {
    /// The only one.
    One(String),
    /// Any of them.
    Several(Vec<String>),
}

impl From<String> for RawKeys {
    fn from(key: String) -> Self {
        Self::One(key)
    }
}

impl RawKeys {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Several(keys) => keys,
        }
    }
}

/// `[grip]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGrip {
    /// Key for `Grip-Sig`.
    pub sig_key: Option<String>,
    /// Issuer in `Grip-Sig`.
    pub sig_iss: Option<String>,
    /// Whether a channel's first subscribers are updated.
    pub update_on_first_subscription: Option<bool>,
    /// Key by which GRIP proxies in front are known.
    pub upstream_key: Option<String>,
}

/// `[origin_tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOriginTls {
    /// File with certificates to trust besides the system's.
    pub ca: Option<String>,
}

/// `[forwarded]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawForwarded {
    /// Rules for `X-Forwarded-For`.
    #[serde(rename = "for")]
    pub for_rules: Option<String>,
    /// Rules for `X-Forwarded-For` of GRIP proxies in front.
    pub for_trusted: Option<String>,
    /// Whether `X-Forwarded-Proto` of clients is believed.
    pub accept_proto: Option<bool>,
    /// Whether and how `X-Forwarded-Proto` is set.
    pub set_proto: Option<String>,
}

/// `[limits]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    /// Bytes in a request head.
    pub head_bytes: Option<usize>,
    /// Fields in a request head.
    pub head_fields: Option<usize>,
    /// Bytes of a body with an instruction.
    pub instruct_bytes: Option<usize>,
    /// Channels of one connection.
    pub channels: Option<usize>,
    /// Bytes in a channel name.
    pub channel_name_bytes: Option<usize>,
    /// Bytes waiting for one client.
    pub pending_bytes: Option<usize>,
    /// Bytes waiting for all clients together.
    pub total_pending_bytes: Option<usize>,
    /// Bytes for one client that the kernel takes before it can send them.
    pub unsent_bytes: Option<u32>,
    /// Bytes that the kernel keeps for one client.
    pub send_buffer: Option<usize>,
    /// Client connections of one shard.
    pub connections: Option<usize>,
    /// Client connections that are let in a second.
    pub accept_rate: Option<u32>,
    /// Connections that may wait to be accepted by one shard.
    pub backlog: Option<usize>,
    /// Bytes in a publish request.
    pub publish_bytes: Option<usize>,
    /// Items in a publish request.
    pub publish_items: Option<usize>,
    /// Items that wait for the shards.
    pub waiting_items: Option<usize>,
    /// Bytes of these items.
    pub waiting_bytes: Option<usize>,
}

/// `[purge]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPurge {
    /// The edge's address.
    pub edge: Option<String>,
    /// The edge's purge key.
    pub key: Option<String>,
    /// Whether items are preceded by a purge unless they say otherwise.
    pub default: Option<bool>,
    /// Longest wait for the edge.
    pub deadline: Option<String>,
    /// When a channel is purged once more.
    pub repurge_after: Option<String>,
    /// Channels purged in a second.
    pub per_second: Option<u32>,
    /// Channels purged at once.
    pub burst: Option<u32>,
    /// The CDN's own interface, in place of the edge.
    pub fastly: Option<RawFastly>,
}

/// `[purge.fastly]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFastly {
    /// The service's id.
    pub service: Option<String>,
    /// The account's token.
    pub token: Option<String>,
    /// Where the interface is.
    pub api: Option<String>,
    /// Whether what is purged becomes stale only.
    pub soft: Option<bool>,
}

/// An entry of `[[channels]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawChannelRule {
    /// Which channels it is for.
    pub pattern: Option<String>,
    /// Whether items are preceded by a purge unless they say otherwise.
    pub purge: Option<bool>,
    /// How long items wait after another.
    pub pace: Option<String>,
    /// What becomes of items that wait.
    pub keep: Option<String>,
    /// Longest wait for a purge.
    pub deadline: Option<String>,
    /// Items that are remembered.
    pub history_items: Option<usize>,
    /// Bytes of these items.
    pub history_bytes: Option<usize>,
    /// How long an item is remembered.
    pub history_age: Option<String>,
}

impl RawConfig {
    /// Reads `hub.toml`.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}
