//! A conversation over HTTP: each byte is something that happens, or its argument.
#![no_main]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::websocket::event::{self, Event};
use grip::websocket::over_http::{AnswerFields, EventsPerRequest, Interval, OverHttp};

/// The conversation beside what is known of it.
struct Model {
    over_http: OverHttp,
    now: Instant,
    /// Contents that were pushed and not accepted, one after the other.
    waiting: VecDeque<u8>,
    /// How many of those were sent before.
    sent: usize,
    /// How many are under way.
    in_flight: Option<usize>,
    has_ended: bool,
    next: u8,
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = bytes.iter().copied();
    let now = Instant::now();
    let events = match choices.next() {
        Some(0) => EventsPerRequest::One,
        _ => EventsPerRequest::All,
    };
    let mut model = Model {
        over_http: OverHttp::new(events, &AnswerFields::default(), now),
        now,
        waiting: VecDeque::new(),
        sent: 0,
        in_flight: None,
        has_ended: false,
        next: 0,
    };
    while let Some(choice) = choices.next() {
        let argument = choices.next().unwrap_or_default();
        model.step(choice, argument);
        model.poll();
    }
    model.end();
});

impl Model {
    fn step(&mut self, choice: u8, argument: u8) {
        match choice % 10 {
            0 | 1 => self.push(argument),
            2..=4 => self.answer(argument),
            5 => {
                let jitter = Duration::from_millis(argument.into());
                let is_over = self.over_http.handle_unsent(self.now, jitter).is_err();
                assert!(!is_over || self.over_http.is_over());
                self.in_flight = None;
            }
            6 => self.over_http.refresh(),
            7 => self.now += Duration::from_secs(argument.into()),
            8 if argument < 32 => {
                self.over_http.close(Bytes::from_static(b"\x03\xe8"));
                self.has_ended = true;
            }
            9 if argument < 16 => {
                self.over_http.vanish();
                self.has_ended = true;
            }
            _ => {}
        }
    }

    fn push(&mut self, argument: u8) {
        let length = usize::from(argument % 4);
        let content: Vec<u8> = (0..length)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                self.next
            })
            .collect();
        if !self.has_ended {
            self.waiting.extend(&content);
        }
        let content = Bytes::from(content);
        self.over_http.push(match argument / 64 {
            0 => Event::Text(content),
            1 => Event::Binary(content),
            2 => Event::Ping(content),
            _ => Event::Pong(content),
        });
    }

    fn answer(&mut self, argument: u8) {
        let body = match argument {
            255 => Event::Close(Bytes::new()),
            254 => Event::Disconnect,
            253 => Event::Open,
            _ => Event::Text(Bytes::new()),
        };
        let fields = AnswerFields {
            keep_alive: match argument % 16 {
                0 => Some(Interval::Every(Duration::from_secs(20))),
                1 => Some(Interval::Off),
                _ => None,
            },
            accepted: (argument % 8 > 2).then_some(usize::from(argument / 8)),
            ..AnswerFields::default()
        };
        let was_asked = self.in_flight.take();
        let mut encoded = Vec::new();
        body.encode(&mut encoded);
        let body = Bytes::from(encoded);
        let answered = self.over_http.handle_answer(&fields, &body, self.now);
        if answered.is_err() {
            self.over_http.handle_failed();
        }
        let (Some(sent), false) = (was_asked, self.over_http.is_over()) else {
            return;
        };
        let accepted = fields
            .accepted
            .unwrap_or(sent)
            .min(sent)
            .min(self.waiting.len());
        self.waiting.drain(..accepted);
        self.sent = self.sent.max(sent) - accepted;
        if argument == 255 {
            // Nothing but a close is said to an origin that has closed.
            self.has_ended = true;
            self.waiting.clear();
            self.sent = 0;
        }
    }

    fn poll(&mut self) {
        let Some(request) = self.over_http.poll_request(self.now) else {
            return;
        };
        assert_eq!(self.over_http.poll_request(self.now), None);
        assert_eq!(self.in_flight, None, "one request at a time");
        let mut content = Vec::new();
        for event in event::decode(&request.body).expect("events") {
            match event {
                Event::Close(_) | Event::Disconnect => assert!(self.has_ended),
                event => content.extend_from_slice(event.content()),
            }
        }
        assert!(self.waiting.iter().take(content.len()).eq(&content));
        if content.is_empty() {
            assert_eq!(request.replayed, 0);
        } else {
            assert_eq!(request.replayed, self.sent.min(content.len()));
        }
        self.in_flight = Some(content.len());
    }

    /// Once the client is gone, and all is answered, there is an end.
    fn end(mut self) {
        self.over_http.vanish();
        for _ in 0..10_000 {
            if self.over_http.is_over() {
                assert_eq!(self.over_http.poll_timeout(), None);
                return;
            }
            self.now += Duration::from_secs(60);
            let _ = self.over_http.poll_request(self.now);
            let fields = AnswerFields::default();
            let answered = self
                .over_http
                .handle_answer(&fields, &Bytes::new(), self.now);
            assert_eq!(answered, Ok(Vec::new()));
        }
        panic!("no end: {:?}", self.over_http);
    }
}
