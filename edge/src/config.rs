//! Configuration and secrets, from the platform's stores.

use std::time::Duration;

use fastly::{ConfigStore, SecretStore};
use grip::cache::{LastEventId, Policy};
use grip::signature::{KeyError, Keyring, SigningKey, VerifyingKey};
use http::HeaderName;
use serde::Deserialize;

/// The name of the config store and of the secret store.
const STORE: &str = "gripline";
/// The one key in the config store: lookups are few, so all settings are one JSON object.
const KEY: &str = "edge";
/// Secrets: the one that signs and verifies `Grip-Sig`, and the one that verifies purges.
const GRIP: &str = "grip-key";
const PURGE: &str = "purge-key";
/// Names that the platform lets one object vary by.
const MAX_VARY: usize = 8;
/// Bytes of a stored body that the module's memory of 128 MB has room for, copies included.
const MAX_BODY: usize = 16 << 20;

/// The managed service's public key, the same for all of its customers.
const FANOUT_X: &str = "CKo5A1ebyFcnmVV8SE5On-8G81JyBjSvcrx4VLetWCg";
const FANOUT_Y: &str = "7gwJqaU6N8TP88--twjkwoB36f-pT3QsmI46nPhjO7M";

/// Everything that a request needs to know.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) policy: Policy,
    /// Name of the backend that requests go to.
    pub(crate) origin: String,
    /// Signs requests to the origin; GRIP `Grip-Sig`.
    pub(crate) grip_key: SigningKey,
    /// The issuer named in them.
    pub(crate) grip_issuer: String,
    /// Whom the edge believes to be a GRIP proxy.
    pub(crate) proxies: Vec<TrustedProxy>,
    /// Verifies purge requests; absent: there is no purge endpoint for keys.
    pub(crate) purge_key: Option<Keyring>,
    /// Longest wait for somebody else's fetch.
    pub(crate) collapse_wait: Duration,
    /// Lifetimes of markers, in seconds.
    pub(crate) pass_ttl: u64,
    pub(crate) fail_ttl: u64,
}

/// A GRIP proxy whose `Grip-Sig` is believed.
#[derive(Debug)]
pub(crate) struct TrustedProxy {
    pub(crate) key: VerifyingKey,
    /// The issuer that it must name, if it must name one.
    pub(crate) issuer: Option<String>,
}

/// The JSON in the config store. Every member has a default; unknown ones are mistakes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    origin: Option<String>,
    sig_iss: Option<String>,
    hub_iss: Option<String>,
    fanout_service_id: Option<String>,
    vary: Option<Vec<String>>,
    hold_ttl: Option<u64>,
    stale_while_revalidate: Option<u64>,
    stale_if_error: Option<u64>,
    max_ttl: Option<u64>,
    max_body: Option<usize>,
    backup_ttl: Option<u64>,
    pass_ttl: Option<u64>,
    fail_ttl: Option<u64>,
    collapse_wait_ms: Option<u64>,
    last_event_id: Option<Resume>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Resume {
    Pass,
    Ignore,
}

