//! Many WebSockets at once: everybody gets everything that is theirs, once and in order.

use e2e::echo;
use e2e::hub::{self, Hub};
use e2e::origin::{Answer, Origin};
use e2e::websocket::Other;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

const CLIENTS: usize = 500;
const ITEMS: usize = 100;
/// Clients that talk to an origin, and what each of them says.
const TALKERS: usize = 20;
const MESSAGES: usize = 200;

/// Opens WebSockets in parallel.
async fn open_all(hub: &Hub, count: usize) -> Vec<Other> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        opening.spawn(Other::open(hub.addr(), "/ws"));
    }
    opening.join_all().await
}

/// An origin that subscribes everybody to the channel `updates`.
async fn subscribing_origin() -> Origin {
    let origin = Origin::start().await;
    let fields = [
        "Content-Type: application/websocket-events",
        "Sec-WebSocket-Extensions: grip",
    ];
    let subscribe = r#"c:{"type": "subscribe", "channel": "updates"}"#;
    let events = format!("OPEN\r\nTEXT {:x}\r\n{subscribe}\r\n", subscribe.len());
    origin.serve("/ws", Answer::ok(&fields, &events));
    origin
}

fn item(number: usize) -> Message {
    Message::text(format!("item {number}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_websockets_get_a_hundred_items_once_and_in_order() {
    let origin = subscribing_origin().await;
    let hub = Hub::start(&origin.url());
    let clients = open_all(&hub, CLIENTS).await;
    hub.until_subscribers("updates", CLIENTS).await;

    let mut reading = JoinSet::new();
    for mut client in clients {
        reading.spawn(async move {
            for number in 0..ITEMS {
                assert_eq!(client.message().await, Some(item(number)));
            }
            client
        });
    }
    for number in 0..ITEMS {
        let message = json!({"content": format!("item {number}")});
        hub.publish(json!([{"channel": "updates", "ws-message": message}]))
            .await;
    }
    let clients = reading.join_all().await;
    let delivered = hub.metric("gripline_deliveries_total").await;
    assert_eq!(delivered, (CLIENTS * ITEMS) as u64);

    let close = json!({"action": "close", "code": 4000, "reason": "bye"});
    hub.publish(json!([{"channel": "updates", "ws-message": close}]))
        .await;
    for mut client in clients {
        match client.message().await {
            Some(Message::Close(Some(frame))) => {
                assert_eq!(
                    (u16::from(frame.code), frame.reason.as_str()),
                    (4000, "bye")
                );
            }
            other => panic!("no close but {other:?}"),
        }
        assert_eq!(client.message().await, None);
    }
    hub.until_metric("gripline_held_websockets", 0).await;
}

/// Everybody sends everything at once, and gets it back.
async fn check_echo(transport: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let _origin = JoinSet::from_iter([echo::serve(listener)]);
    let mut config = hub::config(&format!("http://{address}"));
    config.origin_websocket = Some(transport.to_owned());
    let hub = Hub::start_with(&config);

    let mut talking = JoinSet::new();
    for (talker, mut client) in open_all(&hub, TALKERS).await.into_iter().enumerate() {
        talking.spawn(async move {
            let message = |number| Message::text(format!("{talker}: {number}"));
            for number in 0..MESSAGES {
                client.send(message(number)).await;
            }
            for number in 0..MESSAGES {
                assert_eq!(client.message().await, Some(message(number)));
            }
            client.close().await;
        });
    }
    talking.join_all().await;
    hub.until_metric("gripline_held_websockets", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_over_http_gets_all_messages_in_order() {
    check_echo("over-http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_origin_gets_all_messages_in_order() {
    check_echo("native").await;
}
