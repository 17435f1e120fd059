//! What a client that asked for a WebSocket gets.

use bytes::Bytes;
use grip::fields;
use grip::hold::Answer;
use grip::http1::{self, Framing, Persistence};
use grip::instruct::Status;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, UPGRADE,
};
use http::{HeaderValue, StatusCode, Version};

use super::opening::Opening;

impl Opening {
    /// The answer that opens the WebSocket, made of the origin's headers: its bytes over HTTP/1,
    /// else the answer itself, which hyper writes; RFC 6455 §4.2.2, RFC 8441 §5.
    pub(super) fn acceptance(
        self,
        origin: HeaderMap,
        extensions: Vec<HeaderValue>,
    ) -> (Bytes, Option<Answer>) {
        let mut headers = HeaderMap::new();
        if let Self::Http1 { accept } = &self {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
        }
        for extension in extensions {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, extension);
        }
        headers.extend(for_client(origin));
        match self {
            Self::Http1 { .. } => (switching(&headers), None),
            Self::Http2 => {
                let answer = Answer {
                    status: Status::new(StatusCode::OK),
                    headers,
                    body: Bytes::new(),
                };
                (Bytes::new(), Some(answer))
            }
        }
    }

    /// An origin's answer that opens no WebSocket, in a form that means so.
    pub(super) fn rejection(&self, mut answer: Answer) -> Answer {
        fields::strip_hop_by_hop(&mut answer.headers);
        fields::retain(&mut answer.headers, |name| {
            !matches!(
                *name,
                CONTENT_LENGTH | SEC_WEBSOCKET_ACCEPT | SEC_WEBSOCKET_EXTENSIONS
            )
        });
        if *self == Self::Http2 && answer.status.code.is_success() {
            // It would mean that the WebSocket is open.
            answer.status = Status::new(StatusCode::BAD_GATEWAY);
        }
        answer
    }
}

/// The origin's headers without what is for the hub.
fn for_client(mut headers: HeaderMap) -> HeaderMap {
    const FOR_HUB: [HeaderName; 6] = [
        CONTENT_LENGTH,
        CONTENT_TYPE,
        SEC_WEBSOCKET_ACCEPT,
        SEC_WEBSOCKET_EXTENSIONS,
        HeaderName::from_static("keep-alive-interval"),
        HeaderName::from_static("content-bytes-accepted"),
    ];
    fields::strip_hop_by_hop(&mut headers);
    fields::retain(&mut headers, |name| {
        !FOR_HUB.contains(name) && !name.as_str().starts_with("set-meta-")
    });
    headers
}

fn switching(headers: &HeaderMap) -> Bytes {
    let mut head = Vec::with_capacity(256);
    http1::encode_head(
        &mut head,
        Version::HTTP_11,
        &Status::new(StatusCode::SWITCHING_PROTOCOLS),
        headers,
        Framing::Bodiless,
        Persistence::Reuse,
    );
    Bytes::from(head)
}

/// The extension `grip` with its parameters, as it stands among others.
pub(super) fn grip_extension(headers: &HeaderMap) -> Option<HeaderValue> {
    let grip = extensions(headers).find(|extension| extension_name(extension) == b"grip")?;
    HeaderValue::from_bytes(grip).ok()
}

/// Whether an origin accepts no other extension than `grip`.
pub(super) fn has_only_grip(headers: &HeaderMap) -> bool {
    extensions(headers).all(|extension| extension_name(extension) == b"grip")
}

/// What stands between the commas of `Sec-WebSocket-Extensions`, trimmed, but for nothing.
fn extensions(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .flat_map(|line| {
            let mut is_quoted = false;
            line.as_bytes().split(move |byte| {
                is_quoted ^= *byte == b'"';
                *byte == b',' && !is_quoted
            })
        })
        .map(<[u8]>::trim_ascii)
        .filter(|extension| !extension.is_empty())
}

