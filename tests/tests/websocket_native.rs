//! WebSockets whose origin speaks WebSocket itself: frames go through as they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use e2e::client::Client;
use e2e::flood::{self, Content};
use e2e::hub::{Hub, config};
use e2e::native::{NativeOrigin, Peer};
use e2e::routes::RoutesFile;
use e2e::tls::Ca;
use e2e::websocket::{Frame, Opcode, WebSocket};
use e2e::within;
use futures::{SinkExt as _, StreamExt as _};
use gripline_hub::config::{RawConfig, RawOriginTls};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;

const GRIP: &str = "Sec-WebSocket-Extensions: grip";
const HELD: &str = "gripline_held_websockets";
const MEBIBYTE: u64 = 1 << 20;

/// A client's WebSocket through the hub, and the origin's end of it.
struct Setting {
    hub: Hub,
    origin: NativeOrigin,
    client: WebSocket,
    peer: Peer,
}

impl Setting {
    async fn start(fields: &[&str]) -> Self {
        let origin = NativeOrigin::start().await;
        // Everything goes through one thread.
        let config = RawConfig {
            origin_websocket: Some("native".to_owned()),
            shards: Some(1),
            ..config(&origin.url())
        };
        let hub = Hub::start_with(&config);
        let (client, peer) = open(&hub, &origin, fields).await;
        Self {
            hub,
            origin,
            client,
            peer,
        }
    }

