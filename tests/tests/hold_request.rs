//! What an edge says to the hub, word for word: hold requests and requests that it hands over.

use std::net::SocketAddr;

use e2e::client::{self, Client, Response};
use e2e::edge::HUB_KEY;
use e2e::http2::Http2;
use e2e::hub::{self, Hub, SIG_KEY};
use e2e::now;
use e2e::origin::{Answer, Gate, Origin};
use e2e::websocket::WebSocket;
use grip::UnixTime;
use grip::hold_request::{self, HoldRequest, MAX_HEADS};
use grip::instruct::Status;
use grip::signature::{Handoff, SigningKey, VerifyingKey, handoff_token, hold_token, purge_token};
use gripline_hub::config::{RawConfig, RawEdge, RawKeys};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

const HOLDS: &str = "gripline_edge_holds_total";
const REFUSED: &str = "gripline_edge_refused_total";
const STREAMS: &str = "gripline_held_streams";
const RESPONSES: &str = "gripline_held_responses";
const STREAM: [&str; 2] = ["Grip-Hold: stream", "Grip-Channel: updates"];
const LONG_POLL: [&str; 2] = ["Grip-Hold: response", "Grip-Channel: updates"];
/// Bytes of a response that asks for a hold.
const MAX_BODY: usize = 100_000;

fn config(origin: &Origin) -> RawConfig {
    let mut config = hub::config(&origin.url());
    config.edge = Some(RawEdge {
        key: Some(HUB_KEY.to_owned().into()),
    });
    config
}

async fn start() -> (Origin, Hub) {
    start_with(|_| ()).await
}

async fn start_with(change: impl FnOnce(&mut RawConfig)) -> (Origin, Hub) {
    let origin = Origin::start().await;
    let mut config = config(&origin);
    change(&mut config);
    (origin, Hub::start_with(&config))
}

