//! What proxies tell each other: signatures between GRIP proxies, CDN-Loop, X-Forwarded-*.

use e2e::client::{self, Client, Response};
use e2e::hub::{Hub, SIG_KEY, config};
use e2e::now;
use e2e::origin::{Answer, Origin, Request};
use grip::UnixTime;
use grip::signature::{SigningKey, VerifyingKey, grip_sig};
use gripline_hub::config::RawConfig;
use serde_json::json;

/// The key that proxies in front sign with.
const FRONT: &str = "front";

async fn start(change: impl FnOnce(&mut RawConfig)) -> (Origin, Hub) {
    let origin = Origin::start().await;
    origin.serve("/", Answer::ok(&[], "hello\n"));
    let mut config = config(&origin.url());
    change(&mut config);
    (origin, Hub::start_with(&config))
}

/// What the origin sees of a request with these fields.
async fn seen(origin: &Origin, hub: &Hub, fields: &[&str]) -> Request {
    let before = origin.count("/");
    client::get(hub.addr(), "/", fields)
        .await
        .check(200, "hello\n");
    origin.requests("/").remove(before)
}

fn token(key: &str, at: UnixTime) -> String {
    let key = SigningKey::hs256(key.as_bytes()).expect("the key is good");
    format!("Grip-Sig: {}", grip_sig(&key, "front", at))
}

fn is_signed_by(request: &Request, key: &str) -> bool {
    let key = VerifyingKey::hs256(key.as_bytes()).expect("the key is good");
    let token = request.field("Grip-Sig");
    token.is_some_and(|token| key.verify(token, now(), 0).is_ok())
}

#[tokio::test]
async fn a_proxy_in_front_acts_on_instructions_by_itself() {
    let (origin, inner) = start(|config| {
        config.grip.upstream_key = Some(FRONT.to_owned());
    })
    .await;
    let mut config = config(&format!("http://{}", inner.addr()));
    config.grip.sig_key = Some(FRONT.to_owned());
    let outer = Hub::start_with(&config);
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: c; prev-id=1",
        "X-Own: 1",
    ];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let json = json!({"hold": {"mode": "response", "channels": [{"name": "c"}]}}).to_string();
    let instruct = ["Content-Type: application/grip-instruct"];
    origin.serve("/poll", Answer::ok(&instruct, &json));

    let mut stream = Client::get(outer.addr(), "/stream", &[]).await;
    let head = stream.stream_begins("hi\n").await;
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    let mut poll = Client::get(outer.addr(), "/poll", &[]).await;
    outer.until_metric("gripline_held_responses", 1).await;
    for name in ["gripline_held_streams", "gripline_held_responses"] {
        assert_eq!(inner.metric(name).await, 0, "{name}");
    }
    let formats = json!({"http-stream": {"content": "one\n"}, "http-response": {"body": "two\n"}});
    let item = json!({"channel": "c", "id": "2", "prev-id": "1", "formats": formats});
    outer.publish(json!([item])).await;
    stream.receives("one\n").await;
    poll.response().await.check(200, "two\n");

    let request = origin.only_request("/stream");
    assert!(is_signed_by(&request, FRONT));
    assert_eq!(request.head.values("Grip-Feature").len(), 1);
    assert_eq!(inner.metric("gripline_instruct_errors_total").await, 0);
}

#[tokio::test]
async fn the_ids_that_a_proxy_in_front_tells_reach_the_origin() {
    let (origin, hub) = start(|config| {
        config.grip.upstream_key = Some(FRONT.to_owned());
    })
    .await;
    let signature = token(FRONT, now());
    let fields = [&signature[..], "Grip-Last: c; last-id=1", "Grip-Own: x"];
    let request = seen(&origin, &hub, &fields).await;
    assert_eq!(request.field("Grip-Last"), Some("c; last-id=1"));
    assert_eq!(request.field("Grip-Own"), Some("x"));
    assert_eq!(request.field("Grip-Feature"), None);
    assert!(is_signed_by(&request, FRONT));
}

#[tokio::test]
async fn who_does_not_sign_is_no_proxy() {
    let (origin, hub) = start(|config| {
        config.grip.upstream_key = Some(FRONT.to_owned());
    })
    .await;
    let fields = ["Grip-Channel: c", "X-Own: 1"];
    origin.serve("/instruct", Answer::ok(&fields, "hi\n"));
    let long_ago = UnixTime(now().0 - 2 * 3600);
    for signature in [
        "X-None: 1",
        "Grip-Sig: nonsense",
        &token("other", now()),
        &token(SIG_KEY, now()),
        &token(FRONT, long_ago),
    ] {
        let fields = [signature, "Grip-Last: c; last-id=1"];
        let request = seen(&origin, &hub, &fields).await;
        assert!(is_signed_by(&request, SIG_KEY), "{signature}");
        assert_eq!(request.field("Grip-Last"), None, "{signature}");
        let response = client::get(hub.addr(), "/instruct", &fields).await;
        assert_eq!(response.field("Grip-Channel"), None, "{signature}");
        assert_eq!(response.field("X-Own"), Some("1"));
    }
}

#[tokio::test]
async fn without_a_key_there_are_no_proxies() {
    let (origin, hub) = start(|_| {}).await;
    let request = seen(&origin, &hub, &[&token(SIG_KEY, now()), "Grip-Own: x"]).await;
    assert_eq!(request.field("Grip-Own"), None);
    assert!(request.field("Grip-Feature").is_some());
}

