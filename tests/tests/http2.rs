//! HTTP/2 with prior knowledge: the same promises as over HTTP/1, on the same port.

use e2e::client::{self, Client};
use e2e::http2::{Exchange, Http2, WINDOW};
use e2e::hub::Hub;
use e2e::origin::{Answer, Gate, Origin};
use h2::Reason;
use serde_json::{Value, json};

const STREAMS: &str = "gripline_held_streams";
const RESPONSES: &str = "gripline_held_responses";

async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    origin.serve("/", Answer::ok(&[], "hello\n"));
    let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&hold, "hi\n"));
    let hold = ["Grip-Hold: response", "Grip-Channel: updates"];
    origin.serve("/poll", Answer::ok(&hold, "nothing\n"));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

async fn open(client: &mut Http2) -> Exchange {
    let mut exchange = client.get("/stream", &[]).await;
    exchange.stream_begins("hi\n").await;
    exchange
}

/// An action for streams and for requests that wait.
fn action(action: &str) -> Value {
    let formats = json!({"http-stream": {"action": action}, "http-response": {"action": action}});
    json!([{"channel": "updates", "formats": formats}])
}

#[tokio::test]
async fn a_request_arrives_as_over_http1() {
    let (origin, hub) = start().await;
    origin.serve("/a%20b", Answer::ok(&["X-Back: 1", "X-Back: 2"], "hello\n"));
    let mut client = Http2::connect(hub.addr()).await;
    for (method, body) in [("GET", ""), ("POST", "some body"), ("DELETE", "")] {
        let fields = ["Host: other.com:81", "X-Own: 1", "X-Own: 2", "TE: trailers"];
        let target = "/a%20b?x=%2F";
        let mut exchange = client.request(method, target, &fields, body).await;
        let response = exchange.response().await;
        response.check(200, "hello\n");
        assert_eq!(response.head.values("X-Back"), ["1", "2"]);
        let requests = origin.requests("/a%20b");
        let request = requests.last().expect("it came");
        assert_eq!(request.head.start(), format!("{method} {target} HTTP/1.1"));
        assert_eq!(request.field("Host"), Some("other.com:81"));
        assert_eq!(request.head.values("X-Own"), ["1", "2"]);
        assert_eq!(request.field("TE"), None);
        assert_eq!(request.body, body.as_bytes());
    }
    assert_eq!(hub.metric("gripline_connections_total").await, 1);
}