fn headers_of(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a field");
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

/// A client that asked for `https://www.example.com/live?x=1`, and what it was answered.
fn asking(fields: &[&str], body: &str) -> HoldRequest {
    HoldRequest {
        method: Method::GET,
        uri: "https://www.example.com/live?x=1".parse().expect("a URI"),
        request_headers: headers_of(&[
            "Host: www.example.com",
            "Cookie: a=b",
            "X-Forwarded-For: 192.0.2.7",
            "X-Forwarded-Proto: https",
        ]),
        status: Status::new(StatusCode::OK),
        response_headers: headers_of(fields),
        body: body.to_owned().into(),
    }
}

fn key(text: &str) -> SigningKey {
    SigningKey::hs256(text.as_bytes()).expect("the key is not empty")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn typed() -> String {
    format!("Content-Type: {}", hold_request::CONTENT_TYPE)
}

/// Sends this to where hold requests go.
async fn post(client: &mut Client, fields: &[&str], body: &[u8]) {
    let (path, length) = (hold_request::PATH, body.len());
    let mut message = format!("POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: {length}\r\n");
    for field in fields {
        message.push_str(field);
        message.push_str("\r\n");
    }
    client
        .send([message.as_bytes(), b"\r\n", body].concat())
        .await;
}

/// Sends a hold request on this connection, as an edge does.
async fn ask_on(client: &mut Client, request: &HoldRequest) {
    let body = request.encode();
    let authorization = bearer(&hold_token(&key(HUB_KEY), &body, now()));
    post(client, &[&typed(), &authorization], &body).await;
}

/// The same on a connection of its own.
async fn ask(hub: &Hub, request: &HoldRequest) -> Client {
    let mut client = Client::connect(hub.addr()).await;
    ask_on(&mut client, request).await;
    client
}

/// Sends this body with this token.
async fn ask_with(addr: SocketAddr, token: &str, body: &[u8]) -> Response {
    let mut client = Client::connect(addr).await;
    post(&mut client, &[&typed(), &bearer(token)], body).await;
    client.response().await
}

/// Fails unless an edge can tell that this is for itself, and why.
#[track_caller]
fn check_refused(response: &Response, status: u16, reason: &str) {
    let text = response.text();
    assert_eq!(response.status(), status, "{text}");
    assert_eq!(response.field("Gripline-Refused"), Some("1"), "{text}");
    assert!(text.contains(reason), "{text:?} without {reason:?}");
}

fn answer_item(body: &str) -> Value {
    json!([{"channel": "updates", "http-response": {"body": body}}])
}

#[tokio::test]
async fn a_client_is_held_as_the_origin_said() {
    let (origin, hub) = start().await;
    let fields = [
        "Content-Type: text/plain",
        "X-Own: 1",
        "X-Own: 2",
        "Content-Length: 6",
        "Connection: X-Hop",
        "X-Hop: 1",
    ];
    let request = asking(&[&fields[..], &STREAM].concat(), "first\n");
    let mut client = ask(&hub, &request).await;
    let head = client.stream_begins("first\n").await;
    assert_eq!(head.values("X-Own"), ["1", "2"]);
    assert_eq!(head.field("Content-Type"), Some("text/plain"));
    assert_eq!(head.field("Transfer-Encoding"), Some("chunked"));
    for name in ["Content-Length", "X-Hop", "Gripline-Refused"] {
        assert_eq!(head.field(name), None, "{name}");
    }
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    hub.publish_stream("updates", "second\n").await;
    client.receives("second\n").await;
    drop(client);
    hub.until_metric(STREAMS, 0).await;
    assert_eq!(hub.subscribers("updates").await, 0);
    assert_eq!(hub.metric(HOLDS).await, 1);
    assert_eq!(hub.metric(REFUSED).await, 0);
    assert_eq!(origin.count("/live"), 0, "it was asked already");
}

#[tokio::test]
async fn a_first_body_may_have_any_bytes() {
    let (_origin, hub) = start().await;
    let body = b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\0\xff";
    let request = HoldRequest {
        body: body.as_slice().into(),
        ..asking(&STREAM, "")
    };
    let mut client = ask(&hub, &request).await;
    client.head().await;
    assert_eq!(client.piece().await.as_deref(), Some(body.as_slice()));
}

#[tokio::test]
async fn an_item_answers_and_the_connection_serves_the_next() {
    let (origin, hub) = start().await;
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    let fields = [&LONG_POLL[..], &["ETag: \"1\""]].concat();
    let mut client = Client::connect(hub.addr()).await;
    for round in ["one\n", "two\n"] {
        ask_on(&mut client, &asking(&fields, "nothing\n")).await;
        hub.until_metric(RESPONSES, 1).await;
        client.is_quiet();
        hub.publish(answer_item(round)).await;
        let response = client.response().await;
        response.check(200, round);
        assert_eq!(response.field("ETag"), Some("\"1\""));
        assert_eq!(response.head.names_beginning("grip"), [""; 0]);
    }
    client.request("GET", "/plain", &[], "").await;
    client.response().await.check(200, "plain\n");
    assert_eq!(hub.metric("gripline_connections_total").await, 1);
    assert_eq!(hub.metric(HOLDS).await, 2);
}

/// Takes the five seconds that are the shortest time there is.
#[tokio::test]
async fn when_time_is_up_the_origins_answer_goes_out() {
    let (_origin, hub) = start().await;
    let fields = [&LONG_POLL[..], &["Grip-Timeout: 5", "ETag: \"1\""]].concat();
    let mut plain = ask(&hub, &asking(&fields, "nothing\n")).await;
    let odd = HoldRequest {
        status: Status {
            code: StatusCode::from_u16(299).expect("a status"),
            reason: Some("Quite Fine".to_owned()),
        },
        ..asking(&fields, "nothing\n")
    };
    let mut odd = ask(&hub, &odd).await;
    let fields = [&fields[..], &["Grip-Status: 304"]].concat();
    let mut conditional = ask(&hub, &asking(&fields, "nothing\n")).await;
    plain.response().await.check(200, "nothing\n");
    let response = odd.response().await;
    assert_eq!(response.head.start(), "HTTP/1.1 299 Quite Fine");
    let response = conditional.response().await;
    response.check(304, "");
    assert_eq!(response.field("ETag"), Some("\"1\""));
    assert_eq!(hub.metric("gripline_timeouts_total").await, 3);
}

#[tokio::test]
async fn a_silent_stream_gets_keep_alives() {
    let (_origin, hub) = start().await;
    let keep_alive = r"Grip-Keep-Alive: ping\n; format=cstring; timeout=1";
    let fields = [&STREAM[..], &[keep_alive]].concat();
    let mut client = ask(&hub, &asking(&fields, "first\n")).await;
    client.stream_begins("first\n").await;
    client.receives("ping\n").await;
    client.receives("ping\n").await;
}

/// Fails unless the origin was asked for the client's host by the hub, and told only what an edge
/// had checked.
#[track_caller]
fn check_asked(request: &e2e::origin::Request) {
    assert_eq!(request.field("Host"), Some("www.example.com"));
    for name in ["Gripline-Host", "Gripline-Sig", "Authorization"] {
        assert_eq!(request.field(name), None, "{name}");
    }
    let hub_key = VerifyingKey::hs256(SIG_KEY.as_bytes()).expect("not empty");
    let token = request.field("Grip-Sig").unwrap_or_default();
    assert!(hub_key.verify(token, now(), 0).is_ok(), "{token:?}");
}

#[tokio::test]
async fn a_stream_goes_on_with_its_link() {
    let (origin, hub) = start().await;
    origin.serve("/second", Answer::ok(&STREAM, "two\n"));
    let fields = ["Grip-Link: </second?y=2>; rel=next"];
    let mut client = ask(&hub, &asking(&fields, "one\n")).await;
    client.stream_begins("one\n").await;
    client.receives("two\n").await;
    hub.publish_stream("updates", "three\n").await;
    client.receives("three\n").await;
    let request = origin.only_request("/second");
    assert_eq!(request.target(), "/second?y=2");
    check_asked(&request);
}

const NUMBERS: [&str; 2] = ["Grip-Hold: response", "Grip-Channel: numbers; prev-id=1"];

/// Publishes what shows that item 2 is missing.
async fn publish_after_gap(hub: &Hub) {
    let item = json!({"channel": "numbers", "id": "3", "prev-id": "2", "http-response": {"body": "three\n"}});
    hub.publish(json!([item])).await;
}

#[tokio::test]
async fn after_a_gap_the_origin_is_asked_as_the_client_asked() {
    let (origin, hub) = start().await;
    origin.serve("/live", Answer::ok(&[], "two and three\n"));
    let mut client = ask(&hub, &asking(&NUMBERS, "nothing\n")).await;
    hub.until_metric(RESPONSES, 1).await;
    publish_after_gap(&hub).await;
    client.response().await.check(200, "two and three\n");
    let request = origin.only_request("/live");
    check_asked(&request);
    assert_eq!((request.method(), request.target()), ("GET", "/live?x=1"));
    assert_eq!(request.field("Grip-Last"), Some("numbers; last-id=1"));
    assert_eq!(request.field("Cookie"), Some("a=b"));
    assert_eq!(request.field("X-Forwarded-For"), Some("192.0.2.7"));
    assert_eq!(request.field("X-Forwarded-Proto"), Some("https"));
    assert_eq!(request.body, b"");
    // The edge may use its connection again.
    ask_on(&mut client, &asking(&LONG_POLL, "nothing\n")).await;
    hub.until_metric(RESPONSES, 1).await;
    hub.publish(answer_item("news\n")).await;
    client.response().await.check(200, "news\n");
}

#[tokio::test]
async fn the_host_is_that_of_the_uri_without_its_user() {
    let (origin, hub) = start().await;
    origin.serve("/live", Answer::ok(&[], "two and three\n"));
    let request = HoldRequest {
        uri: "https://user@other.example:8443/live"
            .parse()
            .expect("a URI"),
        ..asking(&NUMBERS, "nothing\n")
    };
    let mut client = ask(&hub, &request).await;
    hub.until_metric(RESPONSES, 1).await;
    publish_after_gap(&hub).await;
    client.response().await.check(200, "two and three\n");
    let request = origin.only_request("/live");
    assert_eq!(request.field("Host"), Some("other.example:8443"));
}

#[tokio::test]
async fn what_the_origin_says_after_a_gap_may_hold_again() {
    let (origin, hub) = start().await;
    origin.serve("/live", Answer::ok(&LONG_POLL, "nothing\n"));
    let mut client = ask(&hub, &asking(&NUMBERS, "nothing\n")).await;
    hub.until_metric(RESPONSES, 1).await;
    publish_after_gap(&hub).await;
    origin.until_count("/live", 1).await;
    hub.until_subscribers("updates", 1).await;
    hub.publish(answer_item("news\n")).await;
    client.response().await.check(200, "news\n");
    assert_eq!(hub.metric(HOLDS).await, 1);
}

/// The edge does not send the client's body, so that the request cannot be made again.
#[tokio::test]
async fn a_request_with_a_body_is_answered_after_a_gap_with_what_there_is() {
    let (origin, hub) = start().await;
    let request = HoldRequest {
        method: Method::POST,
        ..asking(&NUMBERS, "nothing\n")
    };
    let mut client = ask(&hub, &request).await;
    hub.until_metric(RESPONSES, 1).await;
    publish_after_gap(&hub).await;
    client.response().await.check(200, "nothing\n");
    assert_eq!(origin.count("/live"), 0);
}

/// What a backup copy says of ids is old, and while there is one nobody can be asked.
#[tokio::test]
async fn ids_of_a_backup_copy_are_not_compared() {
    let (origin, hub) = start().await;
    let fields = [&NUMBERS[..], &["Gripline-Stale: 1"]].concat();
    let mut client = ask(&hub, &asking(&fields, "nothing\n")).await;
    hub.until_metric(RESPONSES, 1).await;
    publish_after_gap(&hub).await;
    client.response().await.check(200, "three\n");
    assert_eq!(origin.count("/live"), 0);
    assert_eq!(hub.metric("gripline_stale_answers_total").await, 1);
}

#[tokio::test]
async fn over_http2_the_same_is_promised() {
    let (origin, hub) = start().await;
    origin.serve("/live", Answer::ok(&[], "two and three\n"));
    let mut connection = Http2::connect(hub.addr()).await;
    let mut exchanges = Vec::new();
    for fields in [STREAM, NUMBERS] {
        let body = asking(&fields, "first\n").encode();
        let authorization = bearer(&hold_token(&key(HUB_KEY), &body, now()));
        let body = String::from_utf8(body).expect("it is text");
        let fields = [&typed()[..], &authorization];
        let path = hold_request::PATH;
        exchanges.push(connection.request("POST", path, &fields, &body).await);
    }
    exchanges[0].stream_begins("first\n").await;
    hub.until_metric(RESPONSES, 1).await;
    hub.publish_stream("updates", "second\n").await;
    exchanges[0].receives("second\n").await;
    publish_after_gap(&hub).await;
    exchanges[1].response().await.check(200, "two and three\n");
    check_asked(&origin.only_request("/live"));
}

#[tokio::test]
async fn an_answer_that_holds_nobody_goes_back_at_once() {
    let (_origin, hub) = start().await;
    let fields = ["Grip-Status: 404", "Grip-Expose-Headers: etag", "ETag: a"];
    let request = asking(&[&fields[..], &["X-Inside: secret"]].concat(), "no\n");
    let response = ask(&hub, &request).await.response().await;
    response.check(404, "no\n");
    assert_eq!(response.field("ETag"), Some("a"));
    assert_eq!(response.field("X-Inside"), None);
    let request = asking(&["X-Own: 1"], "plain\n");
    ask(&hub, &request)
        .await
        .response()
        .await
        .check(200, "plain\n");
}

#[tokio::test]
async fn the_instruction_may_be_the_body() {
    let (_origin, hub) = start().await;
    let instruct = json!({
        "hold": {"mode": "stream", "channels": [{"name": "updates"}]},
        "response": {"code": 203, "headers": {"X-Own": "1"}, "body": "first\n"}
    });
    let fields = ["Content-Type: application/grip-instruct"];
    let request = asking(&fields, &instruct.to_string());
    let mut client = ask(&hub, &request).await;
    let head = client.head().await;
    assert_eq!(client::status(&head), 203);
    assert_eq!(head.field("X-Own"), Some("1"));
    client.receives("first\n").await;
    hub.publish_stream("updates", "second\n").await;
    client.receives("second\n").await;
}

#[tokio::test]
async fn what_is_not_signed_for_this_request_is_refused() {
    let (origin, hub) = start().await;
    let body = asking(&STREAM, "first\n").encode();
    let handoff = Handoff {
        host: "www.example.com",
        path_and_query: hold_request::PATH,
        websocket_key: b"",
    };
    let known = key(HUB_KEY);
    let of_another_body = asking(&STREAM, "other\n").encode();
    let tokens = [
        (String::new(), "bearer token"),
        ("nonsense".to_owned(), "malformed"),
        (hold_token(&key("another"), &body, now()), "signature"),
        (hold_token(&key(SIG_KEY), &body, now()), "signature"),
        (hold_token(&known, &of_another_body, now()), "body"),
        (purge_token(&known, &body, now()), "audience"),
        (handoff_token(&known, &handoff, now()), "audience"),
        (hold_token(&known, &body, later(-100)), "expired"),
        (hold_token(&known, &body, later(100)), "too far"),
    ];
    for (token, reason) in &tokens {
        let response = ask_with(hub.addr(), token, &body).await;
        check_refused(&response, 401, reason);
    }
    for fields in [
        vec![typed()],
        vec![typed(), "Authorization: Basic YTpi".to_owned()],
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let mut client = Client::connect(hub.addr()).await;
        post(&mut client, &fields, &body).await;
        check_refused(&client.response().await, 401, "bearer token");
    }
    assert_eq!(hub.metric(REFUSED).await, tokens.len() as u64 + 2);
    assert_eq!(hub.metric(HOLDS).await, 0);
    assert_eq!(hub.subscribers("updates").await, 0);
    assert_eq!(origin.count(hold_request::PATH), 0);
}

/// So many seconds from now.
fn later(seconds: i64) -> UnixTime {
    UnixTime(now().0.saturating_add_signed(seconds))
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let (_origin, hub) = start().await;
    let body = asking(&[], "first\n").encode();
    for skew in [-80, 50] {
        let token = hold_token(&key(HUB_KEY), &body, later(skew));
        let response = ask_with(hub.addr(), &token, &body).await;
        response.check(200, "first\n");
    }
}

#[tokio::test]
async fn two_keys_are_good_while_they_are_changed() {
    let keys = RawKeys::Several(vec!["new".to_owned(), HUB_KEY.to_owned()]);
    let (_origin, hub) = start_with(|config| config.edge = Some(RawEdge { key: Some(keys) })).await;
    let body = asking(&[], "first\n").encode();
    for (text, status) in [("new", 200), (HUB_KEY, 200), ("other", 401)] {
        let token = hold_token(&key(text), &body, now());
        let response = ask_with(hub.addr(), &token, &body).await;
        assert_eq!(response.status(), status, "{text}");
    }
}

#[tokio::test]
async fn without_a_key_nobody_is_held_for_an_edge() {
    let (origin, hub) = start_with(|config| config.edge = None).await;
    let mut client = ask(&hub, &asking(&STREAM, "first\n")).await;
    check_refused(&client.response().await, 404, "no [edge] key");
    assert_eq!(hub.metric(REFUSED).await, 1);
    assert_eq!(origin.count(hold_request::PATH), 0);
}

#[tokio::test]
async fn only_post_asks_for_a_hold() {
    let (origin, hub) = start().await;
    for method in ["GET", "PUT"] {
        let path = hold_request::PATH;
        let response = client::request(hub.addr(), method, path, &[&typed()], "").await;
        check_refused(&response, 405, "only POST");
        assert_eq!(response.field("Allow"), Some("POST"));
    }
    // Nothing is taken that is of another type; the path is the origin's then.
    let path = hold_request::PATH;
    let response = client::request(hub.addr(), "POST", path, &[], "x").await;
    assert_eq!(response.status(), 404);
    assert_eq!(response.field("Gripline-Refused"), None);
    assert_eq!(origin.count(hold_request::PATH), 1);
    assert_eq!(hub.metric(REFUSED).await, 2);
}

#[tokio::test]
async fn sizes_are_bounded() {
    let (_origin, hub) = start().await;
    let mut largest = ask(&hub, &asking(&STREAM, &"x".repeat(MAX_BODY))).await;
    largest.stream_begins(&"x".repeat(MAX_BODY)).await;
    let large_head = format!("X-Large: {}", "x".repeat(MAX_HEADS));
    let many: Vec<String> = (0..300).map(|number| format!("X-{number}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for request in [
        asking(&STREAM, &"x".repeat(MAX_BODY + 1)),
        asking(&STREAM, &"x".repeat(MAX_BODY + MAX_HEADS)),
        asking(&[&STREAM[..], &[&large_head]].concat(), "x"),
        asking(&[&STREAM[..], &many].concat(), "x"),
    ] {
        let response = ask(&hub, &request).await.response().await;
        check_refused(&response, 413, "too large");
    }
    assert_eq!(hub.metric(REFUSED).await, 4);
    assert_eq!(hub.metric(HOLDS).await, 1);
}

#[tokio::test]
async fn what_is_signed_and_makes_no_sense_is_refused() {
    let (_origin, hub) = start().await;
    let whole = String::from_utf8(asking(&STREAM, "").encode()).expect("it is text");
    let (request, response) = whole.split_once("\r\n\r\n").expect("two messages");
    let ends: Vec<usize> = [0, 10, request.len(), request.len() + 4, whole.len() - 2].to_vec();
    let mut bodies: Vec<String> = ends.iter().map(|end| whole[..*end].to_owned()).collect();
    bodies.push(whole.replacen("https://www.example.com", "", 1));
    bodies.push(format!("{response}{request}\r\n\r\n"));
    bodies.push(whole.replacen("200 OK", "20 OK", 1));
    bodies.push(whole.replacen("200 OK", "103 Early Hints", 1));
    bodies.push(whole.replacen("GET", "HEAD", 1));
    for body in &bodies {
        let token = hold_token(&key(HUB_KEY), body.as_bytes(), now());
        let response = ask_with(hub.addr(), &token, body.as_bytes()).await;
        check_refused(&response, 400, "");
    }
    assert_eq!(hub.metric(REFUSED).await, bodies.len() as u64);
    assert_eq!(hub.metric(HOLDS).await, 0);
}

/// Whose fault it is, the client learns as from a hub that had asked itself.
#[tokio::test]
async fn instructions_that_cannot_be_followed_are_the_origins_fault() {
    let (_origin, hub) = start().await;
    let requests = [
        asking(&["Grip-Hold: forever", "Grip-Channel: a"], ""),
        asking(&[&STREAM[..], &["Grip-Status: fine"]].concat(), ""),
        asking(&["Grip-Hold: response", "Grip-Timeout: soon"], ""),
        asking(&["Content-Type: application/grip-instruct"], "{"),
        asking(&[&STREAM[..], &["Content-Encoding: gzip"]].concat(), ""),
    ];
    for request in &requests {
        let response = ask(&hub, request).await.response().await;
        response.check(502, "Error while proxying to origin.\n");
        assert_eq!(response.field("Gripline-Refused"), None);
        assert_eq!(response.head.names_beginning("grip"), [""; 0]);
    }
    let errors = hub.metric("gripline_instruct_errors_total").await;
    assert_eq!(errors, requests.len() as u64);
    assert_eq!(hub.metric(REFUSED).await, 0);
    let held = hub.metric(STREAMS).await + hub.metric(RESPONSES).await;
    assert_eq!(held, 0);
}

#[tokio::test]
async fn a_hub_that_shuts_down_ends_the_holds_properly() {
    let (_origin, mut hub) = start().await;
    let mut stream = ask(&hub, &asking(&STREAM, "first\n")).await;
    stream.stream_begins("first\n").await;
    let mut poll = ask(&hub, &asking(&LONG_POLL, "nothing\n")).await;
    hub.until_metric(RESPONSES, 1).await;
    hub.shut_down();
    stream.ends().await;
    stream.is_closed_by_server().await;
    let response = poll.response().await;
    response.check(200, "nothing\n");
    assert_eq!(response.field("Connection"), Some("close"));
    hub.ended().await;
}

#[tokio::test]
async fn a_hold_that_is_asked_for_during_the_shutdown_ends_at_once() {
    let (origin, mut hub) = start().await;
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "slow\n").after(&gate));
    let mut slow = Client::get(hub.addr(), "/slow", &[]).await;
    origin.until_count("/slow", 1).await;
    let body = asking(&STREAM, "first\n").encode();
    let (begin, rest) = body.split_at(20);
    let before = hub.metric("gripline_requests_total").await;
    let mut client = Client::connect(hub.addr()).await;
    let authorization = bearer(&hold_token(&key(HUB_KEY), &body, now()));
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: hub\r\n{}\r\n{authorization}\r\nContent-Length: {}\r\n\r\n",
        hold_request::PATH,
        typed(),
        body.len(),
    );
    client.send([head.as_bytes(), begin].concat()).await;
    hub.until_metric("gripline_requests_total", before + 1)
        .await;
    hub.shut_down();
    let refuses = async { while tokio::net::TcpStream::connect(hub.addr()).await.is_ok() {} };
    e2e::within("the listener's end", refuses).await;
    client.send_content(rest).await;
    client.response().await.check(200, "first\n");
    gate.open();
    slow.response().await.check(200, "slow\n");
    hub.ended().await;
}

