//! Tokens: one as it comes, or a header, a line end and claims, well signed.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grip::UnixTime;
use grip::signature::{Keyring, VerifyingKey, verify_purge_token};
use gripline_fuzz::split_once;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const NOW: UnixTime = UnixTime(1_700_000_000);
const SECRET: &[u8] = b"changeme";
/// The example key of RFC 7515 appendix A.3.
const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let key = VerifyingKey::hs256(SECRET).expect("it is not empty");
    let other = VerifyingKey::es256_from_coordinates(X, Y).expect("it is on the curve");
    if let Ok(token) = std::str::from_utf8(bytes) {
        assert!(key.verify(token, NOW, 0).is_err());
        assert!(other.verify(token, NOW, 0).is_err());
    }
    let token = signed(bytes);
    if let Ok(claims) = key.verify(&token, NOW, 0) {
        assert!(claims.expires() > NOW);
    }
    assert!(other.verify(&token, NOW, 0).is_err());
    let _ = verify_purge_token(&Keyring::from(key), &token, b"body", NOW);
});

fn signed(bytes: &[u8]) -> String {
    let (header, claims) = split_once(bytes, b"\n");
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let token = format!("{}.{}", encode(header), encode(claims));
    let mut mac: Hmac<Sha256> = Hmac::new_from_slice(SECRET).expect("HMAC takes any key");
    mac.update(token.as_bytes());
    format!("{token}.{}", encode(&mac.finalize().into_bytes()))
}
