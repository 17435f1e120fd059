//! What is sent, which connections are shared, and what goes wrong.

use http::header::HOST;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::net::TcpSocket;

use super::*;

/// Says the same to everybody.
struct Server {
    port: u16,
    heads: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(text: impl Into<String>) -> Self {
        let text = text.into();
        let (sender, heads) = mpsc::unbounded_channel();
        let port = listen(move |stream| answer(stream, text.clone(), sender.clone())).await;
        Self { port, heads }
    }

    fn endpoint(&self) -> Endpoint {
        plain("127.0.0.1", self.port)
    }
}

fn plain(host: &str, port: u16) -> Endpoint {
    Endpoint {
        host: host.to_owned(),
        port,
        security: Security::Plain,
    }
}

fn upstream() -> Upstream<Full<Bytes>> {
    super::upstream(&OriginTls::default())
}

#[tokio::test]
async fn only_path_query_and_the_given_host_are_sent() {
    let mut server = Server::start(OK).await;
    let upstream = upstream();
    for (uri, target) in [
        ("/a?b", "/a?b"),
        ("http://elsewhere/a?b", "/a?b"),
        ("/", "/"),
        ("*", "*"),
    ] {
        let mut request = request();
        *request.uri_mut() = uri.parse().unwrap();
        request
            .headers_mut()
            .insert(HOST, "Example.com:8".parse().unwrap());
        let response = upstream.send(&server.endpoint(), Reach::Any, request).await;
        response.unwrap().into_body().collect().await.unwrap();
        let expected = format!("GET {target} HTTP/1.1\r\nhost: Example.com:8\r\n\r\n");
        assert_eq!(server.heads.recv().await.unwrap(), expected);
    }
    get(&upstream, &server.endpoint()).await.unwrap();
    let head = server.heads.recv().await.unwrap();
    assert_eq!(head, "GET / HTTP/1.1\r\n\r\n", "no field is added");
}

#[tokio::test]
async fn a_connection_is_used_again_for_the_same_endpoint_only() {
    let server = Server::start(OK).await;
    let upstream = upstream();
    assert_eq!(get(&upstream, &server.endpoint()).await.unwrap(), "ok");
    assert_eq!(get(&upstream, &server.endpoint()).await.unwrap(), "ok");
    assert_eq!(upstream.counters.origin_requests.value(), 2);
    assert_eq!(upstream.counters.origin_connections.value(), 1);
    get(&upstream, &plain("localhost", server.port))
        .await
        .unwrap();
    assert_eq!(upstream.counters.origin_connections.value(), 2);
}

#[tokio::test]
async fn an_upgraded_connection_is_given_away() {
    let server = Server::start(OK).await;
    check_upgrade(&upstream(), &server.endpoint()).await;
}

#[tokio::test]
async fn five_hundred_fields_are_readable() {
    let fields = "a: b\r\n".repeat(511);
    let server = Server::start(OK.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"))).await;
    assert_eq!(get(&upstream(), &server.endpoint()).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_head_with_too_many_fields_is_no_answer() {
    let fields = "a: b\r\n".repeat(512);
    let server = Server::start(OK.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"))).await;
    let error = get(&upstream(), &server.endpoint()).await.unwrap_err();
    assert!(matches!(error, SendError::Other(_)), "{error}");
}

#[tokio::test]
async fn an_end_before_the_answer_is_told_from_one_within_it() {
    let silent = Server::start("").await;
    let error = get(&upstream(), &silent.endpoint()).await.unwrap_err();
    assert!(matches!(error, SendError::Closed), "{error}");

    let abrupt = Server::start("H").await;
    let error = get(&upstream(), &abrupt.endpoint()).await.unwrap_err();
    assert!(matches!(error, SendError::Other(_)), "{error}");

    let unclear = Server::start("What?\r\n\r\n").await;
    let error = get(&upstream(), &unclear.endpoint()).await.unwrap_err();
    assert!(matches!(error, SendError::Other(_)), "{error}");
}

#[tokio::test]
async fn an_end_before_the_answer_is_one_on_a_used_connection_too() {
    let port = listen(async |mut stream| {
        read_head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let (upstream, endpoint) = (upstream(), plain("127.0.0.1", port));
    get(&upstream, &endpoint).await.unwrap();
    let error = get(&upstream, &endpoint).await.unwrap_err();
    assert!(matches!(error, SendError::Closed), "{error}");
    assert_eq!(upstream.counters.origin_connections.value(), 1);
}

#[tokio::test]
async fn a_body_that_fails_is_not_the_origins_fault() {
    let server = Server::start("").await;
    let upstream = Upstream::new(
        Arc::new(TlsConfig::new(&OriginTls::default())),
        Arc::default(),
    );
    let parts = [Ok(Frame::data(Bytes::from("a"))), Err("lost")];
    let body = StreamBody::new(futures::stream::iter(parts));
    let request = Request::post("/").body(body).unwrap();
    let answer = upstream.send(&server.endpoint(), Reach::Any, request);
    let error = answer.await.unwrap_err();
    assert!(matches!(error, SendError::Other(_)), "{error}");
    assert!(error.to_string().contains("lost"), "{error}");
}

#[tokio::test]
async fn nobody_who_listens_is_no_connection() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = plain("127.0.0.1", socket.local_addr().unwrap().port());
    let error = get(&upstream(), &endpoint).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_name_without_address_is_no_connection() {
    // Too long for any name server to be asked.
    let name = "a".repeat(64);
    let error = get(&upstream(), &plain(&name, 80)).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error}");
    assert!(error.to_string().contains("cannot look up aaa"), "{error}");
}

#[tokio::test]
async fn private_addresses_are_blocked_in_every_form() {
    let server = Server::start(OK).await;
    let upstream = upstream();
    let hosts = [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "::1",
        "::ffff:127.0.0.1",
        "2130706433",
        "0.0.0.0",
        "10.0.0.1",
    ];
    for host in hosts {
        let endpoint = plain(host, server.port);
        let answer = upstream.send(&endpoint, Reach::PublicOnly, request()).await;
        assert!(
            matches!(answer, Err(SendError::Blocked)),
            "{host} {answer:?}"
        );
    }
    assert_eq!(upstream.counters.origin_connections.value(), 0);
}

#[tokio::test]
async fn a_connection_of_those_who_may_is_not_lent_to_those_who_may_not() {
    let server = Server::start(OK).await;
    let upstream = upstream();
    get(&upstream, &server.endpoint()).await.unwrap();
    let answer = upstream
        .send(&server.endpoint(), Reach::PublicOnly, request())
        .await;
    assert!(matches!(answer, Err(SendError::Blocked)), "{answer:?}");
}

#[test]
fn pools_that_nobody_uses_are_forgotten() {
    let upstream = upstream();
    let start = Instant::now();
    let mut pools = Pools::new(start);
    let mut check = |host, now: Instant, expected: &str| {
        pools.forget_idle(now);
        let endpoint = plain(host, 80);
        pools.client(&endpoint, Reach::Any, now, || {
            upstream.client(&endpoint, Reach::Any)
        });
        let mut hosts: Vec<_> = pools.any.keys().map(|key| key.host.clone()).collect();
        hosts.sort();
        assert_eq!(hosts.concat(), expected);
    };
    check("a", start, "a");
    check("b", start, "ab");
    check("a", start + IDLE_TIMEOUT / 2, "ab");
    check("c", start + IDLE_TIMEOUT, "ac");
}
