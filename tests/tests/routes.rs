//! Routes: which target a request goes to, and what becomes of it on the way.

use e2e::client::{self, Client, Response};
use e2e::http2::Http2;
use e2e::hub::{Hub, SIG_ISS, SIG_KEY, config};
use e2e::now;
use e2e::origin::{Answer, Origin};
use e2e::routes::{Refuser, RoutesFile};
use grip::signature::VerifyingKey;
use gripline_hub::config::RawConfig;
use serde_json::json;

/// A hub in front of two origins that tell what they were asked, and a port that nobody listens on.
struct Setup {
    a: Origin,
    b: Origin,
    closed: Refuser,
    file: RoutesFile,
    hub: Hub,
}

impl Setup {
    /// In these lines, `A`, `B` and `CLOSED` stand for addresses.
    async fn start(lines: &[&str]) -> Self {
        Self::start_with(lines, |_| {}).await
    }

    async fn start_with(lines: &[&str], change: impl FnOnce(&mut RawConfig)) -> Self {
        let (a, b) = (Origin::start_echo("a").await, Origin::start_echo("b").await);
        let closed = Refuser::new();
        let file = RoutesFile::new(&[] as &[&str]);
        file.write(&resolved(lines, &a, &b, &closed));
        let mut config = file.config();
        change(&mut config);
        let hub = Hub::start_with(&config);
        Self {
            a,
            b,
            closed,
            file,
            hub,
        }
    }

    fn rewrite(&self, lines: &[&str]) {
        self.file
            .write(&resolved(lines, &self.a, &self.b, &self.closed));
    }

    async fn get(&self, target: &str, fields: &[&str]) -> Response {
        client::get(self.hub.addr(), target, fields).await
    }

    /// Asks `HOST/PATH`, and fails unless the answer is this text.
    #[track_caller]
    fn check(&self, url: &str, expected: &str) -> impl Future<Output = ()> {
        self.check_with(url, &[], expected)
    }

    #[track_caller]
    fn check_with(&self, url: &str, fields: &[&str], expected: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let (host, path) = url.split_at(url.find('/').expect("there is a path"));
        let host = format!("Host: {host}");
        let fields: Vec<String> = std::iter::once(host)
            .chain(fields.iter().map(|field| (*field).to_owned()))
            .collect();
        async move {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let response = self.get(path, &fields).await;
            assert_eq!(response.text(), format!("{expected}\n"), "{caller}: {url}");
        }
    }
}

fn resolved(lines: &[&str], a: &Origin, b: &Origin, closed: &Refuser) -> Vec<String> {
    let resolve = |line: &&str| {
        line.replace("CLOSED", &closed.addr().to_string())
            .replace('A', &a.addr().to_string())
            .replace('B', &b.addr().to_string())
    };
    lines.iter().map(resolve).collect()
}

#[tokio::test]
async fn the_host_decides() {
    let setup = Setup::start(&["one.com A", "two.com,path_beg=/x B", "* B"]).await;
    setup.check("one.com/", "a GET / one.com").await;
    setup.check("One.COM:81/y?z", "a GET /y?z One.COM:81").await;
    setup.check("else.com/", "b GET / else.com").await;
    setup.check("sub.one.com/", "b GET / sub.one.com").await;
    // A host with routes of its own never takes those for any host.
    setup.check("two.com/x", "b GET /x two.com").await;
    setup.check("two.com/", "Route not found").await;
}

#[tokio::test]
async fn the_longest_path_decides() {
    let lines = [
        "* A",
        "*,path_beg=/b B",
        "*,path_beg=/b/a/ A",
        "*,path_beg=/%62 A",
    ];
    let setup = Setup::start(&lines).await;
    setup.check("x/", "a GET / x").await;
    setup.check("x/b", "b GET /b x").await;
    setup.check("x/bc?d", "b GET /bc?d x").await;
    setup.check("x/b/a", "b GET /b/a x").await;
    setup.check("x/b/a/c", "a GET /b/a/c x").await;
    // Paths are compared as they were sent.
    setup.check("x/%62", "a GET /%62 x").await;
    setup.check("x/?/b", "a GET /?/b x").await;
}

