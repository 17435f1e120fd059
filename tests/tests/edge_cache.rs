//! What the edge keeps, for whom, and for how long.
//!
//! No test counts requests for `/`: Viceroy sends one to the origin when it starts.

use e2e::chain::Chain;
use e2e::client::{self, Client, Response};
use e2e::edge::{purge, signed, signed_with};
use e2e::origin::{Answer, Gate};
use serde_json::json;

const FRESH: &str = "Cache-Control: s-maxage=60";
const STREAM: [&str; 3] = [FRESH, "Grip-Hold: stream", "Grip-Channel: updates"];

fn source(response: &Response) -> &str {
    response.field("X-Cache").unwrap_or_default()
}

/// A chain with an answer for each row, and two requests for each of them: the second must be what
/// `expected` says.
async fn check_second(cases: &[(&str, Answer)], expected: &str) {
    let chain = Chain::start().await;
    for (number, (name, answer)) in cases.iter().enumerate() {
        let path = format!("/{number}");
        chain.origin.serve(&path, answer.clone());
        let first = chain.get(&path).await;
        let second = chain.get(&path).await;
        assert_eq!(source(&second), expected, "{name}");
        assert_eq!(first.status(), second.status(), "{name}");
        assert_eq!(first.text(), second.text(), "{name}");
        let count = if expected == "hit" { 1 } else { 2 };
        assert_eq!(chain.origin.count(&path), count, "{name}");
        for response in [first, second] {
            assert_eq!(response.head.names_beginning("surrogate-"), [""; 0]);
        }
    }
}

#[tokio::test]
async fn answers_with_a_stated_lifetime_are_kept() {
    let ok = |fields: &[&str]| Answer::ok(fields, "x\n");
    check_second(
        &[
            ("s-maxage", ok(&[FRESH])),
            ("max-age", ok(&["Cache-Control: public, max-age=60"])),
            (
                "s-maxage before max-age",
                ok(&["Cache-Control: max-age=0, s-maxage=60"]),
            ),
            (
                "Surrogate-Control before Cache-Control",
                ok(&["Surrogate-Control: max-age=60", "Cache-Control: no-store"]),
            ),
            (
                "Expires",
                ok(&[
                    "Date: Thu, 01 Jan 1970 00:00:00 GMT",
                    "Expires: Thu, 01 Jan 1970 00:01:00 GMT",
                ]),
            ),
            ("an Age below it", ok(&[FRESH, "Age: 20"])),
            (
                "a variant by Accept-Encoding",
                ok(&[FRESH, "Vary: Accept-Encoding"]),
            ),
            ("404", Answer::status("404 Not Found", &[FRESH], "x\n")),
            (
                "301",
                Answer::status("301 Moved Permanently", &[FRESH, "Location: /"], ""),
            ),
            (
                "chunks",
                Answer::begin("200 OK", &[FRESH, "Transfer-Encoding: chunked"])
                    .then("2\r\nx\n\r\n0\r\n\r\n"),
            ),
            (
                "the largest body",
                Answer::ok(&[FRESH], &"x".repeat(1 << 20)),
            ),
        ],
        "hit",
    )
    .await;
}

#[tokio::test]
async fn answers_for_one_client_are_passed() {
    let ok = |fields: &[&str]| Answer::ok(&[&[FRESH], fields].concat(), "x\n");
    let status = |status: &str| Answer::status(status, &[FRESH], "x\n");
    check_second(
        &[
            ("no lifetime", Answer::ok(&[], "x\n")),
            (
                "a hold without lifetime",
                Answer::ok(&["Grip-Status: 200"], "x\n"),
            ),
            ("no time", Answer::ok(&["Cache-Control: max-age=0"], "x\n")),
            ("private", ok(&["Cache-Control: private"])),
            ("no-store", ok(&["Cache-Control: no-store"])),
            ("no-cache", ok(&["Cache-Control: no-cache"])),
            ("for no surrogate", ok(&["Surrogate-Control: no-store"])),
            ("a cookie", ok(&["Set-Cookie: a=b"])),
            ("old already", ok(&["Age: 60"])),
            ("varies by everything", ok(&["Vary: *"])),
            ("varies by cookie", ok(&["Vary: Accept, Cookie"])),
            ("encoded", ok(&["Content-Encoding: gzip"])),
            ("a part", ok(&["Content-Range: bytes 0-1/9"])),
            ("one client's end", ok(&["Grip-Link: </gone>; rel=gone"])),
            ("one client's name", ok(&["Grip-Set-Meta: user=me"])),
            ("302", status("302 Found")),
            ("403", status("403 Forbidden")),
            ("201", status("201 Created")),
            (
                "too large",
                Answer::ok(&[FRESH], &"x".repeat((1 << 20) + 1)),
            ),
            (
                "too large, as shows late",
                Answer::begin("200 OK", &[FRESH])
                    .then("x".repeat((1 << 20) + 1))
                    .close(),
            ),
        ],
        "pass",
    )
    .await;
}

