//! The edge's cache policy: may an answer be stored, under which key, how long, and what may be
//! served while the origin fails.
//!
//! All of it is decided here, from headers and times; the edge crate only carries it out. An answer
//! is stored with its GRIP headers, so that a cached one can set up any number of subscribers.
//! Read [`Policy`], [`classify`], [`storage`] and [`decide`] in this order. RFC 9111 is the base;
//! where this is stricter, it says so.

mod decision;
mod delivery;
mod directives;
mod entry;
mod keys;
mod purge;
mod query;
mod refresh;
mod request;
mod select;
mod storage;

pub use decision::{Fallback, Step, decide};
pub use delivery::{ClientRefusal, client_answer, hub_headers};
pub use entry::{Entry, EntryError, EntryKind};
pub use keys::{
    BACKUP_KEY, EVERYTHING_KEY, backup_key, backup_of, channel_key, host_key, refresh_of,
};
pub use purge::{PurgeBodyError, PurgeMode, PurgeRequest};
pub use query::{ParameterPattern, QueryRule};
pub use refresh::{conditions, is_outdated, updated};
pub use request::{
    Access, GRIPLINE_HOPS, Lookup, PassReason, RequestKind, classify, fill_headers, lookup,
    next_hop, pass_headers,
};
pub use select::{Selection, select};
pub use storage::{Backup, Marking, NotStored, Storage, marking, storage};

use http::header::{ACCEPT, ACCEPT_LANGUAGE, HeaderName, ORIGIN};

/// What the edge's operator may decide. Durations are in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Request headers that a stored answer may vary by. Each multiplies the stored answers.
    pub vary: Vec<HeaderName>,
    /// Lifetime of a hold whose origin states none; absent: such a hold is not stored.
    pub hold_ttl: Option<u64>,
    /// How long a stale answer is served while a newer one is fetched, unless the origin says.
    pub stale_while_revalidate: u64,
    /// How long a stale answer is served while the origin fails, unless the origin says.
    pub stale_if_error: u64,
    /// Longest lifetime, whatever the origin says: a purge can get lost.
    pub max_ttl: u64,
    /// Bytes of the largest body that is stored; bounds the memory of one request.
    pub max_body: usize,
    /// Shortest lifetime of a backup copy.
    pub backup_ttl: u64,
    /// Lifetime of a 404, 405, 410 or 414 whose origin states none; absent: such an answer is not
    /// stored.
    pub negative_ttl: Option<u64>,
    /// What of a query tells one answer from another.
    pub query: QueryRule,
    /// What is done with a reconnecting event stream.
    pub last_event_id: LastEventId,
}

/// What a request with `Last-Event-ID` gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastEventId {
    /// The origin is asked: it alone knows what the client missed.
    Pass,
    /// The stored answer, as if the header were not there.
    Ignore,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            vary: vec![ACCEPT, ACCEPT_LANGUAGE, ORIGIN],
            hold_ttl: None,
            stale_while_revalidate: 0,
            stale_if_error: 3600,
            max_ttl: 86_400,
            max_body: 1 << 20,
            backup_ttl: 3600,
            negative_ttl: None,
            query: QueryRule::Exact,
            last_event_id: LastEventId::Pass,
        }
    }
}

/// A header map for tests.
#[cfg(test)]
fn headers_of(lines: &[(&'static str, &'static str)]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, http::HeaderValue::from_static(value));
    }
    headers
}
