//! Purge with publish: items wait until the edge has forgotten their channel.
//!
//! [`Publisher`] is the way of every item to the broker. The order of things is decided by
//! [`Pace`]; this part only carries it out. The CDN's own purge interface belongs in a file beside
//! `edge`.

mod edge;

use std::sync::Arc;

use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use grip::publish::Item;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::broker::BrokerHandle;
use crate::broker::pace::Pace;
use crate::config;
use crate::counters::Counters;
use edge::Edge;

/// Publish requests that may wait for the purger; then publishers wait.
const INTAKE: usize = 256;
/// Items that may wait for purges; then publishers wait.
const MAX_WAITING: usize = 100_000;

/// Fires when every item of a publish request has gone to the broker, which is when the last copy
/// is dropped.
type Ticket = Arc<oneshot::Sender<()>>;

/// The way of published items to the broker.
#[derive(Debug, Clone)]
pub(crate) enum Publisher {
    /// At once.
    Direct(BrokerHandle),
    /// Past the purger.
    Purging(mpsc::Sender<(Vec<Item>, Ticket)>),
}

impl Publisher {
    /// Publishes items in their order. Returns when the broker has all of them, which with purges
    /// is after the edge has answered.
    ///
    /// Cancel safe only in that nothing is published twice; what was queued is published.
    pub(crate) async fn publish(&self, items: Vec<Item>) {
        match self {
            Self::Direct(broker) => {
                for item in items {
                    broker.publish(item).await;
                }
            }
            Self::Purging(intake) => {
                let (ticket, done) = oneshot::channel();
                if intake.send((items, Arc::new(ticket))).await.is_ok() {
                    // Nothing is ever sent: the end of the last copy is the message.
                    let _ = done.await;
                }
            }
        }
    }
}

/// Starts the purger on this runtime. It ends when every [`Publisher`] is gone and no item waits.
pub(crate) fn spawn(
    config: &config::Purge,
    broker: BrokerHandle,
    counters: Arc<Counters>,
) -> (Publisher, JoinHandle<()>) {
    let (sender, intake) = mpsc::channel(INTAKE);
    let purger = Purger {
        pace: Pace::new(config.default),
        edge: Edge::new(config),
        broker,
        counters,
    };
    let task = tokio::spawn(purger.run(intake));
    (Publisher::Purging(sender), task)
}

#[derive(Debug)]
struct Purger {
    pace: Pace<Ticket>,
    edge: Edge,
    broker: BrokerHandle,
    counters: Arc<Counters>,
}

impl Purger {
    async fn run(mut self, mut intake: mpsc::Receiver<(Vec<Item>, Ticket)>) {
        let mut running = std::pin::pin!(Fuse::terminated());
        let mut is_open = true;
        while is_open || !self.pace.is_idle() {
            while let Some((item, _ticket)) = self.pace.next_ready() {
                self.broker.publish(item).await;
            }
            if let Some(channels) = self.pace.next_purge() {
                let purge = self.edge.purge(channels);
                running.set(purge.fuse());
            }
            tokio::select! {
                result = &mut running, if !running.is_terminated() => {
                    match result {
                        Ok(channels) => self.counters.purges.add(channels),
                        Err(error) => {
                            self.counters.purge_errors.increment();
                            tracing::warn!(%error, "purge failed; publishing all the same");
                        }
                    }
                    self.pace.handle_purged();
                }
                batch = intake.recv(), if is_open && self.pace.len() < MAX_WAITING => match batch {
                    Some((items, ticket)) => {
                        for item in items {
                            self.pace.publish(item, Arc::clone(&ticket));
                        }
                    }
                    None => is_open = false,
                },
                else => {}
            }
        }
    }
}
