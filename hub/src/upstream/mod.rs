//! How requests reach origins: pools of connections, plain or TLS, one pool for each [`Endpoint`].
//!
//! Knows addresses, certificates and sockets; does not know routes or GRIP. Every thread that asks
//! origins has an [`Upstream`] of its own, and [`Upstream::send`] is the way in.

mod connect;
mod error;
mod reach;
#[cfg(test)]
mod tests;
mod tls;

use std::cell::RefCell;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::config::HttpAddress;
use crate::counters::Counters;
use connect::Connector;

pub(crate) use error::SendError;
pub(crate) use reach::Reach;
pub(crate) use tls::TlsConfig;

/// How long an unused connection is kept. Many origins close theirs after a minute; who closes
/// first never sends a request into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// Fields in an origin's response head, which take 64 bytes each while it is read.
const MAX_FIELDS: usize = 512;

/// Everything that decides which connections may be shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// The name or address to connect to, an IPv6 address with or without brackets.
    pub(crate) host: String,
    /// The port to connect to, not 0.
    pub(crate) port: u16,
    /// What protects the connection.
    pub(crate) security: Security,
}

impl From<&HttpAddress> for Endpoint {
    /// With `https`, the certificate must be for the host, and nobody else need be certified.
    fn from(address: &HttpAddress) -> Self {
        let security = if address.is_https() {
            Security::Tls(TlsRules {
                server_name: address.host().to_owned(),
                verification: Verification::Check,
                client_certificate: None,
            })
        } else {
            Security::Plain
        };
        Self {
            host: address.host().to_owned(),
            port: address.port(),
            security,
        }
    }
}

/// What protects a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// Nothing.
    Plain,
    /// TLS by these rules.
    Tls(TlsRules),
}

/// Who an origin must be, and who the hub is to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TlsRules {
    /// The name or address that the certificate must be for; a name is also sent as SNI.
    pub(crate) server_name: String,
    /// Whether the certificate counts.
    pub(crate) verification: Verification,
    /// The certificate to show when the origin asks for one.
    pub(crate) client_certificate: Option<ClientCertificatePaths>,
}

/// Whether an origin's certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verification {
    /// It must be valid, for the right name, and from somebody who is trusted.
    Check,
    /// Any will do; whoever is in between can read and change everything.
    Skip,
}

/// Where a client certificate is; both are PEM, and may be the same file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClientCertificatePaths {
    /// The certificate, followed by those of its issuers.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

/// A thread's way to all origins.
#[derive(Debug)]
pub(crate) struct Upstream<B> {
    tls: Arc<TlsConfig>,
    counters: Arc<Counters>,
    pools: RefCell<Pools<B>>,
}

impl<B> Upstream<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(crate) fn new(tls: Arc<TlsConfig>, counters: Arc<Counters>) -> Self {
        Self {
            tls,
            counters,
            pools: RefCell::new(Pools::new(Instant::now())),
        }
    }

    /// Sends a request, HTTP/1.x and not `CONNECT`, and waits for the head of the answer.
    ///
    /// Of the request's URI only path and query are sent; the `Host` field is sent as it is, and
    /// none is added. A request that found its pooled connection closed before it was sent goes out
    /// again on another one; nothing else is repeated. With an answer 101, the connection is for
    /// the caller alone, who gets it by [`hyper::upgrade::on`].
    ///
    /// Cancel safe: dropped, it ends the request.
    ///
    /// # Errors
    /// [`SendError`], at the latest after the connect timeout while there is no connection. Waits
    /// for the answer itself without limit.
    pub(crate) fn send(
        &self,
        endpoint: &Endpoint,
        reach: Reach,
        mut request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + Send + use<B> {
        self.counters.origin_requests.increment();
        let uri = on_constant_authority(request.uri());
        *request.uri_mut() = uri;
        let (mut pools, now) = (self.pools.borrow_mut(), Instant::now());
        pools.forget_idle(now);
        let answer = pools
            .client(endpoint, reach, now, || self.client(endpoint, reach))
            .request(request);
        async move { answer.await.map_err(SendError::from) }
    }

    fn client(&self, endpoint: &Endpoint, reach: Reach) -> Client<Connector, B> {
        let connector = Connector::new(endpoint, reach, &self.tls, Arc::clone(&self.counters));
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .set_host(false)
            .http1_max_headers(MAX_FIELDS)
            .build(connector)
    }
}

/// The same resource on an authority that is always the same: hyper's pools go by authority, and
/// here each endpoint has one for itself, whatever hosts its requests are for.
fn on_constant_authority(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(Authority::from_static("origin"))
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
        .expect("scheme, authority and path are each valid")
}

/// Connections that may be used again, by all that must be equal for that.
#[derive(Debug)]
struct Pools<B> {
    any: FxHashMap<Endpoint, Pool<B>>,
    public_only: FxHashMap<Endpoint, Pool<B>>,
    next_sweep: Instant,
}

/// The connections to one endpoint.
#[derive(Debug)]
struct Pool<B> {
    client: Client<Connector, B>,
    used: Instant,
}

impl<B> Pools<B> {
    fn new(now: Instant) -> Self {
        Self {
            any: FxHashMap::default(),
            public_only: FxHashMap::default(),
            next_sweep: now + IDLE_TIMEOUT,
        }
    }

    fn client(
        &mut self,
        endpoint: &Endpoint,
        reach: Reach,
        now: Instant,
        make: impl FnOnce() -> Client<Connector, B>,
    ) -> &Client<Connector, B> {
        let pools = match reach {
            Reach::Any => &mut self.any,
            Reach::PublicOnly => &mut self.public_only,
        };
        let pool = pools.entry(endpoint.clone()).or_insert_with(|| Pool {
            client: make(),
            used: now,
        });
        pool.used = now;
        &pool.client
    }

    /// Drops pools whose connections are gone. Requests that are still under way end properly.
    fn forget_idle(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + IDLE_TIMEOUT;
        for pools in [&mut self.any, &mut self.public_only] {
            pools.retain(|_, pool| now < pool.used + IDLE_TIMEOUT);
        }
    }
}
