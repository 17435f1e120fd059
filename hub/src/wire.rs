//! Byte streams that tasks carry for a shard, both ways: WebSockets that hyper or a TLS session is
//! under, so that the shard cannot hold their socket itself.
//!
//! A [`Carrier`] moves bytes between its stream and its [`Wire`], and knows nothing of what they
//! mean. [`Wires`] is the shard's end: it gives bytes out of outboxes, and is told of what comes in
//! by [`WireEvent`]s.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;

use crate::client_io::{LINGER, discard};
use crate::engine::Outbox;
use crate::lease::Lease;
use crate::mailbox::ConnectionKey;
use crate::outflow::{Ending, GivenUp, Outflow};

/// Bytes of one [`WireEvent::Input`] at most.
const READ: usize = 16 * 1024;
/// Bytes given to a stream at a time. hyper copies what it is given for HTTP/2, whatever its size.
const WRITE: usize = 16 * 1024;
/// How long a peer may take to read the end of what it is sent.
const PATIENCE: Duration = Duration::from_mins(1);

/// Who is at the other end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Client,
    Origin,
}

/// What happened at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WireEvent {
    /// These bytes came; no more are read before [`Wires::resume`].
    Input(ConnectionKey, End, Bytes),
    /// There is room again.
    Writable(ConnectionKey, End),
    /// The peer closed its stream, or it broke. Told once, and not of a wire that the hub ended.
    Gone(ConnectionKey, End),
}

/// Where a wire belongs.
type Place = (ConnectionKey, End);

/// The shard's side of a stream.
#[derive(Debug)]
pub(crate) struct Wire {
    outflow: Outflow,
    /// Whether the shard wants more input.
    may_read: Cell<bool>,
    lease: Lease<Place, WireEvent>,
}

/// The task's side of a stream. Dropped before the hub has ended the wire, it tells the shard that
/// the peer is gone.
#[derive(Debug)]
pub(crate) struct Carrier {
    wire: Rc<Wire>,
    patience: Duration,
}

impl Wire {
    pub(crate) fn new(events: mpsc::UnboundedSender<WireEvent>) -> (Rc<Self>, Carrier) {
        let gone = |(key, end)| WireEvent::Gone(key, end);
        let wire = Rc::new(Self {
            outflow: Outflow::new(),
            may_read: Cell::new(false),
            lease: Lease::new(events, gone),
        });
        let carrier = Carrier {
            wire: Rc::clone(&wire),
            patience: PATIENCE,
        };
        (wire, carrier)
    }

    /// Waits until the engine has begun the connection, by the first [`Wires::write`]. Not to be
    /// waited for while the stream is carried.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The connection was refused or given up before.
    pub(crate) async fn begun(&self) -> Result<(), GivenUp> {
        self.outflow.begun().await
    }

    /// Refuses a connection that has not begun.
    pub(crate) fn refuse(&self) {
        self.outflow.end(Ending::GivenUp);
    }

    /// Lets the carrier read once.
    fn resume(&self) {
        self.may_read.set(true);
        self.outflow.wake();
    }

