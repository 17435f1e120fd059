//! The hub as a plain reverse proxy: what the origin sees, and what comes back.

use e2e::client::{self, Client};
use e2e::hub::{Hub, SIG_ISS, SIG_KEY, config};
use e2e::now;
use e2e::origin::{Answer, Gate, Origin};
use grip::signature::VerifyingKey;

/// What the hub can do beyond holding, in the words of GRIP's `Grip-Feature`.
const FEATURES: &str = "status, link:next, link:gone, filter:skip-self, filter:skip-users, \
    filter:require-sub, filter:build-id, filter:var-subst, filter:http-check, filter:http-modify";

const ORIGIN_REQUESTS: &str = "gripline_origin_requests_total";
const ORIGIN_CONNECTIONS: &str = "gripline_origin_connections_total";

async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    origin.serve("/", Answer::ok(&[], "hello\n"));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

/// All of a shard's requests share its connections to the origin.
async fn start_on_one_shard() -> (Origin, Hub) {
    let (origin, _) = start().await;
    let mut config = config(&origin.url());
    config.shards = Some(1);
    (origin, Hub::start_with(&config))
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent() {
    let (origin, hub) = start().await;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let target = "/a%20b/../c?x=1&y=%2F";
        let fields = [
            "Host: example.com:8080",
            "X-Own: 1",
            "X-Own: 2",
            "Cookie: a=b",
        ];
        let body = if method == "GET" { "" } else { "some body" };
        client::request(hub.addr(), method, target, &fields, body).await;
        let requests = origin.requests("/a%20b/../c");
        let request = requests.last().expect("it came");
        assert_eq!(request.head.start(), format!("{method} {target} HTTP/1.1"));
        assert_eq!(request.field("Host"), Some("example.com:8080"));
        assert_eq!(request.head.values("X-Own"), ["1", "2"]);
        assert_eq!(request.field("Cookie"), Some("a=b"));
        assert_eq!(request.body, body.as_bytes());
    }
}

#[tokio::test]
async fn fields_of_one_hop_stay_on_it() {
    let (origin, hub) = start().await;
    let fields = [
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Proxy-Connection: keep-alive",
        "Proxy-Authenticate: Basic",
        "Accept-Encoding: gzip",
        "Expect: 100-continue",
        "X-Stays: 1",
    ];
    origin.serve(
        "/",
        Answer::ok(
            &[
                "Connection: X-Back",
                "X-Back: 1",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: keep-alive",
                "X-Stays: 1",
            ],
            "hello\n",
        ),
    );
    let response = client::get(hub.addr(), "/", &fields).await;
    let request = origin.only_request("/");
    for name in [
        "X-Hop",
        "Keep-Alive",
        "TE",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Accept-Encoding",
        "Expect",
    ] {
        assert_eq!(request.field(name), None, "{name} in\n{}", request.head);
    }
    assert_eq!(request.field("X-Stays"), Some("1"));
    for name in ["X-Back", "Keep-Alive", "Proxy-Connection"] {
        assert_eq!(response.field(name), None, "{name} in\n{}", response.head);
    }
    assert_eq!(response.field("X-Stays"), Some("1"));
}

#[tokio::test]
async fn requests_are_signed_and_a_clients_own_signature_is_removed() {
    let (origin, hub) = start().await;
    let fields = [
        "Grip-Sig: forged",
        "Grip-Feature: everything",
        "Grip-Last: updates; last-id=1",
        "Grip-Anything: x",
    ];
    client::get(hub.addr(), "/", &fields).await;
    let request = origin.only_request("/");
    let token = request.field("Grip-Sig").expect("it is signed");
    let key = VerifyingKey::hs256(SIG_KEY.as_bytes()).expect("the key is good");
    let claims = key.verify(token, now(), 0).expect("the signature is good");
    assert_eq!(claims.issuer.as_deref(), Some(SIG_ISS));
    let lifetime = claims.expires().since(now());
    assert!((3590..=3600).contains(&lifetime), "{lifetime}");
    let wrong = VerifyingKey::hs256(b"another").expect("the key is good");
    assert!(wrong.verify(token, now(), 0).is_err());

    assert_eq!(request.field("Grip-Feature"), Some(FEATURES));
    let others = request.head.names_beginning("grip-").len() - 2;
    assert_eq!(others, 0, "{}", request.head);
}

