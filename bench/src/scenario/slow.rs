//! One client of a hundred stops reading.

use std::io;

use super::{Bench, Candidate, closed, with_errors};
use crate::load::Kind;
use crate::report::Row;
use crate::server::Hub;

const CLIENTS: usize = 1_000;
const WINDOW: usize = 256;
/// More than the kernel keeps for a client that does not read.
const ITEMS: u32 = 100_000;
/// What becomes of them, and what the kernel takes for each before it can send it; 0 is its own
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
        "slow_clients = \"{policy}\"\n[limits]\npublish_bytes = 65536\npending_bytes = 100000\nunsent_bytes = {unsent_bytes}\n"
    );
    let candidate = Candidate::Hub(Hub::on(bench.core).with(&config));
    let (server, mut load) = bench.start(&candidate)?;
    load.open(Kind::Stream, CLIENTS, WINDOW, |_| vec![0])?;
    load.run(&[closed(1, 100)])?;
    let before = load.run(&[closed(1, 1_000)])?.remove(0);
    let memory = server.memory() as f64;
    load.stop((0..CLIENTS).step_by(100))?;
    // Until nothing more goes to those who stopped.
    load.run(&[closed(64, ITEMS)])?;
    let during = load.run(&[closed(1, 1_000)])?.remove(0);
    let (p99, was) = (during.microseconds(0.99), before.microseconds(0.99));
    let row = Row::new(
        "slow consumers",
        &format!("10 of 1,000, {policy}, unsent_bytes {unsent_bytes}"),
        candidate.name(),
    )
    .with("p99 us before", was)
    .with("p99 us", p99)
    .with("p99 ratio", p99 / was)
    .with(
        "disconnected",
        server.metric("gripline_slow_consumers_total")? as f64,
    )
    .with(
        "items dropped",
        server.metric("gripline_dropped_items_total")? as f64,
    )
    .with(
        "bytes waiting",
        server.metric("gripline_pending_bytes")? as f64,
    )
    .with("MB before", memory / 1e6)
    .with("MB", server.memory() as f64 / 1e6);
    Ok(with_errors(row, &during))
}
