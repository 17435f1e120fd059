//! Bodies on their way through: the client's to the origin, and answers to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

/// How far a request's body has come. Shared because the body itself belongs to the origin's
/// connection.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: AtomicUsize,
    is_complete: AtomicBool,
    has_failed: AtomicBool,
}

impl Progress {
    /// Bytes that were read so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// Whether the client broke it off.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }
}

/// A client's request body. Trailers are dropped: the origin was not told of any.
#[derive(Debug)]
pub(crate) struct ClientBody {
    body: Incoming,
    progress: Arc<Progress>,
}

impl ClientBody {
    pub(super) fn new(body: Incoming) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress::default());
        progress
            .is_complete
            .store(body.is_end_stream(), Ordering::Relaxed);
        let shared = Arc::clone(&progress);
        (Self { body, progress }, shared)
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            match &polled {
                Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                    Some(data) => {
                        self.progress.bytes.fetch_add(data.len(), Ordering::Relaxed);
                        if self.body.is_end_stream() {
                            self.progress.is_complete.store(true, Ordering::Relaxed);
                        }
                    }
                    None => continue,
                },
                Poll::Ready(Some(Err(_))) => {
                    self.progress.has_failed.store(true, Ordering::Relaxed);
                }
                Poll::Ready(None) => self.progress.is_complete.store(true, Ordering::Relaxed),
                Poll::Pending => {}
            }
            return polled;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// The origin's, as it arrives. If it breaks off, so does the client's connection.
    Relayed(Incoming),
    /// The hub's own.
    Full(Full<Bytes>),
}

impl ResponseBody {
    pub(super) fn full(body: Bytes) -> Self {
        Self::Full(Full::new(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Relayed(body) => loop {
                match Pin::new(&mut *body).poll_frame(context) {
                    // Trailers are dropped: the client was not told of any.
                    Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {}
                    polled => return polled,
                }
            },
            Self::Full(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relayed(body) => body.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relayed(body) => body.size_hint(),
            Self::Full(body) => body.size_hint(),
        }
    }
}
