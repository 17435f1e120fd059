//! Long-polls: every item answers all of them, and all ask again.

use std::io;

use super::{Bench, closed, hold, with_errors};
use crate::load::Kind;
use crate::report::Row;

const CLIENTS: usize = 1_000;
const ITEMS: usize = 50;

pub(crate) fn run(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for _ in 0..bench.rounds {
        let candidate = bench.hub();
        let (server, mut load) = bench.start(&candidate)?;
        hold(&server, &mut load, Kind::Poll, CLIENTS)?;
        let mut all = load.run(&[closed(1, 1)])?.remove(0);
        let before = server.cpu_time()?;
        for _ in 1..ITEMS {
            // Who is not held would not hear of it.
            server.until("gripline_held_responses", CLIENTS as u64)?;
            all.add(&load.run(&[closed(1, 1)])?.remove(0))?;
        }
        server.until("gripline_held_responses", CLIENTS as u64)?;
        let used = server.cpu_time()?.saturating_sub(before);
        let answers = (all.delivered - CLIENTS as u64) as f64;
        let row = Row::new(
            "long-polls",
            &format!("{CLIENTS}, 1 in flight"),
            candidate.name(),
        )
        .with(
            "CPU us/answer and request",
            used.as_secs_f64() * 1e6 / answers,
        )
        .with("p50 us", all.microseconds(0.5))
        .with("p99 us", all.microseconds(0.99));
        rows.push(with_errors(row, &all));
    }
    Ok(rows)
}