/// RFC 9113 §8.2.3: HTTP/2 clients may send a field of its own for each cookie, HTTP/1 has one.
#[tokio::test]
async fn cookies_arrive_in_one_field() {
    let (origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let fields = ["Cookie: a=1", "X-Own: 1", "Cookie: b=2; c=3"];
    let mut exchange = client.get("/", &fields).await;
    exchange.response().await.check(200, "hello\n");
    let request = origin.only_request("/");
    assert_eq!(request.field("Cookie"), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn an_answer_has_no_fields_of_the_origins_connection() {
    let (origin, hub) = start().await;
    let fields = [
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "X-Stays: 1",
    ];
    let holding = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/plain", Answer::ok(&fields, "hello\n"));
    origin.serve(
        "/held",
        Answer::ok(&[&fields[..], &holding].concat(), "hello\n"),
    );
    let mut client = Http2::connect(hub.addr()).await;
    for target in ["/plain", "/held"] {
        let mut exchange = client.get(target, &[]).await;
        let head = exchange.stream_begins("hello\n").await;
        assert_eq!(head.field("X-Stays"), Some("1"));
        for name in ["Connection", "Keep-Alive"] {
            assert_eq!(head.field(name), None, "{target}: {head}");
        }
        assert_eq!(head.names_beginning("grip-"), [""; 0]);
    }
}

#[tokio::test]
async fn a_body_streams_to_the_origin_without_its_trailers() {
    let (origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchange = client.begin("POST", "/", &["Trailer: X-Sum"]).await;
    exchange.send("one\n");
    let arrived =
        |requests: &[&e2e::origin::Request]| requests.first().is_some_and(|r| r.body == b"one\n");
    origin.until("/", arrived).await;
    exchange.send_trailers("x-sum", "1");
    exchange.response().await.check(200, "hello\n");
    let request = origin.only_request("/");
    assert!(request.is_complete);
    assert_eq!(request.field("Trailer"), None);
}

#[tokio::test]
async fn a_stream_gets_items_until_it_is_closed() {
    let (_origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let mut first = open(&mut client).await;
    let mut second = open(&mut client).await;
    hub.until_metric(STREAMS, 2).await;
    for text in ["one\n", "two\n"] {
        hub.publish_stream("updates", text).await;
        first.receives(text).await;
        second.receives(text).await;
    }
    hub.publish(action("close")).await;
    first.ends().await;
    second.ends().await;
    hub.until_metric(STREAMS, 0).await;
    client
        .get("/", &[])
        .await
        .response()
        .await
        .check(200, "hello\n");
}

#[tokio::test]
async fn an_idle_stream_gets_keep_alives() {
    let (origin, hub) = start().await;
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        "Grip-Keep-Alive: \\n; format=cstring; timeout=1",
    ];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchange = open(&mut client).await;
    exchange.receives("\n\n").await;
    assert!(hub.metric("gripline_keep_alives_total").await >= 2);
}

#[tokio::test]
async fn a_stream_may_begin_with_a_body_of_any_size() {
    let (origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    // Below the limit of an instruction's body, and above it.
    for count in [1 << 12, 1 << 16] {
        let big = "0123456789abcde\n".repeat(count);
        let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
        origin.serve("/stream", Answer::ok(&hold, &big));
        let mut exchange = client.get("/stream", &[]).await;
        exchange.stream_begins(&big).await;
        hub.until_metric(STREAMS, 1).await;
        hub.publish_stream("updates", "more\n").await;
        exchange.receives("more\n").await;
        hub.publish(action("close")).await;
        exchange.ends().await;
    }
}

#[tokio::test]
async fn what_is_published_amid_a_large_body_follows_it() {
    let (origin, hub) = start().await;
    let gate = Gate::new();
    let half = "0123456789abcde\n".repeat(1 << 15);
    let length = format!("Content-Length: {}", 2 * half.len());
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates", &length];
    let answer = Answer::begin("200 OK", &fields).then(&half);
    origin.serve("/stream", answer.waiting_for(&gate).then(&half));
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchange = client.get("/stream", &[]).await;
    exchange.stream_begins(&half).await;
    hub.publish_stream("updates", "item\n").await;
    gate.open();
    exchange.receives(&half).await;
    exchange.receives("item\n").await;
}

#[tokio::test]
async fn a_request_that_waits_is_answered_by_a_publish() {
    let (origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let mut get = client.get("/poll", &[]).await;
    let mut post = client.request("POST", "/poll", &[], "question").await;
    hub.until_metric(RESPONSES, 2).await;
    let answer = json!({"code": 201, "headers": {"X-News": "1"}, "body": "news\n"});
    hub.publish(json!([{"channel": "updates", "http-response": answer}]))
        .await;
    for exchange in [&mut get, &mut post] {
        let response = exchange.response().await;
        response.check(201, "news\n");
        assert_eq!(response.field("X-News"), Some("1"));
        assert_eq!(response.field("Content-Length"), Some("5"));
        assert_eq!(response.field("Connection"), None);
    }
    hub.until_metric(RESPONSES, 0).await;
    assert_eq!(origin.count("/poll"), 2);
}

#[tokio::test]
async fn a_request_that_waits_in_vain_gets_the_instructed_answer() {
    let (origin, hub) = start().await;
    let fields = [
        "Grip-Hold: response",
        "Grip-Channel: updates",
        "Grip-Timeout: 1",
        "ETag: \"1\"",
    ];
    origin.serve("/poll", Answer::ok(&fields, "nothing\n"));
    let not_modified = [&fields[..], &["Grip-Status: 304"]].concat();
    origin.serve("/conditional", Answer::ok(&not_modified, "nothing\n"));
    let mut client = Http2::connect(hub.addr()).await;
    let mut plain = client.get("/poll", &[]).await;
    let mut head = client.request("HEAD", "/poll", &[], "").await;
    let mut conditional = client.get("/conditional", &[]).await;
    let response = plain.response().await;
    response.check(200, "nothing\n");
    assert_eq!(response.field("ETag"), Some("\"1\""));
    head.response().await.check(200, "");
    let response = conditional.response().await;
    response.check(304, "");
    assert_eq!(response.field("Content-Length"), None);
    assert_eq!(hub.metric("gripline_timeouts_total").await, 3);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let (origin, hub) = start().await;
    let answer = Answer::begin("200 OK", &["Content-Length: 6"]);
    origin.serve("/", answer.clone());
    let fields = ["Grip-Hold: response", "Grip-Channel: updates"];
    origin.serve("/poll", Answer::begin("200 OK", &fields));
    let mut client = Http2::connect(hub.addr()).await;
    let mut relayed = client.request("HEAD", "/", &[], "").await;
    let mut held = client.request("HEAD", "/poll", &[], "").await;
    let response = relayed.response().await;
    response.check(200, "");
    assert_eq!(response.field("Content-Length"), Some("6"));
    hub.until_metric(RESPONSES, 1).await;
    let item = json!({"channel": "updates", "http-response": {"body": "news\n"}});
    hub.publish(json!([item])).await;
    let response = held.response().await;
    response.check(200, "");
    assert_eq!(response.field("Content-Length"), Some("5"));
}

#[tokio::test]
async fn a_hint_has_the_origin_asked_again() {
    let (origin, hub) = start().await;
    origin.serve_with("/poll", |request| {
        let channel = match request.field("Grip-Last") {
            None => "Grip-Channel: updates; prev-id=1",
            Some(_) => "Grip-Channel: updates; prev-id=2",
        };
        Answer::ok(&["Grip-Hold: response", channel], "nothing\n")
    });
    let mut client = Http2::connect(hub.addr()).await;
    let fields = ["Cookie: a=1", "Cookie: b=2", "X-Own: 1"];
    let mut exchange = client
        .request("POST", "/poll?x=1", &fields, "question")
        .await;
    hub.until_metric(RESPONSES, 1).await;
    hub.publish(action("hint")).await;
    origin.until_count("/poll", 2).await;
    let requests = origin.requests("/poll");
    let [first, second] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(first.field("Grip-Last"), None);
    assert_eq!(second.field("Grip-Last"), Some("updates; last-id=1"));
    assert_eq!(second.head.start(), first.head.start());
    for name in ["Host", "Cookie", "X-Own"] {
        assert_eq!(second.field(name), first.field(name), "{name}");
    }
    assert_eq!(second.body, b"question");
    hub.until_metric(RESPONSES, 1).await;
    let item = json!({"channel": "updates", "id": "3", "prev-id": "2", "http-response": {"body": "news\n"}});
    hub.publish(json!([item])).await;
    exchange.response().await.check(200, "news\n");
    assert_eq!(hub.metric("gripline_retries_total").await, 1);
}

#[tokio::test]
async fn a_client_that_resets_is_forgotten() {
    let (_origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let stream = open(&mut client).await;
    let poll = client.get("/poll", &[]).await;
    let mut stays = open(&mut client).await;
    hub.until_metric(STREAMS, 2).await;
    hub.until_metric(RESPONSES, 1).await;
    stream.reset();
    poll.reset();
    hub.until_metric(STREAMS, 1).await;
    hub.until_metric(RESPONSES, 0).await;
    assert_eq!(hub.metric("gripline_clients_gone_total").await, 2);
    hub.publish_stream("updates", "one\n").await;
    stays.receives("one\n").await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_all_its_streams_along() {
    let (origin, hub) = start().await;
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "late\n").after(&gate));
    let mut client = Http2::connect(hub.addr()).await;
    let held = (open(&mut client).await, client.get("/poll", &[]).await);
    let slow = client.get("/slow", &[]).await;
    origin.until_count("/slow", 1).await;
    hub.until_metric(RESPONSES, 1).await;
    client.disconnect();
    drop((held, slow));
    hub.until_metric(STREAMS, 0).await;
    hub.until_metric(RESPONSES, 0).await;
    origin
        .until("/slow", |requests| requests[0].is_abandoned)
        .await;
}

#[tokio::test]
async fn a_request_that_is_reset_ends_at_the_origin() {
    let (origin, hub) = start().await;
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "late\n").after(&gate));
    let mut client = Http2::connect(hub.addr()).await;
    let slow = client.get("/slow", &[]).await;
    origin.until_count("/slow", 1).await;
    slow.reset();
    origin
        .until("/slow", |requests| requests[0].is_abandoned)
        .await;
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    const COUNT: u64 = 500;
    let (_origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchanges = Vec::new();
    for _ in 0..COUNT {
        exchanges.push(client.get("/stream", &[]).await);
    }
    for exchange in &mut exchanges {
        exchange.stream_begins("hi\n").await;
    }
    hub.until_metric(STREAMS, COUNT).await;
    hub.publish_stream("updates", "one\n").await;
    for exchange in &mut exchanges {
        exchange.receives("one\n").await;
    }
    hub.publish(action("close")).await;
    for exchange in &mut exchanges {
        exchange.ends().await;
    }
    assert_eq!(hub.metric("gripline_connections_total").await, 1);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_dropped_and_the_others_go_on() {
    let origin = Origin::start().await;
    let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&hold, "hi\n"));
    let mut config = e2e::hub::config(&origin.url());
    config.limits.pending_bytes = Some(100_000);
    config.limits.publish_bytes = Some(100_000);
    let hub = Hub::start_with(&config);
    let mut client = Http2::connect(hub.addr()).await;
    let mut slow = open(&mut client).await;
    let mut quick = open(&mut client).await;
    hub.until_metric(STREAMS, 2).await;
    // More than windows and buffers hold together.
    let item = "0123456789abcde\n".repeat(3000);
    for _ in 0..16 * 1024 * 1024 / item.len() {
        hub.publish_stream("updates", &item).await;
        quick.receives(&item).await;
        if hub.metric("gripline_slow_consumers_total").await == 1 {
            break;
        }
    }
    hub.until_metric("gripline_slow_consumers_total", 1).await;
    hub.until_metric(STREAMS, 1).await;
    // It would be too late if the hub waited for it to read.
    slow.is_reset().await;
    slow.breaks_off().await;
    hub.publish_stream("updates", "after\n").await;
    quick.receives("after\n").await;
    assert!(item.len() < WINDOW as usize);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_reset() {
    let (origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    for (target, field, begin) in [
        ("/chunked", "Transfer-Encoding: chunked", "4\r\none\n\r\n"),
        ("/sized", "Content-Length: 8", "one\n"),
    ] {
        let gate = Gate::new();
        let answer = Answer::begin("200 OK", &[field]).then(begin);
        origin.serve(target, answer.waiting_for(&gate).close());
        let mut exchange = client.get(target, &[]).await;
        exchange.stream_begins("one\n").await;
        gate.open();
        let error = exchange.breaks_off().await;
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{target}");
        // The other streams of the connection are not to blame.
        client
            .get("/", &[])
            .await
            .response()
            .await
            .check(200, "hello\n");
    }
}

#[tokio::test]
async fn a_large_stream_body_that_breaks_off_is_reset() {
    let (origin, hub) = start().await;
    let gate = Gate::new();
    let big = "0123456789abcde\n".repeat(1 << 14);
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        "Content-Length: 1000000",
    ];
    let answer = Answer::begin("200 OK", &fields).then(&big);
    origin.serve("/stream", answer.waiting_for(&gate).close());
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchange = client.get("/stream", &[]).await;
    exchange.stream_begins(&big).await;
    gate.open();
    exchange.breaks_off().await;
    hub.until_metric(STREAMS, 0).await;
}

#[tokio::test]
async fn a_request_body_that_is_reset_ends_the_request_at_the_origin() {
    let (origin, hub) = start().await;
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchange = client.begin("POST", "/", &[]).await;
    exchange.send("one\n");
    origin.until_count("/", 1).await;
    exchange.reset();
    origin.until("/", |requests| requests[0].is_abandoned).await;
    assert!(!origin.only_request("/").is_complete);
}

#[tokio::test]
async fn a_hub_that_shuts_down_ends_streams_in_order() {
    let (origin, _) = start().await;
    let mut config = e2e::hub::config(&origin.url());
    // Nothing ends because its time is up.
    config.drain = Some("1h".to_owned());
    let mut hub = Hub::start_with(&config);
    let gate = Gate::new();
    origin.serve("/slow", Answer::ok(&[], "slow\n").after(&gate));
    let mut client = Http2::connect(hub.addr()).await;
    let mut idle = Http2::connect(hub.addr()).await;
    idle.get("/", &[])
        .await
        .response()
        .await
        .check(200, "hello\n");
    let mut stream = open(&mut client).await;
    let mut poll = client.get("/poll", &[]).await;
    let mut slow = client.get("/slow", &[]).await;
    hub.until_metric(RESPONSES, 1).await;
    origin.until_count("/slow", 1).await;
    hub.shut_down();
    stream.ends().await;
    poll.response().await.check(200, "nothing\n");
    idle.is_closed_by_server().await;
    // Still under way.
    gate.open();
    slow.response().await.check(200, "slow\n");
    client.is_closed_by_server().await;
    hub.ended().await;
}

#[tokio::test]
async fn http1_clients_use_the_same_port() {
    let (_origin, hub) = start().await;
    let mut new = Http2::connect(hub.addr()).await;
    let mut new_stream = open(&mut new).await;
    let mut old_stream = Client::get(hub.addr(), "/stream", &[]).await;
    old_stream.stream_begins("hi\n").await;
    hub.until_metric(STREAMS, 2).await;
    hub.publish_stream("updates", "one\n").await;
    new_stream.receives("one\n").await;
    old_stream.receives("one\n").await;
}

/// Sends pieces that the hub reads one by one: between them, another request goes all the way
/// through the same thread.
async fn send_piecewise(hub: &Hub, pieces: &[&str]) -> Client {
    let mut client = Client::connect(hub.addr()).await;
    for piece in pieces {
        client.send(piece).await;
        client::get(hub.addr(), "/", &[])
            .await
            .check(200, "hello\n");
    }
    client
}

#[tokio::test]
async fn a_connection_may_begin_in_pieces() {
    let (origin, _) = start().await;
    let mut config = e2e::hub::config(&origin.url());
    config.shards = Some(1);
    let hub = Hub::start_with(&config);
    let pieces = ["P", "RI * HTTP/2.0\r\n\r\nSM", "\r\n\r", "\n"];
    let mut client = send_piecewise(&hub, &pieces).await;
    // Empty SETTINGS both ways, and that they are known; RFC 9113 §3.4.
    client.send(b"\0\0\0\x04\0\0\0\0\0").await;
    client.raw_until("\0\0\0\x04\x01\0\0\0\0").await;

    let pieces = ["P", "RI / HTTP/1.1\r", "\nHost: a\r\n"];
    let mut client = send_piecewise(&hub, &pieces).await;
    client.send("\r\n").await;
    client.response().await.check(200, "hello\n");
    let is_old = |request: &e2e::origin::Request| request.method() == "PRI";
    assert!(origin.requests("/").iter().any(is_old));
}

#[tokio::test]
async fn holds_over_the_limit_of_connections_are_refused() {
    let (origin, _) = start().await;
    let mut config = e2e::hub::config(&origin.url());
    config.shards = Some(1);
    // The connection itself is one.
    config.limits.connections = Some(3);
    let hub = Hub::start_with(&config);
    let mut client = Http2::connect(hub.addr()).await;
    let _streams = [open(&mut client).await, open(&mut client).await];
    for target in ["/stream", "/poll"] {
        let mut refused = client.get(target, &[]).await;
        refused.response().await.check(503, "");
    }
    assert_eq!(hub.metric("gripline_holds_refused_total").await, 2);
    let mut plain = client.get("/", &[]).await;
    plain.response().await.check(200, "hello\n");
}
