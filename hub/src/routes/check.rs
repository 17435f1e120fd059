//! From routes as written to routes that code may rely on. All mistakes are found at once.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use grip::ChannelName;
use grip::cross_origin::{JsonpMode, JsonpRules};
use grip::signature::SigningKey;
use http::header::HeaderName;
use http::{HeaderValue, Method};
use rustc_hash::FxHashMap;

use super::properties::{CONDITION, Properties, TARGET};
use super::values::{A_PATH, authority, header, host, non_empty, path};
use super::written::{Problem, Section, Written};
use super::{
    Addresses, ClientCertificate, Condition, EventsPerRequest, Grip, Host, OrigHeaders, Protocol,
    Route, Security, Setting, Target, TargetKind, TlsRules, Verify, WebSocketTransport,
    unbracketed,
};
use crate::config::SlowClients;
use crate::config::keys::{self, KeyTextError};

/// What stands around the text: where the files are that it names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    directory: &'a Path,
    key: fn(&str, &Path) -> Result<SigningKey, KeyTextError>,
}

impl<'a> Surroundings<'a> {
    /// Relative files are in this directory.
    pub(super) fn directory(directory: &'a Path) -> Self {
        Self {
            directory,
            key: keys::signing_key,
        }
    }

    /// No file can be read.
    pub(super) fn nothing() -> Self {
        Self {
            directory: Path::new(""),
            key: |text, directory| {
                if text.starts_with("file:") {
                    let (path, error) = (text.to_owned(), io::ErrorKind::Unsupported.into());
                    return Err(KeyTextError::File { path, error });
                }
                keys::signing_key(text, directory)
            },
        }
    }
}

/// The routes without mistakes, and all mistakes.
pub(super) fn check<P: Clone + fmt::Display>(
    written: &[Written<P>],
    surroundings: &Surroundings<'_>,
) -> (Vec<Route>, Vec<Problem<P>>) {
    let mut checker = Checker {
        surroundings,
        conditions: FxHashMap::default(),
        ids: FxHashMap::default(),
        problems: Vec::new(),
    };
    let routes = written.iter().filter_map(|route| checker.route(route));
    (routes.collect(), checker.problems)
}

/// What is known while all routes are checked.
pub(super) struct Checker<'a, P> {
    surroundings: &'a Surroundings<'a>,
    /// Where each condition was first.
    conditions: FxHashMap<Condition, P>,
    /// Where each given id was first.
    ids: FxHashMap<Arc<str>, P>,
    pub(super) problems: Vec<Problem<P>>,
}

