//! WebSockets whose origin is behind the edge: their events pass, and nothing of them is kept.

use e2e::chain::Chain;
use e2e::client;
use e2e::edge::signed;
use e2e::events::{CLOSE, GRIP, OPEN, answer, bodies, closes, opens, subscribe, text};
use e2e::origin::{Answer, Request};
use e2e::websocket::{Frame, WebSocket};
use serde_json::json;

/// What makes the edge keep other answers.
const CACHEABLE: &str = "Cache-Control: max-age=60";
const REFUSED: &str = "Client not allowed to send WebSocket events directly.\n";

async fn start() -> Chain {
    let chain = Chain::start().await;
    chain.origin.serve_with("/ws", chat);
    chain
}

/// Opens with a subscription, says `heard` to whatever it is told, and answers a close.
fn chat(request: &Request) -> Answer {
    if opens(request) {
        let events = [OPEN, &subscribe("room")].concat();
        answer(&[GRIP, CACHEABLE], events)
    } else if closes(request) {
        answer(&[CACHEABLE], CLOSE)
    } else {
        answer(&[CACHEABLE], text("m:heard"))
    }
}

async fn open(chain: &Chain) -> WebSocket {
    WebSocket::open(chain.addr(), "/ws", &[]).await
}

async fn converse(chain: &Chain) {
    let mut socket = open(chain).await;
    for _ in 0..2 {
        socket.text("hello").await;
        socket.receives_text("heard").await;
    }
    socket.close(1000, "").await;
}

#[tokio::test]
async fn every_request_of_every_websocket_reaches_the_origin() {
    let chain = start().await;
    converse(&chain).await;
    converse(&chain).await;
    let hello = r"TEXT 5\r\nhello\r\n";
    let one = [r"OPEN\r\n", hello, hello, r"CLOSE 2\r\n\x03\xe8\r\n"];
    assert_eq!(bodies(&chain.origin, "/ws"), [one, one].concat());
    // Two at a time, one of which is behind the other.
    let mut sockets = [open(&chain).await, open(&chain).await];
    for index in [0, 1, 0] {
        sockets[index].text("hello").await;
        sockets[index].receives_text("heard").await;
    }
    assert_eq!(chain.origin.count("/ws"), 8 + 5);
    let exchanges = chain.hub.metric("gripline_websocket_exchanges_total").await;
    assert_eq!(exchanges, 2 * 3 + 3, "the opening is a handshake");
}

/// Answers to events are for one WebSocket only, also where a page has the same address.
#[tokio::test]
async fn what_events_are_answered_with_is_not_stored() {
    let chain = start().await;
    let mut socket = open(&chain).await;
    socket.text("hello").await;
    socket.receives_text("heard").await;
    let page = Answer::ok(&[CACHEABLE], "a page\n");
    chain.origin.serve("/ws", page);
    let miss = chain.get("/ws").await;
    miss.check(200, "a page\n");
    assert_eq!(miss.field("X-Cache"), Some("miss"));
    // And the page is not for the WebSocket.
    let hit = chain.get("/ws").await;
    assert_eq!(hit.field("X-Cache"), Some("hit"));
    chain.origin.serve_with("/ws", chat);
    socket.text("hello").await;
    socket.receives_text("heard").await;
    assert_eq!(chain.origin.count("/ws"), 2 + 1 + 1);
}

#[tokio::test]
async fn events_of_clients_are_refused_by_edge_and_hub() {
    let chain = start().await;
    for media_type in [
        "application/websocket-events",
        "Application/WebSocket-Events; charset=utf-8",
    ] {
        let field = format!("Content-Type: {media_type}");
        let fields = [&field[..], "Connection-Id: 1"];
        for addr in [chain.edge.addr(), chain.addr()] {
            let response = client::request(addr, "POST", "/ws", &fields, OPEN).await;
            response.check(403, REFUSED);
        }
    }
    assert_eq!(chain.origin.count("/ws"), 0);
    // The hub's signature makes the difference.
    let fields = [&signed()[..], "Content-Type: application/websocket-events"];
    let response = client::request(chain.edge.addr(), "POST", "/ws", &fields, OPEN).await;
    assert_eq!(response.status(), 200);
    assert_eq!(chain.origin.count("/ws"), 1);
}

#[tokio::test]
async fn messages_stay_in_order() {
    let chain = start().await;
    let mut socket = open(&chain).await;
    let mut expected = String::new();
    for number in 0..50 {
        let message = format!("message {number}");
        expected += &text(&message).replace("\r\n", r"\r\n");
        socket.text(&message).await;
    }
    // Many go in one request, and the last must be there before the close, which is told by its size.
    let is_last = |request: &Request| String::from_utf8_lossy(&request.body).contains("49\r\n");
    let is_there = |requests: &[&Request]| requests.iter().any(|request| is_last(request));
    chain.origin.until("/ws", is_there).await;
    socket.send(&Frame::close(1000, "")).await;
    let mut frame = socket.frame().await;
    while frame == Frame::text("heard").unmasked() {
        frame = socket.frame().await;
    }
    assert_eq!(frame, Frame::close(1000, "").unmasked());
    let requests = bodies(&chain.origin, "/ws");
    let events = requests.concat();
    assert_eq!(
        events,
        format!(r"OPEN\r\n{expected}CLOSE 2\r\n\x03\xe8\r\n")
    );
}

#[tokio::test]
async fn a_publish_reaches_the_websocket() {
    let chain = start().await;
    let mut socket = open(&chain).await;
    let message = |content| json!([{"channel": "room", "ws-message": {"content": content}}]);
    chain.hub.publish(message("one")).await;
    chain.hub.publish(message("two")).await;
    socket.receives_text("one").await;
    socket.receives_text("two").await;
    socket.text("hello").await;
    socket.receives_text("heard").await;
    assert_eq!(chain.hub.metric("gripline_purges_total").await, 2);
}

#[tokio::test]
async fn a_handshake_is_rejected_while_the_origin_is_down() {
    let mut chain = start().await;
    chain.origin.stop().await;
    for _ in 0..2 {
        let rejection = WebSocket::rejected(chain.addr(), "/ws", &[]).await;
        rejection.check(502, "Error while proxying to origin.\n");
    }
}

#[tokio::test]
async fn an_open_websocket_is_closed_once_its_origin_is_missed() {
    let mut chain = start().await;
    let mut socket = open(&chain).await;
    chain.origin.stop().await;
    socket.client().is_quiet();
    socket.text("hello").await;
    let close = Frame::close(1011, "");
    socket.receives(close.clone()).await;
    socket.send(&close).await;
    socket.client().is_closed_by_server().await;
    let lost = "gripline_websocket_origin_errors_total";
    assert_eq!(chain.hub.metric(lost).await, 1);
    chain.hub.until_metric("gripline_held_websockets", 0).await;
}