#[tokio::test]
async fn without_a_route_there_is_a_502() {
    let setup = Setup::start(&["one.com A"]).await;
    let response = setup.get("/", &["Host: two.com"]).await;
    response.check(502, "Route not found\n");
    assert_eq!(response.head.start(), "HTTP/1.1 502 Bad Gateway");
    assert_eq!(response.field("Content-Type"), Some("text/plain"));
    assert_eq!(
        setup.hub.metric("gripline_unrouted_requests_total").await,
        1
    );
    // HTTP/1.0 may leave the host out; then it is `localhost`.
    let mut client = Client::connect(setup.hub.addr()).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    client.response().await.check(502, "Route not found\n");
    assert_eq!(setup.hub.metric("gripline_origin_requests_total").await, 0);
}

#[tokio::test]
async fn encrypted_clients_are_told_from_others_where_proxies_are_believed() {
    let lines = ["*,ssl=yes A", "* B"];
    let setup = Setup::start_with(&lines, |config| {
        config.forwarded.accept_proto = Some(true);
    })
    .await;
    setup.check("x/", "b GET / x").await;
    let https = ["X-Forwarded-Proto: https"];
    setup.check_with("x/", &https, "a GET / x").await;
    setup
        .check_with("x/", &["X-Forwarded-Protocol: https"], "a GET / x")
        .await;
    setup
        .check_with("x/", &["X-Forwarded-Proto: http"], "b GET / x")
        .await;

    let setup = Setup::start(&lines).await;
    setup.check_with("x/", &https, "b GET / x").await;
}

#[tokio::test]
async fn routes_for_websockets_are_not_for_requests() {
    let setup = Setup::start(&["*,proto=ws A", "* B", "one.com,proto=ws A"]).await;
    setup.check("x/", "b GET / x").await;
    setup.check("one.com/", "Route not found").await;
}

#[tokio::test]
async fn the_path_is_rewritten() {
    let setup = Setup::start(&[
        "remove,path_beg=/api,path_rem=4 A",
        "replace,path_beg=/api/,replace_beg=/v1/ A",
        "empty,path_beg=/api,replace_beg= A",
        "front,replace_beg=/front A",
        "much,path_rem=100 A",
    ])
    .await;
    setup
        .check("remove/api/x?y=/api", "a GET /x?y=/api remove")
        .await;
    setup.check("remove/api", "a GET / remove").await;
    setup.check("remove/apix", "a GET /x remove").await;
    setup
        .check("replace/api/x%20y/?z", "a GET /v1/x%20y/?z replace")
        .await;
    setup.check("empty/api/x", "a GET /x empty").await;
    setup.check("empty/api?x", "a GET /?x empty").await;
    setup.check("front/x", "a GET /front/x front").await;
    setup.check("much/abc?x", "a GET /?x much").await;
}

#[tokio::test]
async fn the_host_is_replaced() {
    let setup = Setup::start(&[
        "one.com,as_host=other.com:81 A",
        "two.com,as_host=other.com A,host=target.com",
        "three.com A,host=target.com:82",
    ])
    .await;
    setup.check("one.com/", "a GET / other.com:81").await;
    setup.check("two.com/", "a GET / target.com").await;
    setup.check("three.com:80/", "a GET / target.com:82").await;
}

