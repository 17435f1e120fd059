//! Requests against small servers on loopback.

mod plain;
mod tls;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::config::OriginTls;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Gives each connection to `serve`, and returns the port.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// The next request's head; `None` at the end.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Says the same to every request, and ends the connection after what is no complete head. From a
/// request for an upgrade on, it echoes what comes, after a greeting.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: String,
    heads: mpsc::UnboundedSender<String>,
) {
    while let Some(head) = read_head(&mut stream).await {
        if head.contains("connection: upgrade\r\n") {
            return greet_and_echo(stream).await;
        }
        // Most tests don't ask for heads.
        let _ = heads.send(head);
        stream.write_all(answer.as_bytes()).await.unwrap();
        if !answer.contains("\r\n\r\n") {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

async fn greet_and_echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // In one write, so that the greeting is read with the head.
    let head = "HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nwelcome, ";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..count]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let _ = stream.shutdown().await;
}

/// Fails unless a connection that answers to an upgrade is its asker's alone.
async fn check_upgrade(upstream: &Upstream<Full<Bytes>>, endpoint: &Endpoint) {
    let mut request = request();
    for (name, value) in [(CONNECTION, "upgrade"), (UPGRADE, "echo")] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let mut response = upstream.send(endpoint, Reach::Any, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()[UPGRADE], "echo");
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    drop(response);
    let mut io = TokioIo::new(upgraded);
    io.write_all(b"client").await.unwrap();
    io.flush().await.unwrap();
    let mut received = [0; 15];
    io.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"welcome, client");

    get(upstream, endpoint).await.unwrap();
    assert_eq!(upstream.counters.origin_connections.value(), 2);

    io.write_all(b"last").await.unwrap();
    io.shutdown().await.unwrap();
    let mut received = String::new();
    io.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "last");
}

fn upstream(tls: &OriginTls) -> Upstream<Full<Bytes>> {
    Upstream::new(Arc::new(TlsConfig::new(tls)), Arc::default())
}

fn request() -> Request<Full<Bytes>> {
    Request::new(Full::default())
}

/// The answer's body.
async fn get(upstream: &Upstream<Full<Bytes>>, endpoint: &Endpoint) -> Result<String, SendError> {
    let response = upstream.send(endpoint, Reach::Any, request()).await?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}
