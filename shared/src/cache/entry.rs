//! What is kept beside a stored body: status, headers and times.

use bytes::{Buf, BufMut as _, Bytes};
use http::StatusCode;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SET_COOKIE,
};

use super::directives::Directives;
use crate::UnixTime;
use crate::fields::{self, GRIP_LAST, GRIP_SIG};

/// The first byte of the encoding; another format gets another.
const VERSION: u8 = 1;
/// Bytes that metadata should stay below; the platform's limit is not published.
const MAX_ENCODED: usize = 16 * 1024;

/// What an object in the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An answer.
    Answer,
    /// Nothing: answers to this key are not stored, so nobody needs to wait for one.
    PassMarker,
    /// Nothing: the origin has just failed, so nobody needs to try it this moment.
    FailureMarker,
    /// Nothing: the origin holds nobody who has this validator, so the answer without one decides.
    PlainMarker,
    /// An answer that the origin, which fails, could not confirm.
    Unconfirmed,
}

impl EntryKind {
    /// Whether it is an answer, and no marker.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Answer | Self::Unconfirmed)
    }
}

/// A stored answer without its body, or a marker. Durations are in seconds.
///
/// The times are kept here because the platform's own change with soft purges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The answer's status.
    pub status: StatusCode,
    /// When it came from the origin.
    pub fetched: UnixTime,
    /// How old it was then.
    pub initial_age: u64,
    /// How old it may get and be fresh.
    pub ttl: u64,
    /// How long after that it is served while a newer one is fetched.
    pub stale_while_revalidate: u64,
    /// How long after that it is served while the origin fails.
    pub stale_if_error: u64,
    /// The answer's headers, GRIP instructions included.
    pub headers: HeaderMap,
}

/// Why metadata is not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Of another version of this program.
    #[error("the entry is of version {0}")]
    Version(u8),
    /// Cut off, or with something that cannot be there.
    #[error("the entry is malformed")]
    Malformed,
    /// Larger than metadata may be.
    #[error("the entry of {0} bytes is too large")]
    TooLarge(usize),
}

impl Entry {
    /// A marker, good for `ttl` seconds.
    pub fn marker(kind: EntryKind, fetched: UnixTime, ttl: u64) -> Self {
        Self {
            kind,
            status: StatusCode::OK,
            fetched,
            initial_age: 0,
            ttl,
            stale_while_revalidate: 0,
            stale_if_error: 0,
            headers: HeaderMap::new(),
        }
    }

    /// The headers of an answer that are stored: all but those of one connection, one client or one
    /// moment. Those for the edge itself are needed when the answer turns out to be good still.
    pub fn stored_headers(origin: &HeaderMap) -> HeaderMap {
        const NOT_STORED: [HeaderName; 5] = [AGE, CONTENT_LENGTH, SET_COOKIE, GRIP_SIG, GRIP_LAST];
        let mut headers = origin.clone();
        fields::strip_hop_by_hop(&mut headers);
        for name in &NOT_STORED {
            headers.remove(name);
        }
        headers
    }

    /// Whether a client that authenticates itself may get what others got; RFC 9111 §3.5.
    pub fn is_for_authorized(&self) -> bool {
        let directives = Directives::of(&self.headers, &CACHE_CONTROL);
        ["public", "s-maxage", "must-revalidate"]
            .iter()
            .any(|name| directives.has(name))
    }

    /// How old the answer is; RFC 9111 §4.2.3.
    pub fn age(&self, now: UnixTime) -> u64 {
        self.initial_age.saturating_add(now.since(self.fetched))
    }

    /// The same answer, which the origin could not confirm: it is no longer fresh, whatever the
    /// platform says, and may be served for as long as before.
    #[must_use]
    pub fn failing(&self, now: UnixTime) -> Self {
        let ttl = self.ttl.min(self.age(now));
        let later = self.ttl - ttl;
        let longer = |window: u64| match window {
            0 => 0,
            window => window.saturating_add(later),
        };
        Self {
            kind: EntryKind::Unconfirmed,
            ttl,
            stale_while_revalidate: longer(self.stale_while_revalidate),
            stale_if_error: longer(self.stale_if_error),
            ..self.clone()
        }
    }

