//! Dialogues as data: who sends what, byte for byte.
//!
//! A transcript is a text file of steps, played against a hub of its own by [`play`]:
//!
//! ```text
//! # What the dialogue shows.
//! hub: debug = true              a line of hub.toml, before all other steps
//! C> GET /poll HTTP/1.1          client C sends this line and CR LF
//! C>> body\n                     client C sends exactly these bytes
//! O< GET /poll HTTP/1.1          the origin receives this line and CR LF
//! O<< body\n                     the origin receives exactly these bytes
//! O> HTTP/1.1 200 OK             the origin sends, on the connection that it received from last
//! C< HTTP/1.1 200 OK             client C receives
//! K> POST /publish/ HTTP/1.1     a publisher sends to the control port
//! C| or O|                       closes the connection
//! C. or O.                       receives the end of the connection
//! publish {"channel":"c", ...}   publishes one item, and reads that it was
//! metric gripline_gaps_total 1   waits until the metric has this value
//! ```
//!
//! Names of clients begin with C, of publishers with K, of origin's connections with O; each is
//! connected when it first sends. `{*}` stands for anything up to the line's end. `\n`, `\r`, `\t`,
//! `\\` and `\xHH` are bytes. Fields of a request to the origin are compared in any order, because
//! their order means nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use gripline_hub::config::RawConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::hub::{self, Hub};
use crate::message::find;
use crate::within;

/// Stands for anything up to the end of a line.
const ANYTHING: &str = "{*}";

/// One step of a dialogue.
#[derive(Debug)]
enum Step {
    Send(String, Vec<u8>),
    Receive(String, String),
    Close(String),
    Closed(String),
    Publish(Value),
    Metric(String, u64),
}

/// A dialogue.
#[derive(Debug)]
struct Transcript {
    hub: String,
    steps: Vec<(usize, Step)>,
}

/// Plays one transcript; says what went wrong, with the file and the line.
pub async fn play(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let transcript = Transcript::parse(&text)?;
    let mut stage = Stage::new(&transcript.hub).await?;
    for (line, step) in &transcript.steps {
        stage
            .play(step)
            .await
            .map_err(|problem| format!("{}:{line}: {problem}", path.display()))?;
    }
    Ok(())
}

impl Transcript {
    fn parse(text: &str) -> Result<Self, String> {
        let mut transcript = Self {
            hub: String::new(),
            steps: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(setting) = line.strip_prefix("hub: ") {
                transcript.hub.extend([setting, "\n"]);
                continue;
            }
            let step = Step::parse(line).ok_or_else(|| format!("line {number} is no step"))?;
            transcript.push(number, step);
        }
        Ok(transcript)
    }

    /// Joins what one peer sends or receives without a break.
    fn push(&mut self, line: usize, step: Step) {
        match (self.steps.last_mut(), step) {
            (Some((_, Step::Send(last, bytes))), Step::Send(peer, more)) if *last == peer => {
                bytes.extend(more);
            }
            (Some((_, Step::Receive(last, text))), Step::Receive(peer, more)) if *last == peer => {
                text.push_str(&more);
            }
            (_, step) => self.steps.push((line, step)),
        }
    }
}

