//! The hub as users run it: optimised, and a process of its own, so that what it takes can be
//! measured.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::client;

/// A running hub; ends when it is dropped.
#[derive(Debug)]
pub struct Hub {
    child: Child,
    /// For clients.
    pub listen: SocketAddr,
    /// For publishers.
    pub control: SocketAddr,
    /// Holds its configuration.
    _directory: TempDir,
}

impl Hub {
    /// Builds and starts a hub with this origin and these lines of `hub.toml`.
    pub fn start(origin: &str, config: &str) -> Self {
        Self::start_with(&["--origin", origin], config)
    }

    /// The same with routes in the configuration in place of an origin.
    pub fn start_routed(config: &str) -> Self {
        Self::start_with(&[], config)
    }

    fn start_with(arguments: &[&str], config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("hub.toml");
        std::fs::write(&file, config).expect("a file");
        let mut child = Command::new(build())
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(["--sig-key", "changeme"])
            .args(arguments)
            .args(["--log", "json", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hub runs");
        let log = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(log).lines();
        let line = lines.next().and_then(Result::ok).expect("a first line");
        let record: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let address = |name: &str| {
            let address = record["fields"][name].as_str().expect("an address");
            address.parse().expect("an address")
        };
        let (listen, control) = (address("listen"), address("control"));
        // What else it logs is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            listen,
            control,
            _directory: directory,
        }
    }

    /// The sum of all counters whose name begins so.
    pub async fn metric(&self, prefix: &str) -> usize {
        let metrics = client::get(self.control, "/metrics", &[]).await.text();
        metrics
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
            .sum()
    }

    /// Waits until [`Self::metric`] is at least so much.
    pub async fn until(&self, prefix: &str, count: usize) {
        while self.metric(prefix).await < count {}
    }

    /// Waits until [`Self::metric`] is nothing.
    pub async fn until_none(&self, prefix: &str) {
        while self.metric(prefix).await > 0 {}
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        self.count("fd")
    }

    /// Threads that run.
    pub fn threads(&self) -> usize {
        self.count("task")
    }

    fn count(&self, directory: &str) -> usize {
        let path = format!("/proc/{}/{directory}", self.child.id());
        std::fs::read_dir(path).expect("the hub runs").count()
    }

    /// Bytes of memory that are this process's alone.
    pub fn private_bytes(&self) -> usize {
        let text = self.proc("smaps_rollup");
        let kilobytes = text
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
        kilobytes.sum::<usize>() * 1024
    }

    /// Processor time that it has used, its own and the kernel's for it; exact to 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let text = self.proc("stat");
        // Behind the name, which may hold anything but this.
        let fields = text.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(path).expect("the hub runs")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the hub as users do.
fn build() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "-p", "gripline-hub"])
        .args(["--message-format", "json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the hub builds");
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .next_back()
        .expect("a program")
}
