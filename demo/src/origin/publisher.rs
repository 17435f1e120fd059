//! Tells the hub what changed, as any GRIP publisher does: a POST to its control address.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::time::timeout;

use crate::counter::Count;

/// More than the hub waits for its purge, so that its answer is heard.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes read of the hub's answer; it is one line.
const MAX_ANSWER_BYTES: usize = 4096;

/// Publishes counts. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

/// Why a count was not published.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    /// The hub was not reached, or its answer not understood.
    #[error("the hub does not answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// No answer in time.
    #[error("the hub did not answer within {PATIENCE:?}")]
    Late,
    /// The hub did not accept it.
    #[error("the hub answered {status}: {text}")]
    Refused {
        /// The hub's status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
}

impl PublishError {
    fn unreachable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreachable(error.into())
    }
}

#[derive(Serialize)]
struct Body<'a> {
    items: [Item<'a>; 1],
}

#[derive(Serialize)]
struct Item<'a> {
    channel: &'a str,
    /// Whoever asks after the update must not get the old value from the edge's cache.
    purge: bool,
    formats: Formats<'a>,
}

#[derive(Serialize)]
struct Formats<'a> {
    #[serde(rename = "http-stream")]
    http_stream: Content<'a>,
}

#[derive(Serialize)]
struct Content<'a> {
    content: &'a str,
}

impl Publisher {
    /// A publisher to the hub with this control address.
    pub(super) fn new(control: &Uri) -> Self {
        let control = control.to_string();
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("{}/publish/", control.trim_end_matches('/')),
        }
    }

    /// Purges the counter's channel at the edge, then sends its value to all who follow it.
    ///
    /// Cancel safety: a dropped future may or may not have published.
    pub(super) async fn publish(&self, count: &Count) -> Result<(), PublishError> {
        timeout(PATIENCE, self.post(body(count)))
            .await
            .unwrap_or(Err(PublishError::Late))
    }

    async fn post(&self, body: String) -> Result<(), PublishError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(PublishError::unreachable)?;
        let response = self.client.request(request).await;
        let (head, body) = response.map_err(PublishError::unreachable)?.into_parts();
        // Read to the end also when all is well, so that the connection can be used again.
        let answer = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let answer = answer.map_err(PublishError::Unreachable)?.to_bytes();
        if head.status.is_success() {
            return Ok(());
        }
        Err(PublishError::Refused {
            status: head.status,
            text: String::from_utf8_lossy(&answer).trim().to_owned(),
        })
    }
}

fn body(count: &Count) -> String {
    let body = Body {
        items: [Item {
            channel: &count.name.channel(),
            purge: true,
            formats: Formats {
                http_stream: Content {
                    content: &count.to_event(),
                },
            },
        }],
    };
    serde_json::to_string(&body).expect("strings and a boolean are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::CounterName;

    #[test]
    fn an_update_is_one_item_that_purges_and_streams() {
        let name = CounterName::parse("clicks").unwrap();
        let found: serde_json::Value =
            serde_json::from_str(&body(&Count { name, value: 7 })).unwrap();
        let expected = serde_json::json!({"items": [{
            "channel": "counter-clicks",
            "purge": true,
            "formats": {"http-stream": {
                "content": "id: 7\ndata: {\"name\":\"clicks\",\"value\":7}\n\n"
            }},
        }]});
        assert_eq!(found, expected);
    }

    #[test]
    fn the_publish_path_is_joined_with_one_slash() {
        for control in ["http://127.0.0.1:5561", "http://127.0.0.1:5561/"] {
            let publisher = Publisher::new(&control.parse().unwrap());
            assert_eq!(publisher.url, "http://127.0.0.1:5561/publish/");
        }
    }
}
