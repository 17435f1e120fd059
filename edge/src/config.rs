//! Configuration and secrets, from the platform's stores.

use std::time::Duration;

use fastly::{ConfigStore, SecretStore};
use grip::cache::{LastEventId, ParameterPattern, Policy, QueryRule};
use grip::signature::{
    CLOCK_LEEWAY, Claims, KeyError, Keyring, SignatureError, SigningKey, VerifyingKey,
};
use http::HeaderName;
use serde::Deserialize;

use crate::now;

/// The name of the config store and of the secret store.
const STORE: &str = "gripline";
/// The one key in the config store: lookups are few, so all settings are one JSON object.
const KEY: &str = "edge";
/// The secret that signs and verifies `Grip-Sig`.
const GRIP: &str = "grip-key";
/// The one that verifies purges.
const PURGE: &str = "purge-key";
/// The one that signs what the hub gets.
const HUB: &str = "hub-key";
/// The one that shows the edge's decisions.
const DEBUG: &str = "debug-key";
/// What follows the name of a secret that is good as well, while it is being changed.
const ALSO: &str = "-also";
/// Names that the platform lets one object vary by.
const MAX_VARY: usize = 8;
/// Bytes of a stored body that the module's memory of 128 MB has room for, copies included.
const MAX_BODY: usize = 16 << 20;

/// The managed service's public key, the same for all of its customers.
const FANOUT_X: &str = "CKo5A1ebyFcnmVV8SE5On-8G81JyBjSvcrx4VLetWCg";
const FANOUT_Y: &str = "7gwJqaU6N8TP88--twjkwoB36f-pT3QsmI46nPhjO7M";

/// Everything that a request needs to know.
pub(crate) struct Edge {
    pub(crate) policy: Policy,
    /// Who holds whom.
    pub(crate) topology: Topology,
    /// Name of the backend that requests go to.
    pub(crate) origin: String,
    /// Name of the hub's backend.
    pub(crate) hub: String,
    /// Name of the backend that is this service.
    pub(crate) own: String,
    /// How paths begin that are handed over without a look at the cache; fanout only.
    pub(crate) stream_paths: Vec<String>,
    /// Signs requests to the origin; GRIP `Grip-Sig`.
    pub(crate) grip_key: SigningKey,
    /// The issuer named in them.
    pub(crate) grip_issuer: String,
    /// Longest wait for somebody else's fetch.
    pub(crate) collapse_wait: Duration,
    /// Lifetimes of markers, in seconds.
    pub(crate) pass_ttl: u64,
    pub(crate) fail_ttl: u64,
    /// Verifies the hub's `Grip-Sig`.
    hub_signature: VerifyingKey,
    /// The issuer that the hub must name, if it must name one.
    hub_issuer: Option<String>,
    /// The issuer of the managed service and its key, if it is believed.
    fanout: Option<(String, PublicKey)>,
    /// Secrets that few requests need are read when they are needed.
    secrets: SecretStore,
}

/// Who holds connections, and how they get there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topology {
    /// Clients connect to the hub, which asks the edge: the edge itself has nobody to hold.
    #[default]
    HubFront,
    /// Clients connect to the edge, which sends holds to the hub and hands WebSockets over to it.
    EdgeFront,
    /// Clients connect to the edge, which hands over to the managed service, or a hub in its place.
    Fanout,
}

/// The JSON in the config store. Every member has a default; unknown ones are mistakes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    topology: Topology,
    origin: Option<String>,
    hub: Option<String>,
    #[serde(rename = "self")]
    own: Option<String>,
    stream_paths: Vec<String>,
    sig_iss: Option<String>,
    hub_iss: Option<String>,
    fanout_service_id: Option<String>,
    fanout_public_key: Option<PublicKey>,
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
    negative_ttl: Option<u64>,
    query: Query,
    last_event_id: Option<Resume>,
}

/// A public key on P-256, as a JWK; RFC 7518 §6.2.1.
#[derive(Debug, Deserialize)]
struct PublicKey {
    x: String,
    y: String,
}

/// `"exact"`, `"sort"`, `"ignore"`, `{"only": ["page"]}` or `{"without": ["utm_*"]}`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Query {
    #[default]
    Exact,
    Sort,
    Ignore,
    Only(Vec<String>),
    Without(Vec<String>),
}

