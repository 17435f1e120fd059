//! Many channels: publishes a second, and what a delivery costs as they become more.

use std::io;

use super::{Bench, Candidate, closed, measure, with_errors};
use crate::load::{Kind, Source};
use crate::report::Row;

const WINDOW: usize = 256;

/// Subscribers of each channel.
const SUBSCRIBERS: u32 = 10;

/// 1,000 channels of 10 subscribers each, published on in turns; fewer with Pushpin.
pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> Vec<Row> {
    const CLIENTS: usize = 10_000;
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            for candidate in candidates {
                let clients = candidate.clients(CLIENTS);
                let channels = u32::try_from(clients).unwrap_or(0) / SUBSCRIBERS;
                let setting = format!("{kind:?}, {channels} of {SUBSCRIBERS}, 64 in flight");
                let row = Row::new("channels", &setting, candidate.name());
                rows.push(
                    candidate.attempt(&row, |row| one(bench, candidate, kind, channels, row)),
                );
            }
        }
    }
    rows
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    kind: Kind,
    channels: u32,
    row: Row,
) -> io::Result<Row> {
    const ITEMS: u32 = 40_000;
    let (server, mut load) = bench.start(candidate)?;
    let channel = |number| u32::try_from(number).unwrap_or(0) % channels;
    let clients = (channels * SUBSCRIBERS) as usize;
    load.open(kind, clients, candidate.window(WINDOW), |number| {
        vec![channel(number)]
    })?;
    let items = match candidate {
        Candidate::Nchan => ITEMS / 4,
        Candidate::Pushpin => ITEMS / 16,
        _ => ITEMS,
    };
    load.run(turns(channels, 64, items / 8))?;
    let (outcome, cost) = measure(&server, &mut load, turns(channels, 64, items))?;
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

/// One channel after the other.
fn turns(channels: u32, in_flight: u32, items: u32) -> Source {
    Source {
        channels: 0..channels,
        ..closed(in_flight, items)
    }
}

/// From 1 to 100,000 channels of 10 subscribers each, published on in turns, one at a time. However
/// many there are, all clients have as much to read.
pub(crate) fn run_flat(bench: &Bench) -> Vec<Row> {
    let candidate = bench.hub();
    let mut rows = Vec::new();
    for channels in [1, 100, 1_000, 10_000, 100_000] {
        let clients = clients(channels);
        let setting = format!("{channels} channels, {clients} clients");
        let row = Row::new("cost by channels", &setting, candidate.name());
        for _ in 0..bench.rounds {
            rows.push(candidate.attempt(&row, |row| flat(bench, channels, row)));
        }
    }
    rows
}

/// As many as need be, up to 10,000, which then hear several channels each.
fn clients(channels: u32) -> u32 {
    (channels * SUBSCRIBERS).min(10_000)
}

fn flat(bench: &Bench, channels: u32, row: Row) -> io::Result<Row> {
    let (server, mut load) = bench.start(&bench.hub())?;
    let clients = clients(channels);
    let each = channels * SUBSCRIBERS / clients;
    // Client 0 hears channels 0 to each - 1, and so do nine others.
    let groups = clients / SUBSCRIBERS;
    load.open(Kind::Stream, clients as usize, WINDOW, |number| {
        let first = u32::try_from(number).unwrap_or(0) % groups * each;
        (first..first + each).collect()
    })?;
    // Each channel has had an item before.
    load.run(turns(channels, 64, channels.max(2_000)))?;
    let (outcome, cost) = measure(&server, &mut load, turns(channels, 1, 10_000))?;
    let row = row
        .with("CPU us/delivery", cost.server)
        .with("p50 us", outcome.microseconds(0.5))
        .with("p99 us", outcome.microseconds(0.99));
    Ok(with_errors(row, &outcome))
}
