//! The thread that drives the broker between its two queues and the shards' mailboxes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use grip::ChannelName;
use grip::channel::ItemId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::channels::{Broker, Settings};
use super::intake::{Admitted, Room};
use super::ticket::Ticket;
use super::view::{ChannelView, Inspection};
use crate::counters::Counters;
use crate::mailbox::{Command, ConnectionKey, CountReply, ShardId, Subscribers, Wanted};

/// How long the broker and the shards may take to say how channels are.
const INSPECTION_TIME: Duration = Duration::from_secs(1);

/// A request of a shard, or of somebody who only looks.
#[derive(Debug)]
enum Request {
    Attach {
        shard: ShardId,
        connection: ConnectionKey,
        wanted: Wanted,
        /// The first so many of all that was ever published come before it.
        after: u64,
    },
    CatchUp {
        shard: ShardId,
        connection: ConnectionKey,
        wanted: Wanted,
    },
    Detach {
        shard: ShardId,
        channels: Vec<ChannelName>,
    },
    Inspect {
        inspection: Inspection,
        /// For the shards.
        counts: CountReply,
        reply: oneshot::Sender<Vec<ChannelView>>,
    },
}

/// The broker or a shard has too much to do, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker or a shard does not answer in time")]
pub(crate) struct Busy;

/// A publisher's request.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are items, which a box would only make slower"
)]
enum Publish {
    Item(Admitted, Arc<Ticket>),
    Recover(Room),
    /// The id of an item that waits for its turn, and the room of one that waits no longer.
    Announce(ChannelName, ItemId, Option<Room>),
    /// Nothing waits for its turn any more. Dropped when all that was queued before it is in the
    /// shards' mailboxes.
    Flush(oneshot::Sender<()>),
}

/// The way to the broker, for shards and publishers. It runs until the last handle is gone.
#[derive(Debug, Clone)]
pub(crate) struct BrokerHandle {
    /// Not bounded by itself: a connection has few requests in it at a time. If a shard
    /// had to wait here while the broker waits for the shard's mailbox, both would wait for ever.
    requests: mpsc::UnboundedSender<Request>,
    /// Not bounded by itself: who is in it has room in the [`super::Intake`], or comes before an
    /// item that has.
    publishes: mpsc::UnboundedSender<Publish>,
    /// How many publishes were put into the queue.
    published: Arc<AtomicU64>,
}

impl BrokerHandle {
    pub(crate) fn attach(&self, shard: ShardId, connection: ConnectionKey, wanted: Wanted) {
        // Fails only when the broker's thread is gone, and then there is nobody to tell.
        let _ = self.requests.send(Request::Attach {
            shard,
            connection,
            wanted,
            after: self.published.load(Ordering::SeqCst),
        });
    }

    /// Asks what a connection has missed that is attached already.
    pub(crate) fn catch_up(&self, shard: ShardId, connection: ConnectionKey, wanted: Wanted) {
        let _ = self.requests.send(Request::CatchUp {
            shard,
            connection,
            wanted,
        });
    }

    pub(crate) fn detach(&self, shard: ShardId, channels: Vec<ChannelName>) {
        let _ = self.requests.send(Request::Detach { shard, channels });
    }

    /// How channels are, and how many connections hear each of them, as all shards say together.
    /// Whatever is published or subscribed when this is called shows in it.
    ///
    /// # Errors
    /// [`Busy`] after a second.
    pub(crate) async fn inspect(
        &self,
        inspection: Inspection,
    ) -> Result<Vec<(ChannelView, Subscribers)>, Busy> {
        let inspected = tokio::time::timeout(INSPECTION_TIME, self.look_at(inspection));
        inspected.await.map_err(|_| Busy)?
    }

