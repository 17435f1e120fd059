//! HTTP/2 with prior knowledge, on the same port and with the same holds.

use bytes::Bytes;
use e2e::client::{self, Client};
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use e2e::within;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

const STREAMS: &str = "gripline_held_streams";
const RESPONSES: &str = "gripline_held_responses";

/// A connection for many requests.
struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    async fn connect(hub: &Hub) -> Self {
        let stream = TcpStream::connect(hub.addr()).await.expect("it connects");
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("the hub speaks HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends a request; a body makes it a POST. The response may be waited for later.
    fn send(
        &mut self,
        path: &str,
        body: &'static str,
    ) -> tokio::task::JoinHandle<hyper::Result<Response<Incoming>>> {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://example.com{path}"))
            .body(Full::from(body))
            .expect("the request is valid");
        tokio::spawn(self.0.send_request(request))
    }

    async fn get(&mut self, path: &str) -> Response<Incoming> {
        let sent = self.send(path, "");
        let joined = within("a response", sent).await;
        joined
            .expect("it is not cancelled")
            .expect("it is answered")
    }
}

/// Reads content until all of `expected` came, and fails if something else did.
async fn receives(body: &mut Incoming, expected: &str) {
    let mut content = String::new();
    while content.len() < expected.len() {
        let frame = within("content", body.frame()).await;
        let frame = frame.expect("the body goes on").expect("it is not broken");
        let data = frame.into_data().expect("there are no trailers");
        content += std::str::from_utf8(&data).expect("it is text");
    }
    assert_eq!(content, expected);
}

/// Reads to the end, and fails if content comes before it.
async fn ends(body: &mut Incoming) {
    while let Some(frame) = within("the end", body.frame()).await {
        let data = frame.expect("it is not broken").into_data();
        assert_eq!(data.expect("there are no trailers"), "");
    }
}

async fn whole(response: Response<Incoming>) -> String {
    let collected = within("a body", response.into_body().collect()).await;
    let bytes = collected.expect("it is complete").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("it is text")
}

async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    let stream = ["Grip-Hold: stream", "Grip-Channel: c", "X-Kept: 1"];
    origin.serve("/stream", Answer::ok(&stream, "begin\n"));
    let poll = ["Grip-Hold: response", "Grip-Channel: c"];
    origin.serve("/poll", Answer::ok(&poll, "nothing\n"));
    let hub = Hub::start(&origin.url());
    (origin, hub)
}

#[tokio::test]
async fn requests_are_relayed() {
    let (origin, hub) = start().await;
    origin.serve("/plain", Answer::status("201 Made", &["X-A: 1"], "plain\n"));
    let mut http2 = Http2::connect(&hub).await;
    let response = http2.get("/plain").await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["x-a"], "1");
    assert_eq!(whole(response).await, "plain\n");
    let response = http2.send("/plain", "a body").await.expect("it is sent");
    assert_eq!(whole(response.expect("it is answered")).await, "plain\n");
    let requests = origin.requests("/plain");
    assert_eq!(requests[1].head.start(), "POST /plain HTTP/1.1");
    assert_eq!(requests[1].field("Host"), Some("example.com"));
    assert_eq!(requests[1].body, b"a body");
}

#[tokio::test]
async fn streams_get_items_and_end() {
    let (_origin, hub) = start().await;
    let mut http2 = Http2::connect(&hub).await;
    let response = http2.get("/stream").await;
    assert_eq!(response.headers()["x-kept"], "1");
    assert!(!response.headers().contains_key("grip-hold"));
    let mut body = response.into_body();
    receives(&mut body, "begin\n").await;
    for content in ["one\n", "two\n"] {
        hub.publish_stream("c", content).await;
        receives(&mut body, content).await;
    }
    let close = json!([{"channel": "c", "http-stream": {"action": "close"}}]);
    hub.publish(close).await;
    ends(&mut body).await;
    hub.until_metric(STREAMS, 0).await;
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let (_origin, hub) = start().await;
    let mut http2 = Http2::connect(&hub).await;
    let mut bodies = Vec::new();
    for _ in 0..100 {
        let mut body = http2.get("/stream").await.into_body();
        receives(&mut body, "begin\n").await;
        bodies.push(body);
    }
    assert_eq!(hub.metric(STREAMS).await, 100);
    assert_eq!(hub.metric("gripline_connections_total").await, 1);
    let mut expected = String::new();
    for count in 0..20 {
        let content = format!("{count:02}\n");
        hub.publish_stream("c", &content).await;
        expected += &content;
    }
    for body in &mut bodies {
        receives(body, &expected).await;
    }
}

