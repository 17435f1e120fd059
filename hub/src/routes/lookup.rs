//! From a request to its route.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Condition, Host, Protocol, Route, Security, Target, WebSocketTransport};
use crate::http_address::HttpAddress;

/// What is asked of the table for one request.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// The host asked for, in any case, without port; IPv6 in brackets.
    pub host: &'a str,
    /// The path as sent, without query.
    pub path: &'a str,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Whether the client's connection is encrypted.
    pub security: Security,
    /// The route that the client names; `Pushpin-Route`.
    pub id: Option<&'a str>,
}

/// All routes.
#[derive(Debug)]
pub struct Routes {
    all: Vec<Arc<Route>>,
    /// The most specific first.
    by_host: FxHashMap<Box<str>, Vec<Arc<Route>>>,
    /// For hosts without a route of their own; the most specific first.
    any_host: Vec<Arc<Route>>,
    by_id: FxHashMap<Arc<str>, Arc<Route>>,
}

impl Routes {
    /// The table of these routes. Their conditions differ, as do the ids given to them.
    pub(super) fn new(routes: Vec<Route>) -> Self {
        let mut all: Vec<Arc<Route>> = routes.into_iter().map(Arc::new).collect();
        let mut by_id = FxHashMap::default();
        // Ids that were given come first: one that was made up does not displace them.
        all.sort_by_key(|route| !route.has_explicit_id);
        for route in &all {
            let (id, route) = (Arc::clone(&route.id), Arc::clone(route));
            by_id.entry(id).or_insert(route);
        }
        let mut by_host: FxHashMap<Box<str>, Vec<Arc<Route>>> = FxHashMap::default();
        let mut any_host = Vec::new();
        all.sort_by_key(|route| Reverse(route.condition.specificity()));
        for route in &all {
            match &route.condition.host {
                Host::ById => {}
                Host::Any => any_host.push(Arc::clone(route)),
                Host::Exact(host) => {
                    let routes = by_host.entry(host.as_str().into()).or_default();
                    routes.push(Arc::clone(route));
                }
            }
        }
        Self {
            all,
            by_host,
            any_host,
            by_id,
        }
    }

    /// The one route to an origin, for all requests.
    pub fn to_origin(origin: &HttpAddress, websocket: WebSocketTransport) -> Self {
        let target = Target::origin(origin, websocket);
        Self::new(vec![Route::plain(Condition::any(), vec![target])])
    }

    /// The route of a request.
    ///
    /// A route that the client names is taken if it is for the path; WebSockets that name one in
    /// vain are looked up as if they had named none. Otherwise the routes of the host count, and
    /// those for any host only if it has none; of those that match, one with a protocol comes
    /// first, then one with a longer path, then one that tells encrypted clients from others.
    pub fn find(&self, lookup: &Lookup<'_>) -> Option<&Arc<Route>> {
        if let Some(id) = lookup.id {
            let named = self.by_id.get(id);
            let named = named.filter(|route| route.condition.is_for_path(lookup.path));
            if named.is_some() || lookup.protocol == Protocol::Http {
                return named;
            }
        }
        let routes = self.by_host.get(&*lower_case(lookup.host));
        routes
            .unwrap_or(&self.any_host)
            .iter()
            .find(|route| route.condition.matches(lookup))
    }

