//! Conversations over HTTP, byte by byte; then random ones.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use super::event::{self, Event, EventError};
use super::over_http::*;
use crate::noise::Noise;

const S: Duration = Duration::from_secs(1);

fn fields(lines: &[(&'static str, &str)]) -> AnswerFields {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    AnswerFields::of(&headers)
}

fn text(content: &str) -> Event {
    Event::Text(Bytes::copy_from_slice(content.as_bytes()))
}

/// A WebSocket and its origin.
struct Bench {
    it: OverHttp,
    now: Instant,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do to start from"
    )]
    fn with(events: EventsPerRequest, lines: &[(&'static str, &str)]) -> Self {
        let now = Instant::now();
        Self {
            it: OverHttp::new(events, &fields(lines), now),
            now,
        }
    }

    fn new() -> Self {
        Self::with(EventsPerRequest::All, &[])
    }

    fn text(&mut self, content: &str) {
        self.it.push(text(content));
    }

    fn close(&mut self, content: &'static str) {
        self.it.close(Bytes::from_static(content.as_bytes()));
    }

    /// The origin is asked this, and nothing else while that is under way.
    #[track_caller]
    fn asks_again(&mut self, body: &str, replayed: usize) {
        let request = self.it.poll_request(self.now).expect("a request");
        let found = std::str::from_utf8(&request.body).unwrap();
        assert_eq!((found, request.replayed), (body, replayed));
        assert_eq!(self.it.poll_request(self.now), None, "one at a time");
        assert_eq!(self.it.poll_timeout(), None, "nothing is due meanwhile");
    }

    #[track_caller]
    fn asks(&mut self, body: &str) {
        self.asks_again(body, 0);
    }

    #[track_caller]
    fn is_silent(&mut self) {
        assert_eq!(self.it.poll_request(self.now), None);
    }

    #[track_caller]
    fn is_over(&mut self) {
        assert!(self.it.is_over());
        assert_eq!(self.it.poll_timeout(), None);
        self.is_silent();
    }

    fn hear(
        &mut self,
        lines: &[(&'static str, &str)],
        body: &str,
    ) -> Result<Vec<Event>, AnswerError> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.it.handle_answer(&fields(lines), &body, self.now)
    }

    /// The origin answers with nothing to be passed on.
    #[track_caller]
    fn hears(&mut self, lines: &[(&'static str, &str)]) {
        assert_eq!(self.hear(lines, ""), Ok(Vec::new()));
    }

    #[track_caller]
    fn accepts(&mut self, bytes: &str) {
        self.hears(&[("content-bytes-accepted", bytes)]);
    }

    #[track_caller]
    fn fails(&mut self, lines: &[(&'static str, &str)], body: &str, expected: AnswerError) {
        assert_eq!(self.hear(lines, body), Err(expected));
        self.it.handle_failed();
        self.is_over();
    }

    /// The time that is left until the machine acts by itself passes.
    #[track_caller]
    fn waits(&mut self, expected: Duration) {
        let due = self.it.poll_timeout().expect("something is due");
        assert_eq!(due - self.now, expected);
        if !expected.is_zero() {
            self.is_silent();
        }
        self.now = due;
    }

    #[track_caller]
    fn never_acts(&mut self) {
        assert_eq!(self.it.poll_timeout(), None);
        self.now += S * 1_000_000;
        self.is_silent();
    }

    #[track_caller]
    fn has_meta(&self, expected: &[(&str, &str)]) {
        let mut found: Vec<(&str, &str)> = self
            .it
            .meta()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

#[test]
fn an_origin_may_say_its_last_word_with_the_opening() {
    let opening = |body: &[u8]| {
        let mut bench = Bench::new();
        let mut events = event::decode(&Bytes::copy_from_slice(body)).unwrap();
        bench.it.handle_opening(&mut events);
        (bench, events)
    };
    let (mut bench, events) = opening(b"TEXT 1\r\nx\r\nDISCONNECT\r\nTEXT 1\r\ny\r\n");
    assert_eq!(events, [text("x"), Event::Disconnect]);
    bench.is_over();
    let (mut bench, _) = opening(b"CLOSE 2\r\n\x03\xe8\r\n");
    bench.is_silent();
    bench.it.vanish();
    bench.is_over();
    let (mut bench, _) = opening(b"CLOSE 2\r\n\x03\xe8\r\n");
    bench.close("\u{3}");
    assert!(
        bench.it.poll_request(bench.now).is_some(),
        "it hears the answer"
    );
    let (mut bench, events) = opening(b"TEXT 1\r\nx\r\n");
    assert_eq!(events, [text("x")]);
    bench.it.vanish();
    bench.asks("DISCONNECT\r\n");
}

#[test]
fn a_websocket_takes_little_memory() {
    assert!(size_of::<OverHttp>() <= 64, "{}", size_of::<OverHttp>());
}

#[test]
fn nothing_is_asked_without_reason() {
    Bench::new().never_acts();
}

#[test]
fn messages_that_come_meanwhile_go_together() {
    let mut bench = Bench::new();
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.text("b");
    bench.it.push(Event::Ping(Bytes::new()));
    bench.text("");
    bench.it.push(Event::Binary(Bytes::from_static(b"c")));
    bench.it.push(Event::Pong(Bytes::from_static(b"d")));
    bench.is_silent();
    bench.hears(&[]);
    bench.asks("TEXT 1\r\nb\r\nPING\r\nTEXT 0\r\n\r\nBINARY 1\r\nc\r\nPONG 1\r\nd\r\n");
    bench.hears(&[]);
    bench.never_acts();
}

#[test]
fn one_event_goes_alone_if_the_origin_wants_it_so() {
    let mut bench = Bench::with(EventsPerRequest::One, &[]);
    for content in ["a", "", "bc"] {
        bench.text(content);
    }
    bench.close("\0\0");
    bench.asks("TEXT 1\r\na\r\n");
    bench.hears(&[]);
    bench.asks("TEXT 0\r\n\r\n");
    bench.hears(&[]);
    bench.asks("TEXT 2\r\nbc\r\n");
    bench.accepts("1");
    bench.asks_again("TEXT 1\r\nc\r\n", 1);
    bench.hears(&[]);
    bench.asks("CLOSE 2\r\n\0\0\r\n");
    bench.hears(&[]);
    bench.is_over();
}

#[test]
fn one_event_with_others_behind_it_must_be_accepted_in_part() {
    let mut bench = Bench::with(EventsPerRequest::One, &[]);
    bench.text("abc");
    bench.asks("TEXT 3\r\nabc\r\n");
    bench.accepts("0");
    bench.never_acts();
    bench.text("d");
    bench.asks_again("TEXT 3\r\nabc\r\n", 3);
    bench.accepts("2");
    bench.asks_again("TEXT 1\r\nc\r\n", 1);
    bench.fails(
        &[("content-bytes-accepted", "0")],
        "",
        AnswerError::NoProgress,
    );
}

#[test]
fn what_is_not_accepted_is_sent_again_with_what_comes_next() {
    let mut bench = Bench::new();
    bench.text("[foo][hello");
    bench.asks("TEXT b\r\n[foo][hello\r\n");
    bench.accepts("5");
    bench.is_silent();
    bench.text(" world]");
    bench.asks_again("TEXT 6\r\n[hello\r\nTEXT 7\r\n world]\r\n", 6);
    assert_eq!(
        bench.hear(&[], "TEXT 4\r\n[ok]\r\n"),
        Ok(vec![text("[ok]")])
    );
    bench.never_acts();
    bench.text("x");
    bench.asks("TEXT 1\r\nx\r\n");
}

/// Of `ab`, nothing, `cd` and a ping `e`, so many bytes are accepted; what goes with the next `f`?
#[track_caller]
fn check_kept(accepted: &str, kept: &str, replayed: usize) {
    let mut bench = Bench::new();
    bench.text("ab");
    bench.text("");
    bench.text("cd");
    bench.it.push(Event::Ping(Bytes::from_static(b"e")));
    bench.asks("TEXT 2\r\nab\r\nTEXT 0\r\n\r\nTEXT 2\r\ncd\r\nPING 1\r\ne\r\n");
    // It comes before the answer, and is no reason to count it as sent.
    bench.text("f");
    assert_eq!(bench.it.room(), BUFFER - 6 - 5 * 64);
    bench.accepts(accepted);
    bench.asks_again(&format!("{kept}TEXT 1\r\nf\r\n"), replayed);
    bench.hears(&[]);
    bench.is_silent();
    assert_eq!(bench.it.room(), BUFFER);
}

#[test]
fn any_number_of_bytes_may_be_accepted() {
    let all = "TEXT 2\r\nab\r\nTEXT 0\r\n\r\nTEXT 2\r\ncd\r\nPING 1\r\ne\r\n";
    check_kept("0", all, 5);
    check_kept("1", &all.replace("TEXT 2\r\nab", "TEXT 1\r\nb"), 4);
    check_kept("2", "TEXT 2\r\ncd\r\nPING 1\r\ne\r\n", 3);
    check_kept("3", "TEXT 1\r\nd\r\nPING 1\r\ne\r\n", 2);
    check_kept("4", "PING 1\r\ne\r\n", 1);
    check_kept("5", "", 0);
    // What is no number is all.
    for all in ["-1", "", "x", "1.5"] {
        check_kept(all, "", 0);
    }
}

#[test]
fn more_cannot_be_accepted_than_was_sent() {
    for (found, number) in [("3", 3), ("99999999999999999999999", usize::MAX)] {
        let mut bench = Bench::new();
        bench.text("ab");
        bench.asks("TEXT 2\r\nab\r\n");
        bench.text("cd");
        let error = AnswerError::Accepted {
            found: number,
            sent: 2,
        };
        bench.fails(&[("content-bytes-accepted", found)], "", error);
    }
}

#[test]
fn what_is_kept_goes_with_a_refresh_a_keep_alive_and_a_close() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "30")]);
    bench.text("ab");
    bench.asks("TEXT 2\r\nab\r\n");
    bench.accepts("1");
    bench.it.refresh();
    bench.asks_again("TEXT 1\r\nb\r\n", 1);
    bench.accepts("0");
    bench.waits(30 * S);
    bench.asks_again("TEXT 1\r\nb\r\n", 1);
    bench.accepts("0");
    bench.close("");
    bench.asks_again("TEXT 1\r\nb\r\nCLOSE\r\n", 1);
    bench.hears(&[("keep-alive-interval", "0")]);
    bench.is_over();
}

#[test]
fn a_close_that_was_not_accepted_is_sent_again() {
    let mut bench = Bench::new();
    bench.text("ab");
    bench.close("\0\x01!");
    bench.asks("TEXT 2\r\nab\r\nCLOSE 3\r\n\0\x01!\r\n");
    bench.accepts("1");
    bench.asks_again("TEXT 1\r\nb\r\nCLOSE 3\r\n\0\x01!\r\n", 1);
    bench.accepts("4");
    bench.is_over();
}

#[test]
fn a_close_is_accepted_as_a_whole_or_with_nothing_of_it() {
    for (accepted, error) in [
        ("0", AnswerError::NoProgress),
        ("2", AnswerError::CloseInPart),
        ("3", AnswerError::CloseInPart),
    ] {
        let mut bench = Bench::new();
        bench.text("ab");
        bench.close("\0\x01");
        bench.asks("TEXT 2\r\nab\r\nCLOSE 2\r\n\0\x01\r\n");
        bench.fails(&[("content-bytes-accepted", accepted)], "", error);
    }
}

#[test]
fn an_origin_that_is_not_reached_is_tried_six_times() {
    let mut bench = Bench::new();
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.text("b");
    for seconds in [1, 2, 4, 8, 16] {
        let jitter = Duration::from_millis(seconds);
        assert_eq!(bench.it.handle_unsent(bench.now, jitter), Ok(()));
        bench.waits(S * u32::try_from(seconds).unwrap() + jitter);
        bench.asks("TEXT 1\r\na\r\n");
    }
    let given_up = bench.it.handle_unsent(bench.now, Duration::ZERO);
    assert_eq!(given_up, Err(GivenUp));
    bench.is_over();
}

#[test]
fn an_answer_ends_the_retries() {
    let mut bench = Bench::new();
    for content in ["a", "b"] {
        bench.text(content);
        bench.asks(&format!("TEXT 1\r\n{content}\r\n"));
        for wait in [1, 2] {
            bench.it.handle_unsent(bench.now, Duration::ZERO).unwrap();
            bench.waits(S * wait);
            bench.asks(&format!("TEXT 1\r\n{content}\r\n"));
        }
        bench.hears(&[]);
    }
    bench.never_acts();
}

#[test]
fn a_failure_told_twice_counts_once() {
    let mut bench = Bench::new();
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    for _ in 0..9 {
        bench.it.handle_unsent(bench.now, Duration::ZERO).unwrap();
    }
    bench.waits(S);
    bench.asks("TEXT 1\r\na\r\n");
}

#[test]
fn any_other_failure_is_the_end() {
    let mut bench = Bench::new();
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.it.handle_failed();
    bench.is_over();
    bench.text("b");
    bench.close("");
    bench.it.vanish();
    bench.it.refresh();
    bench.is_over();
    assert_eq!(bench.hear(&[], "TEXT 1\r\nx\r\n"), Ok(Vec::new()));
    assert_eq!(bench.it.handle_unsent(bench.now, S), Ok(()));
    bench.is_over();
}

#[track_caller]
fn check_interval(value: &str, expected: Interval) {
    let found = fields(&[("keep-alive-interval", value)]).keep_alive;
    assert_eq!(found, Some(expected), "{value:?}");
}

#[test]
fn intervals_are_seconds_and_at_least_twenty() {
    for (value, seconds) in [
        ("1", 20),
        ("19", 20),
        ("20", 20),
        (" 21 ", 21),
        ("300", 300),
    ] {
        check_interval(value, Interval::Every(S * seconds));
    }
    for value in ["0", "-1", "x", "", "1.5"] {
        check_interval(value, Interval::Off);
    }
    assert_eq!(fields(&[]).keep_alive, None);
}

#[test]
fn an_origin_is_asked_at_intervals_since_its_last_answer() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "1")]);
    bench.waits(20 * S);
    bench.asks("");
    bench.now += 5 * S;
    bench.hears(&[]);
    bench.waits(20 * S);
    bench.asks("");
    bench.hears(&[("keep-alive-interval", "60")]);
    // Any request begins the wait again.
    bench.now += 50 * S;
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.hears(&[]);
    bench.waits(60 * S);
    bench.asks("");
    bench.hears(&[("keep-alive-interval", "none")]);
    bench.never_acts();
}

#[test]
fn an_interval_without_end_is_none() {
    let forever = u64::MAX.to_string();
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", &forever)]);
    bench.never_acts();
}

#[test]
fn a_keep_alive_that_does_not_arrive_is_tried_again() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "20")]);
    bench.waits(20 * S);
    bench.asks("");
    bench.it.handle_unsent(bench.now, Duration::ZERO).unwrap();
    // What comes meanwhile waits: the same is sent again.
    bench.text("a");
    bench.waits(S);
    bench.asks("");
    bench.hears(&[]);
    bench.asks("TEXT 1\r\na\r\n");
}

