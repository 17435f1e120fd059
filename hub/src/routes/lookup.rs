//! From a request to its route.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Condition, Host, Protocol, Route, Security, Target};
use crate::config::Origin;

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
    pub fn to_origin(origin: &Origin) -> Self {
        let target = Target::origin(origin);
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