fn extension_name(extension: &[u8]) -> &[u8] {
    let name = extension.split(|byte| *byte == b';').next();
    name.unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn http1() -> Opening {
        Opening::Http1 {
            accept: HeaderValue::from_static("ACCEPT"),
        }
    }

    fn fields(headers: &HeaderMap) -> String {
        let lines = headers.iter();
        let lines: Vec<String> = lines
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.join("\n")
    }

    const ORIGIN: &[(&str, &str)] = &[
        ("date", "today"),
        ("content-length", "6"),
        ("content-type", "application/websocket-events"),
        ("content-bytes-accepted", "0"),
        ("keep-alive-interval", "20"),
        ("set-meta-user", "alice"),
        ("set-cookie", "a=1"),
        ("sec-websocket-extensions", "grip"),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-accept", "x"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade, X-Private"),
        ("x-private", "1"),
        ("transfer-encoding", "chunked"),
        ("set-cookie", "b=2"),
    ];

    #[test]
    fn an_acceptance_has_the_origins_headers_but_for_what_is_for_the_hub() {
        let (head, answer) = http1().acceptance(headers(ORIGIN), Vec::new());
        assert_eq!(
            head,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: ACCEPT\r\ndate: today\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
             sec-websocket-protocol: chat\r\n\r\n"
        );
        assert_eq!(answer, None);
    }

    #[test]
    fn accepted_extensions_are_told() {
        let extensions = ["grip", "permessage-deflate; x"].map(HeaderValue::from_static);
        let (head, _) = http1().acceptance(HeaderMap::new(), extensions.to_vec());
        let head = std::str::from_utf8(&head).unwrap();
        let told = "sec-websocket-extensions: grip\r\n\
                    sec-websocket-extensions: permessage-deflate; x\r\n\r\n";
        assert!(head.ends_with(told), "{head}");
    }

    #[test]
    fn over_http2_an_acceptance_is_an_answer_of_success() {
        let (head, answer) = Opening::Http2.acceptance(headers(ORIGIN), Vec::new());
        assert_eq!(head, "");
        let answer = answer.unwrap();
        assert_eq!(answer.status.code, StatusCode::OK);
        let expected =
            "date: today\nset-cookie: a=1\nset-cookie: b=2\nsec-websocket-protocol: chat";
        assert_eq!(fields(&answer.headers), expected);
    }

    #[track_caller]
    fn check_rejection(opening: &Opening, status: u16, expected: u16) {
        let answer = Answer {
            status: Status {
                code: StatusCode::from_u16(status).unwrap(),
                reason: Some("No Way".to_owned()),
            },
            headers: headers(ORIGIN),
            body: Bytes::from_static(b"no"),
        };
        let rejection = opening.rejection(answer);
        assert_eq!(rejection.status.code.as_u16(), expected);
        assert_eq!(rejection.body, "no");
        assert_eq!(
            fields(&rejection.headers),
            "date: today\ncontent-type: application/websocket-events\ncontent-bytes-accepted: 0\n\
             keep-alive-interval: 20\nset-meta-user: alice\nset-cookie: a=1\nset-cookie: b=2\n\
             sec-websocket-protocol: chat"
        );
        if expected == status {
            assert_eq!(rejection.status.reason(), "No Way");
        }
    }

    #[test]
    fn a_rejection_is_the_origins_answer() {
        check_rejection(&http1(), 403, 403);
        check_rejection(&http1(), 200, 200);
        check_rejection(&Opening::Http2, 403, 403);
    }

    #[test]
    fn over_http2_no_rejection_is_an_answer_of_success() {
        check_rejection(&Opening::Http2, 200, 502);
        check_rejection(&Opening::Http2, 204, 502);
    }

    #[track_caller]
    fn check_extensions(lines: &[&'static str], grip: Option<&str>, is_only: bool) {
        let lines: Vec<(&'static str, &'static str)> = lines
            .iter()
            .map(|line| ("sec-websocket-extensions", *line))
            .collect();
        let headers = headers(&lines);
        let found = grip_extension(&headers);
        let found = found.as_ref().map(|value| value.to_str().unwrap());
        assert_eq!(found, grip, "{lines:?}");
        assert_eq!(has_only_grip(&headers), is_only, "{lines:?}");
    }

    #[test]
    fn grip_is_found_among_extensions() {
        check_extensions(&[], None, true);
        check_extensions(&["grip"], Some("grip"), true);
        let with_prefix = "grip; message-prefix=\"a,b\"";
        check_extensions(&[with_prefix], Some(with_prefix), true);
        check_extensions(&["x; y, grip"], Some("grip"), false);
        check_extensions(&["x", "grip ;z"], Some("grip ;z"), false);
        check_extensions(&["Grip"], None, false);
        check_extensions(&["x; y=\"grip,grip\""], None, false);
    }
}
