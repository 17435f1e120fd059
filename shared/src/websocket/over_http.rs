//! WebSocket-over-HTTP: what one WebSocket's origin is asked, and when.
//!
//! [`OverHttp`] begins once the origin has accepted the WebSocket. It holds what waits for the
//! origin, makes requests of it, one at a time, and takes their answers. It sends nothing by itself
//! and reads no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::event::{self, Event, EventError};

/// Content bytes that wait for the origin. Whoever pushes stops when there is no
/// [room](OverHttp::room).
pub const BUFFER: usize = 200_000;
/// Bytes that an event takes beside its content, about.
const OVERHEAD: usize = 64;
/// Shortest time between two requests that the origin asks for.
const MIN_INTERVAL: Duration = Duration::from_secs(20);
/// How often a request that did not reach the origin is sent again.
const RETRIES: u8 = 5;
/// Bytes of what the origin gives to be sent back to it, names and values.
const MAX_META: usize = 16_384;

const ACCEPTED: HeaderName = HeaderName::from_static("content-bytes-accepted");
const INTERVAL: HeaderName = HeaderName::from_static("keep-alive-interval");
const SET_META: &str = "set-meta-";

/// How many events a request carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EventsPerRequest {
    /// All that wait.
    #[default]
    All,
    /// One.
    One,
}

/// What an answer says beside its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerFields {
    /// Absent: as before. `Keep-Alive-Interval`.
    pub keep_alive: Option<Interval>,
    /// What later requests carry, under its name there, such as `meta-user`; an empty value removes
    /// it. `Set-Meta-*`.
    pub set_meta: Vec<(HeaderName, HeaderValue)>,
    /// How many bytes of the request's contents count as received; absent: all.
    /// `Content-Bytes-Accepted`.
    pub accepted: Option<usize>,
}

/// How often an origin wants to be asked when there is nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Never.
    Off,
    /// This long after its last answer; whole seconds, at least 20.
    Every(Duration),
}

impl AnswerFields {
    /// Reads them of an answer's header. What cannot be read is as good as absent, but an interval
    /// that is no number is [`Interval::Off`].
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap_or_default().trim())
        };
        Self {
            keep_alive: text(&INTERVAL).map(|text| match text.parse::<u64>() {
                Ok(seconds) if seconds > 0 => {
                    Interval::Every(Duration::from_secs(seconds).max(MIN_INTERVAL))
                }
                _ => Interval::Off,
            }),
            set_meta: headers.iter().filter_map(set_meta).collect(),
            accepted: text(&ACCEPTED).and_then(count),
        }
    }

    /// These behind those of an earlier answer, as far as they still hold.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        self.keep_alive = self.keep_alive.or(earlier.keep_alive);
        let is_set = |name: &HeaderName| self.set_meta.iter().any(|(set, _)| set == name);
        let mut set_meta = earlier.set_meta;
        set_meta.retain(|(name, _)| !is_set(name));
        set_meta.append(&mut self.set_meta);
        Self { set_meta, ..self }
    }
}

/// A number; one that is too large is as large as can be.
fn count(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

/// `set-meta-foo` is sent back as `meta-foo`.
fn set_meta((name, value): (&HeaderName, &HeaderValue)) -> Option<(HeaderName, HeaderValue)> {
    let item = name.as_str().strip_prefix(SET_META)?;
    if item.is_empty() {
        return None;
    }
    let name = HeaderName::try_from(format!("meta-{item}")).ok()?;
    // A copy: the value as it came keeps the whole answer's head in memory.
    let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    Some((name, value))
}

/// One request for the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Events.
    pub body: Bytes,
    /// How many bytes of the body's contents were sent before and not accepted;
    /// `Content-Bytes-Replayed`, if more than 0.
    pub replayed: usize,
}

/// Why a WebSocket cannot go on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The body is not one of events.
    #[error("{0}")]
    Events(#[from] EventError),
    /// `OPEN` in the middle of it all.
    #[error("the origin opens a WebSocket that is open")]
    Open,
    /// More bytes accepted than were sent.
    #[error("the origin accepted {found} bytes of {sent}")]
    Accepted {
        /// `Content-Bytes-Accepted`.
        found: usize,
        /// Bytes in the request.
        sent: usize,
    },
    /// Nothing accepted, and more would be sent with the same.
    #[error("the origin accepts nothing")]
    NoProgress,
    /// All messages accepted, and not the close behind them.
    #[error("the origin accepted a close in part")]
    CloseInPart,
    /// More to be sent back than there is room for.
    #[error("the origin set more than {MAX_META} bytes of metadata")]
    Meta,
    /// No request was under way.
    #[error("an answer to nothing")]
    Unasked,
}