    /// Subscribes the client to a channel, and waits until that is done.
    async fn subscribe(&mut self, channel: &str) {
        self.control(&format!(r#""subscribe","channel":"{channel}""#))
            .await;
    }

    /// The origin gives an order. What it says next is heard when that was done.
    async fn control(&mut self, order: &str) {
        let order = format!(r#"c:{{"type":{order}}}"#);
        self.peer.send(Frame::text(&order)).await;
        self.peer.send(Frame::text("m:done")).await;
        self.client.receives_text("done").await;
    }

    async fn publish(&self, channel: &str, content: &str) {
        let item = json!({"channel": channel, "ws-message": {"content": content}});
        self.hub.publish(json!([item])).await;
    }
}

/// Another WebSocket.
async fn open(hub: &Hub, origin: &NativeOrigin, fields: &[&str]) -> (WebSocket, Peer) {
    let client = WebSocket::open(hub.addr(), "/ws", &[]);
    tokio::join!(client, origin.accept(fields))
}

fn part(text: &str) -> Frame {
    Frame::new(Opcode::Continuation, text)
}

#[tokio::test]
async fn frames_go_through_both_ways_as_they_are() {
    let Setting {
        mut client,
        mut peer,
        hub: _hub,
        ..
    } = Setting::start(&[]).await;
    for frame in [
        Frame::text("hello"),
        Frame::text(""),
        Frame::binary([0, 0xff]),
        Frame::ping("ping"),
        Frame::pong("pong"),
        Frame::text("a mess").unfinished(),
        Frame::ping(""),
        part("age in ").unfinished(),
        part("three"),
        // Means nothing, as GRIP was not spoken of.
        Frame::text(r#"c:{"type":"detach"}"#),
    ] {
        client.send(&frame).await;
        peer.receives(frame.clone()).await;
        peer.send(frame.clone()).await;
        client.receives(frame).await;
    }
}

#[tokio::test]
async fn each_is_one_connection_to_the_limit() {
    let origin = NativeOrigin::start().await;
    let mut config = RawConfig {
        origin_websocket: Some("native".to_owned()),
        shards: Some(1),
        ..config(&origin.url())
    };
    config.limits.connections = Some(3);
    let hub = Hub::start_with(&config);
    let mut pairs = Vec::new();
    for count in 1..=3 {
        pairs.push(open(&hub, &origin, &[]).await);
        hub.until_metric(HELD, count).await;
    }
    let rejection = WebSocket::rejected(hub.addr(), "/ws", &[]).await;
    rejection.check(503, "Too many clients are connected.\n");
    pairs.pop();
    hub.until_metric(HELD, 2).await;
    open(&hub, &origin, &[]).await;
}

#[tokio::test]
async fn the_handshake_is_the_hubs_own() {
    let Setting {
        client,
        peer,
        hub: _hub,
        ..
    } = Setting::start(&["X-Own: 1"]).await;
    let request = peer.request();
    assert_eq!(request.start(), "GET /ws HTTP/1.1");
    assert_eq!(request.field("Sec-WebSocket-Extensions"), Some("grip"));
    assert!(request.field("Grip-Sig").is_some());
    let key = request.field("Sec-WebSocket-Key");
    assert_ne!(key, Some(e2e::websocket::KEY));
    assert_eq!(client.head().field("X-Own"), Some("1"));
}

#[tokio::test]
async fn a_subprotocol_is_agreed_on_by_client_and_origin() {
    let origin = NativeOrigin::start().await;
    let hub = Hub::start_with(&RawConfig {
        origin_websocket: Some("native".to_owned()),
        ..config(&origin.url())
    });
    let offered = ["Sec-WebSocket-Protocol: soap, chat"];
    let client = WebSocket::open(hub.addr(), "/ws", &offered);
    let (client, peer) = tokio::join!(client, origin.accept(&["Sec-WebSocket-Protocol: chat"]));
    let name = "Sec-WebSocket-Protocol";
    assert_eq!(peer.request().field(name), Some("soap, chat"));
    assert_eq!(client.head().field(name), Some("chat"));
}

#[tokio::test]
async fn a_rejection_of_the_origin_goes_to_the_client() {
    let setting = Setting::start(&[]).await;
    let rejected = WebSocket::rejected(setting.hub.addr(), "/ws", &[]);
    let rejecting = async {
        let mut peer = setting.origin.asked().await;
        let answer = "HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 8\r\n\r\nnot you\n";
        peer.send_raw(answer.as_bytes()).await;
        peer
    };
    let (response, _peer) = tokio::join!(rejected, rejecting);
    response.check(403, "not you\n");
    assert_eq!(response.field("X-Why"), Some("no"));
    setting.hub.until_metric(HELD, 1).await;
}

#[tokio::test]
async fn an_origin_with_grip_subscribes_and_is_relayed_by_its_prefix() {
    let mut setting = Setting::start(&[GRIP]).await;
    assert_eq!(
        setting.client.head().field("Sec-WebSocket-Extensions"),
        None
    );
    setting.subscribe("room").await;
    setting.subscribe("other").await;
    setting.peer.send(Frame::text("no prefix")).await;
    setting.peer.send(Frame::text("m:one")).await;
    setting.client.receives_text("one").await;
    setting.publish("room", "two").await;
    setting.client.receives_text("two").await;
    // The prefix stands in the first frame only, and binary content has it as well.
    let frames = [
        (
            Frame::text("m:a").unfinished(),
            Frame::text("a").unfinished(),
        ),
        (part("m:b"), part("m:b")),
        (Frame::binary("m:\u{1}"), Frame::binary("\u{1}")),
        (Frame::ping("ping"), Frame::ping("ping")),
    ];
    for (said, heard) in frames {
        setting.peer.send(said).await;
        setting.client.receives(heard).await;
    }
    let order = r#""unsubscribe","channel":"room""#;
    setting.control(order).await;
    setting.publish("room", "lost").await;
    setting.publish("other", "three").await;
    setting.client.receives_text("three").await;
    // Clients need no prefix.
    setting.client.text("c:three").await;
    setting.peer.receives(Frame::text("c:three")).await;
    let dropped = setting.hub.metric("gripline_websocket_dropped_total").await;
    assert_eq!(dropped, 1);
}

#[tokio::test]
async fn an_origin_may_choose_its_prefix() {
    let fields = [r#"Sec-WebSocket-Extensions: grip; message-prefix="say ""#];
    let mut setting = Setting::start(&fields).await;
    setting.peer.send(Frame::text("m:no")).await;
    setting.peer.send(Frame::text("say yes")).await;
    setting.client.receives_text("yes").await;
}

/// RFC 6455 §5.4: frames of messages must not be mixed.
#[tokio::test]
async fn what_is_published_amid_a_message_comes_behind_it() {
    let mut setting = Setting::start(&[GRIP]).await;
    setting.subscribe("room").await;
    setting.peer.send(Frame::text("m:be").unfinished()).await;
    setting
        .client
        .receives(Frame::text("be").unfinished())
        .await;
    setting.publish("room", "one").await;
    setting.publish("room", "two").await;
    setting
        .hub
        .until_metric("gripline_deliveries_total", 2)
        .await;
    setting.peer.send(part("gi").unfinished()).await;
    setting.peer.send(Frame::ping("amid")).await;
    setting.client.receives(part("gi").unfinished()).await;
    setting.client.receives(Frame::ping("amid")).await;
    setting.peer.send(part("n")).await;
    setting.peer.send(Frame::text("m:three")).await;
    for frame in [
        part("n"),
        Frame::text("one"),
        Frame::text("two"),
        Frame::text("three"),
    ] {
        setting.client.receives(frame).await;
    }
    // A message that goes nowhere holds up nobody.
    setting.peer.send(Frame::text("drop").unfinished()).await;
    let dropped = "gripline_websocket_dropped_total";
    setting.hub.until_metric(dropped, 1).await;
    setting.publish("room", "four").await;
    setting.client.receives_text("four").await;
    setting.peer.send(part("ped")).await;
    setting.peer.send(Frame::text("m:five")).await;
    setting.client.receives_text("five").await;
}

#[tokio::test]
async fn codes_of_closes_go_both_ways() {
    for (code, reason) in [(1000, ""), (1001, "bye"), (4321, "own")] {
        let close = Frame::close(code, reason);
        let mut setting = Setting::start(&[]).await;
        setting.client.send(&close).await;
        setting.peer.receives(close.clone()).await;
        // What it answers with is its own choice.
        let answer = Frame::close(3000, "seen");
        setting.peer.send(answer.clone()).await;
        setting.client.receives(answer).await;
        setting.client.client().is_closed_by_server().await;
        setting.peer.client().is_closed_by_server().await;

        let mut setting = Setting::start(&[]).await;
        setting.peer.send(close.clone()).await;
        setting.client.receives(close).await;
        let answer = Frame::close(3000, "seen");
        setting.client.send(&answer).await;
        setting.peer.receives(answer).await;
        setting.client.client().is_closed_by_server().await;
        setting.peer.client().is_closed_by_server().await;
        setting.hub.until_metric(HELD, 0).await;
    }
}

#[tokio::test]
async fn a_close_without_a_code_stays_so() {
    let close = Frame::new(Opcode::Close, "");
    let mut setting = Setting::start(&[]).await;
    setting.client.send(&close).await;
    setting.peer.receives(close.clone()).await;
    setting.peer.send(close.clone()).await;
    setting.client.receives(close).await;
    setting.client.client().is_closed_by_server().await;
}

#[tokio::test]
async fn a_client_that_is_lost_is_lost_to_the_origin() {
    let mut setting = Setting::start(&[]).await;
    setting.client.vanish();
    setting.peer.client().is_closed_by_server().await;
    setting.hub.until_metric(HELD, 0).await;
}

/// The client is told so, as it can't tell the origin's end from the hub's.
#[tokio::test]
async fn an_origin_that_is_lost_closes_the_client() {
    let mut setting = Setting::start(&[]).await;
    setting.peer.send(Frame::text("last")).await;
    setting.peer.vanish();
    setting.client.receives_text("last").await;
    let close = Frame::close(1014, "");
    setting.client.receives(close.clone()).await;
    setting.client.send(&close).await;
    setting.client.client().is_closed_by_server().await;
    setting.hub.until_metric(HELD, 0).await;
}

#[tokio::test]
async fn an_origin_that_breaks_the_protocol_closes_the_client() {
    let mut setting = Setting::start(&[]).await;
    // Only clients mask.
    setting.peer.send_raw(&Frame::text("masked").encode()).await;
    setting.client.receives(Frame::close(1011, "")).await;
    setting
        .hub
        .until_metric("gripline_websocket_origin_errors_total", 1)
        .await;
}

/// Memory is that of the process.
static ALONE: Semaphore = Semaphore::const_new(1);

const BIG: u64 = 16 * MEBIBYTE;
/// By so much memory may grow while big messages pass.
const GROWTH: u64 = 12 * MEBIBYTE;
/// What the kernel's buffers and the hub's may hold of one message, on its way from end to end.
const UNDER_WAY: u64 = 16 * MEBIBYTE;

/// The beginning of a message of bytes in one frame.
fn big_frame(length: u64, mask: &[u8]) -> Vec<u8> {
    let masked = if mask.is_empty() { 0 } else { 0x80 };
    let head = [0x82, masked | 0x7f];
    [&head, &length.to_be_bytes()[..], mask].concat()
}

/// Something that is sent big messages.
trait Hears {
    async fn hears(&mut self) -> Frame;
}

impl Hears for WebSocket {
    async fn hears(&mut self) -> Frame {
        self.frame().await
    }
}

impl Hears for Peer {
    async fn hears(&mut self) -> Frame {
        self.frame().await
    }
}

/// Sends a message of `length` bytes in one frame. A mask of zeros changes nothing.
async fn flood(client: &mut Client, length: u64, mask: &[u8], mut on_piece: impl FnMut(u64)) {
    client.send_content(&big_frame(length, mask)).await;
    flood::upload(client, length, &mut on_piece).await;
}

/// Reads such a message, whose frames may be others.
async fn drain(hearer: &mut impl Hears, length: u64, mut on_piece: impl FnMut(u64)) {
    let mut content = Content::default();
    let mut kind = Opcode::Binary;
    loop {
        let frame = hearer.hears().await;
        assert_eq!(frame.opcode, kind);
        kind = Opcode::Continuation;
        content.check(&frame.payload);
        on_piece(content.passed());
        if frame.is_final {
            break;
        }
    }
    assert_eq!(content.passed(), length);
}

/// Fails once there is much more memory than when this was called.
fn memory_watch() -> impl FnMut(u64) {
    let before = flood::resident_bytes();
    let mut next = 0;
    move |passed| {
        if passed >= next {
            next += MEBIBYTE;
            let growth = flood::resident_bytes().saturating_sub(before);
            assert!(growth < GROWTH, "{growth} bytes more after {passed}");
        }
    }
}

#[tokio::test]
async fn big_messages_go_both_ways_in_little_memory() {
    let _alone = ALONE.acquire().await;
    let Setting {
        mut client,
        mut peer,
        hub: _hub,
        ..
    } = Setting::start(&[]).await;
    let to_origin = flood(client.client(), BIG, &[0; 4], |_| ());
    tokio::join!(to_origin, drain(&mut peer, BIG, memory_watch()));
    let to_client = flood(peer.client(), BIG, &[], |_| ());
    tokio::join!(to_client, drain(&mut client, BIG, memory_watch()));
}

/// Nobody waits here for something that does not happen. Instead, other messages go all the way
/// through the same thread meanwhile, so there was time enough.
#[tokio::test]
async fn an_origin_waits_for_a_client_that_does_not_read() {
    let _alone = ALONE.acquire().await;
    let Setting {
        hub,
        origin,
        client: mut slow,
        mut peer,
    } = Setting::start(&[]).await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let bytes = 4 * UNDER_WAY;
    let sending = tokio::spawn(async move {
        let keep = |passed| count.store(passed, Ordering::Relaxed);
        flood(peer.client(), bytes, &[], keep).await;
        peer
    });
    let (mut other, mut other_peer) = open(&hub, &origin, &[]).await;
    let to_client = flood(other_peer.client(), bytes, &[], |_| ());
    tokio::join!(to_client, drain(&mut other, bytes, |_| ()));
    let before = sent.load(Ordering::Relaxed);
    assert!(before < UNDER_WAY, "{before} bytes were sent");
    drain(&mut slow, bytes, |_| ()).await;
    sending.await.expect("all is sent");
}

#[tokio::test]
async fn a_client_waits_for_an_origin_that_does_not_read() {
    let _alone = ALONE.acquire().await;
    let Setting {
        hub,
        origin,
        client: mut slow,
        mut peer,
    } = Setting::start(&[]).await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let bytes = 4 * UNDER_WAY;
    let sending = tokio::spawn(async move {
        let keep = |passed| count.store(passed, Ordering::Relaxed);
        flood(slow.client(), bytes, &[0; 4], keep).await;
        slow
    });
    let (mut other, mut other_peer) = open(&hub, &origin, &[]).await;
    let to_origin = flood(other.client(), bytes, &[0; 4], |_| ());
    tokio::join!(to_origin, drain(&mut other_peer, bytes, |_| ()));
    let before = sent.load(Ordering::Relaxed);
    assert!(before < UNDER_WAY, "{before} bytes were sent");
    drain(&mut peer, bytes, |_| ()).await;
    sending.await.expect("all is sent");
}

/// The hub does not read it at that moment, and is told of its end once.
#[tokio::test]
async fn a_client_that_breaks_off_while_it_waits_is_lost_to_the_origin() {
    let _alone = ALONE.acquire().await;
    let Setting {
        hub,
        origin,
        client: mut slow,
        peer,
    } = Setting::start(&[]).await;
    let (told, broken) = tokio::sync::oneshot::channel();
    let sending = tokio::spawn(async move {
        tokio::select! {
            () = flood(slow.client(), 4 * UNDER_WAY, &[0; 4], |_| ()) => panic!("nobody reads"),
            _ = broken => slow.break_off(),
        }
    });
    let (mut other, mut other_peer) = open(&hub, &origin, &[]).await;
    let to_origin = flood(other.client(), 4 * UNDER_WAY, &[0; 4], |_| ());
    tokio::join!(to_origin, drain(&mut other_peer, 4 * UNDER_WAY, |_| ()));
    hub.until_metric("gripline_held_websockets", 2).await;
    told.send(()).expect("it is still sending");
    sending.await.expect("it broke off");
    hub.until_metric("gripline_held_websockets", 1).await;
    drop(peer);
}

#[tokio::test]
async fn an_origin_may_speak_tls() {
    let ca = Ca::new();
    let acceptor = ca.acceptor(&["right.com"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("it is bound");
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let stream = acceptor.accept(stream).await.expect("TLS");
        let mut socket = tokio_tungstenite::accept_async(stream).await.expect("one");
        while let Some(Ok(message)) = socket.next().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) {
                socket.send(message).await.expect("the hub reads");
            }
        }
    });
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let path = directory.path().join("ca.pem");
    ca.write(&path);
    let routes = RoutesFile::new(&[format!("* {addr},ssl")]);
    let hub = Hub::start_with(&RawConfig {
        origin_tls: RawOriginTls {
            ca: path.to_str().map(str::to_owned),
        },
        ..routes.config()
    });
    let mut client = WebSocket::open(hub.addr(), "/ws", &["Host: right.com"]).await;
    let big = "0123456789abcdef".repeat(10_000);
    for text in ["hello", &big] {
        client.text(text).await;
        client.receives_text(text).await;
    }
    client.close(1000, "bye").await;
    within("the origin's end", serving).await.expect("it ends");
}
