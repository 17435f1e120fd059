//! The load: clients that count what they receive, and publishers, in one thread with one epoll
//! instance. A delivery costs it little more than the kernel takes for a read, which may be as much
//! as a write costs a server: so it has a processor of its own, and says what it took of it.
//!
//! [`Load::open`] sets clients up, [`Load::run`] publishes and waits until all have what is due.

mod channels;
mod clients;
mod heard;
mod publishers;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::item::Item;
use crate::server::Dialect;
use channels::Channels;
use clients::Clients;
use publishers::Publishers;

pub(crate) use clients::Kind;

/// Nothing came for so long: what has not come yet is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes read at a time, so that a short read is the last.
const READ: usize = 256 * 1024;
/// Connections that publish, as many as items are ever in flight, and the first of their tokens.
const PUBLISHERS: usize = 64;
const FIRST_PUBLISHER: usize = 1 << 32;

/// What is published in a run, on each of its channels in turn; one after the other are far apart.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) channels: Range<u32>,
    pub(crate) pace: Pace,
    pub(crate) items: u32,
}

/// When the next item is published.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As soon as fewer than so many are on their way to any client.
    InFlight(u32),
    /// After so long, whatever has arrived; latency counts from when it was due.
    Every(Duration),
}

/// What came of a [`Source`].
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// From the first publish to the last arrival.
    pub(crate) elapsed: Duration,
    pub(crate) published: u64,
    /// Arrivals of items at clients.
    pub(crate) delivered: u64,
    /// Arrivals that were due and did not come.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// Arrivals after one that should have come later.
    pub(crate) disordered: u64,
    /// From publish to arrival, nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Outcome {
    fn new() -> io::Result<Self> {
        let latency = Histogram::new_with_bounds(1_000, 60_000_000_000, 3);
        Ok(Self {
            elapsed: Duration::ZERO,
            published: 0,
            delivered: 0,
            lost: 0,
            repeated: 0,
            disordered: 0,
            latency: latency.map_err(io::Error::other)?,
        })
    }

    /// Takes in what came of the same source at another time.
    pub(crate) fn add(&mut self, other: &Self) -> io::Result<()> {
        self.elapsed += other.elapsed;
        self.published += other.published;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.disordered += other.disordered;
        self.latency.add(&other.latency).map_err(io::Error::other)
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds within which this part of the arrivals came.
    pub(crate) fn microseconds(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// A [`Source`] while it runs.
#[derive(Debug)]
struct Running {
    source: Source,
    next_channel: u32,
    stride: u32,
    left: u32,
    outstanding: u32,
    due: Instant,
    outcome: Outcome,
}

impl Running {
    fn step(&mut self) {
        let Range { start, end } = self.source.channels;
        let left = end - self.next_channel;
        self.next_channel = if self.stride < left {
            self.next_channel + self.stride
        } else {
            start + (self.stride - left)
        };
    }
}

/// How far to go in a circle of so many, so that all are visited, and those of any part of the way
/// are spread evenly: near the golden section.
fn stride(count: u32) -> u32 {
    let divisor = |mut a: u32, mut b: u32| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let near = u64::from(count) * 618 / 1_000;
    let mut stride = u32::try_from(near).unwrap_or(0);
    while divisor(stride, count) > 1 {
        stride += 1;
    }
    stride
}

/// Clients and publishers of one server.
#[derive(Debug)]
pub(crate) struct Load {
    poll: Poll,
    events: Events,
    clients: Clients,
    publishers: Publishers,
    channels: Channels,
    buffer: Box<[u8]>,
}

impl Load {
    /// Publishers connect, clients do not yet.
    pub(crate) fn new(
        clients: SocketAddr,
        publish: SocketAddr,
        dialect: Dialect,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let publishers = Publishers::connect(publish, dialect, PUBLISHERS, &poll)?;
        Ok(Self {
            clients: Clients::new(clients, dialect),
            publishers,
            channels: Channels::default(),
            poll,
            events: Events::with_capacity(4096),
            buffer: vec![0; READ].into(),
        })
    }

    /// Has clients held until there are `count`, each on the channels that `channels` says for its
    /// number; `window` are set up at a time. Says how long that took.
    pub(crate) fn open(
        &mut self,
        kind: Kind,
        count: usize,
        window: usize,
        channels: impl Fn(usize) -> Vec<u32>,
    ) -> io::Result<Duration> {
        let begun = Instant::now();
        let mut progress = begun;
        while self.clients.held() < count {
            while self.clients.len() < count && self.clients.opening() < window {
                let number = self.clients.len();
                self.clients.connect(kind, &channels(number), &self.poll)?;
            }
            let held = self.clients.held();
            self.turn(&mut [], Some(Duration::from_millis(100)))?;
            if self.clients.held() > held {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE * 4 {
                let text = format!("only {held} of {count} clients are held");
                return Err(io::Error::other(text));
            }
        }
        self.channels.count(self.clients.subscriptions());
        Ok(begun.elapsed())
    }

    /// Clients that are held.
    pub(crate) fn held(&self) -> usize {
        self.clients.held()
    }

    /// The clients of these numbers read no more; nothing is due to them.
    pub(crate) fn stop(&mut self, numbers: impl Iterator<Item = usize>) -> io::Result<()> {
        self.clients.stop(numbers, &self.poll)?;
        self.channels.count(self.clients.subscriptions());
        Ok(())
    }

    /// Reads all that has come for the clients that read no more, and says how many bytes.
    pub(crate) fn drain(&mut self) -> io::Result<usize> {
        self.clients.drain(&mut self.buffer)
    }

    /// Publishes until the first of the sources is through, and waits for what is on its way.
    pub(crate) fn run(&mut self, sources: &[Source]) -> io::Result<Vec<Outcome>> {
        let begun = Instant::now();
        let mut running = Vec::with_capacity(sources.len());
        for (index, source) in sources.iter().enumerate() {
            self.channels.prepare(source, index);
            running.push(Running {
                source: source.clone(),
                next_channel: source.channels.start,
                stride: stride(u32::try_from(source.channels.len()).unwrap_or(u32::MAX)),
                left: source.items,
                outstanding: 0,
                due: begun,
                outcome: Outcome::new()?,
            });
        }
        let mut progress = begun;
        loop {
            let is_over = running.iter().any(|it| it.left == 0);
            let wait = if is_over {
                None
            } else {
                self.publish(&mut running)?
            };
            if is_over && running.iter().all(|it| it.outstanding == 0) {
                break;
            }
            let before = delivered(&running);
            self.turn(&mut running, Some(wait.unwrap_or(PATIENCE / 10)))?;
            let now = Instant::now();
            if delivered(&running) > before {
                progress = now;
            } else if now - progress > PATIENCE {
                break;
            }
        }
        let outcomes = running.into_iter().map(|mut it| {
            it.outcome.elapsed = progress - begun;
            it.outcome.lost = self.channels.missing(&it.source);
            it.outcome
        });
        Ok(outcomes.collect())
    }

    /// Publishes what is due, and says when something more is.
    fn publish(&mut self, running: &mut [Running]) -> io::Result<Option<Duration>> {
        let mut wait = None::<Duration>;
        for (index, source) in running.iter_mut().enumerate() {
            loop {
                let now = Instant::now();
                let at = match source.source.pace {
                    Pace::InFlight(most) if source.outstanding < most => now,
                    Pace::InFlight(_) => break,
                    Pace::Every(_) if source.due <= now => source.due,
                    Pace::Every(_) => {
                        // Timeouts of epoll are up to a millisecond late.
                        let until = (source.due - now).saturating_sub(Duration::from_millis(1));
                        wait = Some(wait.map_or(until, |wait| wait.min(until)));
                        break;
                    }
                };
                if source.left == 0 || !self.publishers.has_idle() {
                    break;
                }
                if let Pace::Every(interval) = source.source.pace {
                    source.due += interval;
                }
                let channel = source.next_channel;
                source.step();
                let number = self.channels.publish(channel, at);
                debug_assert_eq!(self.channels.source(channel), index);
                let kind = self.clients.kind();
                self.publishers
                    .publish(Item { channel, number }, kind, &self.poll)?;
                source.left -= 1;
                source.outstanding += 1;
                source.outcome.published += 1;
            }
        }
        Ok(wait)
    }

    /// Waits for something to happen, and deals with it.
    fn turn(&mut self, running: &mut [Running], wait: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            let Token(token) = event.token();
            if let Some(publisher) = token.checked_sub(FIRST_PUBLISHER) {
                self.publishers.read(publisher, &mut self.buffer)?;
                continue;
            }
            let channels = &mut self.channels;
            let mut now = None;
            self.clients.handle(
                token,
                readiness(event),
                &mut self.buffer,
                |item, arrival| {
                    let now = *now.get_or_insert_with(Instant::now);
                    arrive(channels, running, item, arrival, now);
                },
            )?;
        }
        Ok(())
    }
}

/// What an epoll event says.
#[derive(Debug, Clone, Copy)]
struct Readiness {
    is_readable: bool,
    is_writable: bool,
}

fn readiness(event: &Event) -> Readiness {
    Readiness {
        is_readable: event.is_readable() || event.is_read_closed() || event.is_error(),
        is_writable: event.is_writable(),
    }
}

/// How an item stands to those that its client had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// After all that came before; some may be missing.
    InOrder,
    /// For the first time, but after one that was published later.
    Late,
    Repeated,
}

fn arrive(
    channels: &mut Channels,
    running: &mut [Running],
    item: Item,
    arrival: Arrival,
    now: Instant,
) {
    // What an earlier run published may come late.
    let Some((source, published, is_complete)) = channels.arrive(item, arrival) else {
        return;
    };
    let Some(running) = running.get_mut(source) else {
        return;
    };
    let outcome = &mut running.outcome;
    match arrival {
        Arrival::Repeated => {
            outcome.repeated += 1;
            return;
        }
        Arrival::Late => outcome.disordered += 1,
        Arrival::InOrder => {}
    }
    outcome.delivered += 1;
    let nanoseconds = u64::try_from((now - published).as_nanos()).unwrap_or(u64::MAX);
    outcome.latency.saturating_record(nanoseconds);
    if is_complete {
        running.outstanding -= 1;
    }
}

fn delivered(running: &[Running]) -> u64 {
    running.iter().map(|it| it.outcome.delivered).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two clients of channel 0 have had.
    struct Two {
        channels: Channels,
        running: Vec<Running>,
        heard: [heard::Heard; 2],
    }

    impl Two {
        /// Three items are on their way.
        fn new() -> Self {
            let source = Source {
                channels: 0..1,
                pace: Pace::InFlight(3),
                items: 3,
            };
            let mut channels = Channels::default();
            channels.count([0, 0].into_iter());
            channels.prepare(&source, 0);
            let now = Instant::now();
            for _ in 0..3 {
                channels.publish(0, now);
            }
            let running = Running {
                source,
                next_channel: 0,
                stride: stride(1),
                left: 0,
                outstanding: 3,
                due: now,
                outcome: Outcome::new().expect("bounds are right"),
            };
            Self {
                channels,
                running: vec![running],
                heard: [heard::Heard::new(&[0]), heard::Heard::new(&[0])],
            }
        }

        fn arrive(&mut self, client: usize, numbers: &[u32]) {
            for number in numbers {
                let item = Item {
                    channel: 0,
                    number: *number,
                };
                let arrival = self.heard[client].take(item);
                let now = Instant::now();
                arrive(&mut self.channels, &mut self.running, item, arrival, now);
            }
        }

        /// Outstanding, delivered, lost, repeated, out of order.
        fn counts(&self) -> [u64; 5] {
            let Running {
                source,
                outstanding,
                outcome,
                ..
            } = &self.running[0];
            [
                u64::from(*outstanding),
                outcome.delivered,
                self.channels.missing(source),
                outcome.repeated,
                outcome.disordered,
            ]
        }
    }

    #[test]
    fn a_part_of_the_turns_goes_to_all_clients() {
        const CHANNELS: u32 = 100_000;
        let mut running = Two::new().running.remove(0);
        running.source.channels = 5..5 + CHANNELS;
        running.next_channel = 5;
        running.stride = stride(CHANNELS);
        let mut visits = vec![0; CHANNELS as usize];
        for turn in 1..=CHANNELS {
            visits[running.next_channel as usize - 5] += 1;
            running.step();
            if turn == CHANNELS / 10 {
                let groups = visits.chunks(100).map(|group| group.iter().sum::<u32>());
                assert!(groups.into_iter().all(|visits| (8..=12).contains(&visits)));
            }
        }
        assert!(visits.iter().all(|visits| *visits == 1));
        for count in 1..100 {
            assert!(stride(count) < count.max(2));
        }
    }

    #[test]
    fn late_items_are_delivered_and_leave_their_slots() {
        let mut two = Two::new();
        two.arrive(0, &[1, 2, 3]);
        two.arrive(1, &[3, 1, 2]);
        assert_eq!(two.counts(), [0, 6, 0, 0, 2]);
        assert_eq!(two.running[0].outcome.latency.len(), 6);
    }

    #[test]
    fn repeated_items_do_not_stand_for_lost_ones() {
        let mut two = Two::new();
        two.arrive(0, &[1, 2, 2, 3, 3]);
        two.arrive(1, &[1, 3]);
        assert_eq!(two.counts(), [1, 5, 1, 2, 0]);
    }
}
