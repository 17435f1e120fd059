//! How fast clients are taken in.

use std::io;

use super::{Bench, Candidate};
use crate::load::Kind;
use crate::report::Row;

const CLIENTS: usize = 15_000;
/// Clients that are set up at a time, and with Pushpin.
const WINDOW: usize = 500;
const PUSHPIN_WINDOW: usize = 16;

pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            for candidate in candidates {
                let clients = candidate.clients(CLIENTS);
                let window = match candidate {
                    Candidate::Pushpin => PUSHPIN_WINDOW,
                    _ => WINDOW,
                };
                let setting = format!("{kind:?}, {clients}, {window} at a time");
                let row = Row::new("set-up", &setting, candidate.name());
                rows.push(candidate.attempt(&row, |row| {
                    one(bench, candidate, kind, (clients, window), row)
                }));
            }
        }
    }
    rows
}

fn one(
    bench: &Bench,
    candidate: &Candidate,
    kind: Kind,
    (clients, window): (usize, usize),
    row: Row,
) -> io::Result<Row> {
    let (server, mut load) = bench.start(candidate)?;
    let asked = bench.origin.requests();
    let before = server.cpu_time()?;
    let elapsed = load.open(kind, clients, window, |_| vec![0])?;
    let used = server.cpu_time()?.saturating_sub(before);
    let clients = clients as f64;
    let requests = bench.origin.requests() - asked;
    Ok(row
        .with("clients/s", clients / elapsed.as_secs_f64())
        .with("CPU us/client", used.as_secs_f64() * 1e6 / clients)
        .with("origin requests/client", requests as f64 / clients))
}
