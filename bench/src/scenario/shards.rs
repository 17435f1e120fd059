//! What a second shard brings.
//!
//! Clients read nothing while it is measured, and the kernel keeps what comes for them: so there is
//! a processor for each shard, and the generator needs none. They read it between two batches, so
//! that memory is used again; pages that a kernel takes for the first time cost more than writes.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Bench, Candidate};
use crate::item::Item;
use crate::load::{Kind, Load};
use crate::process::pin;
use crate::report::Row;
use crate::server::{Hub, Server};

const CLIENTS: usize = 10_000;
/// Items of a batch, of which each is published when all clients have been sent the one before.
const BATCH: u32 = 16;
const BATCHES: u32 = 8;
const WINDOW: usize = 256;

pub(crate) fn run(bench: &Bench, cores: &[usize]) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            let one = speed(bench, kind, cores, 1)?;
            let two = speed(bench, kind, cores, 2)?;
            rows.push(
                Row::new("shards", &format!("{kind:?}, {CLIENTS}"), "Gripline")
                    .with("deliveries/s of one", one.per_second)
                    .with("of two", two.per_second)
                    .with("ratio", two.per_second / one.per_second)
                    .with("CPU us/delivery of one", one.cost)
                    .with("CPU us/delivery of two", two.cost),
            );
        }
    }
    Ok(rows)
}

/// How fast a batch is delivered; half of them are faster.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// Deliveries.
    per_second: f64,
    /// Microseconds of the hub's processor time for each.
    cost: f64,
}

fn speed(bench: &Bench, kind: Kind, cores: &[usize], shards: usize) -> io::Result<Speed> {
    let candidate = Candidate::Hub(Hub {
        shards,
        cores: cores.to_vec(),
        config: String::new(),
    });
    let (server, mut load) = bench.start(&candidate)?;
    load.open(kind, CLIENTS, WINDOW, |_| vec![0])?;
    load.stop(0..CLIENTS)?;
    pin(cores)?;
    let mut publisher = TcpStream::connect(server.publish)?;
    publisher.set_nodelay(true)?;
    publish(&server, &mut publisher, kind, 1)?;
    let each = received(&mut load)?;
    let mut numbers = 2..;
    let (mut taken, mut used) = (Vec::new(), Vec::new());
    // The first batch makes room in the kernel that all others use again.
    for batch in 0..=BATCHES {
        let mut written = server.metric(WRITTEN)?;
        let begun = Instant::now();
        let mut last = Duration::ZERO;
        let cpu = server.cpu_time();
        for number in numbers.by_ref().take(BATCH as usize) {
            let asked = Instant::now();
            publish(&server, &mut publisher, kind, number)?;
            written += each;
            // Looking takes processors, too.
            std::thread::sleep(last.mul_f64(0.75));
            until_written(&server, written)?;
            last = asked.elapsed();
        }
        if batch > 0 {
            taken.push(begun.elapsed());
            used.push(server.cpu_time().saturating_sub(cpu));
        }
        load.drain()?;
    }
    let deliveries = f64::from(BATCH) * CLIENTS as f64;
    Ok(Speed {
        per_second: deliveries / median(taken).as_secs_f64(),
        cost: median(used).as_secs_f64() * 1e6 / deliveries,
    })
}

const WRITTEN: &str = "gripline_sent_bytes_total";

/// Bytes of one item for all clients, once all have it.
fn received(load: &mut Load) -> io::Result<u64> {
    let mut total = 0;
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(500) {
        let count = load.drain()?;
        if count > 0 {
            total += count as u64;
            last = Instant::now();
        }
    }
    Ok(total)
}

fn publish(server: &Server, publisher: &mut TcpStream, kind: Kind, number: u32) -> io::Result<()> {
    let item = Item { channel: 0, number };
    publisher.write_all(&server.dialect.publish(server.publish, item, kind))?;
    let mut answer = [0; 1024];
    let count = publisher.read(&mut answer)?;
    if answer[..count].starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(io::Error::other("the hub refuses an item"))
    }
}

fn until_written(server: &Server, bytes: u64) -> io::Result<()> {
    while server.metric(WRITTEN)? < bytes {
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
