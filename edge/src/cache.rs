//! Lookups and fills, with the platform's core cache.
//!
//! A lookup is a transaction: of all requests for a missing answer, one gets the duty to fetch it,
//! and the others wait. An answer is inserted when its body is complete, because one that breaks
//! off would stay. Every duty ends in an insert, be it a marker, or is given up while something
//! stale is still there for the others.

use std::time::Duration;

use bytes::Bytes;
use fastly::cache::core::{self, CacheError, CacheKey, Found, Transaction};
use fastly::{Body, Response};
use grip::cache::{
    Entry, EntryKind, Fallback, Lookup, Marking, NotStored, Step, Storage, backup_of, decide,
    marking, storage,
};
use http::{HeaderMap, HeaderName, StatusCode};

use crate::answer::{self, Answer, Source};
use crate::config::Edge;
use crate::origin::{self, Complete, headers_of};
use crate::visit::Visit;
use crate::{log, now};

/// One request for something that may be stored.
struct Serving<'a> {
    lookup: &'a Lookup,
    visit: &'a Visit<'a>,
    edge: &'a Edge,
}

/// Answers from the cache, or fills it and answers.
pub(crate) fn serve(lookup: &Lookup, visit: &Visit<'_>) {
    let serving = Serving {
        lookup,
        visit,
        edge: visit.edge,
    };
    if lookup.is_head {
        serving.head().send(visit);
    } else {
        serving.get();
    }
}