    /// The metadata.
    ///
    /// # Errors
    /// [`EntryError::TooLarge`].
    pub fn encode(&self) -> Result<Bytes, EntryError> {
        let mut out = vec![VERSION, self.kind as u8];
        out.put_u16(self.status.as_u16());
        for number in [
            self.fetched.0,
            self.initial_age,
            self.ttl,
            self.stale_while_revalidate,
            self.stale_if_error,
        ] {
            out.put_u64(number);
        }
        for (name, value) in &self.headers {
            put_text(&mut out, name.as_str().as_bytes());
            put_text(&mut out, value.as_bytes());
        }
        if out.len() > MAX_ENCODED {
            return Err(EntryError::TooLarge(out.len()));
        }
        Ok(out.into())
    }

    /// Reads metadata back.
    ///
    /// # Errors
    /// [`EntryError::Version`] and [`EntryError::Malformed`]; never a panic, whatever the bytes.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, EntryError> {
        let bytes = &mut bytes;
        let version = bytes.try_get_u8().map_err(malformed)?;
        if version != VERSION {
            return Err(EntryError::Version(version));
        }
        let kind = match bytes.try_get_u8().map_err(malformed)? {
            0 => EntryKind::Answer,
            1 => EntryKind::PassMarker,
            2 => EntryKind::FailureMarker,
            3 => EntryKind::PlainMarker,
            4 => EntryKind::Unconfirmed,
            _ => return Err(EntryError::Malformed),
        };
        let status = bytes.try_get_u16().map_err(malformed)?;
        let mut number = || bytes.try_get_u64().map_err(malformed);
        Ok(Self {
            kind,
            status: StatusCode::from_u16(status).map_err(malformed)?,
            fetched: UnixTime(number()?),
            initial_age: number()?,
            ttl: number()?,
            stale_while_revalidate: number()?,
            stale_if_error: number()?,
            headers: headers(bytes)?,
        })
    }
}

/// Lengths are 32 bits wide; [`MAX_ENCODED`] is far below.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text);
}

fn headers(bytes: &mut &[u8]) -> Result<HeaderMap, EntryError> {
    let mut headers = HeaderMap::new();
    while !bytes.is_empty() {
        let name = HeaderName::from_bytes(text(bytes)?).map_err(malformed)?;
        let value = HeaderValue::from_bytes(text(bytes)?).map_err(malformed)?;
        headers.try_append(name, value).map_err(malformed)?;
    }
    Ok(headers)
}

fn text<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], EntryError> {
    let length = bytes.try_get_u32().map_err(malformed)?;
    let length = usize::try_from(length).map_err(malformed)?;
    let (text, rest) = bytes
        .split_at_checked(length)
        .ok_or(EntryError::Malformed)?;
    *bytes = rest;
    Ok(text)
}

