//! A small channel beside one with very many subscribers, on the same shard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bench, closed, publish_until, with_errors};
use crate::load::{Kind, Load};
use crate::report::Row;

/// Clients of the large channel.
const MANY: usize = 19_000;
/// Clients of the small one.
const FEW: usize = 10;
const WINDOW: usize = 256;

pub(crate) fn run(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for _ in 0..bench.rounds {
        let candidate = bench.hub();
        let (server, mut few) = bench.start(&candidate)?;
        few.open(Kind::Stream, FEW, WINDOW, |_| vec![1])?;
        let mut many = Load::new(server.clients, server.publish, server.dialect)?;
        many.open(Kind::Stream, MANY, WINDOW, |_| vec![0])?;
        let alone = publish_until(&mut few, 200, &AtomicBool::new(true))?;
        let is_over = Arc::new(AtomicBool::new(false));
        // A thread of its own: it would wait for what the other clients read.
        let background = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || publish_until(&mut few, 20, &is_over)
        });
        let large = many.run(&[closed(1, 30)]);
        is_over.store(true, Ordering::Relaxed);
        let beside = background.join();
        let beside = beside.map_err(|_| io::Error::other("publishing failed"))??;
        for (setting, outcome) in [
            ("channel of 10, alone", &alone),
            ("channel of 10, beside one of 19,000", &beside),
            ("channel of 19,000", &large?[0]),
        ] {
            let row = Row::new("neighbours", setting, candidate.name())
                .with("items", outcome.published as f64)
                .with("p50 us", outcome.microseconds(0.5))
                .with("p90 us", outcome.microseconds(0.9))
                .with("p99 us", outcome.microseconds(0.99))
                .with("max us", outcome.microseconds(1.0));
            rows.push(with_errors(row, outcome));
        }
    }
    Ok(rows)
}