#[tokio::test]
async fn a_hold_request_that_breaks_off_holds_nobody() {
    let (_origin, hub) = start().await;
    let body = asking(&STREAM, "first\n").encode();
    let token = hold_token(&key(HUB_KEY), &body, now());
    let mut client = Client::connect(hub.addr()).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: hub\r\n{}\r\n{}\r\nContent-Length: {}\r\n\r\n",
        hold_request::PATH,
        typed(),
        bearer(&token),
        body.len() + 1,
    );
    client.send([head.as_bytes(), &body].concat()).await;
    client.finish_sending().await;
    check_refused(&client.response().await, 400, "broke off");
    client.is_closed_by_server().await;
    assert_eq!(hub.metric(HOLDS).await, 0);
    assert_eq!(hub.metric(REFUSED).await, 1);
    assert_eq!(hub.subscribers("updates").await, 0);
}

/// Answers with the host that it is asked for, and with what it is told of the client.
fn echo(request: &e2e::origin::Request) -> Answer {
    let field = |name| request.field(name).unwrap_or("-").to_owned();
    let (host, proto) = (field("Host"), field("X-Forwarded-Proto"));
    let ours = field("Gripline-Host") + &field("Gripline-Sig");
    Answer::ok(&[], &format!("{host} {proto} {ours}\n"))
}

