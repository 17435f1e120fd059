//! A small channel beside one with very many subscribers, on the same shard. The load's two threads
//! share a processor; where the many read nothing, it has hardly anything to do for them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Bench, closed, publish_until, with_errors};
use crate::load::{Kind, Load, Outcome, Pace, Source};
use crate::report::Row;

/// Clients of the large channel.
const MANY: usize = 19_000;
/// Clients of the small one.
const FEW: usize = 10;
const WINDOW: usize = 256;
/// For the large channel.
const ITEMS: u32 = 30;

pub(crate) fn run(bench: &Bench) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for _ in 0..bench.rounds {
        let candidate = bench.hub();
        let (server, mut few) = bench.start(&candidate)?;
        few.open(Kind::Stream, FEW, WINDOW, |_| vec![1])?;
        let mut many = Load::new(server.clients, server.publish, server.dialect)?;
        many.open(Kind::Stream, MANY, WINDOW, |_| vec![0])?;
        let alone = publish_until(&mut few, 200, &AtomicBool::new(true))?;
        let (beside, large) = together(&mut few, &mut many, closed(1, ITEMS))?;
        many.stop(0..MANY)?;
        let unread = Source {
            channels: 0..1,
            pace: Pace::Every(Duration::from_millis(200)),
            items: ITEMS,
        };
        let (undisturbed, _) = together(&mut few, &mut many, unread)?;
        for (setting, outcome) in [
            ("channel of 10, alone", &alone),
            ("channel of 10, beside one of 19,000", &beside),
            ("channel of 19,000", &large),
            (
                "channel of 10, beside 19,000 that read nothing",
                &undisturbed,
            ),
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

/// Publishes to both: to the few 200 items a second, as long as the source for the many has items.
fn together(few: &mut Load, many: &mut Load, source: Source) -> io::Result<(Outcome, Outcome)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A thread of its own: it would wait for what the other clients read.
        let background = scope.spawn(|| publish_until(few, 20, &is_over));
        let large = many.run(&[source]);
        is_over.store(true, Ordering::Relaxed);
        let beside = background.join();
        let beside = beside.map_err(|_| io::Error::other("publishing failed"))??;
        Ok((beside, large?.remove(0)))
    })
}
