//! Server-sent events: ids by which a client says what it has; WHATWG HTML §9.2.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::channel::ItemId;

/// The media type of a stream of events.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// The content of an item with the item's id as that of its last event, so that a client that
/// reconnects says it in `Last-Event-ID`; `None` where it has to stay as it is.
///
/// It stays if it has an id already, if nothing in it is an event, and if the id can't be written:
/// one that is empty or has a line end, or a null character. The id stands at the last event
/// because a client that got only a part of the content has then not got the item.
pub fn with_id(content: &[u8], id: &ItemId) -> Option<Bytes> {
    let id = id.as_str();
    if id.is_empty() || id.contains(['\r', '\n', '\0']) {
        return None;
    }
    let mut last_event = None;
    let mut begins_event = true;
    let mut rest = content;
    while !rest.is_empty() {
        let at = content.len() - rest.len();
        let (line, behind) = split_line(rest);
        rest = behind;
        if line.is_empty() {
            begins_event = true;
            continue;
        }
        if is_field(line, b"id") {
            return None;
        }
        if begins_event && !line.starts_with(b":") {
            begins_event = false;
            last_event = Some(at);
        }
    }
    let (before, event) = content.split_at_checked(last_event?)?;
    let mut bytes = BytesMut::with_capacity(content.len() + id.len() + "id: \n".len());
    bytes.put_slice(before);
    bytes.put_slice(b"id: ");
    bytes.put_slice(id.as_bytes());
    bytes.put_u8(b'\n');
    bytes.put_slice(event);
    Some(bytes.freeze())
}

/// The first line without its end, and what stands behind it. Lines end with LF, CR, or both.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return (bytes, &[]);
    };
    let (line, end) = bytes.split_at(at);
    let behind = end
        .strip_prefix(b"\r\n")
        .or_else(|| end.get(1..))
        .unwrap_or_default();
    (line, behind)
}

fn is_field(line: &[u8], name: &[u8]) -> bool {
    line.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check(content: &str, expected: Option<&str>) {
        let found = with_id(content.as_bytes(), &ItemId::new("7"));
        let expected = expected.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        assert_eq!(found, expected, "{content:?}");
    }

    #[test]
    fn an_event_gets_the_id_of_its_item() {
        check("data: x\n\n", Some("id: 7\ndata: x\n\n"));
        check(
            "event: e\r\ndata: x\r\n\r\n",
            Some("id: 7\nevent: e\r\ndata: x\r\n\r\n"),
        );
        check("data: x\r\r", Some("id: 7\ndata: x\r\r"));
        check("data", Some("id: 7\ndata"));
        check("\ndata: x\n\n", Some("\nid: 7\ndata: x\n\n"));
        check("ident: x\n\n", Some("id: 7\nident: x\n\n"));
    }

    #[test]
    fn the_last_event_has_the_id() {
        check(
            "data: x\n\ndata: y\n\n",
            Some("data: x\n\nid: 7\ndata: y\n\n"),
        );
        check(
            "data: x\n\n: comment\n\n",
            Some("id: 7\ndata: x\n\n: comment\n\n"),
        );
        check(
            ": comment\ndata: x\n\n",
            Some(": comment\nid: 7\ndata: x\n\n"),
        );
    }

    #[test]
    fn what_has_an_id_or_is_no_event_stays() {
        for content in [
            "",
            "\n\n",
            ": comment\n\n",
            "id: 5\ndata: x\n\n",
            "data: x\nid\n\n",
            "data: x\n\nid:\rdata: y\n\n",
        ] {
            check(content, None);
        }
    }

    #[test]
    fn an_id_that_cannot_be_written_is_not() {
        for id in ["", "a\nb", "a\rb", "a\0b"] {
            assert_eq!(with_id(b"data: x\n\n", &ItemId::new(id)), None, "{id:?}");
        }
    }
}
