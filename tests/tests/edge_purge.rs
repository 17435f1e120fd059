//! The edge's own paths: purges for those who may, health, and an edge that is not configured.

use e2e::chain::Chain;
use e2e::client::{self, Response};
use e2e::edge::{self, PURGE_KEY, purge, purge_as};
use e2e::now;
use e2e::origin::{Answer, Origin};
use grip::signature::{Claims, SigningKey, body_hash, purge_token};
use live_counter::stack::viceroy::{Manifest, Viceroy};
use serde_json::json;

const FRESH: &str = "Cache-Control: s-maxage=60";

fn source(response: &Response) -> &str {
    response.field("X-Cache").unwrap_or_default()
}

/// A chain with `/a` on channel `a` and with key `k`, and `/b` on channel `b`, both in the cache.
async fn start() -> Chain {
    let chain = Chain::start().await;
    for (path, fields) in [
        ("/a", [FRESH, "Grip-Channel: a", "Surrogate-Key: k gl-own"]),
        ("/b", [FRESH, "Grip-Channel: b, c", "X-Own: 1"]),
    ] {
        chain.origin.serve(path, Answer::ok(&fields, "x\n"));
    }
    fill(&chain).await;
    chain
}

async fn fill(chain: &Chain) {
    for path in ["/a", "/b"] {
        chain.get(path).await;
        assert_eq!(source(&chain.get(path).await), "hit");
    }
}

/// Waits until the edge has logged an event so many times, which is how it counts.
async fn until_logged(edge: &Viceroy, event: &str, count: usize) {
    let pattern = format!("\"event\":\"{event}\"");
    let logged = async {
        while edge.log().matches(&pattern).count() != count {
            tokio::task::yield_now().await;
        }
    };
    e2e::within(event, logged).await;
}

#[tokio::test]
async fn a_purge_is_by_channel_or_by_key() {
    let chain = start().await;
    for (body, purged, a, b) in [
        (json!({"channels": ["a"]}), 1, "miss", "hit"),
        (json!({"channels": ["c"]}), 1, "hit", "miss"),
        (json!({"channels": ["a", "b"]}), 2, "miss", "miss"),
        (json!({"channels": ["A", "a, b", ""]}), 3, "hit", "hit"),
        (json!({"keys": ["k"]}), 1, "miss", "hit"),
        (json!({"keys": ["gl-ch:a"]}), 1, "miss", "hit"),
        (json!({"keys": ["gl-all"]}), 1, "miss", "miss"),
        (json!({"keys": ["gl-host:example.com"]}), 1, "miss", "miss"),
        (json!({"keys": ["gl-own"]}), 1, "hit", "hit"),
        (json!({"keys": ["K", "x"]}), 2, "hit", "hit"),
        (json!({}), 0, "hit", "hit"),
    ] {
        let response = purge(chain.edge.addr(), &body.to_string()).await;
        response.check(200, &format!("{{\"purged\":{purged}}}\n"));
        assert_eq!(response.field("Content-Type"), Some("application/json"));
        let found = [
            source(&chain.get("/a").await).to_owned(),
            source(&chain.get("/b").await).to_owned(),
        ];
        assert_eq!(found, [a, b], "{body}");
    }
}

#[tokio::test]
async fn a_backup_copy_goes_only_when_that_is_asked_for() {
    let mut chain = start().await;
    chain.origin.stop().await;
    let edge = chain.edge.addr();
    purge(edge, &json!({"channels": ["a"]}).to_string()).await;
    let response = chain.get("/a").await;
    assert_eq!((source(&response), response.status()), ("stale", 200));

    let body = json!({"channels": ["b"], "backup": true}).to_string();
    purge(edge, &body).await.check(200, "{\"purged\":1}\n");
    assert_eq!(chain.get("/b").await.status(), 502);
}

