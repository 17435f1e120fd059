//! Streams that go on with the answers of links; GRIP `Grip-Link`.

use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use grip::ChannelName;
use grip::filter::BodyFilter;
use grip::instruct::HoldMode;
use grip::publish::StreamContent;

use super::catch_up::Gap;
use super::connections::Phase;
use super::dirty::Cause;
use super::session::{Busy, Receiving, Session, Slot};
use super::{AfterBody, AfterStart, Engine, KeepAliveRule, Output, mark_dirty};
use crate::errand::{Comparison, ErrandKind, LinkError, Linked, News, Next, Receipt, Urgency};
use crate::mailbox::{CatchUp, ConnectionKey, Sequence, Wanted};

/// Bytes that a client may have to read before the sender of a body has to wait for it.
const MUCH: usize = 64 * 1024;
/// The shortest time between two requests for one link.
const MIN_BEAT: Duration = Duration::from_secs(1);

impl Engine {
    /// Begins what a stream waits for after its start.
    pub(super) fn begin_session(
        &mut self,
        key: ConnectionKey,
        then: AfterStart,
        gap: Gap,
        now: Instant,
    ) {
        let Some(session) = self.session(key) else {
            return;
        };
        match then {
            AfterStart::Items => {}
            AfterStart::Link => session.wish = Some(Urgency::High),
            AfterStart::Body(after) => {
                session.busy = Busy::Feeding;
                if after == AfterBody::Link {
                    session.wish = Some(Urgency::High);
                }
                self.outputs.push_back(Output::Feed(key));
            }
        }
        if gap == Gap::Found
            && let Some(session) = self.session(key)
        {
            session.wish = session.wish.max(Some(Urgency::Low));
        }
        self.go_on(key, now);
    }

    /// Follows a stream's next link, now or as soon as nothing else is under way. Does nothing to
    /// a stream that has none.
    pub(super) fn follow(&mut self, key: ConnectionKey, urgency: Urgency) {
        let is_draining = self.draining.is_some();
        let Some(session) = self.session(key) else {
            return;
        };
        let Some(next) = &session.next else {
            return;
        };
        match session.busy {
            // What is asked already is the newest there is.
            Busy::Following | Busy::Receiving(_) => return,
            Busy::Feeding | Busy::Asking(_) | Busy::CatchingUp => {
                session.wish = session.wish.max(Some(urgency));
                return;
            }
            Busy::Idle if !session.joining.is_empty() || is_draining => {
                session.wish = session.wish.max(Some(urgency));
                return;
            }
            Busy::Idle => {}
        }
        let kind = ErrandKind::Follow {
            next: next.clone(),
            last: session.last(),
            urgency,
        };
        session.busy = Busy::Following;
        session.had_missed |= std::mem::take(&mut session.has_missed);
        let behalf = Arc::clone(&session.behalf);
        self.counters.links_followed.increment();
        self.outputs.push_back(Output::Run {
            connection: key,
            behalf,
            kind,
        });
    }

    /// Asks the origin again, whatever the connection waits for.
    pub(super) fn update(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        match connection.phase {
            Phase::Response(_) => self.retry(key, Comparison::New),
            Phase::Stream(_) => self.follow(key, Urgency::Low),
            Phase::WebSocket(..) | Phase::Opening(_) | Phase::Ending => {}
        }
    }

    /// An errand for these connections has come to something.
    pub(crate) fn handle_news(&mut self, keys: &[ConnectionKey], news: News, now: Instant) {
        self.now = now;
        let Some(first) = keys.first() else {
            return;
        };
        self.dirty.begin(Cause::News(*first), keys.len());
        match news {
            News::Linked(linked) => {
                for key in keys {
                    self.begin_linked(*key, &linked, now);
                }
            }
            News::Body(bytes, receipt) => self.handle_body(keys, &bytes, receipt),
            News::Complete => {
                for key in keys {
                    self.handle_complete(*key, now);
                }
            }
            News::Broken => {
                for key in keys {
                    self.handle_broken(*key);
                }
            }
            News::Stalled => {
                for key in keys {
                    if self
                        .session(*key)
                        .is_some_and(|session| session.receipt.is_some())
                    {
                        self.drop_slow(*key);
                    }
                }
            }
            News::Failed(error) => {
                for key in keys {
                    self.fail_link(*key, &error);
                }
            }
            News::Told(told) => {
                for key in keys {
                    self.handle_told(*key, told.clone(), now);
                }
            }
        }
        self.dirty.end();
        self.check_invariants();
    }

    fn fail_link(&mut self, key: ConnectionKey, error: &LinkError) {
        if self
            .session(key)
            .is_some_and(|session| matches!(session.busy, Busy::Following))
        {
            self.counters.link_errors.increment();
            self.end_with(key, &error.to_string());
        }
    }

