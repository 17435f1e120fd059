//! Which item may stand for the one before it.

use grip::publish::{HttpResponse, HttpStream, Item, ResponseBody, WsMessage, WsMessageKind};

/// Ids that one item remembers; clients with older ones ask the origin.
const MAX_STANDS_FOR: usize = 1000;

/// Puts `newer` in the place of `older` and returns `None` if nobody can tell the difference but for
/// not having seen `older`; else gives it back.
///
/// The newer one then follows what the older one followed, so that the chain of ids stays whole, and
/// remembers the older one's id: a client whose content came from the origin meanwhile has that.
/// Items with an action, a patch, a ping or a pong replace nothing and are not replaced: they do
/// something, rather than say what is. Neither do items that others would receive: other formats,
/// metadata or content filters. And neither does one that names another predecessor, because a
/// gap must show.
pub(super) fn replace(older: &mut Item, newer: Item) -> Option<Item> {
    let may = newer.sequencing == older.sequencing
        && newer.meta == older.meta
        && follows(older, &newer)
        && [older as &Item, &newer].into_iter().all(says_what_is)
        && audience(older) == audience(&newer);
    if !may {
        return Some(newer);
    }
    let prev_id = older.prev_id.take();
    let mut stands_for = std::mem::take(&mut older.stands_for);
    stands_for.extend(older.id.take());
    if stands_for.len() > MAX_STANDS_FOR {
        stands_for.remove(0);
    }
    *older = newer;
    older.prev_id = prev_id;
    older.stands_for = stands_for;
    None
}

fn follows(older: &Item, newer: &Item) -> bool {
    newer.prev_id.is_none() || newer.prev_id == older.id
}

fn says_what_is(item: &Item) -> bool {
    let response = match &item.http_response {
        None => true,
        Some(HttpResponse::Send(message)) => matches!(message.body, ResponseBody::Complete(_)),
        Some(_) => false,
    };
    let stream = matches!(&item.http_stream, None | Some(HttpStream::Send { .. }));
    let message = match &item.ws_message {
        None => true,
        Some(WsMessage::Send { kind, .. }) => {
            matches!(kind, WsMessageKind::Text | WsMessageKind::Binary)
        }
        Some(_) => false,
    };
    response && stream && message
}

/// For each format whether it is there, and the filters that its content was written for.
fn audience(item: &Item) -> [(bool, Option<&[String]>); 3] {
    let response = match &item.http_response {
        Some(HttpResponse::Send(message)) => (true, message.content_filters.as_deref()),
        other => (other.is_some(), None),
    };
    let stream = match &item.http_stream {
        Some(HttpStream::Send {
            content_filters, ..
        }) => (true, content_filters.as_deref()),
        other => (other.is_some(), None),
    };
    let message = match &item.ws_message {
        Some(WsMessage::Send {
            content_filters, ..
        }) => (true, content_filters.as_deref()),
        other => (other.is_some(), None),
    };
    [response, stream, message]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(members: &str) -> Item {
        let body = format!(r#"{{"items":[{{"channel":"a",{members}}}]}}"#);
        grip::publish::parse(body.as_bytes(), &grip::Limits::default())
            .expect(members)
            .remove(0)
    }

    /// The ids of what is left of two items.
    #[track_caller]
    fn check(older: &str, newer: &str, expected: Option<(Option<&str>, Option<&str>)>) {
        let (mut survivor, newer) = (item(older), item(newer));
        let content = newer.clone();
        match replace(&mut survivor, newer) {
            None => {
                let text = |id: &Option<grip::channel::ItemId>| {
                    id.as_ref().map(|id| id.as_str().to_owned())
                };
                let ids = (text(&survivor.prev_id), text(&survivor.id));
                let expected = expected.expect("both are kept");
                let owned = |id: Option<&str>| id.map(str::to_owned);
                assert_eq!(ids, (owned(expected.0), owned(expected.1)));
                let older = item(older).id;
                assert_eq!(survivor.stands_for, older.into_iter().collect::<Vec<_>>());
                survivor.stands_for.clear();
                survivor.prev_id.clone_from(&content.prev_id);
                assert_eq!(survivor, content);
            }
            Some(back) => {
                assert_eq!(expected, None);
                assert_eq!(back, content);
                assert_eq!(survivor, item(older));
            }
        }
    }

    const ONE: &str = r#""http-stream":{"content":"one"}"#;
    const TWO: &str = r#""http-stream":{"content":"two"}"#;

    #[track_caller]
    fn check_with(older: &str, newer: &str, expected: Option<(Option<&str>, Option<&str>)>) {
        check(
            &format!("{older},{ONE}"),
            &format!("{newer},{TWO}"),
            expected,
        );
    }

    #[test]
    fn the_survivor_follows_what_the_oldest_followed() {
        check(ONE, TWO, Some((None, None)));
        check_with(
            r#""id":"2","prev-id":"1""#,
            r#""id":"3","prev-id":"2""#,
            Some((Some("1"), Some("3"))),
        );
        check_with(
            r#""id":"2","prev-id":"1""#,
            r#""id":"3""#,
            Some((Some("1"), Some("3"))),
        );
        check_with(
            r#""id":"2""#,
            r#""id":"3","prev-id":"2""#,
            Some((None, Some("3"))),
        );
    }

    #[test]
    fn only_so_many_ids_are_remembered() {
        let mut survivor = item(&format!(r#""id":"0",{ONE}"#));
        for number in 1..=MAX_STANDS_FOR + 2 {
            let newer = item(&format!(r#""id":"{number}",{ONE}"#));
            assert_eq!(replace(&mut survivor, newer), None);
        }
        assert_eq!(survivor.stands_for.len(), MAX_STANDS_FOR);
        assert_eq!(survivor.stands_for[0].as_str(), "2");
    }

    #[test]
    fn a_gap_is_not_covered_up() {
        check_with(
            r#""id":"2","prev-id":"1""#,
            r#""id":"4","prev-id":"3""#,
            None,
        );
    }

    #[test]
    fn items_for_others_are_kept() {
        check_with(r#""meta":{"a":"1"}"#, r#""meta":{"a":"2"}"#, None);
        check_with(
            r#""meta":{"a":"1"}"#,
            r#""meta":{"a":"1"}"#,
            Some((None, None)),
        );
        check_with(r#""no-seq":true"#, r#""size":3"#, None);
        let message = r#""ws-message":{"content":"two"}"#;
        check(ONE, message, None);
        check(&format!("{ONE},{message}"), TWO, None);
        check(message, message, Some((None, None)));
        let filtered = r#""http-stream":{"content":"two","content-filters":["f"]}"#;
        check(ONE, filtered, None);
        check(filtered, filtered, Some((None, None)));
    }

    #[test]
    fn what_does_something_keeps_its_place() {
        for action in [
            r#""http-stream":{"action":"close"}"#,
            r#""http-stream":{"action":"hint"}"#,
            r#""http-response":{"action":"hint"}"#,
            r#""ws-message":{"action":"close"}"#,
            r#""ws-message":{"action":"refresh"}"#,
            r#""ws-message":{"type":"ping","content":""}"#,
            r#""http-response":{"body-patch":[{"op":"remove","path":"/a"}]}"#,
        ] {
            check(action, action, None);
        }
    }
}
