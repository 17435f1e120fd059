//! The same promises, whoever is in front: holds, publishes and WebSockets, with exact counts.

use e2e::chain::{Chain, first_source, free_addr};
use e2e::client::{self, Client};
use e2e::edge::{self, HUB_KEY};
use e2e::events::{CLOSE, GRIP, OPEN, answer, closes, opens, subscribe, text};
use e2e::now;
use e2e::origin::{Answer, Origin, Request};
use e2e::websocket::WebSocket;
use grip::signature::{Handoff, VerifyingKey, verify_handoff_token};
use live_counter::stack::topology::Topology;
use live_counter::stack::viceroy::Manifest;
use serde_json::json;

const STREAM: [&str; 5] = [
    "Content-Type: text/plain",
    "Surrogate-Control: max-age=60",
    "Grip-Hold: stream",
    "Grip-Channel: updates",
    "Grip-Keep-Alive: .; timeout=1; format=raw",
];
const LONG_POLL: [&str; 4] = [
    "Cache-Control: max-age=60",
    "Grip-Hold: response",
    "Grip-Channel: updates",
    "Grip-Timeout: 60",
];

async fn start(topology: Topology) -> Chain {
    let chain = Chain::start_in(topology, |manifest| manifest).await;
    chain
        .origin
        .serve("/stream", Answer::ok(&STREAM, "first\n"));
    chain
        .origin
        .serve("/poll", Answer::ok(&LONG_POLL, "nothing\n"));
    chain
}

/// Opens the stream; says where the edge had it from.
async fn open_stream(chain: &Chain, cache: &str) -> Client {
    let mut client = chain.open("/stream").await;
    let head = client.stream_begins("first\n").await;
    assert_eq!(head.field("X-Cache"), Some(cache), "{}", chain.topology);
    assert_eq!(head.names_beginning("grip"), [""; 0], "{}", chain.topology);
    client
}

#[tokio::test]
async fn a_stored_instruction_holds_the_next_client_and_an_item_reaches_all() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        let mut clients = [
            open_stream(&chain, first_source(topology)).await,
            open_stream(&chain, "hit").await,
        ];
        assert_eq!(chain.origin.count("/stream"), 1, "{topology}");
        chain.hub.publish_stream("updates", "second\n").await;
        for client in &mut clients {
            client.content_until("second\n").await;
        }
        assert_eq!(chain.hub.metric("gripline_purges_total").await, 1);
        drop(open_stream(&chain, first_source(topology)).await);
        assert_eq!(chain.origin.count("/stream"), 2, "{topology}");
    }
}

#[tokio::test]
async fn a_held_request_is_answered_by_an_item() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        let mut clients = [chain.open("/poll").await, chain.open("/poll").await];
        chain.hub.until_metric("gripline_held_responses", 2).await;
        assert_eq!(chain.origin.count("/poll"), 1, "{topology}");
        let item = json!({"channel": "updates", "http-response": {"code": 203, "body": "news\n"}});
        chain.hub.publish(json!([item])).await;
        for client in &mut clients {
            let response = client.response().await;
            response.check(203, "news\n");
            assert_eq!(response.field("Grip-Channel"), None);
        }
    }
}

/// Both ends of a hold's time: at once, and after what a look at it takes.
#[tokio::test]
async fn a_held_request_is_answered_when_its_time_is_up() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        for timeout in [1, 3] {
            let path = format!("/poll/{timeout}");
            let grip_timeout = format!("Grip-Timeout: {timeout}");
            let fields = ["Grip-Hold: response", "Grip-Channel: other", &grip_timeout];
            chain.origin.serve(&path, Answer::ok(&fields, "nothing\n"));
            chain.get(&path).await.check(200, "nothing\n");
        }
    }
}

/// Opens with a subscription and a greeting, and says `heard` to whatever it is told.
fn chat(request: &Request) -> Answer {
    if opens(request) {
        let events = [OPEN, &subscribe("room"), &text("m:welcome")].concat();
        answer(&[GRIP], events)
    } else if closes(request) {
        answer(&[], CLOSE)
    } else {
        answer(&[], text("m:heard"))
    }
}

