//! The hub as users run it: optimised, and a process of its own.

use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Dialect, Server};
use crate::process::{self, Process};

/// How a hub is run.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// Its threads for clients.
    pub(crate) shards: usize,
    pub(crate) cores: Vec<usize>,
    /// Further lines of its `hub.toml`.
    pub(crate) config: String,
}

impl Hub {
    /// One shard on one processor, as it comes.
    pub(crate) fn on(core: usize) -> Self {
        Self {
            shards: 1,
            cores: vec![core],
            config: String::new(),
        }
    }

    /// The same with these lines of `hub.toml`.
    #[must_use]
    pub(crate) fn with(self, config: &str) -> Self {
        let config = config.to_owned();
        Self { config, ..self }
    }

    /// Starts it in front of an origin.
    pub(crate) fn start(&self, origin: SocketAddr) -> io::Result<Server> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("hub.toml");
        let config = format!("shards = {}\n{}", self.shards, self.config);
        std::fs::write(&file, config)?;
        let mut command = process::program(program()?, &self.cores)?;
        command
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(["--origin", &format!("http://{origin}")])
            .args(["--log", "json", "--config"])
            .arg(&file)
            .stderr(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let log = process.child().stderr.take();
        let mut lines = BufReader::new(log.ok_or_else(|| missing("a log"))?).lines();
        let first = lines.next().ok_or_else(|| missing("a first line"))??;
        let record: serde_json::Value = serde_json::from_str(&first)?;
        let address = |name: &str| {
            let address = record["fields"][name].as_str();
            address
                .and_then(|address| address.parse().ok())
                .ok_or_else(|| missing(&first))
        };
        let (clients, publish) = (address("listen")?, address("control")?);
        // What else it logs is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server {
            clients,
            publish,
            dialect: Dialect::Grip,
            processes: vec![process],
            _directory: Some(directory),
        })
    }
}

/// The hub's program, beside this one.
fn program() -> io::Result<PathBuf> {
    let mut program = std::env::current_exe()?;
    program.set_file_name("gripline-hub");
    Ok(program)
}

/// Builds the hub as it is now.
pub(crate) fn build() -> io::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "-p", "gripline-hub"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("the hub does not build"))
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::other(format!("the hub does not say where it listens: {what}"))
}
