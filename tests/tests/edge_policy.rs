//! What the edge makes of validators, ranges, queries and credentials, with the real module in
//! Viceroy and exact counts at the origin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use e2e::chain::Chain;
use e2e::client::{self, Response};
use e2e::edge::{purge, signed};
use e2e::origin::{Answer, Request};
use e2e::within;
use live_counter::stack::viceroy::Manifest;
use serde_json::{Value, json};

/// The origin says that its answer is at its end, so that it is stale a second later.
const SHORT: [&str; 2] = ["Cache-Control: max-age=60, stale-if-error=60", "Age: 59"];

fn source(response: &Response) -> &str {
    response.field("X-Cache").unwrap_or_default()
}

async fn start_with(changes: Value) -> Chain {
    let change = |manifest: Manifest| {
        let changes = changes.as_object().expect("an object").clone();
        manifest.with_config(changes).expect("it can be changed")
    };
    Chain::start_with(change).await
}

/// Asks until the answer is from there. The last second of a lifetime is stale to the edge before it
/// is to the platform.
async fn until(chain: &Chain, path: &str, expected: &str) -> Response {
    let asked = async {
        loop {
            let response = client::get(chain.edge.addr(), path, &[&signed()]).await;
            if source(&response) == expected {
                return response;
            }
        }
    };
    within(expected, asked).await
}

/// Answers `304` to its validators, and otherwise in full.
fn unchanged(request: &Request, fields: &[&str]) -> Answer {
    let has_tag = request.field("If-None-Match") == Some("\"a\"");
    let has_date = request.field("If-Modified-Since") == Some(DATE);
    if has_tag || has_date {
        Answer::status("304 Not Modified", fields, "")
    } else {
        Answer::ok(fields, "content\n")
    }
}

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[tokio::test]
async fn the_origin_may_say_that_nothing_has_changed() {
    let chain = Chain::start().await;
    for (path, validator) in [
        ("/tag", "ETag: \"a\"".to_owned()),
        ("/date", format!("Last-Modified: {DATE}")),
    ] {
        let fields: Vec<String> = SHORT.iter().map(ToString::to_string).collect();
        chain.origin.serve_with(path, move |request| {
            let fields = [&fields[..], std::slice::from_ref(&validator)].concat();
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            unchanged(request, &fields)
        });
        assert_eq!(source(&chain.get(path).await), "miss");
        let response = until(&chain, path, "revalidated").await;
        response.check(200, "content\n");
        assert_eq!(chain.origin.count(path), 2, "{path}");
        let response = chain.get(path).await;
        response.check(200, "content\n");
        assert_eq!(source(&response), "hit", "it is fresh again");
        assert_eq!(chain.origin.count(path), 2, "{path}");
    }
}

