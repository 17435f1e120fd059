//! Purge with publish: items wait until the edge has forgotten their channel, and for each other.
//!
//! [`Publisher`] is the way of every item to the broker. The order of things is decided by
//! [`Pace`]; this part only carries it out: `target` sends purges, `edge` and `fastly` write them.

mod edge;
mod fastly;
mod target;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use grip::publish::Item;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::broker::pace::{Announced, Pace, PurgeResult, Purging, Settings};
use crate::broker::{
    Admitted, BrokerHandle, Duplicates, Intake, Novelty, Overloaded, Ticket, Waiting,
};
use crate::config::Config;
use crate::counters::Counters;
use crate::life::{Life, draining};
use crate::upstream::{TlsConfig, Upstream};
use target::{PurgeError, Target};

/// How long purges go on that no item waits for when everything else has ended.
const LAST_PURGES: Duration = Duration::from_secs(5);
/// How often the age of what waits is shown.
const AGE_BEAT: Duration = Duration::from_millis(250);

/// Items of one request. As many may wait as there is room for in the [`Intake`].
type Batch = (Vec<Admitted>, Arc<Ticket>);

/// The way of published items to the broker.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    intake: Intake,
    broker: BrokerHandle,
    /// `None` if items are published at once.
    purger: Option<mpsc::UnboundedSender<Batch>>,
}

impl Publisher {
    /// Lets all items of a request in, or none.
    ///
    /// # Errors
    /// [`Overloaded`] if too much waits; nothing of it is published.
    pub(crate) fn admit(&self, items: Vec<Item>) -> Result<Vec<Admitted>, Overloaded> {
        self.intake.admit(items)
    }

    /// Publishes items in their order. Returns when the broker has given each its place, or knows
    /// that it waits for the end of a window: how many connections the items matched, added up,
    /// without those that wait. With purges, it returns after the edge has answered.
    ///
    /// Whoever does not wait for that has published them all the same.
    pub(crate) async fn publish(&self, items: Vec<Admitted>) -> usize {
        let (ticket, matched) = Ticket::new();
        match &self.purger {
            None => {
                for item in items {
                    self.broker.publish(item, Arc::clone(&ticket));
                }
                drop(ticket);
            }
            Some(purger) => {
                // Fails only when the purger is gone, and then nothing matched.
                let _ = purger.send((items, ticket));
            }
        }
        matched.await.unwrap_or(0)
    }

    /// Makes every held client ask the origin what it has missed. Waits for no purge.
    ///
    /// # Errors
    /// [`Overloaded`] if too much waits.
    pub(crate) fn recover(&self) -> Result<(), Overloaded> {
        self.broker.recover(self.intake.admit_nothing()?);
        Ok(())
    }

    /// What was let in and has not reached the shards.
    pub(crate) fn waiting(&self) -> Waiting {
        self.intake.waiting()
    }

    /// Who orders the items in the end.
    pub(crate) fn broker(&self) -> &BrokerHandle {
        &self.broker
    }
}

/// What the purger needs besides its settings.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) tls: Arc<TlsConfig>,
    pub(crate) broker: BrokerHandle,
    /// The runtime's own.
    pub(crate) counters: Arc<Counters>,
    pub(crate) let_go: LetGo,
}

/// Has the shards drain after everything before them: what waits there is for the clients that they
/// hold.
#[derive(Debug)]
pub(crate) struct LetGo {
    /// Draining when what waits is to go out at once.
    pub(crate) life: watch::Receiver<Life>,
    pub(crate) shards: watch::Sender<Life>,
}

impl Drop for LetGo {
    fn drop(&mut self) {
        // A purger that ended for another reason leaves the shards alone.
        if *self.life.borrow() == Life::Draining {
            self.shards.send_replace(Life::Draining);
        }
    }
}

/// Whether items go past the purger at all.
pub(crate) fn is_needed(config: &Config) -> bool {
    config.purge.is_some() || config.channels.iter().any(|rule| rule.pace.is_some())
}

/// Starts the purger on this runtime, if it is needed. It ends when every [`Publisher`] is gone and
/// no item waits.
pub(crate) fn spawn(config: &Config, parts: Parts) -> (Publisher, Option<JoinHandle<()>>) {
    let mut publisher = Publisher {
        intake: Intake::new(Waiting {
            items: config.limits.waiting_items,
            bytes: config.limits.waiting_bytes,
        }),
        broker: parts.broker.clone(),
        purger: None,
    };
    if !is_needed(config) {
        tokio::spawn(let_go(parts.let_go, parts.broker));
        return (publisher, None);
    }
    let target = config.purge.as_ref().map(|purge| {
        let upstream = Upstream::new(parts.tls, Arc::clone(&parts.counters));
        Target::new(&purge.target, upstream)
    });
    let (purger, batches) = mpsc::unbounded_channel();
    publisher.purger = Some(purger);
    let purger = Purger {
        pace: Pace::new(Settings {
            rules: Arc::clone(&config.channels),
            purging: config.purge.as_ref().map(Purging::from),
        }),
        duplicates: Duplicates::new(config.order.id_age, config.order.ids),
        target,
        broker: parts.broker,
        counters: parts.counters,
        batches,
        end: End::Open,
        flushed: None,
        let_go: Some(parts.let_go),
    };
    (publisher, Some(tokio::spawn(purger.run())))
}

