//! Control messages: what an origin tells the hub to do with a WebSocket, in JSON.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::message::{Message, MessageError};
use crate::channel::ItemId;
use crate::instruct::KeepAliveMode;
use crate::json::{Object, ShapeError};
use crate::publish::WsMessageKind;
use crate::{ChannelName, Limits};

/// How long a client is left in silence if the origin names no time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(55);
/// When a delayed message is sent if the origin names no time.
const DELAY: Duration = Duration::from_secs(1);

/// What an origin wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Publish the channel's items to the client, through these filters; again: through these
    /// instead.
    Subscribe {
        /// The channel, without the route's prefix.
        channel: ChannelName,
        /// The id of the last item that the client has; member `prev-id`, ours. Absent: whatever
        /// comes next is good.
        prev_id: Option<ItemId>,
        /// Names, of which unknown ones mean nothing. Not more than the reader allows.
        filters: Vec<String>,
    },
    /// Publish the channel's items no more.
    Unsubscribe {
        /// The channel, without the route's prefix.
        channel: ChannelName,
    },
    /// Let go of the origin, and keep the client.
    Detach,
    /// Remember something for filters.
    SetMeta {
        /// Not empty.
        name: String,
        /// Absent: forget it.
        value: Option<String>,
    },
    /// Send this into silence; absent: nothing any more.
    KeepAlive(Option<KeepAlive>),
    /// Send this once, later; what waits already, now.
    SendDelayed {
        /// What to send.
        message: Message,
        /// After how long; zero: as soon as may be.
        timeout: Duration,
    },
    /// Send now what waits.
    FlushDelayed,
    /// Bind the WebSocket to a session.
    Session {
        /// Absent: to none.
        id: Option<String>,
    },
}

/// What is sent to a client that hears nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// What to send.
    pub message: Message,
    /// After how long, more than nothing.
    pub timeout: Duration,
    /// What restarts the wait.
    pub mode: KeepAliveMode,
}

/// Why a control message has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It is not JSON.
    #[error("a control message is not JSON")]
    Json,
    /// It has not the shape that its type needs.
    #[error("{0}")]
    Shape(#[from] ShapeError),
    /// The message in it cannot be sent to any client.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// The channel's name is longer than the limit.
    #[error("a channel's name has {found} bytes, at most {allowed} are allowed")]
    ChannelName {
        /// Bytes in the name.
        found: usize,
        /// Bytes allowed.
        allowed: usize,
    },
}

impl Control {
    /// Reads what stands behind `c:`. Unknown members mean nothing.
    ///
    /// # Errors
    /// [`ControlError`]; the WebSocket goes on as if nothing was said.
    pub fn parse(json: &[u8], limits: &Limits) -> Result<Self, ControlError> {
        let value: Value = serde_json::from_slice(json).map_err(|_| ControlError::Json)?;
        let message = Object::new("control message", &value)?;
        let unknown = ShapeError::UnknownValue {
            of: message.name,
            member: "type",
        };
        Ok(match required(message, "type")? {
            "subscribe" => Self::Subscribe {
                channel: channel(message, limits)?,
                prev_id: message.nullable_string("prev-id")?.map(ItemId::new),
                filters: filters(message)?,
            },
            "unsubscribe" => Self::Unsubscribe {
                channel: channel(message, limits)?,
            },
            "detach" => Self::Detach,
            "set-meta" => Self::SetMeta {
                name: required(message, "name")?.to_owned(),
                value: message.nullable_string("value")?.map(str::to_owned),
            },
            "keep-alive" => Self::KeepAlive(keep_alive(message)?),
            "send-delayed" => Self::SendDelayed {
                message: content(message)?.ok_or(ShapeError::Missing {
                    of: message.name,
                    member: "content' or 'content-bin",
                })?,
                timeout: timeout(message, 0)?.unwrap_or(DELAY),
            },
            "flush-delayed" => Self::FlushDelayed,
            "session" => {
                let id = message.nullable_string("id")?.filter(|id| !id.is_empty());
                Self::Session {
                    id: id.map(str::to_owned),
                }
            }
            _ => return Err(unknown.into()),
        })
    }
}

