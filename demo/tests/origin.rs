//! The origin from outside: exact answers, durable counts, publishes in order.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use grip::UnixTime;
use grip::signature::{SigningKey, VerifyingKey, grip_sig};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use live_counter::origin::{Config, Origin};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use warp::Filter as _;

const SECRET: &[u8] = b"a key for tests";

/// A hub's control port that writes down what is published.
struct RecordingHub {
    url: String,
    publishes: mpsc::UnboundedReceiver<serde_json::Value>,
}

/// What the recording hub does before it answers.
#[derive(Clone)]
enum Behaviour {
    /// Answers.
    Accept,
    /// Answers with this status.
    Refuse(StatusCode),
    /// Gives other tasks much room before it answers, and counts how many publishes wait at once.
    Dawdle { most_at_once: Arc<AtomicUsize> },
    /// Answers when the semaphore has a permit.
    Wait(Arc<Semaphore>),
}

impl RecordingHub {
    async fn start(behaviour: Behaviour) -> Self {
        let (sender, publishes) = mpsc::unbounded_channel();
        let at_once = Arc::new(AtomicUsize::new(0));
        let publish = warp::post()
            .and(warp::path!("publish"))
            .and(warp::header::exact("content-type", "application/json"))
            .and(warp::body::json())
            .then(move |body: serde_json::Value| {
                let (sender, behaviour) = (sender.clone(), behaviour.clone());
                let at_once = Arc::clone(&at_once);
                async move {
                    let before = at_once.fetch_add(1, Ordering::SeqCst);
                    sender.send(body).unwrap();
                    let status = behaviour.act(before + 1).await;
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    warp::reply::with_status("Published\n", status)
                }
            });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(warp::serve(publish).incoming(listener).run());
        Self { url, publishes }
    }

    /// The next publish, answered or not. Gives up long before the origin does.
    async fn next_publish(&mut self) -> serde_json::Value {
        let publish = timeout(Duration::from_secs(5), self.publishes.recv()).await;
        publish.expect("nothing was published").unwrap()
    }

    /// The value in the next publish, which must be complete and of this counter.
    async fn next_value(&mut self, counter: &str) -> u64 {
        let body = self.next_publish().await;
        let item = &body["items"][0];
        assert_eq!(item["channel"], format!("counter-{counter}"));
        assert_eq!(item["purge"], true);
        let content = item["formats"]["http-stream"]["content"].as_str().unwrap();
        let id = content.strip_prefix("id: ").unwrap().lines().next();
        id.unwrap().parse().unwrap()
    }
}

impl Behaviour {
    async fn act(&self, at_once_now: usize) -> StatusCode {
        match self {
            Self::Accept => StatusCode::OK,
            Self::Refuse(status) => *status,
            Self::Dawdle { most_at_once } => {
                most_at_once.fetch_max(at_once_now, Ordering::SeqCst);
                for _ in 0..100 {
                    yield_now().await;
                }
                StatusCode::OK
            }
            Self::Wait(semaphore) => {
                semaphore.acquire().await.unwrap().forget();
                StatusCode::OK
            }
        }
    }
}

async fn start(data: &Path, control: &str) -> Origin {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: data.to_owned(),
        grip_key: VerifyingKey::hs256(SECRET).unwrap(),
        control: control.parse().unwrap(),
    };
    Origin::start(config).await.unwrap()
}

/// An origin with a new store and a recording hub.
struct Setup {
    origin: Origin,
    hub: RecordingHub,
    data: PathBuf,
    _directory: tempfile::TempDir,
}

async fn set_up(behaviour: Behaviour) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("counters.redb");
    let hub = RecordingHub::start(behaviour).await;
    Setup {
        origin: start(&data, &hub.url).await,
        hub,
        data,
        _directory: directory,
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The headers as sorted lines, without the date.
    fn header_lines(&self) -> Vec<String> {
        let headers = self.headers.iter().filter(|(name, _)| *name != "date");
        let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<String> = headers.map(line).collect();
        lines.sort();
        lines
    }
}

