//! Bodies on their way through: the client's to the origin, and answers to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::outflow::GivenUp;
use crate::pipe::HeldBody;

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

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge,
    Broken,
}

/// A client's request body, with its beginning kept so that it can be sent more than once.
/// Trailers are dropped: the origin was not told of any.
#[derive(Debug)]
pub(crate) struct Content {
    /// What is still to be read from the client; `None` if there is nothing.
    source: Option<Incoming>,
    /// What was read, unless it is more than `keep`.
    kept: Vec<Bytes>,
    /// Pieces of `kept` that were sent in the running attempt.
    sent: usize,
    /// Bytes that are kept at most.
    keep: usize,
    progress: Arc<Progress>,
}

impl Content {
    /// A body that comes from the client; at most `keep` bytes of it are kept.
    pub(crate) fn of_client(body: Incoming, keep: usize) -> Self {
        let source = (!body.is_end_stream()).then_some(body);
        let progress = Progress {
            is_complete: source.is_none().into(),
            ..Progress::default()
        };
        Self {
            source,
            kept: Vec::new(),
            sent: 0,
            keep,
            progress: Arc::new(progress),
        }
    }

    /// A body that is there.
    pub(crate) fn complete(body: Bytes) -> Self {
        let progress = Progress {
            is_complete: true.into(),
            bytes: body.len().into(),
            ..Progress::default()
        };
        Self {
            source: None,
            kept: if body.is_empty() {
                Vec::new()
            } else {
                vec![body]
            },
            sent: 0,
            keep: usize::MAX,
            progress: Arc::new(progress),
        }
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether everything that was read is kept, so that it can be sent again.
    pub(super) fn can_be_sent_again(&self) -> bool {
        self.progress.bytes() <= self.keep
    }

    /// All of it, if it was read to its end and kept.
    pub(super) fn whole(&self) -> Option<Bytes> {
        let is_whole = self.progress.is_complete() && self.can_be_sent_again();
        is_whole.then(|| match self.kept.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        })
    }

    /// Reads a body that is at most `limit` bytes long to its end.
    pub(super) async fn read(self, limit: usize) -> Result<Bytes, Unread> {
        let (body, _) = self.attempt();
        match Limited::new(body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
            Err(_) => Err(Unread::Broken),
        }
    }

    /// The body of one attempt. The content comes back when that is dropped.
    pub(super) fn attempt(mut self) -> (OriginBody, oneshot::Receiver<Self>) {
        self.sent = 0;
        let (home, returned) = oneshot::channel();
        let body = OriginBody {
            content: Some(self),
            home: Some(home),
        };
        (body, returned)
    }

    fn poll(
        &mut self,
        waker: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(piece) = self.kept.get(self.sent) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        while let Some(source) = &mut self.source {
            match Pin::new(&mut *source).poll_frame(waker) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    let is_end = source.is_end_stream();
                    self.took(&data, is_end);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.progress.has_failed.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.progress.is_complete.store(true, Ordering::Relaxed);
                    self.source = None;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }

    fn took(&mut self, data: &Bytes, is_end: bool) {
        let bytes = self.progress.bytes.fetch_add(data.len(), Ordering::Relaxed) + data.len();
        if bytes <= self.keep {
            self.kept.push(data.clone());
            self.sent += 1;
        } else {
            self.kept = Vec::new();
            self.sent = 0;
        }
        if is_end {
            self.progress.is_complete.store(true, Ordering::Relaxed);
            self.source = None;
        }
    }

    fn is_end(&self) -> bool {
        self.source.is_none() && self.sent >= self.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = match &self.source {
            None => SizeHint::with_exact(0),
            Some(source) => source.size_hint(),
        };
        let unsent = self.kept.get(self.sent..).unwrap_or_default();
        let unsent: u64 = unsent.iter().map(|piece| piece.len() as u64).sum();
        // The upper bound first: it may not be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + unsent);
        }
        hint.set_lower(hint.lower() + unsent);
        hint
    }
}

/// A request's body as the origin's connection has it.
#[derive(Debug)]
pub(crate) struct OriginBody {
    /// There until it is dropped.
    content: Option<Content>,
    home: Option<oneshot::Sender<Content>>,
}

impl Drop for OriginBody {
    fn drop(&mut self) {
        if let (Some(content), Some(home)) = (self.content.take(), self.home.take()) {
            // Nobody may want it any more.
            let _ = home.send(content);
        }
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        waker: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.content {
            Some(content) => content.poll(waker),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.content.as_ref().is_none_or(Content::is_end)
    }

    fn size_hint(&self) -> SizeHint {
        self.content
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Content::size_hint)
    }
}

/// The body of an answer to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// The origin's, as it arrives. If it breaks off, so does the client's connection.
    Relayed(Incoming),
    /// The hub's own.
    Full(Full<Bytes>),
    /// A held stream's, over HTTP/2.
    Held(HeldBody),
}

/// Why the body of an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The origin broke off.
    #[error("the origin's body broke off")]
    Origin(#[from] hyper::Error),
    /// The hub gave the stream up.
    #[error("the stream was given up")]
    GivenUp,
}

impl ResponseBody {
    pub(crate) fn full(body: Bytes) -> Self {
        Self::Full(Full::new(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Relayed(body) => loop {
                match Pin::new(&mut *body).poll_frame(context) {
                    // Trailers are dropped: the client was not told of any.
                    Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {}
                    polled => return polled.map_err(BodyError::from),
                }
            },
            Self::Full(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Held(body) => body
                .poll_frame(context)
                .map_err(|GivenUp| BodyError::GivenUp),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relayed(body) => body.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
            Self::Held(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relayed(body) => body.size_hint(),
            Self::Full(body) => body.size_hint(),
            Self::Held(_) => SizeHint::default(),
        }
    }
}
