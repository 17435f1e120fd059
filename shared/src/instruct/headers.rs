//! The header form of an instruction.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};

use super::{HoldMode, Instruct, InstructError, KeepAlive, KeepAliveMode, NextLink, Status};
use crate::Limits;
use crate::channel::{Channel, ChannelName, ItemId};
use crate::fields::{GRIP_CHANNEL, GRIP_EXPOSE_HEADERS, GRIP_HOLD};
use crate::json::decode_base64_leniently;
use crate::value::{self, Parameters, Piece};

/// Wait of a response hold without `Grip-Timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(55);
/// What `Grip-Timeout: 0` means; the reference proxy raises it to this as well.
pub(super) const ZERO_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait of a keep-alive without `timeout`.
pub(super) const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(55);
/// The shortest wait of a keep-alive; zero is raised to it.
pub(super) const MIN_KEEP_ALIVE: Duration = Duration::from_secs(1);
const DEFAULT_LINK_TIMEOUT: Duration = Duration::from_mins(2);

const GRIP_TIMEOUT: HeaderName = HeaderName::from_static("grip-timeout");
const GRIP_KEEP_ALIVE: HeaderName = HeaderName::from_static("grip-keep-alive");
const GRIP_LINK: HeaderName = HeaderName::from_static("grip-link");
const GRIP_SET_META: HeaderName = HeaderName::from_static("grip-set-meta");
const GRIP_STATUS: HeaderName = HeaderName::from_static("grip-status");

impl Instruct {
    /// Reads the instruction out of a response's headers.
    ///
    /// # Errors
    /// The first header that cannot be followed. The client then gets a 502, never half of it.
    pub fn from_headers(headers: &HeaderMap, limits: &Limits) -> Result<Self, InstructError> {
        let (next_link, gone_link) = links(headers)?;
        Ok(Self {
            hold: hold(headers)?,
            channels: channels(headers, limits)?,
            timeout: timeout(headers)?,
            keep_alive: keep_alive(headers)?,
            next_link,
            gone_link,
            meta: meta(headers)?,
            status: status(headers)?,
            expose_headers: expose_headers(headers),
        })
    }
}

fn hold(headers: &HeaderMap) -> Result<Option<HoldMode>, InstructError> {
    match headers
        .get(GRIP_HOLD)
        .map(|value| value.as_bytes().trim_ascii())
    {
        None => Ok(None),
        Some(b"response") => Ok(Some(HoldMode::Response)),
        Some(b"stream") => Ok(Some(HoldMode::Stream)),
        Some(_) => Err(InstructError::HoldMode),
    }
}

fn channels(headers: &HeaderMap, limits: &Limits) -> Result<Vec<Channel>, InstructError> {
    let channels = value::list(headers, &GRIP_CHANNEL)
        // A piece that cannot be parsed is skipped, as the reference proxy does.
        .filter_map(|piece| Piece::parse(piece).ok())
        .map(|piece| channel(&piece, limits))
        .collect::<Result<Vec<_>, _>>()?;
    check_count(&channels, limits)?;
    Ok(channels)
}

/// Refuses more channels than [`Limits::channels`].
pub(super) fn check_count(channels: &[Channel], limits: &Limits) -> Result<(), InstructError> {
    if channels.len() > limits.channels {
        return Err(InstructError::TooManyChannels {
            found: channels.len(),
            allowed: limits.channels,
        });
    }
    Ok(())
}

