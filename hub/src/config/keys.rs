//! Keys in all forms that a configuration may give them.

use std::fmt;
use std::path::Path;

use grip::signature::{self, Algorithm, KeyError, SigningKey, VerifyingKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};

/// Why a configured key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyTextError {
    /// The key itself is unusable.
    #[error("{0}; give a text, base64:... or file:PATH")]
    Key(#[from] KeyError),
    /// The key's file cannot be read.
    #[error("cannot read {path}: {error}")]
    File { path: String, error: std::io::Error },
    /// The key's file holds something else.
    #[error("{0} holds no key; it must be PEM (P-256 or RSA) or hexadecimal")]
    Content(String),
    /// A PEM key where only a shared secret will do.
    #[error("{0} is a PEM key; a shared secret is needed")]
    NotShared(String),
    /// A PEM key that tokens cannot be verified with.
    #[error("{0} is no P-256 key; give that, public or private, or a shared secret")]
    NotVerifying(String),
}

/// A text that somebody has to know. Neither shows it nor keeps it: what is kept is only good for
/// comparing.
#[derive(Clone)]
pub struct Secret {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Secret {
    pub(super) fn new(text: &[u8]) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the operating system has randomness");
        let tag = hmac::sign(&key, text);
        Self { key, tag }
    }

    /// Whether this is the text. Takes the same time wherever the first difference is.
    pub(crate) fn is(&self, text: &[u8]) -> bool {
        hmac::verify(&self.key, text, self.tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a publisher may prove to have.
#[derive(Debug)]
pub(super) struct PublisherKey {
    /// Verifies its tokens.
    pub(super) tokens: VerifyingKey,
    /// The key as it may be sent itself; of a key pair, nothing.
    pub(super) literal: Vec<Secret>,
}

/// A key that nobody else knows.
pub(crate) fn random() -> SigningKey {
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .expect("the operating system has randomness");
    SigningKey::hs256(&secret).expect("32 bytes are not empty")
}

/// The key that `text` means: a text, `base64:...` or `file:PATH`; the file is PEM or hexadecimal.
pub(crate) fn signing_key(text: &str, directory: &Path) -> Result<SigningKey, KeyTextError> {
    match File::named_by(text, directory)? {
        None => Ok(SigningKey::hs256(&signature::secret_from_text(text)?)?),
        Some(file) if file.is_pem() => file.private_key(),
        Some(file) => Ok(SigningKey::hs256(&file.hex()?)?),
    }
}

/// The shared secret that `text` means, for what others signed with it.
pub(super) fn verifying_key(text: &str, directory: &Path) -> Result<VerifyingKey, KeyTextError> {
    let secret = match File::named_by(text, directory)? {
        None => signature::secret_from_text(text)?,
        Some(file) if file.is_pem() => return Err(KeyTextError::NotShared(file.path)),
        Some(file) => file.hex()?,
    };
    Ok(VerifyingKey::hs256(&secret)?)
}

/// As [`signing_key`], for keys that both sides hold.
pub(crate) fn shared_secret(text: &str, directory: &Path) -> Result<SigningKey, KeyTextError> {
    match File::named_by(text, directory)? {
        Some(file) if file.is_pem() => Err(KeyTextError::NotShared(file.path)),
        _ => signing_key(text, directory),
    }
}

/// The key that publishers have; a file may also hold a P-256 key that only verifies.
pub(super) fn publisher_key(text: &str, directory: &Path) -> Result<PublisherKey, KeyTextError> {
    match File::named_by(text, directory)? {
        None => PublisherKey::shared(text, &signature::secret_from_text(text)?),
        Some(file) if file.is_pem() => Ok(PublisherKey {
            tokens: VerifyingKey::es256_from_pem(&file.content)
                .map_err(|_| KeyTextError::NotVerifying(file.path))?,
            literal: Vec::new(),
        }),
        Some(file) => PublisherKey::shared(&file.content, &file.hex()?),
    }
}

impl PublisherKey {
    /// Some libraries send the key as it is configured with them, others what it stands for.
    fn shared(text: &str, secret: &[u8]) -> Result<Self, KeyTextError> {
        Ok(Self {
            tokens: VerifyingKey::hs256(secret)?,
            literal: vec![Secret::new(text.as_bytes()), Secret::new(secret)],
        })
    }
}

struct File {
    path: String,
    content: String,
}

impl File {
    fn named_by(text: &str, directory: &Path) -> Result<Option<Self>, KeyTextError> {
        let Some(path) = text.strip_prefix("file:") else {
            return Ok(None);
        };
        let path = directory.join(path);
        let name = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Ok(content) => Ok(Some(Self {
                path: name,
                content: content.trim().to_owned(),
            })),
            Err(error) => Err(KeyTextError::File { path: name, error }),
        }
    }

    fn is_pem(&self) -> bool {
        self.content.starts_with("-----BEGIN")
    }

    fn hex(&self) -> Result<Vec<u8>, KeyTextError> {
        let digits: Option<Vec<u8>> = self
            .content
            .chars()
            .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
            .collect();
        match digits {
            Some(digits) if digits.len() % 2 == 0 => Ok(digits
                .chunks(2)
                .map(|pair| pair[0] << 4 | pair[1])
                .collect()),
            _ => Err(self.unusable()),
        }
    }

    /// An elliptic-curve key is tried first, then RSA.
    fn private_key(&self) -> Result<SigningKey, KeyTextError> {
        if let Ok(key) = SigningKey::es256_from_pem(&self.content) {
            return Ok(key);
        }
        let pem = self.content.as_bytes();
        let pair = if let Ok(der) = PrivatePkcs8KeyDer::from_pem_slice(pem) {
            RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
        } else {
            let der = PrivatePkcs1KeyDer::from_pem_slice(pem).map_err(|_| self.unusable())?;
            RsaKeyPair::from_der(der.secret_pkcs1_der())
        };
        let pair = pair.map_err(|_| self.unusable())?;
        Ok(SigningKey::custom(Algorithm::Rs256, move |message| {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .expect("the signature is as long as the modulus");
            signature
        }))
    }

    fn unusable(&self) -> KeyTextError {
        KeyTextError::Content(self.path.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use grip::UnixTime;
    use grip::signature::grip_sig;
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    #[track_caller]
    fn check_file(content: &str, expected: Result<&str, &str>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), content).unwrap();
        let found = signing_key("file:key", directory.path());
        match (&found, expected) {
            (Ok(key), Ok(name)) => assert_eq!(format!("{key:?}"), name),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            _ => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn files_hold_hexadecimal_or_pem() {
        check_file("00ff10\n", Ok("SigningKey(HS256)"));
        check_file(
            include_str!("../../testdata/ec_pkcs8.pem"),
            Ok("SigningKey(ES256)"),
        );
        check_file(
            include_str!("../../testdata/ec_sec1.pem"),
            Ok("SigningKey(ES256)"),
        );
        check_file(
            include_str!("../../testdata/rsa_pkcs8.pem"),
            Ok("SigningKey(RS256)"),
        );
        check_file(
            include_str!("../../testdata/rsa_pkcs1.pem"),
            Ok("SigningKey(RS256)"),
        );
        check_file("0", Err("holds no key"));
        check_file("xy", Err("holds no key"));
        check_file("", Err("the key is empty"));
        check_file(
            "-----BEGIN NOTHING-----\n-----END NOTHING-----",
            Err("holds no key"),
        );
        let missing = signing_key("file:none", Path::new("/nowhere")).unwrap_err();
        assert!(
            missing.to_string().contains("cannot read /nowhere/none"),
            "{missing}"
        );
    }

    #[test]
    fn a_hexadecimal_file_is_the_secret_itself() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "00ff10").unwrap();
        let now = UnixTime(0);
        let token = grip_sig(
            &signing_key("file:key", directory.path()).unwrap(),
            "x",
            now,
        );
        let verifying = VerifyingKey::hs256(&[0, 255, 16]).unwrap();
        assert!(verifying.verify(&token, now, 0).is_ok());
    }

    #[test]
    fn a_pem_key_is_no_shared_secret() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let error = shared_secret("file:ec_sec1.pem", &directory).unwrap_err();
        assert!(
            error.to_string().contains("a shared secret is needed"),
            "{error}"
        );
        assert!(shared_secret("base64:AAH/", &directory).is_ok());
    }

    /// Which of these texts a publisher with this key may send as they are.
    #[track_caller]
    fn check_literal(key: &str, texts: &[&[u8]]) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hex"), "4142\n").unwrap();
        let key = publisher_key(key, directory.path()).unwrap();
        for text in [b"AB".as_slice(), b"base64:QUI=", b"file:hex", b"4142", b""] {
            let is_literal = key.literal.iter().any(|secret| secret.is(text));
            assert_eq!(is_literal, texts.contains(&text), "{text:?}");
        }
    }

