//! Answers that pages of other origins may read: CORS, and JSONP for those that can load scripts only.

use e2e::client::{self, Client, Response};
use e2e::http2::Http2;
use e2e::hub::Hub;
use e2e::message::Head;
use e2e::origin::{Answer, Origin};
use e2e::routes::{Refuser, RoutesFile};
use serde_json::{Value, json};

const RESPONSES: &str = "gripline_held_responses";
const PAGE: &str = "Origin: https://page.com";

/// A hub whose routes are open, each in another way.
async fn start() -> (Origin, Hub) {
    let origin = Origin::start().await;
    let fields = ["Content-Type: application/json", "X-Own: 1"];
    origin.serve("/", Answer::ok(&fields, "{\"a\":1}\n"));
    let poll = [
        &fields[..],
        &["Grip-Hold: response", "Grip-Channel: c", "Grip-Timeout: 1"],
    ]
    .concat();
    origin.serve("/short", Answer::ok(&poll, "{\"none\":1}\n"));
    origin.serve("/poll", Answer::ok(&poll[..4], "{\"none\":1}\n"));
    let stream = ["Grip-Hold: stream", "Grip-Channel: c", "X-Own: 1"];
    origin.serve("/stream", Answer::ok(&stream, "hi\n"));
    let addr = origin.addr();
    let closed = Refuser::new();
    let file = RoutesFile::new(&[
        format!("example.com,aco {addr}"),
        format!("basic.com,aco,jsonp_mode=basic {addr}"),
        format!(
            "named.com,aco,jsonp_cb=cb,jsonp_body=data,jsonp_defcb=own,jsonp_defmethod=PUT {addr}"
        ),
        format!("closed.com,aco {}", closed.addr()),
        format!("plain.com {addr}"),
    ]);
    let hub = Hub::start_with(&file.config());
    (origin, hub)
}

#[track_caller]
fn check_cors(head: &Head, exposed: Option<&str>) {
    for (name, value) in [
        ("Allow-Origin", Some("https://page.com")),
        ("Allow-Credentials", Some("true")),
        (
            "Allow-Methods",
            Some("OPTIONS, HEAD, GET, POST, PUT, DELETE"),
        ),
        ("Allow-Headers", None),
        ("Expose-Headers", exposed),
        ("Max-Age", Some("3600")),
    ] {
        let name = format!("Access-Control-{name}");
        assert_eq!(head.field(&name), value, "{name} in\n{head}");
    }
}

#[tokio::test]
async fn an_answer_of_the_origin_is_open() {
    let (_origin, hub) = start().await;
    let response = client::get(hub.addr(), "/", &[PAGE]).await;
    response.check(200, "{\"a\":1}\n");
    check_cors(&response.head, Some("x-own"));

    let response = client::get(hub.addr(), "/", &[]).await;
    let allowed = response.field("Access-Control-Allow-Origin");
    assert_eq!(allowed, Some("*"));

    let response = client::get(hub.addr(), "/", &[PAGE, "Host: plain.com"]).await;
    assert_eq!(response.head.names_beginning("access-control-"), [""; 0]);
}

#[tokio::test]
async fn what_a_page_asks_for_is_allowed() {
    let (origin, hub) = start().await;
    let fields = [
        PAGE,
        "Access-Control-Request-Method: PATCH",
        "Access-Control-Request-Headers: X-A, X-B",
    ];
    let response = client::request(hub.addr(), "OPTIONS", "/", &fields, "").await;
    response.check(200, "{\"a\":1}\n");
    let allowed = |name: &str| response.field(&format!("Access-Control-Allow-{name}"));
    assert_eq!(allowed("Methods"), Some("PATCH"));
    assert_eq!(allowed("Headers"), Some("X-A, X-B"));
    // The origin is asked all the same.
    assert_eq!(origin.only_request("/").method(), "OPTIONS");
}

