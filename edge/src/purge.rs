//! `POST /.gripline/purge`: by channel and by surrogate key, signed.

use std::io::Read as _;

use fastly::Request;
use fastly::http::purge::{purge_surrogate_key, soft_purge_surrogate_key};
use grip::cache::{PurgeMode, PurgeRequest};
use grip::signature::{Keyring, verify_purge_token};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, StatusCode};

use crate::answer::{self, Answer};
use crate::config::Edge;
use crate::{log, not_configured, now};

/// Header with a token of the platform's own.
const FASTLY_KEY: &str = "fastly-key";

/// Answers a purge request.
pub(crate) fn handle(request: &mut Request, edge: &Edge) -> Answer {
    let keys = match edge.purge_keys() {
        Ok(keys) => keys,
        Err(error) => return Answer::Response(Box::new(not_configured(&error))),
    };
    if keys.is_none() && !request.contains_header(FASTLY_KEY) {
        let reason = "there is no secret purge-key, or it is empty";
        log::event("purge_refused", &[("reason", reason), ("status", "404")]);
        return answer::text(StatusCode::NOT_FOUND, "Not Found");
    }
    if request.get_method() != Method::POST {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "Only POST purges.")
            .with_header(ALLOW, "POST");
    }
    match purge(request, keys.as_ref()) {
        Ok(purged) => answer::text(StatusCode::OK, &format!("{{\"purged\":{purged}}}"))
            .with_header(CONTENT_TYPE, "application/json"),
        Err((status, reason)) => {
            log::event(
                "purge_refused",
                &[("reason", &reason), ("status", status.as_str())],
            );
            answer::text(status, &reason)
        }
    }
}

/// How many channels and keys were purged, or why none were.
fn purge(request: &mut Request, keys: Option<&Keyring>) -> Result<usize, (StatusCode, String)> {
    let body = body(request)?;
    authorize(request, &body, keys).map_err(|reason| (StatusCode::UNAUTHORIZED, reason))?;
    let purge = PurgeRequest::parse(&body).map_err(|error| {
        let status = if error.is_too_large() {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        (status, error.to_string())
    })?;
    for key in &purge.surrogate_keys {
        let purged = match purge.mode {
            PurgeMode::Hard => purge_surrogate_key(key),
            PurgeMode::Soft => soft_purge_surrogate_key(key),
        };
        purged.map_err(|error| {
            (
                StatusCode::BAD_GATEWAY,
                format!("cannot purge {key}: {error}"),
            )
        })?;
    }
    log::event("purged", &[("keys", &purge.surrogate_keys.join(" "))]);
    Ok(purge.entries)
}

fn body(request: &mut Request) -> Result<Vec<u8>, (StatusCode, String)> {
    let mut body = Vec::new();
    let limit = PurgeRequest::MAX_BYTES as u64 + 1;
    let read = request.take_body().take(limit).read_to_end(&mut body);
    match read {
        Err(_) => Err((StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        Ok(_) if body.len() > PurgeRequest::MAX_BYTES => {
            let text = format!(
                "the body is too large, at most {} bytes are allowed",
                PurgeRequest::MAX_BYTES
            );
            Err((StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Ok(_) => Ok(body),
    }
}

/// Either a token that is bound to this body, or a key of the platform's own.
fn authorize(request: &Request, body: &[u8], keys: Option<&Keyring>) -> Result<(), String> {
    if request.contains_header(FASTLY_KEY) {
        let is_valid = request.fastly_key_is_valid();
        return is_valid
            .then_some(())
            .ok_or_else(|| "the Fastly-Key is not valid".to_owned());
    }
    let token = request
        .get_header(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or("a bearer token or a Fastly-Key is needed")?;
    let keys = keys.ok_or("no purge key is configured")?;
    verify_purge_token(keys, token.trim(), body, now()).map_err(|error| error.to_string())
}