    /// Moves bytes both ways until the hub ends the wire.
    ///
    /// # Errors
    /// The stream broke, or its peer closed it.
    async fn relay<Io>(&self, io: &mut Io) -> io::Result<Ending>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let mut is_flushed = true;
        poll_fn(|context| {
            self.outflow.wait(context);
            let ending = self.outflow.ending();
            if ending != Ending::NotYet {
                return Poll::Ready(Ok(ending));
            }
            let mut io = Pin::new(&mut *io);
            if let Poll::Ready(Err(error)) = self.write(io.as_mut(), &mut is_flushed, context) {
                return Poll::Ready(Err(error));
            }
            let Err(error) = ready!(self.read(io, context));
            Poll::Ready(Err(error))
        })
        .await
    }

    /// Writes all that there is.
    fn write<Io: AsyncWrite>(
        &self,
        mut io: Pin<&mut Io>,
        is_flushed: &mut bool,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(piece) = self.outflow.first(WRITE) {
            let written = ready!(io.as_mut().poll_write(context, &piece))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *is_flushed = false;
            self.outflow.consume(written);
            if self.outflow.has_room_again() {
                self.lease.tell(|(key, end)| WireEvent::Writable(key, end));
            }
        }
        if !*is_flushed {
            ready!(io.poll_flush(context))?;
            *is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the shard wants; never succeeds for good.
    fn read<Io: AsyncRead>(
        &self,
        mut io: Pin<&mut Io>,
        context: &mut Context<'_>,
    ) -> Poll<Result<std::convert::Infallible, io::Error>> {
        while self.may_read.get() {
            // On the stack, so that an idle stream has no buffer.
            let mut buffer = [const { MaybeUninit::uninit() }; READ];
            let mut buffer = ReadBuf::uninit(&mut buffer);
            ready!(io.as_mut().poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.may_read.set(false);
            let input = Bytes::copy_from_slice(buffer.filled());
            self.lease
                .tell(|(key, end)| WireEvent::Input(key, end, input));
        }
        Poll::Pending
    }

    /// Writes what is left, and closes the stream.
    async fn write_last(&self, io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while let Some(piece) = self.outflow.first(WRITE) {
            match io.write(&piece).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => self.outflow.consume(written),
            }
        }
        io.shutdown().await
    }
}

impl Carrier {
    /// Carries bytes until the hub or the peer ends the stream.
    ///
    /// Reads nothing before the shard has taken the wire in, and then up to 16 KiB at a time.
    pub(crate) async fn carry<Io>(self, mut io: Io)
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        match self.wire.relay(&mut io).await {
            Ok(Ending::Complete) => {
                let written = tokio::time::timeout(self.patience, self.wire.write_last(&mut io));
                if matches!(written.await, Ok(Ok(()))) {
                    // A stream that is dropped with unread input is reset, and its end may be lost.
                    let _ = tokio::time::timeout(LINGER, discard(&mut io)).await;
                }
            }
            Ok(Ending::NotYet | Ending::GivenUp) => {}
            Err(error) => tracing::debug!(%error, "a wire broke"),
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if self.wire.outflow.ending() == Ending::NotYet {
            self.wire.lease.leave();
        }
    }
}

/// All wires of a shard.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    held: FxHashMap<Place, Rc<Wire>>,
    /// How many of them are to clients.
    clients: usize,
}

impl Wires {
    /// How many there are to clients.
    pub(crate) fn clients(&self) -> usize {
        self.clients
    }

    /// Takes a wire in. From now on its peer is read from, first without being resumed.
    pub(crate) fn insert(&mut self, key: ConnectionKey, end: End, wire: &Rc<Wire>) {
        let before = self.held.insert((key, end), Rc::clone(wire));
        if before.is_none() && end == End::Client {
            self.clients += 1;
        }
        wire.lease.open((key, end));
        wire.resume();
    }

    /// Whether there is such a wire.
    pub(crate) fn has(&self, key: ConnectionKey, end: End) -> bool {
        self.held.contains_key(&(key, end))
    }

    /// Moves what there is room for out of the outbox, and says how many bytes that is; `None` if
    /// there is no such wire.
    pub(crate) fn write(
        &mut self,
        key: ConnectionKey,
        end: End,
        outbox: &mut Outbox,
    ) -> Option<usize> {
        let wire = self.held.get(&(key, end))?;
        Some(wire.outflow.fill(outbox))
    }

    /// Reads on, after [`WireEvent::Input`] was dealt with.
    pub(crate) fn resume(&mut self, key: ConnectionKey, end: End) {
        if let Some(wire) = self.held.get(&(key, end)) {
            wire.resume();
        }
    }

    /// Has everything written, all of the outbox included, and then closes the stream; its peer has
    /// a minute to read it.
    pub(crate) fn finish(&mut self, key: ConnectionKey, end: End, rest: &mut Outbox) {
        if let Some(wire) = self.held.get(&(key, end)) {
            wire.outflow.take_all(rest);
        }
        self.end(key, end, Ending::Complete);
    }

    /// Ends a stream at once.
    pub(crate) fn give_up(&mut self, key: ConnectionKey, end: End) {
        self.end(key, end, Ending::GivenUp);
    }