#[derive(Debug)]
struct Purger {
    pace: Pace<Arc<Ticket>>,
    /// A repeated item must not take the place of a newer one that waits.
    duplicates: Duplicates,
    /// `None` if nothing is ever purged.
    target: Option<Target>,
    broker: BrokerHandle,
    counters: Arc<Counters>,
    batches: mpsc::UnboundedReceiver<Batch>,
    end: End,
    /// When the hub began to shut down. Since then nothing waits for a window.
    flushed: Option<Instant>,
    /// Dropped when what came before that is out.
    let_go: Option<LetGo>,
}

/// Whether there are publishers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// All have left; purges that no item waits for go on until then.
    Closed(Instant),
}

impl Purger {
    async fn run(mut self) {
        let mut running = std::pin::pin!(Fuse::terminated());
        loop {
            self.pace.handle_timeout(now());
            self.send_ready().await;
            if let Some(target) = &self.target
                && let Some(order) = self.pace.next_purge(now())
            {
                self.counters.purge_requests.increment();
                running.set(target.purge(order.channels, order.timeout).fuse());
            }
            self.show();
            if self.has_ended() {
                return;
            }
            let next = self.next_look();
            tokio::select! {
                result = &mut running, if !running.is_terminated() => self.handle_purged(result),
                batch = self.batches.recv(), if self.end == End::Open => {
                    self.take_in(batch);
                }
                () = hub_drains(self.let_go.as_mut()), if self.flushed.is_none() => {
                    self.flushed = Some(Instant::now());
                    self.pace.flush(now());
                }
                () = sleep_until(next) => {}
            }
        }
    }

    fn take_in(&mut self, batch: Option<Batch>) {
        let Some((items, ticket)) = batch else {
            self.end = End::Closed(Instant::now() + LAST_PURGES);
            return;
        };
        let now = now();
        for item in items {
            match self.duplicates.note(&item.item, now) {
                Novelty::New => self.pace.publish(item, Arc::clone(&ticket), now),
                Novelty::Duplicate => self.counters.duplicate_items.increment(),
            }
        }
    }

    /// Hands over what may go out; and if nothing is left of what waited when the hub began to shut
    /// down, lets the shards go.
    async fn send_ready(&mut self) {
        while let Some((admitted, ticket)) = self.pace.next_ready() {
            // Whoever published an item that waited has its answer already.
            let ticket = ticket.unwrap_or_else(|| Ticket::new().0);
            self.broker.publish(admitted, ticket);
        }
        while let Some(announced) = self.pace.next_announced() {
            let Announced { channel, id, room } = announced;
            self.broker.announce(channel, id, room);
        }
        if let Some(flushed) = self.flushed
            && self.let_go.is_some()
            && self.pace.oldest().is_none_or(|at| at > flushed.into_std())
        {
            self.broker.flush().await;
            self.let_go = None;
        }
    }

    fn handle_purged(&mut self, result: Result<(), PurgeError>) {
        let result = match result {
            Ok(()) => PurgeResult::Purged,
            Err(error) => {
                self.counters.purge_errors.increment();
                tracing::warn!(%error, "purge failed; publishing all the same");
                PurgeResult::Failed {
                    retry_after: error.retry_after(),
                }
            }
        };
        self.pace.handle_purged(result, now());
    }

    fn has_ended(&self) -> bool {
        match self.end {
            End::Open => false,
            End::Closed(last) => {
                self.pace.is_idle() || (self.pace.len() == 0 && Instant::now() >= last)
            }
        }
    }

    /// When something is to be done or shown although nothing happens.
    fn next_look(&self) -> Instant {
        let beat = Instant::now() + AGE_BEAT;
        match (self.pace.poll_timeout().map(Instant::from_std), self.end) {
            (Some(timeout), _) if timeout < beat => timeout,
            // Nothing that is shown changes by itself.
            (timeout, End::Open) if self.pace.len() == 0 => {
                timeout.unwrap_or(beat + Duration::from_hours(1))
            }
            _ => beat,
        }
    }

    fn show(&self) {
        let tally = self.pace.tally();
        let age = self
            .pace
            .oldest()
            .map_or(Duration::ZERO, |at| now().saturating_duration_since(at));
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let counters = &self.counters;
        for (counter, value) in [
            (&counters.purges, tally.purges),
            (&counters.second_purges, tally.second_purges),
            (&counters.purge_retries, tally.retries),
            (&counters.purges_given_up, tally.given_up),
            (&counters.unpurged_items, tally.unpurged),
            (&counters.coalesced_items, tally.coalesced),
            (&counters.waiting_items, self.pace.len() as u64),
            (&counters.oldest_waiting, age),
        ] {
            counter.set(value);
        }
    }
}

/// Lets the shards go where only the broker has items that wait.
async fn let_go(mut let_go: LetGo, broker: BrokerHandle) {
    draining(&mut let_go.life).await;
    broker.flush().await;
}

/// Waits until the hub begins to shut down.
async fn hub_drains(let_go: Option<&mut LetGo>) {
    match let_go {
        Some(let_go) => draining(&mut let_go.life).await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
