//! An unchanged django-eventstream, in its reliable mode with SQLite, behind the hub.
//!
//! The library comes from its registry, so `.ci/run` installs it and runs these tests.

use std::time::Duration;

use e2e::client::{self, Client};
use e2e::program::{Program, Served};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How the application is served.
#[derive(Debug, Clone, Copy)]
enum Interface {
    /// Django's own server, HTTP/1.0 to 1.1, a connection for each request.
    Wsgi,
    /// Uvicorn.
    Asgi,
}

struct App {
    served: Served,
    _database: TempDir,
}

impl App {
    async fn start() -> Self {
        Self::start_on(Interface::Wsgi).await
    }

    async fn start_on(interface: Interface) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let database = directory.path().join("events.sqlite3");
        let interface = match interface {
            Interface::Wsgi => "wsgi",
            Interface::Asgi => "asgi",
        };
        let arguments = [database.to_str().expect("a path in UTF-8"), interface];
        let program = Program::python("python/events.py", &arguments).await;
        Self {
            served: program.behind_hub().await,
            _database: directory,
        }
    }

    /// Opens a stream as a new client, and reads what the library begins it with.
    async fn open(&self, query: &str) -> Client {
        self.open_with(query, &[]).await
    }

    async fn open_with(&self, query: &str, fields: &[&str]) -> Client {
        let target = format!("/events/?{query}");
        let mut client = self.served.open(&target, fields).await;
        assert_eq!(client::status(&client.head().await), 200, "{client:?}");
        client.receives_next(&opening()).await;
        client
    }

    /// Opens a stream that goes on after this id.
    async fn resume(&self, query: &str, id: &str) -> Client {
        self.open_with(query, &[&format!("Last-Event-ID: {id}")])
            .await
    }

    /// Sends an event for each of these numbers.
    async fn send(&self, channel: &str, numbers: impl IntoIterator<Item = u32>) {
        self.served.tell("/send/", &events(channel, numbers)).await;
    }

    /// Stores events that are lost on their way to the hub.
    async fn lose(&self, channel: &str, numbers: impl IntoIterator<Item = u32>) {
        self.served.tell("/store/", &events(channel, numbers)).await;
    }
}

fn events(channel: &str, numbers: impl IntoIterator<Item = u32>) -> Value {
    let event = |number| json!({"channel": channel, "data": number});
    numbers.into_iter().map(event).collect()
}

/// What a stream begins with.
fn opening() -> String {
    let padding = " ".repeat(2048);
    format!(":{padding}\n\nevent: stream-open\ndata:\n\n")
}

/// An event as it is on the wire.
fn event(id: &str, data: impl std::fmt::Display) -> String {
    format!("event: message\nid: {id}\ndata: {data}\n\n")
}

/// The events of a channel whose numbers are their ids.
fn numbered(channel: &str, numbers: impl IntoIterator<Item = u32>) -> String {
    numbers
        .into_iter()
        .map(|number| event(&format!("{channel}:{number}"), number))
        .collect()
}

