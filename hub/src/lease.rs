//! Whom a shard holds by way of a task, and how the task tells the shard.

use std::cell::Cell;

use tokio::sync::mpsc;

/// The task's side of a hold; `K` is the shard's key for it, `E` what the task has to tell.
#[derive(Debug)]
pub(crate) struct Lease<K: Copy, E> {
    /// Known once the shard has opened the hold.
    key: Cell<Option<K>>,
    is_gone: Cell<bool>,
    gone: fn(K) -> E,
    events: mpsc::UnboundedSender<E>,
}

impl<K: Copy, E> Lease<K, E> {
    /// `gone` makes the event for a peer that has left.
    pub(crate) fn new(events: mpsc::UnboundedSender<E>, gone: fn(K) -> E) -> Self {
        Self {
            key: Cell::new(None),
            is_gone: Cell::new(false),
            gone,
            events,
        }
    }

    /// Tells the shard, if it has opened the hold.
    pub(crate) fn tell(&self, event: impl FnOnce(K) -> E) {
        if let Some(key) = self.key.get() {
            // Fails only when the shard is gone.
            let _ = self.events.send(event(key));
        }
    }

    /// Tells that the peer is gone, now or as soon as the hold is open.
    pub(crate) fn leave(&self) {
        self.is_gone.set(true);
        self.tell(self.gone);
    }

    /// Gives the hold its key; a peer that is gone already is told of at once.
    pub(crate) fn open(&self, key: K) {
        self.key.set(Some(key));
        if self.is_gone.get() {
            self.tell(self.gone);
        }
    }
}
