//! Bad input of clients, origins and publishers: a clear answer, a counter, and nothing is lost of
//! what was held before.

use e2e::client::{self, Client};
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Origin};

const ORIGIN_ERROR: &str = "Error while proxying to origin.\n";

/// A hub that says what is wrong, one that does not, and a stream held before anything bad comes.
struct Setting {
    origin: Origin,
    hub: Hub,
    debug_hub: Hub,
    held: Client,
}

impl Setting {
    async fn new() -> Self {
        let origin = Origin::start().await;
        let fields = ["Grip-Hold: stream", "Grip-Channel: updates"];
        origin.serve("/stream", Answer::ok(&fields, "hi\n"));
        origin.serve("/plain", Answer::ok(&[], "plain\n"));
        let hub = Hub::start(&origin.url());
        let mut debug_config = config(&origin.url());
        debug_config.debug = Some(true);
        let debug_hub = Hub::start_with(&debug_config);
        let mut held = Client::get(hub.addr(), "/stream", &[]).await;
        held.stream_begins("hi\n").await;
        Self {
            origin,
            hub,
            debug_hub,
            held,
        }
    }

    /// Fails unless the counter has this value and the held stream still works.
    async fn check_unharmed(mut self, counter: &str, count: u64) {
        assert_eq!(self.hub.metric(counter).await, count, "{counter}");
        self.hub.publish_stream("updates", "still here\n").await;
        self.held.receives("still here\n").await;
        client::get(self.hub.addr(), "/plain", &[])
            .await
            .check(200, "plain\n");
    }
}

#[tokio::test]
async fn instructions_that_make_no_sense_are_a_502() {
    let setting = Setting::new().await;
    let sixth = "Grip-Channel: a; filter=1; filter=2; filter=3; filter=4; filter=5; filter=6";
    let cases: [(&[&str], &str); 18] = [
        (
            &["Grip-Hold: forever"],
            "Grip-Hold must be set to either 'response' or 'stream'",
        ),
        (
            &["Grip-Hold: Stream"],
            "Grip-Hold must be set to either 'response' or 'stream'",
        ),
        (
            &["Grip-Hold:"],
            "Grip-Hold must be set to either 'response' or 'stream'",
        ),
        (&[sixth], "too many filters for channel 'a'"),
        (&["Grip-Timeout: soon"], "failed to parse Grip-Timeout"),
        (&["Grip-Timeout: 1.5"], "failed to parse Grip-Timeout"),
        (
            &["Grip-Timeout: 4294967296"],
            "failed to parse Grip-Timeout",
        ),
        (&["Grip-Timeout: -1"], "Grip-Timeout has invalid value"),
        (
            &["Grip-Keep-Alive: ;timeout=5"],
            "Grip-Keep-Alive cannot be empty",
        ),
        (
            &["Grip-Keep-Alive: x; timeout=soon"],
            "failed to parse Grip-Keep-Alive timeout value",
        ),
        (
            &["Grip-Keep-Alive: x; timeout=-1"],
            "Grip-Keep-Alive timeout has invalid value",
        ),
        (
            &["Grip-Keep-Alive: x; mode=loud"],
            "no such Grip-Keep-Alive mode 'loud'",
        ),
        (
            &["Grip-Keep-Alive: x; format=rot13"],
            "no such Grip-Keep-Alive format 'rot13'",
        ),
        (
            &[r"Grip-Keep-Alive: a\x4g; format=cstring"],
            "failed to parse Grip-Keep-Alive cstring format",
        ),
        (
            &["Grip-Link: /next; rel=next"],
            "failed to parse Grip-Link value",
        ),
        (
            &["Grip-Link: </next>; rel=next; timeout=soon"],
            "failed to parse Grip-Link timeout value",
        ),
        (
            &["Grip-Status: abc"],
            "Grip-Status contains invalid status code",
        ),
        (
            &["Grip-Status: 1000"],
            "Grip-Status contains invalid status code",
        ),
    ];
    for (fields, text) in cases {
        let hold = ["Grip-Hold: stream", "Grip-Channel: updates"];
        let hold: &[&str] = if fields[0].starts_with("Grip-Hold") {
            &hold[1..]
        } else {
            &hold
        };
        setting
            .origin
            .serve("/bad", Answer::ok(&[hold, fields].concat(), "hi\n"));
        let response = client::get(setting.hub.addr(), "/bad", &[]).await;
        let found = (response.status(), response.text());
        assert_eq!(found, (502, ORIGIN_ERROR.to_owned()), "{fields:?}");
        assert_eq!(response.field("Content-Type"), Some("text/plain"));
        let response = client::get(setting.debug_hub.addr(), "/bad", &[]).await;
        let found = (response.status(), response.text());
        let text = format!("Failed to parse accept instructions: {text}\n");
        assert_eq!(found, (502, text), "{fields:?}");
    }
    setting
        .check_unharmed("gripline_instruct_errors_total", 18)
        .await;
}

