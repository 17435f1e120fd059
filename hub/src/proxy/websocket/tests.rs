//! Handshakes against small origins on loopback.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use grip::websocket::over_http::Request;
use http::Request as HttpRequest;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use super::super::Content;
use super::*;
use crate::config::{Config, RawConfig};
use crate::counters::Counters;
use crate::exchange::ExchangeError;
use crate::routes::{Routes, parse};
use crate::upstream::TlsConfig;

/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// An origin that gives each request to its script.
struct Origin {
    port: u16,
    asked: mpsc::UnboundedReceiver<Exchange>,
}

/// A request at the origin, which waits for its answer.
struct Exchange {
    head: String,
    body: String,
    answer: oneshot::Sender<String>,
}

impl Origin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asking, asked) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, asking.clone()));
            }
        });
        Self { port, asked }
    }

    async fn asked(&mut self) -> Exchange {
        let asked = tokio::time::timeout(PATIENCE, self.asked.recv()).await;
        asked.expect("a request in time").expect("a request")
    }
}

impl Exchange {
    fn answer(self, answer: &str) {
        self.answer.send(answer.to_owned()).unwrap();
    }

    /// Answers a handshake as a WebSocket server.
    fn accept(self, more: &str) {
        let key = self.field("sec-websocket-key").to_owned();
        let accept = opening::accept(key.as_bytes());
        self.answer(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{more}\r\n",
            accept.to_str().unwrap()
        ));
    }

    fn field(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn has(&self, name: &str) -> bool {
        self.head.contains(&format!("\r\n{name}: "))
    }
}

