//! Routes: which targets a request goes to, and what is changed on its way there.
//!
//! The table is immutable and replaced whole; it knows hosts, paths and options, but no sockets.
//! [`Routes::find`] is what a request asks. A table comes from a routes file in Pushpin's grammar,
//! from `[[routes]]` in `hub.toml`, or from the one origin of `--origin`.

mod check;
mod file;
mod lookup;
mod properties;
mod raw;
pub(crate) mod reload;
#[cfg(test)]
mod tests;
mod values;
mod written;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use grip::ChannelName;
use grip::cross_origin::JsonpRules;
use grip::signature::SigningKey;
use http::HeaderValue;
use http::header::HeaderName;
use http::uri::{Authority, PathAndQuery};

use crate::config::SlowClients;
use crate::http_address::HttpAddress;

pub use file::{Mistake, ReadError, parse};
pub use grip::websocket::over_http::EventsPerRequest;
pub use lookup::{Lookup, Routes};
pub(crate) use raw::check;
pub use raw::{RawRoute, RawTarget, RawTargetTable};

/// One route: a condition, options, and targets in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Route {
    /// The name given to it, or else one that follows from the condition.
    pub id: Arc<str>,
    /// Whether the name was given; only then it is good for statistics.
    pub has_explicit_id: bool,
    /// What a request must be like.
    pub condition: Condition,
    /// Signs this route's requests in place of the hub's key; `sig_key`.
    pub sig_key: Option<SigningKey>,
    /// The issuer to name in place of the hub's; `sig_iss`.
    pub sig_iss: Option<String>,
    /// Stands before the names of all channels that this route's origins subscribe to.
    pub prefix: String,
    /// The host that the request is taken to be for.
    pub as_host: Option<Authority>,
    /// Bytes to take from the start of the path; [`Self::replace_beg`] overrides it.
    pub path_rem: usize,
    /// What stands in the path in place of [`Condition::path_beg`].
    pub replace_beg: Option<String>,
    /// Request headers to set, or to remove; `header`.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// What becomes of marked copies of the client's headers.
    pub orig_headers: OrigHeaders,
    /// Whether error answers tell what is wrong.
    pub debug: Setting,
    /// Whether answers are opened to pages of other origins; `aco`.
    pub cross_origin: Setting,
    /// How callbacks are answered when [`Self::cross_origin`] is on.
    pub jsonp: JsonpRules,
    /// Whether messages to WebSockets are compressed.
    pub compression: Setting,
    /// Whether server-sent events are resumed.
    pub sse_resume: Setting,
    /// What becomes of clients that read too slowly; absent: as it is usual.
    pub slow: Option<SlowClients>,
    /// Whether instructions are asked for and followed; `no_grip`.
    pub grip: Grip,
    /// The most that is logged of this route's requests, from 0 (errors) to 3 (debug).
    pub log_level: Option<u8>,
    /// At least one.
    pub targets: Vec<Target>,
}

/// What a request must be like to take a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Condition {
    /// The host that is asked for.
    pub host: Host,
    /// The protocol; `proto`.
    pub protocol: Option<Protocol>,
    /// Whether the client's connection is encrypted; `ssl`.
    pub security: Option<Security>,
    /// How the encoded path begins; it begins with `/` itself.
    pub path_beg: Option<String>,
}

/// For which hosts a route is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// For no host: only who names its id reaches it.
    ById,
    /// For all hosts that have no route of their own.
    Any,
    /// For this one, in lower case.
    Exact(String),
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Requests.
    Http,
    /// A WebSocket.
    WebSocket,
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// It is not.
    Plain,
    /// It is.
    Tls,
}

/// What becomes of the client's original headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OrigHeaders {
    /// Marked ones are removed; nothing is copied.
    #[default]
    Strip,
    /// Each is copied with a mark, and marked ones pass.
    Copy,
}

/// A route's say about something that the configuration settles for all routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Setting {
    /// As for all routes.
    #[default]
    Inherited,
    /// On, whatever it is for the others.
    On,
}

/// Whether a route speaks GRIP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Grip {
    /// Requests are signed, instructions are followed.
    #[default]
    On,
    /// A plain reverse proxy.
    Off,
}

/// One way to answer a route's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub kind: TargetKind,
    /// How its connections are encrypted; `None` if they are not.
    pub tls: Option<TlsRules>,
    /// The host that requests to it name, in place of [`Route::as_host`] and the client's.
    pub host: Option<Authority>,
    /// Which addresses may be connected to; `untrusted`.
    pub addresses: Addresses,
    /// How WebSockets reach it.
    pub websocket: WebSocketTransport,
    /// Channels that its connections are subscribed to without being told; not prefixed.
    pub subscribe: Vec<ChannelName>,
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    /// A server.
    Http {
        /// A name or an address; IPv6 without brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// The answers for tests that the hub has itself.
    Test,
}

/// How connections to a target are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRules {
    /// What its certificate must be good for.
    pub verify: Verify,
    /// The certificate that the hub shows.
    pub client: Option<ClientCertificate>,
}

/// What a target's certificate must be good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// The host that the request names.
    #[default]
    RequestHost,
    /// The host that is connected to; `trust_connect_host`.
    ConnectHost,
    /// Nothing; `insecure`.
    Nothing,
}

