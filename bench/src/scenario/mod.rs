//! What is measured.

pub(crate) mod channels;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod neighbour;
pub(crate) mod poll;
pub(crate) mod set_up;
pub(crate) mod shards;
pub(crate) mod slow;
pub(crate) mod sockets;
pub(crate) mod storm;
pub(crate) mod visits;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::load::{Kind, Load, Order, Outcome, Pace, Source};
use crate::origin::Origin;
use crate::process::own_cpu_time;
use crate::report::Row;
use crate::server::{Hub, Server};
use crate::wall::Writes;

/// How long anything that must happen is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// More would take Pushpin very long.
const PUSHPIN_CLIENTS: usize = 2_000;

/// Where servers run, and the load.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) origin: Origin,
    /// The processor for the server; the load and the origin have another one.
    pub(crate) core: usize,
    pub(crate) load_core: usize,
    pub(crate) rounds: usize,
}

/// Whom to start.
#[derive(Debug, Clone)]
pub(crate) enum Candidate {
    Wall(Writes),
    Hub(Hub),
    Pushpin,
    Nchan,
}

impl Candidate {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Wall(Writes::Each) => "raw epoll, one write each",
            Self::Wall(Writes::Merged) => "raw epoll, merging",
            Self::Hub(_) => "Gripline",
            Self::Pushpin => "Pushpin",
            Self::Nchan => "nginx with nchan",
        }
    }

    /// Starts it.
    fn start(&self, core: usize, origin: SocketAddr) -> io::Result<Server> {
        match self {
            Self::Wall(writes) => Server::wall(*writes, core),
            Self::Hub(hub) => hub.start(origin),
            Self::Pushpin => Server::pushpin(core, origin, PUSHPIN_CLIENTS),
            Self::Nchan => Server::nchan(core),
        }
    }

    /// Whether it is another hub.
    fn is_peer(&self) -> bool {
        matches!(self, Self::Pushpin | Self::Nchan)
    }

    /// How many clients are set up at a time: this many, but few with Pushpin, which ends some of
    /// many that come at once (see [`Server::pushpin`]).
    pub(crate) fn window(&self, most: usize) -> usize {
        match self {
            Self::Pushpin => most.min(4),
            _ => most,
        }
    }

    /// How many clients there are: this many, but few with Pushpin, which takes very long.
    pub(crate) fn clients(&self, most: usize) -> usize {
        match self {
            Self::Pushpin => most.min(PUSHPIN_CLIENTS),
            _ => most,
        }
    }

    /// The row with what was measured. A peer that fails is started again, a few times, and it is
    /// counted; there are no other figures if it always fails.
    pub(crate) fn attempt(
        &self,
        row: &Row,
        mut measured: impl FnMut(Row) -> io::Result<Row>,
    ) -> Row {
        let mut rows = self.attempt_all(row, || Ok(vec![measured(row.clone())?]));
        rows.swap_remove(0)
    }

    /// The same where several rows are measured together; `all` stands for them if none is.
    pub(crate) fn attempt_all(
        &self,
        all: &Row,
        mut measured: impl FnMut() -> io::Result<Vec<Row>>,
    ) -> Vec<Row> {
        const FAILED: &str = "failed attempts";
        let attempts = if self.is_peer() { 5 } else { 1 };
        eprintln!("{all}");
        for failed in 0..attempts {
            match measured() {
                Ok(rows) => {
                    let rows = rows.into_iter();
                    return rows.map(|row| row.with_count(FAILED, failed)).collect();
                }
                Err(error) => eprintln!("{all} fails: {error}"),
            }
        }
        vec![all.clone().with_count(FAILED, attempts)]
    }
}

impl Bench {
    /// The wall, the hub, and its peers as far as they run here.
    pub(crate) fn all(&self) -> Vec<Candidate> {
        let all = [
            Candidate::Wall(Writes::Each),
            Candidate::Wall(Writes::Merged),
            self.hub(),
            Candidate::Nchan,
            Candidate::Pushpin,
        ];
        let runs = |it: &Candidate| match it.start(self.core, self.origin.address) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("{} is not measured: {error}", it.name());
                false
            }
        };
        all.into_iter().filter(runs).collect()
    }

    pub(crate) fn hub(&self) -> Candidate {
        Candidate::Hub(Hub::on(self.core))
    }

    /// Starts a server, and a load for it.
    pub(crate) fn start(&self, candidate: &Candidate) -> io::Result<(Server, Load)> {
        let server = candidate.start(self.core, self.origin.address)?;
        let load = Load::new(server.clients, server.publish, server.dialect)?;
        Ok((server, load))
    }
}

/// Has so many clients held on one channel.
pub(crate) fn hold(server: &Server, load: &mut Load, kind: Kind, count: usize) -> io::Result<()> {
    /// Clients that are set up at a time: few, for what requests need is not what clients that are
    /// held do.
    const WINDOW: usize = 16;
    if kind != Kind::Poll {
        load.open(kind, count, WINDOW, |_| vec![0])?;
        return Ok(());
    }
    // Clients that wait for an answer do not know whether they are held; the hub does.
    while load.held() < count {
        let next = count.min(load.held() + WINDOW);
        load.open(kind, next, WINDOW, |_| vec![0])?;
        server.until("gripline_held_responses", next as u64)?;
    }
    Ok(())
}

/// So many items on channel 1, 200 a second.
pub(crate) fn steady(items: u32) -> Source {
    Source {
        channels: 1..2,
        pace: Pace::Every(Duration::from_millis(5)),
        order: Order::Kept,
        items,
    }
}

/// Publishes 200 items a second to clients of channel 1, while something else goes on.
pub(crate) fn meanwhile<T>(
    load: &mut Load,
    other: impl FnOnce() -> io::Result<T>,
) -> io::Result<(Outcome, T)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A thread of its own: it would wait for what other clients read.
        let background = scope.spawn(|| load.run_until(steady(u32::MAX), &is_over));
        let other = other();
        is_over.store(true, Ordering::Relaxed);
        let outcome = background.join();
        let outcome = outcome.map_err(|_| io::Error::other("publishing failed"))??;
        Ok((outcome, other?))
    })
}

/// Publishes `items` on one channel, with so many on their way.
pub(crate) fn closed(in_flight: u32, items: u32) -> Source {
    Source {
        channels: 0..1,
        pace: Pace::InFlight(in_flight),
        order: Order::Any,
        items,
    }
}

/// Processor time that a run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Of the server, microseconds for each delivery.
    pub(crate) server: f64,
    /// Of the load, likewise.
    pub(crate) load: f64,
    /// Of the server, as a part of the time that it took.
    pub(crate) busy: f64,
}

/// Runs a source and says what came of it, and what it took.
pub(crate) fn measure(
    server: &Server,
    load: &mut Load,
    source: Source,
) -> io::Result<(Outcome, Cost)> {
    let (before, own) = (server.cpu_time()?, own_cpu_time()?);
    let outcome = load.run(source)?;
    let own = own_cpu_time()?.saturating_sub(own);
    let used = server.cpu_time()?.saturating_sub(before);
    let deliveries = outcome.delivered.max(1) as f64;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / deliveries;
    let cost = Cost {
        server: each(used),
        load: each(own),
        busy: used.as_secs_f64() / outcome.elapsed.as_secs_f64(),
    };
    Ok((outcome, cost))
}

/// Whether all is right with what arrived, apart from its order.
pub(crate) fn with_errors(row: Row, outcome: &Outcome) -> Row {
    row.with_count("lost", outcome.lost)
        .with_count("repeated", outcome.repeated)
}