    /// All routes, in no particular order.
    pub fn all(&self) -> &[Arc<Route>] {
        &self.all
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

impl Condition {
    /// Of two conditions that a request meets, the greater one decides. Two different ones for the
    /// same host are never equal then.
    fn specificity(&self) -> (bool, usize, bool) {
        (
            self.protocol.is_some(),
            self.path_beg.as_ref().map_or(0, String::len),
            self.security.is_some(),
        )
    }

    /// Whether all but the host is met.
    fn matches(&self, lookup: &Lookup<'_>) -> bool {
        self.protocol.is_none_or(|it| it == lookup.protocol)
            && self.security.is_none_or(|it| it == lookup.security)
            && self.is_for_path(lookup.path)
    }

    fn is_for_path(&self, path: &str) -> bool {
        self.path_beg
            .as_ref()
            .is_none_or(|beginning| path.starts_with(beginning.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;
    use crate::routes::{Verify, parse};
    use std::path::Path;

    fn lookup<'a>(host: &'a str, path: &'a str) -> Lookup<'a> {
        Lookup {
            host,
            path,
            protocol: Protocol::Http,
            security: Security::Plain,
            id: None,
        }
    }

    /// Which target a request comes to.
    #[track_caller]
    fn check(routes: &str, lookup: Lookup<'_>, expected: Option<&str>) {
        let table = parse(routes).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        let route = table.find(&lookup);
        let found = route.map(|route| route.targets[0].to_string());
        assert_eq!(found.as_deref(), expected, "{routes}\n{lookup:?}");
    }

    #[test]
    fn hosts_are_compared_without_case() {
        check("example.com a:1", lookup("EXAMPLE.com", "/"), Some("a:1"));
        check("Example.com a:1", lookup("example.com", "/"), Some("a:1"));
        check("example.com a:1", lookup("www.example.com", "/"), None);
        check("[::1] a:1", lookup("[::1]", "/"), Some("a:1"));
        check("example.com a:1", lookup("", "/"), None);
    }

    #[test]
    fn a_host_with_a_route_never_takes_those_for_any() {
        let routes = "a,path_beg=/x a:1\n* b:1";
        check(routes, lookup("a", "/x"), Some("a:1"));
        check(routes, lookup("a", "/y"), None);
        check(routes, lookup("b", "/y"), Some("b:1"));
    }

    #[test]
    fn protocol_counts_before_path_and_path_before_security() {
        let http = lookup("a", "/x/y");
        let socket = Lookup {
            protocol: Protocol::WebSocket,
            ..http
        };
        let encrypted = Lookup {
            security: Security::Tls,
            ..http
        };
        let protocol = "*,proto=ws a:1\n*,path_beg=/x/y,ssl=no b:1";
        check(protocol, http, Some("b:1"));
        check(protocol, socket, Some("a:1"));
        let path = "*,path_beg=/x a:1\n*,path_beg=/x/ b:1\n*,ssl=no c:1\n* d:1";
        check(path, http, Some("b:1"));
        check(path, lookup("a", "/xy"), Some("a:1"));
        check(path, lookup("a", "/y"), Some("c:1"));
        let security = "* a:1\n*,ssl=yes b:1";
        check(security, http, Some("a:1"));
        check(security, encrypted, Some("b:1"));
    }

    #[test]
    fn the_path_is_compared_as_sent() {
        check("*,path_beg=/a%20b a:1", lookup("a", "/a%20bc"), Some("a:1"));
        check("*,path_beg=/a a:1", lookup("a", "/%61"), None);
        check("*,path_beg=/a a:1", lookup("a", "/ab"), Some("a:1"));
        check("*,path_beg=/a/ a:1", lookup("a", "/a"), None);
    }

    #[test]
    fn who_names_a_route_gets_it_or_none() {
        let routes = "* a:1\nid=x,path_beg=/x b:1\nc,id=y,proto=ws c:1";
        let named = |id, path, protocol| Lookup {
            id: Some(id),
            protocol,
            ..lookup("host", path)
        };
        let (http, socket) = (Protocol::Http, Protocol::WebSocket);
        check(routes, named("x", "/xy", http), Some("b:1"));
        check(routes, named("x", "/y", http), None);
        check(routes, named("z", "/", http), None);
        check(routes, named("x", "/y", socket), Some("a:1"));
        check(routes, named("z", "/", socket), Some("a:1"));
        // Nothing but the path is compared.
        check(routes, named("y", "/", http), Some("c:1"));
        check(routes, named("*,*,*,*", "/", http), Some("a:1"));
        check(routes, lookup("", "/x"), Some("a:1"));
    }

    #[test]
    fn an_id_that_was_given_counts_before_one_that_follows() {
        let named = Lookup {
            id: Some("*,*,*,*"),
            ..lookup("host", "/")
        };
        check("* a:1\nid=\"*,*,*,*\" b:1", named, Some("b:1"));
    }

    /// The choice as one would make it by going through all routes.
    fn naive<'a>(routes: &'a Routes, lookup: &Lookup<'_>) -> Option<&'a Arc<Route>> {
        let own = |route: &&Arc<Route>| route.condition.host == Host::Exact(lookup.host.to_owned());
        let has_own = routes.all().iter().any(|route| own(&route));
        let mut best: Option<&Arc<Route>> = None;
        for route in routes.all() {
            let of_host = if has_own {
                own(&route)
            } else {
                route.condition.host == Host::Any
            };
            if of_host
                && route.condition.matches(lookup)
                && best.is_none_or(|best| is_better(&route.condition, &best.condition))
            {
                best = Some(route);
            }
        }
        best
    }

    fn is_better(condition: &Condition, other: &Condition) -> bool {
        if condition.protocol.is_some() != other.protocol.is_some() {
            return condition.protocol.is_some();
        }
        let length = |it: &Condition| it.path_beg.as_ref().map_or(0, String::len);
        if length(condition) != length(other) {
            return length(condition) > length(other);
        }
        condition.security.is_some() && other.security.is_none()
    }

    #[test]
    fn the_choice_is_that_of_a_naive_reader() {
        let mut lines = Vec::new();
        for host in ["*", "a", "b"] {
            for protocol in ["", ",proto=http", ",proto=ws"] {
                for security in ["", ",ssl=yes", ",ssl=no"] {
                    for path in ["", ",path_beg=/", ",path_beg=/x", ",path_beg=/x/y"] {
                        lines.push(format!("{host}{protocol}{security}{path} t:1"));
                    }
                }
            }
        }
        for seed in 0..500_usize {
            // Another selection, in another order, for each seed.
            let step = [5, 7, 11, 13, 17][seed % 5];
            let count = seed % 12 + 1;
            let chosen = (0..count).map(|nth| lines[(seed + nth * step) % lines.len()].as_str());
            let text: Vec<&str> = chosen.collect();
            let routes = parse(&text.join("\n")).unwrap();
            for host in ["a", "b", "c"] {
                for path in ["/", "/x", "/x/y/z"] {
                    for protocol in [Protocol::Http, Protocol::WebSocket] {
                        for security in [Security::Plain, Security::Tls] {
                            let lookup = Lookup {
                                protocol,
                                security,
                                ..lookup(host, path)
                            };
                            let found = routes.find(&lookup).map(|route| &route.id);
                            let expected = naive(&routes, &lookup).map(|route| &route.id);
                            assert_eq!(found, expected, "seed {seed}, {lookup:?}");
                        }
                    }
                }
            }
        }
    }

    #[track_caller]
    fn check_origin(origin: &str, target: &str, verify: Option<Verify>) {
        let raw = RawConfig {
            origin: Some(origin.to_owned()),
            ..RawConfig::default()
        };
        let config = raw.check(Path::new("")).unwrap();
        let route = config.routes.find(&lookup("any", "/")).unwrap();
        assert_eq!(route.targets[0].to_string(), target);
        let tls = route.targets[0].tls.as_ref();
        assert_eq!(tls.map(|tls| tls.verify), verify);
    }

    #[test]
    fn an_origin_is_the_route_for_everything() {
        check_origin("http://a:8080", "a:8080", None);
        check_origin("http://a", "a:80", None);
        check_origin("http://[::1]:8080", "[::1]:8080", None);
        check_origin("https://a", "a:443", Some(Verify::ConnectHost));
    }
}