/// The origin could not be reached, however often it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the origin cannot be reached")]
pub struct GivenUp;

/// What is to be said, and who has said the end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The client closes; the origin has not heard it.
    Closing,
    /// The origin has heard it, and will answer.
    Closed,
    /// The origin closes; the client has not answered.
    OriginClosed,
    /// Nobody waits for the origin any more; it has not heard the close.
    Leaving,
    /// The client is gone; the origin has not heard it.
    Vanished,
    Over,
}

/// A WebSocket's conversation with its origin over HTTP.
///
/// Most conversations rest most of the time, so that only what is under way is in memory of its
/// own.
#[derive(Debug)]
pub struct OverHttp {
    per_request: EventsPerRequest,
    state: State,
    refresh: Refresh,
    /// Whole seconds of the interval; 0 is [`Interval::Off`].
    interval: u32,
    work: Option<Box<Work>>,
}

/// What a conversation that rests does without.
#[derive(Debug, Default)]
struct Work {
    /// How often the request under way was sent again.
    retries: u8,
    /// When a request is due by itself: a keep-alive, or a retry.
    due: Option<Instant>,
    queue: Option<Box<Queue>>,
    in_flight: Option<Box<InFlight>>,
    meta: Option<Box<HeaderMap>>,
}

impl Work {
    fn is_over(&self) -> bool {
        let has_parts = self.queue.is_some() || self.in_flight.is_some() || self.meta.is_some();
        self.due.is_none() && !has_parts
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    NotWanted,
    Wanted,
}

/// What waits for the origin.
#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Bytes of their contents.
    bytes: usize,
    /// Events at the front that were sent before.
    sent: usize,
    /// Bytes at the front that were sent before and not accepted.
    kept: usize,
    /// The content of the client's close, behind all of it.
    close: Option<Bytes>,
}

#[derive(Debug)]
struct InFlight {
    request: Request,
    /// Events of the queue in it.
    events: usize,
    /// Bytes of their contents.
    bytes: usize,
    /// Bytes of the close behind them, if it is in it.
    close: Option<usize>,
    /// Whether all that waited is in it.
    extent: Extent,
    /// Whether it is under way, or waits to be sent again.
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Sent,
    Again,
}

impl OverHttp {
    /// A WebSocket that the origin has accepted with an answer of these fields.
    pub fn new(per_request: EventsPerRequest, fields: &AnswerFields, now: Instant) -> Self {
        let mut over_http = Self {
            per_request,
            state: State::Open,
            refresh: Refresh::NotWanted,
            interval: 0,
            work: None,
        };
        // More than fits is left out here: the WebSocket has been accepted.
        let _ = over_http.take_fields(fields);
        over_http.restart_interval(now);
        over_http
    }

    /// Takes in what the origin has said behind `OPEN`, and cuts off what it says behind its last
    /// word.
    pub fn handle_opening(&mut self, events: &mut Vec<Event>) {
        cut_behind_last(events);
        match events.last() {
            Some(Event::Disconnect) => self.end(),
            Some(Event::Close(_)) => self.state = State::OriginClosed,
            _ => {}
        }
    }

    /// Content bytes that still fit, those counted that are under way. Many small events fill the
    /// buffer too, with what each takes beside its content.
    pub fn room(&self) -> usize {
        let used = self
            .queue()
            .map_or(0, |queue| queue.bytes + queue.events.len() * OVERHEAD);
        BUFFER.saturating_sub(used)
    }

    /// Whether nothing that waits goes on by itself: the origin has had all of it and left some, and
    /// will be asked again only with more.
    pub fn is_stuck(&self) -> bool {
        self.in_flight().is_none() && self.queue().is_some_and(|queue| !queue.has_news())
    }

    /// A whole message of the client, a ping or a pong. Nothing after its close counts.
    pub fn push(&mut self, event: Event) {
        if self.state == State::Open {
            let queue = self.work().queue.get_or_insert_default();
            queue.bytes += event.content().len();
            queue.events.push_back(event);
        }
    }

