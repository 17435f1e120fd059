//! What a second shard brings.
//!
//! Clients read nothing here, and the kernel keeps what comes for them: so there is a processor for
//! each shard, and the generator needs none.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Bench, Candidate};
use crate::item::Item;
use crate::load::Kind;
use crate::process::pin;
use crate::report::Row;
use crate::server::{Hub, Server};

const CLIENTS: usize = 10_000;
const ITEMS: u32 = 40;
const WINDOW: usize = 256;

pub(crate) fn run(bench: &Bench, cores: &[usize]) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            let one = deliveries_per_second(bench, kind, cores, 1)?;
            let two = deliveries_per_second(bench, kind, cores, 2)?;
            rows.push(
                Row::new("shards", &format!("{kind:?}, {CLIENTS}"), "Gripline")
                    .with("deliveries/s of one", one)
                    .with("of two", two)
                    .with("ratio", two / one),
            );
        }
    }
    Ok(rows)
}

fn deliveries_per_second(
    bench: &Bench,
    kind: Kind,
    cores: &[usize],
    shards: usize,
) -> io::Result<f64> {
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
    let mut sent = publish(&server, &mut publisher, kind, 1)?;
    let begun = Instant::now();
    for number in 2..=ITEMS {
        sent = publish(&server, &mut publisher, kind, number)?.max(sent);
    }
    let deliveries = f64::from(ITEMS - 1) * CLIENTS as f64;
    Ok(deliveries / begun.elapsed().as_secs_f64())
}

/// Publishes an item, waits until it is written to all, and says how many bytes were.
fn publish(server: &Server, publisher: &mut TcpStream, kind: Kind, number: u32) -> io::Result<u64> {
    const WRITTEN: &str = "gripline_sent_bytes_total";
    /// An item without any framing.
    const LEAST: u64 = CLIENTS as u64 * crate::item::SIZE as u64;
    let before = server.metric(WRITTEN)?;
    let item = Item { channel: 0, number };
    publisher.write_all(&server.dialect.publish(server.publish, item, kind))?;
    let mut answer = [0; 1024];
    let count = publisher.read(&mut answer)?;
    if !answer[..count].starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other("the hub refuses an item"));
    }
    loop {
        let written = server.metric(WRITTEN)?;
        if written - before >= LEAST {
            return Ok(written);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
