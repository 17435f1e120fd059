//! What publishers have to prove.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use grip::signature::VerifyingKey;
use http::uri::PathAndQuery;

use super::keys::{self, Secret};
use super::{Checker, RawControlAuth};

/// What publishers have to prove; any of it is enough.
#[derive(Debug, Clone)]
pub struct ControlAuth {
    /// That they can sign a token.
    pub tokens: Option<Tokens>,
    /// That they know one of these keys.
    pub keys: Vec<Secret>,
    /// That they know this user and password, as Base64 without padding; RFC 7617.
    pub basic: Option<Secret>,
}

/// The tokens that are accepted.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Verifies them.
    pub key: VerifyingKey,
    /// The issuer that they must name, if not any.
    pub issuer: Option<String>,
}

impl Checker<'_> {
    pub(super) fn control_base(&mut self, value: &str) -> Option<String> {
        let base = value.strip_suffix('/').unwrap_or(value);
        let is_path = base.starts_with('/')
            && base
                .parse::<PathAndQuery>()
                .is_ok_and(|parsed| parsed.path() == base);
        if base.is_empty() || is_path {
            return Some(base.to_owned());
        }
        self.mistake(
            "control_base",
            format_args!("{value:?} is no path; give one such as /service/x"),
        )
    }

    /// Whatever is absent from the result although it was written is a mistake.
    pub(super) fn control_auth(&mut self, raw: &RawControlAuth) -> ControlAuth {
        if *raw == RawControlAuth::default() {
            self.mistake::<()>(
                "control_auth.key",
                "is missing; give it, or user and password",
            );
        }
        let issuer = self.token_issuer(raw);
        let (tokens, keys) = match raw.key.as_ref().and_then(|text| self.publisher_key(text)) {
            None => (None, Vec::new()),
            Some(keys::PublisherKey {
                tokens: key,
                literal,
            }) => (Some(Tokens { key, issuer }), literal),
        };
        ControlAuth {
            tokens,
            keys,
            basic: self.basic(raw),
        }
    }

    fn publisher_key(&mut self, text: &str) -> Option<keys::PublisherKey> {
        match keys::publisher_key(text, self.directory) {
            Ok(key) => Some(key),
            Err(error) => self.mistake("control_auth.key", error),
        }
    }

    fn token_issuer(&mut self, raw: &RawControlAuth) -> Option<String> {
        let key = "control_auth.iss";
        match &raw.iss {
            Some(issuer) if issuer.is_empty() => {
                self.mistake(key, "is empty; give a name, or leave it out")
            }
            Some(_) if raw.key.is_none() => {
                self.mistake(key, "needs control_auth.key, with which tokens are signed")
            }
            issuer => issuer.clone(),
        }
    }

    fn basic(&mut self, raw: &RawControlAuth) -> Option<Secret> {
        match (&raw.user, &raw.password) {
            (None, None) => None,
            (None, Some(_)) => {
                self.mistake("control_auth.user", "is missing; give it with the password")
            }
            (Some(_), None) => {
                self.mistake("control_auth.password", "is missing; give it with the user")
            }
            (Some(user), Some(_)) if user.contains(':') => self.mistake(
                "control_auth.user",
                format_args!("{user:?} has a colon, which cannot be sent"),
            ),
            (Some(_), Some(password)) if password.is_empty() => {
                self.mistake("control_auth.password", "is empty; anybody would know it")
            }
            (Some(user), Some(password)) => {
                let encoded = STANDARD_NO_PAD.encode(format!("{user}:{password}"));
                Some(Secret::new(encoded.as_bytes()))
            }
        }
    }
}
