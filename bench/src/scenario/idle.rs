//! What a client costs that hears nothing, and what is left of the first item and of a burst.

use std::io;

use super::{Bench, Candidate, closed, hold};
use crate::load::Kind;
use crate::report::Row;

const CLIENTS: usize = 19_000;
/// Thousands of them at which memory is looked at; of fewer clients, the same parts.
const STEPS: [usize; 4] = [1, 5, 10, 19];

pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket, Kind::Poll] {
        for _ in 0..bench.rounds {
            for candidate in candidates {
                if kind == Kind::Poll && !matches!(candidate, Candidate::Hub(_)) {
                    continue;
                }
                let clients = candidate.clients(CLIENTS);
                let setting = format!("{kind:?}, {clients}");
                let row = Row::new("idle memory", &setting, candidate.name());
                let one = |row| one(bench, candidate, kind, clients, row);
                rows.push(candidate.attempt(&row, one));
            }
        }
    }
    rows
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    kind: Kind,
    clients: usize,
    row: Row,
) -> io::Result<Row> {
    let (server, mut load) = bench.start(candidate)?;
    let mut points = Vec::new();
    for step in STEPS {
        let count = clients * step / STEPS[STEPS.len() - 1];
        hold(&server, &mut load, kind, count)?;
        points.push((count as f64, server.memory()? as f64));
    }
    let row = row.with("bytes/connection", slope(&points));
    if kind == Kind::Poll {
        return Ok(row);
    }
    let unused = server.memory()? as f64;
    // The first item makes room that all others use again.
    let first = load.run(closed(1, 1))?;
    let before = server.memory()? as f64;
    let burst = load.run(closed(64, 64))?;
    let after = server.memory()? as f64;
    Ok(row
        .with("MB before any item", unused / 1e6)
        .with("MB before a burst", before / 1e6)
        .with("MB after it", after / 1e6)
        .with("after/before any item", after / unused)
        .with("after/before a burst", after / before)
        .with_count("lost", first.lost + burst.lost))
}

/// Of the line nearest to all points (least squares).
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (middle, level) = (mean(|point| point.0), mean(|point| point.1));
    let rise: f64 = points.iter().map(|(x, y)| (x - middle) * (y - level)).sum();
    let run: f64 = points.iter().map(|(x, _)| (x - middle).powi(2)).sum();
    rise / run
}
