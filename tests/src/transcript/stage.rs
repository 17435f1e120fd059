//! A hub and everybody around it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use gripline_hub::config::RawConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::pattern::{Match, compare_request, difference, escaped, matched};
use super::{Origin, Step};
use crate::PATIENCE;
use crate::hub::{self, Hub};
use crate::message::{Head, find};
use crate::routes::Refuser;
use crate::websocket::Frame;

/// Stands for what answers a handshake.
const ACCEPT: &str = "{accept}";
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;
/// Nobody answers what the hub says while it ends.
const DRAIN: &str = "100ms";
/// Goes through the hub after the last step, so that all that was under way has arrived.
const LAST_REQUEST: &str = "GET /after-the-last-step HTTP/1.1\r\nHost: example.com\r\n\r\n";

/// A hub and everybody around it.
pub(super) struct Stage {
    hub: Hub,
    door: Door,
    address: SocketAddr,
    /// Clients and publishers.
    peers: HashMap<String, Peer>,
    /// The origin's connections, each with the name of its last request, if that has one.
    origin: Vec<(String, Peer)>,
    /// What `{$NAME}` stands for.
    names: HashMap<String, String>,
    /// What `{accept}` stands for.
    accept: String,
    patience: Duration,
    _refuser: Refuser,
}

/// The origin's port.
enum Door {
    Open(TcpListener),
    Closed(#[expect(dead_code, reason = "keeps the port")] Refuser),
}

impl Door {
    async fn accept(&self) -> TcpStream {
        match self {
            Self::Open(listener) => listener.accept().await.expect("it accepts").0,
            Self::Closed(_) => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    is_closed: bool,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            is_closed: false,
        }
    }

    async fn read(&mut self) {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) | Err(_) => self.is_closed = true,
            Ok(_) => {}
        }
    }

    fn read_what_is_there(&mut self) {
        loop {
            match self.stream.try_read_buf(&mut self.input) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
    }

    /// Fails if there is anything that no step has received.
    fn nothing_is_left(&mut self, name: &str) -> Result<(), String> {
        self.read_what_is_there();
        if self.input.is_empty() {
            return Ok(());
        }
        Err(format!("{name} has also received {}", escaped(&self.input)))
    }
}

