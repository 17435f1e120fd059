//! How fast clients are taken in.

use std::io;

use super::{Bench, Candidate};
use crate::load::Kind;
use crate::report::Row;

const CLIENTS: usize = 15_000;
/// Clients that are set up at a time.
const WINDOW: usize = 500;

pub(crate) fn run(bench: &Bench, candidates: &[Candidate]) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            for candidate in candidates.iter().filter(|it| !it.is_peer()) {
                let (server, mut load) = bench.start(candidate)?;
                let asked = bench.origin.requests();
                let before = server.cpu_time();
                let elapsed = load.open(kind, CLIENTS, WINDOW, |_| vec![0])?;
                let used = server.cpu_time().saturating_sub(before);
                let clients = CLIENTS as f64;
                let requests = bench.origin.requests() - asked;
                rows.push(
                    Row::new("set-up", &format!("{kind:?}, {CLIENTS}"), candidate.name())
                        .with("clients/s", clients / elapsed.as_secs_f64())
                        .with("CPU us/client", used.as_secs_f64() * 1e6 / clients)
                        .with("origin requests/client", requests as f64 / clients),
                );
            }
        }
    }
    Ok(rows)
}