#[tokio::test]
async fn instructions_that_are_only_odd_are_followed() {
    let setting = Setting::new().await;
    for field in [
        "Grip-Channel: a; prev-id=\"x",
        "Grip-Channel: ,,",
        "Grip-Link: </next>",
        "Grip-Unheard-Of: 1",
        "Grip-Timeout: +7",
        "Grip-Set-Meta: user",
        "Grip-Keep-Alive:",
    ] {
        let fields = ["Grip-Hold: stream", "Grip-Channel: updates", field];
        setting.origin.serve("/odd", Answer::ok(&fields, "hi\n"));
        let mut client = Client::get(setting.hub.addr(), "/odd", &[]).await;
        client.stream_begins("hi\n").await;
        setting.hub.publish_stream("updates", "x\n").await;
        client.receives("x\n").await;
    }
    assert_eq!(
        setting.hub.metric("gripline_instruct_errors_total").await,
        0
    );
}

#[tokio::test]
async fn a_body_with_instructions_has_a_limit() {
    let setting = Setting::new().await;
    let fields = ["Grip-Hold: response", "Grip-Channel: updates"];
    setting
        .origin
        .serve("/fits", Answer::ok(&fields, &"x".repeat(100_000)));
    let client = Client::get(setting.hub.addr(), "/fits", &[]).await;
    setting.hub.until_metric("gripline_held_responses", 1).await;
    drop(client);

    setting
        .origin
        .serve("/bad", Answer::ok(&fields, &"x".repeat(100_001)));
    client::get(setting.hub.addr(), "/bad", &[])
        .await
        .check(502, ORIGIN_ERROR);
    let text = format!(
        "GRIP instruct response too large from {}\n",
        setting.origin.addr()
    );
    client::get(setting.debug_hub.addr(), "/bad", &[])
        .await
        .check(502, &text);
    setting
        .check_unharmed("gripline_instruct_errors_total", 1)
        .await;
}

#[tokio::test]
async fn a_big_request_cannot_be_held() {
    let setting = Setting::new().await;
    let body = "x".repeat(100_001);
    client::request(setting.hub.addr(), "POST", "/stream", &[], &body)
        .await
        .check(400, "Request too large to accept GRIP instruct.\n");
    setting
        .check_unharmed("gripline_instruct_errors_total", 1)
        .await;
}

#[tokio::test]
async fn an_encoded_body_cannot_be_held() {
    let setting = Setting::new().await;
    let fields = [
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        "Content-Encoding: gzip",
    ];
    setting.origin.serve("/bad", Answer::ok(&fields, "hi\n"));
    client::get(setting.hub.addr(), "/bad", &[])
        .await
        .check(502, ORIGIN_ERROR);
    setting
        .check_unharmed("gripline_instruct_errors_total", 1)
        .await;
}