impl Stage {
    pub(super) async fn new(settings: &str) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let refuser = Refuser::new();
        let settings = settings
            .replace("{origin}", &address.to_string())
            .replace("{refused}", &refuser.addr().to_string());
        let config = config(&settings, address)?;
        // A mistake in the settings is a panic otherwise.
        let checked = config.check(Path::new(""));
        checked.map_err(|mistakes| mistakes.to_string())?;
        Ok(Self {
            hub: Hub::start_with(&config),
            door: Door::Open(listener),
            address,
            peers: HashMap::new(),
            origin: Vec::new(),
            names: HashMap::new(),
            accept: String::new(),
            patience: PATIENCE,
            _refuser: refuser,
        })
    }

    pub(super) async fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(name, bytes) => {
                let bytes = replaced(bytes, ACCEPT, &self.accept);
                let patience = self.patience;
                let peer = self.peer(name).await?;
                let sent = timeout(patience, peer.stream.write_all(&bytes)).await;
                let sent = sent.map_err(|_| format!("{name} cannot send"))?;
                sent.map_err(|error| error.to_string())
            }
            Step::Receive(name, expected) if name.starts_with('O') => {
                let request = timeout(self.patience, self.next_request(name)).await;
                let request = request.map_err(|_| self.no_request(expected))?;
                self.accept = accept(&request).unwrap_or_default();
                compare_request(expected, &request, &mut self.names)
            }
            Step::Receive(name, expected) => {
                let patience = self.patience;
                receive(self.peer(name).await?, expected, patience).await
            }
            Step::ReceiveFrame(name, expected) => {
                let patience = self.patience;
                receive_frame(self.peer(name).await?, expected, patience).await
            }
            Step::Close(name) => {
                self.peer(name).await?.nothing_is_left(name)?;
                self.peers.remove(name);
                self.origin.retain(|(found, _)| found != name);
                Ok(())
            }
            Step::Closed(name) => self.closed(name).await,
            Step::Publish(item) => self.publish(item).await,
            Step::Metric(name, value) => {
                self.hub.until_metric(name, *value).await;
                Ok(())
            }
            Step::Subscribers(channel, count) => {
                let reached = async { while self.hub.subscribers(channel).await != *count {} };
                let reached = timeout(self.patience, reached).await;
                reached.map_err(|_| format!("{channel} does not get {count} subscribers"))
            }
            Step::Origin(Origin::Stops) => {
                // Only one of the two may have the port.
                self.door = Door::Closed(Refuser::new());
                let refuser = Refuser::at(self.address).map_err(|error| error.to_string())?;
                self.door = Door::Closed(refuser);
                Ok(())
            }
            Step::Origin(Origin::Starts) => self.start_origin().map_err(|error| error.to_string()),
            Step::Patience(patience) => {
                self.patience = *patience;
                Ok(())
            }
        }
    }

    fn start_origin(&mut self) -> std::io::Result<()> {
        self.door = Door::Closed(Refuser::new());
        let socket = TcpSocket::new_v4()?;
        // Connections from before may linger.
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        self.door = Door::Open(socket.listen(BACKLOG)?);
        Ok(())
    }

    /// A peer; who is not there yet connects.
    async fn peer(&mut self, name: &str) -> Result<&mut Peer, String> {
        if name.starts_with('O') {
            let mut origin = self.origin.iter_mut();
            let found = origin.find(|(found, _)| found == name);
            let found = found.map(|(_, peer)| peer);
            return found.ok_or_else(|| format!("{name} has received nothing"));
        }
        if !self.peers.contains_key(name) {
            let is_client = name.starts_with('C');
            let address = if is_client {
                self.hub.addr()
            } else {
                self.hub.control()
            };
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| error.to_string())?;
            self.peers.insert(name.to_owned(), Peer::new(stream));
        }
        Ok(self.peers.get_mut(name).expect("inserted above"))
    }

    /// The next request on any of the origin's connections, which is `name` from now on.
    async fn next_request(&mut self, name: &str) -> Vec<u8> {
        loop {
            let complete = self
                .origin
                .iter()
                .position(|(_, peer)| request_end(&peer.input).is_some());
            if let Some(index) = complete {
                let (_, mut peer) = self.origin.swap_remove(index);
                let end = request_end(&peer.input).expect("found above");
                let request = peer.input.drain(..end).collect();
                for (other, _) in &mut self.origin {
                    if other == name {
                        other.clear();
                    }
                }
                self.origin.push((name.to_owned(), peer));
                return request;
            }
            let event = tokio::select! {
                stream = self.door.accept() => Event::Accepted(stream),
                index = any_readable(&self.origin) => Event::Readable(index),
            };
            match event {
                Event::Accepted(stream) => self.origin.push((String::new(), Peer::new(stream))),
                Event::Readable(index) => self.origin[index].1.read_what_is_there(),
            }
        }
    }

    /// Waited for a request in vain.
    fn no_request(&self, expected: &str) -> String {
        let parts: Vec<_> = self
            .origin
            .iter()
            .map(|(_, peer)| &peer.input[..])
            .collect();
        difference(expected, &parts.concat())
    }

    async fn closed(&mut self, name: &str) -> Result<(), String> {
        let patience = self.patience;
        let peer = self.peer(name).await?;
        let end = async {
            while !peer.is_closed {
                peer.read().await;
            }
        };
        let ended = timeout(patience, end).await;
        peer.nothing_is_left(name)?;
        ended.map_err(|_| format!("the connection of {name} does not end"))
    }

    async fn publish(&self, item: &Value) -> Result<(), String> {
        let body = json!({"items": [item]}).to_string();
        let response = self.hub.try_publish(&body).await;
        if response.status() == 200 {
            return Ok(());
        }
        Err(response.text())
    }

    /// Fails if anybody has received more than the steps say.
    pub(super) async fn nothing_is_left(&mut self) -> Result<(), String> {
        let addr = self.hub.addr();
        let answered = async {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(LAST_REQUEST.as_bytes()).await?;
            stream.read_u8().await
        };
        // Either is proof that the hub has done all that came before.
        let request = tokio::select! {
            request = timeout(PATIENCE, self.next_request("O")) => request.ok(),
            _ = answered => None,
        };
        let first_line = LAST_REQUEST.lines().next().unwrap_or_default();
        if let Some(request) = request
            && !request.starts_with(first_line.as_bytes())
        {
            return Err(format!("the origin has received {}", escaped(&request)));
        }
        for (name, peer) in &mut self.peers {
            peer.nothing_is_left(name)?;
        }
        for (name, peer) in &mut self.origin {
            let name = if name.is_empty() { "the origin" } else { name };
            peer.nothing_is_left(name)?;
        }
        Ok(())
    }

    /// Ends the hub, which has a last word for the origin of each WebSocket. The port is the
    /// origin's until then: nobody else must hear it.
    pub(super) async fn end(mut self) {
        self.peers.clear();
        self.origin.clear();
        self.hub.shut_down();
        self.hub.ended().await;
    }
}

