//! WebSockets over HTTP/2: RFC 8441. What they are about is the same as over HTTP/1; here is how
//! their bytes come and go.

use e2e::http2::Http2;
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use e2e::routes::RoutesFile;
use serde_json::json;

const CLOSE: &[u8] = b"\x88\x02\x03\xe8";

/// A hub that talks to WebSockets by itself.
fn start() -> (Hub, RoutesFile) {
    let routes = RoutesFile::new(&["* test"]);
    (Hub::start_with(&routes.config()), routes)
}

/// A frame of a client. A mask of zeros changes nothing.
fn masked(first: u8, content: &[u8]) -> Vec<u8> {
    let length = if let Ok(length @ ..=125) = u8::try_from(content.len()) {
        vec![0x80 | length]
    } else {
        let length = u16::try_from(content.len()).expect("a small frame");
        [&[0xfe], &length.to_be_bytes()[..]].concat()
    };
    [&[first], &length[..], &[0; 4], content].concat()
}

#[tokio::test]
async fn bytes_go_both_ways() {
    let (hub, _routes) = start();
    let mut client = Http2::connect(hub.addr()).await;
    let mut socket = client.websocket("/ws", &[]).await;
    let mut other = client.websocket("/ws", &[]).await;
    hub.until_metric("gripline_held_websockets", 2).await;
    socket.send_bytes(&masked(0x81, b"hello"));
    socket.receives_bytes(b"\x81\x05hello").await;
    // Cut anywhere.
    for byte in masked(0x82, b"\x00\xff") {
        socket.send_bytes(&[byte]);
    }
    socket.receives_bytes(b"\x82\x02\x00\xff").await;
    other.send_bytes(&masked(0x81, b"other"));
    other.receives_bytes(b"\x81\x05other").await;

    socket.send_bytes(&masked(0x88, b"\x03\xe8"));
    socket.receives_bytes(CLOSE).await;
    socket.ends().await;
    hub.until_metric("gripline_held_websockets", 1).await;
    other.reset();
    hub.until_metric("gripline_held_websockets", 0).await;
}

#[tokio::test]
async fn a_client_that_ends_its_stream_is_gone() {
    let (hub, _routes) = start();
    let mut client = Http2::connect(hub.addr()).await;
    let mut socket = client.websocket("/ws", &[]).await;
    hub.until_metric("gripline_held_websockets", 1).await;
    socket.send_last("");
    hub.until_metric("gripline_held_websockets", 0).await;
    let mut socket = client.websocket("/ws", &[]).await;
    socket.send_bytes(&masked(0x81, b"next"));
    socket.receives_bytes(b"\x81\x04next").await;
}

#[tokio::test]
async fn bytes_wait_for_a_client_that_reads_late() {
    let (hub, _routes) = start();
    let mut client = Http2::connect(hub.addr()).await;
    let mut socket = client.websocket("/ws", &[]).await;
    let frame = masked(0x82, &[7; 10_000]);
    // More than windows and buffers hold together.
    for _ in 0..100 {
        socket.send_bytes(&frame);
    }
    for _ in 0..100 {
        socket.receives_bytes(b"\x82\x7e\x27\x10").await;
        assert_eq!(socket.read_bytes(10_000).await, [7; 10_000]);
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped_and_its_stream_reset() {
    let routes = RoutesFile::new(&["* test"]);
    let mut config = routes.config();
    config.limits.pending_bytes = Some(100_000);
    config.limits.publish_bytes = Some(100_000);
    let hub = Hub::start_with(&config);
    let mut client = Http2::connect(hub.addr()).await;
    let mut slow = client.websocket("/ws", &[]).await;
    let mut quick = client.websocket("/ws", &[]).await;
    hub.until_subscribers("test", 2).await;
    // More than windows and buffers hold together.
    let content = "x".repeat(50_000);
    let formats = json!({"ws-message": {"content": content}});
    for _ in 0..200 {
        let items = json!([{"channel": "test", "formats": formats}]);
        hub.publish(items).await;
        quick.read_bytes(4 + content.len()).await;
        if hub.metric("gripline_slow_consumers_total").await == 1 {
            break;
        }
    }
    hub.until_metric("gripline_slow_consumers_total", 1).await;
    // It would be too late if the hub waited for it to read.
    slow.is_reset().await;
    slow.breaks_off().await;
    quick.send_bytes(&masked(0x81, b"after"));
    quick.receives_bytes(b"\x81\x05after").await;
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (hub, _routes) = start();
    let mut client = Http2::connect(hub.addr()).await;
    let mut exchange = client.connect_with("connect-udp", "/ws", &[]).await;
    exchange
        .response()
        .await
        .check(501, "CONNECT is not supported.\n");
}

#[tokio::test]
async fn a_success_that_opens_nothing_is_not_taken_for_an_open_websocket() {
    let origin = Origin::start().await;
    origin.serve("/page", Answer::ok(&[], "a page\n"));
    let target = origin.url().replace("http://", "");
    let route = format!("* {target},over_http");
    let routes = RoutesFile::new(&[route]);
    let hub = Hub::start_with(&routes.config());
    let mut client = Http2::connect(hub.addr()).await;
    let fields = ["Sec-WebSocket-Version: 13"];
    let mut exchange = client.connect_with("websocket", "/page", &fields).await;
    let response = exchange.response().await;
    response.check(502, "a page\n");
}
