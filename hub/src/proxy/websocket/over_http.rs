//! WebSocket-over-HTTP: opening, and the exchange of events afterwards.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use grip::UnixTime;
use grip::hold::Answer;
use grip::instruct::Status;
use grip::websocket::event::{self, Event};
use grip::websocket::over_http::{self, AnswerFields, Interval};
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, SEC_WEBSOCKET_EXTENSIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time;

use super::super::body::Content;
use super::super::request::sign;
use super::super::target::{endpoint, reach, requested_host};
use super::super::{Proxy, response, text, unix_now};
use super::{Accepted, Broken, OpenError, Reply};
use crate::config::Signature;
use crate::engine::websocket::OriginStart;
use crate::exchange::{ExchangeError, Failure};
use crate::handshake::{Handshake, Offer, Trust};
use crate::routes::{Grip, TargetKind};
use crate::upstream::SendError;

/// Bytes of events in one answer.
const MAX_EVENTS: usize = 1_000_000;
/// Bytes of an answer that opens no WebSocket; the client gets no more of it.
const MAX_REJECTION: usize = 100_000;
/// How long an exchange of events may take. Origins may make clients wait for their answer.
const MAX_EXCHANGE: Duration = Duration::from_mins(30);
/// How long an origin may take to open a WebSocket whose client is gone.
const AFTER_CLIENT: Duration = Duration::from_mins(1);

const CONNECTION_ID: HeaderName = HeaderName::from_static("connection-id");
const CONTENT_BYTES_REPLAYED: HeaderName = HeaderName::from_static("content-bytes-replayed");
const EVENTS: HeaderValue = HeaderValue::from_static(event::CONTENT_TYPE);

/// What came of asking once.
enum Asked {
    Replied(Reply),
    /// Ask again after this time, with what the answer said.
    Later(Duration, Box<AnswerFields>),
}

impl Proxy {
    /// Sends events to the origin of an open WebSocket: the one target that opened it. The answer's
    /// body is still to be decoded.
    ///
    /// Cancel safe: dropped, it ends the request.
    ///
    /// # Errors
    /// [`ExchangeError`]; such exchanges are counted.
    pub(crate) async fn exchange_events(
        &self,
        handshake: &Handshake,
        request: over_http::Request,
        meta: HeaderMap,
    ) -> Result<(AnswerFields, Bytes), ExchangeError> {
        let exchange = self.try_exchange(handshake, request, meta);
        let exchanged = match time::timeout(MAX_EXCHANGE, exchange).await {
            Ok(exchanged) => exchanged,
            Err(_) => Err(ExchangeError::Failed(Failure::Time)),
        };
        if let Err(error) = &exchanged {
            self.counters.exchange_errors.increment();
            tracing::debug!(%error, target = %handshake.target(), "events were not exchanged");
        }
        exchanged
    }

    async fn try_exchange(
        &self,
        handshake: &Handshake,
        request: over_http::Request,
        meta: HeaderMap,
    ) -> Result<(AnswerFields, Bytes), ExchangeError> {
        let response = self.send_events(handshake, request, meta).await?;
        let failed = |failure| Err(ExchangeError::Failed(failure));
        if response.status() != StatusCode::OK {
            return failed(Failure::Status(response.status()));
        }
        if !event::is_events(response.headers()) {
            return failed(Failure::Type);
        }
        let fields = AnswerFields::of(response.headers());
        match Limited::new(response.into_body(), MAX_EVENTS)
            .collect()
            .await
        {
            Ok(body) => Ok((fields, body.to_bytes())),
            Err(_) => failed(Failure::Body),
        }
    }

    async fn send_events(
        &self,
        handshake: &Handshake,
        request: over_http::Request,
        meta: HeaderMap,
    ) -> Result<Response<Incoming>, SendError> {
        let signature = &self.config.signature;
        let headers = events_headers(handshake, &request, meta, signature, unix_now());
        self.send_as(handshake, Method::POST, headers, request.body)
            .await
    }

