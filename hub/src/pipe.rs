//! HTTP/2 streams: what the engine writes for them, on its way to hyper.
//!
//! hyper owns the connection, so a held stream gets its content through a [`Pipe`], and a held
//! request its answer through a [`Wait`]. Both tell the shard when the client is gone.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use grip::hold::Answer;
use http_body::Frame;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Outbox;
use crate::errand::Again;
use crate::lease::Lease;
use crate::mailbox::ConnectionKey;
use crate::outflow::{Ending, GivenUp, Outflow};

/// What happened at hyper's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PipeEvent {
    /// The client left.
    Gone(ConnectionKey),
    /// There is room again.
    Writable(ConnectionKey),
}

/// The content of a held stream, between the engine's outbox and hyper.
#[derive(Debug)]
pub(crate) struct Pipe {
    outflow: Outflow,
    lease: PipeLease,
}

type PipeLease = Lease<ConnectionKey, PipeEvent>;

/// hyper's end of a pipe.
#[derive(Debug)]
pub(crate) struct HeldBody(Rc<Pipe>);

impl Pipe {
    pub(crate) fn new(events: mpsc::UnboundedSender<PipeEvent>) -> (Rc<Self>, HeldBody) {
        let pipe = Rc::new(Self {
            outflow: Outflow::new(),
            lease: Lease::new(events, PipeEvent::Gone),
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
        self.outflow.begun().await
    }

    /// Refuses a stream that has not begun.
    pub(crate) fn refuse(&self) {
        self.outflow.end(Ending::GivenUp);
    }
}

impl HeldBody {
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let Pipe { outflow, lease } = &*self.0;
        if let Some(piece) = outflow.pop() {
            if outflow.has_room_again() {
                lease.tell(PipeEvent::Writable);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match outflow.ending() {
            Ending::Complete => Poll::Ready(None),
            Ending::GivenUp => Poll::Ready(Some(Err(GivenUp))),
            Ending::NotYet => {
                outflow.wait(context);
                Poll::Pending
            }
        }
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        if self.0.outflow.ending() == Ending::NotYet {
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
    lease: Rc<PipeLease>,
}

/// hyper's end of a held HTTP/2 request.
#[derive(Debug)]
pub(crate) struct Awaited {
    verdict: Option<oneshot::Receiver<Verdict>>,
    lease: Rc<PipeLease>,
}

impl Wait {
    /// Says what becomes of a request that is not held.
    pub(crate) fn settle(self, verdict: Verdict) {
        // The client may have left this moment.
        let _ = self.verdict.send(verdict);
    }

    pub(crate) fn new(events: mpsc::UnboundedSender<PipeEvent>) -> (Self, Awaited) {
        let (sender, receiver) = oneshot::channel();
        let lease = Rc::new(Lease::new(events, PipeEvent::Gone));
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
            HeldAt::Stream(pipe) => Some(pipe.outflow.fill(outbox)),
            HeldAt::Request(_) => Some(0),
        }
    }

    /// Ends a stream that is complete.
    pub(crate) fn finish(&mut self, key: ConnectionKey) {
        if let Some(HeldAt::Stream(pipe)) = self.held.remove(&key) {
            pipe.outflow.end(Ending::Complete);
        }
    }

    /// Breaks a stream off.
    pub(crate) fn give_up(&mut self, key: ConnectionKey) {
        if let Some(HeldAt::Stream(pipe)) = self.held.remove(&key) {
            pipe.outflow.end(Ending::GivenUp);
        }
    }

    /// Says what becomes of a request.
    pub(crate) fn settle(&mut self, key: ConnectionKey, verdict: Verdict) {
        if let Some(HeldAt::Request(wait)) = self.held.remove(&key) {
            wait.settle(verdict);
        }
    }
}