async fn serve(mut stream: TcpStream, asking: mpsc::UnboundedSender<Exchange>) {
    while let Some((head, body)) = read_request(&mut stream).await {
        let (answer, answered) = oneshot::channel();
        let exchange = Exchange { head, body, answer };
        if asking.send(exchange).is_err() {
            return;
        }
        let Ok(answer) = answered.await else {
            return;
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

/// A proxy with these routes, in which `PORT` is the origin's.
fn proxy(routes: &str, port: u16) -> Rc<Proxy> {
    proxy_with(&RawConfig::default(), routes, port)
}

fn proxy_with(raw: &RawConfig, routes: &str, port: u16) -> Rc<Proxy> {
    let config: Config = raw.check(Path::new("")).unwrap();
    let routes = routes.replace("PORT", &port.to_string());
    let routes: Arc<Routes> = Arc::new(parse(&routes).unwrap());
    let tls = Arc::new(TlsConfig::new(&config.origin_tls));
    let (_, routes) = watch::channel(routes);
    let counters = Arc::new(Counters::default());
    Rc::new(Proxy::new(Arc::new(config), counters, tls, routes))
}

/// A handshake with these fields besides its own.
fn handshake(fields: &[(&'static str, &'static str)]) -> Box<ClientRequest> {
    let mut request = HttpRequest::new(());
    *request.uri_mut() = "/chat?room=1".parse().unwrap();
    for (name, value) in [
        ("host", "app.example"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ]
    .iter()
    .chain(fields)
    {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(*name, value);
    }
    let (head, ()) = request.into_parts();
    Box::new(ClientRequest {
        head,
        content: Content::complete(Bytes::new()),
        peer: ([192, 0, 2, 9], 4711).into(),
        again: None,
    })
}

/// Runs a test and the tasks that it starts on this thread.
async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

fn start(outcome: Outcome) -> (Box<WebSocketStart>, Held) {
    let Outcome::Hold(held) = outcome else {
        panic!("{outcome:?}");
    };
    let HoldKind::WebSocket(start) = held.hold.kind else {
        panic!("{:?}", held.hold.kind);
    };
    let rest = Hold {
        kind: HoldKind::Stream {
            start: Bytes::new(),
            framing: crate::engine::StreamFraming::Plain,
            keep_alive: None,
            then: crate::engine::AfterStart::Items,
            events: crate::engine::Events::Plain,
        },
        ..held.hold
    };
    (
        start,
        Held {
            hold: rest,
            ..*held
        },
    )
}

async fn check_refused(outcome: Outcome, status: u16, body: &str) {
    let Outcome::Response(response) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(response.status(), status);
    let found = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(found, body.as_bytes());
}

const ERROR: &str = "Error while proxying to origin.\n";
const OPENED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n\
                      Sec-WebSocket-Extensions: grip; message-prefix=\"\"\r\n\
                      Sec-WebSocket-Protocol: chat\r\nContent-Length: 6\r\n\r\nOPEN\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n\
                    Content-Length: 0\r\n\r\n";

#[tokio::test]
async fn an_origin_opens_over_http() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("*,prefix=p- 127.0.0.1:PORT,over_http,sub=all", origin.port);
        let cookie = ("cookie", "sid=abc");
        let answer = async {
            let asked = origin.asked().await;
            assert!(asked.head.starts_with("POST /chat?room=1 HTTP/1.1\r\n"));
            assert_eq!(asked.body, "OPEN\r\n");
            assert_eq!(asked.field("host"), "app.example");
            assert_eq!(asked.field("cookie"), "sid=abc");
            assert_eq!(asked.field("sec-websocket-extensions"), "grip");
            assert!(asked.has("grip-sig") && asked.has("connection-id"));
            assert!(!asked.has("upgrade") && !asked.has("connection"));
            asked.answer(OPENED);
        };
        let request = handshake(&[cookie, ("meta-user", "eve")]);
        let (outcome, ()) = tokio::join!(proxy.handle(request), answer);
        let (start, held) = start(outcome);
        assert_eq!(
            start.head,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             sec-websocket-protocol: chat\r\n\r\n"
        );
        assert!(start.extension.is_some());
        assert!(matches!(start.origin, OriginStart::OverHttp { .. }));
        assert_eq!(held.hold.slots.len(), 1, "the route's own channel");
        assert_eq!(start.handshake.target().subscribe.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_does_not_open_a_websocket_is_the_clients_answer() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("*,debug 127.0.0.1:PORT,over_http", origin.port);
        for (answer, status, body) in [
            (
                "HTTP/1.1 403 No Way\r\nContent-Length: 2\r\n\r\nno",
                403,
                "no",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                200,
                "hello",
            ),
            (DONE, 502, ERROR),
            (&OPENED.replace("OPEN\r\n", "PONG\r\n"), 502, ERROR),
            (&OPENED.replace("OPEN\r\n", "OPEN 9"), 502, ERROR),
        ] {
            let told = async { origin.asked().await.answer(answer) };
            let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
            check_refused(outcome, status, body).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_rejection_is_cut() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("* 127.0.0.1:PORT,over_http", origin.port);
        let body = "x".repeat(100_001);
        let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: 100001\r\n\r\n{body}");
        let told = async { origin.asked().await.answer(&answer) };
        let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
        check_refused(outcome, 404, &body[1..]).await;
    })
    .await;
}

/// Nobody listens there.
async fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn targets_out_of_reach_are_passed_over() {
    local(async {
        let mut origin = Origin::start().await;
        let unused = unused_port().await;
        for transport in ["", ",over_http"] {
            let targets = format!("* 127.0.0.1:{unused}{transport} 127.0.0.1:PORT,over_http");
            let proxy = proxy(&targets, origin.port);
            let told = async { origin.asked().await.answer(OPENED) };
            let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
            let (start, _) = start(outcome);
            let target = start.handshake.target().to_string();
            assert_eq!(target, format!("127.0.0.1:{}", origin.port));
        }
        let nobody = proxy("*,debug 127.0.0.1:PORT,over_http", unused);
        let text = format!("Unable to connect to any targets. Tried: 127.0.0.1:{unused}\n");
        check_refused(nobody.handle(handshake(&[])).await, 502, &text).await;
        let other_host = proxy("x 127.0.0.1:PORT", unused);
        let text = "Route not found\n";
        check_refused(other_host.handle(handshake(&[])).await, 502, text).await;
    })
    .await;
}

#[tokio::test]
async fn the_origin_of_a_client_that_left_is_told_so() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("* 127.0.0.1:PORT,over_http", origin.port);
        let this = Rc::clone(&proxy);
        let client = tokio::task::spawn_local(async move { this.handle(handshake(&[])).await });
        let open = origin.asked().await;
        let id = open.field("connection-id").to_owned();
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        open.answer(OPENED);
        let last = origin.asked().await;
        assert_eq!(last.body, "DISCONNECT\r\n");
        assert_eq!(last.field("connection-id"), id);
        last.answer(DONE);
    })
    .await;
}

