//! The JSON form of an instruction: `application/grip-instruct`.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};
use serde_json::Value;

use super::headers::{
    DEFAULT_KEEP_ALIVE, MIN_KEEP_ALIVE, ZERO_TIMEOUT, check_count, checked_channel,
};
use super::{HoldMode, Instruct, InstructError, KeepAlive, KeepAliveMode, Status};
use crate::Limits;
use crate::channel::{Channel, ItemId};
use crate::fields;
use crate::json::{Object, ShapeError};

/// What the client gets of a response in the JSON form, beside the status in [`Instruct::status`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Headers for the client, without framing, hop-by-hop fields and `Grip-*`.
    pub(crate) headers: HeaderMap,
    /// The body, or a stream's initial part of it.
    pub(crate) body: Bytes,
}

impl Instruct {
    /// Goes on reading in the body: channels and meta are added to those of the headers, the rest
    /// replaces what the headers say.
    ///
    /// # Errors
    /// The first member that cannot be followed.
    pub(crate) fn with_content(
        mut self,
        body: &[u8],
        limits: &Limits,
    ) -> Result<(Self, Content), InstructError> {
        let value: Value =
            serde_json::from_slice(body).map_err(|_| InstructError::ContentSyntax)?;
        let object = Object::new("instruct", &value).map_err(|_| InstructError::ContentType)?;
        if let Some(hold) = object.object("hold", "hold")? {
            self.hold = Some(mode(hold)?);
            self.channels.extend(channels(hold, limits)?);
            check_count(&self.channels, limits)?;
            self.timeout = timeout(hold)?.unwrap_or(self.timeout);
            self.keep_alive = keep_alive(hold, self.keep_alive)?;
            if let Some(meta) = hold.object("meta", "'meta'")? {
                self.meta.extend(meta.strings()?);
            }
        }
        let Some(response) = object.object("response", "response")? else {
            return Ok((self, Content::empty()));
        };
        self.status = status(response, self.status)?;
        Ok((self, content(response)?))
    }
}