#[tokio::test]
async fn headers_are_set_and_removed() {
    let lines = [r#"*,header=X-Set:new,header=X-Gone:,"header=X-Long:a, b" A"#];
    let setup = Setup::start(&lines).await;
    let fields = ["X-Set: 1", "X-Set: 2", "X-Gone: 1", "X-Stays: 1"];
    setup.get("/", &fields).await;
    let head = setup.a.only_request("/").head;
    for (name, values) in [
        ("X-Set", &["new"][..]),
        ("X-Gone", &[]),
        ("X-Long", &["a, b"]),
        ("X-Stays", &["1"]),
    ] {
        assert_eq!(head.values(name), values, "{name}");
    }
}

#[tokio::test]
async fn the_clients_headers_are_copied_with_a_mark() {
    let lines = ["*,orig_headers,header=X-Set:new A", "plain A"];
    let setup = Setup::start_with(&lines, |config| {
        config.orig_headers_need_mark = Some(vec!["X-Need".to_owned()]);
    })
    .await;
    let fields = [
        "X-Set: 1",
        "X-Need: 2",
        "eb9bf0f5-X-Marked: 3",
        "eb9bf0f5-X-Own: 4",
        "X-Own: 5",
    ];
    setup.get("/copied", &fields).await;
    let head = setup.a.only_request("/copied").head;
    for (name, value) in [
        ("X-Set", Some("new")),
        ("eb9bf0f5-X-Set", Some("1")),
        ("X-Need", Some("2")),
        ("eb9bf0f5-X-Need", None),
        ("eb9bf0f5-X-Marked", Some("3")),
        ("eb9bf0f5-X-Own", Some("4")),
        ("eb9bf0f5-Host", Some("example.com")),
    ] {
        assert_eq!(head.field(name), value, "{name}");
    }
    setup
        .get("/plain", &[&["Host: plain"], &fields[..]].concat())
        .await;
    let head = setup.a.only_request("/plain").head;
    assert_eq!(head.names_beginning("eb9bf0f5-"), [""; 0]);
    assert_eq!(head.field("X-Own"), Some("5"));
}

#[tokio::test]
async fn channels_have_the_routes_prefix_outside_only() {
    let setup = Setup::start(&["*,prefix=mine- A"]).await;
    let fields = ["Grip-Hold: response", "Grip-Channel: c; prev-id=1"];
    setup.a.serve("/poll", Answer::ok(&fields, "nothing\n"));
    let mut poll = Client::get(setup.hub.addr(), "/poll", &[]).await;
    setup.hub.until_metric("gripline_held_responses", 1).await;
    let item = |channel: &str, body: &str| json!({"channel": channel, "id": "2", "prev-id": "1", "http-response": {"body": body}});
    setup
        .hub
        .publish(json!([item("c", "no\n"), item("mine-c", "yes\n")]))
        .await;
    poll.response().await.check(200, "yes\n");

    let fields = ["Grip-Hold: response", "Grip-Channel: c; prev-id=0"];
    setup.a.serve("/poll", Answer::ok(&fields, "nothing\n"));
    poll.request("GET", "/poll?again", &[], "").await;
    setup.a.until_count("/poll", 3).await;
    let last = setup.a.requests("/poll")[2].clone();
    assert_eq!(last.field("Grip-Last"), Some("c; last-id=0"));
}

#[tokio::test]
async fn without_grip_it_is_a_plain_proxy() {
    let setup = Setup::start(&["*,no_grip A"]).await;
    let fields = ["Grip-Hold: response", "Grip-Channel: c", "X-Own: 1"];
    setup.a.serve("/poll", Answer::ok(&fields, "at once\n"));
    let response = setup.get("/poll", &["Grip-Last: c; last-id=1"]).await;
    response.check(200, "at once\n");
    assert_eq!(response.field("Grip-Hold"), Some("response"));
    assert_eq!(response.field("X-Own"), Some("1"));
    let request = setup.a.only_request("/poll");
    assert_eq!(request.head.names_beginning("grip-"), [""; 0]);
}

#[tokio::test]
async fn a_target_may_subscribe_by_itself() {
    let setup = Setup::start(&["*,prefix=mine- A,sub=all,sub=more"]).await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: c"];
    setup.a.serve("/stream", Answer::ok(&fields, "hi\n"));
    let mut stream = Client::get(setup.hub.addr(), "/stream", &[]).await;
    stream.stream_begins("hi\n").await;
    // Its channels are not prefixed.
    for (channel, content) in [
        ("mine-all", "no\n"),
        ("all", "1\n"),
        ("more", "2\n"),
        ("mine-c", "3\n"),
    ] {
        setup.hub.publish_stream(channel, content).await;
    }
    for content in ["1\n", "2\n", "3\n"] {
        stream.receives(content).await;
    }
}

#[tokio::test]
async fn clients_may_name_a_route_where_that_is_allowed() {
    let lines = [
        "id=named,path_beg=/x A",
        "* B",
        "other,id=other,path_rem=2 A",
    ];
    let setup = Setup::start_with(&lines, |config| {
        config.accept_pushpin_route = Some(true);
    })
    .await;
    let named = ["Pushpin-Route: named"];
    setup.check_with("x/x/y", &named, "a GET /x/y x").await;
    assert_eq!(setup.a.only_request("/x/y").field("Pushpin-Route"), None);
    setup
        .check_with("x/", &["Pushpin-Route: other"], "a GET / x")
        .await;
    // There is no way back to the others.
    setup.check_with("x/y", &named, "Route not found").await;
    setup
        .check_with("x/x", &["Pushpin-Route: none"], "Route not found")
        .await;
    setup.check("x/x", "b GET /x x").await;
    let mut client = Http2::connect(setup.hub.addr()).await;
    let mut exchange = client.get("/x", &named).await;
    exchange
        .response()
        .await
        .check(200, "a GET /x example.com\n");

    let setup = Setup::start(&lines).await;
    setup.check_with("x/x", &named, "b GET /x x").await;
    let passed = setup.b.only_request("/x");
    assert_eq!(passed.field("Pushpin-Route"), Some("named"));
}

#[tokio::test]
async fn errors_are_told_where_the_route_says_so() {
    let setup = Setup::start(&["*,debug A", "discreet A"]).await;
    setup.a.serve("/bad", Answer::ok(&["Grip-Hold: x"], ""));
    let told = "Failed to parse accept instructions: Grip-Hold must be set to either 'response' or 'stream'";
    setup.check("x/bad", told).await;
    setup
        .check("discreet/bad", "Error while proxying to origin.")
        .await;
}

#[track_caller]
fn check_signature(request: &e2e::origin::Request, key: &str, issuer: &str) {
    let token = request.field("Grip-Sig").expect("it is signed");
    let key = VerifyingKey::hs256(key.as_bytes()).expect("the key is good");
    let claims = key.verify(token, now(), 0).expect("the signature is good");
    assert_eq!(claims.issuer.as_deref(), Some(issuer));
}

#[tokio::test]
async fn requests_are_signed_as_the_route_says() {
    let lines = [
        "*,sig_key=own,sig_iss=me A",
        "key,sig_key=base64:b3RoZXI= A",
        "issuer,sig_iss=you A",
    ];
    let setup = Setup::start(&lines).await;
    for (host, key, issuer) in [
        ("x", "own", "me"),
        ("key", "other", SIG_ISS),
        ("issuer", SIG_KEY, "you"),
    ] {
        let target = format!("/{host}");
        setup.get(&target, &[&format!("Host: {host}")]).await;
        check_signature(&setup.a.only_request(&target), key, issuer);
    }
}

#[tokio::test]
async fn the_next_target_is_asked_where_one_cannot_be_reached() {
    let setup = Setup::start(&["* CLOSED B,host=b.com", "first A B"]).await;
    setup.check("x/", "b GET / b.com").await;
    setup.check("first/", "a GET / first").await;
    let response = client::request(setup.hub.addr(), "POST", "/post", &[], "some body").await;
    response.check(200, "b POST /post b.com\n");
    assert_eq!(setup.b.only_request("/post").body, b"some body");

    // A body that comes in pieces, of which the first target saw nothing.
    let mut client = Client::connect(setup.hub.addr()).await;
    let head = "POST /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}4\r\none\n\r\n")).await;
    setup
        .b
        .until("/chunked", |requests| {
            requests.first().is_some_and(|r| r.body == b"one\n")
        })
        .await;
    client.send("4\r\ntwo\n\r\n0\r\n\r\n").await;
    client
        .response()
        .await
        .check(200, "b POST /chunked b.com\n");
    assert_eq!(setup.b.only_request("/chunked").body, b"one\ntwo\n");
    assert_eq!(setup.hub.metric("gripline_origin_errors_total").await, 0);
}

