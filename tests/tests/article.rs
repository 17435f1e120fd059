//! The exchange that Gripline is for: one short answer of the origin sets up every subscriber.

use e2e::chain::Chain;
use e2e::client::Client;
use e2e::origin::Answer;

const STREAM: [&str; 4] = [
    "Content-Type: text/plain",
    "Cache-Control: max-age=0, s-maxage=60",
    "Grip-Hold: stream",
    "Grip-Channel: updates",
];

async fn start() -> Chain {
    let chain = Chain::start().await;
    chain.origin.serve("/stream", Answer::ok(&STREAM, "one\n"));
    chain
}

/// Reads head and initial body, and fails unless the stream stays open after them.
async fn check_begins(client: &mut Client, content: &str, cache: &str) {
    let head = client.stream_begins(content).await;
    assert_eq!(head.field("X-Cache"), Some(cache));
    assert_eq!(head.field("Content-Type"), Some("text/plain"));
    assert_eq!(head.field("Transfer-Encoding"), Some("chunked"));
    assert_eq!(head.names_beginning("grip-"), [""; 0]);
    client.is_quiet();
}

#[tokio::test]
async fn the_first_client_is_set_up_by_the_origin() {
    let chain = start().await;
    let mut client = chain.open("/stream").await;
    check_begins(&mut client, "one\n", "miss").await;
    assert_eq!(chain.origin.count("/stream"), 1);
    assert_eq!(chain.hub.metric("gripline_held_streams").await, 1);
}

#[tokio::test]
async fn the_second_client_is_set_up_by_the_edge() {
    let chain = start().await;
    let mut first = chain.open("/stream").await;
    check_begins(&mut first, "one\n", "miss").await;
    let mut second = chain.open("/stream").await;
    check_begins(&mut second, "one\n", "hit").await;
    assert_eq!(chain.origin.count("/stream"), 1);
    assert_eq!(chain.hub.metric("gripline_held_streams").await, 2);
}

#[tokio::test]
async fn an_update_reaches_all_and_the_next_client_begins_with_it() {
    let chain = start().await;
    let mut first = chain.open("/stream").await;
    check_begins(&mut first, "one\n", "miss").await;
    let mut second = chain.open("/stream").await;
    check_begins(&mut second, "one\n", "hit").await;

    // The application writes its data first, then says so.
    chain.origin.serve("/stream", Answer::ok(&STREAM, "two\n"));
    chain.hub.publish_stream("updates", "two\n").await;
    first.receives("two\n").await;
    second.receives("two\n").await;
    assert_eq!(chain.origin.count("/stream"), 1);

    let mut third = chain.open("/stream").await;
    check_begins(&mut third, "two\n", "miss").await;
    assert_eq!(chain.origin.count("/stream"), 2);

    let mut fourth = chain.open("/stream").await;
    check_begins(&mut fourth, "two\n", "hit").await;
    chain.hub.publish_stream("updates", "three\n").await;
    for client in [&mut first, &mut second, &mut third, &mut fourth] {
        client.receives("three\n").await;
    }
    assert_eq!(chain.origin.count("/stream"), 2);
}

/// What the origin is asked does not depend on who asks, and the edge signs it.
#[tokio::test]
async fn the_origin_sees_one_signed_request() {
    let chain = start().await;
    let fields = [
        "X-Forwarded-For: 192.0.2.1",
        "Grip-Last: updates; last-id=1",
    ];
    let mut client = Client::get(chain.addr(), "/stream?x=1", &fields).await;
    client.stream_begins("one\n").await;
    let request = chain.origin.only_request("/stream");
    assert_eq!(request.head.start(), "GET /stream?x=1 HTTP/1.1");
    assert_eq!(request.field("Host"), Some("example.com"));
    let key = grip::signature::VerifyingKey::hs256(e2e::hub::SIG_KEY.as_bytes());
    let token = request.field("Grip-Sig").expect("it is signed");
    let claims = key.expect("the key is good").verify(token, e2e::now(), 0);
    assert!(claims.is_ok(), "{claims:?}");
    assert_eq!(request.field("Grip-Last"), None);
    assert_eq!(
        request.field("Grip-Feature"),
        Some(grip::fields::GRIP_FEATURES)
    );
}
