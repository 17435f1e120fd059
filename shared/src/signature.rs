//! Who said so: the JWTs that hub, edge and publishers sign, as compact JWS; RFC 7515, RFC 7519.
//!
//! The algorithm is the receiver's choice: it belongs to the key, and a token that names another
//! one is refused. The time comes in as an argument.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::ecdsa;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::UnixTime;
use crate::json::decode_base64_leniently;

/// How long a `Grip-Sig` is good for, in seconds.
const GRIP_SIG_LIFETIME: u64 = 3600;
/// How long a purge token is good for, in seconds; also the longest that the edge accepts.
const PURGE_LIFETIME: u64 = 60;
/// Seconds that two machines' clocks may differ by.
pub const CLOCK_LEEWAY: u64 = 60;
/// How long a token of the edge for the hub is good for, in seconds.
const HANDOVER_LIFETIME: u64 = 30;
const PURGE_AUDIENCE: &str = "gripline-purge";
const HOLD_AUDIENCE: &str = "gripline-hold";
const HANDOFF_AUDIENCE: &str = "gripline-handoff";
const HUB_ISSUER: &str = "gripline-hub";
const EDGE_ISSUER: &str = "gripline-edge";

/// What a token claims; the registered claims that GRIP and the purge endpoint use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed; `iss`.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none", default)]
    pub issuer: Option<String>,
    /// For whom; `aud`.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none", default)]
    pub audience: Option<String>,
    #[serde(rename = "exp")]
    expires_secs: u64,
    /// base64url SHA-256 of the body that the token is bound to; `hsh`, ours.
    #[serde(rename = "hsh", skip_serializing_if = "Option::is_none", default)]
    pub body_hash: Option<String>,
}

impl Claims {
    /// Claims that only say until when they hold.
    pub fn until(expires: UnixTime) -> Self {
        Self {
            issuer: None,
            audience: None,
            expires_secs: expires.0,
            body_hash: None,
        }
    }

    /// Until when the token is good; `exp`.
    pub fn expires(&self) -> UnixTime {
        UnixTime(self.expires_secs)
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// An empty secret verifies whatever anybody signs with an empty secret.
    #[error("the key is empty")]
    Empty,
    /// What follows `base64:` is no base64.
    #[error("the text after base64: is not base64")]
    Base64,
    /// The key is not on the curve P-256, or not written as such a key.
    #[error("not a P-256 key")]
    Curve,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Not three base64url parts with JSON in the first two.
    #[error("the token is malformed")]
    Malformed,
    /// Signed by another algorithm than the key's.
    #[error("the token's algorithm is not that of the key")]
    Algorithm,
    /// The signature is not by this key.
    #[error("the signature does not verify")]
    Signature,
    /// `exp` is in the past.
    #[error("the token has expired")]
    Expired,
    /// `exp` is further ahead than such a token may live.
    #[error("the token expires too far in the future")]
    TooLong,
    /// `aud` names somebody else.
    #[error("the token is not for this audience")]
    Audience,
    /// `iss` names somebody else.
    #[error("the token is not from this issuer")]
    Issuer,
    /// `hsh` is not the hash of the body.
    #[error("the token belongs to another body")]
    Body,
}

/// A JWS algorithm; RFC 7518 §3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

type SignFn = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// A key that signs. Cheap to clone; never shows its secret.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    sign: Arc<SignFn>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm.name())
    }
}

impl SigningKey {
    /// A shared secret.
    ///
    /// # Errors
    /// [`KeyError::Empty`].
    pub fn hs256(secret: &[u8]) -> Result<Self, KeyError> {
        let mac = keyed(secret)?;
        let sign = move |message: &[u8]| {
            let mut mac = mac.clone();
            mac.update(message);
            mac.finalize().into_bytes().to_vec()
        };
        Ok(Self::custom(Algorithm::Hs256, sign))
    }