impl<P: Clone + fmt::Display> Checker<'_, P> {
    /// `None` if anything is wrong; every part is checked before that is known.
    fn route(&mut self, written: &Written<P>) -> Option<Route> {
        let known = self.problems.len();
        let section = &written.condition;
        let properties = self.properties(section, CONDITION);
        let condition = self.condition(section, &properties);
        let id: Option<Arc<str>> = self.value(&properties, "id", "a name", |text| {
            (!text.is_empty()).then(|| text.into())
        });
        if condition.host == Host::ById && !properties.has("id") {
            let text = "no request would take this route; give a host, * for any host, or id=NAME";
            self.problem::<()>(&section.place, text);
        }
        if written.targets.is_empty() {
            let text = "the route has no target; give at least one, such as localhost:8080";
            self.problem::<()>(&section.place, text);
        }
        let targets = written.targets.iter();
        let targets: Vec<Target> = targets.filter_map(|it| self.target(it)).collect();
        let mut route = self.options(&properties, Route::plain(condition, targets));
        if let Some(id) = id {
            route.id = id;
            route.has_explicit_id = true;
        }
        // What is wrong in itself is not compared with others.
        if self.problems.len() == known {
            self.compare(&route, &section.place);
        }
        (self.problems.len() == known).then_some(route)
    }

    /// Nothing else may have the same condition or id.
    fn compare(&mut self, route: &Route, place: &P) {
        if route.condition.host != Host::ById
            && let Some(first) = self.conditions.get(&route.condition).cloned()
        {
            let text = format_args!("the condition is the same as in {first}");
            self.problem::<()>(place, text);
        }
        if route.has_explicit_id
            && let Some(first) = self.ids.get(&route.id).cloned()
        {
            let text = format_args!("the id {:?} is the same as in {first}", route.id);
            self.problem::<()>(place, text);
        }
        let condition = self.conditions.entry(route.condition.clone());
        condition.or_insert_with(|| place.clone());
        if route.has_explicit_id {
            let id = self.ids.entry(Arc::clone(&route.id));
            id.or_insert_with(|| place.clone());
        }
    }

    fn condition(&mut self, section: &Section<P>, properties: &Properties<'_, P>) -> Condition {
        let host = host(&section.value);
        if host.is_none() {
            let text = format_args!(
                "{:?} is no host; give a name without port, or * for any host",
                section.value
            );
            self.problem::<()>(&section.place, text);
        }
        Condition {
            host: host.unwrap_or(Host::Any),
            protocol: self.value(properties, "proto", "http or ws", |text| match text {
                "http" => Some(Protocol::Http),
                "ws" => Some(Protocol::WebSocket),
                _ => None,
            }),
            security: self.value(properties, "ssl", "yes or no", |text| match text {
                "yes" => Some(Security::Tls),
                "no" => Some(Security::Plain),
                _ => None,
            }),
            path_beg: self.value(properties, "path_beg", A_PATH, path),
        }
    }

    /// What a condition says beside the condition.
    fn options(&mut self, properties: &Properties<'_, P>, plain: Route) -> Route {
        Route {
            sig_key: self.sig_key(properties),
            sig_iss: self.value(properties, "sig_iss", "a name", non_empty),
            prefix: self
                .value(properties, "prefix", "a text", |text| Some(text.to_owned()))
                .unwrap_or_default(),
            as_host: self.value(properties, "as_host", "HOST or HOST:PORT", authority),
            path_rem: self
                .value(properties, "path_rem", "a number of bytes", |text| {
                    text.parse().ok()
                })
                .unwrap_or(0),
            replace_beg: self.value(properties, "replace_beg", A_PATH, |text| match text {
                "" => Some(String::new()),
                _ => path(text),
            }),
            headers: self.headers(properties),
            orig_headers: properties.switch("orig_headers", OrigHeaders::Copy),
            debug: properties.switch("debug", Setting::On),
            cross_origin: properties.switch("aco", Setting::On),
            jsonp: self.jsonp(properties),
            compression: properties.switch("compression", Setting::On),
            sse_resume: properties.switch("sse_resume", Setting::On),
            slow: self.value(properties, "slow", SlowClients::NAMES, SlowClients::named),
            grip: properties.switch("no_grip", Grip::Off),
            log_level: self.value(properties, "log_level", "0 (errors) to 3 (debug)", |text| {
                text.parse().ok().filter(|level| *level <= 3)
            }),
            ..plain
        }
    }

    /// The key stays out of the problem's text.
    fn sig_key(&mut self, properties: &Properties<'_, P>) -> Option<SigningKey> {
        let property = properties.all("sig_key").next()?;
        let text = property.value.as_deref()?;
        match (self.surroundings.key)(text, self.surroundings.directory) {
            Ok(key) => Some(key),
            Err(error) => self.problem(&property.place, error),
        }
    }

    fn headers(
        &mut self,
        properties: &Properties<'_, P>,
    ) -> Vec<(HeaderName, Option<HeaderValue>)> {
        let mut headers: Vec<(HeaderName, Option<HeaderValue>)> = Vec::new();
        for (property, (name, value)) in self.values(
            properties,
            "header",
            "NAME:VALUE, or NAME: to remove",
            header,
        ) {
            if headers.iter().any(|(other, _)| *other == name) {
                let text = format_args!("the header {name} is given twice");
                self.problem::<()>(&property.place, text);
            }
            headers.push((name, value));
        }
        headers
    }

    fn jsonp(&mut self, properties: &Properties<'_, P>) -> JsonpRules {
        let mode = self.value(
            properties,
            "jsonp_mode",
            "basic or extended",
            |text| match text {
                "basic" => Some(JsonpMode::Basic),
                "extended" => Some(JsonpMode::Extended),
                _ => None,
            },
        );
        let a_parameter = "the name of a query parameter";
        let callback = self.value(properties, "jsonp_cb", a_parameter, non_empty);
        let method = self.value(properties, "jsonp_defmethod", "a method", |text| {
            Method::from_bytes(text.as_bytes()).ok()
        });
        JsonpRules {
            mode: mode.unwrap_or_default(),
            callback: callback.unwrap_or_else(|| JsonpRules::default().callback),
            body: self.value(properties, "jsonp_body", a_parameter, non_empty),
            default_callback: self.value(properties, "jsonp_defcb", "a function", non_empty),
            default_method: method,
        }
    }

    fn target(&mut self, section: &Section<P>) -> Option<Target> {
        let properties = self.properties(section, TARGET);
        let subscribe = self.values(&properties, "sub", "the name of a channel", non_empty);
        let target = Target {
            kind: TargetKind::Test,
            tls: self.tls(&properties),
            host: self.value(&properties, "host", "HOST or HOST:PORT", authority),
            addresses: properties.switch("untrusted", Addresses::Public),
            websocket: self.websocket(&properties),
            subscribe: subscribe
                .iter()
                .map(|(_, name)| ChannelName::new(name))
                .collect(),
        };
        let kind = self.kind(section)?;
        Some(Target { kind, ..target })
    }

    fn kind(&mut self, section: &Section<P>) -> Option<TargetKind> {
        let allowed = "give HOST:PORT, [IPV6]:PORT or test";
        let value = &section.value;
        if value == "test" {
            return Some(TargetKind::Test);
        }
        if value.starts_with("zhttp/") || value.starts_with("zhttpreq/") {
            let text = format_args!(
                "{value:?} is a target over ZeroMQ, which is not supported; {allowed}"
            );
            return self.problem(&section.place, text);
        }
        let authority = authority(value);
        let Some((authority, port)) = authority.and_then(|it| it.port_u16().map(|port| (it, port)))
        else {
            let text = format_args!("{value:?} is no target; {allowed}");
            return self.problem(&section.place, text);
        };
        let host = unbracketed(authority.host()).to_owned();
        Some(TargetKind::Http { host, port })
    }

    fn tls(&mut self, properties: &Properties<'_, P>) -> Option<TlsRules> {
        let client = self.client_certificate(properties);
        if !properties.has("ssl") {
            self.no_effect(
                properties,
                &[
                    "trust_connect_host",
                    "insecure",
                    "client_cert",
                    "client_key",
                ],
                "ssl",
            );
            return None;
        }
        let verify = if properties.has("insecure") {
            Verify::Nothing
        } else if properties.has("trust_connect_host") {
            Verify::ConnectHost
        } else {
            Verify::RequestHost
        };
        Some(TlsRules { verify, client })
    }

    fn client_certificate(&mut self, properties: &Properties<'_, P>) -> Option<ClientCertificate> {
        if !properties.has("client_cert") || !properties.has("client_key") {
            self.no_effect(properties, &["client_cert"], "client_key");
            self.no_effect(properties, &["client_key"], "client_cert");
            return None;
        }
        let certificate = self.value(properties, "client_cert", "the path of a file", non_empty);
        let key = self.value(properties, "client_key", "the path of a file", non_empty);
        let directory = self.surroundings.directory;
        Some(ClientCertificate {
            certificate: directory.join(certificate?),
            key: directory.join(key?),
        })
    }

    fn websocket(&mut self, properties: &Properties<'_, P>) -> WebSocketTransport {
        match (properties.has("over_http"), properties.has("one_event")) {
            (true, true) => WebSocketTransport::OverHttp(EventsPerRequest::One),
            (true, false) => WebSocketTransport::OverHttp(EventsPerRequest::All),
            (false, _) => {
                self.no_effect(properties, &["one_event"], "over_http");
                WebSocketTransport::Native
            }
        }
    }
}