#[tokio::test]
async fn forwarded_for_passes_unless_rules_change_it() {
    let (origin, hub) = start().await;
    let fields = [
        "X-Forwarded-For: 192.0.2.1, 192.0.2.2",
        "X-Forwarded-For: 192.0.2.3",
        "X-Forwarded-Proto: https",
    ];
    client::get(hub.addr(), "/?1", &fields).await;
    let mut config = config(&origin.url());
    config.forwarded.for_rules = Some("truncate:1, append".to_owned());
    let hub = Hub::start_with(&config);
    client::get(hub.addr(), "/?2", &fields).await;
    let found: Vec<String> = origin
        .requests("/")
        .iter()
        .map(|request| {
            // The client's side is not TLS, whatever the client says.
            assert_eq!(request.field("X-Forwarded-Proto"), None);
            request
                .field("X-Forwarded-For")
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert_eq!(
        found,
        ["192.0.2.1, 192.0.2.2, 192.0.2.3", "192.0.2.3, 127.0.0.1"]
    );
}

#[tokio::test]
async fn a_response_arrives_as_it_was_sent() {
    let (origin, hub) = start().await;
    let fields = [
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Content-Encoding: gzip",
        "X-Own: 1",
    ];
    origin.serve("/", Answer::status("418 Short And Stout", &fields, "tea\n"));
    let response = client::get(hub.addr(), "/", &[]).await;
    assert_eq!(response.head.start(), "HTTP/1.1 418 Short And Stout");
    response.check(418, "tea\n");
    assert_eq!(response.head.values("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(response.field("Content-Encoding"), Some("gzip"));
    assert_eq!(response.field("Content-Length"), Some("4"));
    assert_eq!(
        response.head.fields().len(),
        fields.len() + 1,
        "{}",
        response.head
    );
    for name in ["Server", "Via"] {
        assert_eq!(response.field(name), None);
    }
}

#[tokio::test]
async fn a_response_without_a_date_gets_none() {
    let (_origin, hub) = start().await;
    let response = client::get(hub.addr(), "/", &[]).await;
    response.check(200, "hello\n");
    assert_eq!(response.head.fields().len(), 1, "{}", response.head);
}

#[tokio::test]
async fn bodies_stream_to_the_client() {
    let (origin, hub) = start().await;
    let gate = Gate::new();
    let chunked = Answer::begin("200 OK", &["Transfer-Encoding: chunked"])
        .then("4\r\none\n\r\n")
        .waiting_for(&gate)
        .then("4\r\ntwo\n\r\n0\r\n\r\n");
    origin.serve("/chunked", chunked);
    let sized = Answer::begin("200 OK", &["Content-Length: 8"])
        .then("one\n")
        .waiting_for(&gate)
        .then("two\n");
    origin.serve("/sized", sized);
    let to_end = Answer::begin("200 OK", &[])
        .then("one\n")
        .waiting_for(&gate)
        .then("two\n")
        .close();
    origin.serve("/to-end", to_end);
    let mut clients = Vec::new();
    for target in ["/chunked", "/sized", "/to-end"] {
        let mut client = Client::get(hub.addr(), target, &[]).await;
        client.stream_begins("one\n").await;
        client.is_quiet();
        clients.push(client);
    }
    gate.open();
    for client in &mut clients {
        client.receives("two\n").await;
        client.ends().await;
    }
}

#[tokio::test]
async fn bodies_stream_to_the_origin() {
    let (origin, hub) = start().await;
    for (fields, first, second) in [
        ("Content-Length: 8", "one\n", "two\n"),
        (
            "Transfer-Encoding: chunked",
            "4\r\none\n\r\n",
            "4\r\ntwo\n\r\n0\r\n\r\n",
        ),
    ] {
        let before = origin.count("/");
        let mut client = Client::connect(hub.addr()).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        client.send(head + first).await;
        origin
            .until("/", |requests| {
                requests.get(before).is_some_and(|r| r.body == b"one\n")
            })
            .await;
        client.send(second).await;
        client.response().await.check(200, "hello\n");
        let requests = origin.requests("/");
        let request = requests.last().expect("it came");
        assert_eq!(request.body, b"one\ntwo\n");
        assert!(request.is_complete);
    }
}

#[tokio::test]
async fn big_bodies_pass_both_ways() {
    let (origin, hub) = start().await;
    let big = "0123456789abcdef".repeat(1 << 19);
    origin.serve_with("/big", |_| {
        Answer::ok(&[], &"fedcba9876543210".repeat(1 << 19))
    });
    let response = client::request(hub.addr(), "POST", "/big", &[], &big).await;
    assert_eq!(response.status(), 200);
    assert!(response.is_complete);
    assert_eq!(response.body.len(), big.len());
    let request = origin.only_request("/big");
    assert!(request.body == big.as_bytes());
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_complete() {
    let (origin, hub) = start().await;
    let answer = Answer::early().then("HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nno!\n");
    origin.serve("/", answer.close());
    let mut client = Client::connect(hub.addr()).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin")
        .await;
    client.response().await.check(413, "no!\n");
}

#[tokio::test]
async fn a_truncated_body_arrives_as_truncated() {
    let (origin, hub) = start().await;
    for (target, field, begin) in [
        ("/chunked", "Transfer-Encoding: chunked", "4\r\none\n\r\n"),
        ("/chunk", "Transfer-Encoding: chunked", "4\r\non"),
        ("/sized", "Content-Length: 8", "one\n"),
    ] {
        let answer = Answer::begin("200 OK", &[field]).then(begin).close();
        origin.serve(target, answer);
        let response = client::get(hub.addr(), target, &[]).await;
        assert!(!response.is_complete, "{target}: {response:?}");
    }
}

#[tokio::test]
async fn connections_to_both_sides_are_used_again() {
    let (origin, hub) = start().await;
    let mut client = Client::connect(hub.addr()).await;
    for _ in 0..5 {
        client.request("GET", "/", &[], "").await;
        client.response().await.check(200, "hello\n");
    }
    let connections: Vec<usize> = origin.requests("/").iter().map(|r| r.connection).collect();
    assert_eq!(connections, [0; 5]);
    client.request("GET", "/", &["Connection: close"], "").await;
    client.response().await.check(200, "hello\n");
    client.is_closed_by_server().await;
}

#[tokio::test]
async fn a_clients_connection_does_not_decide_which_of_the_origins_is_used() {
    let (origin, hub) = start_on_one_shard().await;
    let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&hold, "hi\n"));
    let mut clients = Vec::new();
    for _ in 0..5 {
        client::get(hub.addr(), "/", &[])
            .await
            .check(200, "hello\n");
        let mut client = Client::get(hub.addr(), "/stream", &[]).await;
        client.stream_begins("hi\n").await;
        clients.push(client);
    }
    // A hold keeps nothing open towards the origin.
    assert_eq!(hub.metric(ORIGIN_REQUESTS).await, 10);
    assert_eq!(hub.metric(ORIGIN_CONNECTIONS).await, 1);
}

#[tokio::test]
async fn requests_at_a_time_have_connections_of_their_own_which_are_used_again() {
    let (origin, hub) = start_on_one_shard().await;
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "slow\n").after(&gate));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::get(hub.addr(), "/slow", &[]).await);
    }
    origin.until_count("/slow", 3).await;
    gate.open();
    for client in &mut clients {
        client.response().await.check(200, "slow\n");
    }
    for _ in 0..3 {
        client::get(hub.addr(), "/", &[])
            .await
            .check(200, "hello\n");
    }
    assert_eq!(hub.metric(ORIGIN_REQUESTS).await, 6);
    assert_eq!(hub.metric(ORIGIN_CONNECTIONS).await, 3);
}