#[tokio::test]
async fn requests_for_one_client_are_passed() {
    let chain = Chain::start().await;
    chain.origin.serve("/x", Answer::ok(&[FRESH], "x\n"));
    assert_eq!(source(&chain.get("/x").await), "miss");
    for (number, (method, field)) in [
        ("GET", "If-Match: \"1\""),
        ("GET", "Last-Event-ID: 7"),
        ("GET", "Cache-Control: no-store"),
        ("POST", "X-Own: 1"),
        ("DELETE", "X-Own: 1"),
        ("OPTIONS", "X-Own: 1"),
    ]
    .into_iter()
    .enumerate()
    {
        let response = client::request(chain.addr(), method, "/x", &[field], "").await;
        assert_eq!(source(&response), "pass", "{method} {field}");
        let requests = chain.origin.requests("/x");
        assert_eq!(requests.len(), number + 2, "{method} {field}");
        let (name, value) = field.split_once(": ").unwrap_or_default();
        assert_eq!(requests[number + 1].method(), method);
        assert_eq!(requests[number + 1].field(name), Some(value));
    }
    for field in ["Cookie: a=b", "Cache-Control: no-cache", "Pragma: no-cache"] {
        let response = client::get(chain.addr(), "/x", &[field]).await;
        assert_eq!(source(&response), "hit", "{field}");
    }
}

#[tokio::test]
async fn host_and_query_make_different_answers() {
    let chain = Chain::start().await;
    chain.origin.serve_with("/x", |request| {
        let host = request.field("Host").unwrap_or_default();
        let text = format!("{host} {}\n", request.target());
        Answer::ok(&[FRESH], &text)
    });
    for (target, fields, text) in [
        ("/x", &["Host: a.example"][..], "a.example /x\n"),
        ("/x", &["Host: b.example"], "b.example /x\n"),
        ("/x?1", &["Host: a.example"], "a.example /x?1\n"),
        ("/x?", &["Host: a.example"], "a.example /x?\n"),
    ] {
        for cache in ["miss", "hit"] {
            let response = client::get(chain.addr(), target, fields).await;
            assert_eq!(
                (source(&response), response.text()),
                (cache, text.to_owned())
            );
        }
    }
    let response = client::get(chain.addr(), "/x", &["Host: A.Example"]).await;
    assert_eq!(source(&response), "hit");
}

#[tokio::test]
async fn variants_are_kept_apart() {
    let chain = Chain::start().await;
    chain.origin.serve_with("/x", |request| {
        let accept = request.field("Accept").unwrap_or("nothing");
        Answer::ok(&[FRESH, "Vary: Accept"], accept)
    });
    for cache in ["miss", "hit"] {
        for accept in ["text/html", "text/event-stream"] {
            let field = format!("Accept: {accept}");
            let response = client::get(chain.addr(), "/x", &[&field]).await;
            assert_eq!(
                (source(&response), response.text().as_str()),
                (cache, accept)
            );
        }
        let response = client::get(chain.addr(), "/x", &[]).await;
        assert_eq!(
            (source(&response), response.text().as_str()),
            (cache, "nothing")
        );
    }
    assert_eq!(chain.origin.count("/x"), 3);
}

