//! Lookups and fills, with the platform's core cache.
//!
//! A lookup is a transaction: of all requests for a missing answer, one gets the duty to fetch it,
//! and the others wait. An answer is inserted when its body is complete, because one that breaks
//! off would stay. Every duty ends in an insert, be it a marker, or is given up while something
//! stale is still there for the others.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fastly::cache::core::{self, CacheError, CacheKey, Found, Transaction};
use fastly::{Body, Response};
use grip::cache::{
    Access, Entry, EntryKind, Fallback, Lookup, Marking, NotStored, Step, Storage, backup_of,
    conditions, decide, is_outdated, lookup, marking, refresh_of, select, storage, updated,
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
    let serving = Serving::new(lookup, visit);
    match lookup.access {
        Access::Fill => serving.get(),
        Access::Read | Access::ReadAuthorized => serving.read().send(visit),
    }
}

/// Asks the origin for a client that has missed something. What is stored is older than what the
/// client has, or as old; if the answer shows that, it is fetched anew, once for all who come with
/// the same.
pub(crate) fn catch_up(visit: &Visit<'_>) {
    let response = match origin::pass(visit) {
        Ok(response) => response,
        Err(error) => return answer::origin_failed(&error).send(visit),
    };
    let is_good = !response.get_status().is_server_error();
    let headers = headers_of(response.get_headers());
    answer::passed(response, visit).send(visit);
    let path_and_query = visit.path_and_query();
    let policy = &visit.edge.policy;
    let lookup = lookup(
        visit.method(),
        visit.host(),
        &path_and_query,
        visit.headers(),
        policy,
    );
    if let Some(lookup) = lookup
        && lookup.access == Access::Fill
        && is_good
    {
        Serving::new(&lookup, visit).replace_outdated(&headers);
    }
}

impl<'a> Serving<'a> {
    fn new(lookup: &'a Lookup, visit: &'a Visit<'a>) -> Self {
        Self {
            lookup,
            visit,
            edge: visit.edge,
        }
    }

    fn get(&self) {
        let began = Instant::now();
        let transaction = match self.transaction(self.key()) {
            Ok(transaction) => transaction,
            Err(error) => {
                // Most likely somebody else's fetch takes too long.
                log::event("lookup_failed", &[("error", &error.to_string())]);
                return self
                    .backup()
                    .unwrap_or_else(|| self.pass("lookup-failed"))
                    .send(self.visit);
            }
        };
        let found = transaction.found();
        let entry = found.as_ref().and_then(entry_of);
        let is_stale = found.as_ref().is_some_and(Found::is_stale);
        // An object that is no entry of ours is as good as none.
        let has_duty = transaction.must_insert_or_update();
        let step = decide(entry.as_ref(), is_stale, has_duty, now());
        let stored = found.as_ref().zip(entry.as_ref());
        if stored.is_some_and(|stored| came_after(stored, began)) {
            self.visit.trace.note("collapsed", "yes");
        }
        match (step, stored) {
            (Step::Deliver, Some(stored)) => self.stored(stored, Source::Hit).send(self.visit),
            (Step::DeliverStale, Some(stored)) => {
                self.stored(stored, Source::Stale).send(self.visit);
            }
            (Step::DeliverAndRefresh, Some(stored)) => {
                self.stored(stored, Source::Stale).send(self.visit);
                self.refresh(transaction, stored);
            }
            (Step::Fetch(fallback), stored) => {
                self.fetch(transaction, stored, fallback).send(self.visit);
            }
            (Step::Plain, _) => Serving::new(&self.lookup.plain(), self.visit).get(),
            (Step::Failing, _) => {
                self.visit.trace.note("reason", "origin-failing");
                let answer = self.backup().unwrap_or_else(answer::unavailable);
                answer.send(self.visit);
            }
            (Step::Pass, _) | (_, None) => self.pass("marker").send(self.visit),
        }
    }

