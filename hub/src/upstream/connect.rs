//! Connections: name to addresses, addresses to a socket, socket to TLS.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use super::tls::{Handshake, TlsError, without_brackets};
use super::{Endpoint, Reach, Security, TlsConfig};
use crate::counters::Counters;

/// How long a connection may take to open, from the name to the end of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why there is no connection to an origin.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// All addresses are out of reach.
    #[error("all addresses are private")]
    Blocked,
    /// The name has no address, or nobody could be asked.
    #[error("cannot look up {host}: {error}")]
    Lookup { host: String, error: io::Error },
    /// No address accepts connections.
    #[error("{0}")]
    Tcp(String),
    /// TLS cannot be spoken.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// All together took too long.
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
}

/// A silent origin is asked whether it is there, and how often before it is taken for gone.
const VANISHED_AFTER: Duration = Duration::from_mins(1);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_RETRIES: u32 = 4;

/// Opens connections to one endpoint, whatever URI it is called with.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tcp: HttpConnector<Resolver>,
    tls: Option<Arc<Handshake>>,
    pub(super) timeout: Duration,
    counters: Arc<Counters>,
}

impl Connector {
    pub(super) fn new(
        endpoint: &Endpoint,
        reach: Reach,
        tls: &Arc<TlsConfig>,
        counters: Arc<Counters>,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(endpoint, reach));
        tcp.set_nodelay(true);
        // An origin that vanished without a word is found out, also where nobody speaks.
        tcp.set_keepalive(Some(VANISHED_AFTER));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEP_ALIVE_RETRIES));
        // Divides the time among the addresses, so that one that is silent leaves some for others.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = match &endpoint.security {
            Security::Plain => None,
            Security::Tls(rules) => Some(Handshake::new(Arc::clone(tls), rules.clone())),
        };
        Self {
            tcp,
            tls: tls.map(Arc::new),
            timeout: CONNECT_TIMEOUT,
            counters,
        }
    }

    async fn connect(mut self, uri: Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let stream = self.tcp.call(uri).await.map_err(tcp_error)?.into_inner();
        let stream = match self.tls {
            None => Stream::new(stream),
            Some(tls) => Stream::new(tls.perform(stream).await?),
        };
        self.counters.origin_connections.increment();
        Ok(TokioIo::new(stream))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<Result<TokioIo<Stream>, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connect, timeout) = (self.clone().connect(uri), self.timeout);
        Box::pin(async move {
            tokio::time::timeout(timeout, connect)
                .await
                .unwrap_or(Err(ConnectError::Timeout(timeout)))
        })
    }
}

/// What the resolver said if it was the resolver's fault.
fn tcp_error(error: impl Error + 'static) -> ConnectError {
    let text = chain(&error);
    match error.source().and_then(<dyn Error>::downcast_ref) {
        Some(ConnectError::Blocked) => ConnectError::Blocked,
        _ => ConnectError::Tcp(text),
    }
}

/// Knows the addresses of one endpoint, whatever name it is asked for.
///
/// All addresses come from here, also those that are no names, so that none is out of reach.
#[derive(Debug, Clone)]
struct Resolver {
    host: Arc<str>,
    port: u16,
    reach: Reach,
}

impl Resolver {
    fn new(endpoint: &Endpoint, reach: Reach) -> Self {
        Self {
            host: without_brackets(&endpoint.host).into(),
            port: endpoint.port,
            reach,
        }
    }

    async fn addresses(self) -> Result<std::vec::IntoIter<SocketAddr>, ConnectError> {
        let found = tokio::net::lookup_host((&*self.host, self.port)).await;
        let found: Vec<SocketAddr> = found
            .map_err(|error| ConnectError::Lookup {
                host: self.host.to_string(),
                error,
            })?
            .collect();
        let reached = found.iter().filter(|found| self.reach.allows(found.ip()));
        let reached: Vec<SocketAddr> = reached.copied().collect();
        if reached.is_empty() && !found.is_empty() {
            return Err(ConnectError::Blocked);
        }
        Ok(reached.into_iter())
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ConnectError;
    type Future = BoxFuture<Result<Self::Response, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        Box::pin(self.clone().addresses())
    }
}

/// An error and its causes.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Bytes in both directions.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to an origin, which remembers whether an answer has begun.
pub(super) struct Stream {
    io: Box<dyn Duplex>,
    answer: Answer,
}

/// Whether the origin has sent anything since the hub last did.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer(Arc<AtomicBool>);

impl Answer {
    pub(super) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set_begun(&self, has_begun: bool) {
        self.0.store(has_begun, Ordering::Relaxed);
    }
}

impl Stream {
    fn new(io: impl Duplex + 'static) -> Self {
        Self {
            io: Box::new(io),
            answer: Answer::default(),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.answer.clone())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.answer.set_begun(true);
        }
        poll
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answer.set_begun(false);
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answer.set_begun(false);
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
