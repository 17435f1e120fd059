//! All clients drop at once and come back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Bench, publish_until};
use crate::load::{Kind, Load};
use crate::report::Row;
use crate::server::Server;

const CLIENTS: usize = 15_000;
/// Clients that stay, on a channel of their own.
const STAYING: usize = 100;
/// Clients that come at a time.
const WINDOW: usize = 1_000;
/// What is published to those who stay, in each step.
const STEP: u32 = 20;

pub(crate) fn run(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            rows.push(one(bench, kind)?);
        }
    }
    Ok(rows)
}

fn one(bench: &Bench, kind: Kind) -> io::Result<Row> {
    let candidate = bench.hub();
    let (server, mut staying) = bench.start(&candidate)?;
    staying.open(Kind::Stream, STAYING, WINDOW, |_| vec![1])?;
    let mut load = connect(&server)?;
    load.open(kind, CLIENTS, WINDOW, |_| vec![0])?;
    let calm = publish_until(&mut staying, STEP, &AtomicBool::new(true))?;
    let asked = bench.origin.requests();
    let is_over = Arc::new(AtomicBool::new(false));
    let background = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || publish_until(&mut staying, STEP, &is_over)
    });
    let begun = Instant::now();
    drop(load);
    let mut load = connect(&server)?;
    load.open(kind, CLIENTS, WINDOW, |_| vec![0])?;
    let elapsed = begun.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let storm = background
        .join()
        .map_err(|_| io::Error::other("publishing failed"))??;
    // Everybody is back, and nobody twice; those who stayed have gone meanwhile.
    let gauge = match kind {
        Kind::WebSocket => "gripline_held_websockets",
        _ => "gripline_held_streams",
    };
    server.until(gauge, CLIENTS as u64)?;
    let requests = bench.origin.requests() - asked;
    Ok(
        Row::new("storm", &format!("{kind:?}, {CLIENTS}"), candidate.name())
            .with("seconds until all are back", elapsed.as_secs_f64())
            .with("origin requests", requests as f64)
            .with("others: p50 us before", calm.microseconds(0.5))
            .with("p50 us", storm.microseconds(0.5))
            .with("p99 us before", calm.microseconds(0.99))
            .with("p99 us", storm.microseconds(0.99))
            .with_count("lost", storm.lost),
    )
}

fn connect(server: &Server) -> io::Result<Load> {
    Load::new(server.clients, server.publish, server.dialect)
}
