//! The life of a hub: bind everything, start the threads, drain, end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};

use crate::broker::{self, Repeats};
use crate::config::Config;
use crate::control::Control;
use crate::counters::Counters;
use crate::engine::Budget;
use crate::errands;
use crate::life::Life;
use crate::mailbox::ShardId;
use crate::purge::{self, LetGo};
use crate::routes::Routes;
use crate::routes::reload::{self, Reloader};
use crate::shard::{self, MAILBOX};
use crate::upstream::TlsConfig;

/// Publishers' connections that may wait to be accepted.
const CONTROL_BACKLOG: usize = 4096;

/// Why a hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Who would connect there.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system refuses threads or event queues.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
}

/// A running hub. Dropped without [`Hub::shutdown`], its threads go on.
#[derive(Debug)]
pub struct Hub {
    listen: SocketAddr,
    control: SocketAddr,
    shards: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    reloader: Option<Reloader>,
    /// Before the shards', if items may wait for their turn.
    pace_life: watch::Sender<Life>,
    shard_life: watch::Sender<Life>,
    control_life: watch::Sender<Life>,
}

impl Hub {
    /// Binds all sockets and starts all threads. Whoever connects afterwards is served.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let listeners =
            listeners(config.listen, config.shards, config.limits.backlog).map_err(|source| {
                StartError::Bind {
                    address: config.listen,
                    purpose: "clients",
                    source,
                }
            })?;
        let bind_control = |source| StartError::Bind {
            address: config.control,
            purpose: "publishers",
            source,
        };
        let control_listener =
            listener(config.control, Sharing::Alone, CONTROL_BACKLOG).map_err(bind_control)?;
        let listen = listeners[0].local_addr()?;
        let control = control_listener.local_addr()?;

        let (pace_life, _) = watch::channel(Life::Running);
        let (shard_life, _) = watch::channel(Life::Running);
        let (control_life, _) = watch::channel(Life::Running);
        let (mailboxes, queues): (Vec<_>, Vec<_>) =
            listeners.iter().map(|_| mpsc::channel(MAILBOX)).unzip();
        let mut all_counters = Vec::new();
        let repeats = if purge::is_needed(&config) {
            Repeats::Dropped
        } else {
            Repeats::DropHere
        };
        let (broker, broker_thread) = broker::spawn(
            mailboxes,
            broker::Settings::of(&config, listeners.len(), repeats),
            new_counters(&mut all_counters),
        )?;
        let (routes, reloader) = watch_routes(&config, new_counters(&mut all_counters))?;
        let tls = Arc::new(TlsConfig::new(&config.origin_tls));
        let (report_senders, reports): (Vec<_>, Vec<_>) =
            listeners.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let (errands, errands_thread) = errands::spawn(
            Arc::clone(&config),
            new_counters(&mut all_counters),
            Arc::clone(&tls),
            routes.clone(),
            report_senders.clone(),
        )?;
        let epoch = tokio::time::Instant::now().into_std();
        let mut shards = Vec::new();
        let queues = queues.into_iter().zip(reports).zip(report_senders);
        let limits = &config.limits;
        let budget = Budget::new(limits.pending_bytes, limits.total_pending_bytes);
        for (id, (listener, ((mailbox, reports), report_sender))) in
            listeners.into_iter().zip(queues).enumerate()
        {
            let parts = shard::Parts {
                id: ShardId(id),
                config: Arc::clone(&config),
                counters: new_counters(&mut all_counters),
                listener,
                mailbox,
                broker: broker.clone(),
                errands: errands.clone(),
                reports,
                report_sender,
                tls: Arc::clone(&tls),
                routes: routes.clone(),
                budget: budget.clone(),
                epoch,
                life: shard_life.subscribe(),
            };
            shards.push(thread(format!("shard-{id}"), move || shard::run(parts))?);
        }
        drop(errands);
        let parts = purge::Parts {
            tls,
            broker,
            counters: new_counters(&mut all_counters),
            let_go: LetGo {
                life: pace_life.subscribe(),
                shards: shard_life.clone(),
            },
        };
        let all_counters = all_counters.into();
        let life = control_life.subscribe();
        let control_thread = thread("control".to_owned(), move || {
            run_control(config, all_counters, parts, control_listener, life)
        })?;
        Ok(Self {
            listen,
            control,
            shards,
            others: vec![control_thread, broker_thread, errands_thread],
            reloader,
            pace_life,
            shard_life,
            control_life,
        })
    }

    /// Where clients connect.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Where publishers connect.
    pub fn control_addr(&self) -> SocketAddr {
        self.control
    }

    /// Begins to let go: items that wait go out, then there are no new clients, answers for held
    /// requests, ends for streams.
    pub fn shutdown(&self) {
        // Fails if nobody is there who could wait for anything.
        if self.pace_life.send(Life::Draining).is_err() {
            self.shard_life.send_replace(Life::Draining);
        }
    }

    /// Waits until all has ended; that takes [`Self::shutdown`]. Publishing works until the last
    /// client is gone.
    pub fn join(self) {
        for shard in self.shards {
            join(shard);
        }
        self.control_life.send_replace(Life::Draining);
        for thread in self.others {
            join(thread);
        }
        drop(self.reloader);
    }
}

/// A thread's own counters, known to scrapes.
fn new_counters(all: &mut Vec<Arc<Counters>>) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    all.push(Arc::clone(&counters));
    counters
}

/// The routes as they change, if they can.
fn watch_routes(
    config: &Config,
    counters: Arc<Counters>,
) -> io::Result<(watch::Receiver<Arc<Routes>>, Option<Reloader>)> {
    let initial = Arc::clone(&config.routes);
    match &config.routes_file {
        None => Ok((watch::channel(initial).1, None)),
        Some(file) => {
            let (routes, reloader) = reload::spawn(file.clone(), initial, counters)?;
            Ok((routes, Some(reloader)))
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread panicked");
    }
}

fn thread(
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(move || {
        if let Err(error) = run() {
            tracing::error!(%error, "a thread cannot run");
        }
    })
}

fn run_control(
    config: Arc<Config>,
    all_counters: Arc<[Arc<Counters>]>,
    parts: purge::Parts,
    listener: std::net::TcpListener,
    life: watch::Receiver<Life>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let counters = Arc::clone(&parts.counters);
        let (publisher, purger) = purge::spawn(&config, parts);
        let control = Control {
            config,
            counters,
            all_counters,
            publisher,
        };
        control.serve(listener, life).await;
        if let Some(purger) = purger {
            // It ends by itself; a panic in it was printed when it happened.
            let _ = purger.await;
        }
        Ok(())
    })
}

/// One listener a shard on the same address; the kernel spreads connections over them.
fn listeners(
    address: SocketAddr,
    count: usize,
    backlog: usize,
) -> io::Result<Vec<std::net::TcpListener>> {
    // Alone first: another process on the same address would get part of the clients.
    drop(listener(address, Sharing::Alone, backlog)?);
    let first = listener(address, Sharing::Shared, backlog)?;
    let address = first.local_addr()?;
    let others = (1..count).map(|_| listener(address, Sharing::Shared, backlog));
    std::iter::once(Ok(first)).chain(others).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Shared,
}

fn listener(
    address: SocketAddr,
    sharing: Sharing,
    backlog: usize,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