    async fn look_at(
        &self,
        inspection: Inspection,
    ) -> Result<Vec<(ChannelView, Subscribers)>, Busy> {
        let (reply, views) = oneshot::channel();
        let (counts, mut counted) = CountReply::new();
        let inspect = Request::Inspect {
            inspection,
            counts,
            reply,
        };
        self.requests.send(inspect).map_err(|_| Busy)?;
        let views = views.await.map_err(|_| Busy)?;
        let mut sums = vec![Subscribers::default(); views.len()];
        // Ends when all shards have answered that were asked. One that has ended has nobody.
        while let Some(counts) = counted.recv().await {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        Ok(views.into_iter().zip(sums).collect())
    }

    /// Queues an item. The ticket hears how many connections the item matched.
    pub(crate) fn publish(&self, admitted: Admitted, ticket: Arc<Ticket>) {
        self.queue(Publish::Item(admitted, ticket));
    }

    /// Makes every held client ask the origin what it has missed, behind the items that wait;
    /// GRIP `recover`.
    pub(crate) fn recover(&self, room: Room) {
        self.queue(Publish::Recover(room));
    }

    /// An item with this id is the channel's next, or one that stands for it. The room is the one
    /// of an item that is not published any more.
    pub(crate) fn announce(&self, channel: ChannelName, id: ItemId, room: Option<Room>) {
        self.queue(Publish::Announce(channel, id, room));
    }

    /// Has no item wait for the one before it, now or later, and waits until all that was published
    /// before is in the mailboxes of the shards.
    pub(crate) async fn flush(&self) {
        let (mark, reached) = oneshot::channel();
        self.queue(Publish::Flush(mark));
        // The mark is dropped, not sent.
        let _ = reached.await;
    }

    fn queue(&self, publish: Publish) {
        if self.publishes.send(publish).is_ok() {
            self.published.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Starts the broker's thread.
pub(crate) fn spawn(
    mailboxes: Vec<mpsc::Sender<Command>>,
    settings: Settings,
    counters: Arc<Counters>,
) -> io::Result<(BrokerHandle, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let (handle, driver) = Driver::new(mailboxes, settings, counters);
    let thread = std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || runtime.block_on(driver.run()))?;
    Ok((handle, thread))
}

/// What the broker's thread owns.
struct Driver {
    broker: Broker,
    /// The thread's own.
    counters: Arc<Counters>,
    mailboxes: Vec<mpsc::Sender<Command>>,
    requests: mpsc::UnboundedReceiver<Request>,
    publishes: mpsc::UnboundedReceiver<Publish>,
    /// How many publishes were taken out of the queue.
    taken: u64,
    /// Marks that were reached, while the shards have not got all of what came before.
    marks: Vec<oneshot::Sender<()>>,
    /// Of what was taken out, until the shards have got all of it.
    rooms: Vec<Room>,
}

impl Driver {
    fn new(
        mailboxes: Vec<mpsc::Sender<Command>>,
        settings: Settings,
        counters: Arc<Counters>,
    ) -> (BrokerHandle, Self) {
        let (requests, request_queue) = mpsc::unbounded_channel();
        let (publishes, publish_queue) = mpsc::unbounded_channel();
        let driver = Self {
            broker: Broker::new(settings, now()),
            counters,
            mailboxes,
            requests: request_queue,
            publishes: publish_queue,
            taken: 0,
            marks: Vec::new(),
            rooms: Vec::new(),
        };
        let handle = BrokerHandle {
            requests,
            publishes,
            published: Arc::default(),
        };
        (handle, driver)
    }

    async fn run(mut self) {
        loop {
            let deadline = self.broker.poll_timeout().map(Instant::from_std);
            let timeout = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now));
            // Requests first: they are short, and a connection waits for each.
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(request),
                    None => return,
                },
                () = timeout, if deadline.is_some() => self.broker.handle_timeout(now()),
                Some(publish) = self.publishes.recv() => self.publish(publish),
            }
            while let Some((shard, command)) = self.broker.poll_output() {
                // A full mailbox makes the broker wait, until nothing more is let in. A closed one
                // belongs to a shard that has shut down.
                let _ = self.mailboxes[shard.0].send(command).await;
            }
            self.marks.clear();
            self.rooms.clear();
            self.show();
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Attach {
                shard,
                connection,
                wanted,
                after,
            } => {
                // What was published before this client came. Were it attached first, it would get
                // again what its first answer contains. What was published after it was attached,
                // as its origin may know, must not come before that.
                while self.taken < after
                    && let Ok(publish) = self.publishes.try_recv()
                {
                    self.publish(publish);
                }
                self.broker.attach(shard, connection, &wanted, now());
            }
            Request::CatchUp {
                shard,
                connection,
                wanted,
            } => self.broker.catch_up(shard, connection, &wanted),
            Request::Detach { shard, channels } => self.broker.detach(shard, channels, now()),
            // Whoever asked may wait no longer.
            Request::Inspect { reply, .. } if reply.is_closed() => {}
            Request::Inspect {
                inspection,
                counts,
                reply,
            } => {
                let _ = reply.send(self.broker.inspect(&inspection, counts, now()));
            }
        }
    }

    fn publish(&mut self, publish: Publish) {
        self.taken += 1;
        match publish {
            Publish::Item(Admitted { item, room }, ticket) => {
                ticket.add(self.broker.publish(item, now()));
                self.rooms.push(room);
            }
            Publish::Recover(room) => {
                self.broker.recover(now());
                self.rooms.push(room);
            }
            Publish::Announce(channel, id, room) => {
                self.broker.announce(&channel, id);
                self.rooms.extend(room);
            }
            Publish::Flush(mark) => {
                self.broker.flush(now());
                self.marks.push(mark);
            }
        }
    }

    fn show(&self) {
        let tally = self.broker.tally();
        let counters = &self.counters;
        for (counter, value) in [
            (&counters.duplicate_items, tally.duplicates),
            (&counters.early_items, tally.early),
            (&counters.unfollowed_items, tally.unfollowed),
            (&counters.late_items, tally.late),
            (&counters.resumed, tally.resumed),
            (&counters.replayed_items, tally.replayed),
            (&counters.behind, tally.behind),
            (&counters.history_items, tally.history_items),
            (&counters.history_bytes, tally.history_bytes),
            (&counters.channels, tally.channels),
        ] {
            counter.set(value);
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::channels::settings;
    use crate::broker::{Intake, Waiting};
    use crate::config::FirstSubscription;
    use crate::mailbox::Attachment;

    const KEY: ConnectionKey = ConnectionKey {
        index: 0,
        generation: 1,
    };

    fn attach(broker: &BrokerHandle, channel: &ChannelName) {
        attach_at(broker, ShardId(0), channel);
    }

    fn attach_at(broker: &BrokerHandle, shard: ShardId, channel: &ChannelName) {
        let attachment = Attachment {
            channel: channel.clone(),
            position: None,
        };
        let wanted = Wanted {
            channels: vec![attachment],
            resume: None,
        };
        broker.attach(shard, KEY, wanted);
    }

    fn intake() -> Intake {
        Intake::new(Waiting {
            items: 10,
            bytes: 1_000_000,
        })
    }

    fn publish(broker: &BrokerHandle, intake: &Intake) {
        let body = br#"{"items":[{"channel":"a","http-stream":{"content":"x"}}]}"#;
        let items = grip::publish::parse(body, &grip::Limits::default()).unwrap();
        for admitted in intake.admit(items).unwrap() {
            broker.publish(admitted, Ticket::new().0);
        }
    }

    #[tokio::test]
    async fn items_are_before_or_behind_an_attached_connection_as_they_were_published() {
        let (sender, mut mailbox) = mpsc::channel(8);
        let (broker, driver) = Driver::new(
            vec![sender],
            settings(FirstSubscription::Leave),
            Arc::default(),
        );
        let (channel, intake) = (ChannelName::new("a"), intake());
        // All of it waits before the broker looks.
        publish(&broker, &intake);
        attach(&broker, &channel);
        publish(&broker, &intake);
        drop(broker);
        driver.run().await;
        let Some(Command::Attached { cursor, .. }) = mailbox.recv().await else {
            panic!("it is not attached");
        };
        assert_eq!(cursor.0, 1);
    }

    #[tokio::test]
    async fn what_waits_for_a_full_mailbox_has_its_room_until_it_is_in_it() {
        let (sender, mut mailbox) = mpsc::channel(1);
        let (broker, driver) = Driver::new(
            vec![sender],
            settings(FirstSubscription::Leave),
            Arc::default(),
        );
        let intake = intake();
        let mut running = std::pin::pin!(driver.run());
        attach(&broker, &ChannelName::new("a"));
        publish(&broker, &intake);
        publish(&broker, &intake);
        broker.recover(intake.admit_nothing().unwrap());
        // The broker goes on until the mailbox is full. The first that is in it has no item.
        for waiting in [3, 2, 1, 0] {
            assert!(futures::poll!(&mut running).is_pending());
            assert_eq!(intake.waiting().items, waiting);
            assert!(mailbox.recv().await.is_some());
        }
        assert_eq!(intake.waiting().bytes, 0);
    }

    #[tokio::test]
    async fn what_reaches_nobody_leaves_its_room() {
        let (sender, _mailbox) = mpsc::channel(1);
        let (broker, driver) = Driver::new(
            vec![sender],
            settings(FirstSubscription::Leave),
            Arc::default(),
        );
        let intake = intake();
        let channel = ChannelName::new("a");
        let id = ItemId::new("1");
        publish(&broker, &intake);
        let room = intake.admit_nothing().unwrap();
        broker.announce(channel, id, Some(room));
        assert_eq!(intake.waiting().items, 2);
        assert!(futures::poll!(std::pin::pin!(driver.run())).is_pending());
        assert_eq!(intake.waiting(), Waiting { items: 0, bytes: 0 });
    }

    #[test]
    fn the_thread_keeps_the_brokers_time_and_ends_with_its_last_handle() {
        let (sender, mut mailbox) = mpsc::channel(8);
        let (broker, thread) = spawn(
            vec![sender],
            settings(FirstSubscription::Update),
            Arc::default(),
        )
        .unwrap();
        let channel = ChannelName::new("a");
        attach(&broker, &channel);
        let attached = mailbox.blocking_recv();
        assert!(matches!(attached, Some(Command::Attached { .. })));
        assert_eq!(mailbox.blocking_recv(), Some(Command::Update(channel)));
        drop(broker);
        assert_eq!(mailbox.blocking_recv(), None);
        thread.join().unwrap();
    }

    /// What becomes of an inspection of a channel that two shards want, where these do with it what
    /// `answer` says.
    async fn inspect(
        answer: impl Fn(usize, CountReply) -> Option<CountReply>,
    ) -> Result<Subscribers, Busy> {
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(8)).unzip();
        let (broker, driver) =
            Driver::new(senders, settings(FirstSubscription::Leave), Arc::default());
        let channel = ChannelName::new("a");
        attach(&broker, &channel);
        attach_at(&broker, ShardId(1), &channel);
        let shards = mailboxes
            .into_iter()
            .enumerate()
            .map(async |(shard, mut mailbox)| {
                let mut kept = None;
                while let Some(command) = mailbox.recv().await {
                    if let Command::Count { reply, .. } = command {
                        kept = answer(shard, reply);
                    }
                }
                drop(kept);
            });
        let inspect = async {
            let inspected = broker.inspect(Inspection::Channel(channel)).await;
            drop(broker);
            inspected
        };
        let (inspected, (), _) =
            tokio::join!(inspect, driver.run(), futures::future::join_all(shards));
        inspected.map(|mut inspected| inspected.remove(0).1)
    }

    fn streams(streams: usize) -> Vec<Subscribers> {
        vec![Subscribers {
            streams,
            ..Subscribers::default()
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn what_shards_count_is_added_up() {
        let counted = inspect(|shard, reply| {
            reply.send(streams(shard + 5));
            None
        });
        assert_eq!(counted.await.map(|it| it.streams), Ok(11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_has_ended_has_nobody() {
        let counted = inspect(|shard, reply| {
            if shard == 0 {
                reply.send(streams(7));
            }
            None
        });
        assert_eq!(counted.await.map(|it| it.streams), Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_does_not_answer_is_waited_for_a_second() {
        let begin = Instant::now();
        let counted = inspect(|shard, reply| {
            if shard == 1 {
                return Some(reply);
            }
            reply.send(streams(7));
            None
        });
        assert_eq!(counted.await, Err(Busy));
        assert_eq!(begin.elapsed(), INSPECTION_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_does_not_answer_is_waited_for_a_second() {
        let (broker, _driver) = Driver::new(
            Vec::new(),
            settings(FirstSubscription::Leave),
            Arc::default(),
        );
        let inspection = Inspection::Channel(ChannelName::new("a"));
        assert_eq!(broker.inspect(inspection).await, Err(Busy));
    }
}
