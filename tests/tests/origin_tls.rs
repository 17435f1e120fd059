//! Origins that speak TLS: who is believed to be one.

use e2e::client::{self, Client};
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Origin};
use e2e::routes::RoutesFile;
use e2e::tls::Ca;
use gripline_hub::config::{RawConfig, RawOriginTls};
use serde_json::json;
use tempfile::TempDir;

/// An origin with a certificate for these names, and its CA's certificate in a file.
struct Certified {
    origin: Origin,
    ca: Ca,
    directory: TempDir,
}

impl Certified {
    async fn start(names: &[&str]) -> Self {
        let ca = Ca::new();
        let origin = Origin::start_tls(ca.acceptor(names)).await;
        origin.serve("/", Answer::ok(&[], "hello\n"));
        let directory = tempfile::tempdir().expect("there is room for a directory");
        Self {
            origin,
            ca,
            directory,
        }
    }

    /// A hub that believes the CA, with these routes to the origin, which is `A` in them.
    fn hub(&self, routes: &[&str]) -> (Hub, RoutesFile) {
        let addr = self.origin.addr().to_string();
        let lines: Vec<String> = routes.iter().map(|it| it.replace('A', &addr)).collect();
        let file = RoutesFile::new(&lines);
        (Hub::start_with(&self.believing(file.config())), file)
    }

    fn believing(&self, config: RawConfig) -> RawConfig {
        let path = self.directory.path().join("ca.pem");
        self.ca.write(&path);
        let ca = path.to_str().map(str::to_owned);
        RawConfig {
            origin_tls: RawOriginTls { ca },
            ..config
        }
    }
}

/// What a request for this host is answered with.
async fn check(hub: &Hub, host: &str, expected: (u16, &str)) {
    let (status, text) = expected;
    let response = client::get(hub.addr(), "/", &[&format!("Host: {host}")]).await;
    assert_eq!(
        (response.status(), &response.text()[..]),
        (status, text),
        "{host}"
    );
}

const HELLO: (u16, &str) = (200, "hello\n");
const FAILED: (u16, &str) = (502, "Error while proxying to origin.\n");

#[tokio::test]
async fn the_certificate_must_be_for_the_host_that_is_asked_for() {
    let certified = Certified::start(&["right.com", "also.com"]).await;
    let (hub, _file) = certified.hub(&["* A,ssl", "named A,ssl,host=right.com:8443"]);
    check(&hub, "right.com", HELLO).await;
    check(&hub, "also.com:81", HELLO).await;
    check(&hub, "wrong.com", FAILED).await;
    check(&hub, "named", HELLO).await;
    assert_eq!(hub.metric("gripline_origin_errors_total").await, 1);
    // Nobody was asked in vain.
    assert_eq!(certified.origin.count("/"), 3);
}

#[tokio::test]
async fn the_certificate_may_be_for_the_host_that_is_connected_to() {
    let certified = Certified::start(&["127.0.0.1"]).await;
    let (hub, _file) = certified.hub(&["* A,ssl,trust_connect_host", "strict A,ssl"]);
    check(&hub, "whatever.com", HELLO).await;
    check(&hub, "strict", FAILED).await;
    let request = certified.origin.only_request("/");
    assert_eq!(request.field("Host"), Some("whatever.com"));
}

#[tokio::test]
async fn the_origin_of_the_configuration_is_certified_for_its_own_name() {
    let certified = Certified::start(&["127.0.0.1"]).await;
    let url = format!("https://{}", certified.origin.addr());
    let hub = Hub::start_with(&certified.believing(config(&url)));
    check(&hub, "whatever.com", HELLO).await;

    let certified = Certified::start(&["another.com"]).await;
    let url = format!("https://{}", certified.origin.addr());
    let hub = Hub::start_with(&certified.believing(config(&url)));
    check(&hub, "another.com", FAILED).await;
}

