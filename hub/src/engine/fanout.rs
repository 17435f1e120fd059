//! Items on their way to all who are subscribed to their channel.
//!
//! Items of a channel that have come together go out together: connections of the same kind get one
//! piece of shared bytes with all of them, which is one entry in their outboxes and one write.
//! Whoever is not in order for that gets them one by one.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use grip::publish::{HttpResponse, HttpStream, WsMessage};

use super::connections::{Connection, EventIds, Lane, Phase, StreamFraming};
use super::dirty::Cause;
use super::{Engine, Room, mark_dirty};
use crate::errand::Comparison;
use crate::frames::Deflate;
use crate::mailbox::{ConnectionKey, Sequence, Sequenced};

/// Bytes up to which items are copied into one piece; larger ones are better shared one by one.
const MAX_MERGED: usize = 64 * 1024;

/// What a connection without session does with an item.
enum Reaction {
    Nothing,
    Append(Bytes),
    /// More than that.
    Act,
}

/// All connections with the same form get the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Stream(StreamFraming, EventIds),
    WebSocket(Option<Deflate>),
}

/// Items in one form.
#[derive(Debug, Clone)]
struct Merged {
    bytes: Bytes,
    /// How many items are in it; others have nothing to say in this form.
    items: u32,
}

impl Engine {
    /// Delivers items of one channel, which follow each other, to everybody here who is subscribed
    /// to it, and says how many that are.
    pub(crate) fn handle_items(&mut self, items: &[Arc<Sequenced>], now: Instant) -> usize {
        self.now = now;
        let Some(first) = items.first() else {
            return 0;
        };
        debug_assert!(
            items.iter().all(|it| it.item.channel == first.item.channel),
            "the items are of one channel"
        );
        let Some((channel, subscribers)) = self.subscriptions.find(&first.item.channel) else {
            return 0;
        };
        let count = subscribers.len();
        let limit = self.budget.limit();
        let mut forms = Vec::new();
        // Connections leave the channel's list only after the walk over it.
        let mut others = Vec::new();
        self.dirty.begin(Cause::Item(channel), count);
        for subscriber in subscribers {
            let (key, connection) = self.connections.live(subscriber.connection);
            let merged = if subscriber.cursor < first.sequence {
                connection
                    .form()
                    .and_then(|form| merged(&mut forms, form, items))
            } else {
                None
            };
            match merged {
                Some(Merged { items: 0, .. }) => {}
                Some(Merged { bytes, items }) if connection.has_room(bytes.len(), limit) => {
                    self.counters.deliveries.add(u64::from(*items));
                    connection.outbox.push_items(bytes.clone(), *items);
                    connection.restart_keep_alive(now);
                    mark_dirty(&mut self.dirty, key, connection);
                }
                _ => others.push((key, subscriber.cursor)),
            }
        }
        for (key, cursor) in others {
            self.handle_each(key, cursor, items, now);
        }
        self.dirty.end();
        self.check_invariants();
        count
    }

    /// Delivers items one by one, as long as the connection is there.
    fn handle_each(
        &mut self,
        key: ConnectionKey,
        cursor: Sequence,
        items: &[Arc<Sequenced>],
        now: Instant,
    ) {
        for sequenced in items.iter().filter(|it| it.sequence > cursor) {
            let Some(connection) = self.connections.get(key) else {
                return;
            };
            if connection.session.is_some() {
                self.receive(key, sequenced, now);
                continue;
            }
            match reaction(connection, sequenced) {
                Reaction::Nothing => {}
                Reaction::Act => self.act_by_item(key, sequenced),
                Reaction::Append(bytes) => {
                    let limit = self.budget.limit();
                    if connection.make_room(bytes.len(), limit, &self.counters) == Room::None {
                        return self.drop_slow(key);
                    }
                    self.counters.deliveries.increment();
                    connection.outbox.push_items(bytes, 1);
                    connection.restart_keep_alive(now);
                    mark_dirty(&mut self.dirty, key, connection);
                }
            }
        }
    }

