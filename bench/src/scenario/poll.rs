//! Long-polls: every item answers all of them, and all ask again.

use std::io;
use std::time::{Duration, Instant};

use super::{Bench, DEADLINE, closed, hold, with_errors};
use crate::load::Kind;
use crate::report::Row;

const CLIENTS: usize = 1_000;
const ITEMS: usize = 50;
const HELD: &str = "gripline_held_responses";

pub(crate) fn run(bench: &Bench) -> Vec<Row> {
    let candidate = bench.hub();
    let setting = format!("{CLIENTS}, 1 in flight");
    let row = Row::new("long-polls", &setting, candidate.name());
    let rounds = 0..bench.rounds;
    let rounds = rounds.map(|_| candidate.attempt(&row, |row| one(bench, row)));
    rounds.collect()
}

fn one(bench: &Bench, row: Row) -> io::Result<Row> {
    let (server, mut load) = bench.start(&bench.hub())?;
    hold(&server, &mut load, Kind::Poll, CLIENTS)?;
    load.run(closed(1, 1))?;
    server.until(HELD, CLIENTS as u64)?;
    let mut outcomes = Vec::new();
    let mut used = Duration::ZERO;
    for _ in 0..ITEMS {
        let (before, asked) = (server.cpu_time()?, bench.origin.requests());
        outcomes.push(load.run(closed(1, 1))?);
        until_asked(bench, asked + CLIENTS as u64)?;
        used += server.cpu_time()?.saturating_sub(before);
        // Who is not held would not hear of the next one. Looking costs the hub more than an
        // answer does, so it is not in its time.
        server.until(HELD, CLIENTS as u64)?;
    }
    let mut all = outcomes.swap_remove(0);
    for outcome in &outcomes {
        all.add(outcome)?;
    }
    let row = row
        .with(
            "CPU us/answer and request",
            used.as_secs_f64() * 1e6 / all.delivered as f64,
        )
        .with("p50 us", all.microseconds(0.5))
        .with("p99 us", all.microseconds(0.99));
    Ok(with_errors(row, &all))
}

/// Waits until the origin was asked so often, and a little for what becomes of its last answers.
fn until_asked(bench: &Bench, requests: u64) -> io::Result<()> {
    const REST: Duration = Duration::from_millis(10);
    let begun = Instant::now();
    loop {
        let asked = bench.origin.requests();
        if asked >= requests {
            std::thread::sleep(REST);
            return Ok(());
        }
        if begun.elapsed() > DEADLINE {
            let text = format!("the origin was asked {asked} times in place of {requests}");
            return Err(io::Error::other(text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
