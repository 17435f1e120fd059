//! `POST /publish/` and its neighbours on the control port.

use e2e::client::{self, Client};
use e2e::hub::Hub;
use e2e::origin::{Answer, Origin};
use serde_json::{Value, json};

const PUBLISHED: &str = "gripline_published_items_total";

async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
    origin.serve("/stream", Answer::ok(&fields, "hi\n"));
    let hub = Hub::start(&origin.url());
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

#[tokio::test]
async fn paths_and_methods_are_checked() {
    let (_origin, hub) = start().await;
    let empty = "{\"items\":[]}";
    for (method, target, body, status, text) in [
        ("GET", "/", "", 200, "Pushpin API\n"),
        ("POST", "/", "x", 200, "Pushpin API\n"),
        ("POST", "/publish", empty, 200, "Published\n"),
        ("POST", "/publish/?x=1", empty, 200, "Published\n"),
        ("GET", "/health", "", 200, "OK\n"),
        ("GET", "/publish/", "", 405, "Method not allowed: GET.\n"),
        ("PUT", "/publish/", empty, 405, "Method not allowed: PUT.\n"),
        ("GET", "/nothing", "", 404, "Not Found\n"),
        ("POST", "/publish/more", empty, 404, "Not Found\n"),
        ("POST", "/publish//", empty, 404, "Not Found\n"),
        (
            "POST",
            "/publish/",
            "",
            411,
            "Request requires Content-Length.\n",
        ),
    ] {
        let response = client::request(hub.control(), method, target, &[], body).await;
        let found = (response.status(), response.text());
        assert_eq!(found, (status, text.to_owned()), "{method} {target}");
        if status == 405 {
            assert_eq!(response.field("Allow"), Some("POST"));
        }
    }
    assert_eq!(hub.metric("gripline_control_refused_total").await, 6);
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