impl Serving<'_> {
    fn get(&self) {
        let transaction = match self.transaction() {
            Ok(transaction) => transaction,
            Err(error) => {
                // Most likely somebody else's fetch takes too long.
                log::event("lookup_failed", &[("error", &error.to_string())]);
                return self
                    .backup()
                    .unwrap_or_else(|| self.pass())
                    .send(self.visit);
            }
        };
        let found = transaction.found();
        let entry = found.as_ref().and_then(entry_of);
        let is_stale = found.as_ref().is_some_and(Found::is_stale);
        // An object that is no entry of ours is as good as none.
        let has_duty = transaction.must_insert_or_update();
        let step = decide(entry.as_ref(), is_stale, has_duty, now());
        match (step, found.as_ref().zip(entry.as_ref())) {
            (Step::Deliver, Some(stored)) => self.stored(stored, Source::Hit).send(self.visit),
            (Step::DeliverStale, Some(stored)) => {
                self.stored(stored, Source::Stale).send(self.visit);
            }
            (Step::DeliverAndRefresh, Some(stored)) => {
                self.stored(stored, Source::Stale).send(self.visit);
                self.refresh(transaction);
            }
            (Step::Fetch(Fallback::Stored), Some(stored)) => {
                self.fetch(transaction, Some(stored)).send(self.visit);
            }
            (Step::Fetch(_), _) => self.fetch(transaction, None).send(self.visit),
            (Step::Failing, _) => self
                .backup()
                .unwrap_or_else(answer::unavailable)
                .send(self.visit),
            (Step::Pass, _) | (_, None) => self.pass().send(self.visit),
        }
    }

    fn transaction(&self) -> Result<Transaction, CacheError> {
        let mut builder = Transaction::lookup(self.key()).timeout(self.edge.collapse_wait);
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        builder.execute()
    }

    fn key(&self) -> CacheKey {
        CacheKey::from(self.lookup.key.clone())
    }

    /// The headers of this request that stored answers may vary by.
    fn vary_names(&self) -> impl Iterator<Item = &HeaderName> {
        let names = self.edge.policy.vary.iter();
        names.filter(|name| self.visit.headers().contains_key(*name))
    }

    /// HEAD reads what GET has stored; it never fills, because it brings no body.
    fn head(&self) -> Answer {
        let mut builder = core::lookup(self.key());
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        let found = builder.execute().ok().flatten();
        let entry = found.as_ref().and_then(entry_of);
        let Some((found, entry)) = found.as_ref().zip(entry.as_ref()) else {
            return self.pass();
        };
        match decide(Some(entry), found.is_stale(), false, now()) {
            Step::Deliver => {
                answer::stored(entry, Vec::new(), Source::Hit, entry.age(now()), self.visit)
            }
            _ => self.pass(),
        }
    }

    /// Asks the origin for this visitor alone; the request has no body.
    fn pass(&self) -> Answer {
        match origin::pass(self.visit) {
            Ok(response) => answer::passed(response, self.visit),
            Err(error) => answer::origin_failed(&error),
        }
    }

    fn stored(&self, (found, entry): (&Found, &Entry), source: Source) -> Answer {
        match body_of(found) {
            Ok(body) => answer::stored(entry, body, source, entry.age(now()), self.visit),
            Err(error) => {
                log::event("object_unreadable", &[("error", &error)]);
                self.pass()
            }
        }
    }

    /// Fetches and stores; what the visitor gets is what came, or the best there is.
    fn fetch(&self, transaction: Transaction, stored: Option<(&Found, &Entry)>) -> Answer {
        let failure = match self.fetched() {
            Ok(fetched) => return self.keep(transaction, fetched),
            Err(failure) => failure,
        };
        if let Some(stored) = stored {
            // The stale answer stays for those who come next.
            let _ = transaction.cancel_insert_or_update();
            return self.stored(stored, Source::Stale);
        }
        // Opened before the marker is set, so that whoever is woken by it finds the backup too.
        let backup = self.backup();
        mark(
            transaction,
            EntryKind::FailureMarker,
            self.edge.fail_ttl,
            &Marking::default(),
        );
        backup.unwrap_or_else(|| failure.answer(self.visit))
    }

    /// Fetches and stores after the visitor was answered.
    fn refresh(&self, transaction: Transaction) {
        match self.fetched() {
            // Whoever asked has an answer already.
            Ok(fetched) => drop(self.keep(transaction, fetched)),
            Err(_) => drop(transaction.cancel_insert_or_update()),
        }
    }

    /// A response that is worth an answer.
    fn fetched(&self) -> Result<Fetched, Failure> {
        let mut response = origin::fill(self.visit).map_err(|error| {
            log::event("origin_error", &[("error", &error.to_string())]);
            Failure::NoResponse
        })?;
        let status = response.get_status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            log::event("origin_failing", &[("status", status.as_str())]);
            return Err(Failure::Response(Box::new(response)));
        }
        let headers = headers_of(response.get_headers());
        let storage = storage(status, &headers, self.lookup, &self.edge.policy, now());
        let body = response.take_body();
        let body = match storage {
            // It may never end: only what will be stored is read first.
            Err(_) => Complete::No(body),
            Ok(_) => origin::complete(body, self.edge.policy.max_body).map_err(|error| {
                log::event("origin_error", &[("error", &error.to_string())]);
                Failure::NoResponse
            })?,
        };
        Ok(Fetched {
            status,
            headers,
            storage,
            body,
        })
    }

    /// Stores what was fetched, or a marker that says that such answers are not stored.
    fn keep(&self, transaction: Transaction, fetched: Fetched) -> Answer {
        let Fetched {
            status,
            headers,
            storage,
            body,
        } = fetched;
        let kept = match (storage, body) {
            (Ok(storage), Complete::Yes(body)) => {
                let entry = entry(status, &headers, &storage);
                match entry.encode() {
                    Ok(metadata) => {
                        self.insert(transaction, &storage, &metadata, &body);
                        return answer::stored(
                            &entry,
                            body,
                            Source::Miss,
                            storage.initial_age,
                            self.visit,
                        );
                    }
                    Err(_) => (NotStored::Headers, Body::from(body)),
                }
            }
            (Ok(_), Complete::No(body)) => (NotStored::Size, body),
            (Err(reason), Complete::Yes(body)) => (reason, Body::from(body)),
            (Err(reason), Complete::No(body)) => (reason, body),
        };
        let (reason, body) = kept;
        log::event(
            "not_stored",
            &[("reason", reason.as_str()), ("path", self.visit.path())],
        );
        let marking = marking(&headers, self.lookup, &self.edge.policy);
        mark(
            transaction,
            EntryKind::PassMarker,
            self.edge.pass_ttl,
            &marking,
        );
        answer::shown(status, &headers, body, Source::Pass, self.visit)
    }

    fn insert(&self, transaction: Transaction, storage: &Storage, metadata: &Bytes, body: &[u8]) {
        // The platform keeps the object findable for both windows; `decide` knows their borders.
        let stale = storage.stale_while_revalidate.max(storage.stale_if_error);
        let mut builder = transaction
            .insert(Duration::from_secs(storage.ttl))
            .initial_age(Duration::from_secs(storage.initial_age))
            .stale_while_revalidate(Duration::from_secs(stale))
            .surrogate_keys(storage.surrogate_keys.iter().map(String::as_str))
            .known_length(body.len() as u64)
            .user_metadata(metadata.clone());
        // Viceroy refuses an empty list of names.
        if !storage.vary.is_empty() {
            builder = builder.vary_by(&storage.vary);
        }
        finish(builder.execute(), body, "insert_failed");
        let Some(backup) = &storage.backup else {
            return;
        };
        let key = CacheKey::from(backup_of(&self.lookup.key));
        let mut builder = core::insert(key, Duration::from_secs(backup.ttl))
            .surrogate_keys(backup.surrogate_keys.iter().map(String::as_str))
            .known_length(body.len() as u64)
            .user_metadata(metadata.clone());
        if !storage.vary.is_empty() {
            builder = builder.vary_by(&storage.vary);
        }
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        finish(builder.execute(), body, "backup_failed");
    }

    /// The copy that ordinary purges have left alone.
    fn backup(&self) -> Option<Answer> {
        let mut builder = core::lookup(CacheKey::from(backup_of(&self.lookup.key)));
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        let found = builder.execute().ok().flatten()?;
        let entry = entry_of(&found)?;
        log::event("backup_served", &[("path", self.visit.path())]);
        Some(self.stored((&found, &entry), Source::Backup))
    }
}