/// Every way not to be allowed; nothing may be purged by any of them.
#[tokio::test]
async fn purges_without_a_valid_signature_are_refused() {
    let chain = start().await;
    let edge = chain.edge.addr();
    let fields = ["Grip-Hold: stream", "Grip-Channel: a"];
    chain.origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let mut held = chain.open("/stream").await;
    held.stream_begins("hi\n").await;
    let body = json!({"keys": ["gl-all"]}).to_string();
    let key = SigningKey::hs256(PURGE_KEY.as_bytes()).expect("the key is not empty");
    let other_key = SigningKey::hs256(b"another").expect("the key is not empty");
    let claims = |seconds: u64, audience: &str, body: &str| {
        let mut claims = Claims::until(now().plus(seconds));
        claims.audience = Some(audience.to_owned());
        claims.body_hash = Some(body_hash(body.as_bytes()));
        claims
    };
    let good = key.sign(&claims(30, "gripline-purge", &body));
    let header_and_claims = good.rsplit_once('.').map_or("", |(signed, _)| signed);
    let tokens = [
        (
            "another key",
            purge_token(&other_key, body.as_bytes(), now()),
        ),
        ("another body", purge_token(&key, b"{}", now())),
        (
            "expired",
            purge_token(&key, body.as_bytes(), grip::UnixTime(now().0 - 3600)),
        ),
        ("too long", key.sign(&claims(3600, "gripline-purge", &body))),
        ("for others", key.sign(&claims(30, "gripline-hold", &body))),
        ("for nobody", key.sign(&Claims::until(now().plus(30)))),
        ("no signature", format!("{header_and_claims}.")),
        ("nonsense", "nonsense".to_owned()),
        ("empty", String::new()),
    ];
    for (name, token) in tokens {
        let authorization = format!("Authorization: Bearer {token}");
        let response = purge_as(edge, &[&authorization], &body).await;
        assert_eq!(response.status(), 401, "{name}: {}", response.text());
    }
    for (name, field) in [
        ("no field", "X-Own: 1".to_owned()),
        ("another scheme", format!("Authorization: Basic {good}")),
        ("a key of the platform", "Fastly-Key: guessed".to_owned()),
        ("the hub's signature", edge::signed()),
    ] {
        let response = purge_as(edge, &[&field], &body).await;
        assert_eq!(response.status(), 401, "{name}: {}", response.text());
    }
    for path in ["/a", "/b"] {
        assert_eq!(source(&chain.get(path).await), "hit");
    }
    until_logged(&chain.edge, "purge_refused", 13).await;
    chain.hub.publish_stream("a", "still here\n").await;
    held.receives("still here\n").await;
    fill(&chain).await;
    let authorization = format!("Authorization: Bearer {good}");
    let response = purge_as(edge, &[&authorization], &body).await;
    response.check(200, "{\"purged\":1}\n");
    assert_eq!(source(&chain.get("/a").await), "miss");
}

#[tokio::test]
async fn purge_requests_of_the_wrong_shape_are_refused() {
    let chain = start().await;
    let edge = chain.edge.addr();
    let many = vec!["x"; 257];
    for (body, status) in [
        ("x".to_owned(), 400),
        ("[]".to_owned(), 400),
        (json!({"channels": "a"}).to_string(), 400),
        (json!({"channels": [1]}).to_string(), 400),
        (json!({"keys": ["a b"]}).to_string(), 400),
        (json!({"keys": [""]}).to_string(), 400),
        (json!({"soft": "yes"}).to_string(), 400),
        (json!({"keys": ["gl-all"], "unknown": 1}).to_string(), 400),
        (json!({"channels": many}).to_string(), 413),
        (format!("{{}}{}", " ".repeat(64 * 1024)), 413),
    ] {
        let response = purge(edge, &body).await;
        let shown: String = body.chars().take(40).collect();
        assert_eq!(response.status(), status, "{shown}: {}", response.text());
        assert!(response.text().len() > 10, "it says what is wrong");
    }
    let response = client::get(edge, "/.gripline/purge", &[]).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.field("Allow"), Some("POST"));
    assert_eq!(source(&chain.get("/a").await), "hit");
}

#[tokio::test]
async fn the_edges_own_paths_do_not_reach_the_origin() {
    let chain = start().await;
    chain.get("/.gripline/health").await.check(200, "OK\n");
    for path in [
        "/.gripline",
        "/.gripline/",
        "/.gripline/x",
        "/.gripline/health/x",
    ] {
        chain.get(path).await.check(404, "Not Found\n");
        assert_eq!(chain.origin.count(path), 0);
    }
    chain.get("/.griplinex").await;
    assert_eq!(chain.origin.count("/.griplinex"), 1);
}

