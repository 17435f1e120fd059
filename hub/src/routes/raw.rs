//! Routes in `hub.toml`: `[[routes]]`, with the properties of a routes file.

use std::fmt;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::check::{self, Surroundings};
use super::file;
use super::written::{Problem, Property, Section, Written};
use super::{Route, Routes};

/// `[[routes]]`. Absent keys are absent properties; unknown ones are an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRoute {
    /// The host; `*` for any, absent if only the id leads here.
    pub host: Option<String>,
    /// `http` or `ws`.
    pub proto: Option<String>,
    /// Whether the client's connection is encrypted.
    pub ssl: Option<bool>,
    /// How the path begins.
    pub path_beg: Option<String>,
    /// The route's name.
    pub id: Option<String>,
    /// Issuer in `Grip-Sig`.
    pub sig_iss: Option<String>,
    /// Key for `Grip-Sig`.
    pub sig_key: Option<String>,
    /// Stands before channel names.
    pub prefix: Option<String>,
    /// The host that requests are taken to be for.
    pub as_host: Option<String>,
    /// Bytes to take from the start of the path.
    pub path_rem: Option<u64>,
    /// What stands in place of `path_beg`.
    pub replace_beg: Option<String>,
    /// Request headers to set or remove, `NAME:VALUE`.
    pub header: Option<Vec<String>>,
    /// Whether the client's headers are copied with a mark.
    pub orig_headers: Option<bool>,
    /// Whether error answers tell what is wrong.
    pub debug: Option<bool>,
    /// Whether answers are opened to pages of other origins.
    pub aco: Option<bool>,
    /// `basic` or `extended`.
    pub jsonp_mode: Option<String>,
    /// The query parameter that names the callback.
    pub jsonp_cb: Option<String>,
    /// The query parameter that carries a body.
    pub jsonp_body: Option<String>,
    /// The callback of requests that name none.
    pub jsonp_defcb: Option<String>,
    /// The method of requests that name none.
    pub jsonp_defmethod: Option<String>,
    /// Whether messages to WebSockets are compressed.
    pub compression: Option<bool>,
    /// Whether server-sent events are resumed.
    pub sse_resume: Option<bool>,
    /// What becomes of clients that read too slowly.
    pub slow: Option<String>,
    /// Whether instructions are neither asked for nor followed.
    pub no_grip: Option<bool>,
    /// The most that is logged, 0 to 3.
    pub log_level: Option<u8>,
    /// In the order in which they are tried.
    #[serde(default)]
    pub targets: Vec<RawTarget>,
}

/// A target: a text as in a routes file, or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawTarget {
    /// `localhost:8080,over_http`.
    Text(String),
    /// `{ address = "localhost:8080", over_http = true }`.
    Table(Box<RawTargetTable>),
}

/// A target as a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTargetTable {
    /// `HOST:PORT`, `[IPV6]:PORT` or `test`.
    pub address: Option<String>,
    /// Whether connections to it are encrypted.
    pub ssl: Option<bool>,
    /// The host that requests to it name.
    pub host: Option<String>,
    /// Whether its certificate is for the host in the address.
    pub trust_connect_host: Option<bool>,
    /// Whether its certificate is not looked at.
    pub insecure: Option<bool>,
    /// Whether addresses of private networks are refused.
    pub untrusted: Option<bool>,
    /// Whether WebSockets reach it as requests.
    pub over_http: Option<bool>,
    /// Whether each such request has one event.
    pub one_event: Option<bool>,
    /// Channels that its connections are subscribed to.
    pub sub: Option<Vec<String>>,
    /// File with the certificate that the hub shows.
    pub client_cert: Option<String>,
    /// File with its key.
    pub client_key: Option<String>,
}

/// Checks all routes; `directory` is where relative files are that they name.
///
/// # Errors
/// All mistakes, each with its key, such as `routes[0].path_beg`.
pub(crate) fn check(raw: &[RawRoute], directory: &Path) -> Result<Routes, Vec<(String, String)>> {
    let mut problems = Vec::new();
    let written: Vec<Written<String>> = raw
        .iter()
        .enumerate()
        .map(|(index, route)| route.written(&format!("routes[{index}]"), &mut problems))
        .collect();
    let (routes, more): (Vec<Route>, _) =
        check::check(&written, &Surroundings::directory(directory));
    problems.extend(more);
    if problems.is_empty() {
        return Ok(Routes::new(routes));
    }
    let located = |problem: Problem<String>| (problem.place, problem.text);
    Err(problems.into_iter().map(located).collect())
}

