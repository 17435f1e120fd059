//! Purge with publish: items wait until the edge has forgotten their channel.
//!
//! [`Publisher`] is the way of every item to the broker. The order of things is decided by
//! [`Pace`]; this part only carries it out. The CDN's own purge interface belongs in a file beside
//! `edge`.

mod edge;

use std::sync::Arc;

use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use grip::publish::Item;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::broker::pace::Pace;
use crate::broker::{BrokerHandle, Ticket};
use crate::config;
use crate::counters::Counters;
use crate::upstream::{TlsConfig, Upstream};
use edge::Edge;

/// Publish requests that may wait for the purger; then publishers wait.
const INTAKE: usize = 256;
/// Items that may wait for purges; then publishers wait.
const MAX_WAITING: usize = 100_000;

/// The way of published items to the broker.
#[derive(Debug, Clone)]
pub(crate) enum Publisher {
    /// At once.
    Direct(BrokerHandle),
    /// Past the purger.
    Purging {
        intake: mpsc::Sender<(Vec<Item>, Arc<Ticket>)>,
        broker: BrokerHandle,
    },
}

impl Publisher {
    /// Publishes items in their order. Returns when the broker has given each its place, which with
    /// purges is after the edge has answered: how many connections the items matched, added up.
    ///
    /// Cancel safe only in that nothing is published twice; what was queued is published.
    pub(crate) async fn publish(&self, items: Vec<Item>) -> usize {
        let (ticket, matched) = Ticket::new();
        match self {
            Self::Direct(broker) => {
                for item in items {
                    broker.publish(item, Arc::clone(&ticket)).await;
                }
                drop(ticket);
            }
            Self::Purging { intake, .. } => {
                // Fails only when the purger is gone, and then nothing matched.
                let _ = intake.send((items, ticket)).await;
            }
        }
        matched.await.unwrap_or(0)
    }

    /// Makes every held client ask the origin what it has missed. Waits for no purge.
    pub(crate) async fn recover(&self) {
        let (Self::Direct(broker) | Self::Purging { broker, .. }) = self;
        broker.recover().await;
    }
}

/// Starts the purger on this runtime. It ends when every [`Publisher`] is gone and no item waits.
pub(crate) fn spawn(
    config: &config::Purge,
    tls: Arc<TlsConfig>,
    broker: BrokerHandle,
    counters: Arc<Counters>,
) -> (Publisher, JoinHandle<()>) {
    let upstream = Upstream::new(tls, Arc::clone(&counters));
    let (sender, intake) = mpsc::channel(INTAKE);
    let purger = Purger {
        pace: Pace::new(config.default),
        edge: Edge::new(config, upstream),
        broker: broker.clone(),
        counters,
    };
    let task = tokio::spawn(purger.run(intake));
    let publisher = Publisher::Purging {
        intake: sender,
        broker,
    };
    (publisher, task)
}

#[derive(Debug)]
struct Purger {
    pace: Pace<Arc<Ticket>>,
    edge: Edge,
    broker: BrokerHandle,
    counters: Arc<Counters>,
}

impl Purger {
    async fn run(mut self, mut intake: mpsc::Receiver<(Vec<Item>, Arc<Ticket>)>) {
        let mut running = std::pin::pin!(Fuse::terminated());
        let mut is_open = true;
        while is_open || !self.pace.is_idle() {
            while let Some((item, ticket)) = self.pace.next_ready() {
                self.broker.publish(item, ticket).await;
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
