//! The configuration: [`RawConfig`] as written, [`Config`] as checked, and the way between them.
//!
//! [`RawConfig::check`] reports every mistake at once. Whoever holds a [`Config`] checks nothing.

mod channels;
mod control_auth;
mod history;
pub(crate) mod keys;
mod origin_tls;
mod purge;
mod raw;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use grip::signature::{Keyring, SigningKey, VerifyingKey};
use http::header::HeaderName;

use crate::routes::{self, EventsPerRequest, ReadError, Routes, WebSocketTransport};

pub use crate::http_address::{HttpAddress, HttpAddressError};
pub use channels::{ChannelPattern, ChannelRule, Keep};
pub use control_auth::{ControlAuth, Tokens};
pub use history::{History, HistoryRule, Order};
pub use keys::Secret;
pub use origin_tls::OriginTls;
pub use purge::{FastlyPurge, FastlyToken, Purge, PurgeRate, PurgeTarget};
pub use raw::{
    RawChannelRule, RawConfig, RawControlAuth, RawEdge, RawFastly, RawForwarded, RawGrip,
    RawHistory, RawKeys, RawLimits, RawOrder, RawOriginTls, RawPurge,
};

/// `hub.toml` with every setting, its default and its meaning; `--print-config` shows it.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// More than a machine accepts.
const MAX_ACCEPT_RATE: u32 = 1_000_000;

/// What the hub's code may rely on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where publishers connect.
    pub control: SocketAddr,
    /// What publishers' paths may begin with: empty, or a path without a slash at its end.
    pub control_base: String,
    /// How long nothing follows the answer to a WebSocket's handshake.
    pub handshake_gap: Duration,
    /// What publishers have to prove, if anything.
    pub control_auth: Option<ControlAuth>,
    /// By these, an edge in front is known; absent: there is none.
    pub edge_keys: Option<Keyring>,
    /// Where requests go.
    pub origin: HttpAddress,
    /// How WebSockets reach it.
    pub origin_websocket: WebSocketTransport,
    /// Which targets requests go to.
    pub routes: Arc<Routes>,
    /// The file that the routes are from, if they are from one.
    pub routes_file: Option<PathBuf>,
    /// Threads that serve clients, at least one.
    pub shards: usize,
    /// Longest duration of a shutdown.
    pub drain: Duration,
    /// Whether error answers tell what is wrong with an origin's response.
    pub debug: bool,
    /// How requests to the origin are signed; GRIP `Grip-Sig`.
    pub signature: Signature,
    /// What the first subscription to a channel leads to.
    pub first_subscription: FirstSubscription,
    /// Who is trusted to be an origin.
    pub origin_tls: OriginTls,
    /// Whether answers of all routes are opened to pages of other origins.
    pub auto_cross_origin: bool,
    /// Whether messages to WebSockets of all routes are compressed; RFC 7692.
    pub websocket_compression: Compression,
    /// Whether server-sent events of all routes are resumed; `Last-Event-ID`.
    pub sse_resume: SseResume,
    /// What becomes of clients that read too slowly, where their route says nothing.
    pub slow_clients: SlowClients,
    /// Whether clients may name the route of their request; `Pushpin-Route`.
    pub accept_pushpin_route: bool,
    /// The hub's name in `CDN-Loop`; RFC 8586.
    pub cdn_loop: Option<String>,
    /// Headers that routes with `orig_headers` do not copy.
    pub orig_headers_need_mark: Vec<HeaderName>,
    /// By this, GRIP proxies in front are known; GRIP `Grip-Sig`.
    pub upstream_key: Option<VerifyingKey>,
    /// What becomes of `X-Forwarded-For`.
    pub forwarded_for: ForwardedFor,
    /// The same for GRIP proxies in front.
    pub forwarded_for_trusted: ForwardedFor,
    /// What becomes of `X-Forwarded-Proto`.
    pub forwarded_protocol: ForwardedProtocol,
    /// Bounds on input.
    pub limits: Limits,
    /// What is done with the items of a channel; the first rule that is for it counts.
    pub channels: Arc<[ChannelRule]>,
    /// The edge to purge, if any.
    pub purge: Option<Purge>,
    /// What is remembered of a channel, where no rule says otherwise.
    pub history: History,
    /// Bytes that are remembered of all channels.
    pub history_bytes: usize,
    /// How items are ordered.
    pub order: Order,
}

/// How requests to the origin are signed.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The key.
    pub key: SigningKey,
    /// The issuer to name.
    pub issuer: String,
    /// Whether the key was made up at start, so that nobody else knows it.
    pub is_random: bool,
}

/// What the first subscription to a channel leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstSubscription {
    /// Nothing.
    Leave,
    /// A second later everybody on the channel asks the origin again.
    Update,
}

/// What becomes of `X-Forwarded-For`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForwardedFor {
    /// Keep only so many of the values that came, the last ones.
    pub keep: Option<usize>,
    /// Add the client's address.
    pub append: bool,
}