#[tokio::test]
async fn the_next_target_gets_what_the_first_had_already_read() {
    let setup = Setup::start(&["* A B"]).await;
    setup
        .a
        .serve("/put", Answer::early().reading_body().close());
    let response = client::request(setup.hub.addr(), "PUT", "/put", &[], "some body").await;
    response.check(200, "b PUT /put example.com\n");
    assert_eq!(setup.a.only_request("/put").body, b"some body");
    assert_eq!(setup.b.only_request("/put").body, b"some body");
    // The first may have done what it was asked to; once more is not what the client wants.
    setup
        .a
        .serve("/post", Answer::early().reading_body().close());
    let response = client::request(setup.hub.addr(), "POST", "/post", &[], "some body").await;
    response.check(502, "Error while proxying to origin.\n");
    assert_eq!(setup.b.count("/post"), 0);
}

#[tokio::test]
async fn an_error_of_the_first_target_is_an_answer() {
    let setup = Setup::start(&["* A B"]).await;
    setup
        .a
        .serve("/", Answer::status("503 Busy", &[], "busy\n"));
    setup.get("/", &[]).await.check(503, "busy\n");
    assert_eq!(setup.b.count("/"), 0);
}

#[tokio::test]
async fn targets_in_vain_are_listed_for_those_who_debug() {
    let other = Refuser::new();
    let line = format!("*,debug CLOSED {}", other.addr());
    let setup = Setup::start(&[&line, "discreet CLOSED"]).await;
    let tried = format!("{}, {}", setup.closed.addr(), other.addr());
    let told = format!("Unable to connect to any targets. Tried: {tried}");
    setup.check("x/", &told).await;
    setup
        .check("discreet/", "Error while proxying to origin.")
        .await;
    assert_eq!(setup.hub.metric("gripline_origin_errors_total").await, 2);
}

