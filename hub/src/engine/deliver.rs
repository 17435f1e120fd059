//! Items on their way to connections with a session: ids, content filters, filters, and what they
//! ask of servers.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use grip::events;
use grip::filter::{self, Filter, FilterError, Reply, Step};
use grip::hold::Answer;
use grip::instruct::Status;
use grip::publish::{HttpResponse, HttpStream, Item, ResponseBody, StreamContent, WsMessage};
use grip::websocket::close::Close;
use grip::websocket::message::Message;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::connections::{Connection, EventIds, Lane, Phase};
use super::session::{Asking, Busy, Content, Pending, Session, Slot, Source, Trail};
use super::{Engine, Output, Room, mark_dirty};
use crate::errand::{Comparison, ErrandKind, Urgency};
use crate::mailbox::{ConnectionKey, Sequenced};

/// What a client reads of an error that only an operator should know.
const HIDDEN: &str = "Error while proxying to origin.";

/// What an item says to a connection of its kind.
enum Word<'a> {
    Stream(&'a HttpStream),
    Response(&'a HttpResponse),
    Message(&'a WsMessage),
}

impl<'a> Word<'a> {
    fn of(phase: &Phase, item: &'a Item) -> Option<Self> {
        match phase {
            Phase::Stream(_) => item.http_stream.as_ref().map(Self::Stream),
            Phase::Response(_) => item.http_response.as_ref().map(Self::Response),
            Phase::WebSocket(..) => item.ws_message.as_ref().map(Self::Message),
            Phase::Opening(_) | Phase::Ending => None,
        }
    }

    /// The content filters that the content was written for.
    fn content_filters(&self) -> Option<&'a [String]> {
        match self {
            Self::Stream(HttpStream::Send {
                content_filters, ..
            })
            | Self::Message(WsMessage::Send {
                content_filters, ..
            }) => content_filters.as_deref(),
            Self::Response(HttpResponse::Send(message)) => message.content_filters.as_deref(),
            _ => None,
        }
    }

    /// Whether it says what is, rather than what to do.
    fn is_content(&self) -> bool {
        matches!(
            self,
            Self::Stream(HttpStream::Send { .. })
                | Self::Message(WsMessage::Send { .. })
                | Self::Response(HttpResponse::Send(_))
        )
    }

    /// What filters act on; nothing if the item only says what to do.
    fn content(&self) -> Bytes {
        match self {
            Self::Stream(HttpStream::Send { content, .. }) => content.plain(),
            Self::Response(HttpResponse::Send(message)) => match &message.body {
                ResponseBody::Complete(body) => body.clone(),
                ResponseBody::Patch(_) => Bytes::new(),
            },
            Self::Message(WsMessage::Send { content, .. }) => content.clone(),
            _ => Bytes::new(),
        }
    }
}

impl Engine {
    /// An item for a connection with a session.
    pub(super) fn receive(&mut self, key: ConnectionKey, sequenced: &Arc<Sequenced>, now: Instant) {
        let Some(session) = self.session(key) else {
            return;
        };
        let channel = &sequenced.item.channel;
        if session.leaves_out(channel) {
            return;
        }
        if session.is_idle() && session.backlog.is_empty() {
            let pending = Pending {
                sequenced: Arc::clone(sequenced),
                source: Source::Live,
            };
            self.process(key, pending, now);
            // The item may be what the connection could not take.
            self.go_on(key, now);
        } else if !session.keep(sequenced) {
            // What it can't remember it can ask for, if it knows where it is.
            session.has_missed |= session.checks(channel);
            self.counters.backlog_dropped.increment();
        }
    }

    /// Goes on with what waited while the connection was busy.
    pub(super) fn go_on(&mut self, key: ConnectionKey, now: Instant) {
        while let Some(session) = self.session(key)
            && session.is_idle()
        {
            if self.awaits_client(key, now) {
                return;
            }
            let Some(session) = self.session(key) else {
                return;
            };
            if let Some(pending) = session.next_pending() {
                self.process(key, pending, now);
            } else if session.has_missed {
                self.catch_up(key);
            } else {
                if let Some(urgency) = session.wish.take() {
                    self.follow(key, urgency);
                }
                return;
            }
        }
    }

    fn process(&mut self, key: ConnectionKey, pending: Pending, now: Instant) {
        let sequenced = &pending.sequenced;
        let item = &sequenced.item;
        let (_, connection) = self.connections.live(key.index);
        let limit = connection.limit(&self.budget);
        let word = Word::of(&connection.phase, item);
        let content = word.as_ref().map_or(Bytes::new(), Word::content);
        let has_room = connection.has_room(content.len(), limit);
        let policy = connection.slow;
        let is_response = matches!(connection.phase, Phase::Response(_));
        let Some(session) = connection.session.as_deref_mut() else {
            return;
        };
        let found = session
            .slots
            .iter_mut()
            .position(|slot| slot.channel == item.channel);
        let Some(index) = found else {
            // A channel that the last instruction left.
            return;
        };
        session.source = pending.source;
        let awaits_room = session.awaits_room(&item.channel, policy);
        let has_next = session.next.is_some();
        let slot = &mut session.slots[index];
        if slot.has(sequenced) {
            // The origin wrote it before it was published, or the connection has had it.
            return;
        }
        let continues = slot.continues_with(item);
        let Some(word) = word else {
            // Others of its channel follow it, of whatever kind.
            if continues {
                slot.pass(sequenced);
            }
            return;
        };
        if awaits_room && !has_room {
            self.counters.overflows.increment();
            return session.leave_out(pending, content.len());
        }
        let trail = std::mem::replace(&mut slot.trail, Trail::Whole);
        if !continues && trail != Trail::Lost {
            self.counters.gaps.increment();
            if is_response || has_next {
                self.ask_again(key);
                // What the origin says may lead up to it.
                if let Some(session) = self.session(key)
                    && !session.is_idle()
                {
                    session.put_back(pending);
                }
                return;
            }
            // Nobody can be asked for what is missing; the rest is better than nothing.
        }
        if let Err(mismatch) = filter::check_content_filters(&slot.filters, word.content_filters())
        {
            self.counters.filter_errors.increment();
            return self.end_in_debug(key, &mismatch.to_string());
        }
        if continues || !sequenced.is_late {
            slot.advance(sequenced);
        }
        if pending.source == Source::History && !word.is_content() {
            return;
        }
        self.filter(key, sequenced, (None, 0), content, now);
    }

    /// The origin knows what the connection missed.
    pub(super) fn ask_again(&mut self, key: ConnectionKey) {
        let (_, connection) = self.connections.live(key.index);
        if matches!(connection.phase, Phase::Response(_)) {
            self.retry(key, Comparison::New);
        } else {
            self.follow(key, Urgency::Low);
        }
    }

    /// Runs an item through the filters of its channel, beginning with number `from`; `asked` has
    /// them if somebody was asked meanwhile.
    fn filter(
        &mut self,
        key: ConnectionKey,
        sequenced: &Arc<Sequenced>,
        (asked, from): (Option<&[Filter]>, usize),
        content: Bytes,
        now: Instant,
    ) {
        let Some(session) = self.session(key) else {
            return;
        };
        let channel = &sequenced.item.channel;
        let slot = session.slots.iter().find(|slot| slot.channel == *channel);
        let Some(Slot { filters, .. }) = slot else {
            // A WebSocket's origin may leave the channel while somebody is asked about its item.
            return;
        };
        let filters = asked.unwrap_or(filters);
        let step = if filters.len() == from {
            Ok(Step::Deliver(content))
        } else {
            session.with_context(&sequenced.item.meta, |context| {
                filter::run(filters, from, content, context)
            })
        };
        match step {
            Ok(Step::Drop) => {}
            Ok(Step::Deliver(content)) => self.act(key, sequenced, content, now),
            Ok(Step::Ask(inquiry)) => {
                let kind = ErrandKind::Ask {
                    inquiry: inquiry.clone(),
                    last: session.last(),
                };
                let behalf = Arc::clone(&session.behalf);
                let filters = filters.into();
                session.busy = Busy::Asking(Box::new(Asking {
                    sequenced: Arc::clone(sequenced),
                    filters,
                    inquiry,
                }));
                self.outputs.push_back(Output::Run {
                    connection: key,
                    behalf,
                    kind,
                });
            }
            Err(error) => self.fail_filter(key, &error),
        }
    }

    fn fail_filter(&mut self, key: ConnectionKey, error: &FilterError) {
        self.counters.filter_errors.increment();
        self.end_in_debug(key, &format!("filter error: {error}"));
    }

    /// A server said what it thinks of the item that the connection waits with.
    pub(super) fn handle_told(
        &mut self,
        key: ConnectionKey,
        told: Result<Reply, FilterError>,
        now: Instant,
    ) {
        let Some(session) = self.session(key) else {
            return;
        };
        let Busy::Asking(asking) = std::mem::replace(&mut session.busy, Busy::Idle) else {
            return;
        };
        match told {
            Ok(Reply::Drop) => {}
            Ok(Reply::Deliver(content)) => {
                let rest = (Some(&*asking.filters), asking.inquiry.next);
                self.filter(key, &asking.sequenced, rest, content, now);
            }
            Err(error) => self.fail_filter(key, &error),
        }
        self.go_on(key, now);
    }

    /// Does what an item says, with the content that filters left of it.
    fn act(&mut self, key: ConnectionKey, sequenced: &Sequenced, content: Bytes, now: Instant) {
        let (_, connection) = self.connections.live(key.index);
        match Word::of(&connection.phase, &sequenced.item) {
            Some(Word::Stream(HttpStream::Send {
                content: original, ..
            })) => match Content::compare(&original.plain(), content) {
                Content::Original => {
                    let content = connection.stream_content(sequenced, original);
                    self.append(key, sequenced, content, now);
                }
                Content::Filtered(content) => {
                    let content = connection.filtered_content(sequenced, content);
                    self.append(key, sequenced, &StreamContent::new(&content), now);
                }
            },
            Some(Word::Stream(HttpStream::Hint)) => self.follow(key, Urgency::High),
            Some(Word::Response(HttpResponse::Send(message))) => {
                let Phase::Response(waiting) = &connection.phase else {
                    return;
                };
                let mut answer = waiting.answer.unpack().published(message);
                if matches!(message.body, ResponseBody::Complete(_)) {
                    answer.body = content;
                }
                self.counters.deliveries.increment();
                self.answer(key, answer);
            }
            Some(Word::Message(message)) => self.act_message(key, sequenced, message, content, now),
            Some(Word::Stream(HttpStream::Close)) => self.let_go(key),
            Some(Word::Response(HttpResponse::Hint)) => self.retry(key, Comparison::New),
            Some(
                Word::Stream(HttpStream::Refresh)
                | Word::Response(HttpResponse::Close | HttpResponse::Refresh),
            )
            | None => {}
        }
    }

    /// Appends an item's content to a stream.
    fn append(
        &mut self,
        key: ConnectionKey,
        sequenced: &Sequenced,
        content: &StreamContent,
        now: Instant,
    ) {
        let (_, connection) = self.connections.live(key.index);
        let Phase::Stream(framing) = connection.phase else {
            return;
        };
        let bytes = framing.frame(content);
        let limit = self.budget.limit();
        if connection.push_in_room(bytes, sequenced, limit, &self.counters) == Room::None {
            return self.drop_slow(key);
        }
        self.counters.deliveries.increment();
        connection.restart_keep_alive(now);
        mark_dirty(&mut self.dirty, key, connection);
    }

    /// Does to a WebSocket what an item says.
    pub(super) fn act_message(
        &mut self,
        key: ConnectionKey,
        sequenced: &Sequenced,
        message: &WsMessage,
        content: Bytes,
        now: Instant,
    ) {
        match message {
            WsMessage::Send {
                kind,
                content: original,
                ..
            } => {
                let (_, connection) = self.connections.live(key.index);
                let frame = match Content::compare(original, content) {
                    Content::Original => connection.encoded(sequenced),
                    Content::Filtered(content) => {
                        let Ok(message) = Message::new(*kind, content) else {
                            // No client would accept it.
                            self.counters.filter_errors.increment();
                            return;
                        };
                        Some(connection.frame(*kind, &message.content))
                    }
                };
                if let Some(frame) = frame {
                    self.counters.deliveries.increment();
                    self.push_published(key, frame, sequenced, now);
                }
            }
            WsMessage::Close(close) => self.close_websocket(key, close.as_ref(), now),
            WsMessage::Refresh => self.refresh_origin(key, now),
            WsMessage::Hint => {}
        }
    }

    /// Ends a hold with a text, where the route tells what is wrong; else nothing happens.
    fn end_in_debug(&mut self, key: ConnectionKey, text: &str) {
        if self.session(key).is_some_and(|session| session.tells()) {
            self.end_with(key, text);
        }
    }

    /// Ends a hold because it can't go on.
    pub(super) fn end_with(&mut self, key: ConnectionKey, text: &str) {
        let (_, connection) = self.connections.live(key.index);
        let tells = connection.session.as_ref().is_some_and(|s| s.tells());
        match &connection.phase {
            Phase::Stream(framing) => {
                let framing = *framing;
                if tells {
                    let content = StreamContent::new(format!("\n\n{text}\n").as_bytes());
                    connection.outbox.push(framing.frame(&content));
                }
                self.end(key, framing.end());
            }
            Phase::Response(_) => {
                let text = if tells { text } else { HIDDEN };
                self.answer(key, failure(text));
            }
            Phase::WebSocket(..) => {
                self.fail_websocket(key, Close::INTERNAL_ERROR, text, self.now);
            }
            Phase::Opening(_) | Phase::Ending => {}
        }
    }

    /// The session of a connection that is still held.
    pub(super) fn session(&mut self, key: ConnectionKey) -> Option<&mut Session> {
        self.connections.get(key)?.session.as_deref_mut()
    }
}

impl Connection {
    /// Whether an origin can be asked what became of it.
    pub(super) fn can_be_updated(&self) -> bool {
        match self.phase {
            Phase::Response(_) => true,
            Phase::Stream(_) => self.session.as_ref().is_some_and(|it| it.next.is_some()),
            Phase::WebSocket(..) | Phase::Opening(_) | Phase::Ending => false,
        }
    }

    /// The item as this client's connection has it, encoded for all that are like it.
    pub(super) fn encoded(&self, sequenced: &Sequenced) -> Option<Bytes> {
        let Phase::WebSocket(front, socket) = &self.phase else {
            return None;
        };
        let deflate = match front.lane {
            Lane::Free(deflate) => deflate,
            Lane::Busy => socket.deflate(),
            Lane::Closed => return None,
        };
        Some(sequenced.encoded.as_ref()?.frame(deflate))
    }

    /// An item's content as filters left it, as this stream has it.
    fn filtered_content(&self, sequenced: &Sequenced, content: Bytes) -> Bytes {
        match (self.event_ids, &sequenced.item.id) {
            (EventIds::Written, Some(id)) => events::with_id(&content, id).unwrap_or(content),
            _ => content,
        }
    }

    /// Whether the client has a part of a body that is still coming.
    pub(super) fn is_amid_body(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| matches!(session.busy, Busy::Feeding | Busy::Receiving(_)))
    }
}

fn failure(text: &str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Answer {
        status: Status::new(StatusCode::BAD_GATEWAY),
        headers,
        body: format!("{text}\n").into(),
    }
}