    /// A link's instruction replaces the connection's.
    fn begin_linked(&mut self, key: ConnectionKey, linked: &Arc<Linked>, now: Instant) {
        let Some(session) = self.session(key) else {
            return;
        };
        if !matches!(session.busy, Busy::Following) {
            return;
        }
        let instruct = &linked.instruct;
        if instruct.hold == Some(HoldMode::Response) {
            return self.fail_link(key, &LinkError::NotStream);
        }
        session.behalf = Arc::clone(&linked.behalf);
        session.meta.clone_from(&instruct.meta);
        session.next.clone_from(&linked.next);
        self.replace_channels(key, linked);
        let Some(session) = self.session(key) else {
            return;
        };
        match session.body_filter() {
            Ok(filter) => {
                session.busy = Busy::Receiving(Box::new(Receiving {
                    linked: Arc::clone(linked),
                    filter,
                }));
            }
            Err(error) => return self.end_with(key, &format!("filter error: {error}")),
        }
        let Phase::Stream(framing) = self.connections.live(key.index).1.phase else {
            return;
        };
        let keep_alive = instruct
            .keep_alive
            .as_ref()
            .map(|keep_alive| KeepAliveRule::new(keep_alive, framing));
        self.set_keep_alive(key, keep_alive, now);
        self.set_beat(key, now);
    }

    /// Subscribes to what is new, unsubscribes from what is missing, takes over ids and filters.
    fn replace_channels(&mut self, key: ConnectionKey, linked: &Linked) {
        let Some(session) = self.session(key) else {
            return;
        };
        let behalf = &linked.behalf;
        let mut wanted = Slot::all(
            &linked.instruct.channels,
            &behalf.route.prefix,
            &behalf.implicit,
        );
        for slot in &mut wanted {
            slot.as_of = Some(linked.asked_at);
        }
        let (kept, left): (Vec<Slot>, Vec<Slot>) = std::mem::take(&mut session.slots)
            .into_iter()
            .partition(|slot| wanted.iter().any(|wanted| wanted.channel == slot.channel));
        let mut slots = kept;
        let mut joining = Vec::new();
        for wanted in wanted {
            match slots.iter_mut().find(|slot| slot.channel == wanted.channel) {
                Some(slot) => *slot = slot.replaced_by(wanted),
                None => joining.push(wanted),
            }
        }
        let wanted = Wanted {
            channels: joining.iter().map(Slot::attachment).collect(),
            resume: None,
        };
        session.slots = slots;
        session.joining = joining;
        self.leave(key, &left);
        if !wanted.channels.is_empty() {
            let connection = key;
            self.outputs
                .push_back(Output::Attach { connection, wanted });
        }
    }

    /// Unsubscribes from channels whose slots are gone already.
    pub(super) fn leave(&mut self, key: ConnectionKey, left: &[Slot]) {
        let mut names: Vec<ChannelName> = Vec::with_capacity(left.len());
        for slot in left {
            let (_, connection) = self.connections.live(key.index);
            let found = connection
                .subscriptions
                .iter()
                .position(|subscription| *self.subscriptions.name(*subscription) == slot.channel);
            let Some(at) = found else {
                continue;
            };
            let subscription = connection.subscriptions.remove(at);
            // Those behind it have moved up; their channels have to know.
            for (slot, subscription) in connection.subscriptions.iter().enumerate().skip(at) {
                self.subscriptions.set_slot(*subscription, slot);
            }
            let (name, moved) = self.subscriptions.remove(subscription);
            names.push(name);
            if let Some(moved) = moved {
                let (_, connection) = self.connections.live(moved.connection);
                connection.subscriptions[moved.slot] = moved.to;
            }
        }
        self.show_subscriptions();
        if !names.is_empty() {
            self.outputs.push_back(Output::Detach(names));
        }
    }

    /// The broker has attached a connection to channels that a link added.
    pub(super) fn join(
        &mut self,
        key: ConnectionKey,
        cursor: Sequence,
        catch_up: Option<Box<CatchUp>>,
        now: Instant,
    ) {
        let connection = self.connections.get(key);
        if connection.is_some_and(|it| matches!(it.phase, Phase::WebSocket(..))) {
            self.join_next(key, cursor);
            self.take_catch_up(key, catch_up);
            return self.go_on(key, now);
        }
        let Some(session) = self.session(key) else {
            return;
        };
        let joining = std::mem::take(&mut session.joining);
        for slot in joining {
            self.subscribe(key, &slot.channel, cursor);
            if let Some(session) = self.session(key) {
                session.slots.push(slot);
            }
        }
        if self.take_catch_up(key, catch_up) == Gap::Found
            && let Some(session) = self.session(key)
        {
            session.wish = session.wish.max(Some(Urgency::Low));
        }
        self.go_on(key, now);
    }

