//! Where a shard's clients come from.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// How long nobody is accepted after a failure.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts clients, and waits out a lack of descriptors, which closing connections cure.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    /// Set after a failure. Kept here, for other things happen while [`Self::accept`] waits.
    resumes_at: Option<Instant>,
}

impl Listener {
    pub(super) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            resumes_at: None,
        })
    }

    /// The next connection.
    ///
    /// Cancel safe.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(at) = self.resumes_at {
                tokio::time::sleep_until(at).await;
                self.resumes_at = None;
            }
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.resumes_at = Some(Instant::now() + PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[tokio::test(start_paused = true)]
    async fn a_pause_lasts_whatever_else_happens() {
        // It never listens, so that accepting fails.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut listener = Listener::new(socket.into()).unwrap();
        let begin = Instant::now();
        let mut pauses = Vec::new();
        while begin.elapsed() < 2 * PAUSE {
            tokio::select! {
                biased;
                _ = listener.accept() => panic!("there is nobody"),
                () = tokio::time::sleep(PAUSE / 10) => {}
            }
            pauses.extend(listener.resumes_at);
        }
        pauses.dedup();
        let expected = [1, 2, 3].map(|pause| begin + pause * PAUSE);
        assert!(expected.starts_with(&pauses), "{pauses:?}");
        assert!(pauses.len() >= 2, "{pauses:?}");
    }
}
