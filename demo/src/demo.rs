//! The whole of Live Counter: origin, edge and hub, wired together in any topology.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use grip::signature::VerifyingKey;
use gripline_hub::Hub;
use gripline_hub::config::{RawConfig, RawGrip, RawPurge};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{sleep, timeout};

use crate::origin::{Config as OriginConfig, Origin};
use crate::stack::topology::Topology;
use crate::stack::viceroy::{Interrupt, Manifest, Options as EdgeOptions, Viceroy};
use crate::stack::{health, module, ports, viceroy};

/// A part that was started answers within this time, or something is wrong with it.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// The hub lets go of its connections within [`DRAIN`]; this is for a hub that does not.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const DRAIN: &str = "2s";
/// How soon a part that ended is noticed.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
const ISSUER: &str = "live-counter";

/// Where the parts listen, and where the counters are. Port 0 is any free port.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who is in front of whom.
    pub topology: Topology,
    /// The hub's address for clients.
    pub hub: SocketAddr,
    /// The hub's address for publishers.
    pub control: SocketAddr,
    /// The edge's address.
    pub edge: SocketAddr,
    /// The origin's address.
    pub origin: SocketAddr,
    /// The file with the counters.
    pub data: PathBuf,
    /// Who gets Ctrl-C.
    pub interrupt: Interrupt,
}

impl Options {
    /// Everything on free ports of this machine, for tests.
    pub fn on_free_ports(topology: Topology, data: PathBuf) -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            topology,
            hub: any_port,
            control: any_port,
            edge: any_port,
            origin: any_port,
            data,
            interrupt: Interrupt::Shared,
        }
    }
}

/// What the start is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Compiling the edge for wasm.
    BuildModule,
    /// Looking for Viceroy, or having it installed.
    FindViceroy,
    /// Opening the counters and serving them.
    StartOrigin,
    /// Running the edge in Viceroy.
    StartEdge,
    /// Running the hub in this process.
    StartHub,
    /// Asking the origin through hub and edge.
    CheckChain,
}

impl Step {
    /// All steps in their order.
    pub const ALL: [Self; 6] = [
        Self::BuildModule,
        Self::FindViceroy,
        Self::StartOrigin,
        Self::StartEdge,
        Self::StartHub,
        Self::CheckChain,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::BuildModule => "building the edge module",
            Self::FindViceroy => "looking for Viceroy",
            Self::StartOrigin => "starting the origin",
            Self::StartEdge => "starting the edge in Viceroy",
            Self::StartHub => "starting the hub",
            Self::CheckChain => "asking the origin through hub and edge",
        };
        f.write_str(text)
    }
}

/// Told when a step begins, and with its result when it is done.
pub trait Progress {
    /// `step` begins.
    fn begin(&mut self, step: Step);
    /// The step that began last is done; `result` is a path or an address.
    fn done(&mut self, result: &str);
}

/// For those who do not watch.
impl Progress for () {
    fn begin(&mut self, _: Step) {}
    fn done(&mut self, _: &str) {}
}

/// The running parts. Stop them with [`Demo::stop`]; dropping it ends them without finishing anything.
#[derive(Debug)]
pub struct Demo {
    // In the order in which they are to be dropped.
    hub: HubGuard,
    edge: Viceroy,
    origin: Origin,
    topology: Topology,
}

impl Demo {
    /// Builds what is missing and starts origin, edge and hub; returns when all of them answer, each
    /// alone and all in a row.
    ///
    /// Cancel safety: a dropped future ends everything that was started.
    pub async fn start(options: &Options, progress: &mut impl Progress) -> anyhow::Result<Self> {
        let keys = Keys::random();
        // Who comes first has to know them before who comes last could choose one.
        let options = &Options {
            control: ports::choose(options.control)?,
            hub: ports::choose(options.hub)?,
            edge: ports::choose(options.edge)?,
            ..options.clone()
        };

        progress.begin(Step::BuildModule);
        let module = module::build().await?;
        progress.done(&module.display().to_string());

        progress.begin(Step::FindViceroy);
        let program = viceroy::locate_or_install().await?;
        progress.done(&program.display().to_string());

        progress.begin(Step::StartOrigin);
        let origin = start_origin(options, &keys).await?;
        progress.done(&format!("http://{}", origin.addr()));

        progress.begin(Step::StartEdge);
        let edge = start_edge(options, module, origin.addr(), &keys).await?;
        progress.done(&edge.url());

        progress.begin(Step::StartHub);
        let hub = start_hub(options, &edge, &keys).await?;
        let mut demo = Self {
            hub,
            edge,
            origin,
            topology: options.topology,
        };
        let (hub, control) = (demo.hub_addr(), demo.control_addr());
        progress.done(&format!("http://{hub}, publishers http://{control}"));

        progress.begin(Step::CheckChain);
        health::wait_until_ok(demo.front_addr(), "/health", START_PATIENCE)
            .await
            .with_context(|| format!("the chain does not work; {}", demo.edge.describe()))?;
        progress.done("all of them answer");
        Ok(demo)
    }