    /// A piece of a body for these connections.
    fn handle_body(&mut self, keys: &[ConnectionKey], bytes: &Bytes, receipt: Receipt) {
        let shared = StreamContent::new(bytes);
        let receipt = Rc::new(receipt);
        for key in keys {
            self.append_body(*key, &shared, &receipt);
        }
    }

    fn append_body(&mut self, key: ConnectionKey, shared: &StreamContent, receipt: &Rc<Receipt>) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (Phase::Stream(framing), Some(session)) = (&connection.phase, &mut connection.session)
        else {
            return;
        };
        let filter = match &mut session.busy {
            Busy::Feeding => None,
            Busy::Receiving(receiving) => receiving.filter.as_mut(),
            Busy::Idle | Busy::Following | Busy::Asking(_) | Busy::CatchingUp => return,
        };
        let bytes = match filter.map(|filter| filter.push(shared.plain())) {
            None => framing.frame(shared),
            Some(Ok(filtered)) => framing.frame(&StreamContent::new(&filtered)),
            Some(Err(error)) => return self.end_with(key, &format!("filter error: {error}")),
        };
        receipt.want();
        connection.outbox.push(bytes);
        if connection.outbox.pending_bytes() > MUCH {
            session.receipt = Some(Rc::clone(receipt));
        }
        mark_dirty(&mut self.dirty, key, connection);
    }

    fn handle_complete(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (Phase::Stream(_), Some(session)) = (&connection.phase, &mut connection.session) else {
            return;
        };
        match std::mem::replace(&mut session.busy, Busy::Idle) {
            Busy::Feeding => self.go_on(key, now),
            Busy::Receiving(receiving) => {
                let finished = receiving.filter.map_or(Ok(()), BodyFilter::finish);
                if let Err(error) = finished {
                    return self.end_with(key, &format!("filter error: {error}"));
                }
                self.end_linked(key, &receiving.linked, now);
            }
            other => session.busy = other,
        }
    }

    /// A body broke off, and with it the stream; unless that ended before, for another reason.
    fn handle_broken(&mut self, key: ConnectionKey) {
        let connection = self.connections.get(key);
        if connection.is_some_and(|connection| !matches!(connection.phase, Phase::Ending)) {
            self.abort(key);
        }
    }

    /// A link's answer is complete: the stream goes on as its instruction says.
    fn end_linked(&mut self, key: ConnectionKey, linked: &Linked, now: Instant) {
        let Some(session) = self.session(key) else {
            return;
        };
        session.forget_older();
        match (linked.instruct.hold, &linked.next) {
            (Some(_), _) => {}
            (None, Some(_)) => session.wish = Some(Urgency::High),
            (None, None) => return self.let_go(key),
        }
        self.go_on(key, now);
    }

    /// Sets the next beat at which a stream's link is followed, if it has one.
    pub(super) fn set_beat(&mut self, key: ConnectionKey, now: Instant) {
        let epoch = self.beats.start();
        let Some(session) = self.session(key) else {
            return;
        };
        session.beat = session
            .next
            .as_ref()
            .map(|next| next_beat(next, epoch, now));
        if let Some(beat) = session.beat {
            self.beats.remind(key, beat);
        }
    }

    pub(super) fn handle_beat(&mut self, key: ConnectionKey, now: Instant) {
        self.handle_stall(key, now);
        let Some(session) = self.session(key) else {
            return;
        };
        if session.beat.is_none_or(|beat| beat > now) {
            // Of an earlier link; the later beat has a reminder of its own.
            return;
        }
        let was_heard = session.take_heard();
        self.set_beat(key, now);
        if !was_heard {
            self.follow(key, Urgency::Low);
        }
    }

    /// The hold is over, whatever the reason.
    pub(super) fn end_session(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Some(session) = connection.session.take() else {
            return;
        };
        let Session {
            behalf,
            gone,
            joining,
            ..
        } = *session;
        if let Some(uri) = gone {
            self.outputs.push_back(Output::Run {
                connection: key,
                behalf,
                kind: ErrandKind::Gone(uri),
            });
        }
        if !joining.is_empty() {
            let names = joining.into_iter().map(|slot| slot.channel).collect();
            self.outputs.push_back(Output::Detach(names));
        }
    }
}

/// The next of the instants, `timeout` apart, at which all streams with this link follow it.
///
/// They are the same for every shard; so however many streams have one link, their requests come
/// together and are run as one.
fn next_beat(next: &Next, epoch: Instant, now: Instant) -> Instant {
    let period = next.timeout.max(MIN_BEAT).as_millis();
    let mut hasher = rustc_hash::FxHasher::default();
    next.uri.hash(&mut hasher);
    let offset = u128::from(hasher.finish()) % period;
    let elapsed = now.saturating_duration_since(epoch).as_millis();
    let beats = (elapsed + period - offset) / period;
    let millis = u64::try_from(beats * period + offset).unwrap_or(u64::MAX);
    epoch + Duration::from_millis(millis)
}
