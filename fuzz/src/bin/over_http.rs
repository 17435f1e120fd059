//! Conversations over HTTP: each byte is an operation, with its argument in the upper half.
#![no_main]

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::websocket::event::{self, Event};
use grip::websocket::over_http::{
    AnswerFields, BUFFER, EventsPerRequest, Interval, OverHttp, Request,
};

const S: Duration = Duration::from_secs(1);
/// What the hub gives a request that the origin never got, besides the first.
const RETRIES: u32 = 5;

/// Any instant will do.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, operations)) = bytes.split_first() else {
        return;
    };
    let mut conversation = Conversation::new(*first);
    for operation in operations {
        conversation.step(operation & 15, operation >> 4);
        conversation.check();
    }
    conversation.end();
});

/// A conversation, and what is known of it from outside.
struct Conversation {
    it: OverHttp,
    now: Instant,
    per_request: EventsPerRequest,
    client: Client,
    /// Contents that were pushed and not accepted: each byte, and the number of its event.
    waiting: VecDeque<(usize, u8)>,
    pushed: usize,
    /// How many of them were sent before.
    kept: usize,
    in_flight: Option<Request>,
    unsent: Option<(Request, Instant)>,
    retries: u32,
    next: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Open,
    /// Neither says nor hears anything more, because of the origin.
    Ended,
    Closed,
    /// The origin has accepted the close.
    Heard,
    Gone,
}

impl Conversation {
    fn new(settings: u8) -> Self {
        let per_request = if settings & 1 == 0 {
            EventsPerRequest::All
        } else {
            EventsPerRequest::One
        };
        let fields = AnswerFields {
            keep_alive: interval(settings >> 1),
            ..AnswerFields::default()
        };
        Self {
            it: OverHttp::new(per_request, &fields, *START),
            now: *START,
            per_request,
            client: Client::Open,
            waiting: VecDeque::new(),
            pushed: 0,
            kept: 0,
            in_flight: None,
            unsent: None,
            retries: 0,
            next: 0,
        }
    }

    fn step(&mut self, operation: u8, argument: u8) {
        match operation {
            0..=3 => self.push(operation, argument),
            4 => self.close(argument),
            5 => self.vanish(),
            6 => self.it.refresh(),
            7 => self.now += S * u32::from(argument) * 2,
            8 => self.unsent(argument),
            9 => self.answer(None, interval(argument), b""),
            10 => self.answer(Some(argument.into()), None, b""),
            11 => self.answer(Some(usize::from(argument) << 4), None, b""),
            12 => self.answer(None, interval(argument), BODIES[usize::from(argument) & 7]),
            13 => self.answer(Some(argument.into()), None, BODIES[0]),
            14 if argument == 0 => self.fail(),
            _ => {}
        }
    }

    /// The kinds take turns, so that an event's number tells its kind.
    fn push(&mut self, operation: u8, argument: u8) {
        let length = match operation {
            0 => 0,
            1 => usize::from(argument) << 6,
            _ => argument.into(),
        };
        if self.it.room() < length {
            return;
        }
        let content: Vec<u8> = (0..length).map(|_| self.byte()).collect();
        if self.client == Client::Open {
            let number = self.pushed;
            self.waiting
                .extend(content.iter().map(|byte| (number, *byte)));
        }
        self.it.push(numbered(self.pushed, content.into()));
        self.pushed += 1;
    }

    fn byte(&mut self) -> u8 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn close(&mut self, argument: u8) {
        self.it.close(Bytes::from(vec![3; argument.into()]));
        if matches!(self.client, Client::Open | Client::Ended) {
            self.client = Client::Closed;
        }
    }

    fn vanish(&mut self) {
        self.it.vanish();
        if matches!(self.client, Client::Open | Client::Ended) {
            self.client = Client::Gone;
        }
    }

    fn fail(&mut self) {
        if self.in_flight.take().is_some() {
            self.it.handle_failed();
            assert!(self.it.is_over());
        }
    }

