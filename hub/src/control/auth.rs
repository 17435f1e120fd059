//! Who may publish: whoever knows a key, can sign with it, or knows a user's password.

use grip::UnixTime;
use grip::signature::{CLOCK_LEEWAY, SignatureError};
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap};

use crate::config::{ControlAuth, Tokens};

/// Where the hosted service's clients put their key.
const FASTLY_KEY: &str = "fastly-key";

/// Why a publisher is turned away. None of the texts repeats what it sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unauthorized {
    /// It says nothing of itself.
    #[error("Authentication required.")]
    Missing,
    /// `Authorization` in a form that is not configured, or that nobody knows.
    #[error("Authentication failed: this kind of Authorization is not accepted here.")]
    Scheme,
    /// It says something that is not so.
    #[error("Authentication failed: wrong credentials.")]
    Wrong,
    /// It sends a token that is not good.
    #[error("Authentication failed: {0}.")]
    Token(SignatureError),
}

impl ControlAuth {
    /// Accepts a request if any of its credentials is good.
    ///
    /// # Errors
    /// What is wrong with the last of them.
    pub(super) fn admit(&self, headers: &HeaderMap, now: UnixTime) -> Result<(), Unauthorized> {
        let keys = headers
            .get_all(FASTLY_KEY)
            .iter()
            .map(|key| self.admit_key(key.as_bytes()));
        let authorizations = headers
            .get_all(AUTHORIZATION)
            .iter()
            .map(|value| self.admit_authorization(value, now));
        let mut last = Err(Unauthorized::Missing);
        for admitted in keys.chain(authorizations) {
            last = admitted;
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// What a client may send, one value for each `WWW-Authenticate`; RFC 9110 §11.6.1.
    pub(super) fn challenges(&self) -> impl Iterator<Item = HeaderValue> {
        let bearer = self.tokens.as_ref().map(|_| r#"Bearer realm="gripline""#);
        let basic = self.basic.as_ref().map(|_| r#"Basic realm="gripline""#);
        let challenges = bearer.into_iter().chain(basic);
        challenges.map(HeaderValue::from_static)
    }

    fn admit_authorization(&self, value: &HeaderValue, now: UnixTime) -> Result<(), Unauthorized> {
        let value = value.as_bytes();
        let end = value.iter().position(|byte| *byte == b' ');
        let (scheme, credentials) = value.split_at(end.unwrap_or(value.len()));
        let credentials = credentials.trim_ascii();
        match (&self.tokens, &self.basic) {
            (Some(tokens), _) if scheme.eq_ignore_ascii_case(b"Bearer") => self
                .admit_key(credentials)
                .or_else(|_| tokens.admit(credentials, now)),
            (_, Some(basic)) if scheme.eq_ignore_ascii_case(b"Basic") => {
                admitted(basic.is(without_padding(without_python(credentials))))
            }
            _ => Err(Unauthorized::Scheme),
        }
    }

    fn admit_key(&self, key: &[u8]) -> Result<(), Unauthorized> {
        admitted(self.keys.iter().any(|secret| secret.is(key)))
    }
}

impl Tokens {
    fn admit(&self, token: &[u8], now: UnixTime) -> Result<(), Unauthorized> {
        // What is not even text is no token either.
        let token = std::str::from_utf8(token).map_err(|_| Unauthorized::Wrong)?;
        let claims = match self.key.verify(token, now, CLOCK_LEEWAY) {
            Ok(claims) => claims,
            // A key that is sent as it is and wrong.
            Err(SignatureError::Malformed) => return Err(Unauthorized::Wrong),
            Err(error) => return Err(Unauthorized::Token(error)),
        };
        if self.issuer.is_some() && self.issuer != claims.issuer {
            return Err(Unauthorized::Token(SignatureError::Issuer));
        }
        Ok(())
    }
}

fn admitted(is_right: bool) -> Result<(), Unauthorized> {
    is_right.then_some(()).ok_or(Unauthorized::Wrong)
}

/// Some versions of a Python library send their Base64 as Python prints it: `b'...'`.
fn without_python(credentials: &[u8]) -> &[u8] {
    credentials
        .strip_prefix(b"b'")
        .and_then(|rest| rest.strip_suffix(b"'"))
        .unwrap_or(credentials)
}

fn without_padding(encoded: &[u8]) -> &[u8] {
    let padding = encoded.iter().rev().take_while(|byte| **byte == b'=');
    &encoded[..encoded.len() - padding.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use grip::signature::{Claims, SigningKey};
    use http::HeaderName;
    use ring::hmac;

    use crate::config::RawConfig;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const KEY: &str = "key = \"changeme\"\n";
    const ISS: &str = "iss = \"publisher\"\n";
    const BASIC: &str = "user = \"user\"\npassword = \"pass\"\n";
    const MISSING: Result<(), &str> = Err("Authentication required.");
    const SCHEME: Result<(), &str> =
        Err("Authentication failed: this kind of Authorization is not accepted here.");
    const WRONG: Result<(), &str> = Err("Authentication failed: wrong credentials.");
    /// `user:pass`, and `user:other`.
    const USER_PASS: &str = "dXNlcjpwYXNz";
    const USER_OTHER: &str = "dXNlcjpvdGhlcg==";

    /// A token signed with this key, for this issuer, that expires so many seconds from now.
    fn token(key: &str, issuer: Option<&str>, expires_in: i64) -> String {
        let expires = UnixTime(NOW.0.checked_add_signed(expires_in).unwrap());
        let mut claims = Claims::until(expires);
        claims.issuer = issuer.map(str::to_owned);
        SigningKey::hs256(key.as_bytes()).unwrap().sign(&claims)
    }

    /// A token signed with `changeme` of exactly these parts.
    fn token_of(header: &str, claims: &str) -> String {
        let signed = [header, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"changeme");
        let signature = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Sends these fields to a port with these settings.
    #[track_caller]
    fn check(settings: &str, fields: &[&str], expected: Result<(), &str>) {
        let raw = RawConfig::from_toml(&format!("[control_auth]\n{settings}")).unwrap();
        let auth = raw.check(Path::new("")).unwrap().control_auth.unwrap();
        let mut headers = HeaderMap::new();
        for field in fields {
            let (name, value) = field.split_once(": ").unwrap();
            let name = HeaderName::try_from(name).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let admitted = auth.admit(&headers, NOW).map_err(|error| error.to_string());
        let expected = expected.map_err(str::to_owned);
        assert_eq!(admitted, expected, "{settings}{fields:?}");
    }

    #[track_caller]
    fn check_bearer(settings: &str, credentials: &str, expected: Result<(), &str>) {
        let field = format!("Authorization: Bearer {credentials}");
        check(settings, &[&field], expected);
    }

    #[track_caller]
    fn check_token(settings: &str, token: &str, expected: Result<(), &str>) {
        let text = expected.map_err(|text| format!("Authentication failed: the {text}."));
        check_bearer(
            settings,
            token,
            text.as_ref().copied().map_err(String::as_str),
        );
    }

    #[test]
    fn nothing_is_not_enough() {
        for settings in [KEY, BASIC] {
            check(settings, &[], MISSING);
            check(settings, &["Accept: */*"], MISSING);
        }
    }

    #[test]
    fn a_key_may_be_sent_as_it_is() {
        check_bearer(KEY, "changeme", Ok(()));
        check(KEY, &["Authorization: bearer  changeme"], Ok(()));
        check(KEY, &["Fastly-Key: changeme"], Ok(()));
        for wrong in ["", "change", "changeme2", "Changeme", "a.b.c", "ü"] {
            check_bearer(KEY, wrong, WRONG);
        }
        check(KEY, &["Authorization: Bearer"], WRONG);
        check(KEY, &["Fastly-Key: other"], WRONG);
        check(KEY, &["Fastly-Key: "], WRONG);
    }

    #[test]
    fn a_base64_key_may_be_sent_as_it_is_or_decoded() {
        let settings = "key = \"base64:Y2hhbmdlbWU=\"";
        check_bearer(settings, "base64:Y2hhbmdlbWU=", Ok(()));
        check_bearer(settings, "changeme", Ok(()));
        check_bearer(settings, "Y2hhbmdlbWU=", WRONG);
        check_token(settings, &token("changeme", None, 60), Ok(()));
    }

    #[test]
    fn a_token_must_be_signed_with_the_key() {
        check_token(KEY, &token("changeme", None, 60), Ok(()));
        check_token(KEY, &token("changeme", Some("anybody"), 60), Ok(()));
        let forged = token("other", None, 60);
        check_token(KEY, &forged, Err("signature does not verify"));
        let field = format!("Fastly-Key: {}", token("changeme", None, 60));
        check(KEY, &[&field], WRONG);
    }

    #[test]
    fn a_token_may_leave_out_its_type_but_not_its_end() {
        let exp = r#"{"exp":1700000060}"#;
        check_token(KEY, &token_of(r#"{"alg":"HS256"}"#, exp), Ok(()));
        let none = token_of(r#"{"alg":"none"}"#, exp);
        check_token(KEY, &none, Err("token's algorithm is not that of the key"));
        let endless = token_of(r#"{"alg":"HS256"}"#, r#"{"iss":"publisher"}"#);
        check_bearer(KEY, &endless, WRONG);
    }

    #[test]
    fn a_token_expires() {
        check_token(KEY, &token("changeme", None, -59), Ok(()));
        let late = token("changeme", None, -60);
        check_token(KEY, &late, Err("token has expired"));
    }

    #[test]
    fn a_token_must_name_the_issuer_that_is_configured() {
        let settings = [KEY, ISS].concat();
        check_token(&settings, &token("changeme", Some("publisher"), 60), Ok(()));
        for issuer in [None, Some("anybody"), Some("")] {
            let token = token("changeme", issuer, 60);
            check_token(&settings, &token, Err("token is not from this issuer"));
        }
        check_bearer(&settings, "changeme", Ok(()));
    }

    #[test]
    fn a_p256_key_accepts_tokens_only() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let pem = std::fs::read_to_string(directory.join("ec_sec1.pem")).unwrap();
        let signing = SigningKey::es256_from_pem(&pem).unwrap();
        let token = signing.sign(&Claims::until(NOW.plus(60)));
        let path = directory.join("ec_public.pem");
        let settings = format!("key = \"file:{}\"", path.display());
        check_token(&settings, &token, Ok(()));
        check_bearer(&settings, &format!("file:{}", path.display()), WRONG);
        let shared = token_of(r#"{"alg":"HS256"}"#, r#"{"exp":1700000060}"#);
        check_token(
            &settings,
            &shared,
            Err("token's algorithm is not that of the key"),
        );
    }

    #[track_caller]
    fn check_basic(credentials: &str, expected: Result<(), &str>) {
        let field = format!("Authorization: Basic {credentials}");
        check(BASIC, &[&field], expected);
    }

    #[test]
    fn users_send_their_password_also_as_python_prints_it() {
        check_basic(USER_PASS, Ok(()));
        check_basic(&format!("b'{USER_PASS}'"), Ok(()));
        check(
            BASIC,
            &[&format!("authorization: BASIC {USER_PASS}")],
            Ok(()),
        );
        let padded = "user = \"user\"\npassword = \"other\"";
        for encoded in [USER_OTHER, USER_OTHER.trim_end_matches('=')] {
            check(
                padded,
                &[&format!("Authorization: Basic {encoded}")],
                Ok(()),
            );
        }
        for wrong in [USER_OTHER, "", "b''", "b'", "'", "=", "user:pass", "ü"] {
            check_basic(wrong, WRONG);
        }
    }

    #[test]
    fn what_is_not_configured_is_not_accepted() {
        let bearer = "Authorization: Bearer changeme";
        let basic = format!("Authorization: Basic {USER_PASS}");
        check(BASIC, &[bearer], SCHEME);
        check(KEY, &[&basic], SCHEME);
        check(BASIC, &["Fastly-Key: changeme"], WRONG);
        for odd in ["Digest x", "changeme", "Bearerchangeme", "x"] {
            check(KEY, &[&format!("Authorization: {odd}")], SCHEME);
        }
    }

    #[test]
    fn any_good_credentials_will_do() {
        let settings = [KEY, BASIC].concat();
        let basic = format!("Authorization: Basic {USER_PASS}");
        let good = "Authorization: Bearer changeme";
        let bad = "Authorization: Bearer no";
        check(&settings, &[good], Ok(()));
        check(&settings, &[&basic], Ok(()));
        check(&settings, &[bad, &basic], Ok(()));
        check(&settings, &[good, bad], Ok(()));
        check(&settings, &["Fastly-Key: no", good], Ok(()));
        check(&settings, &["Fastly-Key: changeme", bad], Ok(()));
        check(&settings, &["Fastly-Key: no", bad], WRONG);
    }
}
