//! What a second shard brings, and beside it what a second raw loop brings on the same machine.
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
use crate::report::{Row, median};
use crate::server::{Hub, Server};
use crate::wall::Writes;

const CLIENTS: usize = 10_000;
/// Items of a batch, of which each is published when all clients have been sent the one before.
const BATCH: u32 = 16;
const BATCHES: u32 = 8;
const WINDOW: usize = 256;
/// The channel of all clients, and one that has none.
const CHANNEL: u32 = 0;
const EMPTY: u32 = 1;

pub(crate) fn run(bench: &Bench, candidates: &[Candidate], cores: &[usize]) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in [Kind::Stream, Kind::WebSocket] {
        for _ in 0..bench.rounds {
            for candidate in candidates {
                let group = match candidate {
                    Candidate::Wall(Writes::Each) => Group::of_loops,
                    Candidate::Hub(_) => Group::of_shards,
                    _ => continue,
                };
                let row = Row::new("shards", &format!("{kind:?}, {CLIENTS}"), candidate.name());
                rows.push(candidate.attempt(&row, |row| {
                    let one = group(bench, kind, cores, 1)?.speed()?;
                    let two = group(bench, kind, cores, 2)?.speed()?;
                    Ok(with_speeds(row, one, two))
                }));
            }
        }
    }
    rows
}

fn with_speeds(row: Row, one: Speed, two: Speed) -> Row {
    row.with("deliveries/s of one", one.per_second)
        .with("of two", two.per_second)
        .with("ratio", two.per_second / one.per_second)
        .with("CPU us/delivery of one", one.cost)
        .with("CPU us/delivery of two", two.cost)
}

/// How fast a batch is delivered; half of them are faster.
#[derive(Debug, Clone, Copy)]
struct Speed {
    /// Deliveries.
    per_second: f64,
    /// Microseconds of the servers' processor time for each.
    cost: f64,
}

/// Servers that share all clients, and an item for all of them.
struct Group {
    kind: Kind,
    members: Vec<Member>,
    progress: Progress,
}

struct Member {
    server: Server,
    load: Load,
    publisher: TcpStream,
}

/// How to know that all clients were written to.
enum Progress {
    /// The server counts bytes: so many more for each item.
    Counted {
        each: u64,
        written: u64,
        /// How long an item took at least.
        fastest: Duration,
    },
    /// A raw loop reads its next request afterwards.
    Answered,
}

const WRITTEN: &str = "gripline_sent_bytes_total";

impl Group {
    /// A hub of so many shards.
    fn of_shards(bench: &Bench, kind: Kind, cores: &[usize], shards: usize) -> io::Result<Self> {
        let hub = Candidate::Hub(Hub {
            shards,
            cores: cores.to_vec(),
            config: String::new(),
        });
        let mut member = Member::start(bench, &hub, kind, CLIENTS)?;
        pin(cores)?;
        member.publish(kind, CHANNEL, 1)?;
        let progress = Progress::Counted {
            each: received(&mut member.load)?,
            written: 0,
            fastest: Duration::MAX,
        };
        Ok(Self {
            kind,
            members: vec![member],
            progress,
        })
    }

    /// So many raw loops, each with a processor and its part of the clients.
    fn of_loops(bench: &Bench, kind: Kind, cores: &[usize], loops: usize) -> io::Result<Self> {
        let wall = Candidate::Wall(Writes::Each);
        let members = cores.iter().take(loops).map(|core| {
            let bench = Bench {
                core: *core,
                ..bench.clone()
            };
            Member::start(&bench, &wall, kind, CLIENTS / loops)
        });
        let members = members.collect::<io::Result<_>>()?;
        pin(cores)?;
        Ok(Self {
            kind,
            members,
            progress: Progress::Answered,
        })
    }

    fn speed(mut self) -> io::Result<Speed> {
        let mut numbers = 2..;
        let (mut taken, mut used) = (Vec::new(), Vec::new());
        // The first batch makes room in the kernel that all others use again.
        for batch in 0..=BATCHES {
            if let Progress::Counted { written, .. } = &mut self.progress {
                *written = self.members[0].server.metric(WRITTEN)?;
            }
            let begun = Instant::now();
            let cpu = self.cpu_time()?;
            for number in numbers.by_ref().take(BATCH as usize) {
                self.deliver(number)?;
            }
            if batch > 0 {
                taken.push(begun.elapsed().as_secs_f64());
                used.push(self.cpu_time()?.saturating_sub(cpu).as_secs_f64());
            }
            for member in &mut self.members {
                member.load.drain()?;
            }
        }
        let deliveries = f64::from(BATCH) * CLIENTS as f64;
        Ok(Speed {
            per_second: deliveries / median(&taken),
            cost: median(&used) * 1e6 / deliveries,
        })
    }

    /// Publishes an item, and waits until all clients were written to.
    fn deliver(&mut self, number: u32) -> io::Result<()> {
        let asked = Instant::now();
        self.publish(CHANNEL, number)?;
        match &mut self.progress {
            Progress::Counted {
                each,
                written,
                fastest,
            } => {
                *written += *each;
                // Looking takes processors, too.
                if *fastest < Duration::MAX {
                    let expected = fastest.mul_f64(0.95);
                    std::thread::sleep(expected.saturating_sub(asked.elapsed()));
                }
                while self.members[0].server.metric(WRITTEN)? < *written {
                    std::thread::sleep(Duration::from_micros(500));
                }
                *fastest = asked.elapsed().min(*fastest);
                Ok(())
            }
            Progress::Answered => self.publish(EMPTY, number),
        }
    }

    /// Publishes an item at all servers at once.
    fn publish(&mut self, channel: u32, number: u32) -> io::Result<()> {
        for member in &mut self.members {
            member.ask(self.kind, channel, number)?;
        }
        self.members.iter_mut().try_for_each(Member::is_answered)
    }

    fn cpu_time(&self) -> io::Result<Duration> {
        self.members.iter().map(|it| it.server.cpu_time()).sum()
    }
}

impl Member {
    /// Starts a server, with so many clients that read nothing.
    fn start(bench: &Bench, candidate: &Candidate, kind: Kind, clients: usize) -> io::Result<Self> {
        let (server, mut load) = bench.start(candidate)?;
        load.open(kind, clients, WINDOW, |_| vec![CHANNEL])?;
        load.stop(0..clients)?;
        let publisher = TcpStream::connect(server.publish)?;
        publisher.set_nodelay(true)?;
        Ok(Self {
            server,
            load,
            publisher,
        })
    }

    fn publish(&mut self, kind: Kind, channel: u32, number: u32) -> io::Result<()> {
        self.ask(kind, channel, number)?;
        self.is_answered()
    }

    fn ask(&mut self, kind: Kind, channel: u32, number: u32) -> io::Result<()> {
        let Server {
            dialect, publish, ..
        } = self.server;
        let request = dialect.publish(publish, Item { channel, number }, kind);
        self.publisher.write_all(&request)
    }

    fn is_answered(&mut self) -> io::Result<()> {
        let mut answer = [0; 1024];
        let count = self.publisher.read(&mut answer)?;
        if answer[..count].starts_with(b"HTTP/1.1 200") {
            Ok(())
        } else {
            Err(io::Error::other("the server refuses an item"))
        }
    }
}

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