    #[test]
    fn a_shared_key_may_be_sent_as_it_is_but_not_the_name_of_its_file() {
        check_literal("AB", &[b"AB"]);
        check_literal("base64:QUI=", &[b"AB", b"base64:QUI="]);
        check_literal("file:hex", &[b"AB", b"4142"]);
    }

    #[test]
    fn a_p256_key_verifies_and_is_no_secret() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let now = UnixTime(0);
        let signing = signing_key("file:ec_pkcs8.pem", &directory).unwrap();
        let token = grip_sig(&signing, "x", now);
        for name in ["file:ec_public.pem", "file:ec_sec1.pem"] {
            let key = publisher_key(name, &directory).unwrap();
            assert!(key.tokens.verify(&token, now, 0).is_ok(), "{name}");
            assert!(key.literal.is_empty(), "{name}");
        }
        let error = publisher_key("file:rsa_pkcs8.pem", &directory).unwrap_err();
        assert!(error.to_string().contains("is no P-256 key"), "{error}");
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Secret::new(b"changeme")), "Secret");
    }

    #[test]
    fn an_rsa_key_signs_as_rs256_demands() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let token = grip_sig(
            &signing_key("file:rsa_pkcs8.pem", &directory).unwrap(),
            "x",
            UnixTime(0),
        );
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let pem = include_bytes!("../../testdata/rsa_pkcs8.pem");
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).unwrap();
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref())
            .verify(signed.as_bytes(), &signature)
            .unwrap();
    }
}