    /// Does what an item says where that is more than to append it.
    fn act_by_item(&mut self, key: ConnectionKey, sequenced: &Sequenced) {
        let item = &sequenced.item;
        let (_, connection) = self.connections.live(key.index);
        match (&connection.phase, &item.http_response, &item.ws_message) {
            (Phase::Response(waiting), Some(HttpResponse::Send(message)), _) => {
                let answer = waiting.answer.unpack().published(message);
                self.counters.deliveries.increment();
                self.answer(key, answer);
            }
            (Phase::Response(_), Some(HttpResponse::Hint), _) => self.retry(key, Comparison::New),
            (Phase::WebSocket(..), _, Some(message)) => {
                let content = match message {
                    WsMessage::Send { content, .. } => content.clone(),
                    _ => Bytes::new(),
                };
                self.act_message(key, sequenced, message, content, self.now);
            }
            _ => self.let_go(key),
        }
    }
}

/// The items in a form, made for the first who needs it; absent if they can't be merged.
fn merged<'a>(
    forms: &'a mut Vec<(Form, Option<Merged>)>,
    form: Form,
    items: &[Arc<Sequenced>],
) -> Option<&'a Merged> {
    let known = forms.iter().position(|(known, _)| *known == form);
    let index = known.unwrap_or_else(|| {
        forms.push((form, merge(form, items)));
        forms.len() - 1
    });
    forms[index].1.as_ref()
}

fn merge(form: Form, items: &[Arc<Sequenced>]) -> Option<Merged> {
    let mut pieces = Vec::with_capacity(items.len());
    for sequenced in items {
        match form.react(sequenced) {
            Reaction::Nothing => {}
            Reaction::Append(bytes) => pieces.push(bytes),
            Reaction::Act => return None,
        }
    }
    let count = u32::try_from(pieces.len()).ok()?;
    if let [bytes] = &mut pieces[..] {
        // All shards have these bytes. With a count of their own, those who share them here don't
        // wait for other processors.
        return Some(Merged {
            bytes: Bytes::from_owner(std::mem::take(bytes)),
            items: 1,
        });
    }
    let size = pieces.iter().map(Bytes::len).sum();
    if size > MAX_MERGED {
        return None;
    }
    let mut bytes = BytesMut::with_capacity(size);
    for piece in &pieces {
        bytes.extend_from_slice(piece);
    }
    Some(Merged {
        bytes: bytes.freeze(),
        items: count,
    })
}

impl Form {
    fn react(self, sequenced: &Sequenced) -> Reaction {
        let item = &sequenced.item;
        match (self, &item.http_stream, &item.ws_message) {
            (Self::Stream(framing, ids), Some(HttpStream::Send { content, .. }), _) => {
                let content = match ids {
                    EventIds::AsPublished => content,
                    EventIds::Written => sequenced.event().unwrap_or(content),
                };
                Reaction::Append(framing.frame(content))
            }
            (Self::WebSocket(deflate), _, Some(WsMessage::Send { .. })) => {
                let encoded = sequenced.encoded.as_ref();
                encoded.map_or(Reaction::Nothing, |it| Reaction::Append(it.frame(deflate)))
            }
            (Self::Stream(..), Some(HttpStream::Close), _) | (Self::WebSocket(_), _, Some(_)) => {
                Reaction::Act
            }
            // A stream without session has no link that a hint could mean; refreshes are for
            // WebSockets.
            _ => Reaction::Nothing,
        }
    }
}

impl Connection {
    /// The form of items for a connection to which they are only appended.
    fn form(&self) -> Option<Form> {
        match &self.phase {
            _ if self.session.is_some() => None,
            Phase::Stream(framing) => Some(Form::Stream(*framing, self.event_ids)),
            Phase::WebSocket(front, _) => match front.lane {
                Lane::Free(deflate) => Some(Form::WebSocket(deflate)),
                Lane::Busy | Lane::Closed => None,
            },
            Phase::Response(_) | Phase::Opening(_) | Phase::Ending => None,
        }
    }
}

fn reaction(connection: &Connection, sequenced: &Sequenced) -> Reaction {
    if let Some(form) = connection.form() {
        return form.react(sequenced);
    }
    let item = &sequenced.item;
    match (&connection.phase, &item.http_response, &item.ws_message) {
        (Phase::WebSocket(..), _, Some(_))
        | (Phase::Response(_), Some(HttpResponse::Send(_) | HttpResponse::Hint), _) => {
            Reaction::Act
        }
        _ => Reaction::Nothing,
    }
}
