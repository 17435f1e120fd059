//! The body of `POST /publish/`.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderName;
use json_patch::{Patch, PatchOperation};
use serde::Deserialize as _;
use serde_json::Value;

use super::{
    HttpResponse, HttpStream, Item, Purge, ResponseBody, ResponseMessage, Sequencing,
    StreamContent, WsMessage, WsMessageKind,
};
use crate::Limits;
use crate::channel::{ChannelName, ItemId};
use crate::fields::{self, GRIP_EXPOSE_HEADERS};
use crate::instruct::Status;
use crate::json::{Headers, Object, ShapeError, decode_base64_leniently};
use crate::value;
use crate::websocket::close::{self, Close, MAX_REASON};
use crate::websocket::message::{Message, MessageError};

/// Why nothing of a publish request was published.
///
/// The texts are the reference proxy's replies without their line end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The body is no JSON, or a JSON scalar.
    #[error("Body is not valid JSON.")]
    NotJson,
    /// The body is a JSON array.
    #[error("Invalid format.")]
    NotAnObject,
    /// The body or an item is not of the right shape.
    #[error("Invalid format: {0}")]
    Shape(#[from] ShapeError),
    /// No WebSocket client would accept the message.
    #[error("Invalid format: 'ws-message' {0}")]
    Message(#[from] MessageError),
    /// An item has no format for any transport.
    #[error("Invalid format: no formats specified")]
    NoFormats,
    /// A channel name longer than [`Limits::channel_name_bytes`].
    #[error(
        "Invalid format: channel name of {found} bytes is too long, at most {allowed} are allowed"
    )]
    ChannelNameTooLong {
        /// Bytes in the name.
        found: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// More items than [`Limits::items`].
    #[error("Invalid format: too many items: {found}, at most {allowed} are allowed")]
    TooManyItems {
        /// Items in the request.
        found: usize,
        /// Items allowed.
        allowed: usize,
    },
    /// `body-patch` holds something that is no operation of RFC 6902.
    #[error("Invalid format: body-patch contains invalid operation at index {index}: {cause}")]
    PatchOperation {
        /// The operation's place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        cause: String,
    },
}

/// Parses a publish request: all of its items, or the first mistake.
///
/// # Errors
/// Any mistake rejects the request as a whole, so nothing of it may have been published.
pub fn parse(body: &[u8], limits: &Limits) -> Result<Vec<Item>, PublishError> {
    let value: Value = serde_json::from_slice(body).map_err(|_| PublishError::NotJson)?;
    let request = match &value {
        Value::Object(_) => Object::new("object", &value)?,
        Value::Array(_) => return Err(PublishError::NotAnObject),
        _ => return Err(PublishError::NotJson),
    };
    let items = request.list("items")?.ok_or(ShapeError::Missing {
        of: "object",
        member: "items",
    })?;
    if items.len() > limits.items {
        return Err(PublishError::TooManyItems {
            found: items.len(),
            allowed: limits.items,
        });
    }
    items.iter().map(|value| item(value, limits)).collect()
}

fn item(value: &Value, limits: &Limits) -> Result<Item, PublishError> {
    let object = Object::new("publish item object", value)?;
    let channel = channel(object, limits)?;
    let id = object.nullable_string("id")?.map(ItemId::new);
    let prev_id = object.nullable_string("prev-id")?.map(ItemId::new);
    let formats = formats(object)?;
    Ok(Item {
        channel,
        id,
        prev_id,
        stands_for: Vec::new(),
        http_response: format(formats, "http-response", "'http-response'", http_response)?,
        http_stream: format(formats, "http-stream", "'http-stream'", http_stream)?,
        ws_message: format(formats, "ws-message", "'ws-message'", ws_message)?,
        meta: meta(object)?,
        size: size(object)?,
        sequencing: match object.boolean("no-seq")? {
            Some(true) => Sequencing::Unordered,
            Some(false) | None => Sequencing::Ordered,
        },
        purge: match object.boolean("purge")? {
            Some(true) => Purge::Before,
            Some(false) => Purge::Never,
            None => Purge::Default,
        },
    })
}