fn channel(piece: &Piece<'_>, limits: &Limits) -> Result<Channel, InstructError> {
    let name = text(piece.main, "Grip-Channel")?;
    let prev_id = match piece.parameters.first("prev-id") {
        Some(id) => Some(ItemId::new(text(id, "Grip-Channel prev-id")?)),
        None => None,
    };
    let filters = piece
        .parameters
        .all("filter")
        .map(|filter| text(filter, "Grip-Channel filter").map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()?;
    checked_channel(name, prev_id, filters, limits)
}

/// A channel within [`Limits::channel_name_bytes`] and [`Limits::filters`].
pub(super) fn checked_channel(
    name: &str,
    prev_id: Option<ItemId>,
    filters: Vec<String>,
    limits: &Limits,
) -> Result<Channel, InstructError> {
    if name.len() > limits.channel_name_bytes {
        return Err(InstructError::ChannelNameTooLong {
            found: name.len(),
            allowed: limits.channel_name_bytes,
        });
    }
    if filters.len() > limits.filters {
        return Err(InstructError::TooManyFilters(name.to_owned()));
    }
    Ok(Channel {
        name: ChannelName::new(name),
        prev_id,
        filters,
    })
}

fn timeout(headers: &HeaderMap) -> Result<Duration, InstructError> {
    let Some(value) = headers.get(GRIP_TIMEOUT) else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match value::integer(value.as_bytes()) {
        None => Err(InstructError::TimeoutSyntax),
        Some(0) => Ok(ZERO_TIMEOUT),
        Some(seconds) => seconds_of(seconds).ok_or(InstructError::TimeoutValue),
    }
}

fn keep_alive(headers: &HeaderMap) -> Result<Option<KeepAlive>, InstructError> {
    let Some(line) = headers.get(GRIP_KEEP_ALIVE) else {
        return Ok(None);
    };
    let line = line.as_bytes().trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let piece = Piece::parse(line).map_err(|_| InstructError::KeepAliveSyntax)?;
    if piece.main.is_empty() {
        return Err(InstructError::KeepAliveEmpty);
    }
    Ok(Some(KeepAlive {
        data: keep_alive_data(&piece)?,
        timeout: keep_alive_timeout(&piece.parameters)?,
        mode: keep_alive_mode(&piece.parameters)?,
    }))
}

fn keep_alive_timeout(parameters: &Parameters<'_>) -> Result<Duration, InstructError> {
    let Some(value) = parameters.first("timeout") else {
        return Ok(DEFAULT_KEEP_ALIVE);
    };
    let seconds = value::integer(value).ok_or(InstructError::KeepAliveTimeoutSyntax)?;
    let timeout = seconds_of(seconds).ok_or(InstructError::KeepAliveTimeoutValue)?;
    Ok(timeout.max(MIN_KEEP_ALIVE))
}

fn keep_alive_mode(parameters: &Parameters<'_>) -> Result<KeepAliveMode, InstructError> {
    match parameters.first("mode").unwrap_or_default() {
        b"" | b"idle" => Ok(KeepAliveMode::Idle),
        b"interval" => Ok(KeepAliveMode::Interval),
        other => Err(InstructError::KeepAliveMode(lossy(other))),
    }
}

fn keep_alive_data(piece: &Piece<'_>) -> Result<Bytes, InstructError> {
    match piece.parameters.first("format").unwrap_or_default() {
        b"" | b"raw" => Ok(Bytes::copy_from_slice(piece.main)),
        b"base64" => Ok(decode_base64_leniently(piece.main)),
        b"cstring" => cstring(piece.main).ok_or(InstructError::KeepAliveCstring),
        other => Err(InstructError::KeepAliveFormat(lossy(other))),
    }
}

/// Unescapes `\\`, `\r`, `\n`, `\t` and `\xHH`; other escapes vanish, as in the reference proxy.
///
/// `\t` is ours: widely used libraries write it. An empty result is an error.
fn cstring(text: &[u8]) -> Option<Bytes> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            decoded.push(*byte);
            continue;
        }
        match bytes.next()? {
            b'\\' => decoded.push(b'\\'),
            b'r' => decoded.push(b'\r'),
            b'n' => decoded.push(b'\n'),
            b't' => decoded.push(b'\t'),
            b'x' => decoded.push(hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?),
            _ => {}
        }
    }
    (!decoded.is_empty()).then(|| Bytes::from(decoded))
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

type Links = (Option<NextLink>, Option<String>);