#[test]
fn a_refresh_is_one_more_request() {
    let mut bench = Bench::new();
    bench.it.refresh();
    bench.it.refresh();
    bench.asks("");
    bench.it.refresh();
    bench.text("a");
    bench.is_silent();
    bench.hears(&[]);
    bench.asks("TEXT 1\r\na\r\n");
    bench.hears(&[]);
    bench.never_acts();
}

#[test]
fn only_an_open_websocket_is_refreshed() {
    let mut bench = Bench::new();
    bench.it.refresh();
    bench.close("");
    bench.asks("CLOSE\r\n");
    bench.it.refresh();
    bench.hears(&[]);
    bench.is_over();
}

#[test]
fn a_client_closes_behind_its_messages() {
    let mut bench = Bench::new();
    bench.text("a");
    bench.close("\x03!bye");
    bench.text("b");
    bench.close("");
    bench.asks("TEXT 1\r\na\r\nCLOSE 5\r\n\x03!bye\r\n");
    let answer = bench.hear(&[], "TEXT 1\r\nx\r\nCLOSE\r\n");
    assert_eq!(answer, Ok(vec![text("x"), Event::Close(Bytes::new())]));
    bench.is_over();
}

#[test]
fn without_an_answer_to_its_close_an_origin_is_asked_at_its_intervals() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "20")]);
    bench.close("");
    bench.asks("CLOSE\r\n");
    bench.hears(&[]);
    for _ in 0..3 {
        bench.waits(20 * S);
        bench.asks("");
        assert_eq!(bench.hear(&[], "TEXT 1\r\nx\r\n"), Ok(vec![text("x")]));
    }
    bench.waits(20 * S);
    bench.asks("");
    let close = Event::Close(Bytes::from_static(b"\x03!"));
    assert_eq!(bench.hear(&[], "CLOSE 2\r\n\x03!\r\n"), Ok(vec![close]));
    bench.is_over();
}

