//! Waits until an HTTP server answers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Between two tries; short, because a start should not feel slow.
const PAUSE: Duration = Duration::from_millis(20);
/// One try may take this long, so that a server that hangs once is asked again.
const ONE_TRY: Duration = Duration::from_secs(2);
/// Bytes read of an answer; its status line is all that matters.
const MAX_ANSWER_BYTES: u64 = 4096;

/// Waits until `GET path` at `addr` is answered with 200, at most until `patience` is over.
///
/// The error says how the last try ended. Cancel safe.
pub async fn wait_until_ok(addr: SocketAddr, path: &str, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut last = anyhow::anyhow!("it was never asked");
    loop {
        let one_try = timeout(ONE_TRY, request_status(addr, path));
        match timeout_at(deadline, one_try).await {
            Ok(Ok(Ok(200))) => return Ok(()),
            Ok(Ok(Ok(status))) => last = anyhow::anyhow!("it answered with status {status}"),
            Ok(Ok(Err(error))) => last = error,
            Ok(Err(_)) => last = anyhow::anyhow!("it did not answer within {ONE_TRY:?}"),
            Err(_) => {
                return Err(last.context(format!(
                    "http://{addr}{path} was not ready after {patience:?}"
                )));
            }
        }
        sleep(PAUSE).await;
    }
}

/// The status of one `GET`, without an HTTP library: what is asked here is ours and tiny.
async fn request_status(addr: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    let text = String::from_utf8_lossy(&answer);
    let Some(status) = text.split(' ').nth(1) else {
        bail!("it answered with no status line");
    };
    status.parse().context("its status is no number")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives these answers to one connection each, then goes away.
    async fn serve(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        addr
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";

    #[tokio::test]
    async fn failures_are_tried_again() {
        let addr = serve(&[BAD_GATEWAY, "", OK]).await;
        wait_until_ok(addr, "/", Duration::from_secs(10))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn the_error_says_how_the_last_try_ended() {
        let addr = serve(&[BAD_GATEWAY; 100]).await;
        let error = wait_until_ok(addr, "/x", Duration::from_millis(10))
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("/x was not ready"), "{text}");
    }
}
