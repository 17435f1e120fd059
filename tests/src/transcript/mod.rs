//! Dialogues as data: who sends what, byte for byte.
//!
//! A transcript is a text file of steps, played against a hub of its own by [`play`]:
//!
//! ```text
//! # What the dialogue shows.
//! hub: debug = true              a line of hub.toml, before all other steps
//! include opened.part            the steps of another file of the same folder
//! C> GET /poll HTTP/1.1          client C sends this line and CR LF
//! C>> body\n                     client C sends exactly these bytes
//! O< GET /poll HTTP/1.1          the origin receives this line and CR LF
//! O<< body\n                     the origin receives exactly these bytes
//! O> HTTP/1.1 200 OK             the origin sends, on the connection that it received from last
//! C< HTTP/1.1 200 OK             client C receives
//! K> POST /publish/ HTTP/1.1     a publisher sends to the control port
//! W> text hello                  client C sends a WebSocket frame, W1 is that of C1
//! W< close 1000 bye              client C receives a frame; V is the same for origin's O
//! C| or O|                       closes the connection
//! C. or O.                       receives the end of the connection
//! publish {"channel":"c", ...}   publishes one item, and reads that it was
//! metric gripline_gaps_total 1   waits until the metric has this value
//! subscribers room 1             waits until the channel has so many
//! origin stops                   connections to the origin are refused from now on
//! origin starts                  they are accepted again
//! patience 30                    waits so many seconds for each of the steps from here on
//! ```
//!
//! Names of clients begin with C, of publishers with K, of origin's connections with O; each is
//! connected when it first sends. After the last step nobody may have received anything more.
//!
//! `{*}` stands for anything up to the line's end, and so does `{$NAME}` where it first comes, which
//! is the same text wherever it comes again in what the origin receives. `{3*ab}` is `ababab`. `\n`,
//! `\r`, `\t`, `\\` and `\xHH` are bytes. Fields of a request to the origin are compared in any
//! order, because their order means nothing. `{accept}` in what the origin sends is the answer to the
//! `Sec-WebSocket-Key` that it received last. In settings `{origin}` is the origin's address, and
//! `{refused}` one where nobody listens.
//!
//! Frames are `text`, `binary`, `cont`, `ping` and `pong` with a payload, and `close` with a code and
//! a reason or with neither. `text+` goes on with `cont`, `text~` is compressed. Who receives also
//! checks that clients mask, that origins and the hub don't, and that lengths are written short.

mod pattern;
mod stage;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::Value;

pub(crate) use self::pattern::escaped;
use self::pattern::unescaped;
use self::stage::Stage;
use crate::websocket::{COMPRESSED, Frame, MASK, Opcode};

/// One step of a dialogue.
#[derive(Debug)]
enum Step {
    Send(String, Vec<u8>),
    Receive(String, String),
    ReceiveFrame(String, Frame),
    Close(String),
    Closed(String),
    Publish(Value),
    Metric(String, u64),
    Subscribers(String, usize),
    Origin(Origin),
    Patience(Duration),
}

/// What becomes of the origin's port.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Stops,
    Starts,
}

/// Where a step is written.
#[derive(Debug, Clone)]
struct Place {
    file: Rc<PathBuf>,
    line: usize,
    /// Where the file is included, if it is.
    within: Option<Rc<Self>>,
}

impl Place {
    /// What is wrong, and where.
    fn problem(&self, problem: &str) -> String {
        let problem = format!("{}:{}: {problem}", self.file.display(), self.line);
        match &self.within {
            Some(place) => place.problem(&problem),
            None => problem,
        }
    }
}

/// A dialogue.
#[derive(Debug, Default)]
struct Transcript {
    hub: String,
    steps: Vec<(Place, Step)>,
}

/// Plays one transcript; says what went wrong, with the file and the line.
pub async fn play(path: &Path) -> Result<(), String> {
    let mut transcript = Transcript::default();
    transcript.read(path, None)?;
    let whole = |problem: String| format!("{}: {problem}", path.display());
    let mut stage = Stage::new(&transcript.hub).await.map_err(whole)?;
    let mut played = transcript.play(&mut stage).await;
    if played.is_ok() {
        let end = |problem: String| whole(format!("after the last step {problem}"));
        played = stage.nothing_is_left().await.map_err(end);
    }
    stage.end().await;
    played
}

impl Transcript {
    async fn play(&self, stage: &mut Stage) -> Result<(), String> {
        for (place, step) in &self.steps {
            // What the kit does not expect is a panic, which does not know the line.
            let played = AssertUnwindSafe(stage.play(step)).catch_unwind().await;
            let played = played.unwrap_or_else(|panic| {
                let problem = panic.downcast_ref::<String>();
                Err(problem.map_or_else(|| "it panics".to_owned(), String::clone))
            });
            played.map_err(|problem| place.problem(&problem))?;
        }
        Ok(())
    }

