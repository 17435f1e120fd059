//! What a publisher gets back for its items.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

/// Goes along with every item of a publish request. The last copy that is dropped tells the
/// publisher how many connections the items matched.
#[derive(Debug)]
pub(crate) struct Ticket {
    matched: AtomicUsize,
    /// Present until the drop.
    done: Option<oneshot::Sender<usize>>,
}

impl Ticket {
    /// A ticket, and where its sum arrives once every item has its place or is lost.
    pub(crate) fn new() -> (Arc<Self>, oneshot::Receiver<usize>) {
        let (done, sum) = oneshot::channel();
        let ticket = Self {
            matched: AtomicUsize::new(0),
            done: Some(done),
        };
        (Arc::new(ticket), sum)
    }

    /// An item has its place, and so many connections wanted it.
    pub(crate) fn add(&self, matched: usize) {
        self.matched.fetch_add(matched, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // A publisher that left does not want to know.
            let _ = done.send(*self.matched.get_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_comes_with_the_last_copy() {
        let (ticket, mut sum) = Ticket::new();
        let other = Arc::clone(&ticket);
        ticket.add(2);
        drop(ticket);
        assert!(sum.try_recv().is_err());
        other.add(3);
        drop(other);
        assert_eq!(sum.try_recv(), Ok(5));
    }
}