    fn transaction(&self, key: CacheKey) -> Result<Transaction, CacheError> {
        let mut builder = Transaction::lookup(key).timeout(self.edge.collapse_wait);
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        builder.execute()
    }

    fn key(&self) -> CacheKey {
        CacheKey::from(self.lookup.key.clone())
    }

    /// What is there, without waiting for anybody.
    fn peek(&self, key: Vec<u8>) -> Option<(Found, Entry)> {
        let mut builder = core::lookup(CacheKey::from(key));
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        let found = builder.execute().ok().flatten()?;
        let entry = entry_of(&found)?;
        Some((found, entry))
    }

    /// The headers of this request that stored answers may vary by.
    fn vary_names(&self) -> impl Iterator<Item = &HeaderName> {
        let names = self.edge.policy.vary.iter();
        names.filter(|name| self.visit.headers().contains_key(*name))
    }

    /// Reads what others have stored; who asks so never fills, because what comes is no whole answer
    /// for everybody.
    fn read(&self) -> Answer {
        let plain = self.lookup.plain();
        let is_allowed = |entry: &Entry| {
            entry.kind.is_answer()
                && (self.lookup.access == Access::Read || entry.is_for_authorized())
        };
        let stored = self.peek(plain.key).filter(|(_, entry)| is_allowed(entry));
        let Some((found, entry)) = stored else {
            return self.pass(self.lookup.access.as_str());
        };
        // As if it had the duty to fetch: what it gets is not fetched by somebody else.
        match decide(Some(&entry), found.is_stale(), true, now()) {
            Step::Deliver => self.stored((&found, &entry), Source::Hit),
            Step::DeliverAndRefresh => self.stored((&found, &entry), Source::Stale),
            Step::Fetch(Fallback::Stored) => match origin::pass(self.visit) {
                Ok(response) if !is_failure(response.get_status()) => {
                    self.visit.trace.note("reason", "stale");
                    answer::passed(response, self.visit)
                }
                _ => self.stored((&found, &entry), Source::Unconfirmed),
            },
            _ => self.pass("stale"),
        }
    }

    /// Asks the origin for this visitor alone; the request has no body.
    fn pass(&self, reason: &str) -> Answer {
        self.visit.trace.note("reason", reason);
        match origin::pass(self.visit) {
            Ok(response) => answer::passed(response, self.visit),
            Err(error) => answer::origin_failed(&error),
        }
    }

    /// What of a stored answer the request is for.
    fn stored(&self, (found, entry): (&Found, &Entry), source: Source) -> Answer {
        self.visit.note_stored_age(found.age());
        let source = match source {
            Source::Stale if entry.kind == EntryKind::Unconfirmed => Source::Unconfirmed,
            other => other,
        };
        match body_of(found) {
            Ok(body) => self.selected(entry, body, source, entry.age(now())),
            Err(error) => {
                log::event("object_unreadable", &[("error", &error)]);
                self.pass("object-unreadable")
            }
        }
    }

    fn selected(&self, entry: &Entry, mut body: Vec<u8>, source: Source, age: u64) -> Answer {
        let length = body.len() as u64;
        let selection = select(self.visit.headers(), entry, length);
        let range = selection.body(length);
        let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
        body.truncate(at(range.end));
        body.drain(..at(range.start).min(body.len()));
        let head = selection.head(entry, length);
        answer::stored(entry, head, body, source, age, self.visit)
    }