/// Why the edge cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("there is no config store {STORE:?}; link one to this service, with key {KEY:?}")]
    NoConfigStore,
    #[error("the config store {STORE:?} has no key {KEY:?}; the value {{}} takes all defaults")]
    NoConfig,
    #[error("the key {KEY:?} in the config store {STORE:?} is not valid: {0}")]
    Invalid(String),
    #[error("there is no secret store {STORE:?}; link one to this service, with secret {GRIP:?}")]
    NoSecretStore,
    #[error(
        "the secret store {STORE:?} has no secret {0:?}, or it is empty; it must be the hub's sig-key"
    )]
    NoSecret(&'static str),
    #[error("the secret {0:?} cannot be used: {1}")]
    Secret(&'static str, KeyError),
}

impl Edge {
    /// Reads the stores.
    pub(crate) fn open() -> Result<Self, ConfigError> {
        let store = ConfigStore::try_open(STORE).map_err(|_| ConfigError::NoConfigStore)?;
        let json = store
            .try_get(KEY)
            .ok()
            .flatten()
            .ok_or(ConfigError::NoConfig)?;
        let settings: Settings =
            serde_json::from_str(&json).map_err(|error| ConfigError::Invalid(error.to_string()))?;
        let secrets = SecretStore::open(STORE).map_err(|_| ConfigError::NoSecretStore)?;
        let grip_secret = secret(&secrets, GRIP)?.ok_or(ConfigError::NoSecret(GRIP))?;
        let purge_key = match secret(&secrets, PURGE)? {
            None => None,
            Some(secret) => {
                let key = VerifyingKey::hs256(&secret);
                Some(
                    key.map_err(|error| ConfigError::Secret(PURGE, error))?
                        .into(),
                )
            }
        };
        let unusable = |error| ConfigError::Secret(GRIP, error);
        Ok(Self {
            proxies: proxies(
                &settings,
                VerifyingKey::hs256(&grip_secret).map_err(unusable)?,
            ),
            grip_key: SigningKey::hs256(&grip_secret).map_err(unusable)?,
            purge_key,
            policy: policy(&settings)?,
            origin: settings.origin.unwrap_or_else(|| "origin".to_owned()),
            grip_issuer: settings.sig_iss.unwrap_or_else(|| "pushpin".to_owned()),
            collapse_wait: Duration::from_millis(settings.collapse_wait_ms.unwrap_or(10_000)),
            pass_ttl: settings.pass_ttl.unwrap_or(120).max(1),
            fail_ttl: settings.fail_ttl.unwrap_or(1).max(1),
        })
    }
}

/// A secret in the forms of the hub's keys; an empty one counts as absent, because a signature by
/// an empty key is anybody's.
fn secret(store: &SecretStore, name: &'static str) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(secret) = store.try_get(name).ok().flatten() else {
        return Ok(None);
    };
    let Ok(bytes) = secret.try_plaintext() else {
        return Ok(None);
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Ok(Some(bytes.to_vec()));
    };
    match grip::signature::secret_from_text(text) {
        Ok(secret) => Ok(Some(secret)),
        Err(error) => Err(ConfigError::Secret(name, error)),
    }
}

fn proxies(settings: &Settings, hub_key: VerifyingKey) -> Vec<TrustedProxy> {
    let hub = TrustedProxy {
        key: hub_key,
        issuer: settings.hub_iss.clone(),
    };
    let fanout = settings.fanout_service_id.as_ref().map(|id| TrustedProxy {
        key: VerifyingKey::es256_from_coordinates(FANOUT_X, FANOUT_Y)
            .expect("the constants are a point on the curve"),
        // The key is every customer's, so the issuer is what tells them apart.
        issuer: Some(format!("fastly:{id}")),
    });
    std::iter::once(hub).chain(fanout).collect()
}

fn policy(settings: &Settings) -> Result<Policy, ConfigError> {
    let default = Policy::default();
    let max_body = settings.max_body.unwrap_or(default.max_body);
    if max_body > MAX_BODY {
        let text = format!("max_body: {max_body} is too large, at most {MAX_BODY} is allowed");
        return Err(ConfigError::Invalid(text));
    }
    if let Some(names) = &settings.vary
        && names.len() > MAX_VARY
    {
        let found = names.len();
        let text = format!("vary: {found} names are too many, at most {MAX_VARY} are allowed");
        return Err(ConfigError::Invalid(text));
    }
    let vary = match &settings.vary {
        None => default.vary,
        Some(names) => names
            .iter()
            .map(|name| {
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| ConfigError::Invalid(format!("vary: {name:?} is no header name")))
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Policy {
        vary,
        hold_ttl: settings.hold_ttl,
        stale_while_revalidate: settings
            .stale_while_revalidate
            .unwrap_or(default.stale_while_revalidate),
        stale_if_error: settings.stale_if_error.unwrap_or(default.stale_if_error),
        max_ttl: settings.max_ttl.unwrap_or(default.max_ttl),
        max_body,
        backup_ttl: settings.backup_ttl.unwrap_or(default.backup_ttl),
        last_event_id: match settings.last_event_id {
            None | Some(Resume::Pass) => LastEventId::Pass,
            Some(Resume::Ignore) => LastEventId::Ignore,
        },
    })
}