#[test]
fn without_intervals_the_answer_to_a_close_is_the_end() {
    let mut bench = Bench::new();
    bench.close("");
    bench.asks("CLOSE\r\n");
    assert_eq!(bench.hear(&[], "TEXT 1\r\nx\r\n"), Ok(vec![text("x")]));
    bench.is_over();
}

#[test]
fn an_origin_that_closes_hears_the_clients_close() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "20")]);
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.text("never sent");
    let close = Event::Close(Bytes::from_static(b"\0\x01"));
    assert_eq!(bench.hear(&[], "CLOSE 2\r\n\0\x01\r\n"), Ok(vec![close]));
    bench.text("never sent");
    bench.it.refresh();
    bench.never_acts();
    bench.close("\0\x02");
    bench.asks("CLOSE 2\r\n\0\x02\r\n");
    // Whatever it answers.
    assert_eq!(bench.hear(&[], "TEXT 1\r\nx\r\n"), Ok(vec![text("x")]));
    bench.is_over();
}

#[test]
fn closes_that_cross_are_both_heard() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "20")]);
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.text("never sent");
    bench.close("\0\x01");
    let answer = bench.hear(&[], "CLOSE\r\n");
    assert_eq!(answer, Ok(vec![Event::Close(Bytes::new())]));
    bench.asks("CLOSE 2\r\n\0\x01\r\n");
    bench.hears(&[]);
    bench.is_over();
}

