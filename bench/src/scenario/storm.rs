//! All clients drop at once and come back, as many at a time as there are descriptors. Clients,
//! publishers and origin share a processor, which has as much to do as the hub's.

use std::io;
use std::time::Instant;

use super::{Bench, Candidate, meanwhile, steady};
use crate::load::{Kind, Load};
use crate::process::descriptors;
use crate::report::Row;
use crate::server::{Hub, Server};

const CLIENTS: usize = 15_000;
/// Clients that stay, on a channel of their own.
const STAYING: usize = 100;
/// Clients that come at a time before the storm.
const WINDOW: usize = 500;
/// Descriptors for publishers and all else.
const OTHERS: usize = 400;

/// How clients are held, and further lines of the hub's configuration.
const SETTINGS: [(Kind, &str); 3] = [
    (Kind::Stream, ""),
    (Kind::WebSocket, ""),
    (Kind::Stream, "accept_rate = 3000"),
];

pub(crate) fn run(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, limit) in SETTINGS {
        for _ in 0..bench.rounds {
            rows.push(round("storm", bench, kind, limit));
        }
    }
    rows
}

/// One storm at a hub with this limit.
pub(super) fn round(scenario: &'static str, bench: &Bench, kind: Kind, limit: &str) -> Row {
    let config = format!("[limits]\n{limit}\n");
    let candidate = Candidate::Hub(Hub::on(bench.core).with(&config));
    let window = window();
    let comma = if limit.is_empty() { "" } else { ", " };
    let setting = format!("{kind:?}, {CLIENTS}, {window} at a time{comma}{limit}");
    let row = Row::new(scenario, &setting, candidate.name());
    candidate.attempt(&row, |row| one(bench, &candidate, kind, window, row))
}

/// A client that comes needs a second descriptor for its request at the origin, and sometimes a third,
/// for a connection that was made because none was idle and then one was.
fn window() -> usize {
    let left = descriptors().saturating_sub(CLIENTS + STAYING + OTHERS);
    (left / 2).clamp(WINDOW, CLIENTS)
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    kind: Kind,
    window: usize,
    row: Row,
) -> io::Result<Row> {
    let (server, mut staying) = bench.start(candidate)?;
    staying.open(Kind::Stream, STAYING, STAYING, |_| vec![1])?;
    let mut load = connect(&server)?;
    load.open(kind, CLIENTS, WINDOW, |_| vec![0])?;
    let calm = staying.run(steady(200))?;
    let (asked, parted) = (bench.origin.requests(), bench.origin.farewells());
    let (storm, (elapsed, load)) = meanwhile(&mut staying, || {
        let begun = Instant::now();
        drop(load);
        let mut load = connect(&server)?;
        load.open(kind, CLIENTS, window, |_| vec![0])?;
        Ok((begun.elapsed(), load))
    })?;
    // Everybody is back, and nobody twice.
    let (gauge, others) = match kind {
        Kind::WebSocket => ("gripline_held_websockets", 0),
        _ => ("gripline_held_streams", STAYING),
    };
    server.until(gauge, (CLIENTS + others) as u64)?;
    let farewells = bench.origin.farewells() - parted;
    let requests = bench.origin.requests() - asked - farewells;
    Ok(row
        .with("seconds until all are back", elapsed.as_secs_f64())
        .with("refusals", load.refusals() as f64)
        .with("origin requests", requests as f64)
        .with("farewells", farewells as f64)
        .with("others: p50 us before", calm.microseconds(0.5))
        .with("p50 us", storm.microseconds(0.5))
        .with("p99 us before", calm.microseconds(0.99))
        .with("p99 us", storm.microseconds(0.99))
        .with("max us before", calm.microseconds(1.0))
        .with("max us", storm.microseconds(1.0))
        .with_count("lost", storm.lost))
}

fn connect(server: &Server) -> io::Result<Load> {
    Load::new(server.clients, server.publish, server.dialect)
}