/// The instruction is brought up to date, channels to purge by included.
#[tokio::test]
async fn a_304_brings_a_new_instruction() {
    let chain = Chain::start().await;
    let serial = AtomicUsize::new(0);
    chain.origin.serve_with("/x", move |request| {
        let serial = serial.fetch_add(1, Ordering::SeqCst);
        let channel = format!("Grip-Channel: c{serial}; prev-id={serial}");
        let life = if serial == 0 { SHORT[1] } else { "Age: 0" };
        let fields = [
            "ETag: \"a\"",
            "Cache-Control: max-age=60",
            "Grip-Hold: stream",
            life,
            &channel,
        ];
        unchanged(request, &fields)
    });
    let edge = chain.edge.addr();
    let ask = async || client::get(edge, "/x", &[&signed()]).await;
    assert_eq!(ask().await.field("Grip-Channel"), Some("c0; prev-id=0"));
    let response = until(&chain, "/x", "revalidated").await;
    assert_eq!(response.field("Grip-Channel"), Some("c1; prev-id=1"));
    response.check(200, "content\n");
    assert_eq!(ask().await.field("Grip-Channel"), Some("c1; prev-id=1"));
    purge(edge, r#"{"channels":["c0"]}"#).await;
    assert_eq!(source(&ask().await), "hit", "the old channel is gone");
    purge(edge, r#"{"channels":["c1"]}"#).await;
    assert_eq!(source(&ask().await), "miss");
}

/// An origin that long-polls answers a validator that matches with a hold.
#[tokio::test]
async fn a_hold_for_a_validator_is_not_one_for_everybody() {
    let chain = Chain::start().await;
    chain.origin.serve_with("/poll", |request| {
        if request.field("If-None-Match") == Some("\"a\"") {
            let fields = [
                "Grip-Hold: response",
                "Grip-Channel: news",
                "Cache-Control: max-age=60",
            ];
            Answer::status("304 Not Modified", &fields, "")
        } else {
            Answer::ok(&["ETag: \"a\"", SHORT[0], SHORT[1]], "content\n")
        }
    });
    assert_eq!(source(&chain.get("/poll").await), "miss");
    let response = until(&chain, "/poll", "revalidated").await;
    response.check(200, "content\n");
    // Those who have it are held, all by one instruction.
    let counted = chain.origin.count("/poll");
    let mut clients = Vec::new();
    for _ in 0..2 {
        let field = "If-None-Match: \"a\"";
        clients.push(client::Client::get(chain.addr(), "/poll", &[field]).await);
    }
    chain.hub.until_metric("gripline_held_responses", 2).await;
    assert_eq!(chain.origin.count("/poll"), counted + 1);
}

#[tokio::test]
async fn a_client_that_has_the_answer_is_told_so_by_the_edge() {
    let chain = Chain::start().await;
    chain.origin.serve_with("/x", |request| {
        unchanged(request, &["Cache-Control: max-age=60", "ETag: \"a\""])
    });
    assert_eq!(source(&chain.get("/x").await), "miss");
    let ask = async |field: &str| client::get(chain.addr(), "/x", &[field]).await;
    // The origin is asked once whether it holds who has this validator.
    ask("If-None-Match: \"a\"").await.check(304, "");
    assert_eq!(chain.origin.count("/x"), 2);
    for _ in 0..2 {
        let response = ask("If-None-Match: \"a\"").await;
        response.check(304, "");
        assert_eq!(source(&response), "hit");
        assert_eq!(response.field("ETag"), Some("\"a\""));
    }
    assert_eq!(chain.origin.count("/x"), 2);
    ask("If-None-Match: \"b\"").await.check(200, "content\n");
    for _ in 0..2 {
        let response = ask("If-None-Match: \"b\"").await;
        response.check(200, "content\n");
        assert_eq!(source(&response), "hit");
    }
    assert_eq!(chain.origin.count("/x"), 3);
}

#[tokio::test]
async fn a_date_is_compared_with_the_stored_one() {
    let chain = Chain::start().await;
    let modified = format!("Last-Modified: {DATE}");
    let fields = ["Cache-Control: max-age=60", &modified];
    chain.origin.serve("/x", Answer::ok(&fields, "content\n"));
    assert_eq!(source(&chain.get("/x").await), "miss");
    let since = async |date: &str| {
        let field = format!("If-Modified-Since: {date}");
        client::get(chain.addr(), "/x", &[&field]).await
    };
    since(DATE).await.check(304, "");
    since("Sun, 06 Nov 1994 08:49:36 GMT")
        .await
        .check(200, "content\n");
    assert_eq!(chain.origin.count("/x"), 1);
}

#[tokio::test]
async fn parts_are_cut_from_what_is_stored() {
    let chain = Chain::start().await;
    let fields = ["Cache-Control: max-age=60", "ETag: \"a\""];
    chain.origin.serve("/x", Answer::ok(&fields, "0123456789"));
    let ask = async |fields: &[&str]| client::get(chain.addr(), "/x", fields).await;
    // What is not stored is not fetched for a part of it.
    assert_eq!(source(&ask(&["Range: bytes=2-4"]).await), "pass");
    assert_eq!(
        chain.origin.requests("/x")[0].field("Range"),
        Some("bytes=2-4")
    );
    assert_eq!(source(&chain.get("/x").await), "miss");
    for (range, status, text, content_range) in [
        ("Range: bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("Range: bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("Range: bytes=10-", 416, "", Some("bytes */10")),
        ("Range: bytes=0-1,3-4", 200, "0123456789", None),
    ] {
        let response = ask(&[range]).await;
        response.check(status, text);
        assert_eq!(response.field("Content-Range"), content_range, "{range}");
        assert_eq!(source(&response), "hit", "{range}");
    }
    let old = ["Range: bytes=2-4", "If-Range: \"b\""];
    ask(&old).await.check(200, "0123456789");
    assert_eq!(chain.origin.count("/x"), 2);
}

#[tokio::test]
async fn head_is_answered_where_get_would_be() {
    let chain = Chain::start().await;
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    chain.origin.serve_with("/x", move |_| {
        if failing.load(Ordering::SeqCst) {
            Answer::status("503 Service Unavailable", &[], "")
        } else {
            Answer::ok(&SHORT, "content\n")
        }
    });
    assert_eq!(source(&chain.get("/x").await), "miss");
    fails.store(true, Ordering::SeqCst);
    until(&chain, "/x", "stale").await;
    let response = client::request(chain.addr(), "HEAD", "/x", &[], "").await;
    response.check(200, "");
    assert_eq!(source(&response), "stale");
    assert_eq!(response.field("Content-Length"), Some("8"));
}

/// Asks in this order; the answers say what the origin was asked for.
async fn check_query(rule: Value, asked: &[(&str, &str, &str)]) {
    let chain = start_with(json!({"query": rule})).await;
    chain.origin.serve_with("/x", |request| {
        Answer::ok(
            &["Cache-Control: max-age=60"],
            &format!("{}\n", request.target()),
        )
    });
    for (target, text, cache) in asked {
        let response = chain.get(target).await;
        response.check(200, &format!("{text}\n"));
        assert_eq!(source(&response), *cache, "{rule} {target}");
    }
}

#[tokio::test]
async fn what_counts_of_a_query_is_configured() {
    let sorted = [
        ("/x?b=1&a=2", "/x?a=2&b=1", "miss"),
        ("/x?a=2&b=1", "/x?a=2&b=1", "hit"),
        ("/x?a=1&b=1", "/x?a=1&b=1", "miss"),
    ];
    check_query(json!("sort"), &sorted).await;
    let ignored = [
        ("/x?a=1", "/x", "miss"),
        ("/x?b", "/x", "hit"),
        ("/x", "/x", "hit"),
    ];
    check_query(json!("ignore"), &ignored).await;
    let only = [
        ("/x?page=1&utm_source=y", "/x?page=1", "miss"),
        ("/x?page=1", "/x?page=1", "hit"),
    ];
    check_query(json!({"only": ["page"]}), &only).await;
    check_query(json!({"without": ["utm_*"]}), &only).await;
}

#[tokio::test]
async fn what_a_client_authenticates_for_is_stored_for_nobody() {
    let chain = Chain::start().await;
    let private = Answer::ok(&["Cache-Control: max-age=60"], "for some\n");
    chain.origin.serve("/private", private);
    let public = Answer::ok(&["Cache-Control: max-age=60, public"], "for all\n");
    chain.origin.serve("/public", public);
    let ask = async |path: &str| {
        let field = "Authorization: Bearer x";
        client::get(chain.addr(), path, &[field]).await
    };
    for path in ["/private", "/public"] {
        assert_eq!(source(&ask(path).await), "pass", "{path}");
        assert_eq!(source(&ask(path).await), "pass", "nothing was stored");
        let first = chain.origin.requests(path).swap_remove(0);
        assert_eq!(first.field("Authorization"), Some("Bearer x"));
        assert_eq!(source(&chain.get(path).await), "miss", "{path}");
    }
    assert_eq!(source(&ask("/private").await), "pass");
    assert_eq!(source(&ask("/public").await), "hit");
}

#[tokio::test]
async fn negative_answers_are_kept_only_if_that_is_configured() {
    let missing = || Answer::status("404 Not Found", &[], "nothing\n");
    let chain = Chain::start().await;
    chain.origin.serve("/x", missing());
    for _ in 0..2 {
        assert_eq!(source(&chain.get("/x").await), "pass");
    }
    let chain = start_with(json!({"negative_ttl": 60})).await;
    chain.origin.serve("/x", missing());
    assert_eq!(source(&chain.get("/x").await), "miss");
    let response = chain.get("/x").await;
    response.check(404, "nothing\n");
    assert_eq!(source(&response), "hit");
}

/// A client that has missed something is answered by the origin, and if that shows that what is
/// stored is old, it is fetched anew, once.
#[tokio::test]
async fn an_answer_to_who_missed_something_renews_what_is_stored() {
    let chain = Chain::start().await;
    let newest = Arc::new(AtomicUsize::new(1));
    let known = Arc::clone(&newest);
    chain.origin.serve_with("/x", move |_| {
        let newest = known.load(Ordering::SeqCst);
        let channel = format!("Grip-Channel: c; prev-id={newest}");
        let fields = ["Cache-Control: max-age=60", "Grip-Hold: stream", &channel];
        Answer::ok(&fields, &format!("{newest}\n"))
    });
    let edge = chain.edge.addr();
    let ask =
        async |fields: &[&str]| client::get(edge, "/x", &[&[&signed()[..]], fields].concat()).await;
    let last = ["Grip-Last: c; last-id=1"];
    assert_eq!(source(&ask(&[]).await), "miss");
    // It is as new as what is stored.
    ask(&last).await.check(200, "1\n");
    assert_eq!(chain.origin.count("/x"), 2);
    newest.store(2, Ordering::SeqCst);
    let response = ask(&last).await;
    response.check(200, "2\n");
    assert_eq!(source(&response), "pass");
    chain.origin.until_count("/x", 4).await;
    let renewed = within("a new answer", async {
        loop {
            let response = ask(&[]).await;
            if response.text() == "2\n" {
                return response;
            }
        }
    })
    .await;
    assert_eq!(source(&renewed), "hit");
    // And now it is as new again.
    ask(&last).await.check(200, "2\n");
    assert_eq!(source(&ask(&[]).await), "hit");
    assert_eq!(chain.origin.count("/x"), 5);
    let asked = chain.origin.requests("/x");
    let told = asked
        .iter()
        .filter(|request| request.field("Grip-Last").is_some());
    assert_eq!(told.count(), 3, "the fill is for everybody");
}
