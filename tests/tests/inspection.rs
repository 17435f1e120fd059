//! `GET /channels` and `GET /channels/NAME` on the control port: what operators see of channels.

use e2e::client::{self, Client, Response};
use e2e::events::{GRIP, OPEN, answer, subscribe};
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Origin, Request};
use e2e::websocket::WebSocket;
use e2e::within;
use gripline_hub::config::{RawConfig, RawControlAuth};
use serde_json::{Value, json};

/// Holds whoever asks for `/stream`, `/poll` or `/ws` on the channels in the query.
async fn start_with(change: impl FnOnce(&mut RawConfig)) -> (Origin, Hub) {
    let origin = Origin::start().await;
    let hold = |hold: &'static str| {
        move |request: &Request| {
            let channels = format!("Grip-Channel: {}", channels(request));
            Answer::ok(&[hold, &channels], "hi\n")
        }
    };
    origin.serve_with("/stream", hold("Grip-Hold: stream"));
    origin.serve_with("/poll", hold("Grip-Hold: response"));
    origin.serve_with("/ws", |request| {
        let subscriptions: Vec<String> = channels(request).split(',').map(subscribe).collect();
        answer(&[GRIP], [OPEN, &subscriptions.concat()].concat())
    });
    let mut config = config(&origin.url());
    change(&mut config);
    let hub = Hub::start_with(&config);
    (origin, hub)
}

fn channels(request: &Request) -> String {
    let query = request.target().split_once('?');
    query.map_or_else(String::new, |(_, channels)| channels.to_owned())
}

async fn get(hub: &Hub, target: &str) -> Response {
    client::get(hub.control(), target, &[]).await
}

/// What a target says that must be there.
async fn told(hub: &Hub, target: &str) -> Value {
    let response = get(hub, target).await;
    let text = response.text();
    assert_eq!(response.status(), 200, "{target}: {text}");
    assert_eq!(response.field("Content-Type"), Some("application/json"));
    serde_json::from_str(&text).expect("it is JSON")
}

/// Waits until a channel has so many streams, long-polls and WebSockets.
async fn until_subscribers(hub: &Hub, channel: &str, [streams, responses, websockets]: [u64; 3]) {
    let expected = json!({"streams": streams, "responses": responses, "websockets": websockets});
    let target = format!("/channels/{channel}");
    let reached = async {
        loop {
            let response = get(hub, &target).await;
            let known: Option<Value> = serde_json::from_str(&response.text()).ok();
            if known.is_some_and(|channel| channel["subscribers"] == expected) {
                return;
            }
        }
    };
    within(&format!("{expected} on {channel}"), reached).await;
}

#[tokio::test]
async fn subscribers_are_counted_by_transport_on_all_shards() {
    let (_origin, hub) = start_with(|config| config.shards = Some(2)).await;
    let mut streams = Vec::new();
    let mut polls = Vec::new();
    let mut websockets = Vec::new();
    // Enough that no shard is without, but for a chance of one in thousands.
    for index in 0..12 {
        let channels = if index % 3 == 0 { "room,hall" } else { "room" };
        let mut stream = Client::get(hub.addr(), &format!("/stream?{channels}"), &[]).await;
        stream.stream_begins("hi\n").await;
        streams.push(stream);
        polls.push(Client::get(hub.addr(), "/poll?hall", &[]).await);
        let target = format!("/ws?{channels}");
        websockets.push(WebSocket::open(hub.addr(), &target, &[]).await);
    }
    hub.until_metric("gripline_held_responses", 12).await;
    until_subscribers(&hub, "room", [12, 0, 12]).await;
    until_subscribers(&hub, "hall", [4, 12, 4]).await;

    let item = |id: &str| json!({"channel": "hall", "id": id, "http-response": {"body": "go\n"}});
    hub.publish(json!([item("1"), item("ü2")])).await;
    until_subscribers(&hub, "hall", [4, 0, 4]).await;
    drop(streams);
    until_subscribers(&hub, "room", [0, 0, 12]).await;
    until_subscribers(&hub, "hall", [0, 0, 4]).await;
    drop(websockets);
    until_subscribers(&hub, "hall", [0, 0, 0]).await;

    let hall = told(&hub, "/channels/hall").await;
    assert_eq!(
        (&hall["name"], &hall["last_id"]),
        (&json!("hall"), &json!("ü2"))
    );
    let history = &hall["history"];
    assert_eq!(history["items"], 2);
    assert!(history["bytes"].as_u64() > Some(0), "{history}");
    assert_eq!(history["first_id"], "1");
    assert_eq!(history["last_id"], "ü2");
    assert!(history["oldest_seconds"].is_u64(), "{history}");

    let room = told(&hub, "/channels/room").await;
    assert_eq!(room["last_id"], Value::Null);
    let nothing = json!({
        "items": 0, "bytes": 0, "first_id": null, "last_id": null, "oldest_seconds": null,
    });
    assert_eq!(room["history"], nothing);
    let page = told(&hub, "/channels").await;
    assert_eq!(page, json!({"channels": [hall, room], "next": null}));
}

/// Publishes an item with an id to each channel, so that they are remembered.
async fn remember(hub: &Hub, names: &[String]) {
    let items = names
        .iter()
        .map(|name| json!({"channel": name, "id": "1", "http-stream": {"content": "x"}}));
    hub.publish(Value::Array(items.collect())).await;
}

