//! How much memory an idle held stream costs the hub.
//!
//! `cargo bench -p e2e --bench idle_memory` runs the hub as a process of its own, holds streams, and
//! reports its private memory per stream. The kernel's part, which sockets cost any server, is not
//! in these figures.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use e2e::client::Client;
use e2e::origin::{Answer, Origin};

/// Each takes one open file here and one in the hub.
const STREAMS: usize = 10_000;
/// Streams that are set up at a time.
const TOGETHER: usize = 100;

struct Hub {
    child: Child,
    listen: SocketAddr,
}

impl Hub {
    fn start(origin: &str) -> Self {
        let program = cargo_built_hub();
        let mut child = Command::new(program)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--control",
                "127.0.0.1:0",
                "--origin",
                origin,
            ])
            .args(["--sig-key", "changeme", "--log", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        let listen = record["fields"]["listen"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        // What else it logs is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, listen }
    }

    /// Bytes of memory that are this process's alone.
    fn private_bytes(&self) -> usize {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter(|line| line.starts_with("Private_"))
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<usize>()
                    .unwrap()
                    * 1024
            })
            .sum()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the hub as users do.
fn cargo_built_hub() -> std::path::PathBuf {
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "-p",
            "gripline-hub",
            "--message-format",
            "json",
        ])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .next_back()
        .unwrap()
}

async fn hold(hub: &Hub, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let mut opening = Vec::new();
        for _ in 0..TOGETHER.min(count - clients.len()) {
            opening.push(Client::get(hub.listen, "/stream", &[]).await);
        }
        for mut client in opening {
            client.stream_begins("begin\n").await;
            clients.push(client);
        }
    }
    clients
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let origin = Origin::start().await;
    let fields = [
        "Content-Type: text/event-stream",
        "Grip-Hold: stream",
        "Grip-Channel: updates",
        r"Grip-Keep-Alive: \n; format=cstring; timeout=55",
    ];
    origin.serve("/stream", Answer::ok(&fields, "begin\n"));
    let hub = Hub::start(&origin.url());

    // Threads, pools and code are paid for once, whatever the number of streams.
    let warm = hold(&hub, TOGETHER).await;
    let before = hub.private_bytes();
    let clients = hold(&hub, STREAMS).await;
    let after = hub.private_bytes();
    let per_stream = (after - before) / STREAMS;
    println!(
        "{STREAMS} idle streams: {before} -> {after} private bytes, {per_stream} bytes a stream"
    );
    drop((warm, clients));
}