    /// Fetches and stores; what the visitor gets is what came, or the best there is.
    fn fetch(
        &self,
        transaction: Transaction,
        stored: Option<(&Found, &Entry)>,
        fallback: Fallback,
    ) -> Answer {
        let failure = match self.fetched(stored) {
            Ok(Fetched::New(new)) => return self.keep(transaction, new),
            Ok(Fetched::Same(renewal)) => return self.renew(transaction, renewal),
            Err(failure) => failure,
        };
        if let (Fallback::Stored, Some(stored)) = (fallback, stored) {
            let answer = self.stored(stored, Source::Unconfirmed);
            self.put_off(transaction, stored);
            return answer;
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

    /// Fetches and stores after the visitor was answered, who needs no other answer.
    fn refresh(&self, transaction: Transaction, stored: (&Found, &Entry)) {
        match self.fetched(Some(stored)) {
            Ok(Fetched::New(new)) => drop(self.keep(transaction, new)),
            Ok(Fetched::Same(renewal)) => drop(self.renew(transaction, renewal)),
            Err(_) => self.put_off(transaction, stored),
        }
    }

    /// The origin fails: until it is tried again, what is stored is delivered to those who come next.
    fn put_off(&self, transaction: Transaction, (found, entry): (&Found, &Entry)) {
        let policy = &self.edge.policy;
        let storage = storage(entry.status, &entry.headers, self.lookup, policy, now());
        let metadata = entry.failing(now()).encode();
        let (Ok(storage), Ok(metadata)) = (storage, metadata) else {
            let _ = transaction.cancel_insert_or_update();
            return;
        };
        // For the platform it is fresh so long, so that it has nobody fetch it.
        let fail_ttl = Duration::from_secs(self.edge.fail_ttl);
        let age = found.age();
        let mut builder = transaction
            .update(age + fail_ttl)
            .age(age)
            .stale_while_revalidate(stale_window(&storage))
            .surrogate_keys(storage.surrogate_keys.iter().map(String::as_str))
            .user_metadata(metadata);
        if !storage.vary.is_empty() {
            builder = builder.vary_by(&storage.vary);
        }
        if let Err(error) = builder.execute() {
            log::event("update_failed", &[("error", &error.to_string())]);
        }
    }

    /// A response that is worth an answer, or the origin's word that the stored one is good still.
    fn fetched(&self, stored: Option<(&Found, &Entry)>) -> Result<Fetched, Failure> {
        // A client's own validator is in the key, and its answer is for those who have the same.
        let asked = stored.filter(|_| !self.lookup.has_validator);
        let asked = asked.and_then(|(found, entry)| Some((found, entry, conditions(entry)?)));
        let conditions = asked.as_ref().map_or(&[][..], |(_, _, list)| list);
        let response = origin::fill(self.visit, self.lookup, conditions).map_err(|error| {
            log::event("origin_error", &[("error", &error.to_string())]);
            Failure::NoResponse
        })?;
        let status = response.get_status();
        if is_failure(status) {
            log::event("origin_failing", &[("status", status.as_str())]);
            return Err(Failure::Response(Box::new(response)));
        }
        match asked {
            Some((found, entry, _)) if status == StatusCode::NOT_MODIFIED => {
                self.same(&response, found, entry)
            }
            _ => self.new_answer(response),
        }
    }

    fn same(&self, response: &Response, found: &Found, entry: &Entry) -> Result<Fetched, Failure> {
        let headers = updated(&entry.headers, &headers_of(response.get_headers()));
        let storage = storage(
            entry.status,
            &headers,
            self.lookup,
            &self.edge.policy,
            now(),
        );
        let body = body_of(found).map_err(|error| {
            log::event("object_unreadable", &[("error", &error)]);
            Failure::NoResponse
        })?;
        Ok(Fetched::Same(Renewal {
            status: entry.status,
            headers,
            storage,
            body,
        }))
    }

    fn new_answer(&self, mut response: Response) -> Result<Fetched, Failure> {
        let status = response.get_status();
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
        Ok(Fetched::New(New {
            status,
            headers,
            storage,
            body,
        }))
    }

    /// Stores what was fetched, or a marker that says that such answers are not stored.
    fn keep(&self, transaction: Transaction, new: New) -> Answer {
        let New {
            status,
            headers,
            storage,
            body,
        } = new;
        let kept = match (storage, body) {
            (Ok(storage), Complete::Yes(body)) => {
                let entry = entry(status, &headers, &storage);
                match entry.encode() {
                    Ok(metadata) => {
                        self.insert(transaction, &storage, &metadata, &body);
                        return self.selected(&entry, body, Source::Miss, storage.initial_age);
                    }
                    Err(_) => (NotStored::Headers, Body::from(body)),
                }
            }
            (Ok(_), Complete::No(body)) => (NotStored::Size, body),
            (Err(reason), Complete::Yes(body)) => (reason, Body::from(body)),
            (Err(reason), Complete::No(body)) => (reason, body),
        };
        let (reason, body) = kept;
        self.mark_not_stored(transaction, reason, &headers);
        answer::shown(status, &headers, body, Source::Pass, self.visit)
    }

    fn mark_not_stored(&self, transaction: Transaction, reason: NotStored, headers: &HeaderMap) {
        self.visit.trace.note("reason", reason.as_str());
        let kind = if reason == NotStored::NoHold {
            EntryKind::PlainMarker
        } else {
            EntryKind::PassMarker
        };
        let marking = marking(headers, self.lookup, &self.edge.policy);
        mark(transaction, kind, self.edge.pass_ttl, &marking);
    }

    /// The stored answer is good still, with what the origin says of it now.
    fn renew(&self, transaction: Transaction, renewal: Renewal) -> Answer {
        let Renewal {
            status,
            headers,
            storage,
            body,
        } = renewal;
        let (storage, entry, metadata) = match storage {
            Ok(storage) => {
                let entry = entry(status, &headers, &storage);
                let metadata = entry.encode();
                (storage, entry, metadata)
            }
            Err(reason) => {
                self.mark_not_stored(transaction, reason, &headers);
                let body = Body::from(body);
                return answer::shown(status, &headers, body, Source::Pass, self.visit);
            }
        };
        let Ok(metadata) = metadata else {
            self.mark_not_stored(transaction, NotStored::Headers, &headers);
            let body = Body::from(body);
            return answer::shown(status, &headers, body, Source::Pass, self.visit);
        };
        // Everything again: what is left out is gone.
        let mut builder = transaction
            .update(Duration::from_secs(storage.ttl))
            .age(Duration::from_secs(storage.initial_age))
            .stale_while_revalidate(stale_window(&storage))
            .surrogate_keys(storage.surrogate_keys.iter().map(String::as_str))
            .user_metadata(metadata.clone());
        if !storage.vary.is_empty() {
            builder = builder.vary_by(&storage.vary);
        }
        if let Err(error) = builder.execute() {
            log::event("update_failed", &[("error", &error.to_string())]);
        }
        self.insert_backup(&storage, &metadata, &body);
        self.selected(&entry, body, Source::Revalidated, storage.initial_age)
    }

    fn insert(&self, transaction: Transaction, storage: &Storage, metadata: &Bytes, body: &[u8]) {
        let mut builder = transaction
            .insert(Duration::from_secs(storage.ttl))
            .initial_age(Duration::from_secs(storage.initial_age))
            .stale_while_revalidate(stale_window(storage))
            .surrogate_keys(storage.surrogate_keys.iter().map(String::as_str))
            .known_length(body.len() as u64)
            .user_metadata(metadata.clone());
        // Viceroy refuses an empty list of names.
        if !storage.vary.is_empty() {
            builder = builder.vary_by(&storage.vary);
        }
        finish(builder.execute(), body, "insert_failed");
        self.insert_backup(storage, metadata, body);
    }

    fn insert_backup(&self, storage: &Storage, metadata: &Bytes, body: &[u8]) {
        let Some(backup) = &storage.backup else {
            return;
        };
        let keys = &backup.surrogate_keys;
        let builder = self
            .outside(backup_of(&self.lookup.key), backup.ttl, storage, keys)
            .known_length(body.len() as u64)
            .user_metadata(metadata.clone());
        finish(builder.execute(), body, "backup_failed");
    }

    /// An insert without a transaction.
    fn outside(
        &self,
        key: Vec<u8>,
        ttl: u64,
        storage: &Storage,
        surrogate_keys: &[String],
    ) -> core::InsertBuilder {
        let mut builder = core::insert(CacheKey::from(key), Duration::from_secs(ttl))
            .surrogate_keys(surrogate_keys.iter().map(String::as_str));
        if !storage.vary.is_empty() {
            builder = builder.vary_by(&storage.vary);
        }
        for name in self.vary_names() {
            builder = builder.header_values(name, self.visit.headers().get_all(name));
        }
        builder
    }

    /// The copy that ordinary purges have left alone.
    fn backup(&self) -> Option<Answer> {
        let (found, entry) = self.peek(backup_of(&self.lookup.key))?;
        log::event("backup_served", &[("path", self.visit.path())]);
        Some(self.stored((&found, &entry), Source::Backup))
    }

    /// Fetches the stored answer anew, if this one shows that it is old. Of all who find that out at
    /// the same time, one fetches.
    fn replace_outdated(&self, headers: &HeaderMap) {
        let is_old = |(_, entry): &(Found, Entry)| {
            entry.kind.is_answer() && is_outdated(&entry.headers, self.visit.headers(), headers)
        };
        if !self
            .peek(self.lookup.key.clone())
            .as_ref()
            .is_some_and(is_old)
        {
            return;
        }
        let Ok(turn) = self.transaction(CacheKey::from(refresh_of(&self.lookup.key))) else {
            return;
        };
        if !turn.must_insert_or_update() {
            return;
        }
        if let Ok(Fetched::New(New {
            status,
            headers,
            storage: Ok(storage),
            body: Complete::Yes(body),
        })) = self.fetched(None)
        {
            let entry = entry(status, &headers, &storage);
            if let Ok(metadata) = entry.encode() {
                self.replace(&storage, &metadata, &body);
                log::event("outdated_replaced", &[("path", self.visit.path())]);
            }
        }
        // Whoever finds the same in this moment has nothing to do.
        mark(
            turn,
            EntryKind::FailureMarker,
            self.edge.fail_ttl,
            &Marking::default(),
        );
    }

    fn replace(&self, storage: &Storage, metadata: &Bytes, body: &[u8]) {
        let keys = &storage.surrogate_keys;
        let builder = self
            .outside(self.lookup.key.clone(), storage.ttl, storage, keys)
            .initial_age(Duration::from_secs(storage.initial_age))
            .stale_while_revalidate(stale_window(storage))
            .known_length(body.len() as u64)
            .user_metadata(metadata.clone());
        finish(builder.execute(), body, "insert_failed");
        self.insert_backup(storage, metadata, body);
    }
}

/// The platform keeps the object findable for both windows; `decide` knows their borders.
fn stale_window(storage: &Storage) -> Duration {
    Duration::from_secs(storage.stale_while_revalidate.max(storage.stale_if_error))
}

/// Whether an answer says that the origin is in trouble.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Whether an object was stored while this request waited for it.
fn came_after((found, entry): (&Found, &Entry), began: Instant) -> bool {
    let age = found
        .age()
        .saturating_sub(Duration::from_secs(entry.initial_age));
    age < began.elapsed()
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

/// What a fetch has brought.
enum Fetched {
    New(New),
    Same(Renewal),
}

/// A response as it is going to be answered.
struct New {
    status: StatusCode,
    headers: HeaderMap,
    storage: Result<Storage, NotStored>,
    body: Complete,
}

/// A stored answer that the origin has confirmed.
struct Renewal {
    status: StatusCode,
    headers: HeaderMap,
    storage: Result<Storage, NotStored>,
    body: Vec<u8>,
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