#[test]
fn an_origin_that_closes_and_does_not_accept_a_close_hears_it_alone() {
    let unheard = || {
        let mut bench = Bench::new();
        bench.text("ab");
        bench.close("");
        bench.asks("TEXT 2\r\nab\r\nCLOSE\r\n");
        bench
    };
    let vanished = || {
        let mut bench = unheard();
        bench.it.vanish();
        bench
    };
    for mut bench in [unheard(), vanished()] {
        let answer = bench.hear(&[("content-bytes-accepted", "1")], "CLOSE\r\n");
        assert_eq!(answer, Ok(vec![Event::Close(Bytes::new())]));
        bench.asks("CLOSE\r\n");
        bench.hears(&[]);
        bench.is_over();
    }
}

const GONE: &str = "DISCONNECT\r\n";

#[test]
fn a_client_that_vanishes_is_told_once() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("keep-alive-interval", "20")]);
    bench.it.refresh();
    bench.text("never sent");
    bench.it.vanish();
    bench.it.vanish();
    bench.asks(GONE);
    bench.it.handle_unsent(bench.now, Duration::ZERO).unwrap();
    bench.waits(S);
    bench.asks(GONE);
    bench.hears(&[("set-meta-a", "b")]);
    bench.is_over();
}

#[test]
fn a_client_that_vanishes_meanwhile_is_told_behind_the_answer() {
    let mut bench = Bench::new();
    bench.text("ab");
    bench.asks("TEXT 2\r\nab\r\n");
    bench.text("never sent");
    bench.it.vanish();
    bench.close("");
    bench.is_silent();
    bench.accepts("1");
    bench.asks(GONE);
    bench.hears(&[]);
    bench.is_over();
}