/// A token for a request that was handed over.
fn handed(key: &SigningKey, host: &str, path_and_query: &str, now: UnixTime) -> String {
    let handoff = Handoff {
        host,
        path_and_query,
        websocket_key: b"",
    };
    handoff_token(key, &handoff, now)
}

#[tokio::test]
async fn a_request_that_was_handed_over_is_for_its_clients_host() {
    let (origin, hub) = start().await;
    origin.serve_with("/page", echo);
    let token = handed(&key(HUB_KEY), "www.example.com", "/page?x=1", now());
    let fields = [
        "Host: hub",
        "Gripline-Host: www.example.com",
        &format!("Gripline-Sig: {token}"),
    ];
    let response = client::get(hub.addr(), "/page?x=1", &fields).await;
    response.check(200, "www.example.com - --\n");
    assert_eq!(hub.metric(REFUSED).await, 0);
    assert_eq!(hub.metric(HOLDS).await, 0);
}

#[tokio::test]
async fn of_who_hands_nothing_over_no_host_is_believed() {
    let (origin, hub) = start().await;
    origin.serve_with("/page", echo);
    let fields = ["Host: hub", "Gripline-Host: evil.example"];
    let response = client::get(hub.addr(), "/page", &fields).await;
    response.check(200, "hub - --\n");
    // Where no edge is known, nothing is believed, and nothing is refused either.
    let (origin, hub) = start_with(|config| config.edge = None).await;
    origin.serve_with("/page", echo);
    let token = handed(&key(HUB_KEY), "evil.example", "/page", now());
    let signature = format!("Gripline-Sig: {token}");
    let fields = [&fields[..], &[&signature]].concat();
    let response = client::get(hub.addr(), "/page", &fields).await;
    response.check(200, "hub - --\n");
}

