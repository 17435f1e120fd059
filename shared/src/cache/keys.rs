//! Cache keys and surrogate keys.

use sha2::{Digest as _, Sha256};

/// The surrogate key of every stored answer.
pub const EVERYTHING_KEY: &str = "gl-all";
/// The surrogate key of every backup copy. Backups have keys of their own only, so an ordinary purge
/// leaves them.
pub const BACKUP_KEY: &str = "gl-backup";

/// Begins every key of ours; origins may not use it.
pub(super) const RESERVED: &str = "gl-";
const CACHE_VERSION: &[u8] = b"gl1";
const BACKUP_PREFIX: &[u8] = b"glb\0";
const REFRESH_PREFIX: &[u8] = b"glr\0";
/// Bytes that the platform accepts as a cache key.
pub(super) const MAX_CACHE_KEY: usize = 4096;
/// Bytes of an escaped name above which its hash is used.
const MAX_ESCAPED: usize = 200;

/// The key of an answer: host, path with query, and the validator if there is one.
///
/// Requests with a validator have entries of their own, because a long-poll answers a matching one
/// with 304 and a hold.
pub(super) fn cache_key(host: &str, path_and_query: &str, if_none_match: Option<&[u8]>) -> Vec<u8> {
    let mut key = CACHE_VERSION.to_vec();
    for part in [host.as_bytes(), path_and_query.as_bytes()] {
        key.push(0);
        key.extend_from_slice(part);
    }
    if let Some(validator) = if_none_match {
        key.extend_from_slice(b"\0inm=");
        key.extend_from_slice(validator);
    }
    key
}

/// The key of an answer's backup copy.
pub fn backup_of(key: &[u8]) -> Vec<u8> {
    [BACKUP_PREFIX, key].concat()
}

/// The key under which one request of many has the turn to fetch a stored answer anew.
pub fn refresh_of(key: &[u8]) -> Vec<u8> {
    [REFRESH_PREFIX, key].concat()
}

/// The surrogate key of all answers that subscribe to this channel.
pub fn channel_key(channel: &str) -> String {
    named("gl-ch:", "gl-chx:", channel)
}

/// The surrogate key of the backup copies of all answers with this surrogate key.
pub fn backup_key(surrogate_key: &str) -> String {
    if surrogate_key == EVERYTHING_KEY {
        return BACKUP_KEY.to_owned();
    }
    match surrogate_key.strip_prefix(RESERVED) {
        Some(name) => format!("{BACKUP_KEY}-{name}"),
        None => named("gl-backup-key:", "gl-backup-keyx:", surrogate_key),
    }
}

/// The surrogate key of all answers of this host.
pub fn host_key(host: &str) -> String {
    named("gl-host:", "gl-hostx:", host)
}

/// The name, escaped; a long one by its hash, because keys are bounded.
fn named(prefix: &str, hash_prefix: &str, name: &str) -> String {
    let escaped = escape(name);
    if escaped.len() <= MAX_ESCAPED {
        return format!("{prefix}{escaped}");
    }
    let hash = Sha256::digest(name);
    let first_half = u128::from_be_bytes(*hash.first_chunk().expect("a hash of 32 bytes has 16"));
    format!("{hash_prefix}{first_half:032x}")
}

/// Surrogate keys hold visible ASCII only; everything else, and `%`, becomes `%XX`.
fn escape(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'%' => "%25".to_owned(),
            0x21..=0x7e => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The host in the form in which it stands in keys: lower case, without the default port.
pub(super) fn normal_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let bare = host
        .strip_suffix(":80")
        .or_else(|| host.strip_suffix(":443"));
    bare.unwrap_or(&host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn channel_keys_are_visible_ascii_and_bounded() {
        assert_eq!(channel_key("updates"), "gl-ch:updates");
        assert_eq!(channel_key("a b%ü"), "gl-ch:a%20b%25%C3%BC");
        assert_eq!(channel_key(&"x".repeat(200)).len(), 206);
        let long = channel_key(&"x".repeat(201));
        assert_eq!(long.len(), "gl-chx:".len() + 32);
        assert_ne!(long, channel_key(&"y".repeat(201)));
    }

    #[test]
    fn backups_have_keys_of_their_own() {
        assert_eq!(backup_key(EVERYTHING_KEY), BACKUP_KEY);
        assert_eq!(backup_key(&channel_key("a b")), "gl-backup-ch:a%20b");
        assert_eq!(backup_key(&host_key("h")), "gl-backup-host:h");
        assert_eq!(backup_key("k%"), "gl-backup-key:k%25");
        let long = backup_key(&"k".repeat(1024));
        assert_eq!(long.len(), "gl-backup-keyx:".len() + 32);
    }

    #[test]
    fn keys_separate_host_path_and_validator() {
        let keys = [
            cache_key("a", "/b", None),
            cache_key("a/b", "", None),
            cache_key("a", "/b", Some(b"\"1\"")),
            backup_of(&cache_key("a", "/b", None)),
            refresh_of(&cache_key("a", "/b", None)),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
    }

    #[test]
    fn hosts_lose_case_and_default_port() {
        assert_eq!(normal_host("WWW.Example.com:80"), "www.example.com");
        assert_eq!(normal_host("a:443"), "a");
        assert_eq!(normal_host("a:8080"), "a:8080");
    }
}
