//! What is purged, how, and how often: `[purge]`.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use grip::signature::SigningKey;
use http::HeaderValue;

use super::keys;
use super::{Checker, HttpAddress, RawFastly, RawPurge};

/// More than any edge takes.
const MAX_RATE: u32 = 1_000_000;

/// How the edge is made to forget.
#[derive(Debug, Clone)]
pub struct Purge {
    /// Whom to tell.
    pub target: PurgeTarget,
    /// Whether items are preceded by a purge unless they or a rule say otherwise.
    pub default: bool,
    /// Longest wait for a purge's answer.
    pub deadline: Duration,
    /// How long after the last purge of a channel it is purged once more; absent: it is not.
    pub repurge_after: Option<Duration>,
    /// How many channels may be purged; absent: any number.
    pub rate: Option<PurgeRate>,
}

/// How many channels may be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeRate {
    /// In a second, over a longer time.
    pub per_second: NonZeroU32,
    /// At once, after a time without purges.
    pub burst: NonZeroU32,
}

/// Who makes the edge forget.
#[derive(Debug, Clone)]
pub enum PurgeTarget {
    /// The edge itself.
    Edge {
        /// The edge.
        address: HttpAddress,
        /// Signs purge requests.
        key: SigningKey,
    },
    /// The CDN's interface for purges.
    Fastly(FastlyPurge),
}

/// How purges are told to the CDN's interface.
#[derive(Debug, Clone)]
pub struct FastlyPurge {
    /// The service that the edge is; letters and digits.
    pub service: String,
    /// Who may purge it.
    pub token: FastlyToken,
    /// Where the interface is.
    pub api: HttpAddress,
    /// What becomes of what is purged.
    pub mode: grip::cache::PurgeMode,
}

/// The token of an account, as the field `Fastly-Key` has it. It is not shown.
#[derive(Clone)]
pub struct FastlyToken(HeaderValue);

impl FastlyToken {
    /// The field's value.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for FastlyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FastlyToken")
    }
}

impl Checker<'_> {
    pub(super) fn purge(&mut self, raw: &RawPurge) -> Option<Purge> {
        let target = self.purge_target(raw);
        let deadline = raw.deadline.as_deref().unwrap_or("2s");
        let deadline = self.some_time("purge.deadline", deadline);
        let repurge_after = raw.repurge_after.as_deref().unwrap_or("2s");
        let repurge_after = self.short_time("purge.repurge_after", repurge_after);
        let rate = self.purge_rate(raw.per_second.unwrap_or(20), raw.burst.unwrap_or(256));
        Some(Purge {
            target: target?,
            default: raw.default.unwrap_or(true),
            deadline: deadline?,
            repurge_after: Some(repurge_after?).filter(|after| !after.is_zero()),
            rate: super::present(rate)?,
        })
    }

    /// Nothing if the rate is without limit.
    #[expect(
        clippy::option_option,
        reason = "absent and wrong are different, and both are known in one place only"
    )]
    fn purge_rate(&mut self, per_second: u32, burst: u32) -> Option<Option<PurgeRate>> {
        let per_second = NonZeroU32::new(per_second)?;
        for (key, value) in [
            ("purge.per_second", per_second.get()),
            ("purge.burst", burst),
        ] {
            if value > MAX_RATE {
                self.mistake::<()>(
                    key,
                    format_args!("{value} is too large; at most {MAX_RATE}"),
                );
            }
        }
        let Some(burst) = NonZeroU32::new(burst) else {
            return Some(self.mistake("purge.burst", "0 is too small; at least 1"));
        };
        Some(Some(PurgeRate { per_second, burst }))
    }

    fn purge_target(&mut self, raw: &RawPurge) -> Option<PurgeTarget> {
        match (&raw.fastly, &raw.edge, &raw.key) {
            (Some(fastly), None, None) => self.fastly(fastly).map(PurgeTarget::Fastly),
            (Some(_), _, _) => self.mistake(
                "purge.fastly",
                "excludes purge.edge and purge.key; give either",
            ),
            (None, edge, key) => self.edge(edge.as_deref(), key.as_deref()),
        }
    }

    fn edge(&mut self, edge: Option<&str>, key: Option<&str>) -> Option<PurgeTarget> {
        let address = match edge {
            Some(edge) => self.http_address("purge.edge", edge),
            None => self.mistake(
                "purge.edge",
                "is missing; give the edge's address, such as http://127.0.0.1:7676, or [purge.fastly]",
            ),
        };
        let key = match key {
            Some(key) => keys::shared_secret(key, self.directory)
                .or_else(|error| self.mistake("purge.key", error).ok_or(()))
                .ok(),
            None => self.mistake("purge.key", "is missing; give the edge's purge-key"),
        };
        Some(PurgeTarget::Edge {
            address: address?,
            key: key?,
        })
    }

    fn fastly(&mut self, raw: &RawFastly) -> Option<FastlyPurge> {
        let service = raw.service.as_deref().unwrap_or_default();
        let is_id =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let service = if is_id(service) {
            Some(service.to_owned())
        } else {
            self.mistake(
                "purge.fastly.service",
                format_args!("{service:?} is no service's id; give its letters and digits"),
            )
        };
        let token = self.fastly_token(raw.token.as_deref().unwrap_or_default());
        let api = raw.api.as_deref().unwrap_or("https://api.fastly.com");
        let api = self.http_address("purge.fastly.api", api);
        Some(FastlyPurge {
            service: service?,
            token: token?,
            api: api?,
            mode: if raw.soft.unwrap_or(false) {
                grip::cache::PurgeMode::Soft
            } else {
                grip::cache::PurgeMode::Hard
            },
        })
    }

    /// A text, `file:PATH`, or `env:NAME`.
    fn fastly_token(&mut self, text: &str) -> Option<FastlyToken> {
        const KEY: &str = "purge.fastly.token";
        let token = if let Some(path) = text.strip_prefix("file:") {
            let path = self.directory.join(path);
            std::fs::read_to_string(&path)
                .or_else(|error| {
                    let problem = format_args!("cannot read {}: {error}", path.display());
                    self.mistake(KEY, problem).ok_or(())
                })
                .ok()?
        } else if let Some(name) = text.strip_prefix("env:") {
            match std::env::var(name) {
                Ok(token) => token,
                Err(error) => return self.mistake(KEY, format_args!("env:{name}: {error}")),
            }
        } else {
            text.to_owned()
        };
        let token = token.trim();
        if token.is_empty() {
            return self.mistake(KEY, "is missing; give a text, file:PATH or env:NAME");
        }
        match HeaderValue::from_str(token) {
            Ok(mut value) => {
                value.set_sensitive(true);
                Some(FastlyToken(value))
            }
            Err(_) => self.mistake(KEY, "has characters that no token has"),
        }
    }
}