#[tokio::test]
async fn head_reads_what_get_has_stored() {
    let chain = Chain::start().await;
    chain.origin.serve_with("/x", |request| {
        let fields = [FRESH, "X-Own: 1"];
        match request.method() {
            "HEAD" => Answer::begin("200 OK", &[&fields[..], &["Content-Length: 2"]].concat()),
            _ => Answer::ok(&fields, "x\n"),
        }
    });
    let head = async || client::request(chain.addr(), "HEAD", "/x", &[], "").await;
    assert_eq!(source(&head().await), "pass");
    assert_eq!(source(&chain.get("/x").await), "miss");
    assert_eq!(chain.origin.count("/x"), 2);
    let response = head().await;
    assert_eq!(source(&response), "hit");
    assert_eq!(response.field("Content-Length"), Some("2"));
    assert_eq!(response.field("X-Own"), Some("1"));
    response.check(200, "");
    assert_eq!(chain.origin.count("/x"), 2);
}

/// The origin says that its answer is a second short of its end, so the end can be waited for.
#[tokio::test]
async fn an_answer_ends_with_its_lifetime() {
    let chain = Chain::start().await;
    chain
        .origin
        .serve("/x", Answer::ok(&[FRESH, "Age: 59"], "one\n"));
    assert_eq!(source(&chain.get("/x").await), "miss");
    chain.origin.serve("/x", Answer::ok(&[FRESH], "two\n"));
    let renewed = async {
        loop {
            let response = chain.get("/x").await;
            if response.text() == "two\n" {
                return response;
            }
            // The edge counts whole seconds and the platform does not; between the two it is stale.
            assert!(["hit", "stale"].contains(&source(&response)));
        }
    };
    let response = e2e::within("the end of a lifetime", renewed).await;
    assert_eq!(source(&response), "miss");
    assert_eq!(chain.origin.count("/x"), 2);
    assert_eq!(source(&chain.get("/x").await), "hit");
}

#[tokio::test]
async fn a_cached_answer_is_what_the_origin_sent() {
    let chain = Chain::start().await;
    let fields = [FRESH, "X-Own: 1", "X-Own: 2", "ETag: \"1\"", "Age: 20"];
    let answer = Answer::status("404 Not Here", &fields, "\u{0}\u{ff}\r\n");
    chain.origin.serve("/x", answer);
    for cache in ["miss", "hit"] {
        let response = chain.get("/x").await;
        assert_eq!(source(&response), cache);
        response.check(404, "\u{0}\u{ff}\r\n");
        assert_eq!(response.head.values("X-Own"), ["1", "2"]);
        assert_eq!(response.field("ETag"), Some("\"1\""));
        let age = response.field("Age").and_then(|age| age.parse().ok());
        assert!((20..40).contains(&age.unwrap_or(0)), "{}", response.head);
    }
}

#[tokio::test]
async fn a_passed_answer_streams_both_ways() {
    let chain = Chain::start().await;
    for method in ["GET", "POST"] {
        let gate = Gate::new();
        let answer = Answer::begin("200 OK", &["Transfer-Encoding: chunked"])
            .then("4\r\none\n\r\n")
            .waiting_for(&gate)
            .then("4\r\ntwo\n\r\n0\r\n\r\n");
        chain.origin.serve("/stream", answer);
        let mut client = Client::connect(chain.addr()).await;
        client.request(method, "/stream", &[], "").await;
        client.stream_begins("one\n").await;
        client.is_quiet();
        gate.open();
        client.receives("two\n").await;
        client.ends().await;
    }

    chain.origin.serve("/upload", Answer::ok(&[], "got it\n"));
    let mut client = Client::connect(chain.addr()).await;
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}4\r\none\n\r\n")).await;
    chain
        .origin
        .until("/upload", |requests| {
            requests
                .first()
                .is_some_and(|request| request.body == b"one\n")
        })
        .await;
    client.send("4\r\ntwo\n\r\n0\r\n\r\n").await;
    client.response().await.check(200, "got it\n");
}

#[tokio::test]
async fn instructions_leave_the_edge_only_towards_a_signed_caller() {
    let chain = Chain::start().await;
    let edge = chain.edge.addr();
    let refusal = "Not available here: this resource is served through a GRIP proxy only.\n";
    for path in ["/kept", "/passed"] {
        let fields = if path == "/kept" {
            &STREAM[..]
        } else {
            &STREAM[1..]
        };
        chain.origin.serve(path, Answer::ok(fields, "secret\n"));
        let expired = expired_signature();
        // From the origin first, then, if it is kept, from the cache.
        for _ in 0..2 {
            for fields in [
                vec![],
                vec![signed_with("another key")],
                vec!["Grip-Sig: nonsense".to_owned()],
                vec!["Grip-Sig:".to_owned()],
                vec![expired.clone()],
                vec![unsigned_token()],
            ] {
                let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                let response = client::get(edge, path, &fields).await;
                response.check(501, refusal);
                assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
            }
            let response = client::get(edge, path, &[&signed()]).await;
            response.check(200, "secret\n");
            assert_eq!(response.field("Grip-Hold"), Some("stream"));
            assert_eq!(response.field("Grip-Channel"), Some("updates"));
        }
    }
    assert_eq!(chain.origin.count("/kept"), 1);
}

