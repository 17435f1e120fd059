//! HTTP/2 streams: what the engine writes for them, on its way to hyper.
//!
//! hyper owns the connection, so a held stream gets its content through a [`Pipe`], and a held
//! request its answer through a [`Wait`]. Both tell the shard when the client is gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use grip::hold::Answer;
use http_body::Frame;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Outbox;
use crate::errand::Again;
use crate::mailbox::ConnectionKey;

/// Bytes that may be in a pipe; the rest waits in the outbox.
const FULL: usize = 64 * 1024;

/// What happened at hyper's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PipeEvent {
    /// The client left.
    Gone(ConnectionKey),
    /// There is room again.
    Writable(ConnectionKey),
}

/// The hub gave a stream up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenUp;

/// How a pipe's content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Complete,
    GivenUp,
}

/// The content of a held stream, between the engine's outbox and hyper.
#[derive(Debug)]
pub(crate) struct Pipe {
    pieces: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    end: Cell<End>,
    has_begun: Cell<bool>,
    is_blocked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    lease: Lease,
}

/// hyper's end of a pipe.
#[derive(Debug)]
pub(crate) struct HeldBody(Rc<Pipe>);

/// Who is held at hyper's end, and how to tell the shard.
#[derive(Debug)]
struct Lease {
    /// Known once the shard has opened the hold.
    key: Cell<Option<ConnectionKey>>,
    is_gone: Cell<bool>,
    events: mpsc::UnboundedSender<PipeEvent>,
}

impl Lease {
    fn new(events: mpsc::UnboundedSender<PipeEvent>) -> Self {
        Self {
            key: Cell::new(None),
            is_gone: Cell::new(false),
            events,
        }
    }

    fn tell(&self, event: impl FnOnce(ConnectionKey) -> PipeEvent) {
        if let Some(key) = self.key.get() {
            // Fails only when the shard is gone.
            let _ = self.events.send(event(key));
        }
    }

    fn leave(&self) {
        self.is_gone.set(true);
        self.tell(PipeEvent::Gone);
    }

    /// Gives the hold its key; a client that is gone already is told of at once.
    fn open(&self, key: ConnectionKey) {
        self.key.set(Some(key));
        if self.is_gone.get() {
            self.tell(PipeEvent::Gone);
        }
    }
}

impl Pipe {
    pub(crate) fn new(events: mpsc::UnboundedSender<PipeEvent>) -> (Rc<Self>, HeldBody) {
        let pipe = Rc::new(Self {
            pieces: RefCell::default(),
            bytes: Cell::new(0),
            end: Cell::new(End::NotYet),
            has_begun: Cell::new(false),
            is_blocked: Cell::new(false),
            waker: RefCell::new(None),
            lease: Lease::new(events),
        });
        (Rc::clone(&pipe), HeldBody(pipe))
    }

