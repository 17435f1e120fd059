//! The load: clients that count what they receive, and publishers, in one thread with one epoll
//! instance. A delivery costs it little more than the kernel takes for a read, which may be as much
//! as a write costs a server: so it has a processor of its own, and says what it took of it.
//!
//! [`Load::open`] sets clients up, [`Load::run`] publishes and waits until all have what is due.

mod channels;
mod clients;
mod heard;
mod publishers;
mod timer;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Poll, Token};

use crate::item::Item;
use crate::server::Dialect;
use channels::Channels;
use clients::Clients;
use publishers::Publishers;
use timer::Timer;

pub(crate) use clients::Kind;

/// Nothing came for so long: what has not come yet is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes read at a time, so that a short read is the last.
const READ: usize = 256 * 1024;
/// Connections that publish, as many as items are ever in flight, and the first of their tokens.
const PUBLISHERS: usize = 64;
const FIRST_PUBLISHER: usize = 1 << 32;
const TIMER: Token = Token(FIRST_PUBLISHER - 1);

/// What is published in a run, on each of its channels in turn; one after the other are far apart.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) channels: Range<u32>,
    pub(crate) pace: Pace,
    pub(crate) order: Order,
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

/// Whether the items of a channel have an order that clients must find.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Each goes over any idle connection. Between connections there is no order.
    Any,
    /// All go over one connection, each after the answer to the one before.
    Kept,
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

    /// Takes in what came of the same source, or of one like it, at another time.
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
    /// Items that have not come to all that they are due to.
    outstanding: u32,
    /// When the next item is.
    due: Instant,
    /// When an item arrived.
    last: Instant,
    outcome: Outcome,
}