#[test]
fn a_client_that_vanishes_before_a_retry_is_told_behind_it() {
    let mut bench = Bench::new();
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.it.handle_unsent(bench.now, Duration::ZERO).unwrap();
    bench.it.vanish();
    bench.waits(S);
    bench.asks("TEXT 1\r\na\r\n");
    bench.hears(&[]);
    bench.asks(GONE);
    bench.hears(&[]);
    bench.is_over();
}

#[test]
fn an_origin_that_ended_it_is_not_told_that_the_client_is_gone() {
    for body in ["CLOSE\r\n", GONE] {
        let mut bench = Bench::new();
        bench.text("a");
        bench.asks("TEXT 1\r\na\r\n");
        bench.it.vanish();
        assert_eq!(bench.hear(&[], body).unwrap().len(), 1);
        bench.is_over();
    }
    let mut bench = Bench::new();
    bench.it.refresh();
    bench.asks("");
    bench.hear(&[], "CLOSE\r\n").unwrap();
    bench.it.vanish();
    bench.is_over();
}

#[test]
fn a_client_that_closed_and_vanished_waits_for_nothing() {
    let interval = [("keep-alive-interval", "20")];
    let closing = || {
        let mut bench = Bench::with(EventsPerRequest::All, &interval);
        bench.text("a");
        bench.close("");
        bench
    };
    // Before the close is sent.
    let mut bench = closing();
    bench.it.vanish();
    bench.asks("TEXT 1\r\na\r\nCLOSE\r\n");
    bench.hears(&interval);
    bench.is_over();
    // While it is under way.
    let mut bench = closing();
    bench.asks("TEXT 1\r\na\r\nCLOSE\r\n");
    bench.it.vanish();
    bench.hears(&interval);
    bench.is_over();
    // Once it is accepted, and while another answer is waited for.
    let mut bench = closing();
    bench.asks("TEXT 1\r\na\r\nCLOSE\r\n");
    bench.hears(&interval);
    bench.waits(20 * S);
    bench.asks("");
    bench.it.vanish();
    bench.is_over();
    assert_eq!(bench.hear(&interval, "TEXT 1\r\nx\r\n"), Ok(Vec::new()));
    bench.is_over();
}