#[tokio::test]
async fn what_the_origin_says_counts() {
    let (origin, hub) = start().await;
    let fields = [
        "Access-Control-Allow-Origin: https://other.com",
        "Access-Control-Max-Age: 1",
        "X-Own: 1",
    ];
    let stream = [&fields[..], &["Grip-Hold: stream"]].concat();
    origin.serve("/", Answer::ok(&fields, "hi\n"));
    origin.serve("/stream", Answer::ok(&stream, "hi\n"));
    for target in ["/", "/stream"] {
        let mut client = Client::get(hub.addr(), target, &[PAGE]).await;
        let head = client.stream_begins("hi\n").await;
        let said = |name: &str| head.values(&format!("Access-Control-{name}"));
        assert_eq!(said("Allow-Origin"), ["https://other.com"]);
        assert_eq!(said("Max-Age"), ["1"]);
        assert_eq!(said("Allow-Credentials"), ["true"]);
    }
}

#[tokio::test]
async fn held_answers_are_open() {
    let (_origin, hub) = start().await;
    let mut stream = Client::get(hub.addr(), "/stream", &[PAGE]).await;
    check_cors(&stream.stream_begins("hi\n").await, Some("x-own"));
    let mut http2 = Http2::connect(hub.addr()).await;
    let mut stream = http2.get("/stream", &[PAGE]).await;
    check_cors(&stream.stream_begins("hi\n").await, Some("x-own"));

    let mut short = Client::get(hub.addr(), "/short", &[PAGE]).await;
    let response = short.response().await;
    response.check(200, "{\"none\":1}\n");
    check_cors(&response.head, Some("x-own"));

    let mut poll = Client::get(hub.addr(), "/poll", &[PAGE]).await;
    let mut exchange = http2.get("/poll", &[PAGE]).await;
    hub.until_metric(RESPONSES, 2).await;
    // Fields that come with the message are exposed as well.
    let answer = json!({"headers": {"X-News": "1"}, "body": "news\n"});
    hub.publish(json!([{"channel": "c", "http-response": answer}]))
        .await;
    for response in [poll.response().await, exchange.response().await] {
        response.check(200, "news\n");
        check_cors(&response.head, Some("x-own, x-news"));
    }
}

#[tokio::test]
async fn errors_are_open() {
    let (origin, hub) = start().await;
    origin.serve("/bad", Answer::ok(&["Grip-Hold: x"], ""));
    for (fields, target) in [(&[PAGE, "Host: closed.com"][..], "/"), (&[PAGE], "/bad")] {
        let response = client::get(hub.addr(), target, fields).await;
        response.check(502, "Error while proxying to origin.\n");
        check_cors(&response.head, None);
    }
}

#[tokio::test]
async fn the_configuration_opens_all_routes() {
    let (origin, _) = start().await;
    let mut config = e2e::hub::config(&origin.url());
    config.auto_cross_origin = Some(true);
    let hub = Hub::start_with(&config);
    let response = client::get(hub.addr(), "/", &[PAGE]).await;
    check_cors(&response.head, Some("x-own"));
    let response = client::get(hub.addr(), "/?callback=f", &[]).await;
    assert_eq!(described(&response, "f")["code"], 200);
}

/// The text of a script that calls `callback`, up to the end of the argument.
#[track_caller]
fn argument(response: &Response, callback: &str) -> String {
    assert_eq!(response.head.start(), "HTTP/1.1 200 OK");
    let content_type = response.field("Content-Type");
    assert_eq!(content_type, Some("application/javascript"));
    assert_eq!(response.head.names_beginning("access-control-"), [""; 0]);
    assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
    let text = response.text();
    let length = text.len().to_string();
    assert_eq!(response.field("Content-Length"), Some(length.as_str()));
    let inner = text.strip_prefix(&format!("/**/{callback}("));
    let inner = inner.and_then(|text| text.strip_suffix(");\n"));
    inner.unwrap_or_else(|| panic!("{text:?}")).to_owned()
}

