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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use http::uri::PathAndQuery;
    use serde_json::Value;

    use crate::control::Refusal;

    #[track_caller]
    fn check_query(query: &str, expected: Result<(usize, Option<&str>), InspectError>) {
        let expected = expected.map(|(limit, after)| PageQuery {
            limit,
            after: after.map(str::to_owned),
        });
        assert_eq!(PageQuery::parse(query), expected, "{query}");
    }

    #[test]
    fn a_page_has_a_hundred_channels_unless_the_query_says_otherwise() {
        check_query("", Ok((100, None)));
        check_query("x=1&&limits=2", Ok((100, None)));
        check_query("limit=1", Ok((1, None)));
        check_query("limit=1000", Ok((1000, None)));
        check_query("limit=5&limit=6", Ok((6, None)));
        for limit in ["", "0", "1001", "-1", "a", "1.5", "99999999999999999999"] {
            check_query(&format!("limit={limit}"), Err(InspectError::Limit));
        }
        check_query("limit", Err(InspectError::Limit));
    }

    #[test]
    fn a_page_begins_behind_a_name() {
        check_query("after=a", Ok((100, Some("a"))));
        check_query("after=", Ok((100, Some(""))));
        check_query("after=a%26b%3dc&limit=2", Ok((2, Some("a&b=c"))));
        check_query("after=a=b/c?d", Ok((100, Some("a=b/c?d"))));
        check_query("after=a+b%2Bc%20d", Ok((100, Some("a b+c d"))));
        check_query("after=%C3%BC%E2%82%AC", Ok((100, Some("ü€"))));
        for after in ["%", "%2", "%2x", "a%%41", "%FF", "%C3", "%c3%28"] {
            check_query(&format!("after={after}"), Err(InspectError::Name));
        }
    }

    #[test]
    fn a_name_in_a_path_is_percent_encoded() {
        for (encoded, expected) in [
            ("a", Some("a")),
            ("a+b/c", Some("a+b/c")),
            ("a%2Fb%20%25", Some("a/b %")),
            ("ü%C3%BC", Some("üü")),
            ("%F0%9F%98%80", Some("😀")),
            ("100%", None),
            ("%+1", None),
            ("%FF", None),
            ("%C3ü", None),
        ] {
            assert_eq!(decoded(encoded).as_deref(), expected, "{encoded}");
        }
    }

    fn view(name: &str) -> ChannelView {
        ChannelView {
            name: ChannelName::new(name),
            last_id: None,
            history: None,
        }
    }

    fn inspected(names: &[&str]) -> Inspected {
        let channels = names.iter().map(|name| view(name));
        channels
            .map(|view| (view, Subscribers::default()))
            .collect()
    }

    /// Writes a page, and fails unless it has so many channels and this next page.
    #[track_caller]
    fn check_page(names: &[&str], limit: usize, expected: (usize, Option<&str>)) {
        let text = page(&inspected(names), "/b/channels", limit);
        let page: Value = serde_json::from_str(&text).unwrap();
        let count = page["channels"].as_array().unwrap().len();
        assert_eq!((count, page["next"].as_str()), expected, "{text}");
    }

    #[test]
    fn the_next_page_is_named_if_there_is_one() {
        check_page(&[], 1, (0, None));
        check_page(&["a"], 2, (1, None));
        check_page(&["a", "b"], 2, (2, None));
        let next = Some("/b/channels?limit=2&after=b");
        check_page(&["a", "b", "c"], 2, (2, next));
    }

    #[test]
    fn the_next_page_can_be_asked_for_whatever_the_name() {
        for name in ["a b", "a+b", "a&after=b", "ü/€?#%41", "\"\\\n\u{0}", "-._~"] {
            let text = page(&inspected(&[name, "z"]), "/channels", 1);
            let page: Value = serde_json::from_str(&text).unwrap();
            let next: PathAndQuery = page["next"].as_str().unwrap().parse().unwrap();
            assert_eq!(next.path(), "/channels");
            check_query(next.query().unwrap(), Ok((1, Some(name))));
        }
    }

    #[test]
    fn all_that_is_known_of_a_channel_is_told() {
        let mut view = view("ü\"");
        view.last_id = Some(ItemId::new("3"));
        view.history = Some(HistoryView {
            items: 2,
            bytes: 600,
            first_id: Some(ItemId::new("1")),
            last_id: Some(ItemId::new("2")),
            age: Duration::from_millis(4_900),
        });
        let subscribers = Subscribers {
            streams: 5,
            responses: 6,
            websockets: 7,
        };
        let expected = concat!(
            r#"{"name":"ü\"","last_id":"3","history":{"items":2,"bytes":600,"first_id":"1","#,
            r#""last_id":"2","oldest_seconds":4},"#,
            r#""subscribers":{"streams":5,"responses":6,"websockets":7}}"#,
            "\n"
        );
        assert_eq!(line(&Channel::from(&(view, subscribers))), expected);
    }

    #[test]
    fn what_is_not_known_of_a_channel_is_null() {
        let expected = concat!(
            r#"{"name":"a","last_id":null,"history":{"items":0,"bytes":0,"first_id":null,"#,
            r#""last_id":null,"oldest_seconds":null},"#,
            r#""subscribers":{"streams":0,"responses":0,"websockets":0}}"#,
            "\n"
        );
        let inspected = inspected(&["a"]);
        assert_eq!(line(&Channel::from(&inspected[0])), expected);
    }

    #[test]
    fn whoever_asks_a_busy_hub_is_told_when_to_ask_again() {
        let response = Refusal::from(InspectError::from(Busy)).response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.body(), "Too busy to look at channels.\n");
    }
}