#[tokio::test]
async fn a_websocket_hears_its_origin_and_its_channel() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        chain.origin.serve_with("/ws", chat);
        let mut socket = WebSocket::open(chain.addr(), "/ws?room=1", &[]).await;
        // The first comes right behind the handshake, where it is lost most easily.
        socket.receives_text("welcome").await;
        socket.text("hello").await;
        socket.receives_text("heard").await;
        let item = json!({"channel": "room", "ws-message": {"content": "to all"}});
        chain.hub.publish(json!([item])).await;
        socket.receives_text("to all").await;
        socket.close(1000, "").await;
        chain.hub.until_metric("gripline_held_websockets", 0).await;
        let requests = chain.origin.requests("/ws");
        assert_eq!(requests.len(), 3, "{topology}");
        for request in requests {
            let host = request.field("Host").map(str::to_owned);
            assert_eq!(host.as_deref(), Some("example.com"), "{topology}");
            assert_eq!(request.target(), "/ws?room=1");
            assert_eq!(request.field("Gripline-Host"), None);
            assert_eq!(request.field("Gripline-Sig"), None);
        }
    }
}

#[tokio::test]
async fn a_handshake_that_the_origin_rejects_is_rejected() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        let rejection = Answer::status("403 Forbidden", &["X-Reason: because"], "no\n");
        chain.origin.serve("/ws", rejection);
        let response = WebSocket::rejected(chain.addr(), "/ws", &[]).await;
        response.check(403, "no\n");
        assert_eq!(response.field("X-Reason"), Some("because"), "{topology}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        drop(open_stream(&chain, first_source(topology)).await);
        // It shows at the next keep-alive, which is due within a second.
        chain.hub.until_metric("gripline_held_streams", 0).await;
        assert_eq!(chain.hub.subscribers("updates").await, 0, "{topology}");
    }
}

/// In front of the hub, the platform tells nobody that a client left before its answer has begun.
#[tokio::test]
async fn a_client_that_leaves_ends_its_held_request() {
    for topology in [Topology::HubFront, Topology::Fanout] {
        let chain = start(topology).await;
        let client = chain.open("/poll").await;
        chain.hub.until_metric("gripline_held_responses", 1).await;
        drop(client);
        chain.hub.until_metric("gripline_held_responses", 0).await;
        assert_eq!(chain.hub.subscribers("updates").await, 0, "{topology}");
    }
}

/// A stream goes on where its link leads; the hub asks for that, through the edge.
#[tokio::test]
async fn a_stream_goes_on_with_its_link() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        let fields = ["Content-Type: text/plain", "Grip-Link: </second>; rel=next"];
        chain.origin.serve("/first", Answer::ok(&fields, "one\n"));
        chain.origin.serve("/second", Answer::ok(&STREAM, "two\n"));
        let mut client = chain.open("/first").await;
        client.stream_begins("one\n").await;
        client.content_until("two\n").await;
        chain.hub.publish_stream("updates", "three\n").await;
        client.content_until("three\n").await;
        assert_eq!(chain.origin.count("/second"), 1, "{topology}");
    }
}

/// A gap: the hub asks again for the client, through the edge, and tells what the client has.
#[tokio::test]
async fn a_held_request_that_missed_something_is_asked_again() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        chain
            .origin
            .serve_with("/reliable", |request| match request.field("Grip-Last") {
                None => Answer::ok(
                    &["Grip-Hold: response", "Grip-Channel: numbers; prev-id=1"],
                    "nothing\n",
                ),
                Some(last) => Answer::ok(&[], &format!("after {last}\n")),
            });
        let mut client = chain.open("/reliable?x=1").await;
        chain.hub.until_metric("gripline_held_responses", 1).await;
        let item = json!({
            "channel": "numbers", "id": "3", "prev-id": "2",
            "http-response": {"body": "three\n"}
        });
        chain.hub.publish(json!([item])).await;
        client
            .response()
            .await
            .check(200, "after numbers; last-id=1\n");
        let asked = chain.origin.requests("/reliable");
        // What cannot be stored is asked for twice where it is handed over.
        let expected = if topology == Topology::Fanout { 3 } else { 2 };
        assert_eq!(asked.len(), expected, "{topology}");
        assert!(
            asked
                .iter()
                .all(|request| request.target() == "/reliable?x=1")
        );
        let hosts = asked
            .iter()
            .map(|request| request.field("Host").map(str::to_owned));
        let expected = Some("example.com".to_owned());
        assert!(hosts.into_iter().all(|host| host == expected), "{asked:?}");
    }
}

