//! From the origin's response to what the client gets.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use grip::ChannelName;
use grip::channel::Channel;
use grip::fields::{self, GRIPLINE_AGE};
use grip::filter::{self, Context, Filter};
use grip::hold::{self, Answer, PackedAnswer};
use grip::http1::Framing;
use grip::instruct::{HoldMode, Instruct, Status};
use http::header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Method, Response, Version};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use super::body::ResponseBody;
use super::error::ProxyError;
use super::link::Links;
use super::{Asked, EventResume, Held, Outcome, Proxy};
use crate::config::Limits;
use crate::dressing::Dressing;
use crate::engine::{
    AfterBody, AfterHold, AfterStart, Events, Hold, HoldKind, KeepAliveRule, OnGap, Repeat, Reply,
    Resume, Session, Slot, StreamFraming, Waiting,
};
use crate::handshake::Trust;
use crate::routes::{Grip, Target};

/// How long the rest of a request's body is waited for before its client is held.
const BODY_TIME: Duration = Duration::from_mins(1);
/// Bytes of an answer that becomes a script.
const MAX_JSONP: usize = 1_000_000;

/// An origin's response with an instruction.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) status: Status,
    pub(super) headers: HeaderMap,
    /// The body, or the beginning of it.
    pub(super) body: Bytes,
    /// The rest of a body that is larger than an instruction's may be.
    pub(super) rest: Option<Incoming>,
    pub(super) age: Age,
}

/// How old an answer is, to tell what may have been published since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// The origin wrote it at this time, or later.
    Since(Instant),
    /// Nobody knows.
    Unknown,
    /// It is a backup copy: it may be older than anything that is known, and nobody can be asked
    /// for what came after it.
    Backup,
}

impl Age {
    /// Of an answer with these headers that was asked for at a time, and comes just now; RFC 9111
    /// §5.1. The edge's own word is not for others, and removed.
    pub(super) fn take(headers: &mut HeaderMap, asked_at: Instant) -> Self {
        /// `Age` is in whole seconds.
        const ROUNDING: u64 = 1;
        let now = tokio::time::Instant::now().into_std();
        let exact = headers.remove(&GRIPLINE_AGE);
        let exact = exact.and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(millis) = exact {
            let since = now.checked_sub(Duration::from_millis(millis));
            return since.map_or(Self::Unknown, Self::Since);
        }
        let age = headers
            .get(AGE)
            .map(|value| value.to_str().ok()?.parse().ok());
        let since = match age {
            None => Some(asked_at),
            Some(age) => age.and_then(|seconds: u64| {
                asked_at.checked_sub(Duration::from_secs(seconds.saturating_add(ROUNDING)))
            }),
        };
        // Older than the clock reaches back is as old as can be, and so is what says no number.
        since.map_or(Self::Unknown, Self::Since)
    }

    fn as_of(self) -> Option<Instant> {
        match self {
            Self::Since(instant) => Some(instant),
            Self::Unknown | Self::Backup => None,
        }
    }
}

impl Origin {
    /// Reads a response whose headers may carry an instruction, with as much of its body as an
    /// instruction may have.
    pub(super) async fn read(
        response: Response<Incoming>,
        limits: &Limits,
        target: &Target,
        age: Age,
    ) -> Result<Self, ProxyError> {
        let (parts, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        let mut rest = None;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|_| ProxyError::Origin)?.into_data() else {
                continue;
            };
            body.extend_from_slice(&data);
            if body.len() > limits.instruct_bytes {
                rest = Some(incoming);
                break;
            }
        }
        let origin = Self {
            status: Status {
                code: parts.status,
                reason: reason(&parts.extensions),
            },
            headers: parts.headers,
            body: body.freeze(),
            rest,
            age,
        };
        if origin.rest.is_some() && !origin.may_be_large(limits)? {
            return Err(ProxyError::InstructTooLarge(target.to_string()));
        }
        Ok(origin)
    }

    /// Whether the body may be passed on before it is complete: that of a stream whose body no
    /// filter has to see as a whole.
    fn may_be_large(&self, limits: &Limits) -> Result<bool, ProxyError> {
        if grip::instruct::has_instruct_type(&self.headers) {
            return Ok(false);
        }
        let instruct = Instruct::from_headers(&self.headers, &limits.grip)?;
        let is_stream = match instruct.hold {
            Some(mode) => mode == HoldMode::Stream,
            None => instruct.next_link.is_some(),
        };
        let mut filters = instruct
            .channels
            .iter()
            .flat_map(|channel| &channel.filters);
        Ok(is_stream && !filters.any(|filter| filter == Filter::BuildId.name()))
    }
}