/// The last `rel=next` and the last `rel=gone`.
fn links(headers: &HeaderMap) -> Result<Links, InstructError> {
    let mut next = None;
    let mut gone = None;
    for piece in value::list(headers, &GRIP_LINK) {
        let Ok(piece) = Piece::parse(piece) else {
            continue;
        };
        if piece.parameters.is_empty() {
            continue;
        }
        let uri = link_uri(piece.main)?;
        match piece.parameters.first("rel") {
            Some(b"next") => next = Some(next_link(uri, &piece.parameters)?),
            Some(b"gone") => gone = Some(uri),
            _ => {}
        }
    }
    Ok((next, gone))
}

fn next_link(uri: String, parameters: &Parameters<'_>) -> Result<NextLink, InstructError> {
    let timeout = match parameters.first("timeout") {
        None => DEFAULT_LINK_TIMEOUT,
        Some(value) => {
            let seconds = value::integer(value).ok_or(InstructError::LinkTimeoutSyntax)?;
            seconds_of(seconds).ok_or(InstructError::LinkTimeoutValue)?
        }
    };
    Ok(NextLink { uri, timeout })
}

fn link_uri(main: &[u8]) -> Result<String, InstructError> {
    let uri = main
        .strip_prefix(b"<")
        .and_then(|rest| rest.strip_suffix(b">"))
        .filter(|uri| !uri.is_empty())
        .ok_or(InstructError::LinkSyntax)?;
    if !uri.iter().all(|byte| is_uri_byte(*byte)) {
        return Err(InstructError::LinkUri);
    }
    Ok(text(uri, "Grip-Link")?.to_owned())
}

