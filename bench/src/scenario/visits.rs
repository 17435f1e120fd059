//! Clients that come, subscribe and leave, among others that stay: what one costs, however many
//! channels there are and however many others hear its own.

use std::io;
use std::time::Duration;

use super::Bench;
use crate::load::Kind;
use crate::report::Row;
use crate::server::Server;

/// Channels, and clients that stay; each client hears one channel or, where there are more channels
/// than clients, a part of all.
const SETTINGS: [(u32, u32); 5] = [
    (1, 10),
    (1_000, 10_000),
    (10_000, 10_000),
    (100_000, 10_000),
    (1, 19_000),
];
/// Clients that come and leave together, and how often.
const VISITORS: usize = 250;
const VISITS: usize = 16;
const WINDOW: usize = 64;
/// Those who stay, as a rule, hear channels with so many subscribers.
const SUBSCRIBERS: u32 = 10;

pub(crate) fn run(bench: &Bench) -> Vec<Row> {
    let candidate = bench.hub();
    let mut rows = Vec::new();
    for (channels, staying) in SETTINGS {
        let setting = format!("{channels} channels, {staying} stay");
        let row = Row::new("subscribe and leave", &setting, candidate.name());
        for _ in 0..bench.rounds {
            rows.push(candidate.attempt(&row, |row| one(bench, channels, staying, row)));
        }
    }
    rows
}

fn one(bench: &Bench, channels: u32, staying: u32, row: Row) -> io::Result<Row> {
    let (server, mut load) = bench.start(&bench.hub())?;
    let subscriptions = staying.max(channels * SUBSCRIBERS);
    let each = subscriptions / staying;
    load.open(Kind::Stream, staying as usize, WINDOW, |number| {
        let first = u32::try_from(number).unwrap_or(0) * each;
        (first..first + each).map(|it| it % channels).collect()
    })?;
    let (mut came, mut left) = (Duration::ZERO, Duration::ZERO);
    // The first visit makes room that all others use again.
    for visit in 0..=VISITS {
        let before = server.cpu_time()?;
        let all = staying as usize + VISITORS;
        load.open(Kind::Stream, all, WINDOW, |number| {
            let number = u32::try_from(number + visit * VISITORS).unwrap_or(0);
            // Far apart from one another.
            vec![number.wrapping_mul(7_919) % channels]
        })?;
        let between = settled(&server)?;
        load.leave(staying as usize);
        let after = settled(&server)?;
        if visit > 0 {
            came += between.saturating_sub(before);
            left += after.saturating_sub(between);
        }
    }
    server.until("gripline_held_streams", u64::from(staying))?;
    let visitors = (VISITORS * VISITS) as f64;
    Ok(row
        .with("CPU us to come", came.as_secs_f64() * 1e6 / visitors)
        .with("CPU us to leave", left.as_secs_f64() * 1e6 / visitors))
}

/// Processor time of a server once it has nothing more to do.
fn settled(server: &Server) -> io::Result<Duration> {
    const INTERVAL: Duration = Duration::from_millis(20);
    let mut time = server.cpu_time()?;
    loop {
        std::thread::sleep(INTERVAL);
        let later = server.cpu_time()?;
        // Timers of its own go on.
        if later.saturating_sub(time) < INTERVAL / 100 {
            return Ok(later);
        }
        time = later;
    }
}
