//! How channels are, as JSON for operators: `GET /channels` and `GET /channels/NAME`.

use std::borrow::Cow;

use grip::ChannelName;
use grip::channel::ItemId;
use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;

use super::Control;
use crate::broker::{Busy, ChannelView, HistoryView, Inspection};
use crate::mailbox::Subscribers;

/// Channels of a page if the request does not say how many.
const DEFAULT_LIMIT: usize = 100;
/// Channels of a page, at most. Bounds what the broker and the shards do at once for a request, and
/// the answer.
const MAX_LIMIT: usize = 1000;

/// What is written as `%XX` in a query's value: all but unreserved characters; RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why nothing is told of channels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InspectError {
    /// What should be a name is none.
    #[error("Invalid channel name: not percent-encoded UTF-8.")]
    Name,
    /// A page cannot have so many channels.
    #[error("Invalid limit: not a number from 1 to {MAX_LIMIT}.")]
    Limit,
    /// A channel with this name is not known.
    #[error("No such channel: nobody subscribes to it, and nothing of it is remembered.")]
    Unknown,
    /// There is too much to do.
    #[error("Too busy to look at channels.")]
    Busy,
}

impl InspectError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Name | Self::Limit => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<Busy> for InspectError {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl Control {
    /// The channel of this percent-encoded name, as JSON.
    pub(super) async fn inspect_channel(&self, name: &str) -> Result<String, InspectError> {
        let name = ChannelName::new(&decoded(name).ok_or(InspectError::Name)?);
        let inspected = self.inspect(Inspection::Channel(name)).await?;
        let channel = inspected.first().ok_or(InspectError::Unknown)?;
        Ok(line(&Channel::from(channel)))
    }

    /// The page of channels that the query of a request to `path` asks for, as JSON.
    pub(super) async fn inspect_page(
        &self,
        path: &str,
        query: &str,
    ) -> Result<String, InspectError> {
        let PageQuery { limit, after } = PageQuery::parse(query)?;
        // One more shows whether there is a next page.
        let inspection = Inspection::Page {
            after,
            limit: limit + 1,
        };
        Ok(page(&self.inspect(inspection).await?, path, limit))
    }

    async fn inspect(&self, inspection: Inspection) -> Result<Inspected, Busy> {
        self.publisher.broker().inspect(inspection).await
    }
}

/// Channels and who hears them.
type Inspected = Vec<(ChannelView, Subscribers)>;

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
struct PageQuery {
    limit: usize,
    /// The name that the page follows.
    after: Option<String>,
}

impl PageQuery {
    /// Reads `limit=N&after=NAME`. Both may be missing; other parameters mean nothing, and the last
    /// of several counts.
    fn parse(query: &str) -> Result<Self, InspectError> {
        let mut page = Self {
            limit: DEFAULT_LIMIT,
            after: None,
        };
        for parameter in query.split('&') {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("limit", limit) => {
                    let limit = limit.parse().ok();
                    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    page.limit = limit.ok_or(InspectError::Limit)?;
                }
                ("after", name) => {
                    // That is how forms write spaces.
                    let name = name.replace('+', " ");
                    page.after = Some(decoded(&name).ok_or(InspectError::Name)?.into_owned());
                }
                _ => {}
            }
        }
        Ok(page)
    }
}

/// Percent-encoded text; `None` if it is not properly encoded, or not UTF-8.
fn decoded(encoded: &str) -> Option<Cow<'_, str>> {
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let is_sound = encoded.split('%').skip(1).all(is_escape);
    is_sound
        .then(|| percent_decode_str(encoded).decode_utf8().ok())
        .flatten()
}

/// A page of `limit` channels. One more than that is not shown, but says that there is a next page,
/// which is found at the same path.
fn page(inspected: &[(ChannelView, Subscribers)], path: &str, limit: usize) -> String {
    let (shown, rest) = inspected.split_at(limit.min(inspected.len()));
    let last = shown.last().filter(|_| !rest.is_empty());
    let next = last.map(|(view, _)| {
        let after = utf8_percent_encode(view.name.as_str(), RESERVED);
        format!("{path}?limit={limit}&after={after}")
    });
    line(&Page {
        channels: shown.iter().map(Channel::from).collect(),
        next,
    })
}

#[derive(Serialize)]
struct Page<'a> {
    channels: Vec<Channel<'a>>,
    /// Where the next page is; `null` after the last one.
    next: Option<String>,
}

#[derive(Serialize)]
struct Channel<'a> {
    name: &'a str,
    last_id: Option<&'a str>,
    history: History<'a>,
    subscribers: SubscriberCounts,
}

#[derive(Default, Serialize)]
struct History<'a> {
    items: usize,
    bytes: usize,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    oldest_seconds: Option<u64>,
}

#[derive(Serialize)]
struct SubscriberCounts {
    streams: usize,
    responses: usize,
    websockets: usize,
}

impl<'a> From<&'a (ChannelView, Subscribers)> for Channel<'a> {
    fn from((view, subscribers): &'a (ChannelView, Subscribers)) -> Self {
        Self {
            name: view.name.as_str(),
            last_id: view.last_id.as_ref().map(ItemId::as_str),
            history: view.history.as_ref().map(History::from).unwrap_or_default(),
            subscribers: SubscriberCounts {
                streams: subscribers.streams,
                responses: subscribers.responses,
                websockets: subscribers.websockets,
            },
        }
    }
}

impl<'a> From<&'a HistoryView> for History<'a> {
    fn from(view: &'a HistoryView) -> Self {
        Self {
            items: view.items,
            bytes: view.bytes,
            first_id: view.first_id.as_ref().map(ItemId::as_str),
            last_id: view.last_id.as_ref().map(ItemId::as_str),
            oldest_seconds: Some(view.age.as_secs()),
        }
    }
}

/// A line of JSON.
fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("keys are text, and nothing here can fail");
    text + "\n"
}