    /// Waits until the engine has begun the stream, so that its head may be sent.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The stream was given up before.
    pub(crate) async fn begun(&self) -> Result<(), GivenUp> {
        poll_fn(|context| {
            if self.has_begun.get() {
                return Poll::Ready(Ok(()));
            }
            if self.end.get() != End::NotYet {
                return Poll::Ready(Err(GivenUp));
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Refuses a stream that has not begun.
    pub(crate) fn refuse(&self) {
        self.finish(End::GivenUp);
    }

    /// Takes as much of the outbox as there is room for, and says how much that is.
    fn fill(&self, outbox: &mut Outbox) -> usize {
        self.has_begun.set(true);
        let mut taken = 0;
        while self.bytes.get() < FULL
            && let Some(piece) = outbox.pop()
        {
            taken += piece.len();
            self.bytes.set(self.bytes.get() + piece.len());
            self.pieces.borrow_mut().push_back(piece);
        }
        self.is_blocked.set(!outbox.is_empty());
        self.wake();
        taken
    }

    fn finish(&self, end: End) {
        self.end.set(end);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl HeldBody {
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let pipe = &self.0;
        if let Some(piece) = pipe.pieces.borrow_mut().pop_front() {
            pipe.bytes.set(pipe.bytes.get() - piece.len());
            if pipe.bytes.get() <= FULL / 2 && pipe.is_blocked.replace(false) {
                pipe.lease.tell(PipeEvent::Writable);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match pipe.end.get() {
            End::Complete => Poll::Ready(None),
            End::GivenUp => Poll::Ready(Some(Err(GivenUp))),
            End::NotYet => {
                pipe.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        if self.0.end.get() == End::NotYet {
            self.0.lease.leave();
        }
    }
}

/// What becomes of a held HTTP/2 request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// This is its answer.
    Answer(Box<Answer>),
    /// The origin is to be asked again, with what the client has.
    Retry(Again),
    /// There is no room for it.
    Refused,
}

/// The shard's end of a held HTTP/2 request.
#[derive(Debug)]
pub(crate) struct Wait {
    verdict: oneshot::Sender<Verdict>,
    lease: Rc<Lease>,
}

/// hyper's end of a held HTTP/2 request.
#[derive(Debug)]
pub(crate) struct Awaited {
    verdict: Option<oneshot::Receiver<Verdict>>,
    lease: Rc<Lease>,
}

impl Wait {
    /// Says what becomes of a request that is not held.
    pub(crate) fn settle(self, verdict: Verdict) {
        // The client may have left this moment.
        let _ = self.verdict.send(verdict);
    }

    pub(crate) fn new(events: mpsc::UnboundedSender<PipeEvent>) -> (Self, Awaited) {
        let (sender, receiver) = oneshot::channel();
        let lease = Rc::new(Lease::new(events));
        let awaited = Awaited {
            verdict: Some(receiver),
            lease: Rc::clone(&lease),
        };
        let wait = Self {
            verdict: sender,
            lease,
        };
        (wait, awaited)
    }
}

impl Awaited {
    /// Waits for the shard; `None` if it is gone. Dropped before that, it tells the shard.
    pub(crate) async fn given(mut self) -> Option<Verdict> {
        let verdict = self.verdict.as_mut()?.await.ok();
        self.verdict = None;
        verdict
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.verdict.is_some() {
            self.lease.leave();
        }
    }
}

/// All HTTP/2 streams and requests that a shard holds.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    held: FxHashMap<ConnectionKey, HeldAt>,
}

#[derive(Debug)]
enum HeldAt {
    Stream(Rc<Pipe>),
    Request(Wait),
}

impl Pipes {
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn insert_stream(&mut self, key: ConnectionKey, pipe: &Rc<Pipe>) {
        self.held.insert(key, HeldAt::Stream(Rc::clone(pipe)));
        pipe.lease.open(key);
    }

    pub(crate) fn insert_request(&mut self, key: ConnectionKey, wait: Wait) {
        let lease = Rc::clone(&wait.lease);
        self.held.insert(key, HeldAt::Request(wait));
        lease.open(key);
    }

    /// Moves what there is room for out of the outbox; `None` if `key` is held elsewhere.
    pub(crate) fn write(&mut self, key: ConnectionKey, outbox: &mut Outbox) -> Option<usize> {
        match self.held.get(&key)? {
            HeldAt::Stream(pipe) => Some(pipe.fill(outbox)),
            HeldAt::Request(_) => Some(0),
        }
    }

    /// Ends a stream that is complete.
    pub(crate) fn finish(&mut self, key: ConnectionKey) {
        if let Some(HeldAt::Stream(pipe)) = self.held.remove(&key) {
            pipe.finish(End::Complete);
        }
    }

    /// Breaks a stream off.
    pub(crate) fn give_up(&mut self, key: ConnectionKey) {
        if let Some(HeldAt::Stream(pipe)) = self.held.remove(&key) {
            pipe.pieces.borrow_mut().clear();
            pipe.finish(End::GivenUp);
        }
    }

    /// Says what becomes of a request.
    pub(crate) fn settle(&mut self, key: ConnectionKey, verdict: Verdict) {
        if let Some(HeldAt::Request(wait)) = self.held.remove(&key) {
            wait.settle(verdict);
        }
    }
}