impl Step {
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "publish" {
            return Some(Self::Publish(serde_json::from_str(rest).ok()?));
        }
        if word == "metric" {
            let (name, value) = rest.split_once(' ')?;
            return Some(Self::Metric(name.to_owned(), value.parse().ok()?));
        }
        let peer_end = word.find(['>', '<', '|', '.'])?;
        let (peer, sign) = word.split_at(peer_end);
        let peer = peer.to_owned();
        Some(match sign {
            ">" => Self::Send(peer, unescaped(&format!("{rest}\\r\\n"))?),
            ">>" => Self::Send(peer, unescaped(rest)?),
            "<" => Self::Receive(peer, format!("{rest}\\r\\n")),
            "<<" => Self::Receive(peer, rest.to_owned()),
            "|" => Self::Close(peer),
            "." => Self::Closed(peer),
            _ => return None,
        })
    }
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            bytes.extend(character.to_string().into_bytes());
            continue;
        }
        bytes.push(match characters.next()? {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            '\\' => b'\\',
            'x' => {
                let digits: String = characters.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// A hub and everybody around it.
struct Stage {
    hub: Hub,
    listener: TcpListener,
    peers: HashMap<String, Peer>,
    /// The origin's connections that no step has named yet or that wait for their next request.
    origin: Vec<Peer>,
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
}

impl Stage {
    async fn new(settings: &str) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let settings = settings.replace("{origin}", &address.to_string());
        let changes = RawConfig::from_toml(&settings).map_err(|error| error.to_string())?;
        let origin = format!("http://{address}");
        let mut config = hub::config(&origin);
        config.shards = Some(1);
        config.debug = changes.debug;
        config.auto_cross_origin = changes.auto_cross_origin;
        config.accept_pushpin_route = changes.accept_pushpin_route;
        config.cdn_loop = changes.cdn_loop;
        config.forwarded = changes.forwarded;
        config.grip.upstream_key = changes.grip.upstream_key;
        config.grip.update_on_first_subscription = changes.grip.update_on_first_subscription;
        config.limits = changes.limits;
        if !changes.routes.is_empty() {
            config.origin = None;
            config.routes = changes.routes;
        }
        Ok(Self {
            hub: Hub::start_with(&config),
            listener,
            peers: HashMap::new(),
            origin: Vec::new(),
        })
    }

    async fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(peer, bytes) => {
                let peer = self.peer(peer).await?;
                let sent = peer.stream.write_all(bytes).await;
                sent.map_err(|error| error.to_string())
            }
            Step::Receive(peer, expected) if peer.starts_with('O') => {
                let request = within("a request at the origin", self.next_request(peer)).await;
                compare(expected, &request, Order::Any)
            }
            Step::Receive(peer, expected) => {
                let peer = self.peer(peer).await?;
                receive(peer, expected).await
            }
            Step::Close(peer) => {
                self.peers.remove(peer);
                Ok(())
            }
            Step::Closed(peer) => {
                let peer = self.peer(peer).await?;
                let end = async {
                    while !peer.is_closed {
                        peer.read().await;
                    }
                };
                within("the end of a connection", end).await;
                compare("", &peer.input, Order::AsIs)
            }
            Step::Publish(item) => {
                self.hub.publish(serde_json::json!([item])).await;
                Ok(())
            }
            Step::Metric(name, value) => {
                self.hub.until_metric(name, *value).await;
                Ok(())
            }
        }
    }

    /// A peer; who is not there yet connects.
    async fn peer(&mut self, name: &str) -> Result<&mut Peer, String> {
        if !self.peers.contains_key(name) {
            let address = match name.as_bytes() {
                [b'C', ..] => self.hub.addr(),
                [b'K', ..] => self.hub.control(),
                _ => return Err(format!("{name} has received nothing")),
            };
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| error.to_string())?;
            self.peers.insert(name.to_owned(), Peer::new(stream));
        }
        Ok(self.peers.get_mut(name).expect("inserted above"))
    }

    /// The next request on any of the origin's connections, which is `name` from now on.
    async fn next_request(&mut self, name: &str) -> Vec<u8> {
        if let Some(peer) = self.peers.remove(name) {
            self.origin.push(peer);
        }
        loop {
            let complete = self
                .origin
                .iter()
                .position(|peer| request_end(&peer.input).is_some());
            if let Some(index) = complete {
                let mut peer = self.origin.swap_remove(index);
                let end = request_end(&peer.input).expect("found above");
                let request = peer.input.drain(..end).collect();
                self.peers.insert(name.to_owned(), peer);
                return request;
            }
            let event = tokio::select! {
                accepted = self.listener.accept() => Event::Accepted(accepted.expect("it accepts").0),
                index = any_readable(&self.origin) => Event::Readable(index),
            };
            match event {
                Event::Accepted(stream) => self.origin.push(Peer::new(stream)),
                Event::Readable(index) => {
                    self.origin[index].read().await;
                    self.origin.retain(|peer| !peer.is_closed);
                }
            }
        }
    }
}

/// What can happen at the origin.
enum Event {
    Accepted(TcpStream),
    Readable(usize),
}

async fn any_readable(peers: &[Peer]) -> usize {
    std::future::poll_fn(|context| {
        for (index, peer) in peers.iter().enumerate() {
            if peer.stream.poll_read_ready(context).is_ready() {
                return std::task::Poll::Ready(index);
            }
        }
        std::task::Poll::Pending
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
async fn receive(peer: &mut Peer, expected: &str) -> Result<(), String> {
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
    let is_matched = tokio::time::timeout(crate::PATIENCE, reading).await;
    if is_matched == Ok(true) {
        return Ok(());
    }
    Err(difference(expected, &peer.input))
}

enum Match {
    /// So many bytes.
    Whole(usize),
    /// As far as there are bytes.
    Part,
    None,
}

fn matched(expected: &str, input: &[u8]) -> Match {
    let mut at = 0;
    let mut parts = expected.split(ANYTHING).peekable();
    while let Some(part) = parts.next() {
        let Some(part) = unescaped(part) else {
            return Match::None;
        };
        let rest = &input[at..];
        if rest.len() < part.len() {
            return if part.starts_with(rest) {
                Match::Part
            } else {
                Match::None
            };
        }
        if !rest.starts_with(&part) {
            return Match::None;
        }
        at += part.len();
        if parts.peek().is_some() {
            let Some(end) = input[at..]
                .iter()
                .position(|byte| matches!(byte, b'\r' | b'\n'))
            else {
                return Match::Part;
            };
            at += end;
        }
    }
    Match::Whole(at)
}

#[derive(Clone, Copy)]
enum Order {
    AsIs,
    /// Of the fields in a head.
    Any,
}

fn compare(expected: &str, received: &[u8], order: Order) -> Result<(), String> {
    let is_equal = match order {
        Order::AsIs => {
            matches!(matched(expected, received), Match::Whole(length) if length == received.len())
        }
        Order::Any => {
            let (mut wanted, mut found) = (lines(expected), lines(&escaped(received)));
            wanted.sort_unstable();
            found.sort_unstable();
            wanted.len() == found.len()
                && wanted.iter().zip(&found).all(|(wanted, found)| {
                    let found = unescaped(found).unwrap_or_default();
                    matches!(matched(wanted, &found), Match::Whole(length) if length == found.len())
                })
        }
    };
    if is_equal {
        return Ok(());
    }
    Err(difference(expected, received))
}

/// The lines of an escaped text, each with its end.
fn lines(text: &str) -> Vec<String> {
    text.split_inclusive("\\r\\n").map(str::to_owned).collect()
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            other => text.push(other),
        }
    }
    text
}

fn difference(expected: &str, received: &[u8]) -> String {
    let mut text = String::from("expected\n");
    for line in lines(expected) {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str("received\n");
    for line in lines(&escaped(received)) {
        let _ = writeln!(text, "    {line}");
    }
    text
}
