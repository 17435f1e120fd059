//! `POST /publish/` and its neighbours on the control port.

use e2e::client::{self, Client, Response};
use e2e::edge::PURGE_KEY;
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Origin};
use e2e::{now, within};
use grip::signature::{SigningKey, grip_sig};
use gripline_hub::config::{RawConfig, RawControlAuth, RawPurge};
use serde_json::{Value, json};

const PUBLISHED: &str = "gripline_published_items_total";

async fn start() -> (Origin, Hub) {
    start_with(|_| {}).await
}

async fn start_with(change: impl FnOnce(&mut RawConfig)) -> (Origin, Hub) {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let mut config = config(&origin.url());
    change(&mut config);
    let hub = Hub::start_with(&config);
    (origin, hub)
}

async fn held_client(hub: &Hub) -> Client {
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    client
}

/// Publishes each body, with an item before the mistake in it, and fails unless the reply is a 400
/// with this text and nothing was published.
async fn check_refused(cases: &[(String, String)]) {
    let (_origin, hub) = start().await;
    let mut client = held_client(&hub).await;
    for (body, text) in cases {
        let response = hub.try_publish(body).await;
        let found = (response.status(), response.text());
        assert_eq!(found, (400, format!("{text}\n")), "for {body}");
        assert_eq!(response.field("Content-Type"), Some("text/plain"));
    }
    assert_eq!(hub.metric(PUBLISHED).await, 0);
    let refused = hub.metric("gripline_publish_errors_total").await;
    assert_eq!(refused, cases.len() as u64);
    hub.publish_stream("updates", "first\n").await;
    client.receives("first\n").await;
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_refused() {
    let cases = [
        ("nonsense", "Body is not valid JSON."),
        ("{\"items\":[]", "Body is not valid JSON."),
        ("\"items\"", "Body is not valid JSON."),
        ("1", "Body is not valid JSON."),
        ("null", "Body is not valid JSON."),
        ("{\"items\":[\"\u{0}\"]}", "Body is not valid JSON."),
        ("[]", "Invalid format."),
        ("{}", "Invalid format: object does not contain 'items'"),
        (
            "{\"items\":{}}",
            "Invalid format: object contains 'items' with wrong type",
        ),
        (
            "{\"items\":null}",
            "Invalid format: object contains 'items' with wrong type",
        ),
    ];
    check_refused(&cases.map(|(body, text)| (body.to_owned(), text.to_owned()))).await;
}

async fn check_items_refused(cases: &[(Value, &str)]) {
    let good = json!({"channel": "updates", "http-stream": {"content": "never sent\n"}});
    let cases: Vec<(String, String)> = cases
        .iter()
        .map(|(item, text)| {
            let body = json!({"items": [good, item]}).to_string();
            (body, format!("Invalid format: {text}"))
        })
        .collect();
    check_refused(&cases).await;
}

#[tokio::test]
async fn one_bad_item_refuses_all_of_them() {
    let with = |member: &str, value: Value| {
        let mut item = json!({"channel": "updates", "http-stream": {"content": "x"}});
        item[member] = value;
        item
    };
    let wrong = |member: &str| format!("publish item object contains '{member}' with wrong type");
    check_items_refused(&[
        (json!("x"), "publish item object is not an object"),
        (
            json!({"http-stream": {"content": "x"}}),
            "publish item object does not contain 'channel'",
        ),
        (with("channel", json!(1)), &wrong("channel")),
        (with("channel", json!(null)), &wrong("channel")),
        (with("id", json!(1)), &wrong("id")),
        (with("prev-id", json!(1)), &wrong("prev-id")),
        (with("formats", json!([])), &wrong("formats")),
        (with("meta", json!("x")), &wrong("meta")),
        (with("size", json!([])), &wrong("size")),
        (
            with("size", json!(-1)),
            "publish item object contains 'size' with invalid value",
        ),
        (with("no-seq", json!("true")), &wrong("no-seq")),
        (with("purge", json!("true")), &wrong("purge")),
        (
            with("meta", json!({"sender": 1})),
            "'meta' contains 'sender' with wrong type",
        ),
        (json!({"channel": "updates"}), "no formats specified"),
        (with("formats", json!({})), "no formats specified"),
    ])
    .await;
}

/// Items with one format under `formats`.
async fn check_formats_refused(format: &str, cases: &[(Value, &str)]) {
    let cases: Vec<(Value, String)> = cases
        .iter()
        .map(|(value, text)| {
            let item = json!({"channel": "updates", "formats": {format: value}});
            (item, text.replace('@', &format!("'{format}'")))
        })
        .collect();
    let cases: Vec<(Value, &str)> = cases
        .iter()
        .map(|(item, text)| (item.clone(), text.as_str()))
        .collect();
    check_items_refused(&cases).await;
}

#[tokio::test]
async fn bad_answers_for_long_polls_are_refused() {
    let with = |member: &str, value: Value| {
        let mut format = json!({"body": "x"});
        format[member] = value;
        format
    };
    check_formats_refused(
        "http-response",
        &[
            (json!("x"), "@ is not an object"),
            (
                json!({}),
                "@ does not contain 'body', 'body-bin', or 'body-patch'",
            ),
            (with("code", json!({})), "@ contains 'code' with wrong type"),
            (
                with("code", json!(1000)),
                "@ contains 'code' with invalid value",
            ),
            (
                with("code", json!(-1)),
                "@ contains 'code' with invalid value",
            ),
            (
                with("reason", json!(1)),
                "@ contains 'reason' with wrong type",
            ),
            (
                with("headers", json!("x")),
                "@ contains 'headers' with wrong type",
            ),
            (
                with("headers", json!(["x"])),
                "headers contains element with wrong type",
            ),
            (
                with("headers", json!([["a"]])),
                "headers contains list with wrong number of elements",
            ),
            (
                with("headers", json!([[1, "a"]])),
                "header contains name element with wrong type",
            ),
            (
                with("headers", json!([["a", 1]])),
                "header contains value element with wrong type",
            ),
            (
                with("headers", json!({"a": 1})),
                "headers contains 'a' with wrong type",
            ),
            (
                with("headers", json!({"a": "b\r\nc: d"})),
                "headers contains 'a', which is not a valid header",
            ),
            (
                with("content-filters", json!("x")),
                "@ contains 'content-filters' with wrong type",
            ),
            (
                with("content-filters", json!([1])),
                "content-filters contains element with wrong type",
            ),
            (with("body", json!(1)), "@ contains 'body' with wrong type"),
            (
                with("action", json!(1)),
                "@ contains 'action' with wrong type",
            ),
            (
                with("action", json!("dance")),
                "@ contains 'action' with unknown value",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn bad_content_for_streams_and_websockets_is_refused() {
    check_formats_refused(
        "http-stream",
        &[
            (json!([]), "@ is not an object"),
            (json!({}), "@ does not contain 'content' or 'content-bin'"),
            (
                json!({"content": 1}),
                "@ contains 'content' with wrong type",
            ),
            (
                json!({"content-bin": 1}),
                "@ contains 'content-bin' with wrong type",
            ),
        ],
    )
    .await;
    check_formats_refused(
        "ws-message",
        &[
            (json!({}), "@ does not contain 'content' or 'content-bin'"),
            (
                json!({"type": "song", "content": "x"}),
                "@ contains 'type' with unknown value",
            ),
            (
                json!({"action": "close", "code": "x"}),
                "@ contains 'code' with wrong type",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn everything_that_libraries_send_is_accepted() {
    let (_origin, hub) = start().await;
    let mut client = held_client(&hub).await;
    let close = json!({"action": "close", "code": 4001, "reason": "bye"});
    let answer =
        json!({"code": "200", "reason": "OK", "headers": {"Content-Type": "a/b"}, "body": ""});
    let pairs = json!({"headers": [["A", "1"], ["A", "2"]], "body-bin": "AAH/"});
    for item in [
        json!({"id": "2", "prev-id": "1", "http-response": answer, "channel": "updates"}),
        json!({"formats": {"http-response": pairs}, "channel": "updates"}),
        json!({"id": null, "prev-id": null, "meta": null, "http-response": {"action": "hint"}, "channel": "updates"}),
        json!({"ws-message": close, "channel": "updates"}),
        json!({"ws-message": {"content-bin": "AAH/"}, "channel": "updates"}),
        json!({"formats": {"carrier-pigeon": {}}, "channel": "updates", "unknown": 1}),
        json!({"formats": {"http-stream": {"content": "1\n"}}, "meta": {"sender": "u"}, "size": "7", "no-seq": true, "channel": "updates"}),
        json!({"http-stream": {"content": "2\n"}, "ws-message": {"content": "2"}, "channel": "updates"}),
        json!({"formats": {"http-stream": {"content": "3\n"}}, "http-stream": {"content": "not this\n"}, "channel": "updates"}),
        json!({"http-stream": {"content": "for nobody\n"}, "channel": "other"}),
    ] {
        hub.publish(json!([item])).await;
    }
    hub.publish(json!([])).await;
    hub.publish(json!([
        {"channel": "updates", "http-stream": {"content": "4\n"}},
        {"channel": "updates", "http-stream": {"content": "5\n"}},
    ]))
    .await;
    client.receives_next("1\n2\n3\n4\n5\n").await;
    assert_eq!(hub.metric(PUBLISHED).await, 12);
}

#[tokio::test]
async fn the_reply_is_in_the_form_that_was_asked_for() {
    let (_origin, hub) = start().await;
    let text = ("text/plain", "Published\n");
    let json = (
        "application/json",
        "{\"message\":\"Published\",\"matched\":0}\n",
    );
    for (accept, (content_type, body)) in [
        ("*/*", text),
        ("text/*;q=0.1", text),
        ("application/json", json),
        ("text/plain, application/*", json),
        ("application/json, text/html, text/plain", text),
    ] {
        let accept = format!("Accept: {accept}");
        let response = client::request(
            hub.control(),
            "POST",
            "/publish/",
            &[&accept],
            "{\"items\":[]}",
        )
        .await;
        response.check(200, body);
        assert_eq!(response.field("Content-Type"), Some(content_type));
    }
    let response = client::request(
        hub.control(),
        "POST",
        "/publish",
        &["Accept: text/html"],
        "{\"items\":[]}",
    )
    .await;
    response.check(
        406,
        "Not Acceptable. Supported formats are text/plain and application/json.\n",
    );
}

const NO_LENGTH: &str = "Request requires Content-Length.\n";

#[tokio::test]
async fn paths_and_methods_are_checked() {
    let (_origin, hub) = start().await;
    let empty = "{\"items\":[]}";
    for (method, target, body, status, text) in [
        ("GET", "/", "", 200, "Pushpin API\n"),
        ("POST", "/", "x", 200, "Pushpin API\n"),
        ("POST", "/publish", empty, 200, "Published\n"),
        ("POST", "/publish/?x=1", empty, 200, "Published\n"),
        ("POST", "/?x=1/publish/", empty, 200, "Published\n"),
        ("POST", "/recover", "x", 200, "Updated\n"),
        ("POST", "/recover/?x=1", "x", 200, "Updated\n"),
        ("GET", "/health", "", 200, "OK\n"),
        ("GET", "/publish/", "", 405, "Method not allowed: GET.\n"),
        ("PUT", "/publish/", empty, 405, "Method not allowed: PUT.\n"),
        ("GET", "/recover", "", 405, "Method not allowed: GET.\n"),
        (
            "DELETE",
            "/recover/",
            "",
            405,
            "Method not allowed: DELETE.\n",
        ),
        ("GET", "/nothing", "", 404, "Not Found\n"),
        ("POST", "/service/x/publish/", empty, 404, "Not Found\n"),
        ("POST", "/publish/more", empty, 404, "Not Found\n"),
        ("POST", "/publish//", empty, 404, "Not Found\n"),
        ("POST", "/publish/", "", 411, NO_LENGTH),
        ("POST", "/recover", "", 411, NO_LENGTH),
        ("PUT", "/publish", "", 411, NO_LENGTH),
        ("POST", "/nothing", "", 411, NO_LENGTH),
        ("POST", "/", "", 411, NO_LENGTH),
    ] {
        let response = client::request(hub.control(), method, target, &[], body).await;
        let found = (response.status(), response.text());
        assert_eq!(found, (status, text.to_owned()), "{method} {target}");
        if status == 405 {
            assert_eq!(response.field("Allow"), Some("POST"));
        }
    }
    assert_eq!(hub.metric("gripline_control_refused_total").await, 13);
}

#[tokio::test]
async fn a_publisher_may_send_chunks_and_keep_its_connection() {
    let (_origin, hub) = start().await;
    let mut client = held_client(&hub).await;
    let mut publisher = Client::connect(hub.control()).await;
    for content in ["1\n", "2\n"] {
        let item = json!({"channel": "updates", "http-stream": {"content": content}});
        let body = json!({"items": [item]}).to_string();
        let (first, second) = body.split_at(10);
        let chunks = format!(
            "{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        );
        publisher
            .send(format!(
                "POST /publish/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            ))
            .await;
        publisher.response().await.check(200, "Published\n");
        client.receives(content).await;
    }
}

#[tokio::test]
async fn an_old_publisher_may_speak_http_1_0() {
    let (_origin, hub) = start().await;
    let mut client = held_client(&hub).await;
    let item = json!({"channel": "updates", "http-stream": {"content": "1\n"}});
    let body = json!({"items": [item]}).to_string();
    let mut publisher = Client::connect(hub.control()).await;
    let length = body.len();
    publisher
        .send(format!(
            "POST /publish/ HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    publisher.response().await.check(200, "Published\n");
    publisher.is_closed_by_server().await;
    client.receives("1\n").await;
}

#[tokio::test]
async fn a_refused_publisher_gets_to_read_why() {
    let (_origin, hub) = start().await;
    let body = " ".repeat(1_000_001);
    for target in ["/publish/", "/recover", "/nothing", "/"] {
        let response = hub.post(target, &[], &body).await;
        response.check(400, "Request body too large.\n");
    }
    let chunked = format!(
        "POST /publish/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let mut publisher = Client::connect(hub.control()).await;
    publisher.send(chunked).await;
    let response = publisher.response().await;
    response.check(400, "Request body too large.\n");
    publisher
        .request("PUT", "/publish/", &[], &" ".repeat(1_000_000))
        .await;
    let response = publisher.response().await;
    response.check(405, "Method not allowed: PUT.\n");
    publisher
        .request("POST", "/publish/", &[], "{\"items\":[]}")
        .await;
    publisher.response().await.check(200, "Published\n");
}

#[tokio::test]
async fn recovery_replies_in_the_form_that_was_asked_for() {
    let (_origin, hub) = start().await;
    let json = ["Accept: application/json"];
    let response = hub.post("/recover/", &json, "ignored").await;
    response.check(200, "{\"message\":\"Updated\"}\n");
    assert_eq!(response.field("Content-Type"), Some("application/json"));
    let response = hub.post("/recover", &["Content-Length: 0"], "").await;
    response.check(200, "Updated\n");
    assert_eq!(response.field("Content-Type"), Some("text/plain"));
    let response = hub.post("/recover", &["Accept: text/html"], "x").await;
    assert_eq!(response.status(), 406);
}

/// What the JSON reply says of one item for each of these channels.
/// What the control port says to these bytes, after which it closes.
async fn check_unreadable(request: &str, expected: &str) {
    let (_origin, hub) = start().await;
    let mut client = Client::connect(hub.control()).await;
    client.send(request).await;
    client.response().await.check(400, expected);
    client.is_closed_by_server().await;
    let refused = hub.metric("gripline_control_refused_total").await;
    assert_eq!(refused, 1, "{request:?}");
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_refused() {
    let unreadable = "Failed to parse request header.\n";
    check_unreadable("nonsense\r\n\r\n", unreadable).await;
    check_unreadable("POST /publish/ HTTP/1.1\r\nno field\r\n\r\n", unreadable).await;
    check_unreadable(
        "POST /publish/ HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        "Bad Content-Length.\n",
    )
    .await;
    let long = format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(30_000));
    check_unreadable(&long, "Request header too large.\n").await;
}

async fn published(hub: &Hub, channels: &[&str]) -> String {
    let items = channels
        .iter()
        .map(|channel| json!({"channel": channel, "http-stream": {"content": "x\n"}}));
    let body = json!({"items": items.collect::<Vec<_>>()}).to_string();
    let json = ["Accept: application/json"];
    hub.post("/publish/", &json, &body).await.text()
}

fn matched(count: usize) -> String {
    format!("{{\"message\":\"Published\",\"matched\":{count}}}\n")
}

#[tokio::test]
async fn a_json_reply_tells_how_many_connections_the_items_matched() {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates, others"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let fields = ["Grip-Hold: response", "Grip-Channel: others"];
    origin.serve("/poll", Answer::ok(&fields, ""));
    origin.serve("/.gripline/purge", Answer::ok(&[], "{}"));
    let direct = config(&origin.url());
    let mut purging = config(&origin.url());
    purging.purge = Some(RawPurge {
        edge: Some(origin.url()),
        key: Some(PURGE_KEY.to_owned()),
        ..RawPurge::default()
    });
    for config in [direct, purging] {
        let hub = Hub::start_with(&config);
        assert_eq!(published(&hub, &["updates"]).await, matched(0));
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(held_client(&hub).await);
        }
        let _poll = Client::get(hub.addr(), "/poll", &[]).await;
        hub.until_metric("gripline_held_responses", 1).await;
        assert_eq!(published(&hub, &["updates"]).await, matched(2));
        assert_eq!(
            published(&hub, &["updates", "nobody", "others", "updates"]).await,
            matched(7)
        );
        assert_eq!(published(&hub, &[]).await, matched(0));
        streams.pop();
        let left = async { while published(&hub, &["updates", "others"]).await != matched(3) {} };
        within("the stream's end at the broker", left).await;
    }
}

#[tokio::test]
async fn publishers_may_write_a_base_path() {
    let (_origin, hub) = start_with(|config| {
        config.control_base = Some("/service/x/".to_owned());
    })
    .await;
    for (target, status, text) in [
        ("/service/x/publish/", 200, "Published\n"),
        ("/service/x/publish", 200, "Published\n"),
        ("/service/x/publish/?y=1", 200, "Published\n"),
        ("/service/x?y=1/publish/", 200, "Published\n"),
        ("/publish/", 200, "Published\n"),
        ("/service/x/recover", 200, "Updated\n"),
        ("/service/x", 200, "Pushpin API\n"),
        ("/service/y/publish/", 404, "Not Found\n"),
        ("/service/y?x=1/publish/", 404, "Not Found\n"),
    ] {
        let response = hub.post(target, &[], "{\"items\":[]}").await;
        let found = (response.status(), response.text());
        assert_eq!(found, (status, text.to_owned()), "{target}");
    }
    let mut client = held_client(&hub).await;
    let item = json!({"channel": "updates", "http-stream": {"content": "odd\n"}});
    let body = json!({"items": [item]}).to_string();
    let response = hub.post("/service/x?y=1/publish/", &[], &body).await;
    response.check(200, "Published\n");
    client.receives("odd\n").await;
}

const CONTROL_KEY: &str = "control";

/// A hub that wants a key, tokens of an issuer, or a user with a password.
async fn start_with_auth() -> (Origin, Hub) {
    start_with(|config| {
        config.control_auth = Some(RawControlAuth {
            key: Some(CONTROL_KEY.to_owned()),
            iss: Some("publisher".to_owned()),
            user: Some("user".to_owned()),
            password: Some("pass".to_owned()),
        });
    })
    .await
}

fn token(key: &str, issuer: &str) -> String {
    let key = SigningKey::hs256(key.as_bytes()).expect("the key is not empty");
    format!("Authorization: Bearer {}", grip_sig(&key, issuer, now()))
}

#[track_caller]
fn check_unauthorized(response: &Response, text: &str) {
    response.check(401, text);
    assert_eq!(response.field("Content-Type"), Some("text/plain"));
    let challenges = response.head.values("WWW-Authenticate");
    let expected = ["Bearer realm=\"gripline\"", "Basic realm=\"gripline\""];
    assert_eq!(challenges, expected);
}

#[tokio::test]
async fn publishers_may_prove_who_they_are_in_many_forms() {
    let (_origin, hub) = start_with_auth().await;
    let mut client = held_client(&hub).await;
    for (number, field) in [
        "Authorization: Bearer control",
        &token(CONTROL_KEY, "publisher"),
        "Fastly-Key: control",
        "Authorization: Basic dXNlcjpwYXNz",
        "Authorization: Basic b'dXNlcjpwYXNz'",
    ]
    .into_iter()
    .enumerate()
    {
        let content = format!("{number}\n");
        let item = json!({"channel": "updates", "http-stream": {"content": content}});
        let body = json!({"items": [item]}).to_string();
        let response = hub.post("/publish/", &[field], &body).await;
        assert_eq!(response.text(), "Published\n", "{field}");
        client.receives(&content).await;
        let response = hub.post("/recover", &[field], &body).await;
        assert_eq!(response.text(), "Updated\n", "{field}");
    }
    assert_eq!(hub.metric(UNAUTHORIZED).await, 0);
}

const UNAUTHORIZED: &str = "gripline_publish_unauthorized_total";

#[tokio::test]
async fn publishers_that_prove_nothing_are_turned_away() {
    let (_origin, hub) = start_with_auth().await;
    let mut client = held_client(&hub).await;
    let item = json!({"channel": "updates", "http-stream": {"content": "never sent\n"}});
    let body = json!({"items": [item]}).to_string();
    let wrong = "Authentication failed: wrong credentials.\n";
    let cases = [
        ("Accept: */*", "Authentication required.\n"),
        ("Authorization: Bearer Control", wrong),
        ("Authorization: Bearer", wrong),
        ("Fastly-Key: user", wrong),
        ("Authorization: Basic b'dXNlcjpwYXN'", wrong),
        (
            "Authorization: Digest control",
            "Authentication failed: this kind of Authorization is not accepted here.\n",
        ),
        (
            &token("other", "publisher"),
            "Authentication failed: the signature does not verify.\n",
        ),
        (
            &token(CONTROL_KEY, "somebody"),
            "Authentication failed: the token is not from this issuer.\n",
        ),
    ];
    for (field, text) in cases {
        for target in ["/publish/", "/recover", "/?x=1/publish/"] {
            check_unauthorized(&hub.post(target, &[field], &body).await, text);
        }
    }
    let turned_away = 3 * cases.len() as u64;
    assert_eq!(hub.metric(UNAUTHORIZED).await, turned_away);
    assert_eq!(hub.metric("gripline_control_refused_total").await, 0);
    assert_eq!(hub.metric(PUBLISHED).await, 0);
    client.is_quiet();
}

#[tokio::test]
async fn a_big_body_does_not_hide_that_its_publisher_is_turned_away() {
    let (_origin, hub) = start_with_auth().await;
    let body = " ".repeat(1_000_000);
    let response = hub.post("/publish/", &[], &body).await;
    check_unauthorized(&response, "Authentication required.\n");
}

#[tokio::test]
async fn scrapes_and_health_checks_need_no_authentication() {
    let (_origin, hub) = start_with_auth().await;
    for target in ["/", "/health", "/metrics"] {
        let response = client::get(hub.control(), target, &[]).await;
        assert_eq!(response.status(), 200, "{target}");
    }
}