#[tokio::test]
async fn a_connection_that_the_origin_closed_is_replaced() {
    let (origin, hub) = start_on_one_shard().await;
    origin.serve(
        "/once",
        Answer::ok(&["Connection: close"], "once\n").close(),
    );
    // Another one that the origin closes without a word, once the answer is out.
    origin.serve("/silent", Answer::ok(&[], "silent\n").close());
    for target in ["/once", "/silent", "/once", "/silent"] {
        let text = format!("{}\n", &target[1..]);
        client::get(hub.addr(), target, &[]).await.check(200, &text);
    }
    client::get(hub.addr(), "/", &[])
        .await
        .check(200, "hello\n");
    assert_eq!(hub.metric("gripline_origin_errors_total").await, 0);
    let connections: Vec<usize> = origin
        .requests("/silent")
        .iter()
        .map(|r| r.connection)
        .collect();
    assert_eq!(connections, [1, 3]);
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on_when_its_body_is_wanted() {
    let (origin, hub) = start().await;
    let mut client = Client::connect(hub.addr()).await;
    let fields = ["Expect: 100-continue", "Content-Length: 9"];
    for _ in 0..2 {
        client.request("POST", "/", &fields, "").await;
        assert_eq!(client.head().await.start(), "HTTP/1.1 100 Continue");
        client.send_content(b"some body").await;
        client.response().await.check(200, "hello\n");
    }
    for request in origin.requests("/") {
        assert_eq!(request.field("Expect"), None);
        assert_eq!(request.body, b"some body");
    }
}

#[tokio::test]
async fn a_client_that_waits_is_not_told_to_go_on_in_vain() {
    let (mut origin, hub) = start().await;
    origin.stop().await;
    let fields = ["Expect: 100-continue", "Content-Length: 9"];
    let mut client = Client::connect(hub.addr()).await;
    client.request("POST", "/", &fields, "").await;
    client
        .response()
        .await
        .check(502, "Error while proxying to origin.\n");
    // Whether the body comes after all is not known, so nothing can come after it.
    client.is_closed_by_server().await;
}

#[tokio::test]
async fn trailers_are_dropped_both_ways() {
    let (origin, hub) = start().await;
    let chunks = "4\r\none\n\r\n0\r\nX-Sum: 1\r\n\r\n";
    let fields = [
        "Transfer-Encoding: chunked",
        "Trailer: X-Sum",
        "TE: trailers",
    ];
    origin.serve("/", Answer::begin("200 OK", &fields[..2]).then(chunks));
    let mut client = Client::connect(hub.addr()).await;
    for _ in 0..2 {
        client.request("POST", "/", &fields, "").await;
        client.send_content(chunks.as_bytes()).await;
        let head = client.head().await;
        assert_eq!(head.field("Trailer"), None);
        assert_eq!(head.field("X-Sum"), None);
        assert_eq!(client.raw_until("\r\n0\r\n").await, "4\r\none\n\r\n0\r\n");
        assert_eq!(client.raw_until("\r\n").await, "\r\n");
        client.is_quiet();
    }
    for request in origin.requests("/") {
        assert!(request.is_complete);
        assert_eq!(request.body, b"one\n");
        assert_eq!(request.field("Trailer"), None);
        assert_eq!(request.field("X-Sum"), None);
    }
    assert_eq!(origin.count("/"), 2);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (origin, hub) = start().await;
    origin.serve_with("/n", |request| Answer::ok(&[], request.target()));
    let mut client = Client::connect(hub.addr()).await;
    let request = |n| format!("GET /n?{n} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send((0..10).map(request).collect::<String>()).await;
    for n in 0..10 {
        client.response().await.check(200, &format!("/n?{n}"));
    }
}

#[tokio::test]
async fn pipelined_requests_may_have_bodies_and_wait() {
    let (origin, hub) = start().await;
    let hold = ["Grip-Hold: response", "Grip-Channel: updates"];
    origin.serve("/poll", Answer::ok(&hold, "nothing\n"));
    origin.serve_with("/n", |request| Answer::ok(&[], request.target()));
    let mut client = Client::connect(hub.addr()).await;
    let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let requests = [
        head("POST /n?1", "Content-Length: 4\r\n") + "GET ",
        head("POST /n?2", "Transfer-Encoding: chunked\r\n") + "4\r\nGET \r\n0\r\n\r\n",
        head("POST /poll", "Content-Length: 8\r\n") + "question",
        head("GET /n?3", "Connection: close\r\n"),
        head("GET /n?4", ""),
    ];
    client.send(requests.concat()).await;
    client.response().await.check(200, "/n?1");
    client.response().await.check(200, "/n?2");
    hub.until_metric("gripline_held_responses", 1).await;
    assert_eq!(origin.count("/n"), 2);
    let item = serde_json::json!({"channel": "updates", "http-response": {"body": "news\n"}});
    hub.publish(serde_json::json!([item])).await;
    client.response().await.check(200, "news\n");
    client.response().await.check(200, "/n?3");
    client.is_closed_by_server().await;
    let bodies: Vec<Vec<u8>> = origin.requests("/n").into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, [&b"GET "[..], b"GET ", b""]);
    assert_eq!(origin.only_request("/poll").body, b"question");
}

#[tokio::test]
async fn content_keeps_its_encoding_unless_something_is_appended_to_it() {
    let (origin, hub) = start().await;
    let mut config = config(&origin.url());
    config.debug = Some(true);
    let debug_hub = Hub::start_with(&config);
    origin.serve(
        "/plain",
        Answer::ok(&["Content-Encoding: gzip"], "\u{1f}..."),
    );
    let fields = [
        "Content-Encoding: gzip",
        "Grip-Hold: stream",
        "Grip-Channel: c",
    ];
    origin.serve("/stream", Answer::ok(&fields, "\u{1f}..."));
    origin.serve(
        "/identity",
        Answer::ok(&["Content-Encoding: identity", "Grip-Channel: c"], "hi\n"),
    );
    let accept = ["Accept-Encoding: gzip, br"];
    let response = client::get(hub.addr(), "/plain", &accept).await;
    response.check(200, "\u{1f}...");
    assert_eq!(response.field("Content-Encoding"), Some("gzip"));
    assert_eq!(origin.only_request("/plain").field("Accept-Encoding"), None);

    let response = client::get(hub.addr(), "/stream", &accept).await;
    response.check(502, "Error while proxying to origin.\n");
    let response = client::get(debug_hub.addr(), "/stream", &accept).await;
    let told = "Failed to parse accept instructions: the response has a Content-Encoding\n";
    response.check(502, told);
    client::get(hub.addr(), "/identity", &accept)
        .await
        .check(200, "hi\n");
    assert_eq!(hub.metric("gripline_instruct_errors_total").await, 1);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_origin() {
    let (origin, hub) = start().await;
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "late\n").after(&gate));
    let client = Client::get(hub.addr(), "/slow", &[]).await;
    origin.until_count("/slow", 1).await;
    drop(client);
    origin
        .until("/slow", |requests| requests[0].is_abandoned)
        .await;
}

