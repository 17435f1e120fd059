//! Control messages: what the origin tells the hub to do with the WebSocket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::ChannelName;
use grip::channel::ItemId;
use grip::filter::Filter;
use grip::websocket::close::Close;
use grip::websocket::control::{Control, KeepAlive};
use grip::websocket::message::Message;

use super::{Delayed, Joining, Origin, Talk, Want};
use crate::engine::connections::{KeepAliveRule, Phase};
use crate::engine::session::{Session, Slot};
use crate::engine::{Engine, Output};
use crate::frames::{self, Mask};
use crate::mailbox::{Attachment, ConnectionKey, Position, Sequence, Wanted};

/// Bytes of a WebSocket's subscription metadata, names and values.
const MAX_META: usize = 16_384;

impl Engine {
    /// Does what a control message says. One that cannot be read is counted, and changes nothing.
    pub(super) fn control(&mut self, key: ConnectionKey, json: &Bytes, now: Instant) {
        if self.talk(key) != Some(Talk::Open) {
            return;
        }
        let control = match Control::parse(json, &self.limits) {
            Ok(control) => control,
            Err(error) => {
                self.counters.control_message_errors.increment();
                tracing::debug!(%error, "control message ignored");
                return;
            }
        };
        match control {
            Control::Subscribe {
                channel,
                prev_id,
                filters,
            } => self.subscribe_to(key, &channel, prev_id, &filters, now),
            Control::Unsubscribe { channel } => self.unsubscribe_from(key, &channel),
            Control::Detach => self.detach_origin(key, now),
            Control::SetMeta { name, value } => self.set_meta(key, name, value),
            Control::KeepAlive(keep_alive) => self.keep_websocket_alive(key, keep_alive, now),
            Control::SendDelayed { message, timeout } => {
                self.send_delayed(key, &message, timeout, now);
            }
            Control::FlushDelayed => self.flush_delayed(key, now),
            // There is no service that sessions could be bound to.
            Control::Session { .. } => {}
        }
    }

    /// The full name of a channel that the origin names.
    fn full_name(&mut self, key: ConnectionKey, name: &ChannelName) -> Option<ChannelName> {
        let prefix = &self.websocket(key)?.handshake.route().prefix;
        Some(if prefix.is_empty() {
            name.clone()
        } else {
            ChannelName::new(&format!("{prefix}{name}"))
        })
    }

    fn subscribe_to(
        &mut self,
        key: ConnectionKey,
        name: &ChannelName,
        prev_id: Option<ItemId>,
        filters: &[String],
        now: Instant,
    ) {
        let Some(channel) = self.full_name(key, name) else {
            return;
        };
        if filters.len() > self.limits.filters {
            let reason = format!("too many filters for channel '{name}'");
            return self.fail_websocket(key, Close::INTERNAL_ERROR, &reason, now);
        }
        let filters: Box<[Filter]> = filters
            .iter()
            .filter_map(|name| Filter::named(name))
            .collect();
        if self.subscription_count(key) >= self.limits.channels {
            self.counters.control_message_errors.increment();
            return;
        }
        if self.replace_filters(key, &channel, &filters) {
            return;
        }
        self.join_as(key, channel, name.clone(), prev_id, filters);
    }

    /// Subscribes to a channel by its full name.
    pub(super) fn join_channel(
        &mut self,
        key: ConnectionKey,
        name: ChannelName,
        filters: Box<[Filter]>,
    ) {
        if let Some(channel) = self.full_name(key, &name)
            && !self.replace_filters(key, &channel, &filters)
        {
            self.join_as(key, channel, name, None, filters);
        }
    }

    fn join_as(
        &mut self,
        key: ConnectionKey,
        channel: ChannelName,
        name: ChannelName,
        prev_id: Option<ItemId>,
        filters: Box<[Filter]>,
    ) {
        let now = self.now;
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let attachment = Attachment {
            channel: channel.clone(),
            position: prev_id.clone().map(|prev_id| Position {
                prev_id,
                // It says so now.
                as_of: Some(now),
            }),
        };
        socket.work().joining.push_back(Joining {
            channel,
            name,
            prev_id,
            filters,
            want: Want::Still,
        });
        self.outputs.push_back(Output::Attach {
            connection: key,
            wanted: Wanted {
                channels: vec![attachment],
                resume: None,
            },
        });
    }

    /// Subscriptions there are and will be.
    fn subscription_count(&mut self, key: ConnectionKey) -> usize {
        let Some(connection) = self.connections.get(key) else {
            return 0;
        };
        let joining = match &connection.phase {
            Phase::WebSocket(_, socket) => socket.joining(),
            _ => 0,
        };
        connection.subscriptions.len() + joining
    }

    /// Whether the client is subscribed, and from here on with these filters.
    fn replace_filters(
        &mut self,
        key: ConnectionKey,
        channel: &ChannelName,
        filters: &[Filter],
    ) -> bool {
        if let Some(socket) = self.websocket(key)
            && let Some(joining) = socket
                .joining_mut()
                .find(|joining| joining.channel == *channel && joining.want == Want::Still)
        {
            joining.filters = filters.into();
            return true;
        }
        if !self.is_subscribed(key, channel) {
            return false;
        }
        if !filters.is_empty() {
            self.require_session(key);
        }
        if let Some(session) = self.session(key)
            && let Some(slot) = session.slots.iter_mut().find(|it| it.channel == *channel)
        {
            slot.filters = filters.into();
        }
        true
    }

    fn is_subscribed(&mut self, key: ConnectionKey, channel: &ChannelName) -> bool {
        let Some(connection) = self.connections.get(key) else {
            return false;
        };
        let mut subscriptions = connection.subscriptions.iter();
        subscriptions.any(|subscription| self.subscriptions.name(*subscription) == channel)
    }