impl Content {
    fn empty() -> Self {
        Self {
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

fn mode(hold: Object<'_>) -> Result<HoldMode, InstructError> {
    match hold.string("mode")? {
        None | Some("response") => Ok(HoldMode::Response),
        Some("stream") => Ok(HoldMode::Stream),
        Some(_) => Err(InstructError::ContentHoldMode),
    }
}

fn channels(hold: Object<'_>, limits: &Limits) -> Result<Vec<Channel>, InstructError> {
    let list = hold.list("channels")?.ok_or(ShapeError::Missing {
        of: hold.name,
        member: "channels",
    })?;
    list.iter().map(|value| channel(value, limits)).collect()
}

fn channel(value: &Value, limits: &Limits) -> Result<Channel, InstructError> {
    let object = Object::new("channel", value)?;
    let name = object.string("name")?.ok_or(ShapeError::Missing {
        of: object.name,
        member: "name",
    })?;
    let prev_id = object.string("prev-id")?.map(ItemId::new);
    checked_channel(name, prev_id, filters(object)?, limits)
}

fn filters(channel: Object<'_>) -> Result<Vec<String>, InstructError> {
    channel
        .list("filters")?
        .into_iter()
        .flatten()
        .map(|filter| filter.as_str().map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or(InstructError::FilterType)
}

fn timeout(hold: Object<'_>) -> Result<Option<Duration>, ShapeError> {
    Ok(seconds(hold)?.map(|timeout| {
        if timeout.is_zero() {
            ZERO_TIMEOUT
        } else {
            timeout
        }
    }))
}

/// A keep-alive with content replaces that of the headers; one without only its timeout.
fn keep_alive(
    hold: Object<'_>,
    from_headers: Option<KeepAlive>,
) -> Result<Option<KeepAlive>, ShapeError> {
    let Some(object) = hold.object("keep-alive", "keep-alive")? else {
        return Ok(from_headers);
    };
    let data = object.bytes("content-bin", "content")?;
    let timeout = seconds(object)?.map(|timeout| timeout.max(MIN_KEEP_ALIVE));
    Ok(match data {
        Some(data) if data.is_empty() => None,
        Some(data) => Some(KeepAlive {
            data,
            timeout: timeout.unwrap_or(DEFAULT_KEEP_ALIVE),
            // The JSON form has no mode: the reference proxy keeps a fixed beat.
            mode: KeepAliveMode::Interval,
        }),
        None => from_headers.map(|keep_alive| KeepAlive {
            timeout: timeout.unwrap_or(keep_alive.timeout),
            ..keep_alive
        }),
    })
}

/// The member `timeout`, at most as long as the header form can say. A string that is no number
/// counts as zero.
fn seconds(object: Object<'_>) -> Result<Option<Duration>, ShapeError> {
    let seconds = match object.raw("timeout") {
        Some(Value::String(text)) => Some(text.trim().parse().unwrap_or(0)),
        _ => object.integer("timeout")?,
    };
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    let seconds = i32::try_from(seconds)
        .ok()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .ok_or_else(|| object.invalid_value("timeout"))?;
    Ok(Some(Duration::from_secs(seconds)))
}

/// The status that `code` and `reason` make of the one in `Grip-Status`, or of 200.
fn status(
    response: Object<'_>,
    from_headers: Option<Status>,
) -> Result<Option<Status>, ShapeError> {
    let status = match response.status_code()? {
        Some(code) => Some(Status::new(code)),
        None => from_headers,
    };
    let Some(reason) = response.reason_phrase()? else {
        return Ok(status);
    };
    Ok(Some(Status {
        code: status.map_or(StatusCode::OK, |status| status.code),
        reason: Some(reason),
    }))
}

fn content(response: Object<'_>) -> Result<Content, ShapeError> {
    let mut headers: HeaderMap = HeaderMap::new();
    for (name, value) in response.headers()? {
        headers.append(name, value);
    }
    fields::strip_grip(&mut headers);
    fields::strip_hop_by_hop(&mut headers);
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    Ok(Content {
        headers,
        body: response.bytes("body-bin", "body")?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use http::HeaderName;
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(
        lines: &[(&'static str, &'static str)],
        body: &[u8],
    ) -> Result<(Instruct, Content), InstructError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let limits = Limits::default();
        Instruct::from_headers(&headers, &limits)?.with_content(body, &limits)
    }

    #[track_caller]
    fn hold(lines: &[(&'static str, &'static str)], hold: &Value) -> Instruct {
        let body = json!({"hold": hold}).to_string();
        read(lines, body.as_bytes()).unwrap().0
    }

    #[track_caller]
    fn check_response(lines: &[(&'static str, &'static str)], response: &Value, expected: &str) {
        let body = json!({"response": response}).to_string();
        let (instruct, content) = read(lines, body.as_bytes()).unwrap();
        let status = instruct
            .status
            .unwrap_or_else(|| Status::new(StatusCode::OK));
        let mut found = vec![format!("{} {}", status.code.as_str(), status.reason())];
        for (name, value) in &content.headers {
            found.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        found.push(String::from_utf8(content.body.to_vec()).unwrap());
        let found = found.join("|");
        assert_eq!(found, expected, "{response}");
    }

    #[track_caller]
    fn check_error(body: &str, text: &str) {
        let error = read(&[], body.as_bytes()).expect_err(body);
        assert_eq!(error.to_string(), text, "{body}");
    }

    #[track_caller]
    fn check_hold_error(members: &str, text: &str) {
        check_error(&format!(r#"{{"hold":{{"channels":[],{members}}}}}"#), text);
    }

    #[track_caller]
    fn check_response_error(members: &str, text: &str) {
        check_error(&format!(r#"{{"response":{{{members}}}}}"#), text);
    }

    #[track_caller]
    fn check_keep_alive(
        lines: &[(&'static str, &'static str)],
        keep_alive: &Value,
        expected: Option<(&'static str, u64, KeepAliveMode)>,
    ) {
        let found = hold(lines, &json!({"channels": [], "keep-alive": keep_alive})).keep_alive;
        let expected = expected.map(|(data, seconds, mode)| KeepAlive {
            data: Bytes::from_static(data.as_bytes()),
            timeout: Duration::from_secs(seconds),
            mode,
        });
        assert_eq!(found, expected, "{keep_alive}");
    }

    #[test]
    fn every_member_is_read() {
        let body = json!({
            "hold": {
                "mode": "stream",
                "channels": [{"name": "a", "prev-id": "1", "filters": ["build-id", "f"]}, {"name": "a,b;c"}],
                "timeout": 30,
                "keep-alive": {"content": "\n", "timeout": 20},
                "meta": {"user": "alice"},
                "unknown": null,
            },
            "response": {"code": 202, "reason": "Fine", "headers": {"X-A": "1"}, "body": "hi"},
            "unknown": [],
        });
        let (instruct, content) = read(&[], body.to_string().as_bytes()).unwrap();
        assert_eq!(instruct.hold, Some(HoldMode::Stream));
        let channels = [
            Channel {
                name: "a".into(),
                prev_id: Some(ItemId::new("1")),
                filters: vec!["build-id".to_owned(), "f".to_owned()],
            },
            Channel {
                name: "a,b;c".into(),
                prev_id: None,
                filters: vec![],
            },
        ];
        assert_eq!(instruct.channels, channels);
        assert_eq!(instruct.timeout, Duration::from_secs(30));
        assert_eq!(instruct.keep_alive.unwrap().data, "\n");
        assert_eq!(instruct.meta["user"], "alice");
        let status = instruct.status.unwrap();
        assert_eq!((status.code.as_u16(), status.reason()), (202, "Fine"));
        assert_eq!(content.headers["x-a"], "1");
        assert_eq!(content.body, "hi");
    }

    #[test]
    fn an_empty_object_instructs_nothing() {
        let (instruct, content) = read(&[], b" {} ").unwrap();
        assert_eq!(
            instruct,
            Instruct::from_headers(&HeaderMap::new(), &Limits::default()).unwrap()
        );
        assert_eq!(content, Content::empty());
    }

    #[test]
    fn channels_and_meta_are_added_to_those_of_the_headers() {
        let lines = [
            ("grip-hold", "stream"),
            ("grip-channel", "a, b"),
            ("grip-set-meta", "user=alice, old=1"),
            ("grip-timeout", "10"),
            ("grip-link", "</next>; rel=next"),
        ];
        let instruct = hold(
            &lines,
            &json!({"channels": [{"name": "c"}, {"name": "a"}], "meta": {"user": "bob", "new": "2"}}),
        );
        let names: Vec<&str> = instruct
            .channels
            .iter()
            .map(|channel| channel.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b", "c", "a"]);
        let meta: Vec<(&str, &str)> = instruct
            .meta
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(meta, [("new", "2"), ("old", "1"), ("user", "bob")]);
        // A hold without a mode is a response hold, whatever the headers say.
        assert_eq!(instruct.hold, Some(HoldMode::Response));
        assert_eq!(instruct.timeout, Duration::from_secs(10));
        assert_eq!(instruct.next_link.unwrap().uri, "/next");
        let unheld = read(&lines, b"{}").unwrap().0;
        assert_eq!(unheld.hold, Some(HoldMode::Stream));
    }

    #[test]
    fn timeouts_replace_that_of_the_headers() {
        for (timeout, seconds) in [
            (json!(30), 30),
            (json!(1), 1),
            (json!(0), 5),
            (json!("30"), 30),
            (json!(" 7 "), 7),
            (json!("soon"), 5),
            (json!(29.5), 30),
            (json!(i32::MAX), 2_147_483_647),
        ] {
            let instruct = hold(
                &[("grip-timeout", "10")],
                &json!({"channels": [], "timeout": timeout}),
            );
            assert_eq!(instruct.timeout.as_secs(), seconds, "{timeout}");
        }
        assert_eq!(hold(&[], &json!({"channels": []})).timeout.as_secs(), 55);
    }

    #[test]
    fn keep_alives_are_a_fixed_beat() {
        use KeepAliveMode::{Idle, Interval};
        check_keep_alive(&[], &json!({"content": "x"}), Some(("x", 55, Interval)));
        check_keep_alive(
            &[],
            &json!({"content": "x", "timeout": "20"}),
            Some(("x", 20, Interval)),
        );
        check_keep_alive(
            &[],
            &json!({"content": "x", "timeout": 0}),
            Some(("x", 1, Interval)),
        );
        check_keep_alive(
            &[],
            &json!({"content": 1, "content-bin": "aGk="}),
            Some(("hi", 55, Interval)),
        );
        check_keep_alive(&[], &json!({}), None);
        check_keep_alive(&[], &json!({"content": ""}), None);
        let lines = [("grip-keep-alive", "old; timeout=30")];
        check_keep_alive(&lines, &json!({"content": "x"}), Some(("x", 55, Interval)));
        check_keep_alive(&lines, &json!({"timeout": 20}), Some(("old", 20, Idle)));
        check_keep_alive(&lines, &json!({}), Some(("old", 30, Idle)));
        check_keep_alive(&lines, &json!({"content": ""}), None);
        let kept = hold(&lines, &json!({"channels": []})).keep_alive.unwrap();
        assert_eq!(kept.data, "old");
    }

    #[test]
    fn the_status_is_that_of_the_headers_until_a_code_is_given() {
        let lines = [("grip-status", "404 Gone Fishing")];
        check_response(&[], &json!({}), "200 OK|");
        check_response(&[], &json!({"code": "201"}), "201 Created|");
        check_response(&[], &json!({"code": 201.4, "reason": ""}), "201 Created|");
        check_response(&[], &json!({"reason": "Fine"}), "200 Fine|");
        check_response(&[], &json!({"code": 299}), "299 |");
        check_response(&lines, &json!({}), "404 Gone Fishing|");
        check_response(&lines, &json!({"code": 404}), "404 Not Found|");
        check_response(&lines, &json!({"reason": "Fine"}), "404 Fine|");
    }

    #[test]
    fn the_client_gets_only_what_the_response_says() {
        let lines = [("x-origin", "1"), ("etag", "\"1\"")];
        check_response(&lines, &json!({"headers": {"X-A": "1"}}), "200 OK|x-a: 1|");
        check_response(
            &lines,
            &json!({"headers": [["X-A", "1"], ["X-B", ""], ["x-a", "2"]], "body": "hi\n"}),
            "200 OK|x-a: 1|x-a: 2|x-b: |hi\n",
        );
        check_response(&[], &json!({"body": 1, "body-bin": "aGk="}), "200 OK|hi");
        check_response(
            &[],
            &json!({"headers": {
                "Connection": "close, X-Private", "Keep-Alive": "1", "Content-Encoding": "gzip",
                "Transfer-Encoding": "chunked", "Content-Length": "9", "Grip-Hold": "stream",
                "X-Private": "1", "X-Public": "2",
            }}),
            "200 OK|x-public: 2|",
        );
        check_response(
            &[("grip-expose-headers", "X-A")],
            &json!({"headers": {"X-B": "1"}}),
            "200 OK|x-b: 1|",
        );
    }

    #[test]
    fn bodies_that_are_no_object_are_refused() {
        for body in ["", "{", "{}x", "\u{feff}{}"] {
            check_error(
                body,
                "failed to parse application/grip-instruct content as JSON",
            );
        }
        for body in ["[]", "1", "null", "\"x\""] {
            check_error(body, "instruct must be an object");
        }
        check_error(r#"{"hold":[]}"#, "instruct contains 'hold' with wrong type");
        check_error(
            r#"{"hold":null}"#,
            "instruct contains 'hold' with wrong type",
        );
        check_error(
            r#"{"response":1}"#,
            "instruct contains 'response' with wrong type",
        );
        let deep = "[".repeat(10_000);
        check_error(
            &deep,
            "failed to parse application/grip-instruct content as JSON",
        );
    }

    #[test]
    fn holds_of_the_wrong_shape_are_refused() {
        check_error(r#"{"hold":{}}"#, "hold does not contain 'channels'");
        check_error(
            r#"{"hold":{"channels":{}}}"#,
            "hold contains 'channels' with wrong type",
        );
        let mode = "hold 'mode' must be set to either 'response' or 'stream'";
        for (members, text) in [
            (r#""mode":"none""#, mode),
            (r#""mode":"""#, mode),
            (r#""mode":"Stream""#, mode),
            (r#""mode":null"#, "hold contains 'mode' with wrong type"),
            (r#""timeout":[]"#, "hold contains 'timeout' with wrong type"),
            (
                r#""timeout":null"#,
                "hold contains 'timeout' with wrong type",
            ),
            (
                r#""timeout":-1"#,
                "hold contains 'timeout' with invalid value",
            ),
            (
                r#""timeout":"-1""#,
                "hold contains 'timeout' with invalid value",
            ),
            (
                r#""timeout":2147483648"#,
                "hold contains 'timeout' with invalid value",
            ),
            (
                r#""timeout":9223372036854775807"#,
                "hold contains 'timeout' with invalid value",
            ),
            (
                r#""keep-alive":"x""#,
                "hold contains 'keep-alive' with wrong type",
            ),
            (
                r#""keep-alive":{"content":1}"#,
                "keep-alive contains 'content' with wrong type",
            ),
            (
                r#""keep-alive":{"content":null}"#,
                "keep-alive contains 'content' with wrong type",
            ),
            (
                r#""keep-alive":{"content-bin":1}"#,
                "keep-alive contains 'content-bin' with wrong type",
            ),
            (
                r#""keep-alive":{"timeout":{}}"#,
                "keep-alive contains 'timeout' with wrong type",
            ),
            (
                r#""keep-alive":{"timeout":-1}"#,
                "keep-alive contains 'timeout' with invalid value",
            ),
            (r#""meta":[]"#, "hold contains 'meta' with wrong type"),
            (r#""meta":{"K":1}"#, "'meta' contains 'K' with wrong type"),
            (
                r#""meta":{"K":null}"#,
                "'meta' contains 'K' with wrong type",
            ),
        ] {
            check_hold_error(members, text);
        }
    }

    #[test]
    fn channels_of_the_wrong_shape_are_refused() {
        let long = format!(r#"{{"name":"{}"}}"#, "c".repeat(1025));
        for (channel, text) in [
            ("1", "channel is not an object"),
            ("{}", "channel does not contain 'name'"),
            (r#"{"name":1}"#, "channel contains 'name' with wrong type"),
            (
                r#"{"name":null}"#,
                "channel contains 'name' with wrong type",
            ),
            (
                r#"{"name":"a","prev-id":1}"#,
                "channel contains 'prev-id' with wrong type",
            ),
            (
                r#"{"name":"a","prev-id":null}"#,
                "channel contains 'prev-id' with wrong type",
            ),
            (
                r#"{"name":"a","filters":"f"}"#,
                "channel contains 'filters' with wrong type",
            ),
            (
                r#"{"name":"a","filters":["f",1]}"#,
                "filters contains value with wrong type",
            ),
            (
                r#"{"name":"a","filters":["","","","","",""]}"#,
                "too many filters for channel 'a'",
            ),
            (
                long.as_str(),
                "channel name of 1025 bytes is too long, at most 1024 are allowed",
            ),
        ] {
            check_error(&format!(r#"{{"hold":{{"channels":[{channel}]}}}}"#), text);
        }
    }

    #[test]
    fn channels_of_both_forms_are_counted_together() {
        let channels = vec![r#"{"name":"c"}"#; 99].join(",");
        let body = format!(r#"{{"hold":{{"channels":[{channels}]}}}}"#);
        assert_eq!(
            read(&[("grip-channel", "a")], body.as_bytes())
                .unwrap()
                .0
                .channels
                .len(),
            100
        );
        let error = read(&[("grip-channel", "a, b")], body.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "too many channels: 101, at most 100 are allowed"
        );
    }

    #[test]
    fn responses_of_the_wrong_shape_are_refused() {
        let many = format!(r#""headers":[{}]"#, vec![r#"["a","b"]"#; 101].join(","));
        for (members, text) in [
            (r#""code":[]"#, "response contains 'code' with wrong type"),
            (r#""code":null"#, "response contains 'code' with wrong type"),
            (
                r#""code":1000"#,
                "response contains 'code' with invalid value",
            ),
            (
                r#""code":-1"#,
                "response contains 'code' with invalid value",
            ),
            (
                r#""code":99"#,
                "response contains 'code' with invalid value",
            ),
            (
                r#""reason":1"#,
                "response contains 'reason' with wrong type",
            ),
            (
                r#""reason":"a\r\nb: c""#,
                "response contains 'reason' with invalid value",
            ),
            (
                r#""headers":1"#,
                "response contains 'headers' with wrong type",
            ),
            (
                r#""headers":null"#,
                "response contains 'headers' with wrong type",
            ),
            (
                r#""headers":[1]"#,
                "headers contains element with wrong type",
            ),
            (
                r#""headers":[["a"]]"#,
                "headers contains list with wrong number of elements",
            ),
            (
                r#""headers":[["a","b","c"]]"#,
                "headers contains list with wrong number of elements",
            ),
            (
                r#""headers":[[1,"a"]]"#,
                "header contains name element with wrong type",
            ),
            (
                r#""headers":[["a",1]]"#,
                "header contains value element with wrong type",
            ),
            (
                r#""headers":{"K":1}"#,
                "headers contains 'K' with wrong type",
            ),
            (
                r#""headers":{"":"x"}"#,
                "headers contains '', which is not a valid header",
            ),
            (
                r#""headers":{"a:b":"x"}"#,
                "headers contains 'a:b', which is not a valid header",
            ),
            (
                r#""headers":{"a":"x\ny"}"#,
                "headers contains 'a', which is not a valid header",
            ),
            (
                many.as_str(),
                "headers contains 101 headers, at most 100 are allowed",
            ),
            (r#""body":1"#, "response contains 'body' with wrong type"),
            (
                r#""body-bin":null,"body":"x""#,
                "response contains 'body-bin' with wrong type",
            ),
        ] {
            check_response_error(members, text);
        }
    }

    #[test]
    fn damaged_instructions_are_read_or_refused() {
        let valid = json!({
            "hold": {
                "mode": "stream",
                "channels": [{"name": "a", "prev-id": "1", "filters": ["f"]}],
                "timeout": "30",
                "keep-alive": {"content-bin": "aGk=", "content": "x", "timeout": 5},
                "meta": {"user": "alice"},
            },
            "response": {"code": 200, "reason": "OK", "headers": [["a", "b"]], "body": "x"},
        });
        let mut results = [0, 0];
        for seed in 0..2000 {
            let damaged = Noise::new(seed).damaged(&valid);
            results[usize::from(read(&[], &damaged).is_ok())] += 1;
        }
        assert!(results.iter().all(|count| *count > 100), "{results:?}");
    }
}
