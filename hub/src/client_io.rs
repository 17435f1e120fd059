//! The socket under hyper, and what has to be known about its writes.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// How long, and for how many bytes, a peer may go on sending to nobody before it is cut off.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Knows whether hyper is answering a request and whether its answer is written.
///
/// hyper answers a bad request head by itself, with an empty body. That is the only time it writes
/// while no request is being answered; so such bytes are swallowed here, and the hub says what is
/// wrong instead.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_answering: Cell<bool>,
    /// hyper has dropped the response's body, so it has buffered all of it.
    is_buffered: Cell<bool>,
    is_dirty: Cell<bool>,
    has_refused: Cell<bool>,
    /// Bytes that the socket has taken.
    taken: Cell<u64>,
}

impl Gate {
    /// A gate that lets everything through; for HTTP/2, where hyper's refusals say what is wrong.
    pub(crate) fn open() -> Self {
        let gate = Self::default();
        gate.is_answering.set(true);
        gate
    }

    /// A request came; lasts until its answer is written.
    pub(crate) fn begin(self: &Rc<Self>) -> Answering {
        self.is_answering.set(true);
        self.is_buffered.set(false);
        Answering(Rc::clone(self))
    }

    /// Whether everything that hyper had to write is written.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.is_dirty.get()
    }

    /// Whether hyper tried to refuse a request by itself.
    pub(crate) fn has_refused(&self) -> bool {
        self.has_refused.get()
    }

    /// Bytes that the socket has taken so far: while there are more and more, the client reads.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// The socket took these bytes, if any.
    pub(crate) fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.taken.set(self.taken.get() + *count as u64);
        }
    }

    fn admits_write(&self) -> bool {
        let admits = self.is_answering.get() || self.is_dirty.get();
        if !admits {
            self.has_refused.set(true);
        }
        admits
    }

    fn flushed(&self) {
        self.is_dirty.set(false);
        if self.is_buffered.replace(false) {
            self.is_answering.set(false);
        }
    }
}

/// A request is being answered.
#[derive(Debug)]
pub(crate) struct Answering(Rc<Gate>);

impl Answering {
    pub(crate) fn with<B>(self, body: B) -> Gated<B> {
        Gated {
            body,
            _answering: self,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.is_buffered.set(true);
    }
}

/// A response body that tells the gate when hyper is done with it.
#[derive(Debug)]
pub(crate) struct Gated<B> {
    body: B,
    _answering: Answering,
}

impl<B: Body + Unpin> Body for Gated<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's socket, with bytes that were read from it before.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: TcpStream,
    input: Bytes,
    gate: Rc<Gate>,
}

impl ClientIo {
    pub(crate) fn new(stream: TcpStream, input: Bytes, gate: Rc<Gate>) -> Self {
        Self {
            stream,
            input,
            gate,
        }
    }

    /// The socket, and what hyper has not read of the earlier input.
    pub(crate) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.input)
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.input.len().min(buffer.remaining());
        buffer.put_slice(&self.input[..count]);
        self.input.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.gate.admits_write() {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.gate.is_dirty.set(true);
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.gate.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.gate.admits_write() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.gate.is_dirty.set(true);
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.gate.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.gate.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Refuses a request head that hyper could not read; hyper's own answer says nothing.
pub(crate) async fn refuse(stream: TcpStream, text: &str) {
    let response = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    write_and_close(stream, response.as_bytes()).await;
}

/// What a client that has just connected has sent of its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing.
    Nothing,
    /// Part of it, or what may be.
    Part,
    /// All of it.
    All,
}

impl Asked {
    /// Reads what is there. Asks the kernel, as the runtime does not know yet.
    pub(crate) fn read(stream: &TcpStream) -> Self {
        let mut request = [0; 4096];
        let count = (&*SockRef::from(stream)).read(&mut request);
        let request = count.ok().and_then(|count| request.get(..count));
        match request {
            None | Some([]) => Self::Nothing,
            Some(head) if head.starts_with(b"GET ") && head.ends_with(b"\r\n\r\n") => Self::All,
            Some(_) => Self::Part,
        }
    }
}

/// Ends a connection with this answer, and waits for nothing. Unless the whole request was read, the
/// answer may be lost: see [`write_and_close`].
pub(crate) fn turn_away_at_once(stream: &TcpStream, answer: &str) {
    let socket = SockRef::from(stream);
    // A client that is gone needs no answer; and for one that is not, there is room.
    let _ = (&*socket).write_all(answer.as_bytes());
    let _ = socket.shutdown(Shutdown::Write);
}

/// Answers the request that is coming with this, and ends the connection.
///
/// The request's first bytes are waited for, if not for long: clients don't expect an answer before
/// they have asked, and some would take it for a mistake.
pub(crate) async fn turn_away(stream: TcpStream, asked: Asked, answer: String) {
    if asked == Asked::Nothing {
        // Whether it asks, is silent or is gone shows when the answer is written.
        let _ = tokio::time::timeout(LINGER, stream.peek(&mut [0])).await;
    }
    write_and_close(stream, answer.as_bytes()).await;
}

/// Writes a last answer, then reads on for a while: input that nobody read would make the kernel
/// reset the connection, and the answer would be lost.
pub(crate) async fn write_and_close(mut stream: TcpStream, answer: &[u8]) {
    let linger = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        discard(&mut stream).await
    };
    // However it ends, the client had its chance.
    let _ = tokio::time::timeout(LINGER, linger).await;
}

/// Reads what nobody wants to know, up to its end or to what a peer may send to nobody.
pub(crate) async fn discard(io: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match io.read(&mut buffer).await? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// What of a request is there if a client has sent this much.
    async fn asked(sent: &[u8]) -> Asked {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sent).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        if !sent.is_empty() {
            stream.peek(&mut [0]).await.unwrap();
        }
        Asked::read(&stream)
    }

    #[tokio::test]
    async fn a_whole_request_is_told_from_what_may_go_on() {
        let cases = [
            ("", Asked::Nothing),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Asked::All),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Asked::Part),
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n", Asked::Part),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Asked::Part),
        ];
        for (sent, expected) in cases {
            assert_eq!(asked(sent.as_bytes()).await, expected, "{sent:?}");
        }
    }
}