#[tokio::test]
async fn a_request_that_was_handed_over_by_nobody_known_is_refused() {
    let (origin, hub) = start().await;
    let known = key(HUB_KEY);
    let host = "www.example.com";
    let tokens = [
        "nonsense".to_owned(),
        handed(&key("another"), host, "/page", now()),
        handed(&known, "other.example", "/page", now()),
        handed(&known, host, "/page?x=1", now()),
        handed(&known, host, "/page", later(-100)),
        hold_token(&known, b"", now()),
    ];
    for token in &tokens {
        let fields = [
            &format!("Gripline-Host: {host}"),
            &format!("Gripline-Sig: {token}")[..],
        ];
        let response = client::get(hub.addr(), "/page", &fields).await;
        assert_eq!(response.status(), 401, "{token}");
        let text = response.text();
        assert!(text.contains("not handed over by a known edge"), "{text}");
    }
    // Without the host that is signed for.
    let token = handed(&known, host, "/page", now());
    let field = format!("Gripline-Sig: {token}");
    let response = client::get(hub.addr(), "/page", &[&field]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(hub.metric(REFUSED).await, tokens.len() as u64 + 1);
    assert_eq!(origin.count("/page"), 0);
}

/// The signature is for one handshake: its key is drawn by the client.
#[tokio::test]
async fn a_signature_is_for_one_handshake() {
    let (origin, hub) = start().await;
    let token = handed(&key(HUB_KEY), "www.example.com", "/ws", now());
    let fields = [
        "Gripline-Host: www.example.com",
        &format!("Gripline-Sig: {token}"),
    ];
    let response = WebSocket::rejected(hub.addr(), "/ws", &fields).await;
    assert_eq!(response.status(), 401);
    assert_eq!(origin.count("/ws"), 0);
    assert_eq!(hub.metric(REFUSED).await, 1);
}