/// The argument in extended mode.
#[track_caller]
fn described(response: &Response, callback: &str) -> Value {
    let argument = argument(response, callback);
    serde_json::from_str(&argument).unwrap_or_else(|error| panic!("{error}: {argument}"))
}

#[tokio::test]
async fn a_script_gets_the_whole_answer() {
    let (origin, hub) = start().await;
    let response = client::get(hub.addr(), "/?x=1&callback=f&y", &[]).await;
    let expected = r#"{"body":"{\"a\":1}\n","code":200,"headers":{"content-type":"application/json","x-own":"1"},"reason":"OK"}"#;
    assert_eq!(argument(&response, "f"), expected);
    let request = origin.only_request("/");
    assert_eq!(request.head.start(), "GET /?x=1&y HTTP/1.1");
    assert_eq!(request.field("Accept"), Some("*/*"));

    let fields = ["Cache-Control: max-age=1", "X-Other: 1"];
    origin.serve("/none", Answer::status("404 Gone Away", &fields, "no\n"));
    let response = client::get(hub.addr(), "/none?callback=f", &[]).await;
    assert_eq!(response.field("Cache-Control"), Some("max-age=1"));
    assert_eq!(response.field("X-Other"), None);
    let expected = json!({
        "code": 404,
        "reason": "Gone Away",
        "headers": {"cache-control": "max-age=1", "x-other": "1"},
        "body": "no\n",
    });
    assert_eq!(described(&response, "f"), expected);
}

