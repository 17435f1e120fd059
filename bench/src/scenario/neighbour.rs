//! A small channel beside one with very many subscribers, on the same shard. The load's two threads
//! share a processor; where the many read nothing, it has hardly anything to do for them.

use std::io;
use std::time::Duration;

use super::{Bench, closed, meanwhile, steady, with_errors};
use crate::load::{Kind, Load, Order, Pace, Source};
use crate::report::Row;

/// Clients of the large channel.
const MANY: usize = 19_000;
/// Clients of the small one.
const FEW: usize = 10;
const WINDOW: usize = 256;
/// For the large channel.
const ITEMS: u32 = 30;
const SCENARIO: &str = "neighbours";

pub(crate) fn run(bench: &Bench) -> Vec<Row> {
    let candidate = bench.hub();
    let all = Row::new(SCENARIO, "channels of 10 and of 19,000", candidate.name());
    let rounds = 0..bench.rounds;
    let rounds = rounds.map(|_| candidate.attempt_all(&all, || one(bench)));
    rounds.flatten().collect()
}

fn one(bench: &Bench) -> io::Result<Vec<Row>> {
    let candidate = bench.hub();
    let (server, mut few) = bench.start(&candidate)?;
    few.open(Kind::Stream, FEW, WINDOW, |_| vec![1])?;
    let mut many = Load::new(server.clients, server.publish, server.dialect)?;
    many.open(Kind::Stream, MANY, WINDOW, |_| vec![0])?;
    let alone = few.run(steady(200))?;
    let (beside, large) = meanwhile(&mut few, || many.run(closed(1, ITEMS)))?;
    many.stop(0..MANY)?;
    let unread = Source {
        channels: 0..1,
        pace: Pace::Every(Duration::from_millis(200)),
        order: Order::Kept,
        items: ITEMS,
    };
    let (undisturbed, _) = meanwhile(&mut few, || many.run(unread))?;
    let outcomes = [
        ("channel of 10, alone", alone),
        ("channel of 10, beside one of 19,000", beside),
        ("channel of 19,000", large),
        (
            "channel of 10, beside 19,000 that read nothing",
            undisturbed,
        ),
    ];
    let rows = outcomes.map(|(setting, outcome)| {
        let row = Row::new(SCENARIO, setting, candidate.name())
            .with("items", outcome.published as f64)
            .with("p50 us", outcome.microseconds(0.5))
            .with("p90 us", outcome.microseconds(0.9))
            .with("p99 us", outcome.microseconds(0.99))
            .with("max us", outcome.microseconds(1.0));
        with_errors(row, &outcome)
    });
    Ok(rows.into())
}