impl Query {
    fn rule(&self) -> QueryRule {
        let patterns = |names: &[String]| {
            let patterns = names.iter().map(|name| ParameterPattern::new(name));
            patterns.collect()
        };
        match self {
            Self::Exact => QueryRule::Exact,
            Self::Sort => QueryRule::Sort,
            Self::Ignore => QueryRule::Ignore,
            Self::Only(names) => QueryRule::Only(patterns(names)),
            Self::Without(names) => QueryRule::Without(patterns(names)),
        }
    }
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
    #[error(
        "the secret store {STORE:?} has no secret {HUB:?}, or it is empty; it must be the key of the hub's [edge]"
    )]
    NoHubKey,
    #[error("the secret {0:?} cannot be used: {1}")]
    Secret(String, KeyError),
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
        let name =
            |setting: Option<String>, default: &str| setting.unwrap_or_else(|| default.to_owned());
        Ok(Self {
            policy: policy(&settings)?,
            topology: settings.topology,
            hub_signature: verifying(GRIP, &grip_secret)?,
            grip_key: signing(GRIP, &grip_secret)?,
            hub_issuer: settings.hub_iss,
            fanout: fanout(settings.fanout_service_id, settings.fanout_public_key),
            origin: name(settings.origin, "origin"),
            hub: name(settings.hub, "hub"),
            own: name(settings.own, "self"),
            stream_paths: settings.stream_paths,
            grip_issuer: name(settings.sig_iss, "pushpin"),
            collapse_wait: Duration::from_millis(settings.collapse_wait_ms.unwrap_or(10_000)),
            pass_ttl: settings.pass_ttl.unwrap_or(120).max(1),
            fail_ttl: settings.fail_ttl.unwrap_or(1).max(1),
            secrets,
        })
    }

    /// Whether a `Grip-Sig` is a GRIP proxy's that the edge believes.
    pub(crate) fn is_proxy(&self, token: &str) -> bool {
        let verify = |key: &VerifyingKey| key.verify(token, now(), CLOCK_LEEWAY);
        let is_from = |claims: &Claims, issuer: Option<&str>| {
            issuer.is_none() || claims.issuer.as_deref() == issuer
        };
        let hub_issuer = self.hub_issuer.as_deref();
        match (verify(&self.hub_signature), &self.fanout) {
            (Ok(claims), _) => is_from(&claims, hub_issuer),
            (Err(SignatureError::Algorithm), Some((issuer, key))) => {
                // Costs much more than the rest of a request: only where it can succeed.
                let key = VerifyingKey::es256_from_coordinates(&key.x, &key.y);
                let claims = key.ok().and_then(|key| verify(&key).ok());
                claims.is_some_and(|claims| is_from(&claims, Some(issuer)))
            }
            (Err(SignatureError::Signature), _) => {
                let also = self.also(GRIP).ok().flatten();
                let claims = also.and_then(|key| verify(&key).ok());
                claims.is_some_and(|claims| is_from(&claims, hub_issuer))
            }
            (Err(_), _) => false,
        }
    }

    /// Verifies purge requests; absent: there is no purge endpoint for keys.
    pub(crate) fn purge_keys(&self) -> Result<Option<Keyring>, ConfigError> {
        let Some(secret) = secret(&self.secrets, PURGE)? else {
            return Ok(None);
        };
        let mut keys = Keyring::from(verifying(PURGE, &secret)?);
        if let Some(also) = self.also(PURGE)? {
            keys.add(also);
        }
        Ok(Some(keys))
    }

    /// Signs what the hub gets.
    pub(crate) fn hub_key(&self) -> Result<SigningKey, ConfigError> {
        let secret = secret(&self.secrets, HUB)?.ok_or(ConfigError::NoHubKey)?;
        signing(HUB, &secret)
    }

    /// Shows the edge's decisions to whoever knows it.
    pub(crate) fn debug_key(&self) -> Option<Vec<u8>> {
        secret(&self.secrets, DEBUG).ok().flatten()
    }

    /// The key that is good as well while this one is being changed.
    fn also(&self, name: &'static str) -> Result<Option<VerifyingKey>, ConfigError> {
        let secret = secret(&self.secrets, &format!("{name}{ALSO}"))?;
        secret.map(|secret| verifying(name, &secret)).transpose()
    }
}

/// The managed service as it signs. Its key is every customer's, so the issuer tells them apart.
fn fanout(service: Option<String>, key: Option<PublicKey>) -> Option<(String, PublicKey)> {
    let usual = || PublicKey {
        x: FANOUT_X.to_owned(),
        y: FANOUT_Y.to_owned(),
    };
    let service = service?;
    Some((format!("fastly:{service}"), key.unwrap_or_else(usual)))
}

fn verifying(name: &str, secret: &[u8]) -> Result<VerifyingKey, ConfigError> {
    VerifyingKey::hs256(secret).map_err(|error| ConfigError::Secret(name.to_owned(), error))
}

fn signing(name: &str, secret: &[u8]) -> Result<SigningKey, ConfigError> {
    SigningKey::hs256(secret).map_err(|error| ConfigError::Secret(name.to_owned(), error))
}

/// A secret in the forms of the hub's keys; an empty one counts as absent, because a signature by
/// an empty key is anybody's.
fn secret(store: &SecretStore, name: &str) -> Result<Option<Vec<u8>>, ConfigError> {
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
        Err(error) => Err(ConfigError::Secret(name.to_owned(), error)),
    }
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
        negative_ttl: settings.negative_ttl,
        query: settings.query.rule(),
        last_event_id: match settings.last_event_id {
            None | Some(Resume::Pass) => LastEventId::Pass,
            Some(Resume::Ignore) => LastEventId::Ignore,
        },
    })
}
