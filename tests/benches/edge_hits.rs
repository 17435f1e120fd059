//! How much slower a hit in the edge's cache is than no work at all.
//!
//! `cargo bench -p e2e --bench edge_hits` runs the edge and an empty module, each in a Viceroy of its
//! own, and asks them in turns, on 1 and on 16 connections that are kept open: for a page as a client,
//! and for an instruction as the hub, whose signature is verified. It prints requests a second, the
//! processor time that Viceroy takes for a request, and both as ratios to the empty module in the same
//! run; then the size of the modules and the time from the start of Viceroy's process to its first
//! answer. `GRIPLINE_BENCH_SECONDS` is the time for each figure, 12 if it is not set.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::origin::{Answer, Origin};
use e2e::{client, edge};
use live_counter::stack::repository;
use live_counter::stack::viceroy::{self, Viceroy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Of each figure; turns are taken, so that what else the machine does hits all alike.
const ROUNDS: u32 = 6;
/// What an instruction needs to be stored.
const STREAM: [&str; 4] = [
    "Content-Type: text/event-stream",
    "Surrogate-Control: max-age=3600",
    "Grip-Hold: stream",
    "Grip-Channel: updates; prev-id=12",
];
const PAGE: [&str; 2] = [
    "Content-Type: application/json",
    "Cache-Control: max-age=3600",
];

/// Something to ask for, and what it has cost so far.
struct Subject<'a> {
    name: &'static str,
    viceroy: &'a Viceroy,
    request: String,
    requests: usize,
    time: Duration,
    cpu: Duration,
}

impl<'a> Subject<'a> {
    fn new(name: &'static str, viceroy: &'a Viceroy, target: &str, fields: &[String]) -> Self {
        let line = format!("GET {target} HTTP/1.1");
        let lines = [&[line, "Host: example.com".to_owned()], fields].concat();
        Self {
            name,
            viceroy,
            request: lines.join("\r\n") + "\r\n\r\n",
            requests: 0,
            time: Duration::ZERO,
            cpu: Duration::ZERO,
        }
    }

    /// Asks for some time.
    async fn ask(&mut self, connections: usize, time: Duration) {
        let cpu = cpu_time(self.viceroy);
        let begin = Instant::now();
        let mut asking = JoinSet::new();
        for _ in 0..connections {
            let (addr, request) = (self.viceroy.addr(), self.request.clone());
            asking.spawn(async move { ask_until(addr, &request, begin + time).await });
        }
        self.requests += asking.join_all().await.iter().sum::<usize>();
        self.time += begin.elapsed();
        self.cpu += cpu_time(self.viceroy).saturating_sub(cpu);
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64()
    }

    /// In microseconds.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn cpu_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }
}

/// Asks again and again on one connection; how often.
async fn ask_until(addr: SocketAddr, request: &str, end: Instant) -> usize {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    stream.set_nodelay(true).expect("it is a socket");
    let mut input = Vec::with_capacity(16 * 1024);
    let mut count = 0;
    while Instant::now() < end {
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        input.clear();
        while !is_complete(&input) {
            let read = stream.read_buf(&mut input).await.expect("it answers");
            assert!(read > 0, "closed after {}", String::from_utf8_lossy(&input));
        }
        count += 1;
    }
    count
}

/// Whether a whole answer has come; fails unless it is a good one with a length.
fn is_complete(input: &[u8]) -> bool {
    let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.split("\r\ncontent-length: ").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
    input.len() >= end + 4 + length.expect("a length")
}

/// Processor time that Viceroy has used, its own and the kernel's for it; exact to 10 ms.
fn cpu_time(viceroy: &Viceroy) -> Duration {
    let path = format!("/proc/{}/stat", viceroy.id());
    let text = std::fs::read_to_string(path).expect("it runs");
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Builds the module that does nothing.
fn build_empty() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .current_dir(repository())
        .args(["build", "--release", "--package", "gripline-edge"])
        .args(["--example", "empty", "--target", "wasm32-wasip1"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the empty module builds");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .next_back()
        .expect("a module")
}

async fn report_hits(empty: &Viceroy, edge: &Viceroy) {
    let seconds = std::env::var("GRIPLINE_BENCH_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(12);
    for connections in [1, 16] {
        let mut subjects = [
            Subject::new("empty module", empty, "/", &[]),
            Subject::new("page for a client", edge, "/page", &[]),
            Subject::new(
                "instruction for the hub",
                edge,
                "/stream",
                &[edge::signed()],
            ),
        ];
        for _ in 0..ROUNDS {
            for subject in &mut subjects {
                let time = Duration::from_secs(seconds) / ROUNDS;
                subject.ask(connections, time).await;
            }
        }
        println!("connections: {connections}");
        let [base, ..] = &subjects;
        for subject in &subjects {
            println!(
                "{:>24}: {:>6.0} requests/s ({:.2}), {:>4.0} us of processor time ({:.2})",
                subject.name,
                subject.per_second(),
                subject.per_second() / base.per_second(),
                subject.cpu_per_request(),
                subject.cpu_per_request() / base.cpu_per_request(),
            );
        }
    }
}

async fn report_starts(modules: &[(&str, &Path)], origin: &Origin) {
    for (name, module) in modules {
        let size = std::fs::metadata(module).expect("a module").len();
        let mut times = Vec::new();
        for _ in 0..5 {
            let begin = Instant::now();
            let started = start(module, origin).await;
            times.push(begin.elapsed().as_millis());
            drop(started);
        }
        times.sort_unstable();
        println!(
            "{name}: {size} bytes, starts in {} ms (median of {times:?})",
            times[2]
        );
    }
}

async fn start(module: &Path, origin: &Origin) -> Viceroy {
    edge::start_module(module.to_owned(), edge::manifest(&origin.url())).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // Before anything is timed.
    viceroy::locate_or_install()
        .await
        .expect("there is Viceroy");
    let (module, empty_module) = (edge::module().await, build_empty());
    let origin = Origin::start().await;
    let empty = start(&empty_module, &origin).await;
    let body = client::get(empty.addr(), "/", &[]).await.text();
    origin.serve("/page", Answer::ok(&PAGE, &body));
    origin.serve("/stream", Answer::ok(&STREAM, &body));

    let edge = start(&module, &origin).await;
    for cache in ["miss", "hit"] {
        for path in ["/page", "/stream"] {
            let response = client::get(edge.addr(), path, &[&edge::signed()]).await;
            response.check(200, &body);
            assert_eq!(response.field("X-Cache"), Some(cache));
        }
    }
    report_hits(&empty, &edge).await;
    assert_eq!(origin.count("/page") + origin.count("/stream"), 2);
    drop((empty, edge));
    report_starts(
        &[("empty module", &empty_module), ("edge", &module)],
        &origin,
    )
    .await;
}