/// Inserts nothing under the key, so that nobody waits for somebody else's answer in vain.
fn mark(transaction: Transaction, kind: EntryKind, ttl: u64, marking: &Marking) {
    let marker = Entry::marker(kind, now(), ttl);
    let Ok(metadata) = marker.encode() else {
        return;
    };
    let mut builder = transaction
        .insert(Duration::from_secs(ttl))
        .surrogate_keys(marking.surrogate_keys.iter().map(String::as_str))
        .known_length(0)
        .user_metadata(metadata);
    if !marking.vary.is_empty() {
        builder = builder.vary_by(&marking.vary);
    }
    finish(builder.execute(), &[], "marker_failed");
}

/// A response as it is going to be answered.
struct Fetched {
    status: StatusCode,
    headers: HeaderMap,
    storage: Result<Storage, NotStored>,
    body: Complete,
}

/// Why a fetch is no answer.
enum Failure {
    /// There is no response, or not all of it.
    NoResponse,
    /// The response says that the origin is in trouble.
    Response(Box<Response>),
}

impl Failure {
    /// What is left to say when nothing is stored.
    fn answer(self, visit: &Visit<'_>) -> Answer {
        match self {
            Self::NoResponse => {
                answer::bad_gateway("Error while proxying to origin.", Source::Pass)
            }
            Self::Response(response) => answer::passed(*response, visit),
        }
    }
}

fn entry(status: StatusCode, headers: &HeaderMap, storage: &Storage) -> Entry {
    Entry {
        kind: EntryKind::Answer,
        status,
        fetched: now(),
        initial_age: storage.initial_age,
        ttl: storage.ttl,
        stale_while_revalidate: storage.stale_while_revalidate,
        stale_if_error: storage.stale_if_error,
        headers: Entry::stored_headers(headers),
    }
}

fn entry_of(found: &Found) -> Option<Entry> {
    let entry = Entry::decode(&found.user_metadata());
    if let Err(error) = &entry {
        log::event("bad_entry", &[("error", &error.to_string())]);
    }
    entry.ok()
}

/// All of a stored body: in one piece and with its length it leaves faster than as a stream.
fn body_of(found: &Found) -> Result<Vec<u8>, String> {
    let mut stream = found.to_stream().map_err(|error| error.to_string())?;
    let mut body = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut body).map_err(|error| error.to_string())?;
    Ok(body)
}

/// Writes a complete body. An object that cannot be stored is logged; the answer does not need it.
fn finish(
    inserted: Result<fastly::http::body::StreamingBody, CacheError>,
    body: &[u8],
    event: &str,
) {
    let written = match inserted {
        Err(error) => Err(error.to_string()),
        Ok(mut object) => std::io::Write::write_all(&mut object, body)
            .and_then(|()| object.finish())
            .map_err(|error| error.to_string()),
    };
    if let Err(error) = written {
        log::event(event, &[("error", &error)]);
    }
}
