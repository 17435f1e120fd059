//! What the hub asks of its sockets: each setting beside the default.

use std::io;

use super::{Bench, Candidate, closed, measure, storm, with_errors};
use crate::load::Kind;
use crate::report::Row;
use crate::server::Hub;

const CLIENTS: usize = 1_000;
const WINDOW: usize = 64;
/// Items that are on their way at a time, and items in all.
const IN_FLIGHT: [(u32, u32); 2] = [(1, 400), (64, 16_000)];
/// The defaults first.
const LIMITS: [&str; 3] = [
    "unsent_bytes = 131072, send_buffer = 0",
    "unsent_bytes = 0, send_buffer = 0",
    "unsent_bytes = 131072, send_buffer = 65536",
];
const BACKLOGS: [&str; 2] = ["backlog = 4096", "backlog = 128"];

pub(crate) fn run(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (in_flight, items) in IN_FLIGHT {
        for limits in LIMITS {
            for _ in 0..bench.rounds {
                rows.push(round(bench, limits, in_flight, items));
            }
        }
    }
    for backlog in BACKLOGS {
        for _ in 0..bench.rounds {
            rows.push(storm::round(
                "sockets in a storm",
                bench,
                Kind::Stream,
                backlog,
            ));
        }
    }
    rows
}

fn round(bench: &Bench, limits: &str, in_flight: u32, items: u32) -> Row {
    let config = format!("[limits]\n{}\n", limits.replace(", ", "\n"));
    let candidate = Candidate::Hub(Hub::on(bench.core).with(&config));
    let setting = format!("Stream, {CLIENTS}, {in_flight} in flight, {limits}");
    let row = Row::new("sockets", &setting, candidate.name());
    candidate.attempt(&row, |row| one(bench, &candidate, (in_flight, items), row))
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    (in_flight, items): (u32, u32),
    row: Row,
) -> io::Result<Row> {
    let (server, mut load) = bench.start(candidate)?;
    load.open(Kind::Stream, CLIENTS, WINDOW, |_| vec![0])?;
    load.run(closed(in_flight, items / 8))?;
    let (outcome, cost) = measure(&server, &mut load, closed(in_flight, items))?;
    let row = row
        .with("CPU us/delivery", cost.server)
        .with("p50 us", outcome.microseconds(0.5))
        .with("p99 us", outcome.microseconds(0.99))
        .with("MB", server.memory()? as f64 / 1e6);
    Ok(with_errors(row, &outcome))
}