#[test]
fn a_disconnect_is_the_end_and_what_stands_behind_an_end_does_not_count() {
    for (body, expected) in [
        (
            "TEXT 1\r\nx\r\nDISCONNECT\r\nCLOSE\r\nOPEN\r\n",
            vec![text("x"), Event::Disconnect],
        ),
        (
            "CLOSE\r\nOPEN\r\nDISCONNECT\r\nTEXT 1\r\nx\r\n",
            vec![Event::Close(Bytes::new())],
        ),
    ] {
        let mut bench = Bench::new();
        bench.text("a");
        bench.asks("TEXT 1\r\na\r\n");
        assert_eq!(bench.hear(&[], body), Ok(expected));
        bench.never_acts();
    }
}

#[test]
fn answers_that_cannot_be() {
    for (body, error) in [
        ("OPEN\r\n", AnswerError::Open),
        ("TEXT 1\r\nx\r\nOPEN\r\n", AnswerError::Open),
        ("TEXT 1\r\n", AnswerError::Events(EventError::Content)),
        ("CLOSE\r\nTEXT", AnswerError::Events(EventError::Line)),
    ] {
        let mut bench = Bench::new();
        bench.text("a");
        bench.asks("TEXT 1\r\na\r\n");
        bench.fails(&[], body, error);
    }
    Bench::new().fails(&[], "", AnswerError::Unasked);
    let mut bench = Bench::new();
    bench.text("a");
    bench.asks("TEXT 1\r\na\r\n");
    bench.it.handle_unsent(bench.now, S).unwrap();
    bench.fails(&[], "", AnswerError::Unasked);
}

#[test]
fn metadata_is_set_replaced_and_removed() {
    let mut bench = Bench::with(EventsPerRequest::All, &[("set-meta-user", "ada")]);
    bench.has_meta(&[("meta-user", "ada")]);
    bench.it.refresh();
    bench.asks("");
    bench.hears(&[
        ("Set-Meta-User", "eve"),
        ("set-meta-a", "1"),
        ("set-meta-", "nothing"),
        ("meta-b", "nothing"),
    ]);
    bench.has_meta(&[("meta-a", "1"), ("meta-user", "eve")]);
    bench.it.vanish();
    bench.asks(GONE);
    bench.hears(&[
        ("set-meta-a", ""),
        ("set-meta-user", ""),
        ("set-meta-c", ""),
    ]);
    bench.has_meta(&[]);
}

#[test]
fn metadata_has_a_limit() {
    let much = "x".repeat(16_384 - "meta-a".len());
    let mut bench = Bench::new();
    bench.it.refresh();
    bench.asks("");
    bench.hears(&[("set-meta-a", &much)]);
    // It may be replaced by as much.
    bench.it.refresh();
    bench.asks("");
    bench.hears(&[("set-meta-a", &much)]);
    bench.it.refresh();
    bench.asks("");
    bench.fails(&[("set-meta-b", "1")], "", AnswerError::Meta);
}

