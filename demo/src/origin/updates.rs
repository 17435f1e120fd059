//! Increments and their publishes, in one order per counter.
//!
//! Each counter belongs to one worker, which increments on disk, publishes, and only then takes the
//! next update. So two concurrent requests cannot publish in another order than they counted, and an
//! update that was taken is finished even when its client has left.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

use super::publisher::{PublishError, Publisher};
use super::store::{Store, StoreError};
use crate::counter::{Count, CounterName};

/// Counters that share a worker wait for each other's publishes; this many do not.
const WORKERS: usize = 16;
/// Updates waiting for one worker; when it is full, clients wait before their update is taken.
const MAX_WAITING: usize = 256;

/// The workers. They end when every queue is gone.
#[derive(Debug)]
pub(super) struct Updates {
    queue: UpdateQueue,
    workers: JoinSet<()>,
}

/// Where updates go in. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct UpdateQueue {
    workers: Arc<[mpsc::Sender<Update>]>,
}

/// One increment that somebody asked for.
#[derive(Debug)]
struct Update {
    name: CounterName,
    reply: oneshot::Sender<Result<Updated, StoreError>>,
}

/// An increment that is on disk, and what became of its publish.
#[derive(Debug)]
pub(super) struct Updated {
    /// The new value.
    pub(super) count: Count,
    /// Whether the followers were told.
    pub(super) published: Result<(), PublishError>,
}

impl Updates {
    /// Starts the workers on the current runtime.
    pub(super) fn start(store: &Arc<Store>, publisher: &Publisher) -> Self {
        let mut workers = JoinSet::new();
        let senders = (0..WORKERS).map(|_| {
            let (sender, updates) = mpsc::channel(MAX_WAITING);
            let worker = Worker {
                store: Arc::clone(store),
                publisher: publisher.clone(),
            };
            workers.spawn(worker.run(updates));
            sender
        });
        let queue = UpdateQueue {
            workers: senders.collect(),
        };
        Self { queue, workers }
    }

    /// A way in.
    pub(super) fn queue(&self) -> UpdateQueue {
        self.queue.clone()
    }

    /// Finishes what was taken. Waits for ever if somebody keeps a queue.
    pub(super) async fn stop(self) {
        drop(self.queue);
        self.workers.join_all().await;
    }
}

impl UpdateQueue {
    /// Increments the counter and publishes its new value.
    ///
    /// None if the workers have stopped. Cancel safety: once taken, the update is finished anyway.
    pub(super) async fn increment(&self, name: CounterName) -> Option<Result<Updated, StoreError>> {
        let (reply, updated) = oneshot::channel();
        let worker = &self.workers[self.worker_of(&name)];
        worker.send(Update { name, reply }).await.ok()?;
        updated.await.ok()
    }

    fn worker_of(&self, name: &CounterName) -> usize {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let workers = self.workers.len() as u64;
        usize::try_from(hasher.finish() % workers).expect("below the number of workers")
    }
}

/// The one who increments and publishes some of the counters.
struct Worker {
    store: Arc<Store>,
    publisher: Publisher,
}

impl Worker {
    async fn run(self, mut updates: mpsc::Receiver<Update>) {
        while let Some(Update { name, reply }) = updates.recv().await {
            let outcome = self.increment(name).await;
            // The client may have left; the update counts all the same.
            let _ = reply.send(outcome);
        }
    }

    async fn increment(&self, name: CounterName) -> Result<Updated, StoreError> {
        let store = Arc::clone(&self.store);
        let count = spawn_blocking(move || store.increment(&name))
            .await
            .expect("an increment does not panic, and is not aborted")?;
        let published = self.publisher.publish(&count).await;
        if let Err(error) = &published {
            tracing::warn!(
                channel = count.name.channel(),
                value = count.value,
                error = error as &dyn std::error::Error,
                "could not publish an update; clients see it with the next one"
            );
        }
        Ok(Updated { count, published })
    }
}
