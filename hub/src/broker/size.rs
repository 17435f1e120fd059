//! How large an item is.

use grip::publish::{HttpResponse, HttpStream, Item, ResponseBody, WsMessage};

/// Bytes that an item keeps alive, more or less.
pub(crate) fn of(item: &Item) -> usize {
    /// An item without content, its name and its place.
    const EMPTY: usize = 768;
    let response = match &item.http_response {
        Some(HttpResponse::Send(message)) => match &message.body {
            ResponseBody::Complete(body) => body.len(),
            ResponseBody::Patch(patch) => 256 * patch.0.len(),
        },
        _ => 0,
    };
    let stream = match &item.http_stream {
        Some(HttpStream::Send { content, .. }) => content.chunk().len(),
        _ => 0,
    };
    let message = match &item.ws_message {
        Some(WsMessage::Send { content, .. }) => content.len(),
        _ => 0,
    };
    let meta: usize = item.meta.iter().map(|(k, v)| k.len() + v.len()).sum();
    let ids = 64 * item.stands_for.len();
    EMPTY + ids + item.channel.as_str().len() + response + stream + message + meta
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

    #[track_caller]
    fn check(members: &str, more: usize) {
        let least = of(&item(r#""http-stream":{"content":""}"#));
        assert_eq!(of(&item(members)), least + more, "{members}");
    }

    #[test]
    fn every_content_counts() {
        // It is kept as a chunk.
        check(r#""http-stream":{"content":"four"}"#, "4\r\nfour\r\n".len());
        check(r#""http-response":{"body":"four"}"#, 4);
        check(r#""ws-message":{"content":"four"}"#, 4);
        check(
            r#""ws-message":{"content":"12"},"http-response":{"body":"34"},"meta":{"k":"v"}"#,
            6,
        );
        let patch = r#"[{"op":"remove","path":"/a"},{"op":"remove","path":"/b"}]"#;
        check(&format!(r#""http-response":{{"body-patch":{patch}}}"#), 512);
    }

    #[test]
    fn an_item_without_content_has_a_size_too() {
        assert!(of(&item(r#""http-stream":{"action":"close"}"#)) > 0);
    }

    #[test]
    fn ids_that_an_item_stands_for_count() {
        let mut large = item(r#""http-stream":{"content":""}"#);
        let small = of(&large);
        large.stands_for = item(r#""id":"1","http-stream":{"content":""}"#)
            .id
            .into_iter()
            .collect();
        assert_eq!(of(&large), small + 64);
    }
}