impl RawRoute {
    fn written(&self, place: &str, problems: &mut Vec<Problem<String>>) -> Written<String> {
        let mut condition = Writer::new(place, self.host.as_deref());
        condition.text("proto", self.proto.as_deref());
        condition.text("ssl", self.ssl.map(|ssl| if ssl { "yes" } else { "no" }));
        condition.text("path_beg", self.path_beg.as_deref());
        condition.text("id", self.id.as_deref());
        condition.text("sig_iss", self.sig_iss.as_deref());
        condition.text("sig_key", self.sig_key.as_deref());
        condition.text("prefix", self.prefix.as_deref());
        condition.text("as_host", self.as_host.as_deref());
        condition.number("path_rem", self.path_rem);
        condition.text("replace_beg", self.replace_beg.as_deref());
        condition.texts("header", self.header.as_deref());
        condition.switch("orig_headers", self.orig_headers);
        condition.switch("debug", self.debug);
        condition.switch("aco", self.aco);
        condition.text("jsonp_mode", self.jsonp_mode.as_deref());
        condition.text("jsonp_cb", self.jsonp_cb.as_deref());
        condition.text("jsonp_body", self.jsonp_body.as_deref());
        condition.text("jsonp_defcb", self.jsonp_defcb.as_deref());
        condition.text("jsonp_defmethod", self.jsonp_defmethod.as_deref());
        condition.switch("compression", self.compression);
        condition.switch("sse_resume", self.sse_resume);
        condition.text("slow", self.slow.as_deref());
        condition.switch("no_grip", self.no_grip);
        condition.number("log_level", self.log_level);
        let targets = self.targets.iter().enumerate().map(|(index, target)| {
            let place = format!("{place}.targets[{index}]");
            target.written(&place, problems)
        });
        Written {
            targets: targets.collect(),
            condition: condition.0,
        }
    }
}

impl RawTarget {
    fn written(&self, place: &str, problems: &mut Vec<Problem<String>>) -> Section<String> {
        let place = place.to_owned();
        let text = match self {
            Self::Table(table) => return table.written(&place),
            Self::Text(text) => text,
        };
        match file::target(text) {
            Ok(target) => target.moved(&place),
            Err(Problem { text, .. }) => {
                // The stand-in is no mistake, so that one mistake is not reported twice.
                let stand_in = Writer::new(&place, Some("test")).0;
                problems.push(Problem { place, text });
                stand_in
            }
        }
    }
}

impl RawTargetTable {
    fn written(&self, place: &str) -> Section<String> {
        let mut target = Writer::new(place, self.address.as_deref());
        target.switch("ssl", self.ssl);
        target.text("host", self.host.as_deref());
        target.switch("trust_connect_host", self.trust_connect_host);
        target.switch("insecure", self.insecure);
        target.switch("untrusted", self.untrusted);
        target.switch("over_http", self.over_http);
        target.switch("one_event", self.one_event);
        target.texts("sub", self.sub.as_deref());
        target.text("client_cert", self.client_cert.as_deref());
        target.text("client_key", self.client_key.as_deref());
        target.0
    }
}

/// Makes of typed settings what a file would say.
struct Writer(Section<String>);

impl Writer {
    fn new(place: &str, value: Option<&str>) -> Self {
        Self(Section {
            place: place.to_owned(),
            value: value.unwrap_or("").to_owned(),
            properties: Vec::new(),
        })
    }

    fn property(&mut self, name: &str, value: Option<String>) {
        self.0.properties.push(Property {
            place: format!("{}.{name}", self.0.place),
            name: name.to_owned(),
            value,
        });
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.property(name, Some(value.to_owned()));
        }
    }

    fn texts(&mut self, name: &str, values: Option<&[String]>) {
        for value in values.unwrap_or(&[]) {
            self.text(name, Some(value));
        }
    }

    fn number(&mut self, name: &str, value: Option<impl fmt::Display>) {
        self.text(name, value.map(|value| value.to_string()).as_deref());
    }

    fn switch(&mut self, name: &str, value: Option<bool>) {
        if value == Some(true) {
            self.property(name, None);
        }
    }
}

impl<'de> Deserialize<'de> for RawTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable)
    }
}

struct TextOrTable;

impl<'de> Visitor<'de> for TextOrTable {
    type Value = RawTarget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a target: a text such as \"localhost:8080\", or a table with address")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RawTarget, E> {
        Ok(RawTarget::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawTarget, A::Error> {
        let table = RawTargetTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawTarget::Table(Box::new(table)))
    }
}
