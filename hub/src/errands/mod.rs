//! The thread that runs errands: it follows links, asks servers about items, and says who is gone.
//!
//! One thread for all shards, so that streams which wait for the same link share one request
//! wherever they are held. [`ErrandsHandle`] is the way in; what comes of an errand goes back to
//! its shard as a [`Report`].

mod ask;
mod follow;
mod send;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::config::Config;
use crate::counters::Counters;
use crate::errand::{Errand, ErrandKind, Report};
use crate::proxy::CurrentRoutes;
use crate::routes::Routes;
use crate::upstream::{TlsConfig, Upstream};
use ask::Paces;
use follow::Fetches;

/// Words to origins about clients that are gone, under way at a time; more wait.
const MAX_GONE: usize = 100;

/// Such words that wait or are under way; more are dropped and counted.
const MAX_FAREWELLS: usize = 10_000;
/// How long the end of the hub waits for such words.
const FAREWELL: Duration = Duration::from_secs(5);

/// The way to the thread. It runs until the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct ErrandsHandle {
    /// Not bounded by itself: a held connection has one errand in it at most, and one more when
    /// it is gone.
    errands: mpsc::UnboundedSender<Errand>,
}

impl ErrandsHandle {
    pub(crate) fn run(&self, errand: Errand) {
        // Fails only when the thread is gone, and then there is nobody to tell.
        let _ = self.errands.send(errand);
    }
}

/// What all errands need.
#[derive(Debug)]
struct Errands {
    config: Arc<Config>,
    counters: Arc<Counters>,
    upstream: Upstream<Full<Bytes>>,
    routes: CurrentRoutes,
    /// By shard.
    reports: Vec<mpsc::UnboundedSender<Report>>,
    fetches: RefCell<Fetches>,
    paces: RefCell<Paces>,
    gone: Semaphore,
    /// Words about clients that are gone; the hub does not end before they are said.
    farewells: RefCell<JoinSet<()>>,
}

/// Starts the thread; `reports` has a queue for each shard.
pub(crate) fn spawn(
    config: Arc<Config>,
    counters: Arc<Counters>,
    tls: Arc<TlsConfig>,
    routes: watch::Receiver<Arc<Routes>>,
    reports: Vec<mpsc::UnboundedSender<Report>>,
) -> io::Result<(ErrandsHandle, JoinHandle<()>)> {
    let (sender, mut queue) = mpsc::unbounded_channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "errands cannot be run");
                return;
            }
        };
        LocalSet::new().block_on(&runtime, async {
            let errands = Rc::new(Errands {
                upstream: Upstream::new(tls, Arc::clone(&counters)),
                routes: CurrentRoutes::new(routes),
                config,
                counters,
                reports,
                fetches: RefCell::default(),
                paces: RefCell::default(),
                gone: Semaphore::new(MAX_GONE),
                farewells: RefCell::default(),
            });
            while let Some(errand) = queue.recv().await {
                errands.begin(errand);
            }
            let mut farewells = errands.farewells.take();
            let said = async { while farewells.join_next().await.is_some() {} };
            if tokio::time::timeout(FAREWELL, said).await.is_err() {
                tracing::warn!("not all gone links were told before the end");
            }
        });
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new()
        .name("errands".to_owned())
        .spawn(run)?;
    Ok((ErrandsHandle { errands: sender }, thread))
}

impl Errands {
    fn begin(self: &Rc<Self>, errand: Errand) {
        let Errand {
            shard,
            connection,
            behalf,
            kind,
        } = errand;
        match kind {
            ErrandKind::Follow {
                next,
                last,
                urgency,
            } => self.follow((shard, connection), behalf, next, last, urgency),
            ErrandKind::Ask { inquiry, last } => {
                let this = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let told = this.ask(&behalf, &inquiry, &last).await;
                    this.report(shard, vec![connection], crate::errand::News::Told(told));
                });
            }
            ErrandKind::Gone(uri) => {
                let this = Rc::clone(self);
                let mut farewells = self.farewells.borrow_mut();
                while farewells.try_join_next().is_some() {}
                if farewells.len() >= MAX_FAREWELLS {
                    return self.counters.farewells_dropped.increment();
                }
                farewells.spawn_local(async move {
                    // The semaphore is never closed.
                    let _permit = this.gone.acquire().await;
                    this.say_gone(&behalf, &uri).await;
                });
            }
        }
    }

    fn report(
        &self,
        shard: crate::mailbox::ShardId,
        connections: Vec<crate::mailbox::ConnectionKey>,
        news: crate::errand::News,
    ) {
        // A shard that is gone needs no report.
        let _ = self.reports[shard.0].send(Report { connections, news });
    }
}