/// What holds the formats. In the older form, which the Python and Go libraries send, that is the
/// item itself; there has to be one then, whereas `formats` may hold only unknown ones.
fn formats(item: Object<'_>) -> Result<Object<'_>, PublishError> {
    let (formats, has_any) = match item.present("formats") {
        Some(value @ Value::Object(_)) => {
            let formats = Object::new("formats", value)?;
            (formats, !formats.is_empty())
        }
        Some(_) => return Err(item.wrong_type("formats").into()),
        None => (item, has_format(item)),
    };
    if has_any {
        Ok(formats)
    } else {
        Err(PublishError::NoFormats)
    }
}

fn has_format(item: Object<'_>) -> bool {
    ["http-response", "http-stream", "ws-message"]
        .iter()
        .any(|name| item.raw(name).is_some())
}

fn channel(item: Object<'_>, limits: &Limits) -> Result<ChannelName, PublishError> {
    let name = item.string("channel")?.ok_or(ShapeError::Missing {
        of: item.name,
        member: "channel",
    })?;
    if name.len() > limits.channel_name_bytes {
        return Err(PublishError::ChannelNameTooLong {
            found: name.len(),
            allowed: limits.channel_name_bytes,
        });
    }
    Ok(ChannelName::new(name))
}

fn meta(item: Object<'_>) -> Result<BTreeMap<String, String>, ShapeError> {
    let object = match item.present("meta") {
        None => return Ok(BTreeMap::new()),
        Some(value @ Value::Object(_)) => Object::new("'meta'", value)?,
        Some(_) => return Err(item.wrong_type("meta")),
    };
    object.strings()
}

fn size(item: Object<'_>) -> Result<Option<u64>, ShapeError> {
    let Some(size) = item.integer("size")? else {
        return Ok(None);
    };
    let size = u64::try_from(size).map_err(|_| item.invalid_value("size"))?;
    Ok(Some(size))
}

fn format<T>(
    formats: Object<'_>,
    member: &str,
    name: &'static str,
    parse: impl FnOnce(Object<'_>) -> Result<T, PublishError>,
) -> Result<Option<T>, PublishError> {
    formats
        .raw(member)
        .map(|value| parse(Object::new(name, value)?))
        .transpose()
}

/// What a format asks its receivers to do; publish member `action`.
enum Action {
    Send,
    Hint,
    Close,
    Refresh,
}

fn action(format: Object<'_>) -> Result<Action, ShapeError> {
    match format.string("action")? {
        None | Some("send") => Ok(Action::Send),
        Some("hint") => Ok(Action::Hint),
        Some("close") => Ok(Action::Close),
        Some("refresh") => Ok(Action::Refresh),
        Some(_) => Err(ShapeError::UnknownValue {
            of: format.name,
            member: "action",
        }),
    }
}

fn http_response(format: Object<'_>) -> Result<HttpResponse, PublishError> {
    Ok(match action(format)? {
        Action::Send => HttpResponse::Send(response_message(format)?),
        Action::Hint => HttpResponse::Hint,
        Action::Close => HttpResponse::Close,
        Action::Refresh => HttpResponse::Refresh,
    })
}

fn response_message(format: Object<'_>) -> Result<ResponseMessage, PublishError> {
    let status = response_status(format)?;
    let mut headers = format.headers()?;
    let expose_headers = expose_headers(&headers);
    headers.retain(|(name, _)| !fields::is_grip(name));
    Ok(ResponseMessage {
        status,
        headers,
        expose_headers,
        content_filters: content_filters(format)?,
        body: response_body(format)?,
    })
}

fn response_status(format: Object<'_>) -> Result<Status, ShapeError> {
    Ok(Status {
        code: format.status_code()?.unwrap_or(StatusCode::OK),
        reason: format.reason_phrase()?,
    })
}

fn response_body(format: Object<'_>) -> Result<ResponseBody, PublishError> {
    if let Some(body) = format.bytes("body-bin", "body")? {
        return Ok(ResponseBody::Complete(body));
    }
    let Some(operations) = format.list("body-patch")? else {
        return Err(ShapeError::Missing {
            of: format.name,
            member: "body', 'body-bin', or 'body-patch",
        }
        .into());
    };
    let operations = operations
        .iter()
        .enumerate()
        .map(|(index, value)| patch_operation(index, value))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ResponseBody::Patch(Patch(operations)))
}

fn patch_operation(index: usize, value: &Value) -> Result<PatchOperation, PublishError> {
    if !value.is_object() {
        return Err(ShapeError::ElementType("body-patch").into());
    }
    PatchOperation::deserialize(value).map_err(|error| PublishError::PatchOperation {
        index,
        cause: error.to_string(),
    })
}

/// What a message's own `Grip-Expose-Headers` names.
fn expose_headers(headers: &Headers) -> Vec<HeaderName> {
    headers
        .iter()
        .filter(|(name, _)| *name == GRIP_EXPOSE_HEADERS)
        .flat_map(|(_, value)| value::split_list(value.as_bytes()))
        // What is no header name matches no header.
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

fn http_stream(format: Object<'_>) -> Result<HttpStream, PublishError> {
    Ok(match action(format)? {
        Action::Send => {
            let content_filters = content_filters(format)?;
            let content = format
                .bytes("content-bin", "content")?
                .ok_or(ShapeError::Missing {
                    of: format.name,
                    member: "content' or 'content-bin",
                })?;
            HttpStream::Send {
                content: StreamContent::new(&content),
                content_filters,
            }
        }
        Action::Hint => HttpStream::Hint,
        Action::Close => HttpStream::Close,
        Action::Refresh => HttpStream::Refresh,
    })
}

fn ws_message(format: Object<'_>) -> Result<WsMessage, PublishError> {
    Ok(match action(format)? {
        Action::Send => ws_send(format)?,
        Action::Hint => WsMessage::Hint,
        Action::Close => WsMessage::Close(ws_close(format)?),
        Action::Refresh => WsMessage::Refresh,
    })
}

fn ws_send(format: Object<'_>) -> Result<WsMessage, PublishError> {
    let kind = ws_kind(format)?;
    let content_filters = content_filters(format)?;
    let content = content(format)?;
    let kind = kind.unwrap_or(match content {
        Some(Content::Binary(_)) => WsMessageKind::Binary,
        Some(Content::Text(_)) | None => WsMessageKind::Text,
    });
    let content = match (content, kind) {
        (Some(content), _) => content.into_bytes(),
        (None, WsMessageKind::Ping | WsMessageKind::Pong) => Bytes::new(),
        (None, WsMessageKind::Text | WsMessageKind::Binary) => {
            return Err(PublishError::Shape(ShapeError::Missing {
                of: format.name,
                member: "content' or 'content-bin",
            }));
        }
    };
    let message = Message::new(kind, content)?;
    Ok(WsMessage::Send {
        kind: message.kind,
        content: message.content,
        content_filters,
    })
}

fn ws_kind(format: Object<'_>) -> Result<Option<WsMessageKind>, ShapeError> {
    Ok(Some(match format.string("type")? {
        None => return Ok(None),
        Some("text") => WsMessageKind::Text,
        Some("binary") => WsMessageKind::Binary,
        Some("ping") => WsMessageKind::Ping,
        Some("pong") => WsMessageKind::Pong,
        Some(_) => {
            return Err(ShapeError::UnknownValue {
                of: format.name,
                member: "type",
            });
        }
    }))
}

/// How to close. Without a code, as without one in the frame, there is no reason; libraries write 0
/// for none.
fn ws_close(format: Object<'_>) -> Result<Option<Close>, ShapeError> {
    let code = format.integer("code")?.filter(|code| *code != 0);
    let reason = format.string("reason")?.unwrap_or_default();
    if reason.len() > MAX_REASON {
        return Err(format.invalid_value("reason"));
    }
    let Some(code) = code else {
        return Ok(None);
    };
    let code = u16::try_from(code)
        .ok()
        .filter(|code| close::may_be_sent(*code))
        .ok_or_else(|| format.invalid_value("code"))?;
    Ok(Some(Close::new(code, reason)))
}

enum Content<'a> {
    Text(&'a str),
    Binary(Bytes),
}

impl Content<'_> {
    fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Binary(bytes) => bytes,
        }
    }
}

