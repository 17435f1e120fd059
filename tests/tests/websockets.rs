//! Promises about WebSockets that no single dialogue shows. Their dialogues are in `transcripts/`.

use e2e::echo;
use e2e::events::{self, CLOSE, GRIP, OPEN, answer, bodies, closes, opens, subscribe, text};
use e2e::hub::{Hub, config};
use e2e::native::NativeOrigin;
use e2e::origin::{Answer, Origin, Request};
use e2e::websocket::{COMPRESSED, Frame, Opcode, Other, WebSocket};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use gripline_hub::config::RawConfig;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

const HELD: &str = "gripline_held_websockets";

async fn start() -> Origin {
    let origin = Origin::start().await;
    origin.serve_with("/ws", chat);
    origin
}

/// Opens with a subscription, says a long text to whatever it is told, and answers a close.
fn chat(request: &Request) -> Answer {
    if opens(request) {
        answer(&[GRIP], [OPEN, &subscribe("room")].concat())
    } else if closes(request) {
        answer(&[], CLOSE)
    } else {
        answer(&[], text(&format!("m:{}", long())))
    }
}

/// A text that can be much shorter.
fn long() -> String {
    "hear, ".repeat(100)
}

async fn publish(hub: &Hub, content: &str) {
    let item = json!({"channel": "room", "ws-message": {"content": content}});
    hub.publish(json!([item])).await;
}

#[tokio::test]
async fn many_websockets_talk_at_the_same_time_and_each_in_order() {
    const SOCKETS: usize = 200;
    const MESSAGES: usize = 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("it is bound");
    let serving = tokio::spawn(echo::serve(listener));
    let hub = Hub::start(&format!("http://{addr}"));
    let hub_addr = hub.addr();
    let mut clients = JoinSet::new();
    for socket in 0..SOCKETS {
        clients.spawn(async move {
            let mut client = Other::open(hub_addr, &format!("/{socket}")).await;
            for message in 0..MESSAGES {
                let text = format!("{socket} says {message}");
                client.send(Message::text(text)).await;
            }
            for message in 0..MESSAGES {
                client
                    .receives_text(&format!("{socket} says {message}"))
                    .await;
            }
            client
        });
    }
    let clients = clients.join_all().await;
    hub.until_metric(HELD, SOCKETS as u64).await;
    for client in clients {
        client.close().await;
    }
    hub.until_metric(HELD, 0).await;
    // Each was answered one message at a time, or several; and then the close.
    let exchanges = hub.metric("gripline_websocket_exchanges_total").await;
    let most = SOCKETS * (MESSAGES + 1);
    let possible = 2 * SOCKETS as u64..=most as u64;
    assert!(possible.contains(&exchanges), "{exchanges} exchanges");
    assert_eq!(
        hub.metric("gripline_websocket_origin_errors_total").await,
        0
    );
    serving.abort();
}

#[tokio::test]
async fn a_drain_closes_websockets_and_tells_their_origins() {
    let origin = start().await;
    let mut hub = Hub::start(&origin.url());
    let mut socket = WebSocket::open(hub.addr(), "/ws", &[]).await;
    hub.shut_down();
    let close = Frame::close(1001, "");
    socket.receives(close.clone()).await;
    events::until_complete(&origin, "/ws", 2).await;
    socket.send(&close).await;
    socket.client().is_closed_by_server().await;
    hub.ended().await;
    assert_eq!(bodies(&origin, "/ws")[1..], [r"CLOSE\r\n"]);
}

