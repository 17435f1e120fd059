//! A scripted origin: it answers each path with exact bytes and remembers every request.
//!
//! [`Origin::serve`] gives a path its [`Answer`], a list of steps, so that an answer can stop half
//! way, wait for the test, or break off. [`Origin::until`] waits for requests instead of sleeping.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::message::{Decoder, Framing, Head, Piece};
use crate::routes::Refuser;
use crate::within;

/// A request as the origin received it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and fields.
    pub head: Head,
    /// What has arrived of the body, decoded.
    pub body: Vec<u8>,
    /// Whether the whole body has arrived.
    pub is_complete: bool,
    /// Whether the caller left before it was answered.
    pub is_abandoned: bool,
    /// Which of the origin's connections it came on, counted from zero.
    pub connection: usize,
}

impl Request {
    /// The method.
    pub fn method(&self) -> &str {
        self.head.word(0)
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        self.head.word(1)
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// The only value of this field; `None` if there is none.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }
}

/// Lets answers wait until the test opens it.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    #[expect(clippy::new_without_default, reason = "says more where it is used")]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets everybody through, also those who come later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn opened(&self) {
        let mut state = self.0.subscribe();
        // Fails only if the sender is gone, and `self` is one.
        let _ = state.wait_for(|is_open| *is_open).await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    Wait(Gate),
    Gather(Arc<Barrier>),
    ReadBody,
    Close,
}

/// What a path answers: steps that are carried out one after the other.
#[derive(Debug, Clone)]
pub struct Answer {
    steps: Vec<Step>,
}

impl Answer {
    /// Status 200, these fields (lines without their ends), and a body with its length.
    pub fn ok(fields: &[&str], body: &str) -> Self {
        Self::status("200 OK", fields, body)
    }

    /// As [`Self::ok`] with another status, such as `404 Not Found`.
    pub fn status(status: &str, fields: &[&str], body: &str) -> Self {
        let length = format!("Content-Length: {}", body.len());
        let fields = [fields, &[&length]].concat();
        Self::raw(&head(status, &fields)).then(body)
    }

    /// A head only; the body follows with [`Self::then`].
    pub fn begin(status: &str, fields: &[&str]) -> Self {
        Self::raw(&head(status, fields))
    }

    /// These bytes, sent when the request's body has been read.
    pub fn raw(bytes: &str) -> Self {
        Self::early().reading_body().then(bytes)
    }

    /// Nothing yet, and the request's body is not waited for.
    pub fn early() -> Self {
        Self { steps: Vec::new() }
    }

    /// Reads the request's body to its end.
    #[must_use]
    pub fn reading_body(self) -> Self {
        self.step(Step::ReadBody)
    }

    /// Sends these bytes.
    #[must_use]
    pub fn then(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.step(Step::Send(bytes))
    }

    /// Waits until the gate is open, or the caller leaves.
    #[must_use]
    pub fn waiting_for(self, gate: &Gate) -> Self {
        let gate = gate.clone();
        self.step(Step::Wait(gate))
    }

    /// The same answer, but nothing of it is sent before `count` requests wait for it.
    #[must_use]
    pub fn after_gathering(self, count: usize) -> Self {
        let barrier = Arc::new(Barrier::new(count));
        self.before_sending(Step::Gather(barrier))
    }

    /// The same answer, but nothing of it is sent before the gate is open.
    #[must_use]
    pub fn after(self, gate: &Gate) -> Self {
        self.before_sending(Step::Wait(gate.clone()))
    }

    /// Closes the connection.
    #[must_use]
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    fn before_sending(mut self, step: Step) -> Self {
        let is_send = |step: &Step| matches!(step, Step::Send(_));
        let index = self.steps.iter().position(is_send);
        self.steps.insert(index.unwrap_or(self.steps.len()), step);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

fn head(status: &str, fields: &[&str]) -> String {
    let status = format!("HTTP/1.1 {status}");
    let lines = [&[status.as_str()], fields, &["", ""]].concat();
    lines.join("\r\n")
}

/// Stands for all paths that have no answer of their own.
const REST: &str = "*";

type Script = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    log: watch::Sender<Vec<Request>>,
}

impl Shared {
    fn answer(&self, request: &Request) -> Answer {
        let scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        match scripts.get(request.path()).or_else(|| scripts.get(REST)) {
            Some(script) => script(request),
            None => Answer::status("404 Not Found", &[], "the origin has no such path\n"),
        }
    }
}

/// A running origin; it ends when dropped.
pub struct Origin {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    /// Keeps the port of an origin that has stopped from those who take any.
    refuser: Option<Refuser>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.addr)
    }
}

