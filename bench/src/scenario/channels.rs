//! Many channels: publishes a second, and what a delivery costs as they become more.

use std::io;

use super::{Bench, Candidate, measure, with_errors};
use crate::load::{Kind, Pace, Source};
use crate::report::Row;

const WINDOW: usize = 256;

/// 1,000 channels of 10 subscribers each, published on in turns.
pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> io::Result<Vec<Row>> {
    const SUBSCRIBERS: usize = 10_000;
    let mut rows = Vec::new();
    for _ in 0..bench.rounds {
        for candidate in candidates {
            let clients = candidate.clients(SUBSCRIBERS);
            let setting = format!("Stream, {clients}, 64 in flight");
            let row = Row::new("1,000 channels", &setting, candidate.name());
            let one = |row| one(bench, candidate, clients, row);
            rows.push(candidate.attempt(&row, one)?);
        }
    }
    Ok(rows)
}

fn one(bench: &Bench, candidate: &Candidate, clients: usize, row: Row) -> io::Result<Row> {
    const CHANNELS: u32 = 1_000;
    const ITEMS: u32 = 40_000;
    let (server, mut load) = bench.start(candidate)?;
    let channel = |number| u32::try_from(number).unwrap_or(0) % CHANNELS;
    let window = candidate.window(WINDOW);
    load.open(Kind::Stream, clients, window, |number| {
        vec![channel(number)]
    })?;
    let source = |items| Source {
        channels: 0..CHANNELS,
        pace: Pace::InFlight(64),
        items,
    };
    let items = match candidate {
        Candidate::Nchan => ITEMS / 4,
        Candidate::Pushpin => ITEMS / 16,
        _ => ITEMS,
    };
    load.run(&[source(items / 8)])?;
    let (outcome, cost) = measure(&server, &mut load, source(items))?;
    let each = outcome.delivered as f64 / outcome.published as f64;
    let row = row
        .with(
            "publishes/s",
            outcome.published as f64 / outcome.elapsed.as_secs_f64(),
        )
        .with("CPU us/publish", cost.server * each)
        .with("p50 us", outcome.microseconds(0.5))
        .with("p99 us", outcome.microseconds(0.99));
    Ok(with_errors(row, &outcome))
}

/// From 1 to 100,000 channels of 10 subscribers each, published on in turns, one at a time. However
/// many there are, all clients have as much to read.
pub(crate) fn run_flat(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for channels in [1, 100, 1_000, 10_000, 100_000] {
        for _ in 0..bench.rounds {
            rows.push(flat(bench, channels)?);
        }
    }
    Ok(rows)
}

/// As many clients as need be, up to 10,000, which then hear several channels each.
fn flat(bench: &Bench, channels: u32) -> io::Result<Row> {
    const SUBSCRIBERS: u32 = 10;
    const MAX_CLIENTS: u32 = 10_000;
    let candidate = bench.hub();
    let (server, mut load) = bench.start(&candidate)?;
    let clients = (channels * SUBSCRIBERS).min(MAX_CLIENTS);
    let each = channels * SUBSCRIBERS / clients;
    // Client 0 hears channels 0 to each - 1, and so do nine others.
    let groups = clients / SUBSCRIBERS;
    load.open(Kind::Stream, clients as usize, WINDOW, |number| {
        let first = u32::try_from(number).unwrap_or(0) % groups * each;
        (first..first + each).collect()
    })?;
    let source = |in_flight, items| Source {
        channels: 0..channels,
        pace: Pace::InFlight(in_flight),
        items,
    };
    // Each channel has had an item before.
    load.run(&[source(64, channels.max(2_000))])?;
    let (outcome, cost) = measure(&server, &mut load, source(1, 10_000))?;
    let setting = format!("{channels} channels, {clients} clients");
    let row = Row::new("cost by channels", &setting, candidate.name())
        .with("CPU us/delivery", cost.server)
        .with("p50 us", outcome.microseconds(0.5))
        .with("p99 us", outcome.microseconds(0.99));
    Ok(with_errors(row, &outcome))
}