#[tokio::test]
async fn an_origin_that_does_not_listen_is_a_502() {
    let (mut origin, hub) = start().await;
    let mut config = config(&origin.url());
    config.debug = Some(true);
    let debug_hub = Hub::start_with(&config);
    origin.stop().await;

    let response = client::get(hub.addr(), "/", &[]).await;
    response.check(502, "Error while proxying to origin.\n");
    assert_eq!(response.head.start(), "HTTP/1.1 502 Bad Gateway");
    assert_eq!(response.field("Content-Type"), Some("text/plain"));
    assert_eq!(response.field("Content-Length"), Some("32"));
    assert_eq!(hub.metric("gripline_origin_errors_total").await, 1);

    let text = format!(
        "Unable to connect to any targets. Tried: {}\n",
        origin.addr()
    );
    client::get(debug_hub.addr(), "/", &[])
        .await
        .check(502, &text);
}

#[tokio::test]
async fn an_origin_that_breaks_off_or_talks_nonsense_is_a_502() {
    let (origin, hub) = start().await;
    for (target, answer) in [
        ("/nothing", Answer::early().reading_body().close()),
        ("/half", Answer::raw("HTTP/1.1 200 OK\r\nX-A").close()),
        ("/nonsense", Answer::raw("SSH-2.0-OpenSSH\r\n\r\n").close()),
    ] {
        origin.serve(target, answer);
        let mut client = Client::get(hub.addr(), target, &[]).await;
        let response = client.response().await;
        response.check(502, "Error while proxying to origin.\n");
        // The client's connection is not to blame.
        client.request("GET", "/", &[], "").await;
        client.response().await.check(200, "hello\n");
    }
    assert_eq!(hub.metric("gripline_origin_errors_total").await, 3);
}