#[tokio::test]
async fn private_addresses_can_be_refused() {
    let setup = Setup::start(&["*,debug A,untrusted", "next A,untrusted B"]).await;
    setup.check("x/", "Error: Origin host/IP blocked.").await;
    setup.check("next/", "b GET / next").await;
    assert_eq!(setup.a.count("/"), 0);
}

#[tokio::test]
async fn a_target_that_gets_events_takes_none_from_clients() {
    let setup = Setup::start(&["* A,over_http", "plain A"]).await;
    for (host, content_type, status) in [
        ("x", "application/websocket-events", 403),
        ("x", "application/websocket-events; x=y", 403),
        ("x", "text/plain", 200),
        ("plain", "application/websocket-events", 200),
    ] {
        let fields = [
            &format!("Host: {host}")[..],
            &format!("Content-Type: {content_type}"),
        ];
        let response = client::request(setup.hub.addr(), "POST", "/", &fields, "OPEN\r\n").await;
        assert_eq!(response.status(), status, "{host} {content_type}");
        if status == 403 {
            response.check(
                403,
                "Client not allowed to send WebSocket events directly.\n",
            );
            assert_eq!(response.head.start(), "HTTP/1.1 403 Forbidden");
        }
    }
    assert_eq!(setup.a.count("/"), 2);
}

#[tokio::test]
async fn the_test_target_answers_without_an_origin() {
    let setup = Setup::start(&["* test", "sub,path_beg=/t/ test", "next CLOSED test"]).await;
    let hello = "Hello from the Gripline test handler!";
    setup.check("x/", hello).await;
    setup.check("sub/t/", hello).await;
    setup.check("next/", hello).await;
    let none = setup.get("/none", &[]).await;
    none.check(404, "no such test resource\n");
    assert_eq!(none.field("Content-Type"), Some("text/plain"));
    let large = "x".repeat(100_001);
    let response = client::request(setup.hub.addr(), "POST", "/", &[], &large).await;
    response.check(400, "request too large\n");
    let response = client::request(setup.hub.addr(), "POST", "/", &[], &large[1..]).await;
    response.check(200, &format!("{hello}\n"));
}