impl Proxy {
    /// Does what a response's instruction says.
    pub(super) async fn instructed(
        &self,
        origin: Origin,
        mut asked: Box<Asked>,
    ) -> Result<Outcome, ProxyError> {
        let limits = &self.config.limits;
        let Origin {
            status,
            headers,
            body,
            rest,
            age,
        } = origin;
        let (instruct, mut answer) =
            if asked.behalf.route.grip == Grip::Off || asked.trust == Trust::Proxy {
                // An answer of the test target that nobody follows.
                let instruct = Instruct::from_headers(&HeaderMap::new(), &limits.grip)?;
                let answer = Answer::instructed(&instruct, status, &headers, body);
                (instruct, answer)
            } else {
                hold::read_response(status, &headers, body, &limits.grip)?
            };
        answer.body = filtered(&instruct, answer.body)?;
        asked.age = age;
        let mut links = Links::of(&instruct, &asked.behalf.uri)?;
        if instruct.hold.is_none() {
            // Nobody is held whose end could be told.
            links.gone = None;
        }
        let is_head = asked.method == Method::HEAD;
        let is_whole = rest.is_none();
        let can_stream = !is_head && !answer.status.is_bodiless() && !asked.is_jsonp();
        match instruct.hold {
            Some(HoldMode::Response) => {
                asked.take_body().await;
                let hold = wait(&answer, &instruct, links, *asked);
                Ok(Outcome::Hold(Box::new(hold)))
            }
            Some(HoldMode::Stream) if can_stream => {
                let then = if is_whole {
                    AfterStart::Items
                } else {
                    AfterStart::Body(AfterBody::Items)
                };
                Ok(Outcome::Hold(Box::new(stream(
                    answer, &instruct, links, &asked, then, rest,
                ))))
            }
            None if can_stream && links.next.is_some() => {
                let then = if is_whole {
                    AfterStart::Link
                } else {
                    AfterStart::Body(AfterBody::Link)
                };
                Ok(Outcome::Hold(Box::new(stream(
                    answer, &instruct, links, &asked, then, rest,
                ))))
            }
            _ => Ok(Outcome::Response(at_once(
                answer,
                asked.dressing.as_deref(),
            ))),
        }
    }

    /// An ordinary answer, body streamed as it arrives.
    pub(super) async fn relayed(
        &self,
        response: Response<Incoming>,
        asked: &Asked,
        target: &Target,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let (mut parts, body) = response.into_parts();
        fields::strip_hop_by_hop(&mut parts.headers);
        let reason = parts.extensions.remove::<ReasonPhrase>();
        if asked.is_jsonp() {
            let collected = Limited::new(body, MAX_JSONP).collect().await;
            let body = collected
                .map_err(|_| ProxyError::JsonpTooLarge(target.to_string()))?
                .to_bytes();
            parts.headers.remove(CONTENT_LENGTH);
            let answer = Answer {
                status: Status {
                    code: parts.status,
                    reason: reason.and_then(|reason| utf8(reason.as_bytes())),
                },
                headers: parts.headers,
                body,
            };
            return Ok(at_once(answer, asked.dressing.as_deref()));
        }
        if let Some(Dressing::Cors(cors)) = asked.dressing.as_deref() {
            cors.apply(&mut parts.headers);
        }
        let mut relayed = Response::new(ResponseBody::Relayed(body));
        *relayed.status_mut() = parts.status;
        *relayed.headers_mut() = parts.headers;
        if let Some(reason) = reason {
            relayed.extensions_mut().insert(reason);
        }
        Ok(relayed)
    }
}

