//! Whom the edge believes: keys of either kind, two at once while they are changed, clocks that
//! differ; and what it tells whoever has the debug key.

use e2e::client::{self, Response};
use e2e::edge::{self, PURGE_KEY, purge_as, signed_with};
use e2e::hub::SIG_KEY;
use e2e::origin::{Answer, Origin};
use e2e::{now, within};
use grip::UnixTime;
use grip::signature::{Claims, SigningKey, grip_sig, purge_token};
use live_counter::stack::viceroy::{Manifest, Viceroy};
use serde_json::{Value, json};

const HELD: [&str; 3] = [
    "Cache-Control: max-age=60",
    "Grip-Hold: stream",
    "Grip-Channel: a",
];

async fn start(change: impl FnOnce(Manifest) -> Manifest) -> (Origin, Viceroy) {
    let origin = Origin::start().await;
    origin.serve("/x", Answer::ok(&HELD, "x\n"));
    let edge = edge::start(change(edge::manifest(&origin.url()))).await;
    (origin, edge)
}

fn with_config(manifest: Manifest, changes: &Value) -> Manifest {
    let changes = changes.as_object().expect("an object").clone();
    manifest.with_config(changes).expect("it can be changed")
}

async fn ask(edge: &Viceroy, fields: &[&str]) -> Response {
    client::get(edge.addr(), "/x", fields).await
}

/// Whether the edge takes who sends this for a GRIP proxy, and shows it instructions.
async fn is_believed(edge: &Viceroy, field: &str) -> bool {
    let response = ask(edge, &[field]).await;
    match response.status() {
        200 => assert_eq!(response.field("Grip-Channel"), Some("a")),
        status => assert_eq!((status, response.field("Grip-Channel")), (501, None)),
    }
    response.status() == 200
}

#[tokio::test]
async fn two_keys_are_good_while_they_are_changed() {
    let (_origin, edge) = start(|manifest| {
        manifest
            .with_secret("grip-key-also", "old")
            .with_secret("purge-key-also", "old")
    })
    .await;
    for (key, expected) in [(SIG_KEY, true), ("old", true), ("other", false)] {
        assert_eq!(
            is_believed(&edge, &signed_with(key)).await,
            expected,
            "{key}"
        );
    }
    for (key, status) in [(PURGE_KEY, 200), ("old", 200), ("other", 401)] {
        let signing = SigningKey::hs256(key.as_bytes()).expect("not empty");
        let token = purge_token(&signing, b"{}", now());
        let authorization = format!("Authorization: Bearer {token}");
        let response = purge_as(edge.addr(), &[&authorization], "{}").await;
        assert_eq!(response.status(), status, "{key}");
    }
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let (_origin, edge) = start(|manifest| manifest).await;
    let key = SigningKey::hs256(SIG_KEY.as_bytes()).expect("not empty");
    let until = |seconds: i64| {
        let expires = UnixTime(now().0.saturating_add_signed(seconds));
        format!("Grip-Sig: {}", key.sign(&Claims::until(expires)))
    };
    assert!(is_believed(&edge, &until(30)).await);
    assert!(is_believed(&edge, &until(-30)).await);
    assert!(!is_believed(&edge, &until(-90)).await);
    let purge_key = SigningKey::hs256(PURGE_KEY.as_bytes()).expect("not empty");
    for (skew, status) in [(-90, 200), (45, 200), (-200, 401), (200, 401)] {
        let theirs = UnixTime(now().0.saturating_add_signed(skew));
        let token = purge_token(&purge_key, b"{}", theirs);
        let authorization = format!("Authorization: Bearer {token}");
        let response = purge_as(edge.addr(), &[&authorization], "{}").await;
        assert_eq!(response.status(), status, "{skew}");
    }
}

/// A key such as the managed service's, and its public half, which everybody may have.
fn service_key() -> (SigningKey, Value) {
    let pem = include_str!("../../hub/testdata/ec_pkcs8.pem");
    let key = SigningKey::es256_from_pem(pem).expect("a P-256 key");
    let x = "ZhiDTnjIicm8AEixrTuL6hvdDTaZCMsTEMe0ifqt_hY";
    let y = "LIk9xNlueeBtfgoiJrCa_PTUs2ufNiyEBNZf1mQc6Js";
    (key, json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}))
}