/// It is no reason to say it again.
#[tokio::test]
async fn a_farewell_that_is_answered_with_nonsense_was_said() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("* 127.0.0.1:PORT,over_http", origin.port);
        for _ in 0..2 {
            let this = Rc::clone(&proxy);
            let client = tokio::task::spawn_local(async move { this.handle(handshake(&[])).await });
            let open = origin.asked().await;
            assert_eq!(open.body, "OPEN\r\n");
            client.abort();
            assert!(client.await.unwrap_err().is_cancelled());
            open.answer(OPENED);
            let last = origin.asked().await;
            assert_eq!(last.body, "DISCONNECT\r\n");
            last.answer(OPENED);
        }
    })
    .await;
}

#[tokio::test]
async fn a_hold_that_nobody_takes_over_is_told_to_the_origin() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("* 127.0.0.1:PORT,over_http", origin.port);
        for taken in [true, false] {
            let told = async { origin.asked().await.answer(OPENED) };
            let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
            let (start, mut held) = start(outcome);
            let farewell = held.farewell.take().unwrap();
            if taken {
                farewell.forget();
            } else {
                drop(farewell);
                let last = origin.asked().await;
                assert_eq!(last.body, "DISCONNECT\r\n");
                assert_eq!(last.field("connection-id"), start.handshake.id());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_origin_opens_a_websocket_of_its_own() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("* 127.0.0.1:PORT", origin.port);
        let answer = async {
            let asked = origin.asked().await;
            assert!(asked.head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"));
            assert_eq!(asked.field("upgrade"), "websocket");
            assert_eq!(asked.field("connection"), "Upgrade");
            assert_eq!(asked.field("sec-websocket-version"), "13");
            assert_eq!(asked.field("sec-websocket-extensions"), "grip");
            assert_eq!(asked.field("sec-websocket-protocol"), "chat");
            assert_ne!(asked.field("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
            assert!(asked.has("grip-sig") && !asked.has("content-length"));
            asked.accept("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: grip\r\n");
        };
        let request = handshake(&[
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ]);
        let (outcome, ()) = tokio::join!(proxy.handle(request), answer);
        let (start, Held { origin, .. }) = start(outcome);
        assert!(matches!(start.origin, OriginStart::Native));
        assert!(start.extension.is_some() && origin.is_some());
        let head = std::str::from_utf8(&start.head).unwrap();
        assert!(
            head.ends_with("xOo=\r\nsec-websocket-protocol: chat\r\n\r\n"),
            "{head}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_says_nonsense_opens_nothing() {
    local(async {
        let mut origin = Origin::start().await;
        let proxy = proxy("* 127.0.0.1:PORT", origin.port);
        let told = async {
            let asked = origin.asked().await;
            asked.accept("Sec-WebSocket-Extensions: permessage-deflate\r\n");
        };
        let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
        check_refused(outcome, 502, ERROR).await;
        let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
        let told = async { origin.asked().await.answer(answer) };
        let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
        check_refused(outcome, 401, "no").await;
    })
    .await;
}

#[tokio::test]
async fn the_hub_answers_for_the_test_target() {
    local(async {
        let proxy = proxy("*,path_beg=/t/ test\n* test", 1);
        for (path, names) in [("/ws?channel=a&channel=b", 2), ("/t/ws/", 1)] {
            let mut request = handshake(&[]);
            request.head.uri = path.parse().unwrap();
            let (start, _) = start(proxy.handle(request).await);
            let OriginStart::Test(channels) = &start.origin else {
                panic!("{:?}", start.origin);
            };
            assert_eq!(channels.len(), names);
            assert_eq!(start.extension.unwrap().prefix(), b"");
        }
        let text = "no such test resource\n";
        check_refused(proxy.handle(handshake(&[])).await, 404, text).await;
    })
    .await;
}

/// Opens a WebSocket at an origin with this target, and exchanges events.
async fn exchange(origin: &mut Origin, answer: Option<&str>) -> Result<Bytes, ExchangeError> {
    let proxy = proxy("* 127.0.0.1:PORT,over_http", origin.port);
    let told = async { origin.asked().await.answer(OPENED) };
    let (outcome, ()) = tokio::join!(proxy.handle(handshake(&[])), told);
    let (start, held) = start(outcome);
    held.farewell.unwrap().forget();
    let request = Request {
        body: Bytes::from_static(b"TEXT 2\r\nhi\r\n"),
        replayed: 0,
    };
    let told = async {
        let asked = origin.asked().await;
        assert_eq!(asked.body, "TEXT 2\r\nhi\r\n");
        assert_eq!(asked.field("meta-user"), "alice");
        match answer {
            Some(answer) => asked.answer(answer),
            None => drop(asked),
        }
    };
    let mut meta = HeaderMap::new();
    meta.insert("meta-user", HeaderValue::from_static("alice"));
    let exchange = proxy.exchange_events(&start.handshake, request, meta);
    let (exchanged, ()) = tokio::join!(exchange, told);
    let failures = u64::from(exchanged.is_err());
    assert_eq!(proxy.counters.exchange_errors.value(), failures);
    exchanged.map(|(_, body)| body)
}

#[tokio::test]
async fn only_events_answer_events() {
    local(async {
        let mut origin = Origin::start().await;
        let body = exchange(&mut origin, Some(OPENED)).await.unwrap();
        assert_eq!(body, "OPEN\r\n");
        let large = "x".repeat(1_000_001);
        for answer in [
            None,
            Some("nonsense\r\n\r\n".to_owned()),
            Some(DONE.replace("200 OK", "201 Created")),
            Some(DONE.replace("application/websocket-events", "text/plain")),
            Some(DONE.replace(" 0\r\n\r\n", &format!(" 1000001\r\n\r\n{large}"))),
        ] {
            let error = exchange(&mut origin, answer.as_deref()).await.unwrap_err();
            assert!(matches!(error, ExchangeError::Failed(_)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn events_that_reach_nobody_may_be_sent_again() {
    local(async {
        let proxy = proxy("* 127.0.0.1:PORT,over_http", unused_port().await);
        let route = Arc::clone(&proxy.routes.now().all()[0]);
        let handshake = Handshake::new(Shake {
            route,
            path: &root(),
            headers: &HeaderMap::new(),
            security: crate::routes::Security::Plain,
            trust: Trust::Client,
            offer: Offer::Grip,
            tells_errors: false,
        });
        let request = Request {
            body: Bytes::new(),
            replayed: 0,
        };
        let exchange = proxy.exchange_events(&handshake, request, HeaderMap::new());
        let error = exchange.await.unwrap_err();
        assert!(matches!(error, ExchangeError::Unsent(_)), "{error:?}");
    })
    .await;
}

/// A proxy in front, which proves that it is one.
fn trusted(extensions: &'static str) -> Box<ClientRequest> {
    let key = grip::signature::SigningKey::hs256(b"front").unwrap();
    let token = grip::signature::grip_sig(&key, "front", unix_now());
    let mut request = handshake(&[("sec-websocket-extensions", extensions)]);
    let token = HeaderValue::try_from(token).unwrap();
    request.head.headers.insert("grip-sig", token);
    request
}

#[tokio::test]
async fn a_grip_proxy_in_front_speaks_grip_for_itself() {
    local(async {
        let mut origin = Origin::start().await;
        let mut raw = RawConfig::default();
        raw.grip.upstream_key = Some("front".to_owned());
        let proxy = proxy_with(&raw, "* 127.0.0.1:PORT,over_http", origin.port);
        for (offered, accepted) in [("x, grip", true), ("x", false)] {
            let request = trusted(offered);
            let token = request.head.headers["grip-sig"].clone();
            let told = async {
                let asked = origin.asked().await;
                assert_eq!(asked.field("grip-sig"), token);
                assert_eq!(asked.has("sec-websocket-extensions"), accepted);
                asked.answer(OPENED);
            };
            let (outcome, ()) = tokio::join!(proxy.handle(request), told);
            let (start, _) = start(outcome);
            assert_eq!(start.extension, None);
            let head = std::str::from_utf8(&start.head).unwrap();
            let told = "\r\nsec-websocket-extensions: grip; message-prefix=\"\"\r\n";
            assert_eq!(head.contains(told), accepted, "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_websocket_takes_its_own_route_and_is_named_by_its_scheme() {
    local(async {
        let mut origin = Origin::start().await;
        let mut raw = RawConfig::default();
        raw.forwarded.accept_proto = Some(true);
        let routes = "*,proto=ws,path_beg=/chat,replace_beg=/ws 127.0.0.1:PORT,over_http\n* test";
        let proxy = proxy_with(&raw, routes, origin.port);
        let told = async {
            let asked = origin.asked().await;
            assert!(asked.head.starts_with("POST /ws?room=1 HTTP/1.1\r\n"));
            assert_eq!(asked.field("x-forwarded-proto"), "wss");
            asked.answer(OPENED);
        };
        let request = handshake(&[("x-forwarded-proto", "https")]);
        let (outcome, ()) = tokio::join!(proxy.handle(request), told);
        let (start, _) = start(outcome);
        let behalf = start.handshake.behalf();
        assert_eq!(behalf.uri, "https://app.example/ws?room=1");
    })
    .await;
}