    fn unsent(&mut self, argument: u8) {
        let Some(request) = self.in_flight.take() else {
            return;
        };
        if self.it.is_over() {
            return;
        }
        let jitter = Duration::from_millis(argument.into());
        let is_given_up = self.it.handle_unsent(self.now, jitter).is_err();
        assert_eq!(is_given_up, self.retries == RETRIES);
        assert_eq!(is_given_up, self.it.is_over());
        if !is_given_up {
            let due = self.now + S * (1 << self.retries) + jitter;
            assert_eq!(self.it.poll_timeout(), Some(due));
            self.unsent = Some((request, due));
            self.retries += 1;
        }
    }

    fn answer(&mut self, accepted: Option<usize>, keep_alive: Option<Interval>, body: &[u8]) {
        let Some(request) = self.in_flight.take() else {
            return;
        };
        let fields = AnswerFields {
            keep_alive,
            accepted,
            ..AnswerFields::default()
        };
        let body = Bytes::copy_from_slice(body);
        let was_over = self.it.is_over();
        let answer = self.it.handle_answer(&fields, &body, self.now);
        if was_over {
            return;
        }
        let sent = Sent::of(&request);
        let accepted = accepted.unwrap_or_else(|| sent.total());
        let Ok(events) = answer else {
            assert!(!sent.may_accept(accepted) || !is_proper(&body));
            self.it.handle_failed();
            return;
        };
        assert!(accepted <= sent.total());
        assert!(is_proper(&body));
        self.retries = 0;
        self.accepted(&sent, accepted);
        self.hear(&sent, events.last());
    }

    fn accepted(&mut self, sent: &Sent, accepted: usize) {
        self.waiting.drain(..accepted.min(sent.bytes));
        self.kept = self.kept.max(sent.bytes).saturating_sub(accepted);
        if accepted == sent.total() && sent.close.is_some() {
            self.client = Client::Heard;
        }
    }

    /// What an answer's last event means for what the origin is still to be sent.
    fn hear(&mut self, sent: &Sent, last: Option<&Event>) {
        match last {
            Some(Event::Close(_)) if self.client == Client::Open => {
                self.client = Client::Ended;
                self.forget();
            }
            Some(Event::Close(_)) if self.client == Client::Closed => self.forget(),
            Some(Event::Close(_) | Event::Disconnect) => assert!(self.it.is_over()),
            _ if sent.is_farewell => assert!(self.it.is_over()),
            _ => {}
        }
    }

    fn forget(&mut self) {
        self.waiting.clear();
        self.kept = 0;
    }

    /// What holds after every call.
    fn check(&mut self) {
        self.poll();
        self.check_room();
        if self.in_flight.is_some() {
            assert_eq!(self.it.poll_request(self.now), None, "one at a time");
            assert_eq!(self.it.poll_timeout(), None, "nothing is due meanwhile");
        }
        if self.it.is_over() {
            let much_later = self.now + S * 1_000_000;
            assert_eq!(self.it.poll_timeout(), None, "nothing is due at the end");
            assert_eq!(self.it.poll_request(much_later), None);
            assert_eq!(self.it.room(), BUFFER, "nothing waits at the end");
        }
    }

    /// Contents take what they have, and events little beside.
    fn check_room(&self) {
        let used = BUFFER - self.it.room();
        if self.client == Client::Open && !self.it.is_over() {
            assert!(used >= self.waiting.len());
            assert!(used <= self.waiting.len() + self.pushed * 100);
        }
    }

    fn poll(&mut self) {
        let Some(request) = self.it.poll_request(self.now) else {
            return;
        };
        assert_eq!(self.in_flight, None, "one at a time");
        if let Some((unsent, due)) = self.unsent.take() {
            assert_eq!(request, unsent);
            assert!(due <= self.now);
        } else {
            self.check_request(&request);
        }
        self.in_flight = Some(request);
    }