#[tokio::test]
async fn websocket_events_are_taken_from_the_hub_only() {
    let chain = start().await;
    let edge = chain.edge.addr();
    chain.origin.serve("/ws", Answer::ok(&[], "OPEN\r\n"));
    let events = "Content-Type: application/websocket-events";
    client::request(edge, "POST", "/ws", &[events], "OPEN\r\n")
        .await
        .check(
            403,
            "Client not allowed to send WebSocket events directly.\n",
        );
    assert_eq!(chain.origin.count("/ws"), 0);
    client::request(edge, "POST", "/ws", &[events, &edge::signed()], "OPEN\r\n")
        .await
        .check(200, "OPEN\r\n");
    assert_eq!(chain.origin.only_request("/ws").body, b"OPEN\r\n");
}

/// The edge with a change to the repository's configuration.
async fn misconfigured(change: impl FnOnce(Manifest) -> Manifest) -> (Origin, Viceroy) {
    let origin = Origin::start().await;
    origin.serve("/a", Answer::ok(&[FRESH, "Grip-Hold: stream"], "x\n"));
    let edge = edge::start(change(edge::manifest(&origin.url()))).await;
    (origin, edge)
}

async fn check_not_configured(change: impl FnOnce(Manifest) -> Manifest, reason: &str) {
    let (origin, edge) = misconfigured(change).await;
    let text = format!("The edge is not configured: {reason}");
    let check = |response: Response| {
        assert_eq!(response.status(), 503);
        assert!(response.text().starts_with(&text), "{response:?}");
    };
    for fields in [vec![], vec![edge::signed()]] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        check(client::get(edge.addr(), "/a", &fields).await);
    }
    check(purge(edge.addr(), "{}").await);
    until_logged(&edge, "not_configured", 3).await;
    // Who looks can tell a module without configuration from none.
    client::get(edge.addr(), "/.gripline/health", &[])
        .await
        .check(200, "OK\n");
    assert_eq!(origin.count("/a"), 0);
}

fn without(mut manifest: Manifest, stores: &str) -> Manifest {
    let server = manifest.table_mut()["local_server"].as_table_mut();
    server.expect("it is a table").remove(stores);
    manifest
}

#[tokio::test]
async fn a_module_without_configuration_says_what_is_missing() {
    check_not_configured(
        |manifest| without(manifest, "config_stores"),
        "there is no config store \"gripline\"",
    )
    .await;
    check_not_configured(
        |manifest| without(manifest, "secret_stores"),
        "there is no secret store \"gripline\"",
    )
    .await;
    let no_key = "the secret store \"gripline\" has no secret \"grip-key\", or it is empty";
    check_not_configured(|manifest| manifest.without_secret("grip-key"), no_key).await;
    // An empty key would make everybody's signature valid.
    check_not_configured(|manifest| manifest.with_secret("grip-key", ""), no_key).await;
}

#[tokio::test]
async fn a_module_with_a_wrong_configuration_says_what_is_wrong() {
    let (_origin, edge) = misconfigured(|manifest| {
        let changes = json!({"pass_tll": 1}).as_object().cloned();
        let manifest = manifest.with_config(changes.unwrap_or_default());
        manifest.expect("the configuration is JSON")
    })
    .await;
    let response = client::get(edge.addr(), "/a", &[]).await;
    assert_eq!(response.status(), 503);
    let text = response.text();
    let begin = "The edge is not configured: the key \"edge\" in the config store \"gripline\"";
    assert!(text.starts_with(begin), "{text}");
    assert!(text.contains("pass_tll"), "{text}");
}

#[tokio::test]
async fn without_a_purge_key_there_is_no_purge_endpoint() {
    for change in [
        |manifest: Manifest| manifest.without_secret("purge-key"),
        |manifest: Manifest| manifest.with_secret("purge-key", ""),
    ] {
        let (origin, edge) = misconfigured(change).await;
        purge(edge.addr(), "{}").await.check(404, "Not Found\n");
        let empty = purge_as(edge.addr(), &["Authorization: Bearer x"], "{}").await;
        empty.check(404, "Not Found\n");
        // The rest works.
        let response = client::get(edge.addr(), "/a", &[&edge::signed()]).await;
        response.check(200, "x\n");
        assert_eq!(origin.count("/a"), 1);
    }
}
