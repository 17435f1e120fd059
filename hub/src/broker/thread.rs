//! The thread that drives the broker between its two queues and the shards' mailboxes.

use std::io;
use std::thread::JoinHandle;

use grip::ChannelName;
use grip::publish::Item;
use tokio::sync::mpsc;

use super::channels::Broker;
use crate::mailbox::{Attachment, Command, ConnectionKey, ShardId};

/// Items that may wait for the broker; then publishers wait.
const PUBLISH_QUEUE: usize = 4096;

/// A shard's request.
#[derive(Debug)]
enum Request {
    Attach {
        shard: ShardId,
        connection: ConnectionKey,
        channels: Vec<Attachment>,
    },
    Detach {
        shard: ShardId,
        channels: Vec<ChannelName>,
    },
}

/// The way to the broker, for shards and publishers. It runs until the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct BrokerHandle {
    /// Not bounded by itself: a connection has one attach and one detach in it at most. If a shard
    /// had to wait here while the broker waits for the shard's mailbox, both would wait for ever.
    requests: mpsc::UnboundedSender<Request>,
    publishes: mpsc::Sender<Item>,
}

impl BrokerHandle {
    pub(crate) fn attach(
        &self,
        shard: ShardId,
        connection: ConnectionKey,
        channels: Vec<Attachment>,
    ) {
        // Fails only when the broker's thread is gone, and then there is nobody to tell.
        let _ = self.requests.send(Request::Attach {
            shard,
            connection,
            channels,
        });
    }

    pub(crate) fn detach(&self, shard: ShardId, channels: Vec<ChannelName>) {
        let _ = self.requests.send(Request::Detach { shard, channels });
    }

    /// Queues an item; waits while the broker is busy.
    ///
    /// Cancel safe: a call that did not finish published nothing.
    pub(crate) async fn publish(&self, item: Item) {
        let _ = self.publishes.send(item).await;
    }
}

/// Starts the broker's thread.
pub(crate) fn spawn(
    mailboxes: Vec<mpsc::Sender<Command>>,
) -> io::Result<(BrokerHandle, JoinHandle<()>)> {
    let (requests, mut request_queue) = mpsc::unbounded_channel();
    let (publishes, mut publish_queue) = mpsc::channel(PUBLISH_QUEUE);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let run = async move {
        let mut broker = Broker::default();
        loop {
            // Requests first: they are short, and a connection waits for each.
            tokio::select! {
                biased;
                request = request_queue.recv() => match request {
                    Some(Request::Attach { shard, connection, channels }) => {
                        // Items that wait already were published before this client came. Were it
                        // attached first, it would get again what its first answer contains.
                        for _ in 0..publish_queue.len() {
                            let Ok(item) = publish_queue.try_recv() else {
                                break;
                            };
                            broker.publish(item);
                        }
                        broker.attach(shard, connection, channels);
                    }
                    Some(Request::Detach { shard, channels }) => broker.detach(shard, channels),
                    None => return,
                },
                Some(item) = publish_queue.recv() => broker.publish(item),
            }
            while let Some((shard, command)) = broker.poll_output() {
                // A full mailbox makes the broker wait, and so the publishers. A closed one
                // belongs to a shard that has shut down.
                let _ = mailboxes[shard.0].send(command).await;
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || runtime.block_on(run))?;
    Ok((
        BrokerHandle {
            requests,
            publishes,
        },
        thread,
    ))
}