/// A string that is there and not empty.
fn required<'a>(message: Object<'a>, member: &'static str) -> Result<&'a str, ShapeError> {
    let value = message.string(member)?.ok_or(ShapeError::Missing {
        of: message.name,
        member,
    })?;
    if value.is_empty() {
        return Err(message.invalid_value(member));
    }
    Ok(value)
}

fn channel(message: Object<'_>, limits: &Limits) -> Result<ChannelName, ControlError> {
    let name = required(message, "channel")?;
    if name.len() > limits.channel_name_bytes {
        return Err(ControlError::ChannelName {
            found: name.len(),
            allowed: limits.channel_name_bytes,
        });
    }
    Ok(ChannelName::new(name))
}

fn filters(message: Object<'_>) -> Result<Vec<String>, ShapeError> {
    let list = message.list("filters")?;
    list.into_iter()
        .flatten()
        .map(|name| name.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or(ShapeError::ElementType("filters"))
}

fn keep_alive(message: Object<'_>) -> Result<Option<KeepAlive>, ControlError> {
    let mode = match message.string("mode")? {
        Some("interval") => KeepAliveMode::Interval,
        _ => KeepAliveMode::Idle,
    };
    let Some(content) = content(message)? else {
        // Nothing is sent, so that the time means nothing either.
        return Ok(None);
    };
    Ok(Some(KeepAlive {
        message: content,
        timeout: timeout(message, 1)?.unwrap_or(KEEP_ALIVE_TIMEOUT),
        mode,
    }))
}

/// The message in a control message; absent if it has no content.
fn content(message: Object<'_>) -> Result<Option<Message>, ControlError> {
    let kind = match message.string("message-type")? {
        None | Some("text") => WsMessageKind::Text,
        Some("binary") => WsMessageKind::Binary,
        Some("ping") => WsMessageKind::Ping,
        Some("pong") => WsMessageKind::Pong,
        Some(_) => {
            return Err(ControlError::Shape(ShapeError::UnknownValue {
                of: message.name,
                member: "message-type",
            }));
        }
    };
    let content: Option<Bytes> = message.bytes("content-bin", "content")?;
    let read = content.map(|content| Message::new(kind, content));
    Ok(read.transpose()?)
}

/// A time of at least so many seconds.
fn timeout(message: Object<'_>, least: u32) -> Result<Option<Duration>, ShapeError> {
    let Some(seconds) = message.integer("timeout")? else {
        return Ok(None);
    };
    match u32::try_from(seconds) {
        Ok(seconds) if seconds >= least => Ok(Some(Duration::from_secs(seconds.into()))),
        _ => Err(message.invalid_value("timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(json: &str) -> Result<Control, ControlError> {
        Control::parse(json.as_bytes(), &Limits::default())
    }

    #[track_caller]
    fn check(json: &str, expected: Control) {
        assert_eq!(read(json), Ok(expected), "{json}");
    }

    #[track_caller]
    fn check_error(json: &str, text: &str) {
        assert_eq!(read(json).expect_err(json).to_string(), text, "{json}");
    }

    fn message(kind: WsMessageKind, content: &'static str) -> Message {
        Message::new(kind, Bytes::from_static(content.as_bytes())).unwrap()
    }

    fn keep_alive(kind: WsMessageKind, content: &'static str) -> KeepAlive {
        KeepAlive {
            message: message(kind, content),
            timeout: Duration::from_secs(55),
            mode: KeepAliveMode::Idle,
        }
    }

    #[test]
    fn channels_are_subscribed_to_and_left() {
        let channel = ChannelName::new("a");
        check(
            r#"{"type":"subscribe","channel":"a"}"#,
            Control::Subscribe {
                channel: channel.clone(),
                prev_id: None,
                filters: Vec::new(),
            },
        );
        check(
            r#"{"type":"subscribe","channel":"a","prev-id":"41"}"#,
            Control::Subscribe {
                channel: channel.clone(),
                prev_id: Some(ItemId::new("41")),
                filters: Vec::new(),
            },
        );
        check(
            r#" { "channel" : "a", "type": "subscribe", "filters":["x","y"], "new":1 } "#,
            Control::Subscribe {
                channel: channel.clone(),
                prev_id: None,
                filters: vec!["x".to_owned(), "y".to_owned()],
            },
        );
        check(
            r#"{"type":"unsubscribe","channel":"a"}"#,
            Control::Unsubscribe { channel },
        );
    }

    #[test]
    fn more_filters_than_allowed_are_read_all_the_same() {
        // Whoever counts them closes the WebSocket, which an error here would not.
        let filters = vec!["x".to_owned(); Limits::default().filters + 1];
        let json = json!({"type": "subscribe", "channel": "a", "filters": filters});
        let subscribe = Control::Subscribe {
            channel: ChannelName::new("a"),
            prev_id: None,
            filters,
        };
        check(&json.to_string(), subscribe);
    }

    #[test]
    fn metadata_is_set_and_removed() {
        let set = |value: Option<&str>| Control::SetMeta {
            name: "n".to_owned(),
            value: value.map(str::to_owned),
        };
        check(
            r#"{"type":"set-meta","name":"n","value":"v"}"#,
            set(Some("v")),
        );
        check(
            r#"{"type":"set-meta","name":"n","value":""}"#,
            set(Some("")),
        );
        check(r#"{"type":"set-meta","name":"n"}"#, set(None));
        check(r#"{"type":"set-meta","name":"n","value":null}"#, set(None));
    }

    #[test]
    fn keep_alives_have_defaults() {
        use WsMessageKind::{Binary, Ping, Pong, Text};
        let on = |keep_alive| Control::KeepAlive(Some(keep_alive));
        check(r#"{"type":"keep-alive"}"#, Control::KeepAlive(None));
        check(
            r#"{"type":"keep-alive","content":""}"#,
            on(keep_alive(Text, "")),
        );
        check(
            r#"{"type":"keep-alive","content":"x","content-bin":"eQ=="}"#,
            on(keep_alive(Text, "y")),
        );
        check(
            r#"{"type":"keep-alive","content":"x","message-type":"ping","mode":"other"}"#,
            on(keep_alive(Ping, "x")),
        );
        check(
            r#"{"type":"keep-alive","content-bin":"a G\nk","message-type":"pong"}"#,
            on(keep_alive(Pong, "hi")),
        );
        let expected = KeepAlive {
            timeout: Duration::from_secs(20),
            mode: KeepAliveMode::Interval,
            ..keep_alive(Binary, "x")
        };
        check(
            r#"{"type":"keep-alive","content":"x","message-type":"binary","timeout":20,"mode":"interval"}"#,
            on(expected.clone()),
        );
        check(
            r#"{"type":"keep-alive","content":"x","message-type":"binary","timeout":"20","mode":"interval"}"#,
            on(expected),
        );
    }

    #[test]
    fn without_content_a_keep_alive_is_off_whatever_its_time() {
        for timeout in ["0", "-1", r#""soon""#, "null"] {
            check(
                &format!(r#"{{"type":"keep-alive","timeout":{timeout}}}"#),
                Control::KeepAlive(None),
            );
        }
    }

    #[test]
    fn a_delay_may_be_zero() {
        check(
            r#"{"type":"send-delayed","content":"x","timeout":0}"#,
            Control::SendDelayed {
                message: message(WsMessageKind::Text, "x"),
                timeout: Duration::ZERO,
            },
        );
    }

    #[test]
    fn messages_are_sent_later_or_now() {
        check(
            r#"{"type":"send-delayed","content":"x"}"#,
            Control::SendDelayed {
                message: message(WsMessageKind::Text, "x"),
                timeout: Duration::from_secs(1),
            },
        );
        check(r#"{"type":"flush-delayed"}"#, Control::FlushDelayed);
        check(r#"{"type":"detach"}"#, Control::Detach);
        check(
            r#"{"type":"session","id":""}"#,
            Control::Session { id: None },
        );
        let id = Some("s".to_owned());
        check(r#"{"type":"session","id":"s"}"#, Control::Session { id });
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        check_error("", "a control message is not JSON");
        check_error("{", "a control message is not JSON");
        check_error("[]", "control message is not an object");
        check_error("{}", "control message does not contain 'type'");
        check_error(
            r#"{"type":1}"#,
            "control message contains 'type' with wrong type",
        );
        check_error(
            r#"{"type":"publish"}"#,
            "control message contains 'type' with unknown value",
        );
        check_error(
            r#"{"type":"subscribe"}"#,
            "control message does not contain 'channel'",
        );
        check_error(
            r#"{"type":"subscribe","channel":""}"#,
            "control message contains 'channel' with invalid value",
        );
        check_error(
            r#"{"type":"subscribe","channel":"a","filters":"x"}"#,
            "control message contains 'filters' with wrong type",
        );
        check_error(
            r#"{"type":"subscribe","channel":"a","prev-id":41}"#,
            "control message contains 'prev-id' with wrong type",
        );
        check_error(
            r#"{"type":"subscribe","channel":"a","filters":[1]}"#,
            "filters contains element with wrong type",
        );
        check_error(
            r#"{"type":"set-meta","value":"v"}"#,
            "control message does not contain 'name'",
        );
        check_error(
            r#"{"type":"set-meta","name":"n","value":1}"#,
            "control message contains 'value' with wrong type",
        );
        check_error(
            r#"{"type":"keep-alive","content":"x","message-type":"x"}"#,
            "control message contains 'message-type' with unknown value",
        );
        check_error(
            r#"{"type":"send-delayed"}"#,
            "control message does not contain 'content' or 'content-bin'",
        );
        for timeout in ["-1", "0", "1e12"] {
            check_error(
                &format!(r#"{{"type":"keep-alive","content":"x","timeout":{timeout}}}"#),
                "control message contains 'timeout' with invalid value",
            );
        }
        for timeout in ["-1", "1e12"] {
            check_error(
                &format!(r#"{{"type":"send-delayed","content":"x","timeout":{timeout}}}"#),
                "control message contains 'timeout' with invalid value",
            );
        }
        check_error(
            r#"{"type":"unsubscribe","channel":null}"#,
            "control message contains 'channel' with wrong type",
        );
        check_error(
            r#"{"type":"set-meta","name":"","value":"v"}"#,
            "control message contains 'name' with invalid value",
        );
        check_error(
            r#"{"type":"keep-alive","content":null}"#,
            "control message contains 'content' with wrong type",
        );
        check_error(
            r#"{"type":"keep-alive","content":"x","mode":1}"#,
            "control message contains 'mode' with wrong type",
        );
        check_error(
            r#"{"type":"session","id":1}"#,
            "control message contains 'id' with wrong type",
        );
        check_error(
            r#"{"type":"keep-alive","content":"x","timeout":"soon"}"#,
            "control message contains 'timeout' with wrong type",
        );
    }

    #[test]
    fn what_just_fits_is_read() {
        let channel = "x".repeat(Limits::default().channel_name_bytes);
        check(
            &json!({"type": "unsubscribe", "channel": channel}).to_string(),
            Control::Unsubscribe {
                channel: ChannelName::new(&channel),
            },
        );
        let content = "x".repeat(125);
        let ping = json!({"type": "send-delayed", "message-type": "ping", "content": content});
        check(
            &ping.to_string(),
            Control::SendDelayed {
                message: Message::new(WsMessageKind::Ping, Bytes::from(content)).unwrap(),
                timeout: Duration::from_secs(1),
            },
        );
    }

    #[test]
    fn messages_that_no_client_takes_are_refused() {
        check_error(
            r#"{"type":"send-delayed","content-bin":"/w=="}"#,
            "text is not UTF-8",
        );
        let long = "x".repeat(126);
        check_error(
            &format!(r#"{{"type":"send-delayed","message-type":"ping","content":"{long}"}}"#),
            "a ping or pong has 126 bytes, at most 125 are allowed",
        );
        let long = "x".repeat(1025);
        check_error(
            &format!(r#"{{"type":"subscribe","channel":"{long}"}}"#),
            "a channel's name has 1025 bytes, at most 1024 are allowed",
        );
    }

    #[test]
    fn damaged_messages_are_read_or_refused() {
        let valid = json!({"type": "keep-alive", "content": "x", "timeout": 5, "mode": "idle"});
        let mut noise = Noise::new(1);
        for _ in 0..500 {
            let _ = Control::parse(&noise.damaged(&valid), &Limits::default());
        }
    }
}