    /// The client closes, with its close frame's content; or the hub does, which has none. The
    /// origin hears it behind everything else. Does nothing the second time.
    pub fn close(&mut self, content: Bytes) {
        match self.state {
            State::Open => self.state = State::Closing,
            State::OriginClosed => self.state = State::Leaving,
            _ => return,
        }
        self.work().queue.get_or_insert_default().close = Some(content);
    }

    /// The client is gone, or is to hear nothing more of the origin. The origin hears that unless
    /// one of the two has closed; a close that waits it still hears, but is not asked for another.
    pub fn vanish(&mut self) {
        match self.state {
            State::Open => {
                self.state = State::Vanished;
                self.refresh = Refresh::NotWanted;
            }
            State::Closing => self.state = State::Leaving,
            State::OriginClosed | State::Closed => self.end(),
            State::Leaving | State::Vanished | State::Over => {}
        }
    }

    /// The origin is to be asked once more, whatever there is to say.
    pub fn refresh(&mut self) {
        if self.state == State::Open {
            self.refresh = Refresh::Wanted;
        }
    }

    /// What the origin is to be asked now, if anything. Ask after every other call, and at
    /// [`Self::poll_timeout`]. Until [`Self::handle_answer`] or one of the failures there is no
    /// other request.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if let Some(work) = &mut self.work
            && let Some(in_flight) = &mut work.in_flight
        {
            let is_due = in_flight.way == Way::Again && work.due.is_none_or(|due| due <= now);
            if !is_due {
                return None;
            }
            in_flight.way = Way::Sent;
            work.due = None;
            return Some(in_flight.request.clone());
        }
        if !self.has_reason(now) {
            return None;
        }
        self.refresh = Refresh::NotWanted;
        let (state, per_request) = (self.state, self.per_request);
        let work = self.work();
        work.due = None;
        let in_flight = if state == State::Vanished {
            work.queue = None;
            farewell()
        } else {
            match &mut work.queue {
                Some(queue) => queue.take(per_request),
                None => Queue::default().take(per_request),
            }
        };
        let request = in_flight.request.clone();
        work.in_flight = Some(Box::new(in_flight));
        Some(request)
    }

    /// Whether there is something to say, or it is time to listen.
    fn has_reason(&self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        match self.state {
            State::Vanished | State::Closing | State::Leaving => true,
            State::Open => {
                let has_news = self.queue().is_some_and(Queue::has_news);
                has_news || self.refresh == Refresh::Wanted || is_due
            }
            State::Closed => is_due,
            State::OriginClosed | State::Over => false,
        }
    }

    /// When [`Self::poll_request`] has something without another call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.in_flight() {
            Some(in_flight) if in_flight.way == Way::Sent => None,
            _ => self.due(),
        }
    }

    /// The request was answered with status 200 and a body of events. Returns them, up to the first
    /// that ends the WebSocket; none if it is over already.
    ///
    /// # Errors
    /// [`AnswerError`]; call [`Self::handle_failed`] then.
    pub fn handle_answer(
        &mut self,
        fields: &AnswerFields,
        body: &Bytes,
        now: Instant,
    ) -> Result<Vec<Event>, AnswerError> {
        if self.is_over() {
            return Ok(Vec::new());
        }
        let work = self.work.as_mut();
        let in_flight = work.and_then(|work| work.in_flight.take_if(|it| it.way == Way::Sent));
        let in_flight = in_flight.ok_or(AnswerError::Unasked)?;
        self.take_fields(fields)?;
        self.accept(&in_flight, fields.accepted)?;
        let mut events = event::decode(body)?;
        cut_behind_last(&mut events);
        if events.contains(&Event::Open) {
            return Err(AnswerError::Open);
        }
        if let Some(work) = &mut self.work {
            work.retries = 0;
        }
        self.go_on(&in_flight, events.last());
        self.restart_interval(now);
        self.rest();
        Ok(events)
    }

    /// What an answer means for the end.
    fn go_on(&mut self, in_flight: &InFlight, last: Option<&Event>) {
        let has_close = self.queue().is_some_and(|it| it.close.is_some());
        let is_last = match (self.state, last) {
            (_, Some(Event::Disconnect))
            | (State::Closed | State::Vanished, Some(Event::Close(_))) => true,
            (State::Leaving, _) => !has_close,
            (State::Vanished, _) => in_flight.is_farewell(),
            (State::Closed, _) => self.interval == 0,
            _ => false,
        };
        if is_last {
            return self.end();
        }
        match (self.state, last) {
            (State::Open, Some(Event::Close(_))) => {
                self.state = State::OriginClosed;
                self.work().queue = None;
            }
            // It closed before it heard the client's close, and still has to hear it.
            (State::Closing | State::Leaving, Some(Event::Close(_))) => {
                self.state = State::Leaving;
                if let Some(queue) = &mut self.work().queue {
                    queue.keep_close();
                }
            }
            _ => {}
        }
    }

    /// The request never reached the origin. It is sent again after 1, 2, 4, 8 and 16 s, and a time
    /// that the caller draws, so that not all come together.
    ///
    /// # Errors
    /// [`GivenUp`] after that; the conversation is over.
    pub fn handle_unsent(&mut self, now: Instant, jitter: Duration) -> Result<(), GivenUp> {
        let Some(work) = self.work.as_mut() else {
            return Ok(());
        };
        let in_flight = work.in_flight.as_mut();
        let Some(in_flight) = in_flight.filter(|in_flight| in_flight.way == Way::Sent) else {
            return Ok(());
        };
        if work.retries == RETRIES {
            self.end();
            return Err(GivenUp);
        }
        in_flight.way = Way::Again;
        work.due = Some(now + Duration::from_secs(1 << work.retries) + jitter);
        work.retries += 1;
        Ok(())
    }

    /// The request failed for another reason. The conversation is over.
    pub fn handle_failed(&mut self) {
        self.end();
    }

    /// Whether nothing more will be said to the origin.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// What the next request carries as `Meta-*`.
    pub fn meta(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let meta = self.work.iter().filter_map(|work| work.meta.as_ref());
        meta.flat_map(|meta| meta.iter())
    }

    fn queue(&self) -> Option<&Queue> {
        self.work.as_ref()?.queue.as_deref()
    }

    fn in_flight(&self) -> Option<&InFlight> {
        self.work.as_ref()?.in_flight.as_deref()
    }

    fn due(&self) -> Option<Instant> {
        self.work.as_ref()?.due
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    /// Gives back the memory for what is under way, if nothing is.
    fn rest(&mut self) {
        self.work = self.work.take().filter(|work| !work.is_over());
    }

    fn end(&mut self) {
        self.state = State::Over;
        if let Some(work) = &mut self.work {
            work.due = None;
            work.queue = None;
            work.in_flight = None;
        }
        self.rest();
    }

    fn restart_interval(&mut self, now: Instant) {
        let due = match (self.state, self.interval) {
            (State::Open | State::Closing | State::Closed, 1..) => {
                now.checked_add(Duration::from_secs(self.interval.into()))
            }
            _ => None,
        };
        if due.is_some() || self.work.is_some() {
            self.work().due = due;
        }
    }

    fn take_fields(&mut self, fields: &AnswerFields) -> Result<(), AnswerError> {
        self.interval = match fields.keep_alive {
            None => self.interval,
            Some(Interval::Off) => 0,
            // One of centuries is none.
            Some(Interval::Every(interval)) => u32::try_from(interval.as_secs()).unwrap_or(0),
        };
        for (name, value) in &fields.set_meta {
            if value.is_empty() {
                if let Some(work) = &mut self.work
                    && let Some(meta) = &mut work.meta
                {
                    meta.remove(name);
                }
                continue;
            }
            let others = self.meta().filter(|(known, _)| *known != name);
            let used = others.map(|(name, value)| name.as_str().len() + value.len());
            if used.sum::<usize>() + name.as_str().len() + value.len() > MAX_META {
                return Err(AnswerError::Meta);
            }
            let meta = self.work().meta.get_or_insert_default();
            meta.insert(name, value.clone());
        }
        if let Some(work) = &mut self.work {
            work.meta = work.meta.take().filter(|meta| !meta.is_empty());
        }
        Ok(())
    }

    /// Takes out what the origin accepted.
    fn accept(&mut self, sent: &InFlight, accepted: Option<usize>) -> Result<(), AnswerError> {
        let total = sent.bytes + sent.close.unwrap_or(0);
        let accepted = accepted.unwrap_or(total);
        if accepted > total {
            return Err(AnswerError::Accepted {
                found: accepted,
                sent: total,
            });
        }
        let is_stuck = sent.extent == Extent::Part || sent.close.is_some();
        if accepted == 0 && total > 0 && is_stuck {
            return Err(AnswerError::NoProgress);
        }
        if accepted < sent.bytes {
            // The close stands behind what is kept, and goes with it again.
            if let Some(queue) = &mut self.work().queue {
                queue.forget(sent.events, accepted);
            }
            return Ok(());
        }
        if accepted < total {
            return Err(AnswerError::CloseInPart);
        }
        let work = self.work();
        if let Some(queue) = &mut work.queue {
            queue.forget(sent.events, sent.bytes);
            queue.kept = 0;
            if sent.close.is_some() {
                queue.close = None;
            }
        }
        work.queue = work.queue.take().filter(|queue| !queue.is_empty());
        if sent.close.is_some() && self.state == State::Closing {
            self.state = State::Closed;
        }
        Ok(())
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.close.is_none()
    }

    /// Leaves nothing but the close, as an origin that has closed reads no messages.
    fn keep_close(&mut self) {
        *self = Self {
            close: self.close.take(),
            ..Self::default()
        };
    }

    fn has_news(&self) -> bool {
        self.events.len() > self.sent
    }

    /// Puts what is next in a request; it stays here until it is accepted.
    fn take(&mut self, per_request: EventsPerRequest) -> InFlight {
        let events = match per_request {
            EventsPerRequest::All => self.events.len(),
            EventsPerRequest::One => self.events.len().min(1),
        };
        let mut body = Vec::new();
        let mut bytes = 0;
        for event in self.events.iter().take(events) {
            bytes += event.content().len();
            event.encode(&mut body);
        }
        let is_free = per_request == EventsPerRequest::All || events == 0;
        let close = self.close.as_ref().filter(|_| is_free);
        if let Some(content) = close {
            Event::Close(content.clone()).encode(&mut body);
        }
        let is_whole = events == self.events.len() && close.is_some() == self.close.is_some();
        self.sent = self.sent.max(events);
        InFlight {
            request: Request {
                body: Bytes::from(body),
                replayed: self.kept.min(bytes),
            },
            events,
            bytes,
            close: close.map(Bytes::len),
            extent: if is_whole {
                Extent::Whole
            } else {
                Extent::Part
            },
            way: Way::Sent,
        }
    }

    /// Takes `accepted` bytes out of the first `events` events. Events without content go with
    /// those before them.
    fn forget(&mut self, events: usize, accepted: usize) {
        let mut left = accepted;
        let mut gone = 0;
        while gone < events
            && let Some(event) = self.events.front_mut()
        {
            let length = event.content().len();
            if length > left {
                cut(event, left);
                break;
            }
            left -= length;
            gone += 1;
            self.events.pop_front();
        }
        self.bytes -= accepted;
        self.sent = self.sent.saturating_sub(gone);
        let rest = self.events.iter().take(self.sent);
        self.kept = rest.map(|event| event.content().len()).sum();
    }
}

/// Leaves the events up to the first that ends the conversation.
fn cut_behind_last(events: &mut Vec<Event>) {
    let is_last = |event: &Event| matches!(event, Event::Close(_) | Event::Disconnect);
    if let Some(last) = events.iter().position(is_last) {
        events.truncate(last + 1);
    }
}

/// Takes bytes from the start of an event's content.
fn cut(event: &mut Event, count: usize) {
    match event {
        Event::Text(content)
        | Event::Binary(content)
        | Event::Ping(content)
        | Event::Pong(content)
        | Event::Close(content) => drop(content.split_to(count)),
        Event::Open | Event::Disconnect => {}
    }
}

impl InFlight {
    fn is_farewell(&self) -> bool {
        self.request.body == FAREWELL
    }
}

const FAREWELL: &[u8] = b"DISCONNECT\r\n";

/// The request that says that the client is gone.
fn farewell() -> InFlight {
    InFlight {
        request: Request {
            body: Bytes::from_static(FAREWELL),
            replayed: 0,
        },
        events: 0,
        bytes: 0,
        close: None,
        extent: Extent::Whole,
        way: Way::Sent,
    }
}