#[tokio::test]
async fn a_scripts_address_says_what_to_ask() {
    let (origin, hub) = start().await;
    let query = "callback=f&_method=PUT&_headers=%7B%22X-A%22%3A%221%22%2C%22Host%22%3A%22x%22%7D&_body=some%20body";
    client::get(hub.addr(), &format!("/?{query}"), &["X-B: 2"]).await;
    let request = origin.only_request("/");
    assert_eq!(request.head.start(), "PUT / HTTP/1.1");
    assert_eq!(request.body, b"some body");
    for (name, value) in [
        ("X-A", Some("1")),
        ("X-B", Some("2")),
        ("Host", Some("example.com")),
        ("Content-Length", Some("9")),
    ] {
        assert_eq!(request.field(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_basic_script_gets_the_body() {
    let (origin, hub) = start().await;
    let fields = ["Host: basic.com"];
    let response = client::get(hub.addr(), "/?callback=f", &fields).await;
    assert_eq!(argument(&response, "f"), "{\"a\":1}");
    assert_eq!(origin.only_request("/").method(), "POST");
}

#[tokio::test]
async fn a_route_names_the_parameters() {
    let (origin, hub) = start().await;
    let fields = ["Host: named.com"];
    let target = "/?data=%7B%7D&callback=f";
    let response = client::get(hub.addr(), target, &fields).await;
    assert_eq!(described(&response, "own")["code"], 200);
    let response = client::get(hub.addr(), "/?cb=f", &fields).await;
    assert_eq!(described(&response, "f")["code"], 200);
    let requests = origin.requests("/");
    assert_eq!(requests[0].head.start(), "PUT /?callback=f HTTP/1.1");
    assert_eq!(requests[0].body, b"{}");
    let content_type = requests[0].field("Content-Type");
    assert_eq!(content_type, Some("application/json"));
    assert_eq!(requests[1].head.start(), "PUT / HTTP/1.1");
    // Without callback and body it is no script.
    let response = client::get(hub.addr(), "/", &fields).await;
    response.check(200, "{\"a\":1}\n");
}

#[tokio::test]
async fn a_script_may_wait() {
    let (origin, hub) = start().await;
    let mut extended = Client::get(hub.addr(), "/poll?callback=f", &[]).await;
    let mut basic = Client::get(hub.addr(), "/poll?callback=g", &["Host: basic.com"]).await;
    hub.until_metric(RESPONSES, 2).await;
    let answer = json!({"code": 201, "headers": {"X-News": "1"}, "body": "[1]\n"});
    hub.publish(json!([{"channel": "c", "http-response": answer}]))
        .await;
    let expected = json!({
        "code": 201,
        "reason": "Created",
        "headers": {"content-type": "application/json", "x-own": "1", "x-news": "1"},
        "body": "[1]\n",
    });
    assert_eq!(described(&extended.response().await, "f"), expected);
    assert_eq!(argument(&basic.response().await, "g"), "[1]");
    assert_eq!(origin.count("/poll"), 2);
    // The connections serve on.
    extended.request("GET", "/", &[], "").await;
    extended.response().await.check(200, "{\"a\":1}\n");
}

#[tokio::test]
async fn a_script_that_waits_in_vain_gets_the_instructed_answer() {
    let (_origin, hub) = start().await;
    let mut extended = Client::get(hub.addr(), "/short?callback=f", &[]).await;
    let mut basic = Client::get(hub.addr(), "/short?callback=g", &["Host: basic.com"]).await;
    let answer = described(&extended.response().await, "f");
    assert_eq!(
        (&answer["code"], &answer["body"]),
        (&json!(200), &json!("{\"none\":1}\n"))
    );
    assert_eq!(argument(&basic.response().await, "g"), "{\"none\":1}");
}

#[tokio::test]
async fn a_hint_has_the_scripts_request_asked_again() {
    let (origin, hub) = start().await;
    let target = "/poll?callback=f&_method=PUT&_body=question";
    let mut client = Client::get(hub.addr(), target, &[]).await;
    hub.until_metric(RESPONSES, 1).await;
    let hint = json!({"channel": "c", "http-response": {"action": "hint"}});
    hub.publish(json!([hint])).await;
    origin.until_count("/poll", 2).await;
    hub.until_metric(RESPONSES, 1).await;
    for request in origin.requests("/poll") {
        assert_eq!(request.head.start(), "PUT /poll HTTP/1.1");
        assert_eq!(request.body, b"question");
    }
    hub.publish(json!([{"channel": "c", "http-response": {"body": "news\n"}}]))
        .await;
    let answer = described(&client.response().await, "f");
    assert_eq!(answer["body"], "news\n");
}

#[tokio::test]
async fn a_script_gets_a_stream_only_as_far_as_it_is_there() {
    let (_origin, hub) = start().await;
    let response = client::get(hub.addr(), "/stream?callback=f", &[]).await;
    assert_eq!(described(&response, "f")["body"], "hi\n");
}

#[tokio::test]
async fn a_script_gets_errors() {
    let (_origin, hub) = start().await;
    let response = client::get(hub.addr(), "/?callback=f", &["Host: closed.com"]).await;
    let answer = described(&response, "f");
    assert_eq!(answer["code"], 502);
    assert_eq!(answer["reason"], "Bad Gateway");
    assert_eq!(answer["headers"]["content-type"], "text/plain");
    assert_eq!(answer["body"], "Error while proxying to origin.\n");
}

#[tokio::test]
async fn what_is_no_proper_script_is_refused() {
    let (origin, hub) = start().await;
    for (query, name) in [
        ("callback=", "callback"),
        ("callback=a(b)", "callback"),
        ("callback=f&_method=a%20b", "_method"),
        ("callback=f&_headers=x", "_headers"),
        ("callback=f&_headers=%7B%22a%22%3A1%7D", "_headers"),
        ("callback=f&_body=%4", "_body"),
    ] {
        let response = client::get(hub.addr(), &format!("/?{query}"), &[]).await;
        response.check(400, &format!("Invalid {name} parameter.\n"));
        let content_type = response.field("Content-Type");
        assert_eq!(content_type, Some("text/plain"));
    }
    let fields = ["Host: named.com"];
    let response = client::get(hub.addr(), "/?cb=f&data=%4", &fields).await;
    response.check(400, "Invalid body parameter.\n");
    assert_eq!(origin.count("/"), 0);
}