    /// A P-256 private key as PEM, PKCS#8 or SEC 1.
    ///
    /// # Errors
    /// [`KeyError::Curve`] if it is any other kind of key.
    pub fn es256_from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = ecdsa::SigningKey::from(&secret_from_pem(pem)?);
        let sign = move |message: &[u8]| {
            let signature: ecdsa::Signature = key.sign(message);
            signature.to_bytes().to_vec()
        };
        Ok(Self::custom(Algorithm::Es256, sign))
    }

    /// A key held elsewhere, such as RSA in a native crypto library.
    pub fn custom(
        algorithm: Algorithm,
        sign: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self {
            algorithm,
            sign: Arc::new(sign),
        }
    }

    /// The compact token for these claims.
    pub fn sign(&self, claims: &Claims) -> String {
        let header = format!(r#"{{"typ":"JWT","alg":"{}"}}"#, self.algorithm.name());
        let claims = serde_json::to_vec(claims).expect("claims are strings and numbers");
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = (self.sign)(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

/// A key that verifies.
#[derive(Clone)]
pub struct VerifyingKey(Verifying);

#[derive(Clone)]
enum Verifying {
    Hs256(Hmac<Sha256>),
    Es256(Box<ecdsa::VerifyingKey>),
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.algorithm().name())
    }
}

impl VerifyingKey {
    /// A shared secret.
    ///
    /// # Errors
    /// [`KeyError::Empty`].
    pub fn hs256(secret: &[u8]) -> Result<Self, KeyError> {
        Ok(Self(Verifying::Hs256(keyed(secret)?)))
    }

    /// A P-256 public key from the coordinates of a JWK; RFC 7518 §6.2.1.
    ///
    /// # Errors
    /// [`KeyError::Curve`] if they are no base64url of 32 bytes or not on the curve.
    pub fn es256_from_coordinates(x: &str, y: &str) -> Result<Self, KeyError> {
        let mut point = vec![4];
        for coordinate in [x, y] {
            URL_SAFE_NO_PAD
                .decode_vec(coordinate, &mut point)
                .map_err(|_| KeyError::Curve)?;
        }
        let key = ecdsa::VerifyingKey::from_sec1_bytes(&point).map_err(|_| KeyError::Curve)?;
        Ok(Self(Verifying::Es256(Box::new(key))))
    }

    /// A P-256 key as PEM: the public key, or a private one, PKCS#8 or SEC 1, of which the public
    /// half is used.
    ///
    /// # Errors
    /// [`KeyError::Curve`] if it is any other kind of key.
    pub fn es256_from_pem(pem: &str) -> Result<Self, KeyError> {
        let public = p256::PublicKey::from_public_key_pem(pem)
            .or_else(|_| secret_from_pem(pem).map(|secret| secret.public_key()))?;
        let key = ecdsa::VerifyingKey::from(&public);
        Ok(Self(Verifying::Es256(Box::new(key))))
    }

    /// The one algorithm that this key accepts.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Verifying::Hs256(_) => Algorithm::Hs256,
            Verifying::Es256(_) => Algorithm::Es256,
        }
    }

    /// The claims of a token that this key signed and that has not expired.
    ///
    /// # Errors
    /// The first thing wrong with it; the signature is checked before any claim.
    pub fn verify(
        &self,
        token: &str,
        now: UnixTime,
        leeway_secs: u64,
    ) -> Result<Claims, SignatureError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(SignatureError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(SignatureError::Malformed)?;
        let header: Header = part(header)?;
        if header.alg != self.algorithm().name() {
            return Err(SignatureError::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| SignatureError::Malformed)?;
        if !self.is_signature(signed.as_bytes(), &signature) {
            return Err(SignatureError::Signature);
        }
        let claims: Claims = part(claims)?;
        if claims.expires().plus(leeway_secs) <= now {
            return Err(SignatureError::Expired);
        }
        Ok(claims)
    }

    fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Verifying::Hs256(mac) => {
                let mut mac = mac.clone();
                mac.update(message);
                // Takes the same time for every wrong signature.
                mac.verify_slice(signature).is_ok()
            }
            Verifying::Es256(key) => ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

/// Keys of which any may have signed: one, or the old and the new one while they are changed.
#[derive(Debug, Clone)]
pub struct Keyring {
    first: VerifyingKey,
    others: Vec<VerifyingKey>,
}

impl From<VerifyingKey> for Keyring {
    fn from(key: VerifyingKey) -> Self {
        Self {
            first: key,
            others: Vec::new(),
        }
    }
}

impl Keyring {
    /// Accepts what this key signed as well.
    pub fn add(&mut self, key: VerifyingKey) {
        self.others.push(key);
    }

    /// The claims of a token that one of the keys signed and that has not expired.
    ///
    /// # Errors
    /// What is wrong with it in the eyes of the key that signed it, else of the first key.
    pub fn verify(
        &self,
        token: &str,
        now: UnixTime,
        leeway_secs: u64,
    ) -> Result<Claims, SignatureError> {
        let by_first = self.first.verify(token, now, leeway_secs);
        if !is_by_another(&by_first) {
            return by_first;
        }
        let mut by_others = self
            .others
            .iter()
            .map(|key| key.verify(token, now, leeway_secs));
        by_others
            .find(|verified| !is_by_another(verified))
            .unwrap_or(by_first)
    }
}

/// Whether another key may have signed it.
fn is_by_another(verified: &Result<Claims, SignatureError>) -> bool {
    matches!(
        verified,
        Err(SignatureError::Signature | SignatureError::Algorithm)
    )
}

fn secret_from_pem(pem: &str) -> Result<p256::SecretKey, KeyError> {
    p256::SecretKey::from_pkcs8_pem(pem)
        .or_else(|_| p256::SecretKey::from_sec1_pem(pem))
        .map_err(|_| KeyError::Curve)
}

fn keyed(secret: &[u8]) -> Result<Hmac<Sha256>, KeyError> {
    if secret.is_empty() {
        return Err(KeyError::Empty);
    }
    Ok(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, SignatureError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| SignatureError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| SignatureError::Malformed)
}

/// The secret that a configured key text means: `base64:...`, else the text's own bytes.
///
/// The form `file:PATH` is for the caller, who may read files.
///
/// # Errors
/// [`KeyError::Empty`] and [`KeyError::Base64`].
pub fn secret_from_text(text: &str) -> Result<Vec<u8>, KeyError> {
    let secret = match text.strip_prefix("base64:") {
        None => text.as_bytes().to_vec(),
        Some(encoded) => {
            let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/= \r\n".contains(&byte);
            if !encoded.bytes().all(is_base64) {
                return Err(KeyError::Base64);
            }
            decode_base64_leniently(encoded.as_bytes()).to_vec()
        }
    };
    if secret.is_empty() {
        return Err(KeyError::Empty);
    }
    Ok(secret)
}

/// Whether a secret that was shown is the known one. Takes the same time wherever the first
/// difference is; an empty secret is nobody's.
pub fn secrets_match(known: &[u8], shown: &[u8]) -> bool {
    let Ok(mac) = keyed(known) else {
        return false;
    };
    let tag = |text: &[u8]| {
        let mut mac = mac.clone();
        mac.update(text);
        mac.finalize()
    };
    tag(known) == tag(shown)
}

/// A fresh value for GRIP `Grip-Sig`, good for an hour.
pub fn grip_sig(key: &SigningKey, issuer: &str, now: UnixTime) -> String {
    key.sign(&Claims {
        issuer: Some(issuer.to_owned()),
        ..Claims::until(now.plus(GRIP_SIG_LIFETIME))
    })
}

/// base64url SHA-256 of a body, for the `hsh` claim.
pub fn body_hash(body: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(body))
}