impl Asked {
    /// Waits until the request's body was read to its end, for it to be asked again.
    async fn take_body(&mut self) {
        if let Some(returned) = self.returned.take()
            && let Ok(Ok(content)) = tokio::time::timeout(BODY_TIME, returned).await
        {
            self.original.body = content.whole();
        } else if self.body.is_complete() && self.body.bytes() == 0 {
            self.original.body = Some(Bytes::new());
        }
    }
}

/// Whether it is a stream of events; WHATWG HTML §9.2.
fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next();
        let media_type = media_type.unwrap_or_default().trim_ascii();
        media_type.eq_ignore_ascii_case(grip::events::MEDIA_TYPE.as_bytes())
    })
}

/// Published content is appended as it is, so a stream must not be encoded; RFC 9110 §8.4.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        !value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"identity")
    })
}

pub(super) fn reason(extensions: &http::Extensions) -> Option<String> {
    utf8(extensions.get::<ReasonPhrase>()?.as_bytes())
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// The first body as the channels' filters leave it; GRIP filter `build-id`.
fn filtered(instruct: &Instruct, body: Bytes) -> Result<Bytes, ProxyError> {
    let names = instruct
        .channels
        .iter()
        .flat_map(|channel| &channel.filters);
    let filters: Vec<Filter> = names.filter_map(|name| Filter::named(name)).collect();
    if filters.is_empty() {
        return Ok(body);
    }
    let channels: Vec<(&str, Option<&str>)> = instruct
        .channels
        .iter()
        .map(|channel| {
            let id = channel.prev_id.as_ref().map(grip::channel::ItemId::as_str);
            (channel.name.as_str(), id)
        })
        .collect();
    let context = Context {
        subscription_meta: &instruct.meta,
        item_meta: &std::collections::BTreeMap::new(),
        channels: &channels,
    };
    Ok(filter::filter_body(&filters, body, &context)?)
}

/// An answer without a hold.
pub(super) fn at_once(answer: Answer, dressing: Option<&Dressing>) -> Response<ResponseBody> {
    let answer = match dressing {
        None => answer,
        Some(dressing) => dressing.dress(answer),
    };
    respond(
        answer.status,
        answer.headers,
        ResponseBody::full(answer.body),
    )
}

/// A response of these parts.
pub(crate) fn respond(
    status: Status,
    headers: HeaderMap,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status.code;
    *response.headers_mut() = headers;
    let reason = status.reason.map(String::into_bytes);
    if let Some(Ok(reason)) = reason.map(ReasonPhrase::try_from) {
        response.extensions_mut().insert(reason);
    }
    response
}

fn wait(answer: &Answer, instruct: &Instruct, links: Links, asked: Asked) -> Held {
    let slots = slots(&instruct.channels, &asked);
    let needs = (AfterStart::Items, &Events::Plain);
    let session = session(instruct, links, &slots, &asked, needs);
    let is_http2 = asked.version == Version::HTTP_2;
    let reply = if is_http2 {
        Reply::Http2(match asked.original.body {
            Some(_) => Repeat::Possible,
            None => Repeat::Impossible,
        })
    } else {
        Reply::Http1 {
            version: asked.version,
            method: asked.method.clone(),
            request: asked.original.encode(),
        }
    };
    Held {
        hold: Hold {
            after: asked.after_hold(),
            kind: HoldKind::Response {
                waiting: Box::new(Waiting {
                    answer: PackedAnswer::pack(answer),
                    dressing: asked.dressing,
                    reply,
                }),
                timeout: instruct.timeout,
            },
            slots,
            slow: asked.slow,
            session,
        },
        feed: None,
        head: None,
        original: is_http2.then_some(asked.original),
        origin: None,
        farewell: None,
    }
}

fn stream(
    mut answer: Answer,
    instruct: &Instruct,
    links: Links,
    asked: &Asked,
    then: AfterStart,
    rest: Option<Incoming>,
) -> Held {
    if let Some(Dressing::Cors(cors)) = asked.dressing.as_deref() {
        cors.apply(&mut answer.headers);
    }
    let (framing, wire, after) = match asked.version {
        Version::HTTP_2 => (StreamFraming::Plain, None, AfterHold::Close),
        Version::HTTP_11 => {
            let after = asked.after_hold();
            (StreamFraming::Chunked, Some(Framing::Chunked), after)
        }
        _ => (StreamFraming::Plain, Some(Framing::Close), AfterHold::Close),
    };
    let resumed = match &asked.resume {
        EventResume::After(last_id) if then == AfterStart::Items && instruct.hold.is_some() => {
            Some(last_id.clone())
        }
        _ => None,
    };
    let events = match (resumed, &asked.resume, is_event_stream(&answer.headers)) {
        (_, EventResume::Off, _) | (_, _, false) => Events::Plain,
        (None, _, true) => Events::WithIds,
        (Some(last_id), _, true) => {
            let body = std::mem::take(&mut answer.body);
            let head = match wire {
                None => Bytes::new(),
                Some(wire) => answer.encode_stream_start(asked.version, wire, after.persistence()),
            };
            answer.body = body;
            Events::Resumed(Box::new(Resume { last_id, head }))
        }
    };
    let start = match wire {
        None => std::mem::take(&mut answer.body),
        Some(wire) => answer.encode_stream_start(asked.version, wire, after.persistence()),
    };
    // Channels without a hold are those of the link's answer, not of this one.
    let slots = match instruct.hold {
        Some(_) => slots(&instruct.channels, asked),
        None => Vec::new(),
    };
    let session = session(instruct, links, &slots, asked, (then, &events));
    Held {
        hold: Hold {
            kind: HoldKind::Stream {
                start,
                framing,
                keep_alive: instruct
                    .keep_alive
                    .as_ref()
                    .map(|keep_alive| KeepAliveRule::new(keep_alive, framing)),
                then,
                events,
            },
            session,
            slots,
            after,
            slow: asked.slow,
        },
        feed: rest,
        head: wire.is_none().then_some(answer),
        original: None,
        origin: None,
        farewell: None,
    }
}

fn slots(channels: &[Channel], asked: &Asked) -> Vec<Slot> {
    let behalf = &asked.behalf;
    let implicit: &[ChannelName] = &behalf.implicit;
    let mut slots = Slot::all(channels, &behalf.route.prefix, implicit);
    for slot in &mut slots {
        slot.as_of = asked.age.as_of();
        if asked.age == Age::Backup {
            slot.on_gap = OnGap::GoOn;
        }
    }
    if let Some(again) = &asked.again {
        for slot in &mut slots {
            slot.compare_after(again);
        }
    }
    slots
}

/// What the hold has beyond its subscriptions; most have nothing.
fn session(
    instruct: &Instruct,
    links: Links,
    slots: &[Slot],
    asked: &Asked,
    (then, events): (AfterStart, &Events),
) -> Option<Box<Session>> {
    let is_needed = links.next.is_some()
        || links.gone.is_some()
        || then != AfterStart::Items
        || matches!(events, Events::Resumed(_))
        || slots.iter().any(Slot::needs_session);
    is_needed.then(|| {
        let session = Session::new(std::sync::Arc::clone(&asked.behalf), instruct.meta.clone());
        Box::new(session.with_links(links.next, links.gone))
    })
}
