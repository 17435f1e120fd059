//! What a connection has missed: out of the history, else from its origin.

use std::time::Instant;

use bytes::Bytes;

use super::connections::{EventIds, Events, Phase};
use super::session::{Busy, OnGap, Slot, Stall, Trail};
use super::{ENDING, Engine, Output};
use crate::config::SlowClients;
use crate::errand::Urgency;
use crate::mailbox::{CatchUp, ConnectionKey, Standing, Wanted};

/// Bytes that a client may have to read before what it has missed goes on.
const MUCH: usize = 64 * 1024;

/// Whether a connection lacks items that its origin has to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    None,
    Found,
}

impl Engine {
    /// How a stream begins: with its own start, or where the client's last stream of the same
    /// events ended.
    pub(super) fn resume(
        &mut self,
        key: ConnectionKey,
        start: Bytes,
        events: Events,
        mut catch_up: Option<Box<CatchUp>>,
    ) -> (Bytes, EventIds, Gap) {
        let resume = match events {
            Events::Plain => {
                return (
                    start,
                    EventIds::AsPublished,
                    self.take_catch_up(key, catch_up),
                );
            }
            Events::WithIds => {
                return (start, EventIds::Written, self.take_catch_up(key, catch_up));
            }
            Events::Resumed(resume) => resume,
        };
        let resumed = catch_up.as_ref().filter(|it| it.is_resumed);
        let Some(session) = self.session(key) else {
            return (start, EventIds::Written, Gap::None);
        };
        let start = match (session.slots.as_mut_slice(), &session.next, resumed) {
            (slots, _, Some(resumed)) => {
                let is_ahead = |slot: &&mut Slot| {
                    let ahead = (slot.channel.clone(), Standing::Ahead);
                    resumed.standings.contains(&ahead)
                };
                for slot in slots.iter_mut().filter(is_ahead) {
                    slot.go_on_from(Some(&resume.last_id));
                }
                resume.head
            }
            ([slot], Some(_), None) if slot.on_gap != OnGap::GoOn => {
                // The origin knows what came after it; what it says first is for others.
                slot.go_on_from(Some(&resume.last_id));
                session.wish = Some(Urgency::Low);
                catch_up = None;
                self.counters.gaps.increment();
                resume.head
            }
            _ => {
                self.counters.gaps.increment();
                start
            }
        };
        (start, EventIds::Written, self.take_catch_up(key, catch_up))
    }

    /// Takes what a connection has missed and says whether its origin has to be asked for more.
    pub(super) fn take_catch_up(
        &mut self,
        key: ConnectionKey,
        catch_up: Option<Box<CatchUp>>,
    ) -> Gap {
        let Some(catch_up) = catch_up else {
            return Gap::None;
        };
        let (_, connection) = self.connections.live(key.index);
        let has_origin = match connection.phase {
            Phase::Response(_) => true,
            _ => connection
                .session
                .as_ref()
                .is_some_and(|it| it.next.is_some()),
        };
        let Some(session) = &mut connection.session else {
            return Gap::None;
        };
        let (mut gap, mut is_lost) = (Gap::None, false);
        for (channel, standing) in catch_up.standings {
            let slot = session
                .slots
                .iter_mut()
                .find(|slot| slot.channel == channel);
            let Some(slot) = slot else {
                continue;
            };
            match standing {
                Standing::UpToDate => {}
                Standing::Ahead => slot.trail = Trail::Ahead,
                Standing::Resumed(id) => slot.go_on_from(id.as_ref()),
                Standing::Behind => match slot.on_gap {
                    OnGap::Recover if has_origin => gap = Gap::Found,
                    OnGap::Wait if has_origin => {}
                    OnGap::Recover | OnGap::Wait | OnGap::GoOn => {
                        slot.trail = Trail::Lost;
                        is_lost = true;
                    }
                },
            }
        }
        session.keep_missed(catch_up.missed);
        if gap == Gap::Found || is_lost {
            self.counters.gaps.increment();
        }
        gap
    }

    /// The broker knows what a connection has missed.
    pub(crate) fn handle_caught_up(
        &mut self,
        key: ConnectionKey,
        catch_up: Option<Box<CatchUp>>,
        now: Instant,
    ) {
        self.now = now;
        let Some(session) = self.session(key) else {
            return;
        };
        if !matches!(session.busy, Busy::CatchingUp) {
            return;
        }
        session.busy = Busy::Idle;
        match self.take_catch_up(key, catch_up) {
            Gap::None => {}
            Gap::Found => self.ask_again(key),
        }
        self.go_on(key, now);
        self.check_invariants();
    }

    /// Asks the broker for what a connection has missed.
    pub(super) fn catch_up(&mut self, key: ConnectionKey) {
        let Some(session) = self.session(key) else {
            return;
        };
        session.has_missed = false;
        let checked = session.slots.iter().filter(|slot| slot.is_checked());
        let wanted = Wanted {
            channels: checked.map(Slot::attachment).collect(),
            resume: None,
        };
        if !wanted.channels.is_empty() {
            session.busy = Busy::CatchingUp;
            let connection = key;
            self.outputs
                .push_back(Output::CatchUp { connection, wanted });
        }
    }

    /// Whether what a connection has missed has to wait until its client has read more.
    pub(super) fn awaits_client(&mut self, key: ConnectionKey, now: Instant) -> bool {
        let Some(connection) = self.connections.get(key) else {
            return false;
        };
        let limit = connection.limit(&self.budget);
        let has_much = connection.weight() > MUCH.min(limit / 2);
        let wanted = connection.session.as_ref().and_then(|it| it.wanted_room);
        let has_room = wanted.is_none_or(|bytes| connection.has_room(bytes, limit));
        let slow = connection.slow;
        let Some(session) = &mut connection.session else {
            return false;
        };
        if has_room {
            session.wanted_room = None;
        }
        let awaits = (has_much || !has_room) && session.waits_for_client();
        if !awaits {
            session.stall = None;
        } else if session.stall.is_none() && slow == SlowClients::Disconnect {
            let reminded = now + ENDING;
            session.stall = Some(Stall {
                since: now,
                reminded,
            });
            self.beats.remind(key, reminded);
        }
        awaits
    }

    /// The client has read something: what waited for that goes on.
    pub(super) fn go_on_after_write(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let limit = connection.limit(&self.budget);
        let has_little = connection.weight() <= MUCH.min(limit / 2) / 2;
        if has_little && self.session(key).is_some_and(|it| it.waits_for_client()) {
            self.go_on(key, now);
        }
    }

    /// The client has read some of what it had.
    pub(super) fn note_read(&mut self, key: ConnectionKey) {
        let now = self.now;
        if let Some(session) = self.session(key)
            && let Some(stall) = &mut session.stall
        {
            stall.since = now;
        }
    }

    /// Ends a connection whose client has read nothing for long, with more to come.
    pub(super) fn handle_stall(&mut self, key: ConnectionKey, now: Instant) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let has_read_all = connection.outbox.is_empty();
        let session = connection.session.as_mut();
        let Some(stall) = session.and_then(|session| session.stall.as_mut()) else {
            return;
        };
        if stall.reminded > now {
            // The reminder is of something else.
            return;
        }
        if has_read_all {
            // It waits for its origin.
            stall.since = now;
        }
        stall.reminded = stall.since + ENDING;
        if stall.reminded <= now {
            return self.drop_slow(key);
        }
        self.beats.remind(key, stall.reminded);
    }
}
