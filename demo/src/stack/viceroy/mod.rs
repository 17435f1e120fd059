//! Viceroy, Fastly's local runtime for Compute modules, as a child process.
//!
//! [`Viceroy::start`] runs the edge module with a [`Manifest`] made from the repository's
//! `fastly.toml`; [`locate_or_install`] finds the program or has cargo build it.

mod install;
mod log;
mod manifest;

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;

pub use install::{VERSION, locate_or_install};
pub use manifest::Manifest;

use self::log::{Log, LogReader};
use super::{health, repository};

/// Compiling the module on a busy machine is the slow part; half a second is usual.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// Lines of the log in an error; enough for a panic of the module.
const ERROR_LINES: usize = 40;
const HEALTH_PATH: &str = "/.gripline/health";

/// How to run the edge.
#[derive(Debug, Clone)]
pub struct Options {
    /// The edge module; see [`crate::stack::module::build`].
    pub module: PathBuf,
    /// Where the edge listens; port 0 is any free port.
    pub listen: SocketAddr,
    /// Backends, configuration and secrets.
    pub manifest: Manifest,
    /// The hub that stands in for the managed service, if requests are handed over to one.
    pub fanout: Option<SocketAddr>,
    /// Who gets Ctrl-C.
    pub interrupt: Interrupt,
}

/// What Ctrl-C in the terminal does to Viceroy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// It ends Viceroy together with this program; for tests, which do not handle the signal.
    Shared,
    /// It reaches this program only, which then stops its parts in order.
    Ours,
}

/// A running edge. Dropping it ends the process and waits for that.
pub struct Viceroy {
    child: Child,
    addr: SocketAddr,
    log: Log,
    // The child reads it at start only, but a person looking for trouble reads it later.
    _manifest: tempfile::NamedTempFile,
}

impl Viceroy {
    /// Starts the edge and returns when it answers.
    ///
    /// Finds or installs Viceroy first. Viceroy itself sends one unsigned `GET /` to each backend
    /// when it starts, which tests that count requests see before this returns.
    ///
    /// Cancel safety: a dropped future ends the process.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let program = locate_or_install().await?;
        let manifest = options.manifest.write()?;
        let mut child = command(&program, options, manifest.path())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let (log, reader) = Log::of(&mut child);
        let mut viceroy = Self {
            child,
            addr: options.listen,
            log,
            _manifest: manifest,
        };
        match viceroy.wait_until_ready(reader).await {
            Ok(()) => Ok(viceroy),
            Err(error) => Err(error.context(viceroy.describe())),
        }
    }

    async fn wait_until_ready(&mut self, reader: LogReader) -> anyhow::Result<()> {
        self.addr = timeout(START_PATIENCE, reader.listening_addr())
            .await
            .with_context(|| format!("it did not listen within {START_PATIENCE:?}"))?
            .context("it ended before it listened")?;
        health::wait_until_ok(self.addr, HEALTH_PATH, START_PATIENCE).await
    }

    /// Whether Viceroy runs or how it ended, with the last of what it wrote.
    pub fn describe(&mut self) -> String {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => format!("Viceroy ended ({status})"),
            _ => "Viceroy is running".to_owned(),
        };
        format!(
            "{status}; its log ends with\n{}",
            self.log.last_lines(ERROR_LINES)
        )
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where the edge listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The edge's URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What Viceroy and the module wrote, at most some thousand lines.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How Viceroy ended, if it did.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot ask for Viceroy")
    }
}

fn command(program: &Path, options: &Options, manifest: &Path) -> Command {
    let mut command = Command::new(program);
    command
        // Paths in the manifest are relative to the repository.
        .current_dir(repository())
        // Verbose, because the line with the port is a message; RUST_LOG would override that.
        .args(["serve", "-v"])
        .env_remove("RUST_LOG")
        .arg("--addr")
        .arg(options.listen.to_string())
        .arg("-C")
        .arg(manifest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(hub) = options.fanout {
        // Viceroy knows this machine only.
        command.args(["--local-pushpin-proxy-port", &hub.port().to_string()]);
    }
    command.arg(&options.module);
    if options.interrupt == Interrupt::Ours {
        command.process_group(0);
    }
    command
}

impl Drop for Viceroy {
    fn drop(&mut self) {
        // Either fails only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Debug for Viceroy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Viceroy(process {}, {})", self.id(), self.addr)
    }
}