#[tokio::test]
async fn a_client_that_resets_a_stream_is_forgotten_and_its_connection_goes_on() {
    let (_origin, hub) = start().await;
    let mut http2 = Http2::connect(&hub).await;
    let body = http2.get("/stream").await.into_body();
    let poll = http2.send("/poll", "");
    hub.until_metric(STREAMS, 1).await;
    hub.until_metric(RESPONSES, 1).await;
    drop(body);
    poll.abort();
    hub.until_metric(STREAMS, 0).await;
    hub.until_metric(RESPONSES, 0).await;
    let mut body = http2.get("/stream").await.into_body();
    receives(&mut body, "begin\n").await;
}

#[tokio::test]
async fn a_connection_that_breaks_loses_all_its_holds() {
    let (_origin, hub) = start().await;
    let mut http2 = Http2::connect(&hub).await;
    let body = http2.get("/stream").await.into_body();
    let poll = http2.send("/poll", "");
    hub.until_metric(RESPONSES, 1).await;
    drop((http2, body));
    poll.abort();
    hub.until_metric(STREAMS, 0).await;
    hub.until_metric(RESPONSES, 0).await;
}

#[tokio::test]
async fn long_polls_are_answered_and_asked_again() {
    let (origin, hub) = start().await;
    let mut http2 = Http2::connect(&hub).await;
    let poll = http2.send("/poll", "a body");
    hub.until_metric(RESPONSES, 1).await;
    let hint = json!([{"channel": "c", "http-response": {"action": "hint"}}]);
    hub.publish(hint).await;
    origin.until_count("/poll", 2).await;
    let requests = origin.requests("/poll");
    assert_eq!(requests[1].body, b"a body");
    hub.until_metric(RESPONSES, 1).await;
    let answer = json!({"code": 202, "headers": {"X-A": "1"}, "body": "news\n"});
    hub.publish(json!([{"channel": "c", "http-response": answer}]))
        .await;
    let response = within("an answer", poll).await;
    let response = response.expect("it is sent").expect("it is answered");
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["x-a"], "1");
    assert_eq!(whole(response).await, "news\n");
}

#[tokio::test]
async fn a_large_stream_goes_at_the_speed_of_its_reader() {
    let (origin, hub) = start().await;
    let large = "x".repeat(1 << 20);
    let hold = ["Grip-Hold: stream", "Grip-Channel: c"];
    origin.serve("/large", Answer::ok(&hold, &large));
    let mut http2 = Http2::connect(&hub).await;
    let mut body = http2.get("/large").await.into_body();
    hub.until_metric(STREAMS, 1).await;
    // What comes meanwhile waits behind the body.
    hub.publish_stream("c", "item\n").await;
    receives(&mut body, &format!("{large}item\n")).await;
}

#[tokio::test]
async fn a_drain_ends_streams_and_answers_requests() {
    let (_origin, mut hub) = start().await;
    let mut http2 = Http2::connect(&hub).await;
    let mut body = http2.get("/stream").await.into_body();
    receives(&mut body, "begin\n").await;
    let poll = http2.send("/poll", "");
    hub.until_metric(RESPONSES, 1).await;
    hub.shut_down();
    ends(&mut body).await;
    let response = within("an answer", poll).await;
    let response = response.expect("it is sent").expect("it is answered");
    assert_eq!(whole(response).await, "nothing\n");
    hub.ended().await;
}

#[tokio::test]
async fn a_preface_in_pieces_is_one_and_its_beginning_alone_is_not() {
    let (origin, hub) = start().await;
    origin.serve("/plain", Answer::ok(&[], "plain\n"));
    let mut client = Client::connect(hub.addr()).await;
    for piece in ["PR", "I * HTTP/2.0\r\n\r\nS", "M\r\n\r\n"] {
        client.send(piece).await;
    }
    // An empty SETTINGS frame each way; RFC 9113 §3.4.
    client.send(b"\0\0\0\x04\0\0\0\0\0").await;
    client.raw_until("\x04\0\0\0\0\0").await;

    let mut client = Client::connect(hub.addr()).await;
    client.send("PR").await;
    client
        .send("OPFIND /plain HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    client.response().await.check(200, "plain\n");
    let response = client::get(hub.addr(), "/plain", &[]).await;
    response.check(200, "plain\n");
}
