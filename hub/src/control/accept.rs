//! Which form a publisher wants its reply in.

use http::header::{ACCEPT, HeaderMap};

/// The form of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyType {
    /// `text/plain`.
    Text,
    /// `application/json`.
    Json,
}

impl ReplyType {
    /// What `Accept` asks for: the last type that is known, whatever its weight, because that is
    /// what publishers of the reference proxy are used to. `None` if none is known.
    pub(super) fn negotiate(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(ACCEPT);
        if lines.iter().next().is_none() {
            return Some(Self::Text);
        }
        lines
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(Self::of_range)
            .next_back()
    }

    fn of_range(range: &[u8]) -> Option<Self> {
        let media_type = range.split(|byte| *byte == b';').next()?;
        match media_type.trim_ascii() {
            b"text/plain" | b"text/*" | b"*/*" | b"*" => Some(Self::Text),
            b"application/json" | b"application/*" => Some(Self::Json),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[track_caller]
    fn check(accept: &[&'static str], expected: Option<ReplyType>) {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, HeaderValue::from_static(line));
        }
        assert_eq!(ReplyType::negotiate(&headers), expected, "{accept:?}");
    }

    #[test]
    fn the_last_known_type_wins() {
        check(&[], Some(ReplyType::Text));
        check(&["*/*"], Some(ReplyType::Text));
        check(&["application/json"], Some(ReplyType::Json));
        check(&["text/plain, application/json"], Some(ReplyType::Json));
        check(
            &["application/json;q=1, text/*;q=0.1"],
            Some(ReplyType::Text),
        );
        check(&["application/json", "text/html"], Some(ReplyType::Json));
        check(&["text/html"], None);
        check(&[""], None);
    }
}