#[tokio::test]
async fn the_certificate_must_be_from_somebody_who_is_believed() {
    let certified = Certified::start(&["right.com"]).await;
    let addr = certified.origin.addr();
    let lines = [
        format!("* {addr},ssl"),
        format!("debug.com,debug {addr},ssl"),
        format!("insecure.com {addr},ssl,insecure"),
    ];
    let file = RoutesFile::new(&lines);
    let hub = Hub::start_with(&file.config());
    check(&hub, "right.com", FAILED).await;
    let text = format!("Unable to connect to any targets. Tried: {addr}\n");
    check(&hub, "debug.com", (502, &text)).await;
    assert_eq!(certified.origin.count("/"), 0);
    check(&hub, "insecure.com", HELLO).await;
}

#[tokio::test]
async fn the_next_target_is_asked_where_one_is_not_believed() {
    let certified = Certified::start(&["right.com"]).await;
    let other = Certified::start(&["right.com"]).await;
    let line = format!("* {},ssl A,ssl", other.origin.addr());
    let (hub, _file) = certified.hub(&[&line]);
    let response = client::request(hub.addr(), "POST", "/", &["Host: right.com"], "body").await;
    response.check(200, "hello\n");
    assert_eq!(certified.origin.only_request("/").body, b"body");
    assert_eq!(other.origin.count("/"), 0);
}

#[tokio::test]
async fn connections_are_used_again() {
    let certified = Certified::start(&["right.com"]).await;
    let (hub, _file) = certified.hub(&["* A,ssl"]);
    let mut client = Client::connect(hub.addr()).await;
    for _ in 0..5 {
        client.request("GET", "/", &["Host: right.com"], "").await;
        client.response().await.check(200, "hello\n");
    }
    assert_eq!(hub.metric("gripline_origin_requests_total").await, 5);
    assert_eq!(hub.metric("gripline_origin_connections_total").await, 1);
}

#[tokio::test]
async fn big_bodies_pass_both_ways() {
    let certified = Certified::start(&["right.com"]).await;
    let (hub, _file) = certified.hub(&["* A,ssl"]);
    let big = "0123456789abcdef".repeat(1 << 16);
    certified.origin.serve("/big", Answer::ok(&[], &big));
    let response = client::request(hub.addr(), "POST", "/big", &["Host: right.com"], &big).await;
    assert!(response.body == big.as_bytes());
    assert!(certified.origin.only_request("/big").body == big.as_bytes());
}

#[tokio::test]
async fn a_body_that_breaks_off_arrives_so() {
    let certified = Certified::start(&["right.com"]).await;
    let (hub, _file) = certified.hub(&["* A,ssl"]);
    for (target, field, begin) in [
        ("/chunked", "Transfer-Encoding: chunked", "4\r\none\n\r\n"),
        ("/sized", "Content-Length: 8", "one\n"),
        // Without the end of TLS, this may not be the end of the body.
        ("/to-end", "X-Own: 1", "one\n"),
    ] {
        let answer = Answer::begin("200 OK", &[field]).then(begin).close();
        certified.origin.serve(target, answer);
        let response = client::get(hub.addr(), target, &["Host: right.com"]).await;
        assert!(!response.is_complete, "{target}: {response:?}");
    }
}

#[tokio::test]
async fn holds_and_their_links_go_over_tls() {
    let certified = Certified::start(&["right.com"]).await;
    let (hub, _file) = certified.hub(&["* A,ssl"]);
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: c",
        "Grip-Link: </next>; rel=next",
    ];
    certified
        .origin
        .serve("/stream", Answer::ok(&fields, "one\n"));
    certified
        .origin
        .serve("/next", Answer::ok(&fields[..2], "two\n"));
    let mut client = Client::get(hub.addr(), "/stream", &["Host: right.com"]).await;
    client.stream_begins("one\n").await;
    let hint = json!({"channel": "c", "http-stream": {"action": "hint"}});
    hub.publish(json!([hint])).await;
    client.receives("two\n").await;
    hub.publish_stream("c", "three\n").await;
    client.receives("three\n").await;
    let request = certified.origin.only_request("/next");
    assert_eq!(request.field("Host"), Some("right.com"));
}