/// The names on the pages from this one on, page by page.
async fn pages(hub: &Hub, first: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(target) = next {
        let page = told(hub, &target).await;
        let channels = page["channels"].as_array().expect("channels are a list");
        let names = channels
            .iter()
            .map(|it| it["name"].as_str().expect("names are text"));
        pages.push(names.map(str::to_owned).collect());
        next = page["next"].as_str().map(str::to_owned);
        assert!(pages.len() < 1000, "no end of pages");
    }
    pages
}

#[tokio::test]
async fn all_channels_are_on_some_page_once_and_in_order() {
    let (_origin, hub) = start_with(|config| config.control_base = Some("/base".to_owned())).await;
    assert_eq!(pages(&hub, "/channels").await, [[""; 0]]);
    let mut names: Vec<String> = (0..250)
        .map(|number| match number % 5 {
            0 => format!("ü {number}"),
            1 => format!("a&after=b+{number}%41"),
            2 => format!("日本/{number}"),
            3 => format!("\"{number}\""),
            _ => number.to_string(),
        })
        .collect();
    remember(&hub, &names).await;
    names.sort();
    for (target, limit) in [
        ("/channels", 100),
        ("/channels/", 100),
        ("/base/channels?limit=7", 7),
        ("/channels?limit=250", 250),
        ("/channels?limit=249&after=", 249),
        ("/channels?limit=1000", 1000),
    ] {
        let expected: Vec<&[String]> = names.chunks(limit).collect();
        assert_eq!(pages(&hub, target).await, expected, "{target}");
    }
    let rest: Vec<&[String]> = vec![&names[names.partition_point(|name| name.as_str() <= "ü 3")..]];
    assert_eq!(pages(&hub, "/channels?after=%C3%BC+3").await, rest);
    let next = &told(&hub, "/base/channels?limit=1").await["next"];
    assert_eq!(next, "/base/channels?limit=1&after=%22103%22");
}

#[tokio::test]
async fn a_channel_is_found_by_its_encoded_name() {
    let (_origin, hub) = start_with(|config| config.control_base = Some("/base".to_owned())).await;
    let names = ["a", "ü €", "a/b/", "100%", "a?b#c", "/"];
    remember(&hub, &names.map(str::to_owned)).await;
    for (target, name) in [
        ("/channels/a", "a"),
        ("/base/channels/a?limit=x", "a"),
        ("/channels/%61", "a"),
        ("/channels/%C3%BC%20%e2%82%ac", "ü €"),
        ("/channels/a/b/", "a/b/"),
        ("/channels/a%2Fb%2f", "a/b/"),
        ("/channels/100%25", "100%"),
        ("/channels/a%3Fb%23c", "a?b#c"),
        ("/channels//", "/"),
    ] {
        assert_eq!(told(&hub, target).await["name"], name, "{target}");
    }
}

/// Asks for a target, and fails unless it is refused so.
async fn check_refused(hub: &Hub, method: &str, target: &str, status: u16, text: &str) {
    let response = client::request(hub.control(), method, target, &["Content-Length: 0"], "").await;
    let found = (response.status(), response.text());
    assert_eq!(found, (status, text.to_owned()), "{method} {target}");
    if status == 405 {
        assert_eq!(response.field("Allow"), Some("GET"));
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (_origin, hub) = start_with(|_| {}).await;
    remember(&hub, &["a".to_owned()]).await;
    let unknown = "No such channel: nobody subscribes to it, and nothing of it is remembered.\n";
    for target in [
        "/channels/b",
        "/channels/A",
        "/channels/a/",
        "/channels/%00",
    ] {
        check_refused(&hub, "GET", target, 404, unknown).await;
    }
    let name = "Invalid channel name: not percent-encoded UTF-8.\n";
    for target in [
        "/channels/%",
        "/channels/%2x",
        "/channels/a%FF",
        "/channels?after=%C3",
    ] {
        check_refused(&hub, "GET", target, 400, name).await;
    }
    let limit = "Invalid limit: not a number from 1 to 1000.\n";
    for value in ["0", "1001", "-1", "", "x", "1e2"] {
        let target = format!("/channels?limit={value}");
        check_refused(&hub, "GET", &target, 400, limit).await;
    }
    for target in ["/channels", "/channels/a"] {
        for method in ["POST", "PUT", "DELETE"] {
            let text = format!("Method not allowed: {method}.\n");
            check_refused(&hub, method, target, 405, &text).await;
        }
        check_refused(&hub, "HEAD", target, 405, "").await;
    }
}

#[tokio::test]
async fn channels_are_shown_to_whoever_may_publish() {
    const UNAUTHORIZED: &str = "gripline_publish_unauthorized_total";
    let (_origin, hub) = start_with(|config| {
        config.control_auth = Some(RawControlAuth {
            key: Some("control".to_owned()),
            ..RawControlAuth::default()
        });
    })
    .await;
    for target in [
        "/channels",
        "/channels/a",
        "/channels/%",
        "/channels?limit=0",
    ] {
        let response = get(&hub, target).await;
        response.check(401, "Authentication required.\n");
    }
    assert_eq!(hub.metric(UNAUTHORIZED).await, 4);
    let key = ["Authorization: Bearer control"];
    let response = client::get(hub.control(), "/channels", &key).await;
    response.check(200, "{\"channels\":[],\"next\":null}\n");
}