/// The settings of a transcript, and what it leaves to the stage.
fn config(settings: &str, origin: SocketAddr) -> Result<RawConfig, String> {
    let mut config = RawConfig::from_toml(settings).map_err(|error| error.to_string())?;
    let own = hub::config(&format!("http://{origin}"));
    if config.listen.is_some() || config.control.is_some() {
        return Err("the hub listens where the stage wants it to".to_owned());
    }
    config.listen = own.listen;
    config.control = own.control;
    if config.routes.is_empty() && config.routes_file.is_none() {
        config.origin = config.origin.or(own.origin);
    }
    config.shards = config.shards.or(Some(1));
    config.drain = config.drain.or_else(|| Some(DRAIN.to_owned()));
    config.grip.sig_key = config.grip.sig_key.or(own.grip.sig_key);
    config.grip.sig_iss = config.grip.sig_iss.or(own.grip.sig_iss);
    Ok(config)
}

/// What answers the key in a handshake; RFC 6455 §4.2.2.
fn accept(request: &[u8]) -> Option<String> {
    let head = Head::take_from(&mut request.to_vec())?;
    let key = head.field("Sec-WebSocket-Key")?;
    Some(derive_accept_key(key.as_bytes()))
}

/// With the first of this name replaced.
fn replaced<'a>(bytes: &'a [u8], name: &str, value: &str) -> Cow<'a, [u8]> {
    match find(bytes, name.as_bytes()) {
        Some(begin) => {
            let (before, rest) = bytes.split_at(begin);
            let parts = [before, value.as_bytes(), &rest[name.len()..]];
            Cow::Owned(parts.concat())
        }
        None => Cow::Borrowed(bytes),
    }
}

/// What can happen at the origin.
enum Event {
    Accepted(TcpStream),
    Readable(usize),
}

async fn any_readable(peers: &[(String, Peer)]) -> usize {
    std::future::poll_fn(|context| {
        for (index, (_, peer)) in peers.iter().enumerate() {
            if !peer.is_closed && peer.stream.poll_read_ready(context).is_ready() {
                return Poll::Ready(index);
            }
        }
        Poll::Pending
    })
    .await
}

/// Where the first request in `input` ends, if all of it is there.
fn request_end(input: &[u8]) -> Option<usize> {
    let head = find(input, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..head]).to_ascii_lowercase();
    if text.contains("\r\ntransfer-encoding: chunked\r\n") {
        return Some(head + find(&input[head..], b"0\r\n\r\n")? + 5);
    }
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse().expect("a length"));
    (input.len() >= head + length).then_some(head + length)
}

/// Reads as much as is expected, and compares.
async fn receive(peer: &mut Peer, expected: &str, patience: Duration) -> Result<(), String> {
    let reading = async {
        loop {
            match matched(expected, &peer.input) {
                Match::Whole(length) => {
                    peer.input.drain(..length);
                    return true;
                }
                Match::Part if !peer.is_closed => peer.read().await,
                Match::Part | Match::None => return false,
            }
        }
    };
    let is_matched = timeout(patience, reading).await;
    if is_matched == Ok(true) {
        return Ok(());
    }
    Err(difference(expected, &peer.input))
}

/// Reads a frame, and compares. Whether it is masked matters, but not with what.
async fn receive_frame(
    peer: &mut Peer,
    expected: &Frame,
    patience: Duration,
) -> Result<(), String> {
    let reading = async {
        loop {
            if let Some(frame) = Frame::take_from(&mut peer.input) {
                return Some(frame);
            }
            if peer.is_closed {
                return None;
            }
            peer.read().await;
        }
    };
    let Ok(Some(frame)) = timeout(patience, reading).await else {
        return Err(difference(&format!("{expected:?}"), &peer.input));
    };
    if frame.mask.is_some() != expected.mask.is_some() {
        return Err(format!("whether this is masked: {frame:?}"));
    }
    if frame.clone().unmasked() == expected.clone().unmasked() {
        return Ok(());
    }
    Err(format!("expected {expected:?}, received {frame:?}"))
}