    /// Sends a request to a handshake's target; of the headers, only `Host` is changed.
    pub(super) async fn send_as(
        &self,
        handshake: &Handshake,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, SendError> {
        let target = handshake.target();
        if target.kind == TargetKind::Test {
            return Err(SendError::Other("the hub does not ask itself".to_owned()));
        }
        if let Some(host) = requested_host(handshake.route(), target) {
            headers.insert(HOST, host);
        }
        let endpoint = endpoint(target, headers.get(HOST).map_or("localhost", text));
        let (body, _) = Content::complete(body).attempt();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(handshake.path());
        *request.headers_mut() = headers;
        self.upstream.send(&endpoint, reach(target), request).await
    }

    /// Sends `OPEN` to the handshake's target until it is answered with more than a pause.
    ///
    /// Cancel safe: a request under way is not ended; if it opens the WebSocket, the origin is told
    /// that the client is gone.
    pub(super) async fn open_over_http(
        self: &Rc<Self>,
        handshake: &Handshake,
    ) -> Result<Reply, OpenError> {
        let mut earlier = AnswerFields::default();
        loop {
            let (mut told, reply) = oneshot::channel();
            let (this, handshake) = (Rc::clone(self), handshake.clone());
            tokio::task::spawn_local(async move {
                let opened = tokio::select! {
                    opened = time::timeout(MAX_EXCHANGE, this.open_once(&handshake, earlier)) => opened,
                    () = was_given_up(&mut told) => return,
                };
                // What nobody waits for is dropped, and with it its farewell, which is said then.
                let _ = told.send(opened.unwrap_or(Err(Broken::Slow.into())));
            });
            match reply.await.unwrap_or(Err(Broken::End.into()))? {
                Asked::Replied(reply) => return Ok(reply),
                Asked::Later(pause, fields) => {
                    time::sleep(pause).await;
                    earlier = *fields;
                }
            }
        }
    }

    /// `earlier` is what the origin said when it had the hub ask later.
    async fn open_once(
        self: &Rc<Self>,
        handshake: &Handshake,
        earlier: AnswerFields,
    ) -> Result<Asked, OpenError> {
        let mut body = Vec::new();
        Event::Open.encode(&mut body);
        let request = over_http::Request {
            body: body.into(),
            replayed: 0,
        };
        let meta = meta(&earlier);
        let response = self.send_events(handshake, request, meta).await?;
        if response.status() != StatusCode::OK || !event::is_events(response.headers()) {
            let rejection = read_rejection(response).await?;
            return Ok(Asked::Replied(Reply::Rejected(Box::new(rejection))));
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_EVENTS).collect().await;
        let body = body.map_err(|_| Broken::Body)?.to_bytes();
        let fields = AnswerFields::of(&parts.headers).after(earlier);
        let mut events = match first_events(&fields, &body)? {
            First::Opened(events) => events,
            First::Later(pause) => return Ok(Asked::Later(pause, Box::new(fields))),
        };
        events.shrink_to_fit();
        // An origin that has said its last word already need not hear that the client is gone.
        let is_last = |event: &Event| matches!(event, Event::Close(_) | Event::Disconnect);
        let farewell =
            (!events.iter().any(is_last)).then(|| self.farewell(handshake, fields.clone()));
        Ok(Asked::Replied(Reply::Accepted(Box::new(Accepted {
            headers: parts.headers,
            origin: OriginStart::OverHttp { fields, events },
            upgraded: None,
            farewell,
        }))))
    }
}

/// Waits until an origin that was asked on behalf of a client that is gone had time enough.
async fn was_given_up<T>(told: &mut oneshot::Sender<T>) {
    told.closed().await;
    time::sleep(AFTER_CLIENT).await;
}

/// What the origin wants to have back.
fn meta(fields: &AnswerFields) -> HeaderMap {
    let mut meta = HeaderMap::new();
    for (name, value) in &fields.set_meta {
        if value.is_empty() {
            meta.remove(name);
        } else {
            meta.insert(name, value.clone());
        }
    }
    meta
}

/// What the first answer says.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// These events follow `OPEN`.
    Opened(Vec<Event>),
    /// Nothing yet.
    Later(Duration),
}

fn first_events(fields: &AnswerFields, body: &Bytes) -> Result<First, Broken> {
    let mut events = event::decode(body)?.into_iter();
    match (events.next(), &fields.keep_alive) {
        (Some(Event::Open), _) => {
            let events: Vec<Event> = events.collect();
            if events.contains(&Event::Open) {
                return Err(Broken::OpenTwice);
            }
            Ok(First::Opened(events))
        }
        (None, Some(Interval::Every(pause))) if body.is_empty() => Ok(First::Later(*pause)),
        _ => Err(Broken::NotOpen),
    }
}

/// The answer of an origin that opens no WebSocket, with as much of its body as clients get.
pub(super) async fn read_rejection(response: Response<Incoming>) -> Result<Answer, Broken> {
    let (parts, mut incoming) = response.into_parts();
    if parts.status.is_informational() {
        return Err(Broken::Status(parts.status));
    }
    let mut body = Vec::new();
    while body.len() < MAX_REJECTION
        && let Some(frame) = incoming.frame().await
    {
        if let Ok(data) = frame.map_err(|_| Broken::Body)?.into_data() {
            body.extend_from_slice(&data);
        }
    }
    body.truncate(MAX_REJECTION);
    Ok(Answer {
        status: Status {
            code: parts.status,
            reason: response::reason(&parts.extensions),
        },
        headers: parts.headers,
        body: body.into(),
    })
}

/// The headers of a request with events, all but `Host` as the origin gets them.
fn events_headers(
    handshake: &Handshake,
    request: &over_http::Request,
    meta: HeaderMap,
    signature: &Signature,
    now: UnixTime,
) -> HeaderMap {
    let mut headers = signed_headers(handshake, handshake.headers(), signature, now);
    headers.insert(ACCEPT, EVENTS);
    headers.insert(CONNECTION_ID, handshake.id());
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(CONTENT_LENGTH, request.body.len().into());
    if request.replayed > 0 {
        headers.insert(CONTENT_BYTES_REPLAYED, request.replayed.into());
    }
    headers.extend(meta);
    headers
}