async fn events_reach_every_stream(interface: Interface) {
    let app = App::start_on(interface).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(app.open("channel=news").await);
    }
    app.send("news", 1..=3).await;
    for client in &mut clients {
        client.receives_next(&numbered("news", 1..=3)).await;
    }
    assert_eq!(app.served.hub.metric("gripline_gaps_total").await, 0);
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn events_reach_every_stream_with_their_ids() {
    events_reach_every_stream(Interface::Wsgi).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn events_reach_every_stream_with_their_ids_on_asgi() {
    events_reach_every_stream(Interface::Asgi).await;
}

async fn what_was_missed_comes_once(interface: Interface) {
    let app = App::start_on(interface).await;
    let mut client = app.open("channel=news").await;
    app.send("news", 1..=2).await;
    client.receives_next(&numbered("news", 1..=2)).await;
    drop(client);
    app.send("news", 3..=4).await;
    let mut client = app.resume("channel=news", "news:2").await;
    client.receives_next(&numbered("news", 3..=4)).await;
    app.send("news", 5..=6).await;
    client.receives_next(&numbered("news", 5..=6)).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn a_client_that_was_away_gets_what_it_missed_once() {
    what_was_missed_comes_once(Interface::Wsgi).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn a_client_that_was_away_gets_what_it_missed_once_on_asgi() {
    what_was_missed_comes_once(Interface::Asgi).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn a_client_that_names_its_id_in_the_query_resumes_too() {
    let app = App::start().await;
    app.send("news", 1..=3).await;
    let mut client = app.open("channel=news&lastEventId=news:1").await;
    client.receives_next(&numbered("news", 2..=3)).await;
    app.send("news", [4]).await;
    client.receives_next(&numbered("news", [4])).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn a_late_client_begins_with_the_next_event() {
    let app = App::start().await;
    app.send("news", 1..=3).await;
    let mut client = app.open("channel=news").await;
    app.send("news", [4]).await;
    client.receives_next(&numbered("news", [4])).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn what_was_lost_on_the_way_to_the_hub_is_fetched_before_what_follows() {
    let app = App::start().await;
    let mut first = app.open("channel=news").await;
    let mut second = app.open("channel=news").await;
    app.send("news", [1]).await;
    app.lose("news", 2..=4).await;
    app.send("news", [5]).await;
    app.send("news", [6]).await;
    first.receives_next(&numbered("news", 1..=6)).await;
    second.receives_next(&numbered("news", 1..=6)).await;
    assert_ne!(app.served.hub.metric("gripline_gaps_total").await, 0);
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn what_was_lost_last_is_fetched_by_a_recover() {
    let app = App::start().await;
    let mut client = app.open("channel=news").await;
    app.send("news", [1]).await;
    client.receives_next(&numbered("news", [1])).await;
    app.lose("news", 2..=3).await;
    app.served.recover().await;
    client.receives_next(&numbered("news", 2..=3)).await;
    app.send("news", [4]).await;
    client.receives_next(&numbered("news", [4])).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn more_than_one_answer_holds_comes_in_several() {
    let app = App::start().await;
    app.lose("news", 1..=250).await;
    let mut client = app.resume("channel=news", "news:0").await;
    client.receives_next(&numbered("news", 1..=250)).await;
    app.send("news", [251]).await;
    client.receives_next(&numbered("news", [251])).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn an_id_that_never_was_resets_the_stream() {
    let app = App::start().await;
    app.send("news", 1..=2).await;
    let mut client = app.resume("channel=news", "news:77").await;
    let reset = "event: stream-reset\nid: news:2\ndata: {\"channels\": [\"news\"]}\n\n";
    client.receives_next(reset).await;
    app.send("news", [3]).await;
    client.receives_next(&numbered("news", [3])).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn an_id_tells_the_place_in_every_channel() {
    let app = App::start().await;
    let query = "channel=a&channel=b";
    let mut client = app.open(query).await;
    app.send("b", [1]).await;
    app.send("a", [1]).await;
    let expected = event("a:0,b:1", 1) + &event("a:1,b:1", 1);
    client.receives_next(&expected).await;
    drop(client);
    app.send("b", [2]).await;
    let mut client = app.resume(query, "a:1,b:1").await;
    client.receives_next(&event("a:1,b:2", 2)).await;
    app.lose("a", [2]).await;
    app.send("a", [3]).await;
    client
        .receives_next(&(event("a:2,b:2", 2) + &event("a:3,b:2", 3)))
        .await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn names_of_channels_and_data_may_have_any_characters() {
    let app = App::start().await;
    let mut client = app.open("channel=b%20c&channel=z%C3%BCrich").await;
    let data = "100 % of %I, %(events-x)s and %%\nä, \"quoted\" \\";
    let sent = json!([{"channel": "zürich", "data": data}, {"channel": "b c", "data": 2}]);
    app.served.tell("/send/", &sent).await;
    let written = r#""100 % of %I, %(events-x)s and %%\n\u00e4, \"quoted\" \\""#;
    let expected = event("b%20c:0,z%C3%BCrich:1", written) + &event("b%20c:1,z%C3%BCrich:1", 2);
    client.receives_next(&expected).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn events_of_a_channel_without_storage_have_no_ids() {
    let app = App::start().await;
    let mut client = app.open("channel=unreliable").await;
    app.send("unreliable", 1..=2).await;
    client
        .receives_next("event: message\ndata: 1\n\nevent: message\ndata: 2\n\n")
        .await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn skipped_users_lack_an_event_and_nothing_else() {
    let app = App::start().await;
    let mut ann = app.open_with("channel=news", &["X-User: ann"]).await;
    let mut bob = app.open_with("channel=news", &["X-User: bob"]).await;
    let mut anybody = app.open("channel=news").await;
    let not_for_ann = |number: u32| json!([{"channel": "news", "data": number, "skip": ["ann"]}]);
    app.served.tell("/send/", &not_for_ann(1)).await;
    app.send("news", [2]).await;
    ann.receives_next(&numbered("news", [2])).await;
    bob.receives_next(&numbered("news", 1..=2)).await;
    anybody.receives_next(&numbered("news", 1..=2)).await;
    assert_eq!(app.served.hub.metric("gripline_gaps_total").await, 0);
    // Whoever goes on with a link's answer is who they were.
    app.lose("news", [3]).await;
    app.send("news", [4]).await;
    for client in [&mut ann, &mut bob, &mut anybody] {
        client.receives_next(&numbered("news", 3..=4)).await;
    }
    app.served.tell("/send/", &not_for_ann(5)).await;
    app.send("news", [6]).await;
    ann.receives_next(&numbered("news", [6])).await;
    bob.receives_next(&numbered("news", 5..=6)).await;
    anybody.receives_next(&numbered("news", 5..=6)).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn a_user_who_loses_a_channel_loses_the_streams_with_it() {
    let app = App::start().await;
    let ann = ["X-User: ann"];
    let mut with_news = app.open_with("channel=news", &ann).await;
    let mut with_weather = app.open_with("channel=weather", &ann).await;
    let mut bob = app.open_with("channel=news", &["X-User: bob"]).await;
    let order = json!({"user": "ann", "channel": "news"});
    app.served.tell("/forbid/", &order).await;
    // The library writes this one's data as Python does.
    let error = |quote: &str| {
        let data = "{'condition': 'forbidden', 'text': 'Permission denied to channels: news', \
                    'channels': ['news']}";
        let data = data.replace('\'', quote);
        format!("event: stream-error\nid: error\ndata: {data}\n\n")
    };
    with_news.receives_next(&error("'")).await;
    with_news.ends().await;
    app.send("weather", [1]).await;
    with_weather.receives_next(&numbered("weather", [1])).await;
    app.send("news", [1]).await;
    bob.receives_next(&numbered("news", [1])).await;
    let mut again = app.served.open("/events/?channel=news", &ann).await;
    again.response().await.check(200, &error("\""));
    let resumed = client::get(
        app.served.hub.addr(),
        "/events/?channel=news",
        &["Last-Event-ID: error"],
    );
    assert_eq!(resumed.await.status(), 400);
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn idle_streams_are_kept_alive_as_the_library_wants() {
    let app = App::start().await;
    let mut client = app.open("channel=news").await;
    client.be_patient(Duration::from_secs(40));
    let opened = std::time::Instant::now();
    client.receives_next("event: keep-alive\ndata:\n\n").await;
    let waited = opened.elapsed();
    assert!(waited > Duration::from_secs(15), "{waited:?}");
    app.send("news", [1]).await;
    client.receives_next(&numbered("news", [1])).await;
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn the_library_knows_the_hub_by_its_signature_and_nobody_else() {
    let app = App::start().await;
    let hub = client::get(app.served.hub.addr(), "/grip/", &["Grip-Sig: forged"]).await;
    let grip: Value = serde_json::from_str(&hub.text()).expect("it is JSON");
    assert_eq!(
        (&grip["proxied"], &grip["signed"]),
        (&json!(true), &json!(true))
    );
    let features = grip["features"].as_array().expect("a list");
    for feature in [
        "link:next",
        "filter:build-id",
        "filter:skip-users",
        "filter:require-sub",
    ] {
        assert!(features.contains(&json!(feature)), "{feature}: {grip}");
    }
    let direct = client::get(app.served.origin(), "/grip/", &["Grip-Sig: forged"]).await;
    direct.check(
        200,
        r#"{"proxied": false, "signed": false, "features": []}"#,
    );
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn clients_that_come_and_go_get_every_event_once_and_in_order() {
    const LAST: u32 = 150;
    let app = App::start().await;
    let sending = async {
        for number in 1..=LAST {
            app.send("news", [number]).await;
        }
    };
    let reading = async |stay: usize| {
        let mut seen: Vec<u32> = vec![0];
        while let Some(last) = seen.last().copied()
            && last < LAST
        {
            let mut client = app.resume("channel=news", &format!("news:{last}")).await;
            for _ in 0..stay {
                let text = client.content_until("\n\n").await;
                seen.extend(ids(&text));
                if seen.last() == Some(&LAST) {
                    break;
                }
            }
        }
        assert_eq!(seen, (0..=LAST).collect::<Vec<u32>>(), "stays for {stay}");
    };
    // The first event makes id 0 one that can be resumed from.
    tokio::join!(sending, async {
        app.served
            .hub
            .until_metric("gripline_published_items_total", 1)
            .await;
        tokio::join!(reading(1), reading(2), reading(3), reading(5), reading(200));
    },);
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn events_sent_at_the_same_time_arrive_once_and_in_order() {
    const EACH: u32 = 25;
    const LAST: u32 = 1 + 4 * EACH;
    let app = App::start().await;
    let query = "channel=news";
    let mut clients = [app.open(query).await, app.open(query).await];
    app.send("news", [0]).await;
    // What overtakes another one on its way shows a gap.
    let sending = async || {
        for number in 0..EACH {
            app.send("news", [number]).await;
        }
    };
    tokio::join!(sending(), sending(), sending(), sending());
    for client in &mut clients {
        let mut seen: Vec<u32> = Vec::new();
        while seen.last().is_none_or(|last| *last < LAST) {
            seen.extend(ids(&client.content_until("\n\n").await));
        }
        assert_eq!(seen, (1..=LAST).collect::<Vec<u32>>(), "{client:?}");
    }
}

#[tokio::test]
#[ignore = "needs django-eventstream, see .ci/run"]
async fn an_event_that_was_overtaken_is_not_repeated() {
    let app = App::start().await;
    let mut client = app.open("channel=news").await;
    app.lose("news", [1]).await;
    app.send("news", [2]).await;
    client.receives_next(&numbered("news", 1..=2)).await;
    let late = json!({"channel": "news", "id": 1, "data": 1});
    app.served.tell("/late/", &late).await;
    app.send("news", [3]).await;
    client.receives_next(&numbered("news", [3])).await;
}

/// The numbers of the events in a part of a stream, which shall not be idle.
fn ids(text: &str) -> impl Iterator<Item = u32> + '_ {
    assert!(!text.contains("keep-alive"), "nothing comes: {text}");
    text.lines()
        .filter_map(|line| line.strip_prefix("id: news:"))
        .map(|id| id.parse().expect("an id is a number"))
}