impl Origin {
    /// Listens on a free port. Paths without an answer are 404.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, with TLS.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::start_with(Some(acceptor)).await
    }

    /// Answers every request with `NAME METHOD TARGET HOST`.
    pub async fn start_echo(name: &'static str) -> Self {
        let origin = Self::start().await;
        origin.serve_with(REST, move |request| {
            let host = request.field("Host").unwrap_or("nobody");
            let (method, target) = (request.method(), request.target());
            Answer::ok(&[], &format!("{name} {method} {target} {host}\n"))
        });
        origin
    }

    async fn start_with(acceptor: Option<TlsAcceptor>) -> Self {
        // Every test has an origin, and a thousand clients in the same process.
        gripline_hub::raise_open_files();
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            log: watch::Sender::new(Vec::new()),
        });
        let server = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            server,
            refuser: None,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Answers this path so from now on, whatever the query.
    pub fn serve(&self, path: &str, answer: Answer) {
        self.serve_with(path, move |_| answer.clone());
    }

    /// Answers this path with what `script` makes of each request's head.
    pub fn serve_with(
        &self,
        path: &str,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) {
        let mut scripts = self
            .shared
            .scripts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scripts.insert(path.to_owned(), Arc::new(script));
    }

    /// The requests for this path so far, in the order of their arrival.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let log = self.shared.log.borrow();
        log.iter().filter(|r| r.path() == path).cloned().collect()
    }

    /// How many requests there were for this path.
    pub fn count(&self, path: &str) -> usize {
        let log = self.shared.log.borrow();
        log.iter().filter(|request| request.path() == path).count()
    }

    /// The only request for this path.
    #[track_caller]
    pub fn only_request(&self, path: &str) -> Request {
        let mut requests = self.requests(path);
        assert_eq!(requests.len(), 1, "requests for {path}: {requests:#?}");
        requests.remove(0)
    }

    /// Waits until the requests for this path are as `is_so` says.
    pub async fn until(&self, path: &str, is_so: impl Fn(&[&Request]) -> bool) {
        let mut log = self.shared.log.subscribe();
        let reached = log.wait_for(|log| {
            let requests: Vec<&Request> = log.iter().filter(|r| r.path() == path).collect();
            is_so(&requests)
        });
        within("requests at the origin", async {
            // The sender lives in `self`.
            drop(reached.await);
        })
        .await;
    }

    /// Waits until so many requests for this path have come.
    pub async fn until_count(&self, path: &str, count: usize) {
        self.until(path, |requests| requests.len() >= count).await;
    }

    /// Stops listening and cuts every connection; the next connection is refused.
    pub async fn stop(&mut self) {
        self.server.abort();
        // Cancelled, which is what was asked for.
        let _ = (&mut self.server).await;
        self.refuser = Refuser::at(self.addr).ok();
    }

    /// Listens again where it did, without TLS, with the same answers.
    pub async fn start_again(&mut self) {
        self.refuser = None;
        // Binds with `SO_REUSEADDR`: connections from before may linger.
        let listener = TcpListener::bind(self.addr).await;
        let listener = listener.expect("nobody has taken the port");
        self.server = tokio::spawn(accept(listener, None, Arc::clone(&self.shared)));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Owned here, so that they end together with the listener.
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // Who does not come to terms about TLS has asked nothing.
            if let Some(stream) = open(stream, acceptor).await {
                let connection = Connection {
                    stream,
                    input: Vec::new(),
                    number,
                    shared,
                };
                connection.serve().await;
            }
        });
    }
}

/// A connection, whatever it is made of.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

async fn open(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Option<Box<dyn Duplex>> {
    // Steps of an answer are to arrive when they are sent.
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => Some(Box::new(stream)),
        Some(acceptor) => Some(Box::new(acceptor.accept(stream).await.ok()?)),
    }
}

struct Connection {
    stream: Box<dyn Duplex>,
    input: Vec<u8>,
    number: usize,
    shared: Arc<Shared>,
}

impl Connection {
    /// Ends at the first thing that goes wrong: the log tells what had come by then.
    async fn serve(mut self) {
        while let Some(head) = self.read_head().await {
            let framing = Framing::of_request(&head);
            let request = Request {
                head,
                body: Vec::new(),
                is_complete: framing == Framing::Empty,
                is_abandoned: false,
                connection: self.number,
            };
            let answer = self.shared.answer(&request);
            let mut index = 0;
            self.shared.log.send_modify(|log| {
                index = log.len();
                log.push(request);
            });
            let mut body = Decoder::new(framing);
            for step in answer.steps {
                if self.carry_out(step, index, &mut body).await.is_none() {
                    return;
                }
            }
            if self.read_body(index, &mut body).await.is_none() {
                return;
            }
        }
    }

    async fn read_head(&mut self) -> Option<Head> {
        loop {
            if let Some(head) = Head::take_from(&mut self.input) {
                return Some(head);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(1..) => Some(()),
            Ok(0) | Err(_) => None,
        }
    }

    async fn carry_out(&mut self, step: Step, index: usize, body: &mut Decoder) -> Option<()> {
        match step {
            Step::Send(bytes) => {
                self.stream.write_all(&bytes).await.ok()?;
                self.stream.flush().await.ok()
            }
            Step::ReadBody => self.read_body(index, body).await,
            Step::Wait(gate) => self.wait(&gate, index).await,
            Step::Gather(barrier) => {
                barrier.wait().await;
                Some(())
            }
            Step::Close => None,
        }
    }

    async fn wait(&mut self, gate: &Gate, index: usize) -> Option<()> {
        tokio::select! {
            () = gate.opened() => return Some(()),
            // What comes is the rest of the request's body.
            read = self.stream.read_buf(&mut self.input) => if matches!(read, Ok(1..)) {
                gate.opened().await;
                return Some(());
            },
        }
        self.shared
            .log
            .send_modify(|log| log[index].is_abandoned = true);
        None
    }

    async fn read_body(&mut self, index: usize, body: &mut Decoder) -> Option<()> {
        loop {
            match body.next(&mut self.input) {
                Some(Piece::Data(data)) => self
                    .shared
                    .log
                    .send_modify(|log| log[index].body.extend_from_slice(&data)),
                Some(Piece::End) => {
                    self.shared
                        .log
                        .send_modify(|log| log[index].is_complete = true);
                    return Some(());
                }
                None => {
                    if self.read().await.is_none() {
                        self.shared
                            .log
                            .send_modify(|log| log[index].is_abandoned = true);
                        return None;
                    }
                }
            }
        }
    }
}
