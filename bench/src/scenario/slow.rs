//! One client of a hundred stops reading.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bench, Candidate, closed, with_errors};
use crate::load::{Kind, Load, Outcome};
use crate::report::Row;
use crate::server::{Hub, Server};

const CLIENTS: usize = 1_000;
const WINDOW: usize = 256;

/// How the hub is configured, and what is published.
struct Setting {
    kind: Kind,
    policy: &'static str,
    /// What the hub keeps for each client, and for all of them.
    pending_bytes: u32,
    total_pending_bytes: u32,
    /// What the kernel takes for each before it can send it; 0 is its own choice.
    unsent_bytes: u32,
    /// More than the kernel keeps for a client that does not read.
    items: u32,
}

const DISCONNECT: Setting = Setting {
    kind: Kind::Stream,
    policy: "disconnect",
    pending_bytes: 100_000,
    total_pending_bytes: 1 << 30,
    unsent_bytes: 131_072,
    items: 100_000,
};

const SETTINGS: [Setting; 6] = [
    DISCONNECT,
    Setting {
        policy: "drop-oldest",
        ..DISCONNECT
    },
    Setting {
        policy: "latest-only",
        ..DISCONNECT
    },
    Setting {
        policy: "latest-only",
        unsent_bytes: 0,
        ..DISCONNECT
    },
    Setting {
        kind: Kind::WebSocket,
        policy: "drop-oldest",
        ..DISCONNECT
    },
    // All together may have less than each: what is shared decides.
    Setting {
        policy: "drop-oldest",
        pending_bytes: 1_000_000,
        total_pending_bytes: 500_000,
        ..DISCONNECT
    },
];

pub(crate) fn run(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for setting in &SETTINGS {
        for _ in 0..bench.rounds {
            let candidate = Candidate::Hub(Hub::on(bench.core).with(&setting.config()));
            let row = Row::new("slow consumers", &setting.name(), candidate.name());
            rows.push(candidate.attempt(&row, |row| one(bench, &candidate, setting, row)));
        }
    }
    rows
}

impl Setting {
    fn name(&self) -> String {
        let Self {
            kind,
            policy,
            pending_bytes,
            total_pending_bytes,
            unsent_bytes,
            ..
        } = self;
        format!(
            "{kind:?}, 10 of 1,000, {policy}, pending_bytes {pending_bytes}, total_pending_bytes {total_pending_bytes}, unsent_bytes {unsent_bytes}"
        )
    }

    fn config(&self) -> String {
        let Self {
            policy,
            pending_bytes,
            total_pending_bytes,
            unsent_bytes,
            ..
        } = self;
        format!(
            "slow_clients = \"{policy}\"\n[limits]\npublish_bytes = 65536\npending_bytes = {pending_bytes}\ntotal_pending_bytes = {total_pending_bytes}\nunsent_bytes = {unsent_bytes}\n"
        )
    }
}

fn one(bench: &Bench, candidate: &Candidate, setting: &Setting, row: Row) -> io::Result<Row> {
    let (server, mut load) = bench.start(candidate)?;
    load.open(setting.kind, CLIENTS, WINDOW, |_| vec![0])?;
    load.run(closed(1, 100))?;
    let before = load.run(closed(1, 1_000))?;
    let (flood_before, peak_before) = flood(&server, &mut load, setting.items / 4)?;
    let memory = server.memory()?;
    load.stop((0..CLIENTS).step_by(100))?;
    // Until nothing more goes to those who stopped.
    let (flood, peak) = flood(&server, &mut load, setting.items)?;
    let after = load.run(closed(1, 1_000))?;
    let p99 = |outcome: &Outcome| outcome.microseconds(0.99);
    let metric = |name| Ok::<_, io::Error>(server.metric(name)? as f64);
    let row = row
        .with("flood p99 us before", p99(&flood_before))
        .with("flood p99 us", p99(&flood))
        .with("flood p99 ratio", p99(&flood) / p99(&flood_before))
        .with("1 in flight p99 us before", p99(&before))
        // Who is disconnected is gone by then.
        .with("1 in flight p99 us after", p99(&after))
        .with("disconnected", metric("gripline_slow_consumers_total")?)
        .with("items dropped", metric("gripline_dropped_items_total")?)
        .with("bytes waiting", metric("gripline_pending_bytes")?)
        .with("MB before", memory as f64 / 1e6)
        .with("MB", server.memory()? as f64 / 1e6)
        .with("flood peak MB before", peak_before as f64 / 1e6)
        .with("flood peak MB", peak as f64 / 1e6);
    let mut all = before;
    for outcome in [flood_before, flood, after] {
        all.add(&outcome)?;
    }
    Ok(with_errors(row, &all))
}

/// Publishes as fast as clients read: what came of it, and the most memory that the server had.
fn flood(server: &Server, load: &mut Load, items: u32) -> io::Result<(Outcome, u64)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peak = scope.spawn(|| server.peak_memory(&is_over));
        let outcome = load.run(closed(64, items));
        is_over.store(true, Ordering::Relaxed);
        let peak = peak.join();
        let peak = peak.map_err(|_| io::Error::other("looking at memory failed"))?;
        Ok((outcome?, peak?))
    })
}
