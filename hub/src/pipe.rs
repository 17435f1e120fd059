//! HTTP/2 streams: what the engine writes for them, on its way to hyper.
//!
//! hyper owns the connection, so a held stream gets its content through a [`Pipe`], and a held
//! request its answer through a [`Wait`]. Both tell the shard when the client is gone.
//!
//! While a client's window is shut, hyper does not look at the body, and does not notice that the
//! hub has given it up; so hyper's tasks are [`watched`]. The same goes for streams that are carried
//! as a wire, which hyper writes in a task of their own.

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use grip::hold::Answer;
use http_body::Frame;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::client_io::Gate;
use crate::engine::Outbox;
use crate::errand::Again;
use crate::lease::Lease;
use crate::mailbox::ConnectionKey;
use crate::outflow::{Ending, GivenUp, Outflow};

/// How long a client may take to read the end of what it is sent.
const PATIENCE: Duration = Duration::from_mins(1);

tokio::task_local! {
    /// What this task of hyper's is for.
    static STREAM: Stream;
}

#[derive(Default)]
struct Stream {
    /// What is written, if that is a pipe.
    pipe: OnceCell<Rc<Pipe>>,
    /// For the task that goes on with the stream, if it is carried.
    carried: Cell<Option<Carried>>,
}

/// Ends when the [`Carrying`] is dropped.
type Carried = oneshot::Receiver<Infallible>;

/// Kept by who carries the bytes of a stream. Dropped before all of them are written, the stream is
/// reset.
pub(crate) type Carrying = oneshot::Sender<Infallible>;

/// What the tasks of one HTTP/2 connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    gate: Rc<Gate>,
    stuck: Notify,
}

impl Connection {
    /// One whose socket is written through this gate.
    pub(crate) fn new(gate: Rc<Gate>) -> Self {
        Self {
            gate,
            stuck: Notify::new(),
        }
    }

    /// Waits until the connection takes no more, not even the end of a stream.
    ///
    /// Cancel safe.
    pub(crate) async fn stuck(&self) {
        self.stuck.notified().await;
    }

    /// Waits until nothing was taken for a minute.
    async fn stands_still(&self) {
        let mut taken = None;
        while taken != Some(self.gate.taken()) {
            taken = Some(self.gate.taken());
            tokio::time::sleep(PATIENCE).await;
        }
    }
}

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
    /// Shared with each piece that the client has no room for.
    under_way: Arc<AtomicWaker>,
}

type PipeLease = Lease<ConnectionKey, PipeEvent>;

/// hyper's end of a pipe.
#[derive(Debug)]
pub(crate) struct HeldBody(Rc<Pipe>);

/// What hyper has of a pipe until it is written.
struct Piece {
    bytes: Bytes,
    under_way: Arc<AtomicWaker>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Same thread: the task runs when the piece is gone.
        self.under_way.wake();
    }
}

/// Runs a task of hyper's. If that is for a pipe, it ends when the pipe is given up, or when its
/// client has not read its end in a minute; that resets the stream. If hyper has something of the
/// pipe even then, and nothing can be written for a minute, the connection is stuck.
///
/// A task that goes on with a carried stream ends when nobody carries it any more.
pub(crate) fn watched(
    task: impl Future<Output = ()>,
    connection: Rc<Connection>,
) -> impl Future<Output = ()> {
    // Begun by the task that the stream has had so far.
    let carried = STREAM.try_with(|stream| stream.carried.take());
    let carried = carried.ok().flatten();
    // Boxed, because it would be there twice.
    let mut task = Box::pin(task);
    STREAM.scope(Stream::default(), async move {
        let pipe = tokio::select! {
            // The task first, because it may only have to be told of the end.
            biased;
            () = task.as_mut() => STREAM.with(|stream| stream.pipe.get().cloned()),
            pipe = overdue() => Some(pipe),
            () = left(carried) => None,
        };
        drop(task);
        let Some(pipe) = pipe.filter(|pipe| !pipe.is_written()) else {
            return;
        };
        let written = poll_fn(|context| pipe.poll_written(context));
        tokio::select! {
            () = written => {}
            () = Box::pin(connection.stands_still()) => connection.stuck.notify_one(),
        }
    })
}

/// Has the running task's stream carried: it is reset if what this returns is dropped too early.
/// To be called before hyper goes on with the stream.
pub(crate) fn carry() -> Carrying {
    let (carrying, carried) = oneshot::channel();
    // Fails in a task that is not watched.
    let _ = STREAM.try_with(|stream| stream.carried.set(Some(carried)));
    carrying
}

/// Waits until nobody carries the stream; for ever if nobody was to.
async fn left(carried: Option<Carried>) {
    match carried {
        Some(carried) => drop(carried.await),
        None => std::future::pending().await,
    }
}

