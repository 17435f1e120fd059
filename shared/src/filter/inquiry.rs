//! The filters `http-check` and `http-modify`: what they ask an HTTP server, what its reply means.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Context, Filter, FilterError, FilterFault};

/// Bytes in the body of a reply to [`InquiryKind::Modify`].
pub const MAX_REPLY_BODY: usize = 100_000;

const SUB_META: HeaderName = HeaderName::from_static("sub-meta");
const PUB_META: HeaderName = HeaderName::from_static("pub-meta");
const ACTION: &str = "action";

/// A question that one POST request asks about an item.
///
/// The sender resolves [`Self::url`], adds `Grip-Last` for each channel with a known id, `Grip-Sig`
/// and `Grip-Feature`, waits for ten seconds, and makes of the reply what [`Self::answered`] says,
/// or of its absence what [`Self::unanswered`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// Which filter asks.
    pub kind: InquiryKind,
    /// Whom to ask: an absolute or relative URI reference, not empty, not checked.
    pub url: String,
    /// The value of `Sub-Meta`: the subscription's metadata as a JSON object.
    pub sub_meta: HeaderValue,
    /// The value of `Pub-Meta`: the item's metadata as a JSON object.
    pub pub_meta: HeaderValue,
    /// The content so far.
    pub content: Bytes,
    /// Where [`super::run`] goes on with what is delivered.
    pub next: usize,
}

/// What a reply decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InquiryKind {
    /// Whether to deliver.
    Check,
    /// Whether to deliver, and what.
    Modify,
}

impl InquiryKind {
    fn filter(self) -> Filter {
        match self {
            Self::Check => Filter::HttpCheck,
            Self::Modify => Filter::HttpModify,
        }
    }
}

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The item is not for this connection.
    Drop,
    /// The content to go on with.
    Deliver(Bytes),
}

/// Why there is no reply. The texts are those of the reference proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InquiryFailure {
    /// [`Inquiry::url`] is no URI reference.
    #[error("invalid url value")]
    Url,
    /// Nobody listens there.
    #[error("network request failed: connection refused")]
    Refused,
    /// No connection in time.
    #[error("network request failed: connection timed out")]
    ConnectTimeout,
    /// No TLS.
    #[error("network request failed: tls error")]
    Tls,
    /// The connection ended before the reply did.
    #[error("network request failed: disconnected")]
    Disconnected,
    /// No reply in time.
    #[error("network request failed: request timed out")]
    Timeout,
    /// Anything else.
    #[error("network request failed: general error")]
    Other,
    /// Too many requests wait for this destination.
    #[error("network request limit reached")]
    RateLimit,
}

impl Inquiry {
    pub(super) fn new(
        kind: InquiryKind,
        content: Bytes,
        next: usize,
        context: &Context<'_>,
    ) -> Result<Self, FilterError> {
        let url = context
            .of_subscription("url")
            .filter(|url| !url.is_empty())
            .ok_or_else(|| kind.filter().error(FilterFault::UrlMissing))?;
        Ok(Self {
            kind,
            url: url.to_owned(),
            sub_meta: header_json(context.subscription_meta),
            pub_meta: header_json(context.item_meta),
            content,
            next,
        })
    }

    /// The headers that only this request has.
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        [
            (SUB_META, self.sub_meta.clone()),
            (PUB_META, self.pub_meta.clone()),
        ]
    }

    /// The request's body.
    pub fn body(&self) -> Bytes {
        match self.kind {
            InquiryKind::Check => Bytes::new(),
            InquiryKind::Modify => self.content.clone(),
        }
    }

    /// What a reply means. Of a body longer than [`MAX_REPLY_BODY`] one byte more is enough.
    ///
    /// A header `Action: drop` drops the item.
    pub fn answered(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Reply, FilterError> {
        let replaces = match (self.kind, status) {
            (InquiryKind::Modify, StatusCode::OK) => true,
            (_, StatusCode::OK | StatusCode::NO_CONTENT) => false,
            _ => return Err(self.error(FilterFault::Status(status))),
        };
        if replaces && body.len() > MAX_REPLY_BODY {
            return Err(self.error(FilterFault::ReplyTooLarge(MAX_REPLY_BODY)));
        }
        if headers.get(ACTION).is_some_and(|action| action == "drop") {
            return Ok(Reply::Drop);
        }
        Ok(Reply::Deliver(if replaces {
            body
        } else {
            self.content.clone()
        }))
    }

    /// The error that a reply's absence is.
    pub fn unanswered(&self, failure: InquiryFailure) -> FilterError {
        self.error(FilterFault::Unanswered(failure))
    }

    fn error(&self, fault: FilterFault) -> FilterError {
        self.kind.filter().error(fault)
    }
}