#[tokio::test]
async fn the_managed_service_is_known_by_its_key_and_our_name() {
    let (key, jwk) = service_key();
    let changes = json!({"fanout_service_id": "ours", "fanout_public_key": jwk});
    let (_origin, edge) = start(|manifest| with_config(manifest, &changes)).await;
    let signed = |issuer: &str| format!("Grip-Sig: {}", grip_sig(&key, issuer, now()));
    assert!(is_believed(&edge, &signed("fastly:ours")).await);
    assert!(!is_believed(&edge, &signed("fastly:theirs")).await);
    assert!(is_believed(&edge, &edge::signed()).await, "the hub as well");
    // The usual key is another one.
    let changes = json!({"fanout_service_id": "ours"});
    let (_origin, edge) = start(|manifest| with_config(manifest, &changes)).await;
    assert!(!is_believed(&edge, &signed("fastly:ours")).await);
    // And without the service's name nobody is asked for it.
    let (_origin, edge) = start(|manifest| manifest).await;
    assert!(!is_believed(&edge, &signed("fastly:ours")).await);
}

const DEBUG: &str = "Gripline-Debug: let me see";

#[tokio::test]
async fn whoever_has_the_debug_key_sees_the_decisions() {
    let (origin, edge) = start(|manifest| manifest.with_secret("debug-key", "let me see")).await;
    origin.serve(
        "/page",
        Answer::ok(&["Cache-Control: max-age=60"], "page\n"),
    );
    origin.serve("/own", Answer::ok(&["Cache-Control: private"], "own\n"));
    let trace = async |path: &str, fields: &[&str]| {
        let response = client::get(edge.addr(), path, &[&[DEBUG], fields].concat()).await;
        response
            .field("Gripline-Trace")
            .map(str::to_owned)
            .unwrap_or_default()
    };
    assert_eq!(trace("/page", &[]).await, "age=0; ttl=60; cache=miss");
    assert!(trace("/page", &[]).await.contains("; ttl=60; cache=hit"));
    assert_eq!(trace("/own", &[]).await, "reason=forbidden; cache=pass");
    assert_eq!(trace("/own", &[]).await, "reason=marker; cache=pass");
    let no_store = ["Cache-Control: no-store"];
    assert_eq!(
        trace("/page", &no_store).await,
        "reason=no-store; cache=pass"
    );
    let held = trace("/x", &[]).await;
    assert!(held.ends_with("cache=miss; held=nowhere"), "{held}");
    assert!(trace("/x", &[&edge::signed()]).await.contains("cache=hit"));
    // Neither the key nor the header goes on to the origin.
    assert_eq!(origin.requests("/own")[0].field("Gripline-Debug"), None);
}

#[tokio::test]
async fn nobody_else_sees_them() {
    let (_origin, edge) = start(|manifest| manifest.with_secret("debug-key", "let me see")).await;
    for fields in [&["Gripline-Debug: guess"][..], &["Gripline-Debug:"], &[]] {
        assert_eq!(
            ask(&edge, fields).await.field("Gripline-Trace"),
            None,
            "{fields:?}"
        );
    }
    let (_origin, edge) = start(|manifest| manifest.without_secret("debug-key")).await;
    for field in [DEBUG, "Gripline-Debug:"] {
        assert_eq!(ask(&edge, &[field]).await.field("Gripline-Trace"), None);
    }
}

#[tokio::test]
async fn every_request_is_a_line_in_the_log() {
    let (origin, edge) = start(|manifest| manifest).await;
    origin.serve(
        "/page",
        Answer::ok(&["Cache-Control: max-age=60"], "page\n"),
    );
    for _ in 0..2 {
        client::get(edge.addr(), "/page?x=1", &[])
            .await
            .check(200, "page\n");
    }
    let lines = || -> Vec<Value> {
        let log = edge.log();
        let lines = log
            .lines()
            .filter_map(|line| line.strip_prefix("gripline :: "));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["event"] == "request")
            .collect()
    };
    // They come by another way than the answers.
    let all = async {
        while lines().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    within("two lines", all).await;
    let lines = lines();
    let told: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| {
            ["method", "path", "status", "cache"]
                .map(|name| line[name].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(
        told,
        [
            ["GET", "/page", "200", "miss"],
            ["GET", "/page", "200", "hit"]
        ]
    );
}