    fn end(&mut self, key: ConnectionKey, end: End, ending: Ending) {
        if let Some(wire) = self.held.remove(&(key, end)) {
            if end == End::Client {
                self.clients -= 1;
            }
            wire.outflow.end(ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
    use tokio::task::{JoinHandle, LocalSet};

    use super::*;
    use crate::outflow::FULL;

    const KEY: ConnectionKey = ConnectionKey {
        index: 3,
        generation: 7,
    };

    /// A shard with one wire, and the peer at the other end.
    struct Setting {
        wires: Wires,
        events: mpsc::UnboundedReceiver<WireEvent>,
        outbox: Outbox,
        peer: DuplexStream,
        carried: JoinHandle<()>,
    }

    impl Setting {
        /// `room` bytes fit between carrier and peer, each way.
        fn new(room: usize) -> Self {
            Self::with_patience(room, PATIENCE)
        }

        fn with_patience(room: usize, patience: Duration) -> Self {
            let (sender, events) = mpsc::unbounded_channel();
            let (wire, mut carrier) = Wire::new(sender);
            carrier.patience = patience;
            let (peer, io) = duplex(room);
            let mut wires = Wires::default();
            wires.insert(KEY, End::Origin, &wire);
            Self {
                wires,
                events,
                outbox: Outbox::default(),
                peer,
                carried: tokio::task::spawn_local(carrier.carry(io)),
            }
        }

        async fn event(&mut self) -> WireEvent {
            let event = tokio::time::timeout(Duration::from_secs(10), self.events.recv());
            event.await.expect("an event in time").expect("an event")
        }

        async fn input(&mut self) -> Bytes {
            match self.event().await {
                WireEvent::Input(KEY, End::Origin, bytes) => bytes,
                other => panic!("{other:?}"),
            }
        }

        fn push(&mut self, bytes: &[u8]) {
            self.outbox.push(Bytes::copy_from_slice(bytes));
        }

        fn write(&mut self) -> usize {
            let written = self.wires.write(KEY, End::Origin, &mut self.outbox);
            written.expect("there is such a wire")
        }

        async fn peer_reads(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.peer.read_exact(&mut bytes).await.unwrap();
            bytes
        }

        /// Waits for the carrier's end, and fails if it told anything more.
        async fn ends_silently(mut self) -> DuplexStream {
            let carried = tokio::time::timeout(Duration::from_secs(10), self.carried);
            carried.await.expect("an end in time").unwrap();
            drop(self.wires);
            assert_eq!(self.events.recv().await, None);
            self.peer
        }
    }

    /// Lets the carrier do all that it can.
    async fn settle() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    fn numbered(count: usize) -> Vec<u8> {
        (0..count)
            .map(|number| u8::try_from(number % 251).unwrap())
            .collect()
    }

    #[test]
    fn bytes_arrive_in_order_in_both_directions() {
        run(async {
            let mut setting = Setting::new(1000);
            let sent = numbered(100_000);
            for piece in sent.chunks(30_000) {
                setting.push(piece);
            }
            assert_eq!(setting.write(), FULL);
            let mut echoed = Vec::new();
            for piece in sent.chunks(500) {
                assert_eq!(setting.peer_reads(piece.len()).await, piece);
                setting.peer.write_all(piece).await.unwrap();
                let until = echoed.len() + piece.len();
                while echoed.len() < until {
                    match setting.event().await {
                        WireEvent::Input(KEY, End::Origin, bytes) => echoed.extend(bytes),
                        WireEvent::Writable(KEY, End::Origin) => {
                            assert!(setting.write() > 0);
                        }
                        other => panic!("{other:?}"),
                    }
                    setting.wires.resume(KEY, End::Origin);
                }
            }
            assert!(echoed == sent);
            assert!(setting.outbox.is_empty());
        });
    }

    #[test]
    fn input_waits_until_the_last_was_dealt_with() {
        run(async {
            let mut setting = Setting::new(100_000);
            let sent = numbered(40_000);
            setting.peer.write_all(&sent).await.unwrap();
            for expected in sent.chunks(READ) {
                assert!(setting.input().await == expected);
                settle().await;
                assert!(setting.events.is_empty());
                setting.wires.resume(KEY, End::Origin);
            }
            settle().await;
            assert!(setting.events.is_empty());
        });
    }

    #[test]
    fn a_peer_that_does_not_read_leaves_bytes_in_the_outbox() {
        run(async {
            let mut setting = Setting::new(10);
            for _ in 0..200 {
                setting.push(&[1; 1024]);
            }
            assert_eq!(setting.write(), FULL);
            settle().await;
            assert_eq!(setting.write(), 10, "what was written made room for it");
            assert_eq!(setting.write(), 0);
            assert!(setting.events.is_empty());
            setting.peer_reads(FULL / 2 + 1024).await;
            assert_eq!(setting.event().await, WireEvent::Writable(KEY, End::Origin));
            setting.peer_reads(1024).await;
            settle().await;
            assert!(setting.events.is_empty(), "it is told once");
            assert!(setting.write() >= FULL / 2);
        });
    }

    #[test]
    fn nothing_is_told_of_room_that_nobody_waits_for() {
        run(async {
            let mut setting = Setting::new(10);
            setting.push(&vec![1; FULL]);
            assert_eq!(setting.write(), FULL);
            setting.peer_reads(FULL).await;
            settle().await;
            assert!(setting.events.is_empty());
        });
    }

    #[test]
    fn a_peer_that_closes_is_gone_behind_all_that_it_sent() {
        run(async {
            let mut setting = Setting::new(100);
            setting.peer.write_all(b"last").await.unwrap();
            setting.peer.shutdown().await.unwrap();
            assert_eq!(setting.input().await, "last");
            settle().await;
            assert!(setting.events.is_empty());
            setting.wires.resume(KEY, End::Origin);
            assert_eq!(setting.event().await, WireEvent::Gone(KEY, End::Origin));
            setting.ends_silently().await;
        });
    }

    #[test]
    fn a_peer_that_breaks_while_it_is_written_to_is_gone() {
        run(async {
            let mut setting = Setting::new(100);
            setting.peer.write_all(b"unread").await.unwrap();
            setting.input().await;
            drop(std::mem::replace(&mut setting.peer, duplex(1).0));
            settle().await;
            assert!(setting.events.is_empty(), "nobody reads or writes");
            setting.push(b"x");
            setting.write();
            assert_eq!(setting.event().await, WireEvent::Gone(KEY, End::Origin));
            setting.wires.give_up(KEY, End::Origin);
            setting.ends_silently().await;
        });
    }

    #[test]
    fn a_carrier_that_is_dropped_is_gone_also_before_its_wire_is_taken_in() {
        let (sender, mut events) = mpsc::unbounded_channel();
        let (wire, carrier) = Wire::new(sender);
        let mut wires = Wires::default();
        drop(carrier);
        assert!(events.is_empty());
        wires.insert(KEY, End::Client, &wire);
        assert_eq!(events.try_recv(), Ok(WireEvent::Gone(KEY, End::Client)));
        assert!(events.is_empty());
    }

    #[test]
    fn nothing_is_read_before_the_wire_is_taken_in() {
        run(async {
            let (sender, mut events) = mpsc::unbounded_channel();
            let (wire, carrier) = Wire::new(sender);
            let (mut peer, io) = duplex(100);
            tokio::task::spawn_local(carrier.carry(io));
            peer.write_all(b"early").await.unwrap();
            settle().await;
            assert!(events.is_empty());
            let mut wires = Wires::default();
            wires.insert(KEY, End::Client, &wire);
            let early = Bytes::from_static(b"early");
            assert_eq!(
                events.recv().await,
                Some(WireEvent::Input(KEY, End::Client, early))
            );
        });
    }

    #[test]
    fn a_finished_stream_is_written_to_its_end_and_closed() {
        run(async {
            let mut setting = Setting::new(10);
            setting
                .wires
                .finish(KEY, End::Client, &mut Outbox::default());
            assert!(setting.wires.has(KEY, End::Origin), "that is another");
            let sent = numbered(5000);
            setting.push(&sent);
            setting.write();
            setting
                .wires
                .finish(KEY, End::Origin, &mut Outbox::default());
            assert!(!setting.wires.has(KEY, End::Origin));
            // What the peer still says is for nobody.
            setting.peer.write_all(b"still").await.unwrap();
            let mut received = Vec::new();
            setting.peer.read_to_end(&mut received).await.unwrap();
            assert!(received == sent);
            assert!(!setting.carried.is_finished(), "the peer has not closed");
            setting.peer.write_all(&[0; 1000]).await.unwrap();
            setting.peer.shutdown().await.unwrap();
            setting.ends_silently().await;
        });
    }

    #[test]
    fn a_finished_stream_whose_peer_does_not_read_ends_all_the_same() {
        run(async {
            let mut setting = Setting::with_patience(10, Duration::from_millis(1));
            setting.push(&[1; 100]);
            setting.write();
            setting
                .wires
                .finish(KEY, End::Origin, &mut Outbox::default());
            setting.ends_silently().await;
        });
    }

    #[test]
    fn a_stream_that_is_given_up_ends_at_once() {
        run(async {
            let mut setting = Setting::new(10);
            setting.push(&[1; 100]);
            setting.write();
            settle().await;
            setting.wires.give_up(KEY, End::Origin);
            assert!(!setting.wires.has(KEY, End::Origin));
            assert_eq!(
                setting.wires.write(KEY, End::Origin, &mut setting.outbox),
                None
            );
            let mut peer = setting.ends_silently().await;
            let mut received = Vec::new();
            peer.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, [1; 10], "what was under way");
        });
    }

    #[test]
    fn a_connection_begins_with_the_first_write_or_is_refused() {
        run(async {
            let (sender, _events) = mpsc::unbounded_channel();
            let (wire, _carrier) = Wire::new(sender.clone());
            let begun = tokio::task::spawn_local({
                let wire = Rc::clone(&wire);
                async move { wire.begun().await }
            });
            let mut wires = Wires::default();
            wires.insert(KEY, End::Client, &wire);
            settle().await;
            assert!(!begun.is_finished());
            wires.write(KEY, End::Client, &mut Outbox::default());
            assert_eq!(begun.await.unwrap(), Ok(()));

            let (wire, _carrier) = Wire::new(sender);
            wire.refuse();
            assert_eq!(wire.begun().await, Err(GivenUp));
        });
    }
}
