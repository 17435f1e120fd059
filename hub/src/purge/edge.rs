//! The edge's signed purge endpoint, `POST /.gripline/purge`.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use grip::ChannelName;
use grip::signature::{SigningKey, purge_token};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use crate::config::{self, HttpAddress};
use crate::proxy::unix_now;
use crate::upstream::{Endpoint, Reach, SendError, Upstream};

/// Where the edge takes purges.
const PATH: &str = "/.gripline/purge";

/// Bytes of an error answer that are worth logging.
const MAX_ANSWER: usize = 1024;

/// Why the edge may still have what it should have forgotten.
#[derive(Debug, thiserror::Error)]
pub(super) enum PurgeError {
    #[error("no answer from {edge} within {deadline:?}")]
    Deadline {
        edge: HttpAddress,
        deadline: Duration,
    },
    #[error("{edge} does not answer: {error}")]
    Unreachable { edge: HttpAddress, error: SendError },
    #[error("{edge} answers {status}: {text}")]
    Refused {
        edge: HttpAddress,
        status: StatusCode,
        text: String,
    },
}

/// The body of a purge request.
#[derive(Debug, Serialize)]
struct PurgeBody<'a> {
    channels: Vec<&'a str>,
}

/// The way to the edge.
#[derive(Debug)]
pub(super) struct Edge {
    upstream: Upstream<Full<Bytes>>,
    endpoint: Endpoint,
    address: HttpAddress,
    key: SigningKey,
    deadline: Duration,
}

impl Edge {
    pub(super) fn new(config: &config::Purge, upstream: Upstream<Full<Bytes>>) -> Self {
        Self {
            upstream,
            endpoint: Endpoint::from(&config.edge),
            address: config.edge.clone(),
            key: config.key.clone(),
            deadline: config.deadline,
        }
    }

    /// Makes the edge forget these channels and says how many there were.
    ///
    /// # Errors
    /// At the latest when the deadline is over. The edge may have purged all the same.
    pub(super) fn purge(
        &self,
        channels: &[ChannelName],
    ) -> impl Future<Output = Result<u64, PurgeError>> + use<> {
        let count = channels.len() as u64;
        let body = PurgeBody {
            channels: channels.iter().map(ChannelName::as_str).collect(),
        };
        let body = serde_json::to_vec(&body).expect("names are strings");
        let token = purge_token(&self.key, &body, unix_now());
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(HOST, self.address.authority().as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::from(body))
            .expect("all parts are valid");
        let answer = self.upstream.send(&self.endpoint, Reach::Any, request);
        let (edge, deadline) = (self.address.clone(), self.deadline);
        async move {
            match tokio::time::timeout(deadline, checked(answer, edge.clone())).await {
                Ok(result) => result.map(|()| count),
                Err(_) => Err(PurgeError::Deadline { edge, deadline }),
            }
        }
    }
}

async fn checked(
    answer: impl Future<Output = Result<Response<Incoming>, SendError>>,
    edge: HttpAddress,
) -> Result<(), PurgeError> {
    let response = match answer.await {
        Ok(response) => response,
        Err(error) => return Err(PurgeError::Unreachable { edge, error }),
    };
    let status = response.status();
    let text = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    if status.is_success() {
        return Ok(());
    }
    let text = text
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    Err(PurgeError::Refused {
        edge,
        status,
        text: String::from_utf8_lossy(&text).trim().to_owned(),
    })
}