/// What becomes of `X-Forwarded-Proto` and `X-Forwarded-Protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedProtocol {
    /// Whether the client's is believed.
    pub accept: bool,
    /// What is said of the client's own connection.
    pub set: SetProtocol,
}

/// What origins are told of the client's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetProtocol {
    /// Nothing; what the client says is passed on, unless it is believed.
    Neither,
    /// `X-Forwarded-Proto`.
    Proto,
    /// `X-Forwarded-Proto` and `X-Forwarded-Protocol`.
    Both,
}

/// Bounds on input; each bounds memory per connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a request head.
    pub head_bytes: usize,
    /// Fields in a request head.
    pub head_fields: usize,
    /// Bytes of a response body with an instruction, and of its request's body.
    pub instruct_bytes: usize,
    /// Bytes waiting for one client.
    pub pending_bytes: usize,
    /// Bytes waiting for all clients together.
    pub total_pending_bytes: usize,
    /// Bytes for one client that the kernel takes before it can send them; `TCP_NOTSENT_LOWAT`.
    /// `None` is the system's choice.
    pub unsent_bytes: Option<u32>,
    /// Bytes that the kernel keeps for one client; `SO_SNDBUF`. `None` is the system's choice.
    pub send_buffer: Option<usize>,
    /// Client connections of one shard.
    pub connections: usize,
    /// Client connections that are let in a second, by all shards together.
    pub accept_rate: Option<NonZeroU32>,
    /// Connections that may wait to be accepted by one shard; the system may allow fewer.
    pub backlog: usize,
    /// Bytes in a publish request.
    pub publish_bytes: usize,
    /// Items of all publish requests that wait for the shards.
    pub waiting_items: usize,
    /// Bytes of these items.
    pub waiting_bytes: usize,
    /// Bounds on instructions and publishes.
    pub grip: grip::Limits,
}

/// Whether messages of WebSockets are compressed for clients that can; RFC 7692.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// They are not.
    Off,
    /// They are.
    On,
}

/// Whether clients of server-sent events get what came after their `Last-Event-ID`; WHATWG HTML
/// §9.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SseResume {
    /// The header is the origin's to understand.
    #[default]
    Off,
    /// From the history. The hub gives the events their ids, and keeps the header to itself.
    On,
}

/// What becomes of clients that read too slowly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SlowClients {
    /// They are disconnected.
    #[default]
    Disconnect,
    /// Of the items that wait for them, the oldest are dropped.
    DropOldest,
    /// All items that wait for them are dropped but for the newest.
    LatestOnly,
}

impl SlowClients {
    /// What [`Self::named`] knows.
    pub(crate) const NAMES: &str = "disconnect, drop-oldest or latest-only";

    /// As configurations name it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "disconnect" => Self::Disconnect,
            "drop-oldest" => Self::DropOldest,
            "latest-only" => Self::LatestOnly,
            _ => return None,
        })
    }
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting, as `hub.toml` names it: `listen`, `grip.sig_key`.
    pub key: String,
    /// The value, what is wrong with it, and what is allowed.
    pub problem: String,
}

/// Every mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Mistake>);

impl ConfigErrors {
    /// The mistakes, in the order of the settings.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { key, problem }) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{key}: {problem}")?;
        }
        Ok(())
    }
}

impl RawConfig {
    /// Checks everything; `directory` is where relative `file:` keys are.
    ///
    /// # Errors
    /// All mistakes, each with its key, the value and what is allowed.
    pub fn check(&self, directory: &Path) -> Result<Config, ConfigErrors> {
        let mut checker = Checker {
            directory,
            mistakes: Vec::new(),
        };
        let config = checker.config(self);
        match config {
            Some(config) if checker.mistakes.is_empty() => Ok(config),
            _ => Err(ConfigErrors(checker.mistakes)),
        }
    }
}