/// The bearer token for one purge request.
pub fn purge_token(key: &SigningKey, body: &[u8], now: UnixTime) -> String {
    bound_token(key, HUB_ISSUER, &PURGE, body, now)
}

/// Whether `token` allows the purge request with this body.
///
/// # Errors
/// Whatever is wrong with the token, its lifetime, its audience or the body it is bound to.
pub fn verify_purge_token(
    keys: &Keyring,
    token: &str,
    body: &[u8],
    now: UnixTime,
) -> Result<(), SignatureError> {
    verify_bound(keys, token, &PURGE, body, now)
}

/// The bearer token for one hold request, [`crate::hold_request`].
pub fn hold_token(key: &SigningKey, body: &[u8], now: UnixTime) -> String {
    bound_token(key, EDGE_ISSUER, &HOLD, body, now)
}

/// Whether `token` allows the hold request with this body.
///
/// # Errors
/// As [`verify_purge_token`].
pub fn verify_hold_token(
    keys: &Keyring,
    token: &str,
    body: &[u8],
    now: UnixTime,
) -> Result<(), SignatureError> {
    verify_bound(keys, token, &HOLD, body, now)
}

/// A request that the edge hands to the hub, by what its signature is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handoff<'a> {
    /// The host that the client asked the edge for.
    pub host: &'a str,
    /// As the hub gets them.
    pub path_and_query: &'a str,
    /// `Sec-WebSocket-Key`; empty if it is no WebSocket's.
    pub websocket_key: &'a [u8],
}