async fn request(origin: &Origin, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", origin.addr()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

async fn get(origin: &Origin, path: &str, headers: &[(&str, &str)]) -> Answer {
    request(origin, Method::GET, path, headers).await
}

async fn post(origin: &Origin, path: &str) -> Answer {
    request(origin, Method::POST, path, &[]).await
}

fn signature_with(secret: &[u8], age_secs: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let signed_at = UnixTime(now.as_secs() - age_secs);
    grip_sig(&SigningKey::hs256(secret).unwrap(), "hub", signed_at)
}

fn signature() -> String {
    signature_with(SECRET, 0)
}

#[tokio::test]
async fn a_signed_event_stream_is_a_cacheable_instruction_with_the_current_value() {
    let setup = set_up(Behaviour::Accept).await;
    post(&setup.origin, "/counters/clicks").await;
    let signature = signature();
    let headers = [("accept", "text/event-stream"), ("grip-sig", &signature)];
    let answer = get(&setup.origin, "/counters/clicks", &headers).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header_lines(),
        [
            "cache-control: max-age=0, s-maxage=3600, stale-if-error=86400",
            "content-length: 41",
            "content-type: text/event-stream",
            "grip-channel: counter-clicks",
            "grip-hold: stream",
            r"grip-keep-alive: : keep-alive\n\n; format=cstring; timeout=20",
            "vary: Accept",
        ]
    );
    assert_eq!(
        answer.body,
        "id: 1\ndata: {\"name\":\"clicks\",\"value\":1}\n\n"
    );
}

#[tokio::test]
async fn the_instruction_is_understood_by_the_protocol_library() {
    let setup = set_up(Behaviour::Accept).await;
    let signature = signature();
    let headers = [("accept", "text/event-stream"), ("grip-sig", &signature)];
    let answer = get(&setup.origin, "/counters/clicks", &headers).await;
    let instruct =
        grip::instruct::Instruct::from_headers(&answer.headers, &grip::Limits::default()).unwrap();
    assert_eq!(instruct.channels[0].name.as_str(), "counter-clicks");
    let keep_alive = format!("{:?}", instruct.keep_alive.unwrap());
    assert!(keep_alive.contains(r": keep-alive\n\n"), "{keep_alive}");
}

#[tokio::test]
async fn signed_json_is_cacheable_and_tagged_but_not_held() {
    let setup = set_up(Behaviour::Accept).await;
    let signature = signature();
    let answer = get(
        &setup.origin,
        "/counters/clicks",
        &[("grip-sig", &signature)],
    )
    .await;
    assert_eq!(
        answer.header_lines(),
        [
            "cache-control: max-age=0, s-maxage=3600, stale-if-error=86400",
            "content-length: 28",
            "content-type: application/json",
            "grip-channel: counter-clicks",
            "vary: Accept",
        ]
    );
    assert_eq!(answer.body, "{\"name\":\"clicks\",\"value\":0}\n");
}

#[tokio::test]
async fn unsigned_json_is_for_nobodys_cache() {
    let setup = set_up(Behaviour::Accept).await;
    let answer = get(&setup.origin, "/counters/clicks", &[]).await;
    assert_eq!(
        answer.header_lines(),
        [
            "cache-control: no-store",
            "content-length: 28",
            "content-type: application/json",
            "vary: Accept",
        ]
    );
}

#[tokio::test]
async fn an_event_stream_without_a_valid_signature_is_refused() {
    let setup = set_up(Behaviour::Accept).await;
    let forged = signature_with(b"another key", 0);
    let expired = signature_with(SECRET, 2 * 3600);
    for signature in ["", "nonsense", &forged, &expired] {
        let headers = [("accept", "text/event-stream"), ("grip-sig", signature)];
        let answer = get(&setup.origin, "/counters/clicks", &headers).await;
        assert_eq!(answer.status, 501, "{signature}");
        assert!(answer.body.contains("no valid Grip-Sig"), "{}", answer.body);
        assert_eq!(answer.headers["vary"], "Accept");
        assert_eq!(answer.headers["cache-control"], "no-store");
        let is_grip = |name: &http::HeaderName| name.as_str().starts_with("grip-");
        assert!(!answer.headers.keys().any(is_grip), "{signature}");
    }
}

#[tokio::test]
async fn events_are_given_to_whoever_lists_them() {
    let setup = set_up(Behaviour::Accept).await;
    let signature = signature();
    for (accept, expected) in [
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream", "text/event-stream"),
        (
            "application/json, text/event-stream;q=0.5",
            "text/event-stream",
        ),
        ("*/*", "application/json"),
        ("text/*", "application/json"),
        ("text/event-stream-not", "application/json"),
        ("", "application/json"),
    ] {
        let headers = [("accept", accept), ("grip-sig", &signature)];
        let answer = get(&setup.origin, "/counters/clicks", &headers).await;
        assert_eq!(answer.headers["content-type"], expected, "{accept}");
    }
}