/// Signed by the right key, but long ago.
fn expired_signature() -> String {
    use grip::signature::{SigningKey, grip_sig};
    let key = SigningKey::hs256(e2e::hub::SIG_KEY.as_bytes()).expect("the key is not empty");
    format!("Grip-Sig: {}", grip_sig(&key, "e2e", grip::UnixTime(1)))
}

/// A token that says of itself that it needs no signature: `{"alg":"none"}`, far future.
fn unsigned_token() -> String {
    "Grip-Sig: eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.".to_owned()
}

#[tokio::test]
async fn a_plain_client_gets_answers_without_holds() {
    let chain = Chain::start().await;
    let fields = [
        FRESH,
        "Grip-Channel: updates",
        "Grip-Status: 404",
        "Grip-Expose-Headers: ETag",
        "ETag: \"1\"",
        "X-Inside: 1",
    ];
    chain.origin.serve("/x", Answer::ok(&fields, "x\n"));
    for _ in 0..2 {
        let response = client::get(chain.edge.addr(), "/x", &[]).await;
        response.check(404, "x\n");
        assert_eq!(response.field("ETag"), Some("\"1\""));
        assert_eq!(response.field("X-Inside"), None);
        assert_eq!(response.head.names_beginning("grip-"), [""; 0]);
    }
    assert_eq!(chain.origin.count("/x"), 1);
}

/// Everybody but the first gets the old answer until the new one is there.
#[tokio::test]
async fn a_softly_purged_answer_is_stale() {
    let chain = Chain::start().await;
    chain.origin.serve("/x", Answer::ok(&[FRESH], "one\n"));
    chain.get("/x").await.check(200, "one\n");
    let soft = json!({"keys": ["gl-all"], "soft": true}).to_string();
    purge(chain.edge.addr(), &soft)
        .await
        .check(200, "{\"purged\":1}\n");
    let gate = Gate::new();
    chain
        .origin
        .serve("/x", Answer::ok(&[FRESH], "two\n").after(&gate));
    let mut first = Client::get(chain.addr(), "/x", &[]).await;
    chain.origin.until_count("/x", 2).await;
    let second = chain.get("/x").await;
    assert_eq!(
        (source(&second), second.text().as_str()),
        ("stale", "one\n")
    );
    gate.open();
    let first = first.response().await;
    assert_eq!((source(&first), first.text().as_str()), ("miss", "two\n"));
    let third = chain.get("/x").await;
    assert_eq!((source(&third), third.text().as_str()), ("hit", "two\n"));
    assert_eq!(chain.origin.count("/x"), 2);
}

#[tokio::test]
async fn stale_while_revalidate_makes_nobody_wait() {
    let chain = Chain::start().await;
    let fresh = "Cache-Control: s-maxage=60, stale-while-revalidate=60";
    chain.origin.serve("/x", Answer::ok(&[fresh], "one\n"));
    chain.get("/x").await.check(200, "one\n");
    let soft = json!({"keys": ["gl-all"], "soft": true}).to_string();
    purge(chain.edge.addr(), &soft).await;
    let gate = Gate::new();
    chain
        .origin
        .serve("/x", Answer::ok(&[fresh], "two\n").after(&gate));
    for _ in 0..3 {
        let response = chain.get("/x").await;
        assert_eq!(
            (source(&response), response.text().as_str()),
            ("stale", "one\n")
        );
        chain.origin.until_count("/x", 2).await;
    }
    gate.open();
    let renewed = async { while chain.get("/x").await.text() != "two\n" {} };
    e2e::within("the newer answer", renewed).await;
    assert_eq!(source(&chain.get("/x").await), "hit");
    assert_eq!(chain.origin.count("/x"), 2);
}