impl Handoff<'_> {
    fn bytes(&self) -> Vec<u8> {
        let parts = [
            self.host.as_bytes(),
            self.path_and_query.as_bytes(),
            self.websocket_key,
        ];
        parts.join(&0)
    }
}

/// The value of `Gripline-Sig` for a request that is handed over.
pub fn handoff_token(key: &SigningKey, handoff: &Handoff<'_>, now: UnixTime) -> String {
    bound_token(key, EDGE_ISSUER, &HANDOFF, &handoff.bytes(), now)
}

/// Whether `token` vouches for the request that was handed over.
///
/// # Errors
/// As [`verify_purge_token`].
pub fn verify_handoff_token(
    keys: &Keyring,
    token: &str,
    handoff: &Handoff<'_>,
    now: UnixTime,
) -> Result<(), SignatureError> {
    verify_bound(keys, token, &HANDOFF, &handoff.bytes(), now)
}

/// What a token is good for.
struct Purpose {
    audience: &'static str,
    /// How long, in seconds.
    lifetime: u64,
}

const PURGE: Purpose = Purpose {
    audience: PURGE_AUDIENCE,
    lifetime: PURGE_LIFETIME,
};
const HOLD: Purpose = Purpose {
    audience: HOLD_AUDIENCE,
    lifetime: HANDOVER_LIFETIME,
};
const HANDOFF: Purpose = Purpose {
    audience: HANDOFF_AUDIENCE,
    lifetime: HANDOVER_LIFETIME,
};

/// A token for one purpose and these bytes.
fn bound_token(
    key: &SigningKey,
    issuer: &str,
    purpose: &Purpose,
    bytes: &[u8],
    now: UnixTime,
) -> String {
    key.sign(&Claims {
        issuer: Some(issuer.to_owned()),
        audience: Some(purpose.audience.to_owned()),
        body_hash: Some(body_hash(bytes)),
        ..Claims::until(now.plus(purpose.lifetime))
    })
}

