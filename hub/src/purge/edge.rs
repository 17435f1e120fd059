//! The edge's signed purge endpoint, `POST /.gripline/purge`.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use grip::ChannelName;
use grip::signature::{SigningKey, purge_token};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;

use crate::config;
use crate::proxy::unix_now;

/// Bytes of an error answer that are worth logging.
const MAX_ANSWER: usize = 1024;

/// Why the edge may still have what it should have forgotten.
#[derive(Debug, thiserror::Error)]
pub(super) enum PurgeError {
    #[error("no answer from {edge} within {deadline:?}")]
    Deadline { edge: Uri, deadline: Duration },
    #[error("{edge} does not answer: {error}")]
    Unreachable {
        edge: Uri,
        error: hyper_util::client::legacy::Error,
    },
    #[error("{edge} answers {status}: {text}")]
    Refused {
        edge: Uri,
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
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    key: SigningKey,
    deadline: Duration,
}

impl Edge {
    pub(super) fn new(config: &config::Purge) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let path = PathAndQuery::from_static("/.gripline/purge");
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .build(connector),
            uri: config.edge.uri(&path),
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
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::from(body))
            .expect("all parts are valid");
        let answer = self.client.request(request);
        let (edge, deadline) = (self.uri.clone(), self.deadline);
        async move {
            match tokio::time::timeout(deadline, checked(answer, edge.clone())).await {
                Ok(result) => result.map(|()| count),
                Err(_) => Err(PurgeError::Deadline { edge, deadline }),
            }
        }
    }
}

async fn checked(
    answer: hyper_util::client::legacy::ResponseFuture,
    edge: Uri,
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