/// These headers with what the hub says of itself: GRIP `Grip-Sig`, `Grip-Feature`, and the
/// extension `grip`.
pub(super) fn signed_headers(
    handshake: &Handshake,
    mut headers: HeaderMap,
    signature: &Signature,
    now: UnixTime,
) -> HeaderMap {
    let route = handshake.route();
    if handshake.trust() == Trust::Client && route.grip == Grip::On {
        sign(&mut headers, route, signature, now);
    }
    if handshake.offer() == Offer::Grip {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;
    use crate::handshake::Shake;
    use crate::routes::{Lookup, Protocol, Security, parse};
    use http::uri::PathAndQuery;
    use std::path::Path;
    use std::sync::Arc;

    fn handshake(route: &str, trust: Trust, offer: Offer) -> Handshake {
        let routes = parse(route).unwrap();
        let route = routes.find(&Lookup {
            host: "a",
            path: "/",
            protocol: Protocol::WebSocket,
            security: Security::Plain,
            id: None,
        });
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "app"),
            ("cookie", "sid=abc"),
            ("sec-websocket-key", "KEY"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("meta-user", "eve"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        Handshake::new(Shake {
            route: Arc::clone(route.unwrap()),
            path: &PathAndQuery::from_static("/chat"),
            headers: &headers,
            security: Security::Plain,
            trust,
            offer,
            tells_errors: false,
        })
    }

    #[track_caller]
    fn check(handshake: &Handshake, replayed: usize, expected: &[&str]) {
        let config = RawConfig::default().check(Path::new("")).unwrap();
        let request = over_http::Request {
            body: Bytes::from_static(b"OPEN\r\n"),
            replayed,
        };
        let mut meta = HeaderMap::new();
        meta.insert("meta-user", HeaderValue::from_static("alice"));
        let headers = events_headers(handshake, &request, meta, &config.signature, UnixTime(0));
        let found: Vec<String> = headers
            .iter()
            .map(|(name, value)| match name.as_str() {
                // Of those, only that they are there.
                "grip-sig" | "grip-feature" | "connection-id" => name.to_string(),
                _ => format!("{name}: {}", value.to_str().unwrap()),
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_request_has_the_clients_headers_and_its_own() {
        let handshake = handshake("* a:1", Trust::Client, Offer::Grip);
        check(
            &handshake,
            3,
            &[
                "host: app",
                "cookie: sid=abc",
                "sec-websocket-key: KEY",
                "grip-sig",
                "grip-feature",
                "sec-websocket-extensions: grip",
                "accept: application/websocket-events",
                "connection-id",
                "content-type: application/websocket-events",
                "content-length: 6",
                "content-bytes-replayed: 3",
                "meta-user: alice",
            ],
        );
    }

    #[test]
    fn only_where_grip_is_spoken_requests_are_signed() {
        let unsigned = [
            "host: app",
            "cookie: sid=abc",
            "sec-websocket-key: KEY",
            "accept: application/websocket-events",
            "connection-id",
            "content-type: application/websocket-events",
            "content-length: 6",
            "meta-user: alice",
        ];
        let route = "*,no_grip a:1";
        check(
            &handshake(route, Trust::Client, Offer::Nothing),
            0,
            &unsigned,
        );
        check(
            &handshake("* a:1", Trust::Proxy, Offer::Nothing),
            0,
            &unsigned,
        );
    }

    #[track_caller]
    fn check_first(pause: Option<u64>, body: &'static str, expected: Option<&First>) {
        let mut headers = HeaderMap::new();
        if let Some(pause) = pause {
            headers.insert("keep-alive-interval", pause.into());
        }
        let fields = AnswerFields::of(&headers);
        let found = first_events(&fields, &Bytes::from_static(body.as_bytes()));
        assert_eq!(found.ok().as_ref(), expected, "{pause:?} {body:?}");
    }

    #[test]
    fn the_first_event_has_to_be_open() {
        check_first(None, "OPEN\r\n", Some(&First::Opened(Vec::new())));
        let text = Event::Text(Bytes::from_static(b"hi"));
        let opened = First::Opened(vec![text, Event::Disconnect]);
        let events = "OPEN\r\nTEXT 2\r\nhi\r\nDISCONNECT\r\n";
        check_first(Some(30), events, Some(&opened));
        check_first(Some(30), "TEXT 2\r\nhi\r\nOPEN\r\n", None);
        check_first(Some(30), "OPEN", None);
    }

    #[test]
    fn an_origin_may_take_its_time() {
        let later = First::Later(Duration::from_secs(30));
        check_first(Some(30), "", Some(&later));
        check_first(Some(0), "", None);
        check_first(None, "", None);
    }
}
