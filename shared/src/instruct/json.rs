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