#[tokio::test]
async fn the_test_target_holds() {
    let setup = Setup::start(&["* test", "sub,path_beg=/t/ test"]).await;
    let hub = &setup.hub;
    let mut stream = Client::get(hub.addr(), "/stream?channel=a&channel=b%20c", &[]).await;
    stream.stream_begins("[stream opened]\n").await;
    let mut default = Client::get(hub.addr(), "/t/stream/", &["Host: sub"]).await;
    default.stream_begins("[stream opened]\n").await;
    let mut poll = Client::get(hub.addr(), "/response?channel=a", &[]).await;
    hub.until_metric("gripline_held_responses", 1).await;
    hub.publish_stream("b c", "one\n").await;
    stream.receives("one\n").await;
    hub.publish_stream("test", "two\n").await;
    default.receives("two\n").await;
    let item = json!({"channel": "a", "http-response": {"body": "news\n"}});
    hub.publish(json!([item])).await;
    poll.response().await.check(200, "news\n");

    // What was read of the request is known when it has to be asked again, and so is its end.
    poll.request("POST", "/response?channel=a", &[], "question")
        .await;
    hub.until_metric("gripline_held_responses", 1).await;
    let hint = json!({"channel": "a", "http-response": {"action": "hint"}});
    hub.publish(json!([hint])).await;
    hub.until_metric("gripline_retries_total", 1).await;
    hub.until_metric("gripline_held_responses", 1).await;
    let item = json!({"channel": "a", "http-response": {"body": "more\n"}});
    hub.publish(json!([item])).await;
    poll.response().await.check(200, "more\n");
    poll.request("GET", "/", &[], "").await;
    let response = poll.response().await;
    response.check(200, "Hello from the Gripline test handler!\n");
}

#[tokio::test]
async fn routes_change_while_the_hub_runs() {
    const RELOADS: &str = "gripline_route_reloads_total";
    const ERRORS: &str = "gripline_route_errors_total";
    let setup = Setup::start(&["* A"]).await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: c"];
    setup.a.serve("/stream", Answer::ok(&fields, "hi\n"));
    let mut stream = Client::get(setup.hub.addr(), "/stream", &[]).await;
    stream.stream_begins("hi\n").await;
    setup.check("x/", "a GET / x").await;

    setup.rewrite(&["* B", "new.com A"]);
    setup.hub.until_metric(RELOADS, 1).await;
    setup.check("x/", "b GET / x").await;
    setup.check("new.com/", "a GET / new.com").await;

    setup.rewrite(&["* A", "new.com nonsense"]);
    setup.hub.until_metric(ERRORS, 1).await;
    setup.check("x/", "b GET / x").await;
    setup.check("new.com/", "a GET / new.com").await;

    setup.rewrite(&["* A"]);
    setup.hub.until_metric(RELOADS, 2).await;
    setup.check("new.com/", "a GET / new.com").await;
    setup.check("x/", "a GET / x").await;
    // Who was held before is held.
    setup.hub.publish_stream("c", "one\n").await;
    stream.receives("one\n").await;
}

#[tokio::test]
async fn routes_may_stand_in_the_configuration() {
    let (a, b) = (Origin::start_echo("a").await, Origin::start_echo("b").await);
    let text = format!(
        r#"
        [[routes]]
        host = "one.com"
        path_beg = "/api"
        path_rem = 4
        header = ["X-Set:1"]
        targets = ["{a}"]

        [[routes]]
        host = "*"
        [[routes.targets]]
        address = "{b}"
        host = "b.com"
        "#,
        a = a.addr(),
        b = b.addr()
    );
    let routes = RawConfig::from_toml(&text).expect("it is TOML").routes;
    let hub = Hub::start_with(&RawConfig {
        origin: None,
        routes,
        ..config("")
    });
    let response = client::get(hub.addr(), "/api/x", &["Host: one.com"]).await;
    response.check(200, "a GET /x one.com\n");
    assert_eq!(a.only_request("/x").field("X-Set"), Some("1"));
    let response = client::get(hub.addr(), "/api/x", &[]).await;
    response.check(200, "b GET /api/x b.com\n");
}