    /// The broker has attached the channel that waits longest.
    pub(in crate::engine) fn join_next(&mut self, key: ConnectionKey, cursor: Sequence) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        let work = socket.work.as_mut();
        let Some(joined) = work.and_then(|work| work.joining.pop_front()) else {
            return;
        };
        socket.rest();
        if joined.want == Want::NoMore {
            self.outputs.push_back(Output::Detach(vec![joined.channel]));
            return;
        }
        self.subscribe(key, &joined.channel, cursor);
        if !joined.filters.is_empty() || joined.prev_id.is_some() {
            self.require_session(key);
        }
        if let Some(session) = self.session(key) {
            let Joining {
                channel,
                name,
                prev_id,
                filters,
                ..
            } = joined;
            let slot = Slot::websocket(channel, name, prev_id.as_ref(), filters);
            // A session that was made this moment has the channel already.
            match session
                .slots
                .iter_mut()
                .find(|it| it.channel == slot.channel)
            {
                Some(known) => *known = slot,
                None => session.slots.push(slot),
            }
        }
    }

    /// Gives the connection a session, if it has none, with a slot for each of its subscriptions.
    fn require_session(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Phase::WebSocket(_, socket) = &connection.phase else {
            return;
        };
        if connection.session.is_some() {
            return;
        }
        let handshake = &socket.handshake;
        let mut session = Session::new(handshake.behalf(), BTreeMap::new());
        for subscription in &connection.subscriptions {
            let channel = self.subscriptions.name(*subscription).clone();
            let is_implicit = handshake.target().subscribe.contains(&channel);
            let prefix = &handshake.route().prefix;
            let name = match channel.as_str().strip_prefix(prefix.as_str()) {
                Some(name) if !is_implicit => ChannelName::new(name),
                _ => channel.clone(),
            };
            session
                .slots
                .push(Slot::websocket(channel, name, None, Box::default()));
        }
        connection.session = Some(Box::new(session));
    }

    /// Does nothing for channels of the route, and for those that are not subscribed to.
    fn unsubscribe_from(&mut self, key: ConnectionKey, name: &ChannelName) {
        let Some(channel) = self.full_name(key, name) else {
            return;
        };
        let Some(socket) = self.websocket(key) else {
            return;
        };
        if socket.handshake.target().subscribe.contains(&channel) {
            return;
        }
        for joining in socket.joining_mut() {
            if joining.channel == channel {
                joining.want = Want::NoMore;
            }
        }
        if let Some(session) = self.session(key) {
            session.slots.retain(|slot| slot.channel != channel);
        }
        let slot = Slot::websocket(channel.clone(), channel, None, Box::default());
        self.leave(key, &[slot]);
    }

    /// The broker is told of channels that it is still attaching.
    pub(super) fn leave_joining(&mut self, key: ConnectionKey) {
        let Some(socket) = self.websocket(key) else {
            return;
        };
        for joining in socket.joining_mut() {
            joining.want = Want::NoMore;
        }
    }

    fn set_meta(&mut self, key: ConnectionKey, name: String, value: Option<String>) {
        if value.is_some() {
            self.require_session(key);
        }
        let Some(session) = self.session(key) else {
            return;
        };
        let meta = &mut session.meta;
        match value {
            None => drop(meta.remove(&name)),
            Some(value) => {
                let used: usize = meta
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum();
                if used + name.len() + value.len() > MAX_META {
                    self.counters.control_message_errors.increment();
                    return;
                }
                meta.insert(name, value);
            }
        }
    }

    /// The origin leaves; the client stays.
    fn detach_origin(&mut self, key: ConnectionKey, now: Instant) {
        self.flush_waiting(key, now);
        if let Some(mut native) = self.leave_native(key) {
            // What it had begun to say is over.
            native.close(&[]);
            self.outputs.push_back(native.finish(key));
        }
        let Some(socket) = self.websocket(key) else {
            return;
        };
        match std::mem::replace(&mut socket.origin, Origin::None) {
            Origin::OverHttp(mut over_http) => {
                over_http.close(Bytes::new());
                // Whatever it answers, nobody reads it.
                over_http.vanish();
                socket.origin = Origin::Leaving(over_http);
            }
            origin => socket.origin = origin,
        }
        self.refresh_lane(key);
        self.resume_client(key);
    }

    fn keep_websocket_alive(
        &mut self,
        key: ConnectionKey,
        keep_alive: Option<KeepAlive>,
        now: Instant,
    ) {
        let rule = keep_alive.map(|keep_alive| KeepAliveRule {
            bytes: frame(&keep_alive.message),
            timeout: keep_alive.timeout,
            mode: keep_alive.mode.into(),
        });
        self.set_keep_alive(key, rule, now);
    }

    fn send_delayed(
        &mut self,
        key: ConnectionKey,
        message: &Message,
        timeout: Duration,
        now: Instant,
    ) {
        self.flush_delayed(key, now);
        if let Some(socket) = self.websocket(key) {
            socket.work().delayed = Some(Delayed {
                frame: frame(message),
                at: now + timeout,
            });
        }
    }

    /// Sends the delayed message, if there is one.
    pub(super) fn flush_delayed(&mut self, key: ConnectionKey, now: Instant) {
        if let Some(socket) = self.websocket(key)
            && let Some(work) = &mut socket.work
            && let Some(delayed) = work.delayed.take()
        {
            self.push_message(key, delayed.frame, now);
        }
    }
}

fn frame(message: &Message) -> Bytes {
    frames::message(message.kind, &message.content, Mask::None)
}