/// What an optional setting means: `None` if it is there and wrong.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are different, and both are known in one place only"
)]
fn present<T>(checked: Option<Option<T>>) -> Option<Option<T>> {
    match checked {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

struct Checker<'a> {
    directory: &'a Path,
    mistakes: Vec<Mistake>,
}

impl Checker<'_> {
    /// `None` if anything is wrong; every part is checked before that is known.
    fn config(&mut self, raw: &RawConfig) -> Option<Config> {
        let listen = self.address("listen", raw.listen.as_deref().unwrap_or("127.0.0.1:7999"));
        let control = self.control(
            raw.control.as_deref().unwrap_or("127.0.0.1:5561"),
            raw.control_auth.as_ref(),
        );
        let control_base = self.control_base(raw.control_base.as_deref().unwrap_or(""));
        let origin = raw.origin.as_deref().unwrap_or("http://127.0.0.1:8080");
        let origin = self.http_address("origin", origin);
        let websocket = self.origin_websocket(raw);
        let routes = self.routes(raw, origin.as_ref(), websocket.unwrap_or_default());
        let drain = self.duration("drain", raw.drain.as_deref().unwrap_or("5s"));
        let control_auth = raw
            .control_auth
            .as_ref()
            .map(|auth| self.control_auth(auth));
        let edge_keys = raw.edge.as_ref().map(|edge| self.edge_keys(edge));
        let gap = raw.handshake_gap.as_deref().unwrap_or("0s");
        let handshake_gap = self.duration("handshake_gap", gap);
        let signature = self.signature(&raw.grip);
        let origin_tls = self.origin_tls(&raw.origin_tls);
        let forwarded = &raw.forwarded;
        let forwarded_for = self.forwarded_for("forwarded.for", forwarded.for_rules.as_deref());
        let forwarded_for_trusted =
            self.forwarded_for("forwarded.for_trusted", forwarded.for_trusted.as_deref());
        let set_proto = self.set_proto(forwarded.set_proto.as_deref().unwrap_or("proto-only"));
        let upstream_key = raw.grip.upstream_key.as_ref();
        let upstream_key = upstream_key.map(|text| self.upstream_key(text));
        let cdn_loop = raw.cdn_loop.as_ref().map(|token| self.cdn_loop(token));
        let need_mark = raw.orig_headers_need_mark.as_deref().unwrap_or_default();
        let orig_headers_need_mark = self.header_names("orig_headers_need_mark", need_mark);
        let limits = self.limits(&raw.limits);
        if limits.pending_bytes < limits.publish_bytes {
            self.mistake::<()>(
                "limits.pending_bytes",
                format_args!(
                    "{} is less than publish_bytes; one item could end every stream that gets it",
                    limits.pending_bytes
                ),
            );
        }
        let channels = self.channel_rules(raw);
        let purge = raw.purge.as_ref().map(|purge| self.purge(purge));
        let slow_clients = self.slow_clients(raw.slow_clients.as_deref());
        let history = self.history(&raw.history);
        let order = self.order(&raw.order);
        let (history, history_bytes) = history?;
        Some(Config {
            listen: listen?,
            control: control?,
            control_base: control_base?,
            control_auth,
            handshake_gap: handshake_gap?,
            edge_keys: present(edge_keys)?,
            routes: Arc::new(routes?),
            routes_file: raw.routes_file.as_ref().map(|it| self.directory.join(it)),
            origin: origin?,
            origin_websocket: websocket?,
            shards: match raw.shards.unwrap_or(0) {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                shards => shards,
            },
            drain: drain?,
            debug: raw.debug.unwrap_or(false),
            signature: signature?,
            first_subscription: if raw.grip.update_on_first_subscription.unwrap_or(false) {
                FirstSubscription::Update
            } else {
                FirstSubscription::Leave
            },
            origin_tls: origin_tls?,
            auto_cross_origin: raw.auto_cross_origin.unwrap_or(false),
            websocket_compression: match raw.websocket_compression {
                Some(true) => Compression::On,
                Some(false) | None => Compression::Off,
            },
            sse_resume: if raw.sse_resume.unwrap_or(false) {
                SseResume::On
            } else {
                SseResume::Off
            },
            slow_clients: slow_clients?,
            accept_pushpin_route: raw.accept_pushpin_route.unwrap_or(false),
            cdn_loop: present(cdn_loop)?,
            orig_headers_need_mark: orig_headers_need_mark?,
            upstream_key: present(upstream_key)?,
            forwarded_for: forwarded_for?,
            forwarded_for_trusted: forwarded_for_trusted?,
            forwarded_protocol: ForwardedProtocol {
                accept: forwarded.accept_proto.unwrap_or(false),
                set: set_proto?,
            },
            limits,
            channels: channels?.into(),
            purge: present(purge)?,
            history,
            history_bytes,
            order: order?,
        })
    }

    fn mistake<T>(&mut self, key: &str, problem: impl fmt::Display) -> Option<T> {
        self.mistakes.push(Mistake {
            key: key.to_owned(),
            problem: problem.to_string(),
        });
        None
    }

    fn address(&mut self, key: &str, value: &str) -> Option<SocketAddr> {
        match value.parse() {
            Ok(address) => Some(address),
            Err(_) => self.mistake(
                key,
                format_args!(
                    "{value:?} is no address; give IP:PORT, such as 127.0.0.1:7999 or [::1]:0"
                ),
            ),
        }
    }

    fn control(&mut self, value: &str, auth: Option<&RawControlAuth>) -> Option<SocketAddr> {
        let address = self.address("control", value)?;
        if address.ip().is_loopback() || auth.is_some() {
            return Some(address);
        }
        self.mistake(
            "control",
            format_args!("{value:?} is not a loopback address; anybody who reaches it could publish, so give one of 127.0.0.0/8 or [::1], or configure control_auth"),
        )
    }

    /// From the one place that names targets.
    fn routes(
        &mut self,
        raw: &RawConfig,
        origin: Option<&HttpAddress>,
        websocket: WebSocketTransport,
    ) -> Option<Routes> {
        let only_one = "give only one of origin, routes_file and [[routes]]";
        match (&raw.routes_file, raw.routes.as_slice()) {
            (Some(_), _) if raw.origin.is_some() => {
                self.mistake("routes_file", format_args!("excludes origin; {only_one}"))
            }
            (Some(_), [_, ..]) => self.mistake(
                "routes_file",
                format_args!("excludes [[routes]]; {only_one}"),
            ),
            (None, [_, ..]) if raw.origin.is_some() => {
                self.mistake("routes", format_args!("excludes origin; {only_one}"))
            }
            (Some(file), []) => self.routes_file(file),
            (None, []) => origin.map(|origin| Routes::to_origin(origin, websocket)),
            (None, routes) => match routes::check(routes, self.directory) {
                Ok(routes) => Some(routes),
                Err(problems) => {
                    for (key, problem) in problems {
                        self.mistake::<()>(&key, problem);
                    }
                    None
                }
            },
        }
    }

    /// Behind the hub is an edge or an application with a GRIP library, and either of them knows
    /// requests only.
    fn origin_websocket(&mut self, raw: &RawConfig) -> Option<WebSocketTransport> {
        match raw.origin_websocket.as_deref() {
            None | Some("over-http") => {
                Some(WebSocketTransport::OverHttp(EventsPerRequest::default()))
            }
            Some("native") => Some(WebSocketTransport::Native),
            Some(value) => self.mistake(
                "origin_websocket",
                format_args!("{value:?} is not known; give over-http or native"),
            ),
        }
    }

    fn slow_clients(&mut self, name: Option<&str>) -> Option<SlowClients> {
        let name = name.unwrap_or("disconnect");
        match SlowClients::named(name) {
            Some(slow_clients) => Some(slow_clients),
            None => self.mistake(
                "slow_clients",
                format_args!("{name:?} is not known; give {}", SlowClients::NAMES),
            ),
        }
    }

    fn routes_file(&mut self, file: &str) -> Option<Routes> {
        match Routes::read(&self.directory.join(file)) {
            Ok(routes) => Some(routes),
            Err(ReadError::Mistakes { path, mistakes }) => {
                for mistake in mistakes {
                    let problem = format_args!("{}:{mistake}", path.display());
                    self.mistake::<()>("routes_file", problem);
                }
                None
            }
            Err(error) => self.mistake("routes_file", error),
        }
    }

    fn http_address(&mut self, key: &str, value: &str) -> Option<HttpAddress> {
        match value.parse::<HttpAddress>() {
            Ok(address) => Some(address),
            Err(error) => self.mistake(
                key,
                format_args!("{value:?} {error}; give http://HOST[:PORT] or https://HOST[:PORT], such as http://127.0.0.1:7676"),
            ),
        }
    }

    fn duration(&mut self, key: &str, value: &str) -> Option<Duration> {
        match humantime::parse_duration(value) {
            Ok(duration) => Some(duration),
            Err(error) => self.mistake(
                key,
                format_args!("{value:?} is no duration ({error}); give a number and a unit, such as 500ms, 5s or 2m"),
            ),
        }
    }

    fn signature(&mut self, raw: &RawGrip) -> Option<Signature> {
        let issuer = raw.sig_iss.clone().unwrap_or_else(|| "pushpin".to_owned());
        if issuer.is_empty() {
            return self.mistake("grip.sig_iss", "is empty; give a name, such as pushpin");
        }
        let key = match &raw.sig_key {
            None => Ok(keys::random()),
            Some(text) => keys::signing_key(text, self.directory),
        };
        match key {
            Ok(key) => Some(Signature {
                key,
                issuer,
                is_random: raw.sig_key.is_none(),
            }),
            Err(error) => self.mistake("grip.sig_key", error),
        }
    }

    fn origin_tls(&mut self, raw: &RawOriginTls) -> Option<OriginTls> {
        let ca = raw.ca.as_ref().map(|file| self.directory.join(file));
        match OriginTls::read(ca.as_deref()) {
            Ok(origin_tls) => Some(origin_tls),
            Err(error) => self.mistake("origin_tls.ca", error),
        }
    }

    fn upstream_key(&mut self, text: &str) -> Option<VerifyingKey> {
        match keys::verifying_key(text, self.directory) {
            Ok(key) => Some(key),
            Err(error) => self.mistake("grip.upstream_key", error),
        }
    }

    fn edge_keys(&mut self, raw: &RawEdge) -> Option<Keyring> {
        match &raw.key {
            Some(keys) => self.keyring("edge.key", keys),
            None => self.mistake("edge.key", "is missing; give the edge's hub-key"),
        }
    }

    fn keyring(&mut self, key: &str, texts: &RawKeys) -> Option<Keyring> {
        let mut keyring: Option<Keyring> = None;
        for text in texts.all() {
            match (keys::verifying_key(text, self.directory), &mut keyring) {
                (Ok(verifying), Some(keyring)) => keyring.add(verifying),
                (Ok(verifying), None) => keyring = Some(verifying.into()),
                (Err(error), _) => return self.mistake(key, error),
            }
        }
        match keyring {
            Some(keyring) => Some(keyring),
            None => self.mistake(key, "is an empty list; give a key, or two"),
        }
    }

    fn cdn_loop(&mut self, token: &str) -> Option<String> {
        let is_token = |token: &str| {
            let is_plain =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:[]".contains(&byte);
            !token.is_empty() && token.bytes().all(is_plain)
        };
        if is_token(token) {
            return Some(token.to_owned());
        }
        self.mistake(
            "cdn_loop",
            format_args!("{token:?} is no name for CDN-Loop; give one such as hub.example.com"),
        )
    }

    fn header_names(&mut self, key: &str, names: &[String]) -> Option<Vec<HeaderName>> {
        let mut checked = Vec::with_capacity(names.len());
        for name in names {
            match name.parse() {
                Ok(name) => checked.push(name),
                Err(_) => return self.mistake(key, format_args!("{name:?} is no header's name")),
            }
        }
        Some(checked)
    }

    fn set_proto(&mut self, value: &str) -> Option<SetProtocol> {
        match value {
            "false" => Some(SetProtocol::Neither),
            "proto-only" => Some(SetProtocol::Proto),
            "true" => Some(SetProtocol::Both),
            _ => self.mistake(
                "forwarded.set_proto",
                format_args!("{value:?} is not known; give true, proto-only or false"),
            ),
        }
    }

    fn forwarded_for(&mut self, key: &str, rules: Option<&str>) -> Option<ForwardedFor> {
        let mut forwarded_for = ForwardedFor::default();
        for rule in rules
            .unwrap_or("")
            .split(',')
            .map(str::trim)
            .filter(|rule| !rule.is_empty())
        {
            match rule.strip_prefix("truncate:").map(str::parse) {
                Some(Ok(keep)) => forwarded_for.keep = Some(keep),
                None if rule == "append" => forwarded_for.append = true,
                _ => {
                    return self.mistake(
                        key,
                        format_args!(
                            "{rule:?} is no rule; give truncate:N or append, or both with a comma"
                        ),
                    );
                }
            }
        }
        Some(forwarded_for)
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let grip = grip::Limits::default();
        Limits {
            head_bytes: self.limit("head_bytes", raw.head_bytes, 8192, 8192),
            head_fields: self.limit("head_fields", raw.head_fields, 64, 1),
            instruct_bytes: self.limit("instruct_bytes", raw.instruct_bytes, 100_000, 1),
            pending_bytes: self.limit("pending_bytes", raw.pending_bytes, 1_000_000, 1),
            unsent_bytes: Some(raw.unsent_bytes.unwrap_or(131_072)).filter(|bytes| *bytes > 0),
            send_buffer: raw.send_buffer.filter(|bytes| *bytes > 0),
            total_pending_bytes: self.limit(
                "total_pending_bytes",
                raw.total_pending_bytes,
                1 << 30,
                1,
            ),
            connections: self.limit("connections", raw.connections, 1_000_000, 1),
            accept_rate: self.accept_rate(raw.accept_rate.unwrap_or(0)),
            backlog: self.limit("backlog", raw.backlog, 4096, 1),
            publish_bytes: self.limit("publish_bytes", raw.publish_bytes, 1_000_000, 1),
            waiting_items: self.limit("waiting_items", raw.waiting_items, 100_000, 1),
            waiting_bytes: self.limit("waiting_bytes", raw.waiting_bytes, 256 << 20, 1),
            grip: grip::Limits {
                channels: self.limit("channels", raw.channels, grip.channels, 1),
                channel_name_bytes: self.limit(
                    "channel_name_bytes",
                    raw.channel_name_bytes,
                    grip.channel_name_bytes,
                    1,
                ),
                items: self.limit("publish_items", raw.publish_items, grip.items, 1),
                filters: grip.filters,
            },
        }
    }

    /// `None` is no limit.
    fn accept_rate(&mut self, per_second: u32) -> Option<NonZeroU32> {
        if per_second > MAX_ACCEPT_RATE {
            return self.mistake(
                "limits.accept_rate",
                format_args!(
                    "{per_second} is too large; at most {MAX_ACCEPT_RATE}, or 0 for no limit"
                ),
            );
        }
        NonZeroU32::new(per_second)
    }

    fn limit(&mut self, key: &str, value: Option<usize>, default: usize, least: usize) -> usize {
        let value = value.unwrap_or(default);
        if value < least {
            let key = format!("limits.{key}");
            self.mistake::<()>(&key, format_args!("{value} is too small; at least {least}"));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str) -> Result<Config, ConfigErrors> {
        RawConfig::from_toml(toml).unwrap().check(Path::new("."))
    }

    #[track_caller]
    fn check_mistake(toml: &str, expected: &str) {
        let mistakes = check(toml).expect_err(toml).to_string();
        assert!(mistakes.contains(expected), "{mistakes}\nlacks\n{expected}");
    }

    #[test]
    fn the_reference_file_states_the_defaults() {
        let stated = check(DEFAULT_TOML).unwrap();
        let implied = check("").unwrap();
        // Keys are random and differ; everything else prints the same.
        assert_eq!(format!("{stated:?}"), format!("{implied:?}"));
    }

    #[test]
    fn the_reference_file_names_every_key() {
        // What is commented out has no default; with it the file must still be valid.
        let complete: String = DEFAULT_TOML
            .lines()
            .map(|line| {
                let setting = line.strip_prefix("# ").filter(|rest| {
                    rest.starts_with('[')
                        || rest
                            .split_once(" = ")
                            .is_some_and(|(key, _)| !key.contains(' '))
                });
                setting.unwrap_or(line).to_owned() + "\n"
            })
            .collect();
        let raw = RawConfig::from_toml(&complete).unwrap();
        let printed = format!("{raw:?}");
        assert!(!printed.contains("None"), "a key is missing: {printed}");
        let raw = RawConfig {
            origin: None,
            routes_file: None,
            ..raw
        };
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        // Only one target is to be purged, so each is tried without the other.
        let purge = raw.purge.clone().unwrap();
        let without_edge = RawConfig {
            purge: Some(RawPurge {
                edge: None,
                key: None,
                ..purge.clone()
            }),
            ..raw.clone()
        };
        without_edge.check(&directory).unwrap();
        let raw = RawConfig {
            purge: Some(RawPurge {
                fastly: None,
                ..purge
            }),
            ..raw
        };
        let config = raw.check(&directory).unwrap();
        assert!(config.purge.is_some() && config.control_auth.is_some());
        assert_eq!(config.routes.all().len(), 1);
    }

    #[test]
    fn mistakes_name_the_key_the_value_and_what_is_allowed() {
        check_mistake(
            "listen = \"x\"",
            "listen: \"x\" is no address; give IP:PORT",
        );
        check_mistake(
            "control = \"0.0.0.0:5561\"",
            "control: \"0.0.0.0:5561\" is not a loopback address; anybody who reaches it could publish, so give one of 127.0.0.0/8 or [::1], or configure control_auth",
        );
        check_mistake("control_base = \"x\"", "control_base: \"x\" is no path");
        check_mistake(
            "control_base = \"/a?b\"",
            "control_base: \"/a?b\" is no path; give one such as /service/x",
        );
        check_mistake(
            "origin = \"ftp://a\"",
            "origin: \"ftp://a\" has no scheme that is supported; give http://",
        );
        check_mistake(
            "origin = \"http://a/b\"",
            "origin: \"http://a/b\" has a path",
        );
        check_mistake(
            "origin_websocket = \"yes\"",
            "origin_websocket: \"yes\" is not known; give over-http or native",
        );
        check_mistake("origin = \"a b\"", "origin: \"a b\" is no URL");
        check_mistake("drain = \"5\"", "drain: \"5\" is no duration");
        check_mistake("[grip]\nsig_key = \"\"", "grip.sig_key: the key is empty");
        check_mistake(
            "[grip]\nsig_key = \"base64:$\"",
            "grip.sig_key: the text after base64: is not base64",
        );
        check_mistake("[grip]\nsig_iss = \"\"", "grip.sig_iss: is empty");
        check_mistake(
            "[forwarded]\nfor = \"all\"",
            "forwarded.for: \"all\" is no rule",
        );
        check_mistake(
            "[limits]\nhead_bytes = 1",
            "limits.head_bytes: 1 is too small; at least 8192",
        );
        check_mistake(
            "[limits]\nbacklog = 0\naccept_rate = 1000001",
            "limits.accept_rate: 1000001 is too large; at most 1000000, or 0 for no limit\nlimits.backlog: 0 is too small",
        );
        check_mistake(
            "[limits]\nwaiting_items = 0\nwaiting_bytes = 0",
            "limits.waiting_items: 0 is too small; at least 1\nlimits.waiting_bytes: 0 is too small",
        );
        check_mistake(
            "[origin_tls]\nca = \"none\"",
            "origin_tls.ca: cannot read ./none",
        );
        check_mistake(
            "handshake_gap = \"5\"",
            "handshake_gap: \"5\" is no duration",
        );
        check_mistake("[edge]", "edge.key: is missing; give the edge's hub-key");
        check_mistake("[edge]\nkey = []", "edge.key: is an empty list");
        check_mistake("[edge]\nkey = [\"a\", \"\"]", "edge.key: the key is empty");
        check_mistake("[purge]", "purge.edge: is missing");
        check_mistake(
            "[purge]\nedge = \"https://a/b\"",
            "purge.edge: \"https://a/b\" has a path; give http://HOST[:PORT] or https://",
        );
        check_mistake("[purge]", "purge.key: is missing");
    }

    #[test]
    fn mistakes_in_purges_are_named() {
        let edge = "[purge]\nedge = \"http://a\"\nkey = \"b\"\n";
        let fastly = "[purge.fastly]\nservice = \"a1\"\ntoken = \"b\"\n";
        check_mistake(
            &format!("{edge}{fastly}"),
            "purge.fastly: excludes purge.edge and purge.key",
        );
        check_mistake(
            &format!("{edge}burst = 0"),
            "purge.burst: 0 is too small; at least 1",
        );
        check_mistake(
            &format!("{edge}deadline = \"0s\""),
            "purge.deadline: \"0s\" is no time at all",
        );
        check_mistake(
            &format!("{edge}repurge_after = \"soon\""),
            "purge.repurge_after: \"soon\" is no duration",
        );
        check_mistake(
            "[purge.fastly]",
            "purge.fastly.service: \"\" is no service's id; give its letters and digits",
        );
        check_mistake(
            "[purge.fastly]\nservice = \"a/b\"",
            "purge.fastly.service: \"a/b\" is no service's id",
        );
        check_mistake(
            "[purge.fastly]",
            "purge.fastly.token: is missing; give a text, file:PATH or env:NAME",
        );
        check_mistake(
            "[purge.fastly]\ntoken = \"file:none\"",
            "purge.fastly.token: cannot read ./none",
        );
        check_mistake(
            "[purge.fastly]\ntoken = \"env:GRIPLINE_NOWHERE\"",
            "purge.fastly.token: env:GRIPLINE_NOWHERE: environment variable not found",
        );
        check_mistake(
            "[purge.fastly]\ntoken = \"a\\nb\"",
            "purge.fastly.token: has characters that no token has",
        );
        check_mistake(
            &format!("{fastly}api = \"http://a/b\""),
            "purge.fastly.api: \"http://a/b\" has a path",
        );
    }

    #[test]
    fn a_token_may_be_in_a_file_and_does_not_show() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "secret\n").unwrap();
        let toml = "[purge.fastly]\nservice = \"a1\"\ntoken = \"file:token\"\nsoft = true";
        let raw = RawConfig::from_toml(toml).unwrap();
        let purge = raw.check(directory.path()).unwrap().purge.unwrap();
        let printed = format!("{purge:?}");
        assert!(!printed.contains("secret"), "{printed}");
        let PurgeTarget::Fastly(fastly) = purge.target else {
            panic!("{printed}");
        };
        assert_eq!(fastly.token.value(), "secret");
        assert_eq!(fastly.api.to_string(), "https://api.fastly.com");
        assert_eq!(fastly.mode, grip::cache::PurgeMode::Soft);
    }

    #[test]
    fn purges_are_repeated_and_limited_unless_it_is_said_otherwise() {
        let edge = "[purge]\nedge = \"http://a\"\nkey = \"b\"\n";
        let purge = |settings: &str| check(&format!("{edge}{settings}")).unwrap().purge.unwrap();
        let usual = purge("");
        assert_eq!(usual.repurge_after, Some(Duration::from_secs(2)));
        let rate = usual
            .rate
            .map(|rate| (rate.per_second.get(), rate.burst.get()));
        assert_eq!(rate, Some((20, 256)));
        let other = purge("repurge_after = \"0s\"\nper_second = 0");
        assert_eq!((other.repurge_after, other.rate), (None, None));
    }

    #[test]
    fn mistakes_in_channel_rules_say_where_they_are() {
        let rule = |settings: &str| format!("[[channels]]\npattern = \"a\"\n{settings}");
        check_mistake("[[channels]]", "channels[0].pattern: is missing");
        check_mistake(
            "[[channels]]\npattern = \"\"",
            "channels[0].pattern: is empty; give a channel's name, or * for all",
        );
        check_mistake(
            &rule("pace = \"fast\""),
            "channels[0].pace: \"fast\" is no duration",
        );
        check_mistake(
            &rule("pace = \"0s\""),
            "channels[0].pace: \"0s\" is no time at all",
        );
        check_mistake(
            &rule("deadline = \"0s\""),
            "channels[0].deadline: \"0s\" is no time at all",
        );
        check_mistake(
            &rule("pace = \"1s\"\nkeep = \"some\""),
            "channels[0].keep: \"some\" is not known; give latest or all",
        );
        check_mistake(
            &rule("keep = \"all\""),
            "channels[0].keep: needs pace beside it",
        );
        check_mistake(
            &rule("purge = true"),
            "channels[0].purge: says true, but nothing says what to purge; give [purge] too",
        );
        let second = format!("{}[[channels]]", rule(""));
        check_mistake(&second, "channels[1].pattern: is missing");
    }

    #[track_caller]
    fn check_auth_mistake(settings: &str, expected: &str) {
        check_mistake(
            &format!("[control_auth]\n{settings}"),
            &format!("control_auth.{expected}"),
        );
    }

    #[test]
    fn publishers_keys_and_passwords_must_be_usable() {
        check_auth_mistake("", "key: is missing; give it, or user and password");
        check_auth_mistake("key = \"\"", "key: the key is empty");
        check_auth_mistake("key = \"file:none\"", "key: cannot read ./none");
        check_auth_mistake("iss = \"x\"", "iss: needs control_auth.key");
        check_auth_mistake("key = \"x\"\niss = \"\"", "iss: is empty");
        check_auth_mistake("user = \"x\"", "password: is missing");
        check_auth_mistake("password = \"x\"", "user: is missing");
        check_auth_mistake("user = \"x\"\npassword = \"\"", "password: is empty");
        check_auth_mistake(
            "user = \"x:y\"\npassword = \"z\"",
            "user: \"x:y\" has a colon",
        );
    }

    #[test]
    fn with_authentication_publishers_may_come_from_anywhere() {
        let config = check("control = \"0.0.0.0:5561\"\n[control_auth]\nkey = \"secret\"").unwrap();
        assert!(!config.control.ip().is_loopback());
        let printed = format!("{config:?}");
        assert!(!printed.contains("secret"), "{printed}");
    }

    #[test]
    fn a_base_path_has_no_slash_at_its_end() {
        for (value, expected) in [("", ""), ("/", ""), ("/a", "/a"), ("/a/b/", "/a/b")] {
            let config = check(&format!("control_base = \"{value}\"")).unwrap();
            assert_eq!(config.control_base, expected, "{value}");
        }
    }

    #[test]
    fn routes_come_from_one_place() {
        let (file, routes) = ("routes_file = \"x\"", "[[routes]]");
        let origin = "origin = \"http://a\"";
        check_mistake(
            &format!("{origin}\n{file}"),
            "routes_file: excludes origin; give only one of origin, routes_file and [[routes]]",
        );
        check_mistake(
            &format!("{file}\n{routes}"),
            "routes_file: excludes [[routes]]; give only one of",
        );
        check_mistake(
            &format!("{origin}\n{routes}"),
            "routes: excludes origin; give only one of",
        );
    }

    #[test]
    fn mistakes_in_routes_say_where_they_are() {
        check_mistake(
            "[[routes]]\nhost = \"*\"\nproto = \"x\"\ntargets = [\"test\"]",
            "routes[0].proto: \"x\" is no proto; give http or ws",
        );
        check_mistake(
            "routes_file = \"/nowhere\"",
            "routes_file: cannot read /nowhere: ",
        );
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("routes"), "* test\n* localhost").unwrap();
        let raw = RawConfig::from_toml("routes_file = \"routes\"").unwrap();
        let mistakes = raw.check(directory.path()).unwrap_err();
        assert_eq!(mistakes.mistakes()[0].key, "routes_file");
        let problem = &mistakes.mistakes()[0].problem;
        let expected = "/routes:2:3: \"localhost\" is no target";
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn a_routes_file_is_beside_its_configuration() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("routes"), "* test\na test").unwrap();
        let raw = RawConfig::from_toml("routes_file = \"routes\"").unwrap();
        let config = raw.check(directory.path()).unwrap();
        assert_eq!(config.routes.all().len(), 2);
        assert_eq!(config.routes_file, Some(directory.path().join("routes")));
    }

    #[test]
    fn websockets_reach_an_origin_as_requests_unless_it_is_said_otherwise() {
        let over_http = WebSocketTransport::OverHttp(EventsPerRequest::All);
        for (toml, expected) in [
            ("", over_http),
            ("origin = \"http://a\"", over_http),
            ("origin_websocket = \"over-http\"", over_http),
            ("origin_websocket = \"native\"", WebSocketTransport::Native),
        ] {
            let config = check(toml).unwrap();
            let target = &config.routes.all()[0].targets[0];
            assert_eq!(target.websocket, expected, "{toml}");
        }
    }

    #[test]
    fn an_origin_may_be_encrypted() {
        let config = check("origin = \"https://a\"").unwrap();
        assert!(config.origin.is_https());
        assert_eq!(config.origin.port(), 443);
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mistakes = check("listen = \"x\"\ncontrol = \"y\"\ndrain = \"z\"").unwrap_err();
        assert_eq!(mistakes.0.len(), 3, "{mistakes}");
    }

    #[test]
    fn unknown_keys_are_mistakes_with_their_line() {
        let error = RawConfig::from_toml("listen = \"127.0.0.1:1\"\nlisen = 1").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("line 2") && text.contains("lisen"), "{text}");
    }

    #[test]
    fn forwarded_for_rules_combine() {
        let config = check("[forwarded]\nfor = \"truncate:2, append\"").unwrap();
        let expected = ForwardedFor {
            keep: Some(2),
            append: true,
        };
        assert_eq!(config.forwarded_for, expected);
    }
}