    /// Where clients connect: the hub or the edge.
    pub fn front_addr(&self) -> SocketAddr {
        if self.topology.is_hub_in_front() {
            self.hub_addr()
        } else {
            self.edge_addr()
        }
    }

    /// Where the hub listens.
    pub fn hub_addr(&self) -> SocketAddr {
        self.hub.get().listen_addr()
    }

    /// Where publishers connect.
    pub fn control_addr(&self) -> SocketAddr {
        self.hub.get().control_addr()
    }

    /// Where the edge listens.
    pub fn edge_addr(&self) -> SocketAddr {
        self.edge.addr()
    }

    /// Where the origin listens.
    pub fn origin_addr(&self) -> SocketAddr {
        self.origin.addr()
    }

    /// What Viceroy and the edge module wrote.
    pub fn log(&self) -> String {
        self.edge.log()
    }

    /// Waits until a part ends by itself, which none should; says which. Cancel safe.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            if self.origin.is_finished() {
                return anyhow::anyhow!("the origin ended");
            }
            match self.edge.try_wait() {
                Ok(None) => sleep(WATCH_INTERVAL).await,
                Ok(Some(_)) => return anyhow::anyhow!(self.edge.describe()),
                Err(error) => return error,
            }
        }
    }

    /// Stops everything from the clients' side on: what was under way is finished first.
    pub async fn stop(self) -> anyhow::Result<()> {
        let stopped = self.hub.stop().await;
        drop(self.edge);
        self.origin.stop().await;
        stopped
    }
}

/// What the parts sign with. Made for one run: nothing signed outlives the edge's cache.
struct Keys {
    grip: String,
    purge: String,
    hub: String,
}

impl Keys {
    fn random() -> Self {
        Self {
            grip: random_key(),
            purge: random_key(),
            hub: random_key(),
        }
    }
}

/// 128 random bits as hexadecimal digits, which all parts take for the same plain text.
fn random_key() -> String {
    let mut bits = [0; 16];
    SystemRandom::new()
        .fill(&mut bits)
        .expect("the operating system has random bytes");
    format!("{:032x}", u128::from_ne_bytes(bits))
}

async fn start_origin(options: &Options, keys: &Keys) -> anyhow::Result<Origin> {
    let config = OriginConfig {
        listen: options.origin,
        data: options.data.clone(),
        grip_key: VerifyingKey::hs256(keys.grip.as_bytes())?,
        control: format!("http://{}", options.control).parse()?,
    };
    let origin = Origin::start(config).await?;
    health::wait_until_ok(origin.addr(), "/health", START_PATIENCE).await?;
    Ok(origin)
}

async fn start_edge(
    options: &Options,
    module: PathBuf,
    origin: SocketAddr,
    keys: &Keys,
) -> anyhow::Result<Viceroy> {
    let topology = options.topology;
    let manifest = Manifest::of_repository()?
        .with_backend("origin", &format!("http://{origin}"))
        .with_secret("grip-key", &keys.grip)
        .with_secret("purge-key", &keys.purge);
    let manifest = topology.configure_edge(manifest, options.edge, options.hub, &keys.hub)?;
    Viceroy::start(&EdgeOptions {
        module,
        listen: options.edge,
        manifest,
        fanout: (topology == Topology::Fanout).then_some(options.hub),
        interrupt: options.interrupt,
    })
    .await
}

async fn start_hub(options: &Options, edge: &Viceroy, keys: &Keys) -> anyhow::Result<HubGuard> {
    let mut raw = RawConfig {
        listen: Some(options.hub.to_string()),
        control: Some(options.control.to_string()),
        drain: Some(DRAIN.to_owned()),
        grip: RawGrip {
            sig_key: Some(keys.grip.clone()),
            sig_iss: Some(ISSUER.to_owned()),
            ..RawGrip::default()
        },
        purge: Some(RawPurge {
            edge: Some(edge.url()),
            key: Some(keys.purge.clone()),
            ..RawPurge::default()
        }),
        ..RawConfig::default()
    };
    options
        .topology
        .configure_hub(&mut raw, &edge.url(), &keys.hub);
    // No path in it is relative.
    let config = raw.check(Path::new(""))?;
    let hub = HubGuard(Some(Hub::start(config)?));
    health::wait_until_ok(hub.get().control_addr(), "/health", START_PATIENCE).await?;
    Ok(hub)
}

/// A hub that is told to stop when it is dropped; alone, its threads would go on.
#[derive(Debug)]
struct HubGuard(Option<Hub>);

impl HubGuard {
    fn get(&self) -> &Hub {
        self.0.as_ref().expect("taken out by `stop` only")
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        let hub = self.0.take().expect("taken out by `stop` only");
        hub.shutdown();
        let joined = tokio::task::spawn_blocking(move || hub.join());
        match timeout(STOP_PATIENCE, joined).await {
            Ok(joined) => joined.context("the hub panicked"),
            Err(_) => bail!("the hub did not end within {STOP_PATIENCE:?}"),
        }
    }
}

impl Drop for HubGuard {
    fn drop(&mut self) {
        if let Some(hub) = &self.0 {
            hub.shutdown();
        }
    }
}
