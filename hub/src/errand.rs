//! Errands: requests that the hub makes on its own, on behalf of clients that it holds.
//!
//! This is what shards and the thread that runs the errands say to each other; neither knows more
//! of the other.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::ChannelName;
use grip::channel::ItemId;
use grip::filter::{FilterError, Inquiry, Reply};
use grip::instruct::{Instruct, InstructError};
use http::Uri;
use tokio::sync::oneshot;

use crate::mailbox::{ConnectionKey, ShardId};
use crate::routes::Route;

/// On whose behalf an errand is run.
#[derive(Debug)]
pub(crate) struct Behalf {
    /// The route of the client's request.
    pub(crate) route: Arc<Route>,
    /// The client's request as its origin knows it, or the last link; relative links begin there.
    pub(crate) uri: Uri,
    /// How `uri` is reached.
    pub(crate) way: Way,
    /// Channels that the route's target adds to every hold.
    pub(crate) implicit: Vec<ChannelName>,
    /// Whether clients are told what is wrong.
    pub(crate) tells_errors: bool,
}

/// How a URI is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the routes. Whatever has its host from the client goes this way: else a client could send
    /// the hub anywhere.
    Routes,
    /// Straight to its host, which an origin has named.
    Direct,
}

/// Where a stream goes on; GRIP `Grip-Link` with `rel=next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    /// Absolute.
    pub(crate) uri: Uri,
    /// How long a channel may be silent before the link is followed.
    pub(crate) timeout: Duration,
}

/// A request is asked again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Again {
    /// What the client has.
    pub(crate) last: Vec<Last>,
    pub(crate) comparison: Comparison,
}

/// Whether a client's ids are compared with the last ones published when it attaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// They are, but for those with which the origin was asked already.
    #[default]
    New,
    /// None: the origin was asked because of such a comparison, and stays with what it said.
    Never,
}

/// One line of GRIP `Grip-Last`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Last {
    /// The channel, without the route's prefix.
    pub(crate) name: ChannelName,
    /// The last item that the client has.
    pub(crate) id: ItemId,
}

impl Last {
    /// The header's value.
    pub(crate) fn text(&self) -> String {
        format!("{}; last-id={}", self.name, self.id.as_str())
    }
}

/// How soon an errand is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// With many others, so that the origin is not flooded.
    Low,
    /// At once.
    High,
}

/// What is to be done for a connection.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) shard: ShardId,
    pub(crate) connection: ConnectionKey,
    pub(crate) behalf: Arc<Behalf>,
    pub(crate) kind: ErrandKind,
}

#[derive(Debug)]
pub(crate) enum ErrandKind {
    /// Fetch the continuation of a stream.
    Follow {
        next: Next,
        last: Vec<Last>,
        urgency: Urgency,
    },
    /// Ask a server about an item; GRIP filters `http-check` and `http-modify`.
    Ask { inquiry: Inquiry, last: Vec<Last> },
    /// Say that the client is gone; GRIP `Grip-Link` with `rel=gone`.
    Gone(Uri),
}

/// The instruction in the answer of a next link.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) instruct: Instruct,
    /// Its next link, resolved.
    pub(crate) next: Option<Next>,
    /// Where it came from, for the links of the next one.
    pub(crate) behalf: Arc<Behalf>,
    /// When it was asked for; what it says was so then, or later.
    pub(crate) asked_at: Instant,
}

/// What an errand comes to, for all connections of a shard that wait for it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) connections: Vec<ConnectionKey>,
    pub(crate) news: News,
}

#[derive(Debug)]
pub(crate) enum News {
    /// A link was answered with this instruction; its body follows.
    Linked(Arc<Linked>),
    /// A piece of a body. Whoever has much to read keeps the receipt until it has less.
    Body(Bytes, Receipt),
    /// The body is complete.
    Complete,
    /// The body broke off.
    Broken,
    /// Whoever still keeps the receipt of the last piece makes others wait too long.
    Stalled,
    /// A link cannot be followed.
    Failed(LinkError),
    /// What a server says of an item.
    Told(Result<Reply, FilterError>),
}

/// Dropped once all who got a piece of a body can take more; the sender then goes on.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// There until it is dropped.
    done: Option<oneshot::Sender<()>>,
    is_wanted: Cell<bool>,
}

impl Receipt {
    /// A receipt, and what comes of it: an error if nobody wanted the piece, because all are gone.
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (done, ended) = oneshot::channel();
        let receipt = Self {
            done: Some(done),
            is_wanted: Cell::new(false),
        };
        (receipt, ended)
    }

    /// Somebody took the piece.
    pub(crate) fn want(&self) {
        self.is_wanted.set(true);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(done) = self.done.take()
            && self.is_wanted.get()
        {
            // The sender may have given up.
            let _ = done.send(());
        }
    }
}

/// Why a stream cannot go on with its next link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// No answer, or not one of success, after all attempts.
    #[error("Failed to retrieve next link.")]
    Retrieve,
    /// Its instruction holds something else than a stream.
    #[error("Next link returned non-stream hold.")]
    NotStream,
    /// Its instruction is in the body, which is the stream's.
    #[error("Next link returned application/grip-instruct content.")]
    Form,
    /// It cannot be appended to a stream, because it is encoded.
    #[error("Next link returned content with a Content-Encoding.")]
    Encoded,
    /// Its instruction cannot be followed.
    #[error("Failed to parse accept instructions: {0}")]
    Instruct(#[from] InstructError),
}