#[tokio::test]
async fn the_hub_adds_its_name_to_the_loop_and_refuses_what_has_it() {
    let (origin, hub) = start(|config| config.cdn_loop = Some("hub.com".to_owned())).await;
    for (fields, expected) in [
        (&[][..], "hub.com"),
        (&["CDN-Loop: a; x=1"], "a; x=1, hub.com"),
        (&["CDN-Loop: a, b", "CDN-Loop: c"], "a, b, c, hub.com"),
        (&["CDN-Loop: a; x=hub.com"], "a; x=hub.com, hub.com"),
    ] {
        let request = seen(&origin, &hub, fields).await;
        assert_eq!(request.field("CDN-Loop"), Some(expected));
    }
    let count = origin.count("/");
    for field in ["CDN-Loop: hub.com", "CDN-Loop: a, hub.com; x=1, b"] {
        let response = client::get(hub.addr(), "/", &[field]).await;
        response.check(508, "Loop detected.\n");
        assert_eq!(response.field("Content-Type"), Some("text/plain"));
    }
    assert_eq!(origin.count("/"), count);
    assert_eq!(hub.metric("gripline_loops_total").await, 2);
}

#[tokio::test]
async fn without_a_name_loops_pass() {
    let (origin, hub) = start(|_| {}).await;
    let request = seen(&origin, &hub, &["CDN-Loop: a, b"]).await;
    assert_eq!(request.field("CDN-Loop"), Some("a, b"));
}

#[tokio::test]
async fn addresses_are_forwarded_by_rules() {
    let came = [
        "X-Forwarded-For: 192.0.2.1, 192.0.2.2",
        "X-Forwarded-For: 192.0.2.3",
    ];
    for (rules, came, expected) in [
        ("", &came[..], Some("192.0.2.1, 192.0.2.2, 192.0.2.3")),
        ("", &[], None),
        ("append", &[], Some("127.0.0.1")),
        ("append", &came[1..], Some("192.0.2.3, 127.0.0.1")),
        ("truncate:2", &came, Some("192.0.2.2, 192.0.2.3")),
        ("truncate:0", &came, None),
        ("truncate:0,append", &came, Some("127.0.0.1")),
    ] {
        let (origin, hub) = start(|config| {
            config.forwarded.for_rules = Some(rules.to_owned());
            // Not for those who do not sign.
            config.forwarded.for_trusted = Some("truncate:9".to_owned());
        })
        .await;
        let request = seen(&origin, &hub, came).await;
        assert_eq!(request.field("X-Forwarded-For"), expected, "{rules}");
    }
}

#[tokio::test]
async fn proxies_in_front_have_rules_of_their_own() {
    let (origin, hub) = start(|config| {
        config.grip.upstream_key = Some(FRONT.to_owned());
        config.forwarded.for_rules = Some("truncate:0, append".to_owned());
        config.forwarded.for_trusted = Some("truncate:1".to_owned());
    })
    .await;
    let came = "X-Forwarded-For: 192.0.2.1, 192.0.2.2";
    let trusted = seen(&origin, &hub, &[came, &token(FRONT, now())]).await;
    assert_eq!(trusted.field("X-Forwarded-For"), Some("192.0.2.2"));
    let other = seen(&origin, &hub, &[came]).await;
    assert_eq!(other.field("X-Forwarded-For"), Some("127.0.0.1"));
}

#[tokio::test]
async fn the_protocol_is_forwarded_as_far_as_it_is_believed() {
    let https = Some("https");
    for (accept, set, came, proto, protocol) in [
        (false, "proto-only", "https", None, None),
        (false, "true", "https", None, None),
        (false, "false", "https", https, https),
        (true, "false", "https", None, None),
        (true, "proto-only", "https", https, None),
        (true, "true", "https", https, https),
        (true, "true", "http", None, None),
        (true, "true", "nonsense", None, None),
    ] {
        let (origin, hub) = start(|config| {
            config.forwarded.accept_proto = Some(accept);
            config.forwarded.set_proto = Some(set.to_owned());
        })
        .await;
        let fields = [
            &format!("X-Forwarded-Proto: {came}")[..],
            &format!("X-Forwarded-Protocol: {came}"),
        ];
        let request = seen(&origin, &hub, &fields).await;
        let found = (
            request.field("X-Forwarded-Proto"),
            request.field("X-Forwarded-Protocol"),
        );
        assert_eq!(found, (proto, protocol), "{accept} {set} {came}");
    }
}

#[tokio::test]
async fn the_hub_does_not_mention_itself() {
    let (origin, hub) = start(|_| {}).await;
    let request = seen(&origin, &hub, &["Via: 1.1 other", "Forwarded: for=x"]).await;
    assert_eq!(request.field("Via"), Some("1.1 other"));
    assert_eq!(request.field("Forwarded"), Some("for=x"));
    let names: Vec<&str> = request
        .head
        .fields()
        .iter()
        .map(|(name, _)| &name[..])
        .collect();
    let mut names: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    names.sort();
    assert_eq!(
        names,
        ["forwarded", "grip-feature", "grip-sig", "host", "via"]
    );
    let response: Response = client::get(hub.addr(), "/", &[]).await;
    assert_eq!(response.head.fields().len(), 1, "{}", response.head);
}