impl Running {
    fn new(source: Source) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            next_channel: source.channels.start,
            stride: stride(u32::try_from(source.channels.len()).unwrap_or(u32::MAX)),
            left: source.items,
            outstanding: 0,
            due: now,
            last: now,
            outcome: Outcome::new()?,
            source,
        })
    }

    /// An item was published.
    fn step(&mut self) {
        let Range { start, end } = self.source.channels;
        let left = end - self.next_channel;
        self.next_channel = if self.stride < left {
            self.next_channel + self.stride
        } else {
            start + (self.stride - left)
        };
        if let Pace::Every(interval) = self.source.pace {
            self.due += interval;
        }
        self.left -= 1;
        self.outcome.published += 1;
    }

    /// Whether the next item has its time, and nothing is on its way.
    fn is_waiting(&self, now: Instant) -> bool {
        self.left > 0 && self.outstanding == 0 && self.due > now
    }

    /// An item has come to a client.
    fn arrive(&mut self, channels: &mut Channels, item: Item, arrival: Arrival, now: Instant) {
        // What an earlier run published may come late.
        let Some((published, is_complete)) = channels.arrive(item, arrival) else {
            return;
        };
        let outcome = &mut self.outcome;
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
        self.last = now;
        self.outstanding -= u32::from(is_complete);
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
    timer: Timer,
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
            timer: Timer::new(&poll, TIMER)?,
            poll,
            events: Events::with_capacity(4096),
            buffer: vec![0; READ].into(),
        })
    }

    /// Has clients held until there are `count`, each on the channels that `channels` says for its
    /// number; `window` are set up at a time. Who is refused comes again when it may. Says how long
    /// that took.
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
            self.clients.connect_again(&self.poll)?;
            let before = (self.clients.held(), self.clients.refusals());
            self.turn(None, Duration::from_millis(10))?;
            let held = self.clients.held();
            if before != (held, self.clients.refusals()) {
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

    /// How often a client was refused.
    pub(crate) fn refusals(&self) -> u64 {
        self.clients.refusals()
    }

    /// The clients of these numbers and above leave.
    pub(crate) fn leave(&mut self, from: usize) {
        self.clients.leave(from);
        self.channels.count(self.clients.subscriptions());
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

    /// Publishes all items of a source, and waits for what is on its way.
    pub(crate) fn run(&mut self, source: Source) -> io::Result<Outcome> {
        self.run_until(source, &AtomicBool::new(false))
    }

    /// The same until it is over, however many items are left then.
    pub(crate) fn run_until(
        &mut self,
        source: Source,
        is_over: &AtomicBool,
    ) -> io::Result<Outcome> {
        self.channels.prepare(source.channels.clone());
        let mut running = Running::new(source)?;
        let begun = running.due;
        let mut progress = begun;
        loop {
            if is_over.load(Ordering::Relaxed) {
                running.left = 0;
            }
            self.publish(&mut running)?;
            if running.left == 0 && running.outstanding == 0 && self.publishers.are_idle() {
                break;
            }
            let before = running.outcome.delivered;
            self.turn(Some(&mut running), PATIENCE / 10)?;
            let now = Instant::now();
            if running.outcome.delivered > before || running.is_waiting(now) {
                progress = now;
            } else if now - progress > PATIENCE {
                break;
            }
        }
        let mut outcome = running.outcome;
        outcome.elapsed = running.last - begun;
        outcome.lost = self.channels.missing(running.source.channels);
        Ok(outcome)
    }

    /// Publishes what is due, and sets the timer for what is due later.
    fn publish(&mut self, running: &mut Running) -> io::Result<()> {
        while running.left > 0 {
            let now = Instant::now();
            let at = match running.source.pace {
                Pace::InFlight(most) if running.outstanding < most => now,
                Pace::InFlight(_) => break,
                Pace::Every(_) if running.due <= now => running.due,
                Pace::Every(_) => {
                    self.timer.set(running.due - now)?;
                    break;
                }
            };
            let channel = running.next_channel;
            let Some(publisher) = self.publishers.take_idle(running.source.order, channel) else {
                break;
            };
            let (number, is_due) = self.channels.publish(channel, at);
            let (item, kind) = (Item { channel, number }, self.clients.kind());
            self.publishers.publish(publisher, item, kind, &self.poll)?;
            running.step();
            running.outstanding += u32::from(is_due);
        }
        Ok(())
    }

    /// Waits for something to happen, and deals with it.
    fn turn(&mut self, mut running: Option<&mut Running>, wait: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &self.events {
            let Token(token) = event.token();
            if event.token() == TIMER {
                continue;
            }
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
                    if let Some(running) = &mut running {
                        running.arrive(channels, item, arrival, now);
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What two clients of channel 0 have had.
    struct Two {
        channels: Channels,
        running: Running,
        heard: [heard::Heard; 2],
    }

    fn three() -> Source {
        Source {
            channels: 0..1,
            pace: Pace::InFlight(3),
            order: Order::Any,
            items: 3,
        }
    }

    impl Two {
        /// Three items are on their way.
        fn new() -> Self {
            let mut running = Running::new(three()).expect("bounds are right");
            let mut channels = Channels::default();
            channels.count([0, 0].into_iter());
            channels.prepare(0..1);
            for _ in 0..3 {
                let (_, is_due) = channels.publish(0, running.due);
                running.outstanding += u32::from(is_due);
                running.step();
            }
            Self {
                channels,
                running,
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
                self.running.arrive(&mut self.channels, item, arrival, now);
            }
        }

        /// Outstanding, delivered, lost, repeated, out of order.
        fn counts(&self) -> [u64; 5] {
            let Running {
                outstanding,
                outcome,
                ..
            } = &self.running;
            [
                u64::from(*outstanding),
                outcome.delivered,
                self.channels.missing(0..1),
                outcome.repeated,
                outcome.disordered,
            ]
        }
    }

    #[test]
    fn a_part_of_the_turns_goes_to_all_clients() {
        const CHANNELS: u32 = 100_000;
        let source = Source {
            channels: 5..5 + CHANNELS,
            items: CHANNELS,
            ..three()
        };
        let mut running = Running::new(source).expect("bounds are right");
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
        assert_eq!(two.running.outcome.latency.len(), 6);
    }

    #[test]
    fn repeated_items_do_not_stand_for_lost_ones() {
        let mut two = Two::new();
        two.arrive(0, &[1, 2, 2, 3, 3]);
        two.arrive(1, &[1, 3]);
        assert_eq!(two.counts(), [1, 5, 1, 2, 0]);
    }

    #[test]
    fn an_item_for_nobody_is_not_waited_for() {
        let mut channels = Channels::default();
        channels.count([0, 1].into_iter());
        channels.count([1].into_iter());
        channels.prepare(0..2);
        assert_eq!(channels.publish(0, Instant::now()), (1, false));
        assert_eq!(channels.publish(1, Instant::now()), (1, true));
    }
}