/// Metadata as compact JSON with sorted keys, in which control characters are escaped and other
/// characters are not.
fn header_json(meta: &BTreeMap<String, String>) -> HeaderValue {
    let json = serde_json::to_string(meta).expect("a map of strings is JSON");
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_control() {
            // JSON leaves DEL and some others as they are.
            write!(escaped, "\\u{:04x}", u32::from(character)).expect("a string takes anything");
        } else {
            escaped.push(character);
        }
    }
    HeaderValue::try_from(escaped).expect("control characters are escaped")
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn meta(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn inquiry(kind: InquiryKind, subscription_meta: &[(&str, &str)]) -> Result<Inquiry, String> {
        let context = Context {
            subscription_meta: &meta(subscription_meta),
            item_meta: &meta(&[("sender", "ada")]),
            channels: &[],
        };
        Inquiry::new(kind, Bytes::from_static(b"content"), 3, &context)
            .map_err(|error| error.to_string())
    }

    fn asked(kind: InquiryKind) -> Inquiry {
        inquiry(kind, &[("url", "/ask")]).unwrap()
    }

    #[test]
    fn a_question_says_what_both_sides_said() {
        let inquiry = inquiry(InquiryKind::Check, &[("user", "b"), ("url", "../ask?x=1")]).unwrap();
        assert_eq!(inquiry.url, "../ask?x=1");
        assert_eq!(inquiry.next, 3);
        assert_eq!(
            inquiry.headers(),
            [
                (
                    HeaderName::from_static("sub-meta"),
                    HeaderValue::from_static(r#"{"url":"../ask?x=1","user":"b"}"#)
                ),
                (
                    HeaderName::from_static("pub-meta"),
                    HeaderValue::from_static(r#"{"sender":"ada"}"#)
                ),
            ]
        );
    }

    #[test]
    fn only_who_modifies_is_told_the_content() {
        assert_eq!(asked(InquiryKind::Check).body(), "");
        assert_eq!(asked(InquiryKind::Modify).body(), "content");
    }

    #[test]
    fn a_question_needs_an_address() {
        for subscription_meta in [&[][..], &[("url", "")], &[("Url", "/ask")]] {
            assert_eq!(
                inquiry(InquiryKind::Check, subscription_meta).unwrap_err(),
                "http-check: missing url value"
            );
        }
        assert_eq!(
            inquiry(InquiryKind::Modify, &[]).unwrap_err(),
            "http-modify: missing url value"
        );
    }

    #[track_caller]
    fn check_json(pairs: &[(&str, &str)], expected: &str) {
        assert_eq!(header_json(&meta(pairs)).as_bytes(), expected.as_bytes());
    }

    #[test]
    fn metadata_is_compact_sorted_json() {
        check_json(&[], "{}");
        check_json(&[("b", "2"), ("a", "1")], r#"{"a":"1","b":"2"}"#);
        check_json(&[("a", r#"" \ /"#)], r#"{"a":"\" \\ /"}"#);
        check_json(&[("", "")], r#"{"":""}"#);
    }

    #[test]
    fn characters_beyond_ascii_stay_as_they_are() {
        check_json(&[("größe", "日本 🎉")], r#"{"größe":"日本 🎉"}"#);
    }

    #[test]
    fn no_metadata_breaks_the_header() {
        check_json(&[("a", "x\r\nEvil: 1")], r#"{"a":"x\r\nEvil: 1"}"#);
        check_json(&[("\0\t", "\u{1f}")], r#"{"\u0000\t":"\u001f"}"#);
        check_json(&[("a", "\u{7f}\u{85}")], r#"{"a":"\u007f\u0085"}"#);
        let every: String = (0..=0x110).filter_map(char::from_u32).collect();
        let value = header_json(&meta(&[("a", &every)]));
        let read: BTreeMap<String, String> = serde_json::from_slice(value.as_bytes()).unwrap();
        assert_eq!(read["a"], every);
    }

    #[track_caller]
    fn check_reply(kind: InquiryKind, status: u16, body: &'static [u8], expected: &str) {
        let status = StatusCode::from_u16(status).unwrap();
        let reply = asked(kind).answered(status, &HeaderMap::new(), Bytes::from_static(body));
        let found = match reply {
            Ok(Reply::Deliver(content)) => String::from_utf8(content.to_vec()).unwrap(),
            Ok(Reply::Drop) => "(dropped)".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected);
    }

    static LONGER: [u8; MAX_REPLY_BODY + 1] = [b'x'; MAX_REPLY_BODY + 1];

    #[test]
    fn a_check_leaves_the_content_alone() {
        check_reply(InquiryKind::Check, 200, b"", "content");
        check_reply(InquiryKind::Check, 200, b"other", "content");
        check_reply(InquiryKind::Check, 200, &LONGER, "content");
        check_reply(InquiryKind::Check, 204, b"", "content");
    }

    #[test]
    fn a_modification_takes_the_body_of_a_200() {
        check_reply(InquiryKind::Modify, 200, b"other", "other");
        check_reply(InquiryKind::Modify, 200, b"", "");
        check_reply(InquiryKind::Modify, 204, b"", "content");
        check_reply(InquiryKind::Modify, 204, b"stray", "content");
    }

    #[test]
    fn other_statuses_are_errors() {
        for status in [100, 201, 206, 302, 304, 404, 500, 999] {
            let expected = format!("http-check: unexpected network request status: code={status}");
            check_reply(InquiryKind::Check, status, b"", &expected);
        }
        check_reply(
            InquiryKind::Modify,
            400,
            b"other",
            "http-modify: unexpected network request status: code=400",
        );
    }

    #[test]
    fn replaced_content_is_bounded() {
        let longest = &LONGER[1..];
        let expected = "x".repeat(MAX_REPLY_BODY);
        check_reply(InquiryKind::Modify, 200, longest, &expected);
        check_reply(
            InquiryKind::Modify,
            200,
            &LONGER,
            "http-modify: network response exceeded 100000 bytes",
        );
    }

    #[track_caller]
    fn check_action(status: StatusCode, action: &'static str, expected: &Reply) {
        let mut headers = HeaderMap::new();
        headers.insert("Action", HeaderValue::from_static(action));
        for kind in [InquiryKind::Check, InquiryKind::Modify] {
            let reply = asked(kind).answered(status, &headers, Bytes::from_static(b"content"));
            assert_eq!(reply.as_ref(), Ok(expected), "{kind:?} {action:?}");
        }
    }

    #[test]
    fn a_reply_may_drop_the_item() {
        let content = Reply::Deliver(Bytes::from_static(b"content"));
        check_action(StatusCode::OK, "drop", &Reply::Drop);
        check_action(StatusCode::NO_CONTENT, "drop", &Reply::Drop);
        check_action(StatusCode::OK, "send", &content);
        check_action(StatusCode::OK, "Drop", &content);
        check_action(StatusCode::OK, "", &content);
    }

    #[test]
    fn an_absent_reply_has_its_reason() {
        for (failure, expected) in [
            (InquiryFailure::Url, "http-check: invalid url value"),
            (
                InquiryFailure::Timeout,
                "http-check: network request failed: request timed out",
            ),
            (
                InquiryFailure::RateLimit,
                "http-check: network request limit reached",
            ),
        ] {
            let error = asked(InquiryKind::Check).unanswered(failure);
            assert_eq!(error.to_string(), expected);
        }
    }
}