#[test]
fn small_events_fill_the_buffer_too() {
    let mut bench = Bench::new();
    let mut count = 0;
    while bench.it.room() > 0 {
        bench.it.push(Event::Ping(Bytes::new()));
        count += 1;
    }
    assert!(count < 4000, "{count}");
    bench.it.poll_request(bench.now).unwrap();
    bench.hears(&[]);
    assert_eq!(bench.it.room(), BUFFER);
}

/// A random conversation beside a model of it.
struct Random {
    bench: Bench,
    noise: Noise,
    /// Contents that were pushed and not accepted, one after the other.
    waiting: VecDeque<u8>,
    /// How many of those were sent, and how many are in the request under way.
    sent: usize,
    in_flight: Option<usize>,
    next: u8,
}

impl Random {
    fn new(seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let events = match noise.below(2) {
            0 => EventsPerRequest::All,
            _ => EventsPerRequest::One,
        };
        let lines: &[_] = match noise.below(2) {
            0 => &[],
            _ => &[("keep-alive-interval", "20")],
        };
        Self {
            bench: Bench::with(events, lines),
            noise,
            waiting: VecDeque::new(),
            sent: 0,
            in_flight: None,
            next: 0,
        }
    }

    fn push(&mut self) {
        let length = self.noise.below(4);
        let content: Vec<u8> = std::iter::repeat_with(|| {
            self.next = self.next.wrapping_add(1);
            self.next
        })
        .take(length)
        .collect();
        self.waiting.extend(&content);
        let content = Bytes::from(content);
        self.bench.it.push(match self.noise.below(4) {
            0 => Event::Text(content),
            1 => Event::Binary(content),
            2 => Event::Ping(content),
            _ => Event::Pong(content),
        });
    }

    fn poll(&mut self) {
        let Some(request) = self.bench.it.poll_request(self.bench.now) else {
            return;
        };
        let content: Vec<u8> = event::decode(&request.body)
            .unwrap()
            .iter()
            .flat_map(|event| event.content().to_vec())
            .collect();
        assert_eq!(self.in_flight, None, "one request at a time");
        assert!(self.waiting.iter().take(content.len()).eq(&content));
        assert_eq!(request.replayed, self.sent.min(content.len()));
        self.in_flight = Some(content.len());
    }

    /// The request under way is answered, or not.
    fn answer(&mut self) {
        let Some(sent) = self.in_flight.take() else {
            return;
        };
        if self.noise.below(4) == 0 && self.bench.it.handle_unsent(self.bench.now, S).is_ok() {
            return;
        }
        // Some progress at least, so that the conversation goes on.
        let accepted = (1 + self.noise.below(sent + 2)).min(sent);
        self.bench.accepts(&accepted.to_string());
        self.waiting.drain(..accepted);
        self.sent = self.sent.max(sent) - accepted;
    }

    fn step(&mut self) {
        match self.noise.below(8) {
            0..=2 => self.push(),
            3..=5 => self.answer(),
            6 => self.bench.it.refresh(),
            _ => self.bench.now += S * u32::try_from(self.noise.below(30)).unwrap(),
        }
        self.poll();
    }

    /// With answers to all that it asks, it ends soon.
    fn end(mut self) {
        let vanishes = self.noise.below(2) == 0;
        let closes = self.noise.below(2) == 0;
        if closes {
            self.bench.close("");
            for _ in 0..self.noise.below(4) {
                self.answer();
                self.poll();
            }
        }
        if vanishes || !closes {
            self.bench.it.vanish();
        }
        let waits = self.waiting.len();
        for _ in 0..20 + 2 * waits {
            if self.bench.it.is_over() {
                break;
            }
            self.bench.now += 60 * S;
            self.poll();
            let sent = self.in_flight.take().expect("something is asked");
            self.waiting.drain(..sent);
            self.sent = 0;
            let off = [("keep-alive-interval", "0")];
            self.bench.hears(if vanishes { &[] } else { &off });
        }
        self.bench.is_over();
    }
}

#[test]
fn every_byte_is_accepted_once_and_in_order_and_there_is_an_end() {
    for seed in 1..=2000 {
        let mut random = Random::new(seed);
        for _ in 0..200 {
            random.step();
            if random.bench.it.is_over() {
                // Six failures in a row.
                break;
            }
        }
        if !random.bench.it.is_over() {
            random.end();
        }
    }
}

#[test]
fn a_conversation_that_rests_takes_little() {
    assert!(size_of::<OverHttp>() <= 16);
}
