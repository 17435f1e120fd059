//! Requests against small servers on loopback.

mod plain;
mod tls;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
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

/// Says the same to every request, and ends the connection after what is no complete head.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: String,
    heads: mpsc::UnboundedSender<String>,
) {
    while let Some(head) = read_head(&mut stream).await {
        // Most tests don't ask for heads.
        let _ = heads.send(head);
        stream.write_all(answer.as_bytes()).await.unwrap();
        if !answer.contains("\r\n\r\n") {
            break;
        }
    }
    let _ = stream.shutdown().await;
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