#[tokio::test]
async fn head_of_a_hold_is_answered_without_one() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        let response = client::request(chain.addr(), "HEAD", "/stream", &[], "").await;
        assert_eq!(response.status(), 200, "{topology}");
        assert_eq!(response.field("Grip-Hold"), None, "{topology}");
    }
}

#[tokio::test]
async fn nothing_that_a_client_forges_is_believed() {
    for topology in Topology::ALL {
        let chain = start(topology).await;
        chain.origin.serve_with("/ws", chat);
        let forged = [
            "Grip-Sig: forged",
            "Gripline-Debug: guessed",
            "Gripline-Host: evil.example",
            "Pushpin-Route: other",
        ];
        let mut client = Client::get(chain.addr(), "/stream", &forged).await;
        let head = client.stream_begins("first\n").await;
        assert_eq!(head.names_beginning("grip"), [""; 0], "{topology}");
        drop(WebSocket::open(chain.addr(), "/ws", &forged).await);
        for path in ["/stream", "/ws"] {
            let request = chain.origin.only_request(path);
            let host = request.field("Host").map(str::to_owned);
            assert_eq!(host.as_deref(), Some("example.com"), "{topology}");
            assert_eq!(request.field("Gripline-Host"), None, "{topology}");
        }
        let response = client::request(chain.addr(), "POST", "/.gripline/hold", &[], "x").await;
        assert_eq!(response.status(), 404, "{topology}");
    }
}

/// What the hub sees of a request that is handed over: whose it is, and nothing that a client made
/// up or only the edge should know.
#[tokio::test]
async fn a_request_is_handed_over_with_the_edges_word_for_it() {
    let (origin, hub) = (Origin::start().await, Origin::start().await);
    origin.serve("/stream", Answer::ok(&STREAM, "first\n"));
    hub.serve("/stream", Answer::ok(&[], "from the hub\n"));
    let addr = free_addr();
    let manifest = edge::manifest(&origin.url());
    let manifest = Topology::Fanout
        .configure_edge(manifest, addr, hub.addr(), HUB_KEY)
        .expect("the manifest can be changed");
    let _edge = edge::start_at(addr, manifest, Some(hub.addr())).await;
    let forged = [
        "Host: www.example.com",
        "Grip-Sig: forged",
        "Gripline-Debug: secret",
        "Gripline-Host: evil.example",
        "Gripline-Sig: forged",
        "Cookie: a=b",
    ];
    let response = client::get(addr, "/stream?x=1", &forged).await;
    response.check(200, "from the hub\n");
    let handed = hub.only_request("/stream");
    assert_eq!(handed.target(), "/stream?x=1");
    assert_eq!(handed.field("Cookie"), Some("a=b"));
    assert_eq!(handed.field("Gripline-Host"), Some("www.example.com"));
    assert_eq!(handed.field("X-Forwarded-For"), Some("127.0.0.1"));
    for name in ["Grip-Sig", "Gripline-Debug"] {
        assert_eq!(handed.field(name), None, "{name}");
    }
    let key = VerifyingKey::hs256(HUB_KEY.as_bytes()).expect("not empty");
    let handoff = Handoff {
        host: "www.example.com",
        path_and_query: "/stream?x=1",
        websocket_key: b"",
    };
    let token = handed.field("Gripline-Sig").unwrap_or_default();
    let verified = verify_handoff_token(&key.into(), token, &handoff, now());
    assert_eq!(verified, Ok(()));
}