#[tokio::test]
async fn a_drain_closes_websockets_to_native_origins_as_well() {
    let origin = NativeOrigin::start().await;
    let mut hub = Hub::start_with(&RawConfig {
        origin_websocket: Some("native".to_owned()),
        ..config(&origin.url())
    });
    let client = WebSocket::open(hub.addr(), "/ws", &[]);
    let (mut socket, mut peer) = tokio::join!(client, origin.accept(&[]));
    hub.shut_down();
    let close = Frame::close(1001, "");
    socket.receives(close.clone()).await;
    peer.receives(Frame::new(Opcode::Close, "")).await;
    peer.send(Frame::new(Opcode::Close, "")).await;
    socket.send(&close).await;
    socket.client().is_closed_by_server().await;
    peer.client().is_closed_by_server().await;
    hub.ended().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_clients_that_answer_no_close() {
    let origin = start().await;
    let mut hub = Hub::start_with(&RawConfig {
        drain: Some("200ms".to_owned()),
        ..config(&origin.url())
    });
    let mut socket = WebSocket::open(hub.addr(), "/ws", &[]).await;
    hub.shut_down();
    socket.is_closed(1001, "").await;
    hub.ended().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let origin = start().await;
    let mut config = config(&origin.url());
    config.limits.pending_bytes = Some(100_000);
    config.limits.publish_bytes = Some(100_000);
    let hub = Hub::start_with(&config);
    let mut reader = WebSocket::open(hub.addr(), "/ws", &[]).await;
    let mut sleeper = WebSocket::open(hub.addr(), "/ws", &[]).await;

    // More than the kernel's buffers and the outbox take together.
    let content = "x".repeat(50_000);
    let slow = "gripline_slow_consumers_total";
    while hub.metric(slow).await == 0 {
        publish(&hub, &content).await;
        reader.receives_text(&content).await;
    }
    hub.until_metric(HELD, 1).await;
    while let Some(frame) = sleeper.try_frame().await {
        assert_eq!(frame.opcode, Opcode::Text, "it is cut off");
    }
    publish(&hub, "still here").await;
    reader.receives_text("still here").await;
    assert_eq!(hub.metric(slow).await, 1);
    // To the origin, it is a client like others that are lost.
    events::until_complete(&origin, "/ws", 3).await;
    assert_eq!(bodies(&origin, "/ws")[2..], [r"DISCONNECT\r\n"]);
}

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";

async fn start_compressing() -> (Origin, Hub) {
    let origin = start().await;
    let hub = Hub::start_with(&RawConfig {
        websocket_compression: Some(true),
        ..config(&origin.url())
    });
    (origin, hub)
}

/// RFC 7692 §7.2.1: the content of a compressed message.
fn deflated(content: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 64);
    let mut compress = Compress::new(Compression::best(), false);
    let compressed = compress.compress_vec(content.as_bytes(), &mut bytes, FlushCompress::Sync);
    compressed.expect("there is room");
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// RFC 7692 §7.2.2: what a compressed message means. No message needs another before it.
#[track_caller]
fn inflated(frame: &Frame) -> String {
    assert_eq!((frame.opcode, frame.reserved), (Opcode::Text, COMPRESSED));
    assert!(frame.is_final, "{frame:?}");
    let input = [&frame.payload[..], &[0, 0, 0xff, 0xff]].concat();
    let mut text = Vec::with_capacity(100_000);
    let mut decompress = Decompress::new(false);
    let done = decompress.decompress_vec(&input, &mut text, FlushDecompress::Sync);
    done.expect("it is compressed");
    String::from_utf8(text).expect("it is text")
}

fn compressed(opcode: Opcode, bytes: &[u8]) -> Frame {
    Frame {
        reserved: COMPRESSED,
        ..Frame::new(opcode, bytes)
    }
}

#[tokio::test]
async fn messages_are_compressed_both_ways_where_that_is_allowed() {
    let (origin, hub) = start_compressing().await;
    let mut socket = WebSocket::open(hub.addr(), "/ws", &[OFFER]).await;
    assert_eq!(
        socket.head().field("Sec-WebSocket-Extensions"),
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    );
    // The origin knows nothing of it.
    let hello = "hello, ".repeat(50);
    socket
        .send(&compressed(Opcode::Text, &deflated(&hello)))
        .await;
    let frame = socket.frame().await;
    assert_eq!(inflated(&frame), long());
    assert!(frame.payload.len() < long().len() / 10, "{frame:?}");
    // Only the first frame of a message says that it is compressed.
    let bytes = deflated("in two frames");
    let (begin, rest) = bytes.split_at(bytes.len() / 2);
    socket
        .send(&compressed(Opcode::Text, begin).unfinished())
        .await;
    socket.send(&Frame::new(Opcode::Continuation, rest)).await;
    assert_eq!(inflated(&socket.frame().await), long());
    // Nobody has to compress.
    socket.text("plain").await;
    assert_eq!(inflated(&socket.frame().await), long());
    let heard = [hello, "in two frames".to_owned(), "plain".to_owned()];
    let heard = heard.map(|it| text(&it).replace("\r\n", r"\r\n").replace(' ', r"\x20"));
    let found = bodies(&origin, "/ws")[1..].concat();
    assert_eq!(found.replace(' ', r"\x20"), heard.concat());

    publish(&hub, &"news, ".repeat(100)).await;
    assert_eq!(inflated(&socket.frame().await), "news, ".repeat(100));
    publish(&hub, &"more news, ".repeat(100)).await;
    assert_eq!(inflated(&socket.frame().await), "more news, ".repeat(100));
    // It would get longer.
    publish(&hub, "x").await;
    socket.receives(Frame::text("x")).await;
    socket.close(1000, "").await;
}

#[tokio::test]
async fn clients_with_and_without_compression_get_the_same() {
    let (_origin, hub) = start_compressing().await;
    let mut plain = WebSocket::open(hub.addr(), "/ws", &[]).await;
    assert_eq!(plain.head().field("Sec-WebSocket-Extensions"), None);
    let mut with = WebSocket::open(hub.addr(), "/ws", &[OFFER]).await;
    publish(&hub, &long()).await;
    plain.receives_text(&long()).await;
    assert_eq!(inflated(&with.frame().await), long());
    // What was not agreed on breaks the protocol.
    plain.send(&compressed(Opcode::Text, &deflated("x"))).await;
    plain.is_closed(1002, "").await;
}

#[tokio::test]
async fn nothing_is_compressed_unless_that_is_allowed() {
    let origin = start().await;
    let hub = Hub::start(&origin.url());
    let mut socket = WebSocket::open(hub.addr(), "/ws", &[OFFER]).await;
    assert_eq!(socket.head().field("Sec-WebSocket-Extensions"), None);
    socket.text("hello").await;
    socket.receives_text(&long()).await;
    // The offer is for the hub.
    for request in origin.requests("/ws") {
        assert_eq!(request.field("Sec-WebSocket-Extensions"), Some("grip"));
    }
}

/// What it means counts, not how short it is on the wire.
#[tokio::test]
async fn a_compressed_message_must_not_be_too_large_once_it_is_read() {
    let (origin, hub) = start_compressing().await;
    let mut socket = WebSocket::open(hub.addr(), "/ws", &[OFFER]).await;
    let bomb = deflated(&"0".repeat(10_000_000));
    assert!(bomb.len() < 20_000);
    socket.send(&compressed(Opcode::Text, &bomb)).await;
    socket.is_closed(1009, "").await;
    events::until_complete(&origin, "/ws", 2).await;
    assert_eq!(bodies(&origin, "/ws")[1..], [r"DISCONNECT\r\n"]);
}