#[tokio::test]
async fn an_increment_is_counted_and_published() {
    let mut setup = set_up(Behaviour::Accept).await;
    let answer = post(&setup.origin, "/counters/clicks").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        "{\"name\":\"clicks\",\"value\":1,\"published\":true}\n"
    );
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(setup.hub.next_value("clicks").await, 1);
}

#[tokio::test]
async fn a_publish_that_fails_is_reported_and_the_increment_stays() {
    let setup = set_up(Behaviour::Refuse(StatusCode::SERVICE_UNAVAILABLE)).await;
    let answer = post(&setup.origin, "/counters/clicks").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        serde_json::json!({
            "name": "clicks",
            "value": 1,
            "published": false,
            "error": "the hub answered 503 Service Unavailable: Published",
        })
    );
    let answer = get(&setup.origin, "/counters/clicks", &[]).await;
    assert_eq!(answer.json()["value"], 1);
}

#[tokio::test]
async fn a_hub_that_is_down_is_reported_and_the_increment_stays() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("counters.redb");
    // Bound and dropped: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let origin = start(&data, &control).await;
    let answer = post(&origin, "/counters/clicks").await.json();
    assert_eq!(answer["value"], 1);
    assert_eq!(answer["published"], false);
    assert_eq!(answer["error"], "the hub does not answer");
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let setup = set_up(Behaviour::Accept).await;
    for _ in 0..3 {
        post(&setup.origin, "/counters/clicks").await;
    }
    setup.origin.stop().await;
    let origin = start(&setup.data, &setup.hub.url).await;
    let answer = get(&origin, "/counters/clicks", &[]).await;
    assert_eq!(answer.json()["value"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_are_published_one_by_one_in_order() {
    let most_at_once = Arc::new(AtomicUsize::new(0));
    let mut setup = set_up(Behaviour::Dawdle {
        most_at_once: Arc::clone(&most_at_once),
    })
    .await;
    let origin = Arc::new(setup.origin);
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let origin = Arc::clone(&origin);
        clients
            .spawn(async move { post(&origin, "/counters/clicks").await.json()["value"].clone() });
    }
    let answers = clients.join_all().await;
    let mut values: Vec<u64> = answers.iter().map(|v| v.as_u64().unwrap()).collect();
    values.sort_unstable();
    let expected: Vec<u64> = (1..=50).collect();
    assert_eq!(values, expected, "each client got a value of its own");

    let mut published = Vec::new();
    for _ in 0..50 {
        published.push(setup.hub.next_value("clicks").await);
    }
    assert_eq!(published, expected);
    assert_eq!(most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_slow_publish_of_one_counter_does_not_stop_the_others() {
    let gate = Arc::new(Semaphore::new(0));
    let mut setup = set_up(Behaviour::Wait(Arc::clone(&gate))).await;
    let origin = Arc::new(setup.origin);
    let mut clients = JoinSet::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        let origin = Arc::clone(&origin);
        clients.spawn(async move { post(&origin, &format!("/counters/{name}")).await });
    }
    // No publish is answered yet, so two that have begun are independent.
    let first = setup.hub.next_publish().await;
    let second = setup.hub.next_publish().await;
    assert_ne!(first["items"][0]["channel"], second["items"][0]["channel"]);
    gate.add_permits(names.len());
    clients.join_all().await;
}

#[tokio::test]
async fn an_update_is_finished_though_its_client_has_left() {
    let gate = Arc::new(Semaphore::new(0));
    let mut setup = set_up(Behaviour::Wait(Arc::clone(&gate))).await;
    let origin = Arc::new(setup.origin);
    let client = {
        let origin = Arc::clone(&origin);
        tokio::spawn(async move { post(&origin, "/counters/clicks").await })
    };
    assert_eq!(setup.hub.next_value("clicks").await, 1);
    client.abort();
    gate.add_permits(2);
    let answer = post(&origin, "/counters/clicks").await;
    assert_eq!(answer.json()["value"], 2);
    assert_eq!(setup.hub.next_value("clicks").await, 2);
}

#[tokio::test]
async fn stopping_waits_for_updates_that_were_taken() {
    let gate = Arc::new(Semaphore::new(0));
    let mut setup = set_up(Behaviour::Wait(Arc::clone(&gate))).await;
    let url = format!("http://{}/counters/clicks", setup.origin.addr());
    let client = tokio::spawn(async move {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::post(url).body(Full::<Bytes>::default()).unwrap();
        client.request(request).await.unwrap().status()
    });
    assert_eq!(setup.hub.next_value("clicks").await, 1);
    let finished = Arc::new(Mutex::new(false));
    let stop = tokio::spawn({
        let finished = Arc::clone(&finished);
        async move {
            setup.origin.stop().await;
            *finished.lock().unwrap() = true;
        }
    });
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!*finished.lock().unwrap(), "the publish is still open");
    gate.add_permits(1);
    assert_eq!(client.await.unwrap(), 200);
    stop.await.unwrap();
}

#[track_caller]
fn check_text(answer: &Answer, status: u16, start: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert!(answer.body.starts_with(start), "{}", answer.body);
    assert!(answer.body.ends_with('\n'), "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn bad_names_are_refused_clearly() {
    let setup = set_up(Behaviour::Accept).await;
    let long = "x".repeat(65);
    for (name, expected) in [
        ("", "the counter name is empty"),
        ("a%20b", "the counter name contains '%'"),
        ("a/b", "the counter name contains '/'"),
        ("a,b", "the counter name contains ','"),
        (&long, "the counter name has 65 bytes, 64 are allowed"),
    ] {
        let path = format!("/counters/{name}");
        check_text(&get(&setup.origin, &path, &[]).await, 400, expected);
        check_text(&post(&setup.origin, &path).await, 400, expected);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_clearly() {
    let setup = set_up(Behaviour::Accept).await;
    for path in ["/nothing", "/counters", "/favicon.ico"] {
        check_text(&get(&setup.origin, path, &[]).await, 404, "not found");
    }
    for (path, allowed) in [
        ("/counters/clicks", "GET, HEAD, POST"),
        ("/", "GET, HEAD"),
        ("/health", "GET, HEAD"),
    ] {
        let answer = request(&setup.origin, Method::DELETE, path, &[]).await;
        check_text(&answer, 405, "method not allowed");
        assert_eq!(answer.headers["allow"], allowed);
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let setup = set_up(Behaviour::Accept).await;
    let signature = signature();
    for accept in ["application/json", "text/event-stream"] {
        let headers = [("accept", accept), ("grip-sig", signature.as_str())];
        let get = get(&setup.origin, "/counters/clicks", &headers).await;
        let head = request(&setup.origin, Method::HEAD, "/counters/clicks", &headers).await;
        assert_eq!(head.header_lines(), get.header_lines());
        assert_eq!(head.body, "");
    }
}

#[tokio::test]
async fn the_page_is_one_file_with_the_elements_that_tests_look_for() {
    let setup = set_up(Behaviour::Accept).await;
    let answer = get(&setup.origin, "/", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    for id in ["value", "state", "source", "increment", "error"] {
        assert!(answer.body.contains(&format!(r#" id="{id}""#)), "{id}");
    }
    assert!(answer.body.contains(r#"aria-live="polite""#));
    assert!(answer.body.contains(&setup.hub.url), "for the publish line");
    assert!(!answer.body.contains("{{"), "every placeholder is filled");
    for resource in ["<link rel=\"stylesheet\"", "<script src", "<img", "@import"] {
        assert!(!answer.body.contains(resource), "{resource}");
    }
}

#[tokio::test]
async fn health_is_never_answered_by_a_cache() {
    let setup = set_up(Behaviour::Accept).await;
    check_text(&get(&setup.origin, "/health", &[]).await, 200, "ok");
}

#[tokio::test]
async fn two_origins_cannot_share_a_store() {
    let setup = set_up(Behaviour::Accept).await;
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: setup.data.clone(),
        grip_key: VerifyingKey::hs256(SECRET).unwrap(),
        control: setup.hub.url.parse().unwrap(),
    };
    let error = anyhow::Error::from(Origin::start(config).await.unwrap_err());
    let text = format!("{error:#}");
    assert!(text.contains("counters.redb"), "{text}");
    assert!(text.contains("already open"), "{text}");
}