    fn read(&mut self, path: &Path, within: Option<&Rc<Place>>) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let problem = format!("{}: {error}", path.display());
            within.map_or_else(|| problem.clone(), |place| place.problem(&problem))
        })?;
        let file = Rc::new(path.to_owned());
        for (index, line) in text.lines().enumerate() {
            let place = Place {
                file: Rc::clone(&file),
                line: index + 1,
                within: within.cloned(),
            };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("include ") {
                self.read(&path.with_file_name(name), Some(&Rc::new(place)))?;
            } else if let Some(setting) = line.strip_prefix("hub: ") {
                if !self.steps.is_empty() {
                    return Err(place.problem("a setting comes after a step"));
                }
                self.hub.extend([setting, "\n"]);
            } else {
                let step = Step::parse(line).ok_or_else(|| place.problem("this is no step"))?;
                self.push(place, step);
            }
        }
        Ok(())
    }

    /// Joins what one peer sends or receives without a break.
    fn push(&mut self, place: Place, step: Step) {
        match (self.steps.last_mut(), step) {
            (Some((_, Step::Send(last, bytes))), Step::Send(peer, more)) if *last == peer => {
                bytes.extend(more);
            }
            (Some((_, Step::Receive(last, text))), Step::Receive(peer, more)) if *last == peer => {
                text.push_str(&more);
            }
            (_, step) => self.steps.push((place, step)),
        }
    }
}

impl Step {
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "publish" => return Some(Self::Publish(serde_json::from_str(rest).ok()?)),
            "metric" => {
                let (name, value) = rest.split_once(' ')?;
                return Some(Self::Metric(name.to_owned(), value.parse().ok()?));
            }
            "subscribers" => {
                let (channel, count) = rest.split_once(' ')?;
                let count = count.parse().ok()?;
                return Some(Self::Subscribers(channel.to_owned(), count));
            }
            "origin" if rest == "stops" => return Some(Self::Origin(Origin::Stops)),
            "origin" if rest == "starts" => return Some(Self::Origin(Origin::Starts)),
            "patience" => {
                let patience = Duration::from_secs(rest.parse().ok()?);
                return Some(Self::Patience(patience));
            }
            _ => {}
        }
        let peer_end = word.find(['>', '<', '|', '.'])?;
        let (peer, sign) = word.split_at(peer_end);
        match peer.as_bytes().first()? {
            b'W' => Self::frame(peer.replacen('W', "C", 1), sign, rest),
            b'V' => Self::frame(peer.replacen('V', "O", 1), sign, rest),
            b'C' | b'K' | b'O' => Self::bytes(peer.to_owned(), sign, rest),
            _ => None,
        }
    }

    fn bytes(peer: String, sign: &str, rest: &str) -> Option<Self> {
        Some(match sign {
            ">" => Self::Send(peer, unescaped(&format!("{rest}\\r\\n"))?),
            ">>" => Self::Send(peer, unescaped(rest)?),
            "<" => Self::Receive(peer, format!("{rest}\\r\\n")),
            "<<" => Self::Receive(peer, rest.to_owned()),
            "|" if rest.is_empty() => Self::Close(peer),
            "." if rest.is_empty() => Self::Closed(peer),
            _ => return None,
        })
    }

    /// Frames between the hub and the peer: only clients mask, and the hub is the origin's client.
    fn frame(peer: String, sign: &str, rest: &str) -> Option<Self> {
        let mut frame = frame(rest)?;
        let is_client = peer.starts_with('C');
        Some(match sign {
            ">" => {
                frame.mask = is_client.then_some(MASK);
                Self::Send(peer, frame.encode())
            }
            "<" => {
                frame.mask = (!is_client).then_some(MASK);
                Self::ReceiveFrame(peer, frame)
            }
            _ => return None,
        })
    }
}

/// A frame as transcripts write it.
fn frame(text: &str) -> Option<Frame> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (word, is_final) = match word.strip_suffix('+') {
        Some(word) => (word, false),
        None => (word, true),
    };
    let (word, reserved) = match word.strip_suffix('~') {
        Some(word) => (word, COMPRESSED),
        None => (word, 0),
    };
    let opcode = match word {
        "cont" => Opcode::Continuation,
        "text" => Opcode::Text,
        "binary" => Opcode::Binary,
        "close" => Opcode::Close,
        "ping" => Opcode::Ping,
        "pong" => Opcode::Pong,
        _ => return None,
    };
    let code = rest.split(' ').next().and_then(|code| code.parse().ok());
    let mut frame = match (opcode, code) {
        (Opcode::Close, Some(code)) => {
            let reason = rest.split_once(' ').map_or("", |(_, reason)| reason);
            let reason = String::from_utf8(unescaped(reason)?).ok()?;
            Frame::close(code, &reason)
        }
        _ => Frame::new(opcode, unescaped(rest)?),
    };
    frame.is_final = is_final;
    frame.reserved = reserved;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, bytes: &[u8]) {
        let found = frame(text).map(|frame| frame.unmasked().encode());
        assert_eq!(found.as_deref(), Some(bytes), "{text}");
        if let Some(frame) = frame(text) {
            assert_eq!(format!("{frame:?}"), text);
        }
    }

    #[test]
    fn frames_are_read_as_they_are_shown() {
        check("text hello", b"\x81\x05hello");
        check("text", b"\x81\x00");
        check("text+ \\r\\n\\x00", b"\x01\x03\r\n\0");
        check("cont+ a b", b"\x00\x03a b");
        check("binary \\xff\u{e4}", b"\x82\x03\xff\xc3\xa4");
        check("text~ \\x01", b"\xc1\x01\x01");
        check("binary~+ a", b"\x42\x01a");
        check("ping x", b"\x89\x01x");
        check("pong", b"\x8a\x00");
        check("close", b"\x88\x00");
        check("close 1000", b"\x88\x02\x03\xe8");
        check("close 1000 a b", b"\x88\x05\x03\xe8a b");
        check("close \\x03", b"\x88\x01\x03");
        assert_eq!(frame("hello"), None);
        assert_eq!(frame("text \\q"), None);
    }
}