fn malformed<E>(_cause: E) -> EntryError {
    EntryError::Malformed
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn entry() -> Entry {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", &b"text/event-stream"[..]),
            ("grip-channel", b"a"),
            ("grip-channel", b"b; prev-id=1"),
            ("x-latin", b"\xe4"),
        ] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        Entry {
            kind: EntryKind::Answer,
            status: StatusCode::NOT_FOUND,
            fetched: UnixTime(1_700_000_000),
            initial_age: 5,
            ttl: 60,
            stale_while_revalidate: 7,
            stale_if_error: u64::MAX,
            headers,
        }
    }

    #[test]
    fn an_answer_that_nobody_confirms_is_stale_for_as_long_as_before() {
        let entry = Entry {
            stale_while_revalidate: 0,
            stale_if_error: 100,
            ..entry()
        };
        let failing = entry.failing(entry.fetched.plus(20));
        assert_eq!((failing.ttl, failing.stale_if_error), (25, 135));
        assert_eq!(failing.kind, EntryKind::Unconfirmed);
        assert_eq!(failing.stale_while_revalidate, 0);
        let failing = entry.failing(entry.fetched.plus(100));
        assert_eq!((failing.ttl, failing.stale_if_error), (60, 100));
        assert_eq!(failing.age(entry.fetched.plus(100)), 105);
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for kind in [
            EntryKind::Answer,
            EntryKind::PassMarker,
            EntryKind::FailureMarker,
            EntryKind::PlainMarker,
            EntryKind::Unconfirmed,
        ] {
            let entry = Entry { kind, ..entry() };
            assert_eq!(Entry::decode(&entry.encode().unwrap()), Ok(entry));
        }
    }

    #[test]
    fn no_cut_or_change_makes_it_panic() {
        let bytes = entry().encode().unwrap();
        let is_entry = |end: &usize| Entry::decode(&bytes[..*end]).is_ok();
        // A cut before one of the four headers is a shorter entry; every other one is an error.
        assert_eq!((0..bytes.len()).filter(is_entry).count(), 4);
        assert_eq!(Entry::decode(&[]), Err(EntryError::Malformed));
        assert_eq!(Entry::decode(&bytes[..20]), Err(EntryError::Malformed));
        assert_eq!(Entry::decode(&[9, 0]), Err(EntryError::Version(9)));
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = bytes.to_vec();
                changed[at] ^= change;
                let _ = Entry::decode(&changed);
            }
        }
    }

    #[test]
    fn any_entry_is_read_back_and_any_bytes_are_survived() {
        // A small generator, so that each run tries the same.
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..500 {
            let mut headers = HeaderMap::new();
            for _ in 0..next(8) {
                let name = format!("x-{}", next(4));
                let value: Vec<u8> = (0..next(40))
                    .map(|_| 0x80 | u8::try_from(next(128)).unwrap())
                    .collect();
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            let entry = Entry {
                ttl: next(u64::MAX),
                headers,
                ..entry()
            };
            let bytes = entry.encode().unwrap();
            assert_eq!(Entry::decode(&bytes), Ok(entry));
            let mut junk = bytes.to_vec();
            for _ in 0..=next(4) {
                let at = usize::try_from(next(junk.len() as u64)).unwrap();
                junk[at] = u8::try_from(next(256)).unwrap();
            }
            // Either an error or another entry, and one that can be written again.
            if let Ok(entry) = Entry::decode(&junk) {
                assert!(entry.encode().is_ok());
            }
        }
    }

    #[test]
    fn an_entry_too_large_for_metadata_is_an_error() {
        let mut entry = entry();
        let long = HeaderValue::from_bytes(&[b'x'; MAX_ENCODED]).unwrap();
        entry.headers.insert("x-long", long);
        assert!(matches!(entry.encode(), Err(EntryError::TooLarge(_))));
    }

    #[test]
    fn who_authenticates_gets_what_is_for_everybody() {
        for (value, expected) in [
            ("max-age=60", false),
            ("public, max-age=60", true),
            ("s-maxage=60", true),
            ("max-age=60, must-revalidate", true),
        ] {
            let mut entry = entry();
            entry
                .headers
                .insert(CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(entry.is_for_authorized(), expected, "{value}");
        }
    }

    #[test]
    fn age_grows_with_time() {
        assert_eq!(entry().age(UnixTime(1_700_000_010)), 15);
        assert_eq!(entry().age(UnixTime(0)), 5);
    }

    #[test]
    fn what_belongs_to_one_client_is_not_stored() {
        let mut origin = HeaderMap::new();
        for name in [
            "set-cookie",
            "age",
            "surrogate-key",
            "surrogate-control",
            "grip-sig",
            "connection",
            "content-length",
            "etag",
            "grip-hold",
            "date",
        ] {
            origin.insert(name, HeaderValue::from_static("x"));
        }
        let mut names: Vec<String> = Entry::stored_headers(&origin)
            .keys()
            .map(ToString::to_string)
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "date",
                "etag",
                "grip-hold",
                "surrogate-control",
                "surrogate-key"
            ]
        );
    }
}