fn verify_bound(
    keys: &Keyring,
    token: &str,
    purpose: &Purpose,
    bytes: &[u8],
    now: UnixTime,
) -> Result<(), SignatureError> {
    let claims = keys.verify(token, now, CLOCK_LEEWAY)?;
    if claims.expires() > now.plus(purpose.lifetime + CLOCK_LEEWAY) {
        return Err(SignatureError::TooLong);
    }
    if claims.audience.as_deref() != Some(purpose.audience) {
        return Err(SignatureError::Audience);
    }
    if claims.body_hash != Some(body_hash(bytes)) {
        return Err(SignatureError::Body);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: UnixTime = UnixTime(1_700_000_000);

    fn keys(secret: &str) -> (SigningKey, VerifyingKey) {
        let secret = secret.as_bytes();
        (
            SigningKey::hs256(secret).unwrap(),
            VerifyingKey::hs256(secret).unwrap(),
        )
    }

    #[test]
    fn a_grip_sig_is_a_jwt_with_issuer_and_expiry() {
        let (signing, verifying) = keys("changeme");
        let token = grip_sig(&signing, "pushpin", NOW);
        let mut parts = token.split('.');
        let mut decoded = || {
            let part = URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
            String::from_utf8(part).unwrap()
        };
        assert_eq!(decoded(), r#"{"typ":"JWT","alg":"HS256"}"#);
        assert_eq!(decoded(), r#"{"iss":"pushpin","exp":1700003600}"#);
        let claims = verifying.verify(&token, NOW, 0).unwrap();
        assert_eq!(claims.issuer.as_deref(), Some("pushpin"));
    }

    /// The example of RFC 7515 appendix A.1.
    #[test]
    fn the_example_of_the_rfc_verifies() {
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let key = VerifyingKey::hs256(&URL_SAFE_NO_PAD.decode(key).unwrap()).unwrap();
        let claims = key.verify(token, UnixTime(1_300_819_379), 0).unwrap();
        assert_eq!(claims.issuer.as_deref(), Some("joe"));
        assert_eq!(
            key.verify(token, UnixTime(1_300_819_380), 0),
            Err(SignatureError::Expired)
        );
        assert!(key.verify(token, UnixTime(1_300_819_380), 60).is_ok());
    }

    #[track_caller]
    fn check_refused(token: &str, expected: SignatureError) {
        let (_, verifying) = keys("changeme");
        assert_eq!(verifying.verify(token, NOW, 0), Err(expected), "{token}");
    }

    #[test]
    fn forged_tokens_are_refused() {
        let (signing, _) = keys("changeme");
        let good = grip_sig(&signing, "pushpin", NOW);
        let (other, _) = keys("other");
        check_refused(&grip_sig(&other, "pushpin", NOW), SignatureError::Signature);
        check_refused(&format!("{good}AAAA"), SignatureError::Signature);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let claims = good.split('.').nth(1).unwrap();
        check_refused(&format!("{none}.{claims}."), SignatureError::Algorithm);
        for malformed in ["", ".", "..", "a.b.c", "a.b.c.d", &good.replace('.', "")] {
            check_refused(malformed, SignatureError::Malformed);
        }
    }

    /// Every character of the token is changed in some ways, left out, and doubled.
    #[track_caller]
    fn check_no_change_passes(key: &VerifyingKey, token: &str, replacements: &str) {
        assert!(key.verify(token, NOW, 0).is_ok());
        for at in 0..token.len() {
            let (before, after) = (&token[..at], &token[at + 1..]);
            let original = &token[at..=at];
            let changes = replacements.chars().map(String::from);
            let changes = changes.chain([String::new(), original.repeat(2)]);
            for change in changes.filter(|change| change != original) {
                let forged = format!("{before}{change}{after}");
                assert!(key.verify(&forged, NOW, 0).is_err(), "{forged}");
            }
        }
    }

    #[test]
    fn no_token_that_is_changed_anywhere_passes() {
        let (signing, verifying) = keys("changeme");
        let token = grip_sig(&signing, "pushpin", NOW);
        let base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        check_no_change_passes(&verifying, &token, &format!("{base64}.=+/ "));
        let (signing, verifying) = es256_keys();
        let token = grip_sig(&signing, "pushpin", NOW);
        check_no_change_passes(&verifying, &token, "AQz");
    }

    #[test]
    fn an_empty_secret_is_no_key() {
        assert_eq!(SigningKey::hs256(b"").unwrap_err(), KeyError::Empty);
        assert_eq!(VerifyingKey::hs256(b"").unwrap_err(), KeyError::Empty);
        assert_eq!(secret_from_text("").unwrap_err(), KeyError::Empty);
        assert_eq!(secret_from_text("base64:").unwrap_err(), KeyError::Empty);
    }

    #[test]
    fn only_the_same_secret_matches() {
        assert!(secrets_match(b"secret", b"secret"));
        for shown in [b"Secret".as_slice(), b"secre", b"secret ", b""] {
            assert!(!secrets_match(b"secret", shown), "{shown:?}");
        }
        assert!(!secrets_match(b"", b""));
    }

    #[test]
    fn key_texts_are_plain_or_base64() {
        assert_eq!(secret_from_text("changeme").unwrap(), b"changeme");
        assert_eq!(secret_from_text("base64:AAH/").unwrap(), [0, 1, 255]);
        assert_eq!(secret_from_text("base64:$$").unwrap_err(), KeyError::Base64);
    }

    /// The example key of RFC 7515 appendix A.3.
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn es256_keys() -> (SigningKey, VerifyingKey) {
        let secret = p256::SecretKey::from_slice(&[7; 32]).unwrap();
        let signing_key = ecdsa::SigningKey::from(&secret);
        let point = secret.public_key().to_sec1_bytes();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let point_is_uncompressed = point.len() == 65;
        assert!(point_is_uncompressed);
        let verifying =
            VerifyingKey::es256_from_coordinates(&coordinate(1..33), &coordinate(33..65)).unwrap();
        let signing = SigningKey::custom(Algorithm::Es256, move |message| {
            let signature: ecdsa::Signature = signing_key.sign(message);
            signature.to_bytes().to_vec()
        });
        (signing, verifying)
    }

    #[test]
    fn es256_verifies_what_a_private_key_signed() {
        let (signing, verifying) = es256_keys();
        let token = grip_sig(&signing, "fastly:x", NOW);
        assert!(verifying.verify(&token, NOW, 0).is_ok());
        let other = VerifyingKey::es256_from_coordinates(X, Y).unwrap();
        assert_eq!(other.verify(&token, NOW, 0), Err(SignatureError::Signature));
    }

    #[test]
    fn es256_keys_are_read_from_pem() {
        use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
        let secret = p256::SecretKey::from_slice(&[7; 32]).unwrap();
        let public = secret.public_key().to_public_key_pem(LineEnding::LF);
        let private = secret.to_pkcs8_pem(LineEnding::LF).unwrap();
        let signing = SigningKey::es256_from_pem(&private).unwrap();
        let token = grip_sig(&signing, "x", NOW);
        for pem in [public.unwrap().as_str(), &private] {
            let verifying = VerifyingKey::es256_from_pem(pem).unwrap();
            assert!(verifying.verify(&token, NOW, 0).is_ok(), "{pem}");
        }
        for pem in ["", "x", &private.replace("PRIVATE", "PUBLIC")] {
            let error = VerifyingKey::es256_from_pem(pem).unwrap_err();
            assert_eq!(error, KeyError::Curve, "{pem}");
        }
    }

    #[test]
    fn a_public_key_must_be_on_the_curve() {
        for (x, y) in [(X, X), (X, ""), ("", ""), ("!", Y)] {
            let error = VerifyingKey::es256_from_coordinates(x, y).unwrap_err();
            assert_eq!(error, KeyError::Curve, "{x} {y}");
        }
    }

    #[test]
    fn a_purge_token_is_bound_to_its_body() {
        let (signing, verifying) = keys("purge");
        let verifying = Keyring::from(verifying);
        let token = purge_token(&signing, b"body", NOW);
        let verify = |body: &[u8], now| verify_purge_token(&verifying, &token, body, now);
        assert_eq!(verify(b"body", NOW), Ok(()));
        assert_eq!(verify(b"other", NOW), Err(SignatureError::Body));
        assert_eq!(verify(b"body", NOW.plus(121)), Err(SignatureError::Expired));
        let grip_sig = grip_sig(&signing, "x", UnixTime(NOW.0 - 3590));
        let error = verify_purge_token(&verifying, &grip_sig, b"body", NOW).unwrap_err();
        assert_eq!(error, SignatureError::Audience);
        let long = signing.sign(&Claims::until(NOW.plus(3600)));
        let error = verify_purge_token(&verifying, &long, b"body", NOW).unwrap_err();
        assert_eq!(error, SignatureError::TooLong);
    }

    #[test]
    fn a_token_is_good_for_one_purpose() {
        let (signing, verifying) = keys("hub");
        let keys = Keyring::from(verifying);
        let handoff = Handoff {
            host: "a",
            path_and_query: "/b",
            websocket_key: b"",
        };
        let bytes = handoff.bytes();
        let (purge, hold) = (
            purge_token(&signing, &bytes, NOW),
            hold_token(&signing, &bytes, NOW),
        );
        let handed = handoff_token(&signing, &handoff, NOW);
        for token in [&purge, &hold, &handed] {
            let purges = verify_purge_token(&keys, token, &bytes, NOW);
            assert_eq!(purges.is_ok(), *token == purge);
            let holds = verify_hold_token(&keys, token, &bytes, NOW);
            assert_eq!(holds.is_ok(), *token == hold);
            let hands = verify_handoff_token(&keys, token, &handoff, NOW);
            assert_eq!(hands.is_ok(), *token == handed);
        }
    }

    #[test]
    fn a_handoff_is_bound_to_host_path_and_websocket_key() {
        let (signing, verifying) = keys("hub");
        let keys = Keyring::from(verifying);
        let handoff = Handoff {
            host: "a",
            path_and_query: "/b?c",
            websocket_key: b"d",
        };
        let token = handoff_token(&signing, &handoff, NOW);
        let verify = |handoff| verify_handoff_token(&keys, &token, &handoff, NOW);
        assert_eq!(verify(handoff), Ok(()));
        for other in [
            Handoff {
                host: "x",
                ..handoff
            },
            Handoff {
                path_and_query: "/b",
                ..handoff
            },
            Handoff {
                websocket_key: b"",
                ..handoff
            },
        ] {
            assert_eq!(verify(other), Err(SignatureError::Body), "{other:?}");
        }
    }

    #[test]
    fn clocks_may_differ_by_a_minute() {
        let (signing, verifying) = keys("hub");
        let keys = Keyring::from(verifying);
        let token = hold_token(&signing, b"", NOW);
        let verify = |now| verify_hold_token(&keys, &token, b"", now);
        assert_eq!(verify(NOW.plus(89)), Ok(()));
        assert_eq!(verify(NOW.plus(90)), Err(SignatureError::Expired));
        assert_eq!(verify(UnixTime(NOW.0 - 60)), Ok(()));
        assert_eq!(verify(UnixTime(NOW.0 - 61)), Err(SignatureError::TooLong));
    }

    #[test]
    fn two_keys_are_good_while_they_are_changed() {
        let (old_signing, old) = keys("old");
        let (new_signing, new) = keys("new");
        let (other_signing, _) = keys("other");
        let (ecdsa_signing, ecdsa) = es256_keys();
        let mut ring = Keyring::from(old);
        ring.add(ecdsa);
        ring.add(new);
        let verify = |key: &SigningKey, now| ring.verify(&grip_sig(key, "x", NOW), now, 0);
        for key in [&old_signing, &new_signing, &ecdsa_signing] {
            assert!(verify(key, NOW).is_ok(), "{key:?}");
            let late = verify(key, NOW.plus(3600));
            assert_eq!(late, Err(SignatureError::Expired), "{key:?}");
        }
        let other = verify(&other_signing, NOW);
        assert_eq!(other, Err(SignatureError::Signature));
        assert_eq!(ring.verify("", NOW, 0), Err(SignatureError::Malformed));
    }
}
