//! Purges by the CDN's own interface, with a stand-in for it.

use e2e::client::{self, Client};
use e2e::edge;
use e2e::hub::{Hub, config};
use e2e::origin::{Answer, Origin};
use e2e::purge_api::{Purge, PurgeApi, SERVICE, TOKEN};
use gripline_hub::config::{RawFastly, RawPurge};
use serde_json::{Value, json};

const STREAM: [&str; 3] = [
    "Cache-Control: s-maxage=60",
    "Grip-Hold: stream",
    "Grip-Channel: updates",
];

fn fastly(api: &PurgeApi) -> RawFastly {
    RawFastly {
        service: Some(SERVICE.to_owned()),
        token: Some(TOKEN.to_owned()),
        api: Some(api.url()),
        ..RawFastly::default()
    }
}

fn start(origin: &str, fastly: RawFastly) -> Hub {
    let mut config = config(origin);
    config.purge = Some(RawPurge {
        fastly: Some(fastly),
        ..RawPurge::default()
    });
    Hub::start_with(&config)
}

fn purge(keys: &[&str], is_batch: bool, is_soft: bool) -> Purge {
    Purge {
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        is_batch,
        is_soft,
    }
}

#[tokio::test]
async fn one_channel_is_named_in_the_path_and_several_in_the_body() {
    let (origin, api) = (Origin::start().await, PurgeApi::start().await);
    let hub = start(&origin.url(), fastly(&api));
    hub.publish_stream("updates", "").await;
    assert_eq!(api.purges(), [purge(&["gl-ch:updates"], false, false)]);
    // Escaped, and so not a thing to put into a path.
    hub.publish_stream("a b", "").await;
    assert_eq!(api.purges()[1..], [purge(&["gl-ch:a%20b"], true, false)]);
    let item = |channel: &str| json!({"channel": channel, "http-stream": {"content": ""}});
    hub.publish(json!([item("a"), item("b"), item("a")])).await;
    assert_eq!(
        api.purges()[2..],
        [purge(&["gl-ch:a", "gl-ch:b"], true, false)]
    );
    assert_eq!(api.refused(), [""; 0]);
    assert_eq!(hub.metric("gripline_purges_total").await, 4);
    assert_eq!(hub.metric("gripline_purge_requests_total").await, 3);
}

#[tokio::test]
async fn a_thousand_channels_are_purged_in_batches() {
    let (origin, api) = (Origin::start().await, PurgeApi::start().await);
    let mut config = config(&origin.url());
    config.purge = Some(RawPurge {
        fastly: Some(fastly(&api)),
        per_second: Some(0),
        ..RawPurge::default()
    });
    let hub = Hub::start_with(&config);
    let items: Vec<Value> = (0..1000)
        .map(|n| json!({"channel": format!("c{n}"), "http-stream": {"content": ""}}))
        .collect();
    hub.publish(json!(items)).await;
    let sizes: Vec<usize> = api.purges().iter().map(|purge| purge.keys.len()).collect();
    assert_eq!(sizes, [256, 256, 256, 232]);
    assert_eq!(api.refused(), [""; 0]);
}

#[tokio::test]
async fn purges_may_be_soft() {
    let (origin, api) = (Origin::start().await, PurgeApi::start().await);
    let soft = RawFastly {
        soft: Some(true),
        ..fastly(&api)
    };
    let hub = start(&origin.url(), soft);
    hub.publish_stream("updates", "").await;
    assert_eq!(api.purges(), [purge(&["gl-ch:updates"], false, true)]);
}

#[tokio::test]
async fn a_wrong_token_is_told_by_the_counters() {
    let (origin, api) = (Origin::start().await, PurgeApi::start().await);
    let wrong = RawFastly {
        token: Some("wrong".to_owned()),
        ..fastly(&api)
    };
    let hub = start(&origin.url(), wrong);
    hub.publish_stream("updates", "").await;
    assert!(hub.metric("gripline_purge_errors_total").await >= 1);
    assert_eq!(api.purges(), []);
    assert!(api.refused()[0].ends_with("401 Unauthorized"));
}

/// While the interface wants to be left alone, items go out without it, and their channels are
/// purged when it may be asked again.
#[tokio::test]
async fn retry_after_is_obeyed() {
    let (origin, api) = (Origin::start().await, PurgeApi::start().await);
    origin.serve("/stream", Answer::ok(&STREAM, "hi\n"));
    let mut config = config(&origin.url());
    config.purge = Some(RawPurge {
        fastly: Some(fastly(&api)),
        deadline: Some("100ms".to_owned()),
        ..RawPurge::default()
    });
    let hub = Hub::start_with(&config);
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("hi\n").await;
    api.refuse_next(3);
    hub.publish_stream("updates", "one\n").await;
    let refused = std::time::Instant::now();
    client.receives("one\n").await;
    hub.publish_stream("updates", "two\n").await;
    client.receives("two\n").await;
    api.until_purges(1).await;
    assert!(refused.elapsed().as_millis() > 2800, "{refused:?}");
    assert_eq!(api.refused().len(), 1);
    assert_eq!(api.purges(), [purge(&["gl-ch:updates"], false, false)]);
}

/// With the real edge behind it: who asks after hearing the news gets the news.
#[tokio::test]
async fn the_edge_forgets_what_the_interface_is_told() {
    let origin = Origin::start().await;
    let edge = edge::start(edge::manifest(&origin.url())).await;
    let api = PurgeApi::start_for(edge.addr()).await;
    let hub = start(&edge.url(), fastly(&api));
    origin.serve("/stream", Answer::ok(&STREAM, "old\n"));
    let mut client = Client::get(hub.addr(), "/stream", &[]).await;
    client.stream_begins("old\n").await;
    origin.serve("/stream", Answer::ok(&STREAM, "new\n"));
    hub.publish_stream("updates", "new\n").await;
    client.receives("new\n").await;
    let mut next = Client::get(hub.addr(), "/stream", &[]).await;
    next.stream_begins("new\n").await;
    assert_eq!(origin.count("/stream"), 2);
}

/// The stand-in is as strict as the real one is said to be.
#[tokio::test]
async fn the_stand_in_refuses_what_is_not_documented() {
    let api = PurgeApi::start().await;
    let token = format!("Fastly-Key: {TOKEN}");
    let fields = [token.as_str(), "Accept: application/json"];
    let path = format!("/service/{SERVICE}/purge");
    let many = vec!["k"; 257];
    let many = json!({"surrogate_keys": many}).to_string();
    for (method, target, fields, body, status) in [
        ("POST", path.as_str(), &fields[1..], "{}", 401),
        ("GET", &path, &fields, "", 405),
        ("POST", "/service/other/purge/k", &fields, "", 404),
        ("POST", &path, &fields, "{}", 400),
        ("POST", &path, &fields, &many, 400),
        ("POST", &path, &fields[..1], "{}", 406),
        ("POST", &format!("{path}/k"), &fields, "", 200),
    ] {
        let reply = client::request(api.addr(), method, target, fields, body).await;
        assert_eq!(reply.status(), status, "{method} {target}: {reply:?}");
    }
    assert_eq!(api.purges(), [purge(&["k"], false, false)]);
}