#[tokio::test]
async fn while_the_origin_is_down_new_clients_are_held() {
    for topology in Topology::ALL {
        let mut chain = start(topology).await;
        drop(open_stream(&chain, first_source(topology)).await);
        chain.origin.stop().await;
        let mut early = open_stream(&chain, "hit").await;
        chain.hub.publish_stream("updates", "second\n").await;
        early.content_until("second\n").await;
        let mut late = open_stream(&chain, "stale").await;
        chain.hub.publish_stream("updates", "third\n").await;
        early.content_until("third\n").await;
        late.content_until("third\n").await;
    }
}

const AWAY: &str = "The hub does not answer.\n";

#[tokio::test]
async fn without_a_hub_the_edge_says_so_and_goes_on_with_the_rest() {
    let mut chain = start(Topology::EdgeFront).await;
    chain.origin.serve(
        "/page",
        Answer::ok(&["Cache-Control: max-age=60"], "page\n"),
    );
    drop(open_stream(&chain, "miss").await);
    chain.hub.shut_down();
    chain.hub.ended().await;
    for path in ["/stream", "/poll"] {
        let response = chain.get(path).await;
        response.check(503, AWAY);
        assert_eq!(response.field("Retry-After"), Some("1"), "{path}");
        assert_eq!(response.field("Grip-Channel"), None, "{path}");
    }
    chain.get("/page").await.check(200, "page\n");
    // What was stored for the stream stays for when the hub is back.
    assert_eq!(chain.origin.count("/stream"), 1);
}

#[tokio::test]
async fn a_hub_that_does_not_know_the_edge_refuses_its_clients() {
    let change = |manifest: Manifest| manifest.with_secret("hub-key", "another");
    let chain = Chain::start_in(Topology::EdgeFront, change).await;
    chain
        .origin
        .serve("/stream", Answer::ok(&STREAM, "first\n"));
    chain.origin.serve_with("/ws", chat);
    let refused = "The hub refuses to hold this request.\n";
    chain.get("/stream").await.check(502, refused);
    let response = WebSocket::rejected(chain.addr(), "/ws", &[]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(chain.hub.metric("gripline_edge_refused_total").await, 2);
    assert_eq!(chain.origin.count("/ws"), 0);
}

#[tokio::test]
async fn an_edge_without_a_hub_key_says_what_is_missing() {
    let change = |manifest: Manifest| manifest.without_secret("hub-key");
    let chain = Chain::start_in(Topology::EdgeFront, change).await;
    chain
        .origin
        .serve("/stream", Answer::ok(&STREAM, "first\n"));
    for response in [
        chain.get("/stream").await,
        WebSocket::rejected(chain.addr(), "/ws", &[]).await,
    ] {
        assert_eq!(response.status(), 503);
        let text = response.text();
        assert!(text.contains("has no secret \"hub-key\""), "{text}");
    }
}

/// Too much for the hub to take in at once.
#[tokio::test]
async fn a_first_body_that_is_too_large_is_told() {
    let chain = start(Topology::EdgeFront).await;
    let large = "x".repeat(100_001);
    chain.origin.serve("/large", Answer::ok(&STREAM, &large));
    let response = chain.get("/large").await;
    response.check(
        502,
        "A response that asks for a hold may have 100000 bytes.\n",
    );
    let largest = "x".repeat(100_000);
    chain
        .origin
        .serve("/largest", Answer::ok(&STREAM, &largest));
    let mut client = chain.open("/largest").await;
    client.stream_begins(&largest).await;
}

#[tokio::test]
async fn paths_of_streams_are_handed_over_unseen() {
    let change = |manifest: Manifest| {
        let changes = json!({"stream_paths": ["/live/", "/reliable"]});
        let changes = changes.as_object().expect("it is one").clone();
        manifest
            .with_config(changes)
            .expect("the manifest can be changed")
    };
    let chain = Chain::start_in(Topology::Fanout, change).await;
    let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
    for path in ["/live/1", "/other"] {
        chain.origin.serve(path, Answer::ok(&hold, "first\n"));
        chain.open(path).await.stream_begins("first\n").await;
    }
    assert_eq!(chain.origin.count("/live/1"), 1);
    assert_eq!(chain.origin.count("/other"), 2);
}
