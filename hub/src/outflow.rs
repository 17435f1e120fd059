//! What the engine has for one held connection, on its way from the outbox to a task that writes it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};

use crate::engine::Outbox;

/// Bytes that may be in an outflow; the rest waits in the outbox, where it is counted. So an outflow
/// is to its task what the kernel's buffer is to a socket.
pub(crate) const FULL: usize = 64 * 1024;

/// The hub gave a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenUp;

/// Whether and how an outflow has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// More may come.
    NotYet,
    /// What is in it is the last.
    Complete,
    /// Nothing of it counts any more.
    GivenUp,
}

/// Bytes between an outbox and the task that writes them, both on one thread.
#[derive(Debug)]
pub(crate) struct Outflow {
    backlog: RefCell<Backlog>,
    ending: Cell<Ending>,
    has_begun: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Default)]
struct Backlog {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Whether something was left in the outbox.
    is_blocked: bool,
}

impl Outflow {
    pub(crate) fn new() -> Self {
        Self {
            backlog: RefCell::default(),
            ending: Cell::new(Ending::NotYet),
            has_begun: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Waits until the engine has begun the connection, so that its head may be sent.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The connection was given up before.
    pub(crate) async fn begun(&self) -> Result<(), GivenUp> {
        poll_fn(|context| {
            if self.has_begun.get() {
                return Poll::Ready(Ok(()));
            }
            if self.ending() != Ending::NotYet {
                return Poll::Ready(Err(GivenUp));
            }
            self.wait(context);
            Poll::Pending
        })
        .await
    }

    /// Takes as much of the outbox as there is room for, and says how much that is. The first time,
    /// even of an empty one, the connection begins.
    pub(crate) fn fill(&self, outbox: &mut Outbox) -> usize {
        let is_first = !self.has_begun.replace(true);
        let taken = self.backlog.borrow_mut().fill(outbox);
        if is_first || taken > 0 {
            self.wake();
        }
        taken
    }

    /// Takes all of the outbox, whatever room there is.
    pub(crate) fn take_all(&self, outbox: &mut Outbox) {
        self.backlog.borrow_mut().take_all(outbox);
    }

    /// Ends it.
    pub(crate) fn end(&self, ending: Ending) {
        if ending == Ending::GivenUp {
            self.backlog.take();
        }
        self.ending.set(ending);
        self.wake();
    }

    pub(crate) fn ending(&self) -> Ending {
        self.ending.get()
    }

    /// The oldest piece, or the first `max` bytes of it.
    pub(crate) fn first(&self, max: usize) -> Option<Bytes> {
        let backlog = self.backlog.borrow();
        let piece = backlog.pieces.front()?;
        Some(piece.slice(..piece.len().min(max)))
    }

    /// Forgets the first `written` bytes of the oldest piece.
    pub(crate) fn consume(&self, written: usize) {
        self.backlog.borrow_mut().consume(written);
    }

    /// Takes the oldest piece out.
    pub(crate) fn pop(&self) -> Option<Bytes> {
        let piece = self.first(usize::MAX)?;
        self.consume(piece.len());
        Some(piece)
    }

    /// Whether there is room again for what was left in the outbox; says so once.
    pub(crate) fn has_room_again(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        backlog.bytes <= FULL / 2 && std::mem::take(&mut backlog.is_blocked)
    }

    /// Has the task woken when something changes; one task at a time.
    pub(crate) fn wait(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }

    /// Wakes the task.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Backlog {
    fn take_all(&mut self, outbox: &mut Outbox) {
        while let Some(piece) = outbox.pop() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn fill(&mut self, outbox: &mut Outbox) -> usize {
        let before = self.bytes;
        while self.bytes < FULL
            && let Some(piece) = outbox.pop_some(FULL - self.bytes)
        {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
        self.is_blocked = !outbox.is_empty();
        self.bytes - before
    }

    fn consume(&mut self, written: usize) {
        if let Some(piece) = self.pieces.front_mut() {
            piece.advance(written);
            self.bytes -= written;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            // An idle connection keeps no memory for a queue.
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_of_a_large_piece_than_there_is_room_for() {
        let outflow = Outflow::new();
        let mut outbox = Outbox::default();
        outbox.push_items(vec![b'x'; 1000].into(), 1);
        outbox.push_items(vec![b'y'; 2 * FULL].into(), 1);
        assert_eq!(outflow.fill(&mut outbox), FULL);
        assert_eq!(outbox.pending_bytes(), FULL + 1000);
        // It has begun.
        assert_eq!(outbox.drop_items(0), 0);
        assert_eq!(outflow.pop().unwrap().len(), 1000);
        assert!(!outflow.has_room_again());
        assert_eq!(outflow.pop().unwrap().len(), FULL - 1000);
        assert!(outflow.has_room_again());
        assert_eq!(outflow.fill(&mut outbox), FULL);
    }
}