    fn check_request(&self, request: &Request) {
        let sent = Sent::of(request);
        assert_eq!(request.replayed, self.kept.min(sent.bytes));
        if sent.close.is_some() {
            assert_eq!(self.client, Client::Closed);
            assert_eq!(sent.bytes, self.waiting.len(), "a close is last");
        }
        if sent.is_farewell {
            assert_eq!(self.client, Client::Gone);
        }
        let mut waiting = self.waiting.iter().peekable();
        for event in sent.messages.iter().filter(|it| !it.content().is_empty()) {
            let number = waiting.peek().map_or(0, |(number, _)| *number);
            let mut content = Vec::new();
            while let Some((_, byte)) = waiting.next_if(|(its, _)| *its == number) {
                content.push(*byte);
            }
            assert_eq!(event, &numbered(number, content.into()));
        }
        if self.per_request == EventsPerRequest::One {
            assert!(sent.messages.len() + sent.close.iter().len() <= 1);
        } else if self.client != Client::Gone {
            assert_eq!(waiting.next(), None, "all that waits goes at once");
        }
    }

    /// Without its client, and with an origin that answers, it comes to an end soon.
    fn end(mut self) {
        self.vanish();
        let rounds = 3 + RETRIES + u32::try_from(self.pushed).expect("inputs are short");
        for _ in 0..rounds {
            self.now += 60 * S;
            self.check();
            self.answer(None, None, b"");
        }
        assert!(self.it.is_over());
        self.check();
    }
}

fn numbered(number: usize, content: Bytes) -> Event {
    match number & 3 {
        0 => Event::Text(content),
        1 => Event::Binary(content),
        2 => Event::Ping(content),
        _ => Event::Pong(content),
    }
}

fn interval(argument: u8) -> Option<Interval> {
    match argument & 3 {
        0 | 1 => None,
        2 => Some(Interval::Off),
        _ => Some(Interval::Every(20 * S)),
    }
}

const BODIES: [&[u8]; 8] = [
    b"CLOSE 2\r\n\x03\xe8\r\n",
    b"TEXT 1\r\nx\r\nCLOSE\r\nOPEN\r\n",
    b"DISCONNECT\r\nCLOSE\r\n",
    b"TEXT 1\r\nx\r\n",
    b"PING\r\nPONG\r\n",
    b"NOISE\r\n",
    b"OPEN\r\n",
    b"TEXT 5\r\n",
];

/// Whether an origin may say this to a WebSocket that is open.
fn is_proper(body: &Bytes) -> bool {
    let is_last = |event: &Event| matches!(event, Event::Close(_) | Event::Disconnect);
    event::decode(body).is_ok_and(|events| {
        let end = events.iter().position(is_last).unwrap_or(events.len());
        !events.iter().take(end).any(|event| *event == Event::Open)
    })
}

/// What a request carries.
struct Sent {
    messages: Vec<Event>,
    /// Bytes of their contents.
    bytes: usize,
    /// Bytes of the close behind them.
    close: Option<usize>,
    is_farewell: bool,
}

impl Sent {
    fn of(request: &Request) -> Self {
        let mut messages = event::decode(&request.body).expect("events");
        let is_farewell = messages == [Event::Disconnect];
        if is_farewell {
            messages.clear();
        }
        let close = messages
            .pop_if(|last| matches!(last, Event::Close(_)))
            .map(|close| close.content().len());
        assert!(messages.iter().all(is_message), "{messages:?}");
        Self {
            bytes: messages.iter().map(|event| event.content().len()).sum(),
            messages,
            close,
            is_farewell,
        }
    }

    fn total(&self) -> usize {
        self.bytes + self.close.unwrap_or(0)
    }

    /// Whether so many bytes can be accepted, whatever else there is to send.
    fn may_accept(&self, accepted: usize) -> bool {
        let is_progress = accepted > 0 || self.total() == 0;
        is_progress && (accepted < self.bytes || accepted == self.total())
    }
}

fn is_message(event: &Event) -> bool {
    matches!(
        event,
        Event::Text(_) | Event::Binary(_) | Event::Ping(_) | Event::Pong(_)
    )
}
