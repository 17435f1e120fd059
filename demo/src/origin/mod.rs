//! The origin: an ordinary web application that speaks GRIP through headers and publishes.
//!
//! It holds no connection. An event stream is answered with the current value and the instruction to
//! hold the client on the counter's channel; an increment is published there. `answers` decides
//! what each request gets, `updates` keeps increments and publishes in one order, `publisher`
//! talks to the hub, `store` to the disk. Start with [`Origin::start`].

mod answers;
mod publisher;
mod store;
mod updates;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use grip::signature::VerifyingKey;
use http::{HeaderMap, Method, Response, Uri};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use warp::Filter as _;
use warp::path::FullPath;

pub use store::StoreError;

use answers::Application;
use publisher::Publisher;
use store::Store;
use updates::Updates;

/// How long open requests may take when the origin stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What the origin needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; port 0 is any free port.
    pub listen: SocketAddr,
    /// The file with the counters; made if it is missing.
    pub data: PathBuf,
    /// Verifies GRIP `Grip-Sig`: who has this key may be given instructions.
    pub grip_key: VerifyingKey,
    /// The hub's control address, such as `http://127.0.0.1:5561`.
    pub control: Uri,
}

/// Why the origin could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// The counters cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("the origin cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running origin. Stop it with [`Origin::stop`]; dropping it ends it without finishing anything.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    updates: Updates,
}

impl Origin {
    /// Opens the counters and serves them; the socket is bound when this returns.
    ///
    /// Cancel safety: nothing runs if the future is dropped.
    pub async fn start(config: Config) -> Result<Self, OriginError> {
        let store = Arc::new(Store::open(&config.data)?);
        let listening = |source| OriginError::Listen {
            addr: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let addr = listener.local_addr().map_err(listening)?;
        let publisher = Publisher::new(&config.control);
        let updates = Updates::start(&store, &publisher);
        let application = Application {
            store,
            grip_key: config.grip_key,
            updates: updates.queue(),
            control: config.control,
        };
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, Arc::new(application), stopped));
        Ok(Self {
            addr,
            stop,
            server,
            updates,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether it has ended without being told to.
    pub fn is_finished(&self) -> bool {
        self.server.is_finished()
    }

    /// Accepts nothing more, finishes open requests and the updates behind them, then closes the
    /// store.
    pub async fn stop(mut self) {
        // The server is listening for this unless it is gone already.
        let _ = self.stop.send(());
        if timeout(STOP_PATIENCE, &mut self.server).await.is_err() {
            tracing::warn!("the origin still had open requests when it stopped");
            self.server.abort();
        }
        self.updates.stop().await;
    }
}

async fn serve(
    listener: TcpListener,
    application: Arc<Application>,
    stopped: oneshot::Receiver<()>,
) {
    // One filter for everything: warp's own refusals would leave open what a 404 or 405 says.
    let answer = warp::method()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .then(move |method: Method, path: FullPath, headers: HeaderMap| {
            let application = Arc::clone(&application);
            async move { answer(&application, &method, path.as_str(), &headers).await }
        });
    let stopped = async {
        // A dropped sender means stop, too.
        let _ = stopped.await;
    };
    warp::serve(answer)
        .incoming(listener)
        .graceful(stopped)
        .run()
        .await;
}

async fn answer(
    application: &Application,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Bytes> {
    let response = application.answer(method, path, headers).await;
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response
}
