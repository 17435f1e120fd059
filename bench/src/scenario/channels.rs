//! Many channels: publishes a second, and what a delivery costs as they become more.

use std::io;

use super::{Bench, Candidate, measure, with_errors};
use crate::load::{Kind, Pace, Source};
use crate::report::Row;

const WINDOW: usize = 256;

/// 1,000 channels of 10 subscribers each, published on in turns.
pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> io::Result<Vec<Row>> {
    const CHANNELS: u32 = 1_000;
    const SUBSCRIBERS: usize = 10_000;
    let mut rows = Vec::new();
    for _ in 0..bench.rounds {
        for candidate in candidates {
            let (server, mut load) = bench.start(candidate)?;
            load.open(Kind::Stream, SUBSCRIBERS, WINDOW, |number| {
                vec![u32::try_from(number).unwrap_or(0) % CHANNELS]
            })?;
            let source = |items| Source {
                channels: 0..CHANNELS,
                pace: Pace::InFlight(64),
                items,
            };
            load.run(&[source(5_000)])?;
            let (outcome, cost) = measure(&server, &mut load, source(40_000))?;
            let seconds = outcome.elapsed.as_secs_f64();
            let row = Row::new(
                "1,000 channels of 10",
                "Stream, 64 in flight",
                candidate.name(),
            )
            .with("publishes/s", outcome.published as f64 / seconds)
            .with("CPU us/publish", cost * 10.0)
            .with("p50 us", outcome.microseconds(0.5))
            .with("p99 us", outcome.microseconds(0.99));
            rows.push(with_errors(row, &outcome));
        }
    }
    Ok(rows)
}

/// From 1 to 100,000 channels, with 10,000 subscriptions to those that are published on.
pub(crate) fn run_flat(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for channels in [1, 100, 10_000, 100_000] {
        for _ in 0..bench.rounds {
            rows.push(flat(bench, channels)?);
        }
    }
    Ok(rows)
}

/// 10,000 clients of ten channels each, which are so many different ones.
fn flat(bench: &Bench, channels: u32) -> io::Result<Row> {
    const CLIENTS: usize = 10_000;
    const EACH: u32 = 10;
    let candidate = bench.hub();
    let (server, mut load) = bench.start(&candidate)?;
    load.open(Kind::Stream, CLIENTS, WINDOW, |number| {
        let first = u32::try_from(number).unwrap_or(0) * EACH;
        let mut all: Vec<u32> = (first..first + EACH).map(|it| it % channels).collect();
        all.dedup();
        all.truncate(channels as usize);
        all
    })?;
    let hears = (CLIENTS * EACH as usize / channels as usize).clamp(1, CLIENTS);
    let items = u32::try_from(400_000 / hears).unwrap_or(1).max(20);
    let source = |items| Source {
        channels: 0..channels,
        pace: Pace::InFlight(8),
        items,
    };
    load.run(&[source(items / 8)])?;
    let (outcome, cost) = measure(&server, &mut load, source(items))?;
    let setting = format!("{channels} channels of {hears}");
    let row = Row::new("cost by channels", &setting, candidate.name())
        .with("CPU us/delivery", cost)
        .with("CPU us/publish", cost * hears as f64)
        .with("p99 us", outcome.microseconds(0.99));
    Ok(with_errors(row, &outcome))
}
