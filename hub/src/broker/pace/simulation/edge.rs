//! A model of the edge: the real cache policy on a naive copy of the platform's cache.
//!
//! The platform gives one request the duty to fetch what is missing or stale, stores an answer when
//! it is complete, and removes by surrogate key what is stored at that moment, but not what is
//! being fetched. Times are in milliseconds.

use std::collections::BTreeMap;

use grip::UnixTime;
use grip::cache::{
    Entry, EntryKind, Fallback, Lookup, Policy, RequestKind, Step, backup_of, classify, decide,
    storage,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

/// What is stored under a key.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) entry: Entry,
    /// What stands for the body.
    pub(super) value: u64,
    /// The millisecond of the insert.
    pub(super) inserted: u64,
    surrogate_keys: Vec<String>,
}

/// What comes of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// An answer.
    Stored(u64),
    /// An answer that was kept for when the origin is down.
    Backup(u64),
    /// The visitor is to fetch, perhaps after having been answered.
    Fetch {
        answer: Option<u64>,
        fallback: Option<u64>,
    },
    /// Somebody else fetches.
    Wait,
    /// The visitor fetches for itself.
    Pass,
    /// Nothing.
    Error,
}

/// The edge, and all that it stores.
#[derive(Debug, Default)]
pub(super) struct Edge {
    objects: BTreeMap<Vec<u8>, Object>,
    /// Keys with a fetch under way.
    fetching: Vec<Vec<u8>>,
    policy: Policy,
}

/// The wall clock of a millisecond.
fn unix(now: u64) -> UnixTime {
    UnixTime(1_000_000 + now / 1000)
}

impl Edge {
    /// A request for the resource that a channel is about.
    pub(super) fn visit(&mut self, channel: &str, now: u64) -> Visit {
        let lookup = self.lookup(channel);
        let is_fetching = self.fetching.contains(&lookup.key);
        let found = self.find(&lookup.key, now);
        if found.is_none() && is_fetching {
            return Visit::Wait;
        }
        let is_stale = found.is_some_and(|object| object.entry.age(unix(now)) >= object.entry.ttl);
        let has_duty = (found.is_none() || is_stale) && !is_fetching;
        let value = found.map(|object| object.value);
        let step = decide(
            found.map(|object| &object.entry),
            is_stale,
            has_duty,
            unix(now),
        );
        let visit = match (step, value) {
            (Step::Deliver | Step::DeliverStale, Some(value)) => Visit::Stored(value),
            (Step::DeliverAndRefresh, value) => Visit::Fetch {
                answer: value,
                fallback: value,
            },
            (Step::Fetch(Fallback::Stored), value) => Visit::Fetch {
                answer: None,
                fallback: value,
            },
            (Step::Fetch(Fallback::Backup), _) => Visit::Fetch {
                answer: None,
                fallback: None,
            },
            (Step::Failing, _) => self.backup(channel, now),
            (Step::Pass | Step::Plain | Step::Deliver | Step::DeliverStale, _) => Visit::Pass,
        };
        if matches!(visit, Visit::Fetch { .. }) {
            self.fetching.push(lookup.key);
        }
        visit
    }

    /// The fetch for a visitor is over: it brought an answer with these headers, or failed.
    pub(super) fn fetched(
        &mut self,
        channel: &str,
        fetched: Option<(u64, &HeaderMap)>,
        has_fallback: bool,
        now: u64,
    ) {
        let lookup = self.lookup(channel);
        self.fetching.retain(|key| *key != lookup.key);
        let Some((value, headers)) = fetched else {
            if !has_fallback {
                let marker = Entry::marker(EntryKind::FailureMarker, unix(now), 1);
                self.insert(lookup.key, marker, 0, Vec::new(), now);
            }
            return;
        };
        let storage = storage(StatusCode::OK, headers, &lookup, &self.policy, unix(now));
        let storage = storage.expect("the model's answers can be stored");
        let entry = Entry {
            kind: EntryKind::Answer,
            status: StatusCode::OK,
            fetched: unix(now),
            initial_age: storage.initial_age,
            ttl: storage.ttl,
            stale_while_revalidate: storage.stale_while_revalidate,
            stale_if_error: storage.stale_if_error,
            headers: Entry::stored_headers(headers),
        };
        if let Some(backup) = storage.backup {
            let mut entry = entry.clone();
            entry.ttl = backup.ttl;
            let key = backup_of(&lookup.key);
            self.insert(key, entry, value, backup.surrogate_keys, now);
        }
        self.insert(lookup.key, entry, value, storage.surrogate_keys, now);
    }

    /// What is left when the origin fails and nothing is stored.
    pub(super) fn backup(&self, channel: &str, now: u64) -> Visit {
        let key = backup_of(&self.lookup(channel).key);
        self.find(&key, now)
            .map_or(Visit::Error, |object| Visit::Backup(object.value))
    }

    /// Removes what is stored with this key.
    pub(super) fn purge(&mut self, surrogate_key: &str) {
        self.objects
            .retain(|_, object| !object.surrogate_keys.iter().any(|key| key == surrogate_key));
    }

    /// What is stored for a channel, backups excepted.
    pub(super) fn stored(&self, channel: &str) -> Option<&Object> {
        let object = self.objects.get(&self.lookup(channel).key)?;
        (object.entry.kind == EntryKind::Answer).then_some(object)
    }

    fn lookup(&self, channel: &str) -> Lookup {
        let path = format!("/{channel}");
        let kind = classify(
            &Method::GET,
            "example.com",
            &path,
            &path,
            &HeaderMap::new(),
            &self.policy,
        );
        match kind {
            RequestKind::Lookup(lookup) => lookup,
            other => panic!("{other:?}"),
        }
    }

    /// The platform keeps what is stale findable for both windows.
    fn find(&self, key: &[u8], now: u64) -> Option<&Object> {
        let object = self.objects.get(key)?;
        let entry = &object.entry;
        let window = entry.stale_while_revalidate.max(entry.stale_if_error);
        (entry.age(unix(now)) < entry.ttl + window).then_some(object)
    }

    fn insert(
        &mut self,
        key: Vec<u8>,
        entry: Entry,
        value: u64,
        surrogate_keys: Vec<String>,
        now: u64,
    ) {
        let object = Object {
            entry,
            value,
            inserted: now,
            surrogate_keys,
        };
        self.objects.insert(key, object);
    }
}

/// An origin's answer: a stream on its channel, that may be stored for so many seconds.
pub(super) fn answer(channel: &str, value: u64, seconds: u64) -> HeaderMap {
    let fields = [
        (
            "surrogate-control",
            format!("max-age={seconds}, stale-while-revalidate=10, stale-if-error=60"),
        ),
        ("grip-hold", "stream".to_owned()),
        ("grip-channel", format!("{channel}; prev-id={value}")),
    ];
    fields
        .into_iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(&value).expect("it is plain text");
            (HeaderName::from_static(name), value)
        })
        .collect()
}