#[tokio::test]
async fn request_heads_have_limits() {
    let setting = Setting::new().await;
    let text = "Request header size exceeded limit of 8192 bytes.\n";
    let long_field = format!("X-Long: {}", "x".repeat(8192));
    client::get(setting.hub.addr(), "/plain", &[&long_field])
        .await
        .check(400, text);
    let long_target = format!("/{}", "x".repeat(8192));
    client::get(setting.hub.addr(), &long_target, &[])
        .await
        .check(400, text);
    let many_fields: Vec<String> = (0..65).map(|number| format!("X-{number}: 1")).collect();
    let many_fields: Vec<&str> = many_fields.iter().map(String::as_str).collect();
    let response = client::get(setting.hub.addr(), "/plain", &many_fields).await;
    assert_eq!(response.status(), 400);
    assert_eq!(setting.origin.count("/plain"), 0);
    setting
        .check_unharmed("gripline_oversized_heads_total", 3)
        .await;
}

#[tokio::test]
async fn what_is_no_http_is_a_400() {
    let setting = Setting::new().await;
    for bytes in [
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: some\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
    ] {
        let mut client = Client::connect(setting.hub.addr()).await;
        client.send(bytes).await;
        let response = client.response().await;
        assert_eq!(response.status(), 400, "{bytes:?}");
        let text = response.text();
        assert!(text.starts_with("Failed to parse request"), "{text:?}");
        client.is_closed_by_server().await;
    }
    setting
        .check_unharmed("gripline_malformed_heads_total", 6)
        .await;
}

#[tokio::test]
async fn a_tunnel_is_refused() {
    let setting = Setting::new().await;
    let response = client::request(setting.hub.addr(), "CONNECT", "example.com:443", &[], "").await;
    assert_eq!(response.status(), 501);
    setting
        .check_unharmed("gripline_malformed_heads_total", 1)
        .await;
}

#[tokio::test]
async fn publish_requests_have_limits() {
    let setting = Setting::new().await;
    let body = " ".repeat(1_000_001);
    setting
        .hub
        .try_publish(&body)
        .await
        .check(400, "Request body too large.\n");
    let long_field = format!("X-Long: {}", "x".repeat(10_001));
    client::request(
        setting.hub.control(),
        "POST",
        "/publish/",
        &[&long_field],
        "{\"items\":[]}",
    )
    .await
    .check(400, "Request header too large.\n");
    setting
        .check_unharmed("gripline_control_refused_total", 2)
        .await;
}

#[tokio::test]
async fn items_and_channel_names_have_limits() {
    let origin = Origin::start().await;
    let mut config = config(&origin.url());
    config.limits.publish_items = Some(1);
    config.limits.channel_name_bytes = Some(4);
    let hub = Hub::start_with(&config);
    let item =
        |channel: &str| serde_json::json!({"channel": channel, "http-stream": {"content": "x"}});
    hub.publish(serde_json::json!([item("four")])).await;
    let two = serde_json::json!({"items": [item("a"), item("b")]}).to_string();
    hub.try_publish(&two).await.check(
        400,
        "Invalid format: too many items: 2, at most 1 are allowed\n",
    );
    let long = serde_json::json!({"items": [item("fiver")]}).to_string();
    hub.try_publish(&long).await.check(
        400,
        "Invalid format: channel name of 5 bytes is too long, at most 4 are allowed\n",
    );
    assert_eq!(hub.metric("gripline_publish_errors_total").await, 2);
}

/// Every prefix of a request, broken off: no answer is owed, and nothing is harmed.
#[tokio::test]
async fn clients_that_break_off_harm_nobody() {
    let setting = Setting::new().await;
    let request = "POST /plain HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for length in 0..request.len() {
        let mut client = Client::connect(setting.hub.addr()).await;
        client.send(&request[..length]).await;
    }
    setting
        .hub
        .until_metric("gripline_connections_total", request.len() as u64 + 1)
        .await;
    setting
        .check_unharmed("gripline_instruct_errors_total", 0)
        .await;
}