fn content(format: Object<'_>) -> Result<Option<Content<'_>>, ShapeError> {
    if let Some(text) = format.string("content-bin")? {
        return Ok(Some(Content::Binary(decode_base64_leniently(
            text.as_bytes(),
        ))));
    }
    Ok(format.string("content")?.map(Content::Text))
}

fn content_filters(format: Object<'_>) -> Result<Option<Vec<String>>, ShapeError> {
    let Some(list) = format.list("content-filters")? else {
        return Ok(None);
    };
    list.iter()
        .map(|filter| filter.as_str().map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .map(Some)
        .ok_or(ShapeError::ElementType("content-filters"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn items(body: &str) -> Result<Vec<Item>, PublishError> {
        parse(body.as_bytes(), &Limits::default())
    }

    fn one(item: &str) -> Item {
        items(&format!(r#"{{"items":[{item}]}}"#))
            .unwrap()
            .remove(0)
    }

    fn complete(body: &'static str) -> ResponseBody {
        ResponseBody::Complete(Bytes::from_static(body.as_bytes()))
    }

    #[track_caller]
    fn check_error(body: &str, text: &str) {
        assert_eq!(items(body).expect_err(body).to_string(), text, "{body}");
    }

    #[track_caller]
    fn check_item_error(item: &str, text: &str) {
        check_error(
            &format!(r#"{{"items":[{item}]}}"#),
            &format!("Invalid format: {text}"),
        );
    }

    /// `@` in the text stands for the format's name as error texts write it.
    #[track_caller]
    fn check_format_error(format: &str, content: &str, text: &str) {
        let text = text.replace('@', &format!("'{format}'"));
        let format = format!(r#""{format}":{content}"#);
        check_item_error(&format!(r#"{{"channel":"c",{format}}}"#), &text);
        check_item_error(
            &format!(r#"{{"channel":"c","formats":{{{format}}}}}"#),
            &text,
        );
    }

    #[test]
    fn what_the_python_library_sends() {
        let item = one(
            r#"{"id": "2", "prev-id": "1", "http-response": {"code": 200, "reason": "OK", "headers": {"Content-Type": "text/plain"}, "body": "hello\n"}, "channel": "chan"}"#,
        );
        assert_eq!(item.channel.as_str(), "chan");
        assert_eq!(item.id, Some(ItemId::new("2")));
        assert_eq!(item.prev_id, Some(ItemId::new("1")));
        let Some(HttpResponse::Send(message)) = item.http_response else {
            panic!("no answer: {item:?}");
        };
        assert_eq!(message.status.code, StatusCode::OK);
        assert_eq!(message.body, complete("hello\n"));
        assert_eq!(message.headers[0].0, "content-type");

        let item = one(r#"{"http-stream": {"action": "close"}, "channel": "chan"}"#);
        assert_eq!(item.http_stream, Some(HttpStream::Close));
        let item = one(
            r#"{"ws-message": {"action": "close", "code": 4001, "reason": "bye"}, "channel": "c"}"#,
        );
        let close = WsMessage::Close(Some(Close::new(4001, "bye")));
        assert_eq!(item.ws_message, Some(close));
        let item = one(r#"{"http-response": {"action": "hint"}, "channel": "chan"}"#);
        assert_eq!(item.http_response, Some(HttpResponse::Hint));
    }

    #[test]
    fn what_the_javascript_library_sends() {
        let item = one(
            r#"{"formats":{"http-response":{"code":"404","body":"x"},"http-stream":{"content":"hi\n"},"ws-message":{"content-bin":"AAH/"}},"id":"5","channel":"c"}"#,
        );
        let Some(HttpResponse::Send(message)) = &item.http_response else {
            panic!("no answer: {item:?}");
        };
        assert_eq!(message.status.code, StatusCode::NOT_FOUND);
        let Some(HttpStream::Send { content, .. }) = &item.http_stream else {
            panic!("no content: {item:?}");
        };
        assert_eq!(content.plain(), "hi\n");
        let Some(WsMessage::Send { kind, content, .. }) = &item.ws_message else {
            panic!("no message: {item:?}");
        };
        assert_eq!(
            (*kind, &content[..]),
            (WsMessageKind::Binary, &[0, 1, 255][..])
        );
    }

    #[test]
    fn members_have_defaults_and_null_is_absent() {
        let item = one(
            r#"{"channel":"c","id":null,"prev-id":null,"meta":null,"formats":null,"http-stream":{"content":""},"unknown":1}"#,
        );
        assert_eq!((item.id, item.prev_id, item.size), (None, None, None));
        assert_eq!(item.sequencing, Sequencing::Ordered);
        assert_eq!(item.purge, Purge::Default);
        assert!(item.meta.is_empty());
        let item = one(
            r#"{"channel":"c","no-seq":true,"purge":true,"size":"7","meta":{"sender":"u"},"http-stream":{"content":"x","content-filters":["build-id"]}}"#,
        );
        assert_eq!(item.sequencing, Sequencing::Unordered);
        assert_eq!(item.purge, Purge::Before);
        assert_eq!(item.size, Some(7));
        assert_eq!(item.meta["sender"], "u");
        let Some(HttpStream::Send {
            content_filters, ..
        }) = item.http_stream
        else {
            panic!("no content");
        };
        assert_eq!(content_filters, Some(vec!["build-id".to_owned()]));
    }

    #[test]
    fn an_empty_list_publishes_nothing() {
        assert_eq!(items(r#"{"items":[]}"#), Ok(vec![]));
    }

    #[test]
    fn grip_headers_never_come_from_a_publisher() {
        let item = one(
            r#"{"channel":"c","http-response":{"body-bin":"aGk=","headers":[["Grip-Hold","stream"],["X-A","1"],["X-A","2"]]}}"#,
        );
        let Some(HttpResponse::Send(message)) = item.http_response else {
            panic!("no answer");
        };
        let names: Vec<&str> = message
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["x-a", "x-a"]);
        assert_eq!(message.body, complete("hi"));
    }

    #[test]
    fn bodies_of_the_wrong_shape_are_refused() {
        check_error("", "Body is not valid JSON.");
        check_error("{", "Body is not valid JSON.");
        check_error("7", "Body is not valid JSON.");
        check_error("null", "Body is not valid JSON.");
        check_error("\"x\"", "Body is not valid JSON.");
        check_error(r#"{"items":[]}x"#, "Body is not valid JSON.");
        check_error(&"[".repeat(10_000), "Body is not valid JSON.");
        check_error("[]", "Invalid format.");
        check_error(
            r#"{"items":null}"#,
            "Invalid format: object contains 'items' with wrong type",
        );
        check_error("{}", "Invalid format: object does not contain 'items'");
        check_error(
            r#"{"items":{}}"#,
            "Invalid format: object contains 'items' with wrong type",
        );
    }

    #[test]
    fn items_of_the_wrong_shape_are_refused() {
        let of = "publish item object";
        check_item_error("7", "publish item object is not an object");
        check_item_error("{}", "publish item object does not contain 'channel'");
        check_item_error(r#"{"channel":"c"}"#, "no formats specified");
        check_item_error(r#"{"channel":"c","formats":{}}"#, "no formats specified");
        for (member, value) in [
            ("channel", "7"),
            ("id", "7"),
            ("prev-id", "7"),
            ("formats", "[]"),
            ("meta", "[]"),
            ("size", "[]"),
            ("no-seq", "1"),
            ("purge", "\"yes\""),
        ] {
            let channel = if member == "channel" {
                ""
            } else {
                r#""channel":"c","#
            };
            check_item_error(
                &format!(r#"{{{channel}"{member}":{value},"http-stream":{{"content":"x"}}}}"#),
                &format!("{of} contains '{member}' with wrong type"),
            );
        }
        check_item_error(
            r#"{"channel":"c","size":-1,"http-stream":{"content":""}}"#,
            "publish item object contains 'size' with invalid value",
        );
        for member in ["channel", "size", "no-seq", "purge"] {
            check_item_error(
                &format!(r#"{{"channel":"c","http-stream":{{"content":""}},"{member}":null}}"#),
                &format!("{of} contains '{member}' with wrong type"),
            );
        }
        check_item_error(
            r#"{"channel":"c","size":"x","http-stream":{"content":""}}"#,
            "publish item object contains 'size' with wrong type",
        );
        check_item_error("null", "publish item object is not an object");
        check_item_error(
            r#"{"channel":"c","formats":null,"unknown":{}}"#,
            "no formats specified",
        );
        // `formats` rules the older form out, even if it is empty.
        check_item_error(
            r#"{"channel":"c","formats":{},"http-stream":{"content":"x"}}"#,
            "no formats specified",
        );
        // Of two mistakes, the one that the reference proxy tells.
        check_item_error(
            r#"{"formats":7}"#,
            "publish item object does not contain 'channel'",
        );
        check_item_error(r#"{"channel":"c","size":-1}"#, "no formats specified");
        check_item_error(
            r#"{"channel":"c","meta":{"a":1},"http-stream":{"content":""}}"#,
            "'meta' contains 'a' with wrong type",
        );
        let long = "c".repeat(1025);
        check_item_error(
            &format!(r#"{{"channel":"{long}","http-stream":{{"content":""}}}}"#),
            "channel name of 1025 bytes is too long, at most 1024 are allowed",
        );
    }

    #[test]
    fn responses_of_the_wrong_shape_are_refused() {
        for (content, text) in [
            ("7", "@ is not an object"),
            (
                r#"{"action":"x"}"#,
                "@ contains 'action' with unknown value",
            ),
            (r#"{"action":null}"#, "@ contains 'action' with wrong type"),
            (r#"{"code":[]}"#, "@ contains 'code' with wrong type"),
            (r#"{"code":null}"#, "@ contains 'code' with wrong type"),
            (r#"{"code":true}"#, "@ contains 'code' with wrong type"),
            (r#"{"code":"x"}"#, "@ contains 'code' with wrong type"),
            (r#"{"code":""}"#, "@ contains 'code' with wrong type"),
            (r#"{"code":1000}"#, "@ contains 'code' with invalid value"),
            (r#"{"code":999.5}"#, "@ contains 'code' with invalid value"),
            (r#"{"code":99}"#, "@ contains 'code' with invalid value"),
            (r#"{"code":-1}"#, "@ contains 'code' with invalid value"),
            (r#"{"reason":1}"#, "@ contains 'reason' with wrong type"),
            (
                r#"{"reason":"\r\n"}"#,
                "@ contains 'reason' with invalid value",
            ),
            // Of two mistakes, the one that the reference proxy tells.
            (
                r#"{"reason":1,"code":-1}"#,
                "@ contains 'code' with invalid value",
            ),
        ] {
            check_format_error("http-response", content, text);
        }
    }

    #[test]
    fn headers_of_the_wrong_shape_are_refused() {
        let pair = "headers contains list with wrong number of elements";
        let invalid = "headers contains 'a', which is not a valid header";
        for (headers, text) in [
            ("1", "@ contains 'headers' with wrong type"),
            ("null", "@ contains 'headers' with wrong type"),
            ("[1]", "headers contains element with wrong type"),
            (r#"[["a"]]"#, pair),
            (r#"[["a","b","c"]]"#, pair),
            (
                r#"[[1,"a"]]"#,
                "header contains name element with wrong type",
            ),
            (
                r#"[["a",1]]"#,
                "header contains value element with wrong type",
            ),
            (r#"{"a":1}"#, "headers contains 'a' with wrong type"),
            (r#"{"a":null}"#, "headers contains 'a' with wrong type"),
        ] {
            let content = format!(r#"{{"headers":{headers}}}"#);
            check_format_error("http-response", &content, text);
        }
        for value in ["1\\r\\nb: 2", "1\\r", "1\\n", "\\u0000"] {
            for headers in [
                format!(r#"{{"a":"{value}"}}"#),
                format!(r#"[["b","1"],["a","{value}"]]"#),
            ] {
                let content = format!(r#"{{"headers":{headers}}}"#);
                check_format_error("http-response", &content, invalid);
            }
        }
        for (name, shown) in [
            ("", ""),
            ("a b", "a b"),
            ("a\\r\\nb", "a\r\nb"),
            ("a:", "a:"),
        ] {
            check_format_error(
                "http-response",
                &format!(r#"{{"headers":{{"{name}":"1"}}}}"#),
                &format!("headers contains '{shown}', which is not a valid header"),
            );
        }
    }

    #[test]
    fn bodies_of_answers_of_the_wrong_shape_are_refused() {
        let none = "@ does not contain 'body', 'body-bin', or 'body-patch'";
        for (content, text) in [
            ("{}", none),
            (r#"{"body":1}"#, "@ contains 'body' with wrong type"),
            (r#"{"body":null}"#, "@ contains 'body' with wrong type"),
            (
                r#"{"body-bin":1,"body":""}"#,
                "@ contains 'body-bin' with wrong type",
            ),
            (
                r#"{"body-patch":{}}"#,
                "@ contains 'body-patch' with wrong type",
            ),
            (
                r#"{"body-patch":[[]]}"#,
                "body-patch contains element with wrong type",
            ),
        ] {
            check_format_error("http-response", content, text);
        }
    }

    #[test]
    fn content_filters_of_the_wrong_shape_are_refused() {
        for format in ["http-response", "http-stream", "ws-message"] {
            let member = "@ contains 'content-filters' with wrong type";
            let element = "content-filters contains element with wrong type";
            for (filters, text) in [
                ("1", member),
                ("null", member),
                ("{}", member),
                ("[1]", element),
                (r#"["build-id",null]"#, element),
            ] {
                // They are read before the content, which is not there.
                check_format_error(format, &format!(r#"{{"content-filters":{filters}}}"#), text);
            }
        }
    }

    #[test]
    fn streams_of_the_wrong_shape_are_refused() {
        for (content, text) in [
            ("[]", "@ is not an object"),
            ("null", "@ is not an object"),
            ("{}", "@ does not contain 'content' or 'content-bin'"),
            (r#"{"content":1}"#, "@ contains 'content' with wrong type"),
            (
                r#"{"content":null}"#,
                "@ contains 'content' with wrong type",
            ),
            (
                r#"{"content-bin":[],"content":""}"#,
                "@ contains 'content-bin' with wrong type",
            ),
            (r#"{"action":1}"#, "@ contains 'action' with wrong type"),
            (
                r#"{"action":"x"}"#,
                "@ contains 'action' with unknown value",
            ),
        ] {
            check_format_error("http-stream", content, text);
        }
    }

    #[test]
    fn messages_of_the_wrong_shape_are_refused() {
        let none = "@ does not contain 'content' or 'content-bin'";
        for (content, text) in [
            ("null", "@ is not an object"),
            ("{}", none),
            (r#"{"type":"text"}"#, none),
            (r#"{"type":"binary"}"#, none),
            (r#"{"type":"x"}"#, "@ contains 'type' with unknown value"),
            (
                r#"{"type":1,"content":""}"#,
                "@ contains 'type' with wrong type",
            ),
            (r#"{"content":1}"#, "@ contains 'content' with wrong type"),
            (
                r#"{"content-bin":1}"#,
                "@ contains 'content-bin' with wrong type",
            ),
            (r#"{"action":""}"#, "@ contains 'action' with unknown value"),
        ] {
            check_format_error("ws-message", content, text);
        }
        for (members, text) in [
            (r#""code":-1"#, "@ contains 'code' with invalid value"),
            (r#""code":65536"#, "@ contains 'code' with invalid value"),
            // Such a close frame is an error to its reader.
            (r#""code":1006"#, "@ contains 'code' with invalid value"),
            (r#""code":999"#, "@ contains 'code' with invalid value"),
            (r#""code":1005"#, "@ contains 'code' with invalid value"),
            (r#""code":1015"#, "@ contains 'code' with invalid value"),
            (r#""code":2999"#, "@ contains 'code' with invalid value"),
            (r#""code":5000"#, "@ contains 'code' with invalid value"),
            (r#""code":[]"#, "@ contains 'code' with wrong type"),
            (r#""code":"x""#, "@ contains 'code' with wrong type"),
            (r#""reason":1"#, "@ contains 'reason' with wrong type"),
        ] {
            let content = format!(r#"{{"action":"close",{members}}}"#);
            check_format_error("ws-message", &content, text);
        }
        let long = format!(r#"{{"action":"close","reason":"{}"}}"#, "x".repeat(124));
        let text = "@ contains 'reason' with invalid value";
        check_format_error("ws-message", &long, text);
    }

    #[test]
    fn messages_that_no_client_would_accept_are_refused() {
        let text = r#"{"type":"text","content-bin":"/w=="}"#;
        check_format_error("ws-message", text, "@ text is not UTF-8");
        let ping = format!(r#"{{"type":"ping","content":"{}"}}"#, "x".repeat(126));
        check_format_error(
            "ws-message",
            &ping,
            "@ a ping or pong has 126 bytes, at most 125 are allowed",
        );
    }

    #[test]
    fn what_just_fits_into_a_control_frame_is_published() {
        let reason = "x".repeat(123);
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            let item = one(&format!(
                r#"{{"channel":"c","ws-message":{{"action":"close","code":{code},"reason":"{reason}"}}}}"#
            ));
            let close = WsMessage::Close(Some(Close::new(code, &reason)));
            assert_eq!(item.ws_message, Some(close));
        }
        for kind in ["ping", "pong"] {
            let content = "x".repeat(125);
            let item = one(&format!(
                r#"{{"channel":"c","ws-message":{{"type":"{kind}","content":"{content}"}}}}"#
            ));
            assert!(
                matches!(item.ws_message, Some(WsMessage::Send { content, .. }) if content.len() == 125)
            );
        }
    }

    #[test]
    fn a_close_without_code_has_no_reason() {
        for members in ["", r#","code":0"#, r#","code":"0","reason":"r""#] {
            let item = one(&format!(
                r#"{{"channel":"c","ws-message":{{"action":"close"{members}}}}}"#
            ));
            assert_eq!(item.ws_message, Some(WsMessage::Close(None)), "{members}");
        }
    }

    #[test]
    fn operations_that_are_none_are_refused() {
        let add = r#"{"op":"add","path":"/a","value":null}"#;
        for (operations, text) in [
            ("[{}]".to_owned(), "index 0: missing field `op`"),
            (
                format!(r#"[{add},{{"op":"add","path":"/a"}}]"#),
                "index 1: missing field `value`",
            ),
            (
                format!(r#"[{add},{{"op":"copy","path":"/a"}}]"#),
                "index 1: missing field `from`",
            ),
            (
                r#"[{"op":"remove"}]"#.to_owned(),
                "index 0: missing field `path`",
            ),
            (
                r#"[{"op":"set"}]"#.to_owned(),
                "index 0: unknown variant `set`, expected one of `add`, `remove`, `replace`, `move`, `copy`, `test`",
            ),
            (
                r#"[{"op":"remove","path":"a"}]"#.to_owned(),
                "index 0: json pointer failed to parse; does not start with a slash ('/') and is not empty",
            ),
            (
                r#"[{"op":"remove","path":"/~2"}]"#.to_owned(),
                "index 0: json pointer failed to parse; the first token in the partial-pointer starting at offset 0 is malformed",
            ),
        ] {
            check_format_error(
                "http-response",
                &format!(r#"{{"body-patch":{operations}}}"#),
                &format!("body-patch contains invalid operation at {text}"),
            );
        }
    }

    #[test]
    fn the_first_kind_of_body_wins() {
        let body = |format: &str| {
            let item = one(&format!(r#"{{"channel":"c","http-response":{format}}}"#));
            let Some(HttpResponse::Send(message)) = item.http_response else {
                panic!("no answer");
            };
            message.body
        };
        assert_eq!(
            body(r#"{"body-patch":1,"body":2,"body-bin":"aGk="}"#),
            complete("hi")
        );
        assert_eq!(body(r#"{"body-patch":1,"body":"x"}"#), complete("x"));
        let patch = json!([{"op": "test", "path": "/a~1b", "value": [1.5]}]);
        assert_eq!(
            body(&format!(r#"{{"body-patch":{patch}}}"#)),
            ResponseBody::Patch(serde_json::from_value(patch).unwrap())
        );
        assert_eq!(
            body(r#"{"body-patch":[]}"#),
            ResponseBody::Patch(Patch::default())
        );
    }

    #[test]
    fn numbers_are_rounded_and_may_be_strings() {
        let status = |code: &str| {
            let item = one(&format!(
                r#"{{"channel":"c","http-response":{{"code":{code},"reason":"","body":""}}}}"#
            ));
            let Some(HttpResponse::Send(message)) = item.http_response else {
                panic!("no answer");
            };
            (
                message.status.code.as_u16(),
                message.status.reason().to_owned(),
            )
        };
        for code in ["404", "\"404\"", "\" 404 \"", "403.5", "404.4", "4.04e2"] {
            assert_eq!(status(code), (404, "Not Found".to_owned()), "{code}");
        }
        for (size, expected) in [("0", 0), ("-0.4", 0), ("1.5", 2), ("\"7\"", 7)] {
            let item = one(&format!(
                r#"{{"channel":"c","size":{size},"http-stream":{{"content":""}}}}"#
            ));
            assert_eq!(item.size, Some(expected), "{size}");
        }
    }

    #[test]
    fn members_that_an_action_does_not_need_are_not_read() {
        for action in ["hint", "close", "refresh"] {
            let item = one(&format!(
                r#"{{"channel":"c","formats":{{
                    "http-response":{{"action":"{action}","code":[],"headers":1,"body":1}},
                    "http-stream":{{"action":"{action}","content":1,"content-filters":1}}
                }}}}"#
            ));
            let expected = match action {
                "hint" => (HttpResponse::Hint, HttpStream::Hint),
                "close" => (HttpResponse::Close, HttpStream::Close),
                _ => (HttpResponse::Refresh, HttpStream::Refresh),
            };
            assert_eq!(item.http_response.zip(item.http_stream), Some(expected));
        }
        for (action, expected) in [
            (r#""hint""#, WsMessage::Hint),
            (r#""refresh","code":[],"type":"x""#, WsMessage::Refresh),
            (r#""close","content":1"#, WsMessage::Close(None)),
        ] {
            let item = one(&format!(
                r#"{{"channel":"c","ws-message":{{"action":{action}}}}}"#
            ));
            assert_eq!(item.ws_message, Some(expected), "{action}");
        }
    }

    #[test]
    fn the_type_of_a_message_decides_over_its_content() {
        use WsMessageKind::{Binary, Ping, Pong, Text};
        let message = |format: &str| {
            let item = one(&format!(r#"{{"channel":"c","ws-message":{format}}}"#));
            let Some(WsMessage::Send { kind, content, .. }) = item.ws_message else {
                panic!("no message");
            };
            (kind, content)
        };
        for (format, kind, content) in [
            (r#"{"content":"a"}"#, Text, "a"),
            (r#"{"content-bin":"aGk="}"#, Binary, "hi"),
            (r#"{"content-bin":"aGk=","content":1}"#, Binary, "hi"),
            (
                r#"{"action":"send","type":"text","content-bin":"aGk="}"#,
                Text,
                "hi",
            ),
            (r#"{"type":"binary","content":"a"}"#, Binary, "a"),
            (r#"{"type":"ping"}"#, Ping, ""),
            (r#"{"type":"pong","content":"a"}"#, Pong, "a"),
        ] {
            assert_eq!(
                message(format),
                (kind, Bytes::from_static(content.as_bytes())),
                "{format}"
            );
        }
    }

    #[test]
    fn unknown_names_are_ignored() {
        let item = one(r#"{"channel":"c","formats":{"x":1},"http-stream":{"content":"x"}}"#);
        assert_eq!(
            (item.http_response, item.http_stream, item.ws_message),
            (None, None, None)
        );
        let items =
            items(r#"{"x":1,"items":[{"channel":"","x":1,"ws-message":{"content":"","x":1}}]}"#);
        assert_eq!(items.unwrap()[0].channel.as_str(), "");
    }

    #[test]
    fn a_header_map_holds_all_headers_of_a_message() {
        let headers = vec![r#"["a","b"]"#; 101].join(",");
        check_format_error(
            "http-response",
            &format!(r#"{{"body":"","headers":[{headers}]}}"#),
            "headers contains 101 headers, at most 100 are allowed",
        );
    }

    #[test]
    fn damaged_requests_are_read_or_refused() {
        let valid = json!({"items": [
            {
                "channel": "c", "id": "2", "prev-id": "1", "meta": {"sender": "u"}, "size": 1.5, "no-seq": false,
                "formats": {
                    "http-response": {"code": "200", "reason": "OK", "headers": {"a": "b"}, "body-bin": "aGk="},
                    "http-stream": {"content": "x", "content-filters": ["build-id"]},
                    "ws-message": {"type": "text", "content": "x"},
                },
            },
            {
                "channel": "d",
                "http-response": {"headers": [["Grip-Expose-Headers", "a,,b"]], "body-patch": [{"op": "remove", "path": "/a"}]},
                "ws-message": {"action": "close", "code": 4001, "reason": "bye"},
            },
        ]});
        let mut results = [0, 0];
        for seed in 0..2000 {
            let damaged = Noise::new(seed).damaged(&valid);
            results[usize::from(parse(&damaged, &Limits::default()).is_ok())] += 1;
        }
        assert!(results.iter().all(|count| *count > 100), "{results:?}");
    }

    #[test]
    fn one_bad_item_rejects_them_all() {
        let body = r#"{"items":[{"channel":"c","http-stream":{"content":"x"}},{"channel":"c"}]}"#;
        check_error(body, "Invalid format: no formats specified");
    }

    #[test]
    fn too_many_items_are_refused() {
        let limits = Limits {
            items: 1,
            ..Limits::default()
        };
        let error = parse(br#"{"items":[{},{}]}"#, &limits).unwrap_err();
        let text = "Invalid format: too many items: 2, at most 1 are allowed";
        assert_eq!(error.to_string(), text);
    }
}
