//! The body of `POST /.gripline/purge`.

use serde::Deserialize;

use super::keys;
use super::storage::is_surrogate_key;

/// Bytes in a purge request.
const MAX_BYTES: usize = 64 * 1024;
/// Channels and keys in a purge request.
const MAX_ENTRIES: usize = 256;

/// What happens to purged answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeMode {
    /// They are gone: whoever comes next waits for a new one.
    Hard,
    /// They are stale: all but the first to come still get them.
    Soft,
}

/// What is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeRequest {
    /// Surrogate keys, channels' included.
    pub surrogate_keys: Vec<String>,
    /// How many channels and keys were named.
    pub entries: usize,
    /// How.
    pub mode: PurgeMode,
}

/// Why nothing was purged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeBodyError {
    /// More bytes than are allowed.
    #[error("the body of {found} bytes is too large, at most {MAX_BYTES} are allowed")]
    TooLarge {
        /// Bytes in the body.
        found: usize,
    },
    /// Not JSON of the right shape.
    #[error(
        "the body must be a JSON object with lists of strings 'channels' and 'keys', and booleans 'soft' and 'backup': {0}"
    )]
    Shape(String),
    /// More channels and keys than are allowed.
    #[error("{found} channels and keys are too many, at most {MAX_ENTRIES} are allowed")]
    TooMany {
        /// Channels and keys in the body.
        found: usize,
    },
    /// Something that no answer can be stored under.
    #[error("{0:?} is no surrogate key: 1 to 1024 visible ASCII characters")]
    Key(String),
}

impl PurgeBodyError {
    /// Whether the body is wrong by its size rather than by its content.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::TooMany { .. })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    soft: bool,
    #[serde(default)]
    backup: bool,
}

impl Body {
    fn parse(body: &[u8]) -> serde_json::Result<Self> {
        // Through a map, because a struct may also be read from a list of its members.
        let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
        serde_json::from_value(members.into())
    }
}

impl PurgeRequest {
    /// Bytes of a body that are worth reading.
    pub const MAX_BYTES: usize = MAX_BYTES;

    /// Reads the body: `{"channels": ["a"], "keys": ["k"], "soft": false, "backup": false}`, every
    /// member optional. `backup` purges the backup copies too.
    ///
    /// # Errors
    /// The first mistake; nothing may be purged then.
    pub fn parse(body: &[u8]) -> Result<Self, PurgeBodyError> {
        if body.len() > MAX_BYTES {
            return Err(PurgeBodyError::TooLarge { found: body.len() });
        }
        let body = Body::parse(body).map_err(|error| PurgeBodyError::Shape(error.to_string()))?;
        let entries = body.channels.len() + body.keys.len();
        if entries > MAX_ENTRIES {
            return Err(PurgeBodyError::TooMany { found: entries });
        }
        if let Some(key) = body.keys.iter().find(|key| !is_surrogate_key(key)) {
            return Err(PurgeBodyError::Key(key.clone()));
        }
        let mut surrogate_keys: Vec<String> = body
            .channels
            .iter()
            .map(|channel| keys::channel_key(channel))
            .collect();
        surrogate_keys.extend(body.keys);
        if body.backup {
            let backup_keys: Vec<String> = surrogate_keys
                .iter()
                .map(|key| keys::backup_key(key))
                .collect();
            surrogate_keys.extend(backup_keys);
        }
        Ok(Self {
            surrogate_keys,
            entries,
            mode: if body.soft {
                PurgeMode::Soft
            } else {
                PurgeMode::Hard
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn channels_become_surrogate_keys() {
        let request =
            PurgeRequest::parse(br#"{"channels":["a b"],"keys":["k"],"soft":true,"backup":true}"#)
                .unwrap();
        assert_eq!(
            request.surrogate_keys,
            ["gl-ch:a%20b", "k", "gl-backup-ch:a%20b", "gl-backup-key:k"]
        );
        assert_eq!((request.entries, request.mode), (2, PurgeMode::Soft));
        let request = PurgeRequest::parse(b"{}").unwrap();
        assert_eq!((request.entries, request.mode), (0, PurgeMode::Hard));
    }

    #[track_caller]
    fn check_error(body: &str, text: &str, is_too_large: bool) {
        let error = PurgeRequest::parse(body.as_bytes()).expect_err(body);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.is_too_large(), is_too_large);
    }

    #[test]
    fn bad_bodies_are_refused() {
        for body in [
            "",
            "[]",
            "7",
            r#"{"channels":"a"}"#,
            r#"{"channels":[1]}"#,
            r#"{"soft":1}"#,
            r#"{"chanels":[]}"#,
        ] {
            check_error(body, "must be a JSON object", false);
        }
        check_error(r#"{"keys":["a b"]}"#, "\"a b\" is no surrogate key", false);
        check_error(r#"{"keys":[""]}"#, "\"\" is no surrogate key", false);
        let many = vec!["\"a\""; 257].join(",");
        check_error(
            &format!("{{\"keys\":[{many}]}}"),
            "257 channels and keys are too many",
            true,
        );
        check_error(&" ".repeat(65_537), "65537 bytes is too large", true);
    }
}