/// Files in PEM that prove to a target who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate; `client_cert`.
    pub certificate: PathBuf,
    /// Its key; `client_key`.
    pub key: PathBuf,
}

/// Which addresses a target's name may lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Addresses {
    /// All.
    #[default]
    All,
    /// None of a private network.
    Public,
}

/// How WebSockets reach a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WebSocketTransport {
    /// As WebSockets.
    #[default]
    Native,
    /// As requests: WebSocket-over-HTTP; `over_http`.
    OverHttp(EventsPerRequest),
}

impl Route {
    /// Whether a target of it gets WebSockets as requests.
    pub(crate) fn has_websocket_over_http(&self) -> bool {
        let is_over_http = |target: &Target| target.websocket != WebSocketTransport::Native;
        self.targets.iter().any(is_over_http)
    }

    /// The path that the origin sees: `replace_beg`, else `path_rem`. It begins with `/` whatever
    /// was removed. The query stays.
    pub fn rewrite_path(&self, path: &PathAndQuery) -> PathAndQuery {
        let beginning = self.condition.path_beg.as_deref().unwrap_or("");
        match &self.replace_beg {
            Some(replacement) => replace_beginning(path, beginning.len(), replacement),
            None => replace_beginning(path, self.path_rem, ""),
        }
    }

    /// What of a rewritten path [`TargetKind::Test`] sees: nothing of `path_beg` but a slash.
    pub fn test_path(&self, path: &PathAndQuery) -> PathAndQuery {
        let beginning = self.condition.path_beg.as_deref().unwrap_or("");
        if path.path().starts_with(beginning) {
            replace_beginning(path, beginning.len(), "")
        } else {
            path.clone()
        }
    }
}

/// Takes bytes from the start of a path, at most all, and puts something else there.
fn replace_beginning(path: &PathAndQuery, count: usize, replacement: &str) -> PathAndQuery {
    if (count == 0 && replacement.is_empty()) || !path.path().starts_with('/') {
        return path.clone();
    }
    // A cut inside of a character goes behind it.
    let rest = (count..path.path().len()).find_map(|start| path.path().get(start..));
    let rest = rest.unwrap_or("");
    let slash = match (replacement, rest) {
        ("", rest) if !rest.starts_with('/') => "/",
        _ => "",
    };
    let (question_mark, query) = path.query().map_or(("", ""), |query| ("?", query));
    let rewritten = format!("{slash}{replacement}{rest}{question_mark}{query}");
    PathAndQuery::try_from(rewritten).unwrap_or_else(|_| path.clone())
}

impl Condition {
    /// Any request.
    fn any() -> Self {
        Self {
            host: Host::Any,
            protocol: None,
            security: None,
            path_beg: None,
        }
    }

    /// The id of a route that was given none.
    fn id(&self) -> Arc<str> {
        let host = match &self.host {
            Host::ById => "",
            Host::Any => "*",
            Host::Exact(host) => host,
        };
        let protocol = match self.protocol {
            None => "*",
            Some(Protocol::Http) => "http",
            Some(Protocol::WebSocket) => "ws",
        };
        let security = match self.security {
            None => "*",
            Some(Security::Plain) => "no-ssl",
            Some(Security::Tls) => "ssl",
        };
        let path_beg = self.path_beg.as_deref().unwrap_or("*");
        format!("{host},{protocol},{security},{path_beg}").into()
    }
}

impl Route {
    /// A route without options.
    fn plain(condition: Condition, targets: Vec<Target>) -> Self {
        Self {
            id: condition.id(),
            has_explicit_id: false,
            condition,
            sig_key: None,
            sig_iss: None,
            prefix: String::new(),
            as_host: None,
            path_rem: 0,
            replace_beg: None,
            headers: Vec::new(),
            orig_headers: OrigHeaders::default(),
            debug: Setting::default(),
            cross_origin: Setting::default(),
            jsonp: JsonpRules::default(),
            compression: Setting::default(),
            sse_resume: Setting::default(),
            slow: None,
            grip: Grip::default(),
            log_level: None,
            targets,
        }
    }
}

impl Target {
    /// A target without options.
    fn plain(kind: TargetKind) -> Self {
        Self {
            kind,
            tls: None,
            host: None,
            addresses: Addresses::default(),
            websocket: WebSocketTransport::default(),
            subscribe: Vec::new(),
        }
    }

    /// The server of `--origin`. Its certificate must be good for the name given there, because
    /// clients ask for whatever name the hub has.
    fn origin(origin: &HttpAddress, websocket: WebSocketTransport) -> Self {
        let host = unbracketed(origin.host()).to_owned();
        let port = origin.port();
        let tls = origin.is_https().then_some(TlsRules {
            verify: Verify::ConnectHost,
            client: None,
        });
        Self {
            tls,
            websocket,
            ..Self::plain(TargetKind::Http { host, port })
        }
    }
}

/// An authority's host as one connects to it.
fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// As in a routes file.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            TargetKind::Http { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            TargetKind::Http { host, port } => write!(f, "{host}:{port}"),
            TargetKind::Test => f.write_str("test"),
        }
    }
}