/// Waits until the running task's pipe has nothing more to wait for. Not to be waited for before
/// the task has run.
async fn overdue() -> Rc<Pipe> {
    let ended = poll_fn(|context| {
        STREAM.with(|stream| {
            let pipe = stream.pipe.get();
            pipe.map_or(Poll::Pending, |pipe| pipe.poll_ended(context))
        })
    });
    let pipe = ended.await;
    if pipe.outflow.ending() == Ending::Complete {
        Box::pin(tokio::time::sleep(PATIENCE)).await;
    }
    pipe
}

impl Pipe {
    pub(crate) fn new(events: mpsc::UnboundedSender<PipeEvent>) -> (Rc<Self>, HeldBody) {
        let pipe = Rc::new(Self {
            outflow: Outflow::new(),
            lease: Lease::new(events, PipeEvent::Gone),
            under_way: Arc::default(),
        });
        (Rc::clone(&pipe), HeldBody(pipe))
    }

    /// A piece that is under way until hyper has written it.
    fn send(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Piece {
            bytes,
            under_way: Arc::clone(&self.under_way),
        })
    }

    /// Whether hyper has nothing of it any more.
    fn is_written(&self) -> bool {
        Arc::strong_count(&self.under_way) == 1
    }

    fn poll_written(&self, context: &Context<'_>) -> Poll<()> {
        self.under_way.register(context.waker());
        if self.is_written() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn poll_ended(self: &Rc<Self>, context: &Context<'_>) -> Poll<Rc<Self>> {
        if self.outflow.ending() != Ending::NotYet {
            return Poll::Ready(Rc::clone(self));
        }
        self.outflow.wait(context);
        Poll::Pending
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
        // Fails in a task that is not watched.
        let _ = STREAM.try_with(|stream| {
            stream.pipe.get_or_init(|| Rc::clone(&self.0));
        });
        let Pipe { outflow, lease, .. } = &*self.0;
        if let Some(piece) = outflow.pop() {
            if outflow.has_room_again() {
                lease.tell(PipeEvent::Writable);
            }
            return Poll::Ready(Some(Ok(Frame::data(self.0.send(piece)))));
        }
        match outflow.ending() {
            // hyper forgets a stream that is complete, and then nothing ends it.
            Ending::Complete => self.0.poll_written(context).map(|()| None),
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::{Pin, pin};

    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::Incoming;
    use hyper::rt::Executor;
    use hyper::service::service_fn;
    use hyper::{Request, Response, client, server};
    use hyper_util::rt::TokioIo;
    use tokio::io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
        duplex, split,
    };
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::proxy::ResponseBody;

    const KEY: ConnectionKey = ConnectionKey {
        index: 3,
        generation: 7,
    };
    /// Less than what is written.
    const WINDOW: u32 = 1000;

    /// A server's end that says what is taken.
    struct Gated(DuplexStream, Rc<Gate>);

    impl AsyncRead for Gated {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Gated {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.0).poll_write(context, bytes);
            self.1.wrote(&written);
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// Gives the client a few bytes every second.
    async fn relay_slowly(server: DuplexStream, client: DuplexStream) {
        let (mut from_server, mut to_server) = split(server);
        let (mut from_client, mut to_client) = split(client);
        spawn_local(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut buffer = [0; 100];
        loop {
            let count = from_server.read(&mut buffer).await.unwrap();
            to_client.write_all(&buffer[..count]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    #[derive(Debug, Clone)]
    struct Watching(Rc<Connection>);

    impl<F: Future<Output = ()> + 'static> Executor<F> for Watching {
        fn execute(&self, task: F) {
            spawn_local(watched(task, Rc::clone(&self.0)));
        }
    }

    /// Runs the client's tasks until it falls asleep.
    #[derive(Debug, Clone)]
    struct Sleeper(Rc<Notify>);

    impl<F: Future<Output = ()> + 'static> Executor<F> for Sleeper {
        fn execute(&self, task: F) {
            let asleep = Rc::clone(&self.0);
            spawn_local(async move {
                let mut task = pin!(task);
                tokio::select! {
                    () = task.as_mut() => {}
                    () = asleep.notified() => std::future::pending().await,
                }
            });
        }
    }

    /// A shard with one stream, and the client at the other end.
    struct Setting {
        pipes: Pipes,
        pipe: std::rc::Weak<Pipe>,
        body: Incoming,
        connection: Rc<Connection>,
        /// Has the client neither read nor write any more.
        sleep: Rc<Notify>,
        _requests: client::conn::http2::SendRequest<Empty<Bytes>>,
    }

    impl Setting {
        /// `room` bytes fit between server and client, and `window` may be under way to it.
        async fn new(room: usize, window: u32) -> Self {
            let (near, far) = duplex(room);
            Self::over(near, far, window).await
        }

        /// The same, `far` being the client's end.
        async fn over(near: DuplexStream, far: DuplexStream, window: u32) -> Self {
            let gate = Rc::new(Gate::open());
            let shared = Rc::new(Connection::new(Rc::clone(&gate)));
            let (events, _) = mpsc::unbounded_channel();
            let (opened, pipe) = oneshot::channel();
            let opened = Cell::new(Some(opened));
            let service = service_fn(move |_: Request<Incoming>| {
                let (pipe, body) = Pipe::new(events.clone());
                let opened = opened.take().expect("one request");
                opened.send(pipe).expect("the test waits");
                async { Ok::<_, Infallible>(Response::new(ResponseBody::Held(body))) }
            });
            let builder = server::conn::http2::Builder::new(Watching(Rc::clone(&shared)));
            let near = TokioIo::new(Gated(near, gate));
            spawn_local(builder.serve_connection(near, service));
            let sleep = Rc::new(Notify::new());
            let sleeper = Sleeper(Rc::clone(&sleep));
            let (mut requests, connection) = client::conn::http2::Builder::new(sleeper)
                .initial_stream_window_size(window)
                .handshake(TokioIo::new(far))
                .await
                .unwrap();
            spawn_local(connection);
            let request = Request::get("http://a/").body(Empty::new()).unwrap();
            let response = requests.send_request(request).await.unwrap();
            let pipe = pipe.await.unwrap();
            let mut pipes = Pipes::default();
            pipes.insert_stream(KEY, &pipe);
            Self {
                pipes,
                pipe: Rc::downgrade(&pipe),
                body: response.into_body(),
                connection: shared,
                sleep,
                _requests: requests,
            }
        }

        fn write(&mut self, bytes: usize) {
            let mut outbox = Outbox::default();
            outbox.push(vec![b'x'; bytes].into());
            assert_eq!(self.pipes.write(KEY, &mut outbox), Some(bytes));
        }

        fn is_there(&self) -> bool {
            self.pipe.strong_count() > 0
        }

        /// What the client reads, and whether that is all.
        async fn read(&mut self) -> (usize, bool) {
            let mut bytes = 0;
            while let Some(frame) = self.body.frame().await {
                match frame {
                    Ok(frame) => bytes += frame.into_data().unwrap().len(),
                    Err(_) => return (bytes, false),
                }
            }
            (bytes, true)
        }
    }

    /// Lets all tasks do what they can.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_stream_that_is_given_up_is_reset_though_its_client_reads_nothing() {
        run(async {
            let mut setting = Setting::new(100_000, WINDOW).await;
            setting.write(3000);
            setting.write(3000);
            settle().await;
            let begin = Instant::now();
            setting.pipes.give_up(KEY);
            settle().await;
            assert!(!setting.is_there());
            assert_eq!(setting.read().await, (WINDOW as usize, false));
            assert_eq!(begin.elapsed(), Duration::ZERO);
        });
    }

    #[test]
    fn the_end_of_a_stream_waits_a_minute_for_its_client() {
        // The first time nothing is left in the pipe, but the client has no room for all of it.
        for pieces in [vec![3000], vec![3000, 3000]] {
            run(async {
                let mut setting = Setting::new(100_000, WINDOW).await;
                for bytes in &pieces {
                    setting.write(*bytes);
                }
                settle().await;
                setting.pipes.finish(KEY);
                tokio::time::sleep(PATIENCE / 60 * 59).await;
                assert!(setting.is_there());
                tokio::time::sleep(PATIENCE / 30).await;
                assert!(!setting.is_there());
                assert_eq!(setting.read().await, (WINDOW as usize, false));
            });
            run(async {
                let mut setting = Setting::new(100_000, WINDOW).await;
                for bytes in &pieces {
                    setting.write(*bytes);
                }
                setting.pipes.finish(KEY);
                tokio::time::sleep(PATIENCE / 60 * 59).await;
                assert_eq!(setting.read().await, (pieces.iter().sum(), true));
                settle().await;
                assert!(!setting.is_there());
            });
        }
    }

    #[test]
    fn a_connection_is_stuck_if_a_reset_cannot_be_written_in_a_minute() {
        run(async {
            let mut setting = Setting::new(500, 100_000).await;
            setting.sleep.notify_waiters();
            settle().await;
            setting.write(50_000);
            settle().await;
            setting.pipes.give_up(KEY);
            let begin = Instant::now();
            timeout(2 * PATIENCE, setting.connection.stuck())
                .await
                .unwrap();
            assert_eq!(begin.elapsed(), PATIENCE);
        });
    }

    #[test]
    fn a_connection_that_moves_slowly_is_not_stuck() {
        run(async {
            let (near, middle) = duplex(500);
            let (other_middle, far) = duplex(500);
            spawn_local(relay_slowly(middle, other_middle));
            let mut setting = Setting::over(near, far, 100_000).await;
            setting.write(50_000);
            settle().await;
            setting.pipes.give_up(KEY);
            let begin = Instant::now();
            let connection = Rc::clone(&setting.connection);
            tokio::select! {
                (_, is_complete) = setting.read() => assert!(!is_complete),
                () = connection.stuck() => panic!("stuck after {:?}", begin.elapsed()),
            }
            assert!(begin.elapsed() > 2 * PATIENCE);
        });
    }
}
