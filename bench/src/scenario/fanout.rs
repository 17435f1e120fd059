//! One channel, many subscribers: what a delivery costs, and how late the last of them is.

use std::io;

use super::{Bench, Candidate, closed, measure, with_errors};
use crate::load::Kind;
use crate::report::Row;

/// Clients that are set up at a time.
const WINDOW: usize = 64;

/// Subscribers, items that are on their way at a time, and items in all.
const SETTINGS: [(usize, u32, u32); 4] = [
    (1_000, 1, 400),
    (1_000, 8, 3_200),
    (1_000, 64, 16_000),
    (15_000, 1, 40),
];

/// Streams and WebSockets, in every setting.
pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for setting in SETTINGS {
            for _ in 0..bench.rounds {
                for candidate in candidates {
                    let (subscribers, in_flight, items) = setting;
                    // It would take minutes.
                    if matches!(candidate, Candidate::Pushpin) && subscribers > 1_000 {
                        continue;
                    }
                    // They take longer for each, and more would say no more.
                    let few = items.min(100).max(items / 4);
                    let items = match candidate {
                        Candidate::Nchan => few.min(2_000),
                        Candidate::Pushpin => few.min(160),
                        _ => items,
                    };
                    let name = format!("{kind:?}, {subscribers}, {in_flight} in flight");
                    let row = Row::new("fan-out", &name, candidate.name());
                    rows.push(candidate.attempt(&row, |row| {
                        one(bench, candidate, kind, (subscribers, in_flight, items), row)
                    })?);
                }
            }
        }
    }
    Ok(rows)
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    kind: Kind,
    (subscribers, in_flight, items): (usize, u32, u32),
    row: Row,
) -> io::Result<Row> {
    let (server, mut load) = bench.start(candidate)?;
    load.open(kind, subscribers, candidate.window(WINDOW), |_| vec![0])?;
    load.run(&[closed(in_flight, items / 8)])?;
    let (outcome, cost) = measure(&server, &mut load, closed(in_flight, items))?;
    let row = row
        .with("CPU us/delivery", cost.server)
        .with("server busy", cost.busy)
        .with("load us/delivery", cost.load)
        .with("deliveries/s", outcome.per_second())
        .with("p50 us", outcome.microseconds(0.5))
        .with("p90 us", outcome.microseconds(0.9))
        .with("p99 us", outcome.microseconds(0.99))
        .with("p99.9 us", outcome.microseconds(0.999))
        .with("max us", outcome.microseconds(1.0));
    Ok(with_errors(row, &outcome))
}
