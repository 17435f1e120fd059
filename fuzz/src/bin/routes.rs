//! Routes files, and requests for the hosts and paths that are in them.
#![no_main]

use gripline_hub::routes::{self, Host, Lookup, Protocol, Security};
use http::uri::PathAndQuery;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let routes = match routes::parse(text) {
        Ok(routes) => routes,
        Err(mistakes) => return assert!(!mistakes.is_empty()),
    };
    for route in routes.all() {
        assert!(!route.targets.is_empty());
        let condition = &route.condition;
        let path = condition.path_beg.as_deref().unwrap_or("/");
        if let Host::Exact(host) = &condition.host {
            let lookup = Lookup {
                host,
                path,
                protocol: condition.protocol.unwrap_or(Protocol::Http),
                security: condition.security.unwrap_or(Security::Plain),
                id: None,
            };
            assert!(routes.find(&lookup).is_some(), "{route:?}");
        }
        if let Ok(path) = PathAndQuery::try_from(format!("{path}x?y")) {
            assert!(route.rewrite_path(&path).path().starts_with('/'));
            assert!(route.test_path(&path).path().starts_with('/'));
        }
    }
});
