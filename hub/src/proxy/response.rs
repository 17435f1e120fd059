//! From the origin's response to what the client gets.

use bytes::Bytes;
use grip::fields;
use grip::hold::Answer;
use grip::http1::{self, Framing};
use grip::instruct::{HoldMode, Instruct, KeepAlive, Status};
use http::header::{CONTENT_ENCODING, HeaderMap};
use http::{Response, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use super::body::ResponseBody;
use super::{Asked, Outcome, ProxyError};
use crate::config::Config;
use crate::engine::{AfterHold, Hold, HoldKind, KeepAliveRule, StreamFraming, Waiting};

/// An ordinary answer, body streamed as it arrives.
pub(super) fn relay(response: Response<Incoming>) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    fields::strip_hop_by_hop(&mut parts.headers);
    let mut relayed = Response::new(ResponseBody::Relayed(body));
    *relayed.status_mut() = parts.status;
    *relayed.headers_mut() = parts.headers;
    if let Some(reason) = parts.extensions.remove::<ReasonPhrase>() {
        relayed.extensions_mut().insert(reason);
    }
    relayed
}

/// Does what a response's instruction says.
pub(super) async fn follow(
    response: Response<Incoming>,
    asked: &Asked,
    config: &Config,
) -> Result<Outcome, ProxyError> {
    let (parts, body) = response.into_parts();
    if asked.body.bytes() > config.limits.instruct_bytes {
        return Err(ProxyError::RequestTooLarge);
    }
    if grip::instruct::has_instruct_type(&parts.headers) {
        return Err(ProxyError::Form(
            "application/grip-instruct content is not supported",
        ));
    }
    if is_encoded(&parts.headers) {
        return Err(ProxyError::Form("the response has a Content-Encoding"));
    }
    let instruct = Instruct::from_headers(&parts.headers, &config.limits.grip)?;
    let body = complete(body, config).await?;
    let origin = Status {
        code: parts.status,
        reason: reason(&parts.extensions),
    };
    let answer = Answer::instructed(&instruct, origin, &parts.headers, body);
    let can_hold = !asked.is_head && asked.version <= Version::HTTP_11;
    Ok(match instruct.hold {
        Some(HoldMode::Response) if can_hold => {
            Outcome::Hold(Box::new(wait(answer, instruct, asked)))
        }
        Some(HoldMode::Stream) if can_hold && !answer.status.is_bodiless() => {
            Outcome::Hold(Box::new(stream(&answer, instruct, asked)))
        }
        _ => Outcome::Response(at_once(answer)),
    })
}

/// Published content is appended as it is, so a stream must not be encoded; RFC 9110 §8.4.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        !value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"identity")
    })
}

/// The whole body of a response with an instruction.
async fn complete(body: Incoming, config: &Config) -> Result<Bytes, ProxyError> {
    let limited = Limited::new(body, config.limits.instruct_bytes);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ProxyError::InstructTooLarge(
            config.origin.authority.to_string(),
        )),
        Err(_) => Err(ProxyError::Origin),
    }
}

fn reason(extensions: &http::Extensions) -> Option<String> {
    let reason = extensions.get::<ReasonPhrase>()?;
    std::str::from_utf8(reason.as_bytes())
        .ok()
        .map(str::to_owned)
}

fn at_once(answer: Answer) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(answer.body));
    *response.status_mut() = answer.status.code;
    *response.headers_mut() = answer.headers;
    let reason = answer.status.reason.map(String::into_bytes);
    if let Some(Ok(reason)) = reason.map(ReasonPhrase::try_from) {
        response.extensions_mut().insert(reason);
    }
    response
}

fn wait(answer: Answer, instruct: Instruct, asked: &Asked) -> Hold {
    Hold {
        kind: HoldKind::Response {
            waiting: Box::new(Waiting {
                answer,
                version: asked.version,
            }),
            timeout: instruct.timeout,
        },
        channels: instruct.channels,
        after: asked.after_hold(),
    }
}

fn stream(answer: &Answer, instruct: Instruct, asked: &Asked) -> Hold {
    let (framing, wire, after) = if asked.version == Version::HTTP_11 {
        (StreamFraming::Chunked, Framing::Chunked, asked.after_hold())
    } else {
        (StreamFraming::Plain, Framing::Close, AfterHold::Close)
    };
    Hold {
        kind: HoldKind::Stream {
            start: answer.encode_stream_start(asked.version, wire, after.persistence()),
            framing,
            keep_alive: instruct
                .keep_alive
                .map(|keep_alive| rule(keep_alive, framing)),
        },
        channels: instruct.channels,
        after,
    }
}

fn rule(keep_alive: KeepAlive, framing: StreamFraming) -> KeepAliveRule {
    let bytes = match framing {
        StreamFraming::Plain => keep_alive.data,
        StreamFraming::Chunked => {
            let mut chunk = Vec::new();
            http1::encode_chunk(&mut chunk, &keep_alive.data);
            chunk.into()
        }
    };
    KeepAliveRule {
        bytes,
        timeout: keep_alive.timeout,
        mode: keep_alive.mode.into(),
    }
}