/// Whether the byte may stand in a URI reference; RFC 3986 §2, and UTF-8 as found in the wild.
fn is_uri_byte(byte: u8) -> bool {
    byte > b' '
        && byte != 0x7f
        && !matches!(
            byte,
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

fn meta(headers: &HeaderMap) -> Result<BTreeMap<String, String>, InstructError> {
    let mut meta = BTreeMap::new();
    for piece in value::list(headers, &GRIP_SET_META) {
        let Ok(parameters) = Parameters::parse(piece) else {
            continue;
        };
        if let Some((name, value)) = parameters.leading() {
            meta.insert(
                text(name, "Grip-Set-Meta")?.to_owned(),
                text(value, "Grip-Set-Meta")?.to_owned(),
            );
        }
    }
    Ok(meta)
}

fn status(headers: &HeaderMap) -> Result<Option<Status>, InstructError> {
    let Some(value) = headers.get(GRIP_STATUS) else {
        return Ok(None);
    };
    let value = value.as_bytes().trim_ascii();
    if value.is_empty() {
        return Ok(None);
    }
    let (code, reason) = match value.iter().position(|byte| *byte == b' ') {
        Some(at) => (&value[..at], value[at + 1..].trim_ascii()),
        None => (value, &[][..]),
    };
    let code = StatusCode::from_bytes(code)
        .ok()
        // A final answer has no code below 200; RFC 9110 §15.2.
        .filter(|code| !code.is_informational())
        .ok_or(InstructError::StatusCode)?;
    let reason = text(reason, "Grip-Status")?;
    Ok(Some(Status {
        code,
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
    }))
}

fn expose_headers(headers: &HeaderMap) -> Vec<HeaderName> {
    value::list(headers, &GRIP_EXPOSE_HEADERS)
        // What is no header name matches no header.
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

fn seconds_of(seconds: i32) -> Option<Duration> {
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn text<'a>(value: &'a [u8], header: &'static str) -> Result<&'a str, InstructError> {
    std::str::from_utf8(value).map_err(|_| InstructError::NotText(header))
}

fn lossy(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    use http::HeaderValue;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parse(lines: &[&str]) -> Result<Instruct, InstructError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.trim_ascii().as_bytes()).unwrap(),
            );
        }
        Instruct::from_headers(&headers, &Limits::default())
    }

    #[track_caller]
    fn check_error(line: &str, text: &str) {
        let error = parse(&[line]).expect_err(line);
        assert_eq!(error.to_string(), text, "{line}");
    }

    #[track_caller]
    fn check_channels(lines: &[&str], expected: &[(&str, Option<&str>, &[&str])]) {
        let channels = parse(lines).unwrap().channels;
        let found: Vec<(&str, Option<&str>, Vec<&str>)> = channels
            .iter()
            .map(|channel| {
                (
                    channel.name.as_str(),
                    channel.prev_id.as_ref().map(ItemId::as_str),
                    channel.filters.iter().map(String::as_str).collect(),
                )
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, prev_id, filters)| (*name, *prev_id, filters.to_vec()))
            .collect();
        assert_eq!(found, expected);
    }

    #[track_caller]
    fn check_keep_alive(value: &str, data: &[u8], seconds: u64, mode: KeepAliveMode) {
        let instruct = parse(&[&format!("Grip-Keep-Alive: {value}")]).unwrap();
        let expected = KeepAlive {
            data: Bytes::copy_from_slice(data),
            timeout: Duration::from_secs(seconds),
            mode,
        };
        assert_eq!(instruct.keep_alive, Some(expected), "{value}");
    }

    #[test]
    fn a_hold_is_response_or_stream_and_nothing_else() {
        assert_eq!(parse(&[]).unwrap().hold, None);
        assert_eq!(
            parse(&["Grip-Hold: stream"]).unwrap().hold,
            Some(HoldMode::Stream)
        );
        assert_eq!(
            parse(&["Grip-Hold: response"]).unwrap().hold,
            Some(HoldMode::Response)
        );
        let text = "Grip-Hold must be set to either 'response' or 'stream'";
        for bad in ["Stream", "", "none", "stream; x", "stream, response"] {
            check_error(&format!("Grip-Hold: {bad}"), text);
        }
    }

    #[test]
    fn channels_come_from_all_lines_in_order() {
        check_channels(
            &["Grip-Channel: apple", "Grip-Channel: banana, cherry"],
            &[
                ("apple", None, &[]),
                ("banana", None, &[]),
                ("cherry", None, &[]),
            ],
        );
        check_channels(
            &[
                "Grip-Channel: apple; prev-id=item1; filter=f1, banana; filter=f2, cherry; filter=f1; filter=f2",
            ],
            &[
                ("apple", Some("item1"), &["f1"]),
                ("banana", None, &["f2"]),
                ("cherry", None, &["f1", "f2"]),
            ],
        );
        check_channels(&["Grip-Channel: a;b"], &[("a", None, &[])]);
        check_channels(&[r#"Grip-Channel: "a,b""#], &[(r#""a,b""#, None, &[])]);
        check_channels(
            &[r#"Grip-Channel: a; prev-id="x;y""#],
            &[("a", Some("x;y"), &[])],
        );
        check_channels(&["Grip-Channel: a; prev-id="], &[("a", Some(""), &[])]);
        check_channels(&["Grip-Channel: a; FILTER=x"], &[("a", None, &[])]);
        check_channels(&["Grip-Channel: zürich"], &[("zürich", None, &[])]);
    }

    #[test]
    fn a_channel_with_an_unterminated_quote_is_skipped() {
        check_channels(&[r#"Grip-Channel: a; prev-id="x"#], &[]);
    }

    #[test]
    fn channel_limits_are_errors() {
        let filters = "; filter=f".repeat(6);
        check_error(
            &format!("Grip-Channel: a{filters}"),
            "too many filters for channel 'a'",
        );
        let many = vec!["c"; 101].join(",");
        check_error(
            &format!("Grip-Channel: {many}"),
            "too many channels: 101, at most 100 are allowed",
        );
        let long = "c".repeat(1025);
        check_error(
            &format!("Grip-Channel: {long}"),
            "channel name of 1025 bytes is too long, at most 1024 are allowed",
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error() {
        let mut headers = HeaderMap::new();
        headers.insert(GRIP_CHANNEL, HeaderValue::from_bytes(b"\xff").unwrap());
        let error = Instruct::from_headers(&headers, &Limits::default()).unwrap_err();
        assert_eq!(error, InstructError::NotText("Grip-Channel"));
    }

    #[test]
    fn timeouts_are_seconds() {
        let timeout = |line: &str| parse(&[line]).unwrap().timeout.as_secs();
        assert_eq!(timeout("X: y"), 55);
        assert_eq!(timeout("Grip-Timeout: 30"), 30);
        assert_eq!(timeout("Grip-Timeout: 1"), 1);
        assert_eq!(timeout("Grip-Timeout: 0"), 5);
        check_error("Grip-Timeout: 1.5", "failed to parse Grip-Timeout");
        check_error("Grip-Timeout:", "failed to parse Grip-Timeout");
        check_error("Grip-Timeout: -1", "Grip-Timeout has invalid value");
    }

    #[test]
    fn keep_alives_have_formats_and_modes() {
        use KeepAliveMode::{Idle, Interval};
        check_keep_alive(r"ping1\n", br"ping1\n", 55, Idle);
        check_keep_alive(r"ping2\n; format=cstring; timeout=10", b"ping2\n", 10, Idle);
        check_keep_alive(
            "cGluZzMK; format=base64; mode=interval",
            b"ping3\n",
            55,
            Interval,
        );
        check_keep_alive("cGlu ZzMK!; format=base64", b"ping3\n", 55, Idle);
        check_keep_alive(r"a\tb\r\\\x41\x4a; format=cstring", b"a\tb\r\\AJ", 55, Idle);
        check_keep_alive(r"a\qb; format=cstring", b"ab", 55, Idle);
        check_keep_alive("x; timeout=0; mode=; format=", b"x", 1, Idle);
        check_keep_alive(
            r"event: keep-alive\ndata:\n\n; format=cstring; timeout=20",
            b"event: keep-alive\ndata:\n\n",
            20,
            Idle,
        );
        assert_eq!(parse(&["Grip-Keep-Alive:"]).unwrap().keep_alive, None);
    }

    fn cstring_of(data: &[u8]) -> String {
        let escaped = |byte: &u8| match byte {
            b'\\' => r"\\".to_owned(),
            b'\r' => r"\r".to_owned(),
            b'\n' => r"\n".to_owned(),
            b'\t' => r"\t".to_owned(),
            b'a'..=b'z' => char::from(*byte).to_string(),
            other => format!(r"\x{other:02x}"),
        };
        data.iter().map(escaped).collect()
    }

    #[test]
    fn any_keep_alive_is_read_back() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        for seed in 0..1000 {
            let mut noise = Noise::new(seed);
            let mut data = noise.text(&every_byte, 20);
            data.extend_from_slice(&noise.text(b"axr\\\r\n\t;,\" ", 20));
            if data.is_empty() {
                continue;
            }
            let cstring = cstring_of(&data) + "; format=cstring";
            check_keep_alive(&cstring, &data, 55, KeepAliveMode::Idle);
            let base64 = STANDARD.encode(&data) + "; timeout=7; format=base64";
            check_keep_alive(&base64, &data, 7, KeepAliveMode::Idle);
            let raw = noise.text(b"ax\\,\"=", 20);
            if let (false, Ok(text)) = (raw.is_empty(), std::str::from_utf8(&raw)) {
                let text = format!("{text}; mode=interval");
                check_keep_alive(&text, &raw, 55, KeepAliveMode::Interval);
            }
        }
    }

    #[test]
    fn bad_keep_alives_are_errors() {
        let cstring = "failed to parse Grip-Keep-Alive cstring format";
        for bad in [r"a\x4g", r"a\x4", r"a\", r"\q"] {
            check_error(&format!("Grip-Keep-Alive: {bad}; format=cstring"), cstring);
        }
        check_error(
            "Grip-Keep-Alive: ;timeout=5",
            "Grip-Keep-Alive cannot be empty",
        );
        check_error(
            "Grip-Keep-Alive: a; timeout=x",
            "failed to parse Grip-Keep-Alive timeout value",
        );
        check_error(
            "Grip-Keep-Alive: a; timeout=-1",
            "Grip-Keep-Alive timeout has invalid value",
        );
        check_error(
            "Grip-Keep-Alive: a; mode=x",
            "no such Grip-Keep-Alive mode 'x'",
        );
        check_error(
            "Grip-Keep-Alive: a; format=x",
            "no such Grip-Keep-Alive format 'x'",
        );
    }

    #[test]
    fn the_last_link_of_each_kind_wins() {
        let instruct = parse(&[
            "Grip-Link: </a>; rel=next, </b?x=1>; rel=next; timeout=30",
            "Grip-Link: </g>; rel=gone, </other>; rel=prev, </ignored>",
        ])
        .unwrap();
        let next = NextLink {
            uri: "/b?x=1".to_owned(),
            timeout: Duration::from_secs(30),
        };
        assert_eq!(instruct.next_link, Some(next));
        assert_eq!(instruct.gone_link.as_deref(), Some("/g"));
        let next = parse(&["Grip-Link: <n>; rel=next"])
            .unwrap()
            .next_link
            .unwrap();
        assert_eq!(next.timeout, Duration::from_mins(2));
    }

    #[test]
    fn bad_links_are_errors() {
        check_error(
            "Grip-Link: /next; rel=next",
            "failed to parse Grip-Link value",
        );
        check_error("Grip-Link: <>; rel=next", "failed to parse Grip-Link value");
        check_error(
            "Grip-Link: <a b>; rel=next",
            "Grip-Link contains invalid link",
        );
        check_error(
            "Grip-Link: <a>; rel=next; timeout=x",
            "failed to parse Grip-Link timeout value",
        );
        check_error(
            "Grip-Link: <a>; rel=next; timeout=-1",
            "Grip-Link timeout has invalid value",
        );
    }

    #[test]
    fn meta_is_the_first_parameter_of_each_piece() {
        let meta = parse(&[r#"Grip-Set-Meta: foo=bar, bar="b\"z", flag, foo=last"#])
            .unwrap()
            .meta;
        let expected = [("foo", "last"), ("bar", "b\"z"), ("flag", "")];
        let expected: BTreeMap<String, String> = expected
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(meta, expected);
    }

    #[test]
    fn a_status_may_bring_its_own_reason() {
        let status = |line: &str| parse(&[line]).unwrap().status;
        assert_eq!(status("Grip-Status: 404").unwrap().reason(), "Not Found");
        let custom = status("Grip-Status: 404 Nothing To See Here").unwrap();
        assert_eq!(
            (custom.code.as_u16(), custom.reason()),
            (404, "Nothing To See Here")
        );
        assert_eq!(status("Grip-Status:"), None);
        for bad in ["abc", "99", "101", "1000", "-1"] {
            check_error(
                &format!("Grip-Status: {bad}"),
                "Grip-Status contains invalid status code",
            );
        }
    }

    #[test]
    fn the_client_sees_no_instruction_and_only_what_is_exposed() {
        let mut origin = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-length", "3"),
            ("content-encoding", "gzip"),
            ("grip-hold", "stream"),
            ("x-a", "1"),
            ("etag", "\"1\""),
            ("connection", "close"),
        ] {
            origin.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let names = |headers: HeaderMap| {
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        let all = Instruct::from_headers(&origin, &Limits::default()).unwrap();
        assert_eq!(
            names(all.client_headers(&origin)),
            ["content-type", "etag", "x-a"]
        );
        origin.insert(
            "grip-expose-headers",
            HeaderValue::from_static("ETag, X-None"),
        );
        let exposed = Instruct::from_headers(&origin, &Limits::default()).unwrap();
        assert_eq!(names(exposed.client_headers(&origin)), ["etag"]);
    }
}
