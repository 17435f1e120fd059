//! One client of a hundred stops reading.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bench, Candidate, closed, with_errors};
use crate::load::{Kind, Load, Outcome};
use crate::report::Row;
use crate::server::{Hub, Server};

const CLIENTS: usize = 1_000;
const WINDOW: usize = 256;
/// More than the kernel keeps for a client that does not read.
const ITEMS: u32 = 100_000;
/// What the hub keeps for each of them.
const PENDING_BYTES: u32 = 100_000;
/// What becomes of those who stop, and what the kernel takes for each before it can send it; 0 is its own
/// choice.
const POLICIES: [(&str, u32); 4] = [
    ("disconnect", 131_072),
    ("drop-oldest", 131_072),
    ("latest-only", 131_072),
    ("latest-only", 0),
];

pub(crate) fn run(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (policy, unsent_bytes) in POLICIES {
        for _ in 0..bench.rounds {
            rows.push(one(bench, policy, unsent_bytes)?);
        }
    }
    Ok(rows)
}

fn one(bench: &Bench, policy: &str, unsent_bytes: u32) -> io::Result<Row> {
    let config = format!(
        "slow_clients = \"{policy}\"\n[limits]\npublish_bytes = 65536\npending_bytes = {PENDING_BYTES}\nunsent_bytes = {unsent_bytes}\n"
    );
    let candidate = Candidate::Hub(Hub::on(bench.core).with(&config));
    let (server, mut load) = bench.start(&candidate)?;
    load.open(Kind::Stream, CLIENTS, WINDOW, |_| vec![0])?;
    load.run(&[closed(1, 100)])?;
    let before = load.run(&[closed(1, 1_000)])?.remove(0);
    let (flood_before, peak_before) = flood(&server, &mut load, ITEMS / 4)?;
    let memory = server.memory()?;
    load.stop((0..CLIENTS).step_by(100))?;
    // Until nothing more goes to those who stopped.
    let (flood, peak) = flood(&server, &mut load, ITEMS)?;
    let after = load.run(&[closed(1, 1_000)])?.remove(0);
    let p99 = |outcome: &Outcome| outcome.microseconds(0.99);
    let metric = |name| Ok::<_, io::Error>(server.metric(name)? as f64);
    let setting = format!(
        "10 of 1,000, {policy}, pending_bytes {PENDING_BYTES}, unsent_bytes {unsent_bytes}"
    );
    let row = Row::new("slow consumers", &setting, candidate.name())
        .with("p99 us before", p99(&before))
        .with("p99 us", p99(&after))
        .with("p99 ratio", p99(&after) / p99(&before))
        .with("flood p99 us before", p99(&flood_before))
        .with("flood p99 us", p99(&flood))
        .with("flood p99 ratio", p99(&flood) / p99(&flood_before))
        .with_count("flood lost", flood_before.lost + flood.lost)
        .with("disconnected", metric("gripline_slow_consumers_total")?)
        .with("items dropped", metric("gripline_dropped_items_total")?)
        .with("bytes waiting", metric("gripline_pending_bytes")?)
        .with("MB before", memory as f64 / 1e6)
        .with("MB", server.memory()? as f64 / 1e6)
        .with("flood peak MB before", peak_before as f64 / 1e6)
        .with("flood peak MB", peak as f64 / 1e6);
    Ok(with_errors(row, &after))
}

/// Publishes as fast as clients read: what came of it, and the most memory that the server had.
fn flood(server: &Server, load: &mut Load, items: u32) -> io::Result<(Outcome, u64)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peak = scope.spawn(|| server.peak_memory(&is_over));
        let outcomes = load.run(&[closed(64, items)]);
        is_over.store(true, Ordering::Relaxed);
        let peak = peak.join();
        let peak = peak.map_err(|_| io::Error::other("looking at memory failed"))?;
        Ok((outcomes?.remove(0), peak?))
    })
}
