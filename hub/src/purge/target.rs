//! Whoever makes the edge forget, and what it answers.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use grip::ChannelName;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;

use super::{edge, fastly};
use crate::config::{HttpAddress, PurgeTarget};
use crate::upstream::{Endpoint, Reach, SendError, Upstream};

/// Bytes of an answer that are read: an error is worth logging, and a connection whose answer was
/// read can be used again.
const MAX_ANSWER: usize = 64 * 1024;
/// Bytes of an error that are logged.
const MAX_SHOWN: usize = 1024;

/// Why the edge may still have what it should have forgotten.
#[derive(Debug, thiserror::Error)]
pub(super) enum PurgeError {
    #[error("no answer from {address} within {timeout:?}")]
    Timeout {
        address: HttpAddress,
        timeout: Duration,
    },
    #[error("{address} does not answer: {error}")]
    Unreachable {
        address: HttpAddress,
        error: SendError,
    },
    #[error("{address} answers {status}: {text}")]
    Refused {
        address: HttpAddress,
        status: StatusCode,
        text: String,
        /// When it may take another; RFC 9110 §10.2.3.
        retry_after: Option<Duration>,
    },
}

impl PurgeError {
    /// Before this is over, another purge would fail as well.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Timeout { .. } | Self::Unreachable { .. } => None,
        }
    }
}

/// The way to whoever purges.
#[derive(Debug)]
pub(super) struct Target {
    upstream: Upstream<Full<Bytes>>,
    endpoint: Endpoint,
    config: PurgeTarget,
}

impl Target {
    pub(super) fn new(config: &PurgeTarget, upstream: Upstream<Full<Bytes>>) -> Self {
        Self {
            upstream,
            endpoint: Endpoint::from(address_of(config)),
            config: config.clone(),
        }
    }

    /// Has these channels forgotten.
    ///
    /// # Errors
    /// At the latest when the time is over. They may have been purged all the same.
    pub(super) fn purge(
        &self,
        channels: &[ChannelName],
        timeout: Duration,
    ) -> impl Future<Output = Result<(), PurgeError>> + use<> {
        let request = match &self.config {
            PurgeTarget::Edge { address, key } => edge::request(address, key, channels),
            PurgeTarget::Fastly(fastly) => fastly::request(fastly, channels),
        };
        let answer = self.upstream.send(&self.endpoint, Reach::Any, request);
        let address = address_of(&self.config).clone();
        async move {
            let checked = checked(answer, address.clone());
            match tokio::time::timeout(timeout, checked).await {
                Ok(result) => result,
                Err(_) => Err(PurgeError::Timeout { address, timeout }),
            }
        }
    }
}

fn address_of(target: &PurgeTarget) -> &HttpAddress {
    match target {
        PurgeTarget::Edge { address, .. } => address,
        PurgeTarget::Fastly(fastly) => &fastly.api,
    }
}

async fn checked(
    answer: impl Future<Output = Result<Response<Incoming>, SendError>>,
    address: HttpAddress,
) -> Result<(), PurgeError> {
    let response = match answer.await {
        Ok(response) => response,
        Err(error) => return Err(PurgeError::Unreachable { address, error }),
    };
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    if status.is_success() {
        return Ok(());
    }
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let shown = body.get(..MAX_SHOWN).unwrap_or(&body);
    Err(PurgeError::Refused {
        address,
        status,
        text: String::from_utf8_lossy(shown).trim().to_owned(),
        retry_after,
    })
}

/// Seconds. A date is as good as nothing: retries wait anyway.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
