//! Questions about items, and words about clients that are gone.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use grip::filter::{FilterError, Inquiry, InquiryFailure, MAX_REPLY_BODY, Reply};
use http::header::HeaderMap;
use http::{Method, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::Errands;
use super::send::Question;
use crate::errand::{Behalf, Last};
use crate::proxy::resolve;
use crate::upstream::SendError;

/// How long a server may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The time between two questions to one URL.
const INTERVAL: Duration = Duration::from_millis(10);
/// URLs whose pace is remembered before old ones are forgotten.
const MANY_PACES: usize = 1000;

/// When each URL may be asked next.
#[derive(Debug, Default)]
pub(super) struct Paces(FxHashMap<Uri, Instant>);

impl Paces {
    /// The time at which a question may be sent; `None` if too many wait already.
    fn reserve(&mut self, uri: &Uri, now: Instant) -> Option<Instant> {
        if self.0.len() >= MANY_PACES {
            self.0.retain(|_, next| *next > now);
        }
        let next = self.0.entry(uri.clone()).or_insert(now);
        let at = (*next).max(now);
        if at > now + DEADLINE {
            return None;
        }
        *next = at + INTERVAL;
        Some(at)
    }
}

impl Errands {
    /// Asks a server about an item; GRIP filters `http-check` and `http-modify`.
    pub(super) async fn ask(
        &self,
        behalf: &Behalf,
        inquiry: &Inquiry,
        last: &[Last],
    ) -> Result<Reply, FilterError> {
        let asked = tokio::time::timeout(DEADLINE * 2, self.try_ask(behalf, inquiry, last)).await;
        match asked {
            Ok(result) => result,
            Err(_) => Err(inquiry.unanswered(InquiryFailure::Timeout)),
        }
    }

    async fn try_ask(
        &self,
        behalf: &Behalf,
        inquiry: &Inquiry,
        last: &[Last],
    ) -> Result<Reply, FilterError> {
        let fail = |failure| inquiry.unanswered(failure);
        let uri = resolve(&behalf.uri, &inquiry.url).map_err(|_| fail(InquiryFailure::Url))?;
        let at = self.paces.borrow_mut().reserve(&uri, Instant::now());
        let at = at.ok_or_else(|| fail(InquiryFailure::RateLimit))?;
        tokio::time::sleep_until(at).await;
        let mut headers = HeaderMap::new();
        headers.extend(inquiry.headers());
        let question = Question {
            method: Method::POST,
            uri: &uri,
            headers,
            last,
            body: inquiry.body(),
        };
        let exchange = async {
            let response = self
                .send(behalf, question)
                .await
                .map_err(|error| failure(&error))?;
            let (parts, body) = response.into_parts();
            let body = limited(body).await?;
            Ok((parts, body))
        };
        let (parts, body) = tokio::time::timeout(DEADLINE, exchange)
            .await
            .map_err(|_| fail(InquiryFailure::Timeout))?
            .map_err(fail)?;
        inquiry.answered(parts.status, &parts.headers, body)
    }

    /// Says that the client is gone; GRIP `Grip-Link` with `rel=gone`.
    pub(super) async fn say_gone(&self, behalf: &Behalf, uri: &Uri) {
        let question = Question {
            method: Method::POST,
            uri,
            headers: HeaderMap::new(),
            last: &[],
            body: Bytes::new(),
        };
        match tokio::time::timeout(DEADLINE, self.send(behalf, question)).await {
            Ok(Ok(response)) if response.status().is_success() => {}
            Ok(Ok(response)) => {
                tracing::warn!(%uri, status = %response.status(), "a gone link was refused");
            }
            Ok(Err(error)) => tracing::warn!(%uri, %error, "a gone link has no answer"),
            Err(_) => tracing::warn!(%uri, "a gone link has no answer in time"),
        }
    }
}

/// A body up to one byte more than a reply may have.
async fn limited(mut body: Incoming) -> Result<Bytes, InquiryFailure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| InquiryFailure::Disconnected)?;
        if let Some(data) = frame.data_ref() {
            let room = MAX_REPLY_BODY + 1 - whole.len();
            whole.extend_from_slice(&data[..data.len().min(room)]);
            if whole.len() > MAX_REPLY_BODY {
                break;
            }
        }
    }
    Ok(whole.freeze())
}

fn failure(error: &SendError) -> InquiryFailure {
    tracing::debug!(%error, "a question about an item has no answer");
    match error {
        SendError::Connect(_) => InquiryFailure::Refused,
        SendError::Closed => InquiryFailure::Disconnected,
        SendError::Blocked | SendError::Other(_) => InquiryFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_is_asked_a_hundred_times_a_second_at_most() {
        let mut paces = Paces::default();
        let (uri, other) = (Uri::from_static("http://a/"), Uri::from_static("http://b/"));
        let now = Instant::now();
        for count in 0..=1000 {
            assert_eq!(paces.reserve(&uri, now), Some(now + INTERVAL * count));
        }
        assert_eq!(paces.reserve(&uri, now), None);
        assert_eq!(paces.reserve(&other, now), Some(now));
        let later = now + Duration::from_mins(1);
        assert_eq!(paces.reserve(&uri, later), Some(later));
    }
}
