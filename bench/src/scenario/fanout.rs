//! One channel, many subscribers: what a delivery costs, and how late the last of them is.

use std::io;

use super::{Bench, Candidate, closed, measure, with_errors};
use crate::load::{Kind, Order, Pace, Source};
use crate::report::Row;
use crate::wall::Writes;

/// Clients that are set up at a time.
const WINDOW: usize = 64;

/// Subscribers, items that are on their way at a time, and items in all.
const SETTINGS: [(usize, u32, u32, Order); 5] = [
    (1_000, 1, 400, Order::Any),
    (1_000, 8, 3_200, Order::Any),
    (1_000, 64, 16_000, Order::Any),
    (1_000, 64, 2_000, Order::Kept),
    (15_000, 1, 40, Order::Any),
];

/// Streams and WebSockets, in every setting.
pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for (subscribers, in_flight, items, order) in SETTINGS {
            for _ in 0..bench.rounds {
                for candidate in candidates {
                    // It would take minutes.
                    if matches!(candidate, Candidate::Pushpin) && subscribers > 1_000 {
                        continue;
                    }
                    let source = Source {
                        order,
                        ..closed(in_flight, fewer(candidate, items))
                    };
                    let row = Row::new(
                        "fan-out",
                        &name(kind, subscribers, &source),
                        candidate.name(),
                    );
                    rows.push(candidate.attempt(&row, |row| {
                        one(bench, candidate, (kind, subscribers), source.clone(), row)
                    }));
                }
            }
        }
    }
    rows
}

/// Who writes once for each item takes longer, and more would say no more.
fn fewer(candidate: &Candidate, items: u32) -> u32 {
    let few = items.min(100).max(items / 4);
    match candidate {
        Candidate::Wall(Writes::Each) | Candidate::Nchan => few.min(2_000),
        Candidate::Pushpin => few.min(160),
        _ => items,
    }
}

fn name(kind: Kind, subscribers: usize, source: &Source) -> String {
    let in_flight = match source.pace {
        Pace::InFlight(most) => most,
        Pace::Every(_) => 1,
    };
    let order = match source.order {
        Order::Any => "",
        Order::Kept => ", one publisher",
    };
    format!("{kind:?}, {subscribers}, {in_flight} in flight{order}")
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    (kind, subscribers): (Kind, usize),
    source: Source,
    row: Row,
) -> io::Result<Row> {
    let (server, mut load) = bench.start(candidate)?;
    load.open(kind, subscribers, candidate.window(WINDOW), |_| vec![0])?;
    load.run(Source {
        items: source.items / 8,
        ..source.clone()
    })?;
    let order = source.order;
    let (outcome, cost) = measure(&server, &mut load, source)?;
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
    let row = with_errors(row, &outcome);
    Ok(match order {
        Order::Any => row,
        Order::Kept => row.with_count("out of order", outcome.disordered),
    })
}
